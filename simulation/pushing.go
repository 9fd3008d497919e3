package simulation

import (
	"errors"
	"strconv"
	"time"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

// pushing is the pusher of one channel: its topic, and the queue of the process that runs.
type pushing struct {
	topic  []posted        // targets.<channel>, compacted: the newest of each SKU
	next   []int64         // by partition: offset of the next target
	stored []int64         // by partition: what the group has committed, negative for nothing
	doubts [][]queue.Doubt // stored with it
	commit int64           // when it did
	queue  *queue.Queue
	parts  []*queue.Partition
	looks  int64  // the moment of the look that is due, 0 is none
	life   uint32 // of the process
}

// posted is the newest target of a SKU in a topic.
type posted struct {
	offset int64
	target allocation.Target
	known  bool
}

// commitEvery is how often the pusher commits what is settled.
const commitEvery = 250 * millisecond

// newQueue starts the queue of a channel, as a pusher that starts does.
func (w *world) newQueue(ch int) {
	p := &w.pushing[ch]
	p.life++
	p.looks = 0
	if w.claims(ch) { // nothing is ever written to it
		return
	}
	cfg := w.cfg.Queue
	cfg.Instance, cfg.Seed = strconv.Itoa(int(p.life)), w.sc.seed<<20|uint64(ch)<<8|uint64(p.life)
	now := moment(w.now)
	p.queue = queue.New(w.names[ch], cfg, now)
	caps := adapter.Capabilities{Operations: []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet}, MaxBatch: 1000, MaxQuantity: 1 << 30, ReadBack: true}
	if err := p.queue.Configure(w.setting(ch), &caps, now); err != nil {
		w.fail("%s: %v", w.names[ch], err)
	}
	for i := range p.parts {
		p.parts[i] = p.queue.Partition(int32(i), p.stored[i], p.next[i], p.doubts[i], now)
	}
}

func moment(at int64) time.Time { return time.UnixMicro(at).UTC() }

func (w *world) look(ch int) {
	p := &w.pushing[ch]
	if p.looks != w.now {
		return // it was moved
	}
	p.looks = 0
	w.turn(ch)
}

// turn has the pusher of a channel send what is due, and tell what became of what it sent.
func (w *world) turn(ch int) {
	p := &w.pushing[ch]
	if w.down[pusher] {
		return
	}
	now := moment(w.now)
	for {
		j, again := p.queue.Next(now)
		w.report(ch)
		if j == nil {
			if !again.IsZero() {
				if at := max(again.UnixMicro(), w.now+1); p.looks == 0 || at < p.looks {
					p.looks = at
					w.add(happening{at: at, kind: pusherLooks, c: uint16(ch)})
				}
			}
			return
		}
		rq := &request{channel: ch, life: p.life, job: j}
		if j.Read() {
			rq.verb = read
			for _, id := range j.IDs {
				rq.items = append(rq.items, item{sku: uint16(w.number(id))})
			}
		}
		for i := range j.Items {
			it := &j.Items[i]
			rq.items = append(rq.items, item{sku: uint16(w.number(it.ExternalID)), operation: it.Operation, quantity: int32(it.Quantity), delta: int32(it.Delta), expected: int32(it.Expected)})
		}
		w.send(rq)
	}
}

// report makes results durable, and commits now and then.
func (w *world) report(ch int) {
	p := &w.pushing[ch]
	r := p.queue.Report()
	for i := range r.Results {
		w.result(&r.Results[i].Result)
	}
	p.queue.Durable(&r)
	if w.now-p.commit >= commitEvery {
		p.commit = w.now
		for i := range p.parts {
			p.stored[i], p.doubts[i] = p.parts[i].Commit(), p.parts[i].Doubts()
		}
	}
}

var (
	errRefused   = &adapter.CallError{Kind: adapter.NotSent, Err: errors.New("connection refused")}
	errThrottled = &adapter.CallError{Kind: adapter.Throttled, Status: 429, RetryAfter: 2 * time.Second}
	errSilent    = &adapter.CallError{Kind: adapter.Uncertain, Err: errors.New("no answer")}
)

// answer hands an answer to the queue that asked.
func (w *world) answer(rq *request) {
	p := &w.pushing[rq.channel]
	now := moment(w.now)
	var err error
	switch rq.failure {
	case refused:
		err = errRefused
	case throttled:
		err = errThrottled
	case silent:
		err = errSilent
	}
	if rq.verb == read {
		var got []adapter.Shown
		if err == nil {
			got = make([]adapter.Shown, len(rq.items))
			for i := range rq.items {
				got[i] = adapter.Shown{Quantity: int64(max(0, rq.items[i].shown)), Known: true, Listed: true}
			}
		}
		p.queue.AnswerRead(rq.job, got, err, now)
		return
	}
	var got []adapter.ItemResult
	if err == nil {
		got = make([]adapter.ItemResult, len(rq.items))
		for i := range rq.items {
			it := &rq.items[i]
			got[i] = adapter.ItemResult{Verdict: adapter.Applied, Shown: int64(max(0, it.shown)), ShownKnown: it.tells}
			if it.verdict == stale {
				got[i].Verdict, got[i].Code = adapter.Stale, "stale"
			}
		}
	}
	p.queue.AnswerWrite(rq.job, got, err, now)
}

