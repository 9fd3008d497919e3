package topics

import (
	"fmt"
	"slices"
	"sync"

	"github.com/onhand/onhand/schemas"
	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/write"
)

var indexes = func() map[string][]int {
	m := make(map[string][]int)
	for _, t := range schemas.Topics() {
		m[t.Message] = t.Index
	}
	return m
}()

// The index of each message in its file, looked up once.
var (
	eventIndex     = indexes["StockEvent"]
	levelIndex     = indexes["StockLevel"]
	watermarkIndex = indexes["ChannelWatermark"]
	decisionIndex  = indexes["ReservationDecision"]
	targetIndex    = indexes["ChannelTarget"]
	writeIndex     = indexes["WriteResult"]
	alertIndex     = indexes["StockAlert"]
	booksIndex     = indexes["ExposureBooks"]
	certIndex      = indexes["ExposureCertificate"]
	rejectedIndex  = indexes["RejectedRecord"]
	orderIndex     = indexes["Order"]
	settingIndex   = indexes["Setting"]
	listingIndex   = indexes["Listing"]
)

func undecodable(what string, err error) error { return fmt.Errorf("decode %s: %w", what, err) }

// AppendEvent appends the stock.events value of e to dst.
func (c *Codec) AppendEvent(dst []byte, e *event.Event) []byte {
	m := onhandv1.StockEvent{
		Id: e.ID, Kind: onhandv1.EventKind(e.Kind), Sku: e.SKU, Location: e.Location, Channel: e.Channel, OrderId: e.OrderID, LineId: e.LineID,
		Quantity: int64(e.Quantity), UnitPrice: e.UnitPrice, UnitCost: e.UnitCost, Currency: e.Currency, ToLocation: e.ToLocation,
		Reason: e.Reason, Disposition: onhandv1.Disposition(e.Disposition), Reference: e.Reference, ReservationId: e.ReservationID,
		ExpiresAtUs: e.ExpiresAt, AsOfUs: e.AsOf, RestockedByChannel: e.RestockedByChannel, OccurredAtUs: e.OccurredAt,
		ReceivedAtUs: e.ReceivedAt, Source: e.Source, Checked: e.Checked, Scope: e.Scope, PeerSku: e.PeerSKU, Parts: e.Parts, DecideByUs: e.DecideBy,
		RequestHash: e.RequestHash, Sequence: e.Sequence, Bundle: e.Bundle,
	}
	return c.appendMessage(dst, "StockEvent", &m)
}

// levelScratch is the memory of a StockLevel, used again: no message is written more often.
type levelScratch struct {
	m              onhandv1.StockLevel
	locations      []onhandv1.LocationLevel
	sold, restored []onhandv1.ChannelUnits

	locationPtrs           []*onhandv1.LocationLevel
	soldPtrs, restoredPtrs []*onhandv1.ChannelUnits
}

var levelScratches = sync.Pool{New: func() any { return new(levelScratch) }}

// AppendLevel appends the stock.levels value of l to dst.
func (c *Codec) AppendLevel(dst []byte, l *ledger.Level) []byte {
	x := levelScratches.Get().(*levelScratch)
	defer levelScratches.Put(x)
	x.sold, x.soldPtrs = channelUnits(x.sold, x.soldPtrs, l.Sold)
	x.restored, x.restoredPtrs = channelUnits(x.restored, x.restoredPtrs, l.Restored)
	x.locations, x.locationPtrs = slices.Grow(x.locations[:0], len(l.Locations))[:len(l.Locations)], x.locationPtrs[:0]
	m := &x.m
	*m = onhandv1.StockLevel{
		Sku: l.SKU, Version: l.Version, SourceOffset: l.SourceOffset, Unassigned: int64(l.Unassigned), Available: int64(l.Available()),
		EventId: l.EventID, EventKind: onhandv1.EventKind(l.EventKind), ReceivedAtUs: l.ReceivedAt, OldestReceivedAtUs: l.OldestReceivedAt,
		AppliedAtUs: l.AppliedAt, PreviousVersion: l.PreviousVersion, Generation: l.Generation, Sold: x.soldPtrs, Restored: x.restoredPtrs,
	}
	for _, a := range l.Allotments { // few SKUs have any
		m.Allotments = append(m.Allotments, &onhandv1.ChannelAllotment{Channel: a.Channel, Units: int64(a.Units), Sequence: a.Sequence, Ended: a.Ended})
	}
	for i := range l.Locations {
		s, d := &l.Locations[i], &x.locations[i]
		d.Location, d.OnHand, d.Committed, d.Held = s.Location, int64(s.OnHand), int64(s.Committed), int64(s.Held)
		d.Inbound, d.Unsellable, d.SafetyStock, d.Available = int64(s.Inbound), int64(s.Unsellable), int64(s.Safety), int64(s.Available())
		d.MovedAtUs, d.CountedAsOfUs, d.CountsFromUs = s.MovedAt, s.CountedAsOf, s.CountsFrom
		x.locationPtrs = append(x.locationPtrs, d)
	}
	m.Locations = x.locationPtrs
	return c.appendMessage(dst, "StockLevel", m)
}

