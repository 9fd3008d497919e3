package channelpusher

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/simulators/marketplace"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPartitions = 4

// world is a Kafka cluster, marketplaces and a catalog; services come and go in it.
type world struct {
	t        testing.TB
	kafka    kafka.Config
	codec    *topics.Codec
	client   *kgo.Client // the allocator's and the tests' own
	markets  *marketplace.Server
	tel      *telemetry.Telemetry
	channels map[string]bool
	version  int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SleepOutOfOrder())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w := &world{t: t, kafka: kafka.Config{Brokers: cluster.ListenAddrs(), Partitions: testPartitions, Replication: -1}, tel: telemetry.Silent(), channels: make(map[string]bool)}
	if w.codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if w.client, err = w.kafka.Client(w.tel.Log, "test", kgo.ProducerLinger(0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	if err := kafka.EnsureTopics(t.Context(), w.client, -1, topics.Specs(testPartitions)); err != nil {
		t.Fatal(err)
	}
	if w.markets, err = marketplace.New(marketplace.Config{Seed: 7, Token: "sesame"}); err != nil {
		t.Fatal(err)
	}
	if err := w.markets.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := w.markets.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

// channel puts a channel's settings into force and makes its topic.
func (w *world) channel(c catalog.Channel) {
	w.t.Helper()
	if c.Adapter == "" {
		c.Adapter = "http"
	}
	if c.BaseURL == "" {
		c.BaseURL = w.markets.ChannelURL(c.ID)
	}
	if c.TokenSecret == "" {
		c.TokenSecret = "test-market"
	}
	if !w.channels[c.ID] {
		w.channels[c.ID] = true
		if err := kafka.EnsureTopics(w.t.Context(), w.client, -1, []kafka.Topic{topics.TargetsSpec(c.ID, testPartitions)}); err != nil {
			w.t.Fatal(err)
		}
	}
	s := topics.Setting{Channel: &c}
	w.produce(topics.Record(schemas.CatalogSettings, s.Key(), w.codec.AppendSetting(nil, &s)))
}

func (w *world) produce(records ...*kgo.Record) {
	w.t.Helper()
	if err := w.client.ProduceSync(w.t.Context(), records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) record(t allocation.Target) *kgo.Record {
	if t.LevelVersion == 0 {
		w.version++
		t.LevelVersion = w.version
	}
	now := time.Now().UnixMicro()
	if t.OldestReceivedAt == 0 {
		t.ReceivedAt, t.OldestReceivedAt, t.DecidedAt = now, now, now
	}
	return topics.Record(schemas.TargetsTopic(t.Channel), t.SKU, w.codec.AppendTarget(nil, &t))
}

func (w *world) targets(ts ...allocation.Target) {
	w.t.Helper()
	var rs []*kgo.Record
	for _, t := range ts {
		rs = append(rs, w.record(t))
	}
	w.produce(rs...)
}

// running is a service with its catalog view.
type running struct {
	*Service
	w    *world
	stop func()
}

func quick() Config {
	c := DefaultConfig()
	c.AllowPrivate, c.CommitEvery, c.DriftSample = true, 20*time.Millisecond, 0
	c.BreakerDelay = 50 * time.Millisecond
	return c
}

func (w *world) start(cfg Config) *running {
	w.t.Helper()
	view, err := catalogview.New(w.kafka, w.tel.Log)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := New(cfg, Deps{Kafka: w.kafka, Codec: w.codec, Catalog: view, Telemetry: w.tel})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- view.Run(ctx) }()
	go func() { done <- s.Run(ctx) }()
	stopped := false
	r := &running{Service: s, w: w}
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		}
	}
	w.t.Cleanup(r.stop)
	return r
}

// until waits for a condition; what says what was waited for.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (w *world) shows(ch, sku string, q int64) {
	w.t.Helper()
	var got int64
	var ok bool
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%s shows %d of %s (listed: %v)", ch, got, sku, ok)
		}
	}()
	w.until(fmt.Sprintf("%s shows %d of %s", ch, q, sku), func() bool {
		got, ok = w.markets.Shown(ch, sku)
		return got == q && (ok || q == 0) // a delta of nothing lists nothing
	})
}

// lag is how many targets the group has not settled.
func (w *world) lag() int64 {
	adm := kadm.NewClient(w.client)
	lags, err := adm.Lag(w.t.Context(), Group)
	if err != nil {
		return -1
	}
	l, ok := lags[Group]
	if !ok || l.Error() != nil {
		return -1
	}
	return l.Lag.Total()
}

