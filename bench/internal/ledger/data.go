package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// shape is how events spread over SKUs.
type shape struct {
	name string
	says string
	skus int
	pick func(*rand.Rand) func() int // index of the next event's SKU
}

func shapes() []shape {
	const many = 20_000
	return []shape{
		{"uniform", "20,000 SKUs, each as likely as the other", many, func(r *rand.Rand) func() int { return func() int { return r.IntN(many) } }},
		{"zipf", "20,000 SKUs by Zipf's law with exponent 1.01", many, func(r *rand.Rand) func() int {
			z := rand.NewZipf(r, 1.01, 1, many-1)
			return func() int { return int(z.Uint64()) }
		}},
		{"hot", "one SKU", 1, func(*rand.Rand) func() int { return func() int { return 0 } }},
	}
}

// open is a sale that has not shipped.
type open struct {
	sku   int
	order string
}

// produce writes n events to stock.events: a receipt for each SKU that is sold from, then sales with what follows them. It returns the number
// of different SKUs. The same arguments give the same events, but for their time.
func produce(ctx context.Context, c *kgo.Client, codec *topics.Codec, s shape, n int) (int, error) {
	rng := rand.New(rand.NewPCG(7, 11))
	next := s.pick(rng)
	seen := make([]bool, s.skus)
	distinct := 0
	names := make([]string, s.skus)
	for i := range names {
		names[i] = fmt.Sprintf("SKU-%06d", i)
	}
	channels := []string{"webshop", "wholesale", "germany", "france", "spain", "netherlands"}
	var sales []open // oldest first
	oldest := 0
	var failed atomic.Pointer[error]
	e := event.Event{}
	for i := range n {
		now := time.Now().UnixMicro()
		e = event.Event{Location: "warehouse", Quantity: 1, OccurredAt: now, ReceivedAt: now, Source: "api"}
		x := rng.IntN(100)
		k := next()
		switch ships := x >= 50 && x < 92 && len(sales)-oldest > 20_000; {
		case !seen[k]:
			seen[k] = true
			distinct++
			e.Kind, e.SKU, e.Quantity, e.UnitCost, e.Currency = event.ReceiptReceived, names[k], 1_000_000, "7.40", "EUR"
			e.ID, e.Reference = fmt.Sprintf("receipt/opening/%d", k), "PO-opening"
		case ships:
			o := sales[oldest]
			oldest++
			e.SKU, e.OrderID, e.LineID, e.Channel = names[o.sku], o.order, "1", channels[o.sku%len(channels)]
			e.Kind, e.ID = event.ShipmentConfirmed, e.Channel+"/"+o.order+"/1/shipped"
			if x >= 90 {
				e.Kind, e.ID = event.SaleCancelled, e.Channel+"/"+o.order+"/1/cancelled"
			}
		case x < 95:
			order := fmt.Sprintf("A%08d", i)
			e.Kind, e.SKU, e.Quantity, e.Channel = event.SaleRecorded, names[k], 1, channels[k%len(channels)]
			e.OrderID, e.LineID, e.UnitPrice, e.Currency = order, "1", "19.99", "EUR"
			e.ID = e.Channel + "/" + order + "/1/sale_recorded"
			sales = append(sales, open{k, order})
		case x < 98:
			e.Kind, e.SKU, e.Quantity, e.UnitCost, e.Currency = event.ReceiptReceived, names[k], 20, "7.40", "EUR"
			e.ID, e.Reference = fmt.Sprintf("receipt/%d", i), fmt.Sprintf("PO-%d", i/50)
		default:
			e.Kind, e.SKU, e.Quantity, e.Reason = event.StockAdjusted, names[k], event.Units(1-2*rng.Int64N(2)), "found"
			e.ID = fmt.Sprintf("adjustment/%d", i)
		}
		c.Produce(ctx, codec.EventRecord(&e), func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
		if oldest > 1<<16 {
			sales = append(sales[:0], sales[oldest:]...)
			oldest = 0
		}
	}
	if err := c.Flush(ctx); err != nil {
		return 0, err
	}
	if p := failed.Load(); p != nil {
		return 0, fmt.Errorf("produce: %w", *p)
	}
	return distinct, nil
}

// consumeRaw reads n records of a topic with a plain client and does nothing with them: from the first fetch to the last record.
func consumeRaw(ctx context.Context, cfg kafka.Config, topic string, n int) (time.Duration, error) {
	c, err := cfg.Client(silent.Log, "bench-raw", kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(500*time.Millisecond), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(4<<20))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.Ping(ctx); err != nil { // connecting is none of it
		return 0, err
	}
	began := time.Now()
	for got := 0; got < n; {
		fetches := c.PollRecords(ctx, 50_000)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return 0, fmt.Errorf("consume %s: %w", topic, err)
		}
		got += fetches.NumRecords()
	}
	return time.Since(began), nil
}
