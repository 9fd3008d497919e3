package analytics

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

// Reasons that analytics gives in stock.rejected.
const (
	undecodable = "undecodable"   // no row was made
	badMoney    = "invalid_money" // the row was made without the amount
)

// fault is what was wrong with a record: its reason and what a person should know.
type fault struct{ reason, detail string }

func (f *fault) Error() string { return f.reason + ": " + f.detail }

func cannotDecode(err error) *fault { return &fault{undecodable, err.Error()} }

// encoder turns the records of one table into rows. add appends one row, or none and a fault with reason undecodable; any other fault comes
// with a row. A record that is about nothing the table holds has neither.
type encoder interface {
	base() *block
	add(*kgo.Record) *fault
}

// table is one table and the topics it is made of.
type table struct {
	name    string
	topic   string // exact name, or a prefix when it ends with a dot
	encoder func() encoder
}

func (t table) holds(topic string) bool {
	if strings.HasSuffix(t.topic, ".") {
		return len(topic) > len(t.topic) && strings.HasPrefix(topic, t.topic)
	}
	return topic == t.topic
}

// pattern is the regular expression of the table's topics.
func (t table) pattern() string {
	p := "^" + strings.ReplaceAll(t.topic, ".", `\.`)
	if strings.HasSuffix(t.topic, ".") {
		return p + ".+$"
	}
	return p + "$"
}

var tables = []table{
	{"stock_events", schemas.StockEvents, newEventRows},
	{"stock_levels", schemas.StockLevels, newLevelRows},
	{"channel_targets", schemas.TargetsPrefix, newTargetRows},
	{"channel_writes", schemas.ChannelWrites, newWriteRows},
	{"exposure_books", schemas.ExposureBooks, newBookRows},
	{"orders", schemas.Orders, newOrderRows},
	{"stock_alerts", schemas.StockAlerts, newAlertRows},
	{"rejected_records", schemas.StockRejected, newRejectedRows},
	{"catalog_listings", schemas.CatalogListings, newListingRows},
	{"catalog_settings", schemas.CatalogSettings, newSettingRows},
}

// Reads reports whether analytics takes a topic in.
func Reads(topic string) bool {
	return slices.ContainsFunc(tables, func(t table) bool { return t.holds(topic) })
}

// alias is b as a string that shares its memory: for keys of records, which outlive the row.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

type rows struct {
	block
	record *recordColumns
}

func (r *rows) base() *block { return &r.block }

// row closes a row: what every table has at its end.
func (r *rows) row(rec *kgo.Record) {
	r.record.add(rec)
	r.rows++
}

// faults gathers what is wrong with the amounts of one record.
type faults struct{ first *fault }

func (f *faults) money(field, value string, err error) {
	if err != nil && f.first == nil {
		f.first = &fault{badMoney, fmt.Sprintf("%s %.60q is %v: the row is kept without it; send a correction with a decimal number", field, value, errMoney)}
	}
}

type eventRows struct {
	rows
	read                                        topics.EventReader
	event                                       event.Event
	bundle                                      *proto.ColStr
	id, sku, order, line, reason, ref, reserved *proto.ColStr
	kind, location, to, channel, currency       *lowCardinality
	disposition, source                         *lowCardinality
	quantity                                    *proto.ColInt64
	price, cost                                 *money
	restocked                                   *proto.ColBool
	occurred, received, expires, asOf           *micros
}

func newEventRows() encoder {
	r := &eventRows{}
	b := &r.block
	r.id, r.kind, r.sku = b.text("event_id"), b.name("kind"), b.text("sku")
	r.location, r.to, r.channel = b.name("location"), b.name("to_location"), b.name("channel")
	r.order, r.line, r.quantity = b.text("order_id"), b.text("line_id"), b.int64("quantity")
	r.price, r.cost, r.currency = b.money("unit_price"), b.money("unit_cost"), b.name("currency")
	r.disposition, r.reason, r.ref, r.reserved = b.name("disposition"), b.text("reason"), b.text("reference"), b.text("reservation_id")
	r.restocked, r.source = b.flag("restocked_by_channel"), b.name("source")
	r.occurred, r.received, r.expires, r.asOf = b.micros("occurred_at"), b.micros("received_at"), b.micros("expires_at"), b.micros("as_of")
	r.bundle = b.text("bundle")
	r.record = b.offsetsOf(false)
	return r
}

