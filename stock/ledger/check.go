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
	ReasonUnchecked      = "unchecked"       // not from ingest, and Options.CheckedFrom is past
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

	MaxReservation = 90       // of a requested reservation's id: events are named after it and its SKU
	MaxScope       = 64 << 10 // of a reservation's locations, together
)

// needs says which fields a kind cannot do without.
type needs uint16

const (
	needLocation needs = 1 << iota
	needToLocation
	needChannel
	needOrder
	needReference
	needReservation
	needExpiry
	needSequence
	ofChannel // no SKU, and no quantity
	mayBeZero
	maySign
)

var kindNeeds = [event.KindCount]needs{
	event.SaleRecorded:         needChannel | needOrder,
	event.SaleCancelled:        needChannel | needOrder,
	event.SaleAssigned:         needChannel | needOrder | needLocation,
	event.SaleReassigned:       needChannel | needOrder | needLocation | needToLocation,
	event.ShipmentConfirmed:    needChannel | needOrder | needLocation,
	event.ReturnReceived:       needLocation,
	event.InboundExpected:      needLocation | needReference,
	event.InboundCancelled:     needReference,
	event.ReceiptReceived:      needLocation,
	event.StockAdjusted:        needLocation | maySign,
	event.StockCounted:         needLocation | mayBeZero,
	event.TransferShipped:      needLocation | needToLocation | needReference,
	event.TransferReceived:     needLocation | needReference,
	event.ReservationPlaced:    needLocation | needReservation,
	event.ReservationReleased:  needReservation | mayBeZero,
	event.SafetyStockSet:       needLocation | mayBeZero,
	event.OrderWatermarkPassed: needChannel | ofChannel | mayBeZero,
	event.ReservationRequested: needReservation | needExpiry,
	event.ReservationExtended:  needReservation | needExpiry | mayBeZero,
	event.ReservationConfirmed: needReservation | mayBeZero,
	event.ReservationAborted:   needReservation | mayBeZero,
	event.AllotmentChanged:     needChannel | needSequence | maySign | mayBeZero,
	event.AllotmentEnded:       needChannel | needSequence | mayBeZero,
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
	case n&needExpiry != 0 && e.ExpiresAt <= 0:
		missing = "expires_at"
	case n&needSequence != 0 && e.Sequence <= 0:
		missing = "sequence"
	case e.Kind == event.StockCounted && e.AsOf <= 0:
		missing = "as_of"
	case e.Kind == event.OrderWatermarkPassed && e.OccurredAt <= 0:
		missing = "occurred_at"
	}
	if missing == "channel" && n&needOrder != 0 && e.Kind != event.SaleRecorded {
		return Fault{ReasonInvalid, missing, fmt.Sprintf("%s: channel is empty, and a %s needs it: order %q is the channel's own number, and another channel may use the same", e.ID, e.Kind, e.OrderID)}
	}
	if missing != "" {
		return Fault{ReasonInvalid, missing, fmt.Sprintf("%s: %s is empty, and a %s needs it", e.ID, missing, e.Kind)}
	}
	if e.Bundle != "" && !OfBundle(e.Kind) {
		return Fault{ReasonInvalid, "bundle", fmt.Sprintf("%s: a %s is about one SKU, and never about a bundle: bundle %q has no stock of its own", e.ID, e.Kind, e.Bundle)}
	}
	if _, ok := event.BundleOf(e.Channel); ok && e.Kind != event.AllotmentChanged && e.Kind != event.AllotmentEnded {
		return Fault{ReasonInvalid, "channel", fmt.Sprintf("%s: channel %q: that is the name of a bundle to its components, and no channel can have it", e.ID, e.Channel)}
	}
	q := e.Quantity
	if n&ofChannel != 0 && q != 0 {
		return Fault{ReasonInvalid, "quantity", fmt.Sprintf("%s: quantity is %d: a %s speaks of no units", e.ID, q, e.Kind)}
	}
	switch {
	case q > maxQuantity || q < -maxQuantity:
		return Fault{ReasonAbsurdQuantity, "quantity", fmt.Sprintf("%s: quantity %d is beyond the limit of %d: correct it, or raise the limit", e.ID, q, maxQuantity)}
	case q < 0 && n&maySign == 0:
		return Fault{ReasonInvalid, "quantity", fmt.Sprintf("%s: quantity %d is negative: only stock_adjusted and allotment_changed have a sign", e.ID, q)}
	case q == 0 && n&mayBeZero == 0:
		return Fault{ReasonInvalid, "quantity", fmt.Sprintf("%s: quantity is 0, so that a %s says nothing", e.ID, e.Kind)}
	case e.Kind == event.ReservationRequested && len(e.ReservationID) > MaxReservation:
		return Fault{ReasonInvalid, "reservation_id", fmt.Sprintf("%s: reservation_id has %d bytes, and at most %d are allowed", e.ID, len(e.ReservationID), MaxReservation)}
	case len(e.Scope) > MaxScope:
		return Fault{ReasonInvalid, "scope", fmt.Sprintf("%s: scope has %d bytes, and at most %d are allowed: name fewer locations, or none for all", e.ID, len(e.Scope), MaxScope)}
	case e.Kind == event.ReservationRequested && e.PeerSKU != "" && e.DecideBy <= 0:
		return Fault{ReasonInvalid, "decide_by", e.ID + ": decide_by is empty, and a reservation of several SKUs needs it: without one, what is held could stay undecided for ever"}
	case e.Kind == event.ReturnReceived && (e.Disposition == event.NoDisposition || e.Disposition > event.Scrap):
		return Fault{ReasonInvalid, "disposition", fmt.Sprintf("%s: disposition is missing or unknown: want restock, refurbish, quarantine or scrap", e.ID)}
	case n&needToLocation != 0 && e.Location == e.ToLocation:
		return Fault{ReasonInvalid, "to_location", fmt.Sprintf("%s: location and to_location are both %q: a move needs two places", e.ID, e.Location)}
	}
	return Fault{}
}

