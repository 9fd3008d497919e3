package queue

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testConfig() Config {
	return Config{
		Linger: 20 * time.Millisecond, DriftEvery: 10 * time.Second, DriftGrace: 10 * time.Second, BreakerFailures: 5, BreakerDelay: 5 * time.Second,
		StuckAfter: time.Minute, BacklogAfter: 5 * time.Minute, Instance: "test", Service: "test", Seed: 1,
	}
}

// answer is what the channel does with one request.
type answer struct {
	after   time.Duration // when it answers
	err     error         // nil: properly
	applied bool          // with err: it was applied all the same, at once
	late    time.Duration // with err: it is applied that much after the request
	verdict adapter.Verdict
}

// application is one change that the channel made.
type application struct {
	at, sent time.Time
	item     adapter.Item
}

type moment struct {
	at  time.Time
	seq int
	do  func()
}

type moments []moment

func (m moments) Len() int { return len(m) }
func (m moments) Less(i, j int) bool {
	return m[i].at.Before(m[j].at) || (m[i].at.Equal(m[j].at) && m[i].seq < m[j].seq)
}
func (m moments) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m *moments) Push(x any)   { *m = append(*m, x.(moment)) }
func (m *moments) Pop() any {
	old := *m
	x := old[len(old)-1]
	*m = old[:len(old)-1]
	return x
}

// rig runs a queue against a channel, on a clock of its own.
type rig struct {
	t       testing.TB
	q       *Queue
	p       *Partition
	conf    catalog.Channel
	caps    adapter.Capabilities
	now     time.Time
	seq     int
	todo    moments
	off     int64
	shown   map[string]int64
	once    map[string]bool // ids of changes that were applied
	sent    []application   // items as they were sent
	applied []application
	got     []write.Result
	at      []time.Time // of got
	respond func(*Request) answer
	doubts  []Doubt // as stored, for the next process
	held    bool    // results are not made durable
	waiting []Report
}

func newRig(t testing.TB, conf catalog.Channel) *rig {
	conf.ID, conf.Adapter = "shop", "http"
	r := &rig{
		t: t, conf: conf, now: start, shown: make(map[string]int64), once: make(map[string]bool),
		caps: adapter.Capabilities{Operations: []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet}, MaxBatch: 100, MaxQuantity: 9999, ReadBack: true, ItemIDs: true},
	}
	r.open(-1, 0)
	return r
}

// open starts a queue, as a process does whose partition was committed up to settled and ends at end.
func (r *rig) open(settled, end int64) {
	r.q = New("shop", testConfig(), r.now)
	r.configure()
	r.p = r.q.Partition(0, settled, end, r.doubts, r.now)
}

func (r *rig) configure() {
	c, caps := r.conf, r.caps
	if err := r.q.Configure(&c, &caps, r.now); err != nil {
		r.t.Fatal(err)
	}
	r.flush()
}

func (r *rig) later(d time.Duration, do func()) {
	r.seq++
	heap.Push(&r.todo, moment{r.now.Add(d), r.seq, do})
}

func (r *rig) flush() {
	rep := r.q.Report()
	for i := range rep.Results {
		r.got = append(r.got, rep.Results[i].Result)
		r.at = append(r.at, r.now)
	}
	r.waiting = append(r.waiting, rep)
	if !r.held {
		for i := range r.waiting {
			r.q.Durable(&r.waiting[i])
		}
		r.waiting = nil
	}
}

// apply does one item at the channel and says what it answers.
func (r *rig) apply(it adapter.Item, sent time.Time) adapter.ItemResult {
	if it.ID != "" && r.once[it.ID] {
		return adapter.ItemResult{Verdict: adapter.Applied}
	}
	have, next := r.shown[it.ExternalID], it.Quantity
	switch {
	case it.ExternalID == "refused":
		return adapter.ItemResult{Verdict: adapter.Refused, Code: "not_listed", Detail: "no such listing"}
	case it.Operation == catalog.Delta:
		next = max(0, have+it.Delta)
	case it.Operation == catalog.CompareAndSet && it.Expected != have:
		return adapter.ItemResult{Verdict: adapter.Stale, Code: "stale", Shown: have, ShownKnown: true}
	}
	r.shown[it.ExternalID] = next
	if it.ID != "" {
		r.once[it.ID] = true
	}
	r.applied = append(r.applied, application{r.now, sent, it})
	return adapter.ItemResult{Verdict: adapter.Applied, Shown: next, ShownKnown: true}
}

