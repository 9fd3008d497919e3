package ledger

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/reservation"
)

// Outcome says what became of an event.
type Outcome uint8

// The outcomes.
const (
	Applied   Outcome = iota
	Duplicate         // its id was applied before, within the window: nothing changed
	Passed            // an order watermark: it changes no stock, and is to be passed on after the levels of all events before it
	Unchanged         // it is about a reservation and was applied, and no stock changed: Partition.Decision says what was decided
	Rejected          // it cannot be applied: nothing changed, and Result.Fault says why
)

// Result is what Apply did.
type Result struct {
	Outcome  Outcome
	Fault    Fault // when Rejected
	Oversold Units // units that this event left without stock: how far it took the SKU below zero, or further below
	Decided  bool  // it is about a reservation: Partition.Decision is the answer, also to a repeat
	Unknown  bool  // it cancels, ships, assigns or releases more than is known: applied as far as stock goes, remembered if the rest may follow
}

// buckets is how many buckets the window is cut into; one more, the current one, is being filled.
const buckets = 8

// Partition is the fold of one partition of stock.events.
type Partition struct {
	opt       Options
	width     int64 // of a bucket, microseconds
	skus      map[string]*SKU
	locations names // index 0 is no location: the unassigned pool
	channels  names
	clock     int64 // greatest record time so far
	bucket    int64 // of clock
	oldest    int64 // oldest bucket that is live
	seen      seenSet
	items     itemTable
	holds     holds
	decision  reservation.Decision
	offered   []offer

	changed  []*SKU
	journal  []Segment
	dropped  []int64
	digest   [DigestBuckets]uint64 // as of the last call of Digest
	digested [DigestBuckets]bool   // sums that changed since Flushed

	ahead    [Lookahead]foreseen
	foreseen []foreseen // of ahead: what the last call of Ahead told of
	next     int        // of foreseen
	lineNow  uint64     // key of the order line of the event that is applied; 0 when it was not foreseen
	peeked   uint64     // so that no reading of Ahead is left out as useless

	scratch []byte
	work    []settled
	byHash  map[uint64]*SKU // while restoring
}

// names gives strings small numbers.
type names struct {
	names  []string
	hashes []uint64 // nameHash of each
	index  map[string]uint16
	last   uint16 // the number that was asked for last: most events name what the one before named
}

func newNames(first ...string) names {
	n := names{index: make(map[string]uint16)}
	for _, s := range first {
		n.of(s)
	}
	return n
}

const maxNames = 1 << 16

// of is the number of s, made when it is new. The caller has made sure that there is room.
func (n *names) of(s string) uint16 {
	if int(n.last) < len(n.names) && n.names[n.last] == s {
		return n.last
	}
	if i, ok := n.index[s]; ok {
		n.last = i
		return i
	}
	s = strings.Clone(s)
	i := uint16(len(n.names))
	n.names = append(n.names, s)
	n.hashes = append(n.hashes, nameHash(s))
	n.index[s] = i
	return i
}

// room reports whether s has a number or can have one.
func (n *names) room(s string) bool {
	if len(n.names) < maxNames-2 { // two new ones fit
		return true
	}
	_, ok := n.index[s]
	return ok
}

// New is the fold of nothing. The options must be valid.
func New(o Options) *Partition {
	o = o.withDefaults()
	return &Partition{
		opt: o, width: o.Window.Microseconds() / buckets, skus: make(map[string]*SKU), locations: newNames(""), channels: newNames(),
	}
}

// Len is the number of SKUs.
func (p *Partition) Len() int { return len(p.skus) }

// SKUs calls f with each SKU, in no order, until it returns false.
func (p *Partition) SKUs(f func(*SKU) bool) {
	for _, s := range p.skus {
		if !f(s) {
			return
		}
	}
}

// SKU is the state of one SKU, or nil when no event was applied to it.
func (p *Partition) SKU(name string) *SKU { return p.skus[name] }

// Clock is the greatest record time so far, Unix microseconds.
func (p *Partition) Clock() int64 { return p.clock }

// Remembered is the number of event ids and of open items in memory.
func (p *Partition) Remembered() (ids, items int) { return p.seen.n, p.items.n }

// Locations is the name by index; index 0 is empty. It only grows. Do not change it.
func (p *Partition) Locations() []string { return p.locations.names }

// Channels is the name by index. It only grows. Do not change it.
func (p *Partition) Channels() []string { return p.channels.names }

// Changed is the SKUs that changed since Flushed, each once, in the order they first did.
func (p *Partition) Changed() []*SKU { return p.changed }

