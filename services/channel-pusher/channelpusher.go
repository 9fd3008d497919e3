// Package channelpusher tells the sales channels what to show.
//
// It follows targets.<channel>, keeps the latest target of each SKU in a queue per channel account, and writes them: scarce SKUs and
// decreases first, in batches, within the account's limits. What each write did goes to channel.writes. A write whose outcome nobody told is read
// back before anything else is written for that SKU. The group's offsets pass a target only when it is settled or superseded, so that a restart
// loses nothing and writes little again.
//
// On start every partition is read from its beginning: targets that were settled before are only remembered, to compare them with what the
// channel shows.
package channelpusher

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/outgoing"
	"github.com/onhand/onhand/platform/secret"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/services/channel-pusher/adapter/httpjson"
	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

const (
	service = "channel-pusher"
	// Group is the consumer group that follows the targets.
	Group = "onhand-channel-pusher"
)

// Config is how the pusher works, channels apart: these are in the catalog.
type Config struct {
	SecretsDir      string        `help:"Folder of files that hold channels' tokens, each named like its secret; the environment's ONHAND_SECRET_<NAME> comes first." env:"SECRETS_DIR"`
	AllowPrivate    bool          `help:"Let channels be at private or loopback addresses." env:"PUSHER_ALLOW_PRIVATE"`
	Linger          time.Duration `help:"How long a busy channel gathers a batch. An idle one never waits." default:"20ms" env:"PUSHER_LINGER"`
	DriftSample     int           `help:"SKUs compared with what each idle channel shows, each time; 0 compares none." default:"5" env:"PUSHER_DRIFT_SAMPLE"`
	DriftEvery      time.Duration `help:"How often an idle channel is compared." default:"10s" env:"PUSHER_DRIFT_EVERY"`
	DriftGrace      time.Duration `help:"How long a difference may last before it is drift: longer than a sale takes to reach the ledger." default:"10s" env:"PUSHER_DRIFT_GRACE"`
	BreakerFailures int           `help:"A channel is left alone when this many of twice as many requests failed." default:"5" env:"PUSHER_BREAKER_FAILURES"`
	BreakerDelay    time.Duration `help:"How long it is left alone before one request tries again." default:"5s" env:"PUSHER_BREAKER_DELAY"`
	StuckAfter      time.Duration `help:"Alert when a channel failed for this long." default:"1m" env:"PUSHER_STUCK_AFTER"`
	BacklogAfter    time.Duration `help:"Alert when a target waited for this long." default:"5m" env:"PUSHER_BACKLOG_AFTER"`
	CommitEvery     time.Duration `help:"How often offsets are committed." default:"250ms" env:"PUSHER_COMMIT_EVERY"`
	Session         time.Duration `help:"How long an instance may be silent before its partitions go to another; the broker bounds it." default:"10s" env:"PUSHER_SESSION"`
	Drain           time.Duration `help:"How long requests under way may take to end when the service stops." default:"4s" env:"PUSHER_DRAIN"`

	instance string // part of write ids, unique to the process
	seed     uint64 // of the jitter
}

// DefaultConfig is the settings without any flag.
func DefaultConfig() Config {
	return Config{
		Linger: 20 * time.Millisecond, DriftSample: 5, DriftEvery: 10 * time.Second, DriftGrace: 10 * time.Second, BreakerFailures: 5,
		BreakerDelay: 5 * time.Second, StuckAfter: time.Minute, BacklogAfter: 5 * time.Minute, CommitEvery: 250 * time.Millisecond, Session: 10 * time.Second, Drain: 4 * time.Second,
	}
}

// queue is what the settings mean to a channel's queue.
func (c *Config) queue() queue.Config {
	return queue.Config{
		Linger: c.Linger, DriftSample: c.DriftSample, DriftEvery: c.DriftEvery, DriftGrace: c.DriftGrace, BreakerFailures: c.BreakerFailures,
		BreakerDelay: c.BreakerDelay, StuckAfter: c.StuckAfter, BacklogAfter: c.BacklogAfter, Instance: c.instance, Service: service, Seed: c.seed,
	}
}

