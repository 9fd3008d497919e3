package targeting

import (
	"container/heap"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/write"
)

// strictMode is the mode of targets of SKUs whose exposure is kept in books.
const strictMode = "strict"

// exposed is the part of the engine that decides by books of exposure.
type exposed struct {
	decider  escrow.Decider
	in       escrow.Input
	apis     []escrow.API // by the plan's channel numbers
	epoch    int64        // of the settings
	skew     int64
	delays   *delays
	now      int64 // of the turn: when levels are taken in
	filledBy *catalog.Plan
	filled   *Partition // whose channels the input has; nil when it has to be filled anew
	sales_   []escrow.Counter
	wakes    wakes
	allots   []*event.Event // granted by the books that were loaded: nobody knows whether they were written

	day       string // of the certificates, and its number since 1970
	dayNumber int64

	kept     []*SKU               // whose books are to be stored
	alerts   []Alert              //
	finished []escrow.Certificate // of days that are over
}

// Alert is an alert on a SKU.
type Alert struct {
	SKU string
	escrow.Alert
}

// seal is the certificate of a partition.
type seal struct {
	escrow.Certificate
	written int64 // when; its checks are written with other things, or at last after a while
	changed bool  // since it was written
}

func (e *Engine) resetExposed() {
	clear(e.kept)
	clear(e.alerts)
	e.kept, e.alerts = e.kept[:0], e.alerts[:0]
}

// Kept is the SKUs whose books must be stored with what was decided last, in one transaction: those in phase pooled have none any more.
func (e *Engine) Kept() []*SKU { return e.kept }

// Alerts is what people should know of what was decided last.
func (e *Engine) Alerts() []Alert { return e.alerts }

// Again gives the changes of allotments that books which were loaded wait for: whoever granted them may not have written them. It gives each once.
func (e *Engine) Again() []*event.Event {
	a := e.allots
	e.allots = nil
	return a
}

// claims notes the changes of allotments that the books of a SKU wait for.
func (e *Engine) claims(s *SKU) {
	s.books.Claims(func(g *escrow.Grant) {
		if !toBundle(g.Channel) || !escrow.NeedsConsent(g.Write) {
			e.allots = append(e.allots, allotment(s.id, g, e.now))
		}
	})
	for _, c := range s.books.Consents() {
		e.allots = append(e.allots, consent(s.id, c, e.now))
	}
}

// sourceOnhand is the source of events that Onhand itself is behind.
const sourceOnhand = "onhand"

// allotmentID is the event id of a grant.
func allotmentID(grant string) string { return "allot/" + grant }

// allotment is the event of a grant to a claim channel.
func allotment(sku string, g *escrow.Grant, now int64) *event.Event {
	e := &event.Event{
		ID: allotmentID(g.ID), Kind: event.AllotmentChanged, SKU: sku, Channel: g.Channel, Quantity: g.Write.Delta, Sequence: escrow.Sequence(g.ID), Reason: g.Reason,
		OccurredAt: now, ReceivedAt: now, Source: sourceOnhand, Checked: true,
	}
	if g.Write.Operation == write.Lift {
		e.Kind, e.Quantity = event.AllotmentEnded, 0
	}
	return e
}

// SealAfter is the longest that checks of the invariant are not in the certificate, in microseconds. A crash forgets that they were made, nothing else.
const SealAfter int64 = 5_000_000

// Unsealed reports that a certificate changed since [Engine.Seal] gave it.
func (e *Engine) Unsealed() bool {
	return slices.ContainsFunc(e.parts, func(p *Partition) bool { return p.seal.changed })
}

// Seal calls f with the certificates that are to be written now: those of days that are over, and those that changed, if something else is written with them or the last time
// was more than [SealAfter] ago.
func (e *Engine) Seal(now int64, with bool, f func(*escrow.Certificate)) {
	for i := range e.finished {
		f(&e.finished[i])
		with = true
	}
	e.finished = e.finished[:0]
	for _, p := range e.parts {
		if p.seal.changed && (with || now-p.seal.written > SealAfter) {
			p.seal.written, p.seal.changed = now, false
			f(&p.seal.Certificate)
			with = true
		}
	}
}

