package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/outgoing"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/secret"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/topics"
)

const (
	sourceSweep    = "sweep"
	defaultListLag = 30 * time.Second // of a channel that names none
	sweepTimeout   = 30 * time.Second // of one page, unless the channel names a time-out
	sweepPage      = 500              // changes asked for at once
	maxSweepPages  = 10_000
	maxSweepBody   = 16 << 20
)

// sweeper asks channels for the orders that changed since it last asked, so that what a webhook lost comes in all the same, and then moves the
// channel's watermark. One instance of a group sweeps: the one that has partition 0 of orders.in.
type sweeper struct {
	s       *Service
	client  *http.Client
	secrets *secret.Store

	mu     sync.Mutex
	mine   bool
	since  map[string]time.Time       // by channel: its orders are known up to here, by its own clock; nil until channel.watermarks was read
	failed map[string]string          // by channel: what went wrong last
	kept   map[string]map[uint64]bool // by channel: items of its list, by hash, that are in stock.rejected already
}

func newSweeper(s *Service) *sweeper {
	return &sweeper{s: s, client: outgoing.Client(s.cfg.AllowPrivateChannels), secrets: &secret.Store{Dir: s.cfg.SecretsDir}, failed: make(map[string]string),
		kept: make(map[string]map[uint64]bool)}
}

// own says whether this instance is the one that sweeps. One that begins to finds out anew where the channels stand.
func (w *sweeper) own(mine bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mine = mine; !mine {
		w.since = nil
	}
}

