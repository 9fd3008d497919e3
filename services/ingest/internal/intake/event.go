package intake

import (
	"fmt"
	"strings"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// EventFields is the names of an event's fields, as input has them.
var EventFields = []string{
	"id", "kind", "sku", "quantity", "occurred_at", "location", "to_location", "channel", "order_id", "line_id", "reference", "reservation_id",
	"reason", "disposition", "as_of", "expires_at", "unit_price", "unit_cost", "currency", "restocked_by_channel", "source",
}

// Positions in EventFields.
const (
	fID = iota
	fKind
	fSKU
	fQuantity
	fOccurredAt
	fLocation
	fToLocation
	fChannel
	fOrderID
	fLineID
	fReference
	fReservationID
	fReason
	fDisposition
	fAsOf
	fExpiresAt
	fUnitPrice
	fUnitCost
	fCurrency
	fRestocked
	fSource
)

func bits(fields ...int) (m members) {
	for _, f := range fields {
		m |= 1 << f
	}
	return m
}

// rule is what a kind asks of its fields.
type rule struct {
	needs  members
	may    members     // beside needs and always
	least  event.Units // of quantity
	signed bool        // quantity may be negative, but not 0
}

// Fields of every kind. The id may be derived from the request's idempotency key, so that its lack is the caller's to judge.
var (
	always = bits(fKind, fSKU, fQuantity, fOccurredAt)
	notes  = bits(fID, fReference, fReason, fSource)
	sale   = bits(fChannel, fOrderID, fLineID)
)

// rules is by kind; what each field means to the ledger is written at the kinds themselves.
var rules = [event.KindCount]rule{
	event.SaleRecorded:        {needs: sale, may: bits(fLocation, fUnitPrice, fCurrency), least: 1},
	event.SaleCancelled:       {needs: sale, may: bits(fLocation, fUnitPrice, fCurrency, fRestocked), least: 1},
	event.SaleAssigned:        {needs: bits(fLocation, fChannel, fOrderID), may: sale, least: 1},
	event.SaleReassigned:      {needs: bits(fLocation, fToLocation, fChannel, fOrderID), may: sale, least: 1},
	event.ShipmentConfirmed:   {needs: bits(fLocation, fChannel, fOrderID), may: sale, least: 1},
	event.ReturnReceived:      {needs: bits(fLocation, fDisposition), may: sale | bits(fUnitPrice, fCurrency), least: 1},
	event.InboundExpected:     {needs: bits(fLocation, fReference), may: bits(fUnitCost, fCurrency), least: 1},
	event.InboundCancelled:    {needs: bits(fLocation, fReference), may: bits(fUnitCost, fCurrency), least: 1},
	event.ReceiptReceived:     {needs: bits(fLocation), may: bits(fUnitCost, fCurrency), least: 1},
	event.StockAdjusted:       {needs: bits(fLocation, fReason), may: bits(fUnitCost, fCurrency), signed: true},
	event.StockCounted:        {needs: bits(fLocation, fAsOf), least: 0},
	event.TransferShipped:     {needs: bits(fLocation, fToLocation, fReference), least: 1},
	event.TransferReceived:    {needs: bits(fLocation, fReference), least: 1},
	event.ReservationPlaced:   {needs: bits(fLocation, fReservationID, fExpiresAt), may: bits(fChannel, fOrderID, fLineID), least: 1},
	event.ReservationReleased: {needs: bits(fLocation, fReservationID), may: bits(fChannel, fOrderID, fLineID), least: 1},
	event.SafetyStockSet:      {needs: bits(fLocation), least: 0},
}

var hints = map[int]string{
	fID: "give the source's own id of the event, so that a repeat counts once; or send the header Idempotency-Key", fKind: "say what happened: " + kindList(),
	fSKU: "name what it is about", fQuantity: "give the units", fOccurredAt: "give the time it happened, as in 2026-02-03T10:15:00Z",
	fLocation: "name where it happened", fToLocation: "name where the units go", fChannel: "name the channel that sold it: an order's number is that channel's own, and another may use the same",
	fOrderID: "name the order: the ledger keeps what is open by order", fLineID: "name the order's line", fReservationID: "name the reservation", fReference: "name the purchase order or transfer: the ledger keeps by it what is still to come, so that a later receipt, arrival or cancellation finds it; where there is no number, make one up and use it again",
	fReason:      "say why the number changes",
	fDisposition: "say what became of the units: restock, refurbish, quarantine or scrap", fAsOf: "give the time the count speaks of",
	fExpiresAt: "give the time the reservation ends by itself",
}

func kindList() string {
	names := make([]string, 0, event.KindCount-1)
	for k := 1; k < event.KindCount; k++ {
		if k < int(event.OrderWatermarkPassed) {
			names = append(names, event.Kind(k).String())
		}
	}
	return strings.Join(names, ", ")
}

// ReadEvent reads one event from JSON into e, all but its ReceivedAt. Its id may be left out: derive gives it then, or an empty string, which
// makes it a fault. The strings of e alias src. It returns what is wrong with the event, or an error when src is no JSON; e is of use only
// when there is neither.
func ReadEvent(src string, lim *Limits, derive func() string, e *event.Event) ([]problem.Field, *SyntaxError) {
	p := parser{s: src}
	*e = event.Event{}
	p.event(lim, derive, e)
	p.end()
	return p.faults, p.err
}

func (p *parser) event(lim *Limits, derive func() string, e *event.Event) {
	if p.peek() != '{' {
		p.wrong("", "an object (one event)")
		return
	}
	p.i++
	var seen, given members
	quantityRead := false
	for first := true; ; first = false {
		k, ok := p.key(first)
		if !ok {
			break
		}
		f := -1
		for i, name := range EventFields {
			if name == k {
				f = i
				break
			}
		}
		if f < 0 {
			if k == "received_at" {
				p.skip(0)
				p.fault(k, "unknown_field", "received_at is Onhand's own clock: leave it out")
			} else {
				p.unknown(k, EventFields)
			}
			continue
		}
		if p.null() { // as if left out
			continue
		}
		p.once(&seen, f, k)
		switch f {
		case fID:
			e.ID = p.id(k)
		case fKind:
			p.eventKind(e)
		case fSKU:
			e.SKU = p.name(k)
		case fQuantity:
			if v, ok := p.integer(k); ok {
				e.Quantity, quantityRead = event.Units(v), true
			}
		case fOccurredAt:
			e.OccurredAt = p.moment(k, lim, true)
		case fLocation:
			e.Location = p.name(k)
		case fToLocation:
			e.ToLocation = p.name(k)
		case fChannel:
			e.Channel = p.channel(k)
		case fOrderID:
			e.OrderID = p.id(k)
		case fLineID:
			e.LineID = p.id(k)
		case fReference:
			e.Reference = p.words(k, MaxID)
		case fReservationID:
			e.ReservationID = p.id(k)
		case fReason:
			e.Reason = p.words(k, MaxText)
		case fDisposition:
			p.disposition(e)
		case fAsOf:
			e.AsOf = p.moment(k, &Limits{Now: lim.Now, MaxAhead: min(lim.MaxAhead, ledger.CountSlack)}, true)
		case fExpiresAt:
			e.ExpiresAt = p.moment(k, lim, false)
		case fUnitPrice:
			e.UnitPrice = p.amount(k)
		case fUnitCost:
			e.UnitCost = p.amount(k)
		case fCurrency:
			e.Currency = p.code(k, 3, "EUR")
		case fRestocked:
			e.RestockedByChannel = p.boolean(k)
			if !e.RestockedByChannel {
				given &^= 1 << f // false says no more than leaving it out
				seen &^= 1 << f
				continue
			}
		case fSource:
			e.Source = p.words(k, MaxID)
		}
		given |= 1 << f
	}
	if p.err != nil {
		return
	}
	p.judgeEvent(lim, derive, e, seen, given, quantityRead)
}

func (p *parser) eventKind(e *event.Event) {
	s, ok := p.text("kind")
	if !ok {
		return
	}
	k, ok := event.ParseKind(s)
	if ok && k == event.OrderWatermarkPassed { // it must reach every partition, after all orders
		p.fault("kind", "unknown_kind", "a watermark is no event of a SKU: send it to POST /v1/channels/{channel}/watermark")
		return
	}
	if ok && (k == event.AllotmentChanged || k == event.AllotmentEnded) {
		p.fault("kind", "unknown_kind", "what a claim channel may take is decided by the allocator: set a rule for the channel")
		return
	}
	if ok && k >= event.ReservationRequested { // the ledger decides on them, and somebody waits for the answer
		p.fault("kind", "unknown_kind", "a reservation is asked for, not told: see POST /v1/reservations")
		return
	}
	if !ok {
		p.fault("kind", "unknown_kind", fmt.Sprintf("%q is not a kind of event; the kinds are %s", shorten(s), kindList()))
		return
	}
	e.Kind = k
}

func (p *parser) disposition(e *event.Event) {
	s, ok := p.text("disposition")
	if !ok {
		return
	}
	d, ok := event.ParseDisposition(s)
	if !ok {
		p.fault("disposition", "invalid", fmt.Sprintf("disposition %q must be restock, refurbish, quarantine or scrap", shorten(s)))
		return
	}
	e.Disposition = d
}

// judgeEvent checks the fields together, by the event's kind.
func (p *parser) judgeEvent(lim *Limits, derive func() string, e *event.Event, seen, given members, quantityRead bool) {
	needs := always
	var r rule
	if e.Kind != event.Unspecified {
		r = rules[e.Kind]
		needs |= r.needs
	}
	if seen&(1<<fID) == 0 {
		if e.ID = derive(); e.ID == "" {
			p.missing("id", hints[fID])
		}
	}
	for f, name := range EventFields {
		if needs&(1<<f) != 0 && seen&(1<<f) == 0 {
			p.missing(name, hints[f])
		}
	}
	if e.Kind == event.Unspecified {
		return
	}
	for f, name := range EventFields {
		if given&^(needs|r.may|notes)&(1<<f) != 0 {
			p.fault(name, "not_used", fmt.Sprintf("%s means nothing in an event of the kind %s: leave it out", name, e.Kind))
		}
	}
	if quantityRead {
		switch {
		case !r.signed:
			p.quantity(lim, e.Quantity, r.least)
		case e.Quantity == 0:
			p.fault("quantity", "invalid", "quantity is 0; an adjustment takes units away (negative) or adds them")
		case e.Quantity > lim.MaxQuantity || e.Quantity < -lim.MaxQuantity:
			p.fault("quantity", "absurd_quantity", fmt.Sprintf("quantity is %d; more than %d at once is taken for a mistake", e.Quantity, lim.MaxQuantity))
		}
	}
	if e.ToLocation != "" && e.ToLocation == e.Location {
		p.fault("to_location", "invalid", "to_location is the location itself: nothing would move")
	}
	if (e.UnitPrice != "" || e.UnitCost != "") && e.Currency == "" && seen&(1<<fCurrency) == 0 {
		p.missing("currency", "an amount needs its currency, such as EUR")
	}
	if e.Kind == event.ReservationPlaced && e.ExpiresAt != 0 && e.OccurredAt != 0 && e.ExpiresAt <= e.OccurredAt {
		p.fault("expires_at", "invalid", "expires_at must be later than occurred_at")
	}
	if len(p.faults) == 0 {
		p.apply(lim, e)
	}
}

// apply gives the ledger the last word on what can be applied: what is taken in here is never rejected there for what it says.
func (p *parser) apply(lim *Limits, e *event.Event) {
	f := ledger.Check(e, lim.MaxQuantity)
	if f.Reason != "" {
		p.fault(f.Field, f.Reason, f.Detail)
	}
}
