package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-chi/chi/v5"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	writeKey = "write-key-0123456789"
	readKey  = "read-key-01234567890"
	adminKey = "admin-key-0123456789"
)

// rig is a running ingest on embedded Kafka and Redis, behind a real HTTP server.
type rig struct {
	t       testing.TB
	cluster *kfake.Cluster
	redis   *miniredis.Miniredis
	kafka   kafka.Config
	svc     *Service
	view    *catalogview.View
	url     string
}

func start(t testing.TB, change ...func(*Config, *Deps)) *rig {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(4))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	mr := miniredis.RunT(t)
	cfg := DefaultConfig()
	deps := Deps{Kafka: kafka.Config{Brokers: cluster.ListenAddrs(), Partitions: 4, Replication: 1}, Telemetry: telemetry.Silent()}
	deps.Telemetry.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	rdb := goredis.NewClient(&goredis.Options{Addr: mr.Addr(), MaxRetries: -1, DialTimeout: time.Second})
	t.Cleanup(func() { _ = rdb.Close() })
	deps.Redis = rdb
	if deps.Codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if deps.Keys, err = apikey.Parse("writer write " + writeKey + "\nreader read " + readKey + "\nadmin admin " + adminKey); err != nil {
		t.Fatal(err)
	}
	setup, err := deps.Kafka.Client(deps.Telemetry.Log, "test-setup")
	if err != nil {
		t.Fatal(err)
	}
	if err := kafka.EnsureTopics(t.Context(), setup, 1, topics.Specs(4)); err != nil {
		t.Fatal(err)
	}
	setup.Close()
	if deps.Catalog, err = catalogview.New(deps.Kafka, deps.Telemetry.Log); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&cfg, &deps)
	}
	svc, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	r := chi.NewRouter()
	svc.Routes(r)
	srv := httptest.NewServer(r)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- deps.Catalog.Run(ctx) }()
	go func() { done <- svc.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	g := &rig{t: t, cluster: cluster, redis: mr, kafka: deps.Kafka, svc: svc, view: deps.Catalog, url: srv.URL}
	g.eventually("ready", func() bool { return svc.Ready(t.Context()) == nil })
	return g
}