// OfBundle says that a kind of event can be about a bundle: what customers do, and what is done for them. Stock is had, counted and moved by component.
func OfBundle(k event.Kind) bool {
	switch k {
	case event.SaleRecorded, event.SaleCancelled, event.SaleAssigned, event.SaleReassigned, event.ShipmentConfirmed, event.ReturnReceived:
		return true
	}
	return false
}

func checkNames(e *event.Event) Fault {
	if !name(e.ID, MaxID) || !name(e.SKU, MaxName) || !name(e.Location, MaxName) || !name(e.ToLocation, MaxName) || !name(e.Channel, MaxName) ||
		!name(e.OrderID, MaxID) || !name(e.LineID, MaxID) || !name(e.Reference, MaxID) || !name(e.ReservationID, MaxID) || !name(e.PeerSKU, MaxName) || !name(e.Bundle, MaxName) {
		return nameFault(e)
	}
	switch {
	case e.ID == "":
		return Fault{ReasonInvalid, "id", "id is empty: without one a repeat cannot be told from a second event"}
	case e.SKU == "" && kindNeeds[e.Kind]&ofChannel == 0:
		return Fault{ReasonInvalid, "sku", e.ID + ": sku is empty"}
	case e.SKU != "" && kindNeeds[e.Kind]&ofChannel != 0:
		return Fault{ReasonInvalid, "sku", fmt.Sprintf("%s: sku is %q: a %s is about a channel as a whole", e.ID, e.SKU, e.Kind)}
	case Reserved(e.Location), Reserved(e.ToLocation):
		field := "location"
		if !Reserved(e.Location) {
			field = "to_location"
		}
		return Fault{ReasonInvalid, field, e.ID + ": a location cannot be called sold, restored, allotted or allotment: the ledger's field names need these words"}
	}
	return Fault{}
}

// nameFault is the fault of the first name that is none.
func nameFault(e *event.Event) Fault {
	for _, x := range [...]struct {
		field, value string
		limit        int
	}{
		{"id", e.ID, MaxID}, {"sku", e.SKU, MaxName}, {"location", e.Location, MaxName}, {"to_location", e.ToLocation, MaxName},
		{"channel", e.Channel, MaxName}, {"order_id", e.OrderID, MaxID}, {"line_id", e.LineID, MaxID}, {"reference", e.Reference, MaxID},
		{"reservation_id", e.ReservationID, MaxID}, {"peer_sku", e.PeerSKU, MaxName}, {"bundle", e.Bundle, MaxName},
	} {
		if !name(x.value, x.limit) {
			return Fault{ReasonInvalid, x.field, fmt.Sprintf("%.64q: %s is not a name: want at most %d bytes of UTF-8 without control characters", e.ID, x.field, x.limit)}
		}
	}
	return Fault{}
}

// Reserved says whether a location cannot have this name, as the ledger needs the word itself.
func Reserved(location string) bool {
	switch location {
	case "sold", "restored", "allotted", "allotment":
		return true
	}
	return false
}

// name accepts at most limit bytes of UTF-8 without control characters.
func name(s string, limit int) bool {
	return s == "" || len(s) <= limit && printable(s)
}

// Bytes of eight at once: the high bit of each, and the same value in each.
const (
	high = 0x8080808080808080
	ones = 0x0101010101010101
)

// printable accepts UTF-8 without control characters. Eight bytes at a time: nearly all names are plain ASCII.
func printable(s string) bool {
	var odd uint64 // has the high bit of a byte that is not plain ASCII, or is suspected to be a control character
	i := 0
	for ; i+8 <= len(s); i += 8 {
		v := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 | uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		del := v ^ 0x7f*ones // zero where a byte is 0x7f
		odd |= v | (v - 0x20*ones) | (del - ones)
	}
	for ; i < len(s); i++ {
		c := s[i]
		if c < 0x20 || c >= 0x7f {
			odd = high
		}
	}
	return odd&high == 0 || printableSlow(s)
}

func printableSlow(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}
