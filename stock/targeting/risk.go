package targeting

import (
	"slices"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
)

// RiskLevels are the probabilities from which SKUs are counted.
var RiskLevels = [...]float64{0.001, 0.01, 0.1}

// Risk is how much a channel may oversell of the SKUs that are pooled, should each run out now: an upper bound of what can happen, since few run out at once.
type Risk struct {
	SKUs  [len(RiskLevels)]int64 // with a probability of at least that level
	Units float64                // expected, over all of them
}

// Selling is the SKUs that ever sold: what nobody sold has no rate, and no risk.
func (p *Partition) Selling() (out []*SKU) {
	for _, s := range p.list {
		if len(s.counters) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// AddRisk adds SKUs of one partition to the risks, by channel.
func (e *Engine) AddRisk(risks map[string]Risk, skus []*SKU, now int64) {
	if len(skus) == 0 {
		return
	}
	e.useBase()
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
		e.fill(s.of, now) // a component has channels of its own
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

// doubt is what the risk of a pooled channel comes from: its rate of sales, how long the news is under way, and its buffer. The plan's channels and their delays have been
// filled in, and the SKU prepared.
func (e *Engine) doubt(s *SKU, offer int) (rate, window int64, buffer allocation.Units) {
	o := &e.offers[offer]
	id := e.plan.Layout.SellerID(o.Channel)
	d := escrow.DefaultDelay
	if m := e.in.Delays[o.Channel]; m.Event > 0 {
		d.Event = m.Event
	}
	if m := e.in.Delays[o.Channel]; m.Write > 0 {
		d.Write = m.Write
	}
	return s.books.Rate(id, e.in.Now), d.Event + d.Write, e.input.Rules.Channels[o.Channel].Buffer.Units
}
