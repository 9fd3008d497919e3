// Package adapter says what the pusher asks of a channel's wire format. An adapter only turns items into a request and an answer into results:
// queues, limits, retries, beliefs and read-backs are the engine's.
package adapter

import (
	"context"
	"fmt"
	"time"

	"github.com/onhand/onhand/stock/catalog"
)

// Account is one seller's account at a channel.
type Account struct {
	Channel string
	BaseURL string
	Token   string // never logged; empty sends none
}

// Item is one quantity to change. Exactly one of the operations, as the channel's API has it.
type Item struct {
	// ID names the change, the same in every request that carries it: where the API knows ids of items, a change that it has applied is not applied
	// again. Empty when the change is made but once.
	ID         string
	ExternalID string // the SKU's id at the channel
	Operation  catalog.Operation
	Quantity   int64 // absolute, compare-and-set: units to show
	Delta      int64 // delta: signed change
	Expected   int64 // compare-and-set: units that must be shown now
}

// Verdict is what the channel said of one item.
type Verdict uint8

// The verdicts. The zero value is not one: the channel said nothing of the item.
const (
	Silent  Verdict = iota // no answer for the item: it may or may not be applied
	Applied                // it shows what it was told to
	Refused                // for good: the same item will be refused again
	Busy                   // not applied; may be tried again
	Stale                  // compare-and-set: it shows something else than expected; not applied
)

// ItemResult is the answer to one item.
type ItemResult struct {
	Verdict    Verdict
	Code       string // the channel's, empty when applied
	Detail     string // for people
	Shown      int64  // units it shows now, if ShownKnown
	ShownKnown bool
}

// Shown is one item read back.
type Shown struct {
	Quantity int64
	Known    bool // the channel answered for it
	Listed   bool // the channel has the listing
}

// Capabilities is what a wire format can do.
type Capabilities struct {
	Operations  []catalog.Operation
	MaxBatch    int   // most items in one request
	MaxQuantity int64 // most units that can be shown; larger targets are clamped to it
	ReadBack    bool  // Read works
	ItemIDs     bool  // the API knows ids of items; without, only the request's key keeps it from being applied twice
}

// Can says whether op is among the operations.
func (c Capabilities) Can(op catalog.Operation) bool {
	for _, o := range c.Operations {
		if o == op {
			return true
		}
	}
	return false
}

// Adapter is one wire format. It is used by many goroutines at once.
type Adapter interface {
	Capabilities() Capabilities
	// Write sends the items in one request and appends one result for each, in order, to dst. key is unique to the request: it
	// keeps the request from being applied twice on its way. An item's own id, where it has one and the API knows them, keeps the item from being
	// applied twice in different requests. Items of one
	// request name different listings. An error is a *CallError and speaks of the request as a whole.
	Write(ctx context.Context, a Account, key string, items []Item, dst []ItemResult) ([]ItemResult, error)
	// Read asks what the channel shows and appends one value for each id, in order, to dst. An error is a *CallError.
	Read(ctx context.Context, a Account, ids []string, dst []Shown) ([]Shown, error)
}

// Kind says what a failed request did, and what to do next.
type Kind uint8

// The kinds of failed requests.
const (
	Uncertain   Kind = iota // it may have been applied: read back before writing again
	NotSent                 // it never reached the channel
	Throttled               // not applied: too many requests
	Unavailable             // not applied: the channel is out of order
	Denied                  // not applied: the account, its token or its address is wrong
	Malformed               // not applied: at least one item makes the request invalid
)

var kindNames = [...]string{"uncertain", "not_sent", "throttled", "unavailable", "denied", "malformed"}

// String is the kind's name in errors, logs and results.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// CallError is a request that failed as a whole.
type CallError struct {
	Kind       Kind
	Status     int           // HTTP status, 0 without an answer
	RetryAfter time.Duration // what the channel asked for; 0 if it did not
	Detail     string        // for people; holds no secret
	Err        error         // cause, if any
}

// Error says what the channel did.
func (e *CallError) Error() string {
	s := e.Kind.String()
	if e.Status != 0 {
		s += fmt.Sprintf(", status %d", e.Status)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the cause.
func (e *CallError) Unwrap() error { return e.Err }