func (r *eventRows) add(rec *kgo.Record) *fault {
	e := &r.event
	if err := r.read.Read(rec.Value, e); err != nil {
		return cannotDecode(err)
	}
	if e.Kind == event.OrderWatermarkPassed {
		return nil // about a channel, and in every partition: it is no event of a SKU
	}
	var f faults
	r.id.Append(e.ID)
	r.kind.Append(e.Kind.String())
	r.sku.Append(e.SKU)
	r.location.Append(e.Location)
	r.to.Append(e.ToLocation)
	r.channel.Append(e.Channel)
	r.order.Append(e.OrderID)
	r.line.Append(e.LineID)
	r.quantity.Append(int64(e.Quantity))
	f.money("unit_price", e.UnitPrice, r.price.add(e.UnitPrice))
	f.money("unit_cost", e.UnitCost, r.cost.add(e.UnitCost))
	r.currency.Append(e.Currency)
	r.disposition.Append(e.Disposition.String())
	r.reason.Append(e.Reason)
	r.ref.Append(e.Reference)
	r.reserved.Append(e.ReservationID)
	r.bundle.Append(e.Bundle)
	r.restocked.Append(e.RestockedByChannel)
	r.source.Append(e.Source)
	r.occurred.add(e.OccurredAt)
	r.received.add(e.ReceivedAt)
	r.expires.add(e.ExpiresAt)
	r.asOf.add(e.AsOf)
	r.row(rec)
	return f.first
}

type levelRows struct {
	rows
	read                                                             topics.LevelReader
	level                                                            ledger.Level
	sku, eventID                                                     *proto.ColStr
	deleted                                                          *proto.ColBool
	version, source, unassigned, available                           *proto.ColInt64
	onHand, committed, held, inbound, unsellable, safety             *proto.ColInt64
	locations                                                        *list[string]
	locOnHand, locCommitted, locHeld, locInbound, locUnsell, locSafe *list[int64]
	soldBy, restoredBy                                               *list[string]
	sold, restored                                                   *list[int64]
	kind                                                             *lowCardinality
	received, oldest, applied                                        *micros
}

func newLevelRows() encoder {
	r := &levelRows{}
	b := &r.block
	r.sku, r.deleted = b.text("sku"), b.flag("deleted")
	r.version, r.source, r.available, r.unassigned = b.int64("version"), b.int64("source_offset"), b.int64("available"), b.int64("unassigned")
	r.onHand, r.committed, r.held = b.int64("on_hand"), b.int64("committed"), b.int64("held")
	r.inbound, r.unsellable, r.safety = b.int64("inbound"), b.int64("unsellable"), b.int64("safety_stock")
	r.locations = b.names("locations.location")
	r.locOnHand, r.locCommitted, r.locHeld = b.int64s("locations.on_hand"), b.int64s("locations.committed"), b.int64s("locations.held")
	r.locInbound, r.locUnsell, r.locSafe = b.int64s("locations.inbound"), b.int64s("locations.unsellable"), b.int64s("locations.safety_stock")
	r.soldBy, r.sold = b.names("sold.channel"), b.int64s("sold.units")
	r.restoredBy, r.restored = b.names("restored.channel"), b.int64s("restored.units")
	r.eventID, r.kind = b.text("event_id"), b.name("event_kind")
	r.received, r.oldest, r.applied = b.micros("received_at"), b.micros("oldest_received_at"), b.micros("applied_at")
	r.record = b.offsetsOf(false)
	return r
}