func (g *rig) eventually(what string, ok func() bool) {
	g.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			g.t.Fatalf("not %s in time", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem(t *testing.T) problem.Details {
	t.Helper()
	var d problem.Details
	if a.header.Get("Content-Type") != problem.ContentType {
		t.Fatalf("status %d, Content-Type %q: %s", a.status, a.header.Get("Content-Type"), a.body)
	}
	if err := json.Unmarshal(a.body, &d); err != nil {
		t.Fatal(err)
	}
	if d.Status != a.status || d.Title == "" || d.Detail == "" || !strings.HasPrefix(d.Type, problem.Prefix) {
		t.Errorf("problem document %s does not fit status %d", a.body, a.status)
	}
	return d
}

func (a answer) receipt(t *testing.T) Receipt {
	t.Helper()
	var r Receipt
	if err := json.Unmarshal(a.body, &r); err != nil {
		t.Fatalf("status %d: %s: %v", a.status, a.body, err)
	}
	return r
}

// do sends a request; headers come as name, value pairs. Without an Authorization among them it sends the key that the path needs.
func (g *rig) do(method, path string, body io.Reader, headers ...string) answer {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	switch {
	case method == http.MethodGet:
		r.Header.Set("Authorization", "Bearer "+readKey)
	case strings.HasPrefix(path, "/v1/catalog"):
		r.Header.Set("Authorization", "Bearer "+adminKey)
	default:
		r.Header.Set("Authorization", "Bearer "+writeKey)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, b}
}

func (g *rig) post(path, body string, headers ...string) answer {
	g.t.Helper()
	return g.do(http.MethodPost, path, strings.NewReader(body), append([]string{"Content-Type", "application/json"}, headers...)...)
}

// records is all of a topic so far: read to the ends it has now.
func (g *rig) records(topic string) []*kgo.Record {
	g.t.Helper()
	client, err := g.kafka.Client(slog.New(slog.NewTextHandler(io.Discard, nil)), "test-reader", kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		g.t.Fatal(err)
	}
	defer client.Close()
	left := int64(0)
	for _, p := range g.cluster.PartitionInfos(topic) {
		left += p.HighWatermark
	}
	var out []*kgo.Record
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	for int64(len(out)) < left {
		fetches := client.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			g.t.Fatalf("%s: %d of %d records read: %v", topic, len(out), left, err)
		}
		out = append(out, fetches.Records()...)
	}
	return out
}

func (g *rig) events() map[string]event.Event {
	g.t.Helper()
	out := map[string]event.Event{}
	var r topics.EventReader
	for _, rec := range g.records(schemas.StockEvents) {
		var e event.Event
		if err := r.Read(rec.Value, &e); err != nil {
			g.t.Fatal(err)
		}
		if string(rec.Key) != e.SKU {
			g.t.Errorf("event %s has the key %q, want the SKU %q", e.ID, rec.Key, e.SKU)
		}
		if old, ok := out[e.ID]; ok {
			old.ReceivedAt, e.ReceivedAt = 0, 0
			if old != e {
				g.t.Errorf("event id %s means two things:\n%+v\n%+v", e.ID, old, e)
			}
		}
		out[e.ID] = e
	}
	return out
}

func (g *rig) rejected() []*alert.Rejected {
	g.t.Helper()
	var out []*alert.Rejected
	for _, rec := range g.records(schemas.StockRejected) {
		r, err := topics.DecodeRejected(rec.Value)
		if err != nil {
			g.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func orderJSON(id string, lines ...string) string {
	if len(lines) == 0 {
		lines = []string{line("1", "MUG", 2)}
	}
	return fmt.Sprintf(`{"id":%q,"channel":"shop","placed_at":"2026-02-03T10:15:00Z","currency":"EUR","lines":[%s]}`, id, strings.Join(lines, ","))
}

func line(id, sku string, quantity int) string {
	return fmt.Sprintf(`{"id":%q,"sku":%q,"quantity":%d,"unit_price":"12.50"}`, id, sku, quantity)
}

func receiptJSON(id, sku string, quantity int) string {
	member := ""
	if id != "" {
		member = fmt.Sprintf(`"id":%q,`, id)
	}
	return fmt.Sprintf(`{%s"kind":"receipt_received","sku":%q,"quantity":%d,"location":"hq","occurred_at":"2026-02-03T10:15:00Z"}`, member, sku, quantity)
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestOrderBecomesOneOrderAndASaleForEachLine(t *testing.T) {
	g := start(t)
	before := time.Now().UnixMicro()
	a := g.post("/v1/orders", `{"id":"1001","channel":"shop","placed_at":"2026-02-03T11:15:00.25+01:00","currency":"EUR","lines":[
		{"id":"1","sku":"MUG","quantity":2,"unit_price":"12.50"},{"id":"2","sku":"CUP","quantity":1,"unit_price":3,"location":"hq"}],
		"ship_to":{"country":"DE","region":"BE","postal_code":"10115"},"ship_by":"2026-02-05T10:00:00Z","customer_ref":"c-7"}`)
	if a.status != http.StatusAccepted {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	if r := a.receipt(t); r.Accepted != 1 || r.Events != 2 || len(r.Results) != 1 || r.Results[0] != (Result{ID: "1001", Status: Accepted}) {
		t.Errorf("receipt %+v", r)
	}
	orders := g.records(schemas.Orders)
	if len(orders) != 1 || string(orders[0].Key) != "1001" {
		t.Fatalf("orders: %v", orders)
	}
	o, err := topics.DecodeOrder(orders[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	placed := time.Date(2026, 2, 3, 10, 15, 0, 250_000_000, time.UTC).UnixMicro()
	if o.PlacedAt != placed || o.ShipTo.PostalCode != "10115" || o.CustomerRef != "c-7" || o.ShipBy == 0 || len(o.Lines) != 2 || o.ReceivedAt < before {
		t.Errorf("order %+v", o)
	}
	events := g.events()
	e := events["sale/shop/1001/2"]
	e.ReceivedAt = 0
	want := event.Event{ID: "sale/shop/1001/2", Kind: event.SaleRecorded, SKU: "CUP", Location: "hq", Channel: "shop", OrderID: "1001", LineID: "2",
		Quantity: 1, UnitPrice: "3", Currency: "EUR", OccurredAt: placed, Source: "api", Checked: true}
	if len(events) != 2 || e != want {
		t.Errorf("%d events, second\n got %+v\nwant %+v", len(events), e, want)
	}
	if s := g.svc.Stats(); s.Orders != 1 || s.Lines != 2 || s.Bytes == 0 || s.LastReceivedAt < before {
		t.Errorf("stats %+v", s)
	}
}

// TestProblems sends what must be refused: each status, with its problem document, and that nothing reached Kafka.
func TestProblems(t *testing.T) {
	g := start(t, func(c *Config, _ *Deps) { c.MaxBody, c.MaxBatch, c.MaxLine = 64<<10, 3, 4<<10 })
	o := orderJSON("1")
	for name, tt := range map[string]struct {
		path, body string
		headers    []string
		status     int
		kind       string // of Type
		pointer    string // of the first error; - for none
		says       string
	}{
		"cut short":               {"/v1/orders", o[:40], nil, 400, "syntax", "", "no end"},
		"text after the document": {"/v1/orders", o + o, nil, 400, "syntax", "", "x-ndjson"},
		"a fault in one element":  {"/v1/orders", "[" + o + ",{]", nil, 400, "syntax", "", "member name"},
		"nothing":                 {"/v1/orders", "", nil, 400, "syntax", "", "missing"},
		"empty batch":             {"/v1/orders", "[]", nil, 400, "empty", "-", "at least one"},
		"empty stream":            {"/v1/orders", "\n \n", []string{"Content-Type", "application/x-ndjson"}, 400, "empty", "-", "at least one"},
		"not gzip":                {"/v1/orders", o, []string{"Content-Encoding", "gzip"}, 400, "syntax", "-", "gzip"},
		"not UTF-8":               {"/v1/orders", strings.Replace(o, "MUG", "M\xffG", 1), nil, 400, "syntax", "", "UTF-8"},
		"unknown parameter value": {"/v1/orders?results=some", o, nil, 400, "parameter", "-", "all or failed"},
		"idempotency key":         {"/v1/orders", o, []string{"Idempotency-Key", "a b"}, 400, "header", "-", "visible ASCII"},
		"no key":                  {"/v1/orders", o, []string{"Authorization", ""}, 401, "unauthorized", "-", "Authorization: Bearer"},
		"wrong key":               {"/v1/orders", o, []string{"Authorization", "Bearer " + writeKey + "x"}, 401, "unauthorized", "-", "not known"},
		"key of another scope":    {"/v1/orders", o, []string{"Authorization", "Bearer " + readKey}, 403, "forbidden", "-", "write"},
		"body too large":          {"/v1/orders", strings.Repeat(" ", 70<<10) + o, nil, 413, "too-large", "-", "allowed"},
		"batch too large":         {"/v1/orders", "[" + strings.Repeat(o+",", 3) + o + "]", nil, 413, "too-large", "-", "at most 3"},
		"form":                    {"/v1/orders", o, []string{"Content-Type", "text/plain"}, 415, "unsupported-media-type", "-", "application/json"},
		"charset":                 {"/v1/orders", o, []string{"Content-Type", "application/json; charset=latin1"}, 415, "unsupported-media-type", "-", "UTF-8"},
		"encoding":                {"/v1/orders", o, []string{"Content-Encoding", "br"}, 415, "unsupported-media-type", "-", "gzip"},
		"field":                   {"/v1/orders", orderJSON("1", line("1", "MUG", 0)), nil, 422, "invalid", "/lines/0/quantity", "1 or more"},
		"absurd":                  {"/v1/orders", orderJSON("1", line("1", "MUG", 20_000_000)), nil, 422, "invalid", "/lines/0/quantity", "mistake"},
		"unknown field":           {"/v1/orders", strings.Replace(o, "placed_at", "placedAt", 1), nil, 422, "invalid", "/placedAt", "did you mean placed_at"},
		"all of a batch":          {"/v1/orders", "[{},[]]", nil, 422, "invalid", "-", "none of the 2 items"},
		"event without id":        {"/v1/events", receiptJSON("", "MUG", 1), nil, 422, "invalid", "/id", "Idempotency-Key"},
		"kind of event":           {"/v1/events", strings.Replace(receiptJSON("1", "MUG", 1), "receipt_received", "receipt", 1), nil, 422, "invalid", "/kind", "receipt_received"},
	} {
		t.Run(name, func(t *testing.T) {
			a := g.post(tt.path, tt.body, tt.headers...)
			d := a.problem(t)
			if d.Status != tt.status || d.Type != problem.Prefix+tt.kind {
				t.Errorf("status %d, type %s; want %d, %s: %s", d.Status, d.Type, tt.status, tt.kind, a.body)
			}
			if !strings.Contains(string(a.body), tt.says) {
				t.Errorf("%q is not said: %s", tt.says, a.body)
			}
			switch {
			case tt.pointer == "-":
				if len(d.Errors) > 0 {
					t.Errorf("errors %+v; want none", d.Errors)
				}
			case len(d.Errors) == 0 || d.Errors[0].Pointer != tt.pointer:
				t.Errorf("errors %+v; want the pointer %q first", d.Errors, tt.pointer)
			}
		})
	}
	if n := len(g.records(schemas.Orders)) + len(g.records(schemas.StockEvents)); n != 0 {
		t.Errorf("%d records came of refused requests", n)
	}
}

func TestTooManyRequests(t *testing.T) {
	g := start(t, func(c *Config, _ *Deps) { c.RequestsPerSecond, c.Burst = 0.01, 1 })
	if a := g.post("/v1/orders", orderJSON("1")); a.status != 202 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	a := g.post("/v1/orders", orderJSON("2"))
	if d := a.problem(t); d.Status != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", d.Status, a.header.Get("Retry-After"))
	}
}

func TestKafkaDown(t *testing.T) {
	g := start(t, func(c *Config, _ *Deps) { c.AckTimeout = time.Second })
	g.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		g.cluster.KeepControl()
		return nil, errors.New("the disk is full"), true
	})
	a := g.post("/v1/orders", orderJSON("1"))
	if d := a.problem(t); d.Status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(d.Detail, "send it again") {
		t.Errorf("status %d, Retry-After %q: %s", d.Status, a.header.Get("Retry-After"), a.body)
	}
	if s := g.svc.Stats(); s.Unavailable != 1 || s.Orders != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestPartlyBadBatch(t *testing.T) {
	g := start(t)
	body := "[" + strings.Join([]string{
		orderJSON("1"), orderJSON("2", line("1", "", 1)), orderJSON("1"), orderJSON("1", line("1", "MUG", 3)), orderJSON("3"),
	}, ",") + "]"
	a := g.post("/v1/orders", body)
	r := a.receipt(t)
	if a.status != 202 || r.Accepted != 2 || r.Duplicates != 1 || r.Rejected != 2 || len(r.Results) != 5 {
		t.Fatalf("status %d, receipt %s", a.status, a.body)
	}
	for i, want := range []struct {
		status  Status
		code    int
		pointer string
	}{{Accepted, 0, ""}, {Rejected, 422, "/lines/0/sku"}, {Duplicate, 0, ""}, {Rejected, 409, "/id"}, {Accepted, 0, ""}} {
		got := r.Results[i]
		if got.Index != i || got.Status != want.status || (got.Problem == nil) != (want.code == 0) {
			t.Errorf("result %d: %+v, want %+v", i, got, want)
			continue
		}
		if got.Problem != nil && (got.Problem.Status != want.code || got.Problem.Errors[0].Pointer != want.pointer) {
			t.Errorf("result %d: %+v, want %+v", i, got.Problem, want)
		}
	}
	if n := len(g.records(schemas.Orders)); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
	kept := g.rejected()
	if len(kept) != 2 || kept[0].Topic != "http" || kept[0].Offset != -1 {
		t.Fatalf("%d rejected records: %+v", len(kept), kept)
	}
	var list RejectedList
	if a := g.do(http.MethodGet, "/v1/rejected?limit=1", nil); a.status != 200 || json.Unmarshal(a.body, &list) != nil || len(list.Rejected) != 1 ||
		list.Rejected[0].RejectedBy != "ingest" || list.Rejected[0].Value == "" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if a := g.do(http.MethodGet, "/v1/rejected?limit=0", nil); a.status != 400 {
		t.Errorf("limit=0: status %d", a.status)
	}
}

func TestStream(t *testing.T) {
	g := start(t, func(c *Config, _ *Deps) { c.MaxLine = 2000 })
	var b strings.Builder
	for i := range 2500 {
		switch {
		case i == 700:
			b.WriteString("{not json}\r\n")
		case i == 701:
			b.WriteString(`{"id":"` + strings.Repeat("x", 5000) + `"}` + "\n")
		case i == 702:
			b.WriteString("\n") // blank lines are no items
			fallthrough
		default:
			b.WriteString(orderJSON(fmt.Sprint(i), line("1", fmt.Sprint("S", i%50), 1), line("2", "MUG", 1)) + "\n")
		}
	}
	body := strings.TrimSuffix(b.String(), "\n") // the last line may lack its end
	headers := []string{"Content-Type", "application/x-ndjson"}
	a := g.do(http.MethodPost, "/v1/orders?results=failed", bytes.NewReader(zipped(t, []byte(body))), append(headers, "Content-Encoding", "gzip")...)
	r := a.receipt(t)
	if a.status != 202 || r.Accepted != 2498 || r.Rejected != 2 || r.Events != 2*2498 || r.Unlisted != 2498 || len(r.Results) != 2 {
		t.Fatalf("status %d: %.2000s", a.status, a.body)
	}
	if x := r.Results[0]; x.Index != 700 || x.Problem.Status != 400 || x.Problem.Errors[0].Column == 0 {
		t.Errorf("result %+v", x)
	}
	if x := r.Results[1]; x.Index != 701 || x.Problem.Status != 413 {
		t.Errorf("result %+v", x)
	}
	if n := len(g.events()); n != 2*2498 {
		t.Errorf("%d events, want %d", n, 2*2498)
	}
	// The same once more does no harm: ids repeat.
	a = g.do(http.MethodPost, "/v1/orders", strings.NewReader(body), headers...)
	if r := a.receipt(t); a.status != 202 || len(r.Results) != 2500 || r.Unlisted != 0 {
		t.Fatalf("status %d: %d results", a.status, len(r.Results))
	}
	if n := len(g.events()); n != 2*2498 {
		t.Errorf("%d distinct events after a repeat, want %d", n, 2*2498)
	}
}

func TestStreamIsTakenInWhileItArrives(t *testing.T) {
	g := start(t)
	in, out := io.Pipe()
	got := make(chan answer, 1)
	go func() {
		got <- g.do(http.MethodPost, "/v1/orders", in, "Content-Type", "application/x-ndjson", "Prefer", "return=minimal")
	}()
	for i := range 3 {
		if _, err := io.WriteString(out, orderJSON(fmt.Sprint(i))+"\n"); err != nil {
			t.Fatal(err)
		}
		g.eventually("acknowledged while the stream is open", func() bool { return g.svc.Stats().Orders == int64(i+1) })
	}
	_ = out.Close()
	if a := <-got; a.status != 202 || a.receipt(t).Accepted != 3 || a.receipt(t).Unlisted != 3 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}

func TestStreamThatBreaksOffTellsHowFarItCame(t *testing.T) {
	g := start(t, func(c *Config, _ *Deps) { c.MaxStream = 1000 })
	body := strings.Repeat(orderJSON("1")+"\n", 3) + strings.Repeat(" ", 1000)
	a := g.do(http.MethodPost, "/v1/orders", strings.NewReader(body), "Content-Type", "application/x-ndjson")
	d := a.problem(t)
	var r refused
	if err := json.Unmarshal(a.body, &r); err != nil || d.Status != 413 || r.Receipt == nil || r.Receipt.Accepted != 1 || r.Receipt.Duplicates != 2 {
		t.Errorf("%v: %s", err, a.body)
	}
}

func TestGzipBomb(t *testing.T) {
	g := start(t, func(c *Config, _ *Deps) { c.MaxBody, c.MaxStream = 1<<20, 1<<20 })
	bomb := zipped(t, bytes.Repeat([]byte(" "), 64<<20))
	for _, ctype := range []string{"application/json", "application/x-ndjson"} {
		a := g.do(http.MethodPost, "/v1/orders", bytes.NewReader(bomb), "Content-Type", ctype, "Content-Encoding", "gzip")
		if d := a.problem(t); d.Status != 413 || !strings.Contains(d.Detail, "1048576") {
			t.Errorf("%s: %s", ctype, a.body)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	g := start(t)
	key := []string{"Idempotency-Key", "day/1"}
	body := "[" + receiptJSON("", "MUG", 5) + "," + receiptJSON("", "MUG", 5) + "]"
	first := g.post("/v1/events", body, key...)
	if r := first.receipt(t); first.status != 202 || r.Accepted != 2 || r.Results[1].ID != "key/writer/day%2F1/1" {
		t.Fatalf("status %d: %s", first.status, first.body)
	}
	again := g.post("/v1/events", body, key...)
	if again.status != 202 || !bytes.Equal(again.body, first.body) || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("repeat: status %d: %s", again.status, again.body)
	}
	if d := g.post("/v1/events", receiptJSON("", "MUG", 5), key...).problem(t); d.Status != 409 {
		t.Errorf("other body: status %d", d.Status)
	}
	if a := g.post("/v1/orders", orderJSON("1"), key...); a.status != 202 {
		t.Errorf("same key on another route: status %d: %s", a.status, a.body)
	}
	if a := g.do(http.MethodPost, "/v1/events", strings.NewReader(receiptJSON("", "MUG", 5)), "Content-Type", "application/x-ndjson", "Authorization", "Bearer "+adminKey,
		"Idempotency-Key", "day/1"); a.status != 202 || a.receipt(t).Results[0].ID != "key/admin/day%2F1/0" {
		t.Errorf("same key of another caller: status %d: %s", a.status, a.body)
	}
	if n := len(g.records(schemas.StockEvents)); n != 4 {
		t.Errorf("%d events, want 4: a repeat must reach nothing", n)
	}
	if n := g.svc.Stats().DuplicatesByKey; n != 1 {
		t.Errorf("%d duplicates by key, want 1", n)
	}
	invalid := g.post("/v1/events", `{"kind":"receipt_received"}`, "Idempotency-Key", "bad")
	if again := g.post("/v1/events", `{"kind":"receipt_received"}`, "Idempotency-Key", "bad"); invalid.status != 422 || !bytes.Equal(invalid.body, again.body) {
		t.Errorf("a refusal is replayed too: status %d: %s", again.status, again.body)
	}
	for _, k := range g.redis.Keys() {
		if ttl := g.redis.TTL(k); ttl <= 23*time.Hour || ttl > 24*time.Hour {
			t.Errorf("%s lives for %v, want 24h", k, ttl)
		}
	}
}

func TestIdempotencyKeyAfterAFailure(t *testing.T) {
	g := start(t, func(c *Config, _ *Deps) { c.AckTimeout = time.Second })
	var mended atomic.Bool
	g.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if mended.Load() {
			return nil, nil, false
		}
		g.cluster.KeepControl()
		return nil, errors.New("away"), true
	})
	key := []string{"Idempotency-Key", "k"}
	if d := g.post("/v1/events", receiptJSON("", "MUG", 5), key...).problem(t); d.Status != 503 {
		t.Fatalf("status %d", d.Status)
	}
	if d := g.post("/v1/events", receiptJSON("", "MUG", 6), key...).problem(t); d.Status != 409 {
		t.Errorf("other body after a failure: status %d; its event would have the id of the first", d.Status)
	}
	mended.Store(true)
	g.eventually("accepted after the failure", func() bool { return g.post("/v1/events", receiptJSON("", "MUG", 5), key...).status == 202 })
	if events := g.events(); len(events) != 1 || events["key/writer/k/0"].Quantity != 5 {
		t.Errorf("events %+v", events)
	}
}

func TestIdempotencyKeyUnderWay(t *testing.T) {
	g := start(t)
	c, err := g.svc.idem.begin(t.Context(), "s", "k", [32]byte{1})
	if err != nil || c.state != claimed {
		t.Fatalf("%+v, %v", c, err)
	}
	if again, err := g.svc.idem.begin(t.Context(), "s", "k", [32]byte{1}); err != nil || again.state != busy || again.wait <= 0 {
		t.Errorf("while under way: %+v, %v", again, err)
	}
	if other, err := g.svc.idem.begin(t.Context(), "s", "k", [32]byte{2}); err != nil || other.state != conflict {
		t.Errorf("other body: %+v, %v", other, err)
	}
	if err := g.svc.idem.release(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	second, err := g.svc.idem.begin(t.Context(), "s", "k", [32]byte{1})
	if err != nil || second.state != claimed {
		t.Fatalf("after release: %+v, %v", second, err)
	}
	if err := g.svc.idem.finish(t.Context(), c, 500, "x", nil); err != nil { // the first owner is late
		t.Fatal(err)
	}
	if err := g.svc.idem.finish(t.Context(), second, 202, "application/json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if got, err := g.svc.idem.begin(t.Context(), "s", "k", [32]byte{1}); err != nil || got.state != answered || got.status != 202 || string(got.body) != "{}" {
		t.Errorf("after finish: %+v, %v", got, err)
	}
}

func TestRedisDown(t *testing.T) {
	g := start(t)
	g.redis.Close()
	if d := g.post("/v1/orders", orderJSON("1"), "Idempotency-Key", "k").problem(t); d.Status != 503 {
		t.Errorf("with Idempotency-Key: status %d", d.Status)
	}
	if a := g.post("/v1/orders", orderJSON("1")); a.status != 202 {
		t.Errorf("without: status %d: %s", a.status, a.body)
	}
}

func TestOrdersIn(t *testing.T) {
	g := start(t)
	producer, err := g.kafka.Client(slog.New(slog.NewTextHandler(io.Discard, nil)), "brand")
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	values := []string{orderJSON("1"), "\x00\xff poison", "", orderJSON("2", line("1", "MUG", -1)), `[` + orderJSON("3") + `]`, orderJSON("1"), orderJSON("4")}
	for i, v := range values {
		r := &kgo.Record{Topic: schemas.OrdersIn, Key: []byte("same-partition"), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}}}
		if err := producer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	g.eventually("all taken in", func() bool { s := g.svc.Stats(); return s.Orders == 3 && s.OrdersInRejected == 4 })
	if events := g.events(); len(events) != 2 || events["sale/shop/4/1"].Source != "orders.in" {
		t.Errorf("events %+v", events)
	}
	reasons := map[int64]string{}
	for _, r := range g.rejected() {
		reasons[r.Offset] = r.Reason
		if r.Topic != schemas.OrdersIn || string(r.Value) != values[r.Offset] || string(r.Key) != "same-partition" || len(r.Headers) != 1 || r.Detail == "" {
			t.Errorf("rejected %+v", r)
		}
	}
	if want := map[int64]string{1: "undecodable", 2: "empty", 3: "invalid", 4: "invalid"}; fmt.Sprint(reasons) != fmt.Sprint(want) {
		t.Errorf("reasons %v, want %v", reasons, want)
	}
	g.eventually("committed", func() bool {
		for _, group := range g.cluster.GroupInfo(Group).Commits[schemas.OrdersIn] {
			if group.Offset == int64(len(values)) {
				return true
			}
		}
		return false
	})
}
