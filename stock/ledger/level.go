package ledger

import (
	"slices"

	"github.com/onhand/onhand/stock/event"
)

// Units is a number of pieces of one SKU; a bucket may be negative, and then says so.
type Units = event.Units

// LocationLevel is the stock of one SKU at one location.
type LocationLevel struct {
	Location   string
	OnHand     Units // there and fit to sell
	Committed  Units // sold, not shipped
	Held       Units // reservations
	Inbound    Units // ordered or in transit to here
	Unsellable Units // damaged, in repair, in quarantine
	Safety     Units // never offered

	MovedAt     int64 // latest moment at which on hand moved
	CountedAsOf int64 // moment the newest count speaks of
	CountsFrom  int64 // counts as of before this moment are refused
}

// Available is what the location can still sell: on hand − committed − held − safety stock. Negative is an oversell.
func (l LocationLevel) Available() Units { return l.OnHand - l.Committed - l.Held - l.Safety }

// ChannelUnits is a cumulative count for one channel.
type ChannelUnits struct {
	Channel string
	Units   Units
	// EarliestAt is the earliest sold_at (the channel's clock) among the units that this record adds to those of PreviousVersion; 0 when it adds
	// none, or when a time is not known. Of Sold only.
	EarliestAt int64
}

// Allotment is what a claim channel, which asks before it sells, may still take of a SKU.
type Allotment struct {
	Channel  string
	Units    Units
	Sequence int64 // of the last change that is in it
	Ended    bool  // it is held to no allotment any more
}

// Level is the public state of one SKU after an event: what stock.levels carries.
type Level struct {
	SKU              string
	Version          int64 // events that changed this SKU
	SourceOffset     int64 // offset in stock.events of the last of them
	Locations        []LocationLevel
	Unassigned       Units // committed with no location yet
	Sold             []ChannelUnits
	Restored         []ChannelUnits
	Allotments       []Allotment // what claim channels may still take, ordered by channel
	EventID          string
	EventKind        event.Kind
	ReceivedAt       int64 // of the last event
	OldestReceivedAt int64 // earliest of the events since the level emitted before
	AppliedAt        int64
	PreviousVersion  int64 // of the record emitted before this one; 0 when not known
	Generation       int64 // how often the ledger was rebuilt: a level of a later one replaces those of earlier ones
}

// Clone is a copy that shares nothing with the level which may be written over.
func (l *Level) Clone() *Level {
	c := *l
	c.Locations, c.Sold, c.Restored, c.Allotments = slices.Clone(l.Locations), slices.Clone(l.Sold), slices.Clone(l.Restored), slices.Clone(l.Allotments)
	return &c
}

// Available is the sum over all locations, less what is committed without one.
func (l *Level) Available() Units {
	n := -l.Unassigned
	for i := range l.Locations {
		n += l.Locations[i].Available()
	}
	return n
}
