package schemas

import onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"

// KindFields says which fields of StockEvent a kind of event uses beside id, kind, sku, quantity, occurred_at_us, received_at_us and source,
// which all have.
type KindFields struct {
	Kind   onhandv1.EventKind
	Needs  []string // rejected without them
	May    []string // used where present
	Effect string   // what it does to the buckets, for people
}

// EventFields is the use of fields by kind, in the order of the kinds.
func EventFields() []KindFields {
	const (
		location, toLocation, channel, order, line = "location", "to_location", "channel", "order_id", "line_id"
		price, cost, currency                      = "unit_price", "unit_cost", "currency"
		reason, reference                          = "reason", "reference"
	)
	return []KindFields{
		{onhandv1.EventKind_EVENT_KIND_SALE_RECORDED, []string{channel}, []string{location, order, line, price, currency},
			"committed + at the location, or unassigned without one; sold of the channel +"},
		{onhandv1.EventKind_EVENT_KIND_SALE_CANCELLED, []string{channel}, []string{location, order, line, reason, "restocked_by_channel"},
			"committed − at the location, or unassigned without one; restored of the channel + when restocked_by_channel"},
		{onhandv1.EventKind_EVENT_KIND_SALE_ASSIGNED, []string{location}, []string{channel, order, line},
			"unassigned −; committed + at the location"},
		{onhandv1.EventKind_EVENT_KIND_SALE_REASSIGNED, []string{location, toLocation}, []string{channel, order, line, reason},
			"committed − at location; committed + at to_location"},
		{onhandv1.EventKind_EVENT_KIND_SHIPMENT_CONFIRMED, []string{location}, []string{channel, order, line, reference},
			"on hand − and committed − at the location"},
		{onhandv1.EventKind_EVENT_KIND_RETURN_RECEIVED, []string{location, "disposition"}, []string{channel, order, line, price, currency, reason},
			"restock: on hand +; refurbish, quarantine: unsellable +; scrap: nothing"},
		{onhandv1.EventKind_EVENT_KIND_INBOUND_EXPECTED, []string{location}, []string{reference, cost, currency},
			"inbound + at the location"},
		{onhandv1.EventKind_EVENT_KIND_INBOUND_CANCELLED, []string{location}, []string{reference, reason},
			"inbound − at the location"},
		{onhandv1.EventKind_EVENT_KIND_RECEIPT_RECEIVED, []string{location}, []string{reference, cost, currency},
			"on hand +; inbound − by what was announced"},
		{onhandv1.EventKind_EVENT_KIND_STOCK_ADJUSTED, []string{location}, []string{reason, cost, currency},
			"on hand ± by the signed quantity"},
		{onhandv1.EventKind_EVENT_KIND_STOCK_COUNTED, []string{location, "as_of_us"}, []string{reason},
			"on hand becomes the count, corrected for events since as_of_us"},
		{onhandv1.EventKind_EVENT_KIND_TRANSFER_SHIPPED, []string{location, toLocation}, []string{reference},
			"on hand − at location; inbound + at to_location"},
		{onhandv1.EventKind_EVENT_KIND_TRANSFER_RECEIVED, []string{location}, []string{reference},
			"on hand +, inbound − at the location"},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_PLACED, []string{location, "reservation_id"}, []string{"expires_at_us", channel, order},
			"held + at the location"},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_RELEASED, []string{location, "reservation_id"}, []string{channel, order, reason},
			"held − at the location"},
		{onhandv1.EventKind_EVENT_KIND_SAFETY_STOCK_SET, []string{location}, []string{reason},
			"safety stock of the location becomes the quantity"},
	}
}