// RestoreCertificate takes in the certificate of the day as it was written.
func (e *Engine) RestoreCertificate(p *Partition, c *escrow.Certificate) {
	p.seal = seal{Certificate: *c}
}

// Certificate is that of the day.
func (p *Partition) Certificate() *escrow.Certificate { return &p.seal.Certificate }

// Booked is how many SKUs have their exposure kept in books.
func (p *Partition) Booked() int { return len(p.booked) }

// Unsettled is how many of these have exposure that waits for an order watermark or is not known yet.
func (p *Partition) Unsettled() int { return p.unsure }

// Open is how many granted writes have no result yet.
func (p *Partition) Open() int { return p.open }

// Audit has every channel whose exposure is other than what it is thought to show looked at with the next decisions.
func (e *Engine) Audit() {
	for _, p := range e.parts {
		for _, s := range p.booked {
			s.books.Audit()
			e.touch(p, s)
		}
	}
}

// enter enters the SKU among those with books, or takes it from there.
func (s *SKU) enter(booked bool) {
	p := s.of
	switch {
	case booked == (s.booked > 0):
	case booked:
		p.booked = append(p.booked, s)
		s.booked = len(p.booked)
	default:
		last := p.booked[len(p.booked)-1]
		p.booked[s.booked-1], last.booked = last, s.booked
		p.booked[len(p.booked)-1] = nil
		p.booked, s.booked = p.booked[:len(p.booked)-1], 0
	}
}

// learn takes in what the plan says of each channel's API.
func (e *Engine) learn(plan *catalog.Plan) {
	e.epoch++
	e.filled = nil
	e.apis = e.apis[:0]
	for _, ch := range plan.Channels {
		e.apis = append(e.apis, escrow.APIOf(ch))
	}
}

// bookLevel feeds the books.
func (e *Engine) bookLevel(s *SKU, l *ledger.Level) {
	e.sales_ = e.sales_[:0]
	add := func(channel string) *escrow.Counter {
		for i := range e.sales_ {
			if e.sales_[i].Channel == channel {
				return &e.sales_[i]
			}
		}
		e.sales_ = append(e.sales_, escrow.Counter{Channel: channel})
		return &e.sales_[len(e.sales_)-1]
	}
	for i := range l.Sold {
		if len(e.of[s.id]) > 0 && toBundle(l.Sold[i].Channel) { // all its channels together
			continue
		}
		c := add(l.Sold[i].Channel)
		c.Sold, c.EarliestAt = l.Sold[i].Units, l.Sold[i].EarliestAt
	}
	for i := range l.Restored {
		if len(e.of[s.id]) > 0 && toBundle(l.Restored[i].Channel) {
			continue
		}
		add(l.Restored[i].Channel).Restored = l.Restored[i].Units
	}
	available := l.Available()
	if len(e.of[s.id]) > 0 {
		available = s.books.Available() // as its components make it
	}
	s.books.Level(&escrow.Level{
		Allotted: l.Allotments,
		Version:  l.Version, Previous: l.PreviousVersion, Available: available, Counters: e.sales_, At: l.ReceivedAt, Event: l.EventID, Kind: l.EventKind,
	})
}

// sales tells how long the sales that a level adds were under way, before the counters take it in.
func (e *Engine) sales(s *SKU, l *ledger.Level) {
	if !s.of.live {
		return
	}
	for i := range l.Sold {
		if c := &l.Sold[i]; c.EarliestAt > 0 && e.now > 0 {
			for j := range s.counters {
				if k := &s.counters[j]; k.channel == c.Channel && c.Units > k.sold {
					e.delays.sold(k.channel, e.now-c.EarliestAt)
				}
			}
		}
	}
}

