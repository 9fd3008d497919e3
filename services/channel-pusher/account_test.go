package channelpusher

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

// rig holds one account, a channel that does what tests say, and what the account reported. Everything runs on a bubble's clock.
type rig struct {
	*account
	part *partition
	off  int64
	stop func()

	mu      sync.Mutex
	shown   map[string]int64
	calls   []call
	respond func(c *call) error // nil: the channel works
	delay   time.Duration
	got     []write.Result
	alerts  []alert.Alert
	clash   string // SKU that was in two requests at once
	now     map[string]bool
}

type call struct {
	at    time.Time
	read  bool
	ids   []string
	items []adapter.Item
	apply bool // a failing call applies its items all the same
	late  time.Duration
}

func (r *rig) Capabilities() adapter.Capabilities {
	return adapter.Capabilities{Operations: []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet}, MaxBatch: 100, MaxQuantity: 9999, ReadBack: true}
}

func (r *rig) apply(items []adapter.Item, dst []adapter.ItemResult) []adapter.ItemResult {
	for _, it := range items {
		have := r.shown[it.ExternalID]
		next := it.Quantity
		res := adapter.ItemResult{Verdict: adapter.Applied, ShownKnown: true}
		switch {
		case it.ExternalID == "refused":
			res, next = adapter.ItemResult{Verdict: adapter.Refused, Code: "not_listed", Detail: "no such listing"}, have
		case it.Operation == catalog.Delta:
			next = max(0, have+it.Delta)
		case it.Operation == catalog.CompareAndSet && it.Expected != have:
			res.Verdict, res.Code, next = adapter.Stale, "stale", have
		}
		r.shown[it.ExternalID] = next
		res.Shown = next
		dst = append(dst, res)
	}
	return dst
}

// enter and leave check that no SKU is in two requests at once.
func (r *rig) enter(c *call) {
	for _, id := range c.ids {
		if r.now[id] {
			r.clash = id
		}
		r.now[id] = true
	}
	r.calls = append(r.calls, *c)
}

func (r *rig) leave(c *call) {
	for _, id := range c.ids {
		delete(r.now, id)
	}
}

func (r *rig) Write(ctx context.Context, _ adapter.Account, _ string, items []adapter.Item, dst []adapter.ItemResult) ([]adapter.ItemResult, error) {
	c := call{at: time.Now(), items: slices.Clone(items)}
	for _, it := range items {
		c.ids = append(c.ids, it.ExternalID)
	}
	r.mu.Lock()
	r.enter(&c)
	respond, delay := r.respond, r.delay
	r.mu.Unlock()
	time.Sleep(delay)
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.leave(&c)
	if respond != nil {
		if err := respond(&c); err != nil {
			switch {
			case c.late > 0:
				time.AfterFunc(c.late, func() {
					r.mu.Lock()
					defer r.mu.Unlock()
					r.apply(c.items, nil)
				})
			case c.apply:
				r.apply(items, nil)
			}
			return dst, err
		}
	}
	return r.apply(items, dst), nil
}

func (r *rig) Read(_ context.Context, _ adapter.Account, ids []string, dst []adapter.Shown) ([]adapter.Shown, error) {
	c := call{at: time.Now(), read: true, ids: slices.Clone(ids)}
	r.mu.Lock()
	r.calls = append(r.calls, c)
	respond, delay := r.respond, r.delay
	r.mu.Unlock()
	time.Sleep(delay)
	r.mu.Lock()
	defer r.mu.Unlock()
	if respond != nil {
		if err := respond(&c); err != nil {
			return dst, err
		}
	}
	for _, id := range ids {
		q, ok := r.shown[id]
		dst = append(dst, adapter.Shown{Quantity: q, Known: true, Listed: ok})
	}
	return dst, nil
}

func (r *rig) results(out []outcome, settled func()) {
	r.mu.Lock()
	for _, o := range out {
		r.got = append(r.got, o.res)
	}
	r.mu.Unlock()
	if settled != nil {
		settled()
	}
}

