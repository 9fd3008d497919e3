package ledgerprojector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-chi/chi/v5"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPartitions = 4

// rig is a Kafka, a Redis, and a service between them.
type rig struct {
	t     testing.TB
	kafka kafka.Config
	redis redis.UniversalClient
	addr  string // of Redis
	codec *topics.Codec
	prod  *kgo.Client
	tel   *telemetry.Telemetry
	sent  int
}

func newRig(t testing.TB, redisAddr string) *rig {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	r := &rig{t: t, addr: redisAddr, kafka: kafka.Config{Brokers: cluster.ListenAddrs()}, tel: telemetry.Silent()}
	r.tel.Log = slog.New(slog.NewTextHandler(testLog{t}, nil))
	r.redis = redis.NewClient(&redis.Options{Addr: redisAddr})
	t.Cleanup(func() { _ = r.redis.Close() })
	if r.codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if r.prod, err = r.kafka.Client(r.tel.Log, "test", kgo.ProducerLinger(0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.prod.Close)
	if err := kafka.EnsureTopics(t.Context(), r.prod, -1, topics.Specs(testPartitions)); err != nil {
		t.Fatal(err)
	}
	return r
}

// testLog shows the service's log of a failed test.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	if testing.Verbose() {
		_, _ = os.Stderr.Write(b)
	}
	return len(b), nil
}

// running is a service that runs.
type running struct {
	*Service
	stop func()
}

// start runs a service; change may be nil.
func (r *rig) start(change func(*Config, *Deps)) *running {
	r.t.Helper()
	cfg, deps := DefaultConfig(), Deps{Kafka: r.kafka, Codec: r.codec, Redis: r.redis, Telemetry: r.tel}
	if change != nil {
		change(&cfg, &deps)
	}
	s, err := New(cfg, deps)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("Run: %v", err)
			}
		})
	}
	r.t.Cleanup(stop)
	return &running{s, stop}
}

func (r *rig) send(es ...event.Event) {
	r.t.Helper()
	rs := make([]*kgo.Record, len(es))
	for i := range es {
		rs[i] = r.codec.EventRecord(&es[i])
	}
	r.produce(rs...)
}

func (r *rig) produce(rs ...*kgo.Record) {
	r.t.Helper()
	if err := r.prod.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
	r.sent += len(rs)
}

func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// settled waits until Redis has folded the whole log, and returns the fold that it must equal.
func (r *rig) settled(o ledger.Options) *Fold {
	r.t.Helper()
	ends, err := kadm.NewClient(r.prod).ListEndOffsets(context.Background(), schemas.StockEvents)
	if err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "ledger catches up", func() error {
		for p := range int32(testPartitions) {
			end, _ := ends.Lookup(schemas.StockEvents, p)
			got, err := r.redis.HGet(context.Background(), hotview.Namespace("oh").Partition(p), "offset").Int64()
			if end.Offset > 0 && err != nil {
				return fmt.Errorf("partition %d: %w", p, err)
			}
			if got+1 < end.Offset {
				return fmt.Errorf("partition %d is at %d of %d", p, got, end.Offset)
			}
		}
		return nil
	})
	f, err := FoldTopic(context.Background(), r.kafka, r.tel.Log, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// check compares Redis and the newest level of each SKU in stock.levels with the fold of the log.
func (r *rig) check(o ledger.Options) *Fold {
	r.t.Helper()
	f := r.settled(o)
	want := f.Levels()
	var skus []string
	for sku := range want {
		skus = append(skus, sku)
	}
	v, err := hotview.NewReader(r.redis, "oh").Read(context.Background(), skus, where(testPartitions))
	if err != nil {
		r.t.Fatal(err)
	}
	for i, sku := range skus {
		if !same(v.Levels[i], want[sku]) {
			r.t.Errorf("redis has %+v\nthe fold is %+v", v.Levels[i], want[sku])
		}
	}
	if n, err := r.redis.HGet(context.Background(), "oh:meta", "partitions").Int(); err != nil || n != testPartitions {
		r.t.Errorf("redis says of %d partitions, %v", n, err)
	}
	for p := range int32(testPartitions) {
		n, _ := r.redis.SCard(context.Background(), fmt.Sprintf("oh:{p%d}:skus", p)).Result()
		f.partitions[p] = orEmpty(f.partitions[p])
		if int(n) != f.partitions[p].Len() {
			r.t.Errorf("redis lists %d SKUs in partition %d, the fold has %d", n, p, f.partitions[p].Len())
		}
	}
	eventually(r.t, "levels follow", func() error {
		levels := make(map[string]*ledger.Level)
		for _, rec := range r.read(schemas.StockLevels) {
			l, err := topics.DecodeLevel(rec.Value)
			if err != nil {
				r.t.Fatal(err)
			}
			if string(rec.Key) != l.SKU {
				r.t.Fatalf("key %q of the level of %q", rec.Key, l.SKU)
			}
			if levels[l.SKU] == nil || levels[l.SKU].Version < l.Version {
				levels[l.SKU] = l
			}
		}
		for sku, l := range want {
			if levels[sku] == nil || !same(levels[sku], l) {
				return fmt.Errorf("stock.levels has %+v, want %+v", levels[sku], l)
			}
		}
		return nil
	})
	return f
}

func orEmpty(p *ledger.Partition) *ledger.Partition {
	if p == nil {
		return ledger.New(ledger.Options{})
	}
	return p
}

// same compares what the log decides: not when it was applied.
func same(a, b *ledger.Level) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	for _, l := range []*ledger.Level{&x, &y} {
		l.AppliedAt, l.OldestReceivedAt, l.PreviousVersion = 0, 0, 0
		l.Sold = slices.Clone(l.Sold)
		for i := range l.Sold {
			l.Sold[i].EarliestAt = 0
		}
		if len(l.Locations) == 0 {
			l.Locations = nil
		}
		if len(l.Sold) == 0 {
			l.Sold = nil
		}
		if len(l.Restored) == 0 {
			l.Restored = nil
		}
	}
	return reflect.DeepEqual(x, y)
}

