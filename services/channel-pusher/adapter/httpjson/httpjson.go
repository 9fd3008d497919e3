// Package httpjson is the generic adapter: JSON batches over HTTP with an answer per item, in all three operations, with idempotency keys and
// read-back. A channel, or a bridge in front of one, that speaks it needs no adapter of its own.
//
//	POST <base>/inventory {"idempotency_key":"…","items":[{"sku":"A","quantity":5},{"id":"…","sku":"B","delta":-2},{"sku":"C","quantity":5,"expected":3}]}
//	207 {"items":[{"sku":"A","status":"applied","shown":5},{"sku":"B","status":"refused","code":"not_listed","message":"…","shown":0}, …]}
//
// A request with a key that was answered before gets the same answer again and changes nothing. So does an item with an id that was applied before, in
// whatever request it comes.
//
//	GET <base>/inventory?sku=A&sku=B → 200 {"items":[{"sku":"A","shown":5,"listed":true}, …]}
package httpjson

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/propagation"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/catalog"
)

const (
	maxBatch    = 1000
	maxQuantity = 1_000_000_000
	maxAnswer   = 8 << 20
	maxReadIDs  = 100 // per read, so that the URL stays short enough for any proxy
)

// Adapter speaks the generic API.
type Adapter struct{ client *http.Client }

// New makes the adapter. The client decides which addresses may be reached.
func New(client *http.Client) *Adapter { return &Adapter{client} }

// Capabilities is all three operations and read-back.
func (*Adapter) Capabilities() adapter.Capabilities {
	return adapter.Capabilities{
		Operations: []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet},
		MaxBatch:   maxBatch, MaxQuantity: maxQuantity, ReadBack: true, ItemIDs: true,
	}
}

// buffer is what one call uses and the next one uses again.
type buffer struct {
	body   []byte
	answer bytes.Buffer
	parsed answer
}

type answer struct {
	Items []answerItem `json:"items"`
}

