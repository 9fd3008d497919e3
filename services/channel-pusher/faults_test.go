package channelpusher

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/simulators/marketplace"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

// Every operation against a marketplace that does everything wrong, with restarts in the middle: in the end it shows the targets, the offsets say
// so, and every target's SKU has a result that is definite.
func TestMarketplaceFromHell(t *testing.T) {
	token(t)
	w := newWorld(t)
	ops := map[string]catalog.Operation{"abs": catalog.Absolute, "delta": catalog.Delta, "cas": catalog.CompareAndSet}
	for ch, op := range ops {
		w.channel(catalog.Channel{ID: ch, Operation: op, BatchSize: 8, MaxInFlight: 3, TimeoutMS: 150})
		if err := w.markets.SetFaults(ch, marketplace.Faults{
			Seed: 5, JitterMS: 2, ErrorRate: 0.05, ErrorAppliedRate: 0.05, UnavailableRate: 0.05, TimeoutRate: 0.05, TimeoutApplied: 0.4, TimeoutLate: 0.3, HoldMS: 300,
			ItemBusyRate: 0.05,
		}); err != nil {
			t.Fatal(err)
		}
	}
	cfg := quick()
	cfg.DriftSample, cfg.DriftEvery, cfg.DriftGrace = 20, 50*time.Millisecond, 100*time.Millisecond
	s := w.start(cfg)
	rng := rand.New(rand.NewPCG(4, 4))
	type key struct{ ch, sku string }
	want := make(map[key]int64)
	for round := range 6 {
		var ts []allocation.Target
		for range 60 {
			for ch := range ops {
				sku, q := fmt.Sprint("s", rng.IntN(25)), rng.Int64N(50)
				want[key{ch, sku}] = q
				ts = append(ts, allocation.Target{SKU: sku, Channel: ch, Quantity: allocation.Units(q)})
			}
		}
		before := s.Stats().Applied
		w.targets(ts...)
		w.until("some are written", func() bool { return s.Stats().Applied >= before+5 })
		if round%2 == 1 {
			s.stop()
			s = w.start(cfg)
		}
	}
	for ch := range ops { // customers and bad days end: what is left must come right
		if err := w.markets.SetFaults(ch, marketplace.Faults{}); err != nil {
			t.Fatal(err)
		}
	}
	w.until("all is settled", func() bool { return w.lag() == 0 })
	for k, q := range want {
		w.shows(k.ch, k.sku, q)
	}
	last := make(map[key]int64)
	definite := make(map[key]bool)
	for _, r := range w.writes() {
		k := key{r.Channel, r.SKU}
		if r.LevelVersion < last[k] {
			t.Errorf("%v: version %d was written after %d", k, r.LevelVersion, last[k])
		}
		last[k] = r.LevelVersion
		definite[k] = r.Outcome == write.Applied || r.Outcome == write.NotSent
		if (r.Outcome == write.Applied) != (r.AckedAt != 0) {
			t.Errorf("%v: %s with acked_at %d", k, r.Outcome, r.AckedAt)
		}
	}
	for k := range want {
		if !definite[k] {
			t.Errorf("%v: the last result is not definite", k)
		}
	}
}

func TestThrottleStorm(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop", BatchSize: 10, MaxInFlight: 8})
	if err := w.markets.SetFaults("shop", marketplace.Faults{RatePerSecond: 10, Burst: 2, RetryAfterS: 1}); err != nil {
		t.Fatal(err)
	}
	s := w.start(quick())
	var ts []allocation.Target
	for i := range 100 {
		ts = append(ts, allocation.Target{SKU: fmt.Sprint("s", i), Channel: "shop", Quantity: 3})
	}
	w.targets(ts...)
	for i := range 100 {
		w.shows("shop", fmt.Sprint("s", i), 3)
	}
	w.until("all is settled", func() bool { return w.lag() == 0 })
	st := s.Stats()
	if st.Throttled == 0 || st.Unknown != 0 || st.Applied != 100 {
		t.Errorf("stats %+v", st.Counts)
	}
	if st.Throttled > 60 {
		t.Errorf("%d throttled requests: Retry-After was not kept", st.Throttled)
	}
}

