package allocator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	allocator "github.com/onhand/onhand/services/allocator"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

const partitions = 4

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ptr[T any](v T) *T { return &v }

// bench is a cluster, what was written to it, and an allocator at a time.
type bench struct {
	t       testing.TB
	cluster *kfake.Cluster
	kafka   kafka.Config
	codec   *topics.Codec
	client  *kgo.Client
	tel     *telemetry.Telemetry

	mu      sync.Mutex
	written []*allocation.Target          // every target, in order of arrival
	last    map[string]*allocation.Target // by channel/SKU
	records map[string]*kgo.Record        // by channel/SKU
	stop    func()                        // ends the allocator that runs
}

func newBench(t testing.TB) *bench {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, cluster: c, tel: telemetry.Silent(), last: map[string]*allocation.Target{}, records: map[string]*kgo.Record{}}
	b.kafka = kafka.Config{Brokers: c.ListenAddrs(), Partitions: partitions, Replication: 1}
	if b.codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if b.client, err = b.kafka.Client(b.tel.Log, "test", kgo.ProducerLinger(0)); err != nil {
		t.Fatal(err)
	}
	if err := kafka.EnsureTopics(t.Context(), b.client, 1, topics.Specs(partitions)); err != nil {
		t.Fatal(err)
	}
	reader, err := b.kafka.Client(b.tel.Log, "reader", kgo.ConsumeRegex(), kgo.ConsumeTopics(`^targets\..*`), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10*time.Millisecond), kgo.MetadataMaxAge(50*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond)) // a fetch under way does not know of new topics
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			fetches := reader.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			fetches.EachRecord(b.read)
		}
	}()
	t.Cleanup(func() {
		if b.stop != nil {
			b.stop()
		}
		reader.Close()
		<-done
		b.client.Close()
		c.Close()
	})
	return b
}

func (b *bench) read(r *kgo.Record) {
	target, err := topics.DecodeTarget(r.Value)
	if err != nil {
		b.t.Errorf("%s: %v", r.Topic, err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key := target.Channel + "/" + target.SKU
	if r.Topic != schemas.TargetsTopic(target.Channel) || string(r.Key) != target.SKU {
		b.t.Errorf("a target of %s under key %q in %s", key, r.Key, r.Topic)
	}
	b.written = append(b.written, target)
	b.last[key], b.records[key] = target, r
}

func (b *bench) start() *allocator.Service { return b.startWith(allocator.DefaultConfig()) }

func (b *bench) startWith(cfg allocator.Config) *allocator.Service {
	b.t.Helper()
	s, stop := b.launch(cfg)
	b.stop = stop
	b.until("ready", func() bool { return s.Ready(context.Background()) == nil })
	return s
}

// launch starts an allocator with a catalog view of its own, and returns how to stop it.
func (b *bench) launch(cfg allocator.Config) (*allocator.Service, func()) {
	b.t.Helper()
	view, err := catalogview.New(b.kafka, b.tel.Log)
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := allocator.New(cfg, allocator.Deps{Kafka: b.kafka, Codec: b.codec, Catalog: view, Telemetry: b.tel})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := view.Run(ctx); err != nil {
			b.t.Errorf("view: %v", err)
		}
	})
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			b.t.Errorf("allocator: %v", err)
		}
	})
	var once sync.Once
	return s, func() { once.Do(func() { cancel(); wg.Wait() }) }
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			b.t.Fatalf("never came: %s; targets %v", what, b.quantities())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (b *bench) produce(records ...*kgo.Record) {
	b.t.Helper()
	if err := b.client.ProduceSync(b.t.Context(), records...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) set(settings ...topics.Setting) {
	b.t.Helper()
	var rs []*kgo.Record
	for i := range settings {
		rs = append(rs, topics.Record(schemas.CatalogSettings, settings[i].Key(), b.codec.AppendSetting(nil, &settings[i])))
	}
	b.produce(rs...)
}

func (b *bench) remove(key string) {
	b.t.Helper()
	b.produce(&kgo.Record{Topic: schemas.CatalogSettings, Key: []byte(key)})
}

func channel(id string) topics.Setting {
	return topics.Setting{Channel: &catalog.Channel{ID: id, Adapter: "none", ListsAllSKUs: true}}
}

func (b *bench) list(l *catalog.Listing) {
	b.t.Helper()
	b.produce(topics.Record(schemas.CatalogListings, l.SKU, b.codec.AppendListing(nil, l, 1, "test")))
}

// shop sets up two channels and a warehouse.
func (b *bench) shop() {
	b.t.Helper()
	b.set(channel("amz"), channel("shop"), topics.Setting{Location: &catalog.Location{ID: "wh", Kind: catalog.Warehouse}})
}

func level(sku string, version int64, onHand ledger.Units) *ledger.Level {
	return &ledger.Level{SKU: sku, Version: version, SourceOffset: version * 10, ReceivedAt: version * 1000, OldestReceivedAt: version*1000 - 1,
		Locations: []ledger.LocationLevel{{Location: "wh", OnHand: onHand}}}
}

func (b *bench) levels(ls ...*ledger.Level) {
	b.t.Helper()
	var rs []*kgo.Record
	for _, l := range ls {
		rs = append(rs, topics.Record(schemas.StockLevels, l.SKU, b.codec.AppendLevel(nil, l)))
	}
	b.produce(rs...)
}

func (b *bench) quantities() map[string]allocation.Units {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]allocation.Units)
	for key, t := range b.last {
		if !t.Withdrawn {
			out[key] = t.Quantity
		}
	}
	return out
}

