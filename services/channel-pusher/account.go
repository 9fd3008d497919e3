package channelpusher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// What a channel's settings leave out.
const (
	defaultBatch    = 100
	defaultInFlight = 4
	defaultTimeout  = 10 * time.Second
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 30 * time.Second
	staleAtOnce  = 5                // compare-and-set retries before backing off
	readBatch    = 100              // items read back in one request
	unknownHold  = 30 * time.Second // how long targets of a channel without settings are held
	maxLatency   = int64(10 * time.Minute / time.Microsecond)
)

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

// outcome is one result for channel.writes.
type outcome struct {
	res  write.Result
	span trace.SpanContext
}

// outlet is where an account's results and alerts go.
type outlet interface {
	// results makes outcomes durable, then calls settled. Both may be empty or nil.
	results(out []outcome, settled func())
	alert(a alert.Alert)
}

// engine is what all accounts share.
type engine struct {
	cfg      Config
	out      outlet
	adapters map[string]adapter.Adapter
	secret   func(name string) (string, error)
	tracer   trace.Tracer
	log      *slog.Logger
	flights  context.Context // ends when requests under way must be given up
	recent   recent
}

// account is the queue of one channel account and what is known of it.
type account struct {
	*engine
	id   string
	wake chan struct{}
	wg   sync.WaitGroup // requests under way

	mu           sync.Mutex
	conf         *catalog.Channel // nil while no setting names the channel
	wire         adapter.Adapter  // nil while nothing can be written
	to           adapter.Account
	caps         adapter.Capabilities
	ignoring     bool      // adapter none, or the channel is gone: targets are only remembered
	unknownSince time.Time // when targets first came without settings
	items        map[string]*item
	ring         []*item // all items, for sampling
	cursor       int
	forgotten    int // items in ring that are gone
	parts        map[int32]*partition
	ready, later pile
	byAge        queueByAge
	reads        []*item
	looks        []*item // items to sample at their lookAt
	nextSeq      int64
	nextID       int64
	inFlight     int
	unsettled    int // results that are not durable yet
	doubtful     int // items that are so
	deliveries   []delivery
	delivering   bool
	limiter      *rate.Limiter
	breaker      circuitbreaker.CircuitBreaker[any]
	brokenSince  time.Time // breaker not closed since
	stuckAlert   bool
	pauseUntil   time.Time
	readySince   time.Time
	lastSent     time.Time
	nextSample   time.Time
	timeout      time.Duration
	stats        ChannelStats
	latency      *hdrhistogram.Histogram
	lastErr      string
}

func newAccount(e *engine, id string) *account {
	a := &account{
		engine: e, id: id, wake: make(chan struct{}, 1), items: make(map[string]*item), parts: make(map[int32]*partition),
		limiter: rate.NewLimiter(rate.Inf, 1), latency: hdrhistogram.New(1, maxLatency, 2), stats: ChannelStats{Channel: id},
		nextSample: time.Now().Add(e.cfg.DriftEvery),
	}
	a.ready.less = func(x, y *item) bool { return x.before(y) }
	a.later.less = func(x, y *item) bool { return x.notBefore.Before(y.notBefore) }
	a.breaker = circuitbreaker.NewBuilder[any]().
		WithFailureThresholdRatio(uint(e.cfg.BreakerFailures), uint(2*e.cfg.BreakerFailures)).WithSuccessThreshold(1).
		WithDelay(e.cfg.BreakerDelay).WithJitterFactor(0.2).Build()
	return a
}