// send has the channel deal with a request.
func (r *rig) send(j *Request) {
	q, sent := r.q, r.now
	for _, it := range j.Items {
		r.sent = append(r.sent, application{r.now, r.now, it})
	}
	var a answer
	if r.respond != nil {
		a = r.respond(j)
	}
	done := func(f func()) {
		r.later(a.after, func() {
			f()
			r.flush()
		})
	}
	if a.err != nil {
		switch {
		case a.applied:
			for _, it := range j.Items {
				r.apply(it, sent)
			}
		case a.late > 0:
			r.later(a.late, func() {
				for _, it := range j.Items {
					r.apply(it, sent)
				}
			})
		}
		done(func() {
			if j.Read() {
				q.AnswerRead(j, nil, a.err, r.now)
			} else {
				q.AnswerWrite(j, nil, a.err, r.now)
			}
		})
		return
	}
	if j.Read() {
		var out []adapter.Shown
		for _, id := range j.IDs {
			n, ok := r.shown[id]
			out = append(out, adapter.Shown{Quantity: n, Known: true, Listed: ok})
		}
		done(func() { q.AnswerRead(j, out, nil, r.now) })
		return
	}
	var out []adapter.ItemResult
	for _, it := range j.Items {
		if a.verdict != 0 || a.err != nil {
			out = append(out, adapter.ItemResult{Verdict: a.verdict, Code: "busy"})
			continue
		}
		out = append(out, r.apply(it, sent))
	}
	done(func() { q.AnswerWrite(j, out, nil, r.now) })
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	end := r.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 1_000_000 {
			r.t.Fatal("it never rests")
		}
		j, wake := r.q.Next(r.now)
		r.flush()
		if j != nil {
			r.send(j)
			continue
		}
		next := end.Add(1)
		if !wake.IsZero() {
			next = wake
		}
		if len(r.todo) > 0 && !r.todo[0].at.After(next) {
			next = r.todo[0].at
		}
		if next.After(end) {
			r.now = end
			return
		}
		r.now = next
		for len(r.todo) > 0 && !r.todo[0].at.After(r.now) {
			heap.Pop(&r.todo).(moment).do()
		}
	}
}

func (r *rig) take(t allocation.Target) {
	if t.LevelVersion == 0 {
		t.LevelVersion = r.off + 1
	}
	t.Channel = "shop"
	r.q.Take(r.p, r.off, &t, nil, r.now)
	r.off++
	r.flush()
}

// pooled gives a target of pooled mode.
func (r *rig) pooled(sku string, n int64) {
	r.take(allocation.Target{SKU: sku, Quantity: allocation.Units(n)})
}

// grant gives a granted write.
func (r *rig) grant(sku, id string, op write.Operation, quantity, delta, expected int64) {
	r.take(allocation.Target{SKU: sku, Quantity: allocation.Units(quantity), Mode: "strict", ReceivedAt: 1, OldestReceivedAt: 1, DecidedAt: 2, SourceOffset: 17, Write: &allocation.GrantedWrite{
		ID: id, Operation: op, Quantity: allocation.Units(quantity), Delta: allocation.Units(delta), Expected: allocation.Units(expected),
	}})
}

// of is the results of one write id.
func (r *rig) of(id string) (out []write.Result) {
	for i := range r.got {
		if r.got[i].WriteID == id {
			out = append(out, r.got[i])
		}
	}
	return out
}

// told is one line for each result of a write id: outcome, code, settled and shown.
func (r *rig) told(id string) (out []string) {
	for _, x := range r.of(id) {
		s := x.Outcome.String()
		if x.ErrorCode != "" {
			s += " " + x.ErrorCode
		}
		if x.Settled {
			s += " settled"
		}
		if x.ShownKnown {
			s += fmt.Sprint(" shows ", x.Shown)
		}
		out = append(out, s)
	}
	return out
}

func (r *rig) want(id string, lines ...string) {
	r.t.Helper()
	if got := r.told(id); !slices.Equal(got, lines) {
		r.t.Errorf("%s: told %q, want %q", id, got, lines)
	}
}

// count is how often a change was sent.
func (r *rig) count(id string) (n int) {
	for _, s := range r.sent {
		if s.item.ID == id {
			n++
		}
	}
	return n
}

func throttled(d time.Duration) error {
	return &adapter.CallError{Kind: adapter.Throttled, Status: 429, RetryAfter: d}
}

var (
	errOut     = &adapter.CallError{Kind: adapter.Unavailable, Status: 503}
	errRefused = &adapter.CallError{Kind: adapter.NotSent, Detail: "connection refused"}
	errBad     = &adapter.CallError{Kind: adapter.Malformed, Status: 422}
	errTimeout = context.DeadlineExceeded
)