func TestSettingsChangeLive(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop", Paused: true})
	s := w.start(quick())
	w.targets(allocation.Target{SKU: "a", Channel: "shop", Quantity: 4})
	w.until("it is queued", func() bool { return s.Stats().Backlog == 1 })
	if _, ok := w.markets.Shown("shop", "a"); ok {
		t.Fatal("a paused channel was written to")
	}
	w.channel(catalog.Channel{ID: "shop"})
	w.shows("shop", "a", 4)
	// A channel that comes later, with its topic, is picked up.
	w.channel(catalog.Channel{ID: "later", Operation: catalog.Delta})
	w.targets(allocation.Target{SKU: "a", Channel: "later", Quantity: 9})
	w.shows("later", "a", 9)
	// A new address gets everything again.
	w.channel(catalog.Channel{ID: "shop", BaseURL: w.markets.ChannelURL("shop-moved")})
	w.shows("shop-moved", "a", 4)
	// Nothing is written to a channel that is only recorded, and its targets count as read.
	w.channel(catalog.Channel{ID: "shop", Adapter: "none"})
	w.until("the setting is in force", func() bool {
		c := s.deps.Catalog.Settings().Channels["shop"]
		return c != nil && c.Adapter == "none"
	})
	w.targets(allocation.Target{SKU: "a", Channel: "shop", Quantity: 1})
	w.until("all is settled", func() bool { return w.lag() == 0 })
	if q, _ := w.markets.Shown("shop-moved", "a"); q != 4 {
		t.Errorf("a channel without adapter was written to: %d", q)
	}
}

func TestDriftAlertReachesItsTopic(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop"})
	cfg := quick()
	cfg.DriftSample, cfg.DriftEvery, cfg.DriftGrace = 5, 20*time.Millisecond, 50*time.Millisecond
	s := w.start(cfg)
	w.targets(allocation.Target{SKU: "a", Channel: "shop", Quantity: 4})
	w.shows("shop", "a", 4)
	if err := s.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.stop()
	_ = w.markets.Set("shop", "a", 6) // while nobody looks; the settled target is remembered all the same
	w.start(cfg)
	w.shows("shop", "a", 4)
	w.until("the alert is there", func() bool { return len(w.alerts()) == 1 })
	if a := w.alerts()[0]; a.Kind != alert.Drift || a.SKU != "a" || a.Channel != "shop" || a.Units != 2 || a.RaisedBy != service {
		t.Errorf("alert %+v", a)
	}
}

func TestTwoMembersShareTheWork(t *testing.T) {
	token(t)
	w := newWorld(t)
	for i := range 3 {
		w.channel(catalog.Channel{ID: fmt.Sprint("c", i), BatchSize: 10, MaxInFlight: 2})
	}
	one := w.start(quick())
	send := func(q int64) {
		var ts []allocation.Target
		for i := range 3 {
			for k := range 40 {
				ts = append(ts, allocation.Target{SKU: fmt.Sprint("s", k), Channel: fmt.Sprint("c", i), Quantity: allocation.Units(q)})
			}
		}
		w.targets(ts...)
	}
	check := func(q int64) {
		t.Helper()
		for i := range 3 {
			for k := range 40 {
				w.shows(fmt.Sprint("c", i), fmt.Sprint("s", k), q)
			}
		}
		w.until("all is settled", func() bool { return w.lag() == 0 })
	}
	send(1)
	check(1)
	two := w.start(quick())
	w.until("the second member has partitions", two.joined.Load)
	send(2)
	check(2)
	one.stop()
	send(3)
	check(3)
	two.stop()
}

