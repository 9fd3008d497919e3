package channelpusher

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

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
	lease       *lease
	flights     context.Context // ends when requests under way must be given up
	recent      recent
	syncLatency metric.Float64Histogram // nil when nobody measures
}

// account drives the queue of one channel account: it keeps its time, sends its requests and makes its results durable.
type account struct {
	*engine
	id       string
	wake     chan struct{}
	wg       sync.WaitGroup           // requests and results under way
	measured metric.MeasurementOption // the attributes of its metrics

	mu         sync.Mutex
	queue      *queue.Queue
	parts      map[int32]*partition
	conf       *catalog.Channel // nil while no setting names the channel
	wire       adapter.Adapter  // nil while nothing can be written
	to         adapter.Account
	reports    []queue.Report // to be made durable
	delivering bool
}

// partition is one partition of the account's targets.
type partition struct {
	*queue.Partition
	topic  string
	id     int32
	high   int64  // end of the partition, as far as fetches have told
	stored int64  // last commit that succeeded
	told   string // metadata of that commit
}

func newAccount(e *engine, id string) *account {
	return &account{
		engine: e, id: id, wake: make(chan struct{}, 1), queue: queue.New(id, e.cfg.queue(), time.Now()), parts: make(map[int32]*partition),
		measured: metric.WithAttributeSet(attribute.NewSet(attribute.String("channel", id))),
	}
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
	if c == nil && a.conf != nil {
		a.log.Info("channel was removed: its queue is dropped", "channel", a.id)
	}
	a.conf, a.wire = c, nil
	var caps *adapter.Capabilities
	if c != nil {
		if w := a.adapters[c.Adapter]; w != nil {
			a.wire = w
			x := w.Capabilities()
			caps = &x
		}
		a.to = adapter.Account{Channel: a.id, BaseURL: trimSlash(c.BaseURL)}
	}
	if err := a.queue.Configure(c, caps, time.Now()); err != nil {
		a.log.Error("channel cannot be written to: its queue is held", "channel", a.id, "err", err)
	} else if c != nil && c.Written() && c.TokenSecret != "" {
		if _, err := a.secret(c.TokenSecret); err != nil {
			a.log.Error("token of the channel is missing: its writes will fail until it is there", "channel", a.id, "err", err)
		}
	}
	a.flush()
}

func trimSlash(s string) string {
	for len(s) > 0 && s[len(s)-1] == '/' {
		s = s[:len(s)-1]
	}
	return s
}

// partition finds the account's view of a partition, or opens it as it came.
func (a *account) partition(topic string, id int32, came arrival) *partition {
	p := a.parts[id]
	if p == nil {
		p = &partition{Partition: a.queue.Partition(id, came.settled, came.end, came.doubts, came.at), topic: topic, id: id, stored: max(0, came.settled)}
		a.parts[id] = p
	}
	return p
}

// flight is one request on its way.
type flight struct {
	*queue.Request
	wire   adapter.Adapter
	to     adapter.Account
	secret string
}

// run sends what is due until ctx ends. Requests under way go on; wg counts them.
func (a *account) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		a.mu.Lock()
		now := time.Now()
		var req *queue.Request
		until := now.Add(a.lease.session / 10)
		if a.lease.holds(now) {
			req, until = a.queue.Next(now)
		}
		var f *flight
		if req != nil {
			f = &flight{Request: req, wire: a.wire, to: a.to, secret: a.conf.TokenSecret}
		}
		a.flush()
		a.mu.Unlock()
		if f != nil {
			a.trace(f, now)
			a.wg.Go(func() { a.perform(f) })
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

// trace begins a span for each item whose target carries a trace.
func (a *account) trace(f *flight, now time.Time) {
	if f.Traces == nil {
		return
	}
	f.Spans = make([]trace.Span, len(f.Traces))
	for i, sc := range f.Traces {
		if sc == nil {
			continue
		}
		_, f.Spans[i] = a.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), *sc), "push",
			trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(now),
			trace.WithAttributes(attribute.String("onhand.channel", a.id), attribute.String("onhand.sku", f.SKUs[i]), attribute.Int64("onhand.quantity", f.Items[i].Quantity)))
	}
}

