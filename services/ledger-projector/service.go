package ledgerprojector

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/changes"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
)

// name is how the service signs what it writes.
const name = "ledger-projector"

const (
	// fetchBytes is the most that one fetch brings. It is as much for a partition as for all, so that a broker with much to tell sends one partition after another: while one is
	// folded, the next is decoded and the one before stored, and each has events enough for a batch in which a SKU is written once for many of them.
	fetchBytes = 4 << 20
	// fetchWait is the longest that the broker holds a fetch for which it has nothing. A partition that was paused when the fetch was asked for waits as long once it goes on.
	fetchWait = 100 * time.Millisecond
	// linger is how long output waits for more of it, of all partitions: without it, each partition's batch is a request of its own, and the broker has more to do than the ledger.
	linger = 3 * time.Millisecond
	// pollEvery is the least time between two polls at a steady rate: meanwhile the next fetch is under way, and brings what all partitions have got. What comes after
	// a longer silence is not held up.
	pollEvery = 3 * time.Millisecond
	// pollMax is the most records of one poll.
	pollMax = 50_000
	// unpaced is how many records a poll has to bring for the next not to wait: there is a backlog.
	unpaced = 4096
)

// leaveWithin is the longest wait for Kafka to let the group be left.
const leaveWithin = 2 * time.Second

// Service is the ledger-projector. Make it with New; Run it once.
type Service struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics metrics
	totals  totals
	ns      hotview.Namespace
	levels  *hotview.Reader
	feed    *changes.Hub
	id      string // of this process, in owner names

	partitions atomic.Int32 // of stock.events; 0 until known
	joined     atomic.Bool

	client     *kgo.Client
	identified chan struct{} // closed when client and identity are set
	identity   hotview.Identity

	mu      sync.Mutex
	workers map[int32]*worker
	seeks   []seek
	wake    context.CancelFunc // ends the poll under way
}

// seek asks the poll loop to go on at an offset.
type seek struct {
	w      *worker
	offset int64
	round  int64
}

// New makes the service. It does not reach out before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("ledger-projector: %w", err)
	}
	if deps.Codec == nil || deps.Redis == nil || deps.Telemetry == nil {
		return nil, errors.New("ledger-projector: it needs a codec, Redis and telemetry")
	}
	s := &Service{
		cfg: cfg, deps: deps, log: deps.Telemetry.Log, ns: hotview.Namespace(cfg.Namespace), id: rand.Text()[:12], workers: make(map[int32]*worker),
		identified: make(chan struct{}), levels: hotview.NewReader(deps.Redis, hotview.Namespace(cfg.Namespace)),
	}
	s.feed = changes.New(changes.Config{
		Kafka: deps.Kafka, Log: deps.Telemetry.Log, Streams: cfg.ChangeStreams, Pending: cfg.ChangePending, Replay: cfg.ChangeReplay, Where: where,
	})
	var err error
	if s.metrics, err = newMetrics(deps.Telemetry.Meter, s); err != nil {
		return nil, fmt.Errorf("ledger-projector: %w", err)
	}
	return s, nil
}

// Run folds until ctx ends, then finishes what is under way and returns nil.
func (s *Service) Run(ctx context.Context) error {
	client, err := s.deps.Kafka.Client(s.log, name,
		kgo.ConsumerGroup(s.cfg.Group), kgo.ConsumeTopics(schemas.StockEvents), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.AutoCommitMarks(), kgo.AutoCommitInterval(time.Second),
		kgo.BlockRebalanceOnPoll(), kgo.OnPartitionsRevoked(s.revoked), kgo.OnPartitionsLost(s.revoked), kgo.AdjustFetchOffsetsFn(s.assigned),
		kgo.SessionTimeout(s.cfg.Session), kgo.HeartbeatInterval(s.cfg.Session/5),
		kgo.WithPools(new(pools)), kgo.FetchMaxWait(fetchWait), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes),
		kgo.ProducerLinger(linger), kgo.MaxBufferedRecords(200_000), kgo.ProducerBatchMaxBytes(1<<20-1<<12),
	)
	if err != nil {
		return fmt.Errorf("ledger-projector: %w", err)
	}
	s.client = client
	defer kafka.Close(client, leaveWithin)
	if err := s.identify(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("ledger-projector: %w", err)
	}
	close(s.identified)
	var beside sync.WaitGroup
	beside.Go(func() { s.follow(ctx) })
	beside.Go(func() { s.check(ctx) })
	beside.Go(func() {
		<-ctx.Done()
		s.feed.Stop()
	})
	defer beside.Wait()
	s.poll(ctx)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Drain)
	defer cancel()
	s.stopAll(stopping)
	if err := client.CommitMarkedOffsets(stopping); err != nil {
		s.log.Warn("offsets not committed at the stop; the next owner goes by the ledger's own", "err", err)
	}
	return nil
}

