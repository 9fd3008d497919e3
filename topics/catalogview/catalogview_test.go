package catalogview

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a cluster with the catalog topics, and a view of them.
type rig struct {
	t      *testing.T
	cfg    kafka.Config
	client *kgo.Client
	codec  *topics.Codec
	log    strings.Builder
	mu     sync.Mutex // of log
}

func (r *rig) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	r := &rig{t: t, cfg: kafka.Config{Brokers: cluster.ListenAddrs(), Partitions: 3, Replication: 1}, codec: &topics.Codec{}}
	if r.client, err = r.cfg.Client(slog.New(slog.DiscardHandler), "test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	if err := kafka.EnsureTopics(t.Context(), r.client, 1, topics.Specs(3)); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) produce(records ...*kgo.Record) {
	r.t.Helper()
	if err := r.client.ProduceSync(r.t.Context(), records...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) setting(s topics.Setting) *kgo.Record {
	return topics.Record(schemas.CatalogSettings, s.Key(), r.codec.AppendSetting(nil, &s))
}

func (r *rig) channel(id, name string) *kgo.Record {
	return r.setting(topics.Setting{Channel: &catalog.Channel{ID: id, Name: name}})
}

func (r *rig) listing(sku, title string) *kgo.Record {
	return topics.Record(schemas.CatalogListings, sku, r.codec.AppendListing(nil, &catalog.Listing{SKU: sku, Title: title}, 1, "test"))
}

// start runs a view until the test ends.
func (r *rig) start(onChange func(*View, Change)) *View {
	r.t.Helper()
	v, err := New(r.cfg, slog.New(slog.NewTextHandler(r, nil)))
	if err != nil {
		r.t.Fatal(err)
	}
	if onChange != nil {
		v.OnChange(func(c Change) { onChange(v, c) })
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	r.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	return v
}

func (r *rig) ready(v *View) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if err := v.WaitReady(ctx); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited too long until %s; log:\n%s", what, r.logged())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAnEmptyCatalogIsReady(t *testing.T) {
	r := newRig(t)
	v := r.start(nil)
	r.ready(v)
	if s := v.Settings(); len(s.Channels)+len(s.Locations)+len(s.Rules) != 0 || v.Listing("A") != nil {
		t.Errorf("%+v", s)
	}
}

// A view is ready when it holds all that was there when it began, and not before.
func TestReadyMeansWhole(t *testing.T) {
	r := newRig(t)
	var records []*kgo.Record
	for _, id := range strings.Fields("a b c d e f") {
		records = append(records, r.channel(id, "old"), r.channel(id, "new"))
		for i := range 200 {
			records = append(records, r.listing(id+string(rune('A'+i%26))+strings.Repeat("x", i/26), id))
		}
	}
	records = append(records, r.setting(topics.Setting{Location: &catalog.Location{ID: "hq"}}), r.setting(topics.Setting{Rule: &catalog.Rule{ID: "floor"}}))
	r.produce(records...)
	v, err := New(r.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	if err := v.WaitReady(expired()); err == nil {
		t.Error("ready before it ran")
	}
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	r.ready(v)
	s := v.Settings()
	if ids := slices.Sorted(maps.Keys(s.Channels)); strings.Join(ids, " ") != "a b c d e f" || s.Channels["a"].Name != "new" || s.Locations["hq"] == nil || s.Rules["floor"] == nil {
		t.Errorf("settings %+v", s)
	}
	n, most := 0, 0
	v.Listings(func(*catalog.Listing) bool { n++; return true })
	v.Listings(func(*catalog.Listing) bool { most++; return most < 3 })
	if n != 6*200 || most != 3 {
		t.Errorf("%d listings, want 1200; %d until told to stop, want 3", n, most)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("a requested stop returned %v", err)
	}
}

func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Listeners hear of a change once it can be read, and what a reader holds never changes under it.
func TestChangesAndDeletions(t *testing.T) {
	r := newRig(t)
	r.produce(r.channel("shop", "one"), r.listing("A", "first"))
	var mu sync.Mutex
	var heard []Change
	var seen []string // the channel's name, as a listener can read it
	v := r.start(func(v *View, c Change) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, c)
		if ch := v.Settings().Channels["shop"]; c.Settings && ch != nil {
			seen = append(seen, ch.Name)
		}
	})
	r.ready(v)
	before := v.Settings()
	r.produce(r.channel("shop", "two"))
	r.until("the change is there", func() bool { return v.Settings().Channels["shop"].Name == "two" })
	if before.Channels["shop"].Name != "one" || v.Settings().Version <= before.Version {
		t.Errorf("before: %+v, version %d; now version %d", before.Channels["shop"], before.Version, v.Settings().Version)
	}
	r.produce(r.listing("A", "second"), r.listing("B", "new"))
	r.until("the listings are there", func() bool { return v.Listing("A").Title == "second" && v.Listing("B") != nil })

	r.produce(&kgo.Record{Topic: schemas.CatalogSettings, Key: []byte("channel/shop")}, &kgo.Record{Topic: schemas.CatalogListings, Key: []byte("A")},
		&kgo.Record{Topic: schemas.CatalogSettings, Key: []byte("rule/never-was")})
	r.until("the deletions are there", func() bool { return v.Settings().Channels["shop"] == nil && v.Listing("A") == nil })
	if before.Channels["shop"] == nil || v.Listing("B") == nil {
		t.Error("a deletion took more than it named")
	}
	r.until("all was heard", func() bool {
		mu.Lock()
		defer mu.Unlock()
		skus := 0
		for _, c := range heard {
			skus += len(c.SKUs)
		}
		return skus == 4 && slices.Contains(seen, "two") // A, A, B, and A's deletion
	})
}

