package allinone_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onhand/onhand/allinone"
	"github.com/onhand/onhand/allinone/reconcile"
	"github.com/onhand/onhand/embedded"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/simulators/marketplace"
)

const key = "test-key-0123456789"

// call asks the process once and returns status and body.
func call(t *testing.T, method, url, auth, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	if strings.HasSuffix(r.URL.Path, "/catalog") {
		r.Header.Set("Content-Type", "application/yaml")
	}
	if auth != "" {
		r.Header.Set("Authorization", "Bearer "+auth)
	}
	r.Close = true
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// run is a process on embedded parts in a directory, without ClickHouse and analytics, and a function that stops all.
func run(t *testing.T, dir string) (*allinone.Process, reconcileAt, func()) {
	t.Helper()
	parts, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, WithoutClickHouse: true, WithoutRegistry: true})
	if err != nil {
		t.Fatal(err)
	}
	client, err := redis.Config{Addrs: []string{parts.Redis}}.Client()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := apikey.Parse("test admin " + key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := allinone.DefaultConfig()
	cfg.Services = []string{allinone.Ingest, allinone.Projector, allinone.Allocator, allinone.Pusher}
	cfg.Console, cfg.Ingest.AllowPrivateChannels, cfg.Pusher.AllowPrivate = true, true, true
	conf := kafka.Config{Brokers: parts.Kafka, Partitions: 4, Replication: 1}
	tel := telemetry.Silent()
	p, err := allinone.Start(t.Context(), cfg, allinone.Deps{Kafka: conf, Redis: client, Telemetry: tel, Keys: keys, ConsoleSecret: []byte("s"), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return p, reconcileAt{conf, func() (reconcile.Units, error) { return reconcile.Ledger(t.Context(), client, "oh") }}, func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if err := parts.Stop(); err != nil {
			t.Error(err)
		}
		if err := tel.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

type reconcileAt struct {
	kafka  kafka.Config
	ledger func() (reconcile.Units, error)
}

const catalog = `
locations:
  - {id: main, kind: warehouse}
channels:
  - {id: shop, adapter: http, base_url: BASE/channels/shop, operation: delta, lists_all_skus: true}
  - {id: amz, adapter: http, base_url: BASE/channels/amz, operation: delta, lists_all_skus: true}
rules:
  - {id: all, mode: pooled}
`

// startMarket has marketplaces run until the test ends; their watermarks never stop, and all gets quiet nevertheless.
func startMarket(t *testing.T) *marketplace.Server {
	t.Helper()
	market, err := marketplace.New(marketplace.Config{Watermarks: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := market.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := market.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return market
}

func TestOneProcess(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	dir := t.TempDir()
	market := startMarket(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	p, at, stop := run(t, dir)
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if status, body := call(t, http.MethodPut, p.URL()+"/v1/catalog", key, strings.ReplaceAll(catalog, "BASE", market.URL())); status/100 != 2 {
		t.Fatalf("catalog: %d %s", status, body)
	}
	events := `{"id":"r1","kind":"receipt_received","sku":"JUG","location":"main","quantity":50,"occurred_at":"2026-01-02T03:04:05Z"}` + "\n"
	if status, body := call(t, http.MethodPost, p.URL()+"/v1/events", key, events); status != http.StatusAccepted {
		t.Fatalf("events: %d %s", status, body)
	}
	if err := p.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	if got, _ := market.Shown("amz", "JUG"); got != 50 {
		t.Errorf("amz shows %d after the receipt, want 50", got)
	}
	if err := market.ReportTo(p.URL(), key); err != nil {
		t.Fatal(err)
	}
	if _, err := market.Sell(ctx, "shop", marketplace.Sale{ID: "1", PlacedAt: time.Now(), Currency: "EUR", Lines: []marketplace.Line{{ID: "1", SKU: "JUG", Quantity: 8, UnitPrice: "2.50", Location: "main"}}}); err != nil {
		t.Fatal(err)
	}
	if err := market.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	targets, err := reconcile.Targets(ctx, at.kafka, []string{"shop", "amz"})
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := at.ledger()
	if err != nil {
		t.Fatal(err)
	}
	in := reconcile.Input{Received: 50, Sold: 8}
	r := reconcile.Compare(in.Units(), ledger, reconcile.Units{}, reconcile.Units{}, 0)
	r.CompareShown(targets, map[string]map[string]int64{"shop": market.AllShown("shop"), "amz": market.AllShown("amz")})
	if !r.OK() || r.ShownUnits != 84 {
		t.Errorf("%+v", r)
	}
	f := p.Figures()
	for !f.Quiet && ctx.Err() == nil { // an order watermark may be on its way at any moment
		time.Sleep(10 * time.Millisecond)
		f = p.Figures()
	}
	if len(f.Stages) != 4 || f.Stages[0].Total != 2 || f.Addresses[0].Name != "console" || !f.Quiet {
		t.Errorf("figures %+v", f)
	}

	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/openapi.json": 200, "/v1/figures": 401, "/v1/availability/JUG": 401, "/v1/availability/changes": 401, "/console/changes?sku=JUG": 401, "/v1/targets/JUG": 401, "/debug/pprof/heap": 401, "/v1/quiet": 401} {
		if got, _ := call(t, http.MethodGet, p.URL()+path, "", ""); got != want {
			t.Errorf("GET %s without a key: %d, want %d", path, got, want)
		}
	}
	if got, _ := call(t, http.MethodPost, p.URL()+"/console/links", "", ""); got != http.StatusUnauthorized {
		t.Errorf("a console link without a key: %d", got)
	}
	if status, body := call(t, http.MethodPost, p.URL()+"/console/links", key, ""); status != http.StatusCreated || !strings.Contains(body, "/console/open?token=") {
		t.Errorf("console link: %d %s", status, body)
	}
	if status, _ := call(t, http.MethodGet, p.URL()+"/v1/targets/JUG", key, ""); status != http.StatusOK {
		t.Errorf("targets: %d", status)
	}
	if err := market.ReportTo("", ""); err != nil {
		t.Fatal(err)
	}
	follow(t, p.URL()+"/v1/availability/changes?sku=JUG", key, `"available":42`)
	stop()

	// A second start on the same directory goes on: Redis was empty and is rebuilt.
	p, at, stop = run(t, dir)
	defer stop()
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	if ledger, err = at.ledger(); err != nil {
		t.Fatal(err)
	}
	if r := reconcile.Compare(in.Units(), ledger, reconcile.Units{}, reconcile.Units{}, 0); !r.OK() {
		t.Errorf("after a restart: %+v", r)
	}
	var stock struct{ Available int64 }
	if _, body := call(t, http.MethodGet, p.URL()+"/v1/availability/JUG", key, ""); json.Unmarshal([]byte(body), &stock) != nil || stock.Available != 42 {
		t.Errorf("availability after a restart: %s", body)
	}
}

// follow reads a stream of events until one holds the text.
func follow(t *testing.T, url, key, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for in := bufio.NewScanner(res.Body); in.Scan(); {
		if strings.Contains(in.Text(), text) {
			return
		}
	}
	t.Errorf("%s: status %d, and no event with %s", url, res.StatusCode, text)
}

func TestStartFaults(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := allinone.DefaultConfig()
	cfg.Services = []string{"ingest", "ledgerprojector"}
	if _, err := allinone.Start(t.Context(), cfg, allinone.Deps{}); err == nil || !strings.Contains(err.Error(), "no service is called ledgerprojector") {
		t.Errorf("unknown service: %v", err)
	}
	cfg.Services = nil
	if _, err := allinone.Start(t.Context(), cfg, allinone.Deps{}); err == nil || !strings.Contains(err.Error(), "are needed") {
		t.Errorf("no dependencies: %v", err)
	}
}
