package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/onhand/onhand/stock/event"
)

// Stored is a SKU as it was stored: what its accessors and AppendChanges gave.
type Stored struct {
	SKU        string
	Version    int64
	Offset     int64
	ReceivedAt int64
	EventID    string
	EventKind  event.Kind
	Available  Units // as stored: it follows from the rest
	Changes    []StoredChange
}

// StoredChange is a [Change] by name.
type StoredChange struct {
	Field Field
	Name  string // of the location or channel; empty for Unassigned
	Value int64
}

// Restoring rebuilds a Partition from what was stored: locations first, then SKUs in any order, then the journal by bucket and in the order it
// was appended.
type Restoring struct{ p *Partition }

// Restore begins with the names of locations by index, the empty one first as Locations gave them (or none at all), and the clock. The
// options must be those that it was folded with.
func Restore(o Options, locations []string, clock int64) (*Restoring, error) {
	p := New(o)
	p.byHash = make(map[uint64]*SKU)
	for i, name := range locations {
		if i == 0 && name != "" || i > 0 && (name == "" || int(p.locations.of(name)) != i) {
			return nil, fmt.Errorf("stored locations: %q at %d is out of place", name, i)
		}
	}
	p.clock, p.bucket = clock, clock/p.width
	p.oldest = max(0, p.bucket-buckets)
	return &Restoring{p}, nil
}

// Expect makes room for so many SKUs.
func (r *Restoring) Expect(skus int) {
	r.p.skus, r.p.byHash = make(map[string]*SKU, skus), make(map[uint64]*SKU, skus)
}

// Has says whether a SKU was added.
func (r *Restoring) Has(sku string) bool { return r.p.skus[sku] != nil }

// SKU adds a stored SKU.
func (r *Restoring) SKU(st *Stored) error {
	p := r.p
	if p.skus[st.SKU] != nil {
		return fmt.Errorf("stored SKU %q: it comes twice", st.SKU)
	}
	s := &SKU{
		name: st.SKU, hash: nameHash(st.SKU), version: st.Version, offset: st.Offset, receivedAt: st.ReceivedAt, eventID: []byte(st.EventID),
		kind: st.EventKind,
	}
	for _, c := range st.Changes {
		switch {
		case c.Field == Unassigned:
			s.unassigned = Units(c.Value)
		case c.Field == Sold || c.Field == Restored:
			ts := &s.sold
			if c.Field == Restored {
				ts = &s.restored
			}
			p.tally(ts, p.channels.of(c.Name)).units = Units(c.Value)
		case c.Field == Allotted:
			p.allotment(s, c.Name).units = Units(c.Value)
		case c.Field == Sequence:
			p.allotment(s, c.Name).sequence = c.Value
		case c.Field < locationFields:
			loc, ok := p.locations.index[c.Name]
			if !ok || loc == 0 {
				return fmt.Errorf("stored SKU %q: location %q is not among the stored locations", st.SKU, c.Name)
			}
			p.shelf(s, loc).v[c.Field] = c.Value
		default:
			return fmt.Errorf("stored SKU %q: field %d is unknown", st.SKU, c.Field)
		}
	}
	s.cover = -s.unassigned
	for i := range s.shelves {
		v := &s.shelves[i].v
		s.cover += Units(v[OnHand] - v[Committed] - v[Held])
		s.safety += Units(v[Safety])
	}
	if s.Available() != st.Available {
		return fmt.Errorf("stored SKU %q: available is %d, and its locations make %d", st.SKU, st.Available, s.Available())
	}
	s.flushed()
	s.digest = st.Digest()
	p.digest[s.hash&(DigestBuckets-1)] += s.digest
	p.skus[s.name], p.byHash[s.hash] = s, s
	return nil
}

var errJournal = errors.New("journal is damaged")

// Digest compares the digest of the SKUs that were added, which must be all, with the one that was stored. It returns the buckets that differ. A nil
// digest, from before digests were stored, has the first step store it.
func (r *Restoring) Digest(stored *[DigestBuckets]uint64) (differ []int) {
	p := r.p
	for b := range p.digest {
		switch {
		case stored == nil:
			p.digested[b] = true
		case stored[b] != p.digest[b]:
			differ = append(differ, b)
		}
	}
	return differ
}

// Journal adds what was appended to one bucket. Buckets older than the window are ignored.
func (r *Restoring) Journal(bucket int64, b []byte) error {
	p := r.p
	if bucket < p.oldest {
		return nil
	}
	if bucket > p.bucket {
		return fmt.Errorf("%w: bucket %d lies beyond the clock's, %d", errJournal, bucket, p.bucket)
	}
	d := decoder{b: b}
	for len(d.b) > 0 && !d.bad {
		flags := d.byte()
		if flags == 0 || flags&^(hasID|hasItem|hasMove|hasHold) != 0 {
			d.bad = true
			break
		}
		if flags&hasID != 0 {
			lo, hi := d.word(), d.word()
			if !d.bad {
				p.seen.add(lo, hi, bucket)
			}
		}
		if flags&hasItem != 0 {
			r.item(&d, bucket)
		}
		if flags&hasMove != 0 {
			r.move(&d)
		}
		if flags&hasHold != 0 {
			r.hold(&d, bucket)
		}
	}
	if d.bad {
		return fmt.Errorf("%w: bucket %d, %d bytes before its end", errJournal, bucket, len(d.b))
	}
	return nil
}

func (r *Restoring) item(d *decoder, bucket int64) {
	p := r.p
	key, c := d.word(), d.byte()
	born := bucket
	if c&itemWhole != 0 {
		born = int64(d.uvarint())
	}
	cl := class(c & itemClass)
	it := p.items.find(key)
	if it != nil && c&(itemWhole|itemGone) != 0 {
		p.items.remove(key)
		it = nil
	}
	if key == 0 || cl >= classes {
		d.bad = true
		return
	}
	if it == nil {
		it = p.items.put(key)
		it.class, it.born, it.since = cl, uint32(born), uint32(bucket)
	}
	it.flags &^= slotClosed
	if c&itemClosed != 0 {
		it.flags |= slotClosed
	}
	work := p.items.shares(it, p.work[:0])
	n := d.uvarint()
	for range n {
		loc, units := d.uvarint(), d.varint()
		if d.bad || loc >= uint64(len(p.locations.names)) {
			d.bad = true
			return
		}
		work = p.put(work, share{uint16(loc), Units(units)})
	}
	p.work = work
	if d.bad {
		return
	}
	if c&itemGone != 0 {
		p.items.remove(key)
		return
	}
	p.fold(it, work)
}

func (r *Restoring) move(d *decoder) {
	p := r.p
	sku, loc, units, at := d.word(), d.uvarint(), d.varint(), d.uvarint()
	if d.bad || loc == 0 || loc >= uint64(len(p.locations.names)) {
		d.bad = true
		return
	}
	s := p.byHash[sku]
	if s == nil {
		d.bad = true
		return
	}
	h := p.shelf(s, uint16(loc))
	if int64(at) > h.v[CountedAsOf] && int64(at) > h.v[CountsFrom] {
		h.moves = append(h.moves, move{int64(at), Units(units)})
	}
}

// Done is the Partition as it was.
func (r *Restoring) Done() *Partition {
	p := r.p
	p.byHash = nil
	p.holds.restored()
	for _, s := range p.skus {
		s.flushed()
	}
	return p
}

// decoder reads journal bytes; bad sticks.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) byte() byte {
	if len(d.b) < 1 {
		d.bad = true
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) word() uint64 {
	if len(d.b) < 8 {
		d.bad = true
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}
