package ledger

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/reservation"
)

// HoldMemory is how long a reservation that ended, or was refused, is remembered, by record time: for so long a repeat of its request is answered the same.
const HoldMemory = time.Hour

// hold is one SKU's part of a reservation that was requested, and what became of it.
type hold struct {
	reservation, sku, channel, peer string

	state     reservation.State
	asked     Units
	committed Units
	shares    []share // what is held, by location
	scope     string
	expires   int64
	decideBy  int64
	parts     int64
	hash      int64
	ended     int64 // record time; 0 while units are held
	bucket    int64 // of its newest record in the journal
	watched   int64 // when it is to be looked at: the entry of holds.due that counts
}

func (h *hold) units() (n Units) {
	for _, x := range h.shares {
		n += x.units
	}
	return n
}

// deadline is when something has to become of an open hold: it is decided, or it ends.
func (h *hold) deadline() int64 {
	if h.state == reservation.Tentative {
		return h.decideBy
	}
	return h.expires
}

// holds is the reservations of a partition by name and SKU, with what comes next of them.
type holds struct {
	by    map[string]*hold // reservation, a zero byte, SKU
	ended []*hold          // in the order they ended, to be forgotten
	due   dueHeap          // of those that are open; entries that are not their hold's watched are out of date
}

// dueAt is a moment at which a hold is to be looked at.
type dueAt struct {
	at int64
	h  *hold
}

type dueHeap []dueAt

func (d dueHeap) Len() int           { return len(d) }
func (d dueHeap) Less(i, j int) bool { return d[i].at < d[j].at }
func (d dueHeap) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }

// Push and Pop are container/heap's.
func (d *dueHeap) Push(x any) { *d = append(*d, x.(dueAt)) }

// Pop takes the last entry off.
func (d *dueHeap) Pop() any {
	old := *d
	x := old[len(old)-1]
	old[len(old)-1] = dueAt{}
	*d = old[:len(old)-1]
	return x
}

func (hs *holds) watch(h *hold) {
	if at := h.deadline(); h.state.Open() && h.watched != at {
		h.watched = at
		heap.Push(&hs.due, dueAt{at, h})
	}
}

// Due is a reservation's part whose time is up.
type Due struct {
	ReservationID, SKU, Channel string
	PeerSKU                     string // the SKU that decides for all; empty when there is one
	Tentative                   bool   // it was not confirmed in time; else it has expired
	ExpiresAt, RequestHash      int64
}

// Due calls f with each open part of a reservation whose time was up at a moment, Unix microseconds. What f does about it comes back as an event; a
// part for which none has come is told of again after a while. The state does not change.
func (p *Partition) Due(now int64, again time.Duration, f func(Due)) {
	for len(p.holds.due) > 0 && p.holds.due[0].at <= now {
		x := heap.Pop(&p.holds.due).(dueAt)
		h := x.h
		if !h.state.Open() || x.at != h.watched {
			continue
		}
		h.watched = now + again.Microseconds()
		heap.Push(&p.holds.due, dueAt{h.watched, h})
		f(Due{ReservationID: h.reservation, SKU: h.sku, Channel: h.channel, PeerSKU: h.peer, Tentative: h.state == reservation.Tentative, ExpiresAt: h.expires, RequestHash: h.hash})
	}
}

// holdKey is the key of a reservation's part, in scratch.
func (p *Partition) holdKey(reservation, sku string) []byte {
	p.scratch = append(append(append(p.scratch[:0], reservation...), 0), sku...)
	return p.scratch
}

// hold finds a part that is open or remembered.
func (p *Partition) hold(reservation, sku string) *hold {
	h := p.holds.by[string(p.holdKey(reservation, sku))]
	if h != nil && p.forgotten(h) {
		return nil
	}
	return h
}

func (p *Partition) forgotten(h *hold) bool {
	return h.ended != 0 && p.clock > h.ended+HoldMemory.Microseconds()
}

// Decision is the answer to the event that Apply was given last, when its Result says Decided. Its strings are its own.
func (p *Partition) Decision() *reservation.Decision { return &p.decision }