// Validate reports every fault of the settings.
func (c Config) Validate() error {
	var errs []error
	positive := func(name string, d time.Duration) {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s %s: want more than 0", name, d))
		}
	}
	if c.Linger < 0 || c.Linger > time.Minute {
		errs = append(errs, fmt.Errorf("linger %s: want 0 to 1m", c.Linger))
	}
	if c.DriftSample < 0 || c.DriftSample > queue.ReadBatch {
		errs = append(errs, fmt.Errorf("drift-sample %d: want 0 to %d", c.DriftSample, queue.ReadBatch))
	}
	if c.BreakerFailures < 1 || c.BreakerFailures > 1000 {
		errs = append(errs, fmt.Errorf("breaker-failures %d: want 1 to 1000", c.BreakerFailures))
	}
	if c.Session < time.Second {
		errs = append(errs, fmt.Errorf("session %s: want at least 1s, and what the broker allows (6s by default)", c.Session))
	}
	positive("drift-every", c.DriftEvery)
	positive("drift-grace", c.DriftGrace)
	positive("breaker-delay", c.BreakerDelay)
	positive("stuck-after", c.StuckAfter)
	positive("backlog-after", c.BacklogAfter)
	positive("commit-every", c.CommitEvery)
	positive("drain", c.Drain)
	return errors.Join(errs...)
}

// Deps is what the pusher needs of the process. The caller runs the catalog.
type Deps struct {
	Kafka     kafka.Config
	Codec     *topics.Codec
	Catalog   *catalogview.View
	Telemetry *telemetry.Telemetry
	// Adapters adds wire formats by the name that channels' settings give; http is always there.
	Adapters map[string]adapter.Adapter
}

// Service writes targets to channels.
type Service struct {
	cfg      Config
	deps     Deps
	tel      *telemetry.Telemetry
	engine   *engine
	client   *kgo.Client
	closeAll func()             // ends idle connections
	stopped  context.CancelFunc // gives requests under way up
	telling  context.Context    // ends when results that are not durable must be given up
	silenced context.CancelFunc
	metrics  metric.Registration
	rejected atomic.Int64
	joined   atomic.Bool

	mu       sync.Mutex
	accounts map[string]*account
	came     map[string]map[int32]arrival // partitions that came to us
	sends    context.Context              // ends when nothing more is to be sent
	loops    sync.WaitGroup

	read   topics.TargetReader // of the poll loop, as what follows
	target allocation.Target
	names  map[string]string
}

