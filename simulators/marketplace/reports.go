package marketplace

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Paths of Onhand's public API.
const (
	ordersPath = "/v1/orders"
	eventsPath = "/v1/events"
)

// report is one record for Onhand: a JSON object and where it goes.
type report struct {
	path string
	line []byte
}

// outbox holds what a channel has not reported yet, oldest first.
type outbox struct {
	mu       sync.Mutex
	pending  []report
	lost     []report
	changed  chan struct{} // closed and replaced at each change
	reported int64
	rejected int64
	retries  int64
	lastErr  string

	queued, settled int64     // records put and taken off since the start: what was queued first is settled first
	watermark       time.Time // that Onhand has acknowledged last
	refusedOrders   int64     // since the start: sales that Onhand will never know of
}

func (o *outbox) init() { o.changed = make(chan struct{}) }

func (o *outbox) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *outbox) put(r report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending = append(o.pending, r)
	o.queued++
	if len(o.pending) == 1 {
		o.wake()
	}
}

func (o *outbox) lose(r report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = append(o.lost, r)
}

// redeliver queues what was lost, as an order sweep would find it.
func (o *outbox) redeliver() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.lost)
	o.pending = append(o.pending, o.lost...)
	o.queued += int64(n)
	o.lost = nil
	o.wake()
	return n
}

// room waits until less than limit is unreported.
func (o *outbox) room(ctx context.Context, limit int) error {
	for {
		o.mu.Lock()
		full, changed := len(o.pending) >= limit, o.changed
		o.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d sales are not reported yet: %w", limit, ctx.Err())
		}
	}
}

func (o *outbox) count(s *ChannelStats) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.Reported, s.Unreported, s.LostReports = o.reported, int64(len(o.pending)), int64(len(o.lost))
	s.RejectedReports, s.ReportRetries, s.LastReportError, s.Watermark = o.rejected, o.retries, o.lastErr, o.watermark
}

