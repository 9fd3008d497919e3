package escrow_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
)

// asks is a channel that asks before it sells.
var asks = kind{api: escrow.API{Operation: write.Allot}}

// claim is what the ledger knows of a channel that asks.
type claim struct {
	left     units // of the allotment
	sequence int64
	allotted bool  // it is held to an allotment
	holds    units // held by reservations
	given    units // given back, and the level that says so not yet read
	unseen   bool  // a level is yet to be read
}

// allotted is what a level says of allotments.
func (w *world) allotted() (out []ledger.Allotment) {
	for i := range w.at {
		if c := &w.at[i].claim; c.sequence > 0 {
			out = append(out, ledger.Allotment{Channel: fmt.Sprint("c", i), Units: c.left, Sequence: c.sequence, Ended: !c.allotted})
		}
	}
	return out
}

// told notes that the newest level was read.
func (w *world) told() {
	s := escrow.Restore(&w.sku)
	for i := range w.at {
		t := &w.at[i]
		t.claim.given, t.claim.unseen = 0, false
		if v, ok := s.View(fmt.Sprint("c", i)); t.open && t.stage == handled && t.claim.sequence > 0 && (!ok || v.OpenWrite == "") {
			t.open, t.grant = false, escrow.Grant{}
		}
	}
}

// claims visits what can happen at a channel that asks: the ledger decides at once, and the books hear of it later.
func (m *model) claims(w *world, i int, visit func(string, *world)) {
	t := &w.at[i]
	name := fmt.Sprint("c", i)
	others := units(0) // allotted to them, and granted to nobody else
	for j := range w.at {
		if j != i {
			others += w.at[j].claim.left
		}
	}
	if t.claim.allotted && t.claim.left > 0 && w.onHand > 0 || !t.claim.allotted && w.onHand > others {
		n := w.clone()
		c := &n.at[i].claim
		c.holds++
		c.unseen = true
		if n.onHand--; c.allotted {
			c.left--
		}
		visit(name+" is granted 1", n)
	}
	if t.claim.holds > 0 && w.backs > 0 {
		n := w.clone()
		n.backs--
		c := &n.at[i].claim
		c.holds--
		c.unseen = true
		if n.onHand++; c.allotted {
			c.left++
			c.given++
		}
		visit(name+" gives 1 back", n)
	}
	if t.claim.holds > 0 && w.cancels > 0 {
		n := w.clone()
		n.cancels--
		n.at[i].claim.holds--
		n.at[i].claim.unseen = true
		n.at[i].sold++
		visit("what "+name+" holds becomes an order", n)
	}
	if t.claim.unseen {
		n := w.clone()
		n.level(-1, 0)
		visit("the level with what "+name+" did is read", n)
	}
	if w.pauses > 0 {
		n := w.clone()
		n.pauses--
		n.at[i].paused = !t.paused
		s := escrow.Restore(&n.sku)
		n.sku = s.Snapshot()
		visit(name+" is paused or goes on", n)
	}
	if t.open && t.stage == onItsWay {
		n := w.clone()
		x := &n.at[i]
		x.stage = handled
		c := &x.claim
		c.unseen, c.sequence = true, escrow.Sequence(x.grant.ID)
		if g := x.grant.Write; g.Operation == write.Lift {
			c.allotted, c.left = false, 0
		} else {
			c.allotted, c.left = true, max(0, c.left+g.Delta)
		}
		visit(fmt.Sprintf("the ledger takes in %+v of %s", x.grant.Write, name), n)
		if m.broken != nil {
			n = w.clone()
			n.sku.Channels = slices.Clone(n.sku.Channels)
			m.broken(&n.sku, i, &n.at[i].grant)
			visit("the event of "+name+" is in the log", n)
		}
	}
}