// RestoreBooks takes in the books of a SKU as they were stored.
func (e *Engine) RestoreBooks(p *Partition, x *escrow.Snapshot) {
	s := p.sku(x.SKU)
	s.books, s.stored, s.placed = escrow.Restore(x), true, false
	s.enter(x.Phase != escrow.Pooled)
	s.recount()
}

// Unbook takes in that a SKU has no books.
func (e *Engine) Unbook(p *Partition, id string) {
	if s := p.skus[id]; s != nil {
		s.books, s.stored, s.placed = &escrow.SKU{ID: s.id}, false, false
		s.enter(false)
		s.recount()
	}
}

// recount brings the partition's counts up to date with the books of the SKU.
func (s *SKU) recount() {
	open, unsure := s.books.OpenWrites(), s.books.Phase() != escrow.Pooled && !s.books.Settled()
	s.of.open += open - s.open
	if unsure != s.unsure {
		if unsure {
			s.of.unsure++
		} else {
			s.of.unsure--
		}
	}
	s.open, s.unsure = open, unsure
}

// Result takes in what a write did. It returns false when no open write of the books is meant.
func (e *Engine) Result(p *Partition, r *write.Result) bool {
	if r.Outcome == write.Applied && r.AckedAt > 0 && r.DecidedAt > 0 {
		e.delays.wrote(e.name(r.Channel), r.AckedAt-r.DecidedAt)
	}
	s := p.skus[r.SKU]
	if s == nil {
		return false
	}
	x := escrow.ResultOf(r)
	mine := s.books.Result(&x, e.skew)
	if mine {
		s.recount()
		e.touch(p, s)
	}
	if at, ok := s.find(r.Channel); ok {
		last := &s.shown[at].last
		if r.SentAt >= last.SentAt {
			*last = LastWrite{Operation: r.Operation, Outcome: r.Outcome, Value: r.Quantity, SentAt: r.SentAt, AckedAt: r.AckedAt, Shown: r.Shown,
				ShownKnown: r.ShownKnown, Open: mine && r.Outcome == write.Unknown && !r.Settled}
			if r.Operation == write.Delta {
				last.Value = r.Delta
			}
		}
	}
	return mine
}

func (s *SKU) find(channel string) (at int, ok bool) {
	return slices.BinarySearchFunc(s.shown, channel, func(a shown, channel string) int { return strings.Compare(a.channel, channel) })
}

// stallAfter is when an order watermark that stands counts as gone; one that moves again then has adaptive SKUs decided anew.
const stallAfter = int64(10 * time.Minute / time.Microsecond)

// maxAhead is how many watermarks of a channel wait for their levels at most. What is left out only comes later.
const maxAhead = 1000

// waiting is the watermarks of a channel that wait for their levels.
type waiting struct {
	channel string
	marks   []order.Watermark
}

// Watermark takes in an order watermark. It is in force once the levels below its offset have been read ([Engine.Read]).
func (e *Engine) Watermark(p *Partition, w *order.Watermark) {
	at := slices.IndexFunc(p.ahead, func(x waiting) bool { return x.channel == w.Channel })
	if at < 0 {
		at = len(p.ahead)
		p.ahead = append(p.ahead, waiting{channel: e.name(w.Channel)})
	}
	x := &p.ahead[at]
	if n := len(x.marks); n > 0 && (w.Until <= x.marks[n-1].Until || n >= maxAhead) {
		return
	}
	x.marks = append(x.marks, order.Watermark{Channel: x.channel, Until: w.Until, LevelsOffset: w.LevelsOffset})
}

