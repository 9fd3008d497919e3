package allocator

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
	"github.com/onhand/onhand/stock/write"
)

// strictMode is the mode of targets of SKUs whose exposure is kept in books.
const strictMode = "strict"

// exposed is the part of the engine that decides by books of exposure.
type exposed struct {
	decider escrow.Decider
	in      escrow.Input
	apis    []escrow.API // by the plan's channel numbers
	epoch   int64        // of the settings
	skew    int64
	delays  func(channel string) escrow.Delay // as measured; nil for none
	sold    func(channel string, delay int64) // told of each sale's way to here; nil for nobody
	now     int64                             // of the latest turn: when levels are taken in
	sales_  []escrow.Counter
	wakes   wakes
	allots  []*event.Event // granted by the books that were loaded: nobody knows whether they were written

	kept     []*sku                  // whose books are to be stored
	raised   []raised                // alerts
	unsealed map[*partition]struct{} // whose certificate changed since it was written
	finished []escrow.Certificate    // of days that are over
}

// raised is an alert on a SKU.
type raised struct {
	sku   *sku
	alert escrow.Alert
}

// result is what became of a write.
type result struct {
	operation        write.Operation
	outcome          write.Outcome
	value            allocation.Units // quantity, or change
	sentAt, ackedAt  int64
	shown            allocation.Units
	shownKnown, open bool // open: it was the granted write, and may still be applied
}

// seal is the certificate of a partition.
type seal struct {
	escrow.Certificate
	written int64 // when; its checks are written with other things, or at last after a while
}

func (e *engine) resetExposed() {
	clear(e.kept)
	clear(e.raised)
	e.kept, e.raised, e.finished = e.kept[:0], e.raised[:0], e.finished[:0]
}

// learn takes in what the plan says of each channel's API.
func (e *engine) learn(plan *catalog.Plan) {
	e.epoch++
	e.apis = e.apis[:0]
	for _, ch := range plan.Channels {
		e.apis = append(e.apis, escrow.APIOf(ch))
	}
}

// bookLevel feeds the books.
func (e *engine) bookLevel(s *sku, l *ledger.Level) {
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
		c := add(l.Sold[i].Channel)
		c.Sold, c.EarliestAt = l.Sold[i].Units, l.Sold[i].EarliestAt
	}
	for i := range l.Restored {
		add(l.Restored[i].Channel).Restored = l.Restored[i].Units
	}
	s.books.Level(&escrow.Level{
		Allotted: l.Allotments,
		Version:  l.Version, Previous: l.PreviousVersion, Available: l.Available(), Counters: e.sales_, At: l.ReceivedAt, Event: l.EventID, Kind: l.EventKind,
	})
}

// sales tells how long the sales that a level adds were under way, before the counters take it in.
func (e *engine) sales(s *sku, l *ledger.Level) {
	if e.sold == nil || !s.of.live {
		return
	}
	for i := range l.Sold {
		if c := &l.Sold[i]; c.EarliestAt > 0 && e.now > 0 {
			for j := range s.counters {
				if k := &s.counters[j]; k.channel == c.Channel && c.Units > k.sold {
					e.sold(k.channel, e.now-c.EarliestAt)
				}
			}
		}
	}
}

// restoreBooks takes in the books of a SKU as they were stored.
func (e *engine) restoreBooks(p *partition, x *escrow.Snapshot) {
	s := p.sku(x.SKU)
	s.books, s.stored = escrow.Restore(x), true
	if x.Phase != escrow.Pooled {
		p.booked[s] = struct{}{}
	} else {
		delete(p.booked, s)
	}
	s.recount()
}

// unbook takes in that a SKU has no books.
func (e *engine) unbook(p *partition, id string) {
	if s := p.skus[id]; s != nil {
		s.books, s.stored = &escrow.SKU{ID: s.id}, false
		delete(p.booked, s)
		s.recount()
	}
}

