package analytics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"go.uber.org/goleak"

	embedded "github.com/onhand/onhand/embedded/clickhouse"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// engineURL is the one engine that all tests share, each with a database of its own.
var engineURL string

func TestMain(m *testing.M) {
	code := withEngine(m.Run)
	if err := goleak.Find(goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop")); err != nil && code == 0 { // idle connections close by themselves
		log.Print(err)
		code = 1
	}
	os.Exit(code)
}

func withEngine(run func() int) int {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "analytics")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if _, err := embedded.Find("", ""); errors.Is(err, embedded.ErrNoLibrary) {
		_, file, _, _ := runtime.Caller(0)
		if _, err := embedded.Install(ctx, filepath.Join(filepath.Dir(file), "..", "..")); err != nil {
			log.Fatal(err)
		}
	}
	engine, err := embedded.Open(ctx, embedded.Config{Dir: dir, Memory: 2 << 30})
	if err != nil {
		log.Fatal(err)
	}
	h := embedded.NewHandler(engine, embedded.HandlerConfig{})
	srv := httptest.NewServer(h)
	defer func() {
		srv.Close()
		h.Close()
		if err := engine.Close(); err != nil {
			log.Print(err)
		}
	}()
	engineURL = srv.URL
	code := run()
	http.DefaultClient.CloseIdleConnections()
	return code
}

var databases atomic.Int64

// world is a Kafka cluster and a database, and what tests do with them.
type world struct {
	*testing.T
	cluster *kfake.Cluster
	kafka   kafka.Config
	client  *kgo.Client
	codec   *topics.Codec
	cfg     Config
	tel     *telemetry.Telemetry
}

const partitions = 4

func newWorld(t *testing.T) *world {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(partitions))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w := &world{T: t, cluster: cluster, kafka: kafka.Config{Brokers: cluster.ListenAddrs(), Replication: -1, Partitions: partitions}, tel: telemetry.Silent()}
	if w.client, err = w.kafka.Client(telemetry.Silent().Log, "test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	if w.codec, err = topics.NewCodec(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	specs := append(topics.Specs(partitions), topics.TargetsSpec("shop", partitions), topics.TargetsSpec("amz", partitions))
	if err := kafka.EnsureTopics(t.Context(), w.client, -1, specs); err != nil {
		t.Fatal(err)
	}
	w.cfg = DefaultConfig()
	w.cfg.ClickHouse.URL = engineURL
	w.cfg.ClickHouse.Database = fmt.Sprintf("t%d", databases.Add(1))
	w.cfg.FlushInterval = 50 * time.Millisecond
	w.cfg.TopicsRefresh = 200 * time.Millisecond
	w.cfg.SessionTimeout = 6 * time.Second
	return w
}

// instance is a running service.
type instance struct {
	*Service
	stop func() // returns when it has ended
}

// start runs an instance with the world's settings.
func (w *world) start() *instance {
	w.Helper()
	s, err := New(w.cfg, Deps{Kafka: w.kafka, Codec: w.codec, Telemetry: w.tel})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop := func() {
		cancel()
		if !stopped {
			stopped = true
			if err := <-done; err != nil {
				w.Errorf("Run: %v", err)
			}
		}
	}
	w.Cleanup(stop)
	return &instance{s, stop}
}

func (w *world) produce(records ...*kgo.Record) {
	w.Helper()
	if err := w.client.ProduceSync(w.Context(), records...).FirstErr(); err != nil {
		w.Fatal(err)
	}
}

func (w *world) caughtUp(i *instance) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	if err := i.WaitCaughtUp(ctx); err != nil {
		w.Fatal(err)
	}
}

func (w *world) until(what string, f func() bool) {
	w.Helper()
	end := time.Now().Add(time.Minute)
	for !f() {
		if time.Now().After(end) {
			w.Fatalf("waited too long until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) db() driver.Conn {
	w.Helper()
	opts, err := w.cfg.ClickHouse.options(w.cfg.ClickHouse.Database)
	if err != nil {
		w.Fatal(err)
	}
	if u, err := url.Parse(engineURL); err == nil { // past any proxy of the test
		opts.Addr = []string{u.Host}
	}
	c, err := clickhouse.Open(opts)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	return c
}

// exactly checks that a table holds n rows, each of a different record.
func (w *world) exactly(table string, n uint64) {
	w.Helper()
	var rows, records uint64
	if err := w.db().QueryRow(w.Context(), "SELECT count(), uniqExact(partition, offset) FROM "+table).Scan(&rows, &records); err != nil {
		w.Fatal(err)
	}
	if rows != n || records != n {
		w.Errorf("%s has %d rows of %d records, want %d of each", table, rows, records, n)
	}
}

func sale(i int) *event.Event {
	return &event.Event{
		ID: fmt.Sprintf("sale/shop/o%d/1", i), Kind: event.SaleRecorded, SKU: fmt.Sprintf("SKU-%d", i%37), Channel: "shop", OrderID: fmt.Sprintf("o%d", i),
		LineID: "1", Quantity: event.Units(1 + i%3), UnitPrice: "12.95", Currency: "EUR", OccurredAt: 1_790_000_000_000_000 + int64(i),
		ReceivedAt: 1_790_000_001_000_000 + int64(i), Source: "api",
	}
}

func (w *world) sales(from, to int) []*kgo.Record {
	out := make([]*kgo.Record, 0, to-from)
	for i := from; i < to; i++ {
		out = append(out, w.codec.EventRecord(sale(i)))
	}
	return out
}

// gate is a proxy before the engine that can break inserts.
type gate struct {
	*httptest.Server
	mode atomic.Int32
	hit  atomic.Int64 // inserts that were broken or held
	free chan struct{}
}

const (
	open    = iota
	refuse  // inserts never reach the engine
	swallow // inserts reach it, and their answer is lost
	hold    // inserts wait until release
)

func newGate(t *testing.T) *gate {
	t.Helper()
	target, err := url.Parse(engineURL)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	g := &gate{free: make(chan struct{})}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		insert := strings.Contains(r.URL.Query().Get("query"), "FORMAT Native") && r.URL.Query().Has("insert_deduplication_token")
		if !insert || g.mode.Load() == open {
			forward.ServeHTTP(w, r)
			return
		}
		if g.mode.Load() == hold {
			body, err := io.ReadAll(r.Body) // the whole block has left the instance, which cannot call it back
			if err != nil {
				t.Errorf("read a held insert: %v", err)
			}
			g.hit.Add(1)
			<-g.free
			late := r.Clone(context.WithoutCancel(r.Context()))
			late.Body = io.NopCloser(bytes.NewReader(body))
			forward.ServeHTTP(w, late)
			return
		}
		if g.mode.Load() == swallow {
			rec := httptest.NewRecorder()
			forward.ServeHTTP(rec, r)
			if rec.Code != http.StatusOK {
				t.Errorf("engine answered %d: %s", rec.Code, rec.Body)
			}
		} else {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		g.hit.Add(1)
		panic(http.ErrAbortHandler) // the connection breaks
	}))
	t.Cleanup(g.Close)
	return g
}
