package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// memory keeps Go's memory limit: a floor, and above it a part more than what lives, so that the collector has room however much there is. A limit that what lives
// comes close to would have it do nothing else.
type memory struct {
	floor atomic.Int64 // bytes
	ours  bool         // GOMEMLIMIT leaves it to us
}

func newMemory(floor int64) *memory {
	m := &memory{ours: os.Getenv("GOMEMLIMIT") == ""}
	m.set(floor)
	return m
}

// set puts another floor in force and returns the one before.
func (m *memory) set(floor int64) (before int64) {
	if before = m.floor.Swap(floor); m.ours {
		m.adjust()
	}
	return before
}

// follow adjusts the limit to what lives until ctx ends.
func (m *memory) follow(ctx context.Context) {
	if !m.ours {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.adjust()
		}
	}
}

func (m *memory) adjust() {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	at := func(i int) int64 { return int64(s[i].Value.Uint64()) } //nolint:gosec // sizes of memory
	debug.SetMemoryLimit(memoryLimit(m.floor.Load(), at(0), at(1)-at(2)-at(3)-at(4)))
}

// memoryLimit is a quarter more than what lives on the heap, with the rest of what Go uses beside it; at least the floor. All in bytes.
func memoryLimit(floor, live, rest int64) int64 { return max(floor, live+live/4+max(rest, 0)) }