func (r *rig) alert(a alert.Alert) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alerts = append(r.alerts, a)
}

// newRig makes an account in the current bubble. The test calls stop before it ends.
func newRig(cfg Config, conf catalog.Channel) *rig { return newLeasedRig(cfg, conf, 1e6*time.Hour) }

// newLeasedRig is a rig whose partitions are its own for a session.
func newLeasedRig(cfg Config, conf catalog.Channel, session time.Duration) *rig {
	cfg.instance = "test"
	r := &rig{shown: make(map[string]int64), now: make(map[string]bool)}
	e := &engine{
		cfg: cfg, out: r, adapters: map[string]adapter.Adapter{"http": r}, secret: func(string) (string, error) { return "", nil },
		tracer: noop.NewTracerProvider().Tracer(""), log: slog.New(slog.NewTextHandler(io.Discard, nil)), flights: context.Background(), lease: &lease{session: session},
	}
	e.lease.renew(time.Now())
	conf.ID, conf.Adapter = "shop", "http"
	r.account = newAccount(e, "shop")
	r.account.configure(&conf)
	r.part = r.account.partition("targets.shop", 0, arrival{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.account.run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
		r.account.wg.Wait()
	}
	return r
}

// target offers one target, as the consumer does.
func (r *rig) target(sku string, q, version, sold int64) {
	r.account.mu.Lock()
	now := time.Now().UnixMicro()
	r.take(allocation.Target{SKU: sku, Quantity: allocation.Units(q), LevelVersion: version, Sold: allocation.Units(sold), ReceivedAt: now, OldestReceivedAt: now, DecidedAt: now})
	r.account.mu.Unlock()
	r.account.nudge()
}

// take gives one target to the queue. The caller holds the account's lock.
func (r *rig) take(t allocation.Target) {
	t.Channel = "shop"
	r.account.queue.Take(r.part.Partition, r.off, &t, nil, time.Now())
	r.off++
	r.account.flush()
}

func (r *rig) committed() int64 {
	r.account.mu.Lock()
	defer r.account.mu.Unlock()
	return r.part.Commit()
}

// settle waits on the bubble's clock until everything is settled.
func (r *rig) settle(t *testing.T) {
	t.Helper()
	for i := 0; r.account.busy() > 0; i++ {
		if i > 100_000 {
			t.Fatal("it never settles")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// at is what the channel shows of a SKU.
func (r *rig) at(sku string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shown[sku]
}

// doubtful is how many items the account is in doubt about.
func (r *rig) doubtful() int {
	r.account.mu.Lock()
	defer r.account.mu.Unlock()
	return r.account.queue.State().Doubtful
}

// pass lets time pass on the bubble's clock, and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) writes() (out []call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if !c.read {
			out = append(out, c)
		}
	}
	return out
}

func still() Config {
	c := DefaultConfig()
	c.DriftSample = 0
	return c
}

func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestScarceAndDecreasesFirst(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 8, MaxInFlight: 1})
		defer r.stop()
		for i := range 40 {
			r.target(fmt.Sprintf("p%02d", i), 50, 1, 0)
		}
		r.settle(t)
		conf := *r.account.conf
		conf.Paused = true
		r.account.configure(&conf)
		before := len(r.writes())
		for i := range 40 {
			q := int64(100 + i) // an increase
			switch {
			case i == 39:
				q = 0
			case i >= 34:
				q = int64(i) // a decrease
			case i == 20:
				q = 51 // a scarce increase
			}
			r.target(fmt.Sprintf("p%02d", i), q, 2, 0)
		}
		pass(time.Minute)
		if len(r.writes()) != before {
			t.Fatal("a paused channel was written to")
		}
		if c := r.committed(); c != 40 {
			t.Errorf("commit at %d while paused, want 40", c)
		}
		conf.Paused = false
		r.account.configure(&conf)
		r.settle(t)
		first := r.writes()[before].ids
		if want := []string{"p39", "p34", "p35", "p36", "p37", "p38", "p20", "p00"}; !slices.Equal(first, want) {
			t.Errorf("first batch %v, want %v: zero, decreases, the scarcest, and an eighth by age", first, want)
		}
		if c := r.committed(); c != 80 {
			t.Errorf("commit at %d, want 80", c)
		}
	})
}

