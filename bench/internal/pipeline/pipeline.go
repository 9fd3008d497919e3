// Package pipeline measures the whole path: sales at simulated marketplaces, through ingest, ledger-projector, allocator and channel-pusher, back
// to every marketplace, and into ClickHouse. Onhand runs on embedded parts in this process; marketplaces and customers are another process.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/onhand/onhand/bench/internal/process"
	"github.com/onhand/onhand/bench/internal/report"
	"github.com/onhand/onhand/e2e/testbed"
)

// Config says what to run.
type Config struct {
	Rate    int // orders a second
	For     time.Duration
	Warmup  time.Duration
	Search  bool // find the highest rate
	StepFor time.Duration
	SKUs    int
	Flat    float64 // of the distribution's head
	Trace   float64 // share of orders
	Profile string  // directory; empty takes none
	Say     func(format string, args ...any)
}

// Figures is one run at one rate.
type Figures struct {
	Asked      int       `json:"asked_orders_per_s"`
	OrdersPS   float64   `json:"orders_per_s"` // taken in by ingest
	LinesPS    float64   `json:"lines_per_s"`
	AppliedPS  float64   `json:"ledger_events_per_s"`
	TargetsPS  float64   `json:"targets_per_s"`
	PushesPS   float64   `json:"pushes_per_s"`   // writes that channels acknowledged
	RequestsPS float64   `json:"requests_per_s"` // that carried them
	RowsPS     float64   `json:"clickhouse_rows_per_s"`
	InsertsPS  float64   `json:"clickhouse_inserts_per_s"`
	Sync       Quantiles `json:"sync_latency"`  // per sold line, to the last channel
	Write      Quantiles `json:"write_latency"` // per write
	ToldOf     float64   `json:"channels_per_line"`
	Unmoved    int       `json:"lines_that_changed_no_channel"`
	ToChannels Backlog   `json:"backlog_to_channels"`   // sales not reported, events, levels and writes on their way to the channels
	ToHouse    Backlog   `json:"backlog_to_clickhouse"` // records that are not in ClickHouse yet
	DrainMS    float64   `json:"drain_ms"`              // until everything was quiet after the load, ClickHouse included
	PeakBytes  int64     `json:"peak_bytes"`            // resident memory of Onhand's process, since its start
	CPUSeconds float64   `json:"cpu_seconds"`           // of Onhand with its embedded parts, in the window
	CPUCores   float64   `json:"cpu_cores"`
	WorldCPU   float64   `json:"world_cpu_cores"` // of the marketplaces and customers
	LateMS     float64   `json:"load_late_ms"`    // the load's worst lag behind its own plan
	Refused    int64     `json:"refused_units"`
	Oversold   int64     `json:"oversold_units"`
}

// Backlog is what waits, by samples of each half second.
type Backlog struct {
	Mean    float64 `json:"mean"`
	Max     int64   `json:"max"`
	End     int64   `json:"end"`   // when the load stopped
	Grows   bool    `json:"grows"` // the mean of the last third of the time is well above that of the first
	Samples []int64 `json:"samples"`
}

func (b *Backlog) add(n int64) {
	b.Samples = append(b.Samples, n)
	b.Max, b.End = max(b.Max, n), n
}

// judge sums up the samples. A backlog grows that is a half more in the last third than in the first, and by more than few, which is its usual
// up and down.
func (b *Backlog) judge(few float64) {
	avg := func(xs []int64) float64 {
		total := int64(0)
		for _, x := range xs {
			total += x
		}
		return float64(total) / float64(max(1, len(xs)))
	}
	third := len(b.Samples) / 3
	b.Mean = avg(b.Samples)
	b.Grows = avg(b.Samples[len(b.Samples)-third:]) > 1.5*avg(b.Samples[:third])+few
}

// sustained tells whether all that was asked for went through.
func (f *Figures) sustained() bool {
	return !f.ToChannels.Grows && !f.ToHouse.Grows && f.OrdersPS > 0.99*float64(f.Asked) && f.LateMS < 1000
}

func (b *Backlog) says() string {
	if b.Grows {
		return "GROWS"
	}
	return "does not grow"
}

func (f *Figures) growth() string {
	if f.ToChannels.Grows || f.ToHouse.Grows {
		return "grows"
	}
	return "does not grow"
}

// All is the benchmark's figures.
type All struct {
	Figures
	Highest int       `json:"highest_sustained_orders_per_s,omitempty"`
	Steps   []Figures `json:"steps,omitempty"`
}