// recount brings the partition's counts up to date with the books of the SKU.
func (s *sku) recount() {
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

// waits reports that a write granted in the partition has no result yet.
func (e *engine) waits(p *partition) bool { return p.open > 0 }

// result takes in what a write did. It returns false when no open write of the books is meant.
func (e *engine) result(p *partition, r *write.Result) bool {
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
		if r.SentAt >= last.sentAt {
			*last = result{operation: r.Operation, outcome: r.Outcome, value: r.Quantity, sentAt: r.SentAt, ackedAt: r.AckedAt, shown: r.Shown,
				shownKnown: r.ShownKnown, open: mine && r.Outcome == write.Unknown && !r.Settled}
			if r.Operation == write.Delta {
				last.value = r.Delta
			}
		}
	}
	return mine
}

func (s *sku) find(channel string) (at int, ok bool) {
	return slices.BinarySearchFunc(s.shown, channel, func(a shown, channel string) int { return strings.Compare(a.channel, channel) })
}

// stallAfter is when an order watermark that stands counts as gone; one that moves again then has adaptive SKUs decided anew.
const stallAfter = int64(10 * time.Minute / time.Microsecond)

// passed takes in that the order watermark of a channel is in force.
func (e *engine) passed(p *partition, channel string, until, now int64) {
	was := p.marks[channel]
	if until <= was {
		return
	}
	p.marks[e.name(channel)] = until
	if was+stallAfter < now {
		p.begun++
		e.touchAll(p)
		return
	}
	if len(p.booked) == 0 {
		return
	}
	e.fill(p, now)
	for s := range p.booked {
		if e.in.Version = e.terms(s); !s.books.Quiet(&e.in) {
			e.touch(p, s)
		}
	}
}

// terms is the version of everything that people set for a SKU, or that counts as such.
func (e *engine) terms(s *sku) int64 { return e.epoch<<40 + s.of.begun<<20 + s.relisted }

// fill sets what an input says of channels.
func (e *engine) fill(p *partition, now int64) {
	in := &e.in
	in.Now, in.Layout, in.APIs, in.Skew = now, e.plan.Layout, e.apis, e.skew
	in.Marks, in.Delays = in.Marks[:0], in.Delays[:0]
	for i := range e.plan.Channels {
		id := e.plan.Layout.SellerID(i)
		in.Marks = append(in.Marks, p.marks[id])
		var d escrow.Delay
		if e.delays != nil {
			d = e.delays(id)
		}
		in.Delays = append(in.Delays, d)
	}
}

// byBooks decides for a SKU whose exposure is or may have to be kept in books. It returns false when it is pooled, and to be decided as such.
func (e *engine) byBooks(s *sku, rules *allocation.Rules, now int64) bool {
	p, was := s.of, s.books.Phase()
	if was == escrow.Pooled && !s.books.Allotted() && (rules.Guarantee == allocation.NoGuarantee || !e.writable(rules)) {
		return false
	}
	if !s.known && !s.forgotten { // its level is missing: what it shows stays, and results of what was granted are kept
		if s.books.Kept() {
			e.kept = append(e.kept, s)
		}
		return was != escrow.Pooled
	}
	e.escrowInput(s, rules, now)
	quiet := s.books.Quiet(&e.in)
	d := e.decider.Decide(s.books, &e.in)
	s.recount()
	if s.wake = d.Wake; s.wake > 0 {
		heap.Push(&e.wakes, wake{s.wake, s})
	}
	if !quiet {
		s.hindrance = d.Hindrance
	}
	for _, a := range d.Alerts {
		e.raised = append(e.raised, raised{s, a})
	}
	if d.Phase == escrow.Pooled {
		delete(p.booked, s)
	} else {
		p.booked[s] = struct{}{}
		e.certify(s, len(d.Grants), now)
	}
	if s.books.Kept() {
		e.kept = append(e.kept, s)
	}
	if d.Phase == escrow.Pooled {
		return false
	}
	e.strict(s, d, now)
	return true
}

