// Package write describes what a write to a channel did.
package write

import "github.com/onhand/onhand/stock/event"

// Operation is how a write changes a quantity. The numbers are those of onhand.v1.WriteOperation.
type Operation uint8

// The operations.
const (
	UnspecifiedOperation Operation = iota
	Absolute                       // set, whatever it was
	Delta                          // change by a signed number
	CompareAndSet                  // set, if it is what was expected
	Read                           // only read what is shown: of a granted write, never how a channel's API changes a quantity
	Allot                          // change what a claim channel may still take by a signed number: an event in the log, not a write to a channel
	Lift                           // hold a claim channel to no allotment any more: likewise
)

var operationNames = [...]string{"", "absolute", "delta", "compare_and_set", "read", "allot", "lift"}

// String is the operation's name in the settings file and in analytics: absolute, delta, compare_and_set, read, allot or lift.
func (o Operation) String() string {
	if int(o) < len(operationNames) {
		return operationNames[o]
	}
	return "unknown"
}

// Outcome is what is known of a write. The numbers are those of onhand.v1.WriteOutcome.
type Outcome uint8

// The outcomes.
const (
	UnspecifiedOutcome Outcome = iota
	Applied                    // the channel said so
	Refused                    // the channel refused the item; nothing changed there
	NotSent                    // never left Onhand; nothing changed there
	Unknown                    // sent, and no answer says what became of it
)

var outcomeNames = [...]string{"unspecified", "applied", "refused", "not_sent", "unknown"}

// String is the outcome's name in analytics and logs.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "invalid"
}

// Result is what one write did, with every time stamp: what channel.writes carries.
type Result struct {
	WriteID          string
	SKU              string
	Channel          string
	ExternalID       string
	Operation        Operation
	Quantity         event.Units // absolute, compare-and-set
	Delta            event.Units
	Expected         event.Units // compare-and-set
	Outcome          Outcome
	Settled          bool // of an unknown outcome: the write can no longer be applied after this report
	ErrorCode        string
	ErrorDetail      string
	Shown            event.Units // what the channel says it shows now, if ShownKnown
	ShownKnown       bool
	ShownAt          int64 // when the answer that told Shown came, pusher's clock: it was shown at some moment up to then; 0 when it is not known
	Attempts         int
	LevelVersion     int64
	SourceOffset     int64
	SettingsVersion  int64
	OldestReceivedAt int64
	ReceivedAt       int64
	DecidedAt        int64
	SentAt           int64
	AckedAt          int64 // 0 when there was no answer
}
