package order

import (
	"testing"

	"github.com/onhand/onhand/stock/event"
)

func TestSaleIDIsPlainForPlainIDs(t *testing.T) {
	if got, want := SaleID("shop", "1001", "2"), "sale/shop/1001/2"; got != want {
		t.Errorf("SaleID = %q, want %q: ids already in the log would change", got, want)
	}
}

func FuzzSaleIDsOfDifferentLinesDiffer(f *testing.F) {
	f.Add("shop", "a/b", "c", "shop", "a", "b/c")
	f.Add("shop", "a%2F", "c", "shop", "a/", "c")
	f.Add("", "/", "", "/", "", "")
	f.Fuzz(func(t *testing.T, c1, o1, l1, c2, o2, l2 string) {
		same := c1 == c2 && o1 == o2 && l1 == l2
		if (SaleID(c1, o1, l1) == SaleID(c2, o2, l2)) != same {
			t.Errorf("(%q, %q, %q) and (%q, %q, %q): ids %q and %q", c1, o1, l1, c2, o2, l2, SaleID(c1, o1, l1), SaleID(c2, o2, l2))
		}
	})
}

func TestSalesOfAnOrder(t *testing.T) {
	o := Order{
		ID: "1001", Channel: "shop", PlacedAt: 5, ReceivedAt: 9, Currency: "EUR",
		Lines: []Line{{ID: "1", SKU: "A", Quantity: 2, UnitPrice: "3.50"}, {ID: "2", SKU: "B", Quantity: 1, UnitPrice: "0", Location: "hq"}},
	}
	want := []event.Event{
		{ID: "sale/shop/1001/1", Kind: event.SaleRecorded, SKU: "A", Channel: "shop", OrderID: "1001", LineID: "1", Quantity: 2,
			UnitPrice: "3.50", Currency: "EUR", OccurredAt: 5, ReceivedAt: 9, Source: "api"},
		{ID: "sale/shop/1001/2", Kind: event.SaleRecorded, SKU: "B", Location: "hq", Channel: "shop", OrderID: "1001", LineID: "2", Quantity: 1,
			UnitPrice: "0", Currency: "EUR", OccurredAt: 5, ReceivedAt: 9, Source: "api"},
	}
	got := o.Sales(nil, "api")
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("event %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
}