func (a *account) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// configure puts a channel's settings in force. nil means that no setting names the channel.
func (a *account) configure(c *catalog.Channel) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.nudge()
	before, was, known := a.to, a.conf, a.wire != nil
	a.wire = nil
	if c == nil {
		if a.conf != nil {
			a.log.Info("channel was removed: its queue is dropped", "channel", a.id)
			a.drop()
		} else if a.unknownSince.IsZero() {
			a.unknownSince = time.Now()
		}
		a.conf = nil
		return
	}
	a.conf, a.unknownSince = c, time.Time{}
	if c.Adapter == "none" {
		a.drop()
		return
	}
	wasIgnoring := a.ignoring
	a.ignoring = false
	if err := a.connect(c); err != nil {
		a.lastErr = err.Error()
		a.log.Error("channel cannot be written to: its queue is held", "channel", a.id, "err", err)
	}
	if wasIgnoring || (known && (before.BaseURL != a.to.BaseURL || was.Operation != c.Operation)) {
		a.again()
	}
}

// connect finds the adapter, token and limits of the settings.
func (a *account) connect(c *catalog.Channel) error {
	w := a.adapters[c.Adapter]
	if w == nil {
		return fmt.Errorf("adapter %q is not known", c.Adapter)
	}
	caps := w.Capabilities()
	op := a.operation()
	if !caps.Can(op) {
		return fmt.Errorf("adapter %s has no operation %d", c.Adapter, op)
	}
	if op != catalog.Absolute && !caps.ReadBack {
		return fmt.Errorf("adapter %s cannot read back, which operation %d needs", c.Adapter, op)
	}
	a.timeout = defaultTimeout
	if c.TimeoutMS > 0 {
		a.timeout = time.Duration(c.TimeoutMS) * time.Millisecond
	}
	limit, burst := rate.Inf, max(1, c.Burst)
	if c.RatePerSecond != "" {
		r, err := strconv.ParseFloat(c.RatePerSecond, 64)
		if err != nil || !(r >= 0) {
			return fmt.Errorf("rate_per_second %q: want a number", c.RatePerSecond)
		}
		if r > 0 {
			limit = rate.Limit(r)
		}
	}
	a.limiter.SetLimit(limit)
	a.limiter.SetBurst(burst)
	a.to = adapter.Account{Channel: a.id, BaseURL: trimSlash(c.BaseURL)}
	a.caps = caps
	if c.TokenSecret != "" {
		if _, err := a.secret(c.TokenSecret); err != nil {
			a.log.Error("token of the channel is missing: its writes will fail until it is there", "channel", a.id, "err", err)
		}
	}
	a.wire = w
	return nil
}

func trimSlash(s string) string {
	for len(s) > 0 && s[len(s)-1] == '/' {
		s = s[:len(s)-1]
	}
	return s
}

func (a *account) operation() catalog.Operation {
	if a.conf.Operation == catalog.UnspecifiedOperation {
		return catalog.Absolute
	}
	return a.conf.Operation
}

// drop settles the whole queue without writing, and remembers targets only from now on.
func (a *account) drop() {
	a.ignoring = true
	for _, it := range a.items {
		a.unqueue(it)
		if it.dirty && it.place != underWay {
			a.settle(it.part, it.seq)
			a.clean(it)
		}
	}
	for _, it := range a.looks {
		a.certain(it)
		it.lookAt = time.Time{}
	}
	a.reads, a.looks = nil, nil
}

// again queues every SKU: what the channel shows is not known any more.
func (a *account) again() {
	for _, it := range a.items {
		it.known, it.expectedSet = false, false
		if !it.dirty && it.place == resting {
			it.target.oldest, it.target.span = 0, nil // no event behind it
			a.queue(it)
		}
	}
}

// queue makes a resting item dirty and ready.
func (a *account) queue(it *item) {
	it.dirty = true
	it.changes++
	if !it.listed {
		it.since = time.Now()
		a.byAge.add(it)
	}
	a.makeReady(it)
}

func (a *account) makeReady(it *item) {
	if a.ready.len() == 0 {
		a.readySince = time.Now()
	}
	a.nextSeq++
	it.seqNo, it.place = a.nextSeq, ready
	a.ready.push(it)
}

// unqueue takes an item from wherever it waits.
func (a *account) unqueue(it *item) {
	switch it.place {
	case ready:
		a.ready.remove(it)
	case delayed:
		a.later.remove(it)
	case toRead, resting: // the list of reads skips what is not there any more
	case underWay:
		return
	}
	it.place = resting
}