// shows waits until exactly these targets are in force.
func (b *bench) shows(want map[string]allocation.Units) {
	b.t.Helper()
	b.until(fmt.Sprint(want), func() bool { return maps.Equal(b.quantities(), want) })
}

// forgetWritten starts a new list of what is written.
func (b *bench) forgetWritten() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.written = nil
}

// wrote is what was written since, as channel/SKU, sorted.
func (b *bench) wrote() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []string{}
	for _, t := range b.written {
		out = append(out, t.Channel+"/"+t.SKU)
	}
	slices.Sort(out)
	return out
}

func (b *bench) target(key string) allocation.Target {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.last[key]; t != nil {
		return *t
	}
	b.t.Fatalf("no target %s", key)
	return allocation.Target{}
}

func TestLevelsBecomeTargets(t *testing.T) {
	b := newBench(t)
	b.shop()
	b.set(topics.Setting{Rule: &catalog.Rule{ID: "amz-buffer", Match: catalog.Match{Channel: "amz"}, Buffer: ptr(catalog.Units(2))}})
	s := b.start()
	l := level("A", 3, 10)
	l.Sold = []ledger.ChannelUnits{{Channel: "amz", Units: 5}}
	l.Restored = []ledger.ChannelUnits{{Channel: "shop", Units: 1}}
	b.levels(l)
	b.shows(map[string]allocation.Units{"amz/A": 8, "shop/A": 10})
	got := b.target("amz/A")
	if got.DecidedAt == 0 {
		t.Error("no time of decision")
	}
	got.DecidedAt = 0
	want := allocation.Target{SKU: "A", Channel: "amz", ExternalID: "A", Quantity: 8, LevelVersion: 3, SourceOffset: 30, SettingsVersion: 4, Mode: "pooled",
		Sold: 5, ReceivedAt: 3000, OldestReceivedAt: 2999,
		Explanation: []allocation.Step{{Name: "available", Units: 10, Detail: "wh 10"}, {Name: "buffer", Units: 8, Detail: "amz-buffer: 2 held back"}}}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("target\n got %+v\nwant %+v", got, want)
	}
	if got := b.target("shop/A"); got.Restored != 1 {
		t.Errorf("restored %d; want 1", got.Restored)
	}
	if st := s.Stats(); st.Levels != 1 || st.Targets != 2 || st.SKUs != 1 || st.SettingsVersion != 4 {
		t.Errorf("stats %+v", st)
	}
}