// Bench runs it.
func Bench(ctx context.Context, cfg Config, root string, r *report.Report) (err error) {
	if cfg.Rate <= 0 || cfg.SKUs < 2 || cfg.For < time.Second {
		return errors.New("rate, SKUs and duration: want more than 0, 1 and 1 s")
	}
	if err := testbed.Install(ctx, testbed.PartClickHouse, func(s string) { cfg.Say("%s", s) }); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "onhand-bench-pipeline-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w, err := startWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Stop()) }()
	s, err := startSystem(ctx, root, dir, cfg.Trace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if r.Versions["clickhouse"], err = testbed.ClickHouseQuery(ctx, s.house, "SELECT version()"); err != nil {
		return err
	}
	cfg.Say("%d channels, %s SKUs", len(channels), report.Count(cfg.SKUs))
	if err := s.fill(ctx, w.url, cfg.SKUs); err != nil {
		return err
	}
	if err := w.Send(command{ReportTo: s.URL(), Key: key}); err != nil {
		return err
	}
	if _, err := w.next(); err != nil {
		return err
	}
	profile := ""
	if cfg.Profile != "" {
		profile = filepath.Join(cfg.Profile, "pipeline.pprof")
	}
	f, err := cfg.run(ctx, s, w, cfg.Rate, cfg.Warmup, cfg.For, profile)
	if err != nil {
		return err
	}
	all := All{Figures: f}
	if cfg.Search {
		if err := cfg.search(ctx, s, w, &all); err != nil {
			return err
		}
	}
	r.Figures = all
	rows(r, &all, cfg)
	return nil
}

// search goes up from the rate that was asked for in steps of half of it until the backlog grows; or down, when that rate was too much already.
func (cfg Config) search(ctx context.Context, s *system, w *world, all *All) error {
	step := max(1, cfg.Rate/2)
	up := all.sustained()
	rate := cfg.Rate
	if up {
		all.Highest = rate
	}
	for {
		if up {
			rate += step
		} else {
			rate -= step / 2
		}
		if rate <= 0 || rate > 100*cfg.Rate {
			return nil
		}
		f, err := cfg.run(ctx, s, w, rate, 2*time.Second, cfg.StepFor, "")
		if err != nil {
			return err
		}
		all.Steps = append(all.Steps, f)
		switch {
		case up && f.sustained():
			all.Highest = rate
		case up:
			return nil
		case f.sustained():
			all.Highest = rate
			return nil
		}
	}
}

// counts is the counters of all stages at one moment.
type counts struct {
	at                                                                     time.Time
	cpu                                                                    time.Duration
	orders, lines, applied, targets, pushes, requests, rows, inserts, over int64
}

func (s *system) counts() counts {
	in, led, al, pu, an := s.Ingest.Stats(), s.Projector.Stats(), s.Allocator.Stats(), s.Pusher.Stats(), s.Analytics.Stats()
	return counts{
		at: time.Now(), cpu: process.CPU(), orders: in.Orders, lines: in.Lines, applied: led.Applied, targets: al.Targets, pushes: pu.Applied, requests: pu.Requests,
		rows: an.Rows, inserts: an.Inserts, over: led.OversoldUnits,
	}
}

// run has customers buy at a rate and measures after the warm-up.
func (cfg Config) run(ctx context.Context, s *system, w *world, rate int, warmup, long time.Duration, profile string) (f Figures, err error) {
	cfg.Say("%s orders/s for %s", report.Count(rate), long)
	c, err := s.kafka.Client(s.tel.Log, "bench-watch")
	if err != nil {
		return f, err
	}
	defer c.Close()
	adm := kadm.NewClient(c)
	offsets, err := s.from(ctx, adm)
	if err != nil {
		return f, err
	}
	err = w.Send(command{Load: &load{Channels: channels, SKUs: cfg.SKUs, Flat: cfg.Flat, Rate: rate, Warmup: warmup, For: long, Prefix: fmt.Sprintf("%d-%d", time.Now().UnixMilli(), rate)}})
	if err != nil {
		return f, err
	}
	var before, after counts
	var b bought
	for done := false; !done; {
		m, err := w.next()
		if err != nil {
			return f, err
		}
		if err := s.Err(); err != nil {
			return f, err
		}
		switch {
		case m.Measuring:
			before = s.counts()
			if profile != "" {
				file, err := os.Create(profile)
				if err != nil {
					return f, err
				}
				defer func() { err = errors.Join(err, file.Close()) }()
				if err := pprof.StartCPUProfile(file); err != nil {
					return f, err
				}
			}
		case m.Progress != nil:
			f.ToChannels.add(s.Pending() + m.Progress.Unreported)
			f.ToHouse.add(s.Analytics.Stats().Lag)
		case m.Done != nil:
			after, b, done = s.counts(), *m.Done, true
			f.ToChannels.add(s.Pending() + b.Unreported)
			f.ToHouse.add(s.Analytics.Stats().Lag)
			if _, f.PeakBytes, err = process.Memory(os.Getpid()); err != nil {
				return f, err
			}
		}
	}
	if profile != "" {
		pprof.StopCPUProfile()
	}
	if err := s.quiesce(ctx); err != nil {
		return f, fmt.Errorf("after %d orders/s: %w", rate, err)
	}
	f.DrainMS = float64(time.Since(after.at).Microseconds()) / 1000
	secs := after.at.Sub(before.at).Seconds()
	per := func(a, b int64) float64 { return float64(b-a) / secs }
	f.Asked, f.OrdersPS, f.LinesPS, f.AppliedPS = rate, per(before.orders, after.orders), per(before.lines, after.lines), per(before.applied, after.applied)
	f.TargetsPS, f.PushesPS, f.RequestsPS, f.RowsPS = per(before.targets, after.targets), per(before.pushes, after.pushes), per(before.requests, after.requests), per(before.rows, after.rows)
	f.InsertsPS = per(before.inserts, after.inserts)
	f.CPUSeconds = (after.cpu - before.cpu).Seconds()
	f.CPUCores, f.WorldCPU, f.LateMS, f.Refused, f.Oversold = f.CPUSeconds/secs, b.CPU/b.Seconds, b.Late, b.RefusedUnits, after.over-before.over
	f.ToChannels.judge(0.2 * f.PushesPS) // what a fifth of a second brings
	f.ToHouse.judge(f.RowsPS)            // of a second: the time between inserts
	l, err := s.read(ctx, adm, offsets, before.at.UnixMicro(), after.at.UnixMicro())
	if err != nil {
		return f, err
	}
	f.Sync, f.Write, f.ToldOf, f.Unmoved = l.everywhere, l.write, l.writes, l.missing
	cfg.Say("  %s orders/s, %s pushes/s, sync p50 %.0f ms, p99 %.0f ms, backlog %s (%s), %.2f cores", report.Count(f.OrdersPS), report.Count(f.PushesPS), f.Sync.P50, f.Sync.P99,
		report.Count(f.ToChannels.Mean+f.ToHouse.Mean), f.growth(), f.CPUCores)
	return f, nil
}

func rows(r *report.Report, all *All, cfg Config) {
	f := &all.Figures
	r.Row("orders/s", report.Count(f.OrdersPS), "goal: 2,000 sustained on 2 cores")
	r.Row("order lines/s", report.Count(f.LinesPS), "")
	r.Row("targets/s", report.Count(f.TargetsPS), "")
	r.Row("pushes/s acknowledged", report.Count(f.PushesPS), fmt.Sprintf("in %s requests/s", report.Count(f.RequestsPS)))
	r.Row("ClickHouse rows/s", report.Count(f.RowsPS), fmt.Sprintf("in %.1f inserts/s", f.InsertsPS))
	r.Row("sync latency p50", fmt.Sprintf("%.1f ms", f.Sync.P50), "")
	r.Row("sync latency p95", fmt.Sprintf("%.1f ms", f.Sync.P95), "")
	r.Row("sync latency p99", fmt.Sprintf("%.1f ms", f.Sync.P99), "goal: < 500 ms")
	r.Row("sync latency max", fmt.Sprintf("%.1f ms", f.Sync.Max), "")
	r.Row("single writes p50 / p99", fmt.Sprintf("%.1f / %.1f ms", f.Write.P50, f.Write.P99), "")
	r.Row("backlog to channels, mean / at the end", report.Count(f.ToChannels.Mean)+" / "+report.Count(f.ToChannels.End), f.ToChannels.says())
	r.Row("backlog to ClickHouse, mean / at the end", report.Count(f.ToHouse.Mean)+" / "+report.Count(f.ToHouse.End), f.ToHouse.says())
	r.Row("quiet after the load", fmt.Sprintf("%.0f ms", f.DrainMS), "")
	r.Row("processor, Onhand and embedded parts", fmt.Sprintf("%.2f cores, %.1f s", f.CPUCores, f.CPUSeconds), fmt.Sprintf("marketplaces and customers: %.2f cores", f.WorldCPU))
	r.Row("peak memory", report.MB(all.PeakBytes), "")
	r.Row("units oversold / refused by marketplaces", report.Count(f.Oversold)+" / "+report.Count(f.Refused), "")
	if cfg.Search {
		r.Row("highest rate with no growing backlog", report.Count(all.Highest)+" orders/s", fmt.Sprintf("steps of %s s", report.Count(cfg.StepFor.Seconds())))
	}
	r.Note("Onhand with its embedded parts (Kafka, schema registry, Redis, ClickHouse engine) is one process with the settings of onhand up; %d marketplaces (%s) and their customers are another. "+
		"Customers buy at the marketplaces within that process; marketplaces report sales to the HTTP API and take writes over HTTP.", len(channels), strings.Join(channels, ", "))
	r.Note("%s SKUs by Zipf's law, exponent 1.01 (flatness %g), one to three lines of one or two units, every SKU in stock everywhere and pooled, so that each sale changes the number of every channel. "+
		"%.0f %% of orders are traced.", report.Count(cfg.SKUs), cfg.Flat, 100*cfg.Trace)
	r.Note("Sync latency: per sold line, from its receipt by Onhand to the acknowledgement of the last channel whose number it changed (%.1f channels a line); read from stock.events and channel.writes afterwards. "+
		"A write carries all changes of its SKU since the last, and counts for each.", f.ToldOf)
}
