package analytics

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/bundle"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

// day is the start of day n of the scripted period, 2026-03-01 to 2026-03-11, in microseconds.
func day(n float64) int64 {
	return time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro() + int64(n*24*3600*1e6)
}

// period is the parameters of views with a period.
const period = "(from = '2026-03-01 00:00:00', to = '2026-03-11 00:00:00')"

// script produces the vectors of the views: a period of ten days in the life of two SKUs.
func (w *world) script() {
	w.Helper()
	ev := func(e event.Event) int64 {
		e.Source = "api"
		if e.ReceivedAt == 0 {
			e.ReceivedAt = e.OccurredAt + 1000
		}
		r := w.codec.EventRecord(&e)
		w.produce(r)
		return r.Offset
	}
	level := func(l ledger.Level) {
		w.produce(topics.Record(schemas.StockLevels, l.SKU, w.codec.AppendLevel(nil, &l)))
	}
	at := func(onHand, committed event.Units) []ledger.LocationLevel {
		return []ledger.LocationLevel{{Location: "berlin", OnHand: onHand, Committed: committed}}
	}
	// TEE: 10 units for 4 days, none for 3, 20 for 3, at a cost of 5; 20 sold net.
	o := ev(event.Event{ID: "r1", Kind: event.ReceiptReceived, SKU: "TEE", Location: "berlin", Quantity: 10, UnitCost: "5", Currency: "EUR", OccurredAt: day(0)})
	level(ledger.Level{SKU: "TEE", Version: 1, SourceOffset: o, Locations: at(10, 0), EventID: "r1", EventKind: event.ReceiptReceived, ReceivedAt: day(0) + 1000, AppliedAt: day(20)})
	ev(event.Event{ID: "s1", Kind: event.SaleRecorded, SKU: "TEE", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 12, UnitPrice: "9.50", Currency: "EUR", OccurredAt: day(1)})
	ev(event.Event{ID: "s1", Kind: event.SaleRecorded, SKU: "TEE", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 12, UnitPrice: "9.50", Currency: "EUR", OccurredAt: day(1)}) // delivered twice
	ev(event.Event{ID: "c1", Kind: event.SaleCancelled, SKU: "TEE", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 2, OccurredAt: day(1.5)})
	o = ev(event.Event{ID: "h1", Kind: event.ShipmentConfirmed, SKU: "TEE", Location: "berlin", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 10, OccurredAt: day(4)})
	level(ledger.Level{SKU: "TEE", Version: 2, SourceOffset: o, Locations: at(0, 0), EventID: "h1", EventKind: event.ShipmentConfirmed, ReceivedAt: day(4) + 1000, AppliedAt: day(20)})
	level(ledger.Level{SKU: "TEE", Version: 2, SourceOffset: o, Locations: at(0, 0), EventID: "h1", EventKind: event.ShipmentConfirmed, ReceivedAt: day(4) + 1000, AppliedAt: day(20)}) // emitted again after a crash
	ev(event.Event{ID: "s2", Kind: event.SaleRecorded, SKU: "TEE", Channel: "amz", OrderID: "B", LineID: "1", Quantity: 11, UnitPrice: "10", Currency: "USD", OccurredAt: day(6)})
	o = ev(event.Event{ID: "r2", Kind: event.ReceiptReceived, SKU: "TEE", Location: "berlin", Quantity: 19, UnitCost: "5.00", Currency: "EUR", OccurredAt: day(7)})
	level(ledger.Level{SKU: "TEE", Version: 3, SourceOffset: o, Locations: at(19, 0), Unassigned: 11, EventID: "r2", EventKind: event.ReceiptReceived, ReceivedAt: day(7) + 1000, AppliedAt: day(20)})
	o = ev(event.Event{ID: "u1", Kind: event.ReturnReceived, SKU: "TEE", Location: "berlin", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 1, Disposition: event.Restock, OccurredAt: day(7)})
	level(ledger.Level{SKU: "TEE", Version: 4, SourceOffset: o, Locations: at(20, 0), Unassigned: 11, EventID: "u1", EventKind: event.ReturnReceived, ReceivedAt: day(7) + 1000, AppliedAt: day(20)})
	// MUG: sold before it was received, so that it was oversold by 3; its cost is known from the listing.
	ev(event.Event{ID: "m1", Kind: event.SaleRecorded, SKU: "MUG", Channel: "amz", OrderID: "C", LineID: "1", Quantity: 3, OccurredAt: day(2)})
	level(ledger.Level{SKU: "MUG", Version: 1, SourceOffset: 0, Unassigned: 3, EventID: "m1", EventKind: event.SaleRecorded, ReceivedAt: day(2) + 1000, AppliedAt: day(2) + 2000})
	level(ledger.Level{SKU: "MUG", Version: 2, SourceOffset: 0, Unassigned: 5, EventID: "m2", EventKind: event.SaleRecorded, ReceivedAt: day(2) + 3000, AppliedAt: day(2) + 4000})
	for _, l := range []catalog.Listing{
		{SKU: "MUG", Title: "Mug", UnitCost: "2.25", Currency: "EUR", Channels: []catalog.ChannelListing{{Channel: "amz", Price: "8", Currency: "EUR"}}},
		{SKU: "TEE", Title: "Tee", UnitCost: "4", Currency: "EUR", Components: []catalog.Component{{SKU: "YARN", Quantity: 3}}},
	} {
		w.produce(topics.Record(schemas.CatalogListings, l.SKU, w.codec.AppendListing(nil, &l, day(0), "test")))
	}
	gone := topics.Record(schemas.CatalogListings, "OLD", nil)
	w.produce(gone)
	set := topics.Setting{Location: &catalog.Location{ID: "berlin", Name: "Berlin", Kind: catalog.Warehouse}, AppliedAt: day(0), AppliedBy: "test"}
	w.produce(topics.Record(schemas.CatalogSettings, set.Key(), w.codec.AppendSetting(nil, &set)))
	w.produce(topics.Record(schemas.Orders, "A", w.codec.AppendOrder(nil, &order.Order{
		ID: "A", Channel: "shop", PlacedAt: day(1), ReceivedAt: day(1), Currency: "EUR", Lines: []order.Line{{ID: "1", SKU: "TEE", Quantity: 12, UnitPrice: "9.50"}},
		ShipTo: order.Address{Country: "DE"},
	})))
	// Listed on shop for 10 days, out of stock for 3 of them; on amz hidden by a rule for the second half.
	target := func(channel string, decided int64, available, quantity event.Units, withdrawn bool) {
		w.produce(w.target(&allocation.Target{
			SKU: "TEE", Channel: channel, Quantity: quantity, DecidedAt: decided, Withdrawn: withdrawn, SourceOffset: -1,
			Explanation: []allocation.Step{{Name: "available", Units: available}, {Name: "buffer", Units: quantity, Detail: "rule"}},
		}))
	}
	target("shop", day(-3), 5, 5, false)
	target("shop", day(4), 0, 0, false)
	target("shop", day(7), 20, 18, false)
	target("amz", day(0), 9, 7, false)
	target("amz", day(5), 2, 0, false)
	target("amz", day(9), 2, 0, true)
	// Kept in books from day 4: exposure is known at both channels from day 5, and pooled again from now on.
	books := func(decided int64, x escrow.Snapshot) {
		w.produce(topics.Record(schemas.ExposureBooks, x.SKU, w.codec.AppendBooks(nil, &x, decided)))
	}
	booked := func(channel string, exposed escrow.Units, open bool, grant string) escrow.ChannelSnapshot {
		return escrow.ChannelSnapshot{Channel: channel, Booked: true, Grant: grant, Share: exposed, Books: exposure.State{E: exposed, Open: open, Belief: exposed, Known: !open}}
	}
	rate := escrow.ChannelSnapshot{Channel: "web"} // its rate of sales is kept, and nothing else
	books(day(4), escrow.Snapshot{SKU: "TEE", Phase: escrow.Strict, Seen: true, Version: 2, Available: 9, Channels: []escrow.ChannelSnapshot{booked("amz", 3, false, ""), booked("shop", 0, true, "w1")}})
	books(day(5), escrow.Snapshot{SKU: "TEE", Phase: escrow.Strict, Seen: true, Version: 2, Available: 9, Channels: []escrow.ChannelSnapshot{booked("amz", 3, false, ""), booked("shop", 4, false, "w2"), rate}})
	w.produce(topics.Record(schemas.ExposureBooks, "TEE", nil))
}