// TestRestartWritesNothingNew stops and starts, with nothing changed meanwhile; then with one SKU changed.
func TestRestartWritesNothingNew(t *testing.T) {
	b := newBench(t)
	b.shop()
	b.start()
	want := map[string]allocation.Units{}
	for i := range 50 {
		sku := fmt.Sprintf("S%02d", i)
		b.levels(level(sku, 1, ledger.Units(i)))
		want["amz/"+sku], want["shop/"+sku] = allocation.Units(i), allocation.Units(i)
	}
	b.shows(want)
	b.stop()
	b.forgetWritten()
	s := b.start()
	b.levels(level("marker", 1, 1)) // what is written before it would be seen before it, partition by partition
	b.until("the marker", func() bool { return len(b.wrote()) >= 2 })
	if got := b.wrote(); !slices.Equal(got, []string{"amz/marker", "shop/marker"}) {
		t.Errorf("a restart wrote %v", got)
	}
	b.until("figures", func() bool { return s.Stats().Targets > 0 }) // of a transaction that readers see as soon as we do
	if st := s.Stats(); st.Levels < 51 || st.SKUs != 51 || st.Targets != 2 {
		t.Errorf("stats %+v", st)
	}
	b.stop()
	b.forgetWritten()
	b.levels(level("S07", 2, 99))
	b.start()
	b.until("the change", func() bool { return len(b.wrote()) == 2 })
	if got := b.wrote(); !slices.Equal(got, []string{"amz/S07", "shop/S07"}) {
		t.Errorf("wrote %v", got)
	}
	if got := b.target("amz/S07"); got.OldestReceivedAt != 1999 {
		t.Errorf("oldest received at %d; the time since that event is the latency", got.OldestReceivedAt)
	}
}

// TestRuleMovesTheSKUsConcerned changes rules while running: by brand, by category of one SKU, and for all.
func TestRuleMovesTheSKUsConcerned(t *testing.T) {
	b := newBench(t)
	b.shop()
	for i := range 9 {
		b.list(&catalog.Listing{SKU: fmt.Sprint("S", i), Brand: fmt.Sprint("B", i%3)})
	}
	b.start()
	want := map[string]allocation.Units{}
	for i := range 9 {
		b.levels(level(fmt.Sprint("S", i), 1, 10))
		want[fmt.Sprint("amz/S", i)], want[fmt.Sprint("shop/S", i)] = 10, 10
	}
	b.shows(want)
	b.forgetWritten()
	b.set(topics.Setting{Rule: &catalog.Rule{ID: "r", Match: catalog.Match{Channel: "amz", Brand: "B1"}, CapBP: ptr(int32(5000))}})
	for _, sku := range []string{"S1", "S4", "S7"} {
		want["amz/"+sku] = 5
	}
	b.shows(want)
	if got := b.wrote(); !slices.Equal(got, []string{"amz/S1", "amz/S4", "amz/S7"}) {
		t.Errorf("the rule moved %v", got)
	}
	got := b.target("amz/S1")
	if got.OldestReceivedAt != 0 || got.ReceivedAt != 1000 || got.LevelVersion != 1 || got.SettingsVersion != 4 {
		t.Errorf("no event is behind this target, so none may count as its latency: %+v", got)
	}
	b.forgetWritten()
	b.list(&catalog.Listing{SKU: "S4", Brand: "B2"}) // out of the rule's reach
	want["amz/S4"] = 10
	b.shows(want)
	if got := b.wrote(); !slices.Equal(got, []string{"amz/S4"}) {
		t.Errorf("the listing moved %v", got)
	}
	b.remove("rule/r")
	want["amz/S1"], want["amz/S7"] = 10, 10
	b.shows(want)
}

func TestChannelComesAndGoes(t *testing.T) {
	b := newBench(t)
	b.shop()
	b.start()
	b.levels(level("A", 1, 4), level("B", 1, 6))
	b.shows(map[string]allocation.Units{"amz/A": 4, "shop/A": 4, "amz/B": 6, "shop/B": 6})
	b.set(channel("ebay"))
	b.shows(map[string]allocation.Units{"amz/A": 4, "shop/A": 4, "ebay/A": 4, "amz/B": 6, "shop/B": 6, "ebay/B": 6})
	found, err := kadm.NewClient(b.client).ListTopics(t.Context(), schemas.TargetsTopic("ebay"))
	if err != nil || len(found[schemas.TargetsTopic("ebay")].Partitions) != partitions {
		t.Errorf("the new channel's topic: %v, %v", found, err)
	}
	b.remove("channel/amz")
	b.shows(map[string]allocation.Units{"shop/A": 4, "ebay/A": 4, "shop/B": 6, "ebay/B": 6})
	if got := b.target("amz/A"); !got.Withdrawn || got.Quantity != 0 || len(got.Explanation) != 1 || got.Explanation[0].Name != "withdrawn" {
		t.Errorf("withdrawn: %+v", got)
	}
	b.set(channel("amz"))
	b.shows(map[string]allocation.Units{"amz/A": 4, "shop/A": 4, "ebay/A": 4, "amz/B": 6, "shop/B": 6, "ebay/B": 6})
	// Removed while no allocator ran.
	b.stop()
	b.remove("channel/ebay")
	b.start()
	b.shows(map[string]allocation.Units{"amz/A": 4, "shop/A": 4, "amz/B": 6, "shop/B": 6})
}

