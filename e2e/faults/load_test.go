package faults

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// load writes the events of a schedule, and keeps books of what they make of stock: plain maps that share no code with the ledger.
type load struct {
	rng    *rand.Rand
	codec  *topics.Codec
	skus   int
	dawn   time.Time
	second int64
	ids    int
	lines  []*line
	recent []event.Event // any of them may come again
	books  map[string]*page
	bad    map[string]bool // keys of records that must be in stock.rejected, each its own
}

// page is one SKU.
type page struct {
	version, sold int64
	shelves       map[string]*shelf
}

type shelf struct{ onHand, committed, held int64 }

// line is an open order line, or a reservation.
type line struct {
	sku, location, id string
	left              int64
	reservation       bool
}

func newLoad(seed uint64, skus int, codec *topics.Codec) *load {
	return &load{
		rng: rand.New(rand.NewPCG(seed, 0x10ad)), codec: codec, skus: skus, dawn: time.Now().Add(-12 * time.Hour).Truncate(time.Second), books: map[string]*page{}, bad: map[string]bool{},
	}
}

// records is the next n records.
func (l *load) records(n int) []*kgo.Record {
	rs := make([]*kgo.Record, n)
	for i := range rs {
		switch roll := l.rng.IntN(100); {
		case roll < 12 && len(l.recent) > 0: // a webhook that comes again
			rs[i] = l.codec.EventRecord(&l.recent[l.rng.IntN(len(l.recent))])
		case roll == 12:
			key := fmt.Sprintf("POISON-%d", len(l.bad))
			l.bad[key] = true
			rs[i] = &kgo.Record{Topic: schemas.StockEvents, Key: []byte(key), Value: []byte("\x00\xff no event")}
		default:
			e := l.event()
			if len(l.recent) < 400 {
				l.recent = append(l.recent, e)
			} else {
				l.recent[l.rng.IntN(len(l.recent))] = e
			}
			rs[i] = l.codec.EventRecord(&e)
		}
	}
	return rs
}

// event is something new that happens, booked.
func (l *load) event() event.Event {
	l.ids++
	l.second++
	at := l.dawn.Add(time.Duration(l.second) * time.Second / 2).UnixMicro()
	sku := fmt.Sprintf("SKU-%04d", min(l.rng.IntN(l.skus), l.rng.IntN(l.skus)))
	e := event.Event{
		ID: fmt.Sprintf("e-%d", l.ids), SKU: sku, Location: []string{"main", "store", "fba"}[l.rng.IntN(3)], Quantity: event.Units(1 + l.rng.IntN(20)), OccurredAt: at, ReceivedAt: at, Source: "faults",
	}
	roll := l.rng.IntN(20)
	if roll < 8 && len(l.lines) > 0 { // an open line goes on
		n := l.rng.IntN(len(l.lines))
		o := l.lines[n]
		e.SKU, e.Location, e.Quantity = o.sku, o.location, event.Units(1+l.rng.Int64N(o.left))
		units := int64(e.Quantity)
		if o.left -= units; o.left == 0 {
			l.lines[n] = l.lines[len(l.lines)-1]
			l.lines = l.lines[:len(l.lines)-1]
		}
		s := l.booked(&e)
		switch {
		case o.reservation:
			e.Kind, e.ReservationID = event.ReservationReleased, o.id
			s.held -= units
		case roll < 6:
			e.Kind, e.Channel, e.OrderID, e.LineID = event.ShipmentConfirmed, "shop", o.id, "1"
			s.onHand, s.committed = s.onHand-units, s.committed-units
		default:
			e.Kind, e.Channel, e.OrderID, e.LineID = event.SaleCancelled, "shop", o.id, "1"
			s.committed -= units
		}
		return e
	}
	s, units := l.booked(&e), int64(e.Quantity)
	switch {
	case roll < 14:
		e.Kind, e.Channel, e.OrderID, e.LineID = event.SaleRecorded, "shop", e.ID, "1"
		s.committed += units
		l.books[sku].sold += units
		l.lines = append(l.lines, &line{sku: sku, location: e.Location, id: e.ID, left: units})
	case roll == 14:
		e.Kind, e.ReservationID, e.ExpiresAt = event.ReservationPlaced, e.ID, at+time.Hour.Microseconds()
		s.held += units
		l.lines = append(l.lines, &line{sku: sku, location: e.Location, id: e.ID, left: units, reservation: true})
	case roll == 15:
		e.Kind, e.AsOf = event.StockCounted, at
		s.onHand = units
	case roll == 16:
		e.Kind = event.StockAdjusted
		e.Quantity, e.Reason = -e.Quantity, "shrinkage"
		s.onHand -= units
	default:
		e.Kind = event.ReceiptReceived
		s.onHand += units
	}
	return e
}

func (l *load) booked(e *event.Event) *shelf {
	p := l.books[e.SKU]
	if p == nil {
		p = &page{shelves: map[string]*shelf{}}
		l.books[e.SKU] = p
	}
	p.version++
	s := p.shelves[e.Location]
	if s == nil {
		s = &shelf{}
		p.shelves[e.Location] = s
	}
	return s
}

// levels is what the books say, by name.
func (l *load) levels() map[string]int64 {
	out := map[string]int64{}
	for sku, p := range l.books {
		put(out, sku, "version", p.version)
		put(out, sku, "sold", p.sold)
		available := int64(0)
		for location, s := range p.shelves {
			put(out, sku, location+":on_hand", s.onHand)
			put(out, sku, location+":committed", s.committed)
			put(out, sku, location+":held", s.held)
			available += s.onHand - s.committed - s.held
		}
		put(out, sku, "available", available)
	}
	return out
}

// put notes a number that is not zero: a store may say zero, or nothing.
func put(to map[string]int64, sku, what string, n int64) {
	if n != 0 {
		to[sku+" "+what] = n
	}
}