func (r *levelRows) add(rec *kgo.Record) *fault {
	l, gone := &r.level, len(rec.Value) == 0
	if gone {
		*l = ledger.Level{SKU: alias(rec.Key)}
	} else if err := r.read.Read(rec.Value, l); err != nil {
		return cannotDecode(err)
	}
	var sum ledger.LocationLevel
	for i := range l.Locations {
		at := &l.Locations[i]
		r.locations.push(at.Location)
		r.locOnHand.push(int64(at.OnHand))
		r.locCommitted.push(int64(at.Committed))
		r.locHeld.push(int64(at.Held))
		r.locInbound.push(int64(at.Inbound))
		r.locUnsell.push(int64(at.Unsellable))
		r.locSafe.push(int64(at.Safety))
		sum.OnHand, sum.Committed, sum.Held = sum.OnHand+at.OnHand, sum.Committed+at.Committed, sum.Held+at.Held
		sum.Inbound, sum.Unsellable, sum.Safety = sum.Inbound+at.Inbound, sum.Unsellable+at.Unsellable, sum.Safety+at.Safety
	}
	r.locations.close()
	for _, c := range []*list[int64]{r.locOnHand, r.locCommitted, r.locHeld, r.locInbound, r.locUnsell, r.locSafe} {
		c.close()
	}
	channelUnits(r.soldBy, r.sold, l.Sold)
	channelUnits(r.restoredBy, r.restored, l.Restored)
	r.sku.Append(l.SKU)
	r.deleted.Append(gone)
	r.version.Append(l.Version)
	r.source.Append(l.SourceOffset)
	r.available.Append(int64(l.Available()))
	r.unassigned.Append(int64(l.Unassigned))
	r.onHand.Append(int64(sum.OnHand))
	r.committed.Append(int64(sum.Committed))
	r.held.Append(int64(sum.Held))
	r.inbound.Append(int64(sum.Inbound))
	r.unsellable.Append(int64(sum.Unsellable))
	r.safety.Append(int64(sum.Safety))
	r.eventID.Append(l.EventID)
	r.kind.Append(l.EventKind.String())
	r.received.add(l.ReceivedAt)
	r.oldest.add(l.OldestReceivedAt)
	r.applied.add(l.AppliedAt)
	r.row(rec)
	return nil
}

func channelUnits(channels *list[string], units *list[int64], all []ledger.ChannelUnits) {
	for _, c := range all {
		channels.push(c.Channel)
		units.push(int64(c.Units))
	}
	channels.close()
	units.close()
}

type targetRows struct {
	rows
	read                                                           topics.TargetReader
	target                                                         allocation.Target
	sku, external, write                                           *proto.ColStr
	channel, mode                                                  *lowCardinality
	withdrawn                                                      *proto.ColBool
	quantity, available, version, source, settings, sold, restored *proto.ColInt64
	exposure                                                       *proto.ColInt64
	steps                                                          *list[string]
	units                                                          *list[int64]
	details                                                        *list[string]
	received, oldest, decided                                      *micros
}

func newTargetRows() encoder {
	r := &targetRows{}
	b := &r.block
	r.sku, r.channel, r.external, r.withdrawn = b.text("sku"), b.name("channel"), b.text("external_id"), b.flag("withdrawn")
	r.write, r.exposure = b.text("write_id"), b.int64("exposure")
	r.quantity, r.available = b.int64("quantity"), b.int64("available")
	r.version, r.source, r.settings = b.int64("level_version"), b.int64("source_offset"), b.int64("settings_version")
	r.mode, r.sold, r.restored = b.name("mode"), b.int64("sold"), b.int64("restored")
	r.steps, r.units, r.details = b.names("explanation.step"), b.int64s("explanation.units"), b.texts("explanation.detail")
	r.received, r.oldest, r.decided = b.micros("received_at"), b.micros("oldest_received_at"), b.micros("decided_at")
	r.record = b.offsetsOf(true)
	return r
}

