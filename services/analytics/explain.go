package analytics

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/bundle"
	"github.com/onhand/onhand/stock/catalog"
)

// latestEvents is how many events an explanation lists one by one.
const latestEvents = 10

// Explanation is the body of GET /v1/analytics/explain: how the number of a SKU at each channel came about at a past moment, by Onhand's clock. Where something is not
// there, Missing says why.
type Explanation struct {
	SKU      string             `json:"sku"`
	Time     time.Time          `json:"time"`
	Stock    PastStock          `json:"stock"`
	Bundle   *PastBundle        `json:"bundle,omitempty"`   // when the SKU was one: it has no stock of its own
	Exposure *PastExposure      `json:"exposure,omitempty"` // when the allocator kept it in books
	Channels []ExplainedChannel `json:"channels"`           // in order of channel
}

// PastStock is the ledger's state of the SKU, and the events that made it.
type PastStock struct {
	Missing    string         `json:"missing,omitempty"`
	Gone       bool           `json:"gone"` // it is missing because older records were removed, rather than because there was none
	Since      *time.Time     `json:"since,omitempty"`
	Version    int64          `json:"version"`
	Offset     int64          `json:"offset"` // in stock.events, of the last event in it
	Available  int64          `json:"available"`
	Unassigned int64          `json:"unassigned"`
	Locations  []PastLocation `json:"locations"`

	Kinds         []EventSum  `json:"events_by_kind"`
	Latest        []PastEvent `json:"latest_events"`            // newest first
	EventsMissing string      `json:"events_missing,omitempty"` // why they are not all there
}

// PastLocation is the stock of one location, in units.
type PastLocation struct {
	Location    string `json:"location"`
	Available   int64  `json:"available"`
	OnHand      int64  `json:"on_hand"`
	Committed   int64  `json:"committed"`
	Held        int64  `json:"held"`
	Inbound     int64  `json:"inbound"`
	Unsellable  int64  `json:"unsellable"`
	SafetyStock int64  `json:"safety_stock"`
}

// EventSum is the events of one kind.
type EventSum struct {
	Kind   string `json:"kind"`
	Events int64  `json:"events"`
	Units  int64  `json:"units"`
}

// PastEvent is one event.
type PastEvent struct {
	Offset     int64     `json:"offset"`
	At         time.Time `json:"at"` // when it was appended
	EventID    string    `json:"event_id"`
	Kind       string    `json:"kind"`
	Units      int64     `json:"units"`
	Location   string    `json:"location,omitempty"`
	ToLocation string    `json:"to_location,omitempty"`
	Channel    string    `json:"channel,omitempty"`
	Order      string    `json:"order,omitempty"`
	Reference  string    `json:"reference,omitempty"`
}

// PastBundle is what the components of a bundle made of it.
type PastBundle struct {
	Makes      *int64          `json:"makes,omitempty"` // all its channels together might show that, were no books kept; absent where the stock of a component is not known
	Components []PastComponent `json:"components"`
}

// PastComponent is what a component contributed to a bundle.
type PastComponent struct {
	SKU        string         `json:"sku"`
	Quantity   int64          `json:"quantity"` // of it in one bundle
	Missing    string         `json:"missing,omitempty"`
	Gone       bool           `json:"gone"`
	Since      *time.Time     `json:"since,omitempty"`
	Version    int64          `json:"version"`
	Available  int64          `json:"available"`
	Unassigned int64          `json:"unassigned"`
	Locations  []PastLocation `json:"locations"`
	PoolBuffer int64          `json:"pool_buffer"` // kept off all channels by the rules of then
	Makes      int64          `json:"makes"`       // bundles that the rest was enough for
}

// PastExposure is the books of exposure of the SKU.
type PastExposure struct {
	Mode      string    `json:"mode"` // strict or leaving
	Since     time.Time `json:"since"`
	Available int64     `json:"available"`
	Exposed   int64     `json:"exposed"`
	Slack     *int64    `json:"slack,omitempty"` // available − exposed; absent while exposure is not known at every channel
}

