package catalog_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
)

// TestMostSpecificRuleWins lists rules from the most specific to the least; taking them away one by one hands the setting down the list.
func TestMostSpecificRuleWins(t *testing.T) {
	l := &catalog.Listing{SKU: "S", Brand: "B", Category: "C"}
	order := []catalog.Match{
		{SKU: "S", Channel: "ch"}, {SKU: "S"}, {Brand: "B", Category: "C"}, {Brand: "B", Channel: "ch"}, {Brand: "B"},
		{Category: "C", Channel: "ch"}, {Category: "C"}, {Channel: "ch"}, {},
	}
	s := &catalog.Settings{Channels: map[string]*catalog.Channel{"ch": {ID: "ch"}, "other": {ID: "other"}}, Rules: map[string]*catalog.Rule{}}
	for i, m := range order {
		// Ids run against specificity, so that they cannot be what decides.
		id := fmt.Sprintf("r%02d", 90-i)
		s.Rules[id] = &catalog.Rule{ID: id, Match: m, Max: ptr(catalog.Units(i))}
	}
	// Rules that match something else never show.
	for i, m := range []catalog.Match{{SKU: "X"}, {Brand: "X"}, {Category: "X"}, {Channel: "other", SKU: "S"}, {SKU: "S", Brand: "X"}, {Brand: "B", Category: "X"}} {
		id := fmt.Sprintf("x%d", i)
		s.Rules[id] = &catalog.Rule{ID: id, Match: m, Max: ptr(catalog.Units(1000))}
	}
	for i := range order {
		id := fmt.Sprintf("r%02d", 90-i)
		p := catalog.Compile(s)
		if got := p.Rules("S", l).Channels[p.Layout.Seller("ch")].Max; got.Units != catalog.Units(i) || got.Rule != id {
			t.Errorf("max from %+v; want rule %s (%+v)", got, id, order[i])
		}
		delete(s.Rules, id)
	}
	p := catalog.Compile(s)
	if got := p.Rules("S", l).Channels[p.Layout.Seller("ch")].Max; got.Set {
		t.Errorf("max %+v with no rule left", got)
	}
}

func TestTiesGoByRuleID(t *testing.T) {
	s := &catalog.Settings{Channels: map[string]*catalog.Channel{"ch": {ID: "ch"}}, Rules: map[string]*catalog.Rule{
		"b": {ID: "b", Max: ptr(catalog.Units(2)), Buffer: ptr(catalog.Units(7))}, "a": {ID: "a", Max: ptr(catalog.Units(1))},
	}}
	got := catalog.Compile(s).Rules("S", nil).Channels[0]
	if got.Max.Rule != "a" || got.Buffer.Rule != "b" {
		t.Errorf("max by %q, buffer by %q; want a and b: each setting has its own source", got.Max.Rule, got.Buffer.Rule)
	}
}

func TestSettingsOfTheWholeSKU(t *testing.T) {
	s := &catalog.Settings{Channels: map[string]*catalog.Channel{"ch": {ID: "ch"}}, Rules: map[string]*catalog.Rule{
		"all":  {ID: "all", Mode: ptr("waterfall"), PoolBuffer: ptr(catalog.Units(3)), Paused: ptr(true)},
		"bag":  {ID: "bag", Match: catalog.Match{Category: "bags"}, Mode: ptr("fair"), Rounding: ptr("webster"), Paused: ptr(false)},
		"vain": {ID: "vain", Match: catalog.Match{Category: "bags", Channel: "ch"}, Mode: ptr("pooled")},
		"odd":  {ID: "odd", Match: catalog.Match{SKU: "O"}, Mode: ptr("greedy")},
	}}
	p := catalog.Compile(s)
	bag := p.Rules("X", &catalog.Listing{SKU: "X", Category: "bags"})
	if bag.Mode != allocation.Fair || bag.ModeRule != "bag" || bag.Rounding != allocation.Webster || bag.PoolBuffer.Units != 3 || bag.Channels[0].Paused.Units != 0 {
		t.Errorf("bag: %+v", bag)
	}
	if got := p.Rules("O", nil); got.Mode != allocation.Waterfall || got.Channels[0].Paused.Units != 1 {
		t.Errorf("an unknown mode counts as not set: %+v", got)
	}
}

