package ingest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/onhand/onhand/schemas"
)

const settings = `channels:
  shop:
    adapter: http
    base_url: https://shop.example.com/v1
    operation: absolute
    batch_size: 50
    rate_per_second: 0.50
    locations: [hq]
  till: {adapter: none}
locations:
  - id: hq
    kind: warehouse
    country: DE
    buffer: 2
rules:
  shop-cap:
    match: {channel: shop}
    cap: 80%
listings:
  00123:
    title: Mug
    unit_cost: 3.10
    currency: EUR
    channels:
      - channel: shop
        price: 12.50
        currency: EUR
`

func (g *rig) apply(query, body string, headers ...string) answer {
	g.t.Helper()
	return g.do(http.MethodPut, "/v1/catalog"+query, strings.NewReader(body), append([]string{"Content-Type", "application/yaml"}, headers...)...)
}

func (a answer) applied(t *testing.T) Applied {
	t.Helper()
	var out Applied
	if a.status != 200 || json.Unmarshal(a.body, &out) != nil {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	return out
}

func TestCatalog(t *testing.T) {
	g := start(t)
	if a := g.apply("?dry_run=true", settings).applied(t); !a.DryRun || a.Created != 5 {
		t.Errorf("dry run: %+v", a)
	}
	if n := len(g.records(schemas.CatalogSettings)); n != 0 {
		t.Fatalf("a dry run wrote %d records", n)
	}
	if a := g.apply("", settings).applied(t); a.Created != 5 || a.Unchanged+a.Updated+a.Deleted != 0 {
		t.Errorf("first: %+v", a)
	}
	if c := g.view.Settings().Channels["shop"]; c == nil || c.RatePerSecond != "0.50" || c.Locations[0] != "hq" {
		t.Errorf("in force after the answer: %+v", c)
	}
	if l := g.view.Listing("00123"); l == nil || l.UnitCost != "3.10" || l.Channels[0].Price != "12.50" {
		t.Errorf("in force after the answer: %+v", l)
	}
	if a := g.apply("", settings).applied(t); a.Unchanged != 5 || a.Created+a.Updated+a.Deleted != 0 {
		t.Errorf("again: %+v", a)
	}
	if a := g.apply("", strings.Replace(settings, "80%", "75.5%", 1)).applied(t); a.Updated != 1 || a.Unchanged != 4 || *g.view.Settings().Rules["shop-cap"].CapBP != 7550 {
		t.Errorf("update: %+v", a)
	}
	// What is read can be applied again, and changes nothing.
	for accept, ctype := range map[string]string{"*/*": "application/yaml", "application/json": "application/json"} {
		a := g.do(http.MethodGet, "/v1/catalog", nil, "Accept", accept)
		if a.status != 200 || a.header.Get("Content-Type") != ctype {
			t.Fatalf("%s: status %d, %s", accept, a.status, a.header.Get("Content-Type"))
		}
		if again := g.apply("?prune=true", string(a.body), "Content-Type", ctype).applied(t); again.Unchanged != 5 || again.Created+again.Updated+again.Deleted != 0 {
			t.Errorf("%s: %+v\n%s", accept, again, a.body)
		}
	}
	if d := g.do(http.MethodDelete, "/v1/catalog/locations/hq", nil).problem(t); d.Status != 409 || !strings.Contains(d.Detail, "hq") {
		t.Errorf("a location in use: %+v", d)
	}
	if d := g.do(http.MethodDelete, "/v1/catalog/rules/none", nil).problem(t); d.Status != 404 {
		t.Errorf("no such rule: %+v", d)
	}
	if d := g.apply("?prune=true", "locations: {}").problem(t); d.Status != 422 || g.view.Settings().Locations["hq"] == nil {
		t.Errorf("pruning what is in use: %+v", d)
	}
	if a := g.do(http.MethodDelete, "/v1/catalog/channels/till", nil).applied(t); a.Deleted != 1 || g.view.Settings().Channels["till"] != nil {
		t.Errorf("delete: %+v", a)
	}
	if a := g.apply("?prune=true", "listings: {a/b: {title: x}}\n---\nrules:").applied(t); a.Deleted != 2 || a.Created != 1 || len(g.view.Settings().Channels) != 1 {
		t.Errorf("prune: %+v", a)
	}
	if a := g.do(http.MethodDelete, "/v1/catalog/listings/a%2Fb", nil).applied(t); a.Deleted != 1 || g.view.Listing("a/b") != nil {
		t.Errorf("delete of an id with a slash: %+v", a)
	}
}

func TestCatalogFaultsHaveTheirPlace(t *testing.T) {
	g := start(t)
	for name, tt := range map[string]struct {
		old, new string
		line     int
		pointer  string
		says     string
	}{
		"unknown key":       {"    buffer: 2", "    bufer: 2", 14, "/locations/0/bufer", "its keys are"},
		"unknown section":   {"rules:", "rule:", 15, "/rule", "the sections are"},
		"no such location":  {"[hq]", "[hg]", 8, "/channels/shop/locations/0", `"hg"`},
		"ambiguous cap":     {"80%", "80", 18, "/rules/shop-cap/cap", "80bp"},
		"not a number":      {"batch_size: 50", "batch_size: many", 6, "/channels/shop/batch_size", "whole number"},
		"twice":             {"    country: DE", "    kind: store", 13, "", "kind"},
		"metadata":          {"https://shop.example.com/v1", "http://169.254.169.254/latest", 4, "/channels/shop/base_url", "link-local"},
		"loopback":          {"https://shop.example.com/v1", "http://localhost:8080", 4, "/channels/shop/base_url", "allow-private-channels"},
		"loopback as a sum": {"https://shop.example.com/v1", "http://2130706433/", 4, "/channels/shop/base_url", "no address"},
		"currency":          {"    currency: EUR\n    channels", "    currency: Euro\n    channels", 23, "/listings/00123/currency", "EUR"},
		"syntax":            {"  till: {adapter: none}", "  till: {adapter: none", 10, "", "YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(settings, tt.old, tt.new, 1)
			if text == settings {
				t.Fatal("the case changes nothing")
			}
			a := g.apply("", text)
			d := a.problem(t)
			if d.Status != 422 || len(d.Errors) == 0 {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			if e := d.Errors[0]; e.Line != tt.line || e.Column < 1 || e.Pointer != tt.pointer || !strings.Contains(e.Detail, tt.says) {
				t.Errorf("got %+v; want line %d, pointer %s, saying %q", e, tt.line, tt.pointer, tt.says)
			}
		})
	}
	if n := len(g.records(schemas.CatalogSettings)); n != 0 {
		t.Errorf("%d settings written by refused files", n)
	}
	for _, tt := range []struct {
		method, path, body, ctype, key string
		status                         int
	}{
		{"PUT", "/v1/catalog", settings, "text/plain", adminKey, 415},
		{"PUT", "/v1/catalog", settings, "application/yaml", writeKey, 403},
		{"PUT", "/v1/catalog?prune=perhaps", settings, "application/yaml", adminKey, 400},
		{"PUT", "/v1/catalog", "# nothing\n", "application/yaml", adminKey, 400},
		{"DELETE", "/v1/catalog/things/x", "", "", adminKey, 404},
		{"GET", "/v1/catalog", "", "", writeKey, 403},
	} {
		a := g.do(tt.method, tt.path, strings.NewReader(tt.body), "Content-Type", tt.ctype, "Authorization", "Bearer "+tt.key)
		if d := a.problem(t); d.Status != tt.status {
			t.Errorf("%s %s: status %d, want %d: %s", tt.method, tt.path, d.Status, tt.status, a.body)
		}
	}
}

func TestChannelURLs(t *testing.T) {
	for base, want := range map[string]struct{ public, private bool }{
		"https://api.example.com/v1": {true, true}, "https://203.0.113.9:8443": {true, true}, "http://[2001:db8::1]": {true, true},
		"http://127.0.0.1:9000": {false, true}, "http://[::1]:9000": {false, true}, "http://10.1.2.3": {false, true}, "http://[::ffff:192.168.1.1]": {false, true},
		"http://localhost": {false, true}, "http://shop": {false, true}, "http://shop.internal": {false, true}, "http://x.localhost.": {false, true},
		"http://169.254.169.254": {false, false}, "http://[fe80::1]": {false, false}, "http://[::ffff:169.254.169.254]": {false, false},
		"http://[64:ff9b::a9fe:a9fe]": {false, false}, "http://0.0.0.0": {false, false}, "http://metadata.google.internal": {false, false},
		"http://0x7f.0.0.1": {false, false}, "http://127.1": {false, false}, "http://2130706433": {false, false}, "http://[fd00:ec2::254]": {false, false},
		"http://100.100.100.200": {false, false},
	} {
		if got := channelURLFault(base, false) == ""; got != want.public {
			t.Errorf("%s: allowed %t, want %t: %s", base, got, want.public, channelURLFault(base, false))
		}
		if got := channelURLFault(base, true) == ""; got != want.private {
			t.Errorf("%s with private channels: allowed %t, want %t", base, got, want.private)
		}
	}
}

func TestTraceContextGoesWithTheRecords(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	g := start(t, func(_ *Config, d *Deps) {
		d.Telemetry = d.Telemetry.Traced(trace.NewTracerProvider(trace.WithSpanProcessor(spans)), "test")
	})
	if a := g.post("/v1/orders", orderJSON("1")); a.status != 202 {
		t.Fatalf("status %d", a.status)
	}
	if a := g.post("/v1/orders", "["+orderJSON("2")+","+orderJSON("3")+"]"); a.status != 202 {
		t.Fatalf("status %d", a.status)
	}
	traces := map[string]bool{}
	for _, r := range g.records(schemas.StockEvents) {
		for _, h := range r.Headers {
			if h.Key == "traceparent" {
				traces[string(h.Value)] = true
			}
		}
	}
	if len(traces) != 3 {
		t.Errorf("%d traces for 3 orders: %v", len(traces), traces)
	}
	found := false
	for _, s := range spans.Ended() {
		found = found || traces["00-"+s.SpanContext().TraceID().String()+"-"+s.SpanContext().SpanID().String()+"-01"] && s.Name() == "POST /v1/orders"
	}
	if !found {
		t.Error("a single order does not carry the span of its request")
	}
}
