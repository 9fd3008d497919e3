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

const (
	ttlEvery = time.Second // how exact expiry is while there are few keys
	ttlShare = 1000        // looking for what has expired takes at most one part in so many of the time
)

// expire lets keys expire as time goes by. The server's own way (ClockTTL) goes through all keys, sorted, at every command. This does too, and nothing is answered
// meanwhile (10 ms for 25,000 keys, on a machine with nothing else to do), so that it comes the more rarely the longer it takes. A key's time counts in steps of that: what lives
// for less may go early, or stay until the next look.
func (r *Redis) expire() {
	defer close(r.done)
	next := time.NewTimer(ttlEvery)
	defer next.Stop()
	last := time.Now()
	for {
		select {
		case <-r.ended:
			return
		case now := <-next.C:
			r.server.FastForward(now.Sub(last))
			last = now
			next.Reset(ttlPause(time.Since(now)))
		}
	}
}

// ttlPause is how long expired keys may stay, after it took so long to look for them.
func ttlPause(took time.Duration) time.Duration { return max(ttlEvery, ttlShare*took) }

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
