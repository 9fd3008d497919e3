package channelpusher

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/catalog"
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
	cfg         Config
	out         outlet
	adapters    map[string]adapter.Adapter
	secret      func(name string) (string, error)
	tracer      trace.Tracer
	log         *slog.Logger
	flights     context.Context // ends when requests under way must be given up
	recent      recent
	syncLatency metric.Float64Histogram // nil when nobody measures
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
	measured     metric.MeasurementOption // the attributes of its metrics
	lastErr      string
}

func newAccount(e *engine, id string) *account {
	a := &account{
		engine: e, id: id, wake: make(chan struct{}, 1), items: make(map[string]*item), parts: make(map[int32]*partition),
		limiter: rate.NewLimiter(rate.Inf, 1), latency: hdrhistogram.New(1, maxLatency, 2), measured: metric.WithAttributeSet(attribute.NewSet(attribute.String("channel", id))), stats: ChannelStats{Channel: id},
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

// idle says whether nothing is queued or under way. The caller holds mu.
func (a *account) idle() bool { return a.inFlight == 0 && a.byAge.front == nil }

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
