package reservations

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/allocator"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

// fair is two marketplaces that sell what they show, a shop of one's own that asks first, and the allocator between them.
type fair struct {
	*api
	client *kgo.Client
	skus   []string
	rng    *rand.Rand

	mu      sync.Mutex
	shown   map[string]int64 // by marketplace/SKU
	taken   map[string]int64 // physically gone, by SKU: sold by a marketplace, or held for the shop
	granted map[string]bool
	orders  []string // sold and not reported
	n       int
	at      map[string]int // units sold, by channel
	over    int
	units   int64                          // physically there, of each SKU
	made    map[string][]catalog.Component // of bundles
	bought  map[string]int                 // by marketplace/SKU
}

const fairUnits = 6

func openFair(t *testing.T, skus int, units int64) *fair {
	g := start(t)
	f := &fair{api: g.api(), rng: rand.New(rand.NewPCG(3, 4)), shown: map[string]int64{}, taken: map[string]int64{}, granted: map[string]bool{}, at: map[string]int{}, units: units,
		bought: map[string]int{}}
	var err error
	if f.client, err = g.kafka.Client(g.tel.Log, "fair", kgo.ConsumeTopics(schemas.TargetsTopic("m0"), schemas.TargetsTopic("m1")), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10*time.Millisecond), kgo.MetadataMaxAge(50*time.Millisecond), kgo.FetchMaxWait(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.client.Close)
	strict := "strict"
	for _, s := range []topics.Setting{
		{Location: &catalog.Location{ID: "berlin", Kind: catalog.Warehouse}},
		{Channel: &catalog.Channel{ID: "shop", Adapter: catalog.Claim, ListsAllSKUs: true}},
		{Channel: &catalog.Channel{ID: "m0", Adapter: "http", BaseURL: "http://127.0.0.1:1", Operation: catalog.Absolute, ListsAllSKUs: true}},
		{Channel: &catalog.Channel{ID: "m1", Adapter: "http", BaseURL: "http://127.0.0.1:1", Operation: catalog.CompareAndSet, SetsAny: true, ListsAllSKUs: true}},
		{Rule: &catalog.Rule{ID: "all", Mode: &strict}},
	} {
		if err := f.set(t, s); err != nil {
			t.Fatal(err)
		}
	}
	g.eventually("the settings are known", func() bool { return len(g.view.Settings().Rules) == 1 && len(g.view.Settings().Channels) == 3 })
	for i := range skus {
		f.skus = append(f.skus, fmt.Sprint("S", i))
		f.receive(f.skus[i], units)
	}
	return f
}

func (f *fair) set(t *testing.T, s topics.Setting) error {
	return f.client.ProduceSync(t.Context(), topics.Record(schemas.CatalogSettings, s.Key(), f.g.codec.AppendSetting(nil, &s))).FirstErr()
}

// allocator starts the allocator, and returns how to stop it.
func (f *fair) allocator() func() {
	g := f.g
	view, err := catalogview.New(g.kafka, g.tel.Log)
	if err != nil {
		g.t.Fatal(err)
	}
	s, err := allocator.New(allocator.DefaultConfig(), allocator.Deps{Kafka: g.kafka, Codec: g.codec, Catalog: view, Telemetry: g.tel})
	if err != nil {
		g.t.Fatal(err)
	}
	stopView := g.run("the allocator's catalog", view.Run)
	stop := g.run("allocator", s.Run)
	g.eventually("the allocator is ready", func() bool { return s.Ready(g.t.Context()) == nil })
	return func() { stop(); stopView() }
}

// push carries out the writes that were granted to the marketplaces since.
func (f *fair) push() {
	ctx, cancel := context.WithTimeout(f.g.t.Context(), 5*time.Millisecond)
	defer cancel()
	var results []*kgo.Record
	f.mu.Lock()
	f.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
		t, err := topics.DecodeTarget(r.Value)
		if err != nil {
			f.g.t.Error(err)
			return
		}
		if x := f.carryOut(t); x != nil {
			results = append(results, topics.Record(schemas.ChannelWrites, t.SKU, f.g.codec.AppendWrite(nil, x)))
		}
	})
	f.mu.Unlock()
	if err := f.client.ProduceSync(f.g.t.Context(), results...).FirstErr(); err != nil {
		f.g.t.Error(err)
	}
}

func (f *fair) carryOut(t *allocation.Target) *write.Result {
	w := t.Write
	if w == nil || w.Operation == write.UnspecifiedOperation {
		return nil
	}
	if f.granted[w.ID] {
		f.g.t.Errorf("write %s was granted twice", w.ID)
	}
	f.granted[w.ID] = true
	key, now := t.Channel+"/"+t.SKU, time.Now().UnixMicro()
	r := &write.Result{WriteID: w.ID, SKU: t.SKU, Channel: t.Channel, Operation: w.Operation, Quantity: w.Quantity, Outcome: write.Applied, DecidedAt: t.DecidedAt, SentAt: now, AckedAt: now, ShownAt: now, ShownKnown: true}
	switch {
	case w.Operation == write.CompareAndSet && f.shown[key] != int64(w.Expected):
		r.Outcome, r.ErrorCode = write.Refused, "stale"
	case w.Operation != write.Read:
		f.shown[key] = int64(w.Quantity)
	}
	r.Shown = ledger.Units(f.shown[key])
	return r
}

// take notes that units are gone. f.mu is held.
func (f *fair) take(sku string, units int64) {
	for _, c := range f.made[sku] {
		f.take(c.SKU, units*int64(c.Quantity))
	}
	if len(f.made[sku]) > 0 {
		return
	}
	if f.taken[sku] += units; f.taken[sku] > f.units {
		f.over++
	}
}