func TestIdleChannelIsWrittenAtOnceAndBusyOneInBatches(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 100, MaxInFlight: 4})
		defer r.stop()
		r.delay = 5 * time.Millisecond
		pass(time.Second)
		begin := time.Now()
		for i := range 200 {
			r.target(fmt.Sprint("s", i), 1, 1, 0)
			time.Sleep(time.Millisecond)
		}
		r.settle(t)
		w := r.writes()
		if w[0].at.Sub(begin) != 0 {
			t.Errorf("an idle channel waited %s", w[0].at.Sub(begin))
		}
		if len(w) > 14 {
			t.Errorf("200 targets in 200 ms made %d requests, want about one per linger of 20 ms", len(w))
		}
		if worst := time.Duration(r.account.queue.Latency().Max()) * time.Microsecond; worst > 40*time.Millisecond {
			t.Errorf("slowest took %s", worst)
		}
	})
}

func TestLatestWinsAndNeverGoesBack(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 10, MaxInFlight: 4})
		defer r.stop()
		r.delay = 100 * time.Millisecond
		rng := rand.New(rand.NewPCG(3, 3))
		newest := make(map[string]int64)
		for i := range 2000 {
			sku := fmt.Sprint("s", rng.IntN(20))
			v := int64(i + 1)
			if rng.IntN(5) == 0 && newest[sku] > 1 {
				v = newest[sku] - rng.Int64N(newest[sku]) // an old one comes again
			}
			q := v % 97
			newest[sku] = max(newest[sku], v)
			r.target(sku, q, v, 0)
			time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
		}
		r.settle(t)
		for sku, v := range newest {
			if r.shown[sku] != v%97 {
				t.Errorf("%s shows %d, want %d", sku, r.shown[sku], v%97)
			}
		}
		last := make(map[string]int64)
		for _, x := range r.got {
			if x.LevelVersion < last[x.SKU] {
				t.Errorf("%s: version %d was written after %d", x.SKU, x.LevelVersion, last[x.SKU])
			}
			last[x.SKU] = x.LevelVersion
		}
		if r.clash != "" {
			t.Errorf("%s was in two requests at once", r.clash)
		}
		if n := len(r.got); n > 1500 {
			t.Errorf("%d writes for 2,000 targets of 20 SKUs: nothing was coalesced", n)
		}
		if c := r.committed(); c != 2000 {
			t.Errorf("commit at %d", c)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 10, MaxInFlight: 4})
		defer r.stop()
		n := 0
		r.respond = func(*call) error {
			if n++; n <= 3 {
				return &adapter.CallError{Kind: adapter.Throttled, Status: 429, RetryAfter: 7 * time.Second}
			}
			return nil
		}
		r.target("a", 5, 1, 0)
		pass(time.Second)
		r.target("b", 6, 1, 0)
		r.settle(t)
		w := r.writes()
		if len(w) != 4 || r.shown["a"] != 5 || r.shown["b"] != 6 {
			t.Fatalf("%d requests, shown %v", len(w), r.shown)
		}
		for i := 1; i < len(w); i++ {
			if d := w[i].at.Sub(w[i-1].at); d < 7*time.Second || d > 8*time.Second {
				t.Errorf("request %d came %s after the one before", i, d)
			}
		}
		if s := r.account.queue.State(); s.Throttled != 3 || s.Failures != 0 || s.Unknown != 0 {
			t.Errorf("stats %+v", s)
		}
		if r.account.queue.State().Breaker != "closed" {
			t.Error("throttling opened the breaker")
		}
		if len(r.got) != 2 || r.got[0].Attempts < 3 {
			t.Errorf("results %+v", r.got)
		}
	})
}