func (r *targetRows) add(rec *kgo.Record) *fault {
	if len(rec.Value) == 0 { // the channel no longer lists the SKU, and the target was forgotten
		r.sku.AppendBytes(rec.Key)
		r.channel.Append(strings.TrimPrefix(rec.Topic, schemas.TargetsPrefix))
		r.external.Append("")
		r.withdrawn.Append(true)
		r.write.Append("")
		r.exposure.Append(0)
		for _, c := range []*proto.ColInt64{r.quantity, r.available, r.version, r.source, r.settings, r.sold, r.restored} {
			c.Append(0)
		}
		r.mode.Append("")
		r.steps.close()
		r.units.close()
		r.details.close()
		r.received.add(0)
		r.oldest.add(0)
		r.decided.add(rec.Timestamp.UnixMicro())
		r.row(rec)
		return nil
	}
	t := &r.target
	if err := r.read.Read(rec.Value, t); err != nil {
		return cannotDecode(err)
	}
	available := int64(t.Quantity)
	for i, s := range t.Explanation {
		if i == 0 { // where the derivation starts from: what the channel's scope has
			available = int64(s.Units)
		}
		r.steps.push(s.Name)
		r.units.push(int64(s.Units))
		r.details.push(s.Detail)
	}
	r.steps.close()
	r.units.close()
	r.details.close()
	r.sku.Append(t.SKU)
	r.channel.Append(t.Channel)
	r.external.Append(t.ExternalID)
	r.withdrawn.Append(t.Withdrawn)
	id := ""
	if t.Write != nil {
		id = t.Write.ID
	}
	r.write.Append(id)
	r.exposure.Append(int64(t.Exposure))
	r.quantity.Append(int64(t.Quantity))
	r.available.Append(available)
	r.version.Append(t.LevelVersion)
	r.source.Append(t.SourceOffset)
	r.settings.Append(t.SettingsVersion)
	r.mode.Append(t.Mode)
	r.sold.Append(int64(t.Sold))
	r.restored.Append(int64(t.Restored))
	r.received.add(t.ReceivedAt)
	r.oldest.add(t.OldestReceivedAt)
	r.decided.add(t.DecidedAt)
	r.row(rec)
	return nil
}

type writeRows struct {
	rows
	read                                                                  topics.WriteReader
	result                                                                write.Result
	id, sku, external, errorDetail                                        *proto.ColStr
	channel, operation, outcome, errorCode                                *lowCardinality
	quantity, delta, expected, shown, attempts, version, source, settings *proto.ColInt64
	shownKnown, settled                                                   *proto.ColBool
	oldest, received, decided, sent, acked, shownAt                       *micros
}

func newWriteRows() encoder {
	r := &writeRows{}
	b := &r.block
	r.id, r.sku, r.channel, r.external = b.text("write_id"), b.text("sku"), b.name("channel"), b.text("external_id")
	r.operation, r.quantity, r.delta, r.expected = b.name("operation"), b.int64("quantity"), b.int64("delta"), b.int64("expected")
	r.outcome, r.errorCode, r.errorDetail = b.name("outcome"), b.name("error_code"), b.text("error_detail")
	r.settled, r.shownAt = b.flag("settled"), b.micros("shown_at")
	r.shown, r.shownKnown, r.attempts = b.int64("shown"), b.flag("shown_known"), b.int64("attempts")
	r.version, r.source, r.settings = b.int64("level_version"), b.int64("source_offset"), b.int64("settings_version")
	r.oldest, r.received, r.decided = b.micros("oldest_received_at"), b.micros("received_at"), b.micros("decided_at")
	r.sent, r.acked = b.micros("sent_at"), b.micros("acked_at")
	r.record = b.offsetsOf(false)
	return r
}

var operationNames = [...]string{"unspecified", "absolute", "delta", "compare_and_set", "read"}

func operationName(o catalog.Operation) string {
	if int(o) < len(operationNames) {
		return operationNames[o]
	}
	return "unknown"
}

func (r *writeRows) add(rec *kgo.Record) *fault {
	w := &r.result
	if err := r.read.Read(rec.Value, w); err != nil {
		return cannotDecode(err)
	}
	r.id.Append(w.WriteID)
	r.sku.Append(w.SKU)
	r.channel.Append(w.Channel)
	r.external.Append(w.ExternalID)
	r.operation.Append(operationName(w.Operation))
	r.quantity.Append(int64(w.Quantity))
	r.delta.Append(int64(w.Delta))
	r.expected.Append(int64(w.Expected))
	r.outcome.Append(w.Outcome.String())
	r.errorCode.Append(w.ErrorCode)
	r.errorDetail.Append(w.ErrorDetail)
	r.shown.Append(int64(w.Shown))
	r.shownKnown.Append(w.ShownKnown)
	r.shownAt.add(w.ShownAt)
	r.settled.Append(w.Settled)
	r.attempts.Append(int64(w.Attempts))
	r.version.Append(w.LevelVersion)
	r.source.Append(w.SourceOffset)
	r.settings.Append(w.SettingsVersion)
	r.oldest.add(w.OldestReceivedAt)
	r.received.add(w.ReceivedAt)
	r.decided.add(w.DecidedAt)
	r.sent.add(w.SentAt)
	r.acked.add(w.AckedAt)
	r.row(rec)
	return nil
}