// What was exposed where, and by how much less than there was, can be asked for any moment.
func TestExposure(t *testing.T) {
	w := newWorld(t)
	w.script()
	s := w.start()
	w.caughtUp(s)
	w.exactly("exposure_books", 3)
	ask := func(sql string) (out []string) {
		t.Helper()
		rows, err := w.db().Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var v string
			if err := rows.Scan(&v); err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return out
	}
	got := ask(`SELECT toString((least(toDate(at), toDate('2026-03-09')), toYear(until) = 2299 ? NULL : least(toDate(until), toDate('2026-03-09')), mode, available, exposed, slack)) FROM exposure_by_sku WHERE sku = 'TEE' ORDER BY at`)
	want := []string{"('2026-03-05','2026-03-06','strict',9,3,NULL)", "('2026-03-06','2026-03-09','strict',9,7,2)", "('2026-03-09',NULL,'pooled',0,0,NULL)"}
	if !slices.Equal(got, want) {
		t.Errorf("by SKU: %q\nwant %q", got, want)
	}
	got = ask(`SELECT toString((channel, mode, exposure, shown, share, open_write, available, slack)) FROM exposure_by_channel WHERE sku = 'TEE' AND at <= '2026-03-08' AND until > '2026-03-08' ORDER BY channel`)
	want = []string{"('amz','strict',3,3,3,'',9,2)", "('shop','strict',4,4,4,'w2',9,2)"}
	if !slices.Equal(got, want) {
		t.Errorf("by channel on day 7: %q\nwant %q", got, want)
	}
	got = ask(`SELECT toString((channel, exposure, shown, open_write, slack)) FROM exposure_by_channel WHERE at <= '2026-03-05 12:00:00' AND until > '2026-03-05 12:00:00' ORDER BY channel`)
	want = []string{"('amz',3,3,'',NULL)", "('shop',NULL,NULL,'w1',NULL)"}
	if !slices.Equal(got, want) {
		t.Errorf("by channel on day 4: %q\nwant %q", got, want)
	}
}