func channelUnits(all []onhandv1.ChannelUnits, out []*onhandv1.ChannelUnits, cs []ledger.ChannelUnits) ([]onhandv1.ChannelUnits, []*onhandv1.ChannelUnits) {
	all, out = slices.Grow(all[:0], len(cs))[:len(cs)], out[:0]
	for i := range cs {
		all[i].Channel, all[i].Units, all[i].EarliestAtUs = cs[i].Channel, int64(cs[i].Units), cs[i].EarliestAt
		out = append(out, &all[i])
	}
	return all, out
}

func ledgerUnits(out []ledger.ChannelUnits, cs []*onhandv1.ChannelUnits) []ledger.ChannelUnits {
	out = slices.Grow(out[:0], len(cs))
	for _, c := range cs {
		out = append(out, ledger.ChannelUnits{Channel: c.Channel, Units: ledger.Units(c.Units), EarliestAt: c.EarliestAtUs})
	}
	return out
}

// DecodeLevel decodes a stock.levels value. Nothing in the result aliases value.
func DecodeLevel(value []byte) (*ledger.Level, error) {
	b, err := payload(value, levelIndex)
	if err != nil {
		return nil, undecodable("stock level", err)
	}
	var m onhandv1.StockLevel
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("stock level", err)
	}
	l := &ledger.Level{Locations: []ledger.LocationLevel{}, Sold: []ledger.ChannelUnits{}, Restored: []ledger.ChannelUnits{}}
	fillLevel(l, &m)
	return l, nil
}

// fillLevel sets l to m; it uses the slices of l again.
func fillLevel(l *ledger.Level, m *onhandv1.StockLevel) {
	allotments := l.Allotments[:0]
	for _, a := range m.Allotments {
		allotments = append(allotments, ledger.Allotment{Channel: a.Channel, Units: ledger.Units(a.Units), Sequence: a.Sequence, Ended: a.Ended})
	}
	locations := l.Locations[:0]
	for _, s := range m.Locations {
		locations = append(locations, ledger.LocationLevel{
			Location: s.Location, OnHand: ledger.Units(s.OnHand), Committed: ledger.Units(s.Committed), Held: ledger.Units(s.Held),
			Inbound: ledger.Units(s.Inbound), Unsellable: ledger.Units(s.Unsellable), Safety: ledger.Units(s.SafetyStock),
			MovedAt: s.MovedAtUs, CountedAsOf: s.CountedAsOfUs, CountsFrom: s.CountsFromUs,
		})
	}
	*l = ledger.Level{
		SKU: m.Sku, Version: m.Version, SourceOffset: m.SourceOffset, Unassigned: ledger.Units(m.Unassigned), EventID: m.EventId,
		EventKind: event.Kind(m.EventKind), ReceivedAt: m.ReceivedAtUs, OldestReceivedAt: m.OldestReceivedAtUs, AppliedAt: m.AppliedAtUs,
		PreviousVersion: m.PreviousVersion, Generation: m.Generation,
		Sold: ledgerUnits(l.Sold, m.Sold), Restored: ledgerUnits(l.Restored, m.Restored), Locations: locations,
		Allotments: allotments,
	}
}

