package ledger

// Memory is what a partition remembers beside its SKUs, in figures that two folds of the same log share. Moves are not in it: they are forgotten
// lazily.
type Memory struct {
	IDs, Items           int    // event ids within the window, and open items
	Holds                int    // reservations' parts that were requested and are open or remembered
	IDDigest, ItemDigest uint64 // order-independent sums of hashes of each; reservations count as items
}

// Memory sums up what is remembered.
func (p *Partition) Memory() Memory {
	m := Memory{IDs: p.seen.n, Items: p.items.n}
	for k := range p.seen.all {
		m.IDDigest += mix64(k[0]) ^ k[1]&^tagMask
	}
	for it := range p.items.all {
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
	for _, h := range p.holds.by {
		if p.forgotten(h) {
			continue
		}
		m.Holds++
		d := mix64(nameHash(h.reservation) ^ nameHash(h.sku)<<1)
		for _, v := range [...]int64{int64(h.state), int64(h.asked), int64(h.committed), h.expires, h.decideBy, h.parts, h.hash, h.ended} {
			d = mix64(d + uint64(v))
		}
		for _, x := range h.shares {
			d += part(p.locations.hashes[x.loc], int64(x.units))
		}
		m.ItemDigest += mix64(d)
	}
	return m
}