func (a *account) clean(it *item) {
	it.dirty, it.seq, it.attempts, it.failures, it.stale = false, -1, 0, 0, 0
	it.uncertain, it.suspectSet = false, false
	a.byAge.remove(it)
	if it.target.withdrawn {
		a.forget(it)
	}
}

func (a *account) forget(it *item) {
	if it.gone {
		return
	}
	a.unqueue(it)
	a.byAge.remove(it)
	it.gone = true
	a.certain(it)
	delete(a.items, it.sku)
	a.forgotten++
	if a.forgotten > 64 && a.forgotten > len(a.ring)/2 {
		kept := a.ring[:0]
		for _, x := range a.ring {
			if !x.gone {
				kept = append(kept, x)
			}
		}
		clear(a.ring[len(kept):])
		a.ring, a.forgotten, a.cursor = kept, 0, 0
	}
}

func (a *account) settle(p *partition, seq int64) {
	if seq >= 0 {
		p.done(seq)
	}
}

// partition finds the account's view of a partition. settled is the group's committed offset.
func (a *account) partition(topic string, id int32, settled int64) *partition {
	p := a.parts[id]
	if p == nil {
		p = &partition{topic: topic, id: id, settled: settled, next: settled, stored: settled}
		a.parts[id] = p
	}
	return p
}

// offer takes a consumed target. The caller holds mu, and nudges when it is through.
func (a *account) offer(p *partition, offset int64, sku, external string, t target) {
	p.next = max(p.next, offset+1)
	it := a.items[sku]
	if it != nil && t.older(&it.target) {
		a.stats.Superseded++
		return
	}
	seq := p.add(offset)
	if offset < p.settled || a.ignoring {
		a.remember(p, it, sku, external, t)
		p.done(seq)
		return
	}
	if it == nil {
		it = a.create(p, sku, external)
	} else if !it.dirty && it.place == resting && !t.older(&it.target) && !it.target.older(&t) && it.target.quantity == t.quantity && it.target.withdrawn == t.withdrawn {
		p.done(seq) // the same target again
		return
	}
	if it.external != external {
		it.external, it.known = external, false
	}
	if it.dirty {
		a.stats.Superseded++
		a.settle(p, it.seq)
		if it.place != underWay {
			t.oldest = earliest(t.oldest, it.target.oldest)
		}
	}
	if it.known && it.readAt > 0 && t.received <= it.readAt+a.cfg.DriftGrace.Microseconds() {
		// Sold before the number was read or set, as far as anyone can say: it did not fall for these units. If it did, the channel now shows too
		// little, so that it is looked at once no doubt is left.
		if t.sold > it.basis {
			it.basis, it.exact = t.sold, false
			a.doubt(it)
		}
	}
	it.target, it.seq, it.suspectSet = t, seq, false
	switch it.place {
	case resting:
		a.queue(it)
	case ready:
		it.changes++
		a.ready.fix(it)
	default:
		it.dirty = true
		it.changes++
		if !it.listed {
			it.since = time.Now()
			a.byAge.add(it)
		}
	}
}

// doubt has a SKU looked at when the sales that nobody can place must all be in.
func (a *account) doubt(it *item) {
	if it.doubtful || a.wire == nil || !a.caps.ReadBack || a.operation() == catalog.Absolute { // which sets the number whatever it was
		return
	}
	it.doubtful = true
	a.doubtful++
	if it.lookAt.IsZero() {
		it.lookAt = time.Now().Add(a.cfg.DriftGrace)
		a.looks = append(a.looks, it)
		a.nudge()
	}
}

func (a *account) certain(it *item) {
	if it.doubtful {
		it.doubtful = false
		a.doubtful--
	}
}

func (a *account) create(p *partition, sku, external string) *item {
	it := &item{sku: sku, external: external, part: p, seq: -1}
	a.items[sku] = it
	a.ring = append(a.ring, it)
	return it
}

