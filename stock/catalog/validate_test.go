package catalog_test

import (
	"strings"
	"testing"

	"github.com/onhand/onhand/stock/catalog"
)

func ptr[T any](v T) *T { return &v }

func good() *catalog.Document {
	return &catalog.Document{
		Channels: []catalog.Channel{
			{ID: "shop", Adapter: "http", BaseURL: "https://shop.example.com/api", Operation: catalog.CompareAndSet, RatePerSecond: "2.5", TokenSecret: "SHOP_TOKEN"},
			{ID: "amz", Adapter: "none", Locations: []string{"wh1"}},
		},
		Locations: []catalog.Location{
			{ID: "wh1", Kind: catalog.Warehouse, TimeZone: "Europe/Berlin", Country: "DE"},
			{ID: "fba-de", Kind: catalog.FBA, Channel: "amz"},
		},
		Rules: []catalog.Rule{
			{ID: "r0", Buffer: ptr(catalog.Units(1))},
			{ID: "r1", Match: catalog.Match{Channel: "shop"}, CapBP: ptr(int32(5000))},
			{ID: "r2", Mode: ptr("fair"), Rounding: ptr("webster"), PoolBuffer: ptr(catalog.Units(2))},
		},
		Listings: []catalog.Listing{
			{SKU: "A", UnitCost: "3.10", Currency: "EUR", Channels: []catalog.ChannelListing{{Channel: "shop", Price: "9.99", Currency: "EUR"}}},
		},
	}
}

