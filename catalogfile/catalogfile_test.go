package catalogfile

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/catalog"
)

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, faults := Parse([]byte(text))
	if len(faults) > 0 {
		t.Fatalf("%v\n%s", faults, text)
	}
	return f
}

func TestMapsAndListsSayTheSame(t *testing.T) {
	byID := parse(t, `
channels: {web: {adapter: none, locations: [a, b]}}
rules: {r1: {cap: 12.5%, priority: 3, paused: false}}
listings:
  007: {channels: {web: {price: "1.10", currency: EUR}}, components: {A: 2, B: 1}}
`)
	lists := parse(t, `{"channels": [{"id": "web", "adapter": "none", "locations": ["a", "b"]}]}
---
rules:
  - id: r1
    cap: 1250
    priority: 3
    paused: false
---
listings:
  - sku: 007
    channels:
      - channel: web
        price: 1.10
        currency: EUR
    components:
      - {sku: A, quantity: 2}
      - sku: B
        quantity: 1
`)
	if !reflect.DeepEqual(byID.Document, lists.Document) {
		t.Errorf("by id\n%+v\nlists\n%+v", byID.Document, lists.Document)
	}
	if p := lists.Place("listings[0].channels[0].price"); p.Line != 13 || p.Column != 9 || p.Pointer != "/listings/0/channels/0/price" {
		t.Errorf("place %+v", p)
	}
}

func TestAnchors(t *testing.T) {
	f := parse(t, `
rules:
  a: &base {cap: 50%, match: {channel: web}}
  b: *base
`)
	if a, b := f.Document.Rules[0], f.Document.Rules[1]; *a.CapBP != *b.CapBP || b.Match.Channel != "web" || b.ID != "b" {
		t.Errorf("%+v, %+v", a, b)
	}
}

func TestCaps(t *testing.T) {
	for in, want := range map[string]int32{"80%": 8000, "0%": 0, "0": 0, "12.5%": 1250, "0.25%": 25, "8000bp": 8000, "50bp": 50, "101": 101, "100%": 10000} {
		if got, what := parseCap(in); what != "" || got != want {
			t.Errorf("%s: %d %s, want %d", in, got, what, want)
		}
		if got, what := parseCap(formatCap(want)); what != "" || got != want {
			t.Errorf("%s is written as %s, which is read as %d %s", in, formatCap(want), got, what)
		}
	}
	for _, in := range []string{"", "80", "1", "-5%", "1.%", "1.234%", "x", "80%bp", "99999999999", "99999999%", "1.5"} {
		if got, what := parseCap(in); what == "" {
			t.Errorf("%q was taken as %d", in, got)
		}
	}
}

// TestWhatIsWrittenIsRead writes any document in both forms, and wants it back.
func TestWhatIsWrittenIsRead(t *testing.T) {
	word := rapid.OneOf(rapid.SampledFrom([]string{"A", "00123", "1e5", "true", "null", "~", "no", "-", "- x", "a: b", "#x", "'q'", `"d"`, "a/b~c", "0x1F", "ünïcode", "é: #", "2026-01-01", "*a", "&b", "!t", "%", "@", "`", "{", "[x]", "a,b", "?", "? x", ">", "|", "=", "<<"}),
		rapid.StringMatching(`[A-Za-z0-9._-]{1,12}`))
	units := rapid.Custom(func(t *rapid.T) catalog.Units { return catalog.Units(rapid.Int64Range(0, 1e12).Draw(t, "units")) })
	rapid.Check(t, func(t *rapid.T) {
		ids := func(name string) []string {
			out := rapid.SliceOfNDistinct(word, 0, 3, rapid.ID).Draw(t, name)
			slices.Sort(out)
			return out
		}
		var d catalog.Document
		for _, id := range ids("channels") {
			d.Channels = append(d.Channels, catalog.Channel{ID: id, Name: word.Draw(t, "name"), Adapter: "http", BaseURL: "https://x.example/" + rapid.StringMatching(`[a-z]{0,5}`).Draw(t, "path"),
				Operation: catalog.Operation(rapid.IntRange(1, 3).Draw(t, "op")), RatePerSecond: "0.50", Locations: ids("locs"), Paused: rapid.Bool().Draw(t, "paused"),
				TimeoutMS: rapid.IntRange(0, 9000).Draw(t, "timeout"), LateWindowMS: rapid.IntRange(0, 9000).Draw(t, "window")})
			if c := &d.Channels[len(d.Channels)-1]; len(c.Locations) == 0 {
				c.Locations = nil
			}
		}
		for _, id := range ids("locations") {
			d.Locations = append(d.Locations, catalog.Location{ID: id, Kind: catalog.LocationKind(rapid.IntRange(1, 6).Draw(t, "kind")), Buffer: units.Draw(t, "buffer"), Country: "NO"})
		}
		for _, id := range ids("rules") {
			r := catalog.Rule{ID: id, Match: catalog.Match{SKU: word.Draw(t, "sku")}}
			u, bp, mode, paused := units.Draw(t, "max"), rapid.Int32Range(0, 10000).Draw(t, "cap"), "fair", false
			r.Max, r.CapBP, r.Mode, r.Paused = &u, &bp, &mode, &paused
			d.Rules = append(d.Rules, r)
		}
		for _, sku := range ids("listings") {
			d.Listings = append(d.Listings, catalog.Listing{SKU: sku, Title: word.Draw(t, "title"), UnitCost: "3.10", Currency: "EUR",
				Channels:   []catalog.ChannelListing{{Channel: "web", ExternalID: word.Draw(t, "ext"), Price: "0.00", Currency: "EUR"}},
				Components: []catalog.Component{{SKU: word.Draw(t, "part"), Quantity: 2}}})
		}
		c := Of(&d)
		for form, write := range map[string]func() ([]byte, error){"YAML": c.YAML, "JSON": c.JSON} {
			b, err := write()
			if err != nil {
				t.Fatal(err)
			}
			f, faults := Parse(b)
			if len(faults) > 0 {
				t.Fatalf("%s is not read: %v\n%s", form, faults, b)
			}
			got := f.Document
			slices.SortFunc(got.Channels, func(a, b catalog.Channel) int { return strings.Compare(a.ID, b.ID) })
			slices.SortFunc(got.Locations, func(a, b catalog.Location) int { return strings.Compare(a.ID, b.ID) })
			slices.SortFunc(got.Rules, func(a, b catalog.Rule) int { return strings.Compare(a.ID, b.ID) })
			slices.SortFunc(got.Listings, func(a, b catalog.Listing) int { return strings.Compare(a.SKU, b.SKU) })
			if !reflect.DeepEqual(got, d) {
				t.Fatalf("%s:\n got %+v\nwant %+v\n%s", form, got, d, b)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"channels:\n  a: {adapter: none}\n", "rules: [{id: x, cap: 80%}]", "a: &a [*a, *a]", "channels: &c {a: *c}", "? [x]\n: y", "!!binary x", "--- \n...\n---", "listings:\n\t- x", "rules:\n  <<: {a: {}}", "{\"rules\":{\"a\":{\"max\":1}}}", "rules: {a: |\n  text\n}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, faults := Parse([]byte(text))
		if (file == nil) != (len(faults) > 0) {
			t.Fatalf("file %v with faults %v", file, faults)
		}
		for _, x := range faults {
			if x.Line < 1 || x.Column < 0 || x.Message == "" {
				t.Fatalf("fault %+v", x)
			}
		}
	})
}