type bookRows struct {
	rows
	sku                                   *proto.ColStr
	phase                                 *lowCardinality
	version, available, exposed, shortage *proto.ColInt64
	known                                 *proto.ColBool
	channels, grants                      *list[string]
	exposures, shown, shares              *list[int64]
	exposureKnown, shownKnown             *list[bool]
	decided                               *micros
}

func newBookRows() encoder {
	r := &bookRows{}
	b := &r.block
	r.sku, r.phase, r.version, r.available = b.text("sku"), b.name("phase"), b.int64("level_version"), b.int64("available")
	r.exposed, r.known, r.shortage = b.int64("exposed"), b.flag("known"), b.int64("shortage")
	r.channels, r.exposures, r.exposureKnown = b.names("channels.channel"), b.int64s("channels.exposure"), b.flags("channels.exposure_known")
	r.shown, r.shownKnown, r.shares = b.int64s("channels.shown"), b.flags("channels.shown_known"), b.int64s("channels.share")
	r.grants, r.decided = b.texts("channels.open_write"), b.micros("decided_at")
	r.record = b.offsetsOf(false)
	return r
}

// add writes what the allocator kept; an empty record says that it keeps no books of the SKU any more.
func (r *bookRows) add(rec *kgo.Record) *fault {
	x, decided := &escrow.Snapshot{SKU: alias(rec.Key)}, rec.Timestamp.UnixMicro()
	if len(rec.Value) != 0 {
		var err error
		if x, decided, err = topics.DecodeBooksAt(rec.Value); err != nil {
			return cannotDecode(err)
		}
	}
	var exposed escrow.Units
	known := true
	for i := range x.Channels {
		c := &x.Channels[i]
		if !c.Booked { // only its rate of sales is kept
			continue
		}
		if c.Books.Open {
			known = false
		} else {
			exposed += c.Books.E
		}
		r.channels.push(c.Channel)
		r.exposures.push(int64(c.Books.E))
		r.exposureKnown.push(!c.Books.Open)
		r.shown.push(int64(c.Books.Belief))
		r.shownKnown.push(c.Books.Known)
		r.shares.push(int64(c.Share))
		r.grants.push(c.Grant)
	}
	r.channels.close()
	r.exposures.close()
	r.exposureKnown.close()
	r.shown.close()
	r.shownKnown.close()
	r.shares.close()
	r.grants.close()
	r.sku.Append(x.SKU)
	r.phase.Append(x.Phase.String())
	r.version.Append(x.Version)
	r.available.Append(int64(x.Available))
	r.exposed.Append(int64(exposed))
	r.known.Append(known)
	r.shortage.Append(int64(x.Shortage))
	r.decided.add(decided)
	r.row(rec)
	return nil
}

type orderRows struct {
	rows
	id, postal, customer      *proto.ColStr
	channel, currency         *lowCardinality
	country, region           *lowCardinality
	lineIDs, skus, locations  *list[string]
	quantities                *list[int64]
	prices                    *moneys
	placed, received, promise *micros
}

func newOrderRows() encoder {
	r := &orderRows{}
	b := &r.block
	r.id, r.channel, r.currency = b.text("order_id"), b.name("channel"), b.name("currency")
	r.country, r.region, r.postal, r.customer = b.name("ship_country"), b.name("ship_region"), b.text("ship_postal_code"), b.text("customer_ref")
	r.lineIDs, r.skus, r.quantities = b.texts("lines.line_id"), b.texts("lines.sku"), b.int64s("lines.quantity")
	r.prices, r.locations = b.moneys("lines.unit_price"), b.names("lines.location")
	r.placed, r.received, r.promise = b.micros("placed_at"), b.micros("received_at"), b.micros("ship_by")
	r.record = b.offsetsOf(false)
	return r
}