// Read takes in that the levels of the partition have been read up to an offset, and brings the watermarks into force that waited for that.
func (e *Engine) Read(p *Partition, next int64) {
	p.next = next
	var moved, begun bool
	for i := range p.ahead {
		x := &p.ahead[i]
		n := 0
		for n < len(x.marks) && x.marks[n].LevelsOffset <= next {
			n++
		}
		if n == 0 {
			continue
		}
		until, was := x.marks[n-1].Until, p.marks[x.channel]
		x.marks = slices.Delete(x.marks, 0, n)
		if until > was {
			p.marks[x.channel] = until
			moved, begun = true, begun || was+stallAfter < e.now
		}
	}
	if !moved {
		return
	}
	e.filled = nil
	if begun {
		p.begun++
		e.touchAll(p)
		return
	}
	if len(p.booked) == 0 {
		return
	}
	for _, s := range p.booked {
		e.use(s)
		e.fill(p, e.now)
		if e.in.Version = e.terms(s); !s.books.Quiet(&e.in) {
			e.touch(p, s)
		}
	}
}

// terms is the version of everything that people set for a SKU, or that counts as such.
func (e *Engine) terms(s *SKU) int64 { return e.epoch<<40 + s.of.begun<<20 + s.relisted }

// fill sets what an input says of channels.
func (e *Engine) fill(p *Partition, now int64) {
	in := &e.in
	in.Now, in.Layout, in.APIs, in.Skew = now, e.plan.Layout, e.apis, e.skew
	if e.filled == p && e.filledBy == e.plan {
		return
	}
	e.filled, e.filledBy = p, e.plan
	in.Marks, in.Delays = in.Marks[:0], in.Delays[:0]
	for i := range e.plan.Channels {
		id := e.plan.Layout.SellerID(i)
		mark, d := p.marks[id], e.delays.of(id, e.now)
		if b, ok := event.BundleOf(id); ok {
			mark, d = e.pace(p, b)
		}
		in.Marks, in.Delays = append(in.Marks, mark), append(in.Delays, d)
	}
}

// rests reports that the books of a SKU have nothing to decide: a sale was seen, as most often, or a watermark that nothing waits for.
func (e *Engine) rests(s *SKU, now int64) bool {
	if !s.placed || !s.known || s.books.Phase() != escrow.Strict {
		return false
	}
	e.use(s)
	e.fill(s.of, now)
	if e.in.Version = e.terms(s); !s.books.Quiet(&e.in) {
		return false
	}
	e.certify(s, 0, now)
	e.keep(s)
	return true
}

// byBooks decides for a SKU whose exposure is or may have to be kept in books. It returns false when it is pooled, and to be decided as such.
func (e *Engine) byBooks(s *SKU, rules *allocation.Rules, now int64) bool {
	was := s.books.Phase()
	if was == escrow.Pooled && !s.books.Allotted() && (rules.Guarantee == allocation.NoGuarantee || !e.writable(rules) && !e.bundled(s)) {
		return false
	}
	e.offerBundles(s)
	if !s.known && !s.forgotten { // its level is missing: what it shows stays, and results of what was granted are kept
		e.keep(s)
		return was != escrow.Pooled
	}
	e.escrowInput(s, rules, now)
	quiet := s.books.Quiet(&e.in)
	d := e.decider.Decide(s.books, &e.in)
	s.recount()
	if s.wake != d.Wake {
		if s.wake = d.Wake; s.wake > 0 {
			heap.Push(&e.wakes, wake{s.wake, s})
		}
	}
	if !quiet {
		s.hindrance = d.Hindrance
	}
	for _, a := range d.Alerts {
		e.alerts = append(e.alerts, Alert{s.id, a})
	}
	s.enter(d.Phase != escrow.Pooled)
	s.placed = d.Phase == escrow.Strict
	if d.Phase != escrow.Pooled {
		e.certify(s, len(d.Grants), now)
	}
	if d.Phase != escrow.Pooled {
		e.agree(s, now)
	}
	e.keep(s)
	if d.Phase == escrow.Pooled {
		if len(e.uses[s.id]) > 0 {
			e.prepare(s) // its bundles are no channels of the pool
		}
		return false
	}
	e.strict(s, d, now)
	return true
}