// AppendWatermark appends the channel.watermarks value of w to dst.
func (c *Codec) AppendWatermark(dst []byte, w *order.Watermark) []byte {
	return c.appendMessage(dst, "ChannelWatermark", &onhandv1.ChannelWatermark{
		Channel: w.Channel, UntilUs: w.Until, LevelsOffset: w.LevelsOffset, SourceOffset: w.SourceOffset, AppliedAtUs: w.AppliedAt,
	})
}

// DecodeWatermark decodes a channel.watermarks value. Nothing in the result aliases value.
func DecodeWatermark(value []byte) (*order.Watermark, error) {
	b, err := payload(value, watermarkIndex)
	if err != nil {
		return nil, undecodable("channel watermark", err)
	}
	var m onhandv1.ChannelWatermark
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("channel watermark", err)
	}
	return &order.Watermark{
		Channel: m.Channel, Until: m.UntilUs, LevelsOffset: m.LevelsOffset, SourceOffset: m.SourceOffset, AppliedAt: m.AppliedAtUs,
	}, nil
}

// AppendTarget appends the targets.<channel> value of t to dst.
func (c *Codec) AppendTarget(dst []byte, t *allocation.Target) []byte {
	m := onhandv1.ChannelTarget{
		Sku: t.SKU, Channel: t.Channel, ExternalId: t.ExternalID, Quantity: int64(t.Quantity), LevelVersion: t.LevelVersion,
		SourceOffset: t.SourceOffset, SettingsVersion: t.SettingsVersion, Mode: t.Mode, Sold: int64(t.Sold), Restored: int64(t.Restored),
		ReceivedAtUs: t.ReceivedAt, OldestReceivedAtUs: t.OldestReceivedAt, DecidedAtUs: t.DecidedAt, Withdrawn: t.Withdrawn,
		Exposure: int64(t.Exposure),
	}
	if w := t.Write; w != nil {
		m.Write = &onhandv1.GrantedWrite{
			Id: w.ID, Operation: onhandv1.WriteOperation(w.Operation), Quantity: int64(w.Quantity), Delta: int64(w.Delta), Expected: int64(w.Expected),
		}
	}
	steps := make([]onhandv1.TargetStep, len(t.Explanation))
	m.Explanation = make([]*onhandv1.TargetStep, len(steps))
	for i := range steps {
		steps[i].Step, steps[i].Units, steps[i].Detail = t.Explanation[i].Name, int64(t.Explanation[i].Units), t.Explanation[i].Detail
		m.Explanation[i] = &steps[i]
	}
	return c.appendMessage(dst, "ChannelTarget", &m)
}

// DecodeTarget decodes a targets.<channel> value. Nothing in the result aliases value.
func DecodeTarget(value []byte) (*allocation.Target, error) {
	b, err := payload(value, targetIndex)
	if err != nil {
		return nil, undecodable("channel target", err)
	}
	var m onhandv1.ChannelTarget
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("channel target", err)
	}
	t := &allocation.Target{Explanation: []allocation.Step{}}
	fillTarget(t, &m)
	return t, nil
}

// fillTarget sets t to m; it uses the explanation of t again.
func fillTarget(t *allocation.Target, m *onhandv1.ChannelTarget) {
	steps := slices.Grow(t.Explanation[:0], len(m.Explanation))
	for _, s := range m.Explanation {
		steps = append(steps, allocation.Step{Name: s.Step, Units: allocation.Units(s.Units), Detail: s.Detail})
	}
	*t = allocation.Target{
		SKU: m.Sku, Channel: m.Channel, ExternalID: m.ExternalId, Quantity: allocation.Units(m.Quantity), LevelVersion: m.LevelVersion,
		SourceOffset: m.SourceOffset, SettingsVersion: m.SettingsVersion, Mode: m.Mode, Sold: allocation.Units(m.Sold),
		Restored: allocation.Units(m.Restored), ReceivedAt: m.ReceivedAtUs, OldestReceivedAt: m.OldestReceivedAtUs,
		DecidedAt: m.DecidedAtUs, Withdrawn: m.Withdrawn, Explanation: steps,
		Exposure: allocation.Units(m.Exposure),
	}
	if w := m.Write; w != nil {
		t.Write = &allocation.GrantedWrite{
			ID: w.Id, Operation: operation(w.Operation), Quantity: allocation.Units(w.Quantity), Delta: allocation.Units(w.Delta),
			Expected: allocation.Units(w.Expected),
		}
	}
}

