package channelpusher

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/simulators/marketplace"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

// granted is a target with one granted write.
func granted(ch, sku, id string, op write.Operation, quantity, delta, expected allocation.Units) allocation.Target {
	return allocation.Target{
		SKU: sku, Channel: ch, Quantity: quantity, Mode: "strict", Exposure: quantity,
		Write: &allocation.GrantedWrite{ID: id, Operation: op, Quantity: quantity, Delta: delta, Expected: expected},
	}
}

// told is the results of one write id, in order.
func (w *world) told(id string) (out []write.Result) {
	for _, x := range w.writes() {
		if x.WriteID == id {
			out = append(out, x)
		}
	}
	return out
}

// transaction writes targets as the allocator does, and commits or aborts.
func (w *world) transaction(id string, commit bool, inside func(), ts ...allocation.Target) {
	w.t.Helper()
	c, err := w.kafka.Client(w.tel.Log, "allocator", kgo.TransactionalID(id))
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	if err := c.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	for _, t := range ts {
		if err := c.ProduceSync(w.t.Context(), w.record(t)).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
	if inside != nil {
		inside()
	}
	if err := c.EndTransaction(w.t.Context(), kgo.TransactionEndTry(commit)); err != nil {
		w.t.Fatal(err)
	}
}

// Since when a write is in doubt is stored beside the offset, so that the next restart does not have it waited for anew; and a commit of an older version tells nothing.
func TestRestartTellsSinceWhenThereIsDoubt(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop", TimeoutMS: 100_000, LateWindowMS: 100_000})
	if err := w.markets.SetFaults("shop", marketplace.Faults{TimeoutRate: 1, TimeoutApplied: 1, HoldMS: 60_000}); err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Drain = 100 * time.Millisecond
	s := w.start(cfg)
	w.targets(granted("shop", "a", "w1", catalog.Absolute, 5, 0, 0))
	w.shows("shop", "a", 5) // applied, and never answered
	s.stop()
	topic := schemas.TargetsTopic("shop")
	doubts := func(s *running) (out []queue.Doubt) { // as it found them
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, came := range s.came[topic] {
			out = append(out, came.doubts...)
		}
		return out
	}
	stored := func() (out []queue.Doubt) {
		c, err := w.kafka.Client(w.tel.Log, "test")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all, err := kadm.NewClient(c).FetchOffsetsForTopics(t.Context(), Group, topic)
		if err != nil {
			return nil
		}
		all.Each(func(o kadm.OffsetResponse) { out = append(out, doubtsOf(o.Metadata)...) })
		return out
	}
	s = w.start(cfg)
	var first []queue.Doubt
	w.until("it is stored since when", func() bool { first = stored(); return len(first) == 1 })
	if got := doubts(s); len(got) != 0 || first[0].Since.IsZero() || first[0].Before == 0 {
		t.Errorf("found %+v, stored %+v", got, first)
	}
	s.stop()
	s = w.start(cfg)
	w.until("it is in doubt again", func() bool { return len(w.told("w1")) >= 2 && s.Stats().InDoubt == 1 })
	if got := doubts(s); len(got) != 1 || !got[0].Since.Equal(first[0].Since) || got[0].Before != first[0].Before {
		t.Errorf("found %+v, want %+v", got, first)
	}
	if got := doubtsOf("channel-pusher-4711"); got != nil { // what clients put there by themselves
		t.Errorf("found %+v in another's metadata", got)
	}
}

// What the allocator wrote in a transaction is carried out when it is committed, never before, and never when it was aborted.
func TestTargetsAreReadCommitted(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop"})
	s := w.start(quick())
	w.until("the group is joined", s.joined.Load)
	w.transaction("one", false, nil, granted("shop", "a", "aborted", catalog.Absolute, 3, 0, 0))
	w.transaction("two", true, func() {
		w.targets(granted("shop", "b", "beside", catalog.Absolute, 4, 0, 0)) // not in the transaction: it may be in another partition, and is seen then
		w.until("it is not seen", func() bool { _, ok := w.markets.Shown("shop", "a"); return !ok })
	}, granted("shop", "a", "committed", catalog.Delta, 5, 5, 0))
	w.shows("shop", "a", 5)
	w.shows("shop", "b", 4)
	w.until("all is settled, with the markers", func() bool { return w.lag() == 0 })
	if got := w.told("aborted"); len(got) != 0 {
		t.Errorf("an aborted write was told: %+v", got)
	}
	got := w.told("committed")
	if len(got) != 1 || got[0].Outcome != write.Applied || got[0].Delta != 5 || !got[0].ShownKnown || got[0].Shown != 5 || got[0].ShownAt != got[0].AckedAt {
		t.Errorf("results %+v", got)
	}
}

// A write that was under way when the service stopped is in doubt for the one that follows: told at once, waited out, read, and never sent again.
func TestRestartLeavesAWriteInDoubt(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop", TimeoutMS: 100_000, LateWindowMS: 300})
	if err := w.markets.SetFaults("shop", marketplace.Faults{TimeoutRate: 1, TimeoutApplied: 1, HoldMS: 60_000}); err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Drain = 500 * time.Millisecond
	s := w.start(cfg)
	w.targets(granted("shop", "a", "w1", catalog.Delta, 5, 5, 0))
	w.shows("shop", "a", 5) // applied, and never answered
	w.targets(granted("shop", "b", "w2", catalog.Absolute, 2, 0, 0))
	w.until("both are under way", func() bool { return s.Stats().InFlight == 2 })
	s.stop()
	if err := w.markets.SetFaults("shop", marketplace.Faults{}); err != nil {
		t.Fatal(err)
	}
	w.channel(catalog.Channel{ID: "shop", TimeoutMS: 200, LateWindowMS: 300})
	s = w.start(cfg)
	w.until("all is settled", func() bool { return w.lag() == 0 })
	for id, shown := range map[string]int64{"w1": 5, "w2": 2} {
		got := w.told(id)
		if len(got) != 3 {
			t.Fatalf("%s: results %+v", id, got)
		}
		for i, want := range []struct {
			code    string
			settled bool
		}{{"uncertain", false}, {"restarted", false}, {"restarted", true}} {
			x := got[i]
			if x.Outcome != write.Unknown || x.ErrorCode != want.code || x.Settled != want.settled || x.ShownKnown != want.settled || (want.settled && int64(x.Shown) != shown) {
				t.Errorf("%s, result %d: %+v", id, i, x)
			}
		}
		w.shows("shop", got[0].SKU, shown)
	}
	if n := w.markets.Stats()[0].Writes; n != 2 {
		t.Errorf("%d items were written, want 2", n)
	}
	// The next write comes at once, and after a stop without anything under way nothing is in doubt.
	w.targets(granted("shop", "a", "w3", catalog.Delta, 6, 1, 0))
	w.shows("shop", "a", 6)
	w.until("all is settled", func() bool { return w.lag() == 0 })
	s.stop()
	s = w.start(cfg)
	w.until("it knows what was there", func() bool { st := s.Stats(); return len(st.Channels) > 0 && st.Channels[0].SKUs == 2 })
	w.targets(granted("shop", "a", "w4", catalog.Delta, 7, 1, 0))
	w.shows("shop", "a", 7)
	w.until("all is settled", func() bool { return w.lag() == 0 })
	for _, id := range []string{"w3", "w4"} {
		if got := w.told(id); len(got) != 1 || got[0].Outcome != write.Applied {
			t.Errorf("%s: results %+v", id, got)
		}
	}
}

// What waited for its turn when the service stopped was not sent, and is told to be so.
func TestStopTellsWhatWasNotSent(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop", RatePerSecond: "0.001", Burst: 1, BatchSize: 1})
	s := w.start(quick())
	w.targets(granted("shop", "a", "w1", catalog.Absolute, 5, 0, 0))
	w.shows("shop", "a", 5)
	w.targets(granted("shop", "b", "w2", catalog.Absolute, 6, 0, 0))
	w.until("it waits", func() bool { return s.Stats().Backlog == 1 })
	s.stop()
	if got := w.told("w2"); len(got) != 1 || got[0].Outcome != write.NotSent || got[0].ErrorCode != "stopped" {
		t.Errorf("results %+v", got)
	}
	if w.lag() != 0 {
		t.Error("it counts as open")
	}
}

// A target that grants what cannot be granted is kept with the rejected ones.
func TestImpossibleGrantIsRejected(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop"})
	s := w.start(quick())
	w.targets(granted("shop", "a", "", catalog.Absolute, 5, 0, 0), granted("shop", "a", "w2", 9, 5, 0, 0), granted("shop", "b", "w3", catalog.Absolute, 5, 0, 0))
	w.shows("shop", "b", 5)
	w.until("all is settled", func() bool { return w.lag() == 0 })
	if s.Stats().Rejected != 2 {
		t.Errorf("%d rejected", s.Stats().Rejected)
	}
}

// line is a connection to a channel that does everything wrong: it doubles requests, loses answers, breaks off, and delivers late.
type line struct {
	to  string
	mu  sync.Mutex
	rng *rand.Rand
	wg  sync.WaitGroup
}

func (l *line) roll() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(20)
}