// Two channels that use one order number have prices of their own.
func TestSalesOfOneOrderNumber(t *testing.T) {
	w := newWorld(t)
	for i, e := range []event.Event{
		{Kind: event.SaleRecorded, SKU: "TEE", Channel: "shop", OrderID: "1", LineID: "1", Quantity: 10, UnitPrice: "9", Currency: "EUR"},
		{Kind: event.SaleRecorded, SKU: "TEE", Channel: "amz", OrderID: "1", LineID: "1", Quantity: 5, UnitPrice: "12", Currency: "USD"},
		{Kind: event.SaleRecorded, SKU: "MUG", Channel: "amz", OrderID: "2", LineID: "1", Quantity: 2, UnitPrice: "4", Currency: "USD"},
		{Kind: event.SaleCancelled, SKU: "TEE", Channel: "amz", OrderID: "1", LineID: "1", Quantity: 2},
		{Kind: event.SaleCancelled, SKU: "TEE", Channel: "shop", OrderID: "1", LineID: "1", Quantity: 1},
		{Kind: event.ReturnReceived, SKU: "TEE", OrderID: "1", Location: "berlin", Quantity: 1, Disposition: event.Restock}, // whose?
		{Kind: event.ReturnReceived, SKU: "MUG", OrderID: "2", Location: "berlin", Quantity: 1, Disposition: event.Restock},
	} {
		e.ID, e.OccurredAt, e.ReceivedAt = fmt.Sprint("e", i), day(1)+int64(i), day(1)+int64(i)
		w.produce(w.codec.EventRecord(&e))
	}
	s := w.start()
	w.caughtUp(s)
	got := map[string]string{}
	rows, err := w.db().Query(t.Context(), "SELECT sku || ' ' || channel || ' ' || currency, toString((units_sold, units_cancelled, units_returned, gross, cancelled, returned, units_without_price)) FROM sales")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			t.Fatal(err)
		}
		got[k] = v
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"TEE shop EUR": "(10,1,0,90,9,0,0)",
		"TEE amz USD":  "(5,2,0,60,24,0,0)",
		"TEE  ":        "(0,0,1,0,0,0,1)",
		"MUG amz USD":  "(2,0,1,8,0,4,0)",
	}
	if !maps.Equal(got, want) {
		t.Errorf("sales = %v\nwant %v", got, want)
	}
}

// near reports whether two figures agree to nine digits.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Max(1, math.Abs(b)) }