// remember keeps a target that needs no write.
func (a *account) remember(p *partition, it *item, sku, external string, t target) {
	if it == nil {
		if t.withdrawn {
			return
		}
		it = a.create(p, sku, external)
	}
	if it.dirty {
		return // a newer one is on its way
	}
	it.target, it.external = t, external
	it.changes++
	if t.withdrawn {
		a.forget(it)
	}
}

// removed handles a record without a value: nobody wants the SKU's target any more.
func (a *account) removed(p *partition, offset int64, sku string) {
	p.next = max(p.next, offset+1)
	if it := a.items[sku]; it != nil && !it.dirty && it.place == resting {
		a.forget(it)
	}
}

func earliest(x, y int64) int64 {
	if x == 0 || (y != 0 && y < x) {
		return y
	}
	return x
}

// revoke gives a partition up: nothing of it is sent from now on.
func (a *account) revoke(id int32) *partition {
	p := a.parts[id]
	if p == nil {
		return nil
	}
	for _, it := range a.items {
		if it.part == p {
			a.forget(it)
		}
	}
	p.gone = true
	delete(a.parts, id)
	return p
}

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

type openSeq struct {
	part *partition
	seq  int64
}

// delivery is results on their way out, and the targets they settle.
type delivery struct {
	out     []outcome
	settled []openSeq
}

// report hands results on, in order; the targets they settle count as settled once the results are durable. The caller holds mu.
func (a *account) report(out []outcome, settled []openSeq) {
	if len(out) == 0 {
		return
	}
	a.unsettled += len(out)
	a.deliveries = append(a.deliveries, delivery{out, settled})
	if !a.delivering {
		a.delivering = true
		a.wg.Go(a.deliver)
	}
}

// deliver hands on what there is, one lot after another, so that a SKU's results keep their order.
func (a *account) deliver() {
	for {
		a.mu.Lock()
		lot := a.deliveries
		a.deliveries = nil
		a.delivering = len(lot) > 0
		a.mu.Unlock()
		if len(lot) == 0 {
			return
		}
		out := lot[0].out
		for _, d := range lot[1:] {
			out = append(out, d.out...)
		}
		a.out.results(out, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.unsettled -= len(out)
			for _, d := range lot {
				for _, s := range d.settled {
					a.settle(s.part, s.seq)
				}
			}
		})
	}
}

// perform sends one request and deals with the answer.
func (a *account) perform(j *job) {
	a.exchange(j)
	a.mu.Lock()
	a.inFlight--
	a.mu.Unlock()
	a.nudge()
}

func (a *account) exchange(j *job) {
	ctx, cancel := context.WithTimeout(a.flights, j.timeout)
	defer cancel()
	for _, s := range j.spans {
		if s != nil {
			ctx = trace.ContextWithSpan(ctx, s) // one request carries one of its items' traces
			break
		}
	}
	if j.secret != "" {
		token, err := a.secret(j.secret)
		if err != nil {
			a.failed(j, &adapter.CallError{Kind: adapter.Denied, Detail: "token of the channel", Err: err})
			return
		}
		j.to.Token = token
	}
	if j.kind != writing {
		got, err := j.adapter.Read(ctx, j.to, j.ids, make([]adapter.Shown, 0, len(j.ids)))
		switch {
		case err != nil:
			a.failed(j, err)
		case j.kind == reading:
			a.finishRead(j, got)
		default:
			a.finishSample(j, got)
		}
		return
	}
	results, err := j.adapter.Write(ctx, j.to, j.key, j.wire, make([]adapter.ItemResult, 0, len(j.wire)))
	var ce *adapter.CallError
	if len(j.items) > 1 && errors.As(err, &ce) && ce.Kind == adapter.Malformed {
		// One bad item must not stop the others: halve until it stands alone.
		half := len(j.items) / 2
		for i, part := range []job{
			{items: j.items[:half], wire: j.wire[:half]}, {items: j.items[half:], wire: j.wire[half:]},
		} {
			part.kind, part.adapter, part.to, part.secret, part.timeout, part.started = writing, j.adapter, j.to, j.secret, j.timeout, j.started
			part.key = j.key + "." + strconv.Itoa(i)
			if j.spans != nil {
				part.spans = j.spans[i*half : i*half+len(part.items)]
			}
			_ = a.limiter.Wait(a.flights) // fails only when requests are to be given up, as the next one then will
			a.exchange(&part)
		}
		return
	}
	if err != nil {
		a.failed(j, err)
		return
	}
	a.finishWrite(j, results)
}

