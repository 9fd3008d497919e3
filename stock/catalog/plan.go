package catalog

import (
	"cmp"
	"maps"
	"slices"

	"github.com/govalues/decimal"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/event"
)

// Plan is one version of the settings, compiled so that the rules of a SKU are found without a search. It remembers what it resolved, and
// so is for one goroutine.
type Plan struct {
	Version  int64
	Layout   *allocation.Layout
	Channels []*Channel // by the layout's channel numbers: in order of id

	bySKU      map[string][]*Rule // most specific first
	byBrand    map[string][]*Rule
	byCategory map[string][]*Rule
	general    []*Rule
	resolved   map[traits]*allocation.Rules // for SKUs without a rule of their own

	sellers []allocation.Seller
	places  []allocation.Place
}

// traits is what rules see of a listing, beside its SKU.
type traits struct{ brand, category string }

// Compile compiles settings. Settings that [Validate] finds fault with compile too: a rule for a channel that does not exist has no effect, an
// unknown mode counts as not set, and a channel whose id cannot name a topic is left out.
func Compile(s *Settings) *Plan {
	p := &Plan{
		Version: s.Version, bySKU: map[string][]*Rule{}, byBrand: map[string][]*Rule{}, byCategory: map[string][]*Rule{},
		resolved: map[traits]*allocation.Rules{},
	}
	var sellers []allocation.Seller
	for _, id := range slices.Sorted(maps.Keys(s.Channels)) {
		if ValidChannelID(id) {
			p.Channels = append(p.Channels, s.Channels[id])
			sellers = append(sellers, allocation.Seller{ID: id, Scope: s.Channels[id].Locations})
		}
	}
	var places []allocation.Place
	for id, l := range s.Locations {
		place := allocation.Place{ID: id, Buffer: l.Buffer}
		if l.Exclusive() {
			place.Owner = l.Channel
		}
		places = append(places, place)
	}
	p.sellers, p.places = sellers, places
	p.Layout = allocation.NewLayout(sellers, places)
	for _, id := range slices.Sorted(maps.Keys(s.Rules)) {
		r := s.Rules[id]
		switch m := &r.Match; { // each rule in one list, by what narrows it most
		case m.SKU != "":
			p.bySKU[m.SKU] = append(p.bySKU[m.SKU], r)
		case m.Brand != "":
			p.byBrand[m.Brand] = append(p.byBrand[m.Brand], r)
		case m.Category != "":
			p.byCategory[m.Category] = append(p.byCategory[m.Category], r)
		default:
			p.general = append(p.general, r)
		}
	}
	for _, lists := range []map[string][]*Rule{p.bySKU, p.byBrand, p.byCategory} {
		for _, rules := range lists {
			slices.SortStableFunc(rules, bySpecificity)
		}
	}
	slices.SortStableFunc(p.general, bySpecificity)
	return p
}

// WithBundles is the plan of a component: the bundles that it is part of are channels that ask before they sell, beside all others. A rule can name such a channel as any other
// (event.BundleChannel). scope is the locations that all channels of a bundle sell from, empty for all that are shared. It remembers by itself what it resolved.
func (p *Plan) WithBundles(skus []string, scope func(sku string) []string) *Plan {
	q := *p
	q.resolved = map[traits]*allocation.Rules{}
	q.Channels, q.sellers = slices.Clone(p.Channels), slices.Clone(p.sellers)
	for _, sku := range skus {
		id := event.BundleChannel(sku)
		q.Channels = append(q.Channels, &Channel{ID: id, Name: id, Adapter: Claim})
		q.sellers = append(q.sellers, allocation.Seller{ID: id, Scope: scope(sku)})
	}
	slices.SortFunc(q.Channels, func(a, b *Channel) int { return cmp.Compare(a.ID, b.ID) })
	q.Layout = allocation.NewLayout(q.sellers, q.places)
	return &q
}

// bySpecificity orders the most specific first: by SKU, brand, category, then channel.
func bySpecificity(a, b *Rule) int {
	return cmp.Compare(b.Match.specificity(), a.Match.specificity())
}

func (m *Match) specificity() int {
	n := 0
	for i, v := range []string{m.Channel, m.Category, m.Brand, m.SKU} {
		if v != "" {
			n |= 1 << i
		}
	}
	return n
}

// Rules is the settings in force for a SKU. Of the rules that match, each setting comes from the most specific that has it: by SKU before by
// brand, by category, and for all; among these, for the channel before for all channels; then by rule id. Settings of the SKU as a whole (mode,
// rounding, pool buffer) come from rules without a channel. The listing may be nil: a SKU that no one described. Do not change the result.
func (p *Plan) Rules(sku string, l *Listing) *allocation.Rules {
	var t traits
	if l != nil {
		t = traits{l.Brand, l.Category}
	}
	own := p.bySKU[sku]
	if len(own) == 0 {
		if r, ok := p.resolved[t]; ok {
			return r
		}
	}
	r := p.resolve(own, t)
	if len(own) == 0 {
		p.resolved[t] = r
	}
	return r
}

