package allocator

import (
	"slices"
	"strings"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// engine is what the allocator decides: it folds levels, listings and settings, and says which targets they change. It does no I/O and reads no clock, so a
// sequence of calls always gives the same targets. Calls mark SKUs as touched; decide then decides for all touched SKUs at once, so that
// a burst of levels of one SKU costs one decision, on the newest.
type engine struct {
	plan    *catalog.Plan
	listing func(sku string) *catalog.Listing
	touched []*sku
	names   map[string]string // locations and channels of levels, each kept once

	solver allocation.Solver
	input  allocation.Input
	offers []catalog.Offer
	next   []shown
	steps  []allocation.Step
	out    []decision

	exposed // what is decided by books of exposure
}

// partition is the SKUs of one partition of stock.levels. Until it is live, what is taken in only builds its state.
type partition struct {
	id     int32
	skus   map[string]*sku
	live   bool
	booked map[*sku]struct{} // SKUs whose exposure is kept in books
	marks  map[string]int64  // order watermarks in force, by channel
	open   int               // granted writes without a result
	unsure int               // of booked, those with exposure that is not settled
	begun  int64             // grows when a channel's watermark appears or moves again: adaptive SKUs are decided anew
	seal   seal              // the certificate of the day
}

func newPartition(id int32) *partition {
	return &partition{id: id, skus: make(map[string]*sku), booked: make(map[*sku]struct{}), marks: make(map[string]int64)}
}

// sku is the state of one SKU.
type sku struct {
	id  string
	key []byte // id, as a record key
	of  *partition

	known        bool // a level is there
	forgotten    bool // there was one, and the ledger took it back
	version      int64
	generation   int64 // of the ledger that the level is of
	sourceOffset int64
	receivedAt   int64
	unassigned   allocation.Units
	stock        []allocation.Stock
	counters     []counter

	oldest  int64 // earliest received_at of the events not decided on yet; 0 when there are none
	decided int64 // version of the newest level that a decision took in
	touched bool
	shown   []shown // by channel id: the targets last written

	books    *escrow.SKU
	stored   bool  // its books are in exposure.books
	open     int   // its part of the partition's open
	unsure   bool  // counted in the partition's unsure
	relisted int64 // times that its listing changed

	hindrance string // why it is pooled though adaptive and scarce
	wake      int64  // to be decided again then, at the latest; 0
}

// counter is what the ledger knows of a channel's sales of the SKU.
type counter struct {
	channel        string
	sold, restored allocation.Units
}

// shown is a target as last written: as much as it takes to know whether another must be. The channel's own sales are part of it: they lower
// what the channel shows by themselves, so the same quantity after a sale is news to the channel.
type shown struct {
	channel        string
	externalID     string
	quantity       allocation.Units
	sold, restored allocation.Units
	mode           string
	last           result // of the newest write to the channel, for those who ask: no part of what is shown
}

// same says that another target would tell the channel nothing new.
func (x shown) same(y shown) bool {
	x.last, y.last = result{}, result{}
	return x == y
}

// decision is one target to be written.
type decision struct {
	sku    *sku
	target allocation.Target
	allots *event.Event // written once the target is; nil for none
}

func newEngine(listing func(string) *catalog.Listing) *engine {
	return &engine{listing: listing, names: make(map[string]string), exposed: exposed{skew: escrow.DefaultSkew, unsealed: make(map[*partition]struct{})}}
}

func (e *engine) name(s string) string {
	if n, ok := e.names[s]; ok {
		return n
	}
	s = strings.Clone(s)
	e.names[s] = s
	return s
}

func (e *engine) touch(p *partition, s *sku) {
	if p.live && !s.touched {
		s.touched = true
		e.touched = append(e.touched, s)
	}
}

func (p *partition) sku(id string) *sku {
	s := p.skus[id]
	if s == nil {
		s = &sku{id: strings.Clone(id), of: p}
		s.key = []byte(s.id)
		s.books = &escrow.SKU{ID: s.id}
		p.skus[s.id] = s
	}
	return s
}

// restore takes in a target that was written earlier, by this process or another, so that only what differs from it is written again.
func (e *engine) restore(p *partition, t *allocation.Target) {
	s := p.sku(t.SKU)
	s.decided = max(s.decided, t.LevelVersion)
	at, found := slices.BinarySearchFunc(s.shown, t.Channel, func(a shown, channel string) int { return strings.Compare(a.channel, channel) })
	switch {
	case t.Withdrawn && found:
		s.shown = slices.Delete(s.shown, at, at+1)
		return
	case t.Withdrawn:
		return
	case !found:
		s.shown = slices.Insert(s.shown, at, shown{channel: e.name(t.Channel)})
	}
	x := &s.shown[at]
	x.quantity, x.sold, x.restored, x.mode = t.Quantity, t.Sold, t.Restored, e.name(t.Mode)
	x.externalID = s.id
	if t.ExternalID != s.id {
		x.externalID = t.ExternalID
	}
}

// level takes in a level. It returns false, and changes nothing, when the level is not newer than what is known.
func (e *engine) level(p *partition, l *ledger.Level) bool {
	s := p.sku(l.SKU)
	if s.known && l.Version <= s.version && l.Generation <= s.generation { // a ledger folded anew after Redis lost it counts generations anew, and versions not
		return false
	}
	if l.Generation > s.generation { // a rebuilt ledger: its versions count anew
		s.decided = min(s.decided, l.Version-1)
	}
	s.generation = l.Generation
	s.forgotten = false
	s.known, s.version, s.sourceOffset, s.receivedAt, s.unassigned = true, l.Version, l.SourceOffset, l.ReceivedAt, l.Unassigned
	if l.Version > s.decided && l.OldestReceivedAt > 0 && (s.oldest == 0 || l.OldestReceivedAt < s.oldest) {
		s.oldest = l.OldestReceivedAt
	}
	s.stock = s.stock[:0]
	for i := range l.Locations {
		s.stock = append(s.stock, allocation.Stock{ID: e.name(l.Locations[i].Location), Available: l.Locations[i].Available()})
	}
	e.sales(s, l)
	s.counters = s.counters[:0]
	for _, c := range l.Sold {
		s.counter(e, c.Channel).sold = c.Units
	}
	for _, c := range l.Restored {
		s.counter(e, c.Channel).restored = c.Units
	}
	e.bookLevel(s, l)
	e.touch(p, s)
	return true
}

func (s *sku) counter(e *engine, channel string) *counter {
	for i := range s.counters {
		if s.counters[i].channel == channel {
			return &s.counters[i]
		}
	}
	s.counters = append(s.counters, counter{channel: e.name(channel)})
	return &s.counters[len(s.counters)-1]
}

// forget takes in that the ledger no longer knows a SKU: its targets are withdrawn.
func (e *engine) forget(p *partition, id string) {
	if s := p.skus[id]; s != nil {
		s.known, s.forgotten = false, true
		e.touch(p, s)
	}
}

// settings takes in other settings: every SKU of the partitions is decided anew.
func (e *engine) settings(plan *catalog.Plan, partitions func(func(*partition))) {
	e.plan = plan
	e.learn(plan)
	partitions(e.touchAll)
}

// touchAll marks all SKUs of a partition.
func (e *engine) touchAll(p *partition) {
	for _, s := range p.skus {
		if s.known || s.forgotten {
			e.touch(p, s)
		}
	}
}

// start makes a partition live, once the levels and targets that there were have been taken in, and has all its SKUs decided. A SKU whose level is
// not there keeps its targets: a lost topic is no reason to empty every shop.
func (e *engine) start(p *partition) {
	p.live = true
	e.touchAll(p)
	e.again(p)
}

// relisted takes in that the listing of a SKU changed.
func (e *engine) relisted(p *partition, id string) {
	if s := p.skus[id]; s != nil && (s.known || s.books.Phase() != escrow.Pooled) {
		s.relisted++
		e.touch(p, s)
	}
}

// decide decides for touched SKUs, until none is left or at least most targets are to be written; more says that some are left. Decisions and
// the explanations in them are valid until the next call. now is the time of the decision, in microseconds.
func (e *engine) decide(now int64, most int) (out []decision, more bool) {
	e.out, e.steps = e.out[:0], e.steps[:0]
	e.resetExposed()
	n := 0
	for n < len(e.touched) && len(e.out) < most {
		s := e.touched[n]
		n++
		s.touched = false
		e.decideSKU(s, now)
	}
	rest := copy(e.touched, e.touched[n:])
	clear(e.touched[rest:])
	e.touched = e.touched[:rest]
	return e.out, rest > 0
}

// drop forgets a partition that another instance has taken over.
func (e *engine) drop(p *partition) {
	p.live = false
	delete(e.unsealed, p)
	e.touched = slices.DeleteFunc(e.touched, func(s *sku) bool { return s.of == p })
}

// prepare finds who lists s, and puts what its targets depend on into the input; without a level nobody does.
func (e *engine) prepare(s *sku) *allocation.Rules {
	e.offers = e.offers[:0]
	l := e.listing(s.id)
	if s.known {
		e.offers = e.plan.Offers(e.offers, s.id, l)
	}
	in := &e.input
	in.Layout, in.Rules, in.Unassigned, in.Stock = e.plan.Layout, e.plan.Rules(s.id, l), s.unassigned, s.stock
	in.Channels = in.Channels[:0]
	for i := range e.offers {
		x := allocation.Listed{Seller: e.offers[i].Channel, Paused: e.offers[i].Paused}
		if in.Rules.Mode == allocation.Waterfall || in.Rules.Guarantee != allocation.NoGuarantee && in.Rules.Share == allocation.ByPriority {
			x.Margin = catalog.Margin(l, e.plan.Layout.SellerID(x.Seller))
		}
		in.Channels = append(in.Channels, x)
	}
	for i := range s.stock {
		s.stock[i].Place = e.plan.Layout.Place(s.stock[i].ID)
	}
	return in.Rules
}

func (e *engine) decideSKU(s *sku, now int64) {
	if !s.known && len(s.shown) == 0 && s.books.Phase() == escrow.Pooled {
		return
	}
	rules := e.prepare(s)
	if e.byBooks(s, rules, now) {
		s.decided, s.oldest = max(s.decided, s.version), 0
		return
	}
	e.solver.Solve(&e.input)
	e.next = e.next[:0]
	old := s.shown
	for i := range e.offers {
		o := &e.offers[i]
		id := e.plan.Layout.SellerID(o.Channel)
		for ; len(old) > 0 && old[0].channel < id; old = old[1:] {
			e.withdraw(s, &old[0], now)
		}
		next := e.shows(s, i, rules)
		e.next = append(e.next, next)
		if len(old) > 0 && old[0].channel == id {
			next.last = old[0].last
			e.next[len(e.next)-1].last = next.last
			same := old[0].same(next)
			old = old[1:]
			if same {
				continue
			}
		}
		t := e.target(s, &next, now)
		at := len(e.steps)
		e.steps = e.solver.Explain(e.steps, i)
		t.Explanation = e.steps[at:len(e.steps):len(e.steps)]
		e.out = append(e.out, decision{sku: s, target: t})
	}
	for i := range old {
		e.withdraw(s, &old[i], now)
	}
	s.shown = append(s.shown[:0], e.next...)
	s.decided, s.oldest = max(s.decided, s.version), 0
}

// shows is what offer i of the last solved SKU amounts to.
func (e *engine) shows(s *sku, i int, rules *allocation.Rules) shown {
	o := &e.offers[i]
	x := shown{channel: e.plan.Layout.SellerID(o.Channel), externalID: o.ExternalID, quantity: e.solver.Target(i), mode: rules.Mode.String()}
	for j := range s.counters {
		if c := &s.counters[j]; c.channel == x.channel {
			x.sold, x.restored = c.sold, c.restored
			break
		}
	}
	return x
}

func (e *engine) target(s *sku, x *shown, now int64) allocation.Target {
	return allocation.Target{
		SKU: s.id, Channel: x.channel, ExternalID: x.externalID, Quantity: x.quantity, LevelVersion: s.version, SourceOffset: s.sourceOffset,
		SettingsVersion: e.plan.Version, Mode: x.mode, Sold: x.sold, Restored: x.restored, ReceivedAt: s.receivedAt, OldestReceivedAt: s.oldest, DecidedAt: now,
	}
}

// withdraw tells a channel that it no longer lists s.
func (e *engine) withdraw(s *sku, x *shown, now int64) {
	gone := *x
	gone.quantity = 0
	t := e.target(s, &gone, now)
	t.Withdrawn = true
	at := len(e.steps)
	e.steps = append(e.steps, allocation.Step{Name: "withdrawn", Detail: "the channel does not list the SKU"})
	t.Explanation = e.steps[at:len(e.steps):len(e.steps)]
	e.out = append(e.out, decision{sku: s, target: t})
}
