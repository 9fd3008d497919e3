package allocator

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/onhand/onhand/stock/targeting"
)

const (
	riskEvery = 10 * time.Second // how often the risk is looked at
	riskAtAll = 1000             // SKUs looked at before decisions may go on
)

// Risks is by channel, of the partitions owned, as last looked at. Do not change it.
func (s *Service) Risks() map[string]targeting.Risk {
	if r := s.stats.risks.Load(); r != nil {
		return *r
	}
	return nil
}

// watchRisk looks at the risk now and then, until ctx ends.
func (s *Service) watchRisk(ctx context.Context) {
	tick := time.NewTicker(riskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.lookAtRisk(time.Now().UnixMicro())
		}
	}
}

// lookAtRisk adds up the risk of all SKUs, some at a time so that decisions need not wait for it.
func (s *Service) lookAtRisk(now int64) {
	risks := make(map[string]targeting.Risk)
	s.mu.Lock()
	parts := slices.Collect(maps.Keys(s.parts))
	s.mu.Unlock()
	for _, p := range parts {
		var todo []*targeting.SKU
		s.mu.Lock()
		if o := s.parts[p]; o != nil && o.Live() {
			todo = o.Selling()
		}
		s.mu.Unlock()
		for some := range slices.Chunk(todo, riskAtAll) {
			s.mu.Lock()
			if o := s.parts[p]; o != nil && o.Live() && o.Partition == some[0].Partition() {
				s.engine.AddRisk(risks, some, now)
			}
			s.mu.Unlock()
		}
	}
	s.stats.risks.Store(&risks)
}