// keep notes that the books of a SKU are to be stored, or their record to be taken away, if that is so.
func (e *Engine) keep(s *SKU) {
	if s.books.Kept() && (s.stored || s.books.Phase() != escrow.Pooled) {
		s.stored = s.books.Phase() != escrow.Pooled
		e.kept = append(e.kept, s)
	}
}

// writable reports that a channel that lists the SKU is ever written (those that ask before they sell cannot sell a unit twice among themselves), or that the rules want books whatever that means.
func (e *Engine) writable(rules *allocation.Rules) bool {
	if rules.Guarantee == allocation.Strict {
		return true
	}
	for i := range e.offers {
		if op := e.apis[e.offers[i].Channel].Operation; op != write.UnspecifiedOperation && op != write.Allot {
			return true
		}
	}
	return false
}

func (e *Engine) escrowInput(s *SKU, rules *allocation.Rules, now int64) {
	e.fill(s.of, now)
	in := &e.in
	in.Version, in.Rules, in.Stock, in.Unassigned = e.terms(s), rules, s.stock, s.unassigned
	if s.forgotten {
		in.Stock, in.Unassigned = nil, 0
	}
	in.Offers = in.Offers[:0]
	for i := range e.offers {
		o := &e.offers[i]
		x := escrow.Offer{Seller: o.Channel, ExternalID: o.ExternalID, Paused: o.Paused, Margin: e.input.Channels[i].Margin}
		if b, ok := event.BundleOf(e.plan.Layout.SellerID(o.Channel)); ok {
			x.Hindrance = e.hindered(s.of, b, now)
		}
		in.Offers = append(in.Offers, x)
	}
}

// dayLength is a day in microseconds.
const dayLength = int64(24 * time.Hour / time.Microsecond)

// certify enters what a decision left into the certificate of the day.
func (e *Engine) certify(s *SKU, granted int, now int64) {
	p := s.of
	if n := now / dayLength; n != e.dayNumber || e.day == "" {
		e.dayNumber, e.day = n, time.UnixMicro(now).UTC().Format(time.DateOnly)
	}
	if p.seal.Day != e.day {
		if p.seal.changed {
			e.finished = append(e.finished, p.seal.Certificate)
		}
		p.seal = seal{written: now, Certificate: escrow.Certificate{Day: e.day, Partition: p.id}}
	}
	p.seal.Check(s.books, granted, now)
	p.seal.changed = true
}