// perform sends one request and hands the answer to the queue.
func (a *account) perform(f *flight) {
	ctx, cancel := context.WithTimeout(a.flights, f.Timeout)
	defer cancel()
	for _, s := range f.Spans {
		if s != nil {
			ctx = trace.ContextWithSpan(ctx, s) // one request carries one of its items' traces
			break
		}
	}
	var err error
	if f.secret != "" {
		if f.to.Token, err = a.secret(f.secret); err != nil {
			err = &adapter.CallError{Kind: adapter.Denied, Detail: "token of the channel", Err: err}
		}
	}
	var results []adapter.ItemResult
	var shown []adapter.Shown
	if err == nil && !a.lease.holds(time.Now()) {
		err = &adapter.CallError{Kind: adapter.NotSent, Detail: "Kafka was not heard for a session: the channel may be another instance's by now"}
	}
	switch {
	case err != nil:
	case f.Read():
		shown, err = f.wire.Read(ctx, f.to, f.IDs, make([]adapter.Shown, 0, len(f.IDs)))
	default:
		results, err = f.wire.Write(ctx, f.to, f.Key, f.Items, make([]adapter.ItemResult, 0, len(f.Items)))
	}
	a.mu.Lock()
	if f.Read() {
		a.queue.AnswerRead(f.Request, shown, err, time.Now())
	} else {
		a.queue.AnswerWrite(f.Request, results, err, time.Now())
	}
	a.flush()
	a.mu.Unlock()
	for i, s := range f.Spans {
		if s == nil {
			continue
		}
		if p := f.Problems[i]; p != "" {
			s.SetAttributes(attribute.String("onhand.problem", p))
		}
		s.End()
	}
	a.nudge()
}

// flush hands on what the queue has to tell, in order; the targets that it settles count as settled once the results are durable. The caller holds mu.
func (a *account) flush() {
	r := a.queue.Report()
	for i := range r.Alerts {
		a.out.alert(r.Alerts[i])
	}
	if len(r.Results) == 0 {
		return
	}
	a.recent.add(r.Results)
	for i := range r.Results {
		a.synced(&r.Results[i].Result)
	}
	a.reports = append(a.reports, r)
	if !a.delivering {
		a.delivering = true
		a.wg.Go(a.deliver)
	}
}

// synced measures the time from the receipt of the oldest event behind a write to the channel's answer, when there is one.
func (a *account) synced(r *write.Result) {
	if a.syncLatency != nil && r.Outcome == write.Applied && r.AckedAt > 0 && r.OldestReceivedAt > 0 {
		a.syncLatency.Record(context.Background(), float64(min(max(r.AckedAt-r.OldestReceivedAt, 1), queue.MaxLatency))/1e6, a.measured)
	}
}

// deliver hands on what there is, one lot after another, so that a SKU's results keep their order.
func (a *account) deliver() {
	for {
		a.mu.Lock()
		lot := a.reports
		a.reports = nil
		a.delivering = len(lot) > 0
		a.mu.Unlock()
		if len(lot) == 0 {
			return
		}
		var out []outcome
		for i := range lot {
			for k := range lot[i].Results {
				o := &lot[i].Results[k]
				x := outcome{res: o.Result}
				if o.Request != nil && o.Request.Spans != nil && o.Request.Spans[o.Item] != nil {
					x.span = o.Request.Spans[o.Item].SpanContext()
				}
				out = append(out, x)
			}
		}
		a.out.results(out, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			for i := range lot {
				a.queue.Durable(&lot[i])
			}
		})
	}
}

// watch looks after what takes long: a channel that takes no writes, and targets of a channel that no setting names.
func (a *account) watch(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.queue.Watch(now); err != nil {
		a.log.Warn(err.Error(), "channel", a.id)
	}
	a.flush()
}

// busy is how much is queued or under way.
func (a *account) busy() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.queue.Busy()
}
