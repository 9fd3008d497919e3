package allinone_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onhand/onhand/simulators/marketplace"
)

const bundleCatalog = `
locations:
  - {id: main, kind: warehouse}
channels:
  - {id: shop, adapter: http, base_url: BASE/channels/shop, operation: compare_and_set, sets_any: true, lists_all_skus: true}
  - {id: amz, adapter: http, base_url: BASE/channels/amz, operation: absolute, lists_all_skus: true}
  - {id: bay, adapter: http, base_url: BASE/channels/bay, operation: delta, lists_all_skus: true}
rules:
  - {id: all, mode: strict}
listings:
  TEA: {title: Tea}
  CUP: {title: Cup}
  GIFT: {title: Tea and cups, components: {TEA: 2, CUP: 1}}
`

// TestBundlesSellOutOnMarketplaces sells two components and a bundle of them on three marketplaces that sell what they show, through the whole process on its own parts, with a stop and a start on the way.
// No unit is sold twice, nearly all is sold, and in the end the ledger and the marketplaces agree.
func TestBundlesSellOutOnMarketplaces(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	dir := t.TempDir()
	market := startMarket(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p, _, stop := run(t, dir)
	check(p.Ready(ctx))
	if status, body := call(t, http.MethodPut, p.URL()+"/v1/catalog", key, strings.ReplaceAll(bundleCatalog, "BASE", market.URL())); status/100 != 2 {
		t.Fatalf("catalog: %d %s", status, body)
	}
	received := map[string]int64{"TEA": 60, "CUP": 40}
	for sku, n := range received {
		e := fmt.Sprintf(`{"id":"r-%s","kind":"receipt_received","sku":%q,"location":"main","quantity":%d,"occurred_at":"2026-01-02T03:04:05Z"}`, sku, sku, n)
		if status, body := call(t, http.MethodPost, p.URL()+"/v1/events", key, e+"\n"); status != http.StatusAccepted {
			t.Fatalf("events: %d %s", status, body)
		}
	}
	check(market.ReportTo(p.URL(), key))

	makes := map[string]map[string]int64{"TEA": {"TEA": 1}, "CUP": {"CUP": 1}, "GIFT": {"TEA": 2, "CUP": 1}}
	channels := []string{"shop", "amz", "bay"}
	var mu sync.Mutex
	sold, taken, orders := map[string]int64{}, map[string]int64{}, 0
	// buy has a customer of each marketplace buy one of something that it shows, all at once, and says how many found something.
	buy := func(round uint64) (bought int64) {
		var wg sync.WaitGroup
		for i, ch := range channels {
			wg.Go(func() {
				shown := market.AllShown(ch)
				offered := slices.DeleteFunc(slices.Sorted(maps.Keys(shown)), func(sku string) bool { return shown[sku] <= 0 })
				if len(offered) == 0 {
					return
				}
				sku := offered[rand.New(rand.NewPCG(round, uint64(i))).IntN(len(offered))]
				mu.Lock()
				orders++
				id := fmt.Sprint(orders)
				mu.Unlock()
				r, err := market.Sell(ctx, ch, marketplace.Sale{ID: id, PlacedAt: time.Now(), Currency: "EUR", Lines: []marketplace.Line{{ID: "1", SKU: sku, Quantity: 1, UnitPrice: "5"}}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if r.Lines[0].Sold {
					bought++
					sold[sku]++
					for of, n := range makes[sku] {
						taken[of] += n
					}
				}
			})
		}
		wg.Wait()
		return bought
	}
	settle := func() {
		t.Helper()
		check(market.Drain(ctx))
		check(p.Quiesce(ctx))
	}
	settle()
	restarted := false
	for round, idle := uint64(0), 0; idle < 20 && ctx.Err() == nil; round++ {
		if buy(round) > 0 {
			idle = 0
		} else { // what comes back from one channel to another takes a few writes and order watermarks
			idle++
			settle()
		}
		if !restarted && taken["TEA"] > received["TEA"]/2 {
			restarted = true
			stop() // with sales unreported, and writes under way
			buy(round + 1<<32)
			p, _, stop = run(t, dir)
			check(p.Ready(ctx))
			check(market.ReportTo(p.URL(), key))
		}
	}
	defer func() { stop() }()
	settle()
	t.Logf("sold %v, which takes %v of %v", sold, taken, received)
	if !restarted || sold["GIFT"] < 3 || sold["TEA"] < 3 || sold["CUP"] < 3 {
		t.Errorf("sold %v", sold)
	}
	for sku, n := range received {
		if taken[sku] > n {
			t.Errorf("%s: %d are sold of %d", sku, taken[sku], n)
		}
		var stock struct{ Available int64 }
		if _, body := call(t, http.MethodGet, p.URL()+"/v1/availability/"+sku, key, ""); json.Unmarshal([]byte(body), &stock) != nil || stock.Available != n-taken[sku] {
			t.Errorf("%s: the ledger says %s, and %d of %d are sold", sku, body, taken[sku], n)
		}
		shown := int64(0)
		for _, ch := range channels {
			for of, u := range market.AllShown(ch) {
				shown += u * makes[of][sku]
			}
		}
		if shown > n-taken[sku] {
			t.Errorf("%s: marketplaces show %d of %d", sku, shown, n-taken[sku])
		}
	}
	if left := received["TEA"] - taken["TEA"]; left > received["TEA"]/5 {
		t.Errorf("%d of %d TEA are left", left, received["TEA"])
	}
	check(market.ReportTo("", ""))
}
