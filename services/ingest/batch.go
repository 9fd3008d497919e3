package ingest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ingest/internal/intake"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/topics"
)

// Sources, as events carry them.
const (
	sourceAPI      = "api"
	sourceOrdersIn = schemas.OrdersIn
)

const (
	chunkItems   = 500       // of a stream, produced and acknowledged together
	chunkBytes   = 256 << 10 // of a stream, read before they are handed on
	maxResults   = 100_000   // of a stream; beyond them only the refused are listed
	maxRefused   = 10_000    // refused items that are listed
	recentItems  = 1 << 16   // of a stream, within which a repeated id is noticed
	keptRejected = 384 << 10 // bytes of a refused item that are kept: a record of Kafka has about 1 MB
)

// Status is what became of an item.
type Status string

// The statuses.
const (
	Accepted  Status = "accepted"  // acknowledged by Kafka
	Duplicate Status = "duplicate" // the same as an earlier item of this request
	Rejected  Status = "rejected"  // not used; Problem says why
)

// Result is what became of one item.
type Result struct {
	Index   int              `json:"index" doc:"Position of the item in the request, from 0."`
	ID      string           `json:"id,omitempty" doc:"Id of the order or event; empty when it could not be read."`
	Status  Status           `json:"status" enum:"accepted,duplicate,rejected" doc:"What became of the item."`
	Problem *problem.Details `json:"problem,omitempty" doc:"Why the item was rejected. Pointers are within the item."`
}

// Receipt is the answer to orders and events.
type Receipt struct {
	Accepted   int      `json:"accepted" doc:"Items that Kafka has acknowledged."`
	Duplicates int      `json:"duplicates" doc:"Items that repeat an earlier one of this request."`
	Rejected   int      `json:"rejected" doc:"Items that were not used."`
	Events     int      `json:"events" doc:"Stock events that the accepted items became: one for each order line or event, and of a bundle one more for each component."`
	Results    []Result `json:"results" doc:"What became of each item, in order; of the rejected items only, when asked so or when there are more than 100,000."`
	Unlisted   int      `json:"unlisted" doc:"Items that results leaves out."`
}

// call is one request, or one fetch of orders.in, on its way through.
type call struct {
	s          *Service
	read       func(*call, string, int) (unit, *problem.Details)
	source     string
	path       string // route, for rejected records
	who        string // name of the API key
	derive     string // start of ids for events that have none; empty when there was no Idempotency-Key
	lim        intake.Limits
	keep       bool // refused items go to stock.rejected
	failedOnly bool
	hurry      bool // somebody waits for what follows from it: it does not linger
	spans      bool // items of their own spans: there are several
	seen       *recent
	order      order.Order // reused
	n          int         // items so far
	receipt    Receipt
}

// unit is one readable item.
type unit struct {
	id            string
	channel       string // that it speaks of
	identity, sum uint64 // hashes of what names it and of what it says
	records       []*kgo.Record
	events        int
	orders, lines int
}

func invalid(fields []problem.Field) *problem.Details {
	detail := fields[0].Detail
	if len(fields) > 1 {
		detail = fmt.Sprintf("%s (and %d more)", detail, len(fields)-1)
	}
	return &problem.Details{Type: problem.Prefix + "invalid", Title: "Not valid", Status: http.StatusUnprocessableEntity, Detail: detail, Errors: fields}
}

func unreadable(err *intake.SyntaxError, src string) *problem.Details {
	d := problem.New(http.StatusBadRequest, "syntax", "Not JSON", err.Error())
	d.Errors = []problem.Field{err.Field(src)}
	return d
}

