package ledgerprojector

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/schemas"
)

// between has a test decide what becomes of each step that the service sends to Redis.
type between struct {
	step func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error
}

func (b between) DialHook(next redis.DialHook) redis.DialHook { return next }
func (b between) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (b between) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if name := cmd.Name(); (name == "evalsha" || name == "eval") && len(cmd.Args()) > 20 { // no other script takes so many arguments
			return b.step(ctx, cmd, next)
		}
		return next(ctx, cmd)
	}
}

// client is a connection of the service's own, with step between it and Redis.
func (r *rig) client(step func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{Addr: r.addr, MaxRetries: -1})
	c.AddHook(between{step})
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// While a batch is on its way to Redis the next is folded: whatever becomes of the first, each event counts once, and nothing that was folded on a batch that was not
// stored is left.
func TestStepsFailWhileTheNextBatchIsFolded(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			mr := miniredis.RunT(t)
			r := newRig(t, mr.Addr())
			var mu sync.Mutex
			rng := rand.New(rand.NewPCG(seed, 9))
			happened := map[string]int{}
			faults := 25
			c := r.client(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
				mu.Lock()
				what := rng.IntN(12)
				if faults == 0 {
					what = -1
				}
				if what >= 0 && what < 5 {
					faults--
				}
				note := func(s string) { happened[s]++; mu.Unlock() }
				meta := fmt.Sprint(cmd.Args()[3])
				switch what {
				case 0: // another owner claims the partition
					note("stolen")
					mr.HSet(meta, "owner", "zombie")
				case 1: // Redis loses everything
					note("lost")
					mr.FlushAll()
				case 2: // the answer does not arrive
					note("unanswered")
					_ = next(ctx, cmd)
					err := errors.New("connection reset after the step")
					cmd.SetErr(err)
					return err
				case 3: // the step does not arrive
					note("refused")
					err := errors.New("connection refused")
					cmd.SetErr(err)
					return err
				case 4: // the partition's ledger alone is lost
					note("cleared")
					mr.Del(meta)
				default:
					mu.Unlock()
				}
				return next(ctx, cmd)
			})
			small := func(cfg *Config, d *Deps) { cfg.BatchEvents, cfg.BatchSKUs, d.Redis = 29, 7, c }
			s := r.start(small)
			r.send(day(10+seed, 2500)...)
			r.check(opts())
			mu.Lock()
			t.Log(happened)
			if len(happened) < 5 {
				t.Errorf("only %v happened", happened)
			}
			mu.Unlock()
			s.stop()
			r.start(small)
			r.check(opts())
		})
	}
}

// Levels, alerts and rejected records wait for their batch to be in Redis.
func TestNothingIsEmittedBeforeItIsStored(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	arrived, goOn := make(chan string, 1000), make(chan struct{})
	c := r.client(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		arrived <- fmt.Sprint(cmd.Args()[3])
		select {
		case <-goOn:
		case <-ctx.Done():
			return ctx.Err()
		}
		return next(ctx, cmd)
	})
	s := r.start(func(cfg *Config, d *Deps) { cfg.BatchEvents, d.Redis = 50, c })
	r.send(day(20, 1500)...)
	waiting := map[string]bool{}
	for len(waiting) < testPartitions {
		meta := <-arrived
		if waiting[meta] {
			t.Fatalf("a second batch of %s is being stored before the first is", meta)
		}
		waiting[meta] = true
	}
	eventually(t, "the next batches are folded meanwhile", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for p, w := range s.workers {
			w.mu.Lock()
			n := len(w.queue)
			w.mu.Unlock()
			if n > 0 {
				return fmt.Errorf("partition %d has taken nothing more", p)
			}
		}
		return nil
	})
	for _, topic := range []string{schemas.StockLevels, schemas.StockAlerts, schemas.StockRejected} {
		if n := len(r.read(topic)); n > 0 {
			t.Errorf("%d records are in %s, and nothing is in Redis", n, topic)
		}
	}
	for _, k := range r.redis.Keys(context.Background(), "*").Val() {
		if strings.Contains(k, ":sku:") {
			t.Errorf("%s is stored", k)
		}
	}
	close(goOn)
	r.check(opts())
}
