package whatif

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
	"time"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/reservation"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/stock/write"
)

// What the model takes to be so, in microseconds.
const (
	hop    = int64(5 * time.Millisecond / time.Microsecond) // from a decision to those who read what it wrote to the log
	settle = int64(time.Minute / time.Microsecond)          // after the last event, for what is still to follow from it
	warmUp = int64(10 * time.Minute / time.Microsecond)     // before the window, at least
	sweeps = 40                                             // order watermarks of each channel in that time
	tick   = int64(time.Millisecond / time.Microsecond)     // least time between two looks at what waits for time to pass
)

// side is one set of settings, and the world under it.
type side struct {
	o        *Options
	settings Settings
	plan     *catalog.Plan
	engine   *targeting.Engine
	part     *targeting.Partition
	folds    map[int32]*fold
	skus     map[string]*sku
	lost     map[line]struct{} // order lines whose sale was refused
	refused  map[hold]struct{} // reservations that were not granted
	rows     map[rowKey]*Row
	due      dues
	now, seq int64
	out      Result
	offers   []catalog.Offer
	level    ledger.Level
}

type fold struct {
	*ledger.Partition
	offset int64
}

type rowKey struct{ channel, mode string }

// hold is one SKU of a reservation.
type hold struct{ reservation, sku string }

// line is an order line; a return may not say of which channel. A bundle's and its components' are one.
type line struct{ channel, order, id, sku string }

func lineOf(x *entry) line {
	sku := x.SKU
	if x.Bundle != "" {
		sku = x.Bundle
	}
	return line{x.Channel, x.OrderID, x.LineID, sku}
}

// sku is one SKU.
type sku struct {
	id     string
	mode   string
	fold   *fold
	unseen event.Units // sold, and the ledger does not know
	cells  []cell      // in order of channel: those that are written
}

// cell is a SKU at a channel.
type cell struct {
	channel   string
	counts    *Row
	operation write.Operation
	target    event.Units // pooled: what it should show
	shown     event.Units
	belief    event.Units // what Onhand believes is shown
	set       int64       // when the number was set or read outright, rather than changed
	booked    bool        // only granted writes go out
	granted   sending     // and not sent yet
	sent      sending     // under way; nothing is where its operation is unspecified
}

// sending is a write.
type sending struct {
	id                        string // of a granted one
	operation                 write.Operation
	quantity, delta, expected event.Units
	at                        int64 // when it was decided
}

func newSide(o *Options, settings Settings) *side {
	return &side{
		o: o, settings: settings, plan: catalog.Compile(settings.Settings), folds: make(map[int32]*fold), skus: make(map[string]*sku), lost: make(map[line]struct{}),
		refused: make(map[hold]struct{}), rows: make(map[rowKey]*Row), out: Result{SKUs: make(map[string]int)},
	}
}

func (s *side) fold(partition int32) *fold {
	f := s.folds[partition]
	if f == nil {
		f = &fold{Partition: ledger.New(s.o.Ledger)}
		s.folds[partition] = f
	}
	return f
}

// apply folds an event at an offset of this world's own.
func (f *fold) apply(e *event.Event, at int64) ledger.Result {
	f.offset++
	r := f.Apply(e, f.offset, at)
	if f.offset%flushAfter == 0 {
		f.Flushed()
	}
	return r
}

// row is the figures of a SKU at a channel.
func (s *side) row(channel string, k *sku) *Row {
	key := rowKey{channel, k.mode}
	r := s.rows[key]
	if r == nil {
		r = &Row{Channel: channel, Mode: k.mode, Unwritten: true}
		if i := s.plan.Layout.Seller(channel); i >= 0 {
			r.Unwritten = !written(s.plan.Channels[i])
		}
		s.rows[key] = r
	}
	return r
}

// written says whether Onhand writes to a channel.
func written(c *catalog.Channel) bool {
	return !c.Paused && c.Operation != catalog.UnspecifiedOperation && c.Written()
}

