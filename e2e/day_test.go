package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/onhand/onhand/allinone"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/simulators/marketplace"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// The day's catalog. "fba" is seen by amazon only; the brand "scarce" is divided rather than pooled.
const catalogMorning = `
locations:
  - {id: main, kind: warehouse, country: DE}
  - {id: store, kind: store, buffer: 1}
  - {id: fba, kind: fba, channel: amazon}
channels:
  - {id: shop, adapter: http, base_url: "${URL}/channels/shop", operation: absolute, lists_all_skus: true}
  - {id: market, adapter: http, base_url: "${URL}/channels/market", operation: delta, lists_all_skus: true}
  - {id: amazon, adapter: http, base_url: "${URL}/channels/amazon", operation: compare_and_set, locations: [main, fba], lists_all_skus: true}
  - {id: outlet, adapter: http, base_url: "${URL}/channels/outlet", operation: absolute, locations: [store]}
rules:
  - {id: pool, mode: pooled, pool_buffer: 1}
  - {id: market-cap, match: {channel: market}, cap: 60%, buffer: 1}
  - {id: amazon-max, match: {channel: amazon}, max: 25}
  - {id: shop-first, match: {channel: shop}, priority: 1, reserve: 2}
  - {id: scarce, match: {brand: scarce}, mode: waterfall}
  - {id: scarce-amazon, match: {brand: scarce, channel: amazon}, priority: 2, reserve: 3}
  - {id: pause-one, match: {channel: market, sku: SKU-07}, paused: true}
listings:
  - {sku: SKU-01, brand: scarce, channels: [{channel: outlet, external_id: OUT-01}]}
  - {sku: SKU-02, brand: scarce}
  - {sku: SKU-03, brand: scarce}
  - {sku: SKU-04, channels: [{channel: outlet}]}
  - {sku: SKU-05, channels: [{channel: outlet}]}
`

// What is changed in the middle of the day, while everything runs: other rules, and a new channel.
const catalogNoon = `
channels:
  - {id: late, adapter: http, base_url: "${URL}/channels/late", operation: delta, lists_all_skus: true}
rules:
  - {id: market-cap, match: {channel: market}, cap: 80%, buffer: 0}
  - {id: pool, mode: pooled, pool_buffer: 0}
  - {id: scarce, match: {brand: scarce}, mode: fair}
  - {id: pause-one, match: {channel: market, sku: SKU-07}, paused: false}
  - {id: late-buffer, match: {channel: late}, buffer: 2}
`

const skuCount = 30

func skuName(i int) string { return fmt.Sprintf("SKU-%02d", i) }

// day is one run of the script.
type day struct {
	*site
	t       *testing.T
	markets *marketplace.Server
	books   *books
	dawn    time.Time    // all times of the day are seconds after it, long past
	second  atomic.Int64 // of the day
	ids     atomic.Int64
	kafka   *kgo.Client

	mu  sync.Mutex
	bad map[string]bool   // bytes that must be in stock.rejected
	fed map[string][]byte // what feed gave to Kafka, by order
}

func newDay(t *testing.T, s *site) *day {
	t.Helper()
	d := &day{site: s, t: t, books: newBooks(), dawn: time.Now().Add(-24 * time.Hour).Truncate(time.Second), bad: map[string]bool{}, fed: map[string][]byte{}}
	var err error
	d.markets, err = marketplace.New(marketplace.Config{Ingest: s.url(), APIKey: apiKey, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.markets.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := d.markets.Stop(ctx); err != nil {
			t.Errorf("stop of the marketplaces: %v", err)
		}
	})
	d.connect()
	return d
}

// connect makes the day's own Kafka client.
func (d *day) connect() {
	d.t.Helper()
	c, err := d.spec.kafka().Client(d.tel.Log, "e2e")
	if err != nil {
		d.t.Fatal(err)
	}
	if d.kafka != nil {
		d.kafka.Close()
	}
	d.kafka = c
	d.t.Cleanup(c.Close)
}

// tick is the next second of the day.
func (d *day) tick() int64 { return d.second.Add(1) }

func (d *day) clock(second int64) time.Time { return d.dawn.Add(time.Duration(second) * time.Second) }

func (d *day) id(prefix string) string { return fmt.Sprintf("%s-%d", prefix, d.ids.Add(1)) }

