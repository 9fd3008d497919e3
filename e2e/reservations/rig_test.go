package reservations

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-chi/chi/v5"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/services/ingest"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const partitions = 4

// rig is Kafka and Redis with a ledger-projector, and as many instances of ingest as a test starts.
type rig struct {
	t         testing.TB
	kafka     kafka.Config
	redis     goredis.UniversalClient
	tel       *telemetry.Telemetry
	codec     *topics.Codec
	keys      *apikey.Keys
	view      *catalogview.View
	projector *ledgerprojector.Service
	reads     http.Handler // of the projector
	options   ledger.Options
}

func start(t testing.TB) *rig {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(partitions), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	g := &rig{t: t, kafka: kafka.Config{Brokers: cluster.ListenAddrs(), Partitions: partitions, Replication: 1}, tel: telemetry.Silent()}
	rdb := goredis.NewClient(&goredis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	g.redis = rdb
	if g.codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if g.keys, err = apikey.Parse("tests admin key-of-the-tests-0123456789"); err != nil {
		t.Fatal(err)
	}
	setup, err := g.kafka.Client(g.tel.Log, "setup")
	if err != nil {
		t.Fatal(err)
	}
	if err := kafka.EnsureTopics(t.Context(), setup, 1, topics.Specs(partitions)); err != nil {
		t.Fatal(err)
	}
	setup.Close()
	if g.view, err = catalogview.New(g.kafka, g.tel.Log); err != nil {
		t.Fatal(err)
	}
	g.run("catalog", g.view.Run)
	cfg := ledgerprojector.DefaultConfig()
	g.options = cfg.Options()
	if g.projector, err = ledgerprojector.New(cfg, ledgerprojector.Deps{Kafka: g.kafka, Codec: g.codec, Redis: g.redis, Telemetry: g.tel}); err != nil {
		t.Fatal(err)
	}
	g.run("ledger-projector", g.projector.Run)
	r := chi.NewRouter()
	g.projector.Routes(r)
	g.reads = r
	g.eventually("the projector is ready", func() bool { return g.projector.Ready(t.Context()) == nil })
	return g
}

// run runs something until the test ends, or stop is called.
func (g *rig) run(what string, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				g.t.Errorf("%s: %v", what, err)
			}
		})
	}
	g.t.Cleanup(stop)
	return stop
}

// api is an instance of ingest.
type api struct {
	g       *rig
	handler http.Handler
	stop    func()
}

func (g *rig) api(change ...func(*ingest.Config)) *api {
	g.t.Helper()
	cfg := ingest.DefaultConfig()
	cfg.RequestsPerSecond, cfg.Linger = 0, time.Millisecond
	cfg.ReservationTimeout = 30 * time.Second // the machine of the tests may be busy
	for _, f := range change {
		f(&cfg)
	}
	s, err := ingest.New(cfg, ingest.Deps{Kafka: g.kafka, Codec: g.codec, Redis: g.redis, Catalog: g.view, Telemetry: g.tel, Keys: g.keys})
	if err != nil {
		g.t.Fatal(err)
	}
	r := chi.NewRouter()
	s.Routes(r)
	a := &api{g: g, handler: r, stop: g.run("ingest", s.Run)}
	g.eventually("ingest is ready", func() bool { return s.Ready(g.t.Context()) == nil })
	return a
}

func (g *rig) eventually(what string, ok func() bool) {
	g.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			g.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// call makes a request, and decodes what it answers into a reservation, or into a problem with one.
func (a *api) call(method, path string, body any) (int, answer) {
	var b []byte
	if text, ok := body.(string); ok {
		b = []byte(text)
	} else if body != nil {
		b, _ = json.Marshal(body)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(b))
	r.Header.Set("Authorization", "Bearer key-of-the-tests-0123456789")
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	var out answer
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		a.g.t.Errorf("%s %s: status %d: %s: %v", method, path, w.Code, w.Body, err)
	}
	if out.Reservation.ID != "" {
		out.ReservationOf = out.Reservation
	}
	return w.Code, out
}

type answer struct {
	ReservationOf
	Type        string        `json:"type"`
	Detail      string        `json:"detail"`
	Reservation ReservationOf `json:"reservation"`
}

// ReservationOf is a reservation as clients see it.
type ReservationOf = ingest.Reservation

type item struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

func request(id string, items ...item) map[string]any {
	return map[string]any{"id": id, "ttl_seconds": 600, "items": items}
}

// available is what the availability API says of a SKU.
func (g *rig) available(sku string) int64 {
	w := httptest.NewRecorder()
	g.reads.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/availability/"+sku, nil))
	var out struct {
		Available int64 `json:"available"`
	}
	if w.Code != http.StatusOK || json.Unmarshal(w.Body.Bytes(), &out) != nil {
		return -1 << 40
	}
	return out.Available
}

// receive puts units on the shelf, and returns when they are there.
func (a *api) receive(sku string, units int64) {
	a.g.t.Helper()
	body := fmt.Sprintf(`{"id":"receipt/%s","kind":"receipt_received","sku":%q,"quantity":%d,"location":"berlin","occurred_at":"2026-02-03T10:15:00Z"}`, sku, sku, units)
	if status, out := a.call(http.MethodPost, "/v1/events", body); status != http.StatusAccepted {
		a.g.t.Fatalf("receipt: %d %+v", status, out)
	}
	a.g.eventually("the receipt is applied", func() bool { return a.g.available(sku) == units })
}

// fold is the fold of the log, which Redis must equal; call it when all is quiet.
func (g *rig) fold() map[string]*ledger.Level {
	g.t.Helper()
	f, err := ledgerprojector.FoldTopic(g.t.Context(), g.kafka, g.tel.Log, g.options)
	if err != nil {
		g.t.Fatal(err)
	}
	if f.Rejected > 0 {
		g.t.Errorf("%d events were rejected", f.Rejected)
	}
	return f.Levels()
}