// finishWrite takes the channel's answers.
func (a *account) finishWrite(j *job, results []adapter.ItemResult) {
	now := time.Now()
	acked := now.UnixMicro()
	out := make([]outcome, 0, len(j.items))
	settled := make([]openSeq, 0, len(j.items))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaker.RecordSuccess()
	a.lastErr = ""
	var busy time.Duration
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		var r adapter.ItemResult
		if i < len(results) {
			r = results[i]
		}
		newer := it.seq != it.sentSeq
		var res write.Result
		switch r.Verdict {
		case adapter.Applied:
			res = a.result(it, write.Applied, "", "", acked)
			a.stats.Applied++
			if it.sent.oldest > 0 {
				_ = a.latency.RecordValue(min(max(acked-it.sent.oldest, 1), maxLatency)) // within bounds by construction
			}
			if it.op.kind == catalog.Absolute || it.op.anchored {
				it.readAt, it.exact = acked, true
			}
			it.known, it.shown, it.basis = true, it.op.asked, it.sent.sold
		case adapter.Refused:
			res = a.result(it, write.Refused, r.Code, r.Detail, acked)
			a.stats.Refused++
			it.known = false
		case adapter.Stale:
			a.stats.Retries++
			it.stale++
			if newer {
				it.target.oldest = earliest(it.target.oldest, it.sent.oldest)
			}
			it.expected, it.expectedSet = r.Shown, r.ShownKnown
			if !r.ShownKnown {
				it.known = false
			}
			switch {
			case it.gone:
			case it.stale > staleAtOnce:
				it.failures++
				a.postpone(it, now.Add(backoff(it.failures)))
			default:
				a.makeReady(it)
			}
			a.endSpan(j, i, "stale")
			continue
		case adapter.Busy:
			if busy == 0 {
				busy = backoff(it.failures + 1)
			}
			a.stats.Retries++
			a.retry(it, now.Add(busy))
			a.endSpan(j, i, r.Code)
			continue
		default:
			res = a.unknown(it, "no_answer", "the channel's answer says nothing of this item", now)
			out = append(out, outcome{res, a.endSpan(j, i, "unknown")})
			continue
		}
		res.Shown, res.ShownKnown = event.Units(r.Shown), r.ShownKnown
		it.expectedSet, it.stale, it.failures = false, 0, 0
		out = append(out, outcome{res, a.endSpan(j, i, res.ErrorCode)})
		settled = append(settled, openSeq{it.part, it.sentSeq})
		a.rest(it, newer)
	}
	a.recent.add(out)
	a.report(out, settled)
}

// rest ends an item's write: it is clean, or its newer target is next.
func (a *account) rest(it *item, newer bool) {
	it.changes++
	switch {
	case it.gone:
	case newer:
		it.attempts = 0
		it.since = time.Now()
		a.byAge.remove(it)
		a.byAge.add(it)
		if a.ignoring {
			a.settle(it.part, it.seq)
			a.clean(it)
			return
		}
		a.makeReady(it)
	default:
		a.clean(it)
	}
}

// retry puts an item that was certainly not applied back into the queue.
func (a *account) retry(it *item, at time.Time) {
	if it.seq != it.sentSeq {
		it.target.oldest = earliest(it.target.oldest, it.sent.oldest)
	}
	it.failures++
	if !it.gone {
		a.postpone(it, at)
	}
}

