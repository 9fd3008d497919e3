package simulation

import (
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
)

// pollEvery is how often the baseline looks: what most tools of the field do.
const pollEvery = 15 * minute

// poller is the polling baseline: every 15 minutes it reads the orders of all channels, and sets all of them to what it then knows is left.
type poller struct {
	w     *world
	left  []int64
	sold  []bool  // by channel and SKU: it sold since the number was set
	since []int64 // by SKU: earliest of what it heard and has not told all channels; 0
	said  []int32
	read  []int
	heard []logged
}

func newPoller(w *world) *poller {
	p := &poller{w: w, left: make([]int64, len(w.sc.lines)), since: make([]int64, len(w.sc.lines)), sold: make([]bool, len(w.markets)*len(w.sc.lines)), said: make([]int32, len(w.markets)*len(w.sc.lines)), read: make([]int, len(w.markets))}
	for i := range p.said {
		p.said[i] = -1
	}
	for i := range w.sc.lines {
		p.left[i] = w.sc.lines[i].stock
	}
	w.add(happening{at: begin + second, kind: pollReads})
	w.add(happening{at: w.sc.pollFrom, kind: pollReads})
	return p
}

// take hears of what moves on the shelf: as soon as it happens, like the orders at the next poll.
func (p *poller) take(l *logged) {
	p.heard = append(p.heard, *l)
}

// reads takes in all orders that there are. Reading takes a while; then it writes.
func (p *poller) reads() {
	w := p.w
	for ch := range w.markets {
		m := &w.markets[ch]
		for ; p.read[ch] < len(m.changes); p.read[ch]++ {
			c := &m.changes[p.read[ch]]
			if c.at > m.clock(w.now)-m.lag {
				break
			}
			sku := w.sc.wants[c.want].sku
			p.news(sku, c.at-m.skew)
			if c.cancelled {
				w.sc.add(p.left, sku, int64(c.units))
			} else {
				w.sc.add(p.left, sku, -int64(c.units))
			}
			p.sold[ch*len(w.sc.lines)+int(sku)] = true
		}
	}
	for i := range p.heard {
		l := &p.heard[i]
		p.news(l.sku, l.occurred)
		switch l.kind {
		case event.StockCounted:
			p.left[l.sku] += int64(w.moved[l.ref])
		default:
			w.sc.add(p.left, l.sku, int64(l.units))
		}
	}
	p.heard = p.heard[:0]
	w.add(happening{at: w.now + 5*second + w.r.wait(10*second), kind: pollWrites})
	if w.now >= w.sc.pollFrom {
		w.add(happening{at: w.now + pollEvery, kind: pollReads})
	}
}

func (p *poller) news(sku uint16, at int64) {
	if p.since[sku] == 0 || at < p.since[sku] {
		p.since[sku] = at
	}
}

// writes sets each number that is not known to be right.
func (p *poller) writes() {
	w := p.w
	for ch := range w.markets {
		var since []int64
		rq := &request{channel: ch}
		for s := range p.left {
			at := ch*len(w.sc.lines) + s
			q := int32(w.sc.most(s, p.left))
			if p.said[at] == q && !p.sold[at] {
				continue
			}
			p.said[at], p.sold[at] = q, false
			rq.items = append(rq.items, item{sku: uint16(s), operation: catalog.Absolute, quantity: q})
			since = append(since, p.since[s])
		}
		if len(rq.items) > 0 {
			rq.since = since
			w.send(rq)
		}
	}
	clear(p.since)
}

// answer forgets what failed, for the next poll to set; a channel that was busy is asked again at once.
func (p *poller) answer(rq *request) {
	switch rq.failure {
	case answered:
		for _, at := range rq.since {
			if at > 0 {
				_ = p.w.res.latency.RecordValue(p.w.now - at)
			}
		}
	case throttled, refused:
		if rq.life < 5 {
			again := *rq
			again.life++
			again.done = 0
			p.w.later(&again, 5*second<<rq.life)
			return
		}
		fallthrough
	default:
		for i := range rq.items {
			p.said[rq.channel*len(p.w.sc.lines)+int(rq.items[i].sku)] = -1
		}
	}
}

// later sends a request again after a while.
func (w *world) later(rq *request, after int64) {
	at := int32(len(w.requests))
	if n := len(w.free); n > 0 {
		at, w.free = w.free[n-1], w.free[:n-1]
		w.requests[at] = rq
	} else {
		w.requests = append(w.requests, rq)
	}
	w.add(happening{at: w.now + after, kind: requestAgain, a: at})
}