// buy has customers of the marketplaces buy at random wherever something is shown.
func (f *fair) buy(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		sku, ch := f.skus[f.rng.IntN(len(f.skus))], fmt.Sprint("m", f.rng.IntN(2))
		if f.shown[ch+"/"+sku] <= 0 {
			continue
		}
		f.shown[ch+"/"+sku]--
		f.take(sku, 1)
		f.n++
		f.at[ch]++
		f.bought[ch+"/"+sku]++
		f.orders = append(f.orders, fmt.Sprintf(`{"id":"o%d","channel":%q,"placed_at":%q,"currency":"EUR","lines":[{"id":"1","sku":%q,"quantity":1,"unit_price":"1"}]}`,
			f.n, ch, time.Now().UTC().Format(time.RFC3339Nano), sku))
	}
}

// report tells of the sales of the marketplaces, and that these are all.
func (f *fair) report() {
	f.mu.Lock()
	orders := f.orders
	f.orders = nil
	until := time.Now().UTC().Format(time.RFC3339Nano)
	f.mu.Unlock()
	for _, o := range orders {
		if status, out := f.call(http.MethodPost, "/v1/orders", o); status != http.StatusAccepted {
			f.g.t.Errorf("order: %d %+v", status, out)
		}
	}
	for _, ch := range []string{"m0", "m1"} {
		if status, out := f.call(http.MethodPost, "/v1/channels/"+ch+"/watermark", `{"until": "`+until+`"}`); status != http.StatusAccepted {
			f.g.t.Errorf("watermark: %d %+v", status, out)
		}
	}
}

// claim has the shop ask for a unit, and now and then give it back.
func (f *fair) claim(sku, id string, back bool) {
	status, out := f.call(http.MethodPost, "/v1/reservations", map[string]any{"id": id, "channel": "shop", "ttl_seconds": 600, "items": []item{{sku, 1}}})
	switch {
	case status == http.StatusConflict:
		return
	case status != http.StatusCreated:
		f.g.t.Errorf("reservation: %d %+v", status, out)
		return
	}
	f.mu.Lock()
	f.take(sku, 1)
	f.at["shop"]++
	f.mu.Unlock()
	if !back {
		return
	}
	f.mu.Lock() // before it is given back: from then on another may have it
	f.taken[sku]--
	f.at["shop"]--
	f.mu.Unlock()
	if status, out := f.call(http.MethodDelete, "/v1/reservations/"+id, nil); status != http.StatusOK {
		f.g.t.Errorf("release: %d %+v", status, out)
	}
}

// TestTheLastUnitsAmongMarketplacesAndAShopThatAsks sells a few units of each SKU through two marketplaces, which sell what they show and report late, and a shop that asks first, all at once, while
// the allocator is stopped and started. No unit is sold twice, all channels have a part of the trade, and in the end all is sold.
func TestTheLastUnitsAmongMarketplacesAndAShopThatAsks(t *testing.T) {
	f := openFair(t, 8, fairUnits)
	stop := f.allocator()
	total, round := int64(len(f.skus)*fairUnits), 0
	gone := func() (n int64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, k := range f.taken {
			n += k
		}
		return n
	}
	deadline := time.Now().Add(60 * time.Second)
	for gone() < total && time.Now().Before(deadline) {
		round++
		f.push()
		var wg sync.WaitGroup
		for c := range 3 {
			wg.Go(func() { f.claim(f.skus[(round*5+c*3)%len(f.skus)], fmt.Sprintf("r-%d-%d", round, c), (round+c)%4 == 0) })
		}
		wg.Go(func() { f.buy(2) })
		wg.Wait()
		if round%3 == 0 {
			f.report()
		}
		if round%40 == 25 {
			stop() // with sales unseen, writes and allotments under way
			f.buy(2)
			f.claim(f.skus[round%len(f.skus)], fmt.Sprint("r-", round, "-down"), false)
			stop = f.allocator()
		}
	}
	f.report()
	f.mu.Lock()
	t.Logf("%d of %d gone in %d rounds, by channel %v, %d oversold", func() (n int64) {
		for _, k := range f.taken {
			n += k
		}
		return n
	}(), total, round, f.at, f.over)
	if f.over > 0 {
		t.Errorf("%d units were sold twice", f.over)
	}
	for _, ch := range []string{"m0", "m1", "shop"} {
		if f.at[ch] == 0 {
			t.Errorf("%s had no part in it", ch)
		}
	}
	f.mu.Unlock()
	if n := gone(); n < total*9/10 {
		t.Errorf("%d of %d are gone", n, total)
	}
	for sku, l := range f.g.fold() {
		if l.Available() < 0 {
			t.Errorf("%s: %d are available in the ledger", sku, l.Available())
		}
		if sku != "" && (len(l.Allotments) != 1 || l.Allotments[0].Channel != "shop" || l.Allotments[0].Ended) {
			t.Errorf("%s: allotments %+v", sku, l.Allotments)
		}
	}
	// Pooled again, the shop is held to nothing.
	pooled := "pooled"
	if err := f.set(t, topics.Setting{Rule: &catalog.Rule{ID: "all", Mode: &pooled}}); err != nil {
		t.Fatal(err)
	}
	f.g.eventually("the allotments have ended", func() bool {
		f.push()
		f.report()
		for _, l := range f.g.fold() {
			for _, a := range l.Allotments {
				if !a.Ended {
					return false
				}
			}
		}
		return true
	})
	stop()
	var books int
	if _, err := kafka.Committed(t.Context(), f.client, map[string][]int32{schemas.ExposureBooks: {0, 1, 2, 3}}, nil, func(*kgo.Record) { books++ }); err != nil || books == 0 {
		t.Errorf("%d books were stored: %v", books, err)
	}
}