// call sends a request until it is answered with something other than "later": Onhand restarts meanwhile.
func (d *day) call(method, path, contentType string, body []byte, header ...string) (int, string) {
	ctx, cancel := context.WithTimeout(d.t.Context(), 3*time.Minute)
	defer cancel()
	for {
		status, text, err := d.once(ctx, method, path, contentType, body, header...)
		if err == nil && status < 500 && status != http.StatusTooManyRequests {
			return status, text
		}
		select {
		case <-ctx.Done():
			d.t.Errorf("%s %s: %d %s %v", method, path, status, text, err)
			return 0, ""
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *day) once(ctx context.Context, method, path, contentType string, body []byte, header ...string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, d.url()+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Authorization", "Bearer "+apiKey)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

func (d *day) apply(text string) {
	d.t.Helper()
	text = strings.ReplaceAll(text, "${URL}", d.markets.URL())
	if status, answer := d.call(http.MethodPut, "/v1/catalog", "application/yaml", []byte(text)); status != http.StatusOK {
		d.t.Fatalf("PUT /v1/catalog: %d %s", status, answer)
	}
}

// fact is one event as the API takes it.
type fact map[string]any

func (d *day) fact(kind, sku, location string, at, quantity int64, more ...any) fact {
	f := fact{"id": d.id(kind), "kind": kind, "sku": sku, "quantity": quantity, "occurred_at": d.clock(at)}
	if location != "" {
		f["location"] = location
	}
	for i := 0; i+1 < len(more); i += 2 {
		f[more[i].(string)] = more[i+1]
	}
	return f
}

// tell sends events, as an array or as a stream, some of them twice.
func (d *day) tell(rng *rand.Rand, facts ...fact) {
	if len(facts) == 0 {
		return
	}
	var body []byte
	contentType := "application/json"
	if rng.IntN(2) == 0 {
		body, _ = json.Marshal(facts)
	} else {
		contentType = "application/x-ndjson"
		for _, f := range facts {
			one, _ := json.Marshal(f)
			body = append(append(body, one...), '\n')
		}
	}
	times := 1
	if rng.IntN(4) == 0 {
		times = 2
	}
	for range times {
		status, answer := d.call(http.MethodPost, "/v1/events", contentType, body)
		var receipt struct{ Accepted, Rejected int }
		if err := json.Unmarshal([]byte(answer), &receipt); status != http.StatusAccepted || err != nil || receipt.Accepted != len(facts) {
			d.t.Errorf("POST /v1/events: %d %s %v\n%s", status, answer, err, body)
		}
	}
}

// open receives the opening stock.
func (d *day) open(rng *rand.Rand) {
	var facts []fact
	receive := func(sku, location string, units int64) {
		at := d.tick()
		facts = append(facts, d.fact("receipt_received", sku, location, at, units, "unit_cost", "3.50", "currency", "EUR"))
		d.books.event(sku)
		d.books.move(sku, location, at, units)
	}
	for i := range skuCount {
		sku := skuName(i)
		receive(sku, "main", 20+rng.Int64N(40))
		receive(sku, "store", 5+rng.Int64N(15))
		if i%2 == 0 {
			receive(sku, "fba", 5+rng.Int64N(20))
		}
		if i%5 == 0 {
			n := 1 + rng.Int64N(3)
			facts = append(facts, d.fact("safety_stock_set", sku, "main", d.tick(), n))
			d.books.event(sku)
			d.books.page(sku).shelf("main").safety = n
		}
	}
	d.tell(rng, facts...)
}

// deliver brings each SKU some units.
func (d *day) deliver(rng *rand.Rand) {
	var facts []fact
	d.books.mu.Lock()
	for i := range skuCount {
		sku, at, units := skuName(i), d.tick(), 30+rng.Int64N(30)
		facts = append(facts, d.fact("receipt_received", sku, "main", at, units))
		d.books.event(sku)
		d.books.move(sku, "main", at, units)
	}
	d.books.mu.Unlock()
	d.tell(rng, facts...)
}

// sell has a customer buy at a marketplace.
func (d *day) sell(rng *rand.Rand, channels []string) {
	ch := channels[rng.IntN(len(channels))]
	sale := marketplace.Sale{ID: d.id("order/" + ch), PlacedAt: d.clock(d.tick()), Currency: "EUR"}
	for i := range 1 + rng.IntN(3) {
		l := marketplace.Line{ID: fmt.Sprint(i + 1), SKU: skuName(rng.IntN(skuCount)), Quantity: 1 + rng.Int64N(2), UnitPrice: "9.90"}
		switch {
		case ch == "outlet": // only three are listed there, one under the outlet's own id, which it never sells
			l.SKU, l.Location = skuName(4+rng.IntN(2)), "store"
		case ch == "amazon" && rng.IntN(3) == 0:
			l.Location = "fba"
		case rng.IntN(2) == 0:
			l.Location = []string{"main", "store"}[rng.IntN(2)]
		}
		sale.Lines = append(sale.Lines, l)
	}
	d.books.mu.Lock()
	defer d.books.mu.Unlock()
	res, err := d.markets.Sell(d.t.Context(), ch, sale)
	if err != nil {
		d.t.Errorf("sale at %s: %v", ch, err)
		return
	}
	for i, l := range res.Lines {
		if l.Sold {
			d.books.sale(ch, sale.ID, l.ID, l.SKU, sale.Lines[i].Location, sale.Lines[i].Quantity)
		}
	}
}

// cancel has a customer call a line off before it ships.
func (d *day) cancel(rng *rand.Rand) {
	d.books.mu.Lock()
	defer d.books.mu.Unlock()
	l := d.books.pick(rng, func(l *line) bool { return l.open > 0 && !l.touched && l.channel != "feed" })
	if l == nil {
		return
	}
	l.touched = true // once a line: the marketplace takes one cancellation
	n := 1 + rng.Int64N(l.open)
	x := marketplace.Cancellation{OrderID: l.order, LineID: l.id, SKU: l.sku, Quantity: n, OccurredAt: d.clock(d.tick()), NoRestock: rng.IntN(3) == 0, Location: l.at}
	if err := d.markets.Cancel(d.t.Context(), l.channel, x); err != nil {
		d.t.Errorf("cancellation: %v", err)
		return
	}
	p := d.books.event(l.sku)
	if !x.NoRestock {
		p.restored[l.channel] += n
	}
	d.books.commit(l, -n)
}

// giveBack has a customer return shipped units.
func (d *day) giveBack(rng *rand.Rand) {
	d.books.mu.Lock()
	defer d.books.mu.Unlock()
	l := d.books.pick(rng, func(l *line) bool { return l.shipped > 0 && l.channel != "feed" })
	if l == nil {
		return
	}
	n := 1 + rng.Int64N(l.shipped)
	l.shipped = 0 // once a line
	at := d.tick()
	x := marketplace.Return{OrderID: l.order, LineID: l.id, SKU: l.sku, Quantity: n, OccurredAt: d.clock(at), Location: "main",
		Disposition: []string{"restock", "refurbish", "quarantine", "scrap"}[rng.IntN(4)]}
	if err := d.markets.Return(d.t.Context(), l.channel, x); err != nil {
		d.t.Errorf("return: %v", err)
		return
	}
	d.books.event(l.sku)
	switch x.Disposition {
	case "restock":
		d.books.move(l.sku, "main", at, n)
	case "refurbish", "quarantine":
		d.books.page(l.sku).shelf("main").unsellable += n
	}
}

// backOffice does one thing that the brand's own systems do. It waits for Onhand's answer.
func (d *day) backOffice(rng *rand.Rand) {
	sku, at := skuName(rng.IntN(skuCount)), d.tick()
	location := []string{"main", "store"}[rng.IntN(2)]
	var facts []fact
	d.books.mu.Lock()
	b := d.books
	switch rng.IntN(9) {
	case 0: // ship a line, from where it was sold or is assigned to
		l := b.pick(rng, func(l *line) bool { return l.open > 0 })
		if l == nil {
			break
		}
		n := l.open
		if l.at == "" {
			facts = append(facts, d.fact("sale_assigned", l.sku, location, at, n, "channel", l.channel, "order_id", l.order, "line_id", l.id))
			b.event(l.sku)
			b.commit(l, -n)
			l.at = location
			b.commit(l, n)
		}
		l.touched = true
		facts = append(facts, d.fact("shipment_confirmed", l.sku, l.at, at, n, "channel", l.channel, "order_id", l.order, "line_id", l.id))
		b.event(l.sku)
		b.move(l.sku, l.at, at, -n)
		b.commit(l, -n)
		l.shipped += n
	case 1: // order at a supplier
		ref, n := d.id("po"), 5+rng.Int64N(20)
		facts = append(facts, d.fact("inbound_expected", sku, location, at, n, "reference", ref))
		b.event(sku)
		b.expects[ref] = &expect{sku, location, n}
		b.page(sku).shelf(location).inbound += n
	case 2, 3: // receive a part, the whole or more, or hear that nothing comes
		for ref, x := range b.expects {
			if x.left <= 0 || strings.HasPrefix(ref, "tr") {
				continue
			}
			n := 1 + rng.Int64N(x.left+2)
			kind := "receipt_received"
			if rng.IntN(5) == 0 {
				kind, n = "inbound_cancelled", x.left
			} else {
				b.move(x.sku, x.location, at, n)
			}
			facts = append(facts, d.fact(kind, x.sku, x.location, at, n, "reference", ref))
			b.event(x.sku)
			b.page(x.sku).shelf(x.location).inbound -= min(n, x.left)
			x.left -= n
			break
		}
	case 4: // found, or lost
		n := rng.Int64N(4) - 4
		if rng.IntN(2) == 0 {
			n = 1 + rng.Int64N(4)
		}
		facts = append(facts, d.fact("stock_adjusted", sku, location, at, n, "reason", "found or lost"))
		b.event(sku)
		b.move(sku, location, at, n)
	case 5: // a count of some time ago, which what moved since must correct
		asOf, n := at-rng.Int64N(60), rng.Int64N(40)
		facts = append(facts, d.fact("stock_counted", sku, location, at, n, "as_of", d.clock(asOf)))
		b.event(sku)
		if s := b.page(sku).shelf(location); s.count == nil || asOf >= s.count.at {
			s.count = &moved{asOf, n}
		}
	case 6: // bring some to the store, or find that they have come
		for ref, x := range b.expects {
			if x.left > 0 && strings.HasPrefix(ref, "tr") && rng.IntN(2) == 0 {
				facts = append(facts, d.fact("transfer_received", x.sku, x.location, at, x.left, "reference", ref))
				b.event(x.sku)
				b.move(x.sku, x.location, at, x.left)
				b.page(x.sku).shelf(x.location).inbound -= x.left
				x.left = 0
				break
			}
		}
		if facts == nil {
			ref, n := d.id("tr"), 1+rng.Int64N(4)
			facts = append(facts, d.fact("transfer_shipped", sku, "main", at, n, "to_location", "store", "reference", ref))
			b.event(sku)
			b.move(sku, "main", at, -n)
			b.expects[ref] = &expect{sku, "store", n}
			b.page(sku).shelf("store").inbound += n
		}
	case 7: // keep some for somebody
		id, n := d.id("hold"), 1+rng.Int64N(3)
		facts = append(facts, d.fact("reservation_placed", sku, location, at, n, "reservation_id", id, "expires_at", d.clock(at+3600)))
		b.event(sku)
		b.holds[id] = &hold{sku, location, n}
		b.page(sku).shelf(location).held += n
	case 8: // or no longer
		for id, h := range b.holds {
			if h.left <= 0 {
				continue
			}
			n := 1 + rng.Int64N(h.left)
			facts = append(facts, d.fact("reservation_released", h.sku, h.location, at, n, "reservation_id", id))
			b.event(h.sku)
			b.page(h.sku).shelf(h.location).held -= n
			h.left -= n
			break
		}
	}
	d.books.mu.Unlock()
	d.tell(rng, facts...)
}

// feed gives an order to Kafka, as brands do that have one; sometimes twice.
func (d *day) feed(rng *rand.Rand) {
	order, sku, n := d.id("feed"), skuName(rng.IntN(skuCount)), 1+rng.Int64N(2)
	value, _ := json.Marshal(map[string]any{"id": order, "channel": "feed", "placed_at": d.clock(d.tick()), "currency": "EUR",
		"lines": []any{map[string]any{"id": "1", "sku": sku, "quantity": n, "unit_price": "4.20", "location": "main"}}})
	d.books.mu.Lock()
	d.books.sale("feed", order, "1", sku, "main", n)
	d.fed[order] = value
	d.books.mu.Unlock()
	for range 1 + rng.IntN(2) {
		d.produce(schemas.OrdersIn, order, value)
	}
}

func (d *day) produce(topic, key string, value []byte) {
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	if err := d.kafka.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		d.t.Errorf("produce to %s: %v", topic, err)
	}
}

// mishaps sends what cannot be used, in every way in.
func (d *day) mishaps() {
	refused := func(path, contentType, body string, want int, bad ...string) {
		d.t.Helper()
		if status, answer := d.call(http.MethodPost, path, contentType, []byte(body)); status != want {
			d.t.Errorf("POST %s of bad input: %d %s, want %d", path, status, answer, want)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, b := range bad {
			d.bad[b] = true
		}
	}
	at := d.clock(d.tick()).Format(time.RFC3339)
	good := fmt.Sprintf(`{"id":"good-1","kind":"stock_adjusted","sku":"SKU-00","quantity":2,"occurred_at":%q,"location":"main","reason":"x"}`, at)
	lame := fmt.Sprintf(`{"id":"bad-1","kind":"stock_vanished","sku":"SKU-00","quantity":2,"occurred_at":%q,"location":"main"}`, at)
	d.books.mu.Lock()
	d.books.event("SKU-00")
	d.books.move("SKU-00", "main", d.second.Load(), 2)
	d.books.mu.Unlock()
	refused("/v1/events", "application/json", "["+good+","+lame+"]", http.StatusAccepted, lame)
	torn := `{"id":"bad-2","kind":"stock_adj`
	refused("/v1/events", "application/x-ndjson", good+"\n"+torn+"\n", http.StatusAccepted, torn)
	// Alone, it is the sender's to keep.
	refused("/v1/orders", "application/json", `{"id":"bad-3","channel":"shop"}`, http.StatusUnprocessableEntity)
	refused("/v1/orders", "text/plain", `hello`, http.StatusUnsupportedMediaType)

	keep := func(topic string, value []byte) {
		d.produce(topic, "SKU-00", value)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.bad[string(value)] = true
	}
	keep(schemas.OrdersIn, []byte("\x00\xff no order"))
	keep(schemas.OrdersIn, []byte(`{"id":"bad-4","channel":"feed","lines":[]}`))
	keep(schemas.StockEvents, []byte("\xff\xff\xff no event"))
	codec, err := topics.NewCodec(d.t.Context(), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	keep(schemas.StockEvents, codec.AppendEvent(nil, &event.Event{ID: "bad-5", SKU: "SKU-00", Kind: event.SaleRecorded, Quantity: 0, Channel: "shop", OrderID: "x", ReceivedAt: d.dawn.UnixMicro()}))
}

// repeat sends an event without an id twice under one idempotency key.
func (d *day) repeat() {
	at := d.tick()
	body, _ := json.Marshal(fact{"kind": "stock_adjusted", "sku": "SKU-01", "quantity": 3, "occurred_at": d.clock(at), "location": "store", "reason": "x"})
	d.books.mu.Lock()
	d.books.event("SKU-01")
	d.books.move("SKU-01", "store", at, 3)
	d.books.mu.Unlock()
	for range 2 {
		if status, answer := d.call(http.MethodPost, "/v1/events", "application/json", body, "Idempotency-Key", "once-only"); status != http.StatusAccepted {
			d.t.Errorf("POST with an idempotency key: %d %s", status, answer)
		}
	}
}

// world lets customers and the back office act until the work is done and at least a number of sales were tried.
func (d *day) world(seed uint64, channels []string, least int, work func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if work != nil {
			work()
		}
	}()
	var wg sync.WaitGroup
	over := make(chan struct{})
	act := func(seed uint64, every time.Duration, most int, one func(*rand.Rand)) { // most: a slow machine has no longer day

		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 1))
			pace := time.NewTicker(every)
			defer pace.Stop()
			for range most {
				select {
				case <-over:
					return
				case <-d.t.Context().Done():
					return
				case <-pace.C:
					one(rng)
				}
			}
		})
	}
	var tried atomic.Int64
	enough := make(chan struct{})
	act(seed, 4*time.Millisecond, 10*least, func(rng *rand.Rand) {
		switch rng.IntN(10) {
		case 0:
			d.cancel(rng)
		case 1:
			d.giveBack(rng)
		default:
			d.sell(rng, channels)
			if tried.Add(1) == int64(least) {
				close(enough)
			}
		}
	})
	act(seed+1, 10*time.Millisecond, 2*least, d.backOffice)
	act(seed+2, 50*time.Millisecond, 60, d.feed)
	<-done
	select {
	case <-enough:
	case <-d.t.Context().Done():
	}
	close(over)
	wg.Wait()
}

