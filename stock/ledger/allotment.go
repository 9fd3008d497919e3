package ledger

import (
	"slices"

	"github.com/onhand/onhand/stock/event"
)

// allotment is what a claim channel may still take of a SKU.
type allotment struct {
	units    Units // noAllotment when it is held to none
	sequence int64
	channel  uint16
	dirty    bool
}

// noAllotment stands for an allotment that has ended.
const noAllotment Units = -1

// allotment finds a channel's allotment, or makes one that has not begun; they are ordered by the channel's name.
func (p *Partition) allotment(s *SKU, channel string) *allotment {
	at, found := slices.BinarySearchFunc(s.allotments, channel, func(a allotment, name string) int { return compare(p.channels.names[a.channel], name) })
	if !found {
		s.allotments = slices.Insert(s.allotments, at, allotment{channel: p.channels.of(channel), units: noAllotment})
	}
	return &s.allotments[at]
}

// allot changes what a channel may still take. A change that comes after a later one is void: whoever wrote it knows of the later one by now.
func (p *Partition) allot(s *SKU, e *event.Event) {
	a := p.allotment(s, e.Channel)
	if e.Sequence <= a.sequence {
		return
	}
	a.sequence, a.dirty = e.Sequence, true
	if e.Kind == event.AllotmentEnded {
		a.units = noAllotment
		return
	}
	was := max(0, a.units)
	if _, bundle := event.BundleOf(e.Channel); bundle && a.units == noAllotment {
		// Whoever has it begin knows what the bundle may come to have sold in all, and not how much of that is in this log by now.
		was = -s.netSold(a.channel)
	}
	a.units = max(0, was+e.Quantity)
}

// netSold is what a channel has sold and not put back on sale.
func (s *SKU) netSold(channel uint16) (units Units) {
	for i := range s.sold {
		if s.sold[i].channel == channel {
			units += s.sold[i].units
		}
	}
	for i := range s.restored {
		if s.restored[i].channel == channel {
			units -= s.restored[i].units
		}
	}
	return units
}

// claim takes units out of the allotment of a channel, or puts them back. A channel that is held to none takes from what is available.
func (p *Partition) claim(s *SKU, channel string, units Units) {
	for i := range s.allotments {
		if a := &s.allotments[i]; a.units != noAllotment && p.channels.names[a.channel] == channel {
			a.units, a.dirty = max(0, a.units-units), true
		}
	}
}

// grantable is what a request of a channel within a scope can be given: of a channel that is held to an allotment, what is left of it; of others, what is allotted to
// nobody. It is never more than there is.
func (p *Partition) grantable(s *SKU, scope, channel string) (units Units, allotted bool) {
	units = p.reach(s, scope)
	var others Units
	for i := range s.allotments {
		a := &s.allotments[i]
		switch {
		case a.units == noAllotment:
		case p.channels.names[a.channel] == channel:
			return min(units, a.units), a.units < units
		default:
			others += a.units
		}
	}
	if others > 0 {
		units = min(units, s.Available()-others)
	}
	return units, false
}

func (p *Partition) allotted(dst []Allotment, s *SKU) []Allotment {
	for i := range s.allotments {
		a := &s.allotments[i]
		dst = append(dst, Allotment{Channel: p.channels.names[a.channel], Units: max(0, a.units), Sequence: a.sequence, Ended: a.units == noAllotment})
	}
	return dst
}

func (p *Partition) adoptAllotments(s *SKU, from []Allotment) {
	for i := range from {
		a := p.allotment(s, from[i].Channel)
		if a.units, a.sequence, a.dirty = from[i].Units, from[i].Sequence, true; from[i].Ended {
			a.units = noAllotment
		}
	}
}
