package schemas

import onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"

// KindFields says which fields of StockEvent a kind of event uses beside id, kind, sku, quantity, occurred_at_us, received_at_us, source and
// checked, which all have, except that a kind of a channel has neither sku nor quantity.
type KindFields struct {
	Kind      onhandv1.EventKind
	Needs     []string // the ledger rejects the event without them
	May       []string // used where present
	Effect    string   // what it does to the buckets, for people
	OfChannel bool     // about a channel, not a SKU: sku and quantity are empty, and the record key is the channel
}

// EventFields is the use of fields by kind, in the order of the kinds.
func EventFields() []KindFields {
	const (
		location, toLocation, channel, order, line = "location", "to_location", "channel", "order_id", "line_id"
		price, cost, currency                      = "unit_price", "unit_cost", "currency"
		reason, reference                          = "reason", "reference"
		disposition, restocked                     = "disposition", "restocked_by_channel"
		reservation, expires, asOf                 = "reservation_id", "expires_at_us", "as_of_us"
		peer, hash, bundle                         = "peer_sku", "request_hash", "bundle"
	)
	return []KindFields{
		{onhandv1.EventKind_EVENT_KIND_SALE_RECORDED, []string{channel, order}, []string{location, line, price, currency, reservation, bundle},
			"committed + at the location, or unassigned without one; sold of the channel +, of a component that of its bundle; held − by what the reservation holds", false},
		{onhandv1.EventKind_EVENT_KIND_SALE_CANCELLED, []string{channel, order}, []string{location, line, price, currency, reason, restocked, bundle},
			"committed −, where the order's line has units; restored of the channel + when restocked_by_channel", false},
		{onhandv1.EventKind_EVENT_KIND_SALE_ASSIGNED, []string{location, channel, order}, []string{line, bundle},
			"unassigned −; committed + at the location", false},
		{onhandv1.EventKind_EVENT_KIND_SALE_REASSIGNED, []string{location, toLocation, channel, order}, []string{line, reason, bundle},
			"committed − at location; committed + at to_location", false},
		{onhandv1.EventKind_EVENT_KIND_SHIPMENT_CONFIRMED, []string{location, channel, order}, []string{line, reference, bundle},
			"on hand − and committed − at the location", false},
		{onhandv1.EventKind_EVENT_KIND_RETURN_RECEIVED, []string{location, disposition}, []string{channel, order, line, price, currency, reason, bundle},
			"restock: on hand +; refurbish, quarantine: unsellable +; scrap: nothing", false},
		{onhandv1.EventKind_EVENT_KIND_INBOUND_EXPECTED, []string{location, reference}, []string{cost, currency},
			"inbound + at the location", false},
		{onhandv1.EventKind_EVENT_KIND_INBOUND_CANCELLED, []string{reference}, []string{location, cost, currency, reason},
			"inbound − where the reference has units", false},
		{onhandv1.EventKind_EVENT_KIND_RECEIPT_RECEIVED, []string{location}, []string{reference, cost, currency},
			"on hand +; inbound − by what the reference announced", false},
		{onhandv1.EventKind_EVENT_KIND_STOCK_ADJUSTED, []string{location}, []string{reason, reference, cost, currency},
			"on hand ± by the signed quantity", false},
		{onhandv1.EventKind_EVENT_KIND_STOCK_COUNTED, []string{location, asOf}, []string{reason, reference},
			"on hand becomes the count, corrected for events since as_of_us", false},
		{onhandv1.EventKind_EVENT_KIND_TRANSFER_SHIPPED, []string{location, toLocation, reference}, []string{reason},
			"on hand − at location; inbound + at to_location", false},
		{onhandv1.EventKind_EVENT_KIND_TRANSFER_RECEIVED, []string{location, reference}, []string{reason},
			"on hand +, inbound − at the location", false},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_PLACED, []string{location, reservation}, []string{expires, channel, order, line},
			"held + at the location", false},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_RELEASED, []string{reservation}, []string{location, channel, order, line, reason, expires},
			"held − at the location; when the reservation was requested, where it is held", false},
		{onhandv1.EventKind_EVENT_KIND_SAFETY_STOCK_SET, []string{location}, []string{reason, reference},
			"safety stock of the location becomes the quantity", false},
		{onhandv1.EventKind_EVENT_KIND_ORDER_WATERMARK_PASSED, []string{channel}, nil,
			"none: it has no sku and no quantity, is in every partition, and is passed on to channel.watermarks", true},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_REQUESTED, []string{reservation, expires}, []string{"scope", channel, peer, "parts", "decide_by_us", hash},
			"held + where the scope has units, or nothing when it has too few", false},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_EXTENDED, []string{reservation, expires}, []string{channel},
			"none: the reservation ends at another time", false},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_CONFIRMED, []string{reservation}, []string{channel, hash},
			"none: what is held is firm", false},
		{onhandv1.EventKind_EVENT_KIND_RESERVATION_ABORTED, []string{reservation}, []string{channel, reason, peer, hash},
			"held − what the reservation holds, unless it was confirmed before", false},
		{onhandv1.EventKind_EVENT_KIND_ALLOTMENT_CHANGED, []string{channel, "sequence"}, []string{reason},
			"none: what the channel may still reserve or sell changes by the signed quantity, not below 0", false},
		{onhandv1.EventKind_EVENT_KIND_ALLOTMENT_ENDED, []string{channel, "sequence"}, []string{reason},
			"none: the channel is held to no allotment", false},
	}
}