func TestListingsDecideWhoSells(t *testing.T) {
	b := newBench(t)
	b.set(topics.Setting{Channel: &catalog.Channel{ID: "some", Adapter: "none"}}, topics.Setting{Location: &catalog.Location{ID: "wh", Kind: catalog.Warehouse}})
	s := b.start()
	b.levels(level("A", 1, 4), level("B", 1, 6))
	b.until("both levels", func() bool { return s.Stats().Levels == 2 })
	b.list(&catalog.Listing{SKU: "A", Channels: []catalog.ChannelListing{{Channel: "some", ExternalID: "x-1"}}})
	b.shows(map[string]allocation.Units{"some/A": 4})
	if got := b.target("some/A"); got.ExternalID != "x-1" {
		t.Errorf("external id %q", got.ExternalID)
	}
	b.list(&catalog.Listing{SKU: "A", Channels: []catalog.ChannelListing{{Channel: "some", ExternalID: "x-2", Paused: true}}})
	b.shows(map[string]allocation.Units{"some/A": 0})
	if got := b.target("some/A"); got.ExternalID != "x-2" || got.Explanation[len(got.Explanation)-1].Name != "pause" {
		t.Errorf("paused: %+v", got)
	}
	b.produce(&kgo.Record{Topic: schemas.CatalogListings, Key: []byte("A")})
	b.shows(map[string]allocation.Units{})
}

func TestStaleLevelIsIgnored(t *testing.T) {
	b := newBench(t)
	b.shop()
	s := b.start()
	b.levels(level("A", 5, 7))
	b.shows(map[string]allocation.Units{"amz/A": 7, "shop/A": 7})
	b.forgetWritten()
	b.levels(level("A", 4, 9), level("A", 5, 9), level("A", 6, 3))
	b.shows(map[string]allocation.Units{"amz/A": 3, "shop/A": 3})
	if got := b.wrote(); len(got) != 2 {
		t.Errorf("wrote %v", got)
	}
	if st := s.Stats(); st.Stale != 2 {
		t.Errorf("stats %+v", st)
	}
}

// TestBurstCostsDistinctSKUs has a thousand levels of one SKU wait while no allocator runs.
func TestBurstCostsDistinctSKUs(t *testing.T) {
	b := newBench(t)
	b.shop()
	var ls []*ledger.Level
	for v := range 1000 {
		ls = append(ls, level("A", int64(v+1), ledger.Units(2000-v)))
	}
	b.levels(ls...)
	s := b.start()
	b.shows(map[string]allocation.Units{"amz/A": 1001, "shop/A": 1001})
	if got := b.wrote(); len(got) != 2 {
		t.Errorf("%d targets for one SKU", len(got))
	}
	if got := b.target("amz/A"); got.OldestReceivedAt != 999 || got.ReceivedAt != 1_000_000 {
		t.Errorf("received %d, oldest %d; want those of the last and the first event", got.ReceivedAt, got.OldestReceivedAt)
	}
	if st := s.Stats(); st.Levels != 1000 {
		t.Errorf("stats %+v", st)
	}
}

// TestSaleIsNewsAtTheSameQuantity: the seller's own sale lowered what it shows, so a refilled target must be written again, but only there.
func TestSaleIsNewsAtTheSameQuantity(t *testing.T) {
	b := newBench(t)
	b.shop()
	b.set(topics.Setting{Rule: &catalog.Rule{ID: "r", Max: ptr(catalog.Units(3))}})
	b.start()
	b.levels(level("A", 1, 10))
	b.shows(map[string]allocation.Units{"amz/A": 3, "shop/A": 3})
	b.forgetWritten()
	l := level("A", 2, 9)
	l.Sold = []ledger.ChannelUnits{{Channel: "amz", Units: 1}}
	b.levels(l, level("marker", 1, 1))
	b.until("the marker", func() bool { return len(b.wrote()) >= 3 })
	if got := b.wrote(); !slices.Equal(got, []string{"amz/A", "amz/marker", "shop/marker"}) {
		t.Errorf("wrote %v", got)
	}
}