// begin brings the world to the beginning of the window: SKUs of the window are decided from what the ledger knows, and channels written and read until they show that.
func (s *side) begin(window map[string]int32, recent map[string][]sale, marks map[string]int64) {
	s.track(window)
	e := targeting.New(func(sku string) *catalog.Listing { return s.settings.Listings[sku] }, s.o.Skew.Microseconds())
	s.engine, s.part = e, e.Partition(0)
	e.Own(func(id string) *targeting.Partition {
		if s.skus[id] == nil {
			return nil
		}
		return s.part
	})
	e.Settings(s.plan)
	warm := warmUp
	for _, d := range s.o.Delays {
		warm = max(warm, 10*d.Microseconds())
	}
	s.now = s.o.From - warm
	e.Begin(s.now)
	for _, id := range slices.Sorted(maps.Keys(s.skus)) {
		if l := s.settings.Listings[id]; l != nil && len(l.Components) > 0 {
			e.Index(id, l)
		}
	}
	components := e.Missing()
	e.Follow(components)
	for _, f := range s.folds {
		f.Flushed()
	}
	for _, id := range slices.Sorted(maps.Keys(s.skus)) {
		s.history(s.skus[id], recent[id], warm)
	}
	e.Followed(components)
	e.Start(s.part)
	s.decide()
	for i := range sweeps {
		at := s.o.From - warm + warm*int64(i)/sweeps
		s.advance(at)
		s.engine.Begin(at)
		for _, channel := range slices.Sorted(maps.Keys(marks)) {
			if marks[channel] > 0 { // nothing is sold before the window
				e.Watermark(s.part, &order.Watermark{Channel: channel, Until: at})
			}
		}
		s.turn(at, nil)
	}
	s.advance(s.o.From - 1)
	for _, ch := range s.plan.Channels {
		if _, ok := marks[ch.ID]; !ok && written(ch) {
			s.out.Unmarked = append(s.out.Unmarked, ch.ID)
		}
	}
	for _, r := range s.rows {
		r.Figures = Figures{}
	}
}

// track makes the SKUs of the window, and those that decide with them: a bundle's components, and the bundles that a component is in.
func (s *side) track(window map[string]int32) {
	uses := make(map[string][]string)
	for id, l := range s.settings.Listings {
		for _, c := range l.Components {
			uses[c.SKU] = append(uses[c.SKU], id)
		}
	}
	todo := slices.Sorted(maps.Keys(window))
	for len(todo) > 0 {
		id := todo[0]
		todo = todo[1:]
		if s.skus[id] != nil {
			continue
		}
		l := s.settings.Listings[id]
		k := &sku{id: id, mode: s.plan.Rules(id, l).RuleMode()}
		s.skus[id] = k
		s.out.SKUs[k.mode]++
		if p, ok := window[id]; ok {
			k.fold = s.fold(p)
		} else {
			k.fold = s.holding(id)
		}
		s.offers = s.plan.Offers(s.offers[:0], id, l)
		for _, o := range s.offers {
			if ch := s.plan.Channels[o.Channel]; written(ch) {
				k.cells = append(k.cells, cell{channel: ch.ID, counts: s.row(ch.ID, k), operation: ch.Operation})
			}
		}
		todo = append(todo, uses[id]...)
		if l != nil {
			for _, c := range l.Components {
				todo = append(todo, c.SKU)
			}
		}
	}
}

// holding is the fold that knows a SKU of which the window has nothing; where none does, one of its own for all of those.
func (s *side) holding(id string) *fold {
	for _, p := range slices.Sorted(maps.Keys(s.folds)) {
		if f := s.folds[p]; f.SKU(id) != nil {
			return f
		}
	}
	return s.fold(-1)
}

// history gives the engine the level of a SKU at the beginning of the window, and before it one for each sale of the time before, moved as far back as the beginning is.
func (s *side) history(k *sku, recent []sale, warm int64) {
	if !s.load(k) {
		return
	}
	l := s.level.Clone()
	ahead := func(channel string) *event.Units {
		at := slices.IndexFunc(l.Sold, func(c ledger.ChannelUnits) bool { return c.Channel == channel })
		if at < 0 { // a rebuilt level may not have it
			return new(event.Units)
		}
		return &l.Sold[at].Units
	}
	recent = recent[max(0, len(recent)-int(l.Version)+1):]
	for _, x := range recent {
		*ahead(x.channel) -= x.units
	}
	l.Version -= int64(len(recent))
	l.PreviousVersion = 0
	for i := range l.Sold {
		l.Sold[i].EarliestAt = 0
	}
	s.engine.Level(s.part, l)
	for _, x := range recent {
		l.PreviousVersion, l.Version, l.ReceivedAt = l.Version, l.Version+1, x.at-warm
		*ahead(x.channel) += x.units
		s.engine.Level(s.part, l)
	}
	if s.engine.Follows(k.id) {
		s.engine.ComponentLevel(k.id, l)
	}
}

// load reads the level of a SKU; false when there is none.
func (s *side) load(k *sku) bool {
	f := k.fold.SKU(k.id)
	if f == nil {
		return false
	}
	k.fold.Level(f, 0, &s.level)
	return true
}

// cell is the SKU at a channel, or nil where it is not listed or not written.
func (k *sku) cell(channel string) *cell {
	i, ok := slices.BinarySearchFunc(k.cells, channel, func(c cell, channel string) int { return cmp.Compare(c.channel, channel) })
	if !ok {
		return nil
	}
	return &k.cells[i]
}

