package allocator

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
)

// side reads the partitions of other topics that go with those that the group gave this instance: a group would not keep partitions of several topics together.
// Another set of partitions takes another side, so that nothing read for an earlier owner is left in it.
type side struct {
	client *kgo.Client
	got    chan kgo.Fetches
	quit   context.CancelFunc
	done   chan struct{}
}

// openSide reads on from the offsets, and calls wake when something is there.
func openSide(conf kafka.Config, tel *telemetry.Telemetry, most int, from map[string]map[int32]kgo.Offset, wake func()) (*side, error) {
	client, err := conf.Client(tel.Log, "onhand-allocator-results", kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	ctx, quit := context.WithCancel(context.Background())
	s := &side{client: client, got: make(chan kgo.Fetches, 1), quit: quit, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			f := client.PollRecords(ctx, most)
			if ctx.Err() != nil {
				return
			}
			select {
			case s.got <- f:
				wake()
			case <-ctx.Done():
				return
			}
		}
	}()
	return s, nil
}

// take is what has come since, if anything.
func (s *side) take() kgo.Fetches {
	if s == nil {
		return nil
	}
	select {
	case f := <-s.got:
		return f
	default:
		return nil
	}
}

func (s *side) close() {
	if s == nil {
		return
	}
	s.quit()
	s.client.Close()
	<-s.done
}
