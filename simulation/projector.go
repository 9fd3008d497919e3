package simulation

import (
	"slices"
	"strconv"
	"unsafe"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

const shelfName = "main"

// part is one partition through all services: the topics as Kafka holds them, and the state of those who own it.
type part struct {
	log []logged // stock.events

	// ledger-projector
	ledger     *ledger.Partition
	folded     int
	journal    []ledger.Segment // as Redis keeps it
	projecting bool             // a turn is due

	// stock.levels, compacted: of what the allocator has not read all is there, of the rest the newest of each SKU
	levels    []*emitted
	levelBase int64 // offset of levels[0]
	newest    []*emitted
	spare     []*emitted

	marks    []mark   // channel.watermarks, from what the allocator has not read
	newestMk []mark   // by channel; until 0 is none
	writes   []report // channel.writes that the allocator has not read
	outbox   []report // on their way there
	lost     []int64  // by SKU: units that counts took from what is available
	ahead    []int64  // by SKU: units of cancellations that came before their sales
	read     int64    // offset in stock.levels up to which the allocator has read
	scratch  []byte
}

// emitted is one record of stock.levels, and what the checks want to know of it.
type emitted struct {
	ledger.Level
	lost, ahead int64
}

// mark is one record of channel.watermarks.
type mark struct {
	channel int
	until   int64
	levels  int64 // to be acted on by those who have read stock.levels up to here
}

func (w *world) wakeProjector(p int) {
	pt := &w.parts[p]
	if pt.projecting || w.down[projector] {
		return
	}
	pt.projecting = true
	w.add(happening{at: w.now + 2*millisecond + w.r.wait(4*millisecond), kind: projectorTurn, c: uint16(p)})
}

// project folds what is there, stores, and emits: a turn of ledger-projector.
func (w *world) project(p int) {
	pt := &w.parts[p]
	pt.projecting = false
	if w.down[projector] {
		return
	}
	var marks []mark
	for ; pt.folded < len(pt.log); pt.folded++ {
		l := &pt.log[pt.folded]
		if l.kind == event.Unspecified {
			marks = append(marks, mark{channel: int(l.channel), until: l.occurred})
			continue
		}
		e := w.event(pt, l)
		var before event.Units
		if l.kind == event.StockCounted {
			if s := pt.ledger.SKU(e.SKU); s != nil {
				before = s.Available()
			}
		}
		r := pt.ledger.Apply(&e, int64(pt.folded), l.receivedAt)
		if l.kind == event.StockCounted {
			pt.lost[l.sku] += max(0, int64(before-pt.ledger.SKU(e.SKU).Available()))
		}
		if r.Outcome == ledger.Rejected {
			w.fail("the ledger rejects %v of %s: %v", e.Kind, e.SKU, r.Fault)
			return
		}
		if r.Outcome == ledger.Applied {
			w.folded(pt, l)
		}
		if r.Decided && l.kind == event.ReservationRequested {
			w.decided(l, pt.ledger.Decision())
		}
		w.res.Events++
	}
	for _, s := range pt.ledger.Changed() {
		w.emit(pt, s)
	}
	w.store(pt)
	for _, m := range marks {
		m.levels = pt.levelBase + int64(len(pt.levels))
		pt.marks = append(pt.marks, m)
		if m.until > pt.newestMk[m.channel].until {
			pt.newestMk[m.channel] = m
		}
	}
	w.wakeAllocator()
}

// folded keeps track of cancellations that come before their sales: the two together change nothing, so the first one alone says too much.
func (w *world) folded(pt *part, l *logged) {
	const sale, cancellation = 1, 2
	switch l.kind {
	case event.SaleRecorded:
		w.known[l.ref] |= sale << (2 * l.part)
		if w.known[l.ref]>>(2*l.part)&cancellation != 0 && l.restocked {
			pt.ahead[l.sku] -= int64(l.units)
		}
	case event.SaleCancelled:
		w.known[l.ref] |= cancellation << (2 * l.part)
		if w.known[l.ref]>>(2*l.part)&sale == 0 && l.restocked {
			pt.ahead[l.sku] += int64(l.units)
		}
	}
}

// store is what the projector's script does in Redis.
func (w *world) store(pt *part) {
	for _, g := range pt.ledger.Journal() {
		if n := len(pt.journal); n > 0 && pt.journal[n-1].Bucket == g.Bucket {
			pt.journal[n-1].Data = append(pt.journal[n-1].Data, g.Data...)
		} else {
			pt.journal = append(pt.journal, ledger.Segment{Bucket: g.Bucket, Data: slices.Clone(g.Data)})
		}
	}
	pt.ledger.Flushed()
}

// emit appends the level of a SKU to stock.levels.
func (w *world) emit(pt *part, s *ledger.SKU) {
	var l *emitted
	if n := len(pt.spare); n > 0 {
		l, pt.spare = pt.spare[n-1], pt.spare[:n-1]
	} else {
		l = &emitted{}
	}
	i := w.number(s.Name())
	pt.ledger.Level(s, w.now, &l.Level)
	l.lost, l.ahead = pt.lost[i], pt.ahead[i]
	pt.levels = append(pt.levels, l)
}

// compact forgets levels that the allocator has read, but for the newest of each SKU.
func (pt *part) compact(read int64) {
	n := int(read - pt.levelBase)
	for _, l := range pt.levels[:n] {
		i := 0
		for _, c := range l.SKU[len("sku-"):] {
			i = i*10 + int(c-'0')
		}
		if old := pt.newest[i]; old != nil {
			pt.spare = append(pt.spare, old)
		}
		pt.newest[i] = l
	}
	pt.levels = append(pt.levels[:0], pt.levels[n:]...)
	pt.levelBase = read

}

// event makes the ledger's event of a record. Its strings are valid until the next call.
func (w *world) event(pt *part, l *logged) event.Event {
	e := event.Event{Kind: l.kind, SKU: w.skuNames[l.sku], Location: shelfName, Quantity: event.Units(l.units), OccurredAt: l.occurred, ReceivedAt: l.receivedAt}
	b := append(pt.scratch[:0], byte('a'+l.kind))
	b = strconv.AppendInt(b, int64(l.ref), 10)
	switch l.kind {
	case event.ReservationRequested, event.ReservationReleased:
		b = append(b, '.', '0'+l.attempt)
	case event.AllotmentChanged, event.AllotmentEnded:
		b = strconv.AppendInt(append(b, '.'), l.sequence, 10)
	}
	if l.part > 0 {
		b = append(b, '/', '0'+l.part)
	}
	if l.bundle > 0 {
		e.Bundle = w.skuNames[w.sc.kits[l.bundle-1].sku]
	}
	pt.scratch = b
	e.ID = unsafe.String(&b[0], len(b)) // the ledger keeps nothing of an event
	switch l.kind {
	case event.SaleRecorded, event.SaleCancelled:
		e.Channel, e.OrderID, e.LineID, e.RestockedByChannel = w.names[l.channel], e.ID[1:], "1", l.restocked && l.kind == event.SaleCancelled
		if l.attempt > 0 && l.kind == event.SaleRecorded {
			e.ReservationID = w.reservation(l.ref, l.attempt-1)
		}
	case event.ReservationRequested, event.ReservationReleased:
		e.Channel, e.ReservationID, e.Location = w.names[l.channel], w.reservation(l.ref, l.attempt), ""
		if w.cfg.unnamed {
			e.Channel = ""
		}
		if l.kind == event.ReservationRequested {
			e.ExpiresAt = l.receivedAt + claimFor
		}
	case event.AllotmentChanged, event.AllotmentEnded:
		e.Channel, e.Sequence, e.Location = w.names[l.channel], l.sequence, ""
	case event.StockCounted:
		e.AsOf = l.occurred
	case event.ReturnReceived:
		e.Disposition = event.Restock
	}
	return e
}

// projectorReturns restores each partition from what Redis has, as a projector that starts does, and emits all levels again.
func (w *world) projectorReturns() {
	for p := range w.parts {
		pt := &w.parts[p]
		r, err := ledger.Restore(ledger.Options{}, pt.ledger.Locations(), pt.ledger.Clock())
		if err != nil {
			w.fail("restore: %v", err)
			return
		}
		var skus []*ledger.SKU
		for i := range w.skuNames {
			if s := pt.ledger.SKU(w.skuNames[i]); s != nil {
				skus = append(skus, s)
			}
		}
		for _, s := range skus {
			st := ledger.Stored{SKU: s.Name(), Available: s.Available(), Version: s.Version(), Offset: s.Offset(), ReceivedAt: s.ReceivedAt(), EventID: string(s.EventID()), EventKind: s.Kind()}
			for _, c := range s.AppendChanges(nil, true) {
				name := ""
				switch {
				case c.Field.ByChannel():
					name = pt.ledger.Channels()[c.Name]
				case c.Field != ledger.Unassigned:
					name = pt.ledger.Locations()[c.Name]
				}
				st.Changes = append(st.Changes, ledger.StoredChange{Field: c.Field, Name: name, Value: c.Value})
			}
			if err := r.SKU(&st); err != nil {
				w.fail("restore: %v", err)
				return
			}
		}
		for _, g := range pt.journal {
			if err := r.Journal(g.Bucket, g.Data); err != nil {
				w.fail("restore: %v", err)
				return
			}
		}
		pt.ledger = r.Done()
		for _, s := range skus {
			w.emit(pt, pt.ledger.SKU(s.Name()))
		}
		w.wakeProjector(p)
		w.wakeAllocator()
	}
}

// stockUp writes the first counts.
func (w *world) stockUp() {
	for i := range w.sc.lines {
		if w.sc.kitOf(uint16(i)) >= 0 {
			continue
		}
		w.append(logged{kind: event.StockCounted, sku: uint16(i), ref: int32(-1 - i), units: int32(w.sc.lines[i].stock), occurred: begin})
	}
}
