package allocator

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/onhand/onhand/stock/escrow"
)

const (
	riskEvery = 10 * time.Second // how often the risk is looked at
	riskAtAll = 1000             // SKUs looked at before decisions may go on
)

// RiskLevels are the probabilities from which SKUs are counted.
var RiskLevels = [...]float64{0.001, 0.01, 0.1}

// Risk is how much a channel may oversell of the SKUs that are pooled, should each run out now: an upper bound of what can happen, since few run out at once.
type Risk struct {
	SKUs  [len(RiskLevels)]int64 // with a probability of at least that level
	Units float64                // expected, over all of them
}

// Risks is by channel, of the partitions owned, as last looked at. Do not change it.
func (s *Service) Risks() map[string]Risk {
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
	risks := make(map[string]Risk)
	s.mu.Lock()
	parts := slices.Collect(maps.Keys(s.parts))
	s.mu.Unlock()
	for _, p := range parts {
		var todo []*sku
		s.mu.Lock()
		if o := s.parts[p]; o != nil && o.live {
			for _, k := range o.skus {
				if len(k.counters) > 0 { // what nobody sold has no rate
					todo = append(todo, k)
				}
			}
		}
		s.mu.Unlock()
		for some := range slices.Chunk(todo, riskAtAll) {
			s.mu.Lock()
			if o := s.parts[p]; o != nil && o.live && o.partition == some[0].of {
				s.engine.addRisk(risks, some, now)
			}
			s.mu.Unlock()
		}
	}
	s.stats.risks.Store(&risks)
}

// addRisk adds SKUs of one partition to risks.
func (e *engine) addRisk(risks map[string]Risk, skus []*sku, now int64) {
	e.fill(skus[0].of, now)
	for _, ch := range e.plan.Channels {
		if _, known := risks[ch.ID]; !known {
			risks[ch.ID] = Risk{} // a channel at no risk is told of too
		}
	}
	for _, s := range skus {
		if s.books.Phase() != escrow.Pooled || !slices.ContainsFunc(s.counters, func(c counter) bool { return s.books.Rate(c.channel, now) > 0 }) {
			continue
		}
		e.prepare(s)
		for i := range e.offers {
			rate, window, buffer := e.doubt(s, i)
			if rate <= 0 {
				continue
			}
			channel := e.plan.Layout.SellerID(e.offers[i].Channel)
			r := risks[channel]
			p := escrow.OversellProbability(rate, window, buffer)
			for j, at := range RiskLevels {
				if p >= at {
					r.SKUs[j]++
				}
			}
			r.Units += escrow.ExpectedOversell(rate, window, buffer)
			risks[channel] = r
		}
	}
}
