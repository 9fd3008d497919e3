package marketplace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	maxInventoryBody = 8 << 20
	maxSalesBody     = 256 << 20
	maxPage          = 1000
)

// Handler serves the API of all channels.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	route := func(pattern string, f func(*channel, http.ResponseWriter, *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !s.authorised(r) {
				w.Header().Set("WWW-Authenticate", "Bearer")
				problem(w, http.StatusUnauthorized, "unauthorized", "bring the account's bearer token")
				return
			}
			c, err := s.channel(r.PathValue("ch"))
			if err != nil {
				problem(w, http.StatusNotFound, "unknown_channel", err.Error())
				return
			}
			f(c, w, r)
		})
	}
	route("POST /channels/{ch}/inventory", (*channel).postInventory)
	route("GET /channels/{ch}/inventory", (*channel).getInventory)
	route("GET /channels/{ch}/orders", (*channel).getOrders)
	route("POST /channels/{ch}/sales", (*channel).postSales)
	route("POST /channels/{ch}/cancellations", (*channel).postCancellations)
	route("POST /channels/{ch}/returns", (*channel).postReturns)
	route("POST /channels/{ch}/redeliveries", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]int{"redelivered": c.out.redeliver()})
	})
	route("GET /channels/{ch}/stats", func(c *channel, w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, c.snapshot()) })
	route("PUT /channels/{ch}/faults", func(c *channel, w http.ResponseWriter, r *http.Request) {
		var f Faults
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil {
			problem(w, http.StatusBadRequest, "malformed", err.Error())
			return
		}
		if err := c.setFaults(f); err != nil {
			problem(w, http.StatusUnprocessableEntity, "invalid", err.Error())
			return
		}
		reply(w, http.StatusOK, f)
	})
	mux.HandleFunc("GET /channels", func(w http.ResponseWriter, r *http.Request) {
		if !s.authorised(r) {
			problem(w, http.StatusUnauthorized, "unauthorized", "bring the account's bearer token")
			return
		}
		reply(w, http.StatusOK, map[string]any{"channels": s.Stats()})
	})
	return mux
}

func (s *Server) authorised(r *http.Request) bool {
	return s.cfg.Token == "" || subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.cfg.Token)) == 1
}

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		problem(w, http.StatusInternalServerError, "internal", err.Error())
		return
	}
	answerBytes(w, status, b)
}

func answerBytes(w http.ResponseWriter, status int, b []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client has gone
}

func problem(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "message": message}) // the client has gone
}

// plan is what chance decided for one request.
type plan struct {
	delay      time.Duration
	status     int // 0 answers properly
	applied    bool
	hold       bool
	late       bool
	holdFor    time.Duration
	running    context.Context // ends when the server stops
	retryAfter int
}

func (c *channel) plan() plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.faults
	var p plan
	if *f == (Faults{}) {
		return p
	}
	chance := func(rate float64) bool { return rate > 0 && c.rng.Float64() < rate }
	ms := f.LatencyMS
	if f.JitterMS > 0 {
		ms += c.rng.ExpFloat64() * f.JitterMS
	}
	if chance(f.SlowRate) {
		ms += f.SlowMS
	}
	p.delay = time.Duration(ms * float64(time.Millisecond))
	p.retryAfter, p.running = max(1, f.RetryAfterS), c.srv.loops
	p.holdFor = 30 * time.Second
	if f.HoldMS > 0 {
		p.holdFor = time.Duration(f.HoldMS * float64(time.Millisecond))
	}
	switch {
	case f.Outage:
		p.status = http.StatusServiceUnavailable
	case c.limit != nil && !c.limit.Allow():
		p.status = http.StatusTooManyRequests
		p.delay = 0
	case chance(f.ThrottleRate):
		p.status = http.StatusTooManyRequests
	case chance(f.UnavailableRate):
		p.status = http.StatusServiceUnavailable
	case chance(f.ErrorRate):
		p.status = http.StatusInternalServerError
	case chance(f.ErrorAppliedRate):
		p.status, p.applied = http.StatusInternalServerError, true
	case chance(f.TimeoutRate):
		p.hold = true
		x := c.rng.Float64()
		p.applied = x < f.TimeoutApplied
		p.late = !p.applied && x < f.TimeoutApplied+f.TimeoutLate
	}
	if p.status != 0 || p.hold {
		c.stats.FaultsGiven++
	}
	return p
}

