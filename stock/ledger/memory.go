package ledger

// Memory is what a partition remembers beside its SKUs, in figures that two folds of the same log share. Moves are not in it: they are forgotten
// lazily.
type Memory struct {
	IDs, Items           int    // event ids within the window, and open items
	IDDigest, ItemDigest uint64 // order-independent sums of hashes of each
}

// Memory sums up what is remembered.
func (p *Partition) Memory() Memory {
	m := Memory{IDs: p.seen.n, Items: p.items.n}
	for _, k := range p.seen.slots {
		if k[0] != 0 {
			m.IDDigest += mix64(k[0]) ^ k[1]&^tagMask
		}
	}
	for i := range p.items.slots {
		it := &p.items.slots[i]
		if it.key == 0 {
			continue
		}
		d := mix64(it.key ^ uint64(it.class)<<1)
		if it.flags&slotClosed != 0 {
			d = mix64(d + 1)
		}
		p.work = p.items.shares(it, p.work[:0])
		for _, x := range p.work {
			if x.units != 0 {
				d += part(p.locations.hashes[x.loc], int64(x.units))
			}
		}
		m.ItemDigest += mix64(d)
	}
	return m
}
