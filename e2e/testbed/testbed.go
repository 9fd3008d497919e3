package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// bed is what the tests of this process share.
var bed struct {
	mu         sync.Mutex
	dir        string
	stops      []func() error
	logs       []string
	kafka      shared[*KafkaServer]
	redis      shared[*RedisServer]
	clickhouse shared[*ClickHouseServer]
}

// setupTime bounds the start of a part with its installation.
const setupTime = 10 * time.Minute

// folder makes a directory for one part.
func folder(name string) (string, error) {
	bed.mu.Lock()
	defer bed.mu.Unlock()
	if bed.dir == "" {
		dir, err := os.MkdirTemp("", "onhand-testbed-")
		if err != nil {
			return "", err
		}
		bed.dir = dir
	}
	dir := filepath.Join(bed.dir, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// keep notes how a part stops and where its log is.
func keep(stop func() error, log string) {
	bed.mu.Lock()
	defer bed.mu.Unlock()
	bed.stops = append(bed.stops, stop)
	if log != "" {
		bed.logs = append(bed.logs, log)
	}
}

// begin starts a shared part once.
func begin[T any](s *shared[T], name string, start func(ctx context.Context, dir string) (T, error), stop func(T) (func() error, string)) (T, error) {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTime)
		defer cancel()
		dir, err := folder(name)
		if err != nil {
			s.err = err
			return
		}
		if s.part, s.err = start(ctx, dir); s.err == nil {
			keep(stop(s.part))
		}
	})
	return s.part, s.err
}

// Kafka is the Kafka that all tests of this process share. A test that hurts it
// heals it again.
func Kafka(t testing.TB) *KafkaServer {
	t.Helper()
	k, err := begin(&bed.kafka, "kafka", StartKafka, func(k *KafkaServer) (func() error, string) { return k.Stop, k.Log })
	if err != nil {
		t.Fatalf("no real Kafka: %v", err)
	}
	return k
}

// Redis is the redis-server that all tests of this process share.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	r, err := begin(&bed.redis, "redis", StartRedis, func(r *RedisServer) (func() error, string) { return r.Stop, r.Log })
	if err != nil {
		t.Fatalf("no real Redis: %v", err)
	}
	return r
}

// ClickHouse is the engine that all tests of this process share: take a database
// of your own in it.
func ClickHouse(t testing.TB) *ClickHouseServer {
	t.Helper()
	c, err := begin(&bed.clickhouse, "clickhouse", StartClickHouse, func(c *ClickHouseServer) (func() error, string) { return c.Stop, "" })
	if err != nil {
		t.Fatalf("no ClickHouse: %v", err)
	}
	return c
}

// Main runs the tests, prints the parts' logs when one failed, stops the parts
// and removes their data. It returns the exit status.
func Main(m *testing.M) int {
	code := m.Run()
	if code != 0 {
		for _, log := range bed.logs {
			fmt.Fprintf(os.Stderr, "--- the end of %s:\n%s\n", log, tail(log))
		}
	}
	if err := Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// Close stops all shared parts and removes their data; programs that are no tests
// call it before they end.
func Close() error {
	bed.mu.Lock()
	defer bed.mu.Unlock()
	var errs []error
	for i := len(bed.stops) - 1; i >= 0; i-- {
		errs = append(errs, bed.stops[i]())
	}
	bed.stops = nil
	if bed.dir != "" {
		errs = append(errs, os.RemoveAll(bed.dir))
	}
	return errors.Join(errs...)
}
