package allocator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

// Config is how the allocator works.
type Config struct {
	Group      string        `help:"Consumer group." default:"onhand-allocator" env:"ALLOCATOR_GROUP"`
	PollMax    int           `help:"Most levels taken in at once: bursts of one SKU within them cost one decision." default:"10000" env:"ALLOCATOR_POLL_MAX"`
	WriteMax   int           `help:"Targets written before their acknowledgement is waited for; one SKU's targets may exceed it." default:"20000" env:"ALLOCATOR_WRITE_MAX"`
	WriteLimit time.Duration `help:"Longest wait for Kafka to acknowledge targets, and for a stop to finish what was begun." default:"30s" env:"ALLOCATOR_WRITE_LIMIT"`
	MaxSkew    time.Duration `help:"How far channels' clocks may be off: exposure falls when a channel's order watermark is so much past a write." default:"2s" env:"ALLOCATOR_MAX_SKEW"`
	Session    time.Duration `help:"How long an instance may be silent before its partitions go to another; the broker bounds it." default:"45s" env:"ALLOCATOR_SESSION"`
	Instance   string        `help:"Name of this instance, which no other may have at a time: with it, a restart does not wait for what its forerunner left half written. Empty makes one up." env:"ALLOCATOR_INSTANCE"`
}

// DefaultConfig is the settings that suit most.
func DefaultConfig() Config {
	return Config{Group: "onhand-allocator", PollMax: 10_000, WriteMax: 20_000, WriteLimit: 30 * time.Second, MaxSkew: time.Duration(escrow.DefaultSkew) * time.Microsecond, Session: 45 * time.Second}
}

// Validate reports every fault of the settings.
func (c Config) Validate() error {
	var errs []error
	if c.Group == "" {
		errs = append(errs, errors.New("group: give the consumer group a name"))
	}
	if c.PollMax < 1 {
		errs = append(errs, fmt.Errorf("poll-max %d: want at least 1", c.PollMax))
	}
	if c.WriteMax < 1 || c.WriteMax > 1_000_000 {
		errs = append(errs, fmt.Errorf("write-max %d: want 1 to 1000000", c.WriteMax))
	}
	if c.WriteLimit <= 0 {
		errs = append(errs, fmt.Errorf("write-limit %v: want more than 0", c.WriteLimit))
	}
	if c.MaxSkew < 0 || c.MaxSkew > time.Hour {
		errs = append(errs, fmt.Errorf("max-skew %v: want 0 to 1h", c.MaxSkew))
	}
	if c.Session < time.Second {
		errs = append(errs, fmt.Errorf("session %v: want at least 1s", c.Session))
	}
	return errors.Join(errs...)
}

// Deps is what the allocator needs.
type Deps struct {
	Kafka      kafka.Config
	Codec      *topics.Codec
	Catalog    *catalogview.View // the caller runs it, after New
	Telemetry  *telemetry.Telemetry
	Middleware func(http.Handler) http.Handler // wraps the HTTP API, as for authentication; nil for none
}

// Service is the allocator. Run does the work; the other methods may be called beside it.
type Service struct {
	cfg     Config
	deps    Deps
	txn     string // transactional id
	session *kgo.GroupTransactSession
	client  *kgo.Client // the session's
	adm     *kadm.Client
	side    *side
	feed    *side                      // of components of bundles
	fed     map[string]map[int32]int64 // offset after the last record taken in of it
	allots  *allotments
	adrift  atomic.Bool // partitions were given up since the last transaction

	// mu guards the engine and the partitions. It is never held while waiting for Kafka.
	mu         sync.Mutex
	engine     *targeting.Engine
	parts      map[int32]*owned
	sideStale  bool            // side reads partitions that were given up
	partitions int32           // of stock.levels; 0 until known
	ensured    map[string]bool // channels whose topic is there

	changes    changes
	records    []kgo.Record
	values     []byte
	pointers   []*kgo.Record
	topicNames map[string]string // by channel

	stats   counters
	joined  atomic.Bool
	started atomic.Bool
}

// owned is a partition this instance owns.
type owned struct {
	*targeting.Partition
	ours      bool  // the group's offsets of it were stable: nobody else can write for it any more
	loaded    bool  // books, targets and watermarks have been taken in
	end       int64 // end of the partition when it was assigned
	committed int64 // offset the group had; records before it were seen by someone
	high      int64 // end of the partition as last heard of
	heard     time.Time
	results   int64 // offset after the last result of a write taken in
	passed    int64 // offset after the last watermark taken in
}

func (s *Service) newOwned(id int32) *owned {
	return &owned{Partition: s.engine.Partition(id), heard: time.Now()}
}

// New makes an allocator. It does not reach out before Run. The catalog must not run yet.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.Kafka.Validate()); err != nil {
		return nil, fmt.Errorf("allocator: %w", err)
	}
	s := &Service{
		cfg: cfg, deps: deps, txn: transactionalID(cfg), engine: targeting.New(deps.Catalog.Listing, cfg.MaxSkew.Microseconds()), parts: make(map[int32]*owned), ensured: make(map[string]bool),
		topicNames: make(map[string]string),
	}
	s.changes.skus = make(map[string]struct{})
	deps.Catalog.OnChange(s.changes.add)
	s.engine.Own(s.ownerOf)
	return s, nil
}

// changes is what the catalog changed since it was last looked at, and how a waiting poll hears of it.
type changes struct {
	mu       sync.Mutex
	settings bool
	skus     map[string]struct{}
	pending  bool
	stop     context.CancelFunc // ends the poll under way
}

