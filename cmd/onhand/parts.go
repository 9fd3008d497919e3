package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/embedded/broker"
	"github.com/onhand/onhand/embedded/clickhouse"
	embeddedredis "github.com/onhand/onhand/embedded/redis"
	"github.com/onhand/onhand/embedded/registry"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
)

// ports is where the embedded parts listen, on loopback. 0 takes a free port, the same one again at the next start.
type ports struct {
	Kafka        int `help:"Port of the embedded Kafka." default:"9492"`
	Registry     int `help:"Port of the embedded Schema Registry." default:"8481"`
	Redis        int `help:"Port of the embedded Redis." default:"6479"`
	ClickHouse   int `help:"Port of the embedded ClickHouse's HTTP interface." default:"8423"`
	Marketplaces int `help:"Port of the simulated marketplaces." default:"8482"`
}

// parts is what the services work with, whether it runs here or elsewhere.
type parts struct {
	kafka      kafka.Config
	redis      redis.Config
	clickhouse string // URL
	registry   string // URL; may be empty
	mu         sync.Mutex
	stops      []func() error
}

func (p *parts) onStop(f func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = append(p.stops, f)
}

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
func (c *upCmd) startParts(ctx context.Context, log *slog.Logger, last instance) (p *parts, err error) {
	p = &parts{kafka: c.Kafka, redis: c.Redis, clickhouse: c.ClickHouseURL, registry: c.RegistryURL}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	var wg sync.WaitGroup
	var engine *clickhouse.Engine
	var engineErr error
	if !c.isExternal("clickhouse") { // takes a second: beside the others
		l, err := listen("the embedded ClickHouse", "--port-click-house", again(c.Port.ClickHouse, last.ClickHouse))
		if err != nil {
			return nil, err
		}
		p.clickhouse = "http://" + l.Addr().String()
		wg.Go(func() {
			engine, engineErr = clickhouse.Open(ctx, clickhouse.Config{Dir: filepath.Join(c.Data, "clickhouse"), Library: c.Library, Memory: c.ClickHouseMemory << 20, Log: log})
			if engineErr != nil {
				engineErr = errors.Join(engineErr, l.Close())
				return
			}
			handler := clickhouse.NewHandler(engine, clickhouse.HandlerConfig{})
			srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
			go func() { _ = srv.Serve(l) }() // ends with the engine
			p.onStop(func() error {
				stopping, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				if srv.Shutdown(stopping) != nil {
					_ = srv.Close() // whoever still asks has had a second
				}
				handler.Close()
				return engine.Close()
			})
		})
	}
	err = c.startOthers(p, log, last)
	wg.Wait()
	if err = errors.Join(err, engineErr); err != nil {
		return p, err
	}
	return p, nil
}

func (c *upCmd) startOthers(p *parts, log *slog.Logger, last instance) error {
	if !c.isExternal("kafka") {
		b, err := broker.Start(broker.Config{Dir: filepath.Join(c.Data, "kafka"), Port: again(c.Port.Kafka, last.Kafka), Partitions: int(c.Kafka.Partitions), Log: log})
		if err != nil {
			return taken(err, "--port-kafka")
		}
		p.onStop(func() error { b.Stop(); return nil })
		p.kafka.Brokers, p.kafka.Replication = []string{b.Addr()}, 1
	}
	if !c.isExternal("redis") {
		r, err := embeddedredis.Start(again(c.Port.Redis, last.Redis))
		if err != nil {
			return taken(err, "--port-redis")
		}
		p.onStop(func() error { r.Stop(); return nil })
		p.redis = redis.Config{Addrs: []string{r.Addr()}}
	}
	if !c.isExternal("registry") {
		r, err := registry.Start(filepath.Join(c.Data, "registry"), again(c.Port.Registry, last.Registry))
		if err != nil {
			return taken(err, "--port-registry")
		}
		p.onStop(func() error { r.Stop(); return nil })
		p.registry = r.URL()
	}
	return nil
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
	f, err := os.OpenFile(filepath.Join(data, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
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
	return int64(st.Bavail) * int64(st.Bsize), nil
}
