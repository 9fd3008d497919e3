package allinone

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/allinone/figures"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/topics"
)

const (
	sampleEvery   = time.Second
	latencyWindow = 60 // samples
	keptAlerts    = 20
)

// sampler turns counters into what a person wants to see: rates, recent latencies, the last alerts, what is not ready.
type sampler struct {
	p *Process

	mu       sync.Mutex
	totals   []int64
	at       time.Time
	rates    []float64
	hist     []*hdrhistogram.Snapshot // of all latencies since the start, one a sample
	notReady []figures.Check
	checked  bool
	alerts   []figures.Alert // newest first
	rejected int64
	memory   int64
	refused  int64
}

func newSampler(p *Process) *sampler {
	return &sampler{p: p, totals: make([]int64, len(p.parts)), rates: make([]float64, len(p.parts)), at: time.Now(), refused: -1}
}

// run samples until ctx ends.
func (m *sampler) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.watch(ctx) })
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		m.sample(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *sampler) sample(ctx context.Context) {
	checking, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var notReady []figures.Check
	for _, s := range m.p.parts {
		if err := s.ready(checking); err != nil {
			notReady = append(notReady, figures.Check{Name: s.name, Reason: err.Error()})
		}
	}
	if err := m.p.Err(); err != nil {
		notReady = append(notReady, figures.Check{Name: "process", Reason: err.Error()})
	}
	memory, refused := resident(), int64(-1)
	if m.p.deps.Refused != nil {
		refused = m.p.deps.Refused()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	passed := now.Sub(m.at).Seconds()
	for i, s := range m.p.parts {
		n := s.total()
		if passed > 0 {
			m.rates[i] = float64(n-m.totals[i]) / passed
		}
		m.totals[i] = n
	}
	m.at, m.notReady, m.checked, m.memory, m.refused = now, notReady, true, memory, refused
	if m.p.Pusher != nil {
		if len(m.hist) > latencyWindow {
			m.hist = m.hist[1:]
		}
		m.hist = append(m.hist, m.p.Pusher.Latencies().Export())
	}
}

// recentLatency is the distribution of the last minute: what was recorded since the oldest sample that is kept.
func (m *sampler) recentLatency() figures.Latency {
	if len(m.hist) == 0 {
		return figures.Latency{}
	}
	newest, oldest := m.hist[len(m.hist)-1], m.hist[0]
	diff := *newest
	diff.Counts = slices.Clone(newest.Counts)
	if len(m.hist) > latencyWindow { // a whole window has passed
		for i := range min(len(diff.Counts), len(oldest.Counts)) {
			diff.Counts[i] = max(0, diff.Counts[i]-oldest.Counts[i])
		}
	}
	h := hdrhistogram.Import(&diff)
	if h.TotalCount() == 0 {
		return figures.Latency{}
	}
	q := func(p float64) float64 { return float64(h.ValueAtQuantile(p)) / 1000 }
	return figures.Latency{Count: h.TotalCount(), P50: q(50), P95: q(95), P99: q(99)}
}

// watch follows alerts and rejected records.
func (m *sampler) watch(ctx context.Context) {
	client, err := m.p.deps.Kafka.Client(m.p.deps.Telemetry.Log, "onhand-console",
		kgo.ConsumeTopics(schemas.StockAlerts, schemas.StockRejected), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		m.p.deps.Telemetry.Log.Warn("alerts are not shown", "err", err)
		return
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return
		}
		m.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Topic == schemas.StockRejected {
				m.rejected++
				return
			}
			a, err := topics.DecodeAlert(r.Value)
			if err != nil {
				return // the console shows what it can read
			}
			m.alerts = slices.Insert(m.alerts, 0, figures.Alert{At: time.UnixMicro(a.At), Kind: alertName(a.Kind), SKU: a.SKU, Channel: a.Channel, Message: a.Message})
			if len(m.alerts) > keptAlerts {
				m.alerts = m.alerts[:keptAlerts]
			}
		})
		m.mu.Unlock()
	}
}

func alertName(k alert.Kind) string {
	switch k {
	case alert.Oversold:
		return "oversold"
	case alert.Drift:
		return "drift"
	case alert.ChannelStuck:
		return "channel stuck"
	case alert.Anomaly:
		return "anomaly"
	case alert.Reorder:
		return "reorder"
	case alert.LedgerMismatch:
		return "ledger mismatch"
	case alert.ExposureBreach:
		return "exposure breach"
	case alert.ExposureShortage:
		return "exposure shortage"
	case alert.NumberRaised:
		return "number raised"
	}
	return "alert"
}

// Figures is the process at this moment. It is cheap, and safe for concurrent use.
func (p *Process) Figures() figures.Figures {
	m := p.meter
	f := figures.Figures{At: time.Now(), StartedAt: p.began, Version: p.deps.Version, Pushes: []figures.Push{}, Alerts: []figures.Alert{}}
	m.mu.Lock()
	f.NotReady, f.Rejected, f.Memory, f.Refused = m.notReady, m.rejected, m.memory, m.refused
	f.Ready = m.checked && len(m.notReady) == 0
	f.Sync = m.recentLatency()
	f.Alerts = append(f.Alerts, m.alerts...)
	rates := slices.Clone(m.rates)
	m.mu.Unlock()
	for i, s := range p.parts {
		st := figures.Stage{Name: s.name, Unit: s.unit, Total: s.total(), PerSecond: rates[i], Lag: s.lag()}
		f.Backlog += st.Lag
		f.Stages = append(f.Stages, st)
	}
	f.Quiet = f.Backlog == 0
	if p.Projector != nil {
		f.Oversold = p.Projector.Stats().OversoldUnits
	}
	if p.deps.Replay != nil {
		f.Replay = p.deps.Replay()
	}
	if p.Pusher != nil {
		recent := p.Pusher.Stats().Recent
		for i := len(recent) - 1; i >= 0; i-- {
			r := &recent[i]
			f.Pushes = append(f.Pushes, figures.Push{At: r.At, Channel: r.Channel, SKU: r.SKU, Quantity: r.Quantity, Outcome: r.Outcome.String(), Detail: r.Detail,
				Millis: float64(r.Latency.Microseconds()) / 1000})
		}
	}
	f.Addresses = append([]figures.Address{{Name: "API", URL: p.URL()}}, p.deps.Addresses...)
	if p.cfg.Console {
		f.Addresses = append([]figures.Address{{Name: "console", URL: p.URL() + "/"}}, f.Addresses...)
	}
	return f
}

// Pending is what is on its way from an event to the channels, as far as the services here know: cheaper than Figures.
func (p *Process) Pending() int64 {
	n := int64(0)
	for _, s := range p.parts {
		if s.name != Analytics {
			n += s.lag()
		}
	}
	return n
}

// resident is the memory that the process holds, where the system tells.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