// advance has everything happen that is due until a time.
func (s *side) advance(until int64) {
	for {
		at := until + 1
		if len(s.due) > 0 {
			at = min(at, s.due[0].at)
		}
		if w := s.engine.NextWake(); w > 0 {
			at = min(at, max(w, s.now+tick))
		}
		if at > until {
			return
		}
		s.turn(at, nil)
	}
}

// turn has everything happen that does at a moment, and then decides what follows.
func (s *side) turn(at int64, steps []step) {
	s.now = max(s.now, at)
	s.engine.Begin(s.now)
	for len(s.due) > 0 && s.due[0].at <= s.now {
		x := heap.Pop(&s.due).(due)
		switch {
		case x.event != nil:
			s.apply(s.skus[x.event.SKU], x.event)
		case x.channel == "":
			s.engine.ComponentBooks(x.sku.id, x.books)
		default:
			s.land(x.sku, x.sku.cell(x.channel))
		}
	}
	for i := range steps {
		if x := &steps[i]; x.seen {
			s.see(x.entry)
		} else {
			s.sell(x.entry)
		}
	}
	s.engine.Read(s.part, 0)
	s.decide()
}

// apply has the ledger apply an event, and tells the engine.
func (s *side) apply(k *sku, e *event.Event) ledger.Result {
	k.fold.Flushed()
	r := k.fold.apply(e, s.now)
	if r.Outcome != ledger.Applied || !s.load(k) {
		return r
	}
	l := &s.level
	if s.engine.Follows(k.id) {
		l = l.Clone()
		s.engine.ComponentLevel(k.id, l)
	}
	s.engine.Level(s.part, l)
	return r
}

// decide has the engine decide what is to be decided, and sends what follows.
func (s *side) decide() {
	for more := true; more; {
		var out []targeting.Decision
		out, more = s.engine.Decide(s.now, 1<<30)
		for i := range out {
			d := &out[i]
			if d.Allots != nil {
				s.later(due{at: s.now + hop, event: d.Allots})
			}
			k := s.skus[d.Target.SKU]
			c := k.cell(d.Target.Channel)
			if c == nil {
				continue
			}
			switch w := d.Target.Write; {
			case w == nil:
				c.booked, c.target = false, d.Target.Quantity
			case w.ID == "":
				c.booked = true
			default:
				c.booked = true
				c.granted = sending{w.ID, w.Operation, w.Quantity, w.Delta, w.Expected, s.now}
			}
			s.send(k, c)
		}
		for _, e := range s.engine.Events() {
			s.later(due{at: s.now + hop, event: e})
		}
		for _, x := range s.engine.Kept() {
			if s.engine.Follows(x.ID()) {
				y := due{at: s.now + hop, sku: s.skus[x.ID()]}
				if x.Books().Phase() != escrow.Pooled {
					snapshot := x.Books().Snapshot()
					y.books = &snapshot
				}
				s.later(y)
			}
		}
	}
}

func (s *side) later(x due) {
	s.seq++
	x.seq = s.seq
	heap.Push(&s.due, x)
}

// send sends what is to be written to a cell next, when no write is under way: what was granted, or a target that the channel is believed not to show.
func (s *side) send(k *sku, c *cell) {
	if c.sent.operation != write.UnspecifiedOperation {
		return
	}
	believed := max(0, c.belief)
	switch {
	case c.granted.id != "":
		c.sent, c.granted = c.granted, sending{}
	case c.booked || believed == c.target:
		return
	case c.operation == write.Absolute:
		c.sent = sending{operation: write.Absolute, quantity: c.target, at: s.now}
	default:
		c.sent = sending{operation: write.Delta, delta: c.target - believed, at: s.now}
	}
	if c.sent.operation == write.Read {
		c.counts.Reads++
	} else {
		c.counts.Writes++
	}
	delay, ok := s.o.Delays[c.channel]
	if !ok {
		delay = DefaultDelay
	}
	s.later(due{at: s.now + delay.Microseconds(), sku: k, channel: c.channel})
}

// land has the write under way take effect, and be acknowledged.
func (s *side) land(k *sku, c *cell) {
	w := c.sent
	c.sent = sending{}
	r := write.Result{WriteID: w.id, SKU: k.id, Channel: c.channel, ExternalID: k.id, Operation: w.operation, Quantity: w.quantity, Delta: w.delta, Expected: w.expected,
		Outcome: write.Applied, Attempts: 1, DecidedAt: w.at, SentAt: w.at, AckedAt: s.now}
	tell := func() {
		r.Shown, r.ShownKnown, r.ShownAt = c.shown, true, s.now
		c.belief, c.set = c.shown, s.now
	}
	switch {
	case w.operation == write.Delta:
		c.shown, c.belief = max(0, c.shown+w.delta), max(0, c.belief+w.delta)
	case w.operation == write.Read:
		tell()
	case w.operation == write.CompareAndSet && c.shown != w.expected:
		r.Outcome, r.ErrorCode = write.Refused, escrow.Stale
		tell()
	default:
		c.shown, c.belief, c.set = w.quantity, w.quantity, s.now
	}
	s.engine.Result(s.part, &r)
	s.send(k, c)
}

