package escrow_test

import (
	"math"
	"strings"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// desk is a SKU whose channels answer at once, when told to.
type desk struct {
	t      *testing.T
	s      *escrow.SKU
	d      escrow.Decider
	in     escrow.Input
	shown  map[string]units
	sold   map[string]units
	open   map[string]escrow.Grant
	alerts []escrow.Alert
}

func newDesk(t *testing.T, available units, g allocation.Guarantee, ks ...kind) *desk {
	d := &desk{t: t, s: &escrow.SKU{ID: "A"}, shown: map[string]units{}, sold: map[string]units{}, open: map[string]escrow.Grant{}}
	d.in = escrow.Input{Now: 1_000_000_000, Version: 1, Rules: &allocation.Rules{Guarantee: g, Share: allocation.Equally, Channels: make([]allocation.ChannelRules, len(ks))},
		Stock: []allocation.Stock{{ID: "W"}}}
	var sellers []allocation.Seller
	for i, k := range ks {
		sellers = append(sellers, allocation.Seller{ID: string(rune('a' + i))})
		d.in.Offers = append(d.in.Offers, escrow.Offer{Seller: i, ExternalID: "A"})
		d.in.APIs = append(d.in.APIs, k.api)
		d.in.Marks = append(d.in.Marks, d.in.Now)
	}
	d.in.Layout = allocation.NewLayout(sellers, []allocation.Place{{ID: "W"}})
	d.level(available, "", event.StockAdjusted)
	return d
}

func (d *desk) level(available units, seller string, k event.Kind) {
	d.in.Stock[0].Available = available
	l := escrow.Level{Version: d.s.Version() + 1, Previous: d.s.Version(), Available: available, At: d.in.Now, Event: "e1", Kind: k}
	if seller != "" {
		d.sold[seller]++
		l.Counters = []escrow.Counter{{Channel: seller, Sold: d.sold[seller], EarliestAt: d.in.Now}}
	}
	d.s.Level(&l)
}

// decide decides once and notes what is granted.
func (d *desk) decide() *escrow.Decision {
	d.in.Now += 1_000_000
	out := d.d.Decide(d.s, &d.in)
	d.alerts = append(d.alerts, out.Alerts...)
	for _, g := range out.Grants {
		d.open[g.Channel+g.ExternalID] = g
	}
	return out
}

// answer has every open write applied and acknowledged, and all watermarks pass.
func (d *desk) answer() {
	for key, g := range d.open {
		r := escrow.Result{ID: g.ID, Channel: g.Channel, Outcome: write.Applied, AckedAt: d.in.Now}
		switch g.Write.Operation {
		case write.Read:
			r.Shown, r.ShownKnown = d.shown[key], true
		case write.CompareAndSet:
			if d.shown[key] != g.Write.Expected {
				r.Outcome, r.ErrorCode = write.Refused, escrow.Stale
			} else {
				d.shown[key] = g.Write.Quantity
			}
		case write.Delta:
			d.shown[key] = max(0, d.shown[key]+g.Write.Delta)
		default:
			d.shown[key] = g.Write.Quantity
		}
		delete(d.open, key)
		if !d.s.Result(&r, 0) {
			d.t.Errorf("result of %s is not taken", g.ID)
		}
		if d.s.Result(&r, 0) {
			d.t.Errorf("result of %s is taken twice", g.ID)
		}
	}
	for i := range d.in.Marks {
		d.in.Marks[i] = d.in.Now + 1
	}
}

// settle goes on until nothing more is granted.
func (d *desk) settle() {
	for range 30 {
		if d.decide(); len(d.open) == 0 {
			d.answer()
			if d.decide(); len(d.open) == 0 {
				return
			}
		}
		d.answer()
	}
	d.t.Errorf("no rest: %v", d.open)
}

func (d *desk) wants(want map[string]units) {
	d.t.Helper()
	for key, n := range want {
		if d.shown[key] != n {
			d.t.Errorf("%s shows %d; want %d (%v)", key, d.shown[key], n, d.shown)
		}
	}
}

func (d *desk) alerted(k escrow.AlertKind) *escrow.Alert {
	for i := range d.alerts {
		if d.alerts[i].Kind == k {
			return &d.alerts[i]
		}
	}
	return nil
}

// TestCountBelowWhatIsExposed: an alert names the event, and decreases go out at once.
func TestCountBelowWhatIsExposed(t *testing.T) {
	for _, ks := range [][]kind{{cas, cas}, {absolute, absolute}, {delta, tellsIt}, {casOnly, absolute}} {
		d := newDesk(t, 8, allocation.Strict, ks...)
		d.settle()
		d.wants(map[string]units{"aA": 4, "bA": 4})
		d.level(4, "", event.StockCounted)
		if out := d.decide(); len(out.Grants) == 0 {
			t.Error("nothing is lowered")
		}
		a := d.alerted(escrow.Shortage)
		if a == nil || a.Units != 4 || a.Cause != "e1" || !strings.Contains(a.Message, "stock_counted") {
			t.Errorf("alert %+v", a)
		}
		n := len(d.alerts)
		d.answer()
		d.settle()
		if len(d.alerts) != n {
			t.Errorf("more alerts of the same: %+v", d.alerts[n:])
		}
		if d.s.Exposed() > 4 {
			t.Errorf("%d are exposed of 4", d.s.Exposed())
		}
	}
}

// TestRaisedByHand: a read that shows more than there should be is an alert, and is brought down.
func TestRaisedByHand(t *testing.T) {
	d := newDesk(t, 4, allocation.Strict, casOnly, casOnly)
	d.settle()
	d.wants(map[string]units{"aA": 2, "bA": 2})
	d.shown["aA"] = 9
	d.level(2, "b", event.SaleRecorded) // stock of one more unit is gone than the sale took: make b's share move
	d.level(6, "", event.ReceiptReceived)
	d.settle()
	if d.alerted(escrow.Raised) == nil {
		t.Errorf("alerts %+v", d.alerts)
	}
	if d.shown["aA"] > 4 {
		t.Errorf("a still shows %d", d.shown["aA"])
	}
}

// TestChannelOversells: a sale beyond exposure is a look at the channel, and an alert once its order watermark says that no cancellation explains it.
func TestChannelOversells(t *testing.T) {
	for name, after := range map[string]func(*desk){
		"its watermark passes":   func(d *desk) { d.in.Marks[0] = d.in.Now + 10_000_000 },
		"its watermark stands":   func(d *desk) { d.in.Now += 901_000_000 },
		"it has none":            func(d *desk) { d.in.Marks[0], d.in.Version = 0, 2 },
		"the rule ends":          func(d *desk) { d.in.Rules.Guarantee, d.in.Version = allocation.NoGuarantee, 2 },
		"it is listed no longer": func(d *desk) { d.in.Offers, d.in.Version, d.in.Marks[0] = d.in.Offers[1:], 2, d.in.Now+10_000_000 },
	} {
		d := newDesk(t, 1, allocation.Strict, casOnly, casOnly)
		d.settle()
		d.shown["aA"] = 0
		d.level(0, "a", event.SaleRecorded)
		d.level(-1, "a", event.SaleRecorded)
		out := d.decide()
		if len(d.alerts) > 0 {
			t.Errorf("%s: alerts at once: %+v", name, d.alerts)
		}
		if len(out.Grants) == 0 || out.Grants[0].Write.Operation != write.Read {
			t.Errorf("%s: grants %+v", name, out.Grants)
		}
		x := d.s.Snapshot() // a restart forgets nothing of it
		d.s = escrow.Restore(&x)
		for key, g := range d.open { // answered, before the watermark moves
			d.s.Result(&escrow.Result{ID: g.ID, Channel: g.Channel, Outcome: write.Applied, AckedAt: d.in.Now, Shown: d.shown[key], ShownKnown: true}, 0)
			delete(d.open, key)
		}
		d.decide()
		if len(d.alerts) > 0 {
			t.Errorf("%s: alerts before: %+v", name, d.alerts)
		}
		after(d)
		d.decide()
		d.answer()
		d.decide()
		if a := d.alerted(escrow.Breach); a == nil || a.Channel != "a" || a.Units != 1 || a.Cause != "e1" {
			t.Errorf("%s: alerts %+v", name, d.alerts)
		}
		n := len(d.alerts)
		d.in.Now += 2_000_000_000
		d.decide()
		if len(d.alerts) != n {
			t.Errorf("%s: told again: %+v", name, d.alerts[n:])
		}
	}
}

// TestRestockedUnitIsNoAlert: a channel puts a cancelled unit on sale again by itself, and sells or shows it before anybody has heard of the cancellation.
func TestRestockedUnitIsNoAlert(t *testing.T) {
	cancelled := func(t *testing.T, d *desk, k kind) { // and now it is heard of
		available := d.in.Stock[0].Available + 1
		d.in.Stock[0].Available = available
		d.s.Level(&escrow.Level{Version: d.s.Version() + 1, Previous: d.s.Version(), Available: available, At: d.in.Now, Event: "e2", Kind: event.SaleCancelled,
			Counters: []escrow.Counter{{Channel: "a", Sold: d.sold["a"], Restored: 1}}})
		d.answer()
		d.settle()
		d.in.Now += 1_000_000_000
		d.answer()
		d.settle()
		if len(d.alerts) > 0 {
			t.Errorf("%+v: alerts %+v", k, d.alerts)
		}
	}
	for _, k := range []kind{cas, casOnly, absolute, readable, delta, tellsIt} {
		t.Run("it was sold", func(t *testing.T) {
			d := newDesk(t, 4, allocation.Strict, k, cas)
			d.settle()
			for d.shown["aA"] > 0 {
				d.shown["aA"]--
				d.level(d.in.Stock[0].Available-1, "a", event.SaleRecorded)
				d.decide()
			}
			d.shown["aA"]++ // it restocks
			d.shown["aA"]-- // and sells
			d.level(d.in.Stock[0].Available-1, "a", event.SaleRecorded)
			d.decide()
			cancelled(t, d, k)
			if d.s.Exposed() > d.s.Available() {
				t.Errorf("%+v: %d exposed of %d", k, d.s.Exposed(), d.s.Available())
			}
		})
		if !k.api.Reads {
			continue
		}
		t.Run("it was seen", func(t *testing.T) {
			d := newDesk(t, 4, allocation.Strict, k, cas)
			d.settle()
			d.shown["aA"]++ // more than it was exposed to
			d.level(d.in.Stock[0].Available+8, "", event.ReceiptReceived)
			for range 3 {
				d.decide()
				marks := append([]int64(nil), d.in.Marks...)
				d.answer()
				copy(d.in.Marks, marks)
			}
			cancelled(t, d, k)
		})
	}
}

// TestCancellationBeforeItsSale: a channel sells and puts the cancelled unit on sale again, and the cancellation is seen first: the two together change nothing.
func TestCancellationBeforeItsSale(t *testing.T) {
	d := newDesk(t, 4, allocation.Strict, casOnly, casOnly)
	d.settle()
	level := func(k event.Kind, sold, restored units) {
		d.s.Level(&escrow.Level{Version: d.s.Version() + 1, Previous: d.s.Version(), Available: 4, At: d.in.Now, Event: "e2", Kind: k,
			Counters: []escrow.Counter{{Channel: "a", Sold: sold, Restored: restored, EarliestAt: d.in.Now}}})
		d.decide()
	}
	level(event.SaleCancelled, 0, 1)
	if d.s.Exposed() != 5 {
		t.Errorf("%d exposed", d.s.Exposed())
	}
	level(event.SaleRecorded, 1, 1)
	if len(d.alerts) > 0 || d.s.Exposed() != 4 {
		t.Errorf("%d exposed, alerts %+v", d.s.Exposed(), d.alerts)
	}
	d.in.Stock[0].Available = 2
	d.level(2, "", event.StockCounted) // nothing is left of what was allowed for
	d.decide()
	if a := d.alerted(escrow.Shortage); a == nil || a.Units != 2 {
		t.Errorf("alerts %+v", d.alerts)
	}
}

// TestCountBesideARestock: what a cancellation may explain hides nothing of what a count takes.
func TestCountBesideARestock(t *testing.T) {
	d := newDesk(t, 4, allocation.Strict, casOnly, casOnly)
	d.settle()
	for d.shown["aA"] > 0 {
		d.shown["aA"]--
		d.level(d.in.Stock[0].Available-1, "a", event.SaleRecorded)
	}
	d.level(d.in.Stock[0].Available-1, "a", event.SaleRecorded) // one more than it showed
	d.decide()
	if len(d.alerts) > 0 {
		t.Errorf("alerts %+v", d.alerts)
	}
	d.level(0, "", event.StockCounted)
	d.decide()
	if a := d.alerted(escrow.Shortage); a == nil || a.Units != 1 || !strings.Contains(a.Message, "stock_counted") {
		t.Errorf("alerts %+v", d.alerts)
	}
}

func TestPauseIsObeyed(t *testing.T) {
	for _, k := range kinds {
		d := newDesk(t, 8, allocation.Strict, k, cas)
		d.settle()
		d.in.Offers[0].Paused, d.in.Version = true, 2
		d.settle()
		d.wants(map[string]units{"aA": 0, "bA": 8})
		d.in.Offers[0].Paused, d.in.Version = false, 3
		d.settle()
		if d.shown["aA"] == 0 {
			t.Errorf("%+v does not come back: %v", k, d.shown)
		}
	}
}

// TestListingMoves: the old listing shows nothing before the new one shows anything; a removed one is emptied and forgotten.
func TestListingMoves(t *testing.T) {
	for _, k := range kinds {
		d := newDesk(t, 4, allocation.Strict, k)
		d.settle()
		if d.shown["aA"] != 4 {
			t.Fatalf("%+v: %v", k, d.shown)
		}
		d.in.Offers[0].ExternalID, d.in.Version = "B", 2
		for range 12 {
			for _, g := range d.decide().Grants {
				if g.ExternalID == "B" && d.shown["aA"] > 0 {
					t.Errorf("%+v: B is written while A shows %d", k, d.shown["aA"])
				}
			}
			d.answer()
		}
		d.wants(map[string]units{"aA": 0, "aB": 4})
		d.in.Offers, d.in.Version = nil, 3
		d.settle()
		d.wants(map[string]units{"aB": 0})
		if v, ok := d.s.View("a"); ok {
			t.Errorf("still in the books: %+v", v)
		}
	}
}

func TestOperationOfAChannelChanges(t *testing.T) {
	for _, from := range kinds {
		for _, to := range kinds {
			d := newDesk(t, 6, allocation.Strict, from, cas)
			d.settle()
			d.in.APIs[0], d.in.Version = to.api, 2
			d.level(12, "", event.ReceiptReceived)
			d.settle()
			if d.s.Exposed() > 12 || d.s.Exposed() < 8 {
				t.Errorf("%+v to %+v: exposed %d of 12: %v", from.api, to.api, d.s.Exposed(), d.shown)
			}
		}
	}
}

func TestChannelIsAdded(t *testing.T) {
	d := newDesk(t, 6, allocation.Strict, cas, absolute)
	all := d.in.Offers
	d.in.Offers = all[:1]
	d.settle()
	d.wants(map[string]units{"aA": 6})
	d.in.Offers, d.in.Version = all, 2
	d.shown["bA"] = 3 // as it came
	d.settle()
	if d.shown["bA"] == 0 || d.shown["aA"]+d.shown["bA"] > 6 {
		t.Errorf("shown %v", d.shown)
	}
}

// TestMadeToOrder shows its floor with nothing available, and takes nothing that others show.
func TestMadeToOrder(t *testing.T) {
	d := newDesk(t, 0, allocation.Strict, cas, cas)
	d.in.Rules.Channels[0].Floor = allocation.Setting{Units: 3, Set: true, Rule: "mto"}
	d.settle()
	d.wants(map[string]units{"aA": 3, "bA": 0})
	if a := d.alerted(escrow.Shortage); a != nil {
		t.Errorf("made to order counts as a shortage: %+v", a)
	}
	d.level(8, "", event.ReceiptReceived)
	d.settle()
	if d.shown["aA"] < 3 || d.shown["bA"] == 0 || d.shown["aA"]+d.shown["bA"] > 8 {
		t.Errorf("shown %v of 8", d.shown)
	}
}

// TestHighestMarginFirst: of channels of one priority the one that earns more is served first.
func TestHighestMarginFirst(t *testing.T) {
	d := newDesk(t, 1, allocation.Strict, cas, cas)
	d.in.Rules.Share = allocation.ByPriority
	d.in.Offers[1].Margin = 5
	d.settle()
	d.wants(map[string]units{"aA": 0, "bA": 1})
}

// TestPooledAgain: a rule that ends strict waits for the open write, and then lets go of the books; ids go on.
func TestPooledAgain(t *testing.T) {
	d := newDesk(t, 6, allocation.Strict, cas)
	first := d.decide().Grants[0].ID
	d.in.Rules.Guarantee, d.in.Version = allocation.NoGuarantee, 2
	if out := d.decide(); out.Phase != escrow.Leaving || len(out.Grants) > 0 {
		t.Errorf("phase %v with a write open", out.Phase)
	}
	d.answer()
	if out := d.decide(); out.Phase != escrow.Pooled || !out.Entered {
		t.Errorf("phase %v with no write open", out.Phase)
	}
	d.in.Rules.Guarantee, d.in.Version = allocation.Strict, 3
	if again := d.decide().Grants[0].ID; again == first {
		t.Errorf("id %s twice", again)
	}
}

func TestAdaptiveNeedsWhatItRestsOn(t *testing.T) {
	for name, tt := range map[string]struct {
		kind kind
		mark int64
		says string
	}{
		"no way down":          {kind{api: escrow.API{Operation: write.Delta}}, 1_000_000_000, "read"},
		"no watermark":         {cas, 0, "reports no order watermark"},
		"watermark stands":     {cas, 1, "does not move"},
		"all there":            {cas, 1_000_000_000, ""},
		"is only recorded":     {kind{}, 0, ""},
		"absolute, write-only": {absolute, 1_000_000_000, ""},
	} {
		d := newDesk(t, 1, allocation.Adaptive, tt.kind, cas)
		d.in.Marks[0] = tt.mark
		out := d.decide()
		if (out.Phase == escrow.Strict) != (tt.says == "") || !strings.Contains(out.Hindrance, tt.says) {
			t.Errorf("%s: %v, %q", name, out.Phase, out.Hindrance)
		}
	}
}

// TestAdaptiveComesBack after five minutes above twice the threshold, and not before.
func TestAdaptiveComesBack(t *testing.T) {
	d := newDesk(t, 2, allocation.Adaptive, cas, cas)
	if out := d.decide(); out.Phase != escrow.Strict {
		t.Fatalf("phase %v at 2 units", out.Phase)
	}
	d.answer()
	d.settle()
	d.level(256, "", event.ReceiptReceived)
	if out := d.decide(); out.Phase != escrow.Strict || out.Wake == 0 {
		t.Errorf("%+v at twice the threshold", out)
	}
	d.level(500, "", event.ReceiptReceived)
	start := d.in.Now
	for range 400 {
		out := d.decide()
		if out.Phase == escrow.Pooled {
			break
		}
		d.answer()
	}
	if waited := d.in.Now - start; d.s.Phase() != escrow.Pooled || waited < 300_000_000 {
		t.Errorf("%v after %d ms", d.s.Phase(), waited/1000)
	}
}

// TestLendsToWhoeverHasNothing: a channel that holds what is kept back of its share, of stock that another cannot sell, does not leave that one with nothing.
func TestLendsToWhoeverHasNothing(t *testing.T) {
	d := newDesk(t, 7, allocation.Strict, cas, cas, cas)
	d.in.Layout = allocation.NewLayout([]allocation.Seller{{ID: "a", Scope: []string{"W1"}}, {ID: "b", Scope: []string{"W1"}}, {ID: "c", Scope: []string{"W0"}}},
		[]allocation.Place{{ID: "W0"}, {ID: "W1"}})
	d.in.Stock = []allocation.Stock{{Place: 0, ID: "W0", Available: 6}, {Place: 1, ID: "W1", Available: 1}}
	d.in.Offers[0].Paused, d.in.Offers[1].Paused = true, true
	d.settle()
	d.in.Offers[1].Paused = false
	d.in.Version++
	d.settle()
	d.wants(map[string]units{"aA": 0, "bA": 1, "cA": 6})
	d.in.Offers[0].Paused = false
	d.in.Version++
	d.settle()
	a, _ := d.s.View("a")
	b, _ := d.s.View("b")
	if a.Share != 1 || b.Share != 0 {
		t.Fatalf("shares %d and %d; want the unit to be the first one's", a.Share, b.Share)
	}
	d.wants(map[string]units{"aA": 1, "bA": 0, "cA": 6})
}

// TestLendsLittleToWhoeverHasNothing: one unit beyond a large share is worth a write to a channel that has none.
func TestLendsLittleToWhoeverHasNothing(t *testing.T) {
	d := newDesk(t, 13, allocation.Strict, cas, cas)
	d.in.Layout = allocation.NewLayout([]allocation.Seller{{ID: "a", Scope: []string{"W1"}}, {ID: "b", Scope: []string{"W0", "W1"}}}, []allocation.Place{{ID: "W0"}, {ID: "W1"}})
	d.in.Stock = []allocation.Stock{{Place: 0, ID: "W0", Available: 12}, {Place: 1, ID: "W1", Available: 1}}
	d.in.Offers[0].Paused = true
	d.settle()
	d.wants(map[string]units{"aA": 0, "bA": 13})
	d.in.Offers[0].Paused = false
	d.in.Version++
	d.settle()
	d.wants(map[string]units{"aA": 1, "bA": 12})
}

// TestAuditLooksAtOnce: a sale that was seen while a write was under way may have come before the answer or after it. Until somebody looks, exposure stays above
// what the channel is thought to show.
func TestAuditLooksAtOnce(t *testing.T) {
	d := newDesk(t, 100, allocation.Strict, cas, cas)
	d.settle()
	if !d.s.Settled() {
		t.Fatal("exposure is not settled at rest")
	}
	d.level(200, "", event.ReceiptReceived)
	d.decide()
	g, ok := d.open["aA"]
	if !ok || g.Write.Operation != write.CompareAndSet {
		t.Fatalf("granted %+v; want a raise", d.open)
	}
	delete(d.open, "aA")
	d.shown["aA"] = g.Write.Quantity - 1 // it sold one right after the write, and answers then
	d.level(199, "a", event.SaleRecorded)
	d.s.Result(&escrow.Result{ID: g.ID, Channel: "a", Outcome: write.Applied, AckedAt: d.in.Now, Shown: d.shown["aA"], ShownKnown: true}, 0)
	d.answer()
	reads := func() (n int) {
		for _, x := range d.decide().Grants {
			if x.Channel == "a" && x.Write.Operation == write.Read {
				n++
			}
		}
		return n
	}
	if v, _ := d.s.View("a"); v.Shown == v.Exposure || reads() > 0 {
		t.Fatalf("%+v; want it unclear what it shows, and time to find out", v)
	}
	d.answer()
	if d.s.Audit(); reads() != 1 {
		t.Fatal("it was not looked at")
	}
	d.answer()
	d.settle()
	if v, _ := d.s.View("a"); v.Shown != d.shown["aA"] || v.Exposure != d.shown["aA"] || !d.s.Settled() {
		t.Errorf("%+v where it shows %d", v, d.shown["aA"])
	}
}

// TestALookThatIsNotSentIsOwed: after a restock that may have been overwritten somebody has to look, and a read that was never sent is no look.
func TestALookThatIsNotSentIsOwed(t *testing.T) {
	d := newDesk(t, 8, allocation.Strict, cas, cas)
	d.settle()
	d.level(7, "a", event.SaleRecorded)
	d.in.Stock[0].Available = 8 // the channel showed one more for a moment, and then what it was set to
	d.s.Level(&escrow.Level{Version: d.s.Version() + 1, Previous: d.s.Version(), Available: 8, At: d.in.Now, Event: "e2", Kind: event.SaleCancelled,
		Counters: []escrow.Counter{{Channel: "a", Sold: 1, Restored: 1}}})
	d.answer()
	for i := range 2 {
		for range 5 {
			if d.in.Now += 60_000_000; len(d.open) == 0 {
				d.decide()
			}
		}
		g, ok := d.open["aA"]
		if !ok || g.Write.Operation != write.Read {
			v, _ := d.s.View("a")
			t.Fatalf("time %d: granted %+v with %+v; want a look", i, d.open, v)
		}
		delete(d.open, "aA")
		d.s.Result(&escrow.Result{ID: g.ID, Channel: "a", Outcome: write.NotSent, AckedAt: d.in.Now}, 0)
	}
}

// TestExpectedOversell holds it against the sum of its definition: the units beyond the buffer are the probabilities of one more, two more …
func TestExpectedOversell(t *testing.T) {
	for _, rate := range []int64{1, 100, 1000, 7000} {
		for b := units(0); b < 12; b++ {
			want := 0.0
			for k := b; k < b+100; k++ {
				want += escrow.OversellProbability(rate, 1_000_000, k)
			}
			if got := escrow.ExpectedOversell(rate, 1_000_000, b); math.Abs(got-want) > 1e-9 {
				t.Errorf("λτ %v, buffer %d: %g, want %g", float64(rate)/1000, b, got, want)
			}
		}
	}
	if got := escrow.ExpectedOversell(0, 1_000_000, 0); got != 0 {
		t.Errorf("without sales: %g", got)
	}
}

// TestOversellProbability is the table of the design.
func TestOversellProbability(t *testing.T) {
	for _, tt := range []struct {
		rate, window int64 // 1/1000 a second, µs
		want         []float64
		digits       float64
	}{
		{1000, 100_000, []float64{0.095, 0.0047, 0.00016, 4e-6}, 0.04},
		{139, 3_600_000, []float64{0.39, 0.090, 0.014, 0.0018, 0.00017}, 0.03},
		{1000, 1_000_000, []float64{0.63, 0.26, 0.080, 0.019, 0.0037}, 0.02},
	} {
		for b, want := range tt.want {
			if got := escrow.OversellProbability(tt.rate, tt.window, units(b)); math.Abs(got-want) > tt.digits*want {
				t.Errorf("λτ %.2f, buffer %d: %.3g; want %.3g", float64(tt.rate)/1000*float64(tt.window)/1e6, b, got, want)
			}
		}
	}
	for _, mean := range []int64{1, 50, 700, 2000} { // the sum of the upper and the lower part is 1, whichever is added up
		last := 1.0
		for b := units(0); b < 3000; b += 17 {
			p := escrow.OversellProbability(mean*1000, 1_000_000, b)
			if p < 0 || p > last+1e-9 {
				t.Fatalf("mean %d: P(> %d) = %g after %g", mean, b, p, last)
			}
			last = p
		}
	}
}
