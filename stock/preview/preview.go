// Package preview tells what other settings would make of the same stock: which targets would move, before anyone applies them.
//
// It compares what the rules make of what is available. Where exposure is kept in books, a channel may show less than that for a while, under the old
// settings as under the new ones.
package preview

import (
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// Change is one target that would move, come or go.
type Change struct {
	SKU           string
	Channel       string
	Before, After event.Units
	Was, Is       bool   // listed at the channel before, after
	ModeBefore    string // the rules' mode of the SKU
	ModeAfter     string
	Steps         []allocation.Step // how the target after comes about; nil when the channel no longer lists the SKU
}

// side is one of the two catalogs, and what it makes of a SKU.
type side struct {
	plan   *catalog.Plan
	solver allocation.Solver
	input  allocation.Input
	offers []catalog.Offer
	stock  []allocation.Stock
}

// Preview compares two catalogs. It keeps scratch memory between calls and so is for one goroutine.
type Preview struct{ before, after side }

// New compares the settings in force with others.
func New(before, after *catalog.Settings) *Preview {
	return &Preview{before: side{plan: catalog.Compile(before)}, after: side{plan: catalog.Compile(after)}}
}

// SKU appends to dst the targets of a SKU that differ, in order of channel. A listing is nil where there is none.
func (p *Preview) SKU(dst []Change, l *ledger.Level, before, after *catalog.Listing) []Change {
	p.before.solve(l, before)
	p.after.solve(l, after)
	i, j := 0, 0
	for i < len(p.before.offers) || j < len(p.after.offers) {
		c := Change{SKU: l.SKU, ModeBefore: p.before.mode(), ModeAfter: p.after.mode()}
		was, is := p.before.channel(i), p.after.channel(j)
		if was != "" && (is == "" || was <= is) {
			c.Channel, c.Was, c.Before = was, true, p.before.solver.Target(i)
			i++
		}
		if is != "" && (was == "" || is <= was) {
			c.Channel, c.Is, c.After = is, true, p.after.solver.Target(j)
			if c.Was != c.Is || c.Before != c.After {
				c.Steps = p.after.solver.Explain(nil, j)
			}
			j++
		}
		if c.Was != c.Is || c.Before != c.After {
			dst = append(dst, c)
		}
	}
	return dst
}

// channel is the id of offer i, and empty past the last.
func (s *side) channel(i int) string {
	if i >= len(s.offers) {
		return ""
	}
	return s.plan.Layout.SellerID(s.offers[i].Channel)
}

// mode is the name of what the rules ask for.
func (s *side) mode() string {
	if r := s.input.Rules; r.Guarantee != allocation.NoGuarantee {
		return r.Guarantee.String()
	}
	return s.input.Rules.Mode.String()
}

func (s *side) solve(l *ledger.Level, listing *catalog.Listing) {
	s.offers = s.plan.Offers(s.offers[:0], l.SKU, listing)
	in := &s.input
	in.Layout, in.Rules, in.Unassigned = s.plan.Layout, s.plan.Rules(l.SKU, listing), l.Unassigned
	s.stock = s.stock[:0]
	for i := range l.Locations {
		x := &l.Locations[i]
		s.stock = append(s.stock, allocation.Stock{Place: s.plan.Layout.Place(x.Location), ID: x.Location, Available: x.Available()})
	}
	in.Stock, in.Channels = s.stock, in.Channels[:0]
	for i := range s.offers {
		in.Channels = append(in.Channels, allocation.Listed{Seller: s.offers[i].Channel, Paused: s.offers[i].Paused, Margin: catalog.Margin(listing, s.channel(i))})
	}
	s.solver.Solve(in)
}
