package simulation

import (
	"strconv"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/reservation"
)

// A claim channel shows no number: for each buyer it asks for a reservation, sells if the ledger grants it, and tells of the order as every channel does. Now and then a buyer changes
// the cart, so that the shop gives the units back and asks again. A shop waits for its answer as long as it takes.

const (
	claimFor    = 15 * minute // how long a reservation holds
	cartChanges = 100_000     // buyers who change the cart, per million
	mostAsked   = 3           // times that a shop asks for one buyer
)

// claims says that the channel asks before it sells. Without Onhand there is nobody to ask.
func (w *world) claims(ch int) bool { return w.markets[ch].kind == claiming && w.poll == nil }

// reservation is the id of a buyer's reservation.
func (w *world) reservation(want int32, attempt uint8) string {
	return "r" + strconv.Itoa(int(want)) + "." + string(rune('0'+attempt))
}

// ask has a shop ask for the units of a buyer.
func (w *world) ask(want int32, attempt uint8, units int32) {
	m := &w.markets[w.sc.wants[want].channel]
	w.add(happening{at: w.now + 20*millisecond + m.r.wait(50*millisecond), kind: claimAsked, a: want, b: units, c: uint16(attempt)})
}

// claimAsked is the request at ingest.
func (w *world) claimAsked(want, units int32, attempt uint8) {
	x := &w.sc.wants[want]
	if w.down[ingest] {
		w.add(happening{at: w.now + second + w.r.below(2*second), kind: claimAsked, a: want, b: units, c: uint16(attempt)})
		return
	}
	w.append(logged{kind: event.ReservationRequested, sku: x.sku, channel: x.channel, units: units, ref: want, occurred: w.now, attempt: attempt})
}

// decided sends the ledger's answer to the shop.
func (w *world) decided(l *logged, d *reservation.Decision) {
	granted := int32(0)
	if d.State == reservation.Held {
		granted = l.units
	}
	w.add(happening{at: w.now + 5*millisecond + w.r.wait(30*millisecond), kind: claimAnswered, a: l.ref, b: granted<<16 | int32(max(0, min(d.Available, 1<<15-1))), c: uint16(l.attempt)})
}

// claimAnswered has the shop sell what was granted. It asks for what there is when the buyer takes fewer.
func (w *world) claimAnswered(want, granted, available int32, attempt uint8) {
	x := &w.sc.wants[want]
	m := &w.markets[x.channel]
	switch {
	case granted > 0 && attempt == 0 && m.r.chance(cartChanges):
		w.add(happening{at: w.now + second + m.r.wait(10*second), kind: claimReturned, a: want, b: granted})
	case granted > 0:
		w.take(int(x.channel), want, granted, attempt+1)
	case x.fewer && available > 0 && attempt+1 < mostAsked:
		w.ask(want, attempt+1, min(available, int32(x.units)))
	default:
		w.res.LostSales++
		w.res.LostUnits += int64(x.units)
	}
}

// claimReturned has a shop give units back, and ask for them again.
func (w *world) claimReturned(want, units int32) {
	x := &w.sc.wants[want]
	if w.down[ingest] {
		w.add(happening{at: w.now + second + w.r.below(2*second), kind: claimReturned, a: want, b: units})
		return
	}
	w.append(logged{kind: event.ReservationReleased, sku: x.sku, channel: x.channel, units: units, ref: want, occurred: w.now})
	w.ask(want, 1, units)
}

// allots has the allocator write a change of an allotment, unless it crashes first.
func (w *world) allots(e *event.Event) {
	w.add(happening{at: w.now + 6*millisecond + w.r.wait(4*millisecond), kind: allotmentWritten, a: int32(len(w.changes))})
	w.changes = append(w.changes, *e)
}

func (w *world) allotmentWritten(i int) {
	e := &w.changes[i]
	if w.down[allocator] {
		return // whoever loads the books writes it again
	}
	sku := w.number(e.SKU)
	w.appendTo(sku%len(w.parts), logged{kind: e.Kind, sku: uint16(sku), channel: uint16(w.channelNumber(e.Channel)), units: int32(e.Quantity), ref: int32(sku), occurred: e.OccurredAt, sequence: e.Sequence})
}