func TestTraceGoesThrough(t *testing.T) {
	token(t)
	w := newWorld(t)
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	w.tel = w.tel.Traced(provider, "test")
	w.channel(catalog.Channel{ID: "shop"})
	w.start(quick())
	ctx, root := provider.Tracer("test").Start(t.Context(), "decide")
	r := w.record(allocation.Target{SKU: "a", Channel: "shop", Quantity: 4})
	telemetry.Inject(ctx, r)
	root.End()
	w.produce(r, w.record(allocation.Target{SKU: "b", Channel: "shop", Quantity: 5}))
	w.shows("shop", "a", 4)
	w.shows("shop", "b", 5)
	w.until("all is settled", func() bool { return w.lag() == 0 })
	var push sdktrace.ReadOnlySpan
	for _, s := range spans.Ended() {
		if s.Name() == "push" {
			if push != nil {
				t.Error("more than one push span for one traced target")
			}
			push = s
		}
	}
	if push == nil || push.Parent().SpanID() != root.SpanContext().SpanID() {
		t.Fatalf("push span %v", push)
	}
	for _, r := range w.read(schemas.ChannelWrites) {
		sc := trace.SpanContextFromContext(telemetry.Extract(t.Context(), r))
		if string(r.Key) == "a" && sc.SpanID() != push.SpanContext().SpanID() {
			t.Error("the result does not carry the push's trace context")
		}
		if string(r.Key) == "b" && sc.IsValid() {
			t.Error("an untraced target's result carries trace context")
		}
	}
}

// The metrics endpoint shows the stage: what is written, how late, and what waits.
func TestMetricsAreServed(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop"})
	w.start(quick())
	w.produce(w.record(allocation.Target{SKU: "a", Channel: "shop", Quantity: 4, OldestReceivedAt: time.Now().UnixMicro()}))
	w.shows("shop", "a", 4)
	w.until("all is settled", func() bool { return w.lag() == 0 })
	rec := httptest.NewRecorder()
	w.tel.Metrics.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`onhand_channel_pusher_sync_latency_seconds_count{channel="shop"`, `onhand_channel_pusher_lag_records{channel="shop"`,
		`onhand_channel_pusher_backlog_items{channel="shop"`, `onhand_channel_pusher_failures_requests_total{channel="shop"`, `onhand_channel_pusher_writes_items_total{channel="shop"`,
	} {
		if !strings.Contains(rec.Body.String(), "\n"+want) {
			t.Errorf("no %s in\n%s", want, rec.Body)
		}
	}
}

// Throughput and latency of the whole service: 12 channels, one item a target.
func BenchmarkPush(b *testing.B) {
	token(b)
	w := newWorld(b)
	const channels, skus = 12, 2000
	for i := range channels {
		w.channel(catalog.Channel{ID: fmt.Sprint("c", i), BatchSize: 250, MaxInFlight: 2})
	}
	s := w.start(quick())
	if err := s.deps.Catalog.WaitReady(b.Context()); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		var rs []*kgo.Record
		for c := range channels {
			for k := range skus {
				rs = append(rs, w.record(allocation.Target{SKU: fmt.Sprint("sku-", k), Channel: fmt.Sprint("c", c), Quantity: allocation.Units(n)}))
			}
		}
		w.produce(rs...)
		w.until("they are written", func() bool { return s.Stats().Applied >= int64(n*channels*skus) })
	}
	b.ReportMetric(float64(n*channels*skus)/b.Elapsed().Seconds(), "items/s")
	b.ReportMetric(float64(s.Stats().Requests)/float64(n), "requests/op")
}

// Latency at a steady rate that the channels can take: 24,000 items a second to 12 channels.
func BenchmarkPaced(b *testing.B) {
	token(b)
	w := newWorld(b)
	const channels, tick = 12, 10 * time.Millisecond
	for i := range channels {
		w.channel(catalog.Channel{ID: fmt.Sprint("c", i), BatchSize: 250, MaxInFlight: 4})
	}
	s := w.start(quick())
	if err := s.deps.Catalog.WaitReady(b.Context()); err != nil {
		b.Fatal(err)
	}
	w.until("the group is joined", s.joined.Load)
	t := time.NewTicker(tick)
	defer t.Stop()
	n := 0
	for b.Loop() {
		for range 100 {
			<-t.C
			var rs []*kgo.Record
			for c := range channels {
				for range 20 {
					n++
					rs = append(rs, w.record(allocation.Target{SKU: fmt.Sprint("sku-", n%4000), Channel: fmt.Sprint("c", c), Quantity: allocation.Units(n)}))
				}
			}
			w.produce(rs...)
		}
	}
	if err := s.Idle(b.Context()); err != nil {
		b.Fatal(err)
	}
	st := s.Stats()
	b.ReportMetric(float64(st.Latency.P50.Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(st.Latency.P99.Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "items/s")
	b.ReportMetric(float64(st.Applied)/float64(st.Requests), "items/request")
}