// New makes the service. It does not reach out before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails
	var seed [8]byte
	_, _ = rand.Read(seed[:])
	cfg.instance, cfg.seed = hex.EncodeToString(id[:]), binary.NativeEndian.Uint64(seed[:])
	s := &Service{cfg: cfg, deps: deps, tel: deps.Telemetry.For(service), accounts: make(map[string]*account), came: make(map[string]map[int32]arrival), names: make(map[string]string)}
	client := outgoing.Client(cfg.AllowPrivate)
	s.closeAll = client.CloseIdleConnections
	store := &secret.Store{Dir: cfg.SecretsDir}
	flights, stopped := context.WithCancel(context.Background())
	s.stopped = stopped
	s.telling, s.silenced = context.WithCancel(context.Background())
	s.engine = &engine{
		cfg: cfg, out: s, adapters: map[string]adapter.Adapter{"http": httpjson.New(client)}, secret: store.Get, tracer: s.tel.Tracer, log: s.tel.Log,
		flights: flights, lease: &lease{session: cfg.Session},
	}
	for name, a := range deps.Adapters {
		s.engine.adapters[name] = a
	}
	_, err := deps.Kafka.Client(s.tel.Log, Group, kgo.WithHooks(ownClient{s}),
		kgo.ConsumerGroup(Group), kgo.ConsumeRegex(), kgo.ConsumeTopics(`^`+strings.ReplaceAll(schemas.TargetsPrefix, ".", `\.`)+`.+$`),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), // markers of transactions are passed, too: the committed offset reaches the end
		kgo.WithHooks(s.engine.lease), kgo.SessionTimeout(cfg.Session), kgo.HeartbeatInterval(cfg.Session/5),
		kgo.MetadataMaxAge(10*time.Second), kgo.MetadataMinAge(100*time.Millisecond), kgo.FetchMaxWait(time.Second), kgo.FetchMaxBytes(8<<20),
		kgo.AdjustFetchOffsetsFn(s.fromStart), kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { s.joined.Store(true) }),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, lost map[string][]int32) { s.giveUp(ctx, lost, true) }),
		kgo.OnPartitionsLost(func(ctx context.Context, _ *kgo.Client, lost map[string][]int32) { s.giveUp(ctx, lost, false) }),
		kgo.MaxBufferedRecords(100_000))
	if err != nil {
		stopped()
		return nil, err
	}
	if err := s.meter(s.tel.Meter); err != nil {
		s.client.Close()
		stopped()
		return nil, fmt.Errorf("metrics: %w", err)
	}
	deps.Catalog.OnChange(func(c catalogview.Change) {
		if c.Settings {
			s.configure()
		}
	})
	return s, nil
}

// arrival is how a partition was when it came to us.
type arrival struct {
	settled int64 // the group's committed offset, negative when there is none: nobody ever had it
	end     int64 // whoever had the partition before may have begun what is before that
	at      time.Time
	doubts  []queue.Doubt // as stored with the committed offset
}

// commitment is what is committed of a partition: how far its targets are settled and, as metadata, since when granted writes are in doubt.
type commitment struct {
	offset   int64
	metadata string
}

// commitmentOf is what to commit of a partition now.
func commitmentOf(p *partition) commitment {
	c := commitment{offset: p.Commit()}
	if d := p.Doubts(); len(d) > 0 {
		if b, err := json.Marshal(d); err == nil { // what is not told is waited for anew
			c.metadata = string(b)
		}
	}
	return c
}

// commitments is what to commit, by topic and partition.
type commitments map[string]map[int32]commitment

// put takes in what to commit of a partition.
func (c commitments) put(topic string, id int32, x commitment) {
	if c[topic] == nil {
		c[topic] = make(map[int32]commitment)
	}
	c[topic][id] = x
}

// add takes in what is to be committed of a partition and is not yet.
func (c commitments) add(p *partition) {
	if x := commitmentOf(p); x.offset > p.stored || x.offset == p.stored && x.metadata != p.told {
		c.put(p.topic, p.id, x)
	}
}

// doubtsOf reads the metadata of a commit. What cannot be read, as of an older version, tells nothing: then the wait begins anew.
func doubtsOf(metadata string) (out []queue.Doubt) {
	if json.Unmarshal([]byte(metadata), &out) != nil {
		return nil
	}
	return out
}

// unknownEnd takes every target there is, and that comes, for one that somebody may have begun.
const unknownEnd = math.MaxInt64

// ownClient gives a service its client before the client does anything: partitions may come, and be asked about, while it is still being made.
type ownClient struct{ s *Service }

// OnNewClient implements kgo.HookNewClient.
func (o ownClient) OnNewClient(c *kgo.Client) { o.s.client = c }