func (r *orderRows) add(rec *kgo.Record) *fault {
	o, err := topics.DecodeOrder(rec.Value)
	if err != nil {
		return cannotDecode(err)
	}
	var f faults
	for i := range o.Lines {
		l := &o.Lines[i]
		r.lineIDs.push(l.ID)
		r.skus.push(l.SKU)
		r.quantities.push(int64(l.Quantity))
		f.money("unit_price", l.UnitPrice, r.prices.push(l.UnitPrice))
		r.locations.push(l.Location)
	}
	r.lineIDs.close()
	r.skus.close()
	r.quantities.close()
	r.prices.close()
	r.locations.close()
	r.id.Append(o.ID)
	r.channel.Append(o.Channel)
	r.currency.Append(o.Currency)
	r.country.Append(o.ShipTo.Country)
	r.region.Append(o.ShipTo.Region)
	r.postal.Append(o.ShipTo.PostalCode)
	r.customer.Append(o.CustomerRef)
	r.placed.add(o.PlacedAt)
	r.received.add(o.ReceivedAt)
	r.promise.add(o.ShipBy)
	r.row(rec)
	return f.first
}

type alertRows struct {
	rows
	id, sku, cause, message         *proto.ColStr
	kind, location, channel, raised *lowCardinality
	units                           *proto.ColInt64
	at                              *micros
}

func newAlertRows() encoder {
	r := &alertRows{}
	b := &r.block
	r.id, r.kind, r.sku = b.text("alert_id"), b.name("kind"), b.text("sku")
	r.location, r.channel, r.units = b.name("location"), b.name("channel"), b.int64("units")
	r.cause, r.message, r.raised, r.at = b.text("cause"), b.text("message"), b.name("raised_by"), b.micros("at")
	r.record = b.offsetsOf(false)
	return r
}

var alertNames = [...]string{"unspecified", "oversold", "drift", "channel_stuck", "anomaly", "reorder", "ledger_mismatch", "exposure_breach", "exposure_shortage", "number_raised"}

func alertName(k alert.Kind) string {
	if int(k) < len(alertNames) {
		return alertNames[k]
	}
	return "unknown"
}

func (r *alertRows) add(rec *kgo.Record) *fault {
	a, err := topics.DecodeAlert(rec.Value)
	if err != nil {
		return cannotDecode(err)
	}
	r.id.Append(a.ID)
	r.kind.Append(alertName(a.Kind))
	r.sku.Append(a.SKU)
	r.location.Append(a.Location)
	r.channel.Append(a.Channel)
	r.units.Append(int64(a.Units))
	r.cause.Append(a.Cause)
	r.message.Append(a.Message)
	r.raised.Append(a.RaisedBy)
	r.at.add(a.At)
	r.row(rec)
	return nil
}

type rejectedRows struct {
	rows
	fromTopic, reason, by *lowCardinality
	fromPartition         *proto.ColInt32
	fromOffset            *proto.ColInt64
	key, value, detail    *proto.ColStr
	at                    *micros
}

func newRejectedRows() encoder {
	r := &rejectedRows{}
	b := &r.block
	r.fromTopic, r.fromPartition, r.fromOffset = b.name("source_topic"), b.int32("source_partition"), b.int64("source_offset")
	r.key, r.value, r.reason, r.detail = b.text("key"), b.text("value"), b.name("reason"), b.text("detail")
	r.by, r.at = b.name("rejected_by"), b.micros("at")
	r.record = b.offsetsOf(false)
	return r
}

// add keeps a record that cannot be decoded as a row of its own: sending it to stock.rejected would bring it back here for ever.
func (r *rejectedRows) add(rec *kgo.Record) *fault {
	j, err := topics.DecodeRejected(rec.Value)
	if err != nil {
		j = &alert.Rejected{
			Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Key: rec.Key, Value: rec.Value, Reason: undecodable,
			Detail: err.Error(), RejectedBy: serviceName, At: rec.Timestamp.UnixMicro(),
		}
	}
	r.fromTopic.Append(j.Topic)
	r.fromPartition.Append(j.Partition)
	r.fromOffset.Append(j.Offset)
	r.key.AppendBytes(j.Key)
	r.value.AppendBytes(j.Value)
	r.reason.Append(j.Reason)
	r.detail.Append(j.Detail)
	r.by.Append(j.RejectedBy)
	r.at.add(j.At)
	r.row(rec)
	return nil
}

