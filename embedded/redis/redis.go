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

	"github.com/alicebob/miniredis/v2"
)

// Redis is a running server.
type Redis struct {
	server *miniredis.Miniredis
	stop   sync.Once
}

// Start runs a server on 127.0.0.1; port 0 takes a free one.
func Start(port int) (*Redis, error) {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true) // keys expire as time goes by, not when a test says so
	err := m.StartAddr(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("redis: port %d is taken by another program: %w", port, err)
	}
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return &Redis{server: m}, nil
}

// Addr is the address to connect to, host:port.
func (r *Redis) Addr() string { return r.server.Addr() }

// Server is the server underneath, for tests that want faults.
func (r *Redis) Server() *miniredis.Miniredis { return r.server }

// Stop closes the server and its connections.
func (r *Redis) Stop() { r.stop.Do(r.server.Close) }