// fromStart notes what the group has settled, and where the partitions end, and reads from the beginning all the same: settled targets are remembered.
func (s *Service) fromStart(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	names := slices.Collect(maps.Keys(offsets))
	ends, err := kadm.NewClient(s.client).ListEndOffsets(ctx, names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list the ends of %s: %w", strings.Join(names, ", "), err) // the session ends, and the next one tries again
	}
	stored, err := kadm.NewClient(s.client).FetchOffsetsForTopics(ctx, Group, names...)
	if err != nil {
		s.tel.Log.Warn("what was committed beside offsets cannot be read: granted writes that are in doubt are waited for anew", "err", err)
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, parts := range offsets {
		if s.came[t] == nil {
			s.came[t] = make(map[int32]arrival)
		}
		for p, o := range parts {
			x := arrival{settled: o.EpochOffset().Offset, end: unknownEnd, at: now}
			if end, ok := ends.Lookup(t, p); ok {
				x.end = end.Offset
			}
			if c, ok := stored.Lookup(t, p); ok && c.Err == nil && c.At == x.settled {
				x.doubts = doubtsOf(c.Metadata)
			}
			s.came[t][p] = x
			parts[p] = kgo.NewOffset().AtStart()
		}
	}
	return offsets, nil
}

// claim commits the start of partitions that nobody ever had, before anything of them is begun: so that no commit means that nothing was. Where that fails,
// what is there counts as begun.
func (s *Service) claim(ctx context.Context, fetches kgo.Fetches) {
	offsets := make(commitments)
	s.mu.Lock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if x, ok := s.came[p.Topic][p.Partition]; ok && x.settled < 0 && x.end != claimed {
			offsets.put(p.Topic, p.Partition, commitment{})
		}
	})
	s.mu.Unlock()
	if len(offsets) == 0 {
		return
	}
	err := s.commitOffsets(ctx, offsets)
	if err != nil && ctx.Err() == nil {
		s.tel.Log.Warn("first offsets could not be committed: granted writes that are there are looked into before others are made", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, parts := range offsets {
		for p := range parts {
			x := s.came[t][p]
			if err != nil {
				x.settled = 0
			} else {
				x.end = claimed
			}
			s.came[t][p] = x
		}
	}
}

// claimed is the end of a partition that nobody had before us.
const claimed = -1

// leaveWithin is the longest wait for Kafka to let the group be left.
const leaveWithin = 2 * time.Second

// Run writes targets until ctx ends, then waits for requests under way, commits and returns nil.
func (s *Service) Run(ctx context.Context) error {
	defer s.closeAll()
	defer kafka.Close(s.client, leaveWithin)
	defer s.stopped()
	defer s.silenced()
	defer func() { _ = s.metrics.Unregister() }() // fails only for a meter of another kind
	if err := s.deps.Catalog.WaitReady(ctx); err != nil {
		return nil // stopped before it began
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	s.mu.Lock()
	s.sends = sending
	s.mu.Unlock()
	s.configure()
	var helpers sync.WaitGroup
	helpers.Go(func() { s.commitLoop(sending) })
	helpers.Go(func() { s.watchLoop(sending) })
	s.consume(ctx)
	stop()
	s.loops.Wait()
	helpers.Wait()
	return s.drain()
}

// drain waits for requests under way and makes their results and offsets durable, each for a while. Granted writes that never left are told to be so.
func (s *Service) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Drain)
	defer cancel()
	defer context.AfterFunc(ctx, s.stopped)() // what still hangs then ends with an unknown outcome, and is not committed
	ctx2, cancel2 := context.WithTimeout(context.Background(), 2*s.cfg.Drain)
	defer cancel2()
	defer context.AfterFunc(ctx2, s.silenced)()
	for _, a := range s.all() {
		a.wg.Wait()
		a.mu.Lock()
		a.queue.Stop(time.Now())
		a.flush()
		a.mu.Unlock()
		a.wg.Wait()
	}
	if err := s.client.Flush(ctx2); err != nil {
		return fmt.Errorf("write results could not be sent: %w", err)
	}
	if err := s.commit(ctx2); err != nil {
		return fmt.Errorf("last offsets could not be committed; some targets will be written again: %w", err)
	}
	return nil
}