// sell has a recorded sale happen.
func (s *side) sell(x *entry) {
	k := s.skus[x.SKU]
	n := s.row(x.Channel, k)
	var c *cell
	if !x.component() { // of a bundle whose own record is not in the window: taken then
		c = k.cell(x.Channel)
	}
	_, unheld := s.refused[hold{x.ReservationID, x.SKU}]
	switch {
	case x.ReservationID != "" && !unheld: // its units are held for it: nothing is promised anew
		if c != nil {
			c.shown = max(0, c.shown-x.Quantity)
		}
	case unheld, !n.Unwritten && !x.component() && (c == nil || c.shown < x.Quantity):
		n.LostSales++
		n.Lost += x.Quantity
		l := lineOf(x)
		s.lost[l] = struct{}{}
		l.channel = ""
		s.lost[l] = struct{}{}
		return
	case c != nil:
		c.shown -= x.Quantity
	}
	n.Sales++
	n.Units += x.Quantity
	over := s.take(k, x)
	for _, part := range x.parts {
		over += s.take(s.skus[part.SKU], part)
	}
	if over > 0 {
		n.OversoldSales++
		n.Oversold += over
	}
}

// take has units of a SKU sold, and says how many were not there.
func (s *side) take(k *sku, x *entry) (over event.Units) {
	if x.ReservationID != "" || x.Bundle == x.SKU { // held for it; or a bundle, which has no stock
		return 0
	}
	there := -k.unseen
	if s.load(k) {
		there -= s.level.Unassigned
		for i := range s.level.Locations {
			l := &s.level.Locations[i]
			there += l.OnHand - l.Committed - l.Held
		}
	}
	k.unseen += x.Quantity
	return max(0, x.Quantity-max(0, there))
}

// see has the ledger apply an event.
func (s *side) see(x *entry) {
	if x.Kind == event.OrderWatermarkPassed {
		s.engine.Watermark(s.part, &order.Watermark{Channel: x.Channel, Until: x.until})
		return
	}
	if s.follows(x) {
		if x.Kind != event.SaleRecorded { // which is counted as lost
			s.out.Skipped++
		}
		return
	}
	k := s.skus[x.SKU]
	var c *cell
	if !x.component() {
		c = k.cell(x.Channel)
	}
	switch {
	case x.Kind == event.SaleRecorded:
		if x.ReservationID == "" && x.Bundle != x.SKU {
			k.unseen -= x.Quantity
		}
		if c != nil && x.sold > c.set { // else the number was set since
			c.belief -= x.Quantity
		}
	case x.Kind == event.SaleCancelled && x.RestockedByChannel && c != nil:
		c.shown += x.Quantity
		c.belief += x.Quantity
	}
	r := s.apply(k, &x.Event)
	if x.Kind == event.ReservationRequested && r.Decided && k.fold.Decision().State == reservation.Refused {
		s.refused[hold{x.ReservationID, x.SKU}] = struct{}{}
	}
}

// follows says whether an event is of a lost sale.
func (s *side) follows(x *entry) bool {
	if x.OrderID == "" {
		return false
	}
	switch x.Kind {
	case event.SaleRecorded, event.SaleCancelled, event.SaleAssigned, event.SaleReassigned, event.ShipmentConfirmed, event.ReturnReceived:
		_, ok := s.lost[lineOf(x)]
		return ok
	}
	return false
}

func (s *side) result() Result {
	for _, r := range s.rows {
		if r.Sales+r.LostSales+r.Writes+r.Reads > 0 {
			s.out.Rows = append(s.out.Rows, *r)
		}
	}
	slices.SortFunc(s.out.Rows, inOrder)
	return s.out
}

// due is what happens at a time: an event that Onhand wrote itself reaches the ledger, the books of a component the owner of its bundle, a write its channel.
type due struct {
	at, seq int64
	event   *event.Event
	sku     *sku
	books   *escrow.Snapshot
	channel string // of a write
}

// dues is a heap by time, then by when they were set.
type dues []due

func (h dues) Len() int { return len(h) }
func (h dues) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].at, h[j].at), cmp.Compare(h[i].seq, h[j].seq)) < 0
}
func (h dues) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for package heap.
func (h *dues) Push(x any) { *h = append(*h, x.(due)) }

// Pop is for package heap.
func (h *dues) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = due{}
	*h = old[:len(old)-1]
	return x
}
