package queue

import (
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
)

// target is what a queue keeps of an allocation.Target.
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
	inherited       bool                     // of a granted write: whoever had the partition before may have sent it
	doubted         time.Time                // of such a one: in doubt since then, as they told; zero: they did not
	write           *allocation.GrantedWrite // nil in pooled mode
	span            *trace.SpanContext       // nil when not traced
}

// older says whether t must not replace u.
func (t *target) older(u *target) bool {
	if t.levelVersion != u.levelVersion {
		return t.levelVersion < u.levelVersion
	}
	return t.settingsVersion < u.settingsVersion
}

// grants says whether the target has a write to carry out under books.
func (t *target) grants() bool {
	return t.write != nil && t.write.Operation != catalog.UnspecifiedOperation
}

// operation is how an item under way was written.
type operation struct {
	id       string
	kind     catalog.Operation
	asked    int64 // what the channel shows if nothing was sold meanwhile
	quantity int64
	delta    int64
	expected int64
	anchored bool // expected was above belief: someone raised the number, so that belief starts anew
	sentAt   int64
}

// place is where an item waits.
type place uint8

const (
	resting  place = iota // nothing to do
	ready                 // in the ready heap
	delayed               // in the delayed heap, until notBefore
	toRead                // must be read before anything else
	underWay              // in a request
)

// item is one SKU at one channel.
type item struct {
	sku, external string
	part          *Partition
	target        target // the newest
	seq           int64  // the newest target in part's tracker; -1 when it is settled
	place         place
	dirty         bool      // the newest target is not settled
	grant         *grant    // the granted write that is being carried out; nil in pooled mode, and between two of them
	clearAt       time.Time // before that, an earlier write of unknown outcome may land: no granted write is sent
	held          bool      // its granted write waits for a pause to end, and is given up if it does not
	most          int       // most items in its next request, 0 for no limit: one that it was in was malformed
	gone          bool      // its partition went elsewhere, or the SKU was forgotten: touch nothing
	changes       int64     // grows with each target and each write: a sample that began before is void

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
	if g := it.grant; g != nil {
		return g.urgency()
	}
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
