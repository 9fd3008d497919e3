package ingest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/topics"
)

// channelAPI is a channel's order list: what changed, in order, pages of three.
type channelAPI struct {
	mu    sync.Mutex
	items []listed
	asked []time.Time // since
	fail  int         // of the next requests
	url   string
}

type listed struct {
	at   time.Time
	kind string // orders or events
	text string
}

func newChannelAPI(t *testing.T) *channelAPI {
	a := &channelAPI{}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	a.url = srv.URL
	return a
}

func (a *channelAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := r.URL.Query()
	since, err := time.Parse(time.RFC3339Nano, q.Get("since"))
	if err != nil || r.URL.Path != "/v2/orders" || r.Header.Get("Authorization") != "Bearer sesame" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	if a.fail > 0 {
		a.fail--
		http.Error(w, "slow down", http.StatusTooManyRequests)
		return
	}
	from := 0
	if s := q.Get("after"); s != "" {
		_, _ = fmt.Sscan(s, &from)
	} else {
		a.asked = append(a.asked, since)
	}
	out := map[string]any{}
	of := map[string][]json.RawMessage{}
	n := 0
	for i := from; i < len(a.items); i++ {
		if x := a.items[i]; !x.at.Before(since) {
			if n++; n > 3 {
				out["next"] = fmt.Sprint(i)
				break
			}
			of[x.kind] = append(of[x.kind], json.RawMessage(x.text))
		}
	}
	out["orders"], out["events"] = of["orders"], of["events"]
	_ = json.NewEncoder(w).Encode(out)
}

func (a *channelAPI) add(kind, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.items = append(a.items, listed{time.Now(), kind, text})
}

func sweeping(t *testing.T, a *channelAPI) *rig {
	t.Helper()
	t.Setenv("ONHAND_SECRET_SHOP", "sesame")
	g := start(t, func(c *Config, _ *Deps) {
		c.SweepInterval, c.SweepOverlap, c.AllowPrivateChannels = 20*time.Millisecond, time.Second, true
	})
	catalog := fmt.Sprintf("channels:\n  shop: {adapter: http, base_url: %q, operation: absolute, token_secret: shop, orders_path: /orders, orders_lag_ms: 1}\n", a.url+"/v2")
	if r := g.apply("", catalog); r.status != 200 {
		t.Fatalf("catalog: %d %s", r.status, r.body)
	}
	return g
}

// newest is the oldest of the partitions' newest watermarks of shop, and how many sales each order line has, by id.
func (g *rig) log(t *testing.T) (watermark time.Time, sales map[string]bool, cancelled int) {
	t.Helper()
	var r topics.EventReader
	of := make(map[int32]int64)
	sales = make(map[string]bool)
	ids := make(map[string]bool)
	for _, rec := range g.records(schemas.StockEvents) {
		var e event.Event
		if err := r.Read(rec.Value, &e); err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case event.OrderWatermarkPassed:
			if e.OccurredAt < of[rec.Partition] {
				t.Errorf("partition %d: a watermark goes back", rec.Partition)
			}
			of[rec.Partition] = e.OccurredAt
		case event.SaleRecorded:
			sales[strings.Clone(e.ID)] = true // the ledger counts an id once
		case event.SaleCancelled:
			if !ids[e.ID] {
				cancelled++
			}
			ids[strings.Clone(e.ID)] = true
		}
	}
	if len(of) < 4 {
		return time.Time{}, sales, cancelled
	}
	oldest := int64(1 << 62)
	for _, at := range of {
		oldest = min(oldest, at)
	}
	return time.UnixMicro(oldest), sales, cancelled
}

// TestSweepRecoversLostWebhooks drops webhooks at random and sends others twice, over a channel that fails now and then. After a sweep every order is in the log
// under its one id, and the watermark has passed all of them; no watermark is ahead of an order that is missing.
func TestSweepRecoversLostWebhooks(t *testing.T) {
	a := newChannelAPI(t)
	g := sweeping(t, a)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		o := orderJSON(fmt.Sprint("o", i), line("1", "MUG", 1), line("2", fmt.Sprint("SKU-", i%7), 2))
		a.add("orders", o)
		for range rng.IntN(3) { // lost, sent, sent twice
			if r := g.post("/v1/orders", o); r.status != 202 {
				t.Fatalf("%d %s", r.status, r.body)
			}
		}
		if i%10 == 5 {
			a.mu.Lock()
			a.fail = 2
			a.mu.Unlock()
			a.add("events", fmt.Sprintf(`{"id":"cancel/shop/o%d/1","kind":"sale_cancelled","sku":"MUG","quantity":1,"channel":"shop","order_id":"o%d","line_id":"1","occurred_at":"2026-02-03T10:16:00Z","restocked_by_channel":true}`, i, i))
		}
	}
	all := time.Now()
	g.eventually("swept", func() bool {
		at, sales, cancelled := g.log(t)
		if at.After(all) && (len(sales) != 80 || cancelled != 4) {
			t.Fatalf("the watermark is at %v with %d sales and %d cancellations", at, len(sales), cancelled)
		}
		return at.After(all)
	})
	if n := len(g.rejected()); n != 0 {
		t.Errorf("%d items rejected", n)
	}
}