// run is the day, from the settings to the evening, when everything has come to rest.
func (d *day) run() *allinone.Process {
	t := d.t
	rng := rand.New(rand.NewPCG(11, 1))
	d.apply(catalogMorning)
	d.open(rng)
	d.eventually("the marketplaces show the opening stock", func() bool {
		for i := range skuCount {
			if n, _ := d.markets.Shown("shop", skuName(i)); n == 0 {
				return false
			}
		}
		return true
	})
	faults := marketplace.Faults{ErrorRate: 0.05, ErrorAppliedRate: 0.03, ThrottleRate: 0.02, ItemBusyRate: 0.02, DuplicatedReports: 0.1}
	for _, ch := range []string{"market", "amazon"} {
		if err := d.markets.SetFaults(ch, faults); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.markets.SetFaults("shop", marketplace.Faults{LostReports: 0.05, DuplicatedReports: 0.05}); err != nil {
		t.Fatal(err)
	}
	channels := []string{"shop", "market", "amazon", "outlet"}
	d.world(100, channels, 300, nil)
	t.Log("restart of every service")
	d.world(200, channels, 300, func() { d.restart(t) })
	t.Log("other rules")
	d.world(300, channels, 200, func() {
		d.mishaps()
		d.repeat()
		d.apply(catalogNoon)
	})
	channels = append(channels, "late")
	if d.hurt != nil {
		t.Log("kill of every service")
		d.world(400, channels, 300, func() { d.hurt(t) })
		d.deliver(rng)
	}
	d.world(500, channels, 300, nil)
	for _, ch := range channels {
		if err := d.markets.SetFaults(ch, marketplace.Faults{}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.markets.Redeliver(ch); err != nil {
			t.Fatal(err)
		}
	}
	p := d.settle(t)
	d.rest(p)
	return p
}

func (d *day) quiet(p interface{ Quiesce(context.Context) error }) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 3*time.Minute)
	defer cancel()
	if err := p.Quiesce(ctx); err != nil {
		d.t.Fatal(err)
	}
}

