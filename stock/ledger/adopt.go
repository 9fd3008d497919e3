package ledger

import "strings"

// Adopt makes a level the state of its SKU, in place of what was folded of it, as if all events up to l.SourceOffset had been. A fold that
// begins in the middle of the log comes to the right numbers this way, and what it remembers (ids, open items, recent moves) is what it read.
//
// It returns false when units of l are committed, held or inbound that no open item accounts for which was folded since the beginning: then the fold must begin
// earlier, or what closes those items would find nothing to close.
func (p *Partition) Adopt(l *Level) (explained bool) {
	s := p.skus[l.SKU]
	if s == nil {
		name := strings.Clone(l.SKU)
		s = &SKU{name: name, hash: nameHash(name), fresh: true}
		p.skus[name] = s
	}
	if !s.changed {
		s.changed = true
		p.changed = append(p.changed, s)
	}
	explained = s.unassigned == l.Unassigned
	for i := range l.Locations {
		at := &l.Locations[i]
		h := p.shelf(s, p.locations.of(at.Location))
		explained = explained && Units(h.v[Committed]) == at.Committed && Units(h.v[Held]) == at.Held && Units(h.v[Inbound]) == at.Inbound
		h.v = [locationFields]int64{
			OnHand: int64(at.OnHand), Committed: int64(at.Committed), Held: int64(at.Held), Inbound: int64(at.Inbound), Unsellable: int64(at.Unsellable),
			Safety: int64(at.Safety), MovedAt: at.MovedAt, CountedAsOf: at.CountedAsOf, CountsFrom: at.CountsFrom,
		}
		for f := range locationFields {
			if f <= Safety || h.v[f] != 0 {
				h.dirty |= 1 << f
			}
		}
		h.prune(max(at.CountedAsOf, at.CountsFrom))
	}
	s.unassigned, s.cover, s.safety = l.Unassigned, -l.Unassigned, 0
	for i := range s.shelves {
		v := &s.shelves[i].v
		s.cover += Units(v[OnHand] - v[Committed] - v[Held])
		s.safety += Units(v[Safety])
	}
	p.adoptTallies(&s.sold, l.Sold)
	p.adoptTallies(&s.restored, l.Restored)
	p.adoptAllotments(s, l.Allotments)
	s.version, s.offset, s.receivedAt, s.kind = l.Version, l.SourceOffset, l.ReceivedAt, l.EventKind
	s.eventID = append(s.eventID[:0], l.EventID...)
	return explained
}

func (p *Partition) adoptTallies(ts *[]tally, from []ChannelUnits) {
	for _, c := range from {
		t := p.tally(ts, p.channels.of(c.Channel))
		t.units, t.dirty = c.Units, true
	}
}