// fail answers as p says and returns true, or returns false when the request is to be answered properly. apply does the work of the request.
func (p plan) fail(w http.ResponseWriter, r *http.Request, apply func()) bool {
	if p.delay > 0 && !sleep(r.Context(), p.delay) {
		return true
	}
	if p.applied {
		apply()
	}
	if p.hold {
		ctx := r.Context()
		if p.late {
			ctx = p.running // it is applied whether or not the caller still waits
		}
		_ = sleep(ctx, p.holdFor)
		if p.late {
			apply()
		}
		panic(http.ErrAbortHandler) // the connection breaks without an answer
	}
	switch p.status {
	case 0:
		return false
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(p.retryAfter))
		problem(w, p.status, "throttled", "too many requests for this account")
	default:
		problem(w, p.status, "unavailable", "the channel is having difficulties")
	}
	return true
}

type inventoryRequest struct {
	IdempotencyKey string  `json:"idempotency_key"`
	Items          []Write `json:"items"`
}

func (c *channel) postInventory(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxInventoryBody))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "too_large", err.Error())
		return
	}
	p := c.plan()
	var req inventoryRequest
	if err := json.Unmarshal(body, &req); err != nil {
		problem(w, http.StatusBadRequest, "malformed", err.Error())
		return
	}
	if len(req.Items) == 0 || len(req.Items) > c.srv.cfg.BatchLimit {
		problem(w, http.StatusUnprocessableEntity, "batch_size", fmt.Sprintf("%d items: want 1 to %d", len(req.Items), c.srv.cfg.BatchLimit))
		return
	}
	if req.IdempotencyKey == "" {
		req.IdempotencyKey = r.Header.Get("Idempotency-Key")
	}
	var status int
	var out []byte
	apply := func() { status, out = c.apply(&req, body) }
	if p.fail(w, r, apply) {
		return
	}
	apply()
	answerBytes(w, status, out)
}

