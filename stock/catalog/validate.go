package catalog

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/govalues/decimal"

	"github.com/onhand/onhand/stock/allocation"
)

// Limits of what may be set. They keep the arithmetic of allocation exact and a typing error from being obeyed.
const (
	MaxUnits        Units = 1_000_000_000_000 // of any quantity
	MaxWeight       Units = 1_000_000
	MaxPerBundle    Units = 100_000 // units of a component in one bundle
	MaxComponents         = 100     // of one bundle
	MaxBundleSKU          = 120     // bytes
	MaxPriority     int32 = 1_000_000
	FullCap         int32 = 10_000 // basis points: 100 %
	MaxIDLength           = 200    // bytes of an id, a SKU, a brand or a category
	maxBatch              = 10_000
	maxInFlight           = 1_000
	maxTimeoutMS          = 600_000
	maxLateWindowMS       = 86_400_000
	maxRate               = 100_000
)

// Fault is one thing wrong with settings: where, and what to do about it.
type Fault struct {
	// Path of the field. An element is named by its place in the document (rules[3].cap) or, where settings are checked without a document,
	// by its id (rules[web-cap].cap). The names are those of the settings file:
	//
	//	channels[].   id name adapter base_url operation batch_size rate_per_second burst max_in_flight locations[] token_secret timeout_ms
	//	              late_window_ms sets_any write_only orders_path orders_lag_ms
	//	locations[].  id name kind channel time_zone country buffer
	//	rules[].      id match.channel match.sku match.brand match.category buffer reserve cap max hide_at priority weight floor mode share
	//	              pool_buffer rounding
	//	listings[].   sku title brand category unit_cost currency channels[].{channel external_id price currency fee} components[].{sku quantity}
	//
	// A path that ends at an element (rules[3]) is about the element as a whole.
	Path    string
	Message string // what was found, and what is wanted
}

// String is path and message, as an error list shows them.
func (f Fault) String() string { return f.Path + ": " + f.Message }

// Document is settings as a person writes them: what one settings file holds, in its order.
type Document struct {
	Channels  []Channel
	Locations []Location
	Rules     []Rule
	Listings  []Listing
	Policies  []Policy
}

// Validate returns every fault of the document, in its order; none means it may be applied. Ids that the document does not define are looked up
// in base, the settings in force (nil for none), so that a document may hold only what changes.
func (d *Document) Validate(base *Settings) []Fault {
	c := checker{known: with(base, d)}
	seen := make(map[string]int)
	for i := range d.Channels {
		p := fmt.Sprintf("channels[%d]", i)
		c.once(seen, p, "channel", d.Channels[i].ID, "channels", i)
		c.channel(p, &d.Channels[i])
	}
	clear(seen)
	for i := range d.Locations {
		p := fmt.Sprintf("locations[%d]", i)
		c.once(seen, p, "location", d.Locations[i].ID, "locations", i)
		c.location(p, &d.Locations[i])
	}
	clear(seen)
	for i := range d.Policies {
		p := fmt.Sprintf("policies[%d]", i)
		c.once(seen, p, "policy", d.Policies[i].ID, "policies", i)
		if d.Policies[i].ID != IntakePolicy {
			c.add(p+".id", "policy %q: there is one policy, and it is called %s", d.Policies[i].ID, IntakePolicy)
		}
	}
	clear(seen)
	for i := range d.Rules {
		p := fmt.Sprintf("rules[%d]", i)
		c.once(seen, p, "rule", d.Rules[i].ID, "rules", i)
		c.rule(p, &d.Rules[i])
	}
	clear(seen)
	type external struct{ channel, id string }
	sold := make(map[external]int)
	for i := range d.Listings {
		l := &d.Listings[i]
		p := fmt.Sprintf("listings[%d]", i)
		if first, dup := seen[l.SKU]; dup && l.SKU != "" {
			c.add(p+".sku", "SKU %q is already listings[%d]; keep one of them", l.SKU, first)
		} else {
			seen[l.SKU] = i
		}
		c.listing(p, l)
		for j := range l.Channels {
			id := l.Channels[j].ExternalID
			if id == "" {
				id = l.SKU
			}
			key := external{l.Channels[j].Channel, id}
			if first, dup := sold[key]; dup && first != i {
				c.add(fmt.Sprintf("%s.channels[%d].external_id", p, j), "channel %q already sells %q as SKU %q (listings[%d]): two SKUs cannot share one listing",
					key.channel, id, d.Listings[first].SKU, first)
			} else {
				sold[key] = i
			}
		}
	}
	return c.faults
}

