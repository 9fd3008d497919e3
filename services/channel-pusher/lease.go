package channelpusher

import (
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// lease is the time for which partitions are ours whatever happens: a session from when the last request that kept the membership alive was sent. Kafka gives them to another
// member only after that. A process that was stopped for longer, or cut off, begins nothing more before it has heard from Kafka again, so that what it begins is never
// begun by the next owner, too.
type lease struct {
	session time.Duration
	last    atomic.Int64 // when it was last renewed, Unix nanoseconds
}

// Requests that keep a membership alive.
var renewals = map[int16]bool{
	(&kmsg.HeartbeatRequest{}).Key(): true, (&kmsg.JoinGroupRequest{}).Key(): true, (&kmsg.SyncGroupRequest{}).Key(): true,
	(&kmsg.ConsumerGroupHeartbeatRequest{}).Key(): true,
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (l *lease) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	if renewals[key] && e.Err() == nil {
		l.renew(time.Now().Add(-e.DurationE2E()))
	}
}

// renew has the lease begin at a moment, unless it began later.
func (l *lease) renew(at time.Time) {
	for n := at.UnixNano(); ; {
		have := l.last.Load()
		if have >= n || l.last.CompareAndSwap(have, n) {
			return
		}
	}
}

// holds says whether partitions are ours at a moment.
func (l *lease) holds(now time.Time) bool {
	return now.UnixNano()-l.last.Load() < int64(l.session)
}