// TestRulesAgainstSearch compares the compiled look-up with going through all rules for each setting.
func TestRulesAgainstSearch(t *testing.T) {
	words := []string{"", "p", "q"}
	rapid.Check(t, func(t *rapid.T) {
		s := &catalog.Settings{Channels: map[string]*catalog.Channel{"p": {ID: "p"}, "q": {ID: "q"}}, Rules: map[string]*catalog.Rule{}}
		word := rapid.SampledFrom(words)
		for i := range rapid.IntRange(0, 12).Draw(t, "rules") {
			id := fmt.Sprintf("r%02d", i)
			r := &catalog.Rule{ID: id, Match: catalog.Match{Channel: word.Draw(t, "channel"), SKU: word.Draw(t, "sku"), Brand: word.Draw(t, "brand"), Category: word.Draw(t, "category")}}
			if rapid.Bool().Draw(t, "max?") {
				r.Max = ptr(catalog.Units(i))
			}
			if rapid.Bool().Draw(t, "cap?") {
				r.CapBP = ptr(int32(i))
			}
			s.Rules[id] = r
		}
		p := catalog.Compile(s)
		for _, sku := range words[1:] {
			l := &catalog.Listing{SKU: sku, Brand: word.Draw(t, "listing brand"), Category: word.Draw(t, "listing category")}
			if rapid.Bool().Draw(t, "nil listing") {
				l = nil
			}
			got := p.Rules(sku, l)
			for _, ch := range words[1:] {
				var brand, category string
				if l != nil {
					brand, category = l.Brand, l.Category
				}
				want := func(has func(*catalog.Rule) bool) string {
					best, rank := "", -1
					for i := range len(s.Rules) {
						id := fmt.Sprintf("r%02d", i)
						m := s.Rules[id].Match
						if !has(s.Rules[id]) || m.SKU != "" && m.SKU != sku || m.Brand != "" && m.Brand != brand || m.Category != "" && m.Category != category || m.Channel != "" && m.Channel != ch {
							continue
						}
						n := 0
						for bit, v := range []string{m.Channel, m.Category, m.Brand, m.SKU} {
							if v != "" {
								n += 1 << bit
							}
						}
						if n > rank {
							best, rank = id, n
						}
					}
					return best
				}
				c := got.Channels[p.Layout.Seller(ch)]
				if w := want(func(r *catalog.Rule) bool { return r.Max != nil }); c.Max.Rule != w {
					t.Errorf("%s on %s: max by %q; want %q", sku, ch, c.Max.Rule, w)
				}
				if w := want(func(r *catalog.Rule) bool { return r.CapBP != nil }); c.Cap.Rule != w {
					t.Errorf("%s on %s: cap by %q; want %q", sku, ch, c.Cap.Rule, w)
				}
			}
		}
	})
}

func TestOffers(t *testing.T) {
	s := &catalog.Settings{Channels: map[string]*catalog.Channel{
		"all": {ID: "all", ListsAllSKUs: true}, "some": {ID: "some"}, "none": {ID: "none"}, "not a topic": {ID: "not a topic", ListsAllSKUs: true},
	}}
	p := catalog.Compile(s)
	if got, want := p.Offers(nil, "A", nil), []catalog.Offer{{Channel: 0, ExternalID: "A"}}; !slices.Equal(got, want) {
		t.Errorf("without a listing: %+v; want %+v", got, want)
	}
	l := &catalog.Listing{SKU: "A", Channels: []catalog.ChannelListing{{Channel: "some", ExternalID: "X-1"}, {Channel: "all", Paused: true}, {Channel: "gone"}}}
	if got, want := p.Offers(nil, "A", l), []catalog.Offer{{Channel: 0, ExternalID: "A", Paused: true}, {Channel: 2, ExternalID: "X-1"}}; !slices.Equal(got, want) {
		t.Errorf("with a listing: %+v; want %+v", got, want)
	}
}

