package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/e2e/testbed"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

const (
	partitions = 4
	patience   = 3 * time.Minute // for what must come to pass
	lump       = 150             // records that are written at once
)

// rig is one ledger under test: its log, its store, and the projectors that run.
type rig struct {
	t         testing.TB
	program   string
	broker    *testbed.KafkaServer
	server    *testbed.RedisServer // nil on a cluster
	redis     goredis.UniversalClient
	addrs     []string // of Redis
	namespace string
	batch     int
	dir       string
	codec     *topics.Codec
	prod      *kgo.Client
	load      *load
	backlog   int
	events    int
	patience  time.Duration // for what must come to pass

	written    int
	applied    int // as last seen
	started    int
	projectors []*projector // that run, in the order of their starts
	all        []*projector
}

// projector is a process of ledger-projector.
type projector struct {
	*testbed.Program
	wires []*wire
}

func (r *rig) kafka() kafka.Config {
	return kafka.Config{Brokers: []string{r.broker.Addr}, Partitions: partitions, Replication: 1}
}

// newRig makes the topics anew. Redis is empty but for other namespaces.
func newRig(t testing.TB, program, namespace string, s schedule, r *rig) *rig {
	t.Helper()
	if r.patience == 0 {
		r.patience = patience
	}
	r.t, r.program, r.namespace, r.batch, r.backlog, r.events = t, program, namespace, s.batch, s.backlog, s.events
	r.broker, r.dir = testbed.Kafka(t), t.TempDir()
	var err error
	if r.codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r.load = newLoad(s.seed, s.skus, r.codec)
	r.redis = goredis.NewUniversalClient(&goredis.UniversalOptions{Addrs: r.addrs, DialTimeout: time.Second, ReadTimeout: time.Second, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = r.redis.Close() })
	r.freshTopics()
	if r.prod, err = r.kafka().Client(telemetry.Silent().Log, "faults", kgo.ProducerLinger(0), kgo.MetadataMinAge(10*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.prod.Close)
	t.Cleanup(func() {
		for _, p := range r.all {
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
			for _, w := range p.wires {
				w.close()
			}
		}
		if t.Failed() {
			for i, p := range r.all {
				t.Logf("--- the end of projector %d:\n%s", i+1, p.Tail())
			}
		}
	})
	return r
}

// freshTopics deletes what an earlier schedule has written.
func (r *rig) freshTopics() {
	r.t.Helper()
	client, err := r.kafka().Client(telemetry.Silent().Log, "faults-setup", kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	var names []string
	var specs []kafka.Topic
	for _, spec := range topics.Specs(partitions) {
		if slices.Contains([]string{schemas.StockEvents, schemas.StockLevels, schemas.StockRejected, schemas.StockAlerts, schemas.ChannelWatermarks, schemas.ReservationDecisions}, spec.Name) {
			names, specs = append(names, spec.Name), append(specs, spec)
		}
	}
	adm := kadm.NewClient(client)
	r.eventually("the topics are deleted", func(ctx context.Context) error {
		gone, err := adm.DeleteTopics(ctx, names...)
		if err != nil {
			return err
		}
		for _, d := range gone {
			if !errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
				return fmt.Errorf("%s is still there: %w", d.Topic, d.Err)
			}
		}
		return nil
	})
	r.eventually("the topics are made", func(ctx context.Context) error { return kafka.EnsureTopics(ctx, client, 1, specs) })
	r.eventually("the topics have leaders", func(ctx context.Context) error {
		ends, err := adm.ListEndOffsets(ctx, names...)
		if err != nil {
			return err
		}
		return ends.Error()
	})
}

// eventually waits until f returns nil.
func (r *rig) eventually(what string, f func(context.Context) error) {
	r.t.Helper()
	deadline := time.Now().Add(r.patience)
	for {
		ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
		err := f(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %v", what, err)
		}
		r.alive()
		time.Sleep(3 * time.Millisecond)
	}
}

// alive fails the test when a projector has ended by itself.
func (r *rig) alive() {
	r.t.Helper()
	for _, p := range r.projectors {
		select {
		case <-p.Done():
			r.t.Fatalf("a projector has ended:\n%s", p.Tail())
		default:
		}
	}
}

// start starts one more projector, each with its own way to Redis.
func (r *rig) start() *projector {
	r.t.Helper()
	r.started++
	p := &projector{}
	addrs := r.addrs
	if r.server != nil { // the nodes of a cluster tell where they are, and so are reached directly
		p.wires = []*wire{newWire(r.t, r.server.Addr, goredis.NewScript(stepSource(r.t)).Hash())}
		addrs = []string{p.wires[0].addr()}
	}
	var err error
	p.Program, err = testbed.StartProgram(fmt.Sprintf("projector %d", r.started), filepath.Join(r.dir, fmt.Sprintf("projector-%d.log", r.started)), r.program,
		"--kafka-brokers", r.broker.Addr, "--kafka-partitions", strconv.Itoa(partitions), "--kafka-replication", "1", "--redis-addrs", strings.Join(addrs, ","),
		"--ledger-namespace", r.namespace, "--ledger-group", r.namespace, "--ledger-session", "2s", "--ledger-batch-events", strconv.Itoa(r.batch),
		"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--api-keys-off", "--log-format", "text")
	if err != nil {
		r.t.Fatal(err)
	}
	r.projectors, r.all = append(r.projectors, p), append(r.all, p)
	return p
}

// pick is the projector that a fault is for.
func (r *rig) pick(who int) *projector { return r.projectors[who%len(r.projectors)] }

// gone takes a projector off the list of those that run.
func (r *rig) gone(p *projector) {
	r.projectors = slices.DeleteFunc(r.projectors, func(q *projector) bool { return q == p })
}

// write appends the next events of the schedule, up to n.
func (r *rig) write(n int) {
	r.t.Helper()
	if n = min(n, r.events-r.written); n <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.prod.ProduceSync(ctx, r.load.records(n)...).FirstErr(); err != nil {
		r.t.Fatalf("events are not taken: %v", err)
	}
	r.written += n
}

// meta is the stored state of a partition, empty while there is none.
func (r *rig) meta(ctx context.Context, p int, fields ...string) ([]string, error) {
	vs, err := r.redis.HMGet(ctx, fmt.Sprintf("%s:{p%d}:meta", r.namespace, p), fields...).Result()
	out := make([]string, len(fields))
	for i, v := range vs {
		out[i], _ = v.(string)
	}
	return out, err
}

// look sees how many events are in Redis. While Redis is away it is as many as last seen.
func (r *rig) look() {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
	defer cancel()
	sum := 0
	for p := range partitions {
		m, err := r.meta(ctx, p, "offset")
		if err != nil {
			return
		}
		if n, err := strconv.Atoi(m[0]); err == nil {
			sum += n + 1
		}
	}
	r.applied = sum
}

// until lets events come, as many at a time as the backlog allows, until f says so. All that is left to come may be in Redis before: that ends it too.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(r.patience)
	for {
		if r.look(); f() || r.applied >= r.events {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: it has not come; %d of %d events are in Redis", what, r.applied, r.written)
		}
		r.alive()
		if r.written < r.events && r.written-r.applied < r.backlog {
			r.write(lump)
		} else {
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// span writes events whether or not they get anywhere.
func (r *rig) span(n int) {
	for to := min(r.written+n, r.events); r.written < to; {
		r.write(min(lump, to-r.written))
	}
}

// caughtUp waits until all that was written is in Redis.
func (r *rig) caughtUp() {
	r.t.Helper()
	r.eventually("what was written is in Redis", func(context.Context) error {
		if r.look(); r.applied < r.written {
			return fmt.Errorf("%d of %d events are", r.applied, r.written)
		}
		return nil
	})
}

// owners is who may write each partition, by the name that a projector gave itself.
func (r *rig) owners(ctx context.Context) (map[int]string, error) {
	out := map[int]string{}
	for p := range partitions {
		m, err := r.meta(ctx, p, "owner")
		if err != nil {
			return nil, err
		}
		out[p], _, _ = strings.Cut(m[0], "/")
	}
	return out, nil
}

// stopAll stops the projectors, one after another.
func (r *rig) stopAll() {
	r.t.Helper()
	for _, p := range slices.Clone(r.projectors) {
		r.gone(p)
		if err := p.Stop(20 * time.Second); err != nil {
			r.t.Error(err)
		}
	}
}

// settled lets the rest of the events come, waits until all are in Redis and told of in stock.levels, and compares everything.
func (r *rig) settled() {
	t := r.t
	t.Helper()
	if len(r.projectors) == 0 {
		r.start()
	}
	r.span(r.events)
	r.eventually("all events are in Redis", func(context.Context) error {
		if r.look(); r.applied < r.events {
			return fmt.Errorf("%d of %d are", r.applied, r.events)
		}
		return nil
	})
	want := r.load.levels()
	tail := r.tail()
	r.eventually("stock.levels follows", func(ctx context.Context) error {
		tail.poll(ctx, t)
		return diff(tail.newest(), want)
	})
	r.eventually("the last level of each SKU is its newest", func(ctx context.Context) error {
		tail.poll(ctx, t)
		return diff(tail.kept(), want)
	})
	r.stopAll()
	// One that was cut off and took itself for the owner until now may have sent older levels while it stopped, after all who would have answered were gone. The next owner answers.
	r.start()
	r.eventually("after the stop and a start, the last level of each SKU is its newest", func(ctx context.Context) error {
		tail.poll(ctx, t)
		return diff(tail.kept(), want)
	})
	r.stopAll()
	r.eventually("all is read", func(ctx context.Context) error {
		tail.poll(ctx, t)
		ends, err := kadm.NewClient(r.prod).ListEndOffsets(ctx, schemas.StockLevels, schemas.StockRejected, schemas.StockAlerts)
		if err != nil {
			return err
		}
		var missing error
		ends.Each(func(o kadm.ListedOffset) {
			if at := tail.at[fmt.Sprint(o.Topic, o.Partition)]; at < o.Offset {
				missing = fmt.Errorf("%s %d: at %d of %d", o.Topic, o.Partition, at, o.Offset)
			}
		})
		return missing
	})
	if err := diff(tail.newest(), want); err != nil {
		t.Errorf("after the stop, stock.levels: %v", err)
	}
	if err := diff(tail.kept(), want); err != nil {
		t.Errorf("after the stop, the last levels in stock.levels: %v", err)
	}
	if err := diff(r.inRedis(), want); err != nil {
		t.Errorf("Redis: %v", err)
	}
	if n, err := r.redis.HGet(t.Context(), r.namespace+":meta", "partitions").Int(); err != nil || n != partitions {
		t.Errorf("Redis says of %d partitions, %v", n, err)
	}
	if !maps.Equal(tail.rejected, r.load.bad) {
		t.Errorf("stock.rejected has %d of the %d bad records: %v; want %v", len(tail.rejected), len(r.load.bad), slices.Sorted(maps.Keys(tail.rejected)), slices.Sorted(maps.Keys(r.load.bad)))
	}
	// A broken fence shows here: the ledger finds the harm by its digest, and has put it right before the numbers above are read.
	for _, a := range tail.alarms {
		t.Errorf("an alarm without a cause: %s", a)
	}
	differ, events := r.verify()
	for _, d := range differ {
		t.Error(d)
	}
	if events != int64(r.events) {
		t.Errorf("the fold has %d events of %d", events, r.events)
	}
}

// verify is where Redis differs from a fold of the log, each partition up to the offset that is stored with it, and how many events these folds have.
func (r *rig) verify() (differ []audit.Difference, events int64) {
	r.t.Helper()
	r.eventually("the ledger is verified", func(context.Context) error { // Kafka may be choosing leaders
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		defer cancel()
		differ, events = nil, 0
		found, err := audit.Verify(ctx, audit.Source{Kafka: r.kafka(), Redis: r.redis, Namespace: r.namespace, Log: telemetry.Silent().Log}, nil, 2, func(d audit.Difference) { differ = append(differ, d) })
		for _, p := range found {
			events += p.Events
		}
		return err
	})
	return differ, events
}

// diff says where got is not want, in a few examples.
func diff(got, want map[string]int64) error {
	var wrong []string
	for k := range want {
		if got[k] != want[k] {
			wrong = append(wrong, fmt.Sprintf("%s is %d, want %d", k, got[k], want[k]))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is %d, want none", k, got[k]))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("%d numbers differ: %s", len(wrong), strings.Join(wrong[:min(len(wrong), 6)], "; "))
}

// inRedis is what the hashes of the SKUs say, read as docs/redis-layout.md tells.
func (r *rig) inRedis() map[string]int64 {
	r.t.Helper()
	out := map[string]int64{}
	ctx := r.t.Context()
	for p := range partitions {
		live, err := r.redis.Get(ctx, fmt.Sprintf("%s:{p%d}:live", r.namespace, p)).Result()
		if err != nil {
			r.t.Fatal(err)
		}
		skus, err := r.redis.SMembers(ctx, live+"skus").Result()
		if err != nil {
			r.t.Fatal(err)
		}
		for _, sku := range skus {
			fields, err := r.redis.HGetAll(ctx, live+"sku:"+sku).Result()
			if err != nil {
				r.t.Fatal(err)
			}
			for f, v := range fields {
				switch {
				case f == "sold:shop":
					f = "sold"
				case f == "version", f == "available", strings.HasSuffix(f, ":on_hand"), strings.HasSuffix(f, ":committed"), strings.HasSuffix(f, ":held"):
				default:
					continue
				}
				n, err := strconv.ParseInt(v, 10, 64)
				if err != nil {
					r.t.Fatalf("%s %s: %v", sku, f, err)
				}
				put(out, sku, f, n)
			}
		}
	}
	return out
}

// tail reads what the projectors tell.
type tail struct {
	client   *kgo.Client
	at       map[string]int64         // next offset, by topic and partition
	best     map[string]*ledger.Level // by version
	last     map[string]*ledger.Level // by offset
	rejected map[string]bool
	alarms   []string
}

func (r *rig) tail() *tail {
	r.t.Helper()
	c, err := r.kafka().Client(telemetry.Silent().Log, "faults-tail", kgo.ConsumeTopics(schemas.StockLevels, schemas.StockRejected, schemas.StockAlerts), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return &tail{client: c, at: map[string]int64{}, best: map[string]*ledger.Level{}, last: map[string]*ledger.Level{}, rejected: map[string]bool{}}
}

// poll takes in what has come.
func (l *tail) poll(ctx context.Context, t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	l.client.PollFetches(ctx).EachRecord(func(rec *kgo.Record) {
		l.at[fmt.Sprint(rec.Topic, rec.Partition)] = rec.Offset + 1
		switch rec.Topic {
		case schemas.StockLevels:
			v, err := topics.DecodeLevel(rec.Value)
			if err != nil || v.SKU != string(rec.Key) {
				t.Fatalf("a level of %q: %v", rec.Key, err)
			}
			l.last[v.SKU] = v
			if b := l.best[v.SKU]; b == nil || b.Version <= v.Version {
				l.best[v.SKU] = v
			}
		case schemas.StockRejected:
			v, err := topics.DecodeRejected(rec.Value)
			if err != nil || !bytes.Contains(v.Value, []byte("no event")) {
				t.Fatalf("a rejected record of %q: %+v %v", rec.Key, v, err)
			}
			l.rejected[string(v.Key)] = true
		case schemas.StockAlerts:
			a, err := topics.DecodeAlert(rec.Value)
			if err != nil {
				t.Fatal(err)
			}
			if a.Kind != alert.Oversold {
				l.alarms = append(l.alarms, a.Message)
			}
		}
	})
}

// newest is the level of each SKU by version, as readers go: an owner that was frozen may send older ones late.
func (l *tail) newest() map[string]int64 { return levels(l.best) }

// kept is the last level of each SKU, as compaction leaves it: the owner answers older ones that come late.
func (l *tail) kept() map[string]int64 { return levels(l.last) }

func levels(of map[string]*ledger.Level) map[string]int64 {
	out := map[string]int64{}
	for sku, v := range of {
		put(out, sku, "version", v.Version)
		put(out, sku, "available", int64(v.Available()))
		for _, s := range v.Sold {
			put(out, sku, "sold", int64(s.Units))
		}
		for _, loc := range v.Locations {
			put(out, sku, loc.Location+":on_hand", int64(loc.OnHand))
			put(out, sku, loc.Location+":committed", int64(loc.Committed))
			put(out, sku, loc.Location+":held", int64(loc.Held))
		}
	}
	return out
}

// build makes a program of a service in a directory; more is for the go command.
func build(dir, service string, more ...string) (string, error) {
	root, err := testbed.Root()
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, service)
	args := append(append([]string{"build", "-o", out}, more...), "./services/"+service+"/cmd/"+service)
	if text, err := command(root, "go", args...); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", service, err, text)
	}
	if _, err := os.Stat(out); err != nil {
		return "", err
	}
	return out, nil
}