// decide fills in the answer to an event. h is nil for a reservation that is not known.
func (p *Partition) decide(h *hold, s *SKU, e *event.Event, offset int64, reason string) {
	p.decision = reservation.Decision{
		ReservationID: strings.Clone(e.ReservationID), SKU: strings.Clone(e.SKU), EventID: strings.Clone(e.ID), EventKind: e.Kind, SourceOffset: offset, Reason: reason,
	}
	d := &p.decision
	if h == nil {
		if s != nil {
			d.Available = s.Available()
		}
		if reason == "" {
			d.Reason = "no such reservation is known: it never was, or it ended long ago"
		}
		return
	}
	d.State, d.Quantity, d.Committed, d.ExpiresAt, d.Parts, d.PeerSKU, d.RequestHash, d.Channel = h.state, h.asked, h.committed, h.expires, h.parts, h.peer, h.hash, h.channel
	if h.state == reservation.Tentative {
		d.DecideBy = h.decideBy
	}
	for _, x := range h.shares {
		d.Held = append(d.Held, reservation.Units{Location: p.locations.names[x.loc], Units: x.units})
	}
	if s != nil {
		d.Available, _ = p.grantable(s, h.scope, h.channel)
	}
}

// offer is what a location can still sell.
type offer struct {
	loc   uint16
	units Units
}

func (h *shelf) available() Units {
	return Units(h.v[OnHand] - h.v[Committed] - h.v[Held] - h.v[Safety])
}

// offers lists what the locations of a scope can still sell: in its order, or by most first when it is empty.
func (p *Partition) offers(s *SKU, scope string, dst []offer) []offer {
	if scope == "" {
		for i := range s.shelves {
			dst = append(dst, offer{s.shelves[i].loc, s.shelves[i].available()})
		}
		slices.SortStableFunc(dst, func(a, b offer) int { return int(max(-1, min(1, b.units-a.units))) })
		return dst
	}
	for name := range strings.SplitSeq(scope, "\n") {
		loc, ok := p.locations.index[name]
		if !ok || slices.ContainsFunc(dst, func(o offer) bool { return o.loc == loc }) {
			continue
		}
		for i := range s.shelves {
			if s.shelves[i].loc == loc {
				dst = append(dst, offer{loc, s.shelves[i].available()})
			}
		}
	}
	return dst
}

// reach is what a request within a scope can be given: no more than its locations have, nor than the SKU has as a whole, for units that are sold and not
// assigned may leave from any of them.
func (p *Partition) reach(s *SKU, scope string) Units {
	p.offered = p.offers(s, scope, p.offered[:0])
	var sum, least Units
	for _, o := range p.offered {
		sum += max(0, o.units)
		least += o.units
	}
	if sum == 0 {
		sum = min(0, least)
	}
	return min(sum, s.Available())
}

// place chooses where units are held: the first location that has them all, or else as few as it takes in the order of the offers.
func (p *Partition) place(want Units) []share {
	for _, o := range p.offered {
		if o.units >= want {
			return []share{{o.loc, want}}
		}
	}
	var out []share
	for _, o := range p.offered {
		if n := min(want, o.units); n > 0 {
			out = append(out, share{o.loc, n})
			want -= n
		}
	}
	return out
}

// ofHold says that only the reservations of this file know the kind. A release may also be of a reservation that was placed as a fact.
func ofHold(k event.Kind) bool {
	return k >= event.ReservationRequested && k <= event.ReservationAborted
}

// ofReservation says that the event is about what a reservation holds. A bundle's own is not: its components are held.
func ofReservation(e *event.Event) bool { return e.ReservationID != "" && e.Bundle != e.SKU }

