package preview_test

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/preview"
	"github.com/onhand/onhand/stock/targeting"
)

func units(n event.Units) *event.Units { return &n }

func settings(rules ...*catalog.Rule) *catalog.Settings {
	s := &catalog.Settings{
		Channels: map[string]*catalog.Channel{
			"amazon": {ID: "amazon", ListsAllSKUs: true}, "shop": {ID: "shop", ListsAllSKUs: true}, "ebay": {ID: "ebay"},
		},
		Locations: map[string]*catalog.Location{"main": {ID: "main", Kind: catalog.Warehouse}},
		Rules:     map[string]*catalog.Rule{},
	}
	pooled := "pooled"
	s.Rules["mode"] = &catalog.Rule{ID: "mode", Mode: &pooled}
	for _, r := range rules {
		s.Rules[r.ID] = r
	}
	return s
}

func level(onHand event.Units) *ledger.Level {
	return &ledger.Level{SKU: "A", Version: 1, Locations: []ledger.LocationLevel{{Location: "main", OnHand: onHand}}}
}

// with is settings and listings.
func with(s *catalog.Settings, listings ...*catalog.Listing) preview.Catalog {
	c := preview.Catalog{Settings: s, Listings: map[string]*catalog.Listing{}}
	for _, l := range listings {
		if l != nil {
			c.Listings[l.SKU] = l
		}
	}
	return c
}

// only is the level of the one SKU that there is.
func only(l *ledger.Level) func(string) *ledger.Level {
	return func(sku string) *ledger.Level {
		if sku != l.SKU {
			return nil
		}
		return l
	}
}

// TestPoolBuffersOfComponents holds that what the rules keep of a component off all channels is no stock of its bundles either, by the rules of each side, and that the derivation says what
// the bundle is made of.
func TestPoolBuffersOfComponents(t *testing.T) {
	gift := &catalog.Listing{SKU: "GIFT", Components: []catalog.Component{{SKU: "A", Quantity: 2}}}
	keep := func(n event.Units) *catalog.Rule {
		return &catalog.Rule{ID: "keep", Match: catalog.Match{SKU: "A"}, PoolBuffer: units(n)}
	}
	got := preview.New(with(settings(keep(1)), gift), with(settings(keep(4)), gift)).SKU(nil, "GIFT", only(level(10)))
	if len(got) != 2 || got[0].Before != 4 || got[0].After != 3 || got[0].Steps[0].Name != "components" {
		t.Errorf("%+v; want amazon and shop to move from 4 to 3", got)
	}
	got = preview.New(with(settings()), with(settings(), gift)).SKU(nil, "GIFT", only(level(10)))
	if len(got) != 2 || got[0].Was || got[0].After != 5 {
		t.Errorf("%+v; want the new bundle to show 5", got)
	}
}