// TestSweepDoesNotPassWhatItCannotTakeIn holds the watermark back for as long as the list has an order that is not valid, or another channel's, and keeps each
// in stock.rejected once.
func TestSweepDoesNotPassWhatItCannotTakeIn(t *testing.T) {
	a := newChannelAPI(t)
	g := sweeping(t, a)
	g.eventually("first watermark", func() bool { at, _, _ := g.log(t); return !at.IsZero() })
	a.add("orders", `{"id":"bad","channel":"shop"}`)
	a.add("orders", strings.Replace(orderJSON("other"), `"channel":"shop"`, `"channel":"amz"`, 1))
	a.add("orders", orderJSON("good"))
	bad := time.Now()
	g.eventually("the good one taken in", func() bool { _, sales, _ := g.log(t); return len(sales) == 1 })
	rounds := func() int { a.mu.Lock(); defer a.mu.Unlock(); return len(a.asked) }
	from := rounds()
	g.eventually("more sweeps", func() bool { return rounds() > from+3 })
	if at, _, _ := g.log(t); at.After(bad) {
		t.Errorf("the watermark is at %v, after an order of %v that is not in", at, bad)
	}
	if kept := g.rejected(); len(kept) != 2 {
		t.Errorf("%d rejected records", len(kept))
	}
	a.mu.Lock()
	a.items = a.items[2:]
	a.mu.Unlock()
	g.eventually("watermark after the mend", func() bool { at, _, _ := g.log(t); return at.After(bad) })
}

// TestSweepGoesOnWhereTheLedgerStands has a new instance ask from the watermark that channel.watermarks holds in every partition.
func TestSweepGoesOnWhereTheLedgerStands(t *testing.T) {
	stood := time.Now().Add(-3 * time.Hour).Truncate(time.Second)
	a := newChannelAPI(t)
	t.Setenv("ONHAND_SECRET_SHOP", "sesame")
	g := start(t, func(c *Config, d *Deps) {
		c.SweepInterval, c.SweepOverlap, c.AllowPrivateChannels = 20*time.Millisecond, time.Minute, true
		client, err := d.Kafka.Client(d.Telemetry.Log, "test")
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for p := range int32(4) {
			m := order.Watermark{Channel: "shop", Until: stood.Add(time.Duration(p) * time.Minute).UnixMicro()}
			r := topics.Record(schemas.ChannelWatermarks, m.Channel, d.Codec.AppendWatermark(nil, &m))
			kafka.ToPartition(r, p)
			if err := client.ProduceSync(t.Context(), []*kgo.Record{r}...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	})
	catalog := fmt.Sprintf("channels:\n  shop: {adapter: http, base_url: %q, operation: absolute, token_secret: shop, orders_path: /orders}\n", a.url+"/v2")
	if r := g.apply("", catalog); r.status != 200 {
		t.Fatalf("catalog: %d %s", r.status, r.body)
	}
	g.eventually("asked twice", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.asked) >= 2 })
	a.mu.Lock()
	defer a.mu.Unlock()
	if want := stood.Add(-time.Minute); !a.asked[0].Equal(want) {
		t.Errorf("asked from %v, want %v", a.asked[0], want)
	}
	if at := time.Since(a.asked[1]); at > 3*time.Minute {
		t.Errorf("asked again from %v ago", at)
	}
}

// TestSweepStaysOutOfPrivateNetworks: a name that leads inside is found out when it is connected to.
func TestSweepStaysOutOfPrivateNetworks(t *testing.T) {
	a := newChannelAPI(t)
	g := sweeping(t, a)
	g.eventually("asked", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.asked) > 0 })
	w := newSweeper(&Service{cfg: DefaultConfig()})
	ch := *g.view.Settings().Channels["shop"]
	if _, err := w.ask(t.Context(), &ch, "sesame", time.Now(), ""); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("an address of this machine: %v", err)
	}
}
