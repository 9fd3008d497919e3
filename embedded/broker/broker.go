// Package broker runs a Kafka broker inside this process: kfake with its data on
// disk, so that a restart goes on with everything it had.
//
// An acknowledged record survives the death of the process, because it has been
// handed to the operating system. It survives the death of the machine only with
// Config.Sync, which syncs every batch to the disk first; Kafka's own default is
// the same as ours, but Kafka has replicas.
package broker

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
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Config says where the broker listens and keeps its data.
type Config struct {
	Dir        string        // data directory; made when missing
	Port       int           // TCP port on 127.0.0.1; 0 takes a free one
	Partitions int           // of topics that clients make without saying; default 8
	Sync       bool          // sync every batch to the disk before it is acknowledged
	Quiet      time.Duration // compact topics and drop old records after so long without a write; default 1 min
	Clean      time.Duration // and at the latest after so long; default 1 h
	Log        *slog.Logger  // warnings and errors of the broker; default: discards
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	stop    sync.Once
	quit    chan struct{}
	cleaned chan struct{} // closed when clean has ended
}

// Start runs a broker on cfg.Dir. The error says what is in the way: the port
// taken, the disk full, or data that cannot be read.
func Start(cfg Config) (*Broker, error) {
	if cfg.Dir == "" {
		return nil, errors.New("broker: Config.Dir is empty: name the directory for the data")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if cfg.Partitions <= 0 {
		cfg.Partitions = 8
	}
	if cfg.Quiet <= 0 {
		cfg.Quiet = time.Minute
	}
	if cfg.Clean <= 0 {
		cfg.Clean = time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("broker: prepare the data directory: %w", err)
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1), kfake.Ports(cfg.Port), kfake.ClusterID("onhand"),
		kfake.DataDir(dir), kfake.DefaultNumPartitions(cfg.Partitions), kfake.WithLogger(logger{cfg.Log}),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms":                    strconv.FormatInt((10 * 365 * 24 * time.Hour).Milliseconds(), 10), // see clean
			"group.consumer.heartbeat.interval.ms":      "1000",
			"message.max.bytes":                         "10485760",
			"max.incremental.fetch.session.cache.slots": "256",
		}),
	}
	if cfg.Sync {
		opts = append(opts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(opts...)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("broker: port %d is taken by another program: %w", cfg.Port, err)
	case errors.Is(err, syscall.ENOSPC):
		return nil, fmt.Errorf("broker: the disk that holds %s is full: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("broker: start on %s: %w", dir, err)
	}
	b := &Broker{cluster: cluster, addr: cluster.ListenAddrs()[0], quit: make(chan struct{}), cleaned: make(chan struct{})}
	go b.clean(cfg.Quiet, cfg.Clean)
	return b, nil
}

// clean compacts topics and drops old records. The broker answers nothing
// meanwhile (about 2 s per million records of compacted topics), so it waits for
// a quiet moment.
func (b *Broker) clean(quiet, latest time.Duration) {
	defer close(b.cleaned)
	writes := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	defer writes.Remove()
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	before, atClean, last := 0, 0, time.Now()
	for {
		select {
		case <-b.quit:
			return
		case <-tick.C:
		}
		now := writes.Hits()
		if now > atClean && (now == before || time.Since(last) > latest) {
			b.cluster.Compact()
			atClean, last = now, time.Now()
		}
		before = now
	}
}

// Addr is the address to connect to, host:port.
func (b *Broker) Addr() string { return b.addr }

// Ready returns nil when the broker takes connections.
func (b *Broker) Ready(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.addr)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return conn.Close()
}

// Cluster is the broker underneath, for tests that want faults.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Stop closes the listeners and syncs the data to the disk.
func (b *Broker) Stop() {
	b.stop.Do(func() {
		close(b.quit)
		<-b.cleaned
		b.cluster.Close()
	})
}

// logger passes the broker's warnings and errors on.
type logger struct{ log *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error("embedded broker", "msg", strings.TrimSpace(fmt.Sprintf(format, args...)))
	case kfake.LogLevelWarn:
		l.log.Warn("embedded broker", "msg", strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}
