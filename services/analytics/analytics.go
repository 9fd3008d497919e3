package analytics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/topics"
)

const serviceName = "analytics"

// Group is the consumer group.
const Group = "onhand-analytics"

// Config is the settings of the service.
type Config struct {
	ClickHouse     ClickHouse    `embed:"" prefix:"clickhouse-"`
	FlushInterval  time.Duration `help:"Longest time a record waits for its insert; one that nothing follows goes in after a fifth of it." default:"2s" env:"ANALYTICS_FLUSH_INTERVAL"`
	MaxRows        int           `help:"Most rows in one insert." default:"100000" env:"ANALYTICS_MAX_ROWS"`
	TopicsRefresh  time.Duration `help:"How soon a new channel's topic is found." default:"10s" env:"ANALYTICS_TOPICS_REFRESH"`
	SessionTimeout time.Duration `help:"How long Kafka waits for a silent instance before others take its partitions." default:"45s" env:"ANALYTICS_SESSION_TIMEOUT"`
	Drain          time.Duration `help:"Longest time to insert what has been read, when asked to stop." default:"15s" env:"ANALYTICS_DRAIN"`
}

// DefaultConfig is the settings that the flags have by default.
func DefaultConfig() Config {
	return Config{
		ClickHouse: ClickHouse{
			URL: "http://127.0.0.1:8123", Database: "onhand", User: "default", Timeout: time.Minute,
		},
		FlushInterval: 2 * time.Second, MaxRows: 100_000, TopicsRefresh: 10 * time.Second, SessionTimeout: 45 * time.Second, Drain: 15 * time.Second,
	}
}

// Validate reports every fault of the settings.
func (c Config) Validate() error {
	errs := []error{c.ClickHouse.validate()}
	if c.FlushInterval < 10*time.Millisecond || c.FlushInterval > time.Hour {
		errs = append(errs, fmt.Errorf("flush-interval %s: want 10ms to 1h", c.FlushInterval))
	}
	if c.MaxRows < 1 || c.MaxRows > 500_000 { // beyond this ClickHouse would split a block, and the token would not stand for all of it
		errs = append(errs, fmt.Errorf("max-rows %d: want 1 to 500000", c.MaxRows))
	}
	if c.TopicsRefresh < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("topics-refresh %s: want at least 100ms", c.TopicsRefresh))
	}
	if c.SessionTimeout < time.Second {
		errs = append(errs, fmt.Errorf("session-timeout %s: want at least 1s", c.SessionTimeout))
	}
	if c.Drain < 0 {
		errs = append(errs, fmt.Errorf("drain %s: want 0 or more", c.Drain))
	}
	return errors.Join(errs...)
}

// Deps is what the service is given.
type Deps struct {
	Kafka      kafka.Config
	Codec      *topics.Codec
	Telemetry  *telemetry.Telemetry
	Middleware []func(http.Handler) http.Handler // around the routes: authentication, limits
}

// Service is one instance. Make it with New; Run it once.
type Service struct {
	cfg  Config
	deps Deps
	log  *slog.Logger

	client   *kgo.Client // consumes as a member of the group, and produces to stock.rejected
	query    driver.Conn
	inserter *inserter
	sinks    []*sink
	wake     chan struct{} // a sink has room again

	own   sync.RWMutex // held for reading while offsets are committed, so that no partition moves away meanwhile
	parts map[partition]*part

	migrated atomic.Bool
	assigned atomic.Bool
	trouble  atomic.Pointer[string] // why inserts or migrations fail now; nil when they do not
	rejected atomic.Int64
	fatal    context.CancelCauseFunc

	rowsTotal, insertsTotal, retriesTotal, rejectedTotal metric.Int64Counter
	insertSeconds                                        metric.Float64Histogram
}

// partition names one partition.
type partition struct {
	topic string
	id    int32
}

// part is one assignment of a partition to this instance.
type part struct {
	partition
	sink   *sink
	member string       // who this instance was in the group when it was given the partition
	lost   atomic.Bool  // set once, under Service.own held for writing
	high   atomic.Int64 // end of the partition, as last seen
	done   atomic.Int64 // first offset not yet in ClickHouse

	// Under sink.mu.
	next    int64 // first offset not yet queued; -1 when the log is read from its start
	blocked bool  // its last intent is not settled yet
	queue   []*kgo.Record
}

