package allocation

import "github.com/onhand/onhand/stock/event"

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
}
