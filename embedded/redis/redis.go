// Package redis runs a Redis inside this process: miniredis on a loopback port.
// It is empty at every start, which is no loss: what Onhand keeps in Redis is a
// projection, rebuilt from the topics.
package redis

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// Redis is a running server.
type Redis struct {
	server      *miniredis.Miniredis
	stop        sync.Once
	ended, done chan struct{}
}

// Start runs a server on 127.0.0.1; port 0 takes a free one.
func Start(port int) (*Redis, error) {
	m := miniredis.NewMiniRedis()
	err := m.StartAddr(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("redis: port %d is taken by another program: %w", port, err)
	}
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	r := &Redis{server: m, ended: make(chan struct{}), done: make(chan struct{})}
	go r.expire()
	return r, nil
}

// ttlEvery is how exact expiry is.
const ttlEvery = time.Second

// expire lets keys expire as time goes by. The server's own way (ClockTTL) goes through all keys, sorted, at every command.
func (r *Redis) expire() {
	defer close(r.done)
	tick := time.NewTicker(ttlEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-r.ended:
			return
		case now := <-tick.C:
			r.server.FastForward(now.Sub(last))
			last = now
		}
	}
}

// Addr is the address to connect to, host:port.
func (r *Redis) Addr() string { return r.server.Addr() }

// Server is the server underneath, for tests that want faults.
func (r *Redis) Server() *miniredis.Miniredis { return r.server }

// Stop closes the server and its connections.
func (r *Redis) Stop() {
	r.stop.Do(func() {
		close(r.ended)
		<-r.done
		r.server.Close()
	})
}
