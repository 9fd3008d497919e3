package ingest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
)

// Stats is what came in since the start.
type Stats struct {
	Orders           int64 // accepted, from HTTP and orders.in
	Lines            int64 // of those orders
	Events           int64 // accepted, beside the orders' own
	Rejected         int64 // items refused, with their reason
	Duplicates       int64 // items that repeat another of their batch
	DuplicatesByKey  int64 // requests answered from memory, by Idempotency-Key
	SettingsChanged  int64 // catalog entries created, updated or deleted
	Bytes            int64 // of input, unpacked
	LastReceivedAt   int64 // Unix microseconds; 0 when nothing came in yet
	Unavailable      int64 // requests that Kafka or Redis failed
	OrdersInRejected int64 // records of orders.in that went to stock.rejected
	OrdersInLag      int64 // records of orders.in that are not taken in yet, as far as fetches have told
}

type counters struct {
	orders, lines, events, rejected, duplicates, byKey, settings, bytes, last, unavailable, ordersIn atomic.Int64
}

// Stats is cheap: a few atomic reads.
func (s *Service) Stats() Stats {
	c := &s.stats
	return Stats{
		Orders: c.orders.Load(), Lines: c.lines.Load(), Events: c.events.Load(), Rejected: c.rejected.Load(), Duplicates: c.duplicates.Load(),
		DuplicatesByKey: c.byKey.Load(), SettingsChanged: c.settings.Load(), Bytes: c.bytes.Load(), LastReceivedAt: c.last.Load(),
		Unavailable: c.unavailable.Load(), OrdersInRejected: c.ordersIn.Load(),
		OrdersInLag: s.behind.total(),
	}
}

// instruments is the service's metrics.
type instruments struct {
	requests, orders, lines, events, rejected, bytes, sweeps metric.Int64Counter
	seconds, ack, decided                                    metric.Float64Histogram
	reservations                                             metric.Int64Counter
}

func newInstruments(m metric.Meter) (*instruments, error) {
	var errs []error
	counter := func(name, unit, help string) metric.Int64Counter {
		c, err := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(help))
		errs = append(errs, err)
		return c
	}
	buckets := metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)
	seconds := func(name, help string) metric.Float64Histogram {
		h, err := m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(help), buckets)
		errs = append(errs, err)
		return h
	}
	i := &instruments{
		requests:     counter("onhand_ingest_requests", "", "HTTP requests by route and status."),
		orders:       counter("onhand_ingest_orders", "", "Orders accepted, by source (api or orders.in)."),
		lines:        counter("onhand_ingest_order_lines", "", "Order lines accepted, by source."),
		events:       counter("onhand_ingest_events", "", "Stock events accepted that came as such."),
		rejected:     counter("onhand_ingest_rejected", "", "Items refused, by source and reason."),
		bytes:        counter("onhand_ingest_received", "By", "Bytes of input, unpacked."),
		sweeps:       counter("onhand_ingest_sweeps", "", "Order lists of channels asked for, by channel and outcome."),
		reservations: counter("onhand_ingest_reservations", "", "Reservations asked for, by the state they got."),
		decided:      seconds("onhand_ingest_decision_duration", "Time until the ledger had decided on the events of a reservation."),
		seconds:      seconds("onhand_ingest_request_duration", "Time to answer a request."),
		ack:          seconds("onhand_ingest_ack_duration", "Time until Kafka had acknowledged a batch."),
	}
	return i, errors.Join(errs...)
}

// behind is how many records of orders.in are not taken in yet, by partition held.
type behind struct {
	mu sync.Mutex
	of map[int32]int64
}

func (b *behind) set(partition int32, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of == nil {
		b.of = make(map[int32]int64)
	}
	b.of[partition] = n
}

func (b *behind) forget(partitions []int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range partitions {
		delete(b.of, p)
	}
}

func (b *behind) total() (n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.of {
		n += x
	}
	return n
}

// observe publishes the lag as a metric, until stop.
func (b *behind) observe(m metric.Meter) (stop func() error, err error) {
	lag, err := m.Int64ObservableGauge("onhand_ingest_lag_records", metric.WithDescription("Records of orders.in not taken in yet, of the partitions held."))
	if err != nil {
		return nil, err
	}
	reg, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(lag, b.total())
		return nil
	}, lag)
	if err != nil {
		return nil, err
	}
	return reg.Unregister, nil
}