// read is all records of a topic.
func (r *rig) read(topic string) []*kgo.Record {
	r.t.Helper()
	ends, err := kadm.NewClient(r.prod).ListEndOffsets(context.Background(), topic)
	if err != nil {
		r.t.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	c, err := r.kafka.Client(r.tel.Log, "read", kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out []*kgo.Record
	for int64(len(out)) < left {
		f := c.PollFetches(ctx)
		if ctx.Err() != nil {
			r.t.Fatalf("read %s: %d of %d records", topic, len(out), left)
		}
		out = append(out, f.Records()...)
	}
	return out
}

// day is n events of a busy day: few SKUs, so that events meet, and a repeat now and then.
func day(seed uint64, n int) []event.Event {
	rng := rand.New(rand.NewPCG(seed, 7))
	now := time.Now().UnixMicro()
	out := make([]event.Event, 0, n)
	for i := range n {
		if len(out) > 0 && rng.IntN(12) == 0 {
			out = append(out, out[rng.IntN(len(out))])
			continue
		}
		k := event.Kind(1 + rng.IntN(int(event.SafetyStockSet)))
		if rng.IntN(2) == 0 {
			k = event.SaleRecorded
		}
		e := event.Event{
			ID: fmt.Sprintf("%d-%d", seed, i), SKU: fmt.Sprintf("SKU-%02d", rng.IntN(40)), Kind: k, Quantity: event.Units(1 + rng.IntN(4)),
			Location: []string{"berlin", "leipzig", "wien"}[rng.IntN(3)], Channel: []string{"web", "market", "shop"}[rng.IntN(3)],
			OrderID: fmt.Sprint("o", rng.IntN(n/3+1)), LineID: "1", Reference: fmt.Sprint("R", rng.IntN(9)), ReservationID: fmt.Sprint("H", rng.IntN(20)),
			Disposition: event.Disposition(1 + rng.IntN(4)), RestockedByChannel: rng.IntN(2) == 0, ReceivedAt: now + int64(i),
			OccurredAt: now - rng.Int64N(1e9), AsOf: now - rng.Int64N(1e9), UnitPrice: "19.99", Currency: "EUR",
		}
		if k == event.SaleRecorded && rng.IntN(3) == 0 {
			e.Location = ""
		}
		if k == event.SaleReassigned || k == event.TransferShipped {
			e.ToLocation = "graz"
		}
		out = append(out, e)
	}
	return out
}

func opts() ledger.Options { return DefaultConfig().Options() }

func TestLedgerEqualsTheFoldOfTheLog(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	es := day(1, 3000)
	for i := 0; i < len(es); i += 100 {
		r.send(es[i : i+100]...)
	}
	f := r.check(opts())
	if f.Rejected != 0 || f.Duplicates == 0 {
		t.Errorf("the fold has %d rejected and %d duplicates: the day is not as meant", f.Rejected, f.Duplicates)
	}
	st := s.Stats()
	if st.Applied != f.Applied || st.Duplicates != f.Duplicates || st.OversoldUnits != int64(f.Oversold) {
		t.Errorf("stats %+v, fold applied %d, duplicates %d, oversold %d", st, f.Applied, f.Duplicates, f.Oversold)
	}
	for p, n := range st.Lag {
		if n != 0 {
			t.Errorf("partition %d lags by %d", p, n)
		}
	}
	if st.SKUsOwned != 40 || st.LastAppliedAt.IsZero() {
		t.Errorf("stats %+v", st)
	}
	eventually(t, "ready", func() error { return s.Ready(context.Background()) })
	var oversold event.Units
	for _, rec := range r.read(schemas.StockAlerts) {
		a, err := topics.DecodeAlert(rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		if a.Kind == alert.Oversold {
			oversold += a.Units
			if a.Cause == "" || a.Message == "" || a.RaisedBy != name {
				t.Errorf("alert %+v", a)
			}
		}
	}
	if oversold != f.Oversold {
		t.Errorf("alerts say %d units are oversold, the fold says %d", oversold, f.Oversold)
	}
}

func TestRestartInMidStream(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	es := day(2, 2000)
	small := func(c *Config, _ *Deps) { c.BatchEvents, c.BatchSKUs = 37, 5 } // many batches
	for i := 0; i < len(es); i += 500 {
		s := r.start(small)
		r.send(es[i : i+500]...)
		if i%1000 == 0 {
			eventually(t, "some progress", func() error {
				if s.Stats().Applied < 100 {
					return fmt.Errorf("%d applied", s.Stats().Applied)
				}
				return nil
			})
		}
		s.stop()
	}
	r.start(small)
	r.check(opts())
}

// A process that is killed between storing and emitting leaves levels and alerts unsent: the next owner sends them.
func TestNextOwnerEmitsWhatACrashKeptBack(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	r.send(event.Event{ID: "a", SKU: "S", Kind: event.SaleRecorded, Location: "A", Channel: "web", OrderID: "o", Quantity: 3, ReceivedAt: 1})
	r.check(opts())
	s.stop()
	// The crash: a batch was stored by another owner that emitted nothing.
	ctx := context.Background()
	p := where(testPartitions)("S")
	st := hotview.NewStore(r.redis, "oh", p, "crashed", s.identity)
	m, err := st.Claim(ctx)
	if err != nil {
		t.Fatal(err)
	}
	part, _, err := st.Load(ctx, m, opts())
	if err != nil {
		t.Fatal(err)
	}
	e := event.Event{ID: "b", SKU: "S", Kind: event.SaleRecorded, Location: "A", Channel: "web", OrderID: "o2", Quantity: 2, ReceivedAt: 2}
	rec := r.codec.EventRecord(&e)
	r.produce(rec)
	part.Apply(&e, rec.Offset, rec.Timestamp.UnixMicro())
	kept := topics.Record(schemas.StockAlerts, "S", r.codec.AppendAlert(nil, &alert.Alert{ID: "kept", Kind: alert.Oversold, SKU: "S", Units: 2}))
	var step hotview.Step
	st.Prepare(part, &hotview.Batch{Prev: m.Offset, Last: rec.Offset, Outbox: [][]byte{encodeEntry(kept)}}, &step)
	if err := st.Apply(ctx, &step, hotview.Emitted{To: m.Emitted, Levels: m.Levels}); err != nil {
		t.Fatal(err)
	}
	s = r.start(nil)
	r.check(opts())
	eventually(t, "the kept alert is emitted", func() error {
		for _, rec := range r.read(schemas.StockAlerts) {
			if a, _ := topics.DecodeAlert(rec.Value); a != nil && a.ID == "kept" {
				return nil
			}
		}
		return fmt.Errorf("no such alert")
	})
	s.stop()
	if n := r.redis.LLen(ctx, fmt.Sprintf("oh:{p%d}:outbox", p)).Val(); n != 0 {
		t.Errorf("%d entries stay in the outbox after they were acknowledged", n)
	}
}

func TestRedisLosesEverythingWhileRunning(t *testing.T) {
	mr := miniredis.RunT(t)
	r := newRig(t, mr.Addr())
	s := r.start(nil)
	es := day(3, 1200)
	r.send(es[:600]...)
	r.check(opts())
	mr.FlushAll()
	r.send(es[600:]...)
	r.check(opts())
	mr.FlushAll() // and while nothing comes
	r.check(opts())
	s.stop()
	mr.FlushAll() // and while nobody looks
	r.start(nil)
	r.check(opts())
}

func TestRedisGoesBackInTime(t *testing.T) {
	mr := miniredis.RunT(t)
	r := newRig(t, mr.Addr())
	r.start(nil)
	es := day(4, 1500)
	r.send(es[:500]...)
	r.check(opts())
	snapshot := dump(t, r.redis)
	r.send(es[500:1000]...)
	r.check(opts())
	restore(t, r.redis, snapshot)
	r.check(opts()) // though nothing comes
	restore(t, r.redis, snapshot)
	r.send(es[1000:]...)
	r.check(opts())
}

// taking lets another owner take a partition, and change a SKU of it, while the partition is first loaded; before the next load it takes that back.
type taking struct {
	mr          *miniredis.Miniredis
	prefix, sku string
	loads       atomic.Int32
}

func (h *taking) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *taking) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *taking) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); len(args) > 1 && args[0] == "lrange" && args[1] == h.prefix+"locations" {
			switch h.loads.Add(1) {
			case 1:
				h.mr.HSet(h.prefix+"meta", "owner", "another")
				h.mr.HSet(h.sku, "sold:nobody", "1")
			case 2:
				h.mr.HDel(h.sku, "sold:nobody")
			}
		}
		return next(ctx, cmd)
	}
}

