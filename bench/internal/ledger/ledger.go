// Package ledger measures the ledger-projector alone, on a real Kafka and a real Redis, and beside it on the same broker, topic and events: a
// Kafka Streams application that keeps the same ledger with exactly_once_v2, a plain consumer, and plain writes to Redis.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"runtime/pprof"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/bench/internal/process"
	"github.com/onhand/onhand/bench/internal/report"
	"github.com/onhand/onhand/e2e/testbed"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/services/ledger-projector/history"
	"github.com/onhand/onhand/topics"
)

const partitions = 8

var silent = telemetry.Silent()

// Config says what to run.
type Config struct {
	Events  int           // in the topic
	Shapes  []string      // names; empty means all
	Runs    int           // of the projector, of which the best counts, as the best of the peer's does
	Peer    string        // settings of the peer: best, full or none
	Rates   []float64     // shares of the highest rate at which latency is measured, or events a second; empty measures none
	For     time.Duration // how long, after a warm-up
	Large   int           // SKUs of the large ledger; 0 for none
	Profile string        // directory for processor profiles of the projector; empty takes none
	Say     func(format string, args ...any)
}

// Figures is the figures of one shape.
type Figures struct {
	Says         string    `json:"shape"`
	Events       int       `json:"events"`
	SKUs         int       `json:"skus"` // different ones
	EventsPS     float64   `json:"events_per_s"`
	VsStreams    float64   `json:"ratio_kafka_streams"`
	VsRaw        float64   `json:"ratio_raw_consume"`
	VsHSET       float64   `json:"ratio_hset"`
	VsStreamsCPU float64   `json:"ratio_cpu_kafka_streams"` // processor time of the peer and its broker over that of projector, Redis and broker: hardly depends on other load
	VsRawCPU     float64   `json:"ratio_cpu_raw_consume"`
	Runs         []Run     `json:"runs"` // the best first
	RawPS        float64   `json:"raw_consume_per_s"`
	RawCPU       CPU       `json:"raw_consume_cpu_us_per_event"`
	HSETPS       float64   `json:"hset_per_s"`
	At           Past      `json:"ledger_at"`
	Peer         peerRun   `json:"kafka_streams"` // at its best
	PeerRuns     []peerRun `json:"kafka_streams_runs"`
	LeftOut      string    `json:"kafka_streams_leaves_out"`

	Latency map[string]map[string]Latency `json:"latency,omitempty"` // of the projector and of the peer, by share of its own highest rate
}

// CPU is processor time, user and system, in microseconds an event.
type CPU struct {
	Process float64 `json:"process"` // of what is measured itself
	Redis   float64 `json:"redis"`
	Kafka   float64 `json:"kafka"`
	Total   float64 `json:"total"`
}

// Run is one run of the projector.
type Run struct {
	EventsPS float64 `json:"events_per_s"`
	Levels   int64   `json:"levels"` // emitted: one for each changed SKU and batch
	CPU      CPU     `json:"cpu_us_per_event"`
}

// Past is what "onhand ledger at" takes: the fold of one SKU's partition from its first event.
type Past struct {
	Events  int64   `json:"events"` // of the partition
	Seconds float64 `json:"seconds"`
}

const leftOut = "de-duplication by event id, the memory of open order lines, several locations, held, inbound and unsellable stock, unassigned commitments, " +
	"rejected records and alerts, and a view that others can read (its state is private to it and to its changelog topic)"

