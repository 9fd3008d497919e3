package allocator_test

import (
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

var giftOf = []catalog.Component{{SKU: "TEA", Quantity: 2}, {SKU: "CUP", Quantity: 1}}

// TestBundlesShowWhatTheirComponentsMake has the channels of a bundle follow the levels of its components, which lie in other partitions: without a level of its own, through restarts, with sales of
// its own, and by its own rules.
func TestBundlesShowWhatTheirComponentsMake(t *testing.T) {
	b := newBench(t)
	b.set(topics.Setting{Channel: &catalog.Channel{ID: "shop", Adapter: "none"}}, topics.Setting{Location: &catalog.Location{ID: "wh", Kind: catalog.Warehouse}})
	b.list(&catalog.Listing{SKU: "GIFT", Channels: []catalog.ChannelListing{{Channel: "shop"}}, Components: giftOf})
	b.levels(level("TEA", 1, 9), level("CUP", 1, 7))
	b.start()
	b.shows(map[string]allocation.Units{"shop/GIFT": 4})
	x := b.target("shop/GIFT")
	if s := x.Explanation[0]; s.Name != "components" || s.Units != 4 || s.Detail != "made of 2 × TEA, 1 × CUP: TEA is enough for 4" {
		t.Errorf("explained by %+v", x.Explanation)
	}
	b.levels(level("CUP", 2, 3))
	b.shows(map[string]allocation.Units{"shop/GIFT": 3})
	if y := b.target("shop/GIFT"); y.LevelVersion <= x.LevelVersion || y.OldestReceivedAt != 1999 {
		t.Errorf("after a level of a component: %+v, before it %+v", y, x)
	}
	b.stop()
	b.forgetWritten()
	b.levels(level("TEA", 2, 5))
	b.start()
	b.shows(map[string]allocation.Units{"shop/GIFT": 2})
	if got := b.wrote(); len(got) != 1 {
		t.Errorf("a restart wrote %v", got)
	}
	// Its own level says what it sold, and nothing of stock.
	own := &ledger.Level{SKU: "GIFT", Version: 1, SourceOffset: 5, ReceivedAt: 9, OldestReceivedAt: 9, Sold: []ledger.ChannelUnits{{Channel: "bundle:GIFT", Units: 1}, {Channel: "shop", Units: 1}}}
	sold := level("TEA", 3, 5)
	sold.Unassigned, sold.Sold = 2, []ledger.ChannelUnits{{Channel: "bundle:GIFT", Units: 2}}
	b.levels(own, sold)
	b.shows(map[string]allocation.Units{"shop/GIFT": 1})
	b.until("its sale is told", func() bool { return b.target("shop/GIFT").Sold == 1 })
	b.set(topics.Setting{Rule: &catalog.Rule{ID: "keep", Match: catalog.Match{SKU: "CUP"}, PoolBuffer: ptr(catalog.Units(3))}})
	b.shows(map[string]allocation.Units{"shop/GIFT": 0})
	b.list(&catalog.Listing{SKU: "BOX", Channels: []catalog.ChannelListing{{Channel: "shop"}}, Components: []catalog.Component{{SKU: "TEA", Quantity: 1}, {SKU: "LID", Quantity: 1}}})
	b.shows(map[string]allocation.Units{"shop/GIFT": 0, "shop/BOX": 0})
	b.levels(level("LID", 1, 2))
	b.shows(map[string]allocation.Units{"shop/GIFT": 0, "shop/BOX": 2})
}

// TestAComponentInTheBooksAllotsToItsBundles has a strict component take its bundle in: it waits until the bundle's owner has answered, which it does through restarts with one and the same event, and
// then gives it a share that bounds the bundle.
func TestAComponentInTheBooksAllotsToItsBundles(t *testing.T) {
	b := newBench(t)
	b.set(topics.Setting{Channel: &catalog.Channel{ID: "shop", Adapter: "http", BaseURL: "http://127.0.0.1:1", Operation: catalog.CompareAndSet, SetsAny: true}},
		topics.Setting{Location: &catalog.Location{ID: "wh", Kind: catalog.Warehouse}}, topics.Setting{Rule: &catalog.Rule{ID: "tea", Match: catalog.Match{SKU: "TEA"}, Mode: ptr("strict")}})
	b.list(&catalog.Listing{SKU: "GIFT", Components: giftOf}) // on no channel yet
	b.levels(level("TEA", 1, 9), level("CUP", 1, 7))
	b.start()
	var log []event.Event
	wait := func(n int) event.Event {
		t.Helper()
		b.until("an event about the allotment", func() bool { log = b.allotted(); return len(log) >= n })
		e := log[n-1]
		if len(log) > n || e.SKU != "TEA" || e.Channel != "bundle:GIFT" || e.Sequence == 0 || !e.Checked || ledger.Check(&e, 0).Reason != "" {
			t.Fatalf("got %+v", log)
		}
		return e
	}
	first := wait(1)
	if first.Kind != event.AllotmentChanged || first.Quantity != 0 {
		t.Errorf("taken in by %+v", first)
	}
	b.stop()
	b.start()
	if again := wait(2); again.ID != first.ID || again.Quantity != 0 {
		t.Errorf("written again: %+v, was %+v", again, first)
	}
	l := level("TEA", 2, 9)
	l.Allotments = []ledger.Allotment{{Channel: "bundle:GIFT", Sequence: first.Sequence}}
	b.levels(l)
	b.list(&catalog.Listing{SKU: "GIFT", Channels: []catalog.ChannelListing{{Channel: "shop"}}, Components: giftOf})
	raise := wait(3)
	if raise.Quantity <= 0 || raise.Sequence <= first.Sequence {
		t.Errorf("raised by %+v", raise)
	}
	// The bundle's channel is taken in by a 0, and known when its orders are.
	b.until("the bundle is in the books", func() bool {
		return b.quantities()["shop/GIFT"] == 0 && b.target("shop/GIFT").Write != nil && b.target("shop/GIFT").Write.ID != ""
	})
	if raise.Quantity > 9 {
		t.Errorf("%d of 9 are allotted", raise.Quantity)
	}
}
