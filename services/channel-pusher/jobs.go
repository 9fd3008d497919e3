package channelpusher

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// job is one request.
type job struct {
	kind    jobKind
	items   []*item
	wire    []adapter.Item
	ids     []string
	changes []int64 // of a sample's items when it began
	spans   []trace.Span
	key     string
	adapter adapter.Adapter
	to      adapter.Account
	secret  string
	timeout time.Duration
	started time.Time
}

type jobKind uint8

const (
	writing jobKind = iota
	reading
	sampling
)

// run sends what is due until ctx ends. Requests under way go on; wg counts them.
func (a *account) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		a.mu.Lock()
		j, until := a.next(time.Now())
		a.mu.Unlock()
		if j != nil {
			a.wg.Go(func() { a.perform(j) })
			continue
		}
		var due <-chan time.Time
		if !until.IsZero() {
			timer.Reset(time.Until(until))
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-a.wake:
		case <-due:
		}
	}
}

// next is the request to send now, or when to look again (zero: when nudged). The caller holds mu.
func (a *account) next(now time.Time) (*job, time.Time) {
	for a.later.len() > 0 && !a.later.items[0].notBefore.After(now) {
		it := a.later.items[0]
		a.later.remove(it)
		if it.uncertain {
			it.place = toRead
			a.reads = append(a.reads, it)
		} else {
			a.makeReady(it)
		}
	}
	if a.wire == nil || a.conf == nil || a.conf.Paused || a.ignoring {
		return nil, time.Time{}
	}
	inFlight := a.conf.MaxInFlight
	if inFlight <= 0 {
		inFlight = defaultInFlight
	}
	if a.inFlight >= inFlight {
		return nil, time.Time{}
	}
	if a.pauseUntil.After(now) {
		return nil, a.pauseUntil
	}
	var until time.Time
	sooner := func(t time.Time) {
		if until.IsZero() || t.Before(until) {
			until = t
		}
	}
	if a.later.len() > 0 {
		sooner(a.later.items[0].notBefore)
	}
	for len(a.reads) > 0 && (a.reads[0].gone || a.reads[0].place != toRead) {
		a.reads = a.reads[1:]
	}
	sample := a.sampleDue(now)
	full := a.ready.len() >= a.batch()
	switch {
	case len(a.reads) > 0:
	case a.ready.len() > 0:
		busy := a.inFlight > 0 || now.Sub(a.lastSent) < a.cfg.Linger
		if wait := a.readySince.Add(a.cfg.Linger); busy && !full && wait.After(now) {
			sooner(wait)
			return nil, until
		}
	case sample:
	default:
		if a.cfg.DriftSample > 0 && len(a.items) > 0 && a.caps.ReadBack && a.idle() {
			sooner(a.nextSample)
		}
		if len(a.looks) > 0 {
			sooner(a.looks[0].lookAt)
		}
		return nil, until
	}
	if a.breaker.IsOpen() {
		if d := a.breaker.RemainingDelay(); d > 0 {
			return nil, now.Add(d)
		}
	}
	if !a.limiter.AllowN(now, 1) {
		missing := 1 - a.limiter.TokensAt(now)
		return nil, now.Add(time.Duration(missing / float64(a.limiter.Limit()) * float64(time.Second)))
	}
	if !a.breaker.TryAcquirePermit() {
		if a.breaker.IsOpen() {
			return nil, now.Add(max(a.breaker.RemainingDelay(), time.Millisecond))
		}
		return nil, time.Time{} // half open: wait for the answer to the trial
	}
	j := &job{adapter: a.wire, to: a.to, secret: a.conf.TokenSecret, timeout: a.timeout, started: now}
	switch {
	case len(a.reads) > 0:
		a.takeReads(j)
	case a.ready.len() > 0:
		a.takeWrites(j, now)
	default:
		a.takeSample(j, now)
	}
	if len(j.items) == 0 {
		a.breaker.RecordSuccess() // gives the permit back
		return nil, now
	}
	a.inFlight++
	a.lastSent = now
	a.stats.Requests++
	return j, time.Time{}
}

func (a *account) batch() int {
	n := a.conf.BatchSize
	if n <= 0 {
		n = defaultBatch
	}
	if a.caps.MaxBatch > 0 {
		n = min(n, a.caps.MaxBatch)
	}
	return n
}

func (a *account) takeReads(j *job) {
	j.kind = reading
	n := 0
	for _, it := range a.reads {
		n++
		if it.gone || it.place != toRead {
			continue
		}
		it.place = underWay
		it.part.underWay++
		j.items = append(j.items, it)
		j.ids = append(j.ids, it.external)
		if len(j.items) == readBatch {
			break
		}
	}
	a.reads = a.reads[n:]
}

