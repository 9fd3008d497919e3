package ledgerprojector

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// last is the record of each SKU that stock.levels ends with: what compaction leaves.
func (r *rig) last() (levels map[string]*kgo.Record, records int) {
	r.t.Helper()
	levels = make(map[string]*kgo.Record)
	all := r.read(schemas.StockLevels)
	for _, rec := range all {
		if was := levels[string(rec.Key)]; was == nil || was.Offset < rec.Offset {
			levels[string(rec.Key)] = rec
		}
	}
	return levels, len(all)
}

// unchanged is the condition that nothing has been added to stock.levels for a time.
func (r *rig) unchanged(d time.Duration) func() error {
	seen, since := -1, time.Now()
	return func() error {
		if _, n := r.last(); n != seen {
			seen, since = n, time.Now()
		}
		if quiet := time.Since(since); quiet < d {
			return fmt.Errorf("%d records, the last within %s", seen, quiet)
		}
		return nil
	}
}

// lastIsNewest waits until the last record of each SKU in stock.levels is what the log makes of it.
func (r *rig) lastIsNewest(what string) {
	r.t.Helper()
	want := r.settled(DefaultConfig().Options()).Levels()
	eventually(r.t, what, func() error {
		last, _ := r.last()
		for sku, l := range want {
			rec := last[sku]
			if rec == nil || rec.Value == nil {
				return fmt.Errorf("the last record of %s is no level", sku)
			}
			got, err := topics.DecodeLevel(rec.Value)
			if err != nil {
				return err
			}
			if !same(got, l) {
				return fmt.Errorf("the last level of %s is of version %d, want %d", sku, got.Version, l.Version)
			}
		}
		return nil
	})
}

func receipts(from, n, skus int) []event.Event {
	es := make([]event.Event, n)
	for i := range es {
		es[i] = event.Event{
			ID: fmt.Sprint("receipt/", from+i), SKU: fmt.Sprint("SKU-", (from+i)%skus), Kind: event.ReceiptReceived, Location: "berlin", Quantity: 1, OccurredAt: 1, ReceivedAt: 1,
		}
	}
	return es
}

// older is the first level that each of some SKUs ever had, as an owner that was cut off may append it once more.
func (r *rig) older(skus ...string) (out []*kgo.Record) {
	r.t.Helper()
	for _, sku := range skus {
		for _, rec := range r.read(schemas.StockLevels) {
			if string(rec.Key) == sku {
				out = append(out, &kgo.Record{Topic: rec.Topic, Key: rec.Key, Value: rec.Value, Headers: rec.Headers})
				break
			}
		}
	}
	if len(out) != len(skus) {
		r.t.Fatalf("%d of %d SKUs have a level", len(out), len(skus))
	}
	return out
}

// Whoever appends an older level, and whenever, the owner has the last word.
func TestTheOwnerHasTheLastWordInLevels(t *testing.T) {
	m := miniredis.RunT(t)
	r := newRig(t, m.Addr())
	s := r.start(nil)
	for i := range 3 {
		r.send(receipts(i*40, 40, 40)...)
		r.check(DefaultConfig().Options())
	}
	strays := r.older("SKU-1", "SKU-2", "SKU-3", "SKU-17", "SKU-30")

	r.produce(strays...)
	r.lastIsNewest("older levels behind an owner at rest")

	r.produce(&kgo.Record{Topic: schemas.StockLevels, Key: []byte("SKU-5")}, &kgo.Record{Topic: schemas.StockLevels, Key: []byte("SKU-6"), Value: []byte("\xff no level")})
	r.lastIsNewest("a tombstone, and what is no level")

	for i := range 20 { // between those of an owner that is busy with other SKUs
		r.send(receipts(1000+i*10, 10, 10)...)
		r.produce(strays[3:]...)
	}
	r.lastIsNewest("older levels between those of a busy owner")

	s.stop()
	r.produce(strays...)
	s = r.start(nil)
	r.lastIsNewest("older levels while there was no owner")

	s.stop()
	_, before := r.last()
	s = r.start(nil)
	r.lastIsNewest("nothing")
	eventually(t, "the service is ready", func() error { return s.Ready(context.Background()) })
	eventually(t, "the owner has looked twice", r.unchanged(2*followEvery))
	if _, after := r.last(); after != before {
		t.Errorf("%d levels were emitted again, and none was strange", after-before)
	}

	// Of a topic that lost what it had taken, nothing is relied on.
	s.stop()
	for p := range int32(testPartitions) {
		if err := r.redis.HIncrBy(context.Background(), hotview.Namespace("oh").Partition(p), "levels", 0).Err(); err != nil {
			t.Fatal(err)
		}
		m.HSet(hotview.Namespace("oh").Partition(p), "levels", "1000000")
	}
	_, before = r.last()
	r.start(nil)
	eventually(t, "all levels are emitted again", func() error {
		if _, after := r.last(); after < before+40 {
			return fmt.Errorf("%d more, want 40", after-before)
		}
		return nil
	})
	r.lastIsNewest("a topic that is shorter than it was")
}

// Two owners that each take the other for cut off do not go on answering each other for ever: only the one that Redis knows has a say.
func TestOnlyTheOwnerAnswers(t *testing.T) {
	m := miniredis.RunT(t)
	r := newRig(t, m.Addr())
	r.start(nil)
	for i := range 2 {
		r.send(receipts(i*40, 40, 40)...)
		r.check(DefaultConfig().Options())
	}
	r.start(func(c *Config, _ *Deps) { c.Group = "another" }) // takes all partitions in Redis, and shares none in Kafka
	r.produce(r.older("SKU-1", "SKU-2")...)
	r.lastIsNewest("older levels, with two that answer")
	eventually(t, "they leave it at that", r.unchanged(2*followEvery))
	r.lastIsNewest("and still")
}
