package catalogfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/onhand/onhand/stock/catalog"
)

// Content is a whole file in the form that Write gives: by id, keys in order, nothing that is not set.
type Content struct {
	Channels  map[string]Channel  `json:"channels,omitempty" doc:"Channels by id: letters, digits, points, dashes and underscores."`
	Locations map[string]Location `json:"locations,omitempty" doc:"Locations by id."`
	Policies  map[string]Policy   `json:"policies,omitempty" doc:"What becomes of input that names what the catalog does not know: one, called intake."`
	Rules     map[string]Rule     `json:"rules,omitempty" doc:"Allocation rules by id. Of the rules that match, each setting comes from the most specific one that has it."`
	Listings  map[string]Listing  `json:"listings,omitempty" doc:"Products by SKU."`
}

// Channel is a place that sells, and how to write to it.
type Channel struct {
	Name          string   `json:"name,omitempty" doc:"Display name."`
	Adapter       string   `json:"adapter,omitempty" enum:"http,claim,none" doc:"How it is written to; claim for a channel that asks for each reservation before it sells, so that nothing need be written; none for one that is only recorded."`
	BaseURL       string   `json:"base_url,omitempty" doc:"Root of the channel's API. Addresses of this network are refused unless the server allows them."`
	Operation     string   `json:"operation,omitempty" enum:"absolute,delta,compare_and_set" doc:"How its API changes a quantity."`
	BatchSize     int      `json:"batch_size,omitempty" doc:"Most items in one request."`
	RatePerSecond string   `json:"rate_per_second,omitempty" doc:"Requests a second; decimal number."`
	Burst         int      `json:"burst,omitempty" doc:"Requests that may go at once after a pause."`
	MaxInFlight   int      `json:"max_in_flight,omitempty" doc:"Requests under way at once."`
	Locations     []string `json:"locations,omitempty" doc:"Locations that serve it; empty means all shared locations."`
	ListsAllSKUs  bool     `json:"lists_all_skus,omitempty" doc:"Offers every SKU the ledger knows, under its own name."`
	TokenSecret   string   `json:"token_secret,omitempty" doc:"Name of the secret that holds its access token; never the token."`
	Paused        bool     `json:"paused,omitempty" doc:"Nothing is written while paused."`
	TimeoutMS     int      `json:"timeout_ms,omitempty" doc:"Longest wait for an answer, milliseconds."`
	LateWindowMS  int      `json:"late_window_ms,omitempty" doc:"Longest time that a write may still be applied after its answer failed to come, milliseconds; twice timeout_ms when left out."`
	SetsAny       bool     `json:"sets_any,omitempty" doc:"Of a channel whose operation is compare_and_set: it can also be set whatever it shows."`
	WriteOnly     bool     `json:"write_only,omitempty" doc:"What it shows cannot be read."`
	OrdersPath    string   `json:"orders_path,omitempty" doc:"Path of the channel's order list, below base_url, where it has one: swept for orders whose webhooks were lost."`
	OrdersLagMS   int      `json:"orders_lag_ms,omitempty" doc:"Longest time until an order shows up in the list, and that the channel's clock may be behind, together, milliseconds; 30000 when left out."`
}

// Location is a place that holds stock.
type Location struct {
	Name         string        `json:"name,omitempty" doc:"Display name."`
	Kind         string        `json:"kind,omitempty" enum:"warehouse,store,3pl,fba,wfs,virtual" doc:"What sort of place it is."`
	Channel      string        `json:"channel,omitempty" doc:"For fba and wfs: the channel it belongs to."`
	MultiChannel bool          `json:"multi_channel,omitempty" doc:"Other channels may sell from it too."`
	TimeZone     string        `json:"time_zone,omitempty" doc:"IANA time zone."`
	Country      string        `json:"country,omitempty" doc:"ISO 3166-1 alpha-2 code."`
	Buffer       catalog.Units `json:"buffer,omitempty" doc:"Units kept off all channels, per SKU."`
}

// Match says what a rule applies to; what is left out matches all.
type Match struct {
	Channel  string `json:"channel,omitempty" doc:"Channel id."`
	SKU      string `json:"sku,omitempty" doc:"SKU."`
	Brand    string `json:"brand,omitempty" doc:"Brand of the listing."`
	Category string `json:"category,omitempty" doc:"Category of the listing."`
}

