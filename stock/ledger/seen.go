package ledger

// seenSet remembers the 128-bit hashes of event ids, each with the bucket of time it belongs to: open addressing, no pointers, 16 bytes a slot. The low
// four bits of the second word hold the bucket modulo 16, which is enough because fewer than 16 buckets are ever live.
type seenSet struct {
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
	if s.n*8 >= len(s.slots)*5 {
		s.rebuild(max(64, len(s.slots)*2), 0)
	}
	k := seenKey(lo, hi, bucket)
	mask := uint64(len(s.slots) - 1)
	for i := k[0] & mask; ; i = (i + 1) & mask {
		at := &s.slots[i]
		if at[0] == 0 {
			*at = k
			s.n++
			return true
		}
		if at[0] == k[0] && (at[1]^k[1])&^tagMask == 0 {
			return false
		}
	}
}

// has reports whether the id is remembered.
func (s *seenSet) has(lo, hi uint64) bool {
	if s.n == 0 {
		return false
	}
	k := seenKey(lo, hi, 0)
	mask := uint64(len(s.slots) - 1)
	for i := k[0] & mask; ; i = (i + 1) & mask {
		at := &s.slots[i]
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
	left := 0
	for _, k := range s.slots {
		if k[0] != 0 && tags>>(k[1]&tagMask)&1 == 0 {
			left++
		}
	}
	size := 64
	for left*8 >= size*5 {
		size *= 2
	}
	s.rebuild(size, tags)
}

func (s *seenSet) rebuild(size int, without uint16) {
	old := s.slots
	s.slots, s.n = make([][2]uint64, size), 0
	mask := uint64(size - 1)
	for _, k := range old {
		if k[0] == 0 || without>>(k[1]&tagMask)&1 == 1 {
			continue
		}
		i := k[0] & mask
		for s.slots[i][0] != 0 {
			i = (i + 1) & mask
		}
		s.slots[i] = k
		s.n++
	}
}
