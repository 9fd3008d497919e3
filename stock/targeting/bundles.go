package targeting

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/bundle"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// bundles is the part of the engine that knows of bundles. Both sides are decided here, each where its SKU is owned: what is available of a bundle follows from the levels and books of
// its components, which the owner of the bundle reads; to a component in the books each of its bundles is a channel that is allotted units (package escrow).
type bundles struct {
	of         map[string][]catalog.Component // by bundle
	uses       map[string][]string            // by component: its bundles, in order
	components map[string]*component          // that have been read
	owner      func(sku string) *Partition    // the partition of a SKU, when this instance has it; else nil
	base       view                           // the plan in force
	views      map[string]view                // of components: with their bundles
	outbox     []*event.Event                 // to be written once what was decided is stored
	made       []bundle.Part
	shelves    []bundle.Shelf
	some       []catalog.Offer
	stricter   allocation.Rules
}

// view is a plan with what can be done with its channels.
type view struct {
	plan *catalog.Plan
	apis []escrow.API
}

// component is what the topics say of a component, whoever owns it.
type component struct {
	read  bool             // all that there was
	level *ledger.Level    // nil when there is none
	books *escrow.Snapshot // nil when it is not in the books
}

// kit is what follows for a bundle from its components.
type kit struct {
	backing []escrow.Backing
	sold    allocation.Units // as a bundle, less what channels put back
	version int64            // of all its components' levels together: grows with each
	detail  string           // which component makes it how few
	bound   bool             // by what its components allotted to it
	ceiling allocation.Units // when bound
}

// Index takes in the listing of a SKU, which may be a bundle; nil for none.
func (e *Engine) Index(sku string, l *catalog.Listing) {
	var parts []catalog.Component
	if l != nil {
		parts = l.Components
	}
	was := e.of[sku]
	if len(was) == 0 && len(parts) == 0 {
		return
	}
	changed := func(c string) { // another listing of a bundle may change what its components give it
		delete(e.views, c)
		if p := e.owner(c); p != nil {
			if s := p.skus[c]; s != nil {
				s.relisted++
				e.touch(p, s)
			}
		}
	}
	for _, c := range was {
		e.uses[c.SKU] = slices.DeleteFunc(e.uses[c.SKU], func(b string) bool { return b == sku })
		if len(e.uses[c.SKU]) == 0 {
			delete(e.uses, c.SKU)
		}
	}
	delete(e.of, sku)
	if len(parts) > 0 {
		e.of[sku] = parts
	}
	for _, c := range parts {
		at, _ := slices.BinarySearch(e.uses[c.SKU], sku)
		e.uses[c.SKU] = slices.Insert(e.uses[c.SKU], at, sku)
	}
	for _, c := range was {
		changed(c.SKU)
	}
	for _, c := range parts {
		changed(c.SKU)
	}
	if p := e.owner(sku); p != nil {
		e.touch(p, p.sku(sku))
	}
}

// Own says how the partition of a SKU is found, when this instance has it; nil for one that it has not. Without it no bundle is decided.
func (e *Engine) Own(owner func(sku string) *Partition) { e.owner = owner }

// Follow begins to keep what is read of components.
func (e *Engine) Follow(components []string) {
	for _, sku := range components {
		e.components[sku] = &component{}
	}
}

// Followed has the bundles of components decided, of which all that there was has been read, even if that was nothing.
func (e *Engine) Followed(components []string) {
	for _, sku := range components {
		if c := e.components[sku]; c != nil {
			c.read = true
		}
		for _, b := range e.uses[sku] {
			if p := e.owner(b); p != nil {
				e.touch(p, p.sku(b))
			}
		}
	}
}

// Unfollow forgets components: all of them when none is named.
func (e *Engine) Unfollow(components ...string) {
	if len(components) == 0 {
		clear(e.components)
	}
	for _, sku := range components {
		delete(e.components, sku)
	}
}

// Follows says that records of a SKU are to be taken in as those of a component.
func (e *Engine) Follows(sku string) bool { return e.components[sku] != nil }

// Events is what was decided last and is written as events, once it is stored.
func (e *Engine) Events() []*event.Event { return e.outbox }

// startBundles makes the bundles of a partition known in it: one that was never sold has no level.
func (e *Engine) startBundles(p *Partition) {
	for _, sku := range slices.Sorted(maps.Keys(e.of)) {
		if e.owner(sku) == p {
			e.touch(p, p.sku(sku))
		}
	}
}

