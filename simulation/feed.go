package simulation

import (
	"github.com/onhand/onhand/stock/event"
)

// logged is one record of stock.events. A kind of zero is a watermark.
type logged struct {
	kind       event.Kind
	restocked  bool
	sku        uint16
	channel    uint16
	units      int32
	ref        int32 // want, or move
	occurred   int64 // watermark: until
	receivedAt int64
	sequence   int64  // of a change of an allotment
	bundle     uint16 // what happened to it, by number from 1; 0 for none
	part       uint8  // of a bundle: which component's event it is, from 1; 0 for the bundle's own
	attempt    uint8  // of a claim: how often it was asked before; of a sale: that plus one when its units were claimed, else 0
}

// append writes a record to the log, in the partition of its SKU.
func (w *world) append(l logged) {
	if w.poll != nil {
		w.poll.take(&l)
		return
	}
	if w.down[ingest] { // whoever told it, tells again
		at := w.now + second + w.r.below(5*second)
		switch l.kind {
		case event.ReceiptReceived, event.StockCounted:
			w.add(happening{at: at, kind: moveHeard, a: l.ref, b: l.units})
		case event.ReturnReceived:
			w.add(happening{at: at, kind: returnHeard, a: l.ref, b: l.units})
		}
		return
	}
	if k := w.sc.kitOf(l.sku); k >= 0 {
		w.expand(k, l)
		return
	}
	w.appendTo(int(l.sku)%len(w.parts), l)
}

func (w *world) appendTo(p int, l logged) {
	l.receivedAt = w.now
	w.parts[p].log = append(w.parts[p].log, l)
	w.wakeProjector(p)
}

// webhook is a channel telling of one order. One that ingest cannot take now is tried again, once.
func (w *world) webhook(ch, at int) {
	if w.down[ingest] {
		if m := &w.markets[ch]; m.r.chance(500_000) {
			w.add(happening{at: w.now + 10*second + m.r.below(60*second), kind: webhookArrives, a: int32(at), c: uint16(ch)})
		}
		return
	}
	w.heard(ch, &w.markets[ch].changes[at])
}

// heard is an order or a cancellation that reaches ingest.
func (w *world) heard(ch int, c *change) {
	x := &w.sc.wants[c.want]
	l := logged{kind: event.SaleRecorded, sku: x.sku, channel: uint16(ch), units: c.units, ref: c.want, occurred: c.at}
	l.restocked = w.markets[ch].restocks // of a sale: would be, were it cancelled
	l.attempt = c.claimed
	if c.cancelled {
		l.kind = event.SaleCancelled
	}
	w.append(l)
}

// sweepReads is the connector reading a channel's order API from where it was last.
func (w *world) sweepReads(ch int) {
	m := &w.markets[ch]
	if inside(m.outages, w.now) || inside(m.blackouts, w.now) || inside(m.storms, w.now) && m.r.chance(700_000) || m.r.chance(5_000) {
		w.add(happening{at: w.now + 2*second + m.r.below(10*second), kind: sweepReads, c: uint16(ch)})
		return
	}
	m.until = m.clock(w.now) - m.lag
	n := m.swept
	for n < len(m.changes) && m.changes[n].at <= m.until {
		n++
	}
	m.sweepTo = n
	w.add(happening{at: w.now + m.r.skewed(600*millisecond, 256), kind: sweepEnds, c: uint16(ch)})
}

// sweepEnds is the connector handing on what it read, and then how far it is.
func (w *world) sweepEnds(ch int) {
	m := &w.markets[ch]
	if w.down[ingest] {
		w.add(happening{at: w.now + 2*second + m.r.below(5*second), kind: sweepEnds, c: uint16(ch)})
		return
	}
	for ; m.swept < m.sweepTo; m.swept++ {
		w.heard(ch, &m.changes[m.swept])
	}
	for p := range w.parts {
		w.appendTo(p, logged{channel: uint16(ch), occurred: m.until})
	}
	w.add(happening{at: w.now + m.sweep/2 + m.r.below(m.sweep), kind: sweepReads, c: uint16(ch)})
}