func (a *account) postpone(it *item, at time.Time) {
	if a.ignoring {
		a.settle(it.part, it.seq)
		a.clean(it)
		return
	}
	it.place, it.notBefore = delayed, at
	a.later.push(it)
}

// unknown marks a write whose outcome nobody told, to be read back before anything else is written for the SKU.
func (a *account) unknown(it *item, code, detail string, now time.Time) write.Result {
	res := a.result(it, write.Unknown, code, detail, 0)
	a.stats.Unknown++
	a.stats.Retries++
	it.known, it.expectedSet = false, false
	if a.caps.ReadBack {
		it.uncertain, it.lastID = true, it.op.id
	}
	a.retry(it, now.Add(backoff(it.failures+1)))
	return res
}

func (a *account) endSpan(j *job, i int, problem string) trace.SpanContext {
	if j.spans == nil || j.spans[i] == nil {
		return trace.SpanContext{}
	}
	s := j.spans[i]
	if problem != "" {
		s.SetAttributes(attribute.String("onhand.problem", problem))
	}
	s.End()
	return s.SpanContext()
}

// failed deals with a request that failed as a whole.
func (a *account) failed(j *job, err error) {
	now := time.Now()
	ce := &adapter.CallError{Kind: adapter.Uncertain, Err: err}
	_ = errors.As(err, &ce) // any other error is uncertain
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastErr = ce.Error()
	switch ce.Kind {
	case adapter.Throttled, adapter.Malformed:
		a.breaker.RecordSuccess()
	default:
		a.breaker.RecordFailure()
		a.stats.Failures++
	}
	failures := 0
	for _, it := range j.items {
		failures = max(failures, it.failures)
	}
	at := now.Add(backoff(failures + 1))
	if ce.Kind == adapter.Throttled {
		a.stats.Throttled++
	}
	if ce.RetryAfter > 0 && (ce.Kind == adapter.Throttled || ce.Kind == adapter.Unavailable) {
		at = now.Add(ce.RetryAfter)
		if at.After(a.pauseUntil) {
			a.pauseUntil = at
		}
	} else if ce.Kind == adapter.Throttled && at.After(a.pauseUntil) {
		a.pauseUntil = at
	}
	if j.kind == sampling {
		for _, it := range j.items {
			if it.suspectSet || !it.lookAt.IsZero() {
				it.lookAt = now.Add(a.cfg.DriftGrace)
				a.looks = append(a.looks, it)
			}
		}
		return
	}
	var out []outcome
	var settled []openSeq
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		switch {
		case j.kind == reading:
			it.failures++
			a.stats.Retries++
			if !it.gone {
				a.postpone(it, at)
			}
		case ce.Kind == adapter.Uncertain:
			out = append(out, outcome{a.unknown(it, ce.Kind.String(), ce.Error(), now), a.endSpan(j, i, "unknown")})
		case ce.Kind == adapter.Malformed:
			res := a.result(it, write.Refused, "malformed", ce.Error(), now.UnixMicro())
			out = append(out, outcome{res, a.endSpan(j, i, "malformed")})
			settled = append(settled, openSeq{it.part, it.sentSeq})
			a.stats.Refused++
			a.rest(it, it.seq != it.sentSeq)
		default:
			a.stats.Retries++
			a.endSpan(j, i, ce.Kind.String())
			a.retry(it, at)
		}
	}
	a.recent.add(out)
	a.report(out, settled)
}

// backoff is exponential with full jitter.
func backoff(failures int) time.Duration {
	d := lastBackoff
	if failures < 9 {
		d = min(lastBackoff, firstBackoff<<(failures-1))
	}
	return time.Millisecond + rand.N(d)
}

