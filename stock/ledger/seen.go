package ledger

// seenSet remembers the 128-bit hashes of event ids, each with the bucket of time it belongs to: open addressing, no pointers, 16 bytes a slot. The low
// four bits of the second word hold the bucket modulo 16, which is enough because fewer than 16 buckets are ever live.
type seenSet struct {
	segments [segments]seenSegment
	n        int
}

type seenSegment struct {
	slots [][2]uint64 // {0, 0} is empty
	n     int
}

const tagMask = 15

func seenKey(lo, hi uint64, bucket int64) [2]uint64 {
	if lo == 0 {
		lo = 1 // so that no key looks like an empty slot
	}
	return [2]uint64{lo, hi&^tagMask | uint64(bucket)&tagMask}
}

// add records the id and reports whether it is new.
func (s *seenSet) add(lo, hi uint64, bucket int64) bool {
	k := seenKey(lo, hi, bucket)
	g := &s.segments[segment(k[0])]
	if g.n*8 >= len(g.slots)*5 {
		g.rebuild(max(leastSlots, len(g.slots)*2), 0)
	}
	mask := uint64(len(g.slots) - 1)
	for i := k[0] & mask; ; i = (i + 1) & mask {
		at := &g.slots[i]
		if at[0] == 0 {
			*at = k
			s.n++
			g.n++
			return true
		}
		if at[0] == k[0] && (at[1]^k[1])&^tagMask == 0 {
			return false
		}
	}
}

// has reports whether the id is remembered.
func (s *seenSet) has(lo, hi uint64) bool {
	k := seenKey(lo, hi, 0)
	g := &s.segments[segment(k[0])]
	if g.n == 0 {
		return false
	}
	mask := uint64(len(g.slots) - 1)
	for i := k[0] & mask; ; i = (i + 1) & mask {
		at := &g.slots[i]
		if at[0] == 0 {
			return false
		}
		if at[0] == k[0] && (at[1]^k[1])&^tagMask == 0 {
			return true
		}
	}
}

// drop forgets the ids of the buckets whose bit (bucket modulo 16) is set.
func (s *seenSet) drop(tags uint16) {
	s.n = 0
	for i := range s.segments {
		g := &s.segments[i]
		left := 0
		for _, k := range g.slots {
			if k[0] != 0 && tags>>(k[1]&tagMask)&1 == 0 {
				left++
			}
		}
		size := leastSlots
		for left*8 >= size*5 {
			size *= 2
		}
		g.rebuild(size, tags)
		s.n += g.n
	}
}

// all yields every key.
func (s *seenSet) all(yield func([2]uint64) bool) {
	for i := range s.segments {
		for _, k := range s.segments[i].slots {
			if k[0] != 0 && !yield(k) {
				return
			}
		}
	}
}

func (g *seenSegment) rebuild(size int, without uint16) {
	old := g.slots
	g.slots, g.n = make([][2]uint64, size), 0
	mask := uint64(size - 1)
	for _, k := range old {
		if k[0] == 0 || without>>(k[1]&tagMask)&1 == 1 {
			continue
		}
		i := k[0] & mask
		for g.slots[i][0] != 0 {
			i = (i + 1) & mask
		}
		g.slots[i] = k
		g.n++
	}
}