func TestRateLimitIsKept(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 2, MaxInFlight: 10, RatePerSecond: "2.5", Burst: 3})
		defer r.stop()
		for i := range 60 {
			r.target(fmt.Sprint("s", i), 1, 1, 0)
		}
		begin := time.Now()
		r.settle(t)
		w := r.writes()
		if len(w) != 30 {
			t.Fatalf("%d requests for 60 items in batches of 2", len(w))
		}
		for i := range w {
			for k := i; k < len(w); k++ {
				if d, n := w[k].at.Sub(w[i].at).Seconds(), float64(k-i+1); n > 3+2.5*d+1e-6 {
					t.Fatalf("%g requests in %g s", n, d)
				}
			}
		}
		if d := w[29].at.Sub(begin); d > 12*time.Second {
			t.Errorf("it took %s, want about 27 / 2.5 s", d)
		}
	})
}

func TestOutageOpensTheBreakerAndAlerts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 10, MaxInFlight: 4})
		defer r.stop()
		down := true
		r.respond = func(*call) error {
			if down {
				return &adapter.CallError{Kind: adapter.Unavailable, Status: 503}
			}
			return nil
		}
		watching := time.NewTicker(time.Second)
		defer watching.Stop()
		r.target("a", 5, 1, 0)
		for range 180 {
			now := <-watching.C
			r.account.watch(now)
			r.target(fmt.Sprint("s", now.Unix()%30), 1, now.Unix(), 0)
		}
		if n := len(r.writes()); n < 10 || n > 70 {
			t.Errorf("%d requests in 3 minutes of outage, want one about every 5 s", n)
		}
		r.mu.Lock()
		alerts := slices.Clone(r.alerts)
		down = false
		r.mu.Unlock()
		if len(alerts) != 1 || alerts[0].Kind != alert.ChannelStuck || alerts[0].Channel != "shop" {
			t.Errorf("alerts %+v", alerts)
		}
		if r.committed() != 0 {
			t.Error("offsets passed targets that are not written")
		}
		begin := time.Now()
		r.settle(t)
		if d := time.Since(begin); d > 40*time.Second {
			t.Errorf("after the outage it took %s", d)
		}
		if len(r.shown) != 31 || r.account.busy() != 0 {
			t.Errorf("shown %v", r.shown)
		}
		for _, x := range r.got {
			if x.Outcome != write.Applied {
				t.Errorf("result %+v", x)
			}
		}
	})
}

// A request that times out may or may not have been applied. Nothing is written for its SKUs before they are read back.
func TestUnknownOutcomeIsReadBack(t *testing.T) {
	for _, applied := range []bool{true, false} {
		for _, op := range []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet} {
			t.Run(fmt.Sprint(applied, op), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					r := newRig(still(), catalog.Channel{Operation: op, BatchSize: 10, MaxInFlight: 4})
					defer r.stop()
					r.shown["a"], r.shown["b"] = 1, 9
					once := true
					r.respond = func(c *call) error {
						if c.read || !once {
							return nil
						}
						once = false
						c.apply = applied
						return context.DeadlineExceeded
					}
					r.target("a", 5, 1, 0)
					r.target("b", 3, 1, 0)
					r.settle(t)
					if r.shown["a"] != 5 || r.shown["b"] != 3 {
						t.Errorf("shown %v", r.shown)
					}
					var unknown, done int
					for _, x := range r.got {
						switch x.Outcome {
						case write.Unknown:
							unknown++
							if x.AckedAt != 0 || x.SentAt == 0 {
								t.Errorf("unknown %+v", x)
							}
						case write.Applied:
							done++
							if x.AckedAt == 0 || !x.ShownKnown || x.Shown != x.Quantity && op != catalog.Delta {
								t.Errorf("applied %+v", x)
							}
						}
					}
					if unknown == 0 || done != 2 {
						t.Errorf("%d unknown, %d applied: %+v", unknown, done, r.got)
					}
					failedAt := -1
					for i, c := range r.calls {
						if !c.read && failedAt < 0 {
							failedAt = i
							continue
						}
						if failedAt >= 0 && !c.read && slices.ContainsFunc(c.ids, func(id string) bool { return slices.Contains(r.calls[failedAt].ids, id) }) {
							if applied {
								t.Error("an applied write was repeated")
							}
							read := false
							for _, x := range r.calls[failedAt:i] {
								read = read || x.read
							}
							if !read {
								t.Error("written again without reading back")
							}
						}
					}
				})
			})
		}
	}
}