// New makes the service. It does not reach out before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Codec == nil || deps.Telemetry == nil {
		return nil, errors.New("analytics: Codec and Telemetry are needed")
	}
	s := &Service{
		cfg: cfg, deps: deps, log: deps.Telemetry.Log, parts: make(map[partition]*part), wake: make(chan struct{}, 1),
	}
	var err error
	if s.inserter, err = newInserter(cfg.ClickHouse); err != nil {
		return nil, err
	}
	opts, err := cfg.ClickHouse.options(cfg.ClickHouse.Database)
	if err != nil {
		return nil, err
	}
	if s.query, err = clickhouse.Open(opts); err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	for _, t := range tables {
		s.sinks = append(s.sinks, newSink(s, t))
	}
	m := deps.Telemetry.Meter
	var errs [5]error
	s.rowsTotal, errs[0] = m.Int64Counter("onhand_analytics_rows_total", metric.WithDescription("Rows inserted into ClickHouse, by table."))
	s.insertsTotal, errs[1] = m.Int64Counter("onhand_analytics_inserts_total", metric.WithDescription("Inserts that ClickHouse acknowledged, by table."))
	s.retriesTotal, errs[2] = m.Int64Counter("onhand_analytics_retries_total", metric.WithDescription("Inserts that were sent again, by table."))
	s.rejectedTotal, errs[3] = m.Int64Counter("onhand_analytics_rejected_total", metric.WithDescription("Records sent to stock.rejected, by reason."))
	s.insertSeconds, errs[4] = m.Float64Histogram("onhand_analytics_insert_seconds", metric.WithDescription("Time of one insert."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	lag, err := m.Int64ObservableGauge("onhand_analytics_lag_records", metric.WithDescription("Records of the partitions held that are not in ClickHouse yet."))
	if err := errors.Join(append(errs[:], err)...); err != nil {
		return nil, fmt.Errorf("analytics metrics: %w", err)
	}
	if _, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(lag, s.Stats().Lag)
		return nil
	}, lag); err != nil {
		return nil, fmt.Errorf("analytics metrics: %w", err)
	}
	return s, nil
}

func tableAttr(name string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("table", name)))
}

// TableStats is what one table has taken in since the start.
type TableStats struct {
	Table        string
	Rows         int64
	Inserts      int64
	Redone       int64 // blocks of an earlier run, or of another instance, that were sent again
	LastInsertAt time.Time
}

// Stats is a picture of the service since its start. It costs next to nothing.
type Stats struct {
	Tables       []TableStats
	Rows         int64
	Inserts      int64
	Rejected     int64 // records sent to stock.rejected
	Queued       int64 // records read and not yet in ClickHouse
	Lag          int64 // records of the partitions held that are not in ClickHouse yet, as far as fetches have told
	Partitions   int   // held
	LastInsertAt time.Time
	Trouble      string // why ClickHouse takes nothing now; empty when it does
}

// Flush has what was taken in inserted now, for somebody who waits for it: the flush interval is for a stream that goes on.
func (s *Service) Flush() {
	for _, k := range s.sinks {
		k.hurry()
	}
}

// Stats is the present picture.
func (s *Service) Stats() Stats {
	out := Stats{Rejected: s.rejected.Load()}
	for _, k := range s.sinks {
		t := TableStats{Table: k.table.name, Rows: k.rowsIn.Load(), Inserts: k.inserts.Load(), Redone: k.redone.Load()}
		if at := k.lastInsert.Load(); at != 0 {
			t.LastInsertAt = time.UnixMicro(at)
			if t.LastInsertAt.After(out.LastInsertAt) {
				out.LastInsertAt = t.LastInsertAt
			}
		}
		out.Tables = append(out.Tables, t)
		out.Rows += t.Rows
		out.Inserts += t.Inserts
		out.Queued += k.pending.Load()
	}
	s.own.RLock()
	out.Partitions = len(s.parts)
	for _, p := range s.parts {
		out.Lag += max(0, p.high.Load()-max(0, p.done.Load()))
	}
	s.own.RUnlock()
	if t := s.trouble.Load(); t != nil {
		out.Trouble = *t
	}
	return out
}

// Ready is nil when the schema is up to date, the group has given this instance its partitions, and ClickHouse answers and takes inserts.
func (s *Service) Ready(ctx context.Context) error {
	if t := s.trouble.Load(); t != nil {
		return errors.New(*t)
	}
	if !s.migrated.Load() {
		return errors.New("schema of ClickHouse is not checked yet")
	}
	if !s.assigned.Load() {
		return errors.New("no partitions assigned yet")
	}
	if err := s.query.Ping(ctx); err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	return nil
}

// retry calls f until it succeeds, ctx ends, or it fails with errStop, waiting longer each time, up to five seconds.
func (s *Service) retry(ctx context.Context, what string, f func() error) error {
	wait := 50 * time.Millisecond
	for failed := false; ; failed = true {
		err := f()
		if err == nil {
			if failed {
				s.trouble.Store(nil)
				s.log.InfoContext(ctx, "works again", "what", what)
			}
			return nil
		}
		var stop *stopError
		if errors.As(err, &stop) {
			return stop.error
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		}
		text := what + ": " + err.Error()
		s.trouble.Store(&text)
		s.log.WarnContext(ctx, "failed, will be tried again", "what", what, "wait", wait, "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(wait*2, 5*time.Second)
	}
}

// stopError is an error that another try would not help.
type stopError struct{ error }
