package preview_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/preview"
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
		for _, x := range preview.New(settings(), c.after).SKU(nil, level(10), c.before, c.later) {
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
		there, back := preview.New(a, b).SKU(nil, l, nil, nil), preview.New(b, a).SKU(nil, l, nil, nil)
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
