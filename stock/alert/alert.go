// Package alert describes what needs a person, and input that could not be applied.
package alert

import "github.com/onhand/onhand/stock/event"

// Kind says what needs attention. The numbers are those of onhand.v1.AlertKind.
type Kind uint8

// The kinds.
const (
	Unspecified      Kind = iota
	Oversold              // available fell below zero
	Drift                 // a channel shows something else than it should
	ChannelStuck          // a channel takes no writes
	Anomaly               // applied, but makes little sense beside what is known
	Reorder               // stock fell to its reorder point
	LedgerMismatch        // Redis does not hold what the ledger stored
	ExposureBreach        // a channel sold more than it was exposed to
	ExposureShortage      // less is available than channels can still sell
	NumberRaised          // a channel shows more than Onhand let it
)

// Alert is one notice: what stock.alerts carries. The same ID is the same alert.
type Alert struct {
	ID, SKU, Location, Channel string
	Kind                       Kind
	Units                      event.Units
	Cause                      string // event or write id
	Message                    string // what happened and what to do
	At                         int64  // raising service's clock
	RaisedBy                   string
}

// Header is one header of a rejected record.
type Header struct {
	Key   string
	Value []byte
}

// Rejected is input that could not be applied, with its original bytes: what stock.rejected carries.
type Rejected struct {
	Topic      string // "http" for HTTP input
	Partition  int32
	Offset     int64 // -1 for HTTP input
	Key, Value []byte
	Headers    []Header
	Reason     string // machine-readable: undecodable, unknown_kind, invalid, absurd_quantity …
	Detail     string // what was wrong, where, and what to do
	RejectedBy string
	At         int64
}