// strict writes the targets of a SKU under the books: those with a granted write, and those of channels whose last target had none of the books, as the
// pusher is to leave them alone.
func (e *Engine) strict(s *SKU, d *escrow.Decision, now int64) {
	e.next = append(e.next[:0], s.shown...)
	solved := false
	for i := range d.Grants {
		g := &d.Grants[i]
		if toBundle(g.Channel) { // it has no targets; what does not raise its allotment waits for the bundle, whose owner reads the books
			if !escrow.NeedsConsent(g.Write) {
				e.outbox = append(e.outbox, allotment(s.id, g, now))
			}
			continue
		}
		if !solved {
			e.solver.Solve(&e.input)
			solved = true
		}
		x := e.strictShown(s, g.Channel, g.ExternalID)
		v, _ := s.books.View(g.Channel)
		switch g.Write.Operation {
		case write.Absolute, write.CompareAndSet:
			x.quantity = g.Write.Quantity
		case write.Delta, write.Allot:
			if v.ShownKnown {
				x.quantity = max(0, v.Shown+g.Write.Delta)
			}
		default:
			if v.ShownKnown {
				x.quantity = max(0, v.Shown)
			}
		}
		t := e.target(s, &x, now)
		t.Write = &allocation.GrantedWrite{ID: g.ID, Operation: g.Write.Operation, Quantity: g.Write.Quantity, Delta: g.Write.Delta, Expected: g.Write.Expected}
		t.Exposure, t.Withdrawn = g.Exposure, g.Withdrawn
		said := describe(t.Write) + ": " + g.Reason
		var allots *event.Event
		if g.Write.Claims() { // an event in the log, and nothing for a pusher
			allots, t.Write = allotment(s.id, g, now), &allocation.GrantedWrite{}
		}
		at := len(e.steps)
		e.steps = e.derive(e.steps, s, g.Channel)
		e.steps = append(e.steps, allocation.Step{Name: "granted", Units: x.quantity, Detail: said})
		t.Explanation = e.steps[at:len(e.steps):len(e.steps)]
		e.out = append(e.out, Decision{SKU: s, Target: t, Allots: allots})
		e.put(x)
	}
	for i := range e.offers {
		o := &e.offers[i]
		id := e.plan.Layout.SellerID(o.Channel)
		at, ok := find(e.next, id)
		if ok && e.next[at].mode == strictMode || toBundle(id) {
			continue
		}
		x := e.strictShown(s, id, o.ExternalID)
		if e.apis[o.Channel].Operation == write.UnspecifiedOperation { // nobody writes it: it has its reserve
			x.quantity = max(0, min(e.input.Rules.Channels[o.Channel].Reserve.Units, s.books.Available()))
		}
		if !solved {
			e.solver.Solve(&e.input)
			solved = true
		}
		t := e.target(s, &x, now)
		t.Write, t.Exposure = &allocation.GrantedWrite{}, e.exposure(s, id)
		from := len(e.steps)
		e.steps = e.derive(e.steps, s, id)
		e.steps = append(e.steps, allocation.Step{Name: "granted", Units: x.quantity, Detail: "nothing yet: no other write may go out meanwhile"})
		t.Explanation = e.steps[from:len(e.steps):len(e.steps)]
		e.out = append(e.out, Decision{SKU: s, Target: t})
		e.put(x)
	}
	offers := e.offers
	for i := 0; i < len(e.next); i++ { // both in order of id
		x := &e.next[i]
		for len(offers) > 0 && e.plan.Layout.SellerID(offers[0].Channel) < x.channel {
			offers = offers[1:]
		}
		if len(offers) > 0 && e.plan.Layout.SellerID(offers[0].Channel) == x.channel {
			continue
		}
		if _, ok := s.books.View(x.channel); ok {
			continue
		}
		e.withdraw(s, x, now)
		e.out[len(e.out)-1].Target.Write = &allocation.GrantedWrite{}
		e.next = slices.Delete(e.next, i, i+1)
		i--
	}
	s.shown = append(s.shown[:0], e.next...)
}

func find(list []shown, channel string) (at int, ok bool) {
	return slices.BinarySearchFunc(list, channel, func(a shown, channel string) int { return strings.Compare(a.channel, channel) })
}

// strictShown is what was shown last, with the counters of now.
func (e *Engine) strictShown(s *SKU, channel, external string) shown {
	x := shown{channel: e.name(channel)}
	if at, ok := find(e.next, channel); ok {
		x = e.next[at]
	}
	x.externalID, x.mode, x.sold, x.restored = external, strictMode, 0, 0
	if external == s.id {
		x.externalID = s.id
	}
	for j := range s.counters {
		if c := &s.counters[j]; c.channel == channel {
			x.sold, x.restored = c.sold, c.restored
			break
		}
	}
	return x
}

// put enters what is shown now.
func (e *Engine) put(x shown) {
	at, ok := find(e.next, x.channel)
	if ok {
		e.next[at] = x
		return
	}
	e.next = slices.Insert(e.next, at, x)
}

// unknownExposure stands for exposure that is not known yet.
const unknownExposure allocation.Units = -1

func (e *Engine) exposure(s *SKU, channel string) allocation.Units {
	v, ok := s.books.View(channel)
	switch {
	case !ok:
		return 0
	case !v.Known:
		return unknownExposure
	}
	return v.Exposure
}

