package reservations

import (
	"fmt"
	"testing"
	"time"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// gift takes two of S0 and one of S1.
var gift = catalog.Listing{SKU: "GIFT", Components: []catalog.Component{{SKU: "S0", Quantity: 2}, {SKU: "S1", Quantity: 1}}}

// openBundles is a fair of two components and a bundle of them, each on both marketplaces.
func openBundles(t *testing.T) *fair {
	f := openFair(t, 2, 30)
	if err := f.client.ProduceSync(t.Context(), topics.Record(schemas.CatalogListings, gift.SKU, f.g.codec.AppendListing(nil, &gift, 1, "test"))).FirstErr(); err != nil {
		t.Fatal(err)
	}
	f.g.eventually("the bundle is known", func() bool { return f.g.view.Listing(gift.SKU) != nil })
	f.skus = append(f.skus, gift.SKU)
	f.made = map[string][]catalog.Component{gift.SKU: gift.Components}
	return f
}

// TestBundlesAndTheirComponentsAmongMarketplaces sells the last units of two components, and bundles of both, through two marketplaces that sell what they show and report late, while the
// allocator is stopped and started. No unit of a component is sold twice, bundles have a part of the trade, and in the end the ledger has what was sold.
func TestBundlesAndTheirComponentsAmongMarketplaces(t *testing.T) {
	f := openBundles(t)
	stop := f.allocator()
	left := func() (n int64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, sku := range f.skus[:2] {
			n += f.units - f.taken[sku]
		}
		return n
	}
	round, sold := 0, 0
	deadline := time.Now().Add(60 * time.Second)
	for left() > f.units/3 && time.Now().Before(deadline) {
		round++
		f.push()
		if round%2 == 0 {
			f.buy(1)
		}
		if round%3 == 0 {
			f.report()
		}
		if round%10 == 0 {
			f.claim(f.skus[round/10%2], fmt.Sprint("r-", round), false)
		}
		if round%60 == 45 {
			stop() // with sales unseen, writes and allotments under way
			f.buy(2)
			stop = f.allocator()
		}
	}
	f.report()
	stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, n := range f.bought {
		t.Logf("%s: %d", key, n)
		if key == "m0/GIFT" || key == "m1/GIFT" {
			sold += n
		}
	}
	t.Logf("%v gone of %d each in %d rounds, %d bundles among them, %d oversold", f.taken, f.units, round, sold, f.over)
	if f.over > 0 {
		t.Errorf("%d units were sold twice", f.over)
	}
	if sold < 3 {
		t.Errorf("%d bundles sold", sold)
	}
	if f.taken["S1"] < f.units*6/10 || f.taken["S0"] < f.units*6/10 {
		t.Errorf("of %d each %v are gone", f.units, f.taken)
	}
	f.g.eventually("the ledger has every sale", func() bool {
		fold := f.g.fold()
		for _, sku := range f.skus[:2] {
			if int64(fold[sku].Available()) != f.units-f.taken[sku] {
				return false
			}
		}
		return netOf(fold[gift.SKU].Sold, "bundle:GIFT") == ledger.Units(sold)
	})
	for sku, l := range f.g.fold() {
		if l.Available() < 0 {
			t.Errorf("%s: %d are available in the ledger", sku, l.Available())
		}
	}
}

func netOf(sold []ledger.ChannelUnits, channel string) ledger.Units {
	for _, c := range sold {
		if c.Channel == channel {
			return c.Units
		}
	}
	return 0
}