// Merge puts the document's entries in force: into base, whose maps it changes and whose values it does not, and into listings.
func (d *Document) Merge(base *Settings, listings map[string]*Listing) {
	for i := range d.Channels {
		base.Channels[d.Channels[i].ID] = &d.Channels[i]
	}
	for i := range d.Locations {
		base.Locations[d.Locations[i].ID] = &d.Locations[i]
	}
	for i := range d.Rules {
		base.Rules[d.Rules[i].ID] = &d.Rules[i]
	}
	for i := range d.Listings {
		listings[d.Listings[i].SKU] = &d.Listings[i]
	}
}

// Validate returns every fault of settings as a whole, in order of kind and id, with elements named by id: rules[web-cap].cap. Use it to judge
// what a removal would leave behind.
func Validate(s *Settings) []Fault {
	c := checker{known: s}
	for _, id := range slices.Sorted(maps.Keys(s.Channels)) {
		c.channel("channels["+id+"]", s.Channels[id])
	}
	for _, id := range slices.Sorted(maps.Keys(s.Locations)) {
		c.location("locations["+id+"]", s.Locations[id])
	}
	for _, id := range slices.Sorted(maps.Keys(s.Rules)) {
		c.rule("rules["+id+"]", s.Rules[id])
	}
	return c.faults
}

// ValidateListing returns every fault of one listing, its paths relative to the listing: channels[0].channel.
func ValidateListing(l *Listing, s *Settings) []Fault {
	c := checker{known: s}
	c.listing("", l)
	return c.faults
}

// with is base with what d defines.
func with(base *Settings, d *Document) *Settings {
	s := &Settings{Channels: map[string]*Channel{}, Locations: map[string]*Location{}, Rules: map[string]*Rule{}}
	if base != nil {
		maps.Copy(s.Channels, base.Channels)
		maps.Copy(s.Locations, base.Locations)
		maps.Copy(s.Rules, base.Rules)
	}
	for i := range d.Channels {
		s.Channels[d.Channels[i].ID] = &d.Channels[i]
	}
	for i := range d.Locations {
		s.Locations[d.Locations[i].ID] = &d.Locations[i]
	}
	for i := range d.Rules {
		s.Rules[d.Rules[i].ID] = &d.Rules[i]
	}
	return s
}

type checker struct {
	known  *Settings
	faults []Fault
}

func (c *checker) add(path, format string, args ...any) {
	c.faults = append(c.faults, Fault{Path: strings.TrimPrefix(path, "."), Message: fmt.Sprintf(format, args...)})
}

func (c *checker) once(seen map[string]int, path, kind, id, list string, i int) {
	if first, dup := seen[id]; dup && id != "" {
		c.add(path+".id", "%s %q is already %s[%d]; keep one of them", kind, id, list, first)
		return
	}
	seen[id] = i
}

// ValidChannelID says whether id can name a channel: it is part of a topic's name.
func ValidChannelID(id string) bool {
	if id == "" || len(id) > 100 || id == "." || id == ".." {
		return false
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return false
		}
	}
	return true
}

// name checks a word that identifies something: present unless optional, bounded, and free of what hides in a terminal.
func (c *checker) name(path, what, v string, optional bool) {
	switch {
	case v == "" && optional:
	case v == "":
		c.add(path, "missing; give the %s", what)
	case len(v) > MaxIDLength:
		c.add(path, "%s of %d bytes; want at most %d", what, len(v), MaxIDLength)
	case !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) || strings.TrimSpace(v) != v:
		c.add(path, "%s %q: want no control characters and no space at either end", what, v)
	}
}

func (c *checker) between(path string, v, least, most int64) {
	switch {
	case v < least:
		c.add(path, "%d; want at least %d", v, least)
	case v > most:
		c.add(path, "%d; want at most %d", v, most)
	}
}