// Missing is the components of bundles that are owned here and were not read yet.
func (e *Engine) Missing() (out []string) {
	for _, b := range slices.Sorted(maps.Keys(e.of)) {
		if e.owner(b) == nil {
			continue
		}
		for _, c := range e.of[b] {
			if e.components[c.SKU] == nil && !slices.Contains(out, c.SKU) {
				out = append(out, c.SKU)
			}
		}
	}
	return out
}

// ComponentLevel takes in a level of a component; nil when the ledger took it back.
func (e *Engine) ComponentLevel(sku string, l *ledger.Level) {
	c := e.components[sku]
	if c == nil || l != nil && c.level != nil && l.Version <= c.level.Version && l.Generation <= c.level.Generation {
		return
	}
	c.level = l
	for _, b := range e.uses[sku] {
		p := e.owner(b)
		if p == nil {
			continue
		}
		s := p.sku(b)
		if l != nil && p.live {
			if l.OldestReceivedAt > 0 && (s.oldest == 0 || l.OldestReceivedAt < s.oldest) {
				s.oldest = l.OldestReceivedAt
			}
			s.receivedAt = max(s.receivedAt, l.ReceivedAt)
		}
		e.touch(p, s)
	}
}

// ComponentBooks takes in the books of a component; nil when it has none any more.
func (e *Engine) ComponentBooks(sku string, x *escrow.Snapshot) {
	c := e.components[sku]
	if c == nil {
		return
	}
	c.books = x
	for _, b := range e.uses[sku] {
		if p := e.owner(b); p != nil {
			e.touch(p, p.sku(b))
		}
	}
}

// use has decisions be about a SKU: a component sees its bundles among the channels.
func (e *Engine) use(s *SKU) {
	v := e.base
	if bundles := e.uses[s.id]; len(bundles) > 0 {
		var ok bool
		if v, ok = e.views[s.id]; !ok {
			v.plan = e.base.plan.WithBundles(bundles, e.scope)
			for _, ch := range v.plan.Channels {
				api := escrow.APIOf(ch)
				_, api.Bundle = event.BundleOf(ch.ID)
				v.apis = append(v.apis, api)
			}
			e.views[s.id] = v
		}
	}
	e.plan, e.apis = v.plan, v.apis
}

// useBase has what is asked be about no SKU.
func (e *Engine) useBase() { e.plan, e.apis = e.base.plan, e.base.apis }

// netSold is what a level says was sold by a channel and not put back by it.
func netSold(l *ledger.Level, channel string) (n allocation.Units) {
	for i := range l.Sold {
		if l.Sold[i].Channel == channel {
			n += l.Sold[i].Units
		}
	}
	for i := range l.Restored {
		if l.Restored[i].Channel == channel {
			n -= l.Restored[i].Units
		}
	}
	return n
}

// compose finds what is available of a bundle. Until all its components have been read, it is not known.
func (e *Engine) compose(s *SKU) {
	of, channel := e.of[s.id], event.BundleChannel(s.id)
	k := &s.kit
	*k = kit{backing: k.backing[:0]}
	for i := range s.counters {
		if s.counters[i].channel == channel {
			k.sold = s.counters[i].sold - s.counters[i].restored
		}
	}
	s.known = false
	e.made = e.made[:0]
	for _, c := range of {
		x := e.components[c.SKU]
		if x == nil || !x.read {
			return
		}
		part := bundle.PartOf(c, x.level)
		b := escrow.Backing{Component: c.SKU, Quantity: c.Quantity, Strict: e.strictPart(c.SKU)}
		if x.books != nil {
			b.Phase = x.books.Phase
			b.Grant, b.Change = x.books.Asks(channel)
		}
		if l := x.level; l != nil {
			k.version += l.Version
			b.Sold = netSold(l, channel)
			for j := range l.Allotments {
				if a := &l.Allotments[j]; a.Channel == channel {
					b.Held, b.Left, b.Sequence = !a.Ended, a.Units, a.Sequence
				}
			}
		}
		part.Unassigned += e.base.plan.Rules(c.SKU, e.listing(c.SKU)).PoolBuffer.Units
		e.made, k.backing = append(e.made, part), append(k.backing, b)
	}
	s.known = true
	most, yielding, bound := s.books.Ceiling(k.sold, k.backing)
	if bound {
		e.backed(s.id)
	}
	// What a component's log lacks of the bundle's sales is gone nevertheless. What it has and the bundle's own log lacks is still in the exposure of the bundle's channels.
	ahead := allocation.Units(0)
	for i, b := range k.backing {
		lacks := k.sold*b.Quantity - b.Sold
		if !bound {
			lacks = max(0, lacks)
		}
		e.made[i].Unassigned += lacks
		ahead = max(ahead, (b.Quantity-1-lacks)/b.Quantity)
	}
	e.shelves, s.unassigned = bundle.Stock(e.shelves[:0], e.made)
	s.stock = s.stock[:0]
	total := -s.unassigned
	for _, x := range e.shelves {
		s.stock = append(s.stock, allocation.Stock{ID: x.Location, Available: x.Available})
		total += x.Available
	}
	at, n := bundle.Least(e.made)
	k.detail = "made of " + bundle.Describe(of) + ": " + of[at].SKU + " is enough for " + fmt.Sprint(n)
	if !bound {
		s.books.Supply(total, 0)
		return
	}
	k.bound, k.ceiling = true, most
	k.detail += fmt.Sprintf("; its components have allotted %d to it", most)
	if yielding > 0 {
		k.detail += fmt.Sprintf(", less %d that they ask back", yielding)
	}
	if ahead = min(ahead, n-total); ahead > 0 {
		total += ahead
		back := min(ahead, s.unassigned)
		s.unassigned -= back
		if ahead -= back; ahead > 0 && len(s.stock) > 0 {
			s.stock[0].Available += ahead
		}
	}
	if total > most {
		s.unassigned += total - most
		total = most
	}
	s.books.Supply(total, yielding)
}

