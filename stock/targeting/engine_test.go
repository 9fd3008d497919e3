package targeting_test

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/targeting"
)

// TestEngineAgainstFreshOne drives the engine with levels, listings and settings in any order, with restarts that know only the targets
// written and the newest levels. At each decision the targets written so far, newest per channel and SKU, must be those that a fresh engine gives for
// the state, and nothing may be written that changes nothing.
func TestEngineAgainstFreshOne(t *testing.T) {
	channels := []string{"a", "b", "c"}
	skus := []string{"S0", "S1", "S2", "S3"}
	rapid.Check(t, func(t *rapid.T) {
		set := &catalog.Settings{Channels: map[string]*catalog.Channel{}, Rules: map[string]*catalog.Rule{}, Locations: map[string]*catalog.Location{
			"w": {ID: "w", Kind: catalog.Warehouse}, "f": {ID: "f", Kind: catalog.FBA, Channel: "a"}}}
		listings := map[string]*catalog.Listing{}
		look := func(sku string) *catalog.Listing { return listings[sku] }
		levels := map[string]*ledger.Level{}
		written := map[string]allocation.Target{} // what a compacted topic holds

		var e *targeting.Engine
		var p *targeting.Partition
		begin := func() {
			e = targeting.New(look, escrow.DefaultSkew)
			p = e.Partition(0)
			e.Settings(catalog.Compile(set))
			for _, target := range written {
				e.Restore(p, &target)
			}
			for _, l := range levels {
				e.Level(p, l)
			}
			if out, _ := e.Decide(1, 1); len(out) > 0 {
				t.Fatalf("decided before all was taken in: %+v", out)
			}
			e.Start(p)
		}
		begin()
		decide := func() {
			for more := true; more; {
				var out []targeting.Decision
				out, more = e.Decide(1, rapid.IntRange(1, 5).Draw(t, "most"))
				for i := range out {
					target := out[i].Target
					target.Explanation = nil
					key := target.Channel + "/" + target.SKU
					if old, ok := written[key]; ok && news(old) == news(target) {
						t.Fatalf("%s was written again: %+v", key, target)
					}
					written[key] = target
				}
			}
			want := map[string]string{}
			fresh := targeting.New(look, escrow.DefaultSkew)
			q := fresh.Partition(0)
			fresh.Settings(catalog.Compile(set))
			for _, l := range levels {
				fresh.Level(q, l)
			}
			fresh.Start(q)
			out, _ := fresh.Decide(1, 1000)
			for i := range out {
				want[out[i].Target.Channel+"/"+out[i].Target.SKU] = news(out[i].Target)
			}
			got := map[string]string{}
			for key, target := range written {
				if !target.Withdrawn {
					got[key] = news(target)
				}
			}
			if !maps.Equal(got, want) {
				t.Fatalf("written %v\n   want %v", got, want)
			}
		}
		sku := rapid.SampledFrom(skus)
		ch := rapid.SampledFrom(channels)
		small := rapid.Int64Range(0, 9)
		settings := func() {
			set.Version++
			e.Settings(catalog.Compile(set))
		}
		t.Repeat(map[string]func(*rapid.T){
			"level": func(t *rapid.T) {
				l := &ledger.Level{SKU: sku.Draw(t, "sku"), Version: 1, Unassigned: ledger.Units(small.Draw(t, "unassigned") / 4)}
				if old := levels[l.SKU]; old != nil {
					l.Version = old.Version + 1
					l.Sold = old.Sold
				}
				l.Sold = append(l.Sold[:len(l.Sold):len(l.Sold)], ledger.ChannelUnits{Channel: ch.Draw(t, "seller"), Units: ledger.Units(small.Draw(t, "sold"))})
				for _, id := range []string{"w", "f", "stranger"} {
					l.Locations = append(l.Locations, ledger.LocationLevel{Location: id, OnHand: ledger.Units(small.Draw(t, id))})
				}
				levels[l.SKU] = l
				if !e.Level(p, l) || e.Level(p, l) {
					t.Fatal("a newer level is taken in once")
				}
			},
			"list": func(t *rapid.T) {
				l := &catalog.Listing{SKU: sku.Draw(t, "sku"), Brand: rapid.SampledFrom([]string{"", "x"}).Draw(t, "brand")}
				for _, c := range channels {
					if rapid.Bool().Draw(t, c) {
						l.Channels = append(l.Channels, catalog.ChannelListing{Channel: c, ExternalID: rapid.SampledFrom([]string{"", "e"}).Draw(t, "external"), Paused: rapid.Bool().Draw(t, "paused")})
					}
				}
				listings[l.SKU] = l
				e.Relisted(p, l.SKU)
			},
			"channel": func(t *rapid.T) {
				id := ch.Draw(t, "channel")
				if set.Channels[id] != nil && rapid.Bool().Draw(t, "remove") {
					delete(set.Channels, id)
				} else {
					set.Channels[id] = &catalog.Channel{ID: id, ListsAllSKUs: rapid.Bool().Draw(t, "all")}
				}
				settings()
			},
			"rule": func(t *rapid.T) {
				id := rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "rule")
				max, mode := catalog.Units(small.Draw(t, "max")), allocation.Mode(rapid.IntRange(0, 3).Draw(t, "mode")).String()
				r := &catalog.Rule{ID: id, Max: &max}
				if rapid.Bool().Draw(t, "for brand") {
					r.Match.Brand = "x"
				}
				if rapid.Bool().Draw(t, "for channel") {
					r.Match.Channel = ch.Draw(t, "channel")
				} else {
					r.Mode = &mode
				}
				set.Rules[id] = r
				settings()
			},
			"forget": func(t *rapid.T) {
				id := sku.Draw(t, "sku")
				delete(levels, id)
				e.Forget(p, id)
			},
			"restart": func(t *rapid.T) {
				decide() // what was taken in is decided before a stop
				begin()
			},
			"": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "decide") {
					decide()
				}
			},
		})
		decide()
	})
}

// news is what of a target is worth a write.
func news(t allocation.Target) string {
	return fmt.Sprint(t.ExternalID, t.Quantity, t.Sold, t.Restored, t.Mode, t.Withdrawn)
}