func (c *checker) channel(p string, ch *Channel) {
	if ch.ID == "" {
		c.add(p+".id", "missing; give the channel an id")
	} else if !ValidChannelID(ch.ID) {
		c.add(p+".id", "%q: want at most 100 letters, digits, dots, underscores or hyphens, as it names a topic", ch.ID)
	}
	c.name(p+".name", "name", ch.Name, true)
	switch ch.Adapter {
	case "http":
		c.baseURL(p+".base_url", ch.BaseURL)
		if ch.Operation == UnspecifiedOperation {
			c.add(p+".operation", "missing; want absolute, delta or compare_and_set")
		}
	case Claim:
		if ch.BaseURL != "" {
			c.add(p+".base_url", "%q: a channel with adapter claim asks Onhand, and nothing is written to it; remove it, or use adapter http", ch.BaseURL)
		}
		if ch.Operation != UnspecifiedOperation {
			c.add(p+".operation", "a channel with adapter claim shows no number that could be written; remove it")
		}
	case "none":
		if ch.BaseURL != "" {
			c.add(p+".base_url", "%q: adapter none writes nowhere; remove it, or use adapter http", ch.BaseURL)
		}
	case "":
		c.add(p+".adapter", "missing; want http, claim for a channel that asks before it sells, or none for one that is only recorded")
	default:
		c.add(p+".adapter", "%q is not known; want http, claim or none", ch.Adapter)
	}
	if ch.Operation > CompareAndSet {
		c.add(p+".operation", "%d is not known; want absolute, delta or compare_and_set", ch.Operation)
	}
	if ch.SetsAny && ch.Operation != CompareAndSet {
		c.add(p+".sets_any", "only a channel with operation compare_and_set says whether it can also be set whatever it shows; remove it")
	}
	c.between(p+".batch_size", int64(ch.BatchSize), 0, maxBatch)
	c.between(p+".burst", int64(ch.Burst), 0, maxRate)
	c.between(p+".max_in_flight", int64(ch.MaxInFlight), 0, maxInFlight)
	c.between(p+".timeout_ms", int64(ch.TimeoutMS), 0, maxTimeoutMS)
	c.between(p+".late_window_ms", int64(ch.LateWindowMS), 0, maxLateWindowMS)
	c.between(p+".orders_lag_ms", int64(ch.OrdersLagMS), 0, maxLateWindowMS)
	c.ordersPath(p+".orders_path", ch)
	if ch.RatePerSecond != "" {
		if r, err := decimal.Parse(ch.RatePerSecond); err != nil || !r.IsPos() || r.Cmp(decimal.MustNew(maxRate, 0)) > 0 {
			c.add(p+".rate_per_second", "%q; want a decimal number above 0 and at most %d, such as 2 or 0.5", ch.RatePerSecond, maxRate)
		}
	}
	if strings.ContainsFunc(ch.TokenSecret, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-' && r != '.'
	}) || strings.HasPrefix(ch.TokenSecret, ".") {
		c.add(p+".token_secret", "want the name of a secret (letters, digits, underscores, hyphens), not the secret or a path") // not echoed: it may be the secret
	}
	seen := make(map[string]bool, len(ch.Locations))
	for i, id := range ch.Locations {
		at := fmt.Sprintf("%s.locations[%d]", p, i)
		l := c.known.Locations[id]
		switch {
		case l == nil:
			c.add(at, "location %q does not exist; define it, or correct the name", id)
		case l.Exclusive() && l.Channel != ch.ID:
			c.add(at, "location %q is for channel %q alone; set its multi_channel, or leave it out", id, l.Channel)
		case seen[id]:
			c.add(at, "location %q is named twice", id)
		}
		seen[id] = true
	}
}

