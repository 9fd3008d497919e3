// Package order describes an order of one channel, and the stock events that it is made of.
package order

import (
	"strings"

	"github.com/onhand/onhand/stock/event"
)

// Line is one line of an order.
type Line struct {
	ID        string
	SKU       string
	Quantity  event.Units
	UnitPrice string // decimal number in the order's currency
	Location  string // set when the channel decided who serves it
}

// Address is where an order goes: only what routing needs.
type Address struct {
	Country, Region, PostalCode string
}

// Order is one normalised order.
type Order struct {
	ID          string
	Channel     string
	PlacedAt    int64 // channel's clock
	ReceivedAt  int64 // Onhand's clock
	Currency    string
	Lines       []Line
	ShipTo      Address
	ShipBy      int64 // 0 when nothing was promised
	CustomerRef string
}

// SaleID is the event id of a line's sale: fixed by the source, so that a repeated delivery counts once. Ids may hold any character: a slash
// (and the per cent sign) in a part is escaped, so that two lines never share an id.
func SaleID(channel, orderID, lineID string) string {
	return "sale/" + part(channel) + "/" + part(orderID) + "/" + part(lineID)
}

var escaper = strings.NewReplacer("%", "%25", "/", "%2F")

func part(s string) string {
	if strings.IndexByte(s, '/') < 0 && strings.IndexByte(s, '%') < 0 {
		return s
	}
	return escaper.Replace(s)
}

// Sales is the events of an order, one per line, appended to dst.
func (o *Order) Sales(dst []event.Event, source string) []event.Event {
	for i := range o.Lines {
		l := &o.Lines[i]
		dst = append(dst, event.Event{
			ID: SaleID(o.Channel, o.ID, l.ID), Kind: event.SaleRecorded, SKU: l.SKU, Location: l.Location, Channel: o.Channel,
			OrderID: o.ID, LineID: l.ID, Quantity: l.Quantity, UnitPrice: l.UnitPrice, Currency: o.Currency,
			OccurredAt: o.PlacedAt, ReceivedAt: o.ReceivedAt, Source: source,
		})
	}
	return dst
}