// Journal is what to append to each bucket of the journal since Flushed, in order. Valid until the next Apply.
func (p *Partition) Journal() []Segment { return p.journal }

// Dropped is the buckets of the journal that ended since Flushed: they are to be deleted.
func (p *Partition) Dropped() []int64 { return p.dropped }

// Flushed tells that all changes have been stored.
func (p *Partition) Flushed() {
	for _, s := range p.changed {
		s.flushed()
	}
	p.changed, p.dropped = p.changed[:0], p.dropped[:0]
	for i := range p.journal {
		p.journal[i].Data = p.journal[i].Data[:0]
	}
	p.journal = p.journal[:0]
	clear(p.digested[:])
}

// Apply folds one event. The offset is its record's, and at its record's time in Unix microseconds; a time before an earlier record's counts as that
// one's. Nothing of e is kept.
func (p *Partition) Apply(e *event.Event, offset, at int64) Result {
	if f := Check(e, p.opt.MaxQuantity); f.Reason != "" {
		return Result{Outcome: Rejected, Fault: f}
	}
	if e.Kind == event.OrderWatermarkPassed {
		return Result{Outcome: Passed}
	}
	if !e.Checked && !p.opt.CheckedFrom.IsZero() && at >= p.opt.CheckedFrom.UnixMicro() {
		return Result{Outcome: Rejected, Fault: Fault{ReasonUnchecked, "checked",
			fmt.Sprintf("%s: it was not written by ingest, which holds events against the catalog: send it through the API", e.ID)}}
	}
	if !p.locations.room(e.Location) || !p.locations.room(e.ToLocation) || !p.channels.room(e.Seller()) {
		return Result{Outcome: Rejected, Fault: Fault{ReasonTooMany, "",
			fmt.Sprintf("%s: it names one location or channel more than the %d a partition can hold: are these names, or ids made up for each event?", e.ID, maxNames-2)}}
	}
	p.advance(at)
	seen := p.saw(offset)
	lo, hi, s := seen.lo, seen.hi, seen.sku
	if lo|hi == 0 {
		p.scratch = append(p.scratch[:0], e.ID...)
		lo, hi = hash128(p.scratch)
	}
	if s == nil {
		s = p.skus[e.SKU]
	}
	p.lineNow = seen.line
	if e.Kind == event.StockCounted && !p.seen.has(lo, hi) { // a repeat is a repeat, however old its count
		if f := p.checkCount(s, e); f.Reason != "" {
			return Result{Outcome: Rejected, Fault: f}
		}
	}
	if !p.seen.add(lo, hi, p.bucket) {
		return Result{Outcome: Duplicate, Decided: p.repeated(s, e, offset)}
	}
	if e.ReservationID != "" && (ofHold(e.Kind) || e.Kind == event.ReservationReleased) {
		if r, done := p.reserve(s, e, lo, hi, offset, at); done {
			return r
		}
	}
	if s == nil {
		name := strings.Clone(e.SKU)
		s = &SKU{name: name, hash: nameHash(name), fresh: true}
		p.skus[name] = s
	}
	p.touch(s, e, offset, at)

	before := s.cover
	w := newRecord(lo, hi)
	var h *hold
	reason := ""
	taken := Units(0) // of a sale: what was held for it, and left the channel's allotment when it was
	reserved := ofReservation(e) && e.Kind == event.SaleRecorded
	if reserved {
		h, taken, reason = p.sell(s, e)
	}
	if len(s.allotments) > 0 && e.Kind == event.SaleRecorded {
		switch {
		case e.ReservationID == "" || e.Bundle == "":
			p.claim(s, e.Seller(), e.Quantity-taken)
		case reserved: // a bundle's allotment is for what its channels sell unseen: what was held never was of it
			p.claim(s, e.Channel, e.Quantity-taken)
		}
	}
	r := Result{Unknown: p.effect(s, e, &w)}
	if h == nil {
		p.append(&w)
	} else {
		p.appendHold(&w, h)
	}
	if reserved {
		p.decide(h, s, e, offset, reason)
		r.Decided = true
	}
	if s.cover < 0 && s.cover < before && e.Kind != event.SafetyStockSet {
		r.Oversold = min(before, 0) - s.cover
	}
	return r
}

// touch marks a SKU as changed by an event.
func (p *Partition) touch(s *SKU, e *event.Event, offset, at int64) {
	if !s.changed {
		s.changed = true
		p.changed = append(p.changed, s)
	}
	received := e.ReceivedAt
	if received <= 0 {
		received = at
	}
	if s.oldest == 0 || received < s.oldest {
		s.oldest = received
	}
	s.version++
	s.offset, s.receivedAt, s.kind = offset, received, e.Kind
	s.eventID = append(s.eventID[:0], e.ID...)
}