func (c *checker) baseURL(path, v string) {
	u, err := url.Parse(v)
	switch {
	case v == "":
		c.add(path, "missing; give the root of the channel's API, such as https://api.example.com/v1")
	case err != nil:
		c.add(path, "not a URL; want one such as https://api.example.com/v1") // the error would echo a password
	case u.Scheme != "http" && u.Scheme != "https":
		c.add(path, "scheme %q; want http or https", u.Scheme)
	case u.Hostname() == "":
		c.add(path, "no host; want one such as https://api.example.com/v1")
	case u.User != nil:
		c.add(path, "holds a user or password; put the token in a secret and name it in token_secret")
	case u.RawQuery != "" || u.Fragment != "":
		c.add(path, "holds a query or fragment; want only scheme, host and path")
	}
}

func (c *checker) ordersPath(path string, ch *Channel) {
	v := ch.OrdersPath
	if v == "" {
		return
	}
	u, err := url.Parse(v)
	switch {
	case ch.BaseURL == "":
		c.add(path, "needs a base_url, which it is below")
	case err != nil || u.Scheme != "" || u.Host != "" || u.RawQuery != "" || u.Fragment != "" || !strings.HasPrefix(v, "/") || strings.HasPrefix(v, "//") ||
		strings.Contains(v, ".."):
		c.add(path, "want a path below base_url, such as /orders, without host, query or ..")
	}
}

func (c *checker) location(p string, l *Location) {
	c.name(p+".id", "id", l.ID, false)
	c.name(p+".name", "name", l.Name, true)
	switch {
	case l.Kind == UnspecifiedLocation:
		c.add(p+".kind", "missing; want warehouse, store, 3pl, fba, wfs or virtual")
	case l.Kind > Virtual:
		c.add(p+".kind", "%d is not known; want warehouse, store, 3pl, fba, wfs or virtual", l.Kind)
	}
	marketplace := l.Kind == FBA || l.Kind == WFS
	switch {
	case l.Channel == "" && marketplace:
		c.add(p+".channel", "missing; a marketplace's own warehouse belongs to a channel")
	case l.Channel != "" && !marketplace:
		c.add(p+".channel", "%q: only fba and wfs locations belong to a channel; list the location in the channel's locations instead", l.Channel)
	case l.Channel != "" && c.known.Channels[l.Channel] == nil:
		c.add(p+".channel", "channel %q does not exist; define it, or correct the name", l.Channel)
	}
	if strings.ContainsFunc(l.TimeZone, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/_+-", r)
	}) {
		c.add(p+".time_zone", "%q; want an IANA name such as Europe/Berlin", l.TimeZone)
	}
	if l.Country != "" && !upper(l.Country, 2) {
		c.add(p+".country", "%q; want two capital letters (ISO 3166-1), such as DE", l.Country)
	}
	c.between(p+".buffer", int64(l.Buffer), 0, int64(MaxUnits))
}

func upper(v string, n int) bool {
	return len(v) == n && !strings.ContainsFunc(v, func(r rune) bool { return r < 'A' || r > 'Z' })
}

func (c *checker) rule(p string, r *Rule) {
	c.name(p+".id", "id", r.ID, false)
	if r.Match.Channel != "" && c.known.Channels[r.Match.Channel] == nil {
		c.add(p+".match.channel", "channel %q does not exist; define it, or correct the name", r.Match.Channel)
	}
	c.name(p+".match.sku", "SKU", r.Match.SKU, true)
	c.name(p+".match.brand", "brand", r.Match.Brand, true)
	c.name(p+".match.category", "category", r.Match.Category, true)
	sets := r.Paused != nil
	for _, f := range []struct {
		name string
		v    *Units
		most Units
		pool bool // speaks of the SKU as a whole
	}{
		{"buffer", r.Buffer, MaxUnits, false}, {"reserve", r.Reserve, MaxUnits, false}, {"max", r.Max, MaxUnits, false},
		{"hide_at", r.HideAt, MaxUnits, false}, {"weight", r.Weight, MaxWeight, false}, {"floor", r.Floor, MaxUnits, false}, {"pool_buffer", r.PoolBuffer, MaxUnits, true},
	} {
		if f.v == nil {
			continue
		}
		sets = true
		c.between(p+"."+f.name, int64(*f.v), 0, int64(f.most))
		c.whole(p+"."+f.name, r, f.pool)
	}
	if r.CapBP != nil {
		sets = true
		c.between(p+".cap", int64(*r.CapBP), 0, int64(FullCap))
	}
	if r.Priority != nil {
		sets = true
		c.between(p+".priority", int64(*r.Priority), 0, int64(MaxPriority))
	}
	if r.Mode != nil {
		sets = true
		if _, _, ok := allocation.ParseRuleMode(*r.Mode); !ok {
			c.add(p+".mode", "%q is not known; want pooled, adaptive or strict; or waterfall, proportional or fair", *r.Mode)
		}
		c.whole(p+".mode", r, true)
	}
	if r.Share != nil {
		sets = true
		if _, ok := allocation.ParseShare(*r.Share); !ok {
			c.add(p+".share", "%q is not known; want demand, priority, weight or fair", *r.Share)
		}
		c.whole(p+".share", r, true)
	}
	if r.Rounding != nil {
		sets = true
		if _, ok := allocation.ParseRounding(*r.Rounding); !ok {
			c.add(p+".rounding", "%q is not known; want largest_remainder or webster", *r.Rounding)
		}
		c.whole(p+".rounding", r, true)
	}
	if !sets {
		c.add(p, "the rule sets nothing; give it a setting, or remove it")
	}
}