// identify finds out which log this is, and stamps the ledger with it. Redis or Kafka out of reach is waited for.
func (s *Service) identify(ctx context.Context) error {
	adm := kadm.NewClient(s.client)
	var parts int32
	err := s.retry(ctx, "find "+schemas.StockEvents, func() error {
		m, err := adm.Metadata(ctx, schemas.StockEvents)
		if err != nil {
			return err
		}
		t := m.Topics[schemas.StockEvents]
		if t.Err != nil {
			return t.Err
		}
		s.identity = hotview.Identity{Dataset: s.cfg.Dataset, TopicID: t.ID.String(), Fold: s.cfg.Options().String()}
		if s.identity.Dataset == "" {
			s.identity.Dataset = m.Cluster
		}
		parts = int32(len(t.Partitions))
		return nil
	})
	if err != nil {
		return err
	}
	s.partitions.Store(parts)
	var stored hotview.Global
	err = s.retry(ctx, "read the ledger's settings", func() (err error) {
		stored, err = hotview.OpenGlobal(ctx, s.deps.Redis, s.ns, s.global())
		return err
	})
	if err != nil {
		return err
	}
	if stored.Partitions != parts && stored.TopicID == s.identity.TopicID {
		return fmt.Errorf("%s has %d partitions and the ledger under %s was folded from %d: a SKU would be in two places; fold into another namespace", schemas.StockEvents, parts, s.ns, stored.Partitions)
	}
	return nil
}

// global is what the service stamps the ledger with.
func (s *Service) global() hotview.Global {
	return hotview.Global{Partitions: s.partitions.Load(), Dataset: s.identity.Dataset, TopicID: s.identity.TopicID}
}

// retry repeats f with growing pauses until it succeeds or ctx ends.
func (s *Service) retry(ctx context.Context, what string, f func() error) error {
	var p pause
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		s.log.Warn("waiting: "+what+" failed", "err", err)
		if !p.wait(ctx) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// poll hands what is fetched to the workers until ctx ends. Rebalances wait from poll to hand-over, so that a worker only gets records of its own
// assignment.
func (s *Service) poll(ctx context.Context) {
	polled := time.Time{}
	for ctx.Err() == nil {
		polling, cancel := context.WithCancel(ctx)
		s.mu.Lock()
		s.wake = cancel
		if len(s.seeks) > 0 {
			cancel()
		}
		s.mu.Unlock()
		fetches := s.client.PollRecords(polling, pollMax)
		if fetches.NumRecords() < unpaced {
			pace(polling, polled.Add(pollEvery))
		}
		polled = time.Now()
		cancel()
		if fetches.IsClientClosed() {
			return
		}
		fetches.EachError(func(t string, p int32, err error) {
			if !errors.Is(err, context.Canceled) {
				s.log.Warn("fetch failed; trying again", "topic", t, "partition", p, "err", err)
			}
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			s.mu.Lock()
			w := s.workers[p.Partition]
			s.mu.Unlock()
			if w != nil {
				w.push(p.Records, p.HighWatermark)
			}
		})
		s.applySeeks()
		s.client.AllowRebalance()
	}
}

// pace waits until a moment, or until ctx ends.
func pace(ctx context.Context, until time.Time) {
	d := time.Until(until)
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// applySeeks moves partitions to where their workers want to go on. Records polled from then on carry the worker's new round.
func (s *Service) applySeeks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.seeks {
		if s.workers[k.w.partition] == k.w {
			s.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{schemas.StockEvents: {k.w.partition: {Epoch: -1, Offset: k.offset}}})
			k.w.polled = k.round
		}
	}
	s.seeks = nil
}

// ask has the poll loop go on at an offset; records it polls from then on carry the round.
func (s *Service) ask(w *worker, offset, round int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeks = append(s.seeks, seek{w, offset, round})
	if s.wake != nil {
		s.wake()
	}
}