// effect changes the buckets, and reports whether the event speaks of more units than are open.
func (p *Partition) effect(s *SKU, e *event.Event, w *record) (unknown bool) {
	q := e.Quantity
	if e.Bundle == e.SKU { // what moves is stock of its components, by events of their own
		switch { // all that was sold so also counts for the bundle as a whole: by that its owner knows what its components' logs will say
		case e.Kind == event.SaleRecorded:
			p.count(&s.sold, e.Channel, q, e.OccurredAt)
			if e.ReservationID == "" { // else its units were held, and no component's log counts it as the bundle's
				p.count(&s.sold, event.BundleChannel(s.name), q, e.OccurredAt)
			}
		case e.Kind == event.SaleCancelled && e.RestockedByChannel:
			p.count(&s.restored, e.Channel, q, 0)
			p.count(&s.restored, event.BundleChannel(s.name), q, 0)
		}
		return false
	}
	var here, there uint16
	if e.Location != "" {
		here = p.locations.of(e.Location)
		p.shelf(s, here) // every location that is named has a row, so that the rows do not depend on the order of events
	}
	if e.ToLocation != "" && kindNeeds[e.Kind]&needToLocation != 0 {
		there = p.locations.of(e.ToLocation)
		p.shelf(s, there)
	}
	switch e.Kind {
	case event.SaleRecorded:
		if e.Bundle == "" || e.ReservationID == "" {
			p.count(&s.sold, e.Seller(), q, e.OccurredAt)
		}
		p.settle(s, w, p.line(e), classSale, share{here, q}, share{})
	case event.SaleCancelled:
		if e.RestockedByChannel {
			p.count(&s.restored, e.Seller(), q, 0)
			if e.Bundle != "" { // the bundle is on sale again, and so the units that back it are the bundle's again
				p.claim(s, e.Seller(), -q)
			}
		}
		return p.settle(s, w, p.line(e), classSale, share{here, -q}, share{})
	case event.SaleAssigned:
		p.settle(s, w, p.line(e), classSale, share{0, -q}, share{here, q})
	case event.SaleReassigned:
		p.settle(s, w, p.line(e), classSale, share{here, -q}, share{there, q})
	case event.ShipmentConfirmed:
		p.move(s, here, -q, e, w)
		return p.settle(s, w, p.line(e), classSale, share{here, -q}, share{})
	case event.ReturnReceived:
		switch e.Disposition {
		case event.Restock:
			p.move(s, here, q, e, w)
		case event.Refurbish, event.Quarantine:
			p.shelf(s, here).add(Unsellable, q)
		}
	case event.InboundExpected:
		p.settle(s, w, p.key(classInbound, s.name, e.Reference, ""), classInbound, share{here, q}, share{})
	case event.InboundCancelled:
		return p.settle(s, w, p.key(classInbound, s.name, e.Reference, ""), classInbound, share{here, -q}, share{})
	case event.ReceiptReceived:
		p.move(s, here, q, e, w)
		if e.Reference != "" { // a receipt that names no purchase order fulfils none
			p.settle(s, w, p.key(classInbound, s.name, e.Reference, ""), classInbound, share{here, -q}, share{})
		}
	case event.StockAdjusted:
		p.move(s, here, q, e, w)
	case event.StockCounted:
		p.recount(s, here, e)
	case event.TransferShipped:
		p.move(s, here, -q, e, w)
		p.settle(s, w, p.key(classTransfer, s.name, e.Reference, ""), classTransfer, share{there, q}, share{})
	case event.TransferReceived:
		p.move(s, here, q, e, w)
		p.settle(s, w, p.key(classTransfer, s.name, e.Reference, ""), classTransfer, share{here, -q}, share{})
	case event.ReservationPlaced:
		p.settle(s, w, p.key(classHold, s.name, e.ReservationID, ""), classHold, share{here, q}, share{})
	case event.ReservationReleased:
		key := p.key(classHold, s.name, e.ReservationID, "")
		if q == 0 {
			w.closed = true
			unknown = p.items.find(key) == nil
			p.settle(s, w, key, classHold, share{}, share{})
			return unknown
		}
		return p.settle(s, w, key, classHold, share{here, -q}, share{})
	case event.AllotmentChanged, event.AllotmentEnded:
		p.allot(s, e)
	case event.SafetyStockSet:
		h := p.shelf(s, here)
		s.safety += q - Units(h.v[Safety])
		h.set(Safety, int64(q))
	}
	return false
}