// operation keeps a number that this version does not know as one that it does not know.
func operation(o onhandv1.WriteOperation) write.Operation {
	return write.Operation(min(max(o, 0), 255))
}

// AppendWrite appends the channel.writes value of r to dst.
func (c *Codec) AppendWrite(dst []byte, r *write.Result) []byte {
	m := onhandv1.WriteResult{
		WriteId: r.WriteID, Sku: r.SKU, Channel: r.Channel, ExternalId: r.ExternalID, Operation: onhandv1.WriteOperation(r.Operation),
		Quantity: int64(r.Quantity), Delta: int64(r.Delta), Expected: int64(r.Expected), Outcome: onhandv1.WriteOutcome(r.Outcome),
		ErrorCode: r.ErrorCode, ErrorDetail: r.ErrorDetail, Shown: int64(r.Shown), ShownKnown: r.ShownKnown, Attempts: int32(r.Attempts),
		LevelVersion: r.LevelVersion, SourceOffset: r.SourceOffset, SettingsVersion: r.SettingsVersion,
		OldestReceivedAtUs: r.OldestReceivedAt, ReceivedAtUs: r.ReceivedAt, DecidedAtUs: r.DecidedAt, SentAtUs: r.SentAt, AckedAtUs: r.AckedAt,
		ShownAtUs: r.ShownAt, Settled: r.Settled,
	}
	return c.appendMessage(dst, "WriteResult", &m)
}

// DecodeWrite decodes a channel.writes value. Nothing in the result aliases value.
func DecodeWrite(value []byte) (*write.Result, error) {
	b, err := payload(value, writeIndex)
	if err != nil {
		return nil, undecodable("write result", err)
	}
	var m onhandv1.WriteResult
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("write result", err)
	}
	w := writeOf(&m)
	return &w, nil
}

func writeOf(m *onhandv1.WriteResult) write.Result {
	return write.Result{
		WriteID: m.WriteId, SKU: m.Sku, Channel: m.Channel, ExternalID: m.ExternalId, Operation: operation(m.Operation),
		Quantity: event.Units(m.Quantity), Delta: event.Units(m.Delta), Expected: event.Units(m.Expected), Outcome: write.Outcome(m.Outcome),
		ErrorCode: m.ErrorCode, ErrorDetail: m.ErrorDetail, Shown: event.Units(m.Shown), ShownKnown: m.ShownKnown, Attempts: int(m.Attempts),
		LevelVersion: m.LevelVersion, SourceOffset: m.SourceOffset, SettingsVersion: m.SettingsVersion,
		OldestReceivedAt: m.OldestReceivedAtUs, ReceivedAt: m.ReceivedAtUs, DecidedAt: m.DecidedAtUs, SentAt: m.SentAtUs, AckedAt: m.AckedAtUs,
		ShownAt: m.ShownAtUs, Settled: m.Settled,
	}
}

// AppendAlert appends the stock.alerts value of a to dst.
func (c *Codec) AppendAlert(dst []byte, a *alert.Alert) []byte {
	return c.appendMessage(dst, "StockAlert", &onhandv1.StockAlert{
		Id: a.ID, Kind: onhandv1.AlertKind(a.Kind), Sku: a.SKU, Location: a.Location, Channel: a.Channel, Units: int64(a.Units),
		Cause: a.Cause, Message: a.Message, AtUs: a.At, RaisedBy: a.RaisedBy,
	})
}