// writable reports that a channel that lists the SKU is ever written (those that ask before they sell cannot sell a unit twice among themselves), or that the rules want books whatever that means.
func (e *engine) writable(rules *allocation.Rules) bool {
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

func (e *engine) escrowInput(s *sku, rules *allocation.Rules, now int64) {
	e.fill(s.of, now)
	in := &e.in
	in.Version, in.Rules, in.Stock, in.Unassigned = e.terms(s), rules, s.stock, s.unassigned
	if s.forgotten {
		in.Stock, in.Unassigned = nil, 0
	}
	in.Offers = in.Offers[:0]
	for i := range e.offers {
		o := &e.offers[i]
		in.Offers = append(in.Offers, escrow.Offer{Seller: o.Channel, ExternalID: o.ExternalID, Paused: o.Paused, Margin: e.input.Channels[i].Margin})
	}
}

// certify enters what a decision left into the certificate of the day.
func (e *engine) certify(s *sku, granted int, now int64) {
	p := s.of
	day := time.UnixMicro(now).UTC().Format(time.DateOnly)
	if p.seal.Day != day {
		if _, ok := e.unsealed[p]; ok {
			e.finished = append(e.finished, p.seal.Certificate)
		}
		p.seal = seal{written: now, Certificate: escrow.Certificate{Day: day, Partition: p.id}}
	}
	p.seal.Check(s.books, granted, now)
	e.unsealed[p] = struct{}{}
}

// strict writes the targets of a SKU under the books: those with a granted write, and those of channels whose last target had none of the books, as the
// pusher is to leave them alone.
func (e *engine) strict(s *sku, d *escrow.Decision, now int64) {
	e.next = append(e.next[:0], s.shown...)
	solved := false
	for i := range d.Grants {
		g := &d.Grants[i]
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
		e.out = append(e.out, decision{sku: s, target: t, allots: allots})
		e.put(x)
	}
	for i := range e.offers {
		o := &e.offers[i]
		id := e.plan.Layout.SellerID(o.Channel)
		at, ok := find(e.next, id)
		if ok && e.next[at].mode == strictMode {
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
		e.out = append(e.out, decision{sku: s, target: t})
		e.put(x)
	}
	for i := 0; i < len(e.next); i++ {
		x := &e.next[i]
		if _, ok := s.books.View(x.channel); ok || e.offered(x.channel) {
			continue
		}
		e.withdraw(s, x, now)
		e.out[len(e.out)-1].target.Write = &allocation.GrantedWrite{}
		e.next = slices.Delete(e.next, i, i+1)
		i--
	}
	s.shown = append(s.shown[:0], e.next...)
}

func find(list []shown, channel string) (at int, ok bool) {
	return slices.BinarySearchFunc(list, channel, func(a shown, channel string) int { return strings.Compare(a.channel, channel) })
}

func (e *engine) offered(channel string) bool {
	for i := range e.offers {
		if e.plan.Layout.SellerID(e.offers[i].Channel) == channel {
			return true
		}
	}
	return false
}

// strictShown is what was shown last, with the counters of now.
func (e *engine) strictShown(s *sku, channel, external string) shown {
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
func (e *engine) put(x shown) {
	at, ok := find(e.next, x.channel)
	if ok {
		e.next[at] = x
		return
	}
	e.next = slices.Insert(e.next, at, x)
}

// unknownExposure stands for exposure that is not known yet.
const unknownExposure allocation.Units = -1

func (e *engine) exposure(s *sku, channel string) allocation.Units {
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
func (e *engine) derive(steps []allocation.Step, s *sku, channel string) []allocation.Step {
	for i := range e.offers {
		if e.plan.Layout.SellerID(e.offers[i].Channel) == channel {
			steps = e.solver.Explain(steps, i)
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
	sku *sku
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
func (e *engine) due(now int64) {
	for len(e.wakes) > 0 && (e.wakes[0].at <= now || e.wakes[0].sku.wake != e.wakes[0].at) {
		x := heap.Pop(&e.wakes).(wake)
		if x.sku.wake == x.at && x.at <= now {
			x.sku.wake = 0
			e.touch(x.sku.of, x.sku)
		}
	}
}

// nextWake is the time of the first SKU to be decided again; 0 when there is none.
func (e *engine) nextWake() int64 {
	if len(e.wakes) == 0 {
		return 0
	}
	return e.wakes[0].at
}
