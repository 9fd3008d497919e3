package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/reservation"
	"github.com/onhand/onhand/topics"
)

// endedFor is how long an instance remembers a reservation after it ended.
const endedFor = time.Hour

// decisions is what the ledger has decided on reservations, as far as this instance has read it, and who waits for what.
type decisions struct {
	mu      sync.Mutex
	by      map[string]map[string]*reservation.Decision // reservation, SKU: the newest
	waiting map[string][]chan<- *reservation.Decision   // by id of the event that is to be answered
	behind  map[int32]int64                             // partitions that are not read up to where they ended at the start: that end
	ready   bool                                        // all are
	swept   time.Time
}

// await has the decision on an event sent to to, which has room for it, until the wait is cancelled.
func (d *decisions) await(event string, to chan<- *reservation.Decision) (cancel func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting[event] = append(d.waiting[event], to)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		left := d.waiting[event]
		for i := range left {
			if left[i] == to {
				left = append(left[:i:i], left[i+1:]...)
				break
			}
		}
		if d.waiting[event] = left; len(left) == 0 {
			delete(d.waiting, event)
		}
	}
}

// of is the newest decision on each part of a reservation; empty when none is known. The decisions do not change.
func (d *decisions) of(id string) map[string]*reservation.Decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]*reservation.Decision, len(d.by[id]))
	for sku, x := range d.by[id] {
		out[sku] = x
	}
	return out
}

func (d *decisions) caughtUp() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ready
}

// take remembers a decision and tells who waits for it.
func (d *decisions) take(x *reservation.Decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, to := range d.waiting[x.EventID] {
		select {
		case to <- x:
		default: // it has been told before
		}
	}
	if x.State == reservation.Unknown {
		return
	}
	parts := d.by[x.ReservationID]
	if parts == nil {
		parts = make(map[string]*reservation.Decision, 1)
		d.by[x.ReservationID] = parts
	}
	if old := parts[x.SKU]; old == nil || x.SourceOffset >= old.SourceOffset {
		parts[x.SKU] = x
	}
}

// read notes how far a partition was read.
func (d *decisions) read(partition int32, next int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end, ok := d.behind[partition]; ok && next >= end {
		delete(d.behind, partition)
		d.ready = d.ready || len(d.behind) == 0
	}
}

// sweep forgets what ended long ago.
func (d *decisions) sweep(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.swept) < time.Minute {
		return
	}
	d.swept = now
	limit := now.Add(-endedFor).UnixMicro()
	for id, parts := range d.by {
		old := true
		for _, x := range parts {
			end := x.DecidedAt
			if x.State.Open() {
				end = max(end, x.ExpiresAt) // the ledger ends it; should nobody say so, it is as good as gone by then
			}
			old = old && end < limit
		}
		if old {
			delete(d.by, id)
		}
	}
}

// followDecisions reads the decisions on reservations: those that may still be open, then what comes, until ctx ends. What is not reached is waited for.
func (s *Service) followDecisions(ctx context.Context) {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		err := s.readDecisions(ctx)
		if ctx.Err() != nil {
			return
		}
		s.tel.Log.Warn("decisions on reservations cannot be read; trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (s *Service) readDecisions(ctx context.Context) error {
	adm := kadm.NewClient(s.producer)
	// A reservation was last granted or extended at most its longest life ago.
	since := time.Now().Add(-s.cfg.ReservationMaxTTL - endedFor).UnixMilli()
	starts, err := adm.ListOffsetsAfterMilli(ctx, since, schemas.ReservationDecisions)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", schemas.ReservationDecisions, err)
	}
	ends, err := adm.ListEndOffsets(ctx, schemas.ReservationDecisions)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", schemas.ReservationDecisions, err)
	}
	from, behind := make(map[int32]kgo.Offset), make(map[int32]int64)
	ends.Each(func(e kadm.ListedOffset) {
		start := e.Offset
		if o, ok := starts.Lookup(e.Topic, e.Partition); ok && o.Offset >= 0 {
			start = min(start, o.Offset)
		}
		from[e.Partition] = kgo.NewOffset().At(start)
		if start < e.Offset {
			behind[e.Partition] = e.Offset
		}
	})
	if len(from) == 0 {
		return fmt.Errorf("%s: %w", schemas.ReservationDecisions, kerr.UnknownTopicOrPartition)
	}
	client, err := s.deps.Kafka.Client(s.tel.Log, "onhand-ingest-reservations", kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.ReservationDecisions: from}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return err
	}
	defer kafka.Close(client, time.Second)
	d := &s.decisions
	d.mu.Lock()
	d.behind, d.ready = behind, d.ready || len(behind) == 0
	d.mu.Unlock()
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
			return err
		}
		fetches.EachError(func(t string, p int32, err error) {
			s.tel.Log.Warn("fetch failed; trying again", "topic", t, "partition", p, "err", err)
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				x, err := topics.DecodeDecision(r.Value)
				if err != nil {
					s.tel.Log.Error("a decision on a reservation cannot be read: who else writes to the topic?", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
				} else {
					d.take(x)
				}
				d.read(r.Partition, r.Offset+1)
			}
		})
		d.sweep(time.Now())
	}
}
