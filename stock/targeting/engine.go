package targeting

import (
	"slices"
	"strings"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
)

// Engine folds levels, results of writes, order watermarks, listings and settings, and says which targets they change. A sequence of calls always gives the same
// targets in the same order. Calls mark SKUs as touched; [Engine.Decide] then decides for all touched SKUs at once, so that a burst of levels of one SKU
// costs one decision, on the newest. It is for one goroutine at a time.
type Engine struct {
	parts   []*Partition
	plan    *catalog.Plan
	listing func(sku string) *catalog.Listing
	touched []*SKU
	names   map[string]string // locations and channels of levels, each kept once

	solver allocation.Solver
	input  allocation.Input
	offers []catalog.Offer
	next   []shown
	steps  []allocation.Step
	out    []Decision

	exposed // what is decided by books of exposure
	bundles // and what bundles make of their components
}

// Partition is the SKUs of one partition of stock.levels. Until [Engine.Start], what is taken in only builds its state.
type Partition struct {
	id     int32
	skus   map[string]*SKU
	list   []*SKU // the same, in the order in which they came
	live   bool
	booked []*SKU           // SKUs whose exposure is kept in books
	marks  map[string]int64 // order watermarks in force, by channel
	ahead  []waiting        // watermarks whose levels have not been read yet, in the order in which their channels came
	next   int64            // levels were read up to here
	open   int              // granted writes without a result
	unsure int              // of booked, those with exposure that is not settled
	begun  int64            // grows when a channel's watermark appears or moves again: adaptive SKUs are decided anew
	seal   seal             // the certificate of the day
}

// Partition begins a partition of which nothing is known.
func (e *Engine) Partition(id int32) *Partition {
	p := &Partition{id: id, skus: make(map[string]*SKU), marks: make(map[string]int64)}
	e.parts = append(e.parts, p)
	return p
}

// ID is its number.
func (p *Partition) ID() int32 { return p.id }

// Live reports that its SKUs are decided: it was started, and not dropped.
func (p *Partition) Live() bool { return p.live }

// Next is the offset up to which its levels have been read.
func (p *Partition) Next() int64 { return p.next }

// SKUs is how many SKUs it knows.
func (p *Partition) SKUs() int { return len(p.list) }

// SKU is what is known of a SKU; nil when nothing is.
func (p *Partition) SKU(id string) *SKU { return p.skus[id] }

// SKU is the state of one SKU.
type SKU struct {
	id  string
	key []byte // id, as a record key
	of  *Partition

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
	booked   int   // its place in the partition's booked, from 1; 0 when it is not there
	stored   bool  // its books are in exposure.books
	placed   bool  // every channel that lists it has been told that it is under the books
	open     int   // its part of the partition's open
	unsure   bool  // counted in the partition's unsure
	relisted int64 // times that its listing changed
	kit      kit   // of a bundle: what follows from its components

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
	last           LastWrite // of the newest write to the channel, for those who ask: no part of what is shown
}

// same says that another target would tell the channel nothing new.
func (x shown) same(y shown) bool {
	x.last, y.last = LastWrite{}, LastWrite{}
	return x == y
}

// ID is its name.
func (s *SKU) ID() string { return s.id }

// Key is its name as the key of records. Do not change it.
func (s *SKU) Key() []byte { return s.key }

// Partition is the partition it is in.
func (s *SKU) Partition() *Partition { return s.of }

// Books is its books of exposure. Feed them through the engine only.
func (s *SKU) Books() *escrow.SKU { return s.books }

// Decision is one target to be written.
type Decision struct {
	SKU    *SKU
	Target allocation.Target
	Allots *event.Event // a change of what a claim channel may take, written once the target is; nil for none
}

// New makes an engine. listing says who lists a SKU; skew is how far channels' clocks may be off, in microseconds.
func New(listing func(sku string) *catalog.Listing, skew int64) *Engine {
	return &Engine{listing: listing, names: make(map[string]string), exposed: exposed{skew: skew, delays: newDelays()}, bundles: bundles{
		of: make(map[string][]catalog.Component), uses: make(map[string][]string), components: make(map[string]*component), views: make(map[string]view),
		owner: func(string) *Partition { return nil },
	}}
}

// Begin begins a turn: now is when what follows is taken in, in microseconds. SKUs that were to be decided again by now are touched.
func (e *Engine) Begin(now int64) {
	e.now = now
	e.filled = nil
	e.delays.tick(now)
	e.due(now)
}

func (e *Engine) name(s string) string {
	if n, ok := e.names[s]; ok {
		return n
	}
	s = strings.Clone(s)
	e.names[s] = s
	return s
}

func (e *Engine) touch(p *Partition, s *SKU) {
	if p.live && !s.touched {
		s.touched = true
		e.touched = append(e.touched, s)
	}
}

func (p *Partition) sku(id string) *SKU {
	s := p.skus[id]
	if s == nil {
		s = &SKU{id: strings.Clone(id), of: p}
		s.key = []byte(s.id)
		s.books = &escrow.SKU{ID: s.id}
		p.skus[s.id] = s
		p.list = append(p.list, s)
	}
	return s
}