// ExplainedChannel is how the number of one channel came about, and what became of it.
type ExplainedChannel struct {
	Channel      string        `json:"channel"`
	Missing      string        `json:"missing,omitempty"`
	Gone         bool          `json:"gone"`
	Target       *PastTarget   `json:"target,omitempty"`
	Books        *PastBooks    `json:"books,omitempty"`
	Sent         *PastWrite    `json:"sent,omitempty"`         // newest write that was on its way by then
	Acknowledged *PastWrite    `json:"acknowledged,omitempty"` // newest that the channel had applied, and said so, by then
	Writes       string        `json:"writes"`                 // where they stood, in words
	Rules        []RuleInForce `json:"rules,omitempty"`        // those that the steps name
}

// PastTarget is what the channel should have shown.
type PastTarget struct {
	Quantity        int64      `json:"quantity"`
	Withdrawn       bool       `json:"withdrawn"`
	Mode            string     `json:"mode"`
	LevelVersion    int64      `json:"level_version"`
	SourceOffset    int64      `json:"source_offset"`
	SettingsVersion int64      `json:"settings_version"`
	WriteID         string     `json:"write_id,omitempty"` // the write it granted
	DecidedAt       time.Time  `json:"decided_at"`
	Steps           []PastStep `json:"explanation"`
}

// PastStep is one step of the derivation.
type PastStep struct {
	Step   string `json:"step"`
	Units  int64  `json:"units"`
	Detail string `json:"detail,omitempty"`
}

// PastBooks is what the books of exposure said of the channel; what was not known is absent.
type PastBooks struct {
	Exposure  *int64 `json:"exposure,omitempty"`
	Shown     *int64 `json:"shown,omitempty"`
	Share     int64  `json:"share"`
	OpenWrite string `json:"open_write,omitempty"`
}

// PastWrite is one write to the channel.
type PastWrite struct {
	ID        string     `json:"id"`
	Operation string     `json:"operation"`
	Value     int64      `json:"value"`   // quantity, or change of it
	Outcome   string     `json:"outcome"` // as it was known in the end
	Error     string     `json:"error,omitempty"`
	Shown     *int64     `json:"shown,omitempty"`
	DecidedAt time.Time  `json:"decided_at"`
	SentAt    time.Time  `json:"sent_at"`
	AckedAt   *time.Time `json:"acked_at,omitempty"` // may be later than the moment asked for
}

// RuleInForce is a rule as it was.
type RuleInForce struct {
	ID        string          `json:"id"`
	Rule      json.RawMessage `json:"rule"`
	AppliedBy string          `json:"applied_by"`
	AppliedAt time.Time       `json:"applied_at"`
}

// getExplanation answers how the numbers of a SKU came about: 404 when ClickHouse never heard of the SKU.
func (s *Service) getExplanation(w http.ResponseWriter, r *http.Request) {
	q := query{params: []string{"sku", "channel", "time"}}
	now := time.Now().UTC()
	at := now
	v := r.URL.Query()
	var faults []problem.Field
	if t := v.Get("time"); t != "" {
		var err error
		switch at, err = parseTime(t); {
		case err != nil:
			faults = append(faults, problem.Field{Pointer: "time", Code: "malformed", Detail: fmt.Sprintf("time %.40q is not a time: give a date (2026-11-24) or RFC 3339 (2026-11-24T08:00:00Z)", t)})
		case at.After(now):
			faults = append(faults, problem.Field{Pointer: "time", Code: "out_of_range", Detail: "time is in the future"})
		}
	}
	if len(v["time"]) == 1 { // read above
		v.Del("time")
	}
	inner := r.Clone(r.Context())
	inner.URL.RawQuery = v.Encode()
	args, _, more := q.arguments(inner, now)
	faults = append(faults, more...)
	if v.Get("sku") == "" && len(v["sku"]) < 2 {
		faults = append(faults, problem.Field{Pointer: "sku", Code: "required", Detail: "sku is missing: name the SKU"})
	}
	if len(faults) > 0 {
		turnDown(w, faults)
		return
	}
	args["time"] = clickhouseTime(at)
	delete(args, "from")
	delete(args, "to")
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.ClickHouse.Timeout)
	defer cancel()
	x, err := s.explain(ctx, v.Get("sku"), v.Get("channel"), at, args)
	switch {
	case err != nil && r.Context().Err() != nil: // nobody is there to read it
	case err != nil:
		s.away(ctx, w, r, err)
	case x == nil:
		problem.Write(w, problem.New(http.StatusNotFound, "unknown-sku", "Unknown SKU", "ClickHouse holds neither an event nor a level of this SKU; check its spelling"))
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(x) // the client has gone
	}
}

