// Package memory keeps what Go takes of the memory of a process that has all services, Kafka and Redis in it: little while little is in use, and never so little that the collector does nothing
// but collect.
package memory

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// Floor is the size of Go's memory up to which its collector lets garbage lie, however little of it is in use, in bytes. The ClickHouse engine has a
// limit of its own, and some 240 MB of its library are mapped.
const Floor = 450 << 20

// Limit keeps Go's memory limit: a floor, and above it more than what lives, so that the collector has room however much there is. A limit that what lives
// comes close to would have it do nothing else, and callers wait meanwhile.
type Limit struct {
	floor atomic.Int64 // bytes
	ours  bool         // GOMEMLIMIT leaves it to us
}

// New puts a limit with a floor, in bytes, in force, unless the environment has one.
func New(floor int64) *Limit {
	m := &Limit{ours: os.Getenv("GOMEMLIMIT") == ""}
	m.Set(floor)
	return m
}

// Set puts another floor in force and returns the one before.
func (m *Limit) Set(floor int64) (before int64) {
	if before = m.floor.Swap(floor); m.ours {
		m.adjust()
	}
	return before
}

// Follow adjusts the limit to what lives, each second, until ctx ends.
func (m *Limit) Follow(ctx context.Context) {
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

func (m *Limit) adjust() {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	at := func(i int) int64 { return int64(s[i].Value.Uint64()) } //nolint:gosec // sizes of memory
	debug.SetMemoryLimit(limit(m.floor.Load(), at(0), at(1)-at(2)-at(3)-at(4)))
}

// limit is what lives on the heap, with room beside it and the rest of what Go uses; at least the floor. The room is a quarter of what lives, as far as the floor is
// thought for that, and beyond it more, up to as much again, which is Go's own measure: with a quarter, the collector is at work half of the time, and whoever allocates
// helps it. All in bytes.
func limit(floor, live, rest int64) int64 {
	room := min(live, live/4+2*max(0, live-floor))
	return max(floor, live+room+max(rest, 0))
}
