package allocation

import (
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// Units is a number of pieces.
type Units = event.Units

// Step is one step in the derivation of a target.
type Step struct {
	Name   string // available, pool_buffer, buffer, cap, reserve, max, hide, pause, priority …
	Units  Units  // after this step
	Detail string // for people
}

// Target is what one channel should show for one SKU, and why: what targets.<channel> carries.
type Target struct {
	SKU              string
	Channel          string
	ExternalID       string
	Quantity         Units // never negative
	LevelVersion     int64
	SourceOffset     int64
	SettingsVersion  int64
	Explanation      []Step
	Mode             string
	Sold             Units // by the channel, as the ledger knew
	Restored         Units
	ReceivedAt       int64 // newest event behind it
	OldestReceivedAt int64 // earliest event it carries beyond the target before it
	DecidedAt        int64
	Withdrawn        bool // the channel no longer lists the SKU
	// Where exposure is kept in books: the one write that the pusher is to carry out, and nothing else; with no operation when nothing is granted.
	// nil in pooled mode, where the pusher writes Quantity as it sees fit.
	Write *GrantedWrite
	// Where exposure is kept in books: most units that the channel can still report as sold once Write is booked.
	Exposure Units
}

// GrantedWrite is the one change of a SKU at a channel that the books of exposure allow now.
type GrantedWrite struct {
	ID        string          // unique; write id of its results and idempotency key
	Operation write.Operation // write.Read only reads what is shown
	Quantity  Units           // Absolute and CompareAndSet: what to show
	Delta     Units           // Delta: signed change
	Expected  Units           // CompareAndSet: applied only if this is shown
}