// next waits for something to report and returns the longest run for one path, at most limit.
func (o *outbox) next(ctx context.Context, limit int) ([]report, error) {
	for {
		o.mu.Lock()
		if n := len(o.pending); n > 0 {
			run := 1
			for run < n && run < limit && o.pending[run].path == o.pending[0].path {
				run++
			}
			batch := o.pending[:run:run]
			o.mu.Unlock()
			return batch, nil
		}
		changed := o.changed
		o.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// done takes the first n reports off; rejected of them were refused for good.
func (o *outbox) done(n, rejected int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settled += int64(n)
	if o.pending[0].path == ordersPath {
		o.refusedOrders += int64(rejected)
	}
	clear(o.pending[:n])
	o.pending = o.pending[n:]
	if len(o.pending) == 0 {
		o.pending = nil
	}
	o.reported += int64(n - rejected)
	o.rejected += int64(rejected)
	o.wake()
}

// mark is how many records were queued so far, and whether all that happened is among them or acknowledged already.
func (o *outbox) mark() (queued int64, whole bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queued, len(o.lost) == 0 && o.refusedOrders == 0
}

// passed waits until as many records as a mark counted are acknowledged, and says whether Onhand took all the sales among them.
func (o *outbox) passed(ctx context.Context, queued int64) bool {
	for {
		o.mu.Lock()
		settled, whole, changed := o.settled, o.refusedOrders == 0, o.changed
		o.mu.Unlock()
		if settled >= queued {
			return whole
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (o *outbox) failed(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.retries++
	o.lastErr = err.Error()
}

// errRefused is an answer that no retry changes.
var errRefused = errors.New("refused")

// reportLoop reports one channel's records in order until ctx ends.
func (c *channel) reportLoop(ctx context.Context) {
	var sent time.Time
	for {
		if wait := c.srv.cfg.ReportLinger - time.Since(sent); wait > 0 { // busy: let a batch gather
			if !sleep(ctx, wait) {
				return
			}
		}
		if _, err := c.out.next(ctx, 1); err != nil {
			return
		}
		select {
		case c.srv.reporting <- struct{}{}:
		case <-ctx.Done():
			return
		}
		batch, err := c.out.next(ctx, c.srv.cfg.ReportBatch)
		if err == nil {
			sent = time.Now()
			err = c.deliver(ctx, batch)
		}
		<-c.srv.reporting
		if err != nil {
			return
		}
	}
}

// deliver sends a batch until it is acknowledged. What Onhand refuses for good is halved until the bad record stands alone, and counted.
func (c *channel) deliver(ctx context.Context, batch []report) error {
	backoff := 50 * time.Millisecond
	for {
		rejected, wait, err := c.post(ctx, batch)
		switch {
		case err == nil:
			c.out.done(len(batch), rejected)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errRefused) && len(batch) > 1:
			half := len(batch) / 2
			if err := c.deliver(ctx, batch[:half:half]); err != nil {
				return err
			}
			return c.deliver(ctx, batch[half:])
		case errors.Is(err, errRefused):
			c.out.failed(err)
			c.out.done(1, 1)
			return nil
		}
		c.out.failed(err)
		if wait == 0 {
			wait = time.Duration(rand.Int64N(int64(backoff))) + time.Millisecond
			backoff = min(2*backoff, 5*time.Second)
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// A channel rests when nothing was sold, taken back, read or written there for so long: bounds that were taken before have come into force by then. It goes on
// to say so, but seldom, as each word is a record in every partition.
const (
	restAfter         = 10 * time.Second
	restingWatermarks = 10 * time.Second
)

// watermarkLoop tells Onhand, again and again until ctx ends, up to when it knows all the channel's sales: the channel's own clock, once all that was
// queued by then is acknowledged. A channel that has lost a report says nothing until that is made up for: only a sweep of its order list
// can tell then.
//
// The clock is that of the channel's computer, also where sales are replayed that say they were placed long ago: it is what tells which of them came after a
// write. A channel at which nothing happens says so less often.
func (c *channel) watermarkLoop(ctx context.Context) {
	var last time.Time
	for sleep(ctx, c.srv.cfg.Watermarks) {
		if c.srv.target() == nil {
			continue
		}
		c.mu.Lock() // no sale is between its moment and its report
		at := c.now()
		queued, whole := c.out.mark()
		resting := time.Since(c.active) > restAfter
		c.mu.Unlock()
		if resting && time.Since(last) < restingWatermarks {
			continue
		}
		last = time.Now()
		if !whole || !c.out.passed(ctx, queued) {
			continue
		}
		if err := c.postWatermark(ctx, at); err != nil && ctx.Err() == nil {
			c.out.failed(err)
		}
	}
}

// postWatermark tells Onhand once that it has all sales up to at.
func (c *channel) postWatermark(ctx context.Context, at time.Time) error {
	to := c.srv.target()
	if to == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body := append(at.UTC().AppendFormat([]byte(`{"until":"`), time.RFC3339Nano), '"', '}')
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url+"/v1/channels/"+url.PathEscape(c.id)+"/watermark", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if to.key != "" {
		req.Header.Set("Authorization", "Bearer "+to.key)
	}
	resp, err := c.srv.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("watermark: %s: %s", resp.Status, text)
	}
	c.out.mu.Lock()
	c.out.watermark = at
	c.out.mu.Unlock()
	return nil
}

// ack is what the simulators read of Onhand's answer to a batch.
type ack struct {
	Rejected int `json:"rejected"`
}

// post sends a batch once. It returns how many records Onhand refused for good, and how long Onhand asks to wait.
func (c *channel) post(ctx context.Context, batch []report) (rejected int, wait time.Duration, err error) {
	to := c.srv.target()
	if to == nil {
		return 0, 0, errors.New("no address to report to")
	}
	size := 0
	for _, r := range batch {
		size += len(r.line) + 1
	}
	body := bytes.NewBuffer(make([]byte, 0, size))
	var w io.Writer = body
	var zip *gzip.Writer
	if c.srv.cfg.Gzip {
		zip = gzip.NewWriter(body)
		w = zip
	}
	for _, r := range batch {
		_, _ = w.Write(r.line) // into memory
		_, _ = w.Write([]byte{'\n'})
	}
	if zip != nil {
		_ = zip.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url+batch[0].path, body)
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Prefer", "return=minimal") // the counts are enough
	if zip != nil {
		req.Header.Set("Content-Encoding", "gzip")
	}
	if to.key != "" {
		req.Header.Set("Authorization", "Bearer "+to.key)
	}
	resp, err := c.srv.client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection is used again
		_ = resp.Body.Close()
	}()
	switch {
	case resp.StatusCode/100 == 2:
		var a ack
		_ = json.NewDecoder(io.LimitReader(resp.Body, 8<<20)).Decode(&a) // an answer without counts is an acknowledgement of all
		return min(max(0, a.Rejected), len(batch)), 0, nil
	case resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusConflict ||
		resp.StatusCode == http.StatusRequestEntityTooLarge || resp.StatusCode == http.StatusUnprocessableEntity:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return 0, 0, fmt.Errorf("%w: %s: %s", errRefused, resp.Status, text)
	default:
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			wait = time.Duration(min(s, 60)) * time.Second
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return 0, wait, fmt.Errorf("%s: %s", resp.Status, text)
	}
}

// sleep waits for d and says whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			q, err := json.Marshal(s)
			if err != nil {
				return append(b, `""`...) // strings always marshal
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		t = time.Now()
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':', '"')
	b = t.UTC().AppendFormat(b, "2006-01-02T15:04:05.999999Z07:00")
	return append(b, '"')
}

// appendOrder is the body of POST /v1/orders for the lines that were sold.
func appendOrder(b []byte, channel string, s *Sale, lines []LineResult) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, s.ID)
	b = appendField(b, "channel", channel)
	b = appendTime(b, "placed_at", s.PlacedAt)
	b = appendField(b, "currency", s.Currency)
	b = appendField(b, "customer_ref", s.CustomerRef)
	if len(s.ShipTo) > 0 {
		b = append(b, `,"ship_to":`...)
		b = append(b, bytes.ReplaceAll(s.ShipTo, []byte{'\n'}, []byte{' '})...)
	}
	b = append(b, `,"lines":[`...)
	first := true
	for i := range s.Lines {
		if !lines[i].Sold {
			continue
		}
		l := &s.Lines[i]
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, `{"id":`...)
		b = appendString(b, l.ID)
		b = appendField(b, "sku", l.SKU)
		b = append(b, `,"quantity":`...)
		b = strconv.AppendInt(b, l.Quantity, 10)
		b = appendField(b, "unit_price", l.UnitPrice)
		b = appendField(b, "location", l.Location)
		b = append(b, '}')
	}
	return append(b, ']', '}')
}

func appendCancellation(b []byte, channel string, x *Cancellation) []byte {
	id := x.ID
	if id == "" {
		id = "cancel/" + channel + "/" + x.OrderID + "/" + x.LineID
	}
	b = append(b, `{"id":`...)
	b = appendString(b, id)
	b = append(b, `,"kind":"sale_cancelled"`...)
	b = appendBack(b, channel, x.OrderID, x.LineID, x.SKU, x.Location, x.Quantity)
	if !x.NoRestock {
		b = append(b, `,"restocked_by_channel":true`...)
	}
	b = appendTime(b, "occurred_at", x.OccurredAt)
	return append(b, '}')
}

func appendReturn(b []byte, channel string, x *Return) []byte {
	id := x.ID
	if id == "" {
		id = "return/" + channel + "/" + x.OrderID + "/" + x.LineID
	}
	b = append(b, `{"id":`...)
	b = appendString(b, id)
	b = append(b, `,"kind":"return_received"`...)
	b = appendBack(b, channel, x.OrderID, x.LineID, x.SKU, x.Location, x.Quantity)
	disposition := x.Disposition
	if disposition == "" {
		disposition = "restock"
	}
	b = appendField(b, "disposition", disposition)
	b = appendTime(b, "occurred_at", x.OccurredAt)
	return append(b, '}')
}

func appendBack(b []byte, channel, order, line, sku, location string, quantity int64) []byte {
	b = appendField(b, "channel", channel)
	b = appendField(b, "order_id", order)
	b = appendField(b, "line_id", line)
	b = appendField(b, "sku", sku)
	b = appendField(b, "location", location)
	b = append(b, `,"quantity":`...)
	return strconv.AppendInt(b, quantity, 10)
}