// reserve decides an event of a reservation. It reports false for a release of a reservation that was not requested. s is nil when no event has changed the
// SKU yet.
func (p *Partition) reserve(s *SKU, e *event.Event, lo, hi uint64, offset int64, at int64) (r Result, done bool) {
	h := p.hold(e.ReservationID, e.SKU)
	if h == nil && e.Kind == event.ReservationReleased {
		return Result{}, false
	}
	w := newRecord(lo, hi)
	reason := ""
	changes := false // of stock
	switch e.Kind {
	case event.ReservationRequested:
		if h == nil {
			h, reason = p.request(s, e)
			changes = h.state.Open()
		}
	case event.ReservationExtended:
		switch {
		case h == nil:
		case h.state != reservation.Held:
			reason = "it is " + h.state.String() + ": only what is held can be extended"
		default:
			h.expires = e.ExpiresAt
			p.holds.watch(h)
		}
	case event.ReservationConfirmed:
		switch {
		case h == nil:
		case h.state != reservation.Tentative:
			reason = "it was " + h.state.String() + " before"
		case h.hash != e.RequestHash:
			reason = "another request with the same id was made before"
		default:
			h.state = reservation.Held
			p.holds.watch(h)
		}
	case event.ReservationAborted:
		switch {
		case h == nil: // remembered, so that a request that comes late finds it
			h = &hold{reservation: strings.Clone(e.ReservationID), sku: strings.Clone(e.SKU), hash: e.RequestHash, channel: strings.Clone(e.Channel)}
			p.keepHold(h)
			p.end(h, reservation.Aborted)
		case h.state != reservation.Tentative:
			reason = "it was " + h.state.String() + " before"
		case h.hash != e.RequestHash:
			reason = "another request with the same id was made before"
		default:
			changes = true
			reason = "not every SKU was granted and confirmed in time"
		}
	case event.ReservationReleased:
		switch {
		case !h.state.Open():
			reason = "it was " + h.state.String() + " before"
		case e.ExpiresAt != 0 && (h.state != reservation.Held || h.expires != e.ExpiresAt):
			reason = "it was extended: it ends at another time"
		default:
			changes = true
		}
	}
	if changes {
		p.touch(s, e, offset, at)
		switch e.Kind {
		case event.ReservationRequested:
			for _, x := range h.shares {
				p.fill(s, classHold, x.loc, x.units)
			}
			p.claim(s, h.channel, h.units())
		case event.ReservationAborted:
			p.claim(s, h.channel, -p.take(s, h, h.units(), 0))
			p.end(h, reservation.Aborted)
		case event.ReservationReleased:
			q := e.Quantity
			if q == 0 {
				q = h.units()
			}
			var loc uint16
			if e.Location != "" {
				loc = p.locations.index[e.Location] // 0 when it is not known
			}
			back := p.take(s, h, q, loc)
			p.claim(s, h.channel, -back)
			r.Unknown = back < q
			switch {
			case h.units() > 0:
			case e.ExpiresAt != 0:
				p.end(h, reservation.Expired)
			case h.state == reservation.Tentative:
				p.end(h, reservation.Aborted)
			default:
				p.end(h, reservation.Released)
			}
		}
	} else {
		r.Outcome = Unchanged
	}
	if h != nil {
		p.appendHold(&w, h)
	} else {
		p.append(&w)
	}
	p.decide(h, s, e, offset, reason)
	r.Decided = true
	return r, true
}

// request decides a request: all of it, or nothing. Nothing of the SKU changes yet.
func (p *Partition) request(s *SKU, e *event.Event) (*hold, string) {
	h := &hold{
		reservation: strings.Clone(e.ReservationID), sku: strings.Clone(e.SKU), channel: strings.Clone(e.Channel), peer: strings.Clone(e.PeerSKU),
		asked: e.Quantity, scope: strings.Clone(e.Scope), expires: e.ExpiresAt, decideBy: e.DecideBy, parts: max(1, e.Parts), hash: e.RequestHash,
	}
	p.keepHold(h)
	var available Units
	var allotted bool
	if s != nil {
		available, allotted = p.grantable(s, h.scope, h.channel)
	}
	if p.items.find(p.key(classHold, e.SKU, e.ReservationID, "")) != nil {
		p.end(h, reservation.Refused)
		return h, "a reservation of this id was placed or released as a fact before: use another id"
	}
	if available < e.Quantity {
		p.end(h, reservation.Refused)
		if allotted {
			return h, fmt.Sprintf("%d units are allotted to %s and %d were asked for", max(0, available), h.channel, e.Quantity)
		}
		return h, fmt.Sprintf("%d units are available and %d were asked for", max(0, available), e.Quantity)
	}
	h.shares = p.place(e.Quantity)
	if h.state = reservation.Held; h.peer != "" {
		h.state = reservation.Tentative
	}
	p.holds.watch(h)
	return h, ""
}

// keepHold makes h known.
func (p *Partition) keepHold(h *hold) {
	if p.holds.by == nil {
		p.holds.by = make(map[string]*hold)
	}
	p.holds.by[string(p.holdKey(h.reservation, h.sku))] = h
}

// end closes a hold of which nothing is held any more.
func (p *Partition) end(h *hold, state reservation.State) {
	h.state, h.shares, h.ended = state, nil, p.clock
	p.holds.ended = append(p.holds.ended, h)
	p.forget()
}

// forget lets what ended long ago go. What is told does not depend on when it is called.
func (p *Partition) forget() {
	n := 0
	for n < len(p.holds.ended) && p.forgotten(p.holds.ended[n]) {
		h := p.holds.ended[n]
		if key := p.holdKey(h.reservation, h.sku); p.holds.by[string(key)] == h {
			delete(p.holds.by, string(key))
		}
		p.holds.ended[n] = nil
		n++
	}
	p.holds.ended = p.holds.ended[n:]
}

// take takes up to so many units out of what is held, at a location first, and returns how many there were.
func (p *Partition) take(s *SKU, h *hold, units Units, first uint16) (taken Units) {
	from := func(i int) {
		n := min(h.shares[i].units, units-taken)
		if n > 0 {
			h.shares[i].units -= n
			p.fill(s, classHold, h.shares[i].loc, -n)
			taken += n
		}
	}
	for i := range h.shares {
		if h.shares[i].loc == first {
			from(i)
		}
	}
	for i := range h.shares {
		from(i)
	}
	h.shares = slices.DeleteFunc(h.shares, func(x share) bool { return x.units == 0 })
	return taken
}