// A timed-out write that lands after everything else is found and set right.
func TestLateWriteIsFound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 10, MaxInFlight: 4, TimeoutMS: 2000})
		defer r.stop()
		once := true
		r.respond = func(c *call) error {
			if c.read || !once {
				return nil
			}
			once = false
			c.late = 3 * time.Second
			return context.DeadlineExceeded
		}
		r.target("a", 5, 1, 0)
		pass(time.Second)
		r.target("a", 2, 2, 0)
		pass(3 * time.Second)
		if r.at("a") != 5 {
			t.Fatalf("shows %d: the late write should have landed", r.at("a"))
		}
		pass(time.Minute)
		if r.at("a") != 2 {
			t.Errorf("shows %d, want 2", r.at("a"))
		}
		if len(r.alerts) != 1 || r.alerts[0].Kind != alert.Drift || r.alerts[0].Units != 3 {
			t.Errorf("alerts %+v", r.alerts)
		}
	})
}

func TestOneBadItemStopsNoOther(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{BatchSize: 50, MaxInFlight: 1})
		defer r.stop()
		r.respond = func(c *call) error {
			if slices.Contains(c.ids, "poison") {
				return &adapter.CallError{Kind: adapter.Malformed, Status: 422, Detail: "no"}
			}
			return nil
		}
		conf := *r.account.conf
		conf.Paused = true
		r.account.configure(&conf)
		for i := range 48 {
			r.target(fmt.Sprint("s", i), 7, 1, 0)
		}
		r.target("poison", 7, 1, 0)
		r.target("refused", 7, 1, 0)
		going := conf
		going.Paused = false
		r.account.configure(&going)
		r.settle(t)
		by := make(map[write.Outcome][]string)
		for _, x := range r.got {
			by[x.Outcome] = append(by[x.Outcome], x.SKU)
		}
		slices.Sort(by[write.Refused])
		if len(by[write.Applied]) != 48 || !slices.Equal(by[write.Refused], []string{"poison", "refused"}) {
			t.Errorf("outcomes %v", by)
		}
		if r.committed() != 50 {
			t.Errorf("commit at %d", r.committed())
		}
		if n := len(r.writes()); n > 15 {
			t.Errorf("%d requests to find one bad item among 50", n)
		}
	})
}

func TestDriftIsRepairedAndToldOnce(t *testing.T) {
	for _, op := range []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet} {
		inBubble(t, func(t *testing.T) {
			cfg := DefaultConfig()
			r := newRig(cfg, catalog.Channel{Operation: op, BatchSize: 10, MaxInFlight: 1})
			defer r.stop()
			for i := range 20 {
				r.target(fmt.Sprint("s", i), 10, 1, 0)
			}
			r.settle(t)
			pass(2 * time.Minute)
			if len(r.alerts) != 0 {
				t.Fatalf("alerts without drift: %+v", r.alerts)
			}
			r.mu.Lock()
			r.shown["s3"], r.shown["s4"] = 12, 0 // someone edits at the channel
			r.mu.Unlock()
			pass(2 * time.Minute)
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.shown["s3"] != 10 || r.shown["s4"] != 10 {
				t.Errorf("%d: shows %d and %d", op, r.shown["s3"], r.shown["s4"])
			}
			if len(r.alerts) != 2 || r.account.queue.State().Drift != 2 {
				t.Errorf("%d: alerts %+v", op, r.alerts)
			}
		})
	}
}

