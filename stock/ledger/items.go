package ledger

import (
	"math"
	"slices"

	"github.com/onhand/onhand/stock/event"
)

// class says which bucket an open item fills.
type class uint8

const (
	classSale     class = iota // committed, or unassigned
	classHold                  // held
	classInbound               // inbound: a purchase order
	classTransfer              // inbound: a transfer
	classes
)

// share is a signed number of units of an item at a location; location 0 is none.
type share struct {
	loc   uint16
	units Units
}

// settled is a share while it is worked on, with the units it fills its bucket with before and after.
type settled struct {
	share
	before, after Units
}

// key is the hash of what names an item.
func (p *Partition) key(c class, sku, a, b string) uint64 {
	p.scratch = append(p.scratch[:0], byte(c))
	p.scratch = append(p.scratch, sku...)
	p.scratch = append(p.scratch, 0)
	p.scratch = append(p.scratch, a...)
	p.scratch = append(p.scratch, 0)
	p.scratch = append(p.scratch, b...)
	lo, _ := hash128(p.scratch)
	return itemKey(lo)
}

// line is the key of the order line of the event that is applied.
func (p *Partition) line(e *event.Event) uint64 {
	if p.lineNow != 0 {
		return p.lineNow
	}
	return p.lineKey(e)
}

// lineKey is the key of an order's line. An order's number is its channel's own: two channels may well use the same.
func (p *Partition) lineKey(e *event.Event) uint64 {
	b := append(p.scratch[:0], byte(classSale))
	b = append(append(b, e.SKU...), 0)
	b = append(append(b, e.Channel...), 0)
	b = append(append(b, e.OrderID...), 0)
	p.scratch = append(b, e.LineID...)
	lo, _ := hash128(p.scratch)
	return itemKey(lo)
}

func nameHash(sku string) uint64 {
	lo, _ := hash128([]byte(sku))
	return lo
}

// settle adds up to two shares to an item and changes the SKU's buckets by what that makes of it. It reports whether the item now has more taken
// from it than was ever put in.
func (p *Partition) settle(s *SKU, w *record, key uint64, c class, a, b share) (overdrawn bool) {
	it := p.items.find(key)
	if it == nil {
		it = p.items.put(key)
		it.class, it.born, it.since = c, uint32(p.bucket), uint32(p.bucket)
		if b.units == 0 && a.units > 0 && a.units <= math.MaxInt32 && !w.closed { // the common case: a first sale
			it.loc, it.units = a.loc, int32(a.units)
			p.fill(s, c, a.loc, a.units)
			w.item(key, c, false, false, a, share{})
			return false
		}
	}
	if it.flags == 0 && !w.closed && b.units == 0 && a.loc == it.loc && a.units < 0 && it.units > 0 && a.units == -Units(it.units) {
		// The next common case: all of it ships, or is cancelled.
		p.fill(s, c, a.loc, a.units)
		p.items.remove(key)
		w.item(key, c, false, true, share{}, share{})
		return false
	}
	work := p.items.shares(it, p.work[:0])
	distribute(work, it.flags&slotClosed != 0, false)
	if w.closed {
		it.flags |= slotClosed
	}
	closed := it.flags&slotClosed != 0
	work = p.put(work, a)
	work = p.put(work, b)
	total := distribute(work, closed, true)
	p.work = work
	for _, x := range work {
		if d := x.after - x.before; d != 0 {
			p.fill(s, c, x.loc, d)
		}
	}
	gone := p.fold(it, work)
	w.item(key, c, closed, gone, a, b)
	return total < 0
}

// put adds a share to its place in the list.
func (p *Partition) put(work []settled, x share) []settled {
	if x.units == 0 {
		return work
	}
	at, found := slices.BinarySearchFunc(work, x.loc, func(y settled, loc uint16) int {
		return compare(p.locations.names[y.loc], p.locations.names[loc])
	})
	if found {
		work[at].units += x.units
		return work
	}
	return slices.Insert(work, at, settled{share: x})
}

// distribute says how many units each share fills its bucket with: what is positive, less what is negative elsewhere, which is taken from
// units without a location first and then by name of location. It returns the item's total; at or below zero, nothing is filled.
func distribute(work []settled, closed, after bool) (total Units) {
	var short Units
	for i := range work {
		total += work[i].units
		short -= min(0, work[i].units)
	}
	for i := range work {
		n := max(0, work[i].units)
		if closed || total <= 0 {
			n = 0
		}
		take := min(short, n)
		short -= take
		n -= take
		if after {
			work[i].after = n
		} else {
			work[i].before = n
		}
	}
	return total
}

// fold stores the shares, and reports whether the item balances and is forgotten.
func (p *Partition) fold(it *slot, work []settled) (gone bool) {
	gone = it.flags&slotClosed == 0
	for _, x := range work {
		gone = gone && x.units == 0
	}
	if gone {
		p.items.remove(it.key)
		return true
	}
	p.items.keep(it, work)
	return false
}

// fill changes the bucket that a class of items fills.
func (p *Partition) fill(s *SKU, c class, loc uint16, units Units) {
	switch {
	case c == classSale && loc == 0:
		s.unassigned += units
		s.cover -= units
	case c == classSale:
		p.shelf(s, loc).add(Committed, units)
		s.cover -= units
	case c == classHold:
		p.shelf(s, loc).add(Held, units)
		s.cover -= units
	default:
		p.shelf(s, loc).add(Inbound, units)
	}
}

// carry writes the items whose oldest record is in a bucket before limit once more into the current bucket, so that the journal can lose the
// old ones. Items that are not open are let go after the window, open ones after OpenWindow.
func (p *Partition) carry(limit int64) {
	open := p.opt.OpenWindow.Microseconds() / p.width
	for _, key := range p.items.keys(nil) {
		it := p.items.find(key)
		if int64(it.since) >= limit {
			continue
		}
		work := p.items.shares(it, p.work[:0])
		closed := it.flags&slotClosed != 0
		total := distribute(work, closed, true)
		p.work = work
		keep := int64(buckets)
		if total > 0 && !closed {
			keep = open
		}
		if p.bucket-int64(it.born) > keep {
			p.carryRecord(it, nil, true)
			p.items.remove(key)
			continue
		}
		it.since = uint32(p.bucket)
		p.carryRecord(it, work, false)
	}
	p.items.trim()
}