// DecodeAlert decodes a stock.alerts value.
func DecodeAlert(value []byte) (*alert.Alert, error) {
	b, err := payload(value, alertIndex)
	if err != nil {
		return nil, undecodable("alert", err)
	}
	var m onhandv1.StockAlert
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("alert", err)
	}
	return &alert.Alert{
		ID: m.Id, Kind: alert.Kind(m.Kind), SKU: m.Sku, Location: m.Location, Channel: m.Channel, Units: event.Units(m.Units),
		Cause: m.Cause, Message: m.Message, At: m.AtUs, RaisedBy: m.RaisedBy,
	}, nil
}

// AppendRejected appends the stock.rejected value of r to dst.
func (c *Codec) AppendRejected(dst []byte, r *alert.Rejected) []byte {
	m := onhandv1.RejectedRecord{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Reason: r.Reason, Detail: r.Detail,
		RejectedBy: r.RejectedBy, AtUs: r.At,
	}
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, &onhandv1.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return c.appendMessage(dst, "RejectedRecord", &m)
}

// DecodeRejected decodes a stock.rejected value.
func DecodeRejected(value []byte) (*alert.Rejected, error) {
	b, err := payload(value, rejectedIndex)
	if err != nil {
		return nil, undecodable("rejected record", err)
	}
	var m onhandv1.RejectedRecord
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("rejected record", err)
	}
	r := &alert.Rejected{
		Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, Key: m.Key, Value: m.Value, Reason: m.Reason, Detail: m.Detail,
		RejectedBy: m.RejectedBy, At: m.AtUs,
	}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, alert.Header{Key: h.Key, Value: h.Value})
	}
	return r, nil
}

// AppendOrder appends the orders value of o to dst.
func (c *Codec) AppendOrder(dst []byte, o *order.Order) []byte {
	m := onhandv1.Order{
		Id: o.ID, Channel: o.Channel, PlacedAtUs: o.PlacedAt, ReceivedAtUs: o.ReceivedAt, Currency: o.Currency, ShipByUs: o.ShipBy,
		CustomerRef: o.CustomerRef,
		ShipTo:      &onhandv1.Address{Country: o.ShipTo.Country, Region: o.ShipTo.Region, PostalCode: o.ShipTo.PostalCode},
	}
	lines := make([]onhandv1.OrderLine, len(o.Lines))
	m.Lines = make([]*onhandv1.OrderLine, len(lines))
	for i := range lines {
		s, d := &o.Lines[i], &lines[i]
		d.Id, d.Sku, d.Quantity, d.UnitPrice, d.Location = s.ID, s.SKU, int64(s.Quantity), s.UnitPrice, s.Location
		m.Lines[i] = d
	}
	return c.appendMessage(dst, "Order", &m)
}

// DecodeOrder decodes an orders value.
func DecodeOrder(value []byte) (*order.Order, error) {
	b, err := payload(value, orderIndex)
	if err != nil {
		return nil, undecodable("order", err)
	}
	var m onhandv1.Order
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("order", err)
	}
	o := &order.Order{
		ID: m.Id, Channel: m.Channel, PlacedAt: m.PlacedAtUs, ReceivedAt: m.ReceivedAtUs, Currency: m.Currency, ShipBy: m.ShipByUs,
		CustomerRef: m.CustomerRef, Lines: make([]order.Line, len(m.Lines)),
	}
	if a := m.ShipTo; a != nil {
		o.ShipTo = order.Address{Country: a.Country, Region: a.Region, PostalCode: a.PostalCode}
	}
	for i, l := range m.Lines {
		o.Lines[i] = order.Line{ID: l.Id, SKU: l.Sku, Quantity: event.Units(l.Quantity), UnitPrice: l.UnitPrice, Location: l.Location}
	}
	return o, nil
}

// Setting is one entry of catalog.settings: exactly one of the pointers is set.
type Setting struct {
	Channel   *catalog.Channel
	Location  *catalog.Location
	Rule      *catalog.Rule
	Policy    *catalog.Policy
	AppliedAt int64
	AppliedBy string
}

// The words of an intake policy.
const (
	accept = "accept"
	reject = "reject"
)

func verdict(rejects bool) string {
	if rejects {
		return reject
	}
	return accept
}

