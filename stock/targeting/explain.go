package targeting

import (
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/write"
)

// Answer is the targets of a SKU in force, and where they come from.
type Answer struct {
	LevelVersion    int64
	SettingsVersion int64
	Guarantee       allocation.Guarantee // that the rules ask for
	Phase           escrow.Phase         // how exposure is kept now
	Hindrance       string               // why exposure is not kept in books where adaptive would have it
	Threshold       allocation.Units     // adaptive and pooled: at or below it exposure is kept in books
	ThresholdSet    bool
	Room            allocation.Units // kept in books: available less exposure at all channels
	RoomKnown       bool
	Channels        []AnsweredChannel // in order of id
	Components      []AnsweredComponent
	Makes           allocation.Units // of a bundle: what its channels may show together
}

// AnsweredComponent is what a component contributes to a bundle.
type AnsweredComponent struct {
	SKU       string
	Quantity  allocation.Units // of it in one bundle
	Available allocation.Units // in all locations, by the ledger
	Kept      allocation.Units // of that, kept off all channels by the rules
	Makes     allocation.Units // bundles that the rest is enough for
	Allotted  allocation.Units // in the books: what the bundle may still sell of it
	Bound     bool             // Allotted is set
}

// AnsweredChannel is what one channel should show, and why.
type AnsweredChannel struct {
	Channel        string
	ExternalID     string
	Quantity       allocation.Units
	Mode           string
	Sold, Restored allocation.Units
	Steps          []allocation.Step
	Exposure       allocation.Units // kept in books: the most that it can still report as sold
	ExposureKnown  bool
	Granted        string  // id of the write that has no result yet
	Watermark      int64   // its orders are known up to here; 0 when not known
	Rate           int64   // of its sales, in thousandths of a unit a second
	OversellRisk   float64 // pooled: that it sells more than there is, should stock run out now
	Pooled         bool    // OversellRisk is set
	Last           LastWrite
}

// LastWrite is what became of the newest write to a channel, seen since the engine began. Its outcome is unspecified when there was none.
type LastWrite struct {
	Operation       write.Operation
	Outcome         write.Outcome
	Value           allocation.Units // quantity, or change
	SentAt, AckedAt int64
	Shown           allocation.Units
	ShownKnown      bool
	Open            bool // it was the granted write, and may still be applied
}

// Explain says what is in force for a SKU of a live partition; ok is false when the ledger has no level of it.
func (e *Engine) Explain(p *Partition, sku string, now int64) (a Answer, ok bool) {
	s := p.skus[sku]
	if s != nil {
		e.kitted(s)
	}
	if s == nil || !s.known {
		return a, false
	}
	rules := e.prepare(s)
	if s.books.Phase() != escrow.Pooled {
		e.offerBundles(s)
	}
	e.solver.Solve(&e.input)
	a = Answer{LevelVersion: s.version + s.kit.version, SettingsVersion: e.plan.Version, Phase: s.books.Phase(), Guarantee: rules.Guarantee}
	a.Components, a.Makes = e.contributions(s)
	kept := a.Phase != escrow.Pooled
	if kept && s.books.Guarded() {
		a.Room, a.RoomKnown = s.books.Available()-s.books.Exposed(), true
	}
	e.escrowInput(s, rules, now)
	if rules.Guarantee == allocation.Adaptive && !kept {
		a.Hindrance = s.hindrance
		a.Threshold, a.ThresholdSet = e.decider.Threshold(s.books, &e.in), true
	}
	for i := range e.offers {
		x := e.shows(s, i, rules)
		at := AnsweredChannel{Channel: x.channel, ExternalID: x.externalID, Quantity: x.quantity, Mode: x.mode, Sold: x.sold, Restored: x.restored}
		last, written := find(s.shown, x.channel)
		if kept {
			at.Steps = e.derive(nil, s, x.channel)
			at.Mode = strictMode
			if written {
				at.Quantity = s.shown[last].quantity
			}
			if v, ok := s.books.View(x.channel); ok {
				if v.Known {
					at.Exposure, at.ExposureKnown = v.Exposure, true
					if toBundle(x.channel) { // it shows nothing: what it holds is its allotment
						at.Quantity = v.Exposure
					}
				}
				if v.OpenWrite != "" {
					at.Granted = v.OpenWrite
					at.Steps = append(at.Steps, allocation.Step{Name: "granted", Units: at.Quantity, Detail: "write " + v.OpenWrite + " is under way; nothing else may be written until its result comes"})
				}
			}
		} else {
			at.Steps = e.rulesSteps(s.madeOf(nil), s, i)
			at.OversellRisk, at.Pooled = escrow.OversellProbability(e.doubt(s, i)), true
		}
		at.Watermark, at.Rate = p.marks[x.channel], s.books.Rate(x.channel, now)
		if written {
			at.Last = s.shown[last].last
		}
		a.Channels = append(a.Channels, at)
	}
	return a, true
}

// contributions is what a bundle is made of, and how many its components make; nothing for any other SKU.
func (e *Engine) contributions(s *SKU) (out []AnsweredComponent, makes allocation.Units) {
	for i, c := range e.of[s.id] {
		x := AnsweredComponent{SKU: c.SKU, Quantity: c.Quantity, Makes: e.made[i].Makes(), Kept: e.base.plan.Rules(c.SKU, e.listing(c.SKU)).PoolBuffer.Units}
		if l := e.components[c.SKU].level; l != nil {
			x.Available = l.Available()
		}
		if b := s.kit.backing[i]; b.Held {
			x.Allotted, x.Bound = b.Left, true
		}
		out = append(out, x)
	}
	makes = -s.unassigned
	for i := range s.stock {
		makes += s.stock[i].Available
	}
	return out, makes
}

// Ruled is what the rules alone make of the stock of a SKU at one channel: what it should show while no books are kept.
type Ruled struct {
	Channel  string
	Quantity allocation.Units
}

// Ruled appends to dst what the rules make of a SKU of a partition, in order of channel: nothing when neither the ledger nor the components of a bundle say what there is of it.
func (e *Engine) Ruled(dst []Ruled, p *Partition, sku string) []Ruled {
	s := p.skus[sku]
	if s == nil && len(e.of[sku]) > 0 { // a bundle that never sold
		s = p.sku(sku)
	}
	if s == nil {
		return dst
	}
	e.kitted(s)
	e.prepare(s)
	e.solver.Solve(&e.input)
	for i := range e.offers {
		dst = append(dst, Ruled{e.plan.Layout.SellerID(e.offers[i].Channel), e.solver.Target(i)})
	}
	return dst
}