type listingRows struct {
	rows
	sku, title                      *proto.ColStr
	deleted                         *proto.ColBool
	brand, category, currency       *lowCardinality
	cost                            *money
	channels, externals, currencies *list[string]
	prices                          *moneys
	paused                          *list[bool]
	components                      *list[string]
	quantities                      *list[int64]
}

func newListingRows() encoder {
	r := &listingRows{}
	b := &r.block
	r.sku, r.deleted, r.title = b.text("sku"), b.flag("deleted"), b.text("title")
	r.brand, r.category, r.cost, r.currency = b.name("brand"), b.name("category"), b.money("unit_cost"), b.name("currency")
	r.channels, r.externals = b.names("channels.channel"), b.texts("channels.external_id")
	r.prices, r.currencies, r.paused = b.moneys("channels.price"), b.names("channels.currency"), b.flags("channels.paused")
	r.components, r.quantities = b.texts("components.sku"), b.int64s("components.quantity")
	r.record = b.offsetsOf(false)
	return r
}

func (r *listingRows) add(rec *kgo.Record) *fault {
	l, gone := &catalog.Listing{}, len(rec.Value) == 0
	if gone {
		l.SKU = alias(rec.Key)
	} else {
		var err error
		if l, err = topics.DecodeListing(rec.Value); err != nil {
			return cannotDecode(err)
		}
	}
	var f faults
	for i := range l.Channels {
		c := &l.Channels[i]
		r.channels.push(c.Channel)
		r.externals.push(c.ExternalID)
		f.money("price", c.Price, r.prices.push(c.Price))
		r.currencies.push(c.Currency)
		r.paused.push(c.Paused)
	}
	r.channels.close()
	r.externals.close()
	r.prices.close()
	r.currencies.close()
	r.paused.close()
	for _, c := range l.Components {
		r.components.push(c.SKU)
		r.quantities.push(int64(c.Quantity))
	}
	r.components.close()
	r.quantities.close()
	r.sku.Append(l.SKU)
	r.deleted.Append(gone)
	r.title.Append(l.Title)
	r.brand.Append(l.Brand)
	r.category.Append(l.Category)
	f.money("unit_cost", l.UnitCost, r.cost.add(l.UnitCost))
	r.currency.Append(l.Currency)
	r.row(rec)
	return f.first
}

type settingRows struct {
	rows
	kind    *lowCardinality
	id      *proto.ColStr
	deleted *proto.ColBool
	spec    *proto.ColStr
	by      *lowCardinality
	applied *micros
}

func newSettingRows() encoder {
	r := &settingRows{}
	b := &r.block
	r.kind, r.id, r.deleted, r.spec = b.name("kind"), b.text("id"), b.flag("deleted"), b.text("spec")
	r.by, r.applied = b.name("applied_by"), b.micros("applied_at")
	r.record = b.offsetsOf(false)
	return r
}

// add writes a setting as JSON: there are few, and each kind has its own fields.
func (r *settingRows) add(rec *kgo.Record) *fault {
	var spec []byte
	s := &topics.Setting{AppliedAt: rec.Timestamp.UnixMicro()}
	key := string(rec.Key)
	if len(rec.Value) != 0 {
		var err error
		if s, err = topics.DecodeSetting(rec.Value); err != nil {
			return cannotDecode(err)
		}
		key = s.Key()
		var v any = s.Rule
		if s.Channel != nil {
			v = s.Channel
		} else if s.Location != nil {
			v = s.Location
		}
		if spec, err = json.Marshal(v); err != nil {
			return cannotDecode(err)
		}
	}
	kind, id, _ := strings.Cut(key, "/")
	r.kind.Append(kind)
	r.id.Append(id)
	r.deleted.Append(len(rec.Value) == 0)
	r.spec.AppendBytes(spec)
	r.by.Append(s.AppliedBy)
	r.applied.add(s.AppliedAt)
	r.row(rec)
	return nil
}