// readOrder makes one order's records: itself, and a sale for each line; of a bundle also one for each component.
func readOrder(c *call, src string, _ int) (unit, *problem.Details) {
	o := &c.order
	fields, syntax := intake.ReadOrder(src, &c.lim, o)
	if syntax != nil {
		return unit{}, unreadable(syntax, src)
	}
	if len(fields) > 0 {
		return unit{id: o.ID}, invalid(fields)
	}
	u := unit{id: strings.Clone(o.ID), channel: o.Channel, orders: 1, lines: len(o.Lines)}
	u.identity = maphash.Comparable(c.s.seed, [2]string{o.Channel, o.ID})
	u.sum = sumOrder(c.s.seed, o)
	o.ReceivedAt = c.lim.Now.UnixMicro()
	var sales [8]event.Event
	events := o.Sales(sales[:0], c.source)
	if fields = intake.CheckSales(events, &c.lim); len(fields) > 0 {
		return unit{id: o.ID}, invalid(fields)
	}
	if fields = c.unknown(events, true); len(fields) > 0 {
		return unit{id: o.ID}, invalid(fields)
	}
	if events, fields = c.expand(events, true); len(fields) > 0 {
		return unit{id: o.ID}, invalid(fields)
	}
	u.events = len(events)
	codec := c.s.deps.Codec
	u.records = make([]*kgo.Record, 0, 1+len(events))
	u.records = append(u.records, topics.Record(schemas.Orders, o.ID, codec.AppendOrder(nil, o)))
	for i := range events {
		u.records = append(u.records, codec.EventRecord(&events[i]))
	}
	return u, nil
}

func sumOrder(seed maphash.Seed, o *order.Order) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, [4]string{o.ID, o.Channel, o.Currency, o.CustomerRef})
	maphash.WriteComparable(&h, o.ShipTo)
	maphash.WriteComparable(&h, [2]int64{o.PlacedAt, o.ShipBy})
	for i := range o.Lines {
		maphash.WriteComparable(&h, o.Lines[i])
	}
	return h.Sum64()
}

// readEvent makes one event's record; of a bundle also one for each component.
func readEvent(c *call, src string, index int) (unit, *problem.Details) {
	var e event.Event
	fields, syntax := intake.ReadEvent(src, &c.lim, func() string {
		if c.derive == "" {
			return ""
		}
		return c.derive + strconv.Itoa(index)
	}, &e)
	if syntax != nil {
		return unit{}, unreadable(syntax, src)
	}
	if len(fields) > 0 {
		return unit{id: e.ID}, invalid(fields)
	}
	if e.Source == "" {
		e.Source = c.source
	}
	u := unit{id: strings.Clone(e.ID), channel: e.Channel, identity: maphash.String(c.s.seed, e.ID), sum: maphash.Comparable(c.s.seed, e)}
	e.ReceivedAt = c.lim.Now.UnixMicro()
	var room [4]event.Event
	events := append(room[:0], e)
	if fields = c.unknown(events, false); len(fields) > 0 {
		return unit{id: e.ID}, invalid(fields)
	}
	if events, fields = c.expand(events, false); len(fields) > 0 {
		return unit{id: e.ID}, invalid(fields)
	}
	u.events = len(events)
	u.records = make([]*kgo.Record, 0, len(events))
	for i := range events {
		u.records = append(u.records, c.s.deps.Codec.EventRecord(&events[i]))
	}
	return u, nil
}

// pending is an item whose records are on their way.
type pending struct {
	index  int
	raw    string
	unit   unit
	result int   // its place in receipt.Results; -1 when it has none
	err    error // guarded by acks.mu until all are acknowledged
}

// acks waits for the acknowledgements of a batch.
type acks struct {
	left atomic.Int64 // records, and one for the sender until it has sent them all
	done chan struct{}

	mu  sync.Mutex
	err error // first that is no fault of a record
}

func (a *acks) got() {
	if a.left.Add(-1) == 0 {
		close(a.done)
	}
}

// process takes a chunk of items in and returns when Kafka has acknowledged all it made of them. An error means that some of the chunk may
// not be in Kafka; the receipt then counts none of it.
func (c *call) process(ctx context.Context, items []string) error {
	c.lim.Now = time.Now()
	receipt, n := c.receipt, c.n
	batch := make([]pending, 0, len(items))
	var rejects []*kgo.Record
	bytes := 0
	for _, raw := range items {
		index := c.n
		c.n++
		bytes += len(raw)
		u, fault := c.read(c, raw, index)
		if fault == nil {
			switch c.seen.check(u.identity, u.sum) {
			case repeated:
				c.receipt.Duplicates++
				c.s.stats.duplicates.Add(1)
				c.note(Result{Index: index, ID: u.id, Status: Duplicate})
				continue
			case contradicted:
				fault = problem.New(http.StatusConflict, "conflict", "Conflicts with an earlier item",
					fmt.Sprintf("an earlier item of this request has the id %q and says something else: give each its own id, or send it once", u.id))
				fault.Errors = []problem.Field{{Pointer: "/id", Code: "conflict", Detail: fault.Detail}}
			}
		}
		if fault != nil {
			rejects = c.reject(rejects, index, u.id, raw, fault)
			continue
		}
		c.trace(ctx, &u)
		batch = append(batch, pending{index: index, raw: raw, unit: u, result: c.note(Result{Index: index, ID: u.id, Status: Accepted})})
	}
	acked, cancel := context.WithTimeout(ctx, c.s.cfg.AckTimeout)
	defer cancel()
	if err := c.send(acked, batch, rejects); err != nil {
		c.receipt, c.n = receipt, n
		return err
	}
	c.settle(ctx, batch, bytes)
	return nil
}

