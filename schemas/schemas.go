// Package schemas is the public contract of Onhand's topics: the Protobuf files, the Go code generated from them (gen/), and the table of
// topics that says what each holds, by which key, and for how long.
package schemas

import (
	"embed"
	"time"
)

// Proto holds the Protobuf files, for registering them with a Schema Registry.
//
//go:embed proto
var Proto embed.FS

// Cleanup is what Kafka does with old records of a topic.
type Cleanup string

// The cleanup policies. Keep means that nothing is ever deleted (retention.ms = -1).
const (
	Keep    Cleanup = "keep"
	Delete  Cleanup = "delete"
	Compact Cleanup = "compact"
)

// Topic is one row of the contract.
type Topic struct {
	Name        string        // targets.<channel> stands for one topic per channel
	Key         string        // what the record key is
	Message     string        // Protobuf message of package onhand.v1; empty for JSON
	File        string        // Protobuf file of the message, relative to proto/
	Index       []int         // the message's index in its file, as Confluent's wire format counts
	Cleanup     Cleanup       //
	Retention   time.Duration // for Delete
	BySKU       bool          // partitioned by SKU: all such topics have the same number of partitions
	Doc         string        // what it holds
	WrittenBy   string
	ReadBy      string
	SinglePart  bool // one partition, so that its order is total
	AnyProducer bool // written by others than Onhand
}

// Names of the topics.
const (
	OrdersIn          = "orders.in"
	Orders            = "orders"
	StockEvents       = "stock.events"
	StockLevels       = "stock.levels"
	ChannelWatermarks = "channel.watermarks"

	ReservationDecisions = "reservation.decisions"

	TargetsPrefix   = "targets."
	ChannelWrites   = "channel.writes"
	StockAlerts     = "stock.alerts"
	ExposureBooks   = "exposure.books"
	Certificates    = "exposure.certificates"
	CatalogSettings = "catalog.settings"
	CatalogListings = "catalog.listings"
	StockRejected   = "stock.rejected"
)

// TargetsTopic is the topic that holds the targets of a channel.
func TargetsTopic(channel string) string { return TargetsPrefix + channel }

const day = 24 * time.Hour

// Topics is the contract, in the order data flows. The entry targets.<channel> stands for one topic per channel.
func Topics() []Topic {
	return []Topic{
		{Name: OrdersIn, Key: "order id", Cleanup: Delete, Retention: 7 * day, AnyProducer: true,
			Doc: "An order as JSON (the body of POST /v1/orders), for brands that feed Kafka themselves.", WrittenBy: "brands", ReadBy: "ingest"},
		{Name: Orders, Key: "order id", Message: "Order", File: "onhand/v1/order.proto", Index: []int{2}, Cleanup: Delete, Retention: 400 * day,
			Doc: "Normalised orders, with all lines.", WrittenBy: "ingest", ReadBy: "analytics, order routing"},
		{Name: StockEvents, Key: "SKU, or channel", Message: "StockEvent", File: "onhand/v1/event.proto", Index: []int{0}, Cleanup: Keep, BySKU: true,
			Doc: "Everything that happened to stock: the source of truth.", WrittenBy: "ingest; ledger-projector (reservations whose time is up)", ReadBy: "ledger-projector, analytics"},
		{Name: StockLevels, Key: "SKU", Message: "StockLevel", File: "onhand/v1/level.proto", Index: []int{2}, Cleanup: Compact, BySKU: true,
			Doc: "The whole state of one SKU after an event.", WrittenBy: "ledger-projector", ReadBy: "allocator, analytics, anyone"},
		{Name: ChannelWatermarks, Key: "channel", Message: "ChannelWatermark", File: "onhand/v1/watermark.proto", Index: []int{0}, Cleanup: Compact, BySKU: true,
			Doc:       "How far the orders of each channel are in the levels of the same partition. Each partition has a record of every channel.",
			WrittenBy: "ledger-projector", ReadBy: "allocator, ingest"},
		{Name: ReservationDecisions, Key: "reservation id", Message: "ReservationDecision", File: "onhand/v1/reservation.proto", Index: []int{1}, Cleanup: Delete, Retention: 8 * day,
			Doc: "What the ledger decided on each event of a reservation, and how its part of one SKU stands.", WrittenBy: "ledger-projector", ReadBy: "ingest, anyone"},
		{Name: TargetsPrefix + "<channel>", Key: "SKU", Message: "ChannelTarget", File: "onhand/v1/target.proto", Index: []int{1}, Cleanup: Compact, BySKU: true,
			Doc: "What the channel should show for each SKU, and why.", WrittenBy: "allocator", ReadBy: "channel-pusher, analytics, anyone"},
		{Name: ChannelWrites, Key: "SKU", Message: "WriteResult", File: "onhand/v1/write.proto", Index: []int{0}, Cleanup: Delete, Retention: 30 * day, BySKU: true,
			Doc: "What each write to a channel did, with all time stamps.", WrittenBy: "channel-pusher", ReadBy: "allocator, analytics"},
		{Name: ExposureBooks, Key: "SKU", Message: "ExposureBooks", File: "onhand/v1/exposure.proto", Index: []int{0}, Cleanup: Compact, BySKU: true,
			Doc: "What may still be sold where, for each SKU whose exposure is kept in books, and which write is open.", WrittenBy: "allocator", ReadBy: "allocator, analytics"},
		{Name: Certificates, Key: "day/partition", Message: "ExposureCertificate", File: "onhand/v1/exposure.proto", Index: []int{3}, Cleanup: Compact, BySKU: true,
			Doc: "How often the invariant that rules out an oversell was checked, and how close it came.", WrittenBy: "allocator", ReadBy: "onhand certificate"},
		{Name: StockAlerts, Key: "SKU", Message: "StockAlert", File: "onhand/v1/alert.proto", Index: []int{0}, Cleanup: Delete, Retention: 90 * day,
			Doc: "What needs a person.", WrittenBy: "ledger-projector, allocator, channel-pusher", ReadBy: "anyone"},
		{Name: CatalogSettings, Key: "kind/id", Message: "Setting", File: "onhand/v1/catalog.proto", Index: []int{4}, Cleanup: Compact, SinglePart: true,
			Doc: "Channels, locations and rules. Small: every service holds all of it.", WrittenBy: "ingest", ReadBy: "all services"},
		{Name: CatalogListings, Key: "SKU", Message: "Listing", File: "onhand/v1/catalog.proto", Index: []int{7}, Cleanup: Compact, BySKU: true,
			Doc: "Product, cost, and listings by channel.", WrittenBy: "ingest", ReadBy: "ledger-projector, allocator, analytics"},
		{Name: StockRejected, Key: "as the source's", Message: "RejectedRecord", File: "onhand/v1/alert.proto", Index: []int{2}, Cleanup: Delete, Retention: 90 * day,
			Doc: "Input that could not be applied, with its original bytes and the reason.", WrittenBy: "all services", ReadBy: "operators"},
	}
}
