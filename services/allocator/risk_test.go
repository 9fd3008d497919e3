package allocator

import (
	"math"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// TestRiskIsWhatExplainSays holds that the sums by channel are those of the SKUs one by one, as the API tells them, and that decisions stay what they were.
func TestRiskIsWhatExplainSays(t *testing.T) {
	buffer, pooled := allocation.Units(2), "pooled"
	set := &catalog.Settings{
		Channels: map[string]*catalog.Channel{"amz": {ID: "amz"}, "shop": {ID: "shop"}}, Locations: map[string]*catalog.Location{"w": {ID: "w", Kind: catalog.Warehouse}},
		Rules: map[string]*catalog.Rule{"b": {ID: "b", Match: catalog.Match{Channel: "shop"}, Buffer: &buffer}, "m": {ID: "m", Mode: &pooled}},
	}
	s := &Service{engine: newEngine(func(sku string) *catalog.Listing {
		return &catalog.Listing{SKU: sku, Channels: []catalog.ChannelListing{{Channel: "amz"}, {Channel: "shop"}}}
	}), parts: map[int32]*owned{0: newOwned(0)}}
	e, p := s.engine, s.parts[0].partition
	e.delays = func(string) escrow.Delay { return escrow.Delay{Event: 1_000_000, Write: 2_000_000} }
	e.settings(catalog.Compile(set), func(f func(*partition)) { f(p) })
	level := func(sku string, version int64, amz, shop event.Units, at int64) {
		l := &ledger.Level{
			SKU: sku, Version: version, PreviousVersion: version - 1, ReceivedAt: at, Locations: []ledger.LocationLevel{{Location: "w", OnHand: 100 - amz - shop}},
			Sold: []ledger.ChannelUnits{{Channel: "amz", Units: amz}, {Channel: "shop", Units: shop}},
		}
		if amz+shop == 0 {
			l.Sold = nil
		}
		e.level(p, l)
	}
	e.start(p)
	const second = int64(1_000_000)
	for i, sku := range []string{"slow", "fast", "idle"} {
		for n := int64(1); n <= 20; n++ {
			level(sku, n, event.Units(n)*event.Units([]int{1, 9, 0}[i]), event.Units(n)*event.Units([]int{1, 5, 0}[i]), 1000*second+n*second)
		}
	}
	now := 1021 * second
	for more := true; more; {
		_, more = e.decide(now, 100)
	}
	s.lookAtRisk(now)
	want := map[string]Risk{"amz": {}, "shop": {}}
	units := map[string]float64{}
	for _, k := range p.skus {
		var a Answer
		e.answer(&a, k, now)
		for _, x := range a.Targets {
			r := want[x.Channel]
			for j, at := range RiskLevels {
				if x.OversellRisk != nil && *x.OversellRisk >= at {
					r.SKUs[j]++
				}
			}
			want[x.Channel] = r
			b := allocation.Units(0)
			if x.Channel == "shop" {
				b = buffer
			}
			units[x.Channel] += escrow.ExpectedOversell(k.books.Rate(x.Channel, now), 3*second, b)
		}
	}
	got := s.Risks()
	for channel, r := range want {
		if got[channel].SKUs != r.SKUs || math.Abs(got[channel].Units-units[channel]) > 1e-9 {
			t.Errorf("%s: %+v; want %v SKUs and %g units", channel, got[channel], r.SKUs, units[channel])
		}
	}
	if got["amz"].SKUs[2] != 2 || got["shop"].Units <= 0 || got["amz"].Units <= got["shop"].Units {
		t.Errorf("the script is too tame: %+v", got)
	}
	if out, more := e.decide(now, 100); len(out) > 0 || more {
		t.Errorf("looking at the risk changed %d targets", len(out))
	}
}
