package topics

import (
	"encoding/binary"
	"unsafe"

	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/event"
)

// EventReader decodes stock.events values one after another, without garbage. Not safe for concurrent use.
type EventReader struct{ m onhandv1.StockEvent }

// Read decodes value into e. The strings of e alias value. A kind this version does not know is kept as its number (Kind.String says
// unknown): the caller rejects it.
func (r *EventReader) Read(value []byte, e *event.Event) error {
	b, err := payload(value, eventIndex)
	if err != nil {
		return undecodable("stock event", err)
	}
	if readEvent(b, e) {
		return nil
	}
	// What the quick way does not take: the generated code judges it, and says what is wrong.
	r.m.Reset()
	if err := r.m.UnmarshalVTUnsafe(b); err != nil {
		return undecodable("stock event", err)
	}
	fromMessage(&r.m, e)
	return nil
}

// fromMessage sets e to what the generated code read; the strings of e are those of m.
func fromMessage(m *onhandv1.StockEvent, e *event.Event) {
	*e = event.Event{
		ID: m.Id, Kind: event.Kind(small(int64(m.Kind))), SKU: m.Sku, Location: m.Location, Channel: m.Channel, OrderID: m.OrderId, LineID: m.LineId,
		Quantity: event.Units(m.Quantity), UnitPrice: m.UnitPrice, UnitCost: m.UnitCost, Currency: m.Currency, ToLocation: m.ToLocation,
		Reason: m.Reason, Disposition: event.Disposition(small(int64(m.Disposition))), Reference: m.Reference, ReservationID: m.ReservationId,
		ExpiresAt: m.ExpiresAtUs, AsOf: m.AsOfUs, RestockedByChannel: m.RestockedByChannel, OccurredAt: m.OccurredAtUs,
		ReceivedAt: m.ReceivedAtUs, Source: m.Source, Checked: m.Checked, Scope: m.Scope, PeerSKU: m.PeerSku, Parts: m.Parts, DecideBy: m.DecideByUs,
		RequestHash: m.RequestHash, Sequence: m.Sequence, Bundle: m.Bundle,
	}
}

// small is an enum's number as a byte; those that no byte holds are all 255, which no enum has.
func small(n int64) uint8 {
	if n < 0 || n > 255 {
		return 255
	}
	return uint8(n)
}

// readEvent decodes a message straight into e, and reports false for what it leaves to the generated code: damaged messages and fields it does not
// know. It is the generated code without the message in between, which costs as much again.
func readEvent(b []byte, e *event.Event) bool {
	*e = event.Event{}
	for len(b) > 0 {
		tag, n := uint64(b[0]), 1
		if tag >= 0x80 {
			if tag, n = binary.Uvarint(b); n <= 0 {
				return false
			}
		}
		b = b[n:]
		if len(b) == 0 {
			return false
		}
		v, n := uint64(b[0]), 1
		if v >= 0x80 {
			if v, n = binary.Uvarint(b); n <= 0 {
				return false
			}
		}
		b = b[n:]
		if tag&7 == 2 {
			if v > uint64(len(b)) {
				return false
			}
			s := unsafe.String(unsafe.SliceData(b), int(v))
			b = b[v:]
			switch tag >> 3 {
			case 1:
				e.ID = s
			case 3:
				e.SKU = s
			case 4:
				e.Location = s
			case 5:
				e.Channel = s
			case 6:
				e.OrderID = s
			case 7:
				e.LineID = s
			case 9:
				e.UnitPrice = s
			case 10:
				e.UnitCost = s
			case 11:
				e.Currency = s
			case 12:
				e.ToLocation = s
			case 13:
				e.Reason = s
			case 15:
				e.Reference = s
			case 16:
				e.ReservationID = s
			case 22:
				e.Source = s
			case 24:
				e.Scope = s
			case 25:
				e.PeerSKU = s
			case 30:
				e.Bundle = s
			default:
				return false
			}
			continue
		}
		if tag&7 != 0 {
			return false
		}
		switch tag >> 3 {
		case 2:
			e.Kind = event.Kind(small(int64(int32(v))))
		case 8:
			e.Quantity = event.Units(int64(v>>1) ^ -int64(v&1))
		case 14:
			e.Disposition = event.Disposition(small(int64(int32(v))))
		case 17:
			e.ExpiresAt = int64(v)
		case 18:
			e.AsOf = int64(v)
		case 19:
			e.RestockedByChannel = v != 0
		case 20:
			e.OccurredAt = int64(v)
		case 21:
			e.ReceivedAt = int64(v)
		case 23:
			e.Checked = v != 0
		case 26:
			e.Parts = int64(v)
		case 27:
			e.DecideBy = int64(v)
		case 28:
			e.RequestHash = int64(v)
		case 29:
			e.Sequence = int64(v)
		default:
			return false
		}
	}
	return true
}
