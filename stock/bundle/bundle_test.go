package bundle_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/bundle"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
)

var gift = []catalog.Component{{SKU: "TEA", Quantity: 2}, {SKU: "CUP", Quantity: 1}}

func TestExpandASale(t *testing.T) {
	e := event.Event{
		ID: "sale/shop/1/1", Kind: event.SaleRecorded, SKU: "GIFT", Channel: "shop", OrderID: "1", LineID: "1", Quantity: 3, UnitPrice: "9.50", Currency: "EUR", Location: "hq",
		OccurredAt: 5, ReceivedAt: 6, Source: "api", Checked: true,
	}
	got := bundle.Expand(nil, &e, gift)
	if e.Bundle != "GIFT" || e.UnitPrice != "9.50" || e.Quantity != 3 || e.Seller() != "shop" {
		t.Errorf("the bundle's own event became %+v", e)
	}
	want := []event.Event{
		{ID: "bundle/sale/shop/1/1/TEA", Kind: event.SaleRecorded, SKU: "TEA", Channel: "shop", OrderID: "1", LineID: "1", Quantity: 6, Location: "hq", OccurredAt: 5, ReceivedAt: 6,
			Source: "api", Checked: true, Bundle: "GIFT"},
		{ID: "bundle/sale/shop/1/1/CUP", Kind: event.SaleRecorded, SKU: "CUP", Channel: "shop", OrderID: "1", LineID: "1", Quantity: 3, Location: "hq", OccurredAt: 5, ReceivedAt: 6,
			Source: "api", Checked: true, Bundle: "GIFT"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d events of components, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("component %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
		if s := got[i].Seller(); s != "bundle:GIFT" {
			t.Errorf("component %d counts as sold by %q", i, s)
		}
	}
}

func FuzzEventIDsOfDifferentEventsDiffer(f *testing.F) {
	f.Add("x", "y/z", "x/y", "z")
	f.Add("x", "%2F", "x", "/")
	f.Fuzz(func(t *testing.T, id1, sku1, id2, sku2 string) {
		if same := id1 == id2 && sku1 == sku2; (bundle.EventID(id1, sku1) == bundle.EventID(id2, sku2)) != same {
			t.Errorf("(%q, %q) and (%q, %q): ids %q and %q", id1, sku1, id2, sku2, bundle.EventID(id1, sku1), bundle.EventID(id2, sku2))
		}
	})
}

func TestSame(t *testing.T) {
	turned := []catalog.Component{gift[1], gift[0]}
	if !bundle.Same(gift, turned) || bundle.Same(gift, gift[:1]) || bundle.Same(gift, []catalog.Component{{SKU: "TEA", Quantity: 2}, {SKU: "CUP", Quantity: 2}}) || !bundle.Same(nil, nil) {
		t.Error("two compositions are the same when they have the same components and quantities, in any order")
	}
}

func TestStockIsTheLeastOfItsComponents(t *testing.T) {
	shelves := func(at ...bundle.Shelf) []bundle.Shelf { return at }
	for name, c := range map[string]struct {
		parts      []bundle.Part
		want       []bundle.Shelf
		unassigned bundle.Units
	}{
		"one location": {[]bundle.Part{{2, shelves(bundle.Shelf{"A", 11}), 0}, {1, shelves(bundle.Shelf{"A", 7}), 0}}, shelves(bundle.Shelf{"A", 5}), 0},
		"ships together": {[]bundle.Part{{1, shelves(bundle.Shelf{"B", 3}, bundle.Shelf{"A", 4}), 0}, {1, shelves(bundle.Shelf{"A", 1}, bundle.Shelf{"C", 9}), 0}},
			shelves(bundle.Shelf{"A", 1}, bundle.Shelf{"B", 0}, bundle.Shelf{"C", 0}), 0},
		"an oversell":           {[]bundle.Part{{2, shelves(bundle.Shelf{"A", -1}), 0}, {1, shelves(bundle.Shelf{"A", 7}), 0}}, shelves(bundle.Shelf{"A", -1}), 0},
		"no location yet":       {[]bundle.Part{{2, shelves(bundle.Shelf{"A", 10}), 3}, {1, shelves(bundle.Shelf{"A", 7}), 1}}, shelves(bundle.Shelf{"A", 5}), 2},
		"nothing of one":        {[]bundle.Part{{2, nil, 0}, {1, shelves(bundle.Shelf{"A", 7}), 0}}, shelves(bundle.Shelf{"A", 0}), 0},
		"nothing known of both": {[]bundle.Part{{2, nil, 0}, {1, nil, 4}}, nil, 4},
	} {
		got, unassigned := bundle.Stock(nil, c.parts)
		if !slices.Equal(got, c.want) || unassigned != c.unassigned {
			t.Errorf("%s: %+v less %d, want %+v less %d", name, got, unassigned, c.want, c.unassigned)
		}
	}
}

// Whatever there is where, the bundle never promises more than any component has.
func TestStockNeverExceedsAComponent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := make([]bundle.Part, rapid.IntRange(1, 4).Draw(t, "parts"))
		for i := range parts {
			p := &parts[i]
			p.Quantity = bundle.Units(rapid.IntRange(1, 4).Draw(t, "quantity"))
			p.Unassigned = bundle.Units(rapid.IntRange(0, 5).Draw(t, "unassigned"))
			for _, l := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"A", "B", "C"}), rapid.ID).Draw(t, "locations") {
				p.Shelves = append(p.Shelves, bundle.Shelf{Location: l, Available: bundle.Units(rapid.IntRange(-4, 12).Draw(t, "available"))})
			}
		}
		got, less := bundle.Stock(nil, parts)
		sum := -less
		for _, s := range got {
			sum += s.Available
		}
		for i, p := range parts {
			has := -p.Unassigned
			for _, s := range p.Shelves {
				has += s.Available
			}
			if sum > 0 && sum*p.Quantity > has {
				t.Fatalf("%d bundles take %d of component %d, of which there are %d", sum, sum*p.Quantity, i, has)
			}
		}
		if at, least := bundle.Least(parts); sum > least {
			t.Fatalf("%d bundles, and component %d allows %d", sum, at, least)
		}
	})
}
