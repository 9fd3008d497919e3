package allocator

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/topics"
)

// The owner of a bundle reads the levels and the books of its components where they are: in stock.levels and exposure.books of their partitions, whoever owns these. What it reads is
// state, not change, so that it is made anew from the topics by whoever comes next, and a record that comes twice does nothing. Records of SKUs that are no components are passed over unread.

// componentTopics is what is read of components.
var componentTopics = []string{schemas.StockLevels, schemas.ExposureBooks}

// ownerOf is the partition of a SKU, when this instance has taken it over; else nil. s.mu is held.
func (s *Service) ownerOf(sku string) *targeting.Partition {
	if o := s.parts[s.partitionOf(sku)]; o != nil && o.loaded {
		return o.Partition
	}
	return nil
}

// followComponents reads the components of bundles that are owned here and were not read yet, and then reads on in their partitions.
func (s *Service) followComponents(ctx context.Context) error {
	s.mu.Lock()
	missing := s.engine.Missing()
	s.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	read := make(map[string][]int32)
	for _, sku := range missing {
		p := s.partitionOf(sku)
		for _, t := range componentTopics {
			if !slices.Contains(read[t], p) {
				read[t] = append(read[t], p)
			}
		}
	}
	s.feed.close()
	s.feed = nil
	s.mu.Lock()
	s.engine.Follow(missing)
	s.mu.Unlock()
	at, err := kafka.Committed(ctx, s.client, read, nil, func(r *kgo.Record) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.takeComponent(ctx, r)
	})
	if err != nil {
		s.mu.Lock()
		s.engine.Unfollow(missing...)
		s.mu.Unlock()
		return fmt.Errorf("load components of bundles: %w", err)
	}
	if s.fed == nil {
		s.fed = make(map[string]map[int32]int64)
	}
	at.Each(func(o kadm.Offset) {
		if s.fed[o.Topic] == nil {
			s.fed[o.Topic] = make(map[int32]int64)
		}
		s.fed[o.Topic][o.Partition] = max(s.fed[o.Topic][o.Partition], o.At)
	})
	from := make(map[string]map[int32]kgo.Offset)
	for t, ps := range s.fed {
		from[t] = make(map[int32]kgo.Offset)
		for p, o := range ps {
			from[t][p] = kgo.NewOffset().At(o)
		}
	}
	s.mu.Lock()
	s.engine.Followed(missing)
	s.mu.Unlock()
	s.feed, err = openSide(s.deps.Kafka, s.deps.Telemetry, s.cfg.PollMax, from, s.changes.call)
	return err
}

// takeComponents feeds what was read of components to the engine. s.mu is held.
func (s *Service) takeComponents(ctx context.Context, fetches kgo.Fetches) {
	fetches.EachError(func(t string, p int32, err error) {
		s.deps.Telemetry.Log.WarnContext(ctx, "fetch failed; trying again", "topic", t, "partition", p, "err", err)
	})
	fetches.EachRecord(func(r *kgo.Record) {
		s.takeComponent(ctx, r)
		s.fed[r.Topic][r.Partition] = r.Offset + 1
	})
}

func (s *Service) takeComponent(ctx context.Context, r *kgo.Record) {
	if !s.engine.Follows(string(r.Key)) {
		return
	}
	sku := string(r.Key)
	var err error
	switch {
	case r.Topic == schemas.StockLevels && len(r.Value) == 0:
		s.engine.ComponentLevel(sku, nil)
	case r.Topic == schemas.StockLevels:
		l, e := topics.DecodeLevel(r.Value)
		if err = e; err == nil && l.SKU == sku {
			s.engine.ComponentLevel(sku, l)
		}
	case len(r.Value) == 0:
		s.engine.ComponentBooks(sku, nil)
	default:
		x, e := topics.DecodeBooks(r.Value)
		if err = e; err == nil && x.SKU == sku {
			s.engine.ComponentBooks(sku, x)
		}
	}
	if err != nil {
		s.deps.Telemetry.Log.ErrorContext(ctx, "record of a bundle's component not readable; its earlier one counts", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "sku", sku, "err", err)
	}
}