// Bench runs it.
func Bench(ctx context.Context, cfg Config, root string, r *report.Report) error {
	classes, err := buildPeer(ctx, root)
	if err != nil {
		return err
	}
	for name, at := range map[string][2]string{
		"kafka": {filepath.Join(root, ".parts", "kafka", "lib"), "kafka_2.13-"}, "kafka-streams": {filepath.Join(root, "bench", "peers", "kafka-streams", "target", "lib"), "kafka-streams-"},
	} {
		if r.Versions[name], err = report.JarVersion(at[0], at[1]); err != nil {
			return err
		}
	}
	chosen := make(map[string]bool)
	for _, name := range cfg.Shapes {
		chosen[name] = true
	}
	figures := make(map[string]*Figures)
	for _, s := range shapes() {
		if len(chosen) > 0 && !chosen[s.name] {
			continue
		}
		f, err := cfg.shape(ctx, s, classes, r)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		figures[s.name] = f
		r.Row(s.name+": events/s", report.Count(f.EventsPS), "goal: 6 × Kafka Streams, 0.4 × raw consumption")
		if len(f.PeerRuns) > 0 {
			r.Row(s.name+": Kafka Streams exactly_once_v2", report.Count(f.Peer.EventsPS), fmt.Sprintf("projector is %.2f ×; its best: %s", f.VsStreams, f.Peer.Setting))
		}
		r.Row(s.name+": raw franz-go consumption", report.Count(f.RawPS), fmt.Sprintf("projector is %.2f ×", f.VsRaw))
		r.Row(s.name+": pipelined HSET, one an event", report.Count(f.HSETPS), fmt.Sprintf("projector is %.2f ×", f.VsHSET))
		c, p := f.Runs[0].CPU, f.Peer.CPU
		r.Row(s.name+": CPU µs/event", fmt.Sprintf("%.2f = %.2f projector + %.2f Redis + %.2f Kafka", c.Total, c.Process, c.Redis, c.Kafka),
			fmt.Sprintf("Kafka Streams %.2f (%.2f + %.2f Kafka): %.2f ×; raw %.2f: %.2f ×", p.Total, p.Process, p.Kafka, f.VsStreamsCPU, f.RawCPU.Total, f.VsRawCPU))
		r.Row(s.name+": onhand ledger at", fmt.Sprintf("%.2f s", f.At.Seconds), fmt.Sprintf("folds the %s events of the SKU's partition: %s/s", report.Count(f.At.Events), report.Count(float64(f.At.Events)/f.At.Seconds)))
		r.Row(s.name+": levels emitted an event", fmt.Sprintf("%.3f", float64(f.Runs[0].Levels)/float64(f.Events)), "one for each changed SKU and batch")
	}
	if len(figures) == 0 {
		return fmt.Errorf("no shape of %v is known", cfg.Shapes)
	}
	all := make(map[string]any, len(figures)+1)
	for name, f := range figures {
		all[name] = f
	}
	for _, s := range shapes() {
		f := figures[s.name]
		if f == nil || len(cfg.Rates) == 0 {
			continue
		}
		if f.Latency, err = cfg.latencies(ctx, s, f, classes, r); err != nil {
			return fmt.Errorf("latency of %s: %w", s.name, err)
		}
	}
	if len(cfg.Rates) > 0 {
		r.Note("Latency: after %s of small produce and fetch requests on another topic, so that the broker has compiled what it runs, and %s of the load itself. Record batches made before are sent every %s, so that the generator takes little; it and the watchers are a process of their own, and share the machine with Kafka, Redis and what is measured. From the moment a batch "+
			"is handed to Kafka until Redis has its offset (asked every millisecond), or until a consumer of committed records has the level of the batch's last event.", warmFor, warmup, pace)
	}
	if cfg.Large > 0 {
		if all["million_skus"], err = cfg.many(ctx, r); err != nil {
			return fmt.Errorf("large ledger: %w", err)
		}
	}
	r.Figures = all
	r.Note("%s events are written to stock.events (%d partitions, lz4) before: half sales of one unit, then shipments and cancellations of them, receipts and adjustments. Kafka, Redis and "+
		"what is measured share the machine; only one is measured at a time.", report.Count(cfg.Events), partitions)
	r.Note("Projector: in the benchmark's process, from the assignment of its partitions until every event is applied in Redis and Kafka has acknowledged every level; best of %d runs, each "+
		"from an empty ledger.", cfg.Runs)
	r.Note("Kafka Streams: a process of its own, from the first event processed to the last; its start and its last commit do not count. Best of %d settings. It leaves out: %s.",
		len(settings(cfg.Peer)), leftOut)
	return nil
}

