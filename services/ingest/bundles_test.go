package ingest

import (
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
)

const giftCatalog = `
listings:
  TEA: {title: Tea}
  CUP: {title: Cup}
  GIFT: {title: Tea and cups, components: {TEA: 2, CUP: 1}}
`

// What happens to a bundle is written for it and for each of its components, wherever it comes in, with ids that a repeat has again.
func TestBundlesAreExpanded(t *testing.T) {
	g := start(t)
	g.apply("", giftCatalog).applied(t)
	post := func(path, body string) answer {
		return g.do(http.MethodPost, path, strings.NewReader(body), "Content-Type", "application/json")
	}
	sale := orderJSON("1", line("1", "GIFT", 3), line("2", "CUP", 1))
	if a := post("/v1/orders", sale); a.status != http.StatusAccepted || !strings.Contains(string(a.body), `"events":4`) {
		t.Fatalf("the order: %d %s", a.status, a.body)
	}
	if a := post("/v1/orders", sale); a.status != http.StatusAccepted {
		t.Fatalf("the order again: %d %s", a.status, a.body)
	}
	producer, err := g.kafka.Client(slog.New(slog.DiscardHandler), "brand")
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.OrdersIn, Value: []byte(orderJSON("2", line("1", "GIFT", 1)))}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	channel := g.events()["bundle/sale/shop/1/1/TEA"].Channel
	for _, body := range []string{
		`{"id":"c1","kind":"sale_cancelled","sku":"GIFT","channel":"` + channel + `","order_id":"1","line_id":"1","quantity":1,"occurred_at":"2026-01-01T00:00:00Z","restocked_by_channel":true}`,
		`{"id":"a1","kind":"sale_assigned","sku":"GIFT","location":"hq","channel":"` + channel + `","order_id":"1","line_id":"1","quantity":2,"occurred_at":"2026-01-01T00:00:00Z"}`,
		`{"id":"s1","kind":"shipment_confirmed","sku":"GIFT","location":"hq","channel":"` + channel + `","order_id":"1","line_id":"1","quantity":2,"occurred_at":"2026-01-01T00:00:00Z"}`,
		`{"id":"r1","kind":"return_received","sku":"GIFT","location":"hq","disposition":"restock","quantity":1,"occurred_at":"2026-01-01T00:00:00Z","unit_price":"5","currency":"EUR"}`,
	} {
		if a := post("/v1/events", body); a.status != http.StatusAccepted || !strings.Contains(string(a.body), `"events":3`) {
			t.Fatalf("%s: %d %s", body, a.status, a.body)
		}
	}
	base := "sale/" + channel
	g.eventually("the order of the topic is in", func() bool { _, ok := g.events()["bundle/"+base+"/2/1/CUP"]; return ok })
	got := g.events()
	for id, want := range map[string]event.Event{
		base + "/1/1":                 {SKU: "GIFT", Bundle: "GIFT", Quantity: 3, Kind: event.SaleRecorded},
		"bundle/" + base + "/1/1/TEA": {SKU: "TEA", Bundle: "GIFT", Quantity: 6, Kind: event.SaleRecorded},
		"bundle/" + base + "/1/1/CUP": {SKU: "CUP", Bundle: "GIFT", Quantity: 3, Kind: event.SaleRecorded},
		base + "/1/2":                 {SKU: "CUP", Quantity: 1, Kind: event.SaleRecorded},
		base + "/2/1":                 {SKU: "GIFT", Bundle: "GIFT", Quantity: 1, Kind: event.SaleRecorded},
		"bundle/" + base + "/2/1/TEA": {SKU: "TEA", Bundle: "GIFT", Quantity: 2, Kind: event.SaleRecorded},
		"bundle/" + base + "/2/1/CUP": {SKU: "CUP", Bundle: "GIFT", Quantity: 1, Kind: event.SaleRecorded},
		"c1":                          {SKU: "GIFT", Bundle: "GIFT", Quantity: 1, Kind: event.SaleCancelled, RestockedByChannel: true},
		"bundle/c1/TEA":               {SKU: "TEA", Bundle: "GIFT", Quantity: 2, Kind: event.SaleCancelled, RestockedByChannel: true},
		"bundle/c1/CUP":               {SKU: "CUP", Bundle: "GIFT", Quantity: 1, Kind: event.SaleCancelled, RestockedByChannel: true},
		"bundle/a1/TEA":               {SKU: "TEA", Bundle: "GIFT", Quantity: 4, Kind: event.SaleAssigned},
		"bundle/s1/TEA":               {SKU: "TEA", Bundle: "GIFT", Quantity: 4, Kind: event.ShipmentConfirmed},
		"bundle/r1/CUP":               {SKU: "CUP", Bundle: "GIFT", Quantity: 1, Kind: event.ReturnReceived},
		"bundle/r1/TEA":               {SKU: "TEA", Bundle: "GIFT", Quantity: 2, Kind: event.ReturnReceived},
		"s1":                          {SKU: "GIFT", Bundle: "GIFT", Quantity: 2, Kind: event.ShipmentConfirmed},
	} {
		e, ok := got[id]
		if !ok || e.SKU != want.SKU || e.Bundle != want.Bundle || e.Quantity != want.Quantity || e.Kind != want.Kind || e.RestockedByChannel != want.RestockedByChannel || !e.Checked {
			t.Errorf("%s: %+v, want %+v", id, e, want)
		}
		if e.UnitPrice != "" && e.Bundle != "" && e.Bundle != e.SKU {
			t.Errorf("%s has the price %s: what was earned is the bundle's alone", id, e.UnitPrice)
		}
	}
	if e := got[base+"/1/1"]; e.UnitPrice == "" {
		t.Errorf("the bundle's sale lost its price: %+v", e)
	}
	if len(got) != 4+3+4*3 {
		t.Errorf("%d ids: %v", len(got), slices.Sorted(maps.Keys(got)))
	}
}

