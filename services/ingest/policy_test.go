package ingest

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
)

// What the catalog does not know is let in until the policy says otherwise; then it is refused at the door with the reason, and a record of orders.in is kept with its bytes.
func TestIntakePolicy(t *testing.T) {
	g := start(t)
	order := func(id string) string { return orderJSON(id, line("1", "NOWHERE-LISTED", 1)) }
	post := func(body string) answer {
		return g.do(http.MethodPost, "/v1/orders", strings.NewReader(body), "Content-Type", "application/json")
	}
	if a := post(order("1")); a.status != http.StatusAccepted {
		t.Fatalf("without a policy: %+v", a)
	}
	for _, e := range g.events() {
		if !e.Checked {
			t.Errorf("%+v is not marked as checked", e)
		}
	}
	if a := g.apply("", "policies: {intake: {unknown_skus: perhaps}}"); !strings.Contains(string(a.body), "want accept or reject") {
		t.Errorf("a policy that is none: %s", a.body)
	}
	if a := g.apply("", "policies: {intake: {unknown_skus: reject, unknown_locations: reject}}").applied(t); a.Created != 1 {
		t.Fatalf("%+v", a)
	}
	g.eventually("the policy is in force", func() bool { return g.view.Settings().Intake().RejectSKUs })
	if a := post(order("2")); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "unknown_sku") || !strings.Contains(string(a.body), "/lines/0/sku") {
		t.Errorf("an unknown SKU: %+v", a)
	}
	event := `{"id":"e1","kind":"receipt_received","sku":"NOWHERE-LISTED","location":"atlantis","quantity":1,"occurred_at":"2026-01-01T00:00:00Z"}`
	a := g.do(http.MethodPost, "/v1/events", strings.NewReader(event), "Content-Type", "application/json")
	if a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "unknown_location") {
		t.Errorf("an unknown location: %d %s", a.status, a.body)
	}
	producer, err := g.kafka.Client(slog.New(slog.DiscardHandler), "brand")
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.OrdersIn, Value: []byte(order("3"))}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	g.eventually("it is rejected", func() bool {
		for _, r := range g.rejected() {
			if r.Reason == "unknown_sku" && string(r.Value) == order("3") {
				return true
			}
		}
		return false
	})
	g.apply("", "policies: {intake: {unknown_skus: accept}}").applied(t)
	g.eventually("the policy is relaxed", func() bool { return !g.view.Settings().Intake().RejectSKUs })
	if a := post(order("2")); a.status != http.StatusAccepted {
		t.Errorf("after the policy was relaxed: %+v", a)
	}
}
