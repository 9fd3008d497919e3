package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/embedded"
	"github.com/onhand/onhand/embedded/clickhouse"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
)

// parts is what the services work with, whether it runs here or elsewhere.
type parts struct {
	kafka      kafka.Config
	redis      redis.Config
	clickhouse string             // URL
	registry   string             // URL; may be empty
	engine     *clickhouse.Engine // nil when ClickHouse is external
	stops      []func() error
}

func (p *parts) onStop(f func() error) { p.stops = append(p.stops, f) }

// stop ends what was started, last first.
func (p *parts) stop() error {
	var errs []error
	for i := len(p.stops) - 1; i >= 0; i-- {
		errs = append(errs, p.stops[i]())
	}
	p.stops = nil
	return errors.Join(errs...)
}

func (p *parts) registryClient() (*sr.Client, error) {
	if p.registry == "" {
		return nil, nil
	}
	c, err := sr.NewClient(sr.URLs(p.registry))
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", p.registry, err)
	}
	return c, nil
}

// startParts starts the parts that are not external.
func (c *upCmd) startParts(ctx context.Context, log *slog.Logger, last instance) (*parts, error) {
	p := &parts{kafka: c.Kafka, redis: c.Redis, clickhouse: c.ClickHouseURL, registry: c.RegistryURL}
	if !c.isExternal("kafka") && p.kafka.Partitions == 32 { // the default, which is for a cluster
		p.kafka.Partitions = 8
	}
	started, err := embedded.Start(ctx, embedded.Config{
		Dir: c.Data, Library: c.Library, ClickHouseMemory: c.ClickHouseMemory << 20, Partitions: int(p.kafka.Partitions), Log: log,
		WithoutKafka: c.isExternal("kafka"), WithoutRegistry: c.isExternal("registry"), WithoutRedis: c.isExternal("redis"), WithoutClickHouse: c.isExternal("clickhouse"),
		Ports: embedded.Ports{
			Kafka: again(c.Port.Kafka, last.Kafka), Registry: again(c.Port.Registry, last.Registry), Redis: again(c.Port.Redis, last.Redis),
			ClickHouse: again(c.Port.ClickHouse, last.ClickHouse),
		},
		PortNames: embedded.PortNames{Kafka: "--port-kafka", Registry: "--port-registry", Redis: "--port-redis", ClickHouse: "--port-click-house"},
	})
	if err != nil {
		return nil, err
	}
	p.onStop(started.Stop)
	if started.Broker != nil {
		p.kafka.Brokers, p.kafka.Replication = started.Kafka, 1
	}
	if started.Registry != "" {
		p.registry = started.Registry
	}
	if started.Redis != "" {
		p.redis = redis.Config{Addrs: []string{started.Redis}}
	}
	if started.Engine != nil {
		p.clickhouse, p.engine = started.ClickHouse, started.Engine
	}
	return p, nil
}

// again is the port to listen on: that of the last start where any will do, so that addresses stay what they were.
func again(port int, last string) int {
	if port != 0 || last == "" {
		return port
	}
	last = strings.TrimPrefix(last, "http://")
	_, text, err := net.SplitHostPort(strings.TrimSuffix(last, "/"))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", text))
	if err != nil {
		return 0 // taken meanwhile
	}
	_ = l.Close() // it was only a question
	return n
}

func listen(what, flag string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, taken(fmt.Errorf("%s: %w", what, err), flag)
	}
	return l, nil
}

// taken says what to do about a port that somebody else has.
func taken(err error, flag string) error {
	if errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use") {
		return fmt.Errorf("%w; another program, or another onhand up, has the port: name another with %s=PORT, or 0 for any that is free", err, flag)
	}
	return err
}

// lockDir keeps a second process out of a data directory. The lock goes with the process.
func lockDir(data string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(data, "onhand.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // the lock is what failed
		if i, e := readInstance(data); e == nil && i.alive() {
			return nil, fmt.Errorf("process %d uses the data directory %s: stop it first, or name another directory with --data", i.PID, data)
		}
		return nil, fmt.Errorf("another process uses the data directory %s: stop it first, or name another directory with --data", data)
	}
	return f, nil
}

// free is the free space of a directory's file system in bytes.
func free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // the field's type differs between systems
}