func TestViewsOnVectors(t *testing.T) {
	w := newWorld(t)
	w.script()
	s := w.start()
	w.caughtUp(s)
	db := w.db()
	scan := func(sql string, dst ...any) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql).Scan(dst...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}

	var units, turns, dio, days float64
	var value, cogs string
	var sold int64
	scan("SELECT average_units, toString(average_value), units_sold_net, toString(cost_of_goods_sold), days, turnover_per_year, days_of_inventory FROM turnover"+period+" WHERE sku = 'TEE'",
		&units, &value, &sold, &cogs, &days, &turns, &dio)
	if !near(units, 10) || value != "50" || sold != 20 || cogs != "100" || !near(days, 10) || !near(turns, 73) || !near(dio, 5) {
		t.Errorf("turnover: %v units worth %s on average, %d sold for %s in %v days, %v turns, %v days; want 10, 50, 20, 100, 10, 73, 5", units, value, sold, cogs, days, turns, dio)
	}

	var listed, out, hidden, rate float64
	scan("SELECT listed_seconds, out_seconds, hidden_seconds, stockout_rate FROM stockouts"+period+" WHERE sku = 'TEE' AND channel = 'shop'", &listed, &out, &hidden, &rate)
	if !near(listed, 10*86400) || !near(out, 3*86400) || hidden != 0 || !near(rate, 0.3) {
		t.Errorf("shop: listed %v s, out %v s, hidden %v s, rate %v; want 10 d, 3 d, 0, 0.3", listed, out, hidden, rate)
	}
	scan("SELECT listed_seconds, out_seconds, hidden_seconds, stockout_rate FROM stockouts"+period+" WHERE sku = 'TEE' AND channel = 'amz'", &listed, &out, &hidden, &rate)
	if !near(listed, 9*86400) || out != 0 || !near(hidden, 4*86400) || rate != 0 {
		t.Errorf("amz: listed %v s, out %v s, hidden %v s, rate %v; want 9 d, 0, 4 d, 0", listed, out, hidden, rate)
	}

	got := map[string]string{}
	rows, err := db.Query(t.Context(), `SELECT toString(day) || ' ' || channel || ' ' || sku || ' ' || currency,
		toString((units_sold, units_cancelled, units_returned, units_net, gross, cancelled, returned, net, units_without_price)) FROM sales`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			t.Fatal(err)
		}
		got[k] = v
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"2026-03-02 shop TEE EUR": "(12,2,0,10,114,19,0,95,0)",
		"2026-03-07 amz TEE USD":  "(11,0,0,11,110,0,0,110,0)",
		"2026-03-08 shop TEE EUR": "(0,0,1,-1,0,0,9.5,-9.5,0)",
		"2026-03-03 amz MUG ":     "(3,0,0,3,0,0,0,0,3)",
	}
	if !maps.Equal(got, want) {
		t.Errorf("sales = %v\nwant %v", got, want)
	}

	var n uint64
	var short int64
	scan("SELECT count(), sum(units) FROM oversells", &n, &short)
	if n != 1 || short != 3 {
		t.Errorf("%d oversells of %d units, want 1 of 3: the second sale fell further, and newly below zero is what counts", n, short)
	}
	var opening, received, net int64
	scan("SELECT opening_on_hand, units_received, units_sold_net, sell_through FROM sell_through(from = '2026-03-04 00:00:00', to = '2026-03-11 00:00:00') WHERE sku = 'TEE'", &opening, &received, &net, &rate)
	if opening != 10 || received != 19 || net != 10 || !near(rate, 10.0/29) {
		t.Errorf("sell-through: opening %d, received %d, sold %d, %v; want 10, 19, 10, 10/29", opening, received, net, rate)
	}
	var tee, mug string
	scan("SELECT maxIf(toString(unit_cost), sku = 'TEE'), maxIf(toString(unit_cost), sku = 'MUG') FROM unit_costs", &tee, &mug)
	if tee != "5" || mug != "2.25" {
		t.Errorf("unit costs %s and %s, want 5 as received, and 2.25 as listed", tee, mug)
	}
	scan("SELECT count() FROM ledger_from_events WHERE sku = 'TEE' AND (on_hand, committed, available, differs) = (20, 11, 9, false)", &n)
	if n != 1 {
		t.Error("ledger_from_events disagrees with the level of TEE")
	}
}

