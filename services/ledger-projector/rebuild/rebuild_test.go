package rebuild

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const partitions = 3

// world is a log, a store, and a projector between them.
type world struct {
	t     *testing.T
	src   audit.Source
	codec *topics.Codec
	prod  *kgo.Client
	mini  *miniredis.Miniredis
	rng   *rand.Rand
	n     int
}

func newWorld(t *testing.T) *world {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w := &world{t: t, mini: miniredis.RunT(t), rng: rand.New(rand.NewPCG(7, 11))}
	c := redis.NewClient(&redis.Options{Addr: w.mini.Addr()})
	t.Cleanup(func() { _ = c.Close() })
	w.src = audit.Source{Kafka: kafka.Config{Brokers: cluster.ListenAddrs()}, Redis: c, Namespace: "oh", Log: slog.New(slog.DiscardHandler)}
	if w.codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if w.prod, err = w.src.Kafka.Client(w.src.Log, "test", kgo.ProducerLinger(0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.prod.Close)
	if err := kafka.EnsureTopics(t.Context(), w.prod, -1, topics.Specs(partitions)); err != nil {
		t.Fatal(err)
	}
	return w
}

// project runs a projector until the test ends, or stop is called.
func (w *world) project() (stop func()) {
	s, err := ledgerprojector.New(ledgerprojector.DefaultConfig(), ledgerprojector.Deps{Kafka: w.src.Kafka, Codec: w.codec, Redis: w.src.Redis, Telemetry: telemetry.Silent()})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("projector: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// send appends n events of all sorts, some of them twice.
func (w *world) send(n int) {
	w.t.Helper()
	var rs []*kgo.Record
	for range n {
		e := w.event()
		rs = append(rs, w.codec.EventRecord(&e))
		if w.rng.IntN(10) == 0 {
			rs = append(rs, w.codec.EventRecord(&e))
		}
	}
	if w.rng.IntN(3) == 0 {
		rs = append(rs, &kgo.Record{Topic: rs[0].Topic, Key: []byte("poison"), Value: []byte("\xff\xff")})
	}
	if err := w.prod.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) event() event.Event {
	w.n++
	now := time.Now().UnixMicro()
	order := fmt.Sprint("order-", w.rng.IntN(200))
	e := event.Event{
		ID: fmt.Sprint("event-", w.n), SKU: fmt.Sprint("SKU-", w.rng.IntN(60)), Location: []string{"berlin", "paris", "rome"}[w.rng.IntN(3)], Channel: []string{"web", "shop"}[w.rng.IntN(2)],
		OrderID: order, LineID: "1", Quantity: event.Units(1 + w.rng.IntN(5)), OccurredAt: now - int64(w.rng.IntN(1000)), ReceivedAt: now, Reference: fmt.Sprint("ref-", w.rng.IntN(40)),
		ReservationID: fmt.Sprint("hold-", w.rng.IntN(30)), ToLocation: "vienna", AsOf: now - int64(w.rng.IntN(1000)), Disposition: event.Restock,
	}
	e.Kind = []event.Kind{
		event.SaleRecorded, event.SaleRecorded, event.SaleRecorded, event.ReceiptReceived, event.ShipmentConfirmed, event.SaleCancelled, event.StockCounted, event.InboundExpected,
		event.ReservationPlaced, event.ReservationReleased, event.TransferShipped, event.StockAdjusted, event.ReturnReceived, event.SafetyStockSet,
	}[w.rng.IntN(14)]
	return e
}

// settled waits until Redis is at the log's end and is just what the log makes it.
func (w *world) settled() []audit.Partition {
	w.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		var first *audit.Difference
		got, err := audit.Verify(context.Background(), w.src, nil, 2, func(d audit.Difference) {
			if first == nil {
				first = &d
			}
		})
		behind := err != nil
		for _, p := range got {
			behind = behind || p.Offset+1 < p.End
		}
		switch {
		case first != nil:
			w.t.Fatal(first)
		case !behind:
			return got
		case time.Now().After(deadline):
			w.t.Fatalf("not settled: %+v, %v", got, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) config() Config {
	return Config{Source: w.src, Workers: 2, Group: "onhand-ledger-projector", Report: func(d Difference) { w.t.Log(d) }}
}

// keys is the generations that anything is stored of.
func (w *world) generations() map[string]bool {
	out := make(map[string]bool)
	for _, k := range w.mini.Keys() {
		_, rest, ok := strings.Cut(k, "}:")
		if !ok || rest == "live" {
			continue
		}
		g := "0"
		if name, _, ok := strings.Cut(rest, ":"); ok && strings.HasPrefix(name, "g") {
			g = name
		}
		out[g] = true
	}
	return out
}

// Events keep coming while the ledger is rebuilt, again and again. It ends as what the log makes it, nothing of the old generations is left, and all levels have been emitted.
func TestRebuildWhileEventsFlow(t *testing.T) {
	for _, from := range []From{Start, Levels} {
		t.Run(string(from), func(t *testing.T) {
			w := newWorld(t)
			w.project()
			w.send(800)
			w.settled()
			ctx, cancel := context.WithCancel(context.Background())
			var flow sync.WaitGroup
			flow.Go(func() {
				for ctx.Err() == nil {
					w.send(20)
				}
			})
			for range 2 {
				cfg := w.config()
				cfg.From = from
				res, err := Run(context.Background(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range res.Partitions {
					if !p.Switched || p.Differences > 0 {
						t.Errorf("%+v", p)
					}
				}
			}
			cancel()
			flow.Wait()
			w.send(50)
			for _, p := range w.settled() {
				if p.Generation != 2 {
					t.Errorf("partition %d is at generation %d after two rebuilds", p.Partition, p.Generation)
				}
			}
			if got := w.generations(); !reflect.DeepEqual(got, map[string]bool{"g2": true}) {
				t.Errorf("keys are left of generations %v", got)
			}
			if st, err := Underway(t.Context(), w.src.Redis, "oh"); st != nil || err != nil {
				t.Errorf("a rebuild is under way: %+v %v", st, err)
			}
		})
	}
}

var errCrash = errors.New("crashed here")

// A rebuild that dies after any step is gone on with by the next one, or ended by Abort; meanwhile the ledger serves and stays right.
func TestRebuildThatDiesIsGoneOnWith(t *testing.T) {
	for _, from := range []From{Start, Levels} {
		for _, dies := range []string{"begun", "claimed", "folding", "folded", "compared", "frozen", "caught up", "switched", "dropped"} {
			for _, abort := range []bool{false, true} {
				t.Run(fmt.Sprint(from, "/", dies, "/abort=", abort), func(t *testing.T) {
					w := newWorld(t)
					w.project()
					w.send(300)
					w.settled()
					cfg := w.config()
					cfg.From, cfg.Workers = from, 1
					died := false
					cfg.step = func(p int32, step string) error {
						if p != 0 && step == dies && !died { // the second partition, so that one is through
							died = true
							return errCrash
						}
						return nil
					}
					_, err := Run(context.Background(), cfg)
					if died != errors.Is(err, errCrash) {
						t.Fatalf("died %v: %v", died, err)
					}
					w.send(100)
					w.settled()
					if !died {
						return // small logs are folded in one batch
					}
					if abort {
						if _, _, err := Abort(context.Background(), w.src); err != nil {
							t.Fatal(err)
						}
						w.send(100)
						w.settled()
					}
					cfg.step = nil
					res, err := Run(context.Background(), cfg)
					if err != nil {
						t.Fatal(err)
					}
					if res.Resumed == abort {
						t.Errorf("resumed is %v after abort=%v", res.Resumed, abort)
					}
					w.send(50)
					w.settled()
					if got := w.generations(); len(got) != 1 || got["0"] {
						t.Errorf("keys are left of generations %v", got)
					}
				})
			}
		}
	}
}

// A ledger that was changed behind its owner's back is found, left alone unless told otherwise, and then put right.
func TestRebuildPutsRightWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	stop := w.project()
	w.send(200)
	w.settled()
	stop()
	key := ""
	for _, k := range w.mini.Keys() {
		if strings.Contains(k, ":sku:") {
			key = k
		}
	}
	w.mini.HSet(key, "available", "12345")
	var found []Difference
	cfg := w.config()
	cfg.Report = func(d Difference) { found = append(found, d) }
	if _, err := Run(t.Context(), cfg); !errors.Is(err, ErrDiffers) {
		t.Fatalf("the rebuild answers %v", err)
	}
	if len(found) != 1 || found[0].Redis != "12345" || found[0].Field != "available" || !strings.HasSuffix(key, found[0].SKU) {
		t.Errorf("it found %v", found)
	}
	cfg.AcceptDifferences = true
	if _, err := Run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	w.settled()
}

// What a levels rebuild cannot know from levels it finds in the log, as far back as that takes.
func TestLevelsAreNotEnoughForOpenItems(t *testing.T) {
	p := ledger.New(ledger.Options{})
	sale := event.Event{ID: "1", SKU: "S", Kind: event.SaleRecorded, Location: "A", Channel: "web", OrderID: "o", LineID: "1", Quantity: 3}
	p.Apply(&sale, 0, time.Now().UnixMicro())
	var l ledger.Level
	p.Level(p.SKU("S"), 0, &l)
	if ledger.New(ledger.Options{}).Adopt(&l) {
		t.Error("three units are committed, and no order line is known")
	}
	q := ledger.New(ledger.Options{})
	q.Apply(&sale, 0, time.Now().UnixMicro())
	if !q.Adopt(&l) {
		t.Error("the order line accounts for the three units")
	}
}

// From levels, the log is read as far back as ids are remembered and items are open, and no further; the result is that of a fold from the start.
func TestLevelsSpareTheOldLog(t *testing.T) {
	for name, open := range map[string]bool{"all old lines are shipped": false, "an old line is open": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			old, err := kgo.NewClient(kgo.SeedBrokers(w.src.Kafka.Brokers...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(0))
			if err != nil { // of the client's settings, a time limit would count from the record's time
				t.Fatal(err)
			}
			defer old.Close()
			at := time.Now().Add(-90 * 24 * time.Hour)
			put := func(es ...event.Event) {
				t.Helper()
				for _, e := range es {
					at = at.Add(10 * time.Minute)
					w.n++
					e.ID, e.OccurredAt, e.ReceivedAt, e.Location, e.Channel, e.LineID, e.Quantity = fmt.Sprint("event-", w.n), at.UnixMicro(), at.UnixMicro(), "berlin", "web", "1", 2
					r := w.codec.EventRecord(&e)
					r.Timestamp = at
					if err := old.ProduceSync(t.Context(), r).FirstErr(); err != nil {
						t.Fatal(err)
					}
				}
			}
			for i := range 60 { // SKUs that were sold long ago, and some that still are
				sku, order := fmt.Sprint("SKU-", i), fmt.Sprint("order-", i)
				put(event.Event{SKU: sku, Kind: event.ReceiptReceived}, event.Event{SKU: sku, Kind: event.SaleRecorded, OrderID: order})
				if !open || i%20 != 7 {
					put(event.Event{SKU: sku, Kind: event.ShipmentConfirmed, OrderID: order})
				}
			}
			at = time.Now().Add(-3 * 24 * time.Hour)
			for i := range 30 {
				sku, order := fmt.Sprint("SKU-", i*3), fmt.Sprint("late-", i)
				put(event.Event{SKU: sku, Kind: event.SaleRecorded, OrderID: order}, event.Event{SKU: sku, Kind: event.InboundExpected, Reference: order})
			}
			w.project()
			w.settled()
			ends := w.settled()
			eventually(t, func() bool { // the levels are in the topic, and it is noted
				got, err := kadm.NewClient(w.prod).FetchOffsets(t.Context(), "onhand-ledger-projector")
				for _, p := range ends {
					o, ok := got.Lookup(schemas.StockEvents, p.Partition)
					if err != nil || !ok || o.At < p.End {
						return false
					}
				}
				return true
			})
			cfg := w.config()
			cfg.From = Levels
			res, err := Run(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			far := false
			for _, p := range res.Partitions {
				if p.Differences > 0 || !p.Switched {
					t.Errorf("%+v", p)
				}
				far = far || p.Back < 20
			}
			if far != open {
				t.Errorf("read back to where old lines are: %v, %+v", far, res.Partitions)
			}
			w.settled()
			w.send(100) // and what comes after finds what it remembers
			w.settled()
		})
	}
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