// Newest rows are taken with LIMIT … BY: ClickHouse 26.5 fails at times on a plain LIMIT after ORDER BY offset (TYPE_MISMATCH in its __topKFilter).

// asker asks one question after another of the same parameters, until one fails.
type asker struct {
	s    *Service
	ctx  context.Context
	args map[string]string
	err  error
}

// each scans every row into dst and calls f.
func (a *asker) each(f func(), sql string, dst ...any) {
	if a.err != nil {
		return
	}
	rows, err := a.s.query.Query(clickhouse.Context(a.ctx, clickhouse.WithParameters(clickhouse.Parameters(a.args))), sql)
	if err != nil {
		a.err = err
		return
	}
	defer rows.Close()
	for rows.Next() {
		if a.err = rows.Scan(dst...); a.err != nil {
			return
		}
		f()
	}
	a.err = rows.Err()
}

// removed reports whether records of the SKU's partition before the first that a table holds are gone, and when that one was appended. more narrows the table down.
func (a *asker) removed(table, more string) (gone bool, from time.Time) {
	var offset int64
	var rows uint64
	a.each(func() { gone = rows > 0 && offset > 0 }, "SELECT min(offset), min(appended_at), count() FROM "+table+" WHERE partition = {partition:Int32}"+more, &offset, &from, &rows)
	return gone, from
}

func before(from time.Time) string {
	return "records from before " + from.Format(time.RFC3339) + " are gone"
}

func (s *Service) explain(ctx context.Context, sku, channel string, at time.Time, args map[string]string) (*Explanation, error) {
	a := &asker{s: s, ctx: ctx, args: args}
	found := a.about(sku)
	of := a.components()
	if !found && len(of) == 0 || a.err != nil {
		return nil, a.err
	}
	x := &Explanation{SKU: sku, Time: at, Channels: []ExplainedChannel{}}
	a.stock(&x.Stock)
	if len(of) > 0 {
		x.Stock.Missing, x.Stock.Gone = "it was a bundle, which has no stock of its own", false
		x.Bundle = a.bundle(of)
	}
	books := a.books(x)
	a.targets(x, channel, books)
	for i := range x.Channels {
		a.writes(&x.Channels[i], at)
	}
	a.rules(x)
	return x, a.err
}

// about has what follows be about a SKU, and reports whether anything is known of it.
func (a *asker) about(sku string) (found bool) {
	partition := int32(-1)
	a.args["sku"] = escape.Replace(sku)
	a.each(func() { found = true }, `SELECT partition FROM (SELECT partition FROM stock_events WHERE sku = {sku:String} LIMIT 1 UNION ALL SELECT partition FROM stock_levels WHERE sku = {sku:String} LIMIT 1
	UNION ALL SELECT partition FROM channel_targets WHERE sku = {sku:String} LIMIT 1) LIMIT 1`, &partition)
	a.args["partition"] = strconv.Itoa(int(partition))
	return found
}

// components is what the SKU that is asked about was made of; nothing when it was no bundle.
func (a *asker) components() (of []catalog.Component) {
	var skus []string
	var quantities []int64
	a.each(func() {
		for i, c := range skus {
			of = append(of, catalog.Component{SKU: c, Quantity: catalog.Units(quantities[i])})
		}
	}, `SELECT components.sku, components.quantity FROM catalog_listings WHERE sku = {sku:String} AND appended_at <= {time:DateTime64(6, 'UTC')} ORDER BY offset DESC LIMIT 1 BY sku`, &skus, &quantities)
	return of
}