// apply does an inventory request, once per idempotency key.
func (c *channel) apply(req *inventoryRequest, body []byte) (int, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := hash(string(body))
	if req.IdempotencyKey != "" {
		if a, ok := c.answers.get(req.IdempotencyKey); ok {
			if a.asked != asked {
				return http.StatusConflict, []byte(`{"code":"idempotency_mismatch","message":"this key came with other items before"}`)
			}
			return http.StatusMultiStatus, a.body
		}
	}
	c.active = time.Now()
	c.stats.WriteRequests++
	results := c.write(make([]WriteResult, 0, len(req.Items)), req.Items)
	out := make([]byte, 0, 64*len(results)+16)
	out = append(out, `{"items":[`...)
	for i := range results {
		x := &results[i]
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"sku":`...)
		out = appendString(out, x.SKU)
		out = appendField(out, "status", x.Status)
		out = appendField(out, "code", x.Code)
		out = appendField(out, "message", x.Message)
		out = append(out, `,"shown":`...)
		out = strconv.AppendInt(out, x.Shown, 10)
		out = append(out, '}')
	}
	out = append(out, ']', '}')
	if req.IdempotencyKey != "" {
		c.answers.put(req.IdempotencyKey, asked, out)
	}
	return http.StatusMultiStatus, out
}

type shownItem struct {
	SKU    string `json:"sku"`
	Shown  int64  `json:"shown"`
	Listed bool   `json:"listed"`
}

// getInventory reads named SKUs back (sku=…, repeated), or a page of all (limit, after).
func (c *channel) getInventory(w http.ResponseWriter, r *http.Request) {
	p := c.plan()
	if p.fail(w, r, func() {}) {
		return
	}
	q := r.URL.Query()
	out := struct {
		Items []shownItem `json:"items"`
		Next  string      `json:"next,omitempty"` // the after of the next page
	}{Items: []shownItem{}}
	skus := q["sku"]
	if len(skus) > c.srv.cfg.BatchLimit {
		problem(w, http.StatusUnprocessableEntity, "batch_size", fmt.Sprintf("%d SKUs: want up to %d", len(skus), c.srv.cfg.BatchLimit))
		return
	}
	if len(skus) > 0 {
		c.mu.Lock()
		c.active = time.Now()
		for _, sku := range skus {
			v, ok := c.shown[sku]
			out.Items = append(out.Items, shownItem{sku, v, ok})
		}
		c.stats.Reads += int64(len(skus))
		c.mu.Unlock()
		reply(w, http.StatusOK, out)
		return
	}
	limit := maxPage
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			problem(w, http.StatusUnprocessableEntity, "limit", fmt.Sprintf("limit %q: want 1 to %d", s, maxPage))
			return
		}
		limit = n
	}
	after := q.Get("after")
	c.mu.Lock()
	names := slices.Sorted(maps.Keys(c.shown))
	at, found := slices.BinarySearch(names, after)
	if found {
		at++
	}
	for _, sku := range names[at:] {
		if len(out.Items) == limit {
			out.Next = out.Items[limit-1].SKU
			break
		}
		out.Items = append(out.Items, shownItem{sku, c.shown[sku], true})
	}
	c.stats.Reads += int64(len(out.Items))
	c.mu.Unlock()
	reply(w, http.StatusOK, out)
}

// itemAnswer is the answer to one cancellation or return.
type itemAnswer struct {
	OrderID string `json:"order_id"`
	LineID  string `json:"line_id"`
	Status  string `json:"status"` // accepted or refused
	Message string `json:"message,omitempty"`
}

func (c *channel) postSales(w http.ResponseWriter, r *http.Request) {
	out := struct {
		Sales  []SaleResult `json:"sales"`
		Errors []string     `json:"errors,omitempty"`
	}{Sales: []SaleResult{}}
	err := each(w, r, func(s *Sale) error {
		res, err := c.sell(r.Context(), s)
		if err != nil {
			if r.Context().Err() != nil {
				return err
			}
			out.Errors = append(out.Errors, err.Error())
			return nil
		}
		out.Sales = append(out.Sales, res)
		return nil
	})
	finish(w, err, out)
}

func (c *channel) postCancellations(w http.ResponseWriter, r *http.Request) {
	back(w, r, func(x *Cancellation) (itemAnswer, error) {
		return itemAnswer{OrderID: x.OrderID, LineID: x.LineID}, c.cancel(r.Context(), x)
	})
}

func (c *channel) postReturns(w http.ResponseWriter, r *http.Request) {
	back(w, r, func(x *Return) (itemAnswer, error) {
		return itemAnswer{OrderID: x.OrderID, LineID: x.LineID}, c.giveBack(r.Context(), x)
	})
}

func back[T any](w http.ResponseWriter, r *http.Request, f func(*T) (itemAnswer, error)) {
	out := struct {
		Items []itemAnswer `json:"items"`
	}{Items: []itemAnswer{}}
	err := each(w, r, func(x *T) error {
		a, err := f(x)
		if err != nil && r.Context().Err() != nil {
			return err
		}
		a.Status = "accepted"
		if err != nil {
			a.Status, a.Message = "refused", err.Error()
		}
		out.Items = append(out.Items, a)
		return nil
	})
	finish(w, err, out)
}

// finish answers with what was done, or says why the body could not be read on; what came before the fault in the body is done.
func finish(w http.ResponseWriter, err error, out any) {
	if err != nil {
		problem(w, http.StatusBadRequest, "malformed", err.Error())
		return
	}
	reply(w, http.StatusOK, out)
}

// each reads the body as one object, an array, or one object after another (NDJSON), gzipped or not, and calls f with each.
func each[T any](w http.ResponseWriter, r *http.Request, f func(*T) error) error {
	var body io.Reader = http.MaxBytesReader(w, r.Body, maxSalesBody)
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
	case "gzip":
		zip, err := gzip.NewReader(body)
		if err != nil {
			return fmt.Errorf("gzip: %w", err)
		}
		body = io.LimitReader(zip, maxSalesBody)
	default:
		return fmt.Errorf("content-encoding %q: want gzip or none", enc)
	}
	br := bufio.NewReaderSize(body, 64<<10)
	first, err := firstByte(br)
	if err != nil {
		return err
	}
	d := json.NewDecoder(br)
	if first == '[' {
		if _, err := d.Token(); err != nil {
			return err
		}
	}
	for n := 0; first != '[' || d.More(); n++ {
		x := new(T)
		if err := d.Decode(x); err != nil {
			if errors.Is(err, io.EOF) && first != '[' && n > 0 {
				return nil
			}
			return fmt.Errorf("item %d: %w", n, err)
		}
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

func firstByte(br *bufio.Reader) (byte, error) {
	for {
		b, err := br.Peek(1)
		if err != nil {
			return 0, errors.New("the body is empty")
		}
		if !bytes.ContainsAny(b, " \t\r\n") {
			return b[0], nil
		}
		_, _ = br.ReadByte() // peeked above
	}
}