// Restore takes in a target that was written earlier, by this process or another, so that only what differs from it is written again.
func (e *Engine) Restore(p *Partition, t *allocation.Target) {
	s := p.sku(t.SKU)
	if len(e.of[t.SKU]) == 0 { // a bundle's versions are those of its components too
		s.decided = max(s.decided, t.LevelVersion)
	}
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

// Level takes in a level. It returns false, and changes nothing, when the level is not newer than what is known.
func (e *Engine) Level(p *Partition, l *ledger.Level) bool {
	s := p.sku(l.SKU)
	if (s.known || s.version > 0) && l.Version <= s.version && l.Generation <= s.generation { // a ledger folded anew after Redis lost it counts generations anew, and versions not
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
	e.kitted(s)
	e.bookLevel(s, l)
	e.touch(p, s)
	return true
}

func (s *SKU) counter(e *Engine, channel string) *counter {
	for i := range s.counters {
		if s.counters[i].channel == channel {
			return &s.counters[i]
		}
	}
	s.counters = append(s.counters, counter{channel: e.name(channel)})
	return &s.counters[len(s.counters)-1]
}

// Forget takes in that the ledger no longer knows a SKU: its targets are withdrawn.
func (e *Engine) Forget(p *Partition, id string) {
	if s := p.skus[id]; s != nil && len(e.of[id]) == 0 {
		s.known, s.forgotten, s.version = false, true, 0
		e.touch(p, s)
	}
}

// Settings takes in other settings: every SKU is decided anew. There must be some before a partition is started.
func (e *Engine) Settings(plan *catalog.Plan) {
	e.plan = plan
	e.learn(plan)
	e.base = view{plan, e.apis}
	clear(e.views)
	for _, p := range e.parts {
		e.touchAll(p)
	}
}

// SettingsVersion is that of the settings in force; 0 when there are none.
func (e *Engine) SettingsVersion() int64 {
	if e.plan == nil {
		return 0
	}
	return e.plan.Version
}

// touchAll marks all SKUs of a partition.
func (e *Engine) touchAll(p *Partition) {
	for _, s := range p.list {
		if s.known || s.forgotten {
			e.touch(p, s)
		}
	}
}

// Start makes a partition live, once the levels and targets that there were have been taken in, and has all its SKUs decided. A SKU whose level is
// not there keeps its targets: a lost topic is no reason to empty every shop.
func (e *Engine) Start(p *Partition) {
	p.live = true
	e.touchAll(p)
	e.startBundles(p)
	for _, s := range p.booked {
		e.claims(s)
	}
}

// Relisted takes in that the listing of a SKU changed.
func (e *Engine) Relisted(p *Partition, id string) {
	if s := p.skus[id]; s != nil && (s.known || s.books.Phase() != escrow.Pooled) {
		s.relisted++
		e.touch(p, s)
	}
}

// Decide decides for touched SKUs, until none is left or at least most targets are to be written; more says that some are left. Decisions, the explanations in them,
// and what [Engine.Kept] and [Engine.Alerts] say are valid until the next call. now is the time of the decision, in microseconds.
func (e *Engine) Decide(now int64, most int) (out []Decision, more bool) {
	e.out, e.steps, e.outbox = e.out[:0], e.steps[:0], nil
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

// Drop forgets a partition that another instance has taken over.
func (e *Engine) Drop(p *Partition) {
	p.live = false
	e.parts = slices.DeleteFunc(e.parts, func(q *Partition) bool { return q == p })
	e.touched = slices.DeleteFunc(e.touched, func(s *SKU) bool { return s.of == p })
}

// prepare finds who lists s, and puts what its targets depend on into the input; without a level nobody does.
func (e *Engine) prepare(s *SKU) *allocation.Rules {
	e.use(s)
	e.offers = e.offers[:0]
	l := e.listing(s.id)
	if s.known {
		e.offers = e.plan.Offers(e.offers, s.id, l)
	}
	in := &e.input
	in.Layout, in.Rules, in.Unassigned, in.Stock = e.plan.Layout, e.guarantee(s, e.plan.Rules(s.id, l)), s.unassigned, s.stock
	kit := len(e.of[s.id]) > 0
	in.Channels = in.Channels[:0]
	for i := range e.offers {
		if o := &e.offers[i]; kit && e.apis[o.Channel].Operation == write.Allot { // nothing of a bundle can be reserved
			o.Paused = true
		}
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

func (e *Engine) decideSKU(s *SKU, now int64) {
	kit := e.kitted(s)
	if !s.known && len(s.shown) == 0 && s.books.Phase() == escrow.Pooled {
		return
	}
	if !kit && e.rests(s, now) {
		s.decided, s.oldest = max(s.decided, s.version), 0
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
		e.steps = e.rulesSteps(s.madeOf(e.steps), s, i)
		t.Explanation = e.steps[at:len(e.steps):len(e.steps)]
		e.out = append(e.out, Decision{SKU: s, Target: t})
	}
	for i := range old {
		e.withdraw(s, &old[i], now)
	}
	s.shown = append(s.shown[:0], e.next...)
	s.decided, s.oldest = max(s.decided, s.version), 0
}

// shows is what offer i of the last solved SKU amounts to.
func (e *Engine) shows(s *SKU, i int, rules *allocation.Rules) shown {
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

func (e *Engine) target(s *SKU, x *shown, now int64) allocation.Target {
	return allocation.Target{
		SKU: s.id, Channel: x.channel, ExternalID: x.externalID, Quantity: x.quantity, LevelVersion: s.version + s.kit.version, SourceOffset: s.sourceOffset,
		SettingsVersion: e.plan.Version, Mode: x.mode, Sold: x.sold, Restored: x.restored, ReceivedAt: s.receivedAt, OldestReceivedAt: s.oldest, DecidedAt: now,
	}
}

// withdraw tells a channel that it no longer lists s.
func (e *Engine) withdraw(s *SKU, x *shown, now int64) {
	gone := *x
	gone.quantity = 0
	t := e.target(s, &gone, now)
	t.Withdrawn = true
	at := len(e.steps)
	e.steps = append(e.steps, allocation.Step{Name: "withdrawn", Detail: "the channel does not list the SKU"})
	t.Explanation = e.steps[at:len(e.steps):len(e.steps)]
	e.out = append(e.out, Decision{SKU: s, Target: t})
}
