package ledger

import "encoding/binary"

// Segment is bytes to append to one bucket of the journal.
type Segment struct {
	Bucket int64 // record time divided by an eighth of the window
	Data   []byte
}

// The journal holds, packed, what no SKU's own fields do: ids seen, open items and recent moves. A record is a byte of flags and the parts it
// names, in this order (numbers are varints unless said otherwise; docs/decisions/0002 has the reasons):
//
//	hasID    16 bytes  hash of the event id
//	hasItem  8 bytes   key of the item; 1 byte: class | itemClosed | itemGone | itemWhole; when itemWhole: born;
//	                   number of shares; by share: location index, units (zigzag)
//	hasMove  8 bytes   hash of the SKU; location index; units (zigzag); at
//	hasHold            a requested reservation's part, whole: id, SKU, channel, peer SKU and scope, each with its length before it; 1 byte: state;
//	                   asked, committed, expires, decide by, parts, request hash, ended (zigzag); number of shares; by share: location index, units (zigzag)
const (
	hasID = 1 << iota
	hasItem
	hasMove
	hasHold
)

const (
	itemClass  = 0x07
	itemClosed = 0x08
	itemGone   = 0x10 // the item is forgotten, whatever came before
	itemWhole  = 0x20 // these shares are all there is, whatever came before
)

// record is the journal record of one event, in the making. The parts are appended in place.
type record struct {
	flags  byte
	closed bool // this event closes its item
	id     [16]byte
	itemB  [64]byte // at most 8 + 1 + 1 + 2·(3 + 10)
	nItem  int
	moveB  [40]byte // at most 8 + 3 + 10 + 10
	nMove  int
}

func newRecord(lo, hi uint64) record {
	w := record{flags: hasID}
	binary.LittleEndian.PutUint64(w.id[:], lo)
	binary.LittleEndian.PutUint64(w.id[8:], hi)
	return w
}

func (w *record) item(key uint64, cl class, closed, gone bool, a, b share) {
	w.flags |= hasItem
	buf := binary.LittleEndian.AppendUint64(w.itemB[:0], key)
	c := byte(cl)
	if closed {
		c |= itemClosed
	}
	switch {
	case gone:
		buf = append(buf, c|itemGone, 0)
	case b.units != 0:
		buf = append(buf, c, 2)
		buf = appendShare(appendShare(buf, a), b)
	case a.units != 0:
		buf = append(buf, c, 1)
		buf = appendShare(buf, a)
	default:
		buf = append(buf, c, 0)
	}
	w.nItem = len(buf)
}

func appendShare(buf []byte, x share) []byte {
	return binary.AppendVarint(binary.AppendUvarint(buf, uint64(x.loc)), int64(x.units))
}

func (w *record) move(sku uint64, loc uint16, units Units, at int64) {
	w.flags |= hasMove
	buf := binary.LittleEndian.AppendUint64(w.moveB[:0], sku)
	buf = appendShare(buf, share{loc, units})
	w.nMove = len(binary.AppendUvarint(buf, uint64(at)))
}

// leastJournal is room for some twenty records.
const leastJournal = 1 << 10

// segment is where the current bucket's bytes go.
func (p *Partition) segment() *Segment {
	n := len(p.journal)
	if n > 0 && p.journal[n-1].Bucket == p.bucket {
		return &p.journal[n-1]
	}
	if n < cap(p.journal) { // reuse the bytes of an earlier one
		p.journal = p.journal[:n+1]
		p.journal[n] = Segment{Bucket: p.bucket, Data: p.journal[n].Data[:0]}
	} else {
		p.journal = append(p.journal, Segment{Bucket: p.bucket})
	}
	return &p.journal[n]
}

// grow makes room for n bytes. It doubles what there is, as a batch may be megabytes: append would copy them several times over.
func (g *Segment) grow(n int) {
	if cap(g.Data)-len(g.Data) < n {
		g.Data = append(make([]byte, 0, max(2*cap(g.Data), len(g.Data)+n, leastJournal)), g.Data...)
	}
}

func (p *Partition) append(w *record) {
	g := p.segment()
	g.grow(1 + len(w.id) + w.nItem + w.nMove)
	g.Data = append(g.Data, w.flags)
	if w.flags&hasID != 0 {
		g.Data = append(g.Data, w.id[:]...)
	}
	g.Data = append(g.Data, w.itemB[:w.nItem]...)
	g.Data = append(g.Data, w.moveB[:w.nMove]...)
}

// carryRecord writes a whole item, or that it is gone.
func (p *Partition) carryRecord(it *slot, work []settled, gone bool) {
	g := p.segment()
	buf := append(g.Data, hasItem)
	buf = binary.LittleEndian.AppendUint64(buf, it.key)
	c := byte(it.class)
	if it.flags&slotClosed != 0 {
		c |= itemClosed
	}
	if gone {
		buf = append(buf, c|itemGone, 0)
	} else {
		buf = binary.AppendUvarint(append(buf, c|itemWhole), uint64(it.born))
		buf = binary.AppendUvarint(buf, uint64(len(work)))
		for _, x := range work {
			buf = appendShare(buf, x.share)
		}
	}
	g.Data = buf
}