func (l *line) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	forward := func() *http.Response {
		req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, l.to+r.URL.String(), bytes.NewReader(body))
		if err != nil {
			return nil
		}
		req.Header = r.Header.Clone()
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return nil
		}
		return resp
	}
	drop := func(resp *http.Response) {
		if resp != nil {
			_ = resp.Body.Close()
		}
	}
	reset := func() {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset rather than an end
		}
		_ = conn.Close()
	}
	var resp *http.Response
	switch l.roll() {
	case 0, 1:
		reset()
		return
	case 2, 3:
		drop(forward())
		reset()
		return
	case 4, 5, 6:
		drop(forward())
		resp = forward()
	case 7, 8:
		l.wg.Add(1)
		time.AfterFunc(100*time.Millisecond, func() { // within the late window
			defer l.wg.Done()
			drop(forward())
		})
		reset()
		return
	default:
		resp = forward()
	}
	if resp == nil {
		reset()
		return
	}
	defer drop(resp)
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// Granted writes of every operation over a line that does everything wrong, to a marketplace that throttles and breaks, with restarts: every write gets one last result, and what
// the results say is what the channel shows.
func TestGrantedWritesFromHell(t *testing.T) {
	token(t)
	w := newWorld(t)
	l := &line{to: w.markets.ChannelURL("shop"), rng: rand.New(rand.NewPCG(3, 3))}
	srv := httptest.NewServer(l)
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	defer l.wg.Wait()
	defer srv.Close()
	w.channel(catalog.Channel{ID: "shop", BaseURL: srv.URL, BatchSize: 8, MaxInFlight: 3, TimeoutMS: 250, LateWindowMS: 400})
	if err := w.markets.SetFaults("shop", marketplace.Faults{Seed: 5, JitterMS: 2, UnavailableRate: 0.05, ThrottleRate: 0.05, ErrorRate: 0.03, ErrorAppliedRate: 0.03, ItemBusyRate: 0.05}); err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Drain = time.Second
	s := w.start(cfg)
	results, err := w.kafka.Client(w.tel.Log, "allocator", kgo.ConsumeTopics("channel.writes"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer results.Close()
	const skus, rounds = 24, 12
	type sku struct {
		open  write.Result // the write that is open
		n     int
		shown int64 // as the results say
		known bool
	}
	all := make(map[string]*sku)
	rng := rand.New(rand.NewPCG(4, 4))
	outcomes := make(map[string]int)
	grant := func(name string) {
		x := all[name]
		x.n++
		op := write.Operation(1 + rng.IntN(4))
		if !x.known {
			op = []write.Operation{write.Read, catalog.Absolute}[rng.IntN(2)]
		}
		g := granted("shop", name, fmt.Sprintf("%s-%d", name, x.n), op, 0, 0, 0)
		switch op {
		case catalog.Delta:
			g.Write.Delta = allocation.Units(1 + rng.IntN(9))
		case catalog.CompareAndSet:
			g.Write.Quantity, g.Write.Expected = allocation.Units(rng.IntN(50)), allocation.Units(x.shown+rng.Int64N(2))
		case catalog.Absolute:
			g.Write.Quantity = allocation.Units(rng.IntN(50))
		}
		x.open = write.Result{WriteID: g.Write.ID, Operation: op, Quantity: g.Write.Quantity, Delta: g.Write.Delta, Expected: g.Write.Expected}
		w.targets(g)
	}
	for i := range skus {
		name := fmt.Sprint("s", i)
		all[name] = &sku{known: true}
		grant(name)
	}
	over, restarts := 0, 0
	for over < skus {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		f := results.PollFetches(ctx)
		late := ctx.Err() != nil
		cancel()
		if late {
			t.Fatalf("no more results: %d SKUs are through", over)
		}
		for _, r := range f.Records() {
			res := mustWrite(t, r.Value)
			x := all[res.SKU]
			if res.WriteID != x.open.WriteID || (res.Outcome == write.Unknown && !res.Settled) {
				continue
			}
			if res.Operation != x.open.Operation || res.Quantity != x.open.Quantity || res.Delta != x.open.Delta || res.Expected != x.open.Expected {
				t.Fatalf("%s: not what was granted: %+v", res.WriteID, res)
			}
			outcomes[res.Outcome.String()+" "+res.ErrorCode]++
			switch res.Outcome {
			case write.Applied:
				switch res.Operation {
				case catalog.Delta:
					x.shown += int64(res.Delta)
				case write.Read:
				default:
					x.shown, x.known = int64(res.Quantity), true
				}
			case write.Unknown:
				x.known = false
			}
			if res.ShownKnown {
				if x.known && int64(res.Shown) != x.shown {
					t.Errorf("%s: told %s, shows %d, want %d", res.WriteID, res.Outcome, res.Shown, x.shown)
				}
				x.shown, x.known = int64(res.Shown), true
			}
			if got, _ := w.markets.Shown("shop", res.SKU); x.known && got != x.shown {
				t.Errorf("%s: told %s (%s), the channel shows %d, want %d", res.WriteID, res.Outcome, res.ErrorCode, got, x.shown)
			}
			x.open = write.Result{}
			if x.n < rounds {
				grant(res.SKU)
			} else {
				over++
			}
			if n := len(outcomes); n > 0 && restarts < 3 && x.n == 3*(restarts+1) {
				restarts++
				s.stop()
				s = w.start(cfg)
			}
		}
	}
	t.Log(outcomes)
	for _, want := range []string{"applied ", "unknown uncertain", "refused stale"} {
		if outcomes[want] == 0 {
			t.Errorf("nothing ended as %q", want)
		}
	}
	if got := slices.Collect(func(yield func(string) bool) {
		for name, x := range all {
			if x.n != rounds && !yield(name) {
				return
			}
		}
	}); len(got) > 0 {
		t.Errorf("SKUs without all their writes: %v", got)
	}
	w.until("all is settled", func() bool { return w.lag() == 0 })
}
