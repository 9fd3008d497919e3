// Package embedded starts all that Onhand needs around it inside this process: a
// Kafka broker, a schema registry, a Redis and the ClickHouse engine, on loopback
// ports, with their data in one directory.
package embedded

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
	"sync"
	"syscall"
	"time"

	"github.com/onhand/onhand/embedded/broker"
	"github.com/onhand/onhand/embedded/clickhouse"
	"github.com/onhand/onhand/embedded/redis"
	"github.com/onhand/onhand/embedded/registry"
)

// Ports are the loopback ports of the parts; 0 takes a free one.
type Ports struct {
	Kafka      int `help:"Port of the embedded Kafka broker; 0 takes a free one." default:"19092" env:"ONHAND_KAFKA_PORT"`
	Registry   int `help:"Port of the embedded schema registry; 0 takes a free one." default:"18081" env:"ONHAND_REGISTRY_PORT"`
	Redis      int `help:"Port of the embedded Redis; 0 takes a free one." default:"16379" env:"ONHAND_REDIS_PORT"`
	ClickHouse int `help:"Port of the embedded ClickHouse's HTTP interface; 0 takes a free one." default:"18123" env:"ONHAND_CLICKHOUSE_PORT"`
}

// DefaultPorts are the ports where users find the parts. They differ from the
// usual ones, so that a Kafka or Redis of the machine's own is no obstacle.
func DefaultPorts() Ports {
	return Ports{Kafka: 19092, Registry: 18081, Redis: 16379, ClickHouse: 18123}
}

// PortNames are what the user calls the settings of the ports, for the message
// that one is taken.
type PortNames struct{ Kafka, Registry, Redis, ClickHouse string }

// Config says which parts to start and where.
type Config struct {
	Dir       string    // data directory; made when missing
	Ports     Ports     // the zero value takes free ones
	PortNames PortNames // default: --kafka-port, --registry-port, --redis-port, --clickhouse-port

	WithoutKafka      bool
	WithoutRegistry   bool
	WithoutRedis      bool
	WithoutClickHouse bool

	Sync             bool         // sync every Kafka batch to the disk before it is acknowledged (see package broker)
	Partitions       int          // of Kafka topics that clients make without saying; default 8
	ClickHouseMemory int64        // the engine's memory limit, bytes; default 1 GiB
	Library          string       // path of the engine's library; empty: see clickhouse.Find
	Log              *slog.Logger // default: discards
}

// Addresses say where the parts listen; those of parts that do not run are empty.
type Addresses struct {
	Kafka      []string // seed brokers, host:port
	Registry   string   // base URL
	Redis      string   // host:port
	ClickHouse string   // base URL of the HTTP interface
}

// Parts are the running parts.
type Parts struct {
	Addresses
	Broker *broker.Broker     // nil when it does not run
	Engine *clickhouse.Engine // nil when it does not run

	stop  []func() error // in the order of starting
	once  sync.Once
	ended error
}

// ErrLocked reports that another process uses the data directory.
var ErrLocked = errors.New("another process uses this data directory")

// minFree is the free disk space below which the parts do not start, bytes.
const minFree = 64 << 20