// TestUnreadableLevelIsKept stops nothing, loses nothing, and is not kept again after a restart.
func TestUnreadableLevelIsKept(t *testing.T) {
	b := newBench(t)
	b.shop()
	s := b.start()
	b.levels(level("A", 1, 5))
	b.shows(map[string]allocation.Units{"amz/A": 5, "shop/A": 5})
	b.produce(&kgo.Record{Topic: schemas.StockLevels, Key: []byte("A"), Value: []byte{0xff, 0xfe}})
	b.produce(topics.Record(schemas.StockLevels, "A", b.codec.AppendLevel(nil, level("B", 1, 5))))
	b.levels(level("A", 2, 4))
	b.shows(map[string]allocation.Units{"amz/A": 4, "shop/A": 4})
	if got := s.Stats().Rejected; got != 2 {
		t.Errorf("rejected %d; want 2", got)
	}
	b.stop()
	s = b.start()
	if got := s.Stats().Rejected; got != 0 {
		t.Errorf("rejected again: %d", got)
	}
	kept := 0
	if _, err := kafka.Committed(t.Context(), b.client, map[string][]int32{schemas.StockRejected: {0, 1, 2, 3}}, nil, func(*kgo.Record) { kept++ }); err != nil {
		t.Fatal(err)
	}
	if kept != 2 {
		t.Errorf("%d records in stock.rejected; want 2", kept)
	}
}

// TestForgottenSKU: the ledger takes a level back with a null value.
func TestForgottenSKU(t *testing.T) {
	b := newBench(t)
	b.shop()
	b.start()
	b.levels(level("A", 1, 5), level("B", 1, 5))
	b.shows(map[string]allocation.Units{"amz/A": 5, "shop/A": 5, "amz/B": 5, "shop/B": 5})
	b.produce(&kgo.Record{Topic: schemas.StockLevels, Key: []byte("A")})
	b.shows(map[string]allocation.Units{"amz/B": 5, "shop/B": 5})
}

// TestTwoInstancesShareTheWork: a second one joins and takes partitions over, the first stops, and nothing is written twice or missed.
func TestTwoInstancesShareTheWork(t *testing.T) {
	b := newBench(t)
	b.shop()
	first, stopFirst := b.launch(allocator.DefaultConfig())
	defer stopFirst()
	b.until("the first", func() bool { return first.Ready(context.Background()) == nil })
	want := map[string]allocation.Units{}
	put := func(version int64, onHand ledger.Units) {
		for i := range 40 {
			sku := fmt.Sprint("S", i)
			b.levels(level(sku, version, onHand))
			want["amz/"+sku], want["shop/"+sku] = onHand, onHand
		}
		b.shows(want)
	}
	put(1, 10)
	second, stopSecond := b.launch(allocator.DefaultConfig())
	defer stopSecond()
	b.until("both", func() bool {
		return second.Ready(context.Background()) == nil && first.Ready(context.Background()) == nil &&
			first.Stats().SKUs > 0 && second.Stats().SKUs > 0 && first.Stats().SKUs+second.Stats().SKUs == 40
	})
	put(2, 9)
	owners := map[int]int{}
	for i := range 40 {
		for _, s := range []*allocator.Service{first, second} {
			owners[get(s, fmt.Sprint("S", i)).Code]++
		}
	}
	if owners[200] != 40 || owners[421] != 40 {
		t.Errorf("answers by status: %v; want 40 of 200 and 40 of 421", owners)
	}
	stopFirst()
	put(3, 8)
	if got := len(b.wrote()); got != 240 {
		t.Errorf("%d targets written; want 240: 40 SKUs, 2 channels, 3 times", got)
	}
}

func get(s *allocator.Service, sku string) *httptest.ResponseRecorder {
	r := chi.NewRouter()
	s.Routes(r)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/targets/"+sku, nil))
	return w
}