func TestSyncLatency(t *testing.T) {
	w := newWorld(t)
	t0 := day(0)
	received := []int64{t0, t0 + 1_000_000, t0 + 2_000_000, t0 + 3_000_000}
	var offsets []int64
	for i, at := range received {
		r := w.codec.EventRecord(&event.Event{
			ID: fmt.Sprintf("e%d", i), Kind: event.SaleRecorded, SKU: "TEE", Channel: "shop", OrderID: fmt.Sprint(i), LineID: "1", Quantity: 1, OccurredAt: at, ReceivedAt: at,
		})
		w.produce(r)
		offsets = append(offsets, r.Offset)
	}
	target := func(channel string, source int, oldest int64) {
		w.produce(w.target(&allocation.Target{SKU: "TEE", Channel: channel, SourceOffset: offsets[source], OldestReceivedAt: oldest, DecidedAt: oldest}))
	}
	result := func(channel string, source int, outcome write.Outcome, oldest, acked int64) {
		r := write.Result{SKU: "TEE", Channel: channel, SourceOffset: offsets[source], Outcome: outcome, OldestReceivedAt: oldest, DecidedAt: oldest, AckedAt: acked}
		w.produce(topics.Record(schemas.ChannelWrites, "TEE", w.codec.AppendWrite(nil, &r)))
	}
	target("amz", 0, received[0])
	result("amz", 0, write.Applied, received[0], received[0]+100_000)
	target("amz", 2, received[1]) // e1 and e2 in one
	result("amz", 2, write.Unknown, received[1], 0)
	result("amz", 2, write.Applied, received[1], received[2]+500_000)
	result("amz", 2, write.Applied, received[1], received[2]+900_000) // repeated
	target("amz", 3, received[3])
	result("amz", 3, write.Refused, received[3], received[3]+1)
	target("shop", 3, received[0]) // its own sales tell it nothing new
	s := w.start()
	w.caughtUp(s)

	got := map[string]float64{}
	acked := map[string]bool{}
	rows, err := w.db().Query(t.Context(), "SELECT event_id, channel, acked, toFloat64(latency_ms) FROM sync_latency"+period)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var id, channel string
		var ok bool
		var ms float64
		if err := rows.Scan(&id, &channel, &ok, &ms); err != nil {
			t.Fatal(err)
		}
		got[id+" "+channel], acked[id+" "+channel] = ms, ok
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for k, ms := range map[string]float64{"e0 amz": 100, "e1 amz": 1500, "e2 amz": 500} {
		if !acked[k] || !near(got[k], ms) {
			t.Errorf("%s: %v ms, acknowledged %t; want %v ms", k, got[k], acked[k], ms)
		}
	}
	if ms, ok := got["e3 amz"]; !ok || acked["e3 amz"] || ms <= 0 {
		t.Errorf("e3 amz: %v ms, acknowledged %t; want it counted as waiting", ms, acked["e3 amz"])
	}
	if len(got) != 4 {
		t.Errorf("latencies of %v, want four", got)
	}

	h := chi.NewRouter()
	s.Routes(h)
	var out struct {
		Rows []struct {
			Channel                 string
			Changes, Unacknowledged int64
			Max                     float64 `json:"max_ms"`
		}
	}
	w.get(h, "/v1/analytics/latency?from=2026-03-01&to=2026-03-11", http.StatusOK, &out)
	if len(out.Rows) != 1 || out.Rows[0].Changes != 4 || out.Rows[0].Unacknowledged != 1 || !near(out.Rows[0].Max, 1500) {
		t.Errorf("latency = %+v, want amz with 4 changes, 1 of them waiting, max 1500 ms", out.Rows)
	}
	var writes, waiting uint64
	var worst float64
	if err := w.db().QueryRow(t.Context(), "SELECT writes, unacknowledged, toFloat64(max_ms) FROM write_latency_by_channel"+period+" WHERE channel = 'amz'").Scan(&writes, &waiting, &worst); err != nil {
		t.Fatal(err)
	}
	if writes != 5 || waiting != 2 || !near(worst, 1900) {
		t.Errorf("%d writes, %d not acknowledged, slowest %v ms; want 5, 2, 1900", writes, waiting, worst)
	}
}