// nowhere is the scope of a bundle whose channels have no location in common: no location has that id.
var nowhere = []string{""}

// scope is the locations that all channels which list a bundle sell from, empty for all that are shared. Only units that are allotted to it there can serve whichever of them sells.
func (e *Engine) scope(sku string) (places []string) {
	limited := false
	for _, o := range e.offersOf(sku) {
		of := e.base.plan.Channels[o.Channel].Locations
		switch {
		case len(of) == 0:
		case !limited:
			places, limited = slices.Clone(of), true
		default:
			places = slices.DeleteFunc(places, func(id string) bool { return !slices.Contains(of, id) })
		}
	}
	if limited && len(places) == 0 {
		return nowhere
	}
	return places
}

// backed takes from what there is of the components what cannot be allotted to a bundle: other places have other channels' exposure against them.
func (e *Engine) backed(sku string) {
	scope := e.scope(sku)
	for i := range e.made {
		p := &e.made[i]
		p.Shelves = slices.DeleteFunc(p.Shelves, func(x bundle.Shelf) bool {
			return !e.base.plan.Layout.Shared(x.Location) || len(scope) > 0 && !slices.Contains(scope, x.Location)
		})
	}
}

// kitted says that a SKU is a bundle, and finds out what is available of it.
func (e *Engine) kitted(s *SKU) bool {
	if len(e.of[s.id]) == 0 {
		s.kit = kit{}
		return false
	}
	e.compose(s)
	return true
}

// guarantee is the rules of a SKU with what bundles make of them. A bundle is kept as its components are: in the books if one of them is. A component is strict if the rules of one of its
// bundles say so.
func (e *Engine) guarantee(s *SKU, rules *allocation.Rules) *allocation.Rules {
	g := rules.Guarantee
	if len(e.of[s.id]) > 0 {
		g = allocation.NoGuarantee
		if s.kit.bound {
			g = allocation.Strict
		}
	}
	if g != allocation.Strict && len(e.uses[s.id]) > 0 && e.strictPart(s.id) {
		g = allocation.Strict
	}
	if g == rules.Guarantee {
		return rules
	}
	e.stricter = *rules
	e.stricter.Guarantee = g
	return &e.stricter
}

// strictPart says that a component is strict, by its rules or those of one of its bundles.
func (e *Engine) strictPart(sku string) bool {
	strict := func(sku string) bool { return e.base.plan.Rules(sku, e.listing(sku)).Guarantee == allocation.Strict }
	return strict(sku) || slices.ContainsFunc(e.uses[sku], strict)
}

// offersOf is the channels that list a bundle, by the plan in force. The result is valid until the next call.
func (e *Engine) offersOf(sku string) []catalog.Offer {
	e.some = e.base.plan.Offers(e.some[:0], sku, e.listing(sku))
	return e.some
}

