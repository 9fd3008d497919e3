// Package event names everything that can happen to stock.
//
// An [Event] is a fact about one SKU: units sold, cancelled, shipped, returned, received, counted, moved or held. It is past tense and is
// never refused for lack of stock; what it does to the buckets is package ledger's. The package does no I/O and reads no clock.
//
// Times are Unix microseconds, UTC; each field says whose clock it is.
package event

import "strings"

// Units is a number of pieces of one SKU. Negative only where a field says so.
type Units int64

// Kind says what happened. The numbers are those of onhand.v1.EventKind.
type Kind uint8

// The kinds, as architecture.md's event table lists them.
const (
	Unspecified          Kind = iota
	SaleRecorded              // committed + at Location, or unassigned when Location is empty; sold[Channel] +
	SaleCancelled             // committed −; restored[Channel] + when RestockedByChannel
	SaleAssigned              // unassigned − ; committed + at Location
	SaleReassigned            // committed − at Location; committed + at ToLocation
	ShipmentConfirmed         // on hand −, committed − at Location
	ReturnReceived            // by Disposition: on hand +, unsellable +, or nothing
	InboundExpected           // inbound + at Location
	InboundCancelled          // inbound − at Location
	ReceiptReceived           // on hand +, inbound − at Location
	StockAdjusted             // on hand ± at Location
	StockCounted              // on hand set as of AsOf at Location
	TransferShipped           // on hand − at Location; inbound + at ToLocation
	TransferReceived          // on hand +, inbound − at Location
	ReservationPlaced         // held + at Location
	ReservationReleased       // held − at Location
	SafetyStockSet            // safety stock of Location becomes Quantity
	OrderWatermarkPassed      // no stock: every order that Channel took up to OccurredAt comes before it; has no SKU and no Quantity
	ReservationRequested      // held + where Scope has units, or nothing: the ledger decides
	ReservationExtended       // the reservation ends at ExpiresAt
	ReservationConfirmed      // every SKU of the reservation is held: what is held is firm
	ReservationAborted        // held −: the reservation of several SKUs comes to nothing, unless it was confirmed before
	AllotmentChanged          // no stock: what Channel, which asks before it sells, may still take changes by Quantity
	AllotmentEnded            // no stock: Channel may take all that is available
)

// KindCount is one more than the highest Kind.
const KindCount = int(AllotmentEnded) + 1

var kindNames = [KindCount]string{
	"unspecified", "sale_recorded", "sale_cancelled", "sale_assigned", "sale_reassigned", "shipment_confirmed", "return_received",
	"inbound_expected", "inbound_cancelled", "receipt_received", "stock_adjusted", "stock_counted", "transfer_shipped",
	"transfer_received", "reservation_placed", "reservation_released", "safety_stock_set", "order_watermark_passed",
	"reservation_requested", "reservation_extended", "reservation_confirmed", "reservation_aborted",
	"allotment_changed", "allotment_ended",
}

// String is the kind's name in JSON and in analytics: sale_recorded, stock_counted …
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// ParseKind finds the kind of a name, and false for a name that is none.
func ParseKind(name string) (Kind, bool) {
	for i, n := range kindNames {
		if n == name && i != 0 {
			return Kind(i), true
		}
	}
	return Unspecified, false
}

// bundlePrefix begins the names of the channels that bundles are to their components. No channel's id has a colon.
const bundlePrefix = "bundle:"

// BundleChannel is the channel that a bundle is to its components: bundle:<SKU>.
func BundleChannel(sku string) string { return bundlePrefix + sku }

// BundleOf is the SKU of the bundle that a channel stands for, and false for a channel that is none.
func BundleOf(channel string) (sku string, ok bool) { return strings.CutPrefix(channel, bundlePrefix) }

// Seller is the channel that the event's units count for: its channel, but of a component the bundle that they were sold in.
func (e *Event) Seller() string {
	if e.Bundle != "" && e.Bundle != e.SKU {
		return BundleChannel(e.Bundle)
	}
	return e.Channel
}

// Key is the record key of the event in stock.events: the SKU, or the channel of an order watermark.
func (e *Event) Key() string {
	if e.Kind == OrderWatermarkPassed {
		return e.Channel
	}
	return e.SKU
}

// Disposition says what became of returned units. The numbers are those of onhand.v1.Disposition.
type Disposition uint8

// The dispositions.
const (
	NoDisposition Disposition = iota
	Restock                   // fit to sell: on hand
	Refurbish                 // to be repaired: unsellable
	Quarantine                // to be inspected: unsellable
	Scrap                     // gone
)

var dispositionNames = [...]string{"", "restock", "refurbish", "quarantine", "scrap"}

// String is the disposition's name in JSON; empty for none.
func (d Disposition) String() string {
	if int(d) < len(dispositionNames) {
		return dispositionNames[d]
	}
	return "unknown"
}

// ParseDisposition finds the disposition of a name, and false for a name that is none.
func ParseDisposition(name string) (Disposition, bool) {
	for i, n := range dispositionNames {
		if n == name && i != 0 {
			return Disposition(i), true
		}
	}
	return NoDisposition, false
}

// Event is one fact about one SKU, or how far the orders of a channel are known. Fields a kind does not use are zero.
type Event struct {
	ID                 string // identity fixed by the source; the same id counts once
	SKU                string
	Location           string
	ToLocation         string
	Channel            string
	OrderID            string
	LineID             string
	Reference          string // purchase order or transfer
	ReservationID      string // of a sale: the reservation whose units are sold
	Reason             string
	Source             string
	UnitPrice          string // decimal number in Currency
	UnitCost           string // decimal number in Currency
	Currency           string // ISO 4217
	Scope              string // locations that may serve a requested reservation, in order of preference, one a line; empty for all
	PeerSKU            string // of a request: the SKU that decides for all SKUs of the reservation; of an abort: the SKU to be told what was decided
	Bundle             string // the bundle that the units belong to: SKU itself where it is the bundle's own event, which moves no stock
	Quantity           Units  // not negative, except for StockAdjusted and AllotmentChanged
	OccurredAt         int64  // source's clock; a sale's sold_at
	ReceivedAt         int64  // Onhand's clock at ingest
	AsOf               int64  // counter's clock: the moment a count speaks of
	ExpiresAt          int64  // Onhand's clock: when a reservation ends by itself
	DecideBy           int64  // Onhand's clock: a request of several SKUs is aborted then, unless it was confirmed
	Parts              int64  // how many SKUs the requested reservation has
	RequestHash        int64  // of what the whole reservation asks for
	Sequence           int64  // of an allotment: the number of the change; one that is not above the last one applied changes nothing
	Kind               Kind
	Disposition        Disposition
	RestockedByChannel bool
	Checked            bool // ingest held it against the catalog, and the brand's policy let it in
}
