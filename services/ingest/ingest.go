// Package ingest is the door of Onhand: orders, stock events and settings come in by HTTP, and orders by the topic orders.in, and leave as
// records of Kafka.
//
// It promises three things. What it answers with 202 has been acknowledged by all in-sync replicas of Kafka. What is sent again, after a lost
// answer or a crash, does no harm: every event has an id that its source fixes, and the ledger counts an id once. And nothing is lost
// silently: input that cannot be used is answered with the reason and the place, and what comes in a batch or from a topic is kept in
// stock.rejected besides.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/reservation"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

// Name is the service's name in logs, in rejected records and in consumer groups.
const Name = "ingest"

// Group is the consumer group that reads orders.in.
const Group = "onhand-ingest"

// Deps is what the service works with.
type Deps struct {
	Kafka     kafka.Config
	Codec     *topics.Codec
	Redis     redis.UniversalClient // remembers idempotency keys; nothing else needs it
	Catalog   *catalogview.View     // the caller runs it
	Telemetry *telemetry.Telemetry
	Keys      *apikey.Keys
}

// Service takes orders, events and settings in. Its HTTP routes work while Run does.
type Service struct {
	cfg        Config
	deps       Deps
	tel        *telemetry.Telemetry
	producer   *kgo.Client
	limiter    *apikey.Limiter
	idem       *idempotency
	seed       maphash.Seed
	stats      counters
	behind     behind // in orders.in
	watermarks watermarks
	sweeper    *sweeper
	decisions  decisions
	metrics    *instruments

	applying sync.Mutex    // one change of the catalog at a time
	peeking  chan struct{} // bounds readers of stock.rejected

	mu       sync.Mutex
	active   sync.WaitGroup // requests under way
	stopping bool           // guarded by mu
	running  atomic.Bool
	joined   atomic.Bool // the consumer of orders.in has polled
}

// New makes the service. It connects to nothing yet.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	var errs []error
	for _, d := range []struct {
		name    string
		missing bool
	}{
		{"Codec", deps.Codec == nil}, {"Redis", deps.Redis == nil}, {"Catalog", deps.Catalog == nil}, {"Telemetry", deps.Telemetry == nil}, {"Keys", deps.Keys == nil},
	} {
		if d.missing {
			errs = append(errs, fmt.Errorf("ingest: Deps.%s is missing", d.name))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s := &Service{
		cfg: cfg, deps: deps, tel: deps.Telemetry.For(Name), seed: maphash.MakeSeed(), limiter: apikey.NewLimiter(cfg.RequestsPerSecond, cfg.Burst),
		idem: newIdempotency(deps.Redis, cfg.IdempotencyTTL, 2*cfg.AckTimeout+cfg.IdleTimeout), peeking: make(chan struct{}, 2),
	}
	s.sweeper = newSweeper(s)
	s.decisions.by, s.decisions.waiting = make(map[string]map[string]*reservation.Decision), make(map[string][]chan<- *reservation.Decision)
	var err error
	if s.metrics, err = newInstruments(s.tel.Meter); err != nil {
		return nil, fmt.Errorf("ingest: metrics: %w", err)
	}
	// Idempotent and acks=all, as the client is by default. A record that cannot be delivered fails before the wait for it does.
	s.producer, err = deps.Kafka.Client(s.tel.Log, "onhand-ingest", kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(cfg.Linger),
		kgo.RecordDeliveryTimeout(cfg.AckTimeout), kgo.MaxBufferedBytes(64<<20))
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	return s, nil
}

// Run consumes orders.in and serves the routes until ctx ends; then it lets requests under way finish and closes the producer.
func (s *Service) Run(ctx context.Context) (err error) {
	unobserve, err := s.behind.observe(s.tel.Meter)
	if err != nil {
		return fmt.Errorf("ingest: metrics: %w", err)
	}
	defer func() { err = errors.Join(err, unobserve()) }()
	s.running.Store(true)
	var sweeps sync.WaitGroup // and what else runs beside
	if s.cfg.SweepInterval > 0 {
		sweeps.Go(func() { s.sweeper.run(ctx) })
	}
	following, unfollow := context.WithCancel(context.WithoutCancel(ctx)) // requests under way when ctx ends still wait for decisions
	sweeps.Go(func() { s.followDecisions(following) })
	defer sweeps.Wait()
	defer unfollow()
	err = s.consumeOrders(ctx)
	if err != nil {
		err = fmt.Errorf("ingest: %w", err)
	} else {
		<-ctx.Done()
	}
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.active.Wait(); close(done) }()
	drain := time.NewTimer(s.cfg.Drain)
	defer drain.Stop()
	select {
	case <-done:
	case <-drain.C:
		s.tel.Log.Warn("requests still under way; stopping all the same", "drain", s.cfg.Drain)
	}
	s.running.Store(false)
	s.producer.Close() // what is not acknowledged fails, and its request answers 503
	<-done             // AckTimeout and IdleTimeout bound it
	return err
}

// enter counts a request in, unless the service is stopping; leave counts it out.
func (s *Service) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.active.Add(1)
	return true
}

func (s *Service) leave() { s.active.Done() }

// Ready is nil when input can be taken: Run runs, Kafka answers, the catalog has been read. Redis is left out on purpose: without it
// everything but Idempotency-Key works, and taking the whole door down would be worse.
func (s *Service) Ready(ctx context.Context) error {
	if !s.running.Load() {
		return errors.New("ingest: not running")
	}
	if !s.joined.Load() {
		return errors.New("ingest: the consumer of " + schemas.OrdersIn + " has not started")
	}
	if err := s.producer.Ping(ctx); err != nil {
		return fmt.Errorf("ingest: kafka: %w", err)
	}
	if !s.decisions.caughtUp() {
		return errors.New("ingest: decisions on reservations are still being read")
	}
	return s.deps.Catalog.WaitReady(ctx)
}