// bundle finds what the components of a bundle made of it, with the rules of then.
func (a *asker) bundle(of []catalog.Component) *PastBundle {
	asked := maps.Clone(a.args)
	defer func() { a.args = asked }()
	plan := catalog.Compile(&catalog.Settings{Rules: a.rulesThen()})
	b := &PastBundle{}
	var parts []bundle.Part
	known := true
	for _, c := range of {
		a.about(c.SKU)
		var st PastStock
		a.level(&st)
		known = known && !st.Gone // what the ledger did not know was none
		x := PastComponent{
			SKU: c.SKU, Quantity: int64(c.Quantity), Missing: st.Missing, Gone: st.Gone, Since: st.Since, Version: st.Version, Available: st.Available, Unassigned: st.Unassigned, Locations: st.Locations,
		}
		x.PoolBuffer = int64(plan.Rules(c.SKU, a.listing(c.SKU)).PoolBuffer.Units)
		p := bundle.Part{Quantity: c.Quantity, Unassigned: bundle.Units(st.Unassigned + x.PoolBuffer)}
		for _, l := range st.Locations {
			p.Shelves = append(p.Shelves, bundle.Shelf{Location: l.Location, Available: bundle.Units(l.Available)})
		}
		x.Makes = int64(p.Makes())
		parts = append(parts, p)
		b.Components = append(b.Components, x)
	}
	if !known {
		return b
	}
	shelves, unassigned := bundle.Stock(nil, parts)
	makes := -int64(unassigned)
	for _, s := range shelves {
		makes += int64(s.Available)
	}
	b.Makes = &makes
	return b
}

// rulesThen is the rules in force.
func (a *asker) rulesThen() map[string]*catalog.Rule {
	out := make(map[string]*catalog.Rule)
	var id, spec string
	var deleted bool
	a.each(func() {
		r := &catalog.Rule{}
		if !deleted && json.Unmarshal([]byte(spec), r) == nil { // as analytics wrote it
			out[id] = r
		}
	}, `SELECT id, spec, deleted FROM catalog_settings WHERE kind = 'rule' AND appended_at <= {time:DateTime64(6, 'UTC')} ORDER BY id, offset DESC LIMIT 1 BY id`, &id, &spec, &deleted)
	return out
}

// listing is what rules see of how the SKU that is asked about was listed.
func (a *asker) listing(sku string) *catalog.Listing {
	l := &catalog.Listing{SKU: sku}
	a.each(func() {}, `SELECT toString(brand), toString(category) FROM catalog_listings WHERE sku = {sku:String} AND appended_at <= {time:DateTime64(6, 'UTC')} ORDER BY offset DESC LIMIT 1 BY sku`,
		&l.Brand, &l.Category)
	return l
}

// level finds the level in force, and reports whether there was one.
func (a *asker) level(st *PastStock) (found bool) {
	st.Locations = []PastLocation{}
	var deleted bool
	var since time.Time
	var names []string
	var onHand, committed, held, inbound, unsellable, safety []int64
	a.each(func() {
		found = !deleted
		if !found {
			st.Missing = "the ledger had forgotten the SKU at " + since.Format(time.RFC3339Nano)
			return
		}
		st.Since = &since
		for i, name := range names {
			st.Locations = append(st.Locations, PastLocation{
				Location: name, OnHand: onHand[i], Committed: committed[i], Held: held[i], Inbound: inbound[i], Unsellable: unsellable[i], SafetyStock: safety[i],
				Available: onHand[i] - committed[i] - held[i] - safety[i],
			})
		}
	}, `SELECT deleted, appended_at, version, source_offset, available, unassigned, locations.location, locations.on_hand, locations.committed, locations.held, locations.inbound,
	locations.unsellable, locations.safety_stock
FROM stock_levels WHERE sku = {sku:String} AND appended_at <= {time:DateTime64(6, 'UTC')} ORDER BY offset DESC LIMIT 1 BY sku`,
		&deleted, &since, &st.Version, &st.Offset, &st.Available, &st.Unassigned, &names, &onHand, &committed, &held, &inbound, &unsellable, &safety)
	if !found && st.Missing == "" && a.err == nil {
		gone, from := a.removed("stock_levels", "")
		if st.Gone = gone; gone {
			st.Missing = "the stock of that time is not in ClickHouse: " + before(from) + "; onhand ledger at folds it from the log"
		} else {
			st.Missing = "the ledger had no stock of the SKU yet"
		}
	}
	return found
}