// trace gives an item's records their trace context: of the request when it is the only item, else of a span of its own, sampled by itself.
func (c *call) trace(ctx context.Context, u *unit) {
	if c.spans {
		var span trace.Span
		ctx, span = c.s.tel.Tracer.Start(ctx, "ingest item", trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx)))
		if span.IsRecording() {
			span.SetAttributes(attribute.String("onhand.id", u.id), attribute.Int("onhand.events", u.events))
		}
		defer span.End()
	}
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return
	}
	for _, r := range u.records {
		telemetry.Inject(ctx, r)
	}
}

// send produces the records and waits until all are acknowledged or ctx ends: a record that may have reached a broker is neither acknowledged
// nor failed until the broker answers, be it for minutes. Faults of single items are left in them.
func (c *call) send(ctx context.Context, batch []pending, rejects []*kgo.Record) error {
	if len(batch) == 0 && len(rejects) == 0 {
		return nil
	}
	start := time.Now()
	a := &acks{done: make(chan struct{})}
	a.left.Store(1)
	for i := range batch {
		p := &batch[i]
		done := func(_ *kgo.Record, err error) {
			if err != nil {
				a.mu.Lock()
				if errors.Is(err, kerr.MessageTooLarge) {
					p.err = err
				} else if a.err == nil {
					a.err = err
				}
				a.mu.Unlock()
			}
			a.got()
		}
		a.left.Add(int64(len(p.unit.records)))
		for _, r := range p.unit.records {
			c.s.producer.Produce(ctx, r, done)
		}
	}
	a.left.Add(int64(len(rejects)))
	for _, r := range rejects {
		c.s.producer.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				a.mu.Lock()
				if a.err == nil {
					a.err = err
				}
				a.mu.Unlock()
			}
			a.got()
		})
	}
	a.got()
	if c.hurry {
		kafka.Hurry(c.s.producer)
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return fmt.Errorf("kafka has not acknowledged: %w", ctx.Err())
	}
	c.s.metrics.ack.Record(ctx, time.Since(start).Seconds())
	if a.err != nil {
		return fmt.Errorf("kafka has not acknowledged: %w", a.err)
	}
	return nil
}

// settle counts what was acknowledged, and turns items that Kafka will never take into refused ones.
func (c *call) settle(ctx context.Context, batch []pending, bytes int) {
	var orders, lines, events, accepted int
	var rejects []*kgo.Record
	for i := range batch {
		p := &batch[i]
		if p.err != nil {
			fault := problem.New(http.StatusRequestEntityTooLarge, "too-large", "Item too large",
				"the item is larger than a record of Kafka may be: split the order, or shorten its texts")
			if p.result >= 0 {
				c.receipt.Results[p.result] = Result{Index: p.index, ID: p.unit.id, Status: Rejected, Problem: fault}
				c.count(fault)
				rejects = c.keepRejected(rejects, p.unit.id, p.raw, fault)
			} else {
				rejects = c.reject(rejects, p.index, p.unit.id, p.raw, fault)
			}
			continue
		}
		accepted++
		orders += p.unit.orders
		lines += p.unit.lines
		events += p.unit.events
	}
	acked, cancel := context.WithTimeout(ctx, c.s.cfg.AckTimeout)
	defer cancel()
	if err := c.send(acked, nil, rejects); err != nil {
		c.s.tel.Log.Warn("refused items could not be kept in "+schemas.StockRejected, "items", len(rejects), "err", err)
	}
	c.receipt.Accepted += accepted
	c.receipt.Events += events
	st, m := &c.s.stats, c.s.metrics
	source := metric.WithAttributes(attribute.String("source", c.source))
	st.bytes.Add(int64(bytes))
	m.bytes.Add(ctx, int64(bytes), source)
	if accepted == 0 {
		return
	}
	st.last.Store(c.lim.Now.UnixMicro())
	if orders > 0 {
		st.orders.Add(int64(orders))
		st.lines.Add(int64(lines))
		m.orders.Add(ctx, int64(orders), source)
		m.lines.Add(ctx, int64(lines), source)
	} else {
		st.events.Add(int64(events))
		m.events.Add(ctx, int64(events), source)
	}
}