func (w *world) get(h http.Handler, path string, status int, out any) {
	w.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	if rec.Code != status {
		w.Fatalf("GET %s: %d %s, want %d", path, rec.Code, rec.Body, status)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), out); err != nil {
		w.Fatalf("GET %s: %v", path, err)
	}
}

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	w.script()
	s := w.start()
	w.caughtUp(s)
	h := chi.NewRouter()
	s.Routes(h)
	type answer struct {
		From, To  string
		Rows      []map[string]any
		Truncated bool
	}
	var sales answer
	w.get(h, "/v1/analytics/sales?from=2026-03-01&to=2026-03-11&channel=shop&sku=TEE", http.StatusOK, &sales)
	if len(sales.Rows) != 2 || sales.Rows[0]["gross"] != "114" || sales.Rows[0]["units_net"] != 10.0 || sales.From != "2026-03-01T00:00:00.000000Z" {
		t.Errorf("sales = %+v", sales)
	}
	var first answer
	w.get(h, "/v1/analytics/sales?from=2026-03-01&to=2026-03-11&limit=1", http.StatusOK, &first)
	if len(first.Rows) != 1 || !first.Truncated {
		t.Errorf("with limit 1: %+v, want one row, truncated", first)
	}
	var turnover answer
	w.get(h, "/v1/analytics/turnover?from=2026-03-01&to=2026-03-11&sku=TEE", http.StatusOK, &turnover)
	if len(turnover.Rows) != 1 || turnover.Rows[0]["average_value"] != "50" || turnover.Rows[0]["days_of_inventory"] != 5.0 {
		t.Errorf("turnover = %+v", turnover)
	}
	var stockouts answer
	w.get(h, "/v1/analytics/stockouts?from=2026-03-01&to=2026-03-11&channel=shop", http.StatusOK, &stockouts)
	if len(stockouts.Rows) != 1 || stockouts.Rows[0]["stockout_rate"] != 0.3 {
		t.Errorf("stockouts = %+v", stockouts)
	}
	var reconcile answer
	w.get(h, "/v1/analytics/reconcile", http.StatusOK, &reconcile)
	if len(reconcile.Rows) != 11 { // ten tables, and two channels in one of them
		t.Errorf("reconcile has %d rows, want 11", len(reconcile.Rows))
	}
	for _, r := range reconcile.Rows {
		if r["repeated"] != 0.0 {
			t.Errorf("reconcile: %v", r)
		}
	}
	var none answer
	w.get(h, "/v1/analytics/sales?sku="+"x%27%29%20OR%201%3D1%20--%5C", http.StatusOK, &none)
	if len(none.Rows) != 0 || none.Rows == nil {
		t.Errorf("a SKU that is SQL found %v, want an empty list", none.Rows)
	}
	for path, field := range map[string]string{
		"/v1/analytics/sales?from=yesterday":                      "from",
		"/v1/analytics/sales?from=2026-03-02&to=2026-03-01":       "to",
		"/v1/analytics/sales?limit=0":                             "limit",
		"/v1/analytics/turnover?channel=shop":                     "channel",
		"/v1/analytics/latency?sku=a&sku=b":                       "sku",
		"/v1/analytics/stockouts?sku=" + strings.Repeat("x", 300): "sku",
	} {
		var d problem.Details
		w.get(h, path, http.StatusUnprocessableEntity, &d)
		if len(d.Errors) != 1 || d.Errors[0].Pointer != field || d.Errors[0].Detail == "" {
			t.Errorf("%s: %+v, want a fault of %s", path, d, field)
		}
	}
}