// Rule is one allocation rule; what is left out is not set by it.
type Rule struct {
	Match      *Match         `json:"match,omitempty" doc:"What it applies to; all that is given must match."`
	Buffer     *catalog.Units `json:"buffer,omitempty" doc:"Units held back from the channel."`
	Reserve    *catalog.Units `json:"reserve,omitempty" doc:"Units that no other channel may show."`
	Cap        *string        `json:"cap,omitempty" doc:"Most the channel may show of what is available: 80% or 8000bp." example:"80%"`
	Max        *catalog.Units `json:"max,omitempty" doc:"Most units the channel may ever show."`
	HideAt     *catalog.Units `json:"hide_at,omitempty" doc:"Shows nothing when the result is this or less."`
	Priority   *int32         `json:"priority,omitempty" doc:"Lower is served first."`
	Weight     *catalog.Units `json:"weight,omitempty" doc:"Share under division by weight."`
	Floor      *catalog.Units `json:"floor,omitempty" doc:"Units shown even when nothing is available: made to order. They are outside every guarantee."`
	Paused     *bool          `json:"paused,omitempty" doc:"Shows nothing."`
	Mode       *string        `json:"mode,omitempty" enum:"pooled,adaptive,strict,waterfall,proportional,fair" doc:"How sure it is that no unit is sold twice: pooled, adaptive (the default) or strict. Or waterfall, proportional, fair: each unit is shown by one channel, without books."`
	Share      *string        `json:"share,omitempty" enum:"demand,priority,weight,fair" doc:"How stock is divided where exposure is kept in books; demand when left out."`
	PoolBuffer *catalog.Units `json:"pool_buffer,omitempty" doc:"Units kept off all channels together."`
	Rounding   *string        `json:"rounding,omitempty" enum:"largest_remainder,webster" doc:"How shares become whole units."`
}

// Listing is one product.
type Listing struct {
	Title      string           `json:"title,omitempty" doc:"Title."`
	Brand      string           `json:"brand,omitempty" doc:"Brand."`
	Category   string           `json:"category,omitempty" doc:"Category."`
	UnitCost   string           `json:"unit_cost,omitempty" doc:"Cost of one unit; decimal number."`
	Currency   string           `json:"currency,omitempty" doc:"ISO 4217 code of unit_cost."`
	Channels   []ChannelListing `json:"channels,omitempty" doc:"Where it is sold."`
	Components []Component      `json:"components,omitempty" doc:"What it is made of, when it is a bundle: it has no stock of its own, and its sales move theirs. Never changes."`
}

// ChannelListing is one SKU as one channel sells it.
type ChannelListing struct {
	Channel    string `json:"channel" doc:"The channel."`
	ExternalID string `json:"external_id,omitempty" doc:"The SKU's id there; left out, it is the SKU."`
	Price      string `json:"price,omitempty" doc:"Price there; decimal number."`
	Currency   string `json:"currency,omitempty" doc:"ISO 4217 code of price."`
	Paused     bool   `json:"paused,omitempty" doc:"Not for sale there at present."`
	Fee        string `json:"fee,omitempty" doc:"What the channel keeps of each unit sold; decimal number in currency."`
}

// Component is a part of a bundle.
type Component struct {
	SKU      string        `json:"sku" doc:"The part."`
	Quantity catalog.Units `json:"quantity" doc:"Units of it in one bundle."`
}