// whole finds a setting of the whole SKU in a rule for one channel: obeying it for one channel is impossible, ignoring it would be silent.
func (c *checker) whole(path string, r *Rule, pool bool) {
	if pool && r.Match.Channel != "" {
		c.add(path, "concerns all channels of a SKU at once; put it in a rule without match.channel")
	}
}

func (c *checker) listing(p string, l *Listing) {
	c.name(p+".sku", "SKU", l.SKU, false)
	c.name(p+".brand", "brand", l.Brand, true)
	c.name(p+".category", "category", l.Category, true)
	c.money(p+".unit_cost", p+".currency", l.UnitCost, l.Currency)
	seen := make(map[string]bool, len(l.Channels))
	for i := range l.Channels {
		ch := &l.Channels[i]
		at := fmt.Sprintf("%s.channels[%d]", p, i)
		switch {
		case ch.Channel == "":
			c.add(at+".channel", "missing; name the channel that sells it")
		case c.known.Channels[ch.Channel] == nil:
			c.add(at+".channel", "channel %q does not exist; define it, or correct the name", ch.Channel)
		case seen[ch.Channel]:
			c.add(at+".channel", "channel %q is named twice", ch.Channel)
		}
		seen[ch.Channel] = true
		c.name(at+".external_id", "external id", ch.ExternalID, true)
		c.money(at+".price", at+".currency", ch.Price, ch.Currency)
		c.money(at+".fee", at+".currency", ch.Fee, ch.Currency)
	}
	clear(seen)
	for i, part := range l.Components {
		at := fmt.Sprintf("%s.components[%d]", p, i)
		c.name(at+".sku", "SKU", part.SKU, false)
		switch {
		case part.SKU == l.SKU && l.SKU != "":
			c.add(at+".sku", "%q is the bundle itself", part.SKU)
		case seen[part.SKU]:
			c.add(at+".sku", "%q is named twice; add up its quantity", part.SKU)
		}
		seen[part.SKU] = true
		c.between(at+".quantity", int64(part.Quantity), 1, int64(MaxPerBundle))
	}
	if len(l.Components) > 0 && len(l.SKU) > MaxBundleSKU {
		c.add(p+".sku", "SKU of %d bytes; that of a bundle has at most %d, as it names a channel to its components", len(l.SKU), MaxBundleSKU)
	}
	if len(l.Components) > MaxComponents {
		c.add(p+".components", "%d components; want at most %d", len(l.Components), MaxComponents)
	}
}

func (c *checker) money(amountPath, currencyPath, amount, currency string) {
	if amount != "" {
		if d, err := decimal.Parse(amount); err != nil || d.IsNeg() {
			c.add(amountPath, "%q; want a decimal number that is not negative, such as 12.50", amount)
		}
		if currency == "" {
			c.add(currencyPath, "missing; an amount needs its currency")
		}
	}
	if currency != "" && !upper(currency, 3) {
		c.add(currencyPath, "%q; want three capital letters (ISO 4217), such as EUR", currency)
	}
}
