package ledger

import (
	"slices"

	"github.com/onhand/onhand/stock/event"
)

// Field is one number that is kept by location, or by channel.
type Field uint8

// The fields. Those up to Safety are buckets; the times are Unix microseconds by the source's clock.
const (
	OnHand      Field = iota
	Committed         // sold, not shipped
	Held              // reservations
	Inbound           // ordered or in transit to here
	Unsellable        // damaged, in repair, in quarantine
	Safety            // never offered
	MovedAt           // latest moment at which on hand moved
	CountedAsOf       // moment the newest count speaks of: what moved before it is in the count
	CountsFrom        // counts as of before this moment are refused: what moved since is forgotten
	locationFields
	Sold       // by channel: cumulative units sold
	Restored   // by channel: cumulative units the channel put back on sale itself
	Unassigned // of the SKU as a whole: committed without a location
	Allotted   // by channel: units that a claim channel may still take; -1 when it is held to no allotment any more
	Sequence   // by channel: number of the last change of Allotted
	FieldCount // one more than the highest Field
)

// ByChannel says that the field's numbers are by channel.
func (f Field) ByChannel() bool { return f == Sold || f == Restored || f == Allotted || f == Sequence }

// Change is one number of a SKU to store.
type Change struct {
	Field Field
	Name  uint16 // index of the location, or of the channel for fields by channel; 0 for Unassigned
	Value int64
}

// move is one change of on hand, kept to correct a count that speaks of an earlier moment.
type move struct {
	at    int64
	units Units
}

// maxMoves bounds the moves kept by SKU and location; half are forgotten when it is passed.
const maxMoves = 4096

// shelf is the stock of a SKU at one location.
type shelf struct {
	v     [locationFields]int64
	moves []move
	loc   uint16
	dirty uint16 // bit by Field
}

func (h *shelf) add(f Field, units Units) {
	h.v[f] += int64(units)
	h.dirty |= 1 << f
}

func (h *shelf) set(f Field, v int64) {
	if h.v[f] != v {
		h.v[f] = v
		h.dirty |= 1 << f
	}
}

type tally struct {
	units    Units
	earliest int64 // moment of the first of the units counted since Flushed, when dirty; 0 when one is not known
	channel  uint16
	dirty    bool
}

// SKU is the state of one SKU. It belongs to its Partition.
type SKU struct {
	// Key is the caller's: whatever it wants to keep with the SKU. The fold does not look at it.
	Key any

	name       string
	hash       uint64
	version    int64
	previous   int64 // version as of Flushed
	offset     int64
	receivedAt int64
	oldest     int64 // earliest received since Flushed; 0 for none
	eventID    []byte
	unassigned Units
	stored     Units  // unassigned as of Flushed
	digest     uint64 // that is in Partition.digest
	cover      Units  // Σ on hand − committed − held, less unassigned
	safety     Units  // Σ safety
	shelves    []shelf
	sold       []tally
	restored   []tally
	allotments []allotment
	kind       event.Kind
	changed    bool // in Partition.changed
	fresh      bool // never stored
}

// Name is the SKU.
func (s *SKU) Name() string { return s.name }

// Version is the number of events applied to the SKU.
func (s *SKU) Version() int64 { return s.version }

// Offset is the offset of the last of them.
func (s *SKU) Offset() int64 { return s.offset }

// Available is what all locations can still sell, less what is committed without a location.
func (s *SKU) Available() Units { return s.cover - s.safety }

// EventID is the id of the last event. It is valid until the next Apply.
func (s *SKU) EventID() []byte { return s.eventID }

// Kind is the kind of the last event.
func (s *SKU) Kind() event.Kind { return s.kind }

// ReceivedAt is when Onhand received the last event.
func (s *SKU) ReceivedAt() int64 { return s.receivedAt }

// Fresh says that the SKU was never stored: all of it is to be.
func (s *SKU) Fresh() bool { return s.fresh }

