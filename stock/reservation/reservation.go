// Package reservation says what the ledger decided on a reservation: units of one or several SKUs that are held for somebody until they are sold,
// given back, or their time is up. The fold that decides is package ledger's.
package reservation

import "github.com/onhand/onhand/stock/event"

// State says what has become of a reservation's part: the units of one SKU. The numbers are those of onhand.v1.ReservationState.
type State uint8

// The states.
const (
	Unknown   State = iota // it never was, or ended so long ago that it is forgotten
	Tentative              // held, until it is decided whether every SKU of the reservation is
	Held                   // held until it expires
	Refused                // not granted: stock did not cover it
	Aborted                // given back: another SKU was not granted, or nobody confirmed in time
	Released               // given back by its owner
	Expired                // given back when its time was up
	Committed              // sold
)

var stateNames = [...]string{"unknown", "tentative", "held", "refused", "aborted", "released", "expired", "committed"}

// String is the state's name in JSON.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return stateNames[0]
}

// Open says that units are held.
func (s State) Open() bool { return s == Tentative || s == Held }

// Units is what a reservation holds at one location.
type Units struct {
	Location string
	Units    event.Units
}

// Decision is the ledger's answer to one event about one SKU of a reservation: how its part stands after it. Of two decisions on one part, the one with the
// higher SourceOffset is newer.
type Decision struct {
	ReservationID string
	SKU           string
	State         State
	Reason        string      // for people
	Quantity      event.Units // asked for
	Held          []Units     // now, by location
	Committed     event.Units // sold out of it so far
	Available     event.Units // what the SKU still has to sell for such a request, after the event
	ExpiresAt     int64       // Onhand's clock
	DecideBy      int64       // Onhand's clock; while tentative
	Parts         int64       // SKUs of the reservation
	PeerSKU       string      // the SKU that decides for all; empty when there is one
	RequestHash   int64       // of what the whole reservation asks for
	Channel       string
	EventID       string // that is answered
	EventKind     event.Kind
	SourceOffset  int64 // in stock.events, in the partition of the SKU
	DecidedAt     int64 // projector's clock
}

// Units is what is held now, at all locations together.
func (d *Decision) Units() event.Units {
	var n event.Units
	for _, h := range d.Held {
		n += h.Units
	}
	return n
}