// The sums of events agree with the ledger itself, bucket by bucket, whatever happens in whatever order.
func TestLedgerFromEvents(t *testing.T) {
	w := newWorld(t)
	r := rand.New(rand.NewPCG(7, 11))
	pick := func(names ...string) string { return names[r.IntN(len(names))] }
	place := func() string { return pick("berlin", "paris", "store-9") }
	now := time.Now()
	folds := map[int32]*ledger.Partition{}
	var records []*kgo.Record
	var events []*event.Event
	for i := range 6000 {
		at := now.Add(time.Duration(i) * time.Second).UnixMicro() // ahead: a producer gives up on records that look old
		e := &event.Event{
			ID: fmt.Sprintf("e%d", i), Kind: event.Kind(1 + r.IntN(int(event.SafetyStockSet)+1)), SKU: fmt.Sprintf("SKU-%d", r.IntN(12)), Location: place(), Channel: pick("shop", "amz"),
			OrderID: fmt.Sprint(r.IntN(300)), LineID: pick("1", "2", ""), Quantity: event.Units(r.IntN(7)), Reference: pick("po1", "po2", "t1", ""),
			ReservationID: fmt.Sprint(r.IntN(40)), Disposition: event.Disposition(r.IntN(5)), OccurredAt: at - int64(r.IntN(600_000_000)), ReceivedAt: at,
			AsOf: at - int64(r.IntN(900_000_000)), RestockedByChannel: r.IntN(2) == 0, UnitCost: "1", Currency: "EUR",
		}
		if e.Kind > event.SafetyStockSet {
			e.Kind = event.Kind(event.KindCount) // one that is not known
		}
		switch {
		case r.IntN(20) == 0 && i > 0:
			*e = *events[r.IntN(len(events))] // delivered again
		case e.Kind == event.SaleRecorded && r.IntN(2) == 0:
			e.Location = ""
		case e.Kind == event.StockAdjusted:
			e.Quantity -= 3
		case e.Kind == event.StockCounted && r.IntN(3) > 0:
			e.Kind = event.ReceiptReceived
		case e.Kind == event.TransferShipped || e.Kind == event.SaleReassigned:
			e.ToLocation = place()
		}
		if r.IntN(60) == 0 {
			e.Quantity = 99_000_000
		}
		events = append(events, e)
		rec := w.codec.EventRecord(e)
		rec.Timestamp = time.UnixMicro(at).Truncate(time.Millisecond)
		records = append(records, rec)
	}
	for i, rec := range records { // one by one, so that offsets follow the order here
		if i%500 == 499 {
			w.produce(records[i-499 : i+1]...)
		}
		_ = rec
	}
	var more []*kgo.Record
	rejected := 0
	for i, rec := range records {
		p := folds[rec.Partition]
		if p == nil {
			p = ledger.New(ledger.Options{})
			folds[rec.Partition] = p
		}
		if res := p.Apply(events[i], rec.Offset, rec.Timestamp.UnixMicro()); res.Outcome == ledger.Rejected {
			rejected++
			more = append(more, w.codec.RejectedRecord(rec, res.Fault.Reason, res.Fault.Detail, "ledger-projector", now))
		}
	}
	if rejected == 0 {
		t.Fatal("nothing was rejected: the script is too tame")
	}
	for _, p := range folds {
		p.SKUs(func(s *ledger.SKU) bool {
			var l ledger.Level
			p.Level(s, now.UnixMicro(), &l)
			more = append(more, topics.Record(schemas.StockLevels, l.SKU, w.codec.AppendLevel(nil, &l)))
			return true
		})
	}
	w.produce(more...)
	s := w.start()
	w.caughtUp(s)
	rows, err := w.db().Query(t.Context(), `SELECT sku, toString((on_hand, committed, held, inbound, unsellable, safety_stock, available)),
		toString((level_on_hand, level_committed, level_held, level_inbound, level_unsellable, level_safety_stock, level_available)), differs FROM ledger_from_events`)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		var sku, sums, level string
		var differs bool
		if err := rows.Scan(&sku, &sums, &level, &differs); err != nil {
			t.Fatal(err)
		}
		n++
		if sums != level || differs {
			t.Errorf("%s: events add up to %s, the ledger says %s (on hand, committed, held, inbound, unsellable, safety, available)", sku, sums, level)
		}
	}
	if err := rows.Err(); err != nil || n != 12 {
		t.Errorf("%d SKUs, %v, want 12", n, err)
	}
}