// send puts a request on its way: what becomes of it is decided now.
func (w *world) send(rq *request) {
	m := &w.markets[rq.channel]
	rq.sentAt = w.now
	f := m.fate(w.now, rq.verb)
	rq.failure, rq.applies = f.failure, f.applies
	var at int32
	if n := len(w.free); n > 0 {
		at, w.free = w.free[n-1], w.free[:n-1]
		w.requests[at] = rq
	} else {
		at = int32(len(w.requests))
		w.requests = append(w.requests, rq)
	}
	w.res.Requests++
	if rq.verb == set {
		w.res.Writes += int64(len(rq.items))
	} else {
		w.res.Reads += int64(len(rq.items))
	}
	if f.applies {
		w.add(happening{at: f.applied, kind: requestApplies, a: at})
	} else {
		rq.done++
	}
	w.add(happening{at: f.heard, kind: requestEnds, a: at})
}

func (w *world) applies(at int32) {
	rq := w.requests[at]
	w.markets[rq.channel].apply(rq)
	w.over(at)
	if rq.verb == set {
		for i := range rq.items {
			w.verify(int(rq.items[i].sku))
		}
	}
}

func (w *world) ends(at int32) {
	rq := w.requests[at]
	w.over(at)
	if w.poll != nil {
		w.poll.answer(rq)
		return
	}
	if p := &w.pushing[rq.channel]; rq.life == p.life && !w.down[pusher] {
		w.answer(rq)
		w.turn(rq.channel)
	}
}

// over frees the request's number when nothing more will come of it.
func (w *world) over(at int32) {
	rq := w.requests[at]
	rq.done++
	if rq.done == 2 {
		w.requests[at] = nil
		w.free = append(w.free, at)
	}
}

// targetsVisible hands a lot of targets to the pushers of their channels.
func (w *world) targetsVisible(p, lot int) {
	l := w.alloc.lots[lot]
	w.alloc.lots[lot] = nil
	now := moment(w.now)
	for i := range l.targets {
		t := &l.targets[i]
		ch, sku := int(t.channel), int(t.sku)
		pu := &w.pushing[ch]
		pu.topic[sku] = posted{pu.next[p], t.target, true}
		pu.next[p]++
		if !w.down[pusher] && pu.queue != nil {
			pu.queue.Take(pu.parts[p], pu.next[p]-1, &t.target, nil, now)
			w.nudge(ch)
		}
	}
	w.alloc.recycle(l)
}

// nudge has a channel's pusher look at its queue, once all that comes now has come.
func (w *world) nudge(ch int) {
	p := &w.pushing[ch]
	if p.looks == 0 || p.looks > w.now+1 {
		p.looks = w.now + 1
		w.add(happening{at: p.looks, kind: pusherLooks, c: uint16(ch)})
	}
}

// pushersReturn starts all queues anew: they read their topics from the start, and what had been committed needs no write.
func (w *world) pushersReturn() {
	now := moment(w.now)
	for ch := range w.pushing {
		w.newQueue(ch)
		p := &w.pushing[ch]
		if p.queue == nil {
			continue
		}
		for i := range w.parts {
			at := int64(-1)
			for { // in order of offsets
				best := -1
				for s := i; s < len(p.topic); s += len(w.parts) {
					if t := &p.topic[s]; t.known && t.offset > at && (best < 0 || t.offset < p.topic[best].offset) {
						best = s
					}
				}
				if best < 0 {
					break
				}
				at = p.topic[best].offset
				p.queue.Take(p.parts[i], at, &p.topic[best].target, nil, now)
			}
		}
		w.nudge(ch)
	}
}

// result is a write's outcome on its way to channel.writes.
func (w *world) result(r *write.Result) {
	i := w.number(r.SKU)
	if r.Outcome == write.Applied && r.Operation != write.Read {
		if r.OldestReceivedAt > 0 {
			_ = w.res.latency.RecordValue(max(1, r.AckedAt-r.OldestReceivedAt))
		}
	}
	p := i % len(w.parts)
	pt := &w.parts[p]
	pt.outbox = append(pt.outbox, report{*r, i})
	if len(pt.outbox) == 1 {
		w.add(happening{at: w.now + 2*millisecond + w.r.wait(3*millisecond), kind: resultsVisible, c: uint16(p)})
	}
}
