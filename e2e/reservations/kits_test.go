package reservations

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// knows has all know the settings and the bundle GIFT, of two S0 and one S1.
func (g *rig) knows(settings ...topics.Setting) {
	g.t.Helper()
	client, err := g.kafka.Client(g.tel.Log, "catalog of the test")
	if err != nil {
		g.t.Fatal(err)
	}
	defer client.Close()
	for _, s := range settings {
		if err := client.ProduceSync(g.t.Context(), topics.Record(schemas.CatalogSettings, s.Key(), g.codec.AppendSetting(nil, &s))).FirstErr(); err != nil {
			g.t.Fatal(err)
		}
	}
	if err := client.ProduceSync(g.t.Context(), topics.Record(schemas.CatalogListings, gift.SKU, g.codec.AppendListing(nil, &gift, 1, "test"))).FirstErr(); err != nil {
		g.t.Fatal(err)
	}
	g.eventually("the bundle is known", func() bool { return g.view.Listing(gift.SKU) != nil })
	for _, s := range settings {
		if s.Channel != nil {
			g.eventually("the channel is known", func() bool { return g.view.Settings().Channels[s.Channel.ID] != nil })
		}
	}
}

// TestLifeOfAReservedBundle holds, extends, commits, cancels and releases bundles, alone and beside their components.
func TestLifeOfAReservedBundle(t *testing.T) {
	g := start(t)
	a := g.api()
	a.receive("S0", 10)
	a.receive("S1", 4)
	g.knows(topics.Setting{Channel: &catalog.Channel{ID: "asks", Adapter: catalog.Claim}})
	left := func(what string, s0, s1 int64) {
		t.Helper()
		if x, y := g.available("S0"), g.available("S1"); x != s0 || y != s1 {
			t.Errorf("%s: %d and %d are left, want %d and %d", what, x, y, s0, s1)
		}
	}
	expect := func(what string, status int, out answer, wantStatus int, wantState string, parts string) {
		t.Helper()
		var got []string
		for _, x := range out.Items {
			got = append(got, fmt.Sprint(x.Quantity, " ", x.SKU, " ", x.State, " ", x.Committed))
		}
		if status != wantStatus || out.State != wantState || strings.Join(got, ", ") != parts {
			t.Fatalf("%s: %d %s, %s: %+v", what, status, out.State, strings.Join(got, ", "), out)
		}
	}
	for range 2 { // a repeat is the same
		status, out := a.call(http.MethodPost, "/v1/reservations", request("one", item{"GIFT", 2}, item{"S1", 1}))
		expect("held", status, out, 201, "held", "4 S0 held 0, 3 S1 held 0")
	}
	left("held", 6, 1)
	if status, out := a.call(http.MethodPost, "/v1/reservations", request("one", item{"S0", 4}, item{"S1", 3})); status != 409 || !strings.HasSuffix(out.Type, ":conflict") {
		t.Errorf("the components under the same id: %d %+v", status, out)
	}
	status, out := a.call(http.MethodPost, "/v1/reservations", request("two", item{"GIFT", 2}))
	expect("one component is short", status, out, 409, "refused", "4 S0 aborted 0, 2 S1 refused 0")
	if !strings.Contains(out.Detail, "S1: 1 units are available and 2 were asked for") {
		t.Errorf("%+v", out)
	}
	g.eventually("nothing of the other is held", func() bool { return g.available("S0") == 6 })
	status, out = a.call(http.MethodPost, "/v1/reservations/one/extend", `{"ttl_seconds":7200}`)
	expect("extended", status, out, 200, "held", "4 S0 held 0, 3 S1 held 0")
	if status, out := a.call(http.MethodPost, "/v1/reservations/one/commit", orderOf("1", "shop", item{"GIFT", 3})); status != 422 || !strings.Contains(out.Detail, "takes 6") {
		t.Errorf("more bundles than were reserved: %d %+v", status, out)
	}
	for range 2 { // one bundle and the component are sold, and one bundle is given back
		status, out = a.call(http.MethodPost, "/v1/reservations/one/commit", orderOf("1", "shop", item{"GIFT", 1}, item{"S1", 1}))
		expect("committed", status, out, 200, "committed", "4 S0 released 2, 3 S1 released 2")
	}
	left("committed", 8, 2)
	status, out = a.call(http.MethodPost, "/v1/reservations/one/commit", orderOf("2", "shop", item{"GIFT", 1}))
	if status != 409 {
		t.Errorf("by another order: %d %+v", status, out)
	}
	status, out = a.call(http.MethodPost, "/v1/reservations", request("three", item{"GIFT", 2}))
	expect("held", status, out, 201, "held", "4 S0 held 0, 2 S1 held 0")
	left("held", 4, 0)
	for range 2 {
		status, out = a.call(http.MethodDelete, "/v1/reservations/three", nil)
		expect("given back", status, out, 200, "released", "4 S0 released 0, 2 S1 released 0")
	}
	left("given back", 8, 2)
	// It expires by itself, all of it.
	if status, out := a.call(http.MethodPost, "/v1/reservations", map[string]any{"id": "four", "ttl_seconds": 1, "items": []item{{"GIFT", 1}}}); status != 201 {
		t.Fatalf("%d %+v", status, out)
	}
	g.eventually("it has expired", func() bool { return g.available("S0") == 8 && g.available("S1") == 2 })
	// A cancelled line is one of a bundle like any other.
	cancel := `{"id":"c1","kind":"sale_cancelled","sku":"GIFT","channel":"shop","order_id":"1","line_id":"1","quantity":1,"occurred_at":"2026-02-03T10:15:00Z"}`
	for range 2 {
		if status, out := a.call(http.MethodPost, "/v1/events", cancel); status != http.StatusAccepted {
			t.Fatalf("cancellation: %d %+v", status, out)
		}
	}
	g.eventually("the units are back", func() bool { return g.available("S0") == 10 && g.available("S1") == 3 })
	fold := g.fold()
	if n := netOf(fold["GIFT"].Sold, "shop"); n != 1 {
		t.Errorf("the shop has sold %d bundles", n)
	}
	for sku, l := range fold {
		if n := netOf(l.Sold, "bundle:GIFT"); n != 0 {
			t.Errorf("%s: %d count as sold out of what is allotted to the bundle: they were held", sku, n)
		}
	}
	// What cannot be.
	for body, want := range map[string]string{
		`{"id":"x","items":[{"sku":"GIFT","quantity":1,"location":"berlin"},{"sku":"S1","quantity":1}]}`: "give both items the same location",
		`{"id":"x","items":[{"sku":"GIFT","quantity":9000000}]}`:                                         "beyond the limit",
		`{"id":"x","channel":"asks","items":[{"sku":"GIFT","quantity":1}]}`:                              "does not list its component",
	} {
		if status, out := a.call(http.MethodPost, "/v1/reservations", body); status != 422 || !strings.Contains(out.Detail, want) {
			t.Errorf("%s: %d %s, want %q", body, status, out.Detail, want)
		}
	}
}