// sell takes what a reservation holds for a sale out of it, and says how much that was. The sale is a fact, and is recorded whatever is held.
func (p *Partition) sell(s *SKU, e *event.Event) (h *hold, taken Units, reason string) {
	h = p.hold(e.ReservationID, e.SKU)
	if h == nil {
		return nil, 0, "no such reservation is known: the sale is recorded without it"
	}
	if !h.state.Open() {
		return h, 0, fmt.Sprintf("it was %s before: the sale of %d units is recorded without it", h.state, e.Quantity)
	}
	var here uint16
	if e.Location != "" {
		here = p.locations.index[e.Location]
	}
	n := p.take(s, h, e.Quantity, here)
	h.committed += n
	if n < e.Quantity {
		reason = fmt.Sprintf("%d units of the sale go beyond what was held", e.Quantity-n)
	}
	if left := h.units(); left > 0 {
		reason = fmt.Sprintf("%d units are still held", left)
	} else {
		p.end(h, reservation.Committed)
	}
	return h, n, reason
}

// repeated answers an event that was applied before with how things stand now.
func (p *Partition) repeated(s *SKU, e *event.Event, offset int64) bool {
	if !ofReservation(e) || !ofHold(e.Kind) && e.Kind != event.ReservationReleased && e.Kind != event.SaleRecorded {
		return false
	}
	h := p.hold(e.ReservationID, e.SKU)
	if h == nil && e.Kind == event.ReservationReleased {
		return false
	}
	p.decide(h, s, e, offset, "")
	return true
}

// appendHold appends a record with the whole of a hold as it is now: in the journal, the last one counts.
func (p *Partition) appendHold(w *record, h *hold) {
	h.bucket = p.bucket
	w.flags |= hasHold
	p.append(w)
	g := p.segment()
	b := g.Data
	for _, s := range []string{h.reservation, h.sku, h.channel, h.peer, h.scope} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	b = append(b, byte(h.state))
	for _, v := range []int64{int64(h.asked), int64(h.committed), h.expires, h.decideBy, h.parts, h.hash, h.ended} {
		b = binary.AppendVarint(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(h.shares)))
	for _, x := range h.shares {
		b = appendShare(b, x)
	}
	g.Data = b
}

// carryHolds writes the holds whose newest record is in a bucket before limit once more, so that the journal can lose the old ones.
func (p *Partition) carryHolds(limit int64) {
	p.forget()
	var old []*hold
	for _, h := range p.holds.by {
		if h.bucket < limit && !p.forgotten(h) {
			old = append(old, h)
		}
	}
	slices.SortFunc(old, func(a, b *hold) int {
		if c := compare(a.reservation, b.reservation); c != 0 {
			return c
		}
		return compare(a.sku, b.sku)
	})
	for _, h := range old {
		p.appendHold(new(record), h)
	}
}

// hold reads what appendHold wrote.
func (r *Restoring) hold(d *decoder, bucket int64) {
	p := r.p
	h := &hold{bucket: bucket}
	for _, s := range []*string{&h.reservation, &h.sku, &h.channel, &h.peer, &h.scope} {
		*s = d.text()
	}
	h.state = reservation.State(d.byte())
	for _, v := range []*int64{(*int64)(&h.asked), (*int64)(&h.committed), &h.expires, &h.decideBy, &h.parts, &h.hash, &h.ended} {
		*v = d.varint()
	}
	n := d.uvarint()
	for range n {
		loc, units := d.uvarint(), d.varint()
		if d.bad || loc >= uint64(len(p.locations.names)) {
			d.bad = true
			return
		}
		h.shares = append(h.shares, share{uint16(loc), Units(units)})
	}
	if !d.bad {
		p.keepHold(h)
	}
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// restored sets up what is kept beside the holds.
func (hs *holds) restored() {
	for _, h := range hs.by {
		if h.ended != 0 {
			hs.ended = append(hs.ended, h)
		} else {
			hs.watch(h)
		}
	}
	slices.SortFunc(hs.ended, func(a, b *hold) int { return int(max(-1, min(1, a.ended-b.ended))) })
}

// Reserved is the number of reservations' parts that are open, and the units they hold, for those who check the buckets against them.
func (p *Partition) Reserved() (parts int, units Units) {
	for _, h := range p.holds.by {
		if h.state.Open() {
			parts++
			units += h.units()
		}
	}
	return parts, units
}
