package broker_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/embedded/broker"
)

func start(t testing.TB, cfg broker.Config) *broker.Broker {
	t.Helper()
	b, err := broker.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

func client(t testing.TB, b *broker.Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addr()), kgo.DisableFetchSessions())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func makeTopic(t testing.TB, c *kgo.Client, topic string, partitions int32, configs map[string]string) {
	t.Helper()
	m := map[string]*string{}
	for k, v := range configs {
		m[k] = &v
	}
	if _, err := kadm.NewClient(c).CreateTopic(t.Context(), partitions, 1, m, topic); err != nil {
		t.Fatal(err)
	}
}

// values reads a topic from its start until it has n records.
func values(t testing.TB, b *broker.Broker, topic string, n int) map[string]string {
	t.Helper()
	c := client(t, b, kgo.FetchMaxBytes(4<<20), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	got := map[string]string{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for seen := 0; seen < n; {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", seen, n, err)
		}
		f.EachRecord(func(r *kgo.Record) { got[string(r.Key)] = string(r.Value); seen++ })
	}
	return got
}

// TestRestart holds that records, topics and committed offsets are there again,
// on the same port.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	b := start(t, broker.Config{Dir: dir})
	c := client(t, b)
	makeTopic(t, c, "stock.events", 4, map[string]string{"retention.ms": "-1"})
	for i := range 1000 {
		if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "stock.events", Key: fmt.Append(nil, i), Value: fmt.Append(nil, "v", i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: "stock.events", Partition: 1, At: 17, LeaderEpoch: -1})
	if err := kadm.NewClient(c).CommitAllOffsets(t.Context(), "onhand-test", offsets); err != nil {
		t.Fatal(err)
	}
	port := b.Addr()[strings.LastIndexByte(b.Addr(), ':')+1:]
	c.Close()
	b.Stop()
	var n int
	if _, err := fmt.Sscan(port, &n); err != nil {
		t.Fatal(err)
	}
	b = start(t, broker.Config{Dir: dir, Port: n})
	if got := values(t, b, "stock.events", 1000); len(got) != 1000 || got["7"] != "v7" {
		t.Errorf("%d keys after the restart", len(got))
	}
	adm := kadm.NewClient(client(t, b))
	fetched, err := adm.FetchOffsets(t.Context(), "onhand-test")
	if o, ok := fetched.Lookup("stock.events", 1); err != nil || !ok || o.At != 17 {
		t.Errorf("committed offset %v, %v", o, err)
	}
	if _, err := broker.Start(broker.Config{Dir: t.TempDir(), Port: n}); err == nil || !strings.Contains(err.Error(), port) {
		t.Errorf("a taken port: %v", err)
	}
	file := dir + "/file"
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Start(broker.Config{Dir: file}); err == nil {
		t.Error("a file as data directory: no error")
	}
}

// TestKilled holds that what was acknowledged outlives kill -9.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), "BROKER_CHILD_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }() // it may have been killed by the test already
	var addr string
	if _, err := fmt.Fscan(out, &addr); err != nil {
		t.Fatal(err)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("t"), kgo.RecordRetries(0), kgo.DisableClientMetrics(), kgo.ProducerLinger(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	makeTopic(t, c, "t", 3, nil)
	var acked atomic.Int64
	var promises sync.WaitGroup
	keys := make(chan string, 100_000)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range 50_000 {
		key := fmt.Sprint(i)
		promises.Add(1)
		c.Produce(ctx, &kgo.Record{Key: []byte(key), Value: make([]byte, 100)}, func(_ *kgo.Record, err error) {
			defer promises.Done()
			if err == nil {
				keys <- key
				acked.Add(1)
			}
		})
		if acked.Load() > 5000 {
			break
		}
	}
	for acked.Load() < 100 && ctx.Err() == nil {
		runtime.Gosched()
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	cancel()
	c.Close()
	promises.Wait()
	close(keys)
	var want []string
	for k := range keys {
		want = append(want, k)
	}
	b := start(t, broker.Config{Dir: dir})
	end, err := kadm.NewClient(client(t, b)).ListEndOffsets(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	end.Each(func(o kadm.ListedOffset) { total += int(o.Offset) })
	got := values(t, b, "t", total)
	for _, k := range want {
		if _, ok := got[k]; !ok {
			t.Fatalf("record %s was acknowledged and is lost (%d acknowledged, %d there)", k, len(want), total)
		}
	}
	t.Logf("%d acknowledged, %d on disk", len(want), total)
}

// TestChild is the process that TestKilled kills.
func TestChild(t *testing.T) {
	dir := os.Getenv("BROKER_CHILD_DIR")
	if dir == "" {
		return
	}
	b := start(t, broker.Config{Dir: dir})
	fmt.Println(b.Addr())
	select {}
}

// TestCompaction holds that a compacted topic shrinks to its newest values once
// nobody writes.
func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	b := start(t, broker.Config{Dir: dir, Quiet: 30 * time.Millisecond})
	c := client(t, b, kgo.DefaultProduceTopic("levels"))
	makeTopic(t, c, "levels", 1, map[string]string{"cleanup.policy": "compact"})
	for round := range 50 {
		for k := range 20 {
			c.Produce(t.Context(), &kgo.Record{Key: fmt.Append(nil, k), Value: fmt.Append(nil, round)}, nil)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		got, n := readAll(ctx, t, b, "levels", 999)
		if n > 40 {
			continue
		}
		if len(got) != 20 {
			t.Errorf("%d keys after compaction, want 20", len(got))
		}
		for k, v := range got {
			if v != "49" {
				t.Errorf("key %s is %s, want its newest value 49", k, v)
			}
		}
		return
	}
}

// readAll reads partition 0 up to its last offset; n counts the records.
func readAll(ctx context.Context, t *testing.T, b *broker.Broker, topic string, end int64) (got map[string]string, n int) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.DisableFetchSessions(), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got = map[string]string{}
	for last := int64(-1); last < end; {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		f.EachRecord(func(r *kgo.Record) { got[string(r.Key)], last = string(r.Value), r.Offset; n++ })
	}
	return got, n
}

// BenchmarkProduceConsume tells the memory and the speed with 1 million records of
// 200 bytes: the figures in the report, not a promise.
func BenchmarkProduceConsume(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		br := start(b, broker.Config{Dir: b.TempDir()})
		before := rss()
		c := client(b, br, kgo.DefaultProduceTopic("t"), kgo.MaxBufferedRecords(20_000))
		makeTopic(b, c, "t", 32, map[string]string{"cleanup.policy": "compact"})
		noise := make([]byte, 1<<20)
		rand.Read(noise) // half of each value, as ours compress to about half
		began := time.Now()
		for i := range n {
			c.Produce(b.Context(), &kgo.Record{Key: fmt.Append(nil, "SKU-", i%5000), Value: append(make([]byte, 90, 180), noise[i%(1<<20-90):][:90]...)}, nil)
		}
		if err := c.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(n/time.Since(began).Seconds(), "produced/s")
		b.ReportMetric(float64(rss()-before)/1e6, "MB-produce")
		began = time.Now()
		values(b, br, "t", n)
		b.ReportMetric(n/time.Since(began).Seconds(), "consumed/s")
		b.ReportMetric(float64(rss()-before)/1e6, "MB-consume")
		began = time.Now()
		br.Cluster().Compact()
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "compact-ms")
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/1e6, "MB-heap-after")
		began = time.Now()
		c.Close()
		br.Stop()
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "stop-ms")
	}
}

func rss() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
