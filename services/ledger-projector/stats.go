package ledgerprojector

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Stats is what the service has done since it started, and how far behind it is.
type Stats struct {
	Applied       int64           // events
	Duplicates    int64           // events whose id had been applied before
	Rejected      int64           // records that could not be applied
	Levels        int64           // levels emitted
	OversoldUnits int64           // by events applied since the start
	LastAppliedAt time.Time       // zero before the first
	Lag           map[int32]int64 // events in the log and not applied, by partition that this instance owns
	SKUsOwned     int64           // SKUs in memory; refreshed with each batch
	Streams       int             // streams of changes that are open
	SlowStreams   int64           // of them, ended because their readers were slow
}

// totals is Stats in the making.
type totals struct {
	applied, duplicates, rejected, levels, oversold, last atomic.Int64
}

func (t *totals) add(applied, duplicates, rejected, oversold, at int64) {
	t.applied.Add(applied)
	t.duplicates.Add(duplicates)
	t.rejected.Add(rejected)
	t.oversold.Add(oversold)
	t.last.Store(at)
}

// Stats is cheap; it may be called from any goroutine at any time.
func (s *Service) Stats() Stats {
	st := Stats{
		Applied: s.totals.applied.Load(), Duplicates: s.totals.duplicates.Load(), Rejected: s.totals.rejected.Load(),
		Levels: s.totals.levels.Load(), OversoldUnits: s.totals.oversold.Load(), Lag: make(map[int32]int64),
		Streams: s.feed.Open(), SlowStreams: s.feed.Dropped(),
	}
	if at := s.totals.last.Load(); at > 0 {
		st.LastAppliedAt = time.UnixMicro(at)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, w := range s.workers {
		st.Lag[p] = w.lag()
		st.SKUsOwned += w.skus.Load()
	}
	return st
}

// metrics is the service's instruments.
type metrics struct {
	batches             metric.Float64Histogram
	events              metric.Int64Histogram
	reloads, answered   metric.Int64Counter
	checked, mismatches metric.Int64Counter
}

func newMetrics(m metric.Meter, s *Service) (out metrics, err error) {
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	var e error
	out.batches, e = m.Float64Histogram("onhand_ledger_batch_seconds", metric.WithUnit("s"), metric.WithDescription("Time to fold and store a batch."),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .5, 2))
	keep(e)
	out.events, e = m.Int64Histogram("onhand_ledger_batch_events", metric.WithDescription("Events in a batch."),
		metric.WithExplicitBucketBoundaries(1, 10, 100, 500, 1000, 2000, 5000, 10000))
	keep(e)
	out.reloads, e = m.Int64Counter("onhand_ledger_reloads_total", metric.WithDescription("Times a partition's state was loaded again because Redis held another."))
	keep(e)
	out.answered, e = m.Int64Counter("onhand_ledger_levels_again_total", metric.WithDescription("Levels emitted again because another process had written one of the SKU after this owner."))
	keep(e)
	out.checked, e = m.Int64Counter("onhand_ledger_checked_skus_total", metric.WithDescription("SKUs in Redis that were compared with the digest that is kept along."))
	keep(e)
	out.mismatches, e = m.Int64Counter("onhand_ledger_digest_mismatches_total", metric.WithDescription("Times that SKUs in Redis were not what the ledger stored."))
	keep(e)
	events, e := m.Int64ObservableCounter("onhand_ledger_events_total", metric.WithDescription("Events by outcome: applied, duplicate, rejected."))
	keep(e)
	levels, e := m.Int64ObservableCounter("onhand_ledger_levels_total", metric.WithDescription("Levels emitted."))
	keep(e)
	oversold, e := m.Int64ObservableCounter("onhand_ledger_oversold_units_total", metric.WithDescription("Units that events left without stock."))
	keep(e)
	lag, e := m.Int64ObservableGauge("onhand_ledger_lag_events", metric.WithDescription("Events in the log and not applied, by partition owned."))
	keep(e)
	streams, e := m.Int64ObservableGauge("onhand_ledger_change_streams", metric.WithDescription("Streams of changes that are open."))
	keep(e)
	slow, e := m.Int64ObservableCounter("onhand_ledger_change_streams_slow_total", metric.WithDescription("Streams of changes that ended because their readers were slow."))
	keep(e)
	if err != nil {
		return out, err
	}
	_, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		st := s.Stats()
		for _, x := range []struct {
			outcome string
			n       int64
		}{{"applied", st.Applied}, {"duplicate", st.Duplicates}, {"rejected", st.Rejected}} {
			o.ObserveInt64(events, x.n, metric.WithAttributes(attribute.String("outcome", x.outcome)))
		}
		o.ObserveInt64(levels, st.Levels)
		o.ObserveInt64(oversold, st.OversoldUnits)
		for p, n := range st.Lag {
			o.ObserveInt64(lag, n, metric.WithAttributes(attribute.Int("partition", int(p))))
		}
		o.ObserveInt64(streams, int64(st.Streams))
		o.ObserveInt64(slow, st.SlowStreams)
		return nil
	}, events, levels, oversold, lag, streams, slow)
	return out, err
}

func (m *metrics) batch(ctx context.Context, n int, d time.Duration) {
	m.batches.Record(ctx, d.Seconds())
	m.events.Record(ctx, int64(n))
}