// Of is a document as content.
func Of(d *catalog.Document) *Content {
	c := &Content{Channels: map[string]Channel{}, Locations: map[string]Location{}, Rules: map[string]Rule{}, Listings: map[string]Listing{}}
	for i := range d.Channels {
		ch := &d.Channels[i]
		c.Channels[ch.ID] = Channel{
			Name: ch.Name, Adapter: ch.Adapter, BaseURL: ch.BaseURL, Operation: ch.Operation.String(), BatchSize: ch.BatchSize,
			RatePerSecond: ch.RatePerSecond, Burst: ch.Burst, MaxInFlight: ch.MaxInFlight, Locations: ch.Locations, ListsAllSKUs: ch.ListsAllSKUs,
			TokenSecret: ch.TokenSecret, Paused: ch.Paused, TimeoutMS: ch.TimeoutMS, LateWindowMS: ch.LateWindowMS,
			SetsAny: ch.SetsAny, WriteOnly: ch.WriteOnly,
			OrdersPath: ch.OrdersPath, OrdersLagMS: ch.OrdersLagMS,
		}
	}
	for i := range d.Locations {
		l := &d.Locations[i]
		c.Locations[l.ID] = Location{
			Name: l.Name, Kind: l.Kind.String(), Channel: l.Channel, MultiChannel: l.MultiChannel, TimeZone: l.TimeZone, Country: l.Country, Buffer: l.Buffer,
		}
	}
	for i := range d.Policies {
		if c.Policies == nil {
			c.Policies = map[string]Policy{}
		}
		c.Policies[d.Policies[i].ID] = Policy{verdict(d.Policies[i].RejectSKUs), verdict(d.Policies[i].RejectLocations)}
	}
	for i := range d.Rules {
		r := &d.Rules[i]
		out := Rule{
			Buffer: r.Buffer, Reserve: r.Reserve, Max: r.Max, HideAt: r.HideAt, Priority: r.Priority, Weight: r.Weight, Paused: r.Paused,
			Floor: r.Floor, Share: r.Share, Mode: r.Mode, PoolBuffer: r.PoolBuffer, Rounding: r.Rounding,
		}
		if r.Match != (catalog.Match{}) {
			out.Match = &Match{Channel: r.Match.Channel, SKU: r.Match.SKU, Brand: r.Match.Brand, Category: r.Match.Category}
		}
		if r.CapBP != nil {
			s := formatCap(*r.CapBP)
			out.Cap = &s
		}
		c.Rules[r.ID] = out
	}
	for i := range d.Listings {
		l := &d.Listings[i]
		out := Listing{Title: l.Title, Brand: l.Brand, Category: l.Category, UnitCost: l.UnitCost, Currency: l.Currency}
		for _, ch := range l.Channels {
			out.Channels = append(out.Channels, ChannelListing(ch))
		}
		for _, p := range l.Components {
			out.Components = append(out.Components, Component(p))
		}
		c.Listings[l.SKU] = out
	}
	return c
}

func formatCap(bp int32) string {
	if bp%100 == 0 {
		return fmt.Sprintf("%d%%", bp/100)
	}
	return strings.TrimRight(fmt.Sprintf("%d.%02d", bp/100, bp%100), "0") + "%"
}

// JSON is the content as JSON.
func (c *Content) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	return append(b, '\n'), err
}

// YAML is the content as YAML, which Parse reads back to the same document. It quotes every text that some reader of YAML could take for
// something else, such as 00123 or no.
func (c *Content) YAML() ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var out bytes.Buffer
	if err := block(&out, d, 0, false); err != nil {
		return nil, err
	}
	return bytes.TrimPrefix(append(out.Bytes(), '\n'), []byte("\n")), nil
}

// block writes the next value of d, at a depth of indentation. first says that the value's first line is the caller's, after "- ".
func block(out *bytes.Buffer, d *json.Decoder, depth int, first bool) error {
	tok, err := d.Token()
	if err != nil {
		return err
	}
	line := func() {
		if first {
			first = false
			return
		}
		out.WriteByte('\n')
		for range depth {
			out.WriteString("  ")
		}
	}
	switch t := tok.(type) {
	case json.Delim:
		if !d.More() {
			out.WriteString(map[json.Delim]string{'{': " {}", '[': " []"}[t])
		}
		for d.More() {
			line()
			if t == '[' {
				out.WriteString("- ")
				if err := block(out, d, depth+1, true); err != nil {
					return err
				}
				continue
			}
			key, err := d.Token()
			if err != nil {
				return err
			}
			out.WriteString(scalar(key.(string)))
			out.WriteByte(':')
			if err := block(out, d, depth+1, false); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	case string:
		tok = scalar(t)
	}
	if !first {
		out.WriteByte(' ')
	}
	_, err = fmt.Fprint(out, tok)
	return err
}

var (
	plain    = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_./-]*|https?://[A-Za-z0-9_./:-]*[A-Za-z0-9_/-]|[0-9]+(\.[0-9]+)?%)$`)
	reserved = regexp.MustCompile(`^(?i:true|false|null|yes|no|on|off|y|n|nan|inf)$`)
)

func scalar(s string) string {
	if plain.MatchString(s) && !reserved.MatchString(s) {
		return s
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}

// Policy is what becomes of input that names what the catalog does not know, as files have it.
type Policy struct {
	UnknownSKUs      string `json:"unknown_skus" enum:"accept,reject" doc:"SKUs without a listing."`
	UnknownLocations string `json:"unknown_locations" enum:"accept,reject" doc:"Locations without a setting."`
}

func verdict(rejects bool) string {
	if rejects {
		return "reject"
	}
	return "accept"
}
