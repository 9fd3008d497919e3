package channelpusher

import (
	"time"

	"go.opentelemetry.io/otel/trace"
)

// target is what the pusher keeps of an allocation.Target.
type target struct {
	quantity        int64
	levelVersion    int64
	settingsVersion int64
	sourceOffset    int64
	sold            int64 // less what the channel restored by itself, as the ledger knew
	received        int64
	oldest          int64 // earliest received_at of what is not yet acknowledged
	decided         int64
	withdrawn       bool
	span            *trace.SpanContext // nil when not traced
}

// older says whether t must not replace u.
func (t *target) older(u *target) bool {
	if t.levelVersion != u.levelVersion {
		return t.levelVersion < u.levelVersion
	}
	return t.settingsVersion < u.settingsVersion
}

// place is where an item waits.
type place uint8

const (
	resting  place = iota // nothing to do
	ready                 // in the ready heap
	delayed               // in the delayed heap, until notBefore
	toRead                // must be read back before it is written
	underWay              // in a request
)

// item is one SKU at one channel. It is guarded by its account's mutex.
type item struct {
	sku, external string
	part          *partition
	target        target // the newest
	seq           int64  // the newest target in part's tracker; -1 when it is settled
	place         place
	dirty         bool  // the newest target is not settled
	gone          bool  // its partition went elsewhere, or the SKU was forgotten: touch nothing
	changes       int64 // grows with each target and each write: a sample that began before is void

	// what the channel is believed to show: shown, less the sales seen beyond basis
	known        bool
	shown, basis int64
	readAt       int64 // microseconds, when shown was read, or set whatever it was before
	exact        bool  // no sale may have been counted on the wrong side of readAt

	expected    int64 // compare-and-set: what the channel said it shows, for the next attempt
	expectedSet bool
	stale       int    // compare-and-set: refusals in a row
	uncertain   bool   // a write's outcome is unknown: read first
	lastID      string // id of the uncertain write
	attempts    int    // since the item was last clean
	failures    int    // in a row, for the backoff
	sent        target // of the write under way
	sentSeq     int64
	op          operation

	doubtful   bool  // sales that may have come before readAt were taken for such: the channel may show too little, and is looked at
	suspect    int64 // a sample found this instead of the target
	suspectSet bool
	lookAt     time.Time // when to sample it again, if that is due

	heapAt     int // in the ready or the delayed heap
	notBefore  time.Time
	since      time.Time // when it became dirty
	seqNo      int64     // order of becoming ready
	prev, next *item     // in the list of dirty items, oldest first
	listed     bool
}

// belief is what the channel is thought to show now.
func (it *item) belief() int64 { return max(0, it.shown-(it.target.sold-it.basis)) }

// urgency orders the ready heap: what must go down before what may go up, and scarce before plenty.
func (it *item) urgency() (class, quantity int64) {
	q := it.target.quantity
	switch {
	case q == 0:
		return 0, 0
	case it.known && q < it.shown:
		return 1, q
	default:
		return 2, q
	}
}

func (it *item) before(o *item) bool {
	c1, q1 := it.urgency()
	c2, q2 := o.urgency()
	if c1 != c2 {
		return c1 < c2
	}
	if q1 != q2 {
		return q1 < q2
	}
	return it.seqNo < o.seqNo
}

// pile is a binary heap of items that knows where each is.
type pile struct {
	items []*item
	less  func(a, b *item) bool
}

func (p *pile) len() int { return len(p.items) }

func (p *pile) push(it *item) {
	it.heapAt = len(p.items)
	p.items = append(p.items, it)
	p.up(it.heapAt)
}

func (p *pile) remove(it *item) {
	i, last := it.heapAt, len(p.items)-1
	p.swap(i, last)
	p.items[last] = nil
	p.items = p.items[:last]
	if i < last {
		p.fix(p.items[i])
	}
}

func (p *pile) fix(it *item) {
	i := it.heapAt
	p.up(i)
	if it.heapAt == i {
		p.down(i)
	}
}

func (p *pile) swap(i, j int) {
	p.items[i], p.items[j] = p.items[j], p.items[i]
	p.items[i].heapAt, p.items[j].heapAt = i, j
}

func (p *pile) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !p.less(p.items[i], p.items[parent]) {
			return
		}
		p.swap(i, parent)
		i = parent
	}
}

func (p *pile) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(p.items) {
			return
		}
		if c+1 < len(p.items) && p.less(p.items[c+1], p.items[c]) {
			c++
		}
		if !p.less(p.items[c], p.items[i]) {
			return
		}
		p.swap(i, c)
		i = c
	}
}

// queueByAge is a list of items in the order they became dirty.
type queueByAge struct{ front, back *item }

func (l *queueByAge) add(it *item) {
	if it.listed {
		return
	}
	it.listed, it.prev, it.next = true, l.back, nil
	if l.back == nil {
		l.front = it
	} else {
		l.back.next = it
	}
	l.back = it
}

func (l *queueByAge) remove(it *item) {
	if !it.listed {
		return
	}
	if it.prev == nil {
		l.front = it.next
	} else {
		it.prev.next = it.next
	}
	if it.next == nil {
		l.back = it.prev
	} else {
		it.next.prev = it.prev
	}
	it.listed, it.prev, it.next = false, nil, nil
}

// partition follows which consumed targets are settled: every target before the commit offset is settled or superseded. It is guarded by its
// account's mutex.
type partition struct {
	topic    string
	id       int32
	settled  int64 // the group's committed offset when the partition came: earlier targets are only remembered
	next     int64 // offset after the last consumed record
	high     int64 // end of the partition, as far as fetches have told
	stored   int64 // last commit that succeeded
	first    int64 // sequence number of open[0]
	open     []openTarget
	underWay int // items in requests
	gone     bool
}

type openTarget struct {
	offset int64
	done   bool
}

// add opens a target and returns its sequence number.
func (p *partition) add(offset int64) int64 {
	p.open = append(p.open, openTarget{offset: offset})
	return p.first + int64(len(p.open)) - 1
}

// done settles a target.
func (p *partition) done(seq int64) {
	if i := seq - p.first; i >= 0 && i < int64(len(p.open)) {
		p.open[i].done = true
	}
}

// commit is the offset before which everything is settled.
func (p *partition) commit() int64 {
	n := 0
	for n < len(p.open) && p.open[n].done {
		n++
	}
	p.open = p.open[n:]
	p.first += int64(n)
	if len(p.open) == 0 {
		p.open = nil
		return p.next
	}
	return p.open[0].offset
}
