package allocator

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/onhand/onhand/stock/targeting"
)

// Stats is how far the allocator is, and what it did since it started.
type Stats struct {
	Levels          int64         // taken in, the ones read again on assignment included
	Stale           int64         // of these, not newer than what was known
	Rejected        int64         // could not be read: in stock.rejected
	Targets         int64         // written
	Withdrawn       int64         // of these, because the channel no longer lists the SKU
	SKUs            int64         // known, in the partitions owned now
	Lag             int64         // levels not taken in yet
	SettingsVersion int64         // in force
	LastRecompute   time.Duration // of all SKUs after the last change of settings, until acknowledged
	LastBatch       time.Duration // from taking in to acknowledged

	Results    int64 // of granted writes, taken in
	Granted    int64 // writes
	Alerts     int64 // about exposure
	Booked     int64 // SKUs whose exposure is kept in books now
	Unsettled  int64 // of these, with a channel whose exposure waits for its order watermark, or is not known yet: not all there is can be given out
	Open       int64 // granted writes without a result
	LeastSlack int64 // smallest room of a SKU today, over the partitions owned; valid when Checked is not 0
	Checked    int64 // times today that the invariant was checked
	Breaches   int64 // of these, with less available than exposed
}

type counters struct {
	levels, stale, rejected, targets, withdrawn, skus, lag, settings, recompute, lastBatch atomic.Int64
	results, granted, alerts, booked, unsettled, open, slack, checked, breaches            atomic.Int64
	duration                                                                               metric.Float64Histogram
	risks                                                                                  atomic.Pointer[map[string]targeting.Risk]
}

func (c *counters) batch(ctx context.Context, took time.Duration) {
	c.lastBatch.Store(int64(took))
	c.duration.Record(ctx, took.Seconds())
}

// Stats is cheap: it may be called as often as a screen is drawn.
func (s *Service) Stats() Stats {
	c := &s.stats
	return Stats{
		Levels: c.levels.Load(), Stale: c.stale.Load(), Rejected: c.rejected.Load(), Targets: c.targets.Load(), Withdrawn: c.withdrawn.Load(),
		SKUs: c.skus.Load(), Lag: c.lag.Load(), SettingsVersion: c.settings.Load(), LastRecompute: time.Duration(c.recompute.Load()),
		LastBatch: time.Duration(c.lastBatch.Load()), Results: c.results.Load(), Granted: c.granted.Load(), Alerts: c.alerts.Load(), Booked: c.booked.Load(), Unsettled: c.unsettled.Load(),
		Open: c.open.Load(), LeastSlack: c.slack.Load(), Checked: c.checked.Load(), Breaches: c.breaches.Load(),
	}
}

// observe registers the metrics; stop removes them.
func (s *Service) observe() (stop func(), err error) {
	m := s.deps.Telemetry.Meter
	c := &s.stats
	if c.duration, err = m.Float64Histogram("onhand_allocator_batch_seconds", metric.WithUnit("s"),
		metric.WithDescription("From taking levels in to Kafka's acknowledgement of their targets."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)); err != nil {
		return nil, err
	}
	var all []metric.Observable
	var reads []func(metric.Observer)
	add := func(name, doc string, v *atomic.Int64, counts bool) {
		if err != nil {
			return
		}
		var o metric.Int64Observable
		if counts {
			o, err = m.Int64ObservableCounter(name, metric.WithDescription(doc))
		} else {
			o, err = m.Int64ObservableGauge(name, metric.WithDescription(doc))
		}
		all = append(all, o)
		reads = append(reads, func(to metric.Observer) { to.ObserveInt64(o, v.Load()) })
	}
	add("onhand_allocator_levels", "Stock levels taken in.", &c.levels, true)
	add("onhand_allocator_stale_levels", "Stock levels ignored, as not newer than what was known.", &c.stale, true)
	add("onhand_allocator_rejected_records", "Levels that could not be read and went to stock.rejected.", &c.rejected, true)
	add("onhand_allocator_targets", "Targets written.", &c.targets, true)
	add("onhand_allocator_withdrawn_targets", "Targets written because a channel no longer lists the SKU.", &c.withdrawn, true)
	add("onhand_allocator_skus", "SKUs known in the partitions owned.", &c.skus, false)
	add("onhand_allocator_lag_records", "Levels not taken in yet.", &c.lag, false)
	add("onhand_allocator_exposure_results", "Results of granted writes taken in.", &c.results, true)
	add("onhand_allocator_exposure_granted_writes", "Writes granted.", &c.granted, true)
	add("onhand_allocator_exposure_alerts", "Alerts about exposure.", &c.alerts, true)
	add("onhand_allocator_exposure_skus", "SKUs whose exposure is kept in books, in the partitions owned.", &c.booked, false)
	add("onhand_allocator_exposure_unsettled_skus", "Of these, SKUs with a channel whose exposure waits for its order watermark, or is not known yet.", &c.unsettled, false)
	add("onhand_allocator_exposure_open_writes", "Granted writes without a result.", &c.open, false)
	add("onhand_allocator_exposure_least_slack_units", "Smallest margin of what is available over what is exposed, of any SKU today.", &c.slack, false)
	add("onhand_allocator_exposure_checks", "Times today that the invariant was checked.", &c.checked, false)
	add("onhand_allocator_exposure_breaches", "Of these, with less available than exposed, but for cancelled units that a channel put on sale again by itself before they were told.", &c.breaches, false)
	add("onhand_allocator_settings_version", "Version of the settings in force.", &c.settings, false)
	if err != nil {
		return nil, err
	}
	skus, err := m.Int64ObservableGauge("onhand_allocator_oversell_risk_skus", metric.WithDescription("Pooled SKUs whose probability of an oversell at the channel, should stock run out now, is at least so much."))
	if err != nil {
		return nil, err
	}
	units, err := m.Float64ObservableGauge("onhand_allocator_oversell_expected_units", metric.WithDescription("Units that the channel is expected to oversell of pooled SKUs, should all of them run out now."))
	if err != nil {
		return nil, err
	}
	all = append(all, skus, units)
	reads = append(reads, func(to metric.Observer) {
		for channel, r := range s.Risks() {
			to.ObserveFloat64(units, r.Units, metric.WithAttributes(attribute.String("channel", channel)))
			for i, at := range targeting.RiskLevels {
				to.ObserveInt64(skus, r.SKUs[i], metric.WithAttributes(attribute.String("channel", channel), attribute.String("at_least", strconv.FormatFloat(at, 'g', -1, 64))))
			}
		}
	})
	reg, err := m.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		for _, read := range reads {
			read(to)
		}
		return nil
	}, all...)
	if err != nil {
		return nil, err
	}
	return func() { _ = reg.Unregister() }, nil
}
