package marketplace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Line is one line of a sale.
type Line struct {
	ID        string `json:"id"`
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice string `json:"unit_price,omitempty"` // decimal number in the sale's currency
	Location  string `json:"location,omitempty"`
}

// Sale is an order that a customer places at a channel.
type Sale struct {
	ID          string          `json:"id"`
	PlacedAt    time.Time       `json:"placed_at"` // zero means now
	Currency    string          `json:"currency"`
	CustomerRef string          `json:"customer_ref,omitempty"`
	ShipTo      json.RawMessage `json:"ship_to,omitempty"` // passed on as it is
	Lines       []Line          `json:"lines"`
}

// LineResult says what became of one line: sold whole, or refused whole.
type LineResult struct {
	ID    string `json:"id"`
	SKU   string `json:"sku"`
	Sold  bool   `json:"sold"`
	Shown int64  `json:"shown"` // units shown after it
}

// SaleResult says what became of a sale. A repeated sale changes nothing and has no lines.
type SaleResult struct {
	ID       string       `json:"id"`
	Repeated bool         `json:"repeated,omitempty"`
	Lines    []LineResult `json:"lines"`
}

// Cancellation takes units of an earlier sale back before they are shipped. The channel puts them back on sale by itself unless NoRestock.
type Cancellation struct {
	ID         string    `json:"id,omitempty"` // empty: made of order and line
	OrderID    string    `json:"order_id"`
	LineID     string    `json:"line_id"`
	SKU        string    `json:"sku"`
	Quantity   int64     `json:"quantity"`
	OccurredAt time.Time `json:"occurred_at"`
	NoRestock  bool      `json:"no_restock,omitempty"`
	Location   string    `json:"location,omitempty"`
}

// Return is units that a customer sent back. The channel never puts these back on sale by itself.
type Return struct {
	ID          string    `json:"id,omitempty"` // empty: made of order and line
	OrderID     string    `json:"order_id"`
	LineID      string    `json:"line_id"`
	SKU         string    `json:"sku"`
	Quantity    int64     `json:"quantity"`
	OccurredAt  time.Time `json:"occurred_at"`
	Disposition string    `json:"disposition"` // restock, refurbish, quarantine or scrap
	Location    string    `json:"location"`    // that took the units in
}

// ErrNeverSold refuses a cancellation or return of a line that the channel refused to sell.
var ErrNeverSold = errors.New("that line was never sold")

// Write is one item of an inventory write: exactly one of Quantity and Delta, and Expected only beside Quantity.
type Write struct {
	ID       string `json:"id,omitempty"` // of the change: once applied, it is not applied again in any request
	SKU      string `json:"sku"`
	Quantity *int64 `json:"quantity,omitempty"`
	Delta    *int64 `json:"delta,omitempty"`
	Expected *int64 `json:"expected,omitempty"`
}

// WriteResult is the channel's answer to one item.
type WriteResult struct {
	SKU     string `json:"sku"`
	Status  string `json:"status"` // applied or refused
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Shown   int64  `json:"shown"`
}

// Codes of refused items. Busy may be tried again; the others not without a change.
const (
	CodeBusy      = "busy"
	CodeStale     = "stale" // compare-and-set: shown is not the expected quantity
	CodeInvalid   = "invalid_quantity"
	CodeNotListed = "not_listed"
)

