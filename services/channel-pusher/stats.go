package channelpusher

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/stock/write"
)

// Latency is a distribution of acked_at − oldest_received_at: from the receipt of the oldest event that a write carries to the channel's answer.
type Latency struct {
	Count               int64
	Mean, P50, P95, P99 time.Duration
	Max                 time.Duration
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	us := func(v int64) time.Duration { return time.Duration(v) * time.Microsecond }
	if h.TotalCount() == 0 {
		return Latency{}
	}
	return Latency{
		Count: h.TotalCount(), Mean: time.Duration(h.Mean() * float64(time.Microsecond)), P50: us(h.ValueAtQuantile(50)),
		P95: us(h.ValueAtQuantile(95)), P99: us(h.ValueAtQuantile(99)), Max: us(h.Max()),
	}
}

// Counts is what became of targets and requests since the start.
type Counts = queue.Counts

// ChannelStats is the state of one channel account.
type ChannelStats struct {
	Channel string
	Counts
	SKUs      int   // known targets
	Backlog   int   // targets queued, delayed or to be read back
	InDoubt   int   // granted writes of unknown outcome, that are waited out and read
	Lag       int64 // targets in Kafka and not taken in yet, as far as fetches have told
	InFlight  int   // requests under way
	Doubtful  int   // SKUs that may show too little until they have been looked at: they sold while a restart found out what is shown
	Paused    bool
	Breaker   string // closed, open or half-open
	LastError string
	Latency   Latency
}

// Push is one write, for a live view.
type Push struct {
	At       time.Time
	Channel  string
	SKU      string
	Quantity int64 // units the channel should show
	Outcome  write.Outcome
	Latency  time.Duration // 0 when no event is behind it
	Detail   string
}

// Stats is the state of the service. Taking it is cheap.
type Stats struct {
	Counts
	Rejected int64 // targets that could not be read
	Backlog  int
	InDoubt  int
	InFlight int
	Doubtful int
	Latency  Latency
	Channels []ChannelStats // by name
	Recent   []Push         // newest last
}

const recentPushes = 20

// recent is the last pushes.
type recent struct {
	mu   sync.Mutex
	ring [recentPushes]Push
	n    int
}

func (r *recent) add(out []queue.Outcome) {
	if len(out) > recentPushes {
		out = out[len(out)-recentPushes:]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range out {
		w := &out[i].Result
		p := Push{Channel: w.Channel, SKU: w.SKU, Quantity: int64(w.Quantity), Outcome: w.Outcome, Detail: w.ErrorCode, At: time.UnixMicro(max(w.AckedAt, w.SentAt))}
		if w.ShownKnown {
			p.Quantity = int64(w.Shown)
		}
		if w.AckedAt > 0 && w.OldestReceivedAt > 0 {
			p.Latency = time.Duration(w.AckedAt-w.OldestReceivedAt) * time.Microsecond
		}
		r.ring[r.n%recentPushes] = p
		r.n++
	}
}

func (r *recent) list() []Push {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Push, 0, recentPushes)
	for i := max(0, r.n-recentPushes); i < r.n; i++ {
		out = append(out, r.ring[i%recentPushes])
	}
	return out
}

// snapshot is the account's state; its latencies are added to all.
func (a *account) snapshot(all *hdrhistogram.Histogram) ChannelStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.queue.State()
	s := ChannelStats{
		Channel: a.id, Counts: x.Counts, SKUs: x.SKUs, Backlog: x.Backlog, InDoubt: x.InDoubt, InFlight: x.InFlight, Doubtful: x.Doubtful, Paused: x.Paused,
		Breaker: x.Breaker, LastError: x.LastError, Latency: latencyOf(a.queue.Latency()),
	}
	for _, p := range a.parts {
		s.Lag += max(0, p.high-p.Next())
	}
	all.Merge(a.queue.Latency())
	return s
}

// Stats is the state of the service now.
func (s *Service) Stats() Stats {
	out, _ := s.statsAndLatencies()
	return out
}

// Latencies is the distribution of acked_at − oldest_received_at over all channels, in microseconds. The caller owns it.
func (s *Service) Latencies() *hdrhistogram.Histogram {
	_, h := s.statsAndLatencies()
	return h
}