func (d *day) eventually(what string, holds func() bool) {
	d.t.Helper()
	if !d.await(2*time.Minute, holds) {
		d.t.Fatalf("it has not come to pass: %s", what)
	}
}

// await waits until a condition holds, and says whether it did in time.
func (d *day) await(within time.Duration, holds func() bool) bool {
	ctx, cancel := context.WithTimeout(d.t.Context(), within)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// traced follows one sale by its trace through all stages.
func (d *day) traced(p *allinone.Process, spans *tracetest.InMemoryExporter) {
	d.t.Helper()
	const sku = "SKU-traced" // with stock, so that a sale changes what is shown
	at := d.tick()
	d.books.mu.Lock()
	d.books.event(sku)
	d.books.move(sku, "main", at, 50)
	d.books.mu.Unlock()
	d.tell(rand.New(rand.NewPCG(12, 1)), d.fact("receipt_received", sku, "main", at, 50))
	d.quiet(p)
	const id = "0af7651916cd43dd8448eb211c80319c"
	order := d.id("traced")
	body, _ := json.Marshal(map[string]any{"id": order, "channel": "feed", "placed_at": d.clock(d.tick()), "currency": "EUR",
		"lines": []any{map[string]any{"id": "1", "sku": sku, "quantity": 1, "unit_price": "1", "location": "main"}}})
	d.books.mu.Lock()
	d.books.sale("feed", order, "1", sku, "main", 1) // a channel that shows nothing: all others must be told
	d.books.mu.Unlock()
	if status, answer := d.call(http.MethodPost, "/v1/orders", "application/json", body, "traceparent", "00-"+id+"-b7ad6b7169203331-01"); status != http.StatusAccepted {
		d.t.Fatalf("POST /v1/orders: %d %s", status, answer)
	}
	want := []string{"POST /v1/orders", "ledger apply", "allocate", "push", "analytics insert"}
	var seen []string
	defer func() { d.t.Logf("spans of one sale: %v", seen) }()
	d.eventually("spans of all stages carry the sale's trace", func() bool {
		seen = seen[:0]
		for _, s := range spans.GetSpans() {
			if s.SpanContext.TraceID().String() == id {
				seen = append(seen, s.Name)
			}
		}
		return !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(seen, name) })
	})
	d.quiet(p)
}

// tracing is telemetry that keeps the spans of those requests whose caller asks for it.
func tracing(t *testing.T) (*telemetry.Telemetry, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return telemetry.Silent().Traced(provider, "e2e"), spans
}

// TestDayEmbedded is the day on the embedded parts, in one process.
func TestDayEmbedded(t *testing.T) {
	tel, spans := tracing(t)
	d := newDay(t, embeddedSite(t, tel))
	p := d.run()
	d.traced(p, spans)
	d.check(p)
}

// TestDayReal is the same day on a real Kafka, a real Redis and the ClickHouse engine, with a process for each service.
func TestDayReal(t *testing.T) {
	tel, spans := tracing(t)
	d := newDay(t, realSite(t, tel))
	p := d.run()
	d.traced(p, spans)
	d.check(p)
	d.outsiders()
}