// TestEveryInterleavingWithAChannelThatAsks explores worlds with a claim channel, by itself and beside each kind that shows a number: claims, releases and orders between any two steps of
// the allocator, which reads of them late; crashes, pauses, counts and receipts.
func TestEveryInterleavingWithAChannelThatAsks(t *testing.T) {
	total := 0
	for _, x := range []struct {
		name   string
		onHand units
		set    func(*world)
		kinds  []kind
		pooled bool // it may take all there is at first
	}{
		{"alone: crash, release, order", 3, func(w *world) { w.crashes, w.backs, w.cancels = 1, 1, 1 }, []kind{asks}, true},
		{"alone: receipt and count", 3, func(w *world) { w.receipts, w.counts = 1, 1 }, []kind{asks}, true},
		{"two that ask: pauses", 2, func(w *world) { w.pauses, w.grants, w.backs = 2, 6, 1 }, []kind{asks, asks}, true},
		{"compare-and-set: a crash", 2, func(w *world) { w.crashes, w.grants = 1, 5 }, []kind{asks, cas}, false},
		{"compare-and-set: pauses and a release", 2, func(w *world) { w.pauses, w.grants, w.backs = 1, 4, 1 }, []kind{asks, cas}, false},
		{"absolute: a loss", 2, func(w *world) { w.losses, w.grants = 1, 5 }, []kind{absolute, asks}, false},
		{"absolute: a release", 2, func(w *world) { w.backs, w.grants = 1, 5 }, []kind{absolute, asks}, false},
		{"delta: a crash and a pause", 2, func(w *world) { w.crashes, w.pauses, w.grants = 1, 1, 4 }, []kind{delta, asks}, false},
	} {
		if raceEnabled && len(x.kinds) > 1 {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			m := newModel(x.kinds...)
			w := m.start(x.onHand)
			for i, k := range x.kinds {
				switch {
				case k.api.Operation != write.Allot:
					w.at[i].shown = 1
				case len(x.kinds) > 1 && !x.pooled: // else it could claim what others show: that is how pooled is
					w.at[i].claim = claim{left: 1, sequence: 1, allotted: true}
				}
			}
			w.grants = 4
			x.set(w)
			states, violation := m.explore(w)
			total += states
			t.Logf("%d states explored", states)
			if violation != "" {
				t.Errorf("after %d states:\n%s", states, violation)
			}
		})
	}
	t.Logf("%d states explored in all", total)
}

// TestAWrongRuleOfAllotmentsIsCaught proves that the checker would notice that units are given away again as soon as the event that takes them back is in the log: the channel may
// have claimed them before it.
func TestAWrongRuleOfAllotmentsIsCaught(t *testing.T) {
	m := newModel(asks, cas)
	m.broken = func(s *escrow.Snapshot, ch int, g *escrow.Grant) {
		if b := &s.Channels[ch].Books; g.Write.Operation == write.Allot && g.Write.Delta < 0 {
			b.E = max(0, b.E+g.Write.Delta)
		}
	}
	w := m.start(2)
	w.pauses, w.grants = 1, 8
	states, violation := m.explore(w)
	if violation == "" {
		t.Fatalf("%d states explored and the wrong rule was not noticed", states)
	}
	t.Logf("caught after %d states:\n%s", states, violation)
}

// TestAllotmentsEndWithTheBooks goes from strict back to pooled: the channel that asks is held to nothing any more, and only then are the books closed. Books that are lost are no reason for
// it to stay held.
func TestAllotmentsEndWithTheBooks(t *testing.T) {
	m := newModel(asks)
	w := m.start(3)
	step := func(phase escrow.Phase, op write.Operation, delta units) {
		t.Helper()
		n := m.decide(w)
		s := escrow.Restore(&n.sku)
		if g := n.at[0].grant; s.Phase() != phase || n.at[0].open != (op != 0) || n.at[0].open && (g.Write.Operation != op || g.Write.Delta != delta) {
			t.Fatalf("phase %v, grant %+v, want phase %v, %v %d", s.Phase(), g, phase, op, delta)
		}
		w = n
		if op != 0 { // in the log twice, as after a restart: the ledger takes it in once
			m.claims(w, 0, func(what string, next *world) {
				if next.at[0].stage == handled && next.at[0].open {
					n = next
				}
			})
			w = n
			w.level(-1, 0)
		}
	}
	step(escrow.Strict, write.Allot, 0)
	step(escrow.Strict, write.Allot, 3)
	step(escrow.Strict, 0, 0)
	m.rules.Guarantee = allocation.NoGuarantee
	x := escrow.Restore(&w.sku) // as a change of settings
	w.sku = x.Snapshot()
	step(escrow.Leaving, write.Lift, 0)
	step(escrow.Pooled, 0, 0)
	if w.at[0].claim.allotted {
		t.Error("it is still held to an allotment")
	}

	lost := &escrow.SKU{ID: "A"}
	lost.Level(&escrow.Level{Version: 9, Available: 3, Allotted: []ledger.Allotment{{Channel: "c0", Units: 1, Sequence: 5}}})
	w.sku, w.at[0].claim = lost.Snapshot(), claim{left: 1, sequence: 5, allotted: true}
	w.last.Version = 9
	step(escrow.Leaving, write.Lift, 0)
	step(escrow.Pooled, 0, 0)
}
