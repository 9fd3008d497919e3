// Package preview tells what other settings would make of the same stock: which targets would move, before anyone applies them.
//
// It compares what the rules make of what is available, as the allocator's engine (stock/targeting) finds it: of a bundle what its components make, less what their rules keep off all
// channels. Where exposure is kept in books, a channel may show less than that for a while, under the old settings as under the new ones.
package preview

import (
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/targeting"
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

// Catalog is settings and who lists what, by SKU.
type Catalog struct {
	Settings *catalog.Settings
	Listings map[string]*catalog.Listing
}

// side is one of the two catalogs, and what it makes of a SKU.
type side struct {
	Catalog
	plan    *catalog.Plan
	engine  *targeting.Engine
	part    *targeting.Partition // of the SKU that is looked at
	targets []targeting.Ruled
}

// Preview compares two catalogs. It keeps scratch memory between calls and so is for one goroutine.
type Preview struct{ before, after side }

// New compares the catalog in force with another. The listings must not change meanwhile.
func New(before, after Catalog) *Preview {
	return &Preview{before: newSide(before), after: newSide(after)}
}

func newSide(c Catalog) side {
	s := side{Catalog: c, plan: catalog.Compile(c.Settings)}
	s.engine = targeting.New(func(sku string) *catalog.Listing { return c.Listings[sku] }, escrow.DefaultSkew)
	s.engine.Settings(s.plan)
	for sku, l := range c.Listings {
		if len(l.Components) > 0 {
			s.engine.Index(sku, l)
		}
	}
	return s
}

// SKU appends to dst the targets of a SKU that differ, in order of channel. level is what the ledger has of it, and of the components of a bundle; nil where it has nothing.
func (p *Preview) SKU(dst []Change, sku string, level func(sku string) *ledger.Level) []Change {
	p.before.solve(sku, level)
	p.after.solve(sku, level)
	modeBefore, modeAfter := p.before.mode(sku), p.after.mode(sku)
	var why targeting.Answer // of the targets after, once it is asked for
	explained := false
	i, j := 0, 0
	for i < len(p.before.targets) || j < len(p.after.targets) {
		c := Change{SKU: sku, ModeBefore: modeBefore, ModeAfter: modeAfter}
		was, is := p.before.channel(i), p.after.channel(j)
		if was != "" && (is == "" || was <= is) {
			c.Channel, c.Was, c.Before = was, true, p.before.targets[i].Quantity
			i++
		}
		if is != "" && (was == "" || is <= was) {
			c.Channel, c.Is, c.After = is, true, p.after.targets[j].Quantity
			if c.Was != c.Is || c.Before != c.After {
				if !explained {
					why, explained = p.after.explain(sku), true
				}
				c.Steps = why.Channels[j].Steps
			}
			j++
		}
		if c.Was != c.Is || c.Before != c.After {
			dst = append(dst, c)
		}
	}
	p.before.forget(sku)
	p.after.forget(sku)
	return dst
}

// channel is the id of target i, and empty past the last.
func (s *side) channel(i int) string {
	if i >= len(s.targets) {
		return ""
	}
	return s.targets[i].Channel
}

// mode is the name of what the rules ask for.
func (s *side) mode(sku string) string {
	return s.plan.Rules(sku, s.Listings[sku]).RuleMode()
}

// components is those of a bundle.
func (s *side) components(sku string) (out []string) {
	if l := s.Listings[sku]; l != nil {
		for _, c := range l.Components {
			out = append(out, c.SKU)
		}
	}
	return out
}

// solve finds the targets of a SKU: in a partition of its own, as if nothing had been shown yet.
func (s *side) solve(sku string, level func(string) *ledger.Level) {
	s.part = s.engine.Partition(0)
	if l := level(sku); l != nil {
		s.engine.Level(s.part, l)
	}
	if of := s.components(sku); len(of) > 0 {
		s.engine.Follow(of)
		for _, c := range of {
			if l := level(c); l != nil {
				s.engine.ComponentLevel(c, l)
			}
		}
		s.engine.Followed(of)
	}
	s.targets = s.engine.Ruled(s.targets[:0], s.part, sku)
}

// explain is how the targets come about that solve found.
func (s *side) explain(sku string) targeting.Answer {
	a, _ := s.engine.Explain(s.part, sku, 0)
	return a
}

// forget forgets what solve took in.
func (s *side) forget(sku string) {
	s.engine.Drop(s.part)
	if of := s.components(sku); len(of) > 0 {
		s.engine.Unfollow(of...)
	}
}
