package allocator

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
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

		var e *engine
		var p *partition
		begin := func() {
			e, p = newEngine(look), newPartition(0)
			e.settings(catalog.Compile(set), func(f func(*partition)) { f(p) })
			for _, target := range written {
				e.restore(p, &target)
			}
			for _, l := range levels {
				e.level(p, l)
			}
			if out, _ := e.decide(1, 1); len(out) > 0 {
				t.Fatalf("decided before all was taken in: %+v", out)
			}
			e.start(p)
		}
		begin()
		decide := func() {
			for more := true; more; {
				var out []decision
				out, more = e.decide(1, rapid.IntRange(1, 5).Draw(t, "most"))
				for i := range out {
					target := out[i].target
					target.Explanation = nil
					key := target.Channel + "/" + target.SKU
					if old, ok := written[key]; ok && news(old) == news(target) {
						t.Fatalf("%s was written again: %+v", key, target)
					}
					written[key] = target
				}
			}
			want := map[string]string{}
			fresh, q := newEngine(look), newPartition(0)
			fresh.settings(catalog.Compile(set), func(f func(*partition)) { f(q) })
			for _, l := range levels {
				fresh.level(q, l)
			}
			fresh.start(q)
			out, _ := fresh.decide(1, 1000)
			for i := range out {
				want[out[i].target.Channel+"/"+out[i].target.SKU] = news(out[i].target)
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
			e.settings(catalog.Compile(set), func(f func(*partition)) { f(p) })
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
				if !e.level(p, l) || e.level(p, l) {
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
				e.relisted(p, l.SKU)
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
				e.forget(p, id)
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
