package testbed_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/e2e/testbed"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

// TestKafka holds that an outside client reads the broker, and that records
// outlive kill -9 and a pause.
func TestKafka(t *testing.T) {
	k := testbed.Kafka(t)
	ctx := t.Context()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Addr), kgo.DefaultProduceTopic("testbed"), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := kadm.NewClient(c).CreateTopic(ctx, 3, 1, nil, "testbed"); err != nil {
		t.Fatal(err)
	}
	produce := func(value string) {
		t.Helper()
		if err := c.ProduceSync(ctx, &kgo.Record{Key: []byte("k"), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produce("before the kill")
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := k.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := k.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	fresh, err := kgo.NewClient(kgo.SeedBrokers(k.Addr), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Ping(short); err == nil || short.Err() == nil {
		t.Error("a paused broker answers")
	}
	cancel()
	fresh.Close()
	if err := k.Resume(); err != nil {
		t.Fatal(err)
	}
	produce("after it")
	list, err := k.Kcat(ctx, "-L")
	if err != nil || !strings.Contains(list, `topic "testbed" with 3 partitions`) {
		t.Errorf("kcat -L: %v\n%s", err, list)
	}
	got, err := k.Kcat(ctx, "-C", "-e", "-q", "-t", "testbed", "-o", "beginning")
	if err != nil || got != "before the kill\nafter it\n" {
		t.Errorf("kcat -C: %q, %v", got, err)
	}
}

// TestRedis holds that a restart goes back to the last dump, or to nothing.
func TestRedis(t *testing.T) {
	r := testbed.Redis(t)
	ctx := t.Context()
	if out, err := r.CLI(ctx, "PING"); out != "PONG" || err != nil {
		t.Fatalf("redis-cli PING: %q, %v", out, err)
	}
	c := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer c.Close()
	set := func(v string) {
		t.Helper()
		if err := c.Set(ctx, "testbed", v, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	restart := func() {
		t.Helper()
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := r.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	set("old")
	if err := r.Dump(ctx); err != nil {
		t.Fatal(err)
	}
	set("new")
	restart()
	if out, err := r.CLI(ctx, "GET", "testbed"); out != "old" || err != nil {
		t.Errorf("after going back in time: %q, %v", out, err)
	}
	if err := r.DropDump(); err != nil {
		t.Fatal(err)
	}
	restart()
	if out, err := r.CLI(ctx, "DBSIZE"); out != "0" || err != nil {
		t.Errorf("after losing everything: %q, %v", out, err)
	}
}

// TestClickHouse holds that curl and ClickHouse's Python client read the engine.
func TestClickHouse(t *testing.T) {
	c := testbed.ClickHouse(t)
	ctx := t.Context()
	version, err := c.Query(ctx, "SELECT version()")
	if err != nil || version != c.Engine.Version() {
		t.Errorf("curl: %q, %v", version, err)
	}
	for _, sql := range []string{"CREATE DATABASE testbed", "CREATE TABLE testbed.t (sku LowCardinality(String), n Int64, at DateTime64(6, 'UTC'), note Nullable(String)) ENGINE = MergeTree ORDER BY sku",
		"INSERT INTO testbed.t VALUES ('A', 1, '2026-03-01 12:00:00.5', NULL), ('B', 2, '2026-03-01 12:00:00', 'x')"} {
		if _, err := c.Query(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := testbed.ClickHousePython(ctx, c.Addr, "SELECT sku, n, note, toString(at) FROM testbed.t ORDER BY sku")
	if want := "[('A', 1, None, '2026-03-01 12:00:00.500000'), ('B', 2, 'x', '2026-03-01 12:00:00.000000')]"; err != nil || rows != want {
		t.Errorf("clickhouse-connect: %s, %v", rows, err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Query(ctx, "SELECT sum(n) FROM testbed.t"); n != "3" || err != nil {
		t.Errorf("after a restart: %q, %v", n, err)
	}
	if _, err := c.Query(ctx, "SELECT * FROM nowhere"); err == nil || !strings.Contains(err.Error(), "UNKNOWN_TABLE") {
		t.Errorf("a wrong query: %v", err)
	}
}
