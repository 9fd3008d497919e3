package allocator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/topics"
)

// loadLimit bounds how long the targets written before may take to load. A rebalance waits for it.
const loadLimit = 5 * time.Minute

// load takes in, for partitions just assigned, where their levels end and the targets last written.
func (s *Service) load(ctx context.Context) error {
	s.mu.Lock()
	fresh := make(map[int32]*owned)
	for p, o := range s.parts {
		if !o.loaded {
			fresh[p] = o
		}
	}
	s.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	ends, err := s.offsets(ctx, s.adm.ListEndOffsets, schemas.StockLevels)
	if err != nil {
		return err
	}
	starts, err := s.offsets(ctx, s.adm.ListStartOffsets, schemas.StockLevels)
	if err != nil {
		return err
	}
	if err := s.loadTargets(ctx, fresh); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, o := range fresh {
		end, _ := ends.Lookup(schemas.StockLevels, p)
		start, _ := starts.Lookup(schemas.StockLevels, p)
		o.loaded, o.end, o.high, o.heard = true, end.Offset, end.Offset, time.Now()
		o.next = max(o.next, start.Offset)
	}
	return nil
}

func (s *Service) offsets(ctx context.Context, list func(context.Context, ...string) (kadm.ListedOffsets, error), names ...string) (kadm.ListedOffsets, error) {
	o, err := list(ctx, names...)
	if err == nil {
		err = o.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of %s: %w", strings.Join(names, ", "), err)
	}
	return o, nil
}

type topicPartition struct {
	topic string
	id    int32
}

// loadTargets reads the targets topics of all channels, also of those that were removed while no allocator ran.
func (s *Service) loadTargets(ctx context.Context, fresh map[int32]*owned) error {
	all, err := s.adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("targets topics: %w", err)
	}
	var names []string
	for _, t := range all.Sorted() {
		if !strings.HasPrefix(t.Topic, schemas.TargetsPrefix) || t.Err != nil {
			continue
		}
		if int32(len(t.Partitions)) != s.partitions {
			s.deps.Telemetry.Log.WarnContext(ctx, "topic left out: it has another number of partitions", "topic", t.Topic,
				"partitions", len(t.Partitions), "want", s.partitions)
			continue
		}
		names = append(names, t.Topic)
	}
	if len(names) == 0 {
		return nil
	}
	starts, err := s.offsets(ctx, s.adm.ListStartOffsets, names...)
	if err != nil {
		return err
	}
	ends, err := s.offsets(ctx, s.adm.ListEndOffsets, names...)
	if err != nil {
		return err
	}
	missing := make(map[topicPartition]int64)
	consume := make(map[string]map[int32]kgo.Offset)
	for _, name := range names {
		for p := range fresh {
			start, _ := starts.Lookup(name, p)
			end, ok := ends.Lookup(name, p)
			if !ok || start.Offset >= end.Offset {
				continue
			}
			if consume[name] == nil {
				consume[name] = make(map[int32]kgo.Offset)
			}
			consume[name][p] = kgo.NewOffset().At(start.Offset)
			missing[topicPartition{name, p}] = end.Offset
		}
	}
	if len(missing) == 0 {
		return nil
	}
	client, err := s.deps.Kafka.Client(s.deps.Telemetry.Log, "onhand-allocator-load", kgo.ConsumePartitions(consume))
	if err != nil {
		return err
	}
	defer client.Close()
	heard := time.Now()
	for len(missing) > 0 {
		polling, cancel := context.WithTimeout(ctx, loadingPoll)
		fetches := client.PollFetches(polling)
		cancel()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("load targets: %d partitions left: %w", len(missing), err)
		}
		if fetches.NumRecords() > 0 {
			heard = time.Now()
		} else if time.Since(heard) > loadingIdle {
			s.deps.Telemetry.Log.WarnContext(ctx, "targets seem to end before their topics do; going on", "partitions", len(missing))
			return nil
		}
		s.mu.Lock()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				s.restore(ctx, fresh[p.Partition], r)
			}
			key := topicPartition{p.Topic, p.Partition}
			if n := len(p.Records); n > 0 && p.Records[n-1].Offset+1 >= missing[key] {
				delete(missing, key)
			}
		})
		s.mu.Unlock()
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
	s.engine.restore(o.partition, t)
}
