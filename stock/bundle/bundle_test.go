package bundle_test

import (
	"testing"

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
