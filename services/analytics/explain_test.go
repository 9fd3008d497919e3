package analytics

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

// The number of a past moment is told from the events to the channel's acknowledgement, as it was then and not as it became; and what was removed is said to be.
func TestExplain(t *testing.T) {
	w := newWorld(t)
	// Times are Kafka's: each step is produced after the moment before it.
	var moments []time.Time
	next := func() {
		moments = append(moments, time.Now().UTC())
		for time.Since(moments[len(moments)-1]) < 3*time.Millisecond { // records have milliseconds
		}
	}
	ev := func(e event.Event) int64 {
		e.Source, e.OccurredAt, e.ReceivedAt = "api", time.Now().UnixMicro(), time.Now().UnixMicro()
		r := w.codec.EventRecord(&e)
		w.produce(r)
		return r.Offset
	}
	level := func(version, offset int64, onHand, committed event.Units) {
		w.produce(topics.Record(schemas.StockLevels, "TEE", w.codec.AppendLevel(nil, &ledger.Level{
			SKU: "TEE", Version: version, SourceOffset: offset, Locations: []ledger.LocationLevel{{Location: "berlin", OnHand: onHand, Committed: committed, Safety: 1}}, AppliedAt: time.Now().UnixMicro(),
		})))
	}
	target := func(version, offset int64, available, quantity event.Units, id string) int64 {
		decided := time.Now().UnixMicro()
		x := &allocation.Target{
			SKU: "TEE", Channel: "shop", Quantity: quantity, DecidedAt: decided, LevelVersion: version, SourceOffset: offset, Mode: "strict", SettingsVersion: 3,
			Explanation: []allocation.Step{{Name: "available", Units: available}, {Name: "cap", Units: quantity, Detail: "shop-cap: 80 % of it"}},
		}
		if id != "" {
			x.Write = &allocation.GrantedWrite{ID: id, Operation: write.Absolute, Quantity: quantity}
		}
		w.produce(w.target(x))
		return decided
	}
	rule := topics.Setting{Rule: &catalog.Rule{ID: "shop-cap"}, AppliedAt: day(0), AppliedBy: "ann"}
	w.produce(topics.Record(schemas.CatalogSettings, rule.Key(), w.codec.AppendSetting(nil, &rule)))
	next() // 0: nothing
	o := ev(event.Event{ID: "r1", Kind: event.ReceiptReceived, SKU: "TEE", Location: "berlin", Quantity: 11, Reference: "po1"})
	level(1, o, 11, 0)
	decided := target(1, o, 10, 8, "w1")
	w.produce(topics.Record(schemas.ExposureBooks, "TEE", w.codec.AppendBooks(nil, &escrow.Snapshot{
		SKU: "TEE", Phase: escrow.Strict, Seen: true, Version: 1, Available: 10,
		Channels: []escrow.ChannelSnapshot{{Channel: "shop", Booked: true, Grant: "w1", Share: 8, Books: exposure.State{E: 8, Belief: 8, Known: true}}},
	}, decided)))
	next() // 1: decided, not sent
	sent := time.Now().UnixMicro()
	next() // 2: on its way
	acked := time.Now().UnixMicro()
	w.produce(topics.Record(schemas.ChannelWrites, "TEE", w.codec.AppendWrite(nil, &write.Result{
		WriteID: "w1", SKU: "TEE", Channel: "shop", Operation: catalog.Absolute, Quantity: 8, Outcome: write.Applied, Shown: 8, ShownKnown: true, DecidedAt: decided, SentAt: sent, AckedAt: acked,
	})))
	next() // 3: acknowledged
	ev(event.Event{ID: "s1", Kind: event.SaleRecorded, SKU: "TEE", Location: "berlin", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 2})
	o = ev(event.Event{ID: "s1", Kind: event.SaleRecorded, SKU: "TEE", Location: "berlin", Channel: "shop", OrderID: "A", LineID: "1", Quantity: 2}) // delivered twice
	level(2, o, 11, 2)
	target(2, o, 8, 6, "")
	next() // 4: a sale later
	s := w.start()
	w.caughtUp(s)
	h := chi.NewRouter()
	s.Routes(h)
	ask := func(at time.Time, more string) (x Explanation) {
		t.Helper()
		w.get(h, "/v1/analytics/explain?sku=TEE&time="+url.QueryEscape(at.Format(time.RFC3339Nano))+more, http.StatusOK, &x)
		return x
	}

	x := ask(moments[0], "&channel=shop")
	if x.Stock.Missing != "the ledger had no stock of the SKU yet" || x.Stock.Gone || len(x.Channels) != 1 || !strings.Contains(x.Channels[0].Missing, "not listed there") || x.Channels[0].Gone {
		t.Errorf("before all: %+v", x)
	}
	x = ask(moments[1], "")
	c := x.Channels[0]
	if st := x.Stock; st.Available != 10 || st.Version != 1 || !slices.Equal(st.Locations, []PastLocation{{Location: "berlin", OnHand: 11, Available: 10, SafetyStock: 1}}) ||
		!slices.Equal(st.Kinds, []EventSum{{"receipt_received", 1, 11}}) || len(st.Latest) != 1 || st.Latest[0].Reference != "po1" || st.EventsMissing != "" {
		t.Errorf("stock: %+v", st)
	}
	if x.Exposure == nil || x.Exposure.Mode != "strict" || *x.Exposure.Slack != 2 || c.Books == nil || *c.Books.Exposure != 8 || c.Books.OpenWrite != "w1" {
		t.Errorf("exposure: %+v, %+v", x.Exposure, c.Books)
	}
	if c.Target == nil || c.Target.Quantity != 8 || c.Target.WriteID != "w1" || !slices.Equal(c.Target.Steps, []PastStep{{"available", 10, ""}, {"cap", 8, "shop-cap: 80 % of it"}}) {
		t.Errorf("target: %+v", c.Target)
	}
	if len(c.Rules) != 1 || c.Rules[0].ID != "shop-cap" || c.Rules[0].AppliedBy != "ann" || len(c.Rules[0].Rule) == 0 {
		t.Errorf("rules: %+v", c.Rules)
	}
	if c.Sent != nil || c.Acknowledged != nil || c.Writes != "nothing had been sent to the channel that has a result" {
		t.Errorf("before it was sent: %+v %+v %q", c.Sent, c.Acknowledged, c.Writes)
	}
	if c = ask(moments[2], "").Channels[0]; c.Sent == nil || c.Sent.ID != "w1" || c.Acknowledged != nil || c.Writes != "the target was sent, and not acknowledged yet" {
		t.Errorf("on its way: %+v %+v %q", c.Sent, c.Acknowledged, c.Writes)
	}
	if c = ask(moments[3], "&channel=shop").Channels[0]; c.Acknowledged == nil || *c.Acknowledged.Shown != 8 || c.Writes != "the target was sent and answered: applied" {
		t.Errorf("acknowledged: %+v %q", c.Acknowledged, c.Writes)
	}
	x = ask(moments[4], "")
	if c = x.Channels[0]; x.Stock.Available != 8 || !slices.Equal(x.Stock.Kinds, []EventSum{{"receipt_received", 1, 11}, {"sale_recorded", 1, 2}}) || c.Target.Quantity != 6 ||
		!strings.HasPrefix(c.Writes, "the target had not been sent yet; the one before it was acknowledged") {
		t.Errorf("a sale later: %+v, %q", x.Stock, c.Writes)
	}

	// Retention, as docs/analytics.md says to do it: the records of the first steps are dropped.
	for _, table := range []string{"stock_events", "stock_levels", "channel_targets", "channel_writes"} {
		if err := w.db().Exec(t.Context(), "DELETE FROM "+table+" WHERE offset = 0 SETTINGS mutations_sync = 2"); err != nil {
			t.Fatal(err)
		}
	}
	x = ask(moments[3], "&channel=shop")
	if st, c := x.Stock, x.Channels[0]; !st.Gone || !strings.Contains(st.Missing, "are gone; onhand ledger at") || !c.Gone || !strings.Contains(c.Missing, "are gone") {
		t.Errorf("after retention: %+v, %+v", st, c)
	}
	if x = ask(moments[4], ""); x.Stock.Gone || x.Stock.Available != 8 || !strings.HasSuffix(x.Stock.EventsMissing, "are gone") {
		t.Errorf("a moment that is there, whose events are not all: %+v", x.Stock)
	}

	for path, status := range map[string]int{
		"?sku=NOSUCH":                              http.StatusNotFound,
		"?channel=shop":                            http.StatusUnprocessableEntity,
		"?sku=TEE&time=yesterday":                  http.StatusUnprocessableEntity,
		"?sku=TEE&time=2250-01-01":                 http.StatusUnprocessableEntity,
		"?sku=TEE&time=2026-01-01&time=2026-01-02": http.StatusUnprocessableEntity,
		"?sku=TEE&from=2026-01-01":                 http.StatusUnprocessableEntity,
	} {
		var d problem.Details
		if w.get(h, "/v1/analytics/explain"+path, status, &d); status == http.StatusUnprocessableEntity && len(d.Errors) != 1 {
			t.Errorf("%s: %+v", path, d)
		}
	}
}

