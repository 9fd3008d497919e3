package ingest

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

const twoChannels = "channels:\n  shop: {adapter: none}\n  amz: {adapter: none}\n"

func (g *rig) channels(t *testing.T) {
	t.Helper()
	if a := g.apply("", twoChannels); a.status != 200 {
		t.Fatalf("catalog: %d %s", a.status, a.body)
	}
	g.eventually("catalog read", func() bool { return g.view.Settings().Channels["shop"] != nil })
}

func (g *rig) watermark(channel, until string, headers ...string) answer {
	return g.post("/v1/channels/"+channel+"/watermark", `{"until": "`+until+`"}`, headers...)
}

// TestWatermarkComesAfterAllOrders sends orders and watermarks at once and holds that, in each partition, no sale of an order that was answered
// before its watermark was sent comes after it.
func TestWatermarkComesAfterAllOrders(t *testing.T) {
	g := start(t)
	g.channels(t)
	var sent sync.WaitGroup
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	for c, channel := range []string{"shop", "amz"} {
		sent.Go(func() {
			for round := range 10 {
				var lines []string
				for i := range 20 {
					lines = append(lines, line(fmt.Sprint(i), fmt.Sprint("SKU-", i), 1))
				}
				o := strings.Replace(orderJSON(fmt.Sprint("o", round), lines...), `"channel":"shop"`, `"channel":"`+channel+`"`, 1)
				if a := g.post("/v1/orders", o); a.status != 202 {
					t.Errorf("order: %d %s", a.status, a.body)
				}
				until := begin.Add(time.Duration(round*2+c) * time.Second).Format(time.RFC3339)
				if a := g.watermark(channel, until); a.status != 202 || !strings.Contains(string(a.body), `"moved":true`) {
					t.Errorf("watermark: %d %s", a.status, a.body)
				}
			}
		})
	}
	sent.Wait()
	var r topics.EventReader
	type place struct {
		partition int32
		channel   string
	}
	passed := make(map[place]int)
	sales := 0
	for _, rec := range g.records(schemas.StockEvents) {
		var e event.Event
		if err := r.Read(rec.Value, &e); err != nil {
			t.Fatal(err)
		}
		at := place{rec.Partition, strings.Clone(e.Channel)}
		if string(rec.Key) != e.Key() {
			t.Errorf("%s: key %q", e.ID, rec.Key)
		}
		if e.Kind == event.OrderWatermarkPassed {
			round := int((e.OccurredAt - begin.UnixMicro()) / 2_000_000)
			if passed[at] != round {
				t.Errorf("partition %d: watermark %d of %s after %d others", rec.Partition, round, at.channel, passed[at])
			}
			passed[at]++
			continue
		}
		sales++
		var round int
		if _, err := fmt.Sscanf(e.OrderID, "o%d", &round); err != nil || round < passed[at] {
			t.Errorf("partition %d: a sale of order %s of %s after its watermark", rec.Partition, e.OrderID, at.channel)
		}
	}
	if sales != 2*10*20 || len(passed) != 2*4 {
		t.Errorf("%d sales, %d partitions and channels with watermarks", sales, len(passed))
	}
	for at, n := range passed {
		if n != 10 {
			t.Errorf("%+v has %d watermarks", at, n)
		}
	}
}

// TestWatermarkNeverGoesBack answers an older one with the one in force.
func TestWatermarkNeverGoesBack(t *testing.T) {
	g := start(t)
	g.channels(t)
	for _, tt := range []struct{ until, want string }{
		{"2026-02-03T10:15:00.123456789Z", `"until":"2026-02-03T10:15:00.123456Z","moved":true`},
		{"2026-02-03T10:14:00Z", `"until":"2026-02-03T10:15:00.123456Z","moved":false`},
		{"2026-02-03T11:15:00.123456+01:00", `"until":"2026-02-03T10:15:00.123456Z","moved":false`},
		{"2026-02-03T10:16:00Z", `"until":"2026-02-03T10:16:00Z","moved":true`},
	} {
		if a := g.watermark("shop", tt.until); a.status != 202 || !strings.Contains(string(a.body), tt.want) {
			t.Errorf("%s: %d %s, want %s", tt.until, a.status, a.body, tt.want)
		}
	}
	if n := len(g.records(schemas.StockEvents)); n != 2*4 {
		t.Errorf("%d records of two watermarks in four partitions", n)
	}
}

func TestWatermarkFaults(t *testing.T) {
	g := start(t)
	g.channels(t)
	soon, late := time.Now().Add(time.Minute).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)
	if a := g.watermark("shop", soon); a.status != 202 {
		t.Errorf("a clock a minute ahead: %d %s", a.status, a.body)
	}
	for name, tt := range map[string]struct {
		channel, body string
		status        int
		word          string
	}{
		"ahead":    {"shop", `{"until":"` + late + `"}`, 422, "ahead of Onhand's clock"},
		"no time":  {"shop", `{"until":"yesterday"}`, 422, "is not a time"},
		"number":   {"shop", `{"until":17}`, 422, "is not a time"},
		"none":     {"shop", `{}`, 422, "until is missing"},
		"null":     {"shop", `{"until":null}`, 422, "until is missing"},
		"more":     {"shop", `{"until":"` + soon + `","from":"x"}`, 422, "not a field"},
		"1969":     {"shop", `{"until":"1969-02-03T10:15:00Z"}`, 422, "after 1970"},
		"no JSON":  {"shop", `until`, 400, "no JSON object"},
		"empty":    {"shop", ``, 400, ""},
		"unknown":  {"ebay", `{"until":"` + soon + `"}`, 404, "apply it first"},
		"no id":    {"a%20b", `{"until":"` + soon + `"}`, 400, "letters, digits"},
		"too long": {"shop", `{"until":"` + strings.Repeat("x", maxWatermark) + `"}`, 413, "until"},
	} {
		d := g.post("/v1/channels/"+tt.channel+"/watermark", tt.body).problem(t)
		if d.Status != tt.status || !strings.Contains(d.Detail, tt.word) {
			t.Errorf("%s: %d %q, want %d and %q", name, d.Status, d.Detail, tt.status, tt.word)
		}
	}
	if a := g.watermark("shop", soon, "Authorization", "Bearer "+readKey); a.status != http.StatusForbidden {
		t.Errorf("a key that may only read: %d", a.status)
	}
	if d := g.post("/v1/events", `{"id":"w","kind":"order_watermark_passed","sku":"A","quantity":1,"occurred_at":"2026-02-03T10:15:00Z","channel":"shop"}`).problem(t); d.Status != 422 || !strings.Contains(d.Detail, "watermark") {
		t.Errorf("a watermark sent as an event: %d %q", d.Status, d.Detail)
	}
}