// latencies measures latency at shares of the highest rate, of the projector and of the peer at theirs, on a Kafka and a Redis of their own.
func (cfg Config) latencies(ctx context.Context, s shape, f *Figures, classes string, r *report.Report) (out map[string]map[string]Latency, err error) {
	out = map[string]map[string]Latency{"projector": {}, "kafka_streams": {}}
	codec, err := topics.NewCodec(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, share := range cfg.Rates {
		name, rate := fmt.Sprintf("at %.0f %%", 100*share), share*f.EventsPS
		if share > 1 { // it is a rate
			name, rate = fmt.Sprintf("at %.0f/s =", share), share
			share /= f.EventsPS
		}
		got, err := cfg.onParts(ctx, func(p *parts, _ string) (Latency, error) {
			return p.projectorLatency(ctx, codec, s, rate, warmup+cfg.For, cfg.profile(fmt.Sprintf("ledger-%s-at-%.0f", s.name, rate)))
		})
		if err != nil {
			return nil, err
		}
		out["projector"][name] = got
		baseline := fmt.Sprintf("goal at 50 %%: p99 20 ms; offered %s/s, sent %s/s, unfinished %d; %s", report.Count(got.Offered), report.Count(got.Sent), got.Unfinished, got.Cores)
		r.Row(s.name+": latency "+name+" of the projector's peak: Redis p50, p99", fmt.Sprintf("%.1f, %.1f ms", got.RedisP50, got.RedisP99), baseline)
		r.Row(s.name+": latency "+name+" of the projector's peak: stock.levels p50, p99", fmt.Sprintf("%.1f, %.1f ms", got.LevelsP50, got.LevelsP99), baseline)
		cfg.Say("%s: latency %s: Redis p99 %.1f ms, levels p99 %.1f ms; sent %s/s, %s", s.name, name, got.RedisP99, got.LevelsP99, report.Count(got.Sent), got.Cores)
		if f.Peer.EventsPS == 0 {
			continue
		}
		got, err = cfg.onParts(ctx, func(p *parts, dir string) (Latency, error) {
			return p.peerLatency(ctx, s, classes, schemas.StockEvents, schemas.StockLevels, dir, f.Peer.Setting, share*f.Peer.EventsPS, warmup+cfg.For)
		})
		if err != nil {
			return nil, err
		}
		out["kafka_streams"][name] = got
		r.Row(s.name+": latency "+name+" of the peer's peak: its levels p50, p99", fmt.Sprintf("%.1f, %.1f ms", got.LevelsP50, got.LevelsP99),
			fmt.Sprintf("offered %s/s, sent %s/s, unfinished %d", report.Count(got.Offered), report.Count(got.Sent), got.Unfinished))
		cfg.Say("%s: latency %s: Kafka Streams p99 %.1f ms", s.name, name, got.LevelsP99)
	}
	return out, nil
}

// many measures a large ledger.
func (cfg Config) many(ctx context.Context, r *report.Report) (Large, error) {
	codec, err := topics.NewCodec(ctx, nil)
	if err != nil {
		return Large{}, err
	}
	var l Large
	_, err = cfg.onParts(ctx, func(p *parts, _ string) (Latency, error) {
		var err error
		l, err = p.large(ctx, codec, cfg.Large, cfg.profile("ledger-cold-start"))
		return Latency{}, err
	})
	if err != nil {
		return Large{}, err
	}
	r.Row(report.Count(cfg.Large)+" SKUs: memory", fmt.Sprintf("%d MB in the projector, %d MB in Redis", l.HeapMB, l.RedisMB), "one location, one event each")
	r.Row(report.Count(cfg.Large)+" SKUs: cold start", fmt.Sprintf("%.1f s", l.ColdStart), fmt.Sprintf("goal: 10 s; %.1f s of the projector's processor time", l.ColdStartCPU))
	for _, x := range l.Reads {
		r.Row(fmt.Sprintf("%s SKUs: read %s, %d at once", report.Count(cfg.Large), x.What, x.Callers), x.String(), fmt.Sprintf("%s answers/s, %s SKUs/s", report.Count(x.PerS), report.Count(x.SKUsPS)))
	}
	r.Note("Reads: GET and POST /v1/availability, by callers in the projector's process, each of which makes its next call when the one before is answered; nothing else happens meanwhile.")
	cfg.Say("%s SKUs: cold start %.1f s", report.Count(cfg.Large), l.ColdStart)
	return l, nil
}

// onParts runs f on a Kafka and a Redis of its own, with the topics made.
func (cfg Config) onParts(ctx context.Context, f func(p *parts, dir string) (Latency, error)) (out Latency, err error) {
	dir, err := os.MkdirTemp("", "onhand-bench-ledger-")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := startParts(ctx, dir)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	c, err := p.kafka.Client(silent.Log, "bench")
	if err != nil {
		return out, err
	}
	defer c.Close()
	if err := kafka.EnsureTopics(ctx, c, p.kafka.Replication, topics.Specs(partitions)); err != nil {
		return out, err
	}
	return f(p, dir)
}

// shape measures one shape on a Kafka and a Redis of its own.
func (cfg Config) shape(ctx context.Context, s shape, classes string, r *report.Report) (f *Figures, err error) {
	dir, err := os.MkdirTemp("", "onhand-bench-ledger-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := startParts(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	k, rdb := p.kafka, p.redis
	if r.Versions["redis"], err = redisVersion(ctx, rdb); err != nil {
		return nil, err
	}
	codec, err := topics.NewCodec(ctx, nil)
	if err != nil {
		return nil, err
	}
	f = &Figures{Says: s.says, Events: cfg.Events, LeftOut: leftOut}
	c, err := k.Client(silent.Log, "bench", kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	const peerLevels = "peer.levels"
	specs := topics.Specs(partitions)
	for _, t := range specs {
		if t.Name == schemas.StockLevels {
			t.Name = peerLevels
			specs = append(specs, t)
			break
		}
	}
	if err := kafka.EnsureTopics(ctx, c, k.Replication, specs); err != nil {
		return nil, err
	}
	cfg.Say("%s: writing %s events", s.name, report.Count(cfg.Events))
	if f.SKUs, err = produce(ctx, c, codec, s, cfg.Events); err != nil {
		return nil, err
	}
	debug.FreeOSMemory()
	n := float64(cfg.Events)
	for range 2 { // the first also warms the broker
		m := p.meter()
		took, err := consumeRaw(ctx, k, schemas.StockEvents, cfg.Events)
		if err != nil {
			return nil, err
		}
		cpu, err := m.read(n)
		if err != nil {
			return nil, err
		}
		if f.RawPS < n/took.Seconds() {
			f.RawPS, f.RawCPU = n/took.Seconds(), cpu
		}
	}
	cfg.Say("%s: raw consumption %s events/s", s.name, report.Count(f.RawPS))
	best := 0
	for i := range max(1, cfg.Runs) {
		profile := ""
		if i == max(1, cfg.Runs)-1 { // by then the broker is warm
			profile = cfg.profile("ledger-" + s.name)
		}
		run, err := p.project(ctx, codec, cfg.Events, i, profile)
		if err != nil {
			return nil, err
		}
		cfg.Say("%s: projector %s events/s", s.name, report.Count(run.EventsPS))
		f.Runs = append(f.Runs, run)
		if run.EventsPS > f.Runs[best].EventsPS {
			best = i
		}
	}
	f.Runs[0], f.Runs[best] = f.Runs[best], f.Runs[0]
	f.EventsPS = f.Runs[0].EventsPS
	if f.HSETPS, err = hset(ctx, rdb, f.SKUs, cfg.Events); err != nil {
		return nil, err
	}
	cfg.Say("%s: pipelined HSET %s/s", s.name, report.Count(f.HSETPS))
	if f.At, err = p.past(ctx, cfg.Events); err != nil {
		return nil, err
	}
	cfg.Say("%s: ledger at folds %s events in %.2f s", s.name, report.Count(f.At.Events), f.At.Seconds)
	for _, set := range settings(cfg.Peer) {
		run, err := p.peer(ctx, classes, schemas.StockEvents, peerLevels, dir, cfg.Events, set)
		if err != nil {
			return nil, err
		}
		cfg.Say("%s: Kafka Streams (%s) %s events/s", s.name, set, report.Count(run.EventsPS))
		f.PeerRuns = append(f.PeerRuns, run)
		if run.EventsPS > f.Peer.EventsPS {
			f.Peer = run
		}
	}
	if f.Peer.EventsPS > 0 {
		f.VsStreams, f.VsStreamsCPU = f.EventsPS/f.Peer.EventsPS, f.Peer.CPU.Total/f.Runs[0].CPU.Total
	}
	f.VsRaw, f.VsHSET, f.VsRawCPU = f.EventsPS/f.RawPS, f.EventsPS/f.HSETPS, f.RawCPU.Total/f.Runs[0].CPU.Total
	return f, nil
}

// profile is the file that a processor profile goes to; empty when none is taken.
func (cfg Config) profile(name string) string {
	if cfg.Profile == "" {
		return ""
	}
	return filepath.Join(cfg.Profile, name+".pprof")
}

// startProfile begins a processor profile; the function that it returns ends it.
func startProfile(file string) (stop func() error, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// parts is a Kafka and a Redis.
type parts struct {
	kafka  kafka.Config
	redis  goredis.UniversalClient
	broker *testbed.KafkaServer
	store  *testbed.RedisServer
	stops  []func() error
}

func (p *parts) stop() error {
	var errs []error
	for i := len(p.stops) - 1; i >= 0; i-- {
		errs = append(errs, p.stops[i]())
	}
	return errors.Join(errs...)
}

// startParts runs Kafka and Redis in dir.
func startParts(ctx context.Context, dir string) (p *parts, err error) {
	p = new(parts)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	for _, name := range []string{"kafka", "redis"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	if p.broker, err = testbed.StartKafka(ctx, filepath.Join(dir, "kafka")); err != nil {
		return nil, err
	}
	p.stops = append(p.stops, p.broker.Stop)
	if p.store, err = testbed.StartRedis(ctx, filepath.Join(dir, "redis")); err != nil {
		return nil, err
	}
	p.stops = append(p.stops, p.store.Stop)
	if p.redis, err = (redis.Config{Addrs: []string{p.store.Addr}}).Client(); err != nil {
		return nil, err
	}
	p.stops = append(p.stops, p.redis.Close)
	p.kafka = kafka.Config{Brokers: []string{p.broker.Addr}, Partitions: partitions, Replication: 1}
	return p, nil
}

// meter counts processor time from when it is made.
type meter struct {
	p                     *parts
	process, redis, kafka time.Duration
	err                   error
}

func (p *parts) meter() *meter {
	m := &meter{p: p}
	m.process, m.redis, m.kafka, m.err = p.cpu()
	return m
}

func (p *parts) cpu() (own, redis, kafka time.Duration, err error) {
	redis, err1 := process.CPUOf(p.store.PID())
	kafka, err2 := process.CPUOf(p.broker.PID())
	return process.CPU(), redis, kafka, errors.Join(err1, err2)
}

// read is the processor time since, by event.
func (m *meter) read(events float64) (CPU, error) {
	own, redis, kafka, err := m.p.cpu()
	per := func(d time.Duration) float64 { return d.Seconds() * 1e6 / events }
	c := CPU{Process: per(own - m.process), Redis: per(redis - m.redis), Kafka: per(kafka - m.kafka)}
	c.Total = c.Process + c.Redis + c.Kafka
	return c, errors.Join(m.err, err)
}

var redisVersionLine = regexp.MustCompile(`redis_version:(\S+)`)

func redisVersion(ctx context.Context, rdb goredis.UniversalClient) (string, error) {
	info, err := rdb.Info(ctx, "server").Result()
	if err != nil {
		return "", err
	}
	m := redisVersionLine.FindStringSubmatch(info)
	if m == nil {
		return "", errors.New("Redis does not tell its version")
	}
	return m[1], nil
}

// project runs the service from an empty ledger until it has applied and emitted everything.
func (p *parts) project(ctx context.Context, codec *topics.Codec, events, i int, profile string) (run Run, err error) {
	k, rdb := p.kafka, p.redis
	if err := rdb.FlushAll(ctx).Err(); err != nil {
		return run, err
	}
	c, err := k.Client(silent.Log, "bench-watch")
	if err != nil {
		return run, err
	}
	defer c.Close()
	adm := kadm.NewClient(c)
	emitted := func() (int64, error) {
		ends, err := adm.ListEndOffsets(ctx, schemas.StockLevels)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return 0, fmt.Errorf("end of %s: %w", schemas.StockLevels, err)
		}
		total := int64(0)
		ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
		return total, nil
	}
	before, err := emitted()
	if err != nil {
		return run, err
	}
	conf := ledgerprojector.DefaultConfig()
	conf.Group = fmt.Sprintf("%s-%d", conf.Group, i)
	conf.Namespace = fmt.Sprintf("%s%d", conf.Namespace, i)
	s, err := ledgerprojector.New(conf, ledgerprojector.Deps{Kafka: k, Codec: codec, Redis: rdb, Telemetry: silent})
	if err != nil {
		return run, err
	}
	if profile != "" {
		stop, err := startProfile(profile)
		if err != nil {
			return run, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()
	used, began := p.meter(), time.Now()
	assigned := false
	limit := time.NewTimer(5 * time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return run, ctx.Err()
		case err := <-ended:
			ended <- nil
			return run, fmt.Errorf("the projector ended: %w", err)
		case <-limit.C:
			return run, fmt.Errorf("the projector applied %d of %d events in 5 minutes", s.Stats().Applied, events)
		case <-tick.C:
		}
		st := s.Stats()
		if !assigned && len(st.Lag) > 0 {
			assigned, used, began = true, p.meter(), time.Now()
		}
		if st.Rejected+st.Duplicates > 0 {
			return run, fmt.Errorf("%d events were rejected and %d taken for repeats: the benchmark's events are wrong", st.Rejected, st.Duplicates)
		}
		if st.Applied < int64(events) {
			continue
		}
		after, err := emitted()
		if err != nil {
			return run, err
		}
		if after-before < s.Stats().Levels {
			continue
		}
		took := time.Since(began)
		cpu, err := used.read(float64(events))
		return Run{EventsPS: float64(events) / took.Seconds(), Levels: after - before, CPU: cpu}, err
	}
}

// past asks what the stock of a SKU is by the log alone.
func (p *parts) past(ctx context.Context, events int) (Past, error) {
	const sku = "SKU-000000"
	began := time.Now()
	level, at, err := history.Of(ctx, history.Query{Kafka: p.kafka, Log: silent.Log, Options: ledgerprojector.DefaultConfig().Options(), SKU: sku}, nil)
	if err != nil {
		return Past{}, err
	}
	if level == nil || at < int64(events/partitions/2) {
		return Past{}, fmt.Errorf("%s is not in the %d events", sku, at+1)
	}
	return Past{Events: at + 1, Seconds: time.Since(began).Seconds()}, nil
}

// hset writes n times to keys different keys, a thousand in flight: what Redis takes when nobody computes anything.
func hset(ctx context.Context, rdb goredis.UniversalClient, keys, n int) (float64, error) {
	if err := rdb.FlushAll(ctx).Err(); err != nil {
		return 0, err
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("bench:%06d", i)
	}
	began := time.Now()
	for i := 0; i < n; {
		p := rdb.Pipeline()
		for range min(1000, n-i) {
			p.HSet(ctx, names[i%keys], "available", i)
			i++
		}
		if _, err := p.Exec(ctx); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}
