package ledger

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/bench/internal/calls"
	"github.com/onhand/onhand/bench/internal/process"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// Large is a ledger of very many SKUs.
type Large struct {
	SKUs          int     `json:"skus"`
	HeapMB        int64   `json:"projector_heap_mb"` // live, after a collection: what the ledger adds to it
	RedisMB       int64   `json:"redis_mb"`
	ColdStart     float64 `json:"cold_start_s"` // from the start of the service, with all in Redis, to ready
	ColdStartCPU  float64 `json:"cold_start_cpu_s"`
	ColdStartWhat string  `json:"cold_start_is"`

	Reads []calls.Figures `json:"reads"` // of availability, by HTTP
}

// readsFor is how long each kind of read is measured.
const readsFor = 2 * time.Second

// large folds a receipt of each of very many SKUs, and starts again on what is stored; it takes a processor profile of that start when a file is named.
func (p *parts) large(ctx context.Context, codec *topics.Codec, skus int, profile string) (out Large, err error) {
	if err := p.redis.FlushAll(ctx).Err(); err != nil {
		return out, err
	}
	c, err := p.kafka.Client(silent.Log, "bench", kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return out, err
	}
	defer c.Close()
	var failed error
	for i := range skus {
		now := time.Now().UnixMicro()
		e := event.Event{
			ID: fmt.Sprintf("receipt/opening/%d", i), SKU: fmt.Sprintf("SKU-%07d", i), Kind: event.ReceiptReceived, Location: "warehouse", Quantity: 10, UnitCost: "7.40", Currency: "EUR",
			Reference: "PO-opening", OccurredAt: now, ReceivedAt: now, Source: "api",
		}
		c.Produce(ctx, codec.EventRecord(&e), func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err // promises are called one after another
			}
		})
	}
	if err := errors.Join(c.Flush(ctx), failed); err != nil {
		return out, err
	}
	conf := ledgerprojector.DefaultConfig()
	conf.Namespace, conf.Group = "large", "bench-large"
	redisBefore, err := p.redisMemory(ctx)
	if err != nil {
		return out, err
	}
	before := heap()
	_, err = p.until(ctx, conf, codec, func(s *ledgerprojector.Service) bool { return s.Stats().Applied >= int64(skus) }, func(*ledgerprojector.Service) { out.HeapMB = (heap() - before) >> 20 })
	if err != nil {
		return out, err
	}
	redisAfter, err := p.redisMemory(ctx)
	if err != nil {
		return out, err
	}
	out.SKUs, out.RedisMB = skus, (redisAfter-redisBefore)>>20
	if profile != "" {
		stop, err := startProfile(profile)
		if err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	cpu := process.CPU()
	var readErr error
	took, err := p.until(ctx, conf, codec, func(s *ledgerprojector.Service) bool {
		st := s.Stats()
		return len(st.Lag) == partitions && st.SKUsOwned >= int64(skus) && s.Ready(ctx) == nil
	}, func(s *ledgerprojector.Service) {
		out.ColdStartCPU = (process.CPU() - cpu).Seconds()
		routes := chi.NewRouter()
		s.Routes(routes)
		server := httptest.NewServer(routes)
		defer server.Close()
		out.Reads, readErr = calls.Reads(ctx, calls.New(server.URL, "", 8), func(i int) string { return fmt.Sprintf("SKU-%07d", i) }, skus, readsFor)
	})
	if err := errors.Join(err, readErr); err != nil {
		return out, err
	}
	out.ColdStart = took.Seconds()
	out.ColdStartWhat = "from the start of the service, all state in Redis and nothing new in the log, until every partition is loaded and ready"
	return out, nil
}

// until runs the service until it is as wanted, then calls f, and stops it. It returns how long that took from the start.
func (p *parts) until(ctx context.Context, conf ledgerprojector.Config, codec *topics.Codec, wanted func(*ledgerprojector.Service) bool, f func(*ledgerprojector.Service)) (took time.Duration, err error) {
	s, err := ledgerprojector.New(conf, ledgerprojector.Deps{Kafka: p.kafka, Codec: codec, Redis: p.redis, Telemetry: silent})
	if err != nil {
		return 0, err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- s.Run(running) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()
	for limit := began.Add(3 * time.Minute); !wanted(s); {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if time.Now().After(limit) {
			return 0, fmt.Errorf("the projector is not ready after three minutes: %+v", s.Stats())
		}
		time.Sleep(5 * time.Millisecond)
	}
	took = time.Since(began)
	f(s)
	return took, nil
}

// heap is the live heap of this process.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers held on to
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

var redisMemoryLine = regexp.MustCompile(`used_memory:(\d+)`)

func (p *parts) redisMemory(ctx context.Context) (int64, error) {
	info, err := p.redis.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	m := redisMemoryLine.FindStringSubmatch(info)
	if m == nil {
		return 0, errors.New("Redis does not tell its memory")
	}
	return strconv.ParseInt(m[1], 10, 64)
}