// consume reads targets until ctx ends.
func (s *Service) consume(ctx context.Context) {
	for {
		fetches := s.client.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			s.client.AllowRebalance()
			return
		}
		fetches.EachError(func(t string, p int32, err error) {
			if !errors.Is(err, context.Canceled) {
				s.tel.Log.Warn("fetching targets failed; trying again", "topic", t, "partition", p, "err", err)
			}
		})
		s.claim(ctx, fetches)
		var touched []*account
		fetches.EachTopic(func(t kgo.FetchTopic) {
			channel := strings.TrimPrefix(t.Topic, schemas.TargetsPrefix)
			a := s.account(channel)
			t.EachPartition(func(p kgo.FetchPartition) { s.take(a, t.Topic, p.Partition, p.Records, p.HighWatermark) })
			touched = append(touched, a)
		})
		for _, a := range touched {
			a.nudge()
		}
		s.client.AllowRebalance()
	}
}

// take gives one partition's records to its account.
func (s *Service) take(a *account, topic string, partition int32, records []*kgo.Record, high int64) {
	if len(records) == 0 {
		return
	}
	s.mu.Lock()
	came, ok := s.came[topic][partition]
	s.mu.Unlock()
	if !ok {
		came.end, came.at = unknownEnd, time.Now()
	}
	var bad []*kgo.Record
	var seqs []int64
	a.mu.Lock()
	now := time.Now()
	p := a.partition(topic, partition, came)
	p.high = max(p.high, high)
	for _, r := range records {
		if r.Attrs.IsControl() {
			p.Pass(r.Offset)
			continue
		}
		if len(r.Value) == 0 {
			a.queue.Removed(p.Partition, r.Offset, string(r.Key))
			continue
		}
		t, err := s.decode(r.Value)
		if err == nil && (t.SKU == "" || t.Channel != a.id) {
			err = fmt.Errorf("target of SKU %q for channel %q in topic %s", t.SKU, t.Channel, topic)
		}
		if err == nil && t.Write != nil && t.Write.Operation != write.UnspecifiedOperation && (t.Write.ID == "" || t.Write.Operation > write.Read) {
			err = fmt.Errorf("granted write %q of SKU %q with operation %d", t.Write.ID, t.SKU, t.Write.Operation)
		}
		if err != nil {
			seq := p.Skip(r.Offset)
			if r.Offset < came.settled {
				p.Done(seq)
				continue
			}
			seqs = append(seqs, seq) // the commit waits for the rejects, too
			bad = append(bad, s.deps.Codec.RejectedRecord(r, "undecodable", err.Error(), service, now))
			continue
		}
		var span *trace.SpanContext
		if sc := trace.SpanContextFromContext(telemetry.Extract(context.Background(), r)); sc.IsSampled() {
			span = &sc
		}
		a.queue.Take(p.Partition, r.Offset, t, span, now)
	}
	a.flush()
	a.mu.Unlock()
	if len(bad) == 0 {
		return
	}
	s.rejected.Add(int64(len(bad)))
	a.wg.Go(func() {
		if !s.produce(bad) {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, seq := range seqs {
			p.Done(seq)
		}
	})
}

// decode reads a target of the poll loop, good until the next call. What the queue keeps of it does not share the record's memory, which is that of all that
// was fetched with it.
func (s *Service) decode(value []byte) (*allocation.Target, error) {
	t := &s.target
	if err := s.read.Read(value, t); err != nil {
		return nil, err
	}
	t.SKU, t.ExternalID = s.name(t.SKU), s.name(t.ExternalID)
	if t.Write != nil {
		t.Write.ID = strings.Clone(t.Write.ID)
	}
	return t, nil
}

const maxNames = 1 << 20

// name is a string of its own for a SKU or an id at a channel, the same for all channels.
func (s *Service) name(n string) string {
	if own, ok := s.names[n]; ok {
		return own
	}
	if len(s.names) >= maxNames {
		clear(s.names)
	}
	n = strings.Clone(n)
	s.names[n] = n
	return n
}

// account finds a channel's account, or opens it and starts its queue.
func (s *Service) account(channel string) *account {
	s.mu.Lock()
	a := s.accounts[channel]
	if a != nil {
		s.mu.Unlock()
		return a
	}
	a = newAccount(s.engine, channel)
	s.accounts[channel] = a
	sends := s.sends
	s.mu.Unlock()
	a.configure(s.deps.Catalog.Settings().Channels[channel])
	s.loops.Go(func() { a.run(sends) })
	return a
}

func (s *Service) all() []*account {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*account, 0, len(s.accounts))
	for _, a := range s.accounts {
		out = append(out, a)
	}
	return out
}

