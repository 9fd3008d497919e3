package simulation

import (
	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/stock/catalog"
)

// cell is one SKU at one marketplace, as it truly is.
type cell struct {
	shown    int32 // what it shows, and sells from
	sold     int32 // units, ever
	restored int32 // units that it put on sale again by itself, ever
}

// change is an order taken or cancelled, as the channel's order API lists it.
type change struct {
	at        int64 // channel's clock
	want      int32
	units     int32
	cancelled bool
	claimed   uint8 // attempts to claim its units, the last of which was granted
}

// market is one marketplace: it sells what it shows, takes writes, and tells of its orders.
type market struct {
	*shop
	r       *source
	cells   []cell
	changes []change
	swept   int // changes that a sweep has delivered
	sweepTo int // changes that the sweep under way read
	until   int64
}

// clock is the channel's own.
func (m *market) clock(now int64) int64 { return now + m.skew }

// verb is what a request asks.
type verb uint8

const (
	set verb = iota
	read
)

// verdict is what became of an item, as the answer tells.
type verdict uint8

const (
	applied verdict = iota
	stale
)

// item is one SKU of a request.
type item struct {
	sku                       uint16
	operation                 catalog.Operation
	quantity, delta, expected int32
	verdict                   verdict
	shown                     int32 // after a write of which the channel tells; what a read saw
	tells                     bool
}

// failure is how a request failed as a whole, as its sender sees it.
type failure uint8

const (
	answered  failure = iota
	refused           // certainly not applied: no connection
	throttled         // certainly not applied: too many requests
	silent            // nobody knows
)

// request is one request to a marketplace. The sender makes it; the marketplace fills in the answer.
type request struct {
	channel int
	verb    verb
	items   []item
	sentAt  int64
	failure failure
	done    int8 // of apply and answer, what is over
	applies bool
	life    uint32 // of the sender
	job     *queue.Request
	since   []int64 // polling: by item
}

// fate is when a request takes effect, and when its sender hears what.
type fate struct {
	applied, heard int64
	applies        bool
	failure        failure
}

// fate decides what becomes of a request that is sent now.
func (m *market) fate(now int64, v verb) fate {
	rtt := m.r.skewed(m.answer, 128)
	switch {
	case inside(m.outages, now):
		return fate{heard: now + min(rtt, m.timeout), failure: refused}
	case inside(m.blackouts, now):
		f := fate{heard: now + m.timeout, failure: silent, applies: m.r.chance(400_000)}
		f.applied = now + m.r.below(m.timeout*17/10) // within the late window
		return f
	case inside(m.storms, now) && m.r.chance(700_000):
		return fate{heard: now + rtt, failure: throttled}
	}
	if m.r.chance(3_000) { // lost on the way there
		return fate{heard: now + m.timeout, failure: silent}
	}
	took := m.r.skewed(m.write, 192)
	if v == read {
		took = m.r.skewed(min(m.write, second), 128)
	}
	if m.r.chance(50_000) { // slow, now and then
		rtt = rtt*10 + m.r.wait(5*second)
	}
	if m.r.chance(5_000) {
		took += m.r.wait(m.timeout)
	}
	f := fate{applied: now + min(took, m.timeout*17/10), applies: true}
	f.heard = f.applied + rtt
	if f.heard > now+m.timeout || m.r.chance(2_000) {
		f.heard, f.failure = now+m.timeout, silent
	}
	return f
}

// apply does what a request asks, at the marketplace.
func (m *market) apply(rq *request) {
	for i := range rq.items {
		it := &rq.items[i]
		c := &m.cells[it.sku]
		if rq.verb == read {
			it.shown, it.tells = c.shown, true
			continue
		}
		it.verdict = applied
		switch it.operation {
		case catalog.CompareAndSet:
			if c.shown != it.expected {
				it.verdict, it.shown, it.tells = stale, c.shown, true
				continue
			}
			c.shown = it.quantity
		case catalog.Delta:
			c.shown += it.delta
			if m.kind == clamped {
				c.shown = max(0, c.shown)
			} else {
				it.shown, it.tells = c.shown, true
			}
		default:
			c.shown = it.quantity
		}
	}
}
