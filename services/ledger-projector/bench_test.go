package ledgerprojector

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// BenchmarkProjector drains a backlog: kfake and the service in this process, Redis embedded or real. Levels are part of it. Run with -benchtime 1x.
func BenchmarkProjector(b *testing.B) {
	for _, shape := range []struct {
		name string
		skus int
	}{{"uniform", 20_000}, {"hot", 1}} {
		for _, store := range []string{"real", "embedded"} {
			b.Run(shape.name+"/redis="+store, func(b *testing.B) {
				const n = 400_000
				var addr string
				if store == "real" {
					addr = realRedis(b)
				} else {
					addr = miniredis.RunT(b).Addr()
				}
				for b.Loop() {
					b.StopTimer()
					r := newRig(b, addr)
					r.redis.FlushAll(context.Background())
					load(r, n, shape.skus)
					before := cpu()
					b.StartTimer()
					s := r.start(nil)
					for s.Stats().Applied < n {
						time.Sleep(time.Millisecond)
					}
					b.StopTimer()
					b.ReportMetric(float64(s.Stats().Levels), "levels")
					b.ReportMetric((cpu()-before).Seconds()*1e9/n, "cpu-ns/event")
					s.stop()
					b.StartTimer()
				}
				b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func load(r *rig, n, skus int) {
	c, err := r.kafka.Client(r.tel.Log, "load", kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := kafka.EnsureTopics(context.Background(), c, -1, topics.Specs(testPartitions)); err != nil {
		r.t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Now().UnixMicro()
	for i := range n {
		e := event.Event{
			ID: fmt.Sprintf("web/%08d/1/sale_recorded", i), SKU: fmt.Sprintf("SKU-%06d", rng.IntN(skus)), Kind: event.SaleRecorded, Location: "berlin",
			Channel: "web", OrderID: fmt.Sprintf("%08d", i), LineID: "1", Quantity: 1, ReceivedAt: now, OccurredAt: now, UnitPrice: "19.99", Currency: "EUR", Source: "api",
		}
		if i < skus {
			e = event.Event{ID: fmt.Sprint("open", i), SKU: fmt.Sprintf("SKU-%06d", i), Kind: event.ReceiptReceived, Location: "berlin", Quantity: 1_000_000, ReceivedAt: now, OccurredAt: now}
		}
		c.Produce(context.Background(), r.codec.EventRecord(&e), func(_ *kgo.Record, err error) {
			if err != nil {
				r.t.Error(err)
			}
		})
	}
	if err := c.Flush(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}
