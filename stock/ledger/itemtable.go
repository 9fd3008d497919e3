package ledger

// slot is one item of the table. key 0 is an empty slot.
type slot struct {
	key         uint64
	units       int32
	born, since uint32 // bucket of the item's first event, and of its oldest record in the journal
	loc         uint16
	class       class
	flags       uint8
}

const (
	slotClosed = 1 << iota // a reservation that was released whole
	slotWide               // the shares are in itemTable.wide
)

// The tables of what a partition remembers are in segments, chosen by the highest bits of a key, and each grows by itself. One table would be copied whole when it is full, some ten
// milliseconds in which its partition stands still, and partitions that are used alike would do so together.
const (
	segments    = 64
	segmentBits = 6
	leastSlots  = 8 // of a segment in use
)

// segment is where a key belongs.
func segment(key uint64) uint64 { return key >> (64 - segmentBits) }

// itemTable holds the open items by key: open addressing with linear probing, 24 bytes a slot and no pointers, as there may be millions. An item with one share of
// a quantity of everyday size fills its slot; others keep their shares in wide.
type itemTable struct {
	segments [segments]itemSegment
	n        int
	wide     map[uint64][]share
}

type itemSegment struct {
	slots []slot
	n     int
}

// itemKey avoids the key of an empty slot.
func itemKey(hash uint64) uint64 {
	if hash == 0 {
		return 1
	}
	return hash
}

// find is the slot of a key, or nil.
func (t *itemTable) find(key uint64) *slot {
	g := &t.segments[segment(key)]
	if g.n == 0 {
		return nil
	}
	mask := uint64(len(g.slots) - 1)
	for i := key & mask; ; i = (i + 1) & mask {
		switch s := &g.slots[i]; s.key {
		case key:
			return s
		case 0:
			return nil
		}
	}
}

// put is the slot of a key, made when there is none. It is good until the next put or remove.
func (t *itemTable) put(key uint64) *slot {
	g := &t.segments[segment(key)]
	if g.n*4 >= len(g.slots)*3 {
		g.resize(max(leastSlots, len(g.slots)*2))
	}
	mask := uint64(len(g.slots) - 1)
	for i := key & mask; ; i = (i + 1) & mask {
		switch s := &g.slots[i]; s.key {
		case key:
			return s
		case 0:
			t.n++
			g.n++
			s.key = key
			return s
		}
	}
}

func (g *itemSegment) resize(size int) {
	old := g.slots
	g.slots = make([]slot, size)
	mask := uint64(size - 1)
	for _, s := range old {
		if s.key == 0 {
			continue
		}
		i := s.key & mask
		for g.slots[i].key != 0 {
			i = (i + 1) & mask
		}
		g.slots[i] = s
	}
}

// remove forgets a key, and moves those that had to give way to it back to where they are looked for.
func (t *itemTable) remove(key uint64) {
	s := t.find(key)
	if s == nil {
		return
	}
	if s.flags&slotWide != 0 {
		delete(t.wide, key)
	}
	g := &t.segments[segment(key)]
	t.n--
	g.n--
	mask := uint64(len(g.slots) - 1)
	hole := key & mask
	for g.slots[hole].key != key {
		hole = (hole + 1) & mask
	}
	for i := (hole + 1) & mask; g.slots[i].key != 0; i = (i + 1) & mask {
		if home := g.slots[i].key & mask; (i-home)&mask >= (i-hole)&mask { // the hole lies between its home and where it is
			g.slots[hole] = g.slots[i]
			hole = i
		}
	}
	g.slots[hole] = slot{}
}

// trim gives memory back where few of many slots are used.
func (t *itemTable) trim() {
	for i := range t.segments {
		g := &t.segments[i]
		size := len(g.slots)
		for size > leastSlots && g.n*8 < size {
			size /= 2
		}
		if size < len(g.slots) {
			g.resize(size)
		}
	}
}

// all yields every item. None may be added or removed meanwhile.
func (t *itemTable) all(yield func(*slot) bool) {
	for i := range t.segments {
		g := &t.segments[i]
		for j := range g.slots {
			if s := &g.slots[j]; s.key != 0 && !yield(s) {
				return
			}
		}
	}
}

// keys appends all keys to dst.
func (t *itemTable) keys(dst []uint64) []uint64 {
	for s := range t.all {
		dst = append(dst, s.key)
	}
	return dst
}

// shares lists an item's shares, as they were stored.
func (t *itemTable) shares(s *slot, dst []settled) []settled {
	if s.flags&slotWide != 0 {
		for _, x := range t.wide[s.key] {
			dst = append(dst, settled{share: x})
		}
		return dst
	}
	if s.units != 0 {
		dst = append(dst, settled{share: share{s.loc, Units(s.units)}})
	}
	return dst
}

// keep stores an item's shares.
func (t *itemTable) keep(s *slot, work []settled) {
	if len(work) == 0 || len(work) == 1 && Units(int32(work[0].units)) == work[0].units {
		if s.flags&slotWide != 0 {
			delete(t.wide, s.key)
			s.flags &^= slotWide
		}
		s.loc, s.units = 0, 0
		if len(work) == 1 {
			s.loc, s.units = work[0].loc, int32(work[0].units)
		}
		return
	}
	shares := t.wide[s.key][:0]
	for _, x := range work {
		shares = append(shares, x.share)
	}
	if t.wide == nil {
		t.wide = make(map[uint64][]share)
	}
	t.wide[s.key] = shares
	s.flags |= slotWide
}
