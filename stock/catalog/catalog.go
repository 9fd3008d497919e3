// Package catalog holds what a brand sets: locations, channels, allocation rules and listings, as plain values, and the checks that they
// make sense together. It does no I/O; package topics turns these values into records and back.
package catalog

import (
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// Units is a number of pieces.
type Units = event.Units

// LocationKind is what sort of place holds stock. The numbers are those of onhand.v1.LocationKind.
type LocationKind uint8

// The location kinds.
const (
	UnspecifiedLocation LocationKind = iota
	Warehouse
	Store
	ThirdParty
	FBA
	WFS
	Virtual
)

// Location is a place that holds stock.
type Location struct {
	ID           string
	Name         string
	Kind         LocationKind
	Channel      string // FBA and WFS: the channel it belongs to
	MultiChannel bool   // other channels may sell from it too
	TimeZone     string // IANA
	Country      string // ISO 3166-1 alpha-2
	Buffer       Units  // kept off all channels, per SKU
}

// Operation is how a channel's API changes a quantity.
type Operation = write.Operation

// The operations that a channel's API may have.
const (
	UnspecifiedOperation = write.UnspecifiedOperation
	Absolute             = write.Absolute
	Delta                = write.Delta
	CompareAndSet        = write.CompareAndSet
)

// Channel is a place that sells, and how to write to it.
type Channel struct {
	ID            string
	Name          string
	Adapter       string // http; none when nothing is ever written; claim when it asks for each reservation before it sells, and nothing need be written
	BaseURL       string
	Operation     Operation
	BatchSize     int
	RatePerSecond string // decimal number of requests
	Burst         int
	MaxInFlight   int
	Locations     []string // fulfilment scope; empty means all shared locations
	ListsAllSKUs  bool
	TokenSecret   string // name of the secret, never the secret
	Paused        bool
	TimeoutMS     int
	LateWindowMS  int    // longest time that a write may still be applied after its answer failed to come; 0 means twice the time-out
	SetsAny       bool   // a compare-and-set channel that can also be set whatever it shows
	WriteOnly     bool   // what it shows cannot be read
	OrdersPath    string // of its order list, below BaseURL; empty when it has none
	OrdersLagMS   int    // longest time until an order shows up in the list, plus how far the channel's clock may be behind; 0 means 30 s
}

// Claim is the adapter of channels that ask before they sell.
const Claim = "claim"

// Written says that what the channel shows is written by Onhand.
func (c *Channel) Written() bool { return c.Adapter != "" && c.Adapter != "none" && c.Adapter != Claim }

// Match says what a rule applies to; empty fields match all.
type Match struct {
	Channel, SKU, Brand, Category string
}

// Rule is one allocation rule. A nil setting is not set by this rule.
type Rule struct {
	ID         string
	Match      Match
	Buffer     *Units // units held back from the channel
	Reserve    *Units // units no other channel may show
	CapBP      *int32 // most it may show, basis points of available
	Max        *Units
	HideAt     *Units // shows nothing at or below
	Priority   *int32 // lower is served first
	Weight     *Units
	Paused     *bool
	Floor      *Units  // shows at least that, even when nothing is available: made to order
	Mode       *string // pooled, adaptive or strict; or waterfall, proportional or fair: each unit shown once, without books
	Share      *string // demand, priority, weight or fair: how stock is divided where exposure is kept in books
	PoolBuffer *Units  // kept off all channels together
	Rounding   *string // largest_remainder or webster
}

// ChannelListing is one SKU as one channel sells it.
type ChannelListing struct {
	Channel    string
	ExternalID string // empty means the SKU
	Price      string // decimal number in Currency
	Currency   string
	Paused     bool
	Fee        string // what the channel keeps of each unit, decimal number in Currency
}

// Component is a part of a bundle.
type Component struct {
	SKU      string
	Quantity Units
}

// Listing is one product of the brand.
type Listing struct {
	SKU        string
	Title      string
	Brand      string
	Category   string
	UnitCost   string // decimal number in Currency
	Currency   string
	Channels   []ChannelListing
	Components []Component
}

// IntakePolicy is the id of the one setting of kind policy.
const IntakePolicy = "intake"

// Policy says what becomes of input that names what the catalog does not know. Without one, it is accepted.
type Policy struct {
	ID              string // IntakePolicy
	RejectSKUs      bool   // without a listing
	RejectLocations bool   // without a setting
}

// Settings is the whole small catalog: every service holds all of it. Maps are by id.
type Settings struct {
	Version   int64 // grows with every change
	Channels  map[string]*Channel
	Locations map[string]*Location
	Rules     map[string]*Rule
	Policies  map[string]*Policy
}

// Intake is the policy for what comes in.
func (s *Settings) Intake() Policy {
	if p := s.Policies[IntakePolicy]; p != nil {
		return *p
	}
	return Policy{ID: IntakePolicy}
}
