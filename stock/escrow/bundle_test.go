package escrow_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
)

// The world of bundles has two components and a bundle of them, a marketplace for each, and an owner of each that reads the logs of the others late. A sale of the bundle reaches three logs, each when it
// does. Owners stop and start; what they had not stored is gone, and of the events they had yet to write nobody knows which were written.

const (
	bundleSKU       = "B"
	tick      int64 = 10_000_000 // what waits for time waits for a few of them
)

// kitModel is the rules of the game.
type kitModel struct {
	quantity [2]units
	kinds    [3]kind // of the marketplaces of A, C and the bundle
	layouts  [3]*allocation.Layout
	d        escrow.Decider

	takes   bool // wrong: a component's owner takes units back without asking
	hurries bool // wrong: the bundle agrees before its channels have been lowered
	forgets bool // wrong: a restart forgets what the bundle agreed to
	counts  bool // wrong: what is left is taken for all that the bundle may show, whichever log is ahead
}

// side is one SKU: its log, its marketplace and its owner.
type side struct {
	// The log of a component has units, and an allotment; that of the bundle counts what was sold.
	onHand   units
	sold     units // by the SKU's own marketplace
	inBundle units // of a component, for the bundle
	left     units
	sequence int64
	held     bool
	version  int64

	// The marketplace.
	shown   units
	unsold  []int64 // sold_at of sales that the SKU's own log does not have
	late    int     // of a component: sales of the bundle that its log does not have
	mark    int64
	open    bool
	applied bool
	grant   escrow.Grant
	answer  escrow.Result
	paused  bool

	// The owner.
	sku, kept escrow.Snapshot
	read      int64       // version of the log's level that it has taken in
	outbox    []kitEvent  // that may have been written, and may be written yet
	levels    [2]kitLevel // the bundle's owner: of components
	books     [2]kitBooks // the bundle's owner: of components
	available units       // of a component, as its level said
	ownSold   units       // of the bundle, as its level said
}

type kitEvent struct {
	to       int // component
	quantity units
	sequence int64
}

type kitLevel struct {
	sold, left units
	sequence   int64
	held       bool
	version    int64
}

type kitBooks struct {
	phase  escrow.Phase
	grant  string
	change units
}

type kitWorld struct {
	side  [3]side
	clock int64
	gone  [2]units // physically sold
	had   [2]units
	twice string

	receipts, pauses, stops, sales int // left to happen
	bundles                        units
}

func newKitModel(a, c units, kinds [3]kind) *kitModel {
	m := &kitModel{quantity: [2]units{a, c}, kinds: kinds}
	places := []allocation.Place{{ID: "W"}}
	for i := range 2 {
		m.layouts[i] = allocation.NewLayout([]allocation.Seller{{ID: "bundle:" + bundleSKU}, {ID: "m"}}, places)
	}
	m.layouts[2] = allocation.NewLayout([]allocation.Seller{{ID: "m"}}, places)
	return m
}

// start is a world in which marketplaces were pooled before, and show so little that nothing can be sold twice.
func (m *kitModel) start(onHand, shown units) *kitWorld {
	w := &kitWorld{clock: 1_000_000, sales: 1 << 30}
	for i := range w.side {
		x := &w.side[i]
		x.sku.SKU = [...]string{"A", "C", bundleSKU}[i]
		x.kept.SKU = x.sku.SKU
		x.version, x.shown = 1, shown
		if i < 2 {
			x.onHand, w.had[i] = onHand, onHand
		}
	}
	for i := range w.side {
		m.readLevel(w, i)
	}
	return w
}

// readLevel has an owner take in the newest level of its own SKU, and decide.
func (m *kitModel) readLevel(w *kitWorld, i int) {
	x := &w.side[i]
	x.read = x.version
	l := escrow.Level{Version: x.version, Available: x.onHand, Counters: []escrow.Counter{{Channel: "m", Sold: x.sold}}}
	if i < 2 {
		l.Counters = append(l.Counters, escrow.Counter{Channel: "bundle:" + bundleSKU, Sold: x.inBundle})
		if x.sequence > 0 {
			l.Allotted = []ledger.Allotment{{Channel: "bundle:" + bundleSKU, Units: x.left, Sequence: x.sequence, Ended: !x.held}}
		}
	}
	s := escrow.Restore(&x.sku)
	if i == 2 {
		x.ownSold = x.sold
		m.supply(w, s)
		l.Available = s.Available()
	}
	x.available = l.Available
	s.Level(&l)
	x.sku = s.Snapshot()
	m.decide(w, i)
}