// note lists a result, and gives its place in the list, or -1 when the list leaves it out.
func (c *call) note(r Result) int {
	full := len(c.receipt.Results) >= maxResults
	if r.Status == Rejected {
		full = c.receipt.Rejected > maxRefused && len(c.receipt.Results) >= maxRefused
	} else if c.failedOnly {
		full = true
	}
	if full {
		c.receipt.Unlisted++
		return -1
	}
	c.receipt.Results = append(c.receipt.Results, r)
	return len(c.receipt.Results) - 1
}

func (c *call) reject(rejects []*kgo.Record, index int, id, raw string, fault *problem.Details) []*kgo.Record {
	c.count(fault)
	c.note(Result{Index: index, ID: strings.Clone(id), Status: Rejected, Problem: fault})
	return c.keepRejected(rejects, id, raw, fault)
}

func (c *call) count(fault *problem.Details) {
	c.receipt.Rejected++
	c.s.stats.rejected.Add(1)
	c.s.metrics.rejected.Add(context.Background(), 1, metric.WithAttributes(
		attribute.String("source", c.source), attribute.String("reason", reason(fault))))
}

// reason is a fault's name for stock.rejected and for metrics.
func reason(d *problem.Details) string {
	if len(d.Errors) > 0 && d.Errors[0].Code != "" && d.Status == http.StatusUnprocessableEntity {
		switch c := d.Errors[0].Code; c {
		case "unknown_kind", "unknown_sku", "unknown_location", "absurd_quantity", "unknown_field", "required":
			return c
		}
	}
	return strings.ReplaceAll(strings.TrimPrefix(d.Type, problem.Prefix), "-", "_")
}

// explain is a fault in one line: each place with what is wrong there.
func explain(d *problem.Details) string {
	if len(d.Errors) == 0 {
		return d.Detail
	}
	parts := make([]string, 0, len(d.Errors))
	for _, f := range d.Errors {
		if f.Pointer != "" {
			parts = append(parts, f.Pointer+": "+f.Detail)
		} else {
			parts = append(parts, f.Detail)
		}
	}
	return strings.Join(parts, "; ")
}

func (c *call) keepRejected(rejects []*kgo.Record, id, raw string, fault *problem.Details) []*kgo.Record {
	if !c.keep {
		return rejects
	}
	detail := explain(fault)
	if len(raw) > keptRejected {
		detail += fmt.Sprintf(" (only the first %d of %d bytes are kept)", keptRejected, len(raw))
		raw = raw[:keptRejected]
	}
	r := &kgo.Record{Topic: "http", Offset: -1, Key: []byte(id), Value: []byte(raw), Headers: []kgo.RecordHeader{
		{Key: "route", Value: []byte(c.path)}, {Key: "api-key-name", Value: []byte(c.who)},
	}}
	return append(rejects, c.s.deps.Codec.RejectedRecord(r, reason(fault), detail, Name, c.lim.Now))
}

// recent remembers items of one request by the hashes of their identity and content: at least the newest recentItems of them, and at most
// twice as many.
type recent struct{ young, old map[uint64]uint64 }

type sighting int

const (
	fresh sighting = iota
	repeated
	contradicted
)

func newRecent() *recent { return &recent{young: make(map[uint64]uint64)} }

func (r *recent) check(identity, sum uint64) sighting {
	was, ok := r.young[identity]
	if !ok {
		was, ok = r.old[identity]
	}
	if ok {
		if was == sum {
			return repeated
		}
		return contradicted
	}
	if len(r.young) >= recentItems {
		r.young, r.old = make(map[uint64]uint64, recentItems), r.young
	}
	r.young[identity] = sum
	return fresh
}