// Faults is how a channel misbehaves. Rates are shares of requests or items, 0 to 1. The zero value is a perfect channel.
type Faults struct {
	Seed              uint64  `json:"seed,omitempty"`             // restarts the channel's randomness; 0 keeps it going
	LatencyMS         float64 `json:"latency_ms,omitempty"`       // every request waits this long …
	JitterMS          float64 `json:"jitter_ms,omitempty"`        // … plus an exponential time of this mean
	SlowRate          float64 `json:"slow_rate,omitempty"`        // requests that also wait SlowMS
	SlowMS            float64 `json:"slow_ms,omitempty"`          //
	ErrorRate         float64 `json:"error_rate,omitempty"`       // 500, nothing applied
	ErrorAppliedRate  float64 `json:"error_applied_rate"`         // 500 although applied
	UnavailableRate   float64 `json:"unavailable_rate,omitempty"` // 503, nothing applied
	ThrottleRate      float64 `json:"throttle_rate,omitempty"`    // 429 with Retry-After
	RetryAfterS       int     `json:"retry_after_s,omitempty"`    // of 429; default 1
	RatePerSecond     float64 `json:"rate_per_second,omitempty"`  // requests allowed; beyond it 429
	Burst             int     `json:"burst,omitempty"`
	TimeoutRate       float64 `json:"timeout_rate,omitempty"`    // requests that are never answered, and …
	TimeoutApplied    float64 `json:"timeout_applied,omitempty"` // … this share of them is applied before, …
	TimeoutLate       float64 `json:"timeout_late,omitempty"`    // … this share after HoldMS, the rest never
	HoldMS            float64 `json:"hold_ms,omitempty"`         // how long an unanswered request is held; default 30 s
	ItemBusyRate      float64 `json:"item_busy_rate,omitempty"`
	ItemRefuseRate    float64 `json:"item_refuse_rate,omitempty"`
	LostReports       float64 `json:"lost_reports,omitempty"`       // sales never reported, until asked again
	DuplicatedReports float64 `json:"duplicated_reports,omitempty"` // sales reported twice
	ClockSkewMS       float64 `json:"clock_skew_ms,omitempty"`      // the channel's clock is so much ahead; behind when negative
	ListLagMS         float64 `json:"list_lag_ms,omitempty"`        // an order shows up in the order list so much later
	Outage            bool    `json:"outage,omitempty"`             // the inventory API answers 503; customers go on buying
}

func (f Faults) validate() error {
	var errs []error
	for name, v := range map[string]float64{
		"slow_rate": f.SlowRate, "error_rate": f.ErrorRate, "error_applied_rate": f.ErrorAppliedRate, "unavailable_rate": f.UnavailableRate,
		"throttle_rate": f.ThrottleRate, "timeout_rate": f.TimeoutRate, "timeout_applied": f.TimeoutApplied, "timeout_late": f.TimeoutLate,
		"item_busy_rate": f.ItemBusyRate, "item_refuse_rate": f.ItemRefuseRate, "lost_reports": f.LostReports, "duplicated_reports": f.DuplicatedReports,
	} {
		if !(v >= 0 && v <= 1) {
			errs = append(errs, fmt.Errorf("%s %g: want a share from 0 to 1", name, v))
		}
	}
	for name, v := range map[string]float64{
		"latency_ms": f.LatencyMS, "jitter_ms": f.JitterMS, "slow_ms": f.SlowMS, "hold_ms": f.HoldMS, "rate_per_second": f.RatePerSecond,
		"retry_after_s": float64(f.RetryAfterS), "burst": float64(f.Burst), "list_lag_ms": f.ListLagMS,
	} {
		if !(v >= 0 && v <= 1e6) {
			errs = append(errs, fmt.Errorf("%s %g: want 0 to 1000000", name, v))
		}
	}
	if !(f.ClockSkewMS >= -1e6 && f.ClockSkewMS <= 1e6) {
		errs = append(errs, fmt.Errorf("clock_skew_ms %g: want -1000000 to 1000000", f.ClockSkewMS))
	}
	return errors.Join(errs...)
}

// ChannelStats counts what happened at one channel since its state began.
type ChannelStats struct {
	Channel         string `json:"channel"`
	SKUs            int    `json:"skus"`
	ShownUnits      int64  `json:"shown_units"`
	Sales           int64  `json:"sales"`            // orders with at least one line sold
	SoldUnits       int64  `json:"sold_units"`       //
	RefusedUnits    int64  `json:"refused_units"`    // asked for and not shown
	CancelledUnits  int64  `json:"cancelled_units"`  //
	ReturnedUnits   int64  `json:"returned_units"`   //
	RepeatedSales   int64  `json:"repeated_sales"`   //
	WriteRequests   int64  `json:"write_requests"`   //
	Writes          int64  `json:"writes"`           // items applied
	RefusedWrites   int64  `json:"refused_writes"`   // items refused
	Reads           int64  `json:"reads"`            // items read back
	FaultsGiven     int64  `json:"faults_given"`     // requests answered wrongly on purpose
	Reported        int64  `json:"reported"`         // records that Onhand acknowledged
	Unreported      int64  `json:"unreported"`       // records still to report
	LostReports     int64  `json:"lost_reports"`     // records withheld until asked again
	RejectedReports int64  `json:"rejected_reports"` // records that Onhand refused for good
	ReportRetries   int64  `json:"report_retries"`
	LastReportError string `json:"last_report_error,omitempty"`

	Watermark time.Time `json:"watermark,omitzero"` // up to when, by its own clock, the channel has told Onhand that all its sales are reported
}

