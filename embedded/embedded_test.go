package embedded_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/embedded"
	"github.com/onhand/onhand/embedded/clickhouse"
)

func start(t *testing.T, cfg embedded.Config) *embedded.Parts {
	t.Helper()
	p, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	res, err := http.Post(url, "text/plain", strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", sql, res.StatusCode, out, err)
	}
	return strings.TrimSpace(string(out))
}

// TestTwoLives holds that a second start finds what the first one kept, at the
// same ports, and that a stop is quick and leaves nothing running.
func TestTwoLives(t *testing.T) {
	dir := t.TempDir()
	ignore := goleak.IgnoreCurrent()
	p := start(t, embedded.Config{Dir: dir})
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	var id int
	use := func() {
		c, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka...), kgo.AllowAutoTopicCreation(), kgo.DisableClientMetrics())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		rdb := redis.NewClient(&redis.Options{Addr: p.Redis})
		defer rdb.Close()
		if err := rdb.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		reg, err := sr.NewClient(sr.URLs(p.Registry))
		if err != nil {
			t.Fatal(err)
		}
		out, err := reg.CreateSchema(t.Context(), "s", sr.Schema{Type: sr.TypeProtobuf, Schema: `syntax = "proto3"; message A {}`})
		if err != nil || id != 0 && out.ID != id {
			t.Fatalf("schema id %d, was %d: %v", out.ID, id, err)
		}
		id = out.ID
	}
	use()
	query(t, p.ClickHouse, "CREATE TABLE kept (a Int8) ENGINE = MergeTree ORDER BY a")
	query(t, p.ClickHouse, "INSERT INTO kept VALUES (7)")

	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: dir}); !errors.Is(err, embedded.ErrLocked) {
		t.Errorf("a second process on the directory: %v", err)
	}
	port := func(addr string) int {
		n, err := strconv.Atoi(addr[strings.LastIndexByte(addr, ':')+1:])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	ports := embedded.Ports{Kafka: port(p.Kafka[0]), Registry: port(p.Registry), Redis: port(p.Redis), ClickHouse: port(p.ClickHouse)}
	for name, want := range map[string]embedded.Config{
		"--kafka-port": {Ports: embedded.Ports{Kafka: ports.Kafka}}, "--registry-port": {Ports: embedded.Ports{Registry: ports.Registry}},
		"--redis-port": {Ports: embedded.Ports{Redis: ports.Redis}}, "--clickhouse-port": {Ports: embedded.Ports{ClickHouse: ports.ClickHouse}},
	} {
		want.Dir = filepath.Join(t.TempDir(), "other")
		if _, err := embedded.Start(t.Context(), want); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a taken port: %v, want a hint at %s", err, name)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	began := time.Now()
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	t.Logf("stopped in %v", time.Since(began))
	goleak.VerifyNone(t, ignore)

	began = time.Now()
	p = start(t, embedded.Config{Dir: dir, Ports: ports})
	t.Logf("started again in %v", time.Since(began))
	use()
	if got := query(t, p.ClickHouse, "SELECT sum(a) FROM kept"); got != "7" {
		t.Errorf("ClickHouse has %s, want 7", got)
	}
}

// TestFaults holds what a user is told, and that nothing is left running.
func TestFaults(t *testing.T) {
	if _, err := embedded.Start(t.Context(), embedded.Config{}); err == nil {
		t.Error("no directory: no error")
	}
	dir := t.TempDir()
	_, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Library: "/nowhere/libchdb.so"})
	if !errors.Is(err, clickhouse.ErrNoLibrary) {
		t.Errorf("missing library: %v", err)
	}
	p := start(t, embedded.Config{Dir: dir, WithoutClickHouse: true, WithoutKafka: true, WithoutRegistry: true})
	if p.Kafka != nil || p.ClickHouse != "" || p.Redis == "" {
		t.Errorf("%+v", p.Addresses)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedded.Start(ctx, embedded.Config{Dir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("a start that is called off: %v", err)
	}
}