func (s *Service) statsAndLatencies() (Stats, *hdrhistogram.Histogram) {
	all := hdrhistogram.New(1, queue.MaxLatency, 2)
	out := Stats{Rejected: s.rejected.Load(), Recent: s.engine.recent.list()}
	for _, a := range s.all() {
		c := a.snapshot(all)
		out.Counts.Add(&c.Counts)
		out.Backlog += c.Backlog
		out.InDoubt += c.InDoubt
		out.InFlight += c.InFlight
		out.Doubtful += c.Doubtful
		out.Channels = append(out.Channels, c)
	}
	slices.SortFunc(out.Channels, func(x, y ChannelStats) int { return strings.Compare(x.Channel, y.Channel) })
	out.Latency = latencyOf(all)
	return out, all
}

// meter publishes the stats as metrics.
func (s *Service) meter(m metric.Meter) error {
	var err error
	counter := func(name, help string) metric.Int64ObservableCounter {
		c, e := m.Int64ObservableCounter(name, metric.WithDescription(help))
		if e != nil {
			err = e
		}
		return c
	}
	gauge := func(name, help string) metric.Int64ObservableGauge {
		g, e := m.Int64ObservableGauge(name, metric.WithDescription(help))
		if e != nil {
			err = e
		}
		return g
	}
	writes := counter("onhand_channel_pusher_writes_items", "Items written, by outcome.")
	retries := counter("onhand_channel_pusher_retries_items", "Items sent or read again.")
	superseded := counter("onhand_channel_pusher_superseded_targets", "Targets that a newer one replaced before they were settled.")
	requests := counter("onhand_channel_pusher_requests", "Requests to the channel.")
	failures := counter("onhand_channel_pusher_failures_requests", "Requests that failed as a whole.")
	throttled := counter("onhand_channel_pusher_throttled_requests", "Requests that the channel refused for their number.")
	drift := counter("onhand_channel_pusher_drift_items", "Items found to show something else than they should.")
	rejected := counter("onhand_channel_pusher_rejected_records", "Targets that could not be read.")
	backlog := gauge("onhand_channel_pusher_backlog_items", "Targets that wait to be written.")
	lag := gauge("onhand_channel_pusher_lag_records", "Targets in Kafka and not taken in yet.")
	inDoubt := gauge("onhand_channel_pusher_in_doubt_items", "Granted writes of unknown outcome, waited out before they are read.")
	inFlight := gauge("onhand_channel_pusher_in_flight_requests", "Requests under way.")
	p99, e := m.Float64ObservableGauge("onhand_channel_pusher_sync_latency_p99_seconds", metric.WithDescription("99th percentile since the start of acked_at - oldest_received_at."))
	if e != nil {
		err = e
	}
	if s.engine.syncLatency, e = m.Float64Histogram("onhand_channel_pusher_sync_latency_seconds", metric.WithUnit("s"),
		metric.WithDescription("acked_at - oldest_received_at: from the receipt of the oldest event behind a write to the channel's answer."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300)); e != nil {
		err = e
	}
	if err != nil {
		return err
	}
	s.metrics, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		st := s.Stats()
		o.ObserveInt64(rejected, st.Rejected)
		for i := range st.Channels {
			c := &st.Channels[i]
			ch := attribute.String("channel", c.Channel)
			at := metric.WithAttributes(ch)
			for _, w := range []struct {
				name string
				n    int64
			}{{"applied", c.Applied}, {"refused", c.Refused}, {"not_sent", c.NotSent}, {"unknown", c.Unknown}} {
				o.ObserveInt64(writes, w.n, metric.WithAttributes(ch, attribute.String("outcome", w.name)))
			}
			o.ObserveInt64(retries, c.Retries, at)
			o.ObserveInt64(superseded, c.Superseded, at)
			o.ObserveInt64(requests, c.Requests, at)
			o.ObserveInt64(failures, c.Failures, at)
			o.ObserveInt64(throttled, c.Throttled, at)
			o.ObserveInt64(drift, c.Drift, at)
			o.ObserveInt64(lag, c.Lag, at)
			o.ObserveInt64(backlog, int64(c.Backlog), at)
			o.ObserveInt64(inDoubt, int64(c.InDoubt), at)
			o.ObserveInt64(inFlight, int64(c.InFlight), at)
			o.ObserveFloat64(p99, c.Latency.P99.Seconds(), at)
		}
		return nil
	}, writes, retries, superseded, requests, failures, throttled, drift, rejected, lag, backlog, inDoubt, inFlight, p99)
	return err
}