// backing is what the bundle's owner knows of its components.
func (m *kitModel) backing(w *kitWorld) []escrow.Backing {
	x := &w.side[2]
	var out []escrow.Backing
	for i := range 2 {
		l, b := &x.levels[i], &x.books[i]
		out = append(out, escrow.Backing{Component: w.side[i].sku.SKU, Quantity: m.quantity[i], Sold: l.sold, Held: l.held, Left: l.left, Sequence: l.sequence,
			Phase: b.phase, Grant: b.grant, Change: b.change})
	}
	return out
}

// supply tells the bundle's books what is available by its components, and whether they bound it.
func (m *kitModel) supply(w *kitWorld, s *escrow.SKU) bool {
	x := &w.side[2]
	backing := m.backing(w)
	most, yielding, bound := s.Ceiling(x.ownSold, backing)
	if m.counts {
		most = allocation.MaxUnits
		for j := range backing {
			most = min(most, (backing[j].Left+m.quantity[j]-1)/m.quantity[j])
		}
	}
	if !bound {
		most = 0
	}
	s.Supply(most, yielding)
	return bound
}

// decide is a turn of an owner: what it grants is stored with the books, and events are written after that.
func (m *kitModel) decide(w *kitWorld, i int) {
	x := &w.side[i]
	s := escrow.Restore(&x.sku)
	strict := &allocation.Rules{Guarantee: allocation.Strict, Share: allocation.Equally, Channels: make([]allocation.ChannelRules, m.layouts[i].Sellers())}
	in := &escrow.Input{Now: w.clock, Version: 1, Layout: m.layouts[i], Rules: strict}
	mine := escrow.Offer{Seller: m.layouts[i].Seller("m"), ExternalID: x.sku.SKU, Paused: x.paused}
	if i < 2 {
		in.APIs = []escrow.API{{Operation: write.Allot, Bundle: true}, m.kinds[i].api}
		in.Marks = []int64{0, x.mark}
		in.Offers = []escrow.Offer{{Seller: 0, ExternalID: x.sku.SKU, Paused: w.side[2].paused}, mine}
		in.Stock = []allocation.Stock{{ID: "W", Available: x.available}}
	} else {
		in.APIs, in.Marks, in.Offers = []escrow.API{m.kinds[i].api}, []int64{x.mark}, []escrow.Offer{mine}
		if !m.supply(w, s) {
			strict.Guarantee = allocation.NoGuarantee
		}
		in.Stock = []allocation.Stock{{ID: "W", Available: s.Available()}}
	}
	out := m.d.Decide(s, in)
	for _, g := range out.Grants {
		if g.Channel == "m" {
			if x.open {
				w.twice = fmt.Sprintf("%s is granted %+v while %+v is open", x.sku.SKU, g, x.grant)
			}
			x.open, x.applied, x.grant = true, false, g
			continue
		}
		if !escrow.NeedsConsent(g.Write) || m.takes && g.Write.Delta < 0 {
			x.outbox = append(x.outbox, kitEvent{i, g.Write.Delta, escrow.Sequence(g.ID)})
		}
	}
	if i == 2 && out.Phase != escrow.Pooled {
		backing := m.backing(w)
		if m.hurries { // as if nothing were exposed
			for j := range backing {
				b := &backing[j]
				if b.Held && b.Change < 0 && escrow.Sequence(b.Grant) > b.Sequence {
					x.outbox = append(x.outbox, kitEvent{j, b.Change, escrow.Sequence(b.Grant)})
					b.Grant = ""
				}
			}
		}
		for _, c := range s.Answer(x.ownSold, backing) {
			x.outbox = append(x.outbox, m.consent(c))
		}
	}
	x.sku = s.Snapshot()
	if s.Kept() || len(out.Grants) > 0 {
		x.kept = x.sku
	}
}

func (m *kitModel) consent(c escrow.Consent) kitEvent {
	to := 0
	if c.Component == "C" {
		to = 1
	}
	return kitEvent{to, c.Quantity, escrow.Sequence(c.Grant)}
}