func (c *changes) add(ch catalogview.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings = c.settings || ch.Settings
	for _, sku := range ch.SKUs {
		c.skus[sku] = struct{}{}
	}
	c.wake()
}

// wake has the poll under way, or the next one, return at once. c.mu is held.
func (c *changes) wake() {
	c.pending = true
	if c.stop != nil {
		c.stop()
	}
}

func (c *changes) call() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake()
}

// waiting registers stop for the poll that begins.
func (c *changes) waiting(stop context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop = stop; stop == nil {
		c.pending = false
	} else if c.pending {
		stop()
	}
}

// take returns the changes, which the caller then owns.
func (c *changes) take() (settings bool, skus map[string]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	settings, skus = c.settings, c.skus
	c.settings = false
	if len(skus) > 0 {
		c.skus = make(map[string]struct{})
	}
	return settings, skus
}

// Run allocates until ctx ends, and then finishes what was begun. It returns nil after a requested stop. Call it once.
func (s *Service) Run(ctx context.Context) error {
	stop, err := s.observe()
	if err != nil {
		return fmt.Errorf("allocator: %w", err)
	}
	defer stop()
	watching, done := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watchRisk(watching)
	}()
	err = s.run(ctx)
	done()
	<-watched
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	return fmt.Errorf("allocator: %w", err)
}

func (s *Service) run(ctx context.Context) error {
	if err := s.deps.Catalog.WaitReady(ctx); err != nil {
		return err
	}
	for {
		err := s.serve(ctx)
		if !errors.Is(err, errSuperseded) {
			return err
		}
		s.deps.Telemetry.Log.WarnContext(ctx, "another instance owned partitions meanwhile, so what was decided is void; beginning anew", "err", err)
	}
}

// serve is one session, from joining the group until ctx ends or a transaction fails. What is in memory is then ahead of what was written, and thrown away.
func (s *Service) serve(ctx context.Context) error {
	if err := s.connect(); err != nil {
		return err
	}
	defer s.disconnect()
	found, err := s.adm.ListTopics(ctx, schemas.StockLevels, schemas.ChannelWrites, schemas.ChannelWatermarks, schemas.ExposureBooks)
	if err == nil {
		err = found.Error()
	}
	if err != nil {
		return fmt.Errorf("topic %s: %w", schemas.StockLevels, err)
	}
	partitions := int32(len(found[schemas.StockLevels].Partitions))
	for _, t := range found.Sorted() {
		if got := int32(len(t.Partitions)); got != partitions {
			return fmt.Errorf("topic %s has %d partitions and %s has %d: give them the same number", t.Topic, got, schemas.StockLevels, partitions)
		}
	}
	s.changes.take() // whatever changed so far is in the settings that are read now
	s.mu.Lock()
	s.deps.Catalog.Listings(func(l *catalog.Listing) bool {
		s.engine.Index(l.SKU, l)
		return true
	})
	s.mu.Unlock()
	if err := s.applySettings(ctx, partitions); err != nil {
		return err
	}
	s.started.Store(true)
	for ctx.Err() == nil {
		if err := s.turn(ctx); err != nil && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
			return err
		}
	}
	s.leaveBehind(ctx)
	return nil
}

// applySettings makes the topics of new channels and has all SKUs decided by the settings in force.
func (s *Service) applySettings(ctx context.Context, partitions int32) error {
	plan := catalog.Compile(s.deps.Catalog.Settings())
	var missing []kafka.Topic
	for _, ch := range plan.Channels {
		if !s.ensured[ch.ID] {
			missing = append(missing, topics.TargetsSpec(ch.ID, partitions))
		}
	}
	if len(missing) > 0 {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.WriteLimit)
		defer cancel()
		if err := kafka.EnsureTopics(ctx, s.client, s.deps.Kafka.Replication, missing); err != nil {
			return err
		}
		if err := s.checkPartitions(ctx, missing, partitions); err != nil {
			return err
		}
	}
	clear(s.ensured)
	for _, ch := range plan.Channels {
		s.ensured[ch.ID] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partitions = partitions
	s.engine.Settings(plan)
	s.stats.settings.Store(plan.Version)
	return nil
}

// checkPartitions refuses a targets topic that someone made with another number of partitions: a SKU would not stay in its partition.
func (s *Service) checkPartitions(ctx context.Context, made []kafka.Topic, partitions int32) error {
	names := make([]string, len(made))
	for i := range made {
		names[i] = made[i].Name
	}
	found, err := s.adm.ListTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("targets topics: %w", err)
	}
	for _, t := range found {
		if t.Err == nil && int32(len(t.Partitions)) != partitions {
			return fmt.Errorf("topic %s has %d partitions and %s has %d: give them the same number", t.Topic, len(t.Partitions), schemas.StockLevels, partitions)
		}
	}
	return nil
}

// Ready reports why the allocator does not decide for all its partitions yet, or nil.
func (s *Service) Ready(context.Context) error {
	if !s.started.Load() {
		return errors.New("allocator: the catalog has not been read yet")
	}
	if !s.joined.Load() {
		return errors.New("allocator: no partitions assigned yet")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	loading := 0
	for _, o := range s.parts {
		if !o.Live() {
			loading++
		}
	}
	if loading > 0 {
		return fmt.Errorf("allocator: loading %d of %d partitions", loading, len(s.parts))
	}
	return nil
}