// TestTheLastBundle has many callers of two instances want the last bundle, some of them the last unit of its component, all at once: one gets it. The winner commits, or gives back, by an instance that has
// started since.
func TestTheLastBundle(t *testing.T) {
	const callers = 200
	for name, c := range map[string]struct {
		s0     int64 // there are, and one S1
		commit bool
	}{
		"one component is scarce":              {2 * callers, true},
		"one component is scarce, given back":  {2 * callers, false},
		"both are scarce":                      {2, true},
		"both are scarce, and one more of one": {3, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t)
			apis := []*api{g.api(), g.api()}
			apis[0].receive("S0", c.s0)
			apis[0].receive("S1", 1)
			g.knows()
			var mu sync.Mutex
			var winners []string
			bundles := int64(0)
			try := func(a *api, id, sku string) {
				status, out := a.call(http.MethodPost, "/v1/reservations", request(id, item{sku, 1}))
				switch {
				case status == 201 && out.State == "held":
					mu.Lock()
					winners = append(winners, id)
					if sku == "GIFT" {
						bundles++
					}
					mu.Unlock()
				case status == 409 && out.State == "refused":
				default:
					t.Errorf("%d %+v", status, out)
				}
			}
			var wg sync.WaitGroup
			ready := make(chan struct{})
			for i := range callers {
				wg.Go(func() {
					<-ready
					sku := "GIFT"
					if i%5 == 4 {
						sku = "S1"
					}
					try(apis[i%2], fmt.Sprint("caller-", i), sku)
				})
			}
			close(ready)
			wg.Wait()
			if len(winners) == 0 && c.s0 < 2*callers { // one had S0 and another S1, so that neither had both: what comes after them is served
				g.eventually("all is given back", func() bool { return g.available("S0") == c.s0 && g.available("S1") == 1 })
				try(apis[0], "after-all", "GIFT")
			}
			if len(winners) != 1 {
				t.Fatalf("%d of %d callers have the last bundle", len(winners), callers)
			}
			g.eventually("what was not granted is given back", func() bool { return g.available("S0") == c.s0-2*bundles && g.available("S1") == 0 })
			for _, a := range apis {
				a.stop()
			}
			a := g.api()
			sku, want := []string{"S1", "GIFT"}[bundles], [2]int64{c.s0 - 2*bundles, 0}
			if c.commit {
				status, out := a.call(http.MethodPost, "/v1/reservations/"+winners[0]+"/commit", orderOf("last", "shop", item{sku, 1}))
				if status != 200 || out.State != "committed" {
					t.Fatalf("commit by another instance: %d %+v", status, out)
				}
			} else {
				want = [2]int64{c.s0, 1}
				if status, out := a.call(http.MethodDelete, "/v1/reservations/"+winners[0], nil); status != 200 || out.State != "released" {
					t.Fatalf("given back by another instance: %d %+v", status, out)
				}
			}
			fold := g.fold()
			for i, sku := range []string{"S0", "S1"} {
				if l := fold[sku]; int64(l.Available()) != want[i] || l.Locations[0].Held != 0 || int64(-l.Unassigned-l.Locations[0].Committed+l.Locations[0].OnHand) != want[i] {
					t.Errorf("%s: want %d: %+v", sku, want[i], l)
				}
			}
		})
	}
}

