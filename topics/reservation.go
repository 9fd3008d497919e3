package topics

import (
	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/reservation"
)

// AppendDecision appends the reservation.decisions value of d to dst.
func (c *Codec) AppendDecision(dst []byte, d *reservation.Decision) []byte {
	m := onhandv1.ReservationDecision{
		ReservationId: d.ReservationID, Sku: d.SKU, State: onhandv1.ReservationState(d.State), Reason: d.Reason, Quantity: int64(d.Quantity),
		Committed: int64(d.Committed), Available: int64(d.Available), ExpiresAtUs: d.ExpiresAt, DecideByUs: d.DecideBy, Parts: d.Parts, PeerSku: d.PeerSKU,
		RequestHash: d.RequestHash, Channel: d.Channel, EventId: d.EventID, EventKind: onhandv1.EventKind(d.EventKind), SourceOffset: d.SourceOffset,
		DecidedAtUs: d.DecidedAt,
	}
	for _, h := range d.Held {
		m.Held = append(m.Held, &onhandv1.HeldUnits{Location: h.Location, Units: int64(h.Units)})
	}
	return c.appendMessage(dst, "ReservationDecision", &m)
}

// DecodeDecision decodes a reservation.decisions value. Nothing in the result aliases value.
func DecodeDecision(value []byte) (*reservation.Decision, error) {
	b, err := payload(value, decisionIndex)
	if err != nil {
		return nil, undecodable("reservation decision", err)
	}
	var m onhandv1.ReservationDecision
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("reservation decision", err)
	}
	d := &reservation.Decision{
		ReservationID: m.ReservationId, SKU: m.Sku, State: reservation.State(small(int64(m.State))), Reason: m.Reason, Quantity: event.Units(m.Quantity),
		Committed: event.Units(m.Committed), Available: event.Units(m.Available), ExpiresAt: m.ExpiresAtUs, DecideBy: m.DecideByUs, Parts: m.Parts,
		PeerSKU: m.PeerSku, RequestHash: m.RequestHash, Channel: m.Channel, EventID: m.EventId, EventKind: event.Kind(small(int64(m.EventKind))),
		SourceOffset: m.SourceOffset, DecidedAt: m.DecidedAtUs,
	}
	for _, h := range m.Held {
		d.Held = append(d.Held, reservation.Units{Location: h.Location, Units: event.Units(h.Units)})
	}
	return d, nil
}