type answerItem struct {
	SKU     string `json:"sku"`
	Status  string `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Shown   *int64 `json:"shown"`
	Listed  *bool  `json:"listed"`
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Write sends one batch.
func (a *Adapter) Write(ctx context.Context, acc adapter.Account, key string, items []adapter.Item, dst []adapter.ItemResult) ([]adapter.ItemResult, error) {
	b := buffers.Get().(*buffer)
	b.body = appendRequest(b.body[:0], key, items)
	reused, err := a.call(ctx, acc, http.MethodPost, acc.BaseURL+"/inventory", b)
	if reused {
		defer buffers.Put(b)
	}
	if err != nil {
		return dst, err
	}
	if err := b.parse(); err != nil {
		return dst, err
	}
	var byID map[string]*answerItem
	for i := range items {
		var r adapter.ItemResult
		x := b.find(i, items[i].ExternalID, &byID)
		if x != nil {
			r = x.result()
		}
		dst = append(dst, r)
	}
	return dst, nil
}

// find is the answer to item i: by position as channels usually answer, else by name.
func (b *buffer) find(i int, id string, byID *map[string]*answerItem) *answerItem {
	all := b.parsed.Items
	if i < len(all) && all[i].SKU == id {
		return &all[i]
	}
	if *byID == nil {
		*byID = make(map[string]*answerItem, len(all))
		for j := range all {
			(*byID)[all[j].SKU] = &all[j]
		}
	}
	return (*byID)[id]
}

func (x *answerItem) result() adapter.ItemResult {
	r := adapter.ItemResult{Code: strings.Clone(x.Code), Detail: cut(x.Message, 500)}
	if x.Shown != nil {
		r.Shown, r.ShownKnown = *x.Shown, true
	}
	switch {
	case x.Status == "applied":
		r.Verdict, r.Code, r.Detail = adapter.Applied, "", ""
	case x.Status != "refused":
		r.Verdict, r.Detail = adapter.Silent, "status "+strconv.Quote(cut(x.Status, 50))
	case x.Code == "stale":
		r.Verdict = adapter.Stale
	case x.Code == "busy":
		r.Verdict = adapter.Busy
	default:
		r.Verdict = adapter.Refused
	}
	return r
}

// Read reads quantities back.
func (a *Adapter) Read(ctx context.Context, acc adapter.Account, ids []string, dst []adapter.Shown) ([]adapter.Shown, error) {
	for len(ids) > 0 {
		n := min(len(ids), maxReadIDs)
		var err error
		if dst, err = a.read(ctx, acc, ids[:n], dst); err != nil {
			return dst, err
		}
		ids = ids[n:]
	}
	return dst, nil
}

func (a *Adapter) read(ctx context.Context, acc adapter.Account, ids []string, dst []adapter.Shown) ([]adapter.Shown, error) {
	u := append(make([]byte, 0, 64+32*len(ids)), acc.BaseURL...)
	u = append(u, "/inventory"...)
	for i, id := range ids {
		u = append(u, "?&"[min(i, 1)])
		u = append(u, "sku="...)
		u = append(u, url.QueryEscape(id)...)
	}
	b := buffers.Get().(*buffer)
	reused, err := a.call(ctx, acc, http.MethodGet, string(u), b)
	if reused {
		defer buffers.Put(b)
	}
	if err != nil {
		return dst, err
	}
	if err := b.parse(); err != nil {
		return dst, err
	}
	var byID map[string]*answerItem
	for i, id := range ids {
		var s adapter.Shown
		if x := b.find(i, id, &byID); x != nil && x.Shown != nil {
			s = adapter.Shown{Quantity: *x.Shown, Known: true, Listed: x.Listed == nil || *x.Listed}
		}
		dst = append(dst, s)
	}
	return dst, nil
}

func (b *buffer) parse() error {
	clear(b.parsed.Items[:cap(b.parsed.Items)]) // encoding/json keeps what an earlier answer left in reused items
	b.parsed.Items = b.parsed.Items[:0]
	if err := json.Unmarshal(b.answer.Bytes(), &b.parsed); err != nil {
		return &adapter.CallError{Kind: adapter.Uncertain, Detail: "the channel's answer cannot be read", Err: err}
	}
	return nil
}

// call does one request and leaves the body of a good answer in b. It says whether b may be used again: not while the transport may still read it.
func (a *Adapter) call(ctx context.Context, acc adapter.Account, method, to string, b *buffer) (bool, error) {
	var connected atomic.Bool // before that nothing can have been written
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	var body io.Reader
	if method == http.MethodPost {
		body = bytes.NewReader(b.body)
	}
	req, err := http.NewRequestWithContext(traced, method, to, body)
	if err != nil {
		return true, &adapter.CallError{Kind: adapter.Denied, Detail: "base_url of the channel", Err: err}
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if acc.Token != "" {
		req.Header.Set("Authorization", "Bearer "+acc.Token)
	}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	resp, err := a.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the URL adds nothing
		}
		kind := adapter.Uncertain
		if !connected.Load() {
			kind = adapter.NotSent
		}
		return false, &adapter.CallError{Kind: kind, Err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	b.answer.Reset()
	_, err = b.answer.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case resp.StatusCode/100 == 2 && err != nil:
		return false, &adapter.CallError{Kind: adapter.Uncertain, Status: resp.StatusCode, Detail: "the answer broke off", Err: err}
	case resp.StatusCode/100 == 2 && b.answer.Len() > maxAnswer:
		return false, &adapter.CallError{Kind: adapter.Uncertain, Status: resp.StatusCode, Detail: fmt.Sprintf("the answer is longer than %d bytes", maxAnswer)}
	case resp.StatusCode/100 == 2:
		return true, nil
	}
	return true, &adapter.CallError{
		Kind: kindOf(resp.StatusCode), Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()), Detail: detail(b.answer.Bytes()),
	}
}

func kindOf(status int) adapter.Kind {
	switch status {
	case http.StatusTooManyRequests:
		return adapter.Throttled
	case http.StatusServiceUnavailable:
		return adapter.Unavailable
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return adapter.Malformed
	case http.StatusRequestTimeout:
		return adapter.Uncertain
	}
	if status >= 500 {
		return adapter.Uncertain
	}
	return adapter.Denied // other client errors, and redirects, which are not followed
}

// retryAfter reads the header's two forms; at most an hour.
func retryAfter(h string, now time.Time) time.Duration {
	if s, err := strconv.Atoi(h); err == nil {
		return time.Duration(min(max(s, 0), 3600)) * time.Second
	}
	if t, err := http.ParseTime(h); err == nil {
		return min(max(t.Sub(now), 0), time.Hour)
	}
	return 0
}

// detail is the part of an error body that helps people.
func detail(body []byte) string {
	var p struct{ Code, Message, Title, Detail string }
	if json.Unmarshal(body, &p) == nil {
		var parts []string
		for _, s := range []string{p.Code, p.Message, p.Title, p.Detail} {
			if s != "" {
				parts = append(parts, cut(s, 200))
			}
		}
		if len(parts) > 0 {
			return strings.Join(parts, ": ")
		}
	}
	return cut(string(body), 200)
}

func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

func appendRequest(b []byte, key string, items []adapter.Item) []byte {
	b = append(b, '{')
	if key != "" {
		b = append(b, `"idempotency_key":`...)
		b = appendString(b, key)
		b = append(b, ',')
	}
	b = append(b, `"items":[`...)
	for i := range items {
		it := &items[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if it.ID != "" {
			b = append(b, `"id":`...)
			b = appendString(b, it.ID)
			b = append(b, ',')
		}
		b = append(b, `"sku":`...)
		b = appendString(b, it.ExternalID)
		switch it.Operation {
		case catalog.Delta:
			b = append(b, `,"delta":`...)
			b = strconv.AppendInt(b, it.Delta, 10)
		case catalog.CompareAndSet:
			b = append(b, `,"quantity":`...)
			b = strconv.AppendInt(b, it.Quantity, 10)
			b = append(b, `,"expected":`...)
			b = strconv.AppendInt(b, it.Expected, 10)
		default:
			b = append(b, `,"quantity":`...)
			b = strconv.AppendInt(b, it.Quantity, 10)
		}
		b = append(b, '}')
	}
	return append(b, ']', '}')
}

// appendString appends s as JSON; plain ASCII, as nearly all ids are, without encoding/json.
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
