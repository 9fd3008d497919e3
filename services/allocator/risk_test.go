package allocator

import (
	"math"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/stock/write"
)

// TestRiskIsWhatExplainSays holds that the sums by channel are those of the SKUs one by one, as the API tells them, and that decisions stay what they were.
func TestRiskIsWhatExplainSays(t *testing.T) {
	buffer, pooled := allocation.Units(2), "pooled"
	set := &catalog.Settings{
		Channels: map[string]*catalog.Channel{"amz": {ID: "amz"}, "shop": {ID: "shop"}}, Locations: map[string]*catalog.Location{"w": {ID: "w", Kind: catalog.Warehouse}},
		Rules: map[string]*catalog.Rule{"b": {ID: "b", Match: catalog.Match{Channel: "shop"}, Buffer: &buffer}, "m": {ID: "m", Mode: &pooled}},
	}
	s := &Service{engine: targeting.New(func(sku string) *catalog.Listing {
		return &catalog.Listing{SKU: sku, Channels: []catalog.ChannelListing{{Channel: "amz"}, {Channel: "shop"}}}
	}, 0)}
	s.parts = map[int32]*owned{0: s.newOwned(0)}
	e, p := s.engine, s.parts[0].Partition
	e.Settings(catalog.Compile(set))
	e.Start(p)
	const second = int64(1_000_000)
	level := func(sku string, version int64, amz, shop event.Units, at int64) {
		l := &ledger.Level{
			SKU: sku, Version: version, PreviousVersion: version - 1, ReceivedAt: at, Locations: []ledger.LocationLevel{{Location: "w", OnHand: 100 - amz - shop}},
			Sold: []ledger.ChannelUnits{{Channel: "amz", Units: amz, EarliestAt: at - second}, {Channel: "shop", Units: shop, EarliestAt: at - second}},
		}
		if amz+shop == 0 {
			l.Sold = nil
		}
		e.Begin(at)
		e.Level(p, l)
	}
	skus := []string{"slow", "fast", "idle"}
	for i, sku := range skus { // each sale takes a second to here, and each write two: enough of both to count
		for n := int64(1); n <= 40; n++ {
			at := 1000*second + n*second
			level(sku, n, event.Units(n)*event.Units([]int{1, 9, 0}[i]), event.Units(n)*event.Units([]int{1, 5, 0}[i]), at)
			for _, ch := range []string{"amz", "shop"} {
				e.Result(p, &write.Result{SKU: sku, Channel: ch, Operation: write.Absolute, Outcome: write.Applied, DecidedAt: at - 2*second, AckedAt: at})
			}
		}
	}
	now := 1042 * second
	e.Begin(now)
	for more := true; more; {
		_, more = e.Decide(now, 100)
	}
	s.lookAtRisk(now)
	want := map[string]targeting.Risk{"amz": {}, "shop": {}}
	units := map[string]float64{}
	for _, sku := range skus {
		x, ok := e.Explain(p, sku, now)
		if !ok {
			t.Fatalf("%s is not known", sku)
		}
		a := answered(sku, &x)
		for _, x := range a.Targets {
			r := want[x.Channel]
			for j, at := range targeting.RiskLevels {
				if x.OversellRisk != nil && *x.OversellRisk >= at {
					r.SKUs[j]++
				}
			}
			want[x.Channel] = r
			b := allocation.Units(0)
			if x.Channel == "shop" {
				b = buffer
			}
			units[x.Channel] += escrow.ExpectedOversell(p.SKU(sku).Books().Rate(x.Channel, now), 3*second, b)
		}
	}
	got := s.Risks()
	for channel, r := range want {
		if got[channel].SKUs != r.SKUs || math.Abs(got[channel].Units-units[channel]) > 0.02*units[channel] { // delays are measured to two digits
			t.Errorf("%s: %+v; want %v SKUs and %g units", channel, got[channel], r.SKUs, units[channel])
		}
	}
	if got["amz"].SKUs[2] != 2 || got["shop"].Units <= 0 || got["amz"].Units <= got["shop"].Units {
		t.Errorf("the script is too tame: %+v", got)
	}
	if out, more := e.Decide(now, 100); len(out) > 0 || more {
		t.Errorf("looking at the risk changed %d targets", len(out))
	}
}