// Key is the record key of the setting: kind/id.
func (s *Setting) Key() string {
	switch {
	case s.Channel != nil:
		return "channel/" + s.Channel.ID
	case s.Location != nil:
		return "location/" + s.Location.ID
	case s.Policy != nil:
		return "policy/" + s.Policy.ID
	default:
		return "rule/" + s.Rule.ID
	}
}

// AppendSetting appends the catalog.settings value of s to dst.
func (c *Codec) AppendSetting(dst []byte, s *Setting) []byte {
	m := onhandv1.Setting{AppliedAtUs: s.AppliedAt, AppliedBy: s.AppliedBy}
	switch {
	case s.Channel != nil:
		ch := s.Channel
		m.Kind, m.Id = "channel", ch.ID
		m.Spec = &onhandv1.Setting_Channel{Channel: &onhandv1.Channel{
			Name: ch.Name, Adapter: ch.Adapter, BaseUrl: ch.BaseURL, Operation: onhandv1.WriteOperation(ch.Operation),
			BatchSize: int32(ch.BatchSize), RatePerSecond: ch.RatePerSecond, Burst: int32(ch.Burst), MaxInFlight: int32(ch.MaxInFlight),
			Locations: ch.Locations, ListsAllSkus: ch.ListsAllSKUs, TokenSecret: ch.TokenSecret, Paused: ch.Paused, TimeoutMs: int32(ch.TimeoutMS),
			LateWindowMs: int32(ch.LateWindowMS), SetsAny: ch.SetsAny, WriteOnly: ch.WriteOnly,
			OrdersPath: ch.OrdersPath, OrdersLagMs: int32(ch.OrdersLagMS),
		}}
	case s.Location != nil:
		l := s.Location
		m.Kind, m.Id = "location", l.ID
		m.Spec = &onhandv1.Setting_Location{Location: &onhandv1.Location{
			Name: l.Name, Kind: onhandv1.LocationKind(l.Kind), Channel: l.Channel, MultiChannel: l.MultiChannel, TimeZone: l.TimeZone,
			Country: l.Country, Buffer: int64(l.Buffer),
		}}
	case s.Rule != nil:
		r := s.Rule
		m.Kind, m.Id = "rule", r.ID
		m.Spec = &onhandv1.Setting_Rule{Rule: &onhandv1.AllocationRule{
			Match:  &onhandv1.RuleMatch{Channel: r.Match.Channel, Sku: r.Match.SKU, Brand: r.Match.Brand, Category: r.Match.Category},
			Buffer: (*int64)(r.Buffer), Reserve: (*int64)(r.Reserve), CapBp: r.CapBP, Max: (*int64)(r.Max), HideAt: (*int64)(r.HideAt),
			Priority: r.Priority, Weight: (*int64)(r.Weight), Paused: r.Paused, Mode: r.Mode, PoolBuffer: (*int64)(r.PoolBuffer),
			Rounding: r.Rounding, Share: r.Share, Floor: (*int64)(r.Floor),
		}}
	case s.Policy != nil:
		m.Kind, m.Id = "policy", s.Policy.ID
		m.Spec = &onhandv1.Setting_Policy{Policy: &onhandv1.IntakePolicy{UnknownSkus: verdict(s.Policy.RejectSKUs), UnknownLocations: verdict(s.Policy.RejectLocations)}}
	}
	return c.appendMessage(dst, "Setting", &m)
}