// Several instances that migrate at once leave one schema, and doing it again changes nothing.
func TestMigrateTogetherAndAgain(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for try := 0; ; try++ {
				err := Migrate(t.Context(), w.cfg.ClickHouse)
				if err == nil {
					return
				}
				if try == 20 { // Run tries for ever
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	objects := func() (n uint64) {
		if err := w.db().QueryRow(t.Context(), "SELECT count() FROM system.tables WHERE database = ?", w.cfg.ClickHouse.Database).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := objects()
	if err := Migrate(t.Context(), w.cfg.ClickHouse); err != nil {
		t.Fatal(err)
	}
	if after := objects(); after != before || before < 20 {
		t.Errorf("%d tables and views, then %d", before, after)
	}
}

// Each query of the documentation runs, and each column it documents exists.
func TestDocumentedQueries(t *testing.T) {
	w := newWorld(t)
	w.script()
	s := w.start()
	w.caughtUp(s)
	text, err := os.ReadFile("../../docs/analytics.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, part := range strings.Split(string(text), "```sql\n") {
		if i == 0 {
			continue
		}
		sql, _, _ := strings.Cut(part, "```")
		rows, err := w.db().Query(t.Context(), strings.TrimSuffix(strings.TrimSpace(sql), ";"))
		if err != nil {
			t.Errorf("%s\n%v", sql, err)
			continue
		}
		for rows.Next() {
		}
		if err := rows.Err(); err != nil {
			t.Errorf("%s\n%v", sql, err)
		}
		n++
	}
	if n < 10 {
		t.Errorf("docs/analytics.md has %d queries, want at least 10", n)
	}
	columns, err := w.db().Query(t.Context(), "SELECT table, name FROM system.columns WHERE database = ?", w.cfg.ClickHouse.Database)
	if err != nil {
		t.Fatal(err)
	}
	for columns.Next() {
		var table, name string
		if err := columns.Scan(&table, &name); err != nil {
			t.Fatal(err)
		}
		if table != "goose_db_version" && (!strings.Contains(string(text), "`"+table+"`") || !strings.Contains(string(text), "`"+name+"`")) {
			t.Errorf("docs/analytics.md does not name %s.%s", table, name)
		}
	}
	if err := columns.Err(); err != nil {
		t.Fatal(err)
	}
}

// What a customer bought counts once, be it a bundle; what that took from the shelves is the components'.
func TestBundlesCountOnce(t *testing.T) {
	w := newWorld(t)
	ev := func(e event.Event) {
		e.ReceivedAt = day(1)
		w.produce(w.codec.EventRecord(&e))
	}
	ev(event.Event{ID: "r1", Kind: event.ReceiptReceived, SKU: "TEA", Location: "berlin", Quantity: 10, UnitCost: "2", Currency: "EUR", OccurredAt: day(0)})
	ev(event.Event{ID: "s1", Kind: event.SaleRecorded, SKU: "TEA", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 1, UnitPrice: "4", Currency: "EUR", OccurredAt: day(1)})
	for _, e := range []event.Event{
		{ID: "s2", Kind: event.SaleRecorded, SKU: "GIFT", Channel: "shop", OrderID: "A", LineID: "2", Quantity: 3, UnitPrice: "9.50", Currency: "EUR", OccurredAt: day(1)},
		{ID: "c2", Kind: event.SaleCancelled, SKU: "GIFT", Channel: "shop", OrderID: "A", LineID: "2", Quantity: 1, OccurredAt: day(2)},
		{ID: "h2", Kind: event.ShipmentConfirmed, SKU: "GIFT", Location: "berlin", Channel: "shop", OrderID: "A", LineID: "2", Quantity: 1, OccurredAt: day(2)},
	} {
		parts := bundle.Expand(nil, &e, []catalog.Component{{SKU: "TEA", Quantity: 2}})
		ev(e)
		ev(parts[0])
	}
	s := w.start()
	w.caughtUp(s)
	w.exactly("stock_events", 8)
	ask := func(sql string) (out []string) {
		t.Helper()
		rows, err := w.db().Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var v string
			if err := rows.Scan(&v); err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for sql, want := range map[string][]string{
		"SELECT concat(sku, ' ', toString(sum(units_net)), ' ', toString(sum(net)), ' ', toString(sum(units_without_price))) FROM sales GROUP BY sku ORDER BY sku": {"GIFT 2 19 0", "TEA 1 4 0"},
		"SELECT concat(sku, ' ', bundle, ' ', toString(sum(units_net))) FROM bundle_components GROUP BY sku, bundle":                                               {"TEA GIFT 4"},
		"SELECT concat(sku, ' ', toString(on_hand), ' ', toString(committed), ' ', toString(units_sold)) FROM ledger_from_events ORDER BY sku":                     {"TEA 8 3 7"},
		"SELECT concat(sku, ' ', toString(sum(units))) FROM stock_moves WHERE kind = 'shipment_confirmed' GROUP BY sku":                                            {"TEA -2"},
		"SELECT toString(count()) FROM stock_events WHERE bundle = 'GIFT' AND sku = 'GIFT'":                                                                        {"3"},
	} {
		if got := ask(sql); !slices.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", sql, got, want)
		}
	}
}