// configure puts the catalog's channels in force, and looks for the topics of new ones.
func (s *Service) configure() {
	channels := s.deps.Catalog.Settings().Channels
	for _, a := range s.all() {
		c := channels[a.id]
		a.mu.Lock()
		same := c != nil && a.conf == c
		a.mu.Unlock()
		if !same {
			a.configure(c)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range channels {
		if s.accounts[id] == nil {
			s.client.ForceMetadataRefresh()
			return
		}
	}
}

// commitLoop commits what is settled. It also looks for topics of channels that have none yet, so that a new channel is picked up at once.
func (s *Service) commitLoop(ctx context.Context) {
	t := time.NewTicker(s.cfg.CommitEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := s.commit(ctx); err != nil && ctx.Err() == nil {
			s.tel.Log.Warn("committing offsets failed; trying again", "err", err)
		}
	}
}

// commit commits every partition up to its oldest target that is not settled.
func (s *Service) commit(ctx context.Context) error {
	offsets := make(commitments)
	for _, a := range s.all() {
		a.mu.Lock()
		for _, p := range a.parts {
			offsets.add(p)
		}
		a.mu.Unlock()
	}
	if len(offsets) == 0 {
		return nil
	}
	if err := s.commitOffsets(ctx, offsets); err != nil {
		return err
	}
	for _, a := range s.all() {
		topic := schemas.TargetsTopic(a.id)
		a.mu.Lock()
		for id, c := range offsets[topic] {
			if p := a.parts[id]; p != nil && c.offset >= p.stored {
				p.stored, p.told = c.offset, c.metadata
			}
		}
		a.mu.Unlock()
	}
	return nil
}

func (s *Service) watchLoop(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			for _, a := range s.all() {
				a.watch(now)
			}
			s.lookForTopics()
		}
	}
}

// lookForTopics refreshes the topic list while a channel that is written to has no account, which its topic brings.
func (s *Service) lookForTopics() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.deps.Catalog.Settings().Channels {
		if s.accounts[id] == nil && c.Written() && !s.assigned(id) {
			s.client.ForceMetadataRefresh()
			return
		}
	}
}

// assigned says whether partitions of the channel's topic are known. The caller holds mu.
func (s *Service) assigned(channel string) bool {
	return len(s.came[schemas.TargetsTopic(channel)]) > 0
}

// giveUp leaves partitions to another member: nothing of them is sent from now on, and requests under way are waited for.
func (s *Service) giveUp(ctx context.Context, lost map[string][]int32, ours bool) {
	offsets := make(commitments)
	for t, ids := range lost {
		s.mu.Lock()
		a := s.accounts[strings.TrimPrefix(t, schemas.TargetsPrefix)]
		s.mu.Unlock()
		if a == nil {
			continue
		}
		for _, id := range ids {
			a.mu.Lock()
			p := a.parts[id]
			delete(a.parts, id)
			a.queue.Revoke(id, time.Now())
			a.flush()
			a.mu.Unlock()
			if p == nil {
				continue
			}
			a.waitFor(ctx, p, s.cfg.Drain)
			a.mu.Lock()
			offsets.add(p)
			a.mu.Unlock()
		}
	}
	if ours && len(offsets) > 0 {
		if err := s.commitOffsets(ctx, offsets); err != nil {
			s.tel.Log.Warn("committing before handing partitions over failed: some targets will be written again", "err", err)
		}
	}
}