// A partition that another owner takes while it is loaded does not hold together as it was read. That is no damage, and no cause for alarm.
func TestStateThatChangesWhileItIsLoadedIsNotDamaged(t *testing.T) {
	mr := miniredis.RunT(t)
	r := newRig(t, mr.Addr())
	s := r.start(nil)
	es := day(8, 800)
	r.send(es[:600]...)
	r.check(opts())
	s.stop()
	h := &taking{mr: mr}
	for _, k := range mr.Keys() {
		if prefix, _, ok := strings.Cut(k, "sku:"); ok {
			h.prefix, h.sku = prefix, k
			break
		}
	}
	client := redis.NewClient(&redis.Options{Addr: mr.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	client.AddHook(h)
	r.start(func(_ *Config, d *Deps) { d.Redis = client })
	r.send(es[600:]...)
	r.check(opts())
	if n := h.loads.Load(); n < 2 {
		t.Errorf("the partition was loaded %d times; want it loaded again", n)
	}
	for _, rec := range r.read(schemas.StockAlerts) {
		if a, err := topics.DecodeAlert(rec.Value); err != nil || a.Kind == alert.LedgerMismatch {
			t.Errorf("a false alarm: %+v %v", a, err)
		}
	}
}

// dump copies all keys; restore writes them back, as a restored snapshot does.
func dump(t *testing.T, c redis.UniversalClient) map[string]any {
	t.Helper()
	ctx, out := context.Background(), make(map[string]any)
	for _, k := range c.Keys(ctx, "*").Val() {
		switch c.Type(ctx, k).Val() {
		case "hash":
			out[k] = c.HGetAll(ctx, k).Val()
		case "string":
			out[k] = c.Get(ctx, k).Val()
		case "set":
			out[k] = setOf(c.SMembers(ctx, k).Val())
		case "list":
			out[k] = c.LRange(ctx, k, 0, -1).Val()
		}
	}
	return out
}

type setOf []string

// restore has Redis be as it was, in one step, as a server is that starts with an older snapshot: its owner lives, and would write in between.
func restore(t *testing.T, c redis.UniversalClient, all map[string]any) {
	t.Helper()
	ctx := context.Background()
	if _, err := c.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.FlushAll(ctx)
		for k, v := range all {
			switch v := v.(type) {
			case map[string]string:
				tx.HSet(ctx, k, v)
			case string:
				tx.Set(ctx, k, v, 0)
			case setOf:
				tx.SAdd(ctx, k, []string(v))
			case []string:
				tx.RPush(ctx, k, v)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A second owner writes in between, as one that woke from a long pause would: each batch still counts once.
func TestZombieOwner(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	es := day(5, 900)
	r.send(es[:300]...)
	r.check(opts())
	ctx := context.Background()
	for p := range int32(testPartitions) {
		z := hotview.NewStore(r.redis, "oh", p, fmt.Sprint("zombie", p), s.identity)
		m, err := z.Claim(ctx)
		if err != nil {
			t.Fatal(err)
		}
		part, _, err := z.Load(ctx, m, opts())
		if err != nil {
			t.Fatal(err)
		}
		prev, last := m.Offset, m.Offset
		for _, e := range es[300:600] {
			if where(testPartitions)(e.SKU) != p {
				continue
			}
			rec := r.codec.EventRecord(&e)
			r.produce(rec)
			part.Apply(&e, rec.Offset, rec.Timestamp.UnixMicro())
			last = rec.Offset
		}
		// Either the zombie is quicker, or the service has claimed the partition back.
		var step hotview.Step
		z.Prepare(part, &hotview.Batch{Prev: prev, Last: last}, &step)
		err = z.Apply(ctx, &step, hotview.Emitted{To: m.Emitted, Levels: m.Levels})
		t.Logf("partition %d: the zombie's step gave %v", p, err)
	}
	r.send(es[600:]...)
	r.check(opts())
}

func TestFence(t *testing.T) {
	for name, addr := range redises(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			c := redis.NewClient(&redis.Options{Addr: addr})
			defer c.Close()
			id := hotview.Identity{Dataset: "d", TopicID: "t", Fold: "f"}
			apply := func(p *ledger.Partition, id string, offset int64) {
				e := event.Event{ID: id, SKU: "S", Kind: event.SaleRecorded, Location: "A", Channel: "web", OrderID: id, Quantity: 1}
				if res := p.Apply(&e, offset, 1_700_000_000_000_000); res.Outcome != ledger.Applied {
					t.Fatal(res)
				}
			}
			open := func(owner string) (*hotview.Store, *ledger.Partition, hotview.Meta) {
				st := hotview.NewStore(c, "fence", 0, owner, id)
				m, err := st.Claim(ctx)
				if err != nil {
					t.Fatal(err)
				}
				p, _, err := st.Load(ctx, m, ledger.Options{})
				if err != nil {
					t.Fatal(err)
				}
				return st, p, m
			}
			prepare := func(s *hotview.Store, p *ledger.Partition, prev, last int64) *hotview.Step {
				st := new(hotview.Step)
				s.Prepare(p, &hotview.Batch{Prev: prev, Last: last}, st)
				return st
			}
			one, p, m := open("one")
			if m.Offset != hotview.NoOffset {
				t.Fatalf("a new partition is at %d", m.Offset)
			}
			// Two batches are folded before the first is stored.
			apply(p, "a", 0)
			first := prepare(one, p, -1, 0)
			apply(p, "b", 1)
			second := prepare(one, p, 0, 1)
			if err := one.Apply(ctx, second, hotview.Emitted{To: -1, Levels: -1}); !errors.Is(err, hotview.ErrStale) {
				t.Errorf("a batch before the one it was folded on gave %v", err)
			}
			// An answer was lost and the batch is sent again: applied once.
			for range 2 {
				if err := one.Apply(ctx, first, hotview.Emitted{To: -1, Levels: -1}); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := one.Apply(ctx, second, hotview.Emitted{To: -1, Levels: -1}); err != nil {
					t.Fatalf("a step sent again: %v", err)
				}
			}
			if err := one.Apply(ctx, first, hotview.Emitted{To: -1, Levels: -1}); err != nil {
				t.Fatalf("an old step sent again: %v", err)
			}
			two, q, _ := open("two")
			apply(p, "c", 2)
			if err := one.Apply(ctx, prepare(one, p, 1, 2), hotview.Emitted{To: -1, Levels: -1}); !errors.Is(err, hotview.ErrOwner) {
				t.Errorf("the old owner's step gave %v", err)
			}
			apply(q, "c", 2)
			if err := two.Apply(ctx, prepare(two, q, 0, 2), hotview.Emitted{To: -1, Levels: -1}); !errors.Is(err, hotview.ErrStale) {
				t.Errorf("a step that started from another offset gave %v", err)
			}
			two, q, _ = open("two")
			apply(q, "c", 2)
			if err := two.Apply(ctx, prepare(two, q, 1, 2), hotview.Emitted{To: -1, Levels: -1}); err != nil {
				t.Errorf("the new owner's step: %v", err)
			}
			got, err := hotview.NewReader(c, "fence").Read(ctx, []string{"S"}, func(string) int32 { return 0 })
			if err != nil || got.Levels[0].Version != 3 || got.Levels[0].Sold[0].Units != 3 || got.Applied[0] != 2 {
				t.Errorf("got %+v, %v", got, err)
			}
			if keys := c.Keys(ctx, "fence:*").Val(); len(keys) == 0 {
				t.Error("no keys")
			}
			if err := two.Clear(ctx); err != nil {
				t.Fatal(err)
			}
			if keys := c.Keys(ctx, "fence:*").Val(); len(keys) != 2 { // meta and live
				t.Errorf("after clearing there are %v", keys)
			}
		})
	}
}

// redises is the embedded Redis and a real one.
func redises(t testing.TB) map[string]string {
	return map[string]string{"embedded": miniredis.RunT(t).Addr(), "real": realRedis(t)}
}

// freePort is a port of the loopback that nobody has at the moment.
func freePort(t testing.TB) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr)
}

// realRedis runs redis-server on a free port of the loopback.
func realRedis(t testing.TB, more ...string) string {
	t.Helper()
	addr := freePort(t)
	cmd := exec.Command("redis-server", append([]string{"--port", fmt.Sprint(addr.Port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir(),
		"--logfile", filepath.Join(t.TempDir(), "redis.log")}, more...)...)
	if err := cmd.Start(); err != nil {
		t.Fatalf("redis-server must be installed (apt install redis-server): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := redis.NewClient(&redis.Options{Addr: addr.String()})
	defer c.Close()
	eventually(t, "redis-server answers", func() error { return c.Ping(context.Background()).Err() })
	return addr.String()
}

// redisCluster is a Redis Cluster of three nodes on the loopback, each with a third of the slots.
func redisCluster(t testing.TB) *redis.ClusterClient {
	t.Helper()
	ctx := context.Background()
	const nodes, slots = 3, 16384
	var addrs []string
	var first, bus string
	for n := range nodes {
		port := fmt.Sprint(freePort(t).Port)
		addr := realRedis(t, "--cluster-enabled", "yes", "--cluster-port", port, "--cluster-node-timeout", "2000")
		c := redis.NewClient(&redis.Options{Addr: addr})
		defer c.Close()
		if err := c.ClusterAddSlotsRange(ctx, n*slots/nodes, (n+1)*slots/nodes-1).Err(); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first, bus = addr, port
		} else if err := c.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", first[strings.LastIndexByte(first, ':')+1:], bus).Err(); err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, addr)
	}
	for _, addr := range addrs {
		c := redis.NewClient(&redis.Options{Addr: addr})
		defer c.Close()
		eventually(t, "the nodes of the cluster know each other", func() error {
			info, err := c.ClusterInfo(ctx).Result()
			if err == nil && (!strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_size:3")) {
				err = errors.New(info)
			}
			return err
		})
	}
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
}

// In a Redis Cluster all keys of a partition are in one slot, and reads of SKUs in several are one pipeline to each node.
func TestOnARedisCluster(t *testing.T) {
	r := newRig(t, "")
	_ = r.redis.Close()
	r.redis = redisCluster(t) // the rig closes it
	s := r.start(nil)
	es := day(8, 2000)
	r.send(es[:1500]...)
	r.check(opts())
	s.stop()
	s = r.start(nil)
	r.send(es[1500:]...)
	r.check(opts())
	used := make(map[int64]bool)
	for p := range int32(testPartitions) {
		slot, err := r.redis.ClusterKeySlot(context.Background(), hotview.Namespace("oh").Live(p)).Result()
		if err != nil {
			t.Fatal(err)
		}
		used[slot/(16384/3)] = true
	}
	if len(used) < 2 {
		t.Fatalf("the partitions are all on one node: %v", used)
	}
	body := `{"skus":["none"`
	skus := r.settled(opts()).Levels()
	for sku := range skus {
		body += `,"` + sku + `"`
	}
	w := httptest.NewRecorder()
	s.postAvailability(w, httptest.NewRequest(http.MethodPost, "/v1/availability", strings.NewReader(body+"]}")))
	var b BatchResponse
	if err := json.NewDecoder(w.Body).Decode(&b); err != nil || len(b.Items) != len(skus) || len(b.Unknown) != 1 || len(b.View) != testPartitions {
		t.Errorf("%d: %d of %d SKUs, %d unknown, view %v, %v", w.Code, len(b.Items), len(skus), len(b.Unknown), b.View, err)
	}
}

func TestOnRealRedis(t *testing.T) {
	r := newRig(t, realRedis(t))
	s := r.start(nil)
	es := day(6, 2000)
	r.send(es[:1000]...)
	r.check(opts())
	if err := r.redis.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	r.send(es[1000:1500]...)
	r.check(opts())
	s.stop()
	r.start(nil)
	r.send(es[1500:]...)
	r.check(opts())
}

func TestRedisOutOfReach(t *testing.T) {
	mr := miniredis.RunT(t)
	r := newRig(t, mr.Addr())
	s := r.start(nil)
	es := day(7, 400)
	r.send(es[:200]...)
	r.check(opts())
	mr.SetError("LOADING Redis is loading the dataset in memory")
	r.send(es[200:]...)
	eventually(t, "the service says that it is not ready", func() error {
		if s.Ready(context.Background()) == nil {
			return fmt.Errorf("it says it is")
		}
		return nil
	})
	mr.SetError("")
	r.check(opts())
}

func TestPoisonNeverStopsAPartition(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	good := event.Event{ID: "g", SKU: "S", Kind: event.SaleRecorded, Location: "A", Channel: "web", OrderID: "o", Quantity: 1, ReceivedAt: 5}
	bad := func(change func(*event.Event)) *kgo.Record {
		e := good
		e.ID = "bad"
		change(&e)
		return r.codec.EventRecord(&e)
	}
	wrongKey := bad(func(*event.Event) {})
	wrongKey.Key = []byte("T")
	r.produce(
		&kgo.Record{Topic: schemas.StockEvents, Key: []byte("S"), Value: []byte("\xff\xff poison"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}},
		&kgo.Record{Topic: schemas.StockEvents, Key: []byte("S")},
		bad(func(e *event.Event) { e.Kind = 77 }),
		bad(func(e *event.Event) { e.Quantity = 1 << 40 }),
		bad(func(e *event.Event) { e.Channel = "" }),
		wrongKey,
		r.codec.EventRecord(&good),
	)
	r.check(opts())
	want := map[string]int{"undecodable": 2, "unknown_kind": 1, "absurd_quantity": 1, "invalid": 1, "key_mismatch": 1}
	eventually(t, "rejected records", func() error {
		got := map[string]int{}
		for _, rec := range r.read(schemas.StockRejected) {
			rej, err := topics.DecodeRejected(rec.Value)
			if err != nil {
				t.Fatal(err)
			}
			got[rej.Reason]++
			if k := string(rec.Key); k != "S" && (k != "T" || rej.Reason != "key_mismatch") {
				t.Fatalf("rejected under the key %q: %+v", k, rej)
			}
			if rej.Topic != schemas.StockEvents || rej.Detail == "" || rej.RejectedBy != name {
				t.Fatalf("rejected %+v", rej)
			}
			if rej.Reason == "undecodable" && len(rej.Value) > 0 && (string(rej.Value) != "\xff\xff poison" || len(rej.Headers) != 1) {
				t.Fatalf("the bytes were not kept: %+v", rej)
			}
		}
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return nil
	})
	if st := s.Stats(); st.Rejected != 6 || st.Applied != 1 {
		t.Errorf("stats %+v", st)
	}
}

// Three instances share the partitions, come and go, and each event still counts once.
func TestPartitionsMoveBetweenInstances(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	es := day(8, 2400)
	var s []*running
	for i := 0; i < len(es); i += 200 {
		switch (i / 200) % 4 {
		case 0, 1:
			s = append(s, r.start(func(c *Config, _ *Deps) { c.BatchEvents = 53 }))
		case 3:
			s[0].stop()
			s = s[1:]
		}
		r.send(es[i : i+200]...)
	}
	r.check(opts())
}

func TestOtherSettingsFoldAnew(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	r.send(day(9, 300)...)
	r.check(opts())
	s.stop()
	change := func(c *Config, _ *Deps) { c.MaxQuantity = 2 }
	r.start(change)
	cfg := DefaultConfig()
	change(&cfg, nil)
	eventually(t, "the ledger is the fold with the new limit", func() error {
		f := r.settled(cfg.Options())
		for sku, l := range f.Levels() {
			v, err := hotview.NewReader(r.redis, "oh").Read(context.Background(), []string{sku}, where(testPartitions))
			if err != nil {
				return err
			}
			if got := v.Levels[0]; !same(got, l) {
				return fmt.Errorf("%s is %+v, want %+v", sku, got, l)
			}
		}
		return nil
	})
}

func TestTraceGoesThrough(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	tel := r.tel.Traced(provider, "test")
	r.start(func(_ *Config, d *Deps) { d.Telemetry = tel })
	ctx, span := tel.Tracer.Start(context.Background(), "sale")
	e := event.Event{ID: "g", SKU: "S", Kind: event.SaleRecorded, Location: "A", Channel: "web", OrderID: "o", Quantity: 1, ReceivedAt: 5}
	rec := r.codec.EventRecord(&e)
	telemetry.Inject(ctx, rec)
	r.produce(rec)
	span.End()
	r.check(opts())
	level := r.read(schemas.StockLevels)[0]
	want := span.SpanContext().TraceID().String()
	found := ""
	for _, h := range level.Headers {
		if h.Key == "traceparent" {
			found = string(h.Value)
		}
	}
	if !strings.Contains(found, want) {
		t.Errorf("the level carries %q, want trace %s", found, want)
	}
	eventually(t, "the span ends", func() error {
		for _, sp := range spans.GetSpans() {
			if sp.Name == "ledger apply" && sp.Parent.TraceID().String() == want {
				return nil
			}
		}
		return fmt.Errorf("no span")
	})
}

func TestAvailabilityAPI(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	asked := 0
	s := r.start(func(_ *Config, d *Deps) {
		d.Middleware = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++; h.ServeHTTP(w, r) })
		}
	})
	r.send(
		event.Event{ID: "1", SKU: "A/1", Kind: event.ReceiptReceived, Location: "berlin", Quantity: 9, ReceivedAt: 1e15},
		event.Event{ID: "2", SKU: "A/1", Kind: event.SaleRecorded, Location: "wien", Channel: "web", OrderID: "o", Quantity: 2, ReceivedAt: 2e15},
		event.Event{ID: "3", SKU: "B", Kind: event.ReceiptReceived, Location: "berlin", Quantity: 4, ReceivedAt: 3e15},
	)
	r.check(opts())
	router := chi.NewRouter()
	s.Routes(router)
	ask := func(method, path, body string, header ...string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		router.ServeHTTP(w, req)
		return w
	}
	w := ask("GET", "/v1/availability/A%2F1", "")
	var a Availability
	if err := json.NewDecoder(w.Body).Decode(&a); err != nil || w.Code != 200 {
		t.Fatal(w.Code, err)
	}
	if a.SKU != "A/1" || a.Version != 2 || a.Available != 7 || len(a.Locations) != 2 || a.Sold["web"] != 2 || a.LastEvent.Kind != "sale_recorded" || w.Header().Get("ETag") != `"2"` {
		t.Errorf("got %+v, ETag %s", a, w.Header().Get("ETag"))
	}
	if w := ask("GET", "/v1/availability/A%2F1", "", "If-None-Match", `"1", W/"2"`); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("known version: %d", w.Code)
	}
	w = ask("GET", "/v1/availability/A%2F1?location=wien", "")
	if _ = json.NewDecoder(w.Body).Decode(&a); a.Available != -2 || len(a.Locations) != 1 {
		t.Errorf("at wien: %+v", a)
	}
	for _, x := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/availability/none", "", 404}, {"GET", "/v1/availability/B?location=mars", "", 404}, {"POST", "/v1/availability", "{", 400},
		{"POST", "/v1/availability", `{"skus":[]}`, 422}, {"POST", "/v1/availability", `{"sku":["B"]}`, 400},
		{"POST", "/v1/availability", `{"skus":["x"` + strings.Repeat(`,"x"`, 5000) + `]}`, 422},
		{"POST", "/v1/availability", `{"skus":["` + strings.Repeat("x", 2<<20) + `"]}`, 413},
	} {
		w := ask(x.method, x.path, x.body)
		var p Problem
		if err := json.NewDecoder(w.Body).Decode(&p); err != nil || w.Code != x.status || p.Status != x.status || p.Detail == "" || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s %.20s: %d %+v %v", x.method, x.path, x.body, w.Code, p, err)
		}
	}
	w = ask("POST", "/v1/availability", `{"skus":["B","none","A/1"]}`)
	var b BatchResponse
	if err := json.NewDecoder(w.Body).Decode(&b); err != nil || w.Code != 200 || len(b.Items) != 2 || b.Items[0].SKU != "B" || b.Items[1].Available != 7 || len(b.Unknown) != 1 {
		t.Errorf("batch: %d %+v %v", w.Code, b, err)
	}
	for _, a := range b.Items { // the view is at least where the SKUs' own last events are
		if p := where(testPartitions)(a.SKU); !slices.ContainsFunc(b.View, func(v ViewOffset) bool { return v.Partition == p && v.Offset >= a.SourceOffset }) {
			t.Errorf("view %+v is behind %+v", b.View, a)
		}
	}
	tag := w.Header().Get("ETag")
	query := "/v1/availability?sku=B&sku=none&sku=A%2F1"
	for _, x := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/availability", `{"skus":["B","none","A/1"]}`, 304}, {"GET", query, "", 304}, {"GET", query + "&location=wien", "", 200}, {"GET", "/v1/availability?sku=B&sku=A%2F1", "", 200},
		{"GET", "/v1/availability", "", 422},
	} {
		if w := ask(x.method, x.path, x.body, "If-None-Match", tag); w.Code != x.status || (x.status == 304) != (w.Body.Len() == 0) {
			t.Errorf("%s %s with a known tag: %d, want %d", x.method, x.path, w.Code, x.status)
		}
	}
	view := ask("GET", "/v1/availability/B", "").Header().Get("Onhand-View")
	r.send(event.Event{ID: "4", SKU: "B", Kind: event.ReceiptReceived, Location: "berlin", Quantity: 1, ReceivedAt: 4e15})
	r.check(opts())
	if w := ask("GET", query, "", "If-None-Match", tag); w.Code != 200 || w.Header().Get("ETag") == tag {
		t.Errorf("after a change: %d, tag %s", w.Code, w.Header().Get("ETag"))
	}
	if w := ask("GET", "/v1/availability/B", "", "If-None-Match", `"1"`); w.Code != 200 || w.Header().Get("ETag") != `"2"` || w.Header().Get("Onhand-View") == view {
		t.Errorf("after a change: %d %v, before it was at %s", w.Code, w.Header(), view)
	}
	if asked == 0 {
		t.Error("the middleware was passed by")
	}
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	c := Config{Namespace: "a{b", Window: time.Second, BatchEvents: -1, BatchSKUs: 1, BatchLimit: 1}
	err := c.Validate()
	for _, want := range []string{"namespace", "group", "window", "batch-events", "drain"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in: %v", want, err)
		}
	}
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	if _, err := New(DefaultConfig(), Deps{}); err == nil {
		t.Error("a service without parts was made")
	}
}