// windows that are remembered per channel, so that memory stays bounded whatever is sold
const (
	rememberedSales   = 1 << 18
	rememberedRefused = 1 << 16
	rememberedIDs     = 1 << 14
	rememberedKeys    = 1 << 9 // half a minute of a busy channel: longer than anyone waits before trying again
	rememberedBytes   = 1 << 20
	maxQuantity       = 1_000_000_000
)

// hash is FNV-1a over parts with a separator: the same in every process, as saved state needs.
func hash(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, p := range parts {
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * 1099511628211
		}
		h *= 1099511628211
	}
	return h
}

// channel is one marketplace. Everything below mu is guarded by it.
type channel struct {
	id  string
	srv *Server

	mu      sync.Mutex
	shown   map[string]int64
	faults  Faults
	rng     *rand.Rand
	limit   *rate.Limiter // nil without a limit
	stats   ChannelStats
	sales   window[uint64]
	refused window[uint64]
	answers answers
	applied applied

	list orderList

	active time.Time // when something last happened here

	out outbox
}

// now is the channel's clock. The caller holds mu.
func (c *channel) now() time.Time {
	return time.Now().Add(time.Duration(c.faults.ClockSkewMS * float64(time.Millisecond)))
}

func newChannel(id string, s *Server) *channel {
	c := &channel{id: id, srv: s, shown: make(map[string]int64), stats: ChannelStats{Channel: id}}
	c.rng = rand.New(rand.NewPCG(s.cfg.Seed, hash(id)))
	c.sales.limit, c.refused.limit = rememberedSales, rememberedRefused
	c.applied.keys.limit = rememberedIDs
	c.out.init()
	return c
}