// finishRead takes what the channel shows of items that wait for it.
func (a *account) finishRead(j *job, got []adapter.Shown) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaker.RecordSuccess()
	var out []outcome
	var settled []openSeq
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		if it.gone {
			continue
		}
		if i >= len(got) || !got[i].Known {
			it.failures++
			a.stats.Retries++
			it.uncertain = true // ask again before writing
			a.postpone(it, now.Add(backoff(it.failures)))
			continue
		}
		it.known, it.exact, it.shown, it.basis, it.readAt, it.expectedSet = true, false, got[i].Quantity, it.target.sold, now.UnixMicro(), false
		if !got[i].Listed {
			it.readAt = 0 // what was not there sold nothing before
		}
		if it.uncertain {
			it.uncertain = false
			it.lookAt = now.Add(max(2*a.timeout, a.cfg.DriftGrace)) // a late write may still land
			a.looks = append(a.looks, it)
		}
		if !it.dirty {
			continue
		}
		if it.lastID != "" && got[i].Quantity == a.want(&it.target) {
			it.sent, it.op.id, it.op.asked = it.target, it.lastID, got[i].Quantity
			res := a.result(it, write.Applied, "", "", now.UnixMicro())
			res.Shown, res.ShownKnown = event.Units(got[i].Quantity), true
			a.stats.Applied++
			if it.sent.oldest > 0 {
				_ = a.latency.RecordValue(min(max(now.UnixMicro()-it.sent.oldest, 1), maxLatency)) // within bounds by construction
			}
			out = append(out, outcome{res: res})
			settled = append(settled, openSeq{it.part, it.seq})
			it.lastID = ""
			a.rest(it, false)
			continue
		}
		it.lastID = ""
		if a.ignoring {
			a.settle(it.part, it.seq)
			a.clean(it)
			continue
		}
		a.makeReady(it)
	}
	a.recent.add(out)
	a.report(out, settled)
}

// idle says whether nothing is queued or under way. The caller holds mu.
func (a *account) idle() bool { return a.inFlight == 0 && a.byAge.front == nil }

// sampleDue says whether there is something to look at: SKUs to look at again at their time, others in turn while the channel is idle.
func (a *account) sampleDue(now time.Time) bool {
	if !a.caps.ReadBack {
		return false
	}
	for len(a.looks) > 0 && a.looks[0].gone {
		a.looks = a.looks[1:]
	}
	return (len(a.looks) > 0 && !a.looks[0].lookAt.After(now)) ||
		(a.cfg.DriftSample > 0 && len(a.items) > 0 && a.idle() && !a.nextSample.After(now))
}

// takeSample picks SKUs to compare with what the channel shows: those to look at again, and the next few in turn.
func (a *account) takeSample(j *job, now time.Time) {
	j.kind = sampling
	pick := func(it *item) bool {
		if it.gone || it.dirty || it.place != resting {
			return false
		}
		j.items = append(j.items, it)
		j.ids = append(j.ids, it.external)
		j.changes = append(j.changes, it.changes)
		return true
	}
	for n := len(a.looks); n > 0 && len(j.items) < readBatch && !a.looks[0].lookAt.After(now); n-- {
		it := a.looks[0]
		a.looks = a.looks[1:]
		if !pick(it) && !it.gone {
			it.lookAt = now.Add(a.cfg.DriftGrace)
			a.looks = append(a.looks, it)
		}
	}
	if a.cfg.DriftSample > 0 && a.idle() && !a.nextSample.After(now) {
		a.nextSample = now.Add(a.cfg.DriftEvery)
		for range min(a.cfg.DriftSample, len(a.ring)) {
			if a.cursor >= len(a.ring) {
				a.cursor = 0
			}
			pick(a.ring[a.cursor])
			a.cursor++
		}
	}
}