// stock finds the level in force and the events in it.
func (a *asker) stock(st *PastStock) {
	st.Kinds, st.Latest = []EventSum{}, []PastEvent{}
	found := a.level(st)
	until := "appended_at <= {time:DateTime64(6, 'UTC')}"
	if found {
		until = "offset <= {last:Int64}"
		a.args["last"] = strconv.FormatInt(st.Offset, 10)
	}
	events := `(
	SELECT * FROM stock_events WHERE sku = {sku:String} AND ` + until + `
		AND (partition, offset) NOT IN (SELECT source_partition, source_offset FROM rejected_records WHERE source_topic = 'stock.events' AND rejected_by != 'analytics')
	ORDER BY offset LIMIT 1 BY event_id
)`
	var k EventSum
	all := int64(0)
	a.each(func() { st.Kinds = append(st.Kinds, k); all += k.Events },
		"SELECT toString(kind) AS name, toInt64(count()), sum(quantity) FROM "+events+" GROUP BY name ORDER BY name", &k.Kind, &k.Events, &k.Units)
	var e PastEvent
	a.each(func() { st.Latest = append(st.Latest, e) },
		`SELECT offset, appended_at, event_id, toString(kind), quantity, toString(location), toString(to_location), toString(channel), order_id, reference
FROM `+events+` ORDER BY offset DESC LIMIT `+strconv.Itoa(latestEvents)+` BY sku`,
		&e.Offset, &e.At, &e.EventID, &e.Kind, &e.Units, &e.Location, &e.ToLocation, &e.Channel, &e.Order, &e.Reference)
	if st.Gone || all < st.Version {
		if gone, from := a.removed("stock_events", ""); gone {
			st.EventsMissing = before(from)
		}
	}
}

// books finds the books of exposure in force: of the SKU in x, and by channel.
func (a *asker) books(x *Explanation) map[string]*PastBooks {
	var e PastExposure
	var known bool
	var names, grants []string
	var exposures, shown, shares []int64
	var exposureKnown, shownKnown []bool
	out := make(map[string]*PastBooks)
	a.each(func() {
		if e.Mode == "pooled" {
			return
		}
		x.Exposure = &e
		if slack := e.Available - e.Exposed; known {
			e.Slack = &slack
		}
		for i, name := range names {
			b := &PastBooks{Share: shares[i], OpenWrite: grants[i]}
			if exposureKnown[i] {
				b.Exposure = &exposures[i]
			}
			if shownKnown[i] {
				b.Shown = &shown[i]
			}
			out[name] = b
		}
	}, `SELECT toString(phase), decided_at, available, exposed, known, channels.channel, channels.exposure, channels.exposure_known, channels.shown, channels.shown_known, channels.share,
	channels.open_write
FROM exposure_books WHERE sku = {sku:String} AND appended_at <= {time:DateTime64(6, 'UTC')} ORDER BY offset DESC LIMIT 1 BY sku`,
		&e.Mode, &e.Since, &e.Available, &e.Exposed, &known, &names, &exposures, &exposureKnown, &shown, &shownKnown, &shares, &grants)
	return out
}

