package allocator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/topics"
)

// loadLimit bounds how long what was written before may take to load. A rebalance waits for it.
const loadLimit = 5 * time.Minute

// load takes in, for partitions just assigned, what was written before: books, targets, watermarks, and where the results of writes and the levels were read up to.
// It begins when the group's offsets of a partition have come, which Kafka gives when the earlier owner's transactions are over.
func (s *Service) load(ctx context.Context) error {
	s.mu.Lock()
	fresh := make(map[int32]*owned)
	for p, o := range s.parts {
		if o.ours && !o.loaded {
			fresh[p] = o
		}
	}
	stale := s.sideStale
	s.mu.Unlock()
	if len(fresh) == 0 {
		if stale {
			return s.reopenSide()
		}
		return nil
	}
	ids := make([]int32, 0, len(fresh))
	for p := range fresh {
		ids = append(ids, p)
	}
	slices.Sort(ids)
	ends, err := s.adm.ListEndOffsets(ctx, schemas.StockLevels, schemas.ChannelWrites)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("end offsets: %w", err)
	}
	if err := s.loadBooks(ctx, fresh, ids); err != nil {
		return err
	}
	if err := s.loadTargets(ctx, fresh, ids); err != nil {
		return err
	}
	results, err := s.resultsFrom(ctx, fresh, ends)
	if err != nil {
		return err
	}
	passed, err := kafka.Committed(ctx, s.client, map[string][]int32{schemas.ChannelWatermarks: ids}, nil, func(r *kgo.Record) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.takeWatermark(ctx, fresh[r.Partition], r)
	})
	if err != nil {
		return fmt.Errorf("load watermarks: %w", err)
	}
	s.mu.Lock()
	for p, o := range fresh {
		end, _ := ends.Lookup(schemas.StockLevels, p)
		mark, _ := passed.Lookup(schemas.ChannelWatermarks, p)
		o.loaded, o.end, o.high, o.heard = true, end.Offset, max(o.high, end.Offset), time.Now()
		o.results, o.passed = results[p], mark.At
	}
	s.mu.Unlock()
	return s.reopenSide()
}

// resultsFrom is where results of writes are to be read from: the group's offset. Where it has none, nothing was ever granted, or the offset has expired: then from the
// start if the books know an open write, whose result may be long there.
func (s *Service) resultsFrom(ctx context.Context, fresh map[int32]*owned, ends kadm.ListedOffsets) (map[int32]int64, error) {
	group, err := s.adm.FetchOffsetsForTopics(ctx, s.cfg.Group, schemas.ChannelWrites)
	if err == nil {
		err = group.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of %s: %w", schemas.ChannelWrites, err)
	}
	out := make(map[int32]int64, len(fresh))
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, o := range fresh {
		if c, ok := group.Lookup(schemas.ChannelWrites, p); ok && c.At >= 0 {
			out[p] = c.At
		} else if o.Open() == 0 {
			end, _ := ends.Lookup(schemas.ChannelWrites, p)
			out[p] = end.Offset
		}
	}
	return out, nil
}

// reopenSide reads on, for the partitions that are loaded now, in the topics beside levels.
func (s *Service) reopenSide() error {
	s.side.close()
	s.side = nil
	results, marks := make(map[int32]kgo.Offset), make(map[int32]kgo.Offset)
	s.mu.Lock()
	s.sideStale = false
	for p, o := range s.parts {
		if o.loaded {
			results[p], marks[p] = kgo.NewOffset().At(o.results), kgo.NewOffset().At(o.passed)
		}
	}
	s.mu.Unlock()
	if len(results) == 0 {
		return nil
	}
	var err error
	s.side, err = openSide(s.deps.Kafka, s.deps.Telemetry, s.cfg.PollMax, map[string]map[int32]kgo.Offset{
		schemas.ChannelWrites: results, schemas.ChannelWatermarks: marks}, s.changes.call)
	return err
}

// loadTargets reads the targets topics of all channels, also of those that were removed while no allocator ran.
func (s *Service) loadTargets(ctx context.Context, fresh map[int32]*owned, ids []int32) error {
	all, err := s.adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("targets topics: %w", err)
	}
	read := make(map[string][]int32)
	for _, t := range all.Sorted() {
		if !strings.HasPrefix(t.Topic, schemas.TargetsPrefix) || t.Err != nil {
			continue
		}
		if int32(len(t.Partitions)) != s.partitions {
			s.deps.Telemetry.Log.WarnContext(ctx, "topic left out: it has another number of partitions", "topic", t.Topic,
				"partitions", len(t.Partitions), "want", s.partitions)
			continue
		}
		read[t.Topic] = ids
	}
	_, err = kafka.Committed(ctx, s.client, read, nil, func(r *kgo.Record) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.restore(ctx, fresh[r.Partition], r)
	})
	if err != nil {
		return fmt.Errorf("load targets: %w", err)
	}
	return nil
}

// restore takes in one target. One that cannot be read counts as never written: the SKU's next decision writes it anew.
func (s *Service) restore(ctx context.Context, o *owned, r *kgo.Record) {
	if len(r.Value) == 0 {
		return
	}
	t, err := topics.DecodeTarget(r.Value)
	if err != nil || t.SKU != string(r.Key) || schemas.TargetsTopic(t.Channel) != r.Topic {
		s.deps.Telemetry.Log.WarnContext(ctx, "target not readable; it will be written anew", "topic", r.Topic, "partition", r.Partition,
			"offset", r.Offset, "sku", string(r.Key), "err", err)
		return
	}
	s.engine.Restore(o.Partition, t)
}