// visit calls f with everything that can happen next.
func (m *kitModel) visit(w *kitWorld, f func(string, func(*kitWorld))) {
	b := &w.side[2]
	for i := range w.side {
		x := &w.side[i]
		name := x.sku.SKU
		if x.shown > 0 && w.sales > 0 {
			f(name+" is sold", func(n *kitWorld) { n.sell(i, m.quantity) })
		}
		if len(x.unsold) > 0 {
			f("a sale of "+name+" is in its log", func(n *kitWorld) {
				y := &n.side[i]
				y.unsold = slices.Delete(y.unsold, 0, 1)
				y.sold++
				if y.version++; i < 2 {
					y.onHand--
				}
			})
		}
		if i < 2 && x.late > 0 {
			f("a sale of the bundle is in the log of "+name, func(n *kitWorld) {
				y := &n.side[i]
				y.late--
				y.version++
				q := m.quantity[i]
				y.onHand -= q
				y.inBundle += q
				if y.held {
					y.left = max(0, y.left-q)
				}
			})
		}
		if x.read < x.version {
			f("the owner of "+name+" reads its level", func(n *kitWorld) {
				m.readLevel(n, i)
			})
		}
		for k, e := range x.outbox {
			f(fmt.Sprintf("%+d are allotted by an event of the owner of %s", e.quantity, name), func(n *kitWorld) {
				n.side[i].outbox = slices.Delete(n.side[i].outbox, k, k+1)
				if y := &n.side[e.to]; e.sequence > y.sequence {
					y.version++
					y.sequence, y.held, y.left = e.sequence, true, max(0, y.left+e.quantity)
				}
			})
		}
		if x.open && !x.applied {
			f(fmt.Sprintf("%+v of %s is applied", x.grant.Write, name), func(n *kitWorld) {
				n.clock += tick
				m.apply(n, i)
			})
		}
		if x.open && x.applied {
			f("the owner of "+name+" reads the result", func(n *kitWorld) { m.result(n, i) })
		}
		if len(x.unsold) == 0 && x.read == x.version && x.mark < w.clock {
			f("the watermark of "+name+" moves", func(n *kitWorld) {
				n.side[i].mark = n.clock // what is sold from now on is later
				n.clock += tick
				m.decide(n, i)
			})
		}
		if w.stops > 0 {
			f("the owner of "+name+" starts anew", func(n *kitWorld) {
				n.stops--
				m.restart(n, i)
			})
		}
		if w.pauses > 0 {
			f(name+" is paused or goes on", func(n *kitWorld) {
				n.pauses--
				n.side[i].paused = !x.paused
				n.clock += int64(600_000_000) // nothing waits for time
				for j := range n.side {
					m.again(n, j)
				}
			})
		}
		if i == 2 {
			continue
		}
		if b.levels[i].version < x.version {
			f("the owner of the bundle reads the level of "+name, func(n *kitWorld) {
				n.side[2].levels[i] = kitLevel{x.inBundle, x.left, x.sequence, x.held, x.version}
				m.decide(n, 2)
			})
		}
		now := kitBooks{phase: x.kept.Phase}
		now.grant, now.change = x.kept.Asks("bundle:" + bundleSKU)
		if b.books[i] != now {
			f("the owner of the bundle reads the books of "+name, func(n *kitWorld) {
				n.side[2].books[i] = now
				m.decide(n, 2)
			})
		}
		if w.receipts > 0 {
			f("1 of "+name+" is received", func(n *kitWorld) {
				n.receipts--
				n.side[i].onHand++
				n.had[i]++
				n.side[i].version++
			})
		}
	}
}

// sell has a customer buy a unit at a marketplace.
func (w *kitWorld) sell(i int, quantity [2]units) {
	w.sales--
	x := &w.side[i]
	x.shown--
	x.unsold = append(x.unsold, w.clock)
	if i == 2 {
		w.bundles++
	}
	for j := range 2 {
		switch i {
		case j:
			w.gone[j]++
		case 2:
			w.gone[j] += quantity[j]
			w.side[j].late++
		}
		if w.gone[j] > w.had[j] {
			w.twice = fmt.Sprintf("%d of %d of %s are sold", w.gone[j], w.had[j], w.side[j].sku.SKU)
		}
	}
}

// result has an owner hear what its write did.
func (m *kitModel) result(w *kitWorld, i int) {
	w.clock += tick
	x := &w.side[i]
	r := x.answer
	r.AckedAt = w.clock
	s := escrow.Restore(&x.sku)
	if !s.Result(&r, 0) {
		w.twice = fmt.Sprintf("the result %+v is not taken", r)
	}
	x.open, x.applied, x.grant, x.answer = false, false, escrow.Grant{}, escrow.Result{}
	x.sku = s.Snapshot()
	m.decide(w, i)
}

// again has an owner decide by other settings.
func (m *kitModel) again(w *kitWorld, i int) {
	x := &w.side[i]
	s := escrow.Restore(&x.sku) // a SKU that was restored decides anew
	x.sku = s.Snapshot()
	m.decide(w, i)
}