// Start starts the parts. On an error nothing is left running, and the error says
// what is in the way and which setting changes it. clickhouse.ErrNoLibrary means
// that clickhouse.Install can help.
func Start(ctx context.Context, cfg Config) (*Parts, error) {
	if cfg.Dir == "" {
		return nil, errors.New("embedded: Config.Dir is empty: name the directory for the data")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.PortNames == (PortNames{}) {
		cfg.PortNames = PortNames{Kafka: "--kafka-port", Registry: "--registry-port", Redis: "--redis-port", ClickHouse: "--clickhouse-port"}
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("embedded: make the data directory: %w", err)
	}
	p := &Parts{}
	if err := p.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// start starts the parts one by one and notes how each stops.
func (p *Parts) start(ctx context.Context, cfg Config) error {
	unlock, err := lock(filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Dir, err)
	}
	p.stop = append(p.stop, unlock)
	if err := checkSpace(cfg.Dir); err != nil {
		return err
	}
	if !cfg.WithoutKafka {
		b, err := broker.Start(broker.Config{Dir: filepath.Join(cfg.Dir, "kafka"), Port: cfg.Ports.Kafka, Partitions: cfg.Partitions, Sync: cfg.Sync, Log: cfg.Log})
		if err != nil {
			return hint(err, cfg.PortNames.Kafka)
		}
		p.stop = append(p.stop, func() error { b.Stop(); return nil })
		p.Broker, p.Kafka = b, []string{b.Addr()}
	}
	if !cfg.WithoutRegistry {
		r, err := registry.Start(filepath.Join(cfg.Dir, "registry"), cfg.Ports.Registry)
		if err != nil {
			return hint(err, cfg.PortNames.Registry)
		}
		p.stop = append(p.stop, func() error { r.Stop(); return nil })
		p.Registry = r.URL()
	}
	if !cfg.WithoutRedis {
		r, err := redis.Start(cfg.Ports.Redis)
		if err != nil {
			return hint(err, cfg.PortNames.Redis)
		}
		p.stop = append(p.stop, func() error { r.Stop(); return nil })
		p.Redis = r.Addr()
	}
	if !cfg.WithoutClickHouse {
		if err := p.startClickHouse(ctx, cfg); err != nil {
			return hint(err, cfg.PortNames.ClickHouse)
		}
	}
	return nil
}

// startClickHouse opens the engine and serves it. The port is taken first: it
// fails sooner than the engine starts.
func (p *Parts) startClickHouse(ctx context.Context, cfg Config) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Ports.ClickHouse)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("clickhouse: port %d is taken by another program: %w", cfg.Ports.ClickHouse, err)
	}
	if err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	engine, err := clickhouse.Open(ctx, clickhouse.Config{Dir: filepath.Join(cfg.Dir, "clickhouse"), Library: cfg.Library, Memory: cfg.ClickHouseMemory, Log: cfg.Log})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	p.stop = append(p.stop, engine.Close)
	p.Engine, p.ClickHouse = engine, "http://"+l.Addr().String()
	stop := ServeClickHouse(l, engine, clickhouse.HandlerConfig{}, cfg.Log)
	p.stop = append(p.stop, stop)
	return nil
}

// ServeClickHouse serves the engine's HTTP interface on l until stop is called,
// which lets requests under way go on for a moment. It owns l, not the engine.
func ServeClickHouse(l net.Listener, engine *clickhouse.Engine, cfg clickhouse.HandlerConfig, log *slog.Logger) (stop func() error) {
	h := clickhouse.NewHandler(engine, cfg)
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := s.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			log.Warn("ClickHouse statements were cut off by the stop")
			err = s.Close()
		}
		if serving := <-served; !errors.Is(serving, http.ErrServerClosed) {
			err = errors.Join(err, serving)
		}
		h.Close()
		return err
	}
}

// hint adds to an error about a port which setting changes it.
func hint(err error, setting string) error {
	if errors.Is(err, syscall.EADDRINUSE) && setting != "" {
		return fmt.Errorf("%w; stop that program or choose another port with %s", err, setting)
	}
	return err
}

// checkSpace refuses to start on a disk that is as good as full: the parts would
// fail one after another, each in its own words.
func checkSpace(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("embedded: look at the disk of %s: %w", dir, err)
	}
	free := uint64(st.Bavail) * uint64(st.Bsize) //nolint:unconvert // the field's type differs between systems
	if free < minFree {
		return fmt.Errorf("embedded: the disk that holds %s is full: %d MB are free, %d MB are needed: %w", dir, free>>20, minFree>>20, syscall.ENOSPC)
	}
	return nil
}

// lock takes the data directory for this process. The lock ends with the process,
// however it ends.
func lock(file string) (unlock func() error, err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		var pid [20]byte
		n, _ := f.Read(pid[:])
		err = ErrLocked
		if n > 0 {
			err = fmt.Errorf("%w (process %s); stop it, or choose another directory", ErrLocked, pid[:n])
		}
		return nil, errors.Join(err, f.Close())
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(os.Getpid()))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write the lock: %w", err), f.Close())
	}
	return f.Close, nil
}

// Ready returns nil when all parts that were started answer.
func (p *Parts) Ready(ctx context.Context) error {
	if p.Broker != nil {
		if err := p.Broker.Ready(ctx); err != nil {
			return err
		}
	}
	if p.Engine != nil {
		r, err := p.Engine.Exec(ctx, clickhouse.Query{Text: "SELECT 1"})
		if err != nil {
			return fmt.Errorf("clickhouse: %w", err)
		}
		r.Free()
	}
	return nil
}

// Stop stops the parts, the last started first, and gives the directory free. It
// may be called more than once.
func (p *Parts) Stop() error {
	p.once.Do(func() {
		for i := len(p.stop) - 1; i >= 0; i-- {
			p.ended = errors.Join(p.ended, p.stop[i]())
		}
	})
	return p.ended
}