// TestDocumentFaults breaks a good document in one place each, and wants exactly that place named.
func TestDocumentFaults(t *testing.T) {
	if f := good().Validate(nil); len(f) != 0 {
		t.Fatalf("the good document has faults: %v", f)
	}
	for name, tt := range map[string]struct {
		spoil func(*catalog.Document)
		path  string
		says  string
	}{
		"channel id is a topic name": {func(d *catalog.Document) { d.Channels[1].ID = "a b" }, "channels[1].id", "topic"},
		"channel twice":              {func(d *catalog.Document) { d.Channels = append(d.Channels, d.Channels[0]) }, "channels[2].id", "channels[0]"},
		"adapter unknown":            {func(d *catalog.Document) { d.Channels[0].Adapter = "ftp" }, "channels[0].adapter", "http, claim or none"},
		"operation missing":          {func(d *catalog.Document) { d.Channels[0].Operation = 0 }, "channels[0].operation", "absolute"},
		"operation unknown":          {func(d *catalog.Document) { d.Channels[0].Operation = 9 }, "channels[0].operation", "not known"},
		"base url scheme":            {func(d *catalog.Document) { d.Channels[0].BaseURL = "file:///etc/passwd" }, "channels[0].base_url", "http or https"},
		"base url host":              {func(d *catalog.Document) { d.Channels[0].BaseURL = "https:///x" }, "channels[0].base_url", "no host"},
		"base url port alone":        {func(d *catalog.Document) { d.Channels[0].BaseURL = "http://:80/x" }, "channels[0].base_url", "no host"},
		"base url user":              {func(d *catalog.Document) { d.Channels[0].BaseURL = "https://u:hunter2@h/x" }, "channels[0].base_url", "token_secret"},
		"base url unparsable":        {func(d *catalog.Document) { d.Channels[0].BaseURL = "https://u:hunter2@h/%zz" }, "channels[0].base_url", "not a URL"},
		"batch negative":             {func(d *catalog.Document) { d.Channels[0].BatchSize = -1 }, "channels[0].batch_size", "at least 0"},
		"batch absurd":               {func(d *catalog.Document) { d.Channels[0].BatchSize = 1 << 30 }, "channels[0].batch_size", "at most"},
		"burst negative":             {func(d *catalog.Document) { d.Channels[0].Burst = -1 }, "channels[0].burst", "at least 0"},
		"in flight negative":         {func(d *catalog.Document) { d.Channels[0].MaxInFlight = -1 }, "channels[0].max_in_flight", "at least 0"},
		"time-out negative":          {func(d *catalog.Document) { d.Channels[0].TimeoutMS = -1 }, "channels[0].timeout_ms", "at least 0"},
		"late window too long":       {func(d *catalog.Document) { d.Channels[0].LateWindowMS = 86_400_001 }, "channels[0].late_window_ms", "at most 86400000"},
		"rate not a number":          {func(d *catalog.Document) { d.Channels[0].RatePerSecond = "fast" }, "channels[0].rate_per_second", "decimal"},
		"rate zero":                  {func(d *catalog.Document) { d.Channels[0].RatePerSecond = "0" }, "channels[0].rate_per_second", "above 0"},
		"secret is a path":           {func(d *catalog.Document) { d.Channels[0].TokenSecret = "../x" }, "channels[0].token_secret", "name of a secret"},
		"scope unknown":              {func(d *catalog.Document) { d.Channels[1].Locations[0] = "moon" }, "channels[1].locations[0]", `"moon" does not exist`},
		"scope of another's":         {func(d *catalog.Document) { d.Channels[0].Locations = []string{"fba-de"} }, "channels[0].locations[0]", "alone"},
		"scope twice":                {func(d *catalog.Document) { d.Channels[1].Locations = []string{"wh1", "wh1"} }, "channels[1].locations[1]", "twice"},
		"location kind missing":      {func(d *catalog.Document) { d.Locations[0].Kind = 0 }, "locations[0].kind", "missing"},
		"fba without channel":        {func(d *catalog.Document) { d.Locations[1].Channel = "" }, "locations[1].channel", "belongs"},
		"fba of unknown channel":     {func(d *catalog.Document) { d.Locations[1].Channel = "x" }, "locations[1].channel", "does not exist"},
		"warehouse with channel":     {func(d *catalog.Document) { d.Locations[0].Channel = "shop" }, "locations[0].channel", "only fba and wfs"},
		"location buffer negative":   {func(d *catalog.Document) { d.Locations[0].Buffer = -1 }, "locations[0].buffer", "at least 0"},
		"country":                    {func(d *catalog.Document) { d.Locations[0].Country = "Germany" }, "locations[0].country", "ISO 3166-1"},
		"time zone":                  {func(d *catalog.Document) { d.Locations[0].TimeZone = "Berlin, DE" }, "locations[0].time_zone", "IANA"},
		"rule channel unknown":       {func(d *catalog.Document) { d.Rules[1].Match.Channel = "x" }, "rules[1].match.channel", "does not exist"},
		"cap above all":              {func(d *catalog.Document) { d.Rules[1].CapBP = ptr(int32(10001)) }, "rules[1].cap", "at most 10000"},
		"cap negative":               {func(d *catalog.Document) { d.Rules[1].CapBP = ptr(int32(-1)) }, "rules[1].cap", "at least 0"},
		"buffer negative":            {func(d *catalog.Document) { d.Rules[0].Buffer = ptr(catalog.Units(-1)) }, "rules[0].buffer", "at least 0"},
		"max absurd":                 {func(d *catalog.Document) { d.Rules[0].Max = ptr(catalog.Units(1 << 60)) }, "rules[0].max", "at most"},
		"weight absurd":              {func(d *catalog.Document) { d.Rules[0].Weight = ptr(catalog.Units(1 << 40)) }, "rules[0].weight", "at most"},
		"priority negative":          {func(d *catalog.Document) { d.Rules[0].Priority = ptr(int32(-1)) }, "rules[0].priority", "at least 0"},
		"share unknown":              {func(d *catalog.Document) { d.Rules[2].Share = ptr("greedy") }, "rules[2].share", "demand"},
		"share for one channel":      {func(d *catalog.Document) { d.Rules[1].Share = ptr("fair") }, "rules[1].share", "all channels"},
		"floor negative":             {func(d *catalog.Document) { d.Rules[0].Floor = ptr(catalog.Units(-1)) }, "rules[0].floor", "at least 0"},
		"fee is no number":           {func(d *catalog.Document) { d.Listings[0].Channels[0].Fee = "5%" }, "listings[0].channels[0].fee", "decimal"},
		"sets any, absolute":         {func(d *catalog.Document) { d.Channels[0].Operation, d.Channels[0].SetsAny = catalog.Absolute, true }, "channels[0].sets_any", "compare_and_set"},
		"mode unknown":               {func(d *catalog.Document) { d.Rules[2].Mode = ptr("greedy") }, "rules[2].mode", "waterfall"},
		"mode for one channel":       {func(d *catalog.Document) { d.Rules[1].Mode = ptr("fair") }, "rules[1].mode", "all channels"},
		"rounding unknown":           {func(d *catalog.Document) { d.Rules[2].Rounding = ptr("up") }, "rules[2].rounding", "webster"},
		"rule sets nothing":          {func(d *catalog.Document) { d.Rules[1].CapBP = nil }, "rules[1]", "sets nothing"},
		"rule twice":                 {func(d *catalog.Document) { d.Rules[2].ID = "r0" }, "rules[2].id", "rules[0]"},
		"SKU missing":                {func(d *catalog.Document) { d.Listings[0].SKU = "" }, "listings[0].sku", "missing"},
		"SKU with a newline":         {func(d *catalog.Document) { d.Listings[0].SKU = "A\n" }, "listings[0].sku", "control"},
		"listing channel unknown":    {func(d *catalog.Document) { d.Listings[0].Channels[0].Channel = "x" }, "listings[0].channels[0].channel", "does not exist"},
		"price is no number":         {func(d *catalog.Document) { d.Listings[0].Channels[0].Price = "9,99" }, "listings[0].channels[0].price", "decimal"},
		"cost negative":              {func(d *catalog.Document) { d.Listings[0].UnitCost = "-1" }, "listings[0].unit_cost", "not negative"},
		"currency missing":           {func(d *catalog.Document) { d.Listings[0].Currency = "" }, "listings[0].currency", "missing"},
		"currency not a code":        {func(d *catalog.Document) { d.Listings[0].Currency = "euro" }, "listings[0].currency", "ISO 4217"},
		"bundle of itself":           {func(d *catalog.Document) { d.Listings[0].Components = []catalog.Component{{SKU: "A", Quantity: 1}} }, "listings[0].components[0].sku", "itself"},
		"component quantity":         {func(d *catalog.Document) { d.Listings[0].Components = []catalog.Component{{SKU: "B"}} }, "listings[0].components[0].quantity", "at least 1"},
		"two SKUs share an external id": {func(d *catalog.Document) {
			d.Listings = append(d.Listings, catalog.Listing{SKU: "B", Channels: []catalog.ChannelListing{{Channel: "shop", ExternalID: "A"}}})
		}, "listings[1].channels[0].external_id", `SKU "A"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := good()
			tt.spoil(d)
			faults := d.Validate(nil)
			if len(faults) == 0 || faults[0].Path != tt.path || !strings.Contains(faults[0].Message, tt.says) {
				// A changed id also breaks what refers to it, later in the list.
				t.Errorf("faults %v; want the first at %s, saying %q", faults, tt.path, tt.says)
			}
			for _, f := range faults {
				if strings.Contains(f.Message, "hunter2") {
					t.Errorf("the message repeats a secret: %s", f)
				}
			}
		})
	}
}

func TestEveryFaultIsReported(t *testing.T) {
	d := good()
	d.Channels[0].Adapter = "ftp"
	d.Rules[1].CapBP = ptr(int32(20000))
	d.Listings[0].SKU = ""
	if f := d.Validate(nil); len(f) != 3 {
		t.Errorf("got %v; want 3 faults", f)
	}
}

// TestDocumentRefersToSettingsInForce lets a file hold only what changes.
func TestDocumentRefersToSettingsInForce(t *testing.T) {
	d := catalog.Document{Rules: []catalog.Rule{{ID: "r", Match: catalog.Match{Channel: "old"}, Max: ptr(catalog.Units(3))}}}
	base := &catalog.Settings{Channels: map[string]*catalog.Channel{"old": {ID: "old", Adapter: "none"}}}
	if f := d.Validate(base); len(f) != 0 {
		t.Errorf("faults %v", f)
	}
	if f := d.Validate(nil); len(f) != 1 {
		t.Errorf("faults %v; want the unknown channel", f)
	}
}

// TestRemovalLeavesNothingDangling is how ingest refuses to delete a channel that a rule still names.
func TestRemovalLeavesNothingDangling(t *testing.T) {
	s := &catalog.Settings{Rules: map[string]*catalog.Rule{"r": {ID: "r", Match: catalog.Match{Channel: "gone"}, Max: ptr(catalog.Units(3))}}}
	f := catalog.Validate(s)
	if len(f) != 1 || f[0].Path != "rules[r].match.channel" {
		t.Errorf("faults %v", f)
	}
	if f := catalog.ValidateListing(&catalog.Listing{SKU: "A", Channels: []catalog.ChannelListing{{Channel: "gone"}}}, s); len(f) != 1 || f[0].Path != "channels[0].channel" {
		t.Errorf("faults %v", f)
	}
}
