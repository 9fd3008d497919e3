package ledger

import (
	"fmt"
	"unicode/utf8"

	"github.com/onhand/onhand/stock/event"
)

// Reasons a fault has, for machines.
const (
	ReasonUnknownKind    = "unknown_kind"    // a kind this version does not know
	ReasonInvalid        = "invalid"         // a field is missing, empty or malformed
	ReasonAbsurdQuantity = "absurd_quantity" // beyond Options.MaxQuantity
	ReasonCountTooOld    = "count_too_old"   // what moved since the count is no longer known
	ReasonTooMany        = "too_many"        // more locations or channels than a partition can tell apart
)

// Fault says why an event cannot be applied. The zero Fault is none.
type Fault struct {
	Reason string // one of the Reason constants
	Field  string // the field at fault, as JSON names it; empty when it is no single one
	Detail string // what is wrong, where, and what to do
}

// Error is the detail.
func (f Fault) Error() string { return f.Detail }

// Longest names, in bytes.
const (
	MaxID   = 256 // of events, orders, lines, references and reservations
	MaxName = 128 // of SKUs, locations and channels
)

// needs says which fields a kind cannot do without.
type needs uint8

const (
	needLocation needs = 1 << iota
	needToLocation
	needChannel
	needOrder
	needReference
	needReservation
	mayBeZero
	maySign
)

var kindNeeds = [event.KindCount]needs{
	event.SaleRecorded:        needChannel | needOrder,
	event.SaleCancelled:       needOrder,
	event.SaleAssigned:        needOrder | needLocation,
	event.SaleReassigned:      needOrder | needLocation | needToLocation,
	event.ShipmentConfirmed:   needOrder | needLocation,
	event.ReturnReceived:      needLocation,
	event.InboundExpected:     needLocation | needReference,
	event.InboundCancelled:    needReference,
	event.ReceiptReceived:     needLocation,
	event.StockAdjusted:       needLocation | maySign,
	event.StockCounted:        needLocation | mayBeZero,
	event.TransferShipped:     needLocation | needToLocation | needReference,
	event.TransferReceived:    needLocation | needReference,
	event.ReservationPlaced:   needLocation | needReservation,
	event.ReservationReleased: needReservation | mayBeZero,
	event.SafetyStockSet:      needLocation | mayBeZero,
}

// Check says whether an event can be applied at all, whatever the stock is: the fields its kind needs, and quantities below maxQuantity (0 takes the
// default). It returns the zero Fault when it can.
func Check(e *event.Event, maxQuantity Units) Fault {
	if maxQuantity == 0 {
		maxQuantity = DefaultMaxQuantity
	}
	if e.Kind == event.Unspecified || int(e.Kind) >= event.KindCount {
		return Fault{ReasonUnknownKind, "kind", fmt.Sprintf("event %q has kind %d, which this version does not know: upgrade the ledger-projector, then retry the record", e.ID, e.Kind)}
	}
	if f := checkNames(e); f.Reason != "" {
		return f
	}
	n := kindNeeds[e.Kind]
	missing := ""
	switch {
	case n&needLocation != 0 && e.Location == "":
		missing = "location"
	case n&needToLocation != 0 && e.ToLocation == "":
		missing = "to_location"
	case n&needChannel != 0 && e.Channel == "":
		missing = "channel"
	case n&needOrder != 0 && e.OrderID == "":
		missing = "order_id"
	case n&needReference != 0 && e.Reference == "":
		missing = "reference"
	case n&needReservation != 0 && e.ReservationID == "":
		missing = "reservation_id"
	case e.Kind == event.StockCounted && e.AsOf <= 0:
		missing = "as_of"
	case e.Kind == event.SaleCancelled && e.RestockedByChannel && e.Channel == "":
		missing = "channel"
	}
	if missing != "" {
		return Fault{ReasonInvalid, missing, fmt.Sprintf("%s: %s is empty, and a %s needs it", e.ID, missing, e.Kind)}
	}
	q := e.Quantity
	switch {
	case q > maxQuantity || q < -maxQuantity:
		return Fault{ReasonAbsurdQuantity, "quantity", fmt.Sprintf("%s: quantity %d is beyond the limit of %d: correct it, or raise the limit", e.ID, q, maxQuantity)}
	case q < 0 && n&maySign == 0:
		return Fault{ReasonInvalid, "quantity", fmt.Sprintf("%s: quantity %d is negative: only stock_adjusted has a sign", e.ID, q)}
	case q == 0 && n&mayBeZero == 0:
		return Fault{ReasonInvalid, "quantity", fmt.Sprintf("%s: quantity is 0, so that a %s says nothing", e.ID, e.Kind)}
	case e.Kind == event.ReturnReceived && (e.Disposition == event.NoDisposition || e.Disposition > event.Scrap):
		return Fault{ReasonInvalid, "disposition", fmt.Sprintf("%s: disposition is missing or unknown: want restock, refurbish, quarantine or scrap", e.ID)}
	case n&needToLocation != 0 && e.Location == e.ToLocation:
		return Fault{ReasonInvalid, "to_location", fmt.Sprintf("%s: location and to_location are both %q: a move needs two places", e.ID, e.Location)}
	}
	return Fault{}
}

func checkNames(e *event.Event) Fault {
	for _, x := range [...]struct {
		field, value string
		limit        int
	}{
		{"id", e.ID, MaxID}, {"sku", e.SKU, MaxName}, {"location", e.Location, MaxName}, {"to_location", e.ToLocation, MaxName},
		{"channel", e.Channel, MaxName}, {"order_id", e.OrderID, MaxID}, {"line_id", e.LineID, MaxID}, {"reference", e.Reference, MaxID},
		{"reservation_id", e.ReservationID, MaxID},
	} {
		if len(x.value) > x.limit || !printable(x.value) {
			return Fault{ReasonInvalid, x.field, fmt.Sprintf("%.64q: %s is not a name: want at most %d bytes of UTF-8 without control characters", e.ID, x.field, x.limit)}
		}
	}
	switch {
	case e.ID == "":
		return Fault{ReasonInvalid, "id", "id is empty: without one a repeat cannot be told from a second event"}
	case e.SKU == "":
		return Fault{ReasonInvalid, "sku", e.ID + ": sku is empty"}
	case Reserved(e.Location), Reserved(e.ToLocation):
		field := "location"
		if !Reserved(e.Location) {
			field = "to_location"
		}
		return Fault{ReasonInvalid, field, e.ID + ": a location cannot be called sold or restored: the ledger's field names need these words"}
	}
	return Fault{}
}

// Reserved says whether a location cannot have this name, as the ledger needs the word itself.
func Reserved(location string) bool { return location == "sold" || location == "restored" }

// printable accepts UTF-8 without control characters.
func printable(s string) bool {
	ascii := true
	for i := range len(s) {
		c := s[i]
		if c < 0x20 || c == 0x7f {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || utf8.ValidString(s)
}