// bundled says that a bundle of the component is listed by a channel that is written.
func (e *Engine) bundled(s *SKU) bool {
	for _, b := range e.uses[s.id] {
		for _, o := range e.offersOf(b) {
			if e.base.plan.Channels[o.Channel].Written() {
				return true
			}
		}
	}
	return false
}

// offerBundles adds the bundles of a component to those that list it, in order of channel.
func (e *Engine) offerBundles(s *SKU) {
	for _, b := range e.uses[s.id] {
		id := event.BundleChannel(b)
		paused := !slices.ContainsFunc(e.offersOf(b), func(o catalog.Offer) bool { return !o.Paused && e.base.plan.Channels[o.Channel].Written() })
		o := catalog.Offer{Channel: e.plan.Layout.Seller(id), ExternalID: s.id, Paused: paused}
		at, _ := slices.BinarySearchFunc(e.offers, o.Channel, func(x catalog.Offer, n int) int { return x.Channel - n })
		e.offers = slices.Insert(e.offers, at, o)
		e.input.Channels = slices.Insert(e.input.Channels, at, allocation.Listed{Seller: o.Channel, Paused: paused})
	}
}

// hindered is why the channels of a bundle cannot be brought under the books; empty when they can.
func (e *Engine) hindered(p *Partition, sku string, now int64) string {
	for _, o := range e.offersOf(sku) {
		ch := e.base.plan.Channels[o.Channel]
		api := e.base.apis[o.Channel]
		switch {
		case !ch.Written():
		case !api.WayDown():
			return "it is sold in bundle " + sku + " on " + ch.ID + ", which can neither be read nor set whatever it shows"
		case p.marks[ch.ID] == 0:
			return "it is sold in bundle " + sku + " on " + ch.ID + ", which reports no order watermark"
		case p.marks[ch.ID]+stallAfter < now:
			return "it is sold in bundle " + sku + " on " + ch.ID + ", whose order watermark does not move"
		}
	}
	return ""
}

// pace is the oldest order watermark of a bundle's channels, and the slowest of their delays.
func (e *Engine) pace(p *Partition, sku string) (mark int64, d escrow.Delay) {
	for i, o := range e.offersOf(sku) {
		id := e.base.plan.Channels[o.Channel].ID
		if m := p.marks[id]; i == 0 || m < mark {
			mark = m
		}
		x := e.delays.of(id, e.now)
		d.Event, d.Write = max(d.Event, x.Event), max(d.Write, x.Write)
	}
	return mark, d
}

// agree agrees to what the components of a bundle ask for.
func (e *Engine) agree(s *SKU, now int64) {
	for _, c := range s.books.Answer(s.kit.sold, s.kit.backing) {
		e.outbox = append(e.outbox, consent(s.id, c, now))
		e.touch(s.of, s)
	}
}

// consent is the event of a bundle's answer.
func consent(sku string, c escrow.Consent, now int64) *event.Event {
	return &event.Event{
		ID: allotmentID(c.Grant), Kind: event.AllotmentChanged, SKU: c.Component, Channel: event.BundleChannel(sku), Quantity: c.Quantity, Sequence: escrow.Sequence(c.Grant),
		Reason: "agreed", OccurredAt: now, ReceivedAt: now, Source: sourceOnhand, Checked: true,
	}
}

// toBundle says that a channel stands for a bundle: it has no topic of targets.
func toBundle(channel string) bool {
	_, ok := event.BundleOf(channel)
	return ok
}

// madeOf is the step of a derivation that says where the stock of a bundle comes from.
func (s *SKU) madeOf(steps []allocation.Step) []allocation.Step {
	if s.kit.detail == "" {
		return steps
	}
	n := -s.unassigned
	for i := range s.stock {
		n += s.stock[i].Available
	}
	return append(steps, allocation.Step{Name: "components", Units: n, Detail: strings.Clone(s.kit.detail)})
}

// rulesSteps is the steps of the rules for offer i, once the solver has solved the SKU. What a bundle has no location for was not sold: not every component has it.
func (e *Engine) rulesSteps(steps []allocation.Step, s *SKU, i int) []allocation.Step {
	at := len(steps)
	steps = e.solver.Explain(steps, i)
	for j := at; j < len(steps) && s.kit.detail != ""; j++ {
		if steps[j].Name == "unassigned" {
			steps[j].Detail = fmt.Sprint(s.unassigned) + " less, as a component has, or has allotted, no more"
		}
	}
	return steps
}