// TestAsTheAllocatorDecides holds, for any stock, listings and rules, that the preview is what the allocator then writes: the targets of an engine under either catalog differ where, and as, it says.
func TestAsTheAllocatorDecides(t *testing.T) {
	skus := []string{"A", "B", "C", "KIT", "SET"}
	rapid.Check(t, func(t *rapid.T) {
		levels := map[string]*ledger.Level{}
		for i, sku := range skus[:4] { // KIT may have sold; SET never has
			if !rapid.Bool().Draw(t, sku+" is known") {
				continue
			}
			l := &ledger.Level{SKU: sku, Version: int64(i + 1)}
			if sku == "KIT" {
				l.Sold = []ledger.ChannelUnits{{Channel: "amazon", Units: 2}, {Channel: event.BundleChannel("KIT"), Units: 2}}
			} else {
				l.Unassigned = event.Units(rapid.IntRange(0, 3).Draw(t, sku+" unassigned"))
				for _, at := range []string{"main", "store"} {
					l.Locations = append(l.Locations, ledger.LocationLevel{Location: at, OnHand: event.Units(rapid.IntRange(-2, 30).Draw(t, sku+" at "+at))})
				}
			}
			levels[sku] = l
		}
		draw := func(name string) preview.Catalog {
			small := func(what string) *event.Units {
				if !rapid.Bool().Draw(t, name+what+" is set") {
					return nil
				}
				return units(event.Units(rapid.IntRange(0, 9).Draw(t, name+what)))
			}
			c := with(settings())
			c.Settings.Locations["store"] = &catalog.Location{ID: "store", Kind: catalog.Store, Buffer: event.Units(rapid.IntRange(0, 3).Draw(t, name+"kept in the store"))}
			c.Settings.Channels["till"] = &catalog.Channel{ID: "till", Adapter: catalog.Claim, ListsAllSKUs: true}
			if rapid.Bool().Draw(t, name+"scoped") {
				c.Settings.Channels["shop"] = &catalog.Channel{ID: "shop", ListsAllSKUs: true, Locations: []string{"store"}}
			}
			m := rapid.SampledFrom([]string{"pooled", "waterfall", "proportional", "fair"}).Draw(t, name+"mode")
			c.Settings.Rules["mode"] = &catalog.Rule{ID: "mode", Mode: &m, PoolBuffer: small("pool buffer")}
			for _, id := range []string{"r", "s"} {
				c.Settings.Rules[id] = &catalog.Rule{ID: id, PoolBuffer: small(id + " pool buffer"), Buffer: small(id + " buffer"), Reserve: small(id + " reserve"), Max: small(id + " max"), HideAt: small(id + " hide"),
					Match: catalog.Match{SKU: rapid.SampledFrom(append(skus, "")).Draw(t, name+id+" SKU"), Channel: rapid.SampledFrom([]string{"", "", "amazon", "shop", "till"}).Draw(t, name+id+" channel")}}
			}
			for _, l := range []*catalog.Listing{
				{SKU: "KIT", Components: []catalog.Component{{SKU: "A", Quantity: 2}, {SKU: "B", Quantity: 1}}}, {SKU: "SET", Components: []catalog.Component{{SKU: "B", Quantity: 3}, {SKU: "C", Quantity: 1}}},
			} {
				if rapid.Bool().Draw(t, name+l.SKU+" on ebay") {
					l.Channels = []catalog.ChannelListing{{Channel: "ebay", Paused: rapid.Bool().Draw(t, name+l.SKU+" paused")}}
				}
				c.Listings[l.SKU] = l
			}
			return c
		}
		before, after := draw("before "), draw("after ")
		was, is := decided(before, levels), decided(after, levels)
		p := preview.New(before, after)
		got := map[string]string{}
		for _, sku := range skus {
			for _, x := range p.SKU(nil, sku, func(sku string) *ledger.Level { return levels[sku] }) {
				got[x.Channel+"/"+x.SKU] = fmt.Sprint(x.Was, x.Before, x.Is, x.After)
				if x.Is && (len(x.Steps) == 0 || x.Steps[len(x.Steps)-1].Units != x.After) {
					t.Fatalf("%s at %s: %d by %+v", sku, x.Channel, x.After, x.Steps)
				}
			}
		}
		want := map[string]string{}
		for _, sku := range skus {
			for _, channel := range []string{"amazon", "ebay", "shop", "till"} {
				at := channel + "/" + sku
				a, known := was[at]
				b, stays := is[at]
				if known != stays || a != b {
					want[at] = fmt.Sprint(known, a, stays, b)
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("the preview says %v, and the allocator writes %v", got, want)
		}
	})
}

// decided is what an allocator's engine that starts with these levels writes, by channel and SKU.
func decided(c preview.Catalog, levels map[string]*ledger.Level) map[string]event.Units {
	e := targeting.New(func(sku string) *catalog.Listing { return c.Listings[sku] }, 0)
	p := e.Partition(0)
	e.Own(func(string) *targeting.Partition { return p })
	e.Settings(catalog.Compile(c.Settings))
	for sku, l := range c.Listings {
		e.Index(sku, l)
	}
	components := e.Missing()
	e.Follow(components)
	for sku, l := range levels {
		e.Level(p, l)
		if e.Follows(sku) {
			e.ComponentLevel(sku, l)
		}
	}
	e.Followed(components)
	e.Start(p)
	out := map[string]event.Units{}
	decisions, _ := e.Decide(1, 1000)
	for i := range decisions {
		x := &decisions[i].Target
		out[x.Channel+"/"+x.SKU] = x.Quantity
	}
	return out
}

func TestWhatMoves(t *testing.T) {
	listing := &catalog.Listing{SKU: "A", Channels: []catalog.ChannelListing{{Channel: "ebay"}}}
	delisted := &catalog.Listing{SKU: "A"}
	for name, c := range map[string]struct {
		after         *catalog.Settings
		before, later *catalog.Listing
		want          string
	}{
		"nothing":          {settings(), nil, nil, ""},
		"a buffer":         {settings(&catalog.Rule{ID: "r", Match: catalog.Match{Channel: "amazon"}, Buffer: units(3)}), nil, nil, "amazon 10>7 "},
		"listed nowhere":   {settings(), listing, delisted, "ebay 10>- "},
		"a new listing":    {settings(), delisted, listing, "ebay ->10 "},
		"an outer reserve": {settings(&catalog.Rule{ID: "r", Match: catalog.Match{Channel: "shop"}, Reserve: units(4)}), listing, listing, "amazon 10>6 ebay 10>6 "},
	} {
		got := ""
		for _, x := range preview.New(with(settings(), c.before), with(c.after, c.later)).SKU(nil, "A", only(level(10))) {
			was, is := "-", "-"
			if x.Was {
				was = fmt.Sprint(x.Before)
			}
			if x.Is {
				is = fmt.Sprint(x.After)
			}
			got += fmt.Sprintf("%s %s>%s ", x.Channel, was, is)
			if x.Is == (len(x.Steps) == 0) {
				t.Errorf("%s: %s has %d steps", name, x.Channel, len(x.Steps))
			}
		}
		if got != c.want {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

// TestThereAndBack holds that the preview of undoing a change is the change undone.
func TestThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := func(name string) *catalog.Rule {
			r := &catalog.Rule{ID: name, Match: catalog.Match{Channel: rapid.SampledFrom([]string{"", "amazon", "shop", "ebay"}).Draw(t, name+" channel")}}
			r.Buffer = units(event.Units(rapid.IntRange(0, 20).Draw(t, name+" buffer")))
			return r
		}
		a, b := settings(rule("r"), rule("s")), settings(rule("r"))
		l := level(event.Units(rapid.IntRange(-5, 40).Draw(t, "on hand")))
		there, back := preview.New(with(a), with(b)).SKU(nil, "A", only(l)), preview.New(with(b), with(a)).SKU(nil, "A", only(l))
		if len(there) != len(back) {
			t.Fatalf("%d targets move there, %d back", len(there), len(back))
		}
		for i := range there {
			if there[i].Channel != back[i].Channel || there[i].Before != back[i].After || there[i].After != back[i].Before {
				t.Fatalf("%+v there, %+v back", there[i], back[i])
			}
		}
	})
}