// sell takes one sale. It waits while too much is unreported.
func (c *channel) sell(ctx context.Context, s *Sale) (SaleResult, error) {
	res := SaleResult{ID: s.ID, Lines: make([]LineResult, 0, len(s.Lines))}
	if err := s.validate(); err != nil {
		return res, err
	}
	if err := c.out.room(ctx, c.srv.cfg.MaxUnreported); err != nil {
		return res, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sales.add(hash("sale", s.ID)) {
		c.stats.RepeatedSales++
		res.Repeated = true
		return res, nil
	}
	sold := 0
	for i := range s.Lines {
		l := &s.Lines[i]
		have := c.shown[l.SKU]
		ok := have >= l.Quantity
		if ok {
			have -= l.Quantity
			c.shown[l.SKU] = have
			c.stats.SoldUnits += l.Quantity
			sold++
		} else {
			c.stats.RefusedUnits += l.Quantity
			c.refused.add(hash(s.ID, l.ID))
		}
		res.Lines = append(res.Lines, LineResult{ID: l.ID, SKU: l.SKU, Sold: ok, Shown: have})
	}
	if sold == 0 {
		return res, nil
	}
	c.stats.Sales++
	placed := *s
	if placed.PlacedAt.IsZero() {
		placed.PlacedAt = c.now()
	}
	s = &placed
	c.report(ordersPath, appendOrder(make([]byte, 0, 256+len(s.ShipTo)+128*sold), c.id, s, res.Lines))
	return res, nil
}

// report queues a record, unless this one is lost or doubled. The caller holds mu, so that reports keep the order of what happened.
func (c *channel) report(path string, line []byte) {
	c.active = time.Now()
	c.list.add(c.now(), time.Now(), report{path, line})
	if c.srv.target() == nil {
		return
	}
	f := &c.faults
	if f.LostReports > 0 && c.rng.Float64() < f.LostReports {
		c.out.lose(report{path, line})
		return
	}
	c.out.put(report{path, line})
	if f.DuplicatedReports > 0 && c.rng.Float64() < f.DuplicatedReports {
		c.out.put(report{path, line})
	}
}

func (s *Sale) validate() error {
	if s.ID == "" {
		return errors.New("id: a sale needs one")
	}
	if s.Currency == "" {
		return fmt.Errorf("sale %s: currency: it has none", s.ID)
	}
	if len(s.Lines) == 0 {
		return fmt.Errorf("sale %s: lines: it has none", s.ID)
	}
	for i := range s.Lines {
		l := &s.Lines[i]
		if l.ID == "" || l.SKU == "" {
			return fmt.Errorf("sale %s: lines[%d]: id and sku are needed", s.ID, i)
		}
		if l.Quantity <= 0 || l.Quantity > maxQuantity {
			return fmt.Errorf("sale %s: lines[%d].quantity %d: want 1 to %d", s.ID, i, l.Quantity, maxQuantity)
		}
	}
	return nil
}

func checkBack(order, line, sku string, quantity int64) error {
	if order == "" || line == "" || sku == "" {
		return errors.New("order_id, line_id and sku are needed")
	}
	if quantity <= 0 || quantity > maxQuantity {
		return fmt.Errorf("quantity %d: want 1 to %d", quantity, maxQuantity)
	}
	return nil
}

func (c *channel) cancel(ctx context.Context, x *Cancellation) error {
	if err := checkBack(x.OrderID, x.LineID, x.SKU, x.Quantity); err != nil {
		return err
	}
	if err := c.out.room(ctx, c.srv.cfg.MaxUnreported); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused.has(hash(x.OrderID, x.LineID)) {
		return ErrNeverSold
	}
	if !c.sales.add(hash("cancel", x.OrderID, x.LineID, x.ID)) {
		c.stats.RepeatedSales++
		return nil
	}
	if !x.NoRestock {
		c.shown[x.SKU] += x.Quantity
	}
	c.stats.CancelledUnits += x.Quantity
	if x.OccurredAt.IsZero() {
		x.OccurredAt = c.now()
	}
	c.report(eventsPath, appendCancellation(nil, c.id, x))
	return nil
}

func (c *channel) giveBack(ctx context.Context, x *Return) error {
	if err := checkBack(x.OrderID, x.LineID, x.SKU, x.Quantity); err != nil {
		return err
	}
	if x.Location == "" {
		return errors.New("location: name the place that took the units in")
	}
	if err := c.out.room(ctx, c.srv.cfg.MaxUnreported); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused.has(hash(x.OrderID, x.LineID)) {
		return ErrNeverSold
	}
	if !c.sales.add(hash("return", x.OrderID, x.LineID, x.ID)) {
		c.stats.RepeatedSales++
		return nil
	}
	c.stats.ReturnedUnits += x.Quantity
	if x.OccurredAt.IsZero() {
		x.OccurredAt = c.now()
	}
	c.report(eventsPath, appendReturn(nil, c.id, x))
	return nil
}

// write applies the items in order and appends the answers to dst. The caller holds mu.
func (c *channel) write(dst []WriteResult, items []Write) []WriteResult {
	for i := range items {
		w := &items[i]
		have, listed := c.shown[w.SKU]
		r := WriteResult{SKU: w.SKU, Status: "refused", Shown: have}
		next := have
		switch {
		case w.ID != "" && c.applied.has(w, &r):
			dst = append(dst, r)
			continue
		case w.SKU == "":
			r.Code, r.Message = CodeInvalid, "sku is empty"
		case c.faults.ItemBusyRate > 0 && c.rng.Float64() < c.faults.ItemBusyRate:
			r.Code, r.Message = CodeBusy, "the item is being changed; try again"
		case c.faults.ItemRefuseRate > 0 && c.rng.Float64() < c.faults.ItemRefuseRate:
			r.Code, r.Message = CodeNotListed, "the seller has no such listing"
		case (w.Quantity == nil) == (w.Delta == nil):
			r.Code, r.Message = CodeInvalid, "give either quantity or delta"
		case w.Delta != nil:
			next = max(0, have+*w.Delta) // as most channels do: nothing below zero
			r.Status = "applied"
		case w.Expected != nil && (*w.Expected != have):
			r.Code, r.Message = CodeStale, "the shown quantity is not the expected one"
		default:
			next = *w.Quantity
			r.Status = "applied"
		}
		if r.Status == "applied" && (next < 0 || next > maxQuantity) {
			r.Status, r.Code, r.Message = "refused", CodeInvalid, fmt.Sprintf("quantity %d: want 0 to %d", next, maxQuantity)
		}
		if r.Status == "applied" {
			if next != have || !listed {
				c.shown[w.SKU] = next
			}
			r.Shown = next
			c.stats.Writes++
			if w.ID != "" {
				c.applied.put(w, &r)
			}
		} else {
			c.stats.RefusedWrites++
		}
		dst = append(dst, r)
	}
	return dst
}

func (c *channel) setFaults(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Seed != 0 {
		c.rng = rand.New(rand.NewPCG(f.Seed, hash(c.id)))
	}
	c.faults, c.limit = f, nil
	if f.RatePerSecond > 0 {
		c.limit = rate.NewLimiter(rate.Limit(f.RatePerSecond), max(1, f.Burst))
	}
	return nil
}

func (c *channel) snapshot() ChannelStats {
	c.mu.Lock()
	s := c.stats
	s.SKUs = len(c.shown)
	for _, q := range c.shown {
		s.ShownUnits += q
	}
	c.mu.Unlock()
	c.out.count(&s)
	return s
}

// window is a set that forgets its oldest members beyond a limit.
type window[K comparable] struct {
	limit int
	set   map[K]struct{}
	ring  []K
	next  int
}

// add says whether k is new.
func (w *window[K]) add(k K) bool {
	if w.set == nil {
		w.set = make(map[K]struct{})
	}
	if _, ok := w.set[k]; ok {
		return false
	}
	w.set[k] = struct{}{}
	if len(w.ring) < w.limit {
		w.ring = append(w.ring, k)
		return true
	}
	delete(w.set, w.ring[w.next])
	w.ring[w.next] = k
	w.next = (w.next + 1) % w.limit
	return true
}

func (w *window[K]) has(k K) bool {
	_, ok := w.set[k]
	return ok
}

// applied remembers the changes that had an id of their own, and what was answered.
type applied struct {
	keys window[string]
	by   map[string]appliedWrite
}

type appliedWrite struct {
	asked uint64
	shown int64
}

// asks is what a write asks for.
func (w *Write) asks() uint64 {
	number := func(n *int64) string {
		if n == nil {
			return ""
		}
		return strconv.FormatInt(*n, 10)
	}
	return hash(w.SKU, number(w.Quantity), number(w.Delta), number(w.Expected))
}

// has says whether the write was applied before, and gives the answer to it; an id that came with another change is refused.
func (a *applied) has(w *Write, r *WriteResult) bool {
	x, ok := a.by[w.ID]
	if !ok {
		return false
	}
	if x.asked != w.asks() {
		r.Code, r.Message = CodeInvalid, "this id came with another change before"
		return true
	}
	r.Status, r.Shown = "applied", x.shown
	return true
}

func (a *applied) put(w *Write, r *WriteResult) {
	if a.by == nil {
		a.by = make(map[string]appliedWrite)
	}
	if len(a.keys.ring) == a.keys.limit {
		delete(a.by, a.keys.ring[a.keys.next])
	}
	if a.keys.add(w.ID) {
		a.by[w.ID] = appliedWrite{w.asks(), r.Shown}
	}
}

// answers remembers the answer to each idempotency key, with a hash of what was asked.
type answers struct {
	keys []string // oldest first
	by   map[string]answer
	size int // of the bodies
}

type answer struct {
	asked uint64
	body  []byte
}

func (a *answers) get(key string) (answer, bool) {
	x, ok := a.by[key]
	return x, ok
}

func (a *answers) put(key string, asked uint64, body []byte) {
	if _, ok := a.by[key]; ok {
		return
	}
	if a.by == nil {
		a.by = make(map[string]answer)
	}
	a.keys, a.by[key] = append(a.keys, key), answer{asked, body}
	a.size += len(body)
	for len(a.keys) > rememberedKeys || a.size > rememberedBytes && len(a.keys) > 1 {
		a.size -= len(a.by[a.keys[0]].body)
		delete(a.by, a.keys[0])
		a.keys = a.keys[1:]
	}
}