// A record that cannot be taken leaves the earlier value in force, is logged with its place, and stops nothing.
func TestARecordThatCannotBeTakenIsKeptOut(t *testing.T) {
	r := newRig(t)
	r.produce(r.channel("shop", "good"), r.listing("A", "good"), r.setting(topics.Setting{Location: &catalog.Location{ID: "hq"}}))
	wrong := r.channel("other", "wrong")
	for _, x := range []*kgo.Record{
		{Topic: schemas.CatalogSettings, Key: []byte("channel/shop"), Value: []byte("\xff\xff\xff")},
		{Topic: schemas.CatalogSettings, Key: []byte("channel/shop"), Value: []byte{0}},
		{Topic: schemas.CatalogSettings, Key: []byte("channel/shop"), Value: wrong.Value},
		{Topic: schemas.CatalogSettings, Key: []byte("location/hq"), Value: wrong.Value},
		{Topic: schemas.CatalogSettings, Key: []byte("nokind"), Value: wrong.Value},
		{Topic: schemas.CatalogSettings, Key: nil, Value: wrong.Value},
		{Topic: schemas.CatalogSettings, Key: []byte("currency/EUR")},
		{Topic: schemas.CatalogListings, Key: []byte("A"), Value: []byte("\xff\xff\xff")},
		{Topic: schemas.CatalogListings, Key: []byte("A"), Value: r.listing("B", "another's").Value},
	} {
		r.produce(x)
	}
	v := r.start(nil)
	r.ready(v) // although the last records are bad
	check := func() {
		t.Helper()
		s := v.Settings()
		if len(s.Channels) != 1 || s.Channels["shop"].Name != "good" || s.Locations["hq"] == nil || v.Listing("A") == nil || v.Listing("A").Title != "good" || v.Listing("B") != nil {
			t.Errorf("settings %+v, listing %+v", s, v.Listing("A"))
		}
	}
	check()
	if n := strings.Count(r.logged(), "catalog record ignored"); n != 9 {
		t.Errorf("%d records logged as ignored, want 9:\n%s", n, r.logged())
	}
	r.produce(r.channel("shop", "better"))
	r.until("it goes on", func() bool { return v.Settings().Channels["shop"].Name == "better" })
}

func TestRunSaysThatTheTopicsAreMissing(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	v, err := New(kafka.Config{Brokers: cluster.ListenAddrs()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "catalog") {
		t.Errorf("%v; want the catalog's topics named", err)
	}
}
