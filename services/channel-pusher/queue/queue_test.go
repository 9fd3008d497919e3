package queue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
)

func TestBreaker(t *testing.T) {
	b := breaker{failures: 3, delay: 10 * time.Second, rng: rand.New(rand.NewPCG(1, 1))}
	now := start
	allowed := func(want bool) time.Time {
		t.Helper()
		ok, at := b.ready(now)
		if ok != want {
			t.Errorf("%s: ready is %v", b.state, ok)
		}
		return at
	}
	for range 20 { // one failure in three never opens it
		b.take()
		b.back(true, now)
		b.back(false, now)
		b.back(false, now)
	}
	allowed(true)
	b.back(true, now)
	b.back(true, now)
	at := allowed(false)
	if d := at.Sub(now); d < 8*time.Second || d > 12*time.Second {
		t.Errorf("left alone for %s", d)
	}
	b.back(false, now) // the answer to an earlier request
	allowed(false)
	now = at
	allowed(true)
	b.take()
	allowed(false) // one tries
	b.back(true, now)
	now = allowed(false)
	b.take()
	b.back(false, now)
	allowed(true)
	b.back(true, now)
	b.back(true, now)
	allowed(true) // what was before counts no more
}

// What one write costs, of each mode, in batches of 100.
func BenchmarkWrite(b *testing.B) {
	for _, mode := range []string{"pooled", "granted"} {
		b.Run(mode, func(b *testing.B) {
			const skus = 1000
			now := start
			q := New("shop", testConfig(), now)
			caps := adapter.Capabilities{Operations: []catalog.Operation{catalog.Absolute}, ReadBack: true, ItemIDs: true}
			if err := q.Configure(&catalog.Channel{ID: "shop", Adapter: "http", MaxInFlight: 100}, &caps, now); err != nil {
				b.Fatal(err)
			}
			p := q.Partition(0, -1, 0, nil, now)
			names := make([]string, skus)
			for i := range names {
				names[i] = fmt.Sprint("sku-", i)
			}
			answers := make([]adapter.ItemResult, 100)
			for i := range answers {
				answers[i].Verdict = adapter.Applied
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				t := allocation.Target{SKU: names[n%skus], Quantity: allocation.Units(n), LevelVersion: int64(n) + 1, OldestReceivedAt: 1}
				if mode == "granted" {
					t.Write = &allocation.GrantedWrite{ID: "w" + t.SKU, Operation: catalog.Absolute, Quantity: t.Quantity}
					t.Write.ID = fmt.Sprint(n)
				}
				q.Take(p, int64(n), &t, nil, now)
				if n++; n%100 != 0 {
					continue
				}
				now = now.Add(time.Second)
				for {
					j, _ := q.Next(now)
					if j == nil {
						break
					}
					q.AnswerWrite(j, answers[:len(j.Items)], nil, now)
					r := q.Report()
					q.Durable(&r)
				}
				p.Commit()
			}
			if got := q.State().Applied; got < int64(n-200) {
				b.Fatalf("%d of %d applied", got, n)
			}
		})
	}
}