func TestAPI(t *testing.T) {
	b := newBench(t)
	b.shop()
	s := b.start()
	b.levels(level("A/1", 1, 5))
	b.shows(map[string]allocation.Units{"amz/A/1": 5, "shop/A/1": 5})
	w := get(s, "A%2F1")
	var got allocator.Answer
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got.SKU != "A/1" || len(got.Targets) != 2 || got.Targets[0].Channel != "amz" || got.Targets[0].Quantity != 5 || got.Targets[0].Explanation[0].Detail != "wh 5" {
		t.Errorf("answer %s", w.Body)
	}
	w = get(s, "nobody")
	if w.Code != http.StatusNotFound || w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(w.Body.String(), "no stock level") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestTraceGoesOn: a traced level gives traced targets under a span "allocate"; an untraced one gives none.
func TestTraceGoesOn(t *testing.T) {
	b := newBench(t)
	spans := tracetest.NewSpanRecorder()
	b.tel = b.tel.Traced(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample()))), "test")
	b.shop()
	b.start()
	r := topics.Record(schemas.StockLevels, "A", b.codec.AppendLevel(nil, level("A", 1, 5)))
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "traceparent", Value: []byte("00-" + trace + "-00f067aa0ba902b7-01")})
	b.produce(r)
	b.levels(level("B", 1, 5))
	b.shows(map[string]allocation.Units{"amz/A": 5, "shop/A": 5, "amz/B": 5, "shop/B": 5})
	b.until("the span", func() bool { return len(spans.Ended()) == 1 })
	span := spans.Ended()[0]
	if span.Name() != "allocate" || span.SpanContext().TraceID().String() != trace {
		t.Errorf("span %q of trace %s", span.Name(), span.SpanContext().TraceID())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, r := range b.records {
		var parent string
		for _, h := range r.Headers {
			if h.Key == "traceparent" {
				parent = string(h.Value)
			}
		}
		want := ""
		if strings.HasSuffix(key, "/A") {
			want = "00-" + trace + "-" + span.SpanContext().SpanID().String() + "-01"
		}
		if parent != want {
			t.Errorf("%s: traceparent %q; want %q", key, parent, want)
		}
	}
}

func TestMetricsAreServed(t *testing.T) {
	b := newBench(t)
	b.shop()
	b.start()
	b.levels(level("A", 1, 5))
	b.shows(map[string]allocation.Units{"amz/A": 5, "shop/A": 5})
	b.until("every metric", func() bool {
		rec := httptest.NewRecorder()
		b.tel.Metrics.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		for _, want := range []string{
			"onhand_allocator_batch_seconds_count{", "onhand_allocator_levels_total{", "onhand_allocator_targets_total{", "onhand_allocator_lag_records{", "onhand_allocator_rejected_records_total{",
		} {
			if !strings.Contains(rec.Body.String(), "\n"+want) {
				return false
			}
		}
		return strings.Contains(rec.Body.String(), `le="0.001"`) // buckets of seconds, not of the thousands that are the default
	})
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	err := allocator.Config{WriteMax: -1}.Validate()
	for _, want := range []string{"group", "poll-max", "write-max", "write-limit"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not mention %s", err, want)
		}
	}
	if err := allocator.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

// BenchmarkService is the whole service, in one process with the Kafka it reads and writes: SKUs changed a second, on 12 channels.
func BenchmarkService(b *testing.B) {
	const skus = 5000
	x := newBench(b)
	for i := range 12 {
		x.set(channel(fmt.Sprintf("c%02d", i)))
	}
	x.set(topics.Setting{Location: &catalog.Location{ID: "wh", Kind: catalog.Warehouse}})
	s := x.start()
	version := int64(0)
	var rs []*kgo.Record
	for b.Loop() {
		b.StopTimer()
		version++
		rs = rs[:0]
		for i := range skus {
			l := level(fmt.Sprintf("SKU-%05d", i), version, ledger.Units(1000+version%2))
			rs = append(rs, topics.Record(schemas.StockLevels, l.SKU, x.codec.AppendLevel(nil, l)))
		}
		x.forgetWritten()
		b.StartTimer()
		x.produce(rs...)
		x.until("all targets", func() bool { return s.Stats().Targets == version*skus*12 })
	}
	b.ReportMetric(float64(version*skus)/b.Elapsed().Seconds(), "SKUs/s")
	b.ReportMetric(float64(version*skus*12)/b.Elapsed().Seconds(), "targets/s")
}