// A bundle has no shelf.
func TestBundlesHaveNoStock(t *testing.T) {
	g := start(t)
	g.apply("", giftCatalog).applied(t)
	for _, body := range []string{
		`{"id":"1","kind":"receipt_received","sku":"GIFT","location":"hq","quantity":1,"occurred_at":"2026-01-01T00:00:00Z"}`,
		`{"id":"2","kind":"stock_counted","sku":"GIFT","location":"hq","quantity":1,"occurred_at":"2026-01-01T00:00:00Z","as_of":"2026-01-01T00:00:00Z"}`,
		`{"id":"3","kind":"stock_adjusted","sku":"GIFT","location":"hq","quantity":-1,"occurred_at":"2026-01-01T00:00:00Z","reason":"lost"}`,
		`{"id":"4","kind":"safety_stock_set","sku":"GIFT","location":"hq","quantity":1,"occurred_at":"2026-01-01T00:00:00Z"}`,
		`{"id":"5","kind":"reservation_placed","sku":"GIFT","location":"hq","quantity":1,"reservation_id":"r","expires_at":"2027-01-01T00:00:00Z","occurred_at":"2026-01-01T00:00:00Z"}`,
	} {
		a := g.do(http.MethodPost, "/v1/events", strings.NewReader(body), "Content-Type", "application/json")
		if a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "2 × TEA, 1 × CUP") || !strings.Contains(string(a.body), `"pointer":"/sku"`) {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	a := g.do(http.MethodPost, "/v1/orders", strings.NewReader(orderJSON("9", line("1", "TEA", 1), line("2", "GIFT", 9_000_000))), "Content-Type", "application/json")
	if a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "/lines/1/quantity") {
		t.Errorf("more of a component than can be: %d %s", a.status, a.body)
	}
	if n := len(g.events()); n != 0 {
		t.Errorf("%d events in Kafka", n)
	}
}

// What a bundle is made of stays.
func TestBundlesStayWhatTheyAre(t *testing.T) {
	g := start(t)
	g.apply("", giftCatalog).applied(t)
	for name, c := range map[string]struct{ file, said string }{
		"other quantities":   {"listings: {GIFT: {components: {TEA: 3, CUP: 1}}}", "cannot change"},
		"no bundle any more": {"listings: {GIFT: {title: Gift}}", "cannot change"},
		"a SKU with stock":   {"listings: {TEA: {components: {CUP: 1}}}", "a SKU of its own"},
		"a bundle of one":    {"listings: {BOX: {components: {GIFT: 2}}}", "is a bundle itself"},
	} {
		if a := g.apply("", c.file); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), c.said) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := g.apply("?prune=true", "listings: {TEA: {}, CUP: {}}"); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "cannot be deleted") {
		t.Errorf("prune: %d %s", a.status, a.body)
	}
	if a := g.do(http.MethodDelete, "/v1/catalog/listings/GIFT", nil, "Authorization", "Bearer "+adminKey); a.status != http.StatusConflict {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	if a := g.apply("", "listings: {GIFT: {title: Other words, components: {CUP: 1, TEA: 2}}}").applied(t); a.Updated != 1 {
		t.Errorf("another title: %+v", a)
	}
}