// TestReservedBundlesAmongMarketplaces sells components and bundles on two marketplaces that sell what they show and report late, while a shop that asks first reserves bundles and components, commits some, lets
// some go, and the allocator is stopped and started. No unit is sold twice, and in the end the ledger has what is gone.
func TestReservedBundlesAmongMarketplaces(t *testing.T) {
	f := openBundles(t)
	stop := f.allocator()
	rng := rand.New(rand.NewPCG(5, 6))
	var held []string
	asked, got, committed := 0, 0, 0
	reserve := func() {
		asked++
		id := fmt.Sprint("b-", asked)
		status, out := f.call(http.MethodPost, "/v1/reservations", map[string]any{"id": id, "channel": "shop", "ttl_seconds": 3600, "items": []item{{"GIFT", 1}}})
		switch status {
		case http.StatusConflict:
		case http.StatusCreated:
			got++
			held = append(held, id)
			f.mu.Lock()
			f.take("GIFT", 1)
			f.mu.Unlock()
		default:
			t.Fatalf("reservation: %d %+v", status, out)
		}
	}
	finish := func() {
		if len(held) == 0 {
			return
		}
		i := rng.IntN(len(held))
		id := held[i]
		held = slices.Delete(held, i, i+1)
		if rng.IntN(4) == 0 {
			f.mu.Lock() // before they are given back: from then on another may have them
			f.take("GIFT", -1)
			f.mu.Unlock()
			if status, out := f.call(http.MethodDelete, "/v1/reservations/"+id, nil); status != http.StatusOK {
				t.Fatalf("release: %d %+v", status, out)
			}
			got--
			return
		}
		committed++
		if status, out := f.call(http.MethodPost, "/v1/reservations/"+id+"/commit", orderOf(id, "shop", item{"GIFT", 1})); status != http.StatusOK || out.State != "committed" {
			t.Fatalf("commit: %d %+v", status, out)
		}
	}
	gone := func() (n int64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.taken["S0"] + f.taken["S1"]
	}
	deadline := time.Now().Add(60 * time.Second)
	for round := 1; gone() < f.units*5/4 && time.Now().Before(deadline); round++ {
		f.push()
		if round%3 == 0 {
			f.buy(1)
		}
		if round%4 == 0 {
			f.report()
		}
		if round%6 == 0 {
			reserve()
		}
		if round%9 == 0 {
			finish()
		}
		if round%60 == 45 {
			stop() // with sales unseen, writes and allotments under way
			f.buy(2)
			reserve()
			finish()
			stop = f.allocator()
		}
	}
	for len(held) > 0 {
		finish()
	}
	f.report()
	stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	sold := f.bought["m0/GIFT"] + f.bought["m1/GIFT"]
	t.Logf("%v gone of %d each; bundles: %d sold by the marketplaces, %d of %d reserved, %d committed; %d oversold", f.taken, f.units, sold, got, asked, committed, f.over)
	if f.over > 0 {
		t.Errorf("%d units were sold twice", f.over)
	}
	if committed == 0 {
		t.Error("the shop sold no bundle")
	}
	f.g.eventually("the ledger has every sale", func() bool {
		fold := f.g.fold()
		for _, sku := range f.skus[:2] {
			if int64(fold[sku].Available()) != f.units-f.taken[sku] {
				return false
			}
		}
		return netOf(fold["GIFT"].Sold, "bundle:GIFT") == ledger.Units(sold) && netOf(fold["GIFT"].Sold, "shop") == ledger.Units(committed)
	})
	for sku, l := range f.g.fold() {
		if l.Available() < 0 {
			t.Errorf("%s: %d are available in the ledger", sku, l.Available())
		}
		if c := slices.IndexFunc(gift.Components, func(c catalog.Component) bool { return c.SKU == sku }); c >= 0 && netOf(l.Sold, "bundle:GIFT") != ledger.Units(sold)*gift.Components[c].Quantity {
			t.Errorf("%s: %d count as sold in bundles that were not reserved, want %d of them", sku, netOf(l.Sold, "bundle:GIFT"), sold)
		}
	}
}