// TestAuditSetsAllRight has what differs set right at once, although nothing is sampled otherwise, and without an alert.
func TestAuditSetsAllRight(t *testing.T) {
	for _, op := range []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet} {
		inBubble(t, func(t *testing.T) {
			r := newRig(still(), catalog.Channel{Operation: op})
			defer r.stop()
			for i := range 20 {
				r.target(fmt.Sprint("s", i), 10, 1, 0)
			}
			r.settle(t)
			r.mu.Lock()
			r.shown["s3"], r.shown["s4"] = 12, 0
			r.mu.Unlock()
			r.account.mu.Lock()
			r.account.queue.Audit(time.Now())
			if n := r.account.queue.State().Doubtful; n != 20 {
				t.Errorf("%d: %d to be looked at; want all 20", op, n)
			}
			r.account.mu.Unlock()
			r.account.nudge()
			pass(2 * r.account.cfg.DriftGrace)
			r.settle(t)
			r.mu.Lock()
			defer r.mu.Unlock()
			st := r.account.queue.State()
			if r.shown["s3"] != 10 || r.shown["s4"] != 10 || st.Cleared != 2 || st.Doubtful != 0 || len(r.alerts) != 0 {
				t.Errorf("%d: shows %d and %d, %d cleared, %d doubtful, alerts %v", op, r.shown["s3"], r.shown["s4"], st.Cleared, st.Doubtful, r.alerts)
			}
		})
	}
}

func TestWithdrawnShowsNothingAndIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{Operation: catalog.CompareAndSet})
		defer r.stop()
		r.target("a", 5, 1, 0)
		r.settle(t)
		r.account.mu.Lock()
		r.take(allocation.Target{SKU: "a", Quantity: 5, LevelVersion: 2, Withdrawn: true})
		r.account.mu.Unlock()
		r.account.nudge()
		r.settle(t)
		if r.shown["a"] != 0 || r.account.queue.State().SKUs != 0 || r.committed() != 2 {
			t.Errorf("shows %d, %d items, commit %d", r.shown["a"], r.account.queue.State().SKUs, r.committed())
		}
	})
}

func TestAdapterNoneIgnoresUntilItIsSwitchedOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{})
		defer r.stop()
		off := *r.account.conf
		off.Adapter = "none"
		on := *r.account.conf
		r.account.configure(&off)
		r.target("a", 5, 1, 0)
		r.target("b", 6, 1, 0)
		pass(time.Minute)
		if len(r.calls) != 0 || r.committed() != 2 {
			t.Errorf("%d requests, commit %d", len(r.calls), r.committed())
		}
		r.account.configure(&on)
		r.settle(t)
		if r.shown["a"] != 5 || r.shown["b"] != 6 {
			t.Errorf("shown %v", r.shown)
		}
	})
}