// DecodeSetting decodes a catalog.settings value.
func DecodeSetting(value []byte) (*Setting, error) {
	b, err := payload(value, settingIndex)
	if err != nil {
		return nil, undecodable("setting", err)
	}
	var m onhandv1.Setting
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("setting", err)
	}
	s := &Setting{AppliedAt: m.AppliedAtUs, AppliedBy: m.AppliedBy}
	switch spec := m.Spec.(type) {
	case *onhandv1.Setting_Channel:
		c := spec.Channel
		s.Channel = &catalog.Channel{
			ID: m.Id, Name: c.Name, Adapter: c.Adapter, BaseURL: c.BaseUrl, Operation: operation(c.Operation), BatchSize: int(c.BatchSize),
			RatePerSecond: c.RatePerSecond, Burst: int(c.Burst), MaxInFlight: int(c.MaxInFlight), Locations: c.Locations,
			ListsAllSKUs: c.ListsAllSkus, TokenSecret: c.TokenSecret, Paused: c.Paused, TimeoutMS: int(c.TimeoutMs),
			LateWindowMS: int(c.LateWindowMs), SetsAny: c.SetsAny, WriteOnly: c.WriteOnly,
			OrdersPath: c.OrdersPath, OrdersLagMS: int(c.OrdersLagMs),
		}
	case *onhandv1.Setting_Location:
		l := spec.Location
		s.Location = &catalog.Location{
			ID: m.Id, Name: l.Name, Kind: catalog.LocationKind(l.Kind), Channel: l.Channel, MultiChannel: l.MultiChannel, TimeZone: l.TimeZone,
			Country: l.Country, Buffer: catalog.Units(l.Buffer),
		}
	case *onhandv1.Setting_Rule:
		r := spec.Rule
		s.Rule = &catalog.Rule{
			ID: m.Id, Buffer: (*catalog.Units)(r.Buffer), Reserve: (*catalog.Units)(r.Reserve), CapBP: r.CapBp, Max: (*catalog.Units)(r.Max),
			HideAt: (*catalog.Units)(r.HideAt), Priority: r.Priority, Weight: (*catalog.Units)(r.Weight), Paused: r.Paused, Mode: r.Mode,
			PoolBuffer: (*catalog.Units)(r.PoolBuffer), Rounding: r.Rounding, Share: r.Share, Floor: (*catalog.Units)(r.Floor),
		}
		if w := r.Match; w != nil {
			s.Rule.Match = catalog.Match{Channel: w.Channel, SKU: w.Sku, Brand: w.Brand, Category: w.Category}
		}
	case *onhandv1.Setting_Policy:
		s.Policy = &catalog.Policy{ID: m.Id, RejectSKUs: spec.Policy.UnknownSkus == reject, RejectLocations: spec.Policy.UnknownLocations == reject}
	default:
		return nil, fmt.Errorf("decode setting %s/%s: it holds no kind this version knows", m.Kind, m.Id)
	}
	return s, nil
}

// AppendListing appends the catalog.listings value of l to dst.
func (c *Codec) AppendListing(dst []byte, l *catalog.Listing, appliedAt int64, appliedBy string) []byte {
	m := onhandv1.Listing{
		Sku: l.SKU, Title: l.Title, Brand: l.Brand, Category: l.Category, UnitCost: l.UnitCost, Currency: l.Currency,
		AppliedAtUs: appliedAt, AppliedBy: appliedBy,
	}
	for _, ch := range l.Channels {
		m.Channels = append(m.Channels, &onhandv1.ChannelListing{
			Channel: ch.Channel, ExternalId: ch.ExternalID, Price: ch.Price, Currency: ch.Currency, Paused: ch.Paused, Fee: ch.Fee,
		})
	}
	for _, p := range l.Components {
		m.Components = append(m.Components, &onhandv1.Component{Sku: p.SKU, Quantity: int64(p.Quantity)})
	}
	return c.appendMessage(dst, "Listing", &m)
}

// DecodeListing decodes a catalog.listings value.
func DecodeListing(value []byte) (*catalog.Listing, error) {
	b, err := payload(value, listingIndex)
	if err != nil {
		return nil, undecodable("listing", err)
	}
	var m onhandv1.Listing
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("listing", err)
	}
	l := &catalog.Listing{SKU: m.Sku, Title: m.Title, Brand: m.Brand, Category: m.Category, UnitCost: m.UnitCost, Currency: m.Currency}
	for _, ch := range m.Channels {
		l.Channels = append(l.Channels, catalog.ChannelListing{
			Channel: ch.Channel, ExternalID: ch.ExternalId, Price: ch.Price, Currency: ch.Currency, Paused: ch.Paused, Fee: ch.Fee,
		})
	}
	for _, p := range m.Components {
		l.Components = append(l.Components, catalog.Component{SKU: p.Sku, Quantity: catalog.Units(p.Quantity)})
	}
	return l, nil
}