// derive is how the books see a channel: the steps of the rules on what is available, then what is in the books. The solver has solved the SKU.
func (e *Engine) derive(steps []allocation.Step, s *SKU, channel string) []allocation.Step {
	steps = s.madeOf(steps)
	for i := range e.offers {
		if e.plan.Layout.SellerID(e.offers[i].Channel) == channel {
			steps = e.rulesSteps(steps, s, i)
		}
	}
	v, ok := s.books.View(channel)
	if !ok {
		return steps
	}
	steps = append(steps, allocation.Step{Name: "share", Units: v.Share, Detail: "its part by the rules and by what sells where"})
	if v.Known {
		steps = append(steps, allocation.Step{Name: "exposure", Units: v.Exposure, Detail: "the most that it can still report as sold"})
	} else {
		steps = append(steps, allocation.Step{Name: "exposure", Units: unknownExposure, Detail: "not known yet: it sold without books before"})
	}
	if s.books.Guarded() {
		steps = append(steps, allocation.Step{Name: "room", Units: s.books.Available() - s.books.Exposed(), Detail: strconv.FormatInt(int64(s.books.Available()), 10) +
			" available less " + strconv.FormatInt(int64(s.books.Exposed()), 10) + " exposed at all channels"})
	}
	if v.Settles > 0 {
		steps = append(steps, allocation.Step{Name: "waits for watermark", Units: v.Exposure, Detail: "its orders are known up to " + clock(v.Watermark) + "; exposure falls when they are up to " + clock(v.Settles)})
	}
	return steps
}

func clock(us int64) string {
	if us == 0 {
		return "no time yet"
	}
	return time.UnixMicro(us).UTC().Format("2006-01-02T15:04:05.000Z")
}

// describe says a granted write in words.
func describe(w *allocation.GrantedWrite) string {
	n := func(u allocation.Units) string { return strconv.FormatInt(int64(u), 10) }
	switch w.Operation {
	case write.Absolute:
		return "set to " + n(w.Quantity)
	case write.CompareAndSet:
		return "set from " + n(w.Expected) + " to " + n(w.Quantity)
	case write.Delta:
		if w.Delta < 0 {
			return "lower by " + n(-w.Delta)
		}
		return "raise by " + n(w.Delta)
	case write.Read:
		return "read what it shows"
	case write.Allot:
		switch {
		case w.Delta > 0:
			return "allot " + n(w.Delta) + " more"
		case w.Delta < 0:
			return "take back up to " + n(-w.Delta) + " of its allotment"
		}
		return "hold it to an allotment"
	case write.Lift:
		return "hold it to no allotment any more"
	}
	return "nothing"
}

// wakes is the times at which SKUs are to be decided again.
type wakes []wake

type wake struct {
	at  int64
	sku *SKU
}

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].at < w[j].at }
func (w wakes) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }

// Push is for the heap.
func (w *wakes) Push(x any) { *w = append(*w, x.(wake)) }

// Pop is for the heap.
func (w *wakes) Pop() any {
	last := len(*w) - 1
	x := (*w)[last]
	(*w)[last] = wake{}
	*w = (*w)[:last]
	return x
}

// due touches the SKUs whose time has come.
func (e *Engine) due(now int64) {
	for len(e.wakes) > 0 && (e.wakes[0].at <= now || e.wakes[0].sku.wake != e.wakes[0].at) {
		x := heap.Pop(&e.wakes).(wake)
		if x.sku.wake == x.at && x.at <= now {
			x.sku.wake = 0
			e.touch(x.sku.of, x.sku)
		}
	}
}

// NextWake is the time of the first SKU to be decided again; 0 when there is none.
func (e *Engine) NextWake() int64 {
	if len(e.wakes) == 0 {
		return 0
	}
	return e.wakes[0].at
}