// Random targets, sales at the channel that the ledger sees late, failures of every kind: once all is seen, every operation shows the targets,
// and no SKU is ever in two requests.
func TestBeliefsHoldUnderFaults(t *testing.T) {
	for _, op := range []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet} {
		for seed := range uint64(12) {
			inBubble(t, func(t *testing.T) {
				cfg := DefaultConfig()
				cfg.BreakerDelay = 100 * time.Millisecond
				r := newRig(cfg, catalog.Channel{Operation: op, BatchSize: 7, MaxInFlight: 3, TimeoutMS: 500})
				defer r.stop()
				rng := rand.New(rand.NewPCG(seed, 9))
				chance := rand.New(rand.NewPCG(seed, 10))
				faulty := true
				r.delay = 30 * time.Millisecond
				r.respond = func(c *call) error {
					if !faulty {
						return nil
					}
					switch chance.IntN(10) {
					case 0:
						c.apply = true
						return context.DeadlineExceeded
					case 1:
						return context.DeadlineExceeded
					case 2:
						return &adapter.CallError{Kind: adapter.Unavailable}
					case 3:
						return &adapter.CallError{Kind: adapter.NotSent}
					}
					return nil
				}
				stock := make(map[string]int64) // what the ledger has available, for one channel: target = stock
				sold := make(map[string]int64)
				var version int64
				shows := func(q int64) int64 { // every other run has a cap, so that a sale may leave the target as it was
					if seed%2 == 1 {
						return min(q, 5)
					}
					return q
				}
				for i := range 300 {
					sku := fmt.Sprint("s", rng.IntN(10))
					if i < 10 || rng.IntN(3) == 0 {
						stock[sku] += rng.Int64N(20)
					} else {
						r.mu.Lock()
						ok := r.shown[sku] > 0
						if ok {
							r.shown[sku]--
						}
						r.mu.Unlock()
						time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond) // until the ledger sees it
						if ok {
							sold[sku]++
							stock[sku] = max(0, stock[sku]-1)
						}
					}
					version++
					r.target(sku, shows(stock[sku]), version, sold[sku])
					time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
				}
				r.mu.Lock()
				faulty = false
				r.mu.Unlock()
				r.settle(t)
				pass(5 * time.Minute) // samples set right what beliefs got wrong
				r.settle(t)
				r.mu.Lock()
				defer r.mu.Unlock()
				for _, sku := range slices.Sorted(maps.Keys(stock)) {
					if want := shows(stock[sku]); r.shown[sku] != want {
						t.Errorf("op %d seed %d: %s shows %d, want %d", op, seed, sku, r.shown[sku], want)
					}
				}
				if r.clash != "" {
					t.Errorf("%s was in two requests at once", r.clash)
				}
			})
		}
	}
}

// A sale at a channel that sets absolute numbers needs no write there: it has lowered its number by itself.
func TestOwnSaleNeedsNoWrite(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(still(), catalog.Channel{})
		defer r.stop()
		r.target("a", 10, 1, 0)
		r.settle(t)
		pass(time.Minute)
		r.mu.Lock()
		r.shown["a"] = 8 // two units sold, of which the ledger sees one
		r.mu.Unlock()
		r.target("a", 9, 2, 1)
		r.settle(t)
		if len(r.writes()) != 1 || r.shown["a"] != 8 {
			t.Errorf("%d writes; shows %d, want 8: setting 9 would sell a unit again", len(r.writes()), r.shown["a"])
		}
		if x := r.got[len(r.got)-1]; x.Outcome != write.NotSent || x.ErrorCode != "already_shown" || x.AckedAt != 0 {
			t.Errorf("result %+v", x)
		}
		r.target("a", 7, 3, 2) // another channel sold one, too
		r.settle(t)
		if len(r.writes()) != 2 || r.shown["a"] != 7 {
			t.Errorf("%d writes; shows %d, want 7", len(r.writes()), r.shown["a"])
		}
		// Soon after a write nobody can say whether a sale was before or after it: the number is set again.
		r.target("a", 6, 4, 3)
		r.settle(t)
		if len(r.writes()) != 3 || r.shown["a"] != 6 || r.committed() != 4 {
			t.Errorf("%d writes; shows %d, want 6; commit %d", len(r.writes()), r.shown["a"], r.committed())
		}
	})
}

// A channel that offers deltas or compare-and-set never sells again what it sold while nobody had told the ledger.
func TestUnseenSalesAreNotSoldAgain(t *testing.T) {
	for _, op := range []catalog.Operation{catalog.Delta, catalog.CompareAndSet} {
		inBubble(t, func(t *testing.T) {
			r := newRig(still(), catalog.Channel{Operation: op})
			defer r.stop()
			r.target("a", 10, 1, 0)
			r.settle(t)
			pass(time.Minute)
			r.mu.Lock()
			r.shown["a"] = 7 // three units sold, and the ledger has seen none
			r.mu.Unlock()
			r.target("a", 12, 2, 0) // two units came in
			r.settle(t)
			if got := r.at("a"); got != 9 {
				t.Errorf("operation %d: shows %d, want 9 = 7 + 2", op, got)
			}
			before := len(r.writes())
			r.target("a", 9, 3, 3) // the sales are seen
			r.settle(t)
			if got := r.at("a"); got != 9 || len(r.writes()) != before {
				t.Errorf("operation %d: shows %d after %d writes, want 9 and no write", op, got, len(r.writes())-before)
			}
		})
	}
}