// targets finds the target in force of each channel, or of one.
func (a *asker) targets(x *Explanation, channel string, books map[string]*PastBooks) {
	var name string
	var t PastTarget
	var steps, details []string
	var units []int64
	a.each(func() {
		c := ExplainedChannel{Channel: name, Books: books[name]}
		target := t
		target.Steps = []PastStep{}
		for i := range steps {
			target.Steps = append(target.Steps, PastStep{steps[i], units[i], details[i]})
		}
		c.Target = &target
		x.Channels = append(x.Channels, c)
	}, `SELECT toString(channel) AS name, quantity, withdrawn, toString(mode), level_version, source_offset, settings_version, write_id, decided_at, explanation.step, explanation.units, explanation.detail
FROM channel_targets
WHERE sku = {sku:String} AND ({channel:String} = '' OR channel = {channel:String}) AND appended_at <= {time:DateTime64(6, 'UTC')}
ORDER BY name, offset DESC LIMIT 1 BY name`,
		&name, &t.Quantity, &t.Withdrawn, &t.Mode, &t.LevelVersion, &t.SourceOffset, &t.SettingsVersion, &t.WriteID, &t.DecidedAt, &steps, &units, &details)
	if channel == "" || len(x.Channels) > 0 || a.err != nil {
		return
	}
	c := ExplainedChannel{Channel: channel, Books: books[channel]}
	gone, from := a.removed("channel_targets", " AND channel = {channel:String}")
	if c.Gone = gone; gone {
		c.Missing = "the target of that time is not in ClickHouse: " + before(from)
	} else {
		c.Missing = "the channel had no target of the SKU yet: it was not listed there"
	}
	x.Channels = append(x.Channels, c)
}

// writes finds what had been sent to the channel, and what it had acknowledged.
func (a *asker) writes(c *ExplainedChannel, at time.Time) {
	a.args["of"] = escape.Replace(c.Channel)
	newest := func(moment, more string) (out *PastWrite) {
		var w PastWrite
		var shown int64
		var shownKnown bool
		var acked time.Time
		a.each(func() {
			if shownKnown {
				w.Shown = &shown
			}
			if acked.UnixMicro() > 0 {
				w.AckedAt = &acked
			}
			out = &w
		}, `SELECT write_id, toString(operation), if(operation = 'delta', delta, quantity), toString(outcome), trimBoth(concat(error_code, ' ', error_detail)), shown, shown_known, decided_at, sent_at, acked_at
FROM channel_writes
WHERE channel = {of:String} AND sku = {sku:String} AND operation != 'read' AND toUnixTimestamp64Micro(`+moment+`) > 0 AND `+moment+` <= {time:DateTime64(6, 'UTC')}`+more+`
ORDER BY `+moment+` DESC, offset DESC LIMIT 1 BY sku`,
			&w.ID, &w.Operation, &w.Value, &w.Outcome, &w.Error, &shown, &shownKnown, &w.DecidedAt, &w.SentAt, &acked)
		return out
	}
	c.Sent = newest("sent_at", "")
	c.Acknowledged = newest("acked_at", " AND outcome = 'applied'")
	switch w := c.Sent; {
	case a.err != nil:
	case w == nil:
		if gone, from := a.removed("channel_writes", " AND channel = {of:String}"); gone {
			c.Writes = "no write to the channel is known: " + before(from)
		} else {
			c.Writes = "nothing had been sent to the channel that has a result"
		}
	case c.Target != nil && w.DecidedAt.Before(c.Target.DecidedAt):
		c.Writes = "the target had not been sent yet"
		if c.Acknowledged != nil && !c.Acknowledged.SentAt.Before(w.SentAt) {
			c.Writes += "; the one before it was acknowledged"
		}
	case w.AckedAt == nil:
		c.Writes = "the target was sent, and the channel never answered"
	case w.AckedAt.After(at):
		c.Writes = "the target was sent, and not acknowledged yet"
	default:
		c.Writes = "the target was sent and answered: " + w.Outcome
	}
}

// rules finds the rules in force that the steps name.
func (a *asker) rules(x *Explanation) {
	var r RuleInForce
	var spec string
	var deleted bool
	a.each(func() {
		if deleted {
			return
		}
		for i := range x.Channels {
			c := &x.Channels[i]
			if c.Target != nil && slices.ContainsFunc(c.Target.Steps, func(s PastStep) bool { return strings.HasPrefix(s.Detail, r.ID+": ") }) {
				r.Rule = json.RawMessage(spec)
				c.Rules = append(c.Rules, r)
			}
		}
	}, `SELECT id, spec, toString(applied_by), applied_at, deleted FROM catalog_settings WHERE kind = 'rule' AND appended_at <= {time:DateTime64(6, 'UTC')} ORDER BY id, offset DESC LIMIT 1 BY id`,
		&r.ID, &spec, &r.AppliedBy, &r.AppliedAt, &deleted)
}