// TestExplainBundle has the number of a bundle come from the stock of its components and the rules of them, as they were at the moment asked for, though the bundle itself never sold.
func TestExplainBundle(t *testing.T) {
	w := newWorld(t)
	var moments []time.Time
	next := func() {
		moments = append(moments, time.Now().UTC())
		for time.Since(moments[len(moments)-1]) < 3*time.Millisecond { // records have milliseconds
		}
	}
	level := func(sku string, version int64, at map[string]event.Units) {
		l := &ledger.Level{SKU: sku, Version: version, AppliedAt: time.Now().UnixMicro()}
		for _, id := range slices.Sorted(maps.Keys(at)) {
			l.Locations = append(l.Locations, ledger.LocationLevel{Location: id, OnHand: at[id]})
		}
		w.produce(topics.Record(schemas.StockLevels, sku, w.codec.AppendLevel(nil, l)))
	}
	level("TEA", 1, map[string]event.Units{"berlin": 9})
	gift := catalog.Listing{SKU: "GIFT", Components: []catalog.Component{{SKU: "TEA", Quantity: 2}, {SKU: "CUP", Quantity: 1}}}
	next() // 0: no bundle yet
	w.produce(topics.Record(schemas.CatalogListings, "GIFT", w.codec.AppendListing(nil, &gift, day(0), "ann")))
	next() // 1: without a cup
	level("CUP", 1, map[string]event.Units{"berlin": 3, "wien": 7})
	w.produce(w.target(&allocation.Target{SKU: "GIFT", Channel: "shop", Quantity: 3, Mode: "pooled", LevelVersion: 2,
		Explanation: []allocation.Step{{Name: "components", Units: 3, Detail: "made of 2 × TEA, 1 × CUP: TEA is enough for 4"}}}))
	next() // 2: three of them in Berlin
	keep := event.Units(4)
	rule := topics.Setting{Rule: &catalog.Rule{ID: "keep", Match: catalog.Match{SKU: "TEA"}, PoolBuffer: &keep}, AppliedAt: day(0), AppliedBy: "ann"}
	w.produce(topics.Record(schemas.CatalogSettings, rule.Key(), w.codec.AppendSetting(nil, &rule)))
	next() // 3: of 9 TEA 4 are kept back
	s := w.start()
	w.caughtUp(s)
	h := chi.NewRouter()
	s.Routes(h)
	for i, isBundle := range []bool{false, true, true, true} {
		var x Explanation
		path := "/v1/analytics/explain?sku=GIFT&time=" + url.QueryEscape(moments[i].Format(time.RFC3339Nano))
		w.get(h, path, http.StatusOK, &x)
		if !isBundle {
			if x.Bundle != nil {
				t.Errorf("before it was listed: %+v", x.Bundle)
			}
			continue
		}
		makes := []int64{0, 3, 2}[i-1]
		if x.Bundle == nil || x.Bundle.Makes == nil || *x.Bundle.Makes != makes || len(x.Bundle.Components) != 2 || x.Stock.Missing != "it was a bundle, which has no stock of its own" {
			t.Fatalf("moment %d: %+v, %+v", i, x.Stock, x.Bundle)
		}
		tea, cup := x.Bundle.Components[0], x.Bundle.Components[1]
		if tea.SKU != "TEA" || tea.Quantity != 2 || tea.Available != 9 || tea.Makes != []int64{4, 4, 2}[i-1] || tea.PoolBuffer != []int64{0, 0, 4}[i-1] || cup.Available != []int64{0, 10, 10}[i-1] ||
			cup.Makes != cup.Available || (cup.Missing == "") != (i > 1) || cup.Gone {
			t.Errorf("moment %d: %+v", i, x.Bundle.Components)
		}
		if i > 1 && (len(x.Channels) != 1 || x.Channels[0].Target.Steps[0].Step != "components") {
			t.Errorf("moment %d: %+v", i, x.Channels)
		}
	}
}