// TestExclusiveLocations: only marketplaces' own warehouses are, and not with multi-channel fulfilment.
func TestExclusiveLocations(t *testing.T) {
	s := &catalog.Settings{
		Channels:  map[string]*catalog.Channel{"amz": {ID: "amz"}, "shop": {ID: "shop"}},
		Locations: map[string]*catalog.Location{"fba": {ID: "fba", Kind: catalog.FBA, Channel: "amz"}, "w": {ID: "w", Kind: catalog.Warehouse, Buffer: 1}},
	}
	shown := func() (amz, shop catalog.Units) {
		p := catalog.Compile(s)
		in := &allocation.Input{Layout: p.Layout, Rules: p.Rules("A", nil), Channels: []allocation.Listed{{Seller: 0}, {Seller: 1}}, Stock: []allocation.Stock{
			{Place: p.Layout.Place("fba"), ID: "fba", Available: 5}, {Place: p.Layout.Place("w"), ID: "w", Available: 3}, {Place: p.Layout.Place("moon"), ID: "moon", Available: 9}}}
		var sv allocation.Solver
		sv.Solve(in)
		return sv.Target(0), sv.Target(1)
	}
	if a, b := shown(); a != 7 || b != 2 {
		t.Errorf("exclusive: amz %d, shop %d; want 7 and 2", a, b)
	}
	s.Locations["fba"].MultiChannel = true
	if a, b := shown(); a != 7 || b != 7 {
		t.Errorf("multi-channel: amz %d, shop %d; want 7 and 7", a, b)
	}
}

func BenchmarkRules(b *testing.B) {
	s := &catalog.Settings{Channels: map[string]*catalog.Channel{}, Rules: map[string]*catalog.Rule{}}
	for i := range 12 {
		id := fmt.Sprintf("c%d", i)
		s.Channels[id] = &catalog.Channel{ID: id, ListsAllSKUs: true}
		for j := range 5 {
			r := fmt.Sprintf("r%d-%d", i, j)
			s.Rules[r] = &catalog.Rule{ID: r, Match: catalog.Match{Channel: id, Category: fmt.Sprint("cat", j)}, Buffer: ptr(catalog.Units(j))}
		}
	}
	p := catalog.Compile(s)
	l := &catalog.Listing{SKU: "A", Category: "cat3"}
	var offers []catalog.Offer
	b.ReportAllocs()
	for b.Loop() {
		p.Rules("A", l)
		offers = p.Offers(offers[:0], "A", l)
	}
}

func TestMargin(t *testing.T) {
	l := &catalog.Listing{SKU: "S", UnitCost: "4.10", Currency: "EUR", Channels: []catalog.ChannelListing{
		{Channel: "amz", Price: "10", Currency: "EUR", Fee: "1.50"}, {Channel: "shop", Price: "9.5", Currency: "EUR"}, {Channel: "us", Price: "12", Currency: "USD"},
		{Channel: "loss", Price: "3", Currency: "EUR", Fee: "0.333"}, {Channel: "odd", Price: "9,5", Currency: "EUR"}, {Channel: "none"},
	}}
	for channel, want := range map[string]int64{"amz": 4400, "shop": 5400, "us": 0, "loss": -1433, "odd": 0, "none": 0, "other": 0} {
		if got := catalog.Margin(l, channel); got != want {
			t.Errorf("%s earns %d; want %d", channel, got, want)
		}
	}
	if got := catalog.Margin(nil, "amz"); got != 0 {
		t.Errorf("no listing earns %d", got)
	}
}

func TestGuarantees(t *testing.T) {
	s := &catalog.Settings{Channels: map[string]*catalog.Channel{"ch": {ID: "ch"}}, Rules: map[string]*catalog.Rule{
		"s": {ID: "s", Match: catalog.Match{SKU: "S"}, Mode: ptr("strict"), Share: ptr("priority"), Floor: ptr(catalog.Units(4))},
		"p": {ID: "p", Match: catalog.Match{SKU: "P"}, Mode: ptr("pooled"), Share: ptr("greedy")},
		"w": {ID: "w", Match: catalog.Match{SKU: "W"}, Mode: ptr("waterfall")},
	}}
	p := catalog.Compile(s)
	for sku, want := range map[string]struct {
		g allocation.Guarantee
		m allocation.Mode
		s allocation.Share
	}{
		"S": {allocation.Strict, allocation.Pooled, allocation.ByPriority}, "P": {allocation.NoGuarantee, allocation.Pooled, allocation.ByDemand},
		"W": {allocation.NoGuarantee, allocation.Waterfall, allocation.ByDemand}, "X": {allocation.Adaptive, allocation.Pooled, allocation.ByDemand},
	} {
		if r := p.Rules(sku, nil); r.Guarantee != want.g || r.Mode != want.m || r.Share != want.s {
			t.Errorf("%s: %v %v by %v; want %+v", sku, r.Guarantee, r.Mode, r.Share, want)
		}
	}
	if f := p.Rules("S", nil).Channels[0].Floor; f.Units != 4 || f.Rule != "s" {
		t.Errorf("floor %+v", f)
	}
}