// resolve goes through the rules from the most specific on; the first to set something wins.
func (p *Plan) resolve(own []*Rule, t traits) *allocation.Rules {
	out := &allocation.Rules{Guarantee: allocation.Adaptive, Channels: make([]allocation.ChannelRules, len(p.Channels))}
	var moded, shared, rounded bool
	for _, rules := range [][]*Rule{own, p.byBrand[t.brand], p.byCategory[t.category], p.general} {
		for _, r := range rules {
			m := &r.Match
			if m.Brand != "" && m.Brand != t.brand || m.Category != "" && m.Category != t.category {
				continue
			}
			if m.Channel != "" {
				if i := p.Layout.Seller(m.Channel); i >= 0 {
					apply(&out.Channels[i], r)
				}
				continue
			}
			for i := range out.Channels {
				apply(&out.Channels[i], r)
			}
			first(&out.PoolBuffer, r.PoolBuffer, r.ID)
			if r.Mode != nil && !moded {
				if mode, guarantee, ok := allocation.ParseRuleMode(*r.Mode); ok {
					out.Mode, out.Guarantee, out.ModeRule, moded = mode, guarantee, r.ID, true
				}
			}
			if r.Share != nil && !shared {
				if share, ok := allocation.ParseShare(*r.Share); ok {
					out.Share, shared = share, true
				}
			}
			if r.Rounding != nil && !rounded {
				if rounding, ok := allocation.ParseRounding(*r.Rounding); ok {
					out.Rounding, rounded = rounding, true
				}
			}
		}
	}
	return out
}

func apply(c *allocation.ChannelRules, r *Rule) {
	first(&c.Buffer, r.Buffer, r.ID)
	first(&c.Reserve, r.Reserve, r.ID)
	first(&c.Cap, r.CapBP, r.ID)
	first(&c.Max, r.Max, r.ID)
	first(&c.HideAt, r.HideAt, r.ID)
	first(&c.Priority, r.Priority, r.ID)
	first(&c.Weight, r.Weight, r.ID)
	first(&c.Floor, r.Floor, r.ID)
	if r.Paused != nil && !c.Paused.Set {
		c.Paused = allocation.Setting{Set: true, Rule: r.ID}
		if *r.Paused {
			c.Paused.Units = 1
		}
	}
}

func first[N ~int32 | ~int64](s *allocation.Setting, v *N, rule string) {
	if v != nil && !s.Set {
		*s = allocation.Setting{Units: Units(*v), Set: true, Rule: rule}
	}
}

// Offer is how one channel lists a SKU.
type Offer struct {
	Channel    int    // the plan's channel number
	ExternalID string // the SKU's id at the channel
	Paused     bool   // the listing is paused
}

// Margin is what one unit of l earns at a channel: price less unit cost and fee, in thousandths of the price's currency; 0 when price or cost is not known, or they are
// not in one currency. Of two channels of one priority the one that earns more is served first. The listing may be nil. It parses numbers: ask where it matters.
func Margin(l *Listing, channel string) int64 {
	if l == nil {
		return 0
	}
	i := slices.IndexFunc(l.Channels, func(c ChannelListing) bool { return c.Channel == channel })
	if i < 0 {
		return 0
	}
	cl := &l.Channels[i]
	if cl.Price == "" || l.UnitCost == "" || l.Currency != cl.Currency {
		return 0
	}
	m, err := decimal.Parse(cl.Price)
	for _, less := range []string{l.UnitCost, cl.Fee} {
		if less == "" || err != nil {
			continue
		}
		var d decimal.Decimal
		if d, err = decimal.Parse(less); err == nil {
			m, err = m.Sub(d)
		}
	}
	if err != nil {
		return 0
	}
	whole, frac, ok := m.Int64(3)
	if !ok || whole > 1<<40 || whole < -1<<40 {
		return 0
	}
	return whole*1000 + frac
}

// Offers appends to dst the channels that list a SKU, in order of channel id: those with a listing of it, and those that list all SKUs. The
// listing may be nil.
func (p *Plan) Offers(dst []Offer, sku string, l *Listing) []Offer {
	for i, ch := range p.Channels {
		o := Offer{Channel: i, ExternalID: sku}
		listed := ch.ListsAllSKUs
		if l != nil {
			for j := range l.Channels {
				if cl := &l.Channels[j]; cl.Channel == p.Layout.SellerID(i) {
					listed, o.Paused = true, cl.Paused
					if cl.ExternalID != "" {
						o.ExternalID = cl.ExternalID
					}
					break
				}
			}
		}
		if listed {
			dst = append(dst, o)
		}
	}
	return dst
}