func (m *kitModel) apply(w *kitWorld, i int) {
	x := &w.side[i]
	g := &x.grant
	r := escrow.Result{ID: g.ID, Channel: "m", Outcome: write.Applied, ShownAt: w.clock}
	switch g.Write.Operation {
	case write.Read:
		r.Shown, r.ShownKnown = x.shown, true
	case write.CompareAndSet:
		if x.shown != g.Write.Expected {
			r.Outcome, r.ErrorCode, r.Shown, r.ShownKnown = write.Refused, escrow.Stale, x.shown, m.kinds[i].tells
			break
		}
		x.shown = g.Write.Quantity
	case write.Delta:
		x.shown = max(0, x.shown+g.Write.Delta)
	default:
		x.shown = g.Write.Quantity
	}
	if g.Write.Operation != write.Read && r.Outcome == write.Applied && m.kinds[i].tells {
		r.Shown, r.ShownKnown = x.shown, true
	}
	x.applied, x.answer = true, r
}

// restart has an owner lose what it had not stored. It reads its level again, and those of components and their books, and writes again what it may not have written.
func (m *kitModel) restart(w *kitWorld, i int) {
	x := &w.side[i]
	x.sku, x.outbox = x.kept, nil
	if m.forgets {
		x.sku.Consents = nil
	}
	s := escrow.Restore(&x.sku)
	s.Claims(func(g *escrow.Grant) {
		if !escrow.NeedsConsent(g.Write) || m.takes && g.Write.Delta < 0 {
			x.outbox = append(x.outbox, kitEvent{i, g.Write.Delta, escrow.Sequence(g.ID)})
		}
	})
	for _, c := range s.Consents() {
		x.outbox = append(x.outbox, m.consent(c))
	}
	if i == 2 {
		for j := range 2 {
			y := &w.side[j]
			x.levels[j] = kitLevel{y.inBundle, y.left, y.sequence, y.held, y.version}
			x.books[j] = kitBooks{phase: y.kept.Phase}
			x.books[j].grant, x.books[j].change = y.kept.Asks("bundle:" + bundleSKU)
		}
	}
	m.readLevel(w, i)
}

// TestBundlesAtRandom lets components and a bundle trade at random, with late records, restarts, pauses and receipts: no unit is sold twice, and all that can be sold is.
func TestBundlesAtRandom(t *testing.T) {
	seeds := 500
	if raceEnabled || testing.Short() {
		seeds = 60
	}
	var bundles, left, had units
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 7))
		pick := []kind{cas, casOnly, absolute, readable, delta, tellsIt}
		m := newKitModel(1, units(1+seed%2), [3]kind{pick[r.IntN(len(pick))], pick[r.IntN(len(pick))], pick[r.IntN(len(pick))]})
		w := m.start(12, units(seed%3))
		w.receipts, w.pauses, w.stops = 3, 4, 4
		m.walk(r, w, 700)
		w.pauses, w.stops = 0, 0
		for i := range w.side {
			w.side[i].paused = false
		}
		for i := range w.side {
			m.again(w, i)
		}
		m.walk(r, w, 1000)
		if w.twice != "" {
			t.Fatalf("seed %d: %s", seed, w.twice)
		}
		bundles += w.bundles
		for j := range 2 {
			left += w.had[j] - w.gone[j]
			had += w.had[j]
		}
	}
	t.Logf("%d bundles sold; %d of %d units left", bundles, left, had)
	if bundles < units(seeds) || left > had/3 {
		t.Errorf("%d bundles sold in %d worlds; %d of %d units left", bundles, seeds, left, had)
	}
}

// walk takes steps at random.
func (m *kitModel) walk(r *rand.Rand, w *kitWorld, steps int) {
	var next []func(*kitWorld)
	for range steps {
		next = next[:0]
		m.visit(w, func(_ string, do func(*kitWorld)) { next = append(next, do) })
		if len(next) == 0 {
			return
		}
		if next[r.IntN(len(next))](w); w.twice != "" {
			return
		}
	}
}

// TestBrokenRulesOfBundlesAreCaught breaks one rule of the protocol after the other: a walk finds a unit that is sold twice.
func TestBrokenRulesOfBundlesAreCaught(t *testing.T) {
	for name, breaks := range map[string]func(*kitModel){
		"a component takes units back without asking":              func(m *kitModel) { m.takes = true },
		"the bundle agrees before its channels were lowered":       func(m *kitModel) { m.hurries = true },
		"a restart forgets what was agreed to":                     func(m *kitModel) { m.forgets = true },
		"what is left counts as available, whichever log is ahead": func(m *kitModel) { m.counts = true },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20_000) {
				r := rand.New(rand.NewPCG(seed, 7))
				m := newKitModel(1, 1, [3]kind{cas, cas, cas})
				breaks(m)
				w := m.start(6, units(seed%3))
				w.receipts, w.pauses, w.stops = 3, 4, 4
				if m.walk(r, w, 400); w.twice != "" {
					t.Logf("seed %d: %s", seed, w.twice)
					return
				}
			}
			t.Error("nothing was sold twice")
		})
	}
}