// run sweeps each channel that has an order list, again and again until ctx ends. Channels are swept at once, and each waits for itself alone.
func (w *sweeper) run(ctx context.Context) {
	defer w.client.CloseIdleConnections()
	tick := time.NewTicker(w.s.cfg.SweepInterval)
	defer tick.Stop()
	for {
		if err := w.round(ctx); err != nil && ctx.Err() == nil {
			w.s.tel.Log.Warn("order lists are not swept", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round sweeps every channel once.
func (w *sweeper) round(ctx context.Context) error {
	if err := w.s.deps.Catalog.WaitReady(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	mine, known := w.mine, w.since != nil
	w.mu.Unlock()
	if !mine {
		return nil
	}
	if !known {
		since, err := w.inForce(ctx)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.mine {
			w.since = since
		}
		w.mu.Unlock()
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, ch := range w.s.deps.Catalog.Settings().Channels {
		if ch.OrdersPath == "" {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			err := w.sweep(ctx, ch)
			if ctx.Err() != nil {
				return
			}
			w.told(ctx, ch.ID, err)
		})
	}
	wg.Wait()
	return nil
}

// told counts a sweep, and logs a failure once for as long as it stays the same.
func (w *sweeper) told(ctx context.Context, channel string, err error) {
	outcome, what := "done", ""
	if err != nil {
		outcome, what = "failed", err.Error()
	}
	w.s.metrics.sweeps.Add(ctx, 1, metric.WithAttributes(attribute.String("channel", channel), attribute.String("outcome", outcome)))
	w.mu.Lock()
	before := w.failed[channel]
	w.failed[channel] = what
	w.mu.Unlock()
	switch {
	case what != "" && what != before:
		w.s.tel.Log.Warn("order list not swept: the channel's watermark stays where it is", "channel", channel, "err", err)
	case what == "" && before != "":
		w.s.tel.Log.Info("order list swept again", "channel", channel)
	}
}

// inForce is each channel's watermark as the ledger has passed it on: the oldest of its partitions, and none where one has none. This is the cursor
// of the sweeps that outlives a restart.
func (w *sweeper) inForce(ctx context.Context) (map[string]time.Time, error) {
	n, err := w.s.partitions(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]int32, n)
	for p := range n {
		all[p] = p
	}
	until := make(map[string]map[int32]int64)
	_, err = kafka.Committed(ctx, w.s.producer, map[string][]int32{schemas.ChannelWatermarks: all}, kadm.Offsets(nil), func(r *kgo.Record) {
		m, err := topics.DecodeWatermark(r.Value)
		if err != nil {
			return // it then counts as none: the sweep reaches further back
		}
		if until[m.Channel] == nil {
			until[m.Channel] = make(map[int32]int64)
		}
		until[m.Channel][r.Partition] = max(until[m.Channel][r.Partition], m.Until)
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", schemas.ChannelWatermarks, err)
	}
	out := make(map[string]time.Time)
	for channel, of := range until {
		if len(of) < int(n) {
			continue
		}
		oldest := time.Now().Add(watermarkAhead).UnixMicro()
		for _, at := range of {
			oldest = min(oldest, at)
		}
		out[channel] = time.UnixMicro(oldest).UTC()
	}
	return out, nil
}

// page is one page of a channel's order list.
type page struct {
	Orders []json.RawMessage `json:"orders"` // as POST /v1/orders takes them
	Events []json.RawMessage `json:"events"` // cancellations and returns of orders, as POST /v1/events takes them
	Next   string            `json:"next"`   // the after of the next page; empty on the last
}

// errNotTaken reports changes that the list holds and Onhand cannot take in: as long as it holds them, units may be sold that nobody knows of.
var errNotTaken = errors.New("the list holds orders or events that are not valid: see stock.rejected")

// sweep takes in all that a channel's order list has since the last sweep, and some time before, and then moves the channel's watermark to when the
// sweep began, less the list's lag.
func (w *sweeper) sweep(ctx context.Context, ch *catalog.Channel) error {
	began := time.Now()
	lag := defaultListLag
	if ch.OrdersLagMS > 0 {
		lag = time.Duration(ch.OrdersLagMS) * time.Millisecond
	}
	until := began.Add(-lag)
	w.mu.Lock()
	since, known := w.since[ch.ID]
	w.mu.Unlock()
	if !known {
		since = until.Add(-w.s.cfg.SweepReach)
	}
	since = since.Add(-w.s.cfg.SweepOverlap)
	token := ""
	if ch.TokenSecret != "" {
		var err error
		if token, err = w.secrets.Get(ch.TokenSecret); err != nil {
			return err
		}
	}
	w.mu.Lock()
	before := w.kept[ch.ID]
	w.mu.Unlock()
	kept := make(map[uint64]bool)
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.kept[ch.ID] = kept
	}()
	refused, after := 0, ""
	for n := 0; ; n++ {
		if n == maxSweepPages {
			return fmt.Errorf("the list goes on after %d pages", n)
		}
		p, err := w.ask(ctx, ch, token, since, after)
		if err != nil {
			return err
		}
		for _, in := range []struct {
			items []json.RawMessage
			read  func(*call, string, int) (unit, *problem.Details)
			path  string
		}{{p.Orders, readOrder, "/v1/orders"}, {p.Events, readEvent, "/v1/events"}} {
			bad, err := w.take(ctx, ch.ID, in.items, in.read, in.path, before, kept)
			if err != nil {
				return err
			}
			refused += bad
		}
		if p.Next == "" {
			break
		}
		if p.Next == after {
			return fmt.Errorf("the list's next page is the same page again: %.64q", after)
		}
		after = p.Next
	}
	if refused > 0 {
		return fmt.Errorf("%d of them: %w", refused, errNotTaken)
	}
	ctx, cancel := context.WithTimeout(ctx, w.s.cfg.AckTimeout)
	defer cancel()
	if _, _, err := w.s.passWatermark(ctx, ch.ID, until.UnixMicro(), sourceSweep); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since != nil {
		w.since[ch.ID] = until
	}
	return nil
}

// take feeds items through the intake of orders or events, and says how many were refused. A channel speaks of its own orders alone. What was refused
// in an earlier sweep (before) is not kept in stock.rejected again.
func (w *sweeper) take(ctx context.Context, channel string, items []json.RawMessage, read func(*call, string, int) (unit, *problem.Details), path string,
	before, kept map[uint64]bool) (refused int, err error) {
	if len(items) == 0 {
		return 0, nil
	}
	s := w.s
	c := &call{s: s, source: sourceSweep, path: path, who: "sweep of " + channel, lim: s.limits(), failedOnly: true, seen: newRecent()}
	c.read = func(c *call, src string, i int) (unit, *problem.Details) {
		u, fault := read(c, src, i)
		if fault == nil && u.channel != channel {
			fault = invalid([]problem.Field{{Pointer: "/channel", Code: "invalid", Detail: fmt.Sprintf("the order list of channel %q speaks of channel %q: a channel reports its own orders alone", channel, u.channel)}})
		}
		if fault != nil {
			sum := maphash.String(s.seed, src)
			c.keep, kept[sum] = !before[sum] && !kept[sum], true
		}
		return u, fault
	}
	for len(items) > 0 {
		n := min(len(items), chunkItems)
		texts := make([]string, n)
		for i := range texts {
			texts[i] = string(items[i])
		}
		if err := c.process(ctx, texts); err != nil {
			return 0, err
		}
		items = items[n:]
	}
	return c.receipt.Rejected, nil
}

// ask fetches one page.
func (w *sweeper) ask(ctx context.Context, ch *catalog.Channel, token string, since time.Time, after string) (*page, error) {
	timeout := sweepTimeout
	if ch.TimeoutMS > 0 {
		timeout = time.Duration(ch.TimeoutMS) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	q := url.Values{"since": {since.UTC().Format(time.RFC3339Nano)}, "limit": {fmt.Sprint(sweepPage)}}
	if after != "" {
		q.Set("after", after)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(ch.BaseURL, "/")+ch.OrdersPath+"?"+q.Encode(), nil)
	if err != nil {
		return nil, errors.New("orders_path and base_url make no address")
	}
	req.Header.Set("Accept", jsonBody)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for orders: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSweepBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read orders: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("ask for orders: the channel answers %s", resp.Status)
	case len(body) > maxSweepBody:
		return nil, fmt.Errorf("a page of the order list has more than %d bytes", maxSweepBody)
	}
	var p page
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, fmt.Errorf("the order list is not what it should be ({\"orders\": […], \"events\": […], \"next\": \"…\"}): %w", err)
	}
	return &p, nil
}
