package ledger

import "slices"

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

// item is an open item: an order line, a reservation, a purchase order or a transfer of one SKU. Two shares are kept in place, more in
// Partition.wide; n says how many there are. An item whose shares are all zero is not kept.
type item struct {
	units       [2]Units
	loc         [2]uint16
	born, since uint32 // bucket of its first event, and of its oldest record in the journal
	n           uint16
	class       class
	closed      bool // a reservation that was released whole
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
	return lo
}

func nameHash(sku string) uint64 {
	lo, _ := hash128([]byte(sku))
	return lo
}

// settle adds up to two shares to an item and changes the SKU's buckets by what that makes of it. It reports whether the item now has more taken
// from it than was ever put in.
func (p *Partition) settle(s *SKU, w *record, key uint64, c class, a, b share) (overdrawn bool) {
	it, known := p.items[key]
	if !known {
		it = item{class: c, born: uint32(p.bucket), since: uint32(p.bucket)}
		if b.units == 0 && a.units > 0 && !w.closed { // the common case: a first sale
			it.n, it.loc[0], it.units[0] = 1, a.loc, a.units
			p.items[key] = it
			p.fill(s, c, a.loc, a.units)
			w.item(key, &it, false, a, share{})
			return false
		}
	}
	work := p.unfold(key, &it)
	distribute(work, it.closed, false)
	it.closed = it.closed || w.closed
	work = p.put(work, a)
	work = p.put(work, b)
	total := distribute(work, it.closed, true)
	p.work = work
	for _, x := range work {
		if d := x.after - x.before; d != 0 {
			p.fill(s, c, x.loc, d)
		}
	}
	gone := p.fold(key, &it, work)
	w.item(key, &it, gone, a, b)
	return total < 0
}

// unfold lists the shares of an item, by name of location, no location first.
func (p *Partition) unfold(key uint64, it *item) []settled {
	work := p.work[:0]
	if it.n > 2 {
		for _, x := range p.wide[key] {
			work = append(work, settled{share: x})
		}
		return work
	}
	for i := range it.n {
		work = append(work, settled{share: share{it.loc[i], it.units[i]}})
	}
	return work
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
func (p *Partition) fold(key uint64, it *item, work []settled) (gone bool) {
	gone = !it.closed
	for _, x := range work {
		gone = gone && x.units == 0
	}
	if it.n > 2 {
		delete(p.wide, key)
	}
	if gone {
		delete(p.items, key)
		return true
	}
	it.n = uint16(len(work))
	if len(work) > 2 {
		shares := make([]share, len(work))
		for i, x := range work {
			shares[i] = x.share
		}
		p.wide[key] = shares
	} else {
		for i, x := range work {
			it.loc[i], it.units[i] = x.loc, x.units
		}
	}
	p.items[key] = *it
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
	for key, it := range p.items {
		if int64(it.since) >= limit {
			continue
		}
		work := p.unfold(key, &it)
		total := distribute(work, it.closed, true)
		p.work = work
		keep := int64(buckets)
		if total > 0 && !it.closed {
			keep = open
		}
		if p.bucket-int64(it.born) > keep {
			delete(p.items, key)
			delete(p.wide, key)
			p.carryRecord(key, &it, nil, true)
			continue
		}
		it.since = uint32(p.bucket)
		p.items[key] = it
		p.carryRecord(key, &it, work, false)
	}
}