// What is sold right after a start may have been sold before the channel was read, so that it is taken off once more. That is set right as soon as no
// doubt is left, without waiting for the SKU's turn in the samples, and nobody is told of drift.
func TestDoubtAfterAStartIsSetRight(t *testing.T) {
	for _, op := range []catalog.Operation{catalog.Delta, catalog.CompareAndSet} {
		inBubble(t, func(t *testing.T) {
			r := newRig(still(), catalog.Channel{Operation: op})
			defer r.stop()
			r.shown["a"] = 10
			r.target("a", 10, 1, 5)
			r.settle(t)
			r.mu.Lock()
			r.shown["a"] = 8
			r.mu.Unlock()
			r.target("a", 8, 2, 7)
			r.settle(t)
			if got := r.at("a"); got > 8 || r.doubtful() != 1 {
				t.Errorf("operation %d: shows %d, doubtful %d; want at most 8, and doubt", op, got, r.doubtful())
			}
			pass(3 * r.account.cfg.DriftGrace)
			r.settle(t)
			if got := r.at("a"); got != 8 || r.doubtful() != 0 || len(r.alerts) != 0 {
				t.Errorf("operation %d: shows %d, want 8; doubtful %d, alerts %+v", op, got, r.doubtful(), r.alerts)
			}
			// A listing that is new to the channel has sold nothing before.
			r.target("b", 10, 3, 0)
			r.settle(t)
			r.mu.Lock()
			r.shown["b"] = 9
			r.mu.Unlock()
			r.target("b", 9, 4, 1)
			r.settle(t)
			if got := r.at("b"); got != 9 || r.doubtful() != 0 {
				t.Errorf("operation %d: shows %d, want 9; doubtful %d", op, got, r.doubtful())
			}
		})
	}
}

// After a crash, a first target may stand for all that came in meanwhile: sales that the channel already shows less for, and later events.
func TestSalesBehindALaterEventAreNotSoldAgain(t *testing.T) {
	for _, op := range []catalog.Operation{catalog.Delta, catalog.CompareAndSet} {
		inBubble(t, func(t *testing.T) {
			r := newRig(still(), catalog.Channel{Operation: op})
			defer r.stop()
			r.shown["a"] = 4 // six more units sold than the ledger knows, just before
			received := time.Now().UnixMicro()
			r.target("a", 10, 1, 5)
			r.settle(t)
			pass(time.Minute)
			r.account.mu.Lock()
			now := time.Now().UnixMicro()
			r.take(allocation.Target{SKU: "a", Quantity: 8, LevelVersion: 9, Sold: 11, ReceivedAt: now, OldestReceivedAt: received, DecidedAt: now})
			r.account.mu.Unlock()
			r.account.nudge()
			r.settle(t)
			if got := r.at("a"); got != 8 {
				t.Errorf("operation %d: shows %d, want 8", op, got)
			}
		})
	}
}

// An account that has not heard from Kafka for a session sends nothing: its partitions may be another's.
func TestNothingIsSentWithoutALease(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newLeasedRig(still(), catalog.Channel{}, 10*time.Second)
		defer r.stop()
		pass(9 * time.Second)
		r.target("a", 5, 1, 0)
		pass(time.Millisecond)
		if len(r.writes()) != 1 {
			t.Fatal("nothing is sent within the session")
		}
		pass(10 * time.Second)
		r.target("a", 6, 2, 0)
		pass(time.Minute)
		if len(r.writes()) != 1 {
			t.Fatal("something was sent after the session")
		}
		r.account.lease.renew(time.Now())
		r.settle(t)
		if len(r.writes()) != 2 || r.at("a") != 6 {
			t.Errorf("shows %d after %d writes", r.at("a"), len(r.writes()))
		}
	})
}