// assigned starts a worker for each partition that is new, and has it read on from the offset that Redis has. The group's offset says how far output
// has been acknowledged.
func (s *Service) assigned(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	select { // the group may assign before the log is known, and before the client is ours
	case <-s.identified:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.joined.Store(true)
	mine := offsets[schemas.StockEvents]
	var mu sync.Mutex // of mine
	finding, ctx := errgroup.WithContext(ctx)
	finding.SetLimit(16)
	for p, o := range maps.Clone(mine) {
		finding.Go(func() error {
			start, committed, err := s.resume(ctx, p, o.EpochOffset().Offset)
			if err != nil {
				return err
			}
			w := newWorker(s, p, start, max(0, committed))
			mu.Lock()
			mine[p] = kgo.NewOffset().At(start).WithEpoch(-1)
			mu.Unlock()
			s.mu.Lock()
			old := s.workers[p]
			s.workers[p] = w
			s.mu.Unlock()
			if old != nil {
				old.stop(ctx)
			}
			go w.run()
			return nil
		})
	}
	if err := finding.Wait(); err != nil {
		return nil, err
	}
	return offsets, nil
}

// resume is the offset at which a partition is to be read on, which Redis has, and the one before which the group says that all output has been acknowledged.
func (s *Service) resume(ctx context.Context, p int32, grouped int64) (start, committed int64, err error) {
	st := hotview.NewStore(s.deps.Redis, s.ns, p, s.id, s.identity)
	committed = grouped
	err = s.retry(ctx, "find where to go on", func() error {
		end, err := s.end(ctx, p)
		if err != nil {
			return err
		}
		m, err := st.Peek(ctx)
		if errors.Is(err, hotview.ErrDamaged) {
			return nil // the worker folds anew
		}
		if err != nil {
			return err
		}
		if start = 0; st.Fits(m, end) {
			start = m.Offset + 1
		}
		if committed > end || m.TopicID != s.identity.TopicID {
			committed = 0 // it speaks of another log
		}
		return nil
	})
	return start, committed, err
}

// end is the end offset of a partition of stock.events.
func (s *Service) end(ctx context.Context, p int32) (int64, error) {
	return s.endOf(ctx, schemas.StockEvents, p)
}

func (s *Service) endOf(ctx context.Context, topic string, p int32) (int64, error) {
	ends, err := kadm.NewClient(s.client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("end offsets of %s: %w", topic, err)
	}
	o, ok := ends.Lookup(topic, p)
	if !ok {
		return 0, fmt.Errorf("end offset of partition %d of %s is unknown: all topics by SKU have the same number of partitions", p, topic)
	}
	return o.Offset, nil
}

// revoked stops the workers of partitions that went to another member. A batch under way is finished or fails its fence; either is safe.
func (s *Service) revoked(ctx context.Context, _ *kgo.Client, lost map[string][]int32) {
	var gone []*worker
	s.mu.Lock()
	for _, p := range lost[schemas.StockEvents] {
		if w := s.workers[p]; w != nil {
			gone = append(gone, w)
			delete(s.workers, p)
		}
	}
	s.mu.Unlock()
	stopping, cancel := context.WithTimeout(ctx, s.cfg.Drain)
	defer cancel()
	stopTogether(stopping, gone)
}

func (s *Service) stopAll(ctx context.Context) {
	var all []*worker
	s.mu.Lock()
	for p, w := range s.workers {
		all = append(all, w)
		delete(s.workers, p)
	}
	s.mu.Unlock()
	stopTogether(ctx, all)
}

func stopTogether(ctx context.Context, ws []*worker) {
	var wg sync.WaitGroup
	for _, w := range ws {
		wg.Go(func() { w.stop(ctx) })
	}
	wg.Wait()
}

// Ready is nil once the service is a member of the group, Redis answers, and each of its partitions has caught up with where the log ended when
// it was assigned.
func (s *Service) Ready(ctx context.Context) error {
	if !s.joined.Load() {
		return errors.New("not a member of the consumer group yet")
	}
	if err := s.deps.Redis.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, w := range s.workers {
		if !w.ready.Load() {
			return fmt.Errorf("partition %d is catching up: %d events to go", p, w.lag())
		}
	}
	return nil
}
