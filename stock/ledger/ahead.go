package ledger

import "github.com/onhand/onhand/stock/event"

// Lookahead is the most events that Ahead takes.
const Lookahead = 16

// foreseen is what Ahead found out of an event.
type foreseen struct {
	offset int64
	lo, hi uint64 // of its id
	line   uint64 // key of its order line; 0 when it is not known
	sku    *SKU   // nil when it is not known
}

// Ahead is told of events that Apply gets next, in order, and of their records' offsets; both have the same length, at most Lookahead. It changes no state: it reads
// what Apply will look up, each in another place of tables that no cache holds. Asked for together these reads wait for memory side by side, and in Apply one after
// another. An event that is not applied after all does no harm, but an offset must always be that of the same event. Nothing of the events is kept.
func (p *Partition) Ahead(events []event.Event, offsets []int64) {
	p.foreseen, p.next = p.ahead[:len(events)], 0
	for i := range events {
		e := &events[i]
		a := &p.foreseen[i]
		p.scratch = append(p.scratch[:0], e.ID...)
		a.lo, a.hi = hash128(p.scratch)
		a.offset, a.line, a.sku = offsets[i], 0, p.skus[e.SKU]
		if e.OrderID != "" {
			a.line = p.lineKey(e)
		}
	}
	var sum uint64
	for i := range p.foreseen {
		a := &p.foreseen[i]
		sum += p.seen.peek(a.lo) + p.items.peek(a.line)
		if s := a.sku; s != nil {
			sum += uint64(s.version) + uint64(s.cover) + uint64(s.kind)
		}
	}
	for i := range p.foreseen {
		if s := p.foreseen[i].sku; s != nil && len(s.shelves) > 0 && len(s.sold) > 0 {
			h := &s.shelves[0]
			sum += uint64(h.v[OnHand]) + uint64(h.v[CountsFrom]) + uint64(h.dirty) + uint64(s.sold[0].units) + uint64(len(s.eventID))
		}
	}
	p.peeked = sum
}

// saw is what Ahead found out of the event at an offset; nothing but its offset when it was not told of it.
func (p *Partition) saw(offset int64) foreseen {
	for p.next < len(p.foreseen) {
		a := p.foreseen[p.next]
		if a.offset > offset {
			break
		}
		p.next++
		if a.offset == offset {
			return a
		}
	}
	return foreseen{offset: offset}
}

// peek reads where an id is looked for first.
func (s *seenSet) peek(lo uint64) uint64 {
	g := &s.segments[segment(lo)]
	if len(g.slots) == 0 {
		return 0
	}
	return g.slots[lo&uint64(len(g.slots)-1)][0]
}

// peek reads where a key is looked for first.
func (t *itemTable) peek(key uint64) uint64 {
	g := &t.segments[segment(key)]
	if len(g.slots) == 0 {
		return 0
	}
	s := &g.slots[key&uint64(len(g.slots)-1)]
	return s.key + uint64(s.flags)
}