// takeWrites fills a batch: most of it the most urgent, an eighth the longest waiting, so that nothing waits for ever.
func (a *account) takeWrites(j *job, now time.Time) {
	j.kind = writing
	n := a.batch()
	var shown []outcome
	var settled []openSeq
	a.nextID++
	j.key = a.cfg.instance + "-" + strconv.FormatInt(a.nextID, 36)
	take := func(it *item) {
		a.ready.remove(it)
		op, do := a.plan(it)
		switch do {
		case readFirst:
			it.place = toRead
			a.reads = append(a.reads, it)
		case alreadyShown:
			it.sent, it.op, it.place = it.target, op, resting
			shown = append(shown, outcome{res: a.result(it, write.NotSent, "already_shown", "the channel is known to show this already", 0)})
			settled = append(settled, openSeq{it.part, it.seq})
			it.shown, it.basis, it.expectedSet = op.asked, it.target.sold, false
			a.stats.NotSent++
			a.clean(it)
		default:
			it.place = underWay
			it.part.underWay++
			it.attempts++
			it.changes++
			op.id = j.key + "/" + strconv.Itoa(len(j.items))
			op.sentAt = now.UnixMicro()
			it.op, it.sent, it.sentSeq = op, it.target, it.seq
			j.items = append(j.items, it)
			j.wire = append(j.wire, adapter.Item{ExternalID: it.external, Operation: op.kind, Quantity: op.quantity, Delta: op.delta, Expected: op.expected})
		}
	}
	old := n / 8
	if a.ready.len() <= n {
		old = 0
	}
	for a.ready.len() > 0 && len(j.items) < n-old {
		take(a.ready.items[0])
	}
	for it, seen := a.byAge.front, 0; it != nil && len(j.items) < n && seen < 2*n && old > 0; seen++ {
		next := it.next
		if it.place == ready {
			take(it)
		}
		it = next
	}
	a.readySince = now
	a.report(shown, settled)
	for i, it := range j.items {
		if it.sent.span == nil {
			continue
		}
		if j.spans == nil {
			j.spans = make([]trace.Span, len(j.items))
		}
		_, j.spans[i] = a.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), *it.sent.span), "push",
			trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(now),
			trace.WithAttributes(attribute.String("onhand.channel", a.id), attribute.String("onhand.sku", it.sku), attribute.Int64("onhand.quantity", it.op.asked)))
	}
}

type todo uint8

const (
	send todo = iota
	readFirst
	alreadyShown
)

// want is the quantity to show, within what the channel can show.
func (a *account) want(t *target) int64 {
	if t.withdrawn {
		return 0
	}
	q := max(0, t.quantity)
	if a.caps.MaxQuantity > 0 {
		q = min(q, a.caps.MaxQuantity)
	}
	return q
}

// plan decides how an item is written.
func (a *account) plan(it *item) (operation, todo) {
	q := a.want(&it.target)
	op := operation{kind: a.operation(), asked: q, quantity: q}
	if op.kind == catalog.Absolute {
		// The channel lowers its number by itself when it sells. Setting it again would put units back that it sold meanwhile.
		if it.known && it.exact && it.belief() == q {
			return op, alreadyShown
		}
		return op, send
	}
	if !it.known {
		return op, readFirst
	}
	belief := it.belief()
	if op.kind == catalog.Delta {
		op.quantity, op.delta = 0, q-belief
		if op.delta == 0 {
			return op, alreadyShown
		}
		return op, send
	}
	op.expected = belief
	if it.expectedSet {
		// The channel shows less than believed: sales that the ledger has not seen. Change by as much as was meant, so that none of them is sold
		// again. It shows more: someone raised it, and the target alone counts.
		op.expected = it.expected
		if it.expected <= belief {
			op.quantity = max(0, it.expected+q-belief)
		} else {
			op.anchored = true
		}
	} else if belief == q {
		return op, alreadyShown
	}
	if op.expected == op.quantity {
		return op, alreadyShown
	}
	return op, send
}

// result is the channel.writes value of the item's last write.
func (a *account) result(it *item, o write.Outcome, code, detail string, acked int64) write.Result {
	s := &it.sent
	return write.Result{
		WriteID: it.op.id, SKU: it.sku, Channel: a.id, ExternalID: it.external, Operation: it.op.kind, Quantity: event.Units(it.op.quantity),
		Delta: event.Units(it.op.delta), Expected: event.Units(it.op.expected), Outcome: o, ErrorCode: code, ErrorDetail: detail,
		Attempts: it.attempts, LevelVersion: s.levelVersion, SourceOffset: s.sourceOffset, SettingsVersion: s.settingsVersion,
		OldestReceivedAt: s.oldest, ReceivedAt: s.received, DecidedAt: s.decided, SentAt: it.op.sentAt, AckedAt: acked,
	}
}