// finishSample compares what the channel shows with the targets. A difference counts as drift when a second look, a grace later, finds the same
// and nothing happened in between: a sale that is still on its way to the ledger looks like drift at first.
func (a *account) finishSample(j *job, got []adapter.Shown) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaker.RecordSuccess()
	for i, it := range j.items {
		if it.gone || it.dirty || it.changes != j.changes[i] || i >= len(got) || !got[i].Known {
			if !it.gone && !it.lookAt.IsZero() { // the look that was due tells nothing
				it.lookAt = now.Add(a.cfg.DriftGrace)
				a.looks = append(a.looks, it)
			}
			continue
		}
		a.stats.Sampled++
		it.lookAt = time.Time{}
		want := a.want(&it.target)
		if got[i].Quantity == want {
			it.suspectSet = false
			a.certain(it)
			if !it.known {
				it.known, it.exact, it.shown, it.basis, it.readAt = true, false, want, it.target.sold, now.UnixMicro()
			}
			continue
		}
		if !it.suspectSet || it.suspect != got[i].Quantity {
			it.suspect, it.suspectSet = got[i].Quantity, true
			it.lookAt = now.Add(a.cfg.DriftGrace)
			a.looks = append(a.looks, it)
			continue
		}
		if it.doubtful { // of our own making: nobody edited anything
			a.certain(it)
			a.repair(it, got[i].Quantity, now)
			continue
		}
		a.stats.Drift++
		a.out.alert(alert.Alert{
			ID:  "drift/" + a.id + "/" + it.sku + "/" + strconv.FormatInt(it.target.levelVersion, 10) + "/" + strconv.FormatInt(it.target.settingsVersion, 10) + "/" + strconv.FormatInt(got[i].Quantity, 10),
			SKU: it.sku, Channel: a.id, Kind: alert.Drift, Units: event.Units(got[i].Quantity - want), Cause: it.op.id,
			Message: fmt.Sprintf("%s shows %d of %s and should show %d; it is being set right. Look for edits at the channel itself.", a.id, got[i].Quantity, it.sku, want),
			At:      now.UnixMicro(), RaisedBy: service,
		})
		a.repair(it, got[i].Quantity, now)
	}
}

// repair writes a SKU of which the channel was found to show something else.
func (a *account) repair(it *item, shown int64, now time.Time) {
	it.suspectSet = false
	it.known, it.exact, it.shown, it.basis, it.readAt = true, false, shown, it.target.sold, now.UnixMicro()
	it.target.oldest = 0 // no event behind this write: it has no latency
	it.target.span = nil
	a.queue(it)
}

// watch looks after what takes long: a channel that takes no writes, and targets of a channel that no setting names.
func (a *account) watch(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conf == nil && !a.ignoring && !a.unknownSince.IsZero() && now.Sub(a.unknownSince) > unknownHold {
		a.log.Warn("no setting names this channel: its targets are not written", "channel", a.id)
		a.drop()
	}
	if a.breaker.IsClosed() {
		a.brokenSince = time.Time{}
	} else if a.brokenSince.IsZero() {
		a.brokenSince = now
	}
	var reason string
	var since time.Time
	switch it := a.byAge.front; {
	case it == nil || a.conf == nil || a.conf.Paused:
	case !a.brokenSince.IsZero() && now.Sub(a.brokenSince) > a.cfg.StuckAfter:
		since, reason = a.brokenSince, "it has failed every request"
	case now.Sub(it.since) > a.cfg.BacklogAfter:
		since, reason = it.since, "a target has waited to be written"
	}
	if reason == "" {
		a.stuckAlert = false
		return
	}
	if a.stuckAlert {
		return
	}
	a.stuckAlert = true
	last := a.lastErr
	if last == "" {
		last = "none; look at its rate limit"
	}
	a.out.alert(alert.Alert{
		ID: "stuck/" + a.id + "/" + strconv.FormatInt(since.UnixMicro(), 10), Channel: a.id, Kind: alert.ChannelStuck, At: now.UnixMicro(), RaisedBy: service,
		Message: fmt.Sprintf("%s takes no writes: %s since %s, and what it shows grows old. Last error: %s", a.id, reason, since.UTC().Format(time.RFC3339), last),
	})
}

// busy is how much is queued or under way.
func (a *account) busy() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.inFlight + a.unsettled
	if a.byAge.front != nil {
		n++
	}
	return n
}