// AppendChanges appends what changed by location and channel since Flushed, or everything when all.
func (s *SKU) AppendChanges(dst []Change, all bool) []Change {
	all = all || s.fresh
	if all || s.unassigned != s.stored {
		dst = append(dst, Change{Unassigned, 0, int64(s.unassigned)})
	}
	for i := range s.shelves {
		h := &s.shelves[i]
		for f := range locationFields {
			if h.dirty>>f&1 == 1 || all && (f <= Safety || h.v[f] != 0) {
				dst = append(dst, Change{f, h.loc, h.v[f]})
			}
		}
	}
	for i := range s.sold {
		if t := &s.sold[i]; all || t.dirty {
			dst = append(dst, Change{Sold, t.channel, int64(t.units)})
		}
	}
	for i := range s.restored {
		if t := &s.restored[i]; all || t.dirty {
			dst = append(dst, Change{Restored, t.channel, int64(t.units)})
		}
	}
	for i := range s.allotments {
		if a := &s.allotments[i]; all || a.dirty {
			dst = append(dst, Change{Allotted, a.channel, int64(a.units)}, Change{Sequence, a.channel, a.sequence})
		}
	}
	return dst
}

func (s *SKU) flushed() {
	s.changed, s.fresh, s.oldest, s.stored, s.previous = false, false, 0, s.unassigned, s.version
	for i := range s.shelves {
		s.shelves[i].dirty = 0
	}
	for i := range s.sold {
		s.sold[i].dirty = false
	}
	for i := range s.restored {
		s.restored[i].dirty = false
	}
	for i := range s.allotments {
		s.allotments[i].dirty = false
	}
}

// Level fills dst with the public state of s, reusing its slices. OldestReceivedAt, PreviousVersion and EarliestAt speak of the events since Flushed;
// where there are none, the last two are 0, for not known.
func (p *Partition) Level(s *SKU, appliedAt int64, dst *Level) {
	*dst = Level{
		SKU: s.name, Version: s.version, SourceOffset: s.offset, Unassigned: s.unassigned, EventID: string(s.eventID), EventKind: s.kind,
		ReceivedAt: s.receivedAt, OldestReceivedAt: s.oldest, AppliedAt: appliedAt,
		Locations: dst.Locations[:0], Sold: p.channelUnits(dst.Sold[:0], s.sold), Restored: p.channelUnits(dst.Restored[:0], s.restored),
		Allotments: p.allotted(dst.Allotments[:0], s),
	}
	if dst.OldestReceivedAt == 0 {
		dst.OldestReceivedAt = s.receivedAt
	}
	if s.changed {
		dst.PreviousVersion = s.previous
	}
	for i := range s.shelves {
		h := &s.shelves[i]
		dst.Locations = append(dst.Locations, LocationLevel{
			Location: p.locations.names[h.loc], OnHand: Units(h.v[OnHand]), Committed: Units(h.v[Committed]), Held: Units(h.v[Held]),
			Inbound: Units(h.v[Inbound]), Unsellable: Units(h.v[Unsellable]), Safety: Units(h.v[Safety]),
			MovedAt: h.v[MovedAt], CountedAsOf: h.v[CountedAsOf], CountsFrom: h.v[CountsFrom],
		})
	}
}

func (p *Partition) channelUnits(dst []ChannelUnits, from []tally) []ChannelUnits {
	for _, t := range from {
		c := ChannelUnits{Channel: p.channels.names[t.channel], Units: t.units}
		if t.dirty {
			c.EarliestAt = t.earliest
		}
		dst = append(dst, c)
	}
	return dst
}

// shelf finds or makes the SKU's shelf at a location; shelves are ordered by the location's name.
func (p *Partition) shelf(s *SKU, loc uint16) *shelf {
	for i := range s.shelves {
		if s.shelves[i].loc == loc {
			return &s.shelves[i]
		}
	}
	name := p.locations.names[loc]
	at, _ := slices.BinarySearchFunc(s.shelves, name, func(h shelf, name string) int {
		return compare(p.locations.names[h.loc], name)
	})
	s.shelves = slices.Insert(s.shelves, at, shelf{loc: loc, dirty: 1<<(Safety+1) - 1})
	return &s.shelves[at]
}

func (p *Partition) tally(ts *[]tally, channel uint16) *tally {
	for i := range *ts {
		if (*ts)[i].channel == channel {
			return &(*ts)[i]
		}
	}
	name := p.channels.names[channel]
	at, _ := slices.BinarySearchFunc(*ts, name, func(t tally, name string) int {
		return compare(p.channels.names[t.channel], name)
	})
	*ts = slices.Insert(*ts, at, tally{channel: channel})
	return &(*ts)[at]
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