// waitFor waits until no request holds an item of the partition and its results are durable, at most d.
func (a *account) waitFor(ctx context.Context, p *partition, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		a.mu.Lock()
		busy := p.Busy()
		a.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (s *Service) commitOffsets(ctx context.Context, commits commitments) error {
	offsets := make(map[string]map[int32]kgo.EpochOffset, len(commits))
	for t, parts := range commits {
		offsets[t] = make(map[int32]kgo.EpochOffset, len(parts))
		for p, c := range parts {
			offsets[t][p] = kgo.EpochOffset{Epoch: -1, Offset: c.offset}
		}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				t.Partitions[j].Metadata = kmsg.StringPtr(commits[t.Topic][t.Partitions[j].Partition].metadata)
			}
		}
		return nil
	})
	var failed error
	s.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					failed = fmt.Errorf("topic %s partition %d: %w", t.Topic, p.Partition, err)
				}
			}
		}
	})
	return failed
}

// results implements outlet.
func (s *Service) results(out []outcome, settled func()) {
	records := make([]*kgo.Record, len(out))
	for i := range out {
		r := topics.Record(schemas.ChannelWrites, out[i].res.SKU, s.deps.Codec.AppendWrite(nil, &out[i].res))
		if out[i].span.IsSampled() {
			telemetry.Inject(trace.ContextWithSpanContext(context.Background(), out[i].span), r)
		}
		records[i] = r
	}
	if s.produce(records) && settled != nil {
		settled()
	}
}

// produce returns true when all records are acknowledged. It goes on trying; only the end of the service stops it.
func (s *Service) produce(records []*kgo.Record) bool {
	for {
		var mu sync.Mutex
		var failed []*kgo.Record
		var last error
		var wg sync.WaitGroup
		wg.Add(len(records))
		for _, r := range records {
			s.client.Produce(s.telling, r, func(r *kgo.Record, err error) {
				if err != nil {
					mu.Lock()
					failed, last = append(failed, &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers}), err
					mu.Unlock()
				}
				wg.Done()
			})
		}
		wg.Wait()
		if len(failed) == 0 {
			return true
		}
		if s.telling.Err() != nil {
			return false
		}
		s.tel.Log.Error("results could not be written to Kafka; trying again", "records", len(failed), "err", last)
		select {
		case <-s.telling.Done():
			return false
		case <-time.After(time.Second):
		}
		records = failed
	}
}

// alert implements outlet.
func (s *Service) alert(a alert.Alert) {
	key := a.SKU
	if key == "" {
		key = a.Channel
	}
	s.tel.Log.Warn(a.Message, "channel", a.Channel, "sku", a.SKU, "alert", a.ID)
	s.client.TryProduce(s.telling, topics.Record(schemas.StockAlerts, key, s.deps.Codec.AppendAlert(nil, &a)), func(_ *kgo.Record, err error) {
		if err != nil {
			s.tel.Log.Error("alert could not be written to Kafka", "alert", a.ID, "err", err)
		}
	})
}

// Audit has every SKU compared with what its channel shows, and what differs set right; Stats counts as Doubtful those that are still to be compared. It is
// for a moment at which no sale is on its way to Onhand.
func (s *Service) Audit() {
	for _, a := range s.all() {
		a.mu.Lock()
		a.queue.Audit(time.Now())
		a.mu.Unlock()
		a.nudge()
	}
}

// Ready is nil when the catalog is read and the group is joined.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.deps.Catalog.WaitReady(ctx); err != nil {
		return err
	}
	if !s.joined.Load() {
		return errors.New("not a member of the consumer group yet")
	}
	if err := s.client.Ping(ctx); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	return nil
}

// Idle waits until every target that was consumed is settled, its result is durable, and nothing is under way. Paused channels never get there.
func (s *Service) Idle(ctx context.Context) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		busy := ""
		for _, a := range s.all() {
			if a.busy() > 0 {
				busy = a.id
				break
			}
		}
		if busy == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("channel %s still has targets to write: %w", busy, ctx.Err())
		case <-t.C:
		}
	}
}