func (p *Partition) count(ts *[]tally, channel string, q Units, at int64) {
	t := p.tally(ts, p.channels.of(channel))
	t.units += q
	if at = max(at, 0); !t.dirty || at < t.earliest {
		t.earliest = at
	}
	t.dirty = true
}

// when is the moment an event's units moved: its source's clock, but never after its record was appended.
func (p *Partition) when(e *event.Event) int64 {
	at := e.OccurredAt
	if at <= 0 {
		at = e.ReceivedAt
	}
	if at <= 0 || at > p.clock {
		at = p.clock
	}
	return at
}

// move changes on hand, unless the newest count already has it.
func (p *Partition) move(s *SKU, loc uint16, units Units, e *event.Event, w *record) {
	at := p.when(e)
	h := p.shelf(s, loc)
	if at <= h.v[CountedAsOf] {
		return
	}
	h.add(OnHand, units)
	s.cover += units
	h.set(MovedAt, max(at, h.v[MovedAt]))
	p.remember(h, move{at, units})
	w.move(s.hash, loc, units, at)
}

// remember keeps the move for later counts. What it forgets depends on the moves and the clock alone, never on when it is asked.
func (p *Partition) remember(h *shelf, m move) {
	if m.at <= h.v[CountsFrom] {
		return
	}
	if len(h.moves) == cap(h.moves) || len(h.moves) >= maxMoves {
		h.prune(p.clock - p.opt.CountWindow.Microseconds())
	}
	h.moves = append(h.moves, m)
	if len(h.moves) > maxMoves {
		h.set(CountsFrom, median(h.moves))
		h.prune(h.v[CountsFrom])
	}
}

// prune forgets the moves at or before a moment.
func (h *shelf) prune(until int64) {
	n := 0
	for _, m := range h.moves {
		if m.at > until {
			h.moves[n] = m
			n++
		}
	}
	h.moves = h.moves[:n]
}

// CountSlack is how far a counter's clock may be ahead of the record's: a count that speaks of a later moment is rejected.
const CountSlack = 5 * time.Minute

// median is the middle moment of the moves.
func median(moves []move) int64 {
	at := make([]int64, len(moves))
	for i, m := range moves {
		at[i] = m.at
	}
	slices.Sort(at)
	return at[len(at)/2]
}

// checkCount says whether a count can be corrected for what moved since the moment it speaks of.
func (p *Partition) checkCount(s *SKU, e *event.Event) Fault {
	if e.AsOf > p.clock+CountSlack.Microseconds() {
		return Fault{ReasonInvalid, "as_of", fmt.Sprintf("%s: as_of is more than five minutes after the count was received: check the counter's clock", e.ID)}
	}
	if s == nil {
		return Fault{}
	}
	loc, ok := p.locations.index[e.Location]
	if !ok {
		return Fault{}
	}
	for i := range s.shelves {
		h := &s.shelves[i]
		if h.loc != loc {
			continue
		}
		if e.AsOf < h.v[MovedAt] && (e.AsOf < p.clock-p.opt.CountWindow.Microseconds() || e.AsOf < h.v[CountsFrom]) {
			return Fault{ReasonCountTooOld, "as_of", fmt.Sprintf("%s: stock of %s at %s moved after the count's as_of, too long ago to correct for it: count again", e.ID, e.SKU, e.Location)}
		}
	}
	return Fault{}
}

// recount sets on hand to the count plus what moved after it. A count that speaks of an earlier moment than the newest one changes nothing.
func (p *Partition) recount(s *SKU, loc uint16, e *event.Event) {
	h := p.shelf(s, loc)
	if e.AsOf < h.v[CountedAsOf] {
		return
	}
	onHand := e.Quantity
	h.prune(e.AsOf)
	for _, m := range h.moves {
		onHand += m.units
	}
	s.cover += onHand - Units(h.v[OnHand])
	h.set(OnHand, int64(onHand))
	h.set(CountedAsOf, e.AsOf)
}

// advance moves the clock, and lets what is older than the window go.
func (p *Partition) advance(at int64) {
	if at <= p.clock {
		return
	}
	first := p.clock == 0
	p.clock = at
	b := at / p.width
	if b == p.bucket {
		return
	}
	p.bucket = b
	if first {
		p.oldest = b
		return
	}
	limit := b - buckets // the oldest bucket that stays
	if p.oldest >= limit {
		return
	}
	var tags uint16
	for old := p.oldest; old < limit && old < p.oldest+buckets+1; old++ {
		tags |= 1 << (uint64(old) & tagMask)
		p.dropped = append(p.dropped, old)
	}
	p.oldest = limit
	p.seen.drop(tags)
	p.carry(limit)
	p.carryHolds(limit)
}