// read is all records of a topic.
func (w *world) read(topic string) []*kgo.Record {
	w.t.Helper()
	ends, err := kadm.NewClient(w.client).ListEndOffsets(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	var want int64
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	c, err := w.kafka.Client(w.tel.Log, "reader", kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	var out []*kgo.Record
	for int64(len(out)) < want {
		f := c.PollFetches(w.t.Context())
		if err := f.Err(); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, f.Records()...)
	}
	return out
}

func (w *world) writes() []write.Result {
	w.t.Helper()
	var out []write.Result
	for _, r := range w.read(schemas.ChannelWrites) {
		x, err := topics.DecodeWrite(r.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, *x)
	}
	return out
}

func (w *world) alerts() []alert.Alert {
	w.t.Helper()
	var out []alert.Alert
	for _, r := range w.read(schemas.StockAlerts) {
		x, err := topics.DecodeAlert(r.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, *x)
	}
	return out
}

func token(t testing.TB) {
	t.Helper()
	type setter interface{ Setenv(k, v string) }
	t.(setter).Setenv("ONHAND_SECRET_TEST_MARKET", "sesame")
}

func TestWritesTargetsAndReports(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop", Operation: catalog.Absolute, BatchSize: 50})
	s := w.start(quick())
	var ts []allocation.Target
	for i := range 120 {
		ts = append(ts, allocation.Target{SKU: fmt.Sprintf("sku-%d", i), Channel: "shop", Quantity: allocation.Units(i), Sold: 3, SourceOffset: 17, SettingsVersion: 4})
	}
	w.targets(ts...)
	for i := range 120 {
		w.shows("shop", fmt.Sprintf("sku-%d", i), int64(i))
	}
	w.until("all is settled", func() bool { return w.lag() == 0 })
	if err := s.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	results := w.writes()
	if len(results) != 120 {
		t.Fatalf("%d results, want 120", len(results))
	}
	ids := make(map[string]bool)
	for _, r := range results {
		ids[r.WriteID] = true
		if r.Outcome != write.Applied || r.Channel != "shop" || !r.ShownKnown || r.Shown != r.Quantity || r.SourceOffset != 17 || r.SettingsVersion != 4 || r.LevelVersion == 0 {
			t.Errorf("result %+v", r)
		}
		if !(r.OldestReceivedAt > 0 && r.OldestReceivedAt <= r.ReceivedAt && r.ReceivedAt <= r.DecidedAt && r.DecidedAt <= r.SentAt && r.SentAt <= r.AckedAt) {
			t.Errorf("time stamps of %+v", r)
		}
	}
	if len(ids) != 120 {
		t.Errorf("%d write ids for 120 writes", len(ids))
	}
	st := s.Stats()
	if st.Applied != 120 || st.Backlog != 0 || st.InFlight != 0 || st.Latency.Count != 120 || len(st.Recent) != 20 {
		t.Errorf("stats %+v", st)
	}
}

func TestRestartLosesNothingAndRepeatsNothing(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop", BatchSize: 5, MaxInFlight: 1, RatePerSecond: "40", Burst: 1})
	s := w.start(quick())
	want := make(map[string]int64)
	rng := rand.New(rand.NewPCG(1, 2))
	send := func(n int) {
		var ts []allocation.Target
		for range n {
			sku, q := fmt.Sprintf("sku-%d", rng.IntN(60)), rng.Int64N(100)
			want[sku] = q
			ts = append(ts, allocation.Target{SKU: sku, Channel: "shop", Quantity: allocation.Units(q)})
		}
		w.targets(ts...)
	}
	for range 4 {
		send(80)
		before := s.Stats().Applied
		w.until("some are written", func() bool { return s.Stats().Applied >= before+10 })
		s.stop()
		s = w.start(quick())
	}
	w.until("all is settled", func() bool { return w.lag() == 0 })
	for sku, q := range want {
		w.shows("shop", sku, q)
	}
	// A write is repeated only if it was cut off by a stop: at most the requests then under way.
	if n := len(w.writes()); n > 320+4*5 {
		t.Errorf("%d writes for 320 targets", n)
	}
	s.stop()
	n := w.markets.Stats()[0].Writes
	s = w.start(quick())
	w.until("the remembered targets are there", func() bool { st := s.Stats(); return len(st.Channels) > 0 && st.Channels[0].SKUs == len(want) })
	if err := s.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := w.markets.Stats()[0].Writes; again != n {
		t.Errorf("a restart with nothing to do wrote %d items", again-n)
	}
}

func TestBadTargetsAreKeptAndPassed(t *testing.T) {
	token(t)
	w := newWorld(t)
	w.channel(catalog.Channel{ID: "shop"})
	s := w.start(quick())
	topic := schemas.TargetsTopic("shop")
	w.produce(topics.Record(topic, "x", []byte{0xff, 0xff, 0xff}))
	w.produce(topics.Record(topic, "y", w.codec.AppendTarget(nil, &allocation.Target{SKU: "y", Channel: "other"})))
	w.targets(allocation.Target{SKU: "x", Channel: "shop", Quantity: 4})
	w.shows("shop", "x", 4)
	w.until("all is settled", func() bool { return w.lag() == 0 })
	rejected := w.read(schemas.StockRejected)
	if len(rejected) != 2 || s.Stats().Rejected != 2 {
		t.Fatalf("%d rejected records", len(rejected))
	}
	for _, r := range rejected {
		x, err := topics.DecodeRejected(r.Value)
		if err != nil || x.Topic != topic || x.RejectedBy != service || (string(x.Key) == "x" && string(x.Value) != "\xff\xff\xff") || !strings.Contains(x.Reason, "undecodable") {
			t.Errorf("rejected %+v %v", x, err)
		}
	}
}

func mustWrite(t testing.TB, value []byte) *write.Result {
	t.Helper()
	x, err := topics.DecodeWrite(value)
	if err != nil {
		t.Fatal(err)
	}
	return x
}
