package escrow_test

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/onhand/onhand/stock/escrow"
)

// The same world of bundles, small, and every interleaving of it: nothing is sampled. Steps of different owners, logs and marketplaces are taken in every order, turns among them, until no new state is
// left. States are told apart by what decides anything from there on; of that a digest is kept.

func (w *kitWorld) clone() *kitWorld {
	n := *w // snapshots and lists are never changed in place
	return &n
}

// kitKey writes down what tells a state from another: times and numbers of grants by rank, and nothing that only says how it came about.
type kitKey struct {
	b     []byte
	times []int64
	seqs  [2][]int64
}

func (k *kitKey) put(ns ...units) {
	for _, n := range ns {
		k.b = binary.AppendVarint(k.b, int64(n))
	}
}

func (k *kitKey) flags(vs ...bool) {
	n := byte(0)
	for i, v := range vs {
		if v {
			n |= 1 << i
		}
	}
	k.b = append(k.b, n)
}

func (k *kitKey) time(t int64) {
	n, _ := slices.BinarySearch(k.times, t)
	k.put(units(n))
}

func (k *kitKey) seq(component int, n int64) {
	at, _ := slices.BinarySearch(k.seqs[component], n)
	k.put(units(at))
}

func (k *kitKey) of(w *kitWorld) [md5.Size]byte {
	k.b, k.times = k.b[:0], append(k.times[:0], w.clock)
	for j := range k.seqs {
		k.seqs[j] = append(k.seqs[j][:0], 0, w.side[j].log.sequence, w.side[2].levels[j].sequence, escrow.Sequence(w.side[2].books[j].grant))
	}
	for i := range w.side {
		x := &w.side[i]
		for _, e := range x.outbox {
			k.seqs[e.to] = append(k.seqs[e.to], e.sequence)
		}
		for _, s := range []*escrow.Snapshot{&x.sku, &x.kept} {
			for c := range s.Channels {
				ch := &s.Channels[c]
				if ch.Channel == toKit {
					k.seqs[i] = append(k.seqs[i], escrow.Sequence(ch.Grant))
				}
				k.times = append(k.times, ch.Books.Watermark, ch.Retry)
				for f := range ch.Books.Fences {
					k.times = append(k.times, ch.Books.Fences[f].At)
				}
			}
			for _, c := range s.Consents {
				j := slices.Index(sideSKUs[:], c.Component)
				k.seqs[j] = append(k.seqs[j], escrow.Sequence(c.Grant))
			}
		}
		for m := range x.market {
			k.times = append(k.times, x.market[m].mark, x.market[m].answer.ShownAt)
		}
		for u := range x.undone {
			k.times = append(k.times, x.undone[u].AckedAt, x.undone[u].ShownAt)
		}
	}
	slices.Sort(k.times)
	k.times = slices.Compact(k.times)
	for j := range k.seqs {
		slices.Sort(k.seqs[j])
		k.seqs[j] = slices.Compact(k.seqs[j])
	}
	k.put(units(w.receipts), units(w.counts), units(w.pauses), units(w.stops), units(w.losses))
	k.flags(w.short)
	k.time(w.clock)
	for i := range w.side {
		k.side(w, i)
	}
	return md5.Sum(k.b)
}

func (k *kitKey) side(w *kitWorld, i int) {
	x := &w.side[i]
	k.put(units(x.late))
	k.level(i, &x.log)
	k.flags(x.paused, x.dirty, x.read.version < x.log.version, x.kept.Version < x.log.version)
	if x.read.version < x.log.version {
		k.level(i, &x.read)
	}
	for m := range x.market {
		t := &x.market[m]
		k.put(t.shown, t.unsold)
		k.time(t.mark)
		k.flags(t.open, t.late, t.answer.ShownKnown)
		if t.open {
			k.put(units(t.stage), units(t.grant.Write.Operation), t.grant.Write.Quantity, t.grant.Write.Expected, t.grant.Write.Delta, units(t.answer.Outcome), t.answer.Shown)
			k.time(t.answer.ShownAt)
		}
	}
	k.put(units(len(x.outbox)))
	for _, e := range x.outbox {
		k.put(units(e.to), e.quantity)
		k.seq(e.to, e.sequence)
	}
	k.snapshot(i, &x.sku)
	if w.stops > 0 || i < 2 { // a component's books are read by the bundle's owner
		k.snapshot(i, &x.kept)
	}
	if w.stops > 0 {
		k.put(units(len(x.undone)))
		for u := range x.undone {
			r := &x.undone[u]
			k.put(units(r.Channel[2]), units(r.Outcome), r.Shown)
			k.flags(r.Settled, r.ShownKnown, r.ErrorCode != "")
			k.time(r.AckedAt)
			k.time(r.ShownAt)
		}
	}
	if i < 2 {
		return
	}
	for j := range 2 {
		l, b := &x.levels[j], &x.books[j]
		k.flags(l.version < w.side[j].log.version)
		k.level(j, l)
		k.put(units(b.phase), b.change)
		k.seq(j, escrow.Sequence(b.grant))
	}
}

func (k *kitKey) level(i int, l *kitLevel) {
	k.put(l.onHand, l.sold[0], l.sold[1], l.inBundle, l.left)
	k.flags(l.held)
	if i < 2 {
		k.seq(i, l.sequence)
	}
}

func (k *kitKey) snapshot(i int, s *escrow.Snapshot) {
	k.put(units(s.Phase), s.Available, units(len(s.Channels)), units(len(s.Consents)))
	for c := range s.Channels {
		ch := &s.Channels[c]
		b := &ch.Books
		k.put(units(ch.Channel[len(ch.Channel)-1]), ch.Sold, ch.Restored)
		k.flags(ch.Booked, ch.Allotted, b.Open, b.Known, b.InFlight, b.Unresolved, ch.Grant != "", ch.Doubt)
		if !ch.Booked {
			continue
		}
		k.flags(ch.Suspect, ch.Retiring)
		k.put(b.E, b.Belief, b.Restocked, b.Seen, ch.Share, units(ch.Failures), units(ch.Stale), units(len(b.Fences)))
		if b.InFlight {
			k.put(units(b.Write.Operation), b.Write.Quantity, b.Write.Expected, b.Write.Delta)
		}
		if ch.Channel == toKit {
			k.seq(i, escrow.Sequence(ch.Grant))
		}
		k.time(b.Watermark)
		k.time(ch.Retry)
		for f := range b.Fences {
			x := &b.Fences[f]
			k.time(x.At)
			k.put(x.Raised, x.Sold, x.Shown, x.Credit)
			k.flags(x.Anchor)
		}
	}
	for _, c := range s.Consents {
		j := slices.Index(sideSKUs[:], c.Component)
		k.put(units(j), c.Quantity, c.Most)
		k.seq(j, escrow.Sequence(c.Grant))
	}
}

// violation names the promise that does not hold in this state.
func (m *kitModel) violation(w *kitWorld) string {
	if w.twice != "" {
		return w.twice
	}
	for i := range w.side {
		x := &w.side[i]
		for c := range x.sku.Channels {
			ch := &x.sku.Channels[c]
			k := slices.Index(markets[i][:], ch.Channel)
			if k < 0 || !ch.Booked || ch.Books.Open {
				continue
			}
			if t := &x.market[k]; ch.Books.E < t.shown+t.unsold {
				return fmt.Sprintf("%s could still report %d of %s and its exposure is %d", ch.Channel, t.shown+t.unsold, sideSKUs[i], ch.Books.E)
			}
		}
	}
	var shown units
	for k := range m.kinds[2] {
		shown += w.side[2].market[k].shown
	}
	for j := range m.parts {
		x := &w.side[j]
		q := m.quantity[j]
		out := (shown + units(x.late)) * q
		if x.log.held && out > x.log.left {
			return fmt.Sprintf("the bundle could still take %d of %s, and %d are left of what is allotted to it", out, sideSKUs[j], x.log.left)
		}
		if x.log.held {
			out = x.log.left
		}
		for k := range m.kinds[j] {
			out += x.market[k].shown + x.market[k].unsold
		}
		if out > x.log.onHand && !w.short {
			return fmt.Sprintf("%d of %s could still be reported as sold, and there are %d", out, sideSKUs[j], x.log.onHand)
		}
	}
	return ""
}

// say tells a step in words.
func (m *kitModel) say(w *kitWorld, s kitStep) string {
	x, sku := &w.side[s.side], sideSKUs[s.side]
	at := markets[s.side][min(s.n, 1)]
	t := &x.market[min(s.n, 1)]
	switch s.act {
	case sells:
		return at + " sells 1 " + sku
	case logs:
		return "the sale of " + at + " is in the log of " + sku
	case logsBundle:
		return "a sale of the bundle is in the log of " + sku
	case reads:
		return "the owner of " + sku + " reads its level"
	case readsLevel:
		return "the bundle's owner reads the level of " + sku
	case readsBooks:
		return fmt.Sprintf("the bundle's owner reads the books of %s: %+v", sku, booksOf(&x.kept))
	case turns:
		return "the owner of " + sku + " decides"
	case lands:
		return fmt.Sprintf("an event of the owner of %s allots %+d", sku, x.outbox[s.n].quantity)
	case applies:
		return fmt.Sprintf("%s handles %v %+v", at, t.grant.Write.Operation, t.grant.Write)
	case answers:
		return fmt.Sprintf("%s answers: %v, shown %d", at, t.answer.Outcome, t.answer.Shown)
	case neverSent:
		return "the write to " + at + " never leaves"
	case unknown:
		return "nobody knows of the write to " + at
	case settles:
		return "the write to " + at + " is settled"
	case watermark:
		return "the order watermark of " + at + " moves"
	case restarts:
		return "the owner of " + sku + " starts anew"
	case pauses:
		return sku + " is paused, or goes on"
	case receives:
		return "1 " + sku + " is received"
	default:
		return "a count finds 1 " + sku + " less"
	}
}

// explore goes through all that can happen, and returns how many states there are; or with the first broken promise the way to it. The newest state is gone on from, so that few have to be kept;
// or, for the shortest way, the oldest. Beyond most states it gives up, with done = false.
func (m *kitModel) explore(start *kitWorld, most int, shortest bool) (states int, violation string, done bool) {
	type arrival struct {
		w  *kitWorld
		id int32
	}
	type origin struct {
		from int32
		step kitStep
	}
	var key kitKey
	seen := map[[md5.Size]byte]struct{}{key.of(start): {}}
	origins := []origin{{from: -1}}
	queue := []arrival{{w: start}}
	var next []kitStep
	for at := 0; at < len(queue) && len(seen) <= most; {
		var x arrival
		if shortest {
			x, queue[at].w = queue[at], nil
			at++
		} else {
			x, queue = queue[len(queue)-1], queue[:len(queue)-1]
		}
		next = m.steps(x.w, next[:0])
		for _, s := range next {
			n := x.w.clone()
			m.do(n, s)
			k := key.of(n)
			if _, ok := seen[k]; ok {
				continue
			}
			seen[k] = struct{}{}
			queue = append(queue, arrival{n, int32(len(origins))})
			origins = append(origins, origin{x.id, s})
			if v := m.violation(n); v != "" {
				var way []kitStep
				for j := int32(len(origins) - 1); j > 0; j = origins[j].from {
					way = append(way, origins[j].step)
				}
				slices.Reverse(way)
				return len(seen), m.tell(start, way) + v, true
			}
		}
	}
	return len(seen), "", len(seen) <= most
}

// tell goes a way again and says what happens on it.
func (m *kitModel) tell(start *kitWorld, way []kitStep) string {
	var b strings.Builder
	w := start.clone()
	for _, s := range way {
		b.WriteString(m.say(w, s) + "\n")
		m.do(w, s)
	}
	return b.String()
}

// settle lets everything happen that owners, logs and marketplaces have under way, in one order, until only customers can do something. But what is said to be unread is: that A is in the books.
func (m *kitModel) settle(w *kitWorld, unread bool) {
	var next []kitStep
	for range 1000 {
		next = slices.DeleteFunc(m.steps(w, next[:0]), func(s kitStep) bool { return s.act == sells || unread && s.act == readsBooks && s.side == 0 })
		if len(next) == 0 {
			return
		}
		m.do(w, next[0])
	}
}

// kitSpace is a small case. What is left to happen bounds it.
type kitSpace struct {
	name    string
	a, c    units // in one bundle; c is 0 for a bundle of A alone
	onHand  units // of each component
	more    units // of C than of A
	shown   units // at each marketplace, before there were books
	kinds   [3][]kind
	apart   bool // turns are steps of their own: any number of records is taken in before each
	settled bool // it begins with all in the books; else with marketplaces that the books know nothing of
	unread  bool // components are adaptive, and it begins with all in the books but A for the bundle, which sells by what C has allotted to it
	engine  bool // turns are the engine's
	long    bool // left out beside the race detector, and in short tests
	set     func(*kitWorld)
}

func (x *kitSpace) start() (*kitModel, *kitWorld) {
	m := newKitModel(x.a, x.c, x.kinds)
	m.apart, m.more, m.adaptive = x.apart, x.more, x.unread
	if x.engine {
		m.useEngine()
	}
	w := m.start(x.onHand, x.shown)
	if x.settled || x.unread {
		m.settle(w, x.unread)
	}
	if x.set != nil {
		x.set(w)
	}
	return m, w
}

func kitSpaces() []kitSpace {
	of := func(ks ...kind) []kind { return ks }
	crash := func(w *kitWorld) { w.stops = 1 }
	crashes := func(w *kitWorld) { w.stops = 2 }
	loss := func(w *kitWorld) { w.losses = 1 }
	count := func(w *kitWorld) { w.counts = 1 }
	pause := func(w *kitWorld) { w.pauses = 1 }
	receipt := func(w *kitWorld) { w.receipts = 1 }
	return []kitSpace{
		// One component, of which the bundle takes one or two: it is sold by itself on one marketplace, the bundle on another.
		{name: "one component", a: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}},
		{name: "one component, a crash", a: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}, set: crash, long: true},
		{name: "one component, two crashes", a: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, set: crashes},
		{name: "one component, a write lost", a: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, set: loss},
		{name: "one component, a write of two units lost", a: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}, set: loss, long: true},
		{name: "one component, a count", a: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}, set: count, settled: true},
		{name: "one component, a receipt", a: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, set: receipt, long: true},
		{name: "one component, a pause", a: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, set: pause},
		{name: "one component, a pause of two units", a: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}, set: pause, settled: true, long: true},
		{name: "one component, sold before there were books", a: 1, onHand: 2, shown: 1, kinds: [3][]kind{of(cas), nil, of(cas)}},
		{name: "one component, sold before there were books, absolute", a: 1, onHand: 2, shown: 1, kinds: [3][]kind{of(absolute), nil, of(absolute)}, long: true},
		{name: "one component, three units", a: 1, onHand: 3, kinds: [3][]kind{of(cas), nil, of(cas)}, settled: true},
		{name: "two of one component in a bundle", a: 2, onHand: 3, kinds: [3][]kind{of(cas), nil, of(cas)}},
		{name: "two of one component in a bundle, a crash", a: 2, onHand: 3, kinds: [3][]kind{of(cas), nil, of(cas)}, set: crash, settled: true},
		{name: "two of one component in a bundle, a count", a: 2, onHand: 3, kinds: [3][]kind{of(cas), nil, of(cas)}, set: count, settled: true},
		{name: "absolute", a: 1, onHand: 2, kinds: [3][]kind{of(absolute), nil, of(absolute)}, long: true},
		{name: "absolute, a crash", a: 1, onHand: 1, kinds: [3][]kind{of(absolute), nil, of(absolute)}, set: crash},
		{name: "absolute, a write lost", a: 1, onHand: 1, kinds: [3][]kind{of(absolute), nil, of(absolute)}, set: loss},
		{name: "delta", a: 1, onHand: 2, kinds: [3][]kind{of(delta), nil, of(delta)}},
		{name: "delta, a write lost", a: 1, onHand: 1, kinds: [3][]kind{of(delta), nil, of(delta)}, set: loss},
		{name: "compare-and-set that tells nothing", a: 1, onHand: 2, kinds: [3][]kind{of(casOnly), nil, of(casOnly)}},
		{name: "two marketplaces of the bundle", a: 1, onHand: 2, kinds: [3][]kind{nil, nil, of(cas, cas)}},
		{name: "two marketplaces of the bundle, one of its component", a: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas, absolute)}},
		{name: "turns apart", a: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}, apart: true, long: true},
		{name: "turns apart, a crash", a: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, apart: true, set: crash},
		{name: "turns apart, two in a bundle", a: 2, onHand: 3, kinds: [3][]kind{of(cas), nil, of(cas)}, apart: true, long: true},
		// Two components, in partitions of their own.
		{name: "two components", a: 1, c: 1, onHand: 1, kinds: [3][]kind{nil, nil, of(cas)}},
		{name: "two components, sold before there were books", a: 1, c: 1, onHand: 1, shown: 1, kinds: [3][]kind{nil, nil, of(cas)}},
		{name: "two components, one of them sold by itself", a: 1, c: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, long: true},
		{name: "two components, both sold by themselves", a: 1, c: 1, onHand: 1, kinds: [3][]kind{of(cas), of(cas), of(cas)}, settled: true},
		{name: "two components, two units", a: 1, c: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}, settled: true},
		{name: "two components, two of one", a: 1, c: 2, onHand: 2, kinds: [3][]kind{of(cas), of(absolute), of(cas)}, settled: true},
		{name: "two components, a crash", a: 1, c: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, settled: true, set: crash},
		{name: "two components, a pause", a: 1, c: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, settled: true, set: pause},
		{name: "two components, a count", a: 1, c: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, settled: true, set: count},
		{name: "two components, one is taken in while the bundle sells", a: 1, c: 1, onHand: 2, more: 1, kinds: [3][]kind{nil, nil, of(cas)}, unread: true},
		{name: "two components, one is taken in while both sell", a: 1, c: 1, onHand: 2, more: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, unread: true, long: true},
		{name: "two components, one is taken in beside a crash", a: 1, c: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(cas)}, unread: true, set: crash, long: true},
		// The same with the engine that the allocator runs.
		{name: "the engine, one component", a: 1, onHand: 2, kinds: [3][]kind{of(cas), nil, of(cas)}, engine: true},
		{name: "the engine, one component, a crash", a: 1, onHand: 1, kinds: [3][]kind{of(cas), nil, of(absolute)}, engine: true, set: crash},
		{name: "the engine, two components", a: 1, c: 1, onHand: 1, kinds: [3][]kind{nil, nil, of(cas)}, engine: true},
	}
}

// most is beyond what any of the cases has.
const most = 400_000

// TestEveryInterleavingOfBundles explores the cases: the channels of a component and of its bundle, events and restarts of both sides, in every order.
func TestEveryInterleavingOfBundles(t *testing.T) {
	total := 0
	for _, x := range kitSpaces() {
		if x.long && (raceEnabled || testing.Short()) { // nothing here runs beside anything else
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			m, w := x.start()
			states, violation, done := m.explore(w, most, false)
			total += states
			t.Logf("%d states explored", states)
			if violation != "" || !done {
				t.Errorf("after %d states, all of them: %v\n%s", states, done, violation)
			}
		})
	}
	t.Logf("%d states explored in all", total)
}

// TestBrokenRulesOfBundlesAreCaught breaks one rule of the protocol after the other: each has a way to a broken promise.
func TestBrokenRulesOfBundlesAreCaught(t *testing.T) {
	of := [3][]kind{{cas}, nil, {cas}}
	for _, x := range []struct {
		name   string
		breaks func(*kitModel)
		space  kitSpace
	}{
		{"a component takes units back without asking", func(m *kitModel) { m.takes = true },
			kitSpace{a: 1, onHand: 2, kinds: of, settled: true, set: func(w *kitWorld) { w.pauses = 1 }}},
		{"the bundle agrees before its channels were lowered", func(m *kitModel) { m.hurries = true },
			kitSpace{a: 1, onHand: 2, kinds: of, settled: true, set: func(w *kitWorld) { w.pauses = 1 }}},
		{"the bundle agrees again by a level that does not have what it agreed to", func(m *kitModel) { m.rushes = true },
			kitSpace{a: 1, onHand: 3, kinds: of, settled: true, set: func(w *kitWorld) { w.pauses = 1 }}},
		{"what is left counts as available, whichever log is ahead", func(m *kitModel) { m.counts = true },
			kitSpace{a: 1, onHand: 2, kinds: of, settled: true}},
		{"an allotment begins with what is given, however much is sold by then", func(m *kitModel) { m.begins = true },
			kitSpace{a: 1, c: 1, onHand: 2, more: 1, kinds: [3][]kind{nil, nil, {cas}}, unread: true}},
		{"an event that comes again counts again", func(m *kitModel) { m.repeats = true },
			kitSpace{a: 1, onHand: 2, kinds: of}},
	} {
		t.Run(x.name, func(t *testing.T) {
			m, w := x.space.start()
			x.breaks(m)
			states, violation, _ := m.explore(w, most, true)
			if violation == "" {
				t.Fatalf("%d states explored and the wrong rule was not noticed", states)
			}
			t.Logf("caught after %d states:\n%s", states, violation)
		})
	}
}

// TestTurnsOfTheModelAreTheEngines walks at random and has each turn decided twice, by the books as the model does it and by the engine: both come to the same.
func TestTurnsOfTheModelAreTheEngines(t *testing.T) {
	turned := 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 3))
		pick := func() []kind { return []kind{kinds[r.IntN(len(kinds))]} }
		m := newKitModel(1+units(seed%2), units(seed%3), [3][]kind{pick(), pick(), pick()})
		if m.parts == 1 {
			m.kinds[1] = nil
		}
		m.tick, m.apart = 10_000_000, true
		m.useEngine()
		engine := m.plan
		w := m.start(6, units(seed%2))
		w.receipts, w.pauses, w.stops, w.losses = 2, 3, 3, 3
		var next []kitStep
		for range 400 {
			if next = m.steps(w, next[:0]); len(next) == 0 || w.twice != "" {
				break
			}
			s := next[r.IntN(len(next))]
			if s.act == turns {
				m.plan = nil
				core := m.coreTurn(w.clone(), s.side)
				m.plan = engine
				if got := m.engineTurn(w.clone(), s.side); !same(&got, &core) {
					t.Fatalf("seed %d, %s: the engine comes to\n%+v\nand the model to\n%+v", seed, sideSKUs[s.side], got, core)
				}
				turned++
			}
			m.do(w, s)
		}
		if w.twice != "" {
			t.Fatalf("seed %d: %s", seed, w.twice)
		}
	}
	t.Logf("%d turns compared", turned)
	if turned < 2000 {
		t.Errorf("%d turns compared", turned)
	}
}

// same says that two turns come to the same writes, events and answers.
func same(a, b *turned) bool {
	grants := slices.EqualFunc(a.grants, b.grants, func(x, y escrow.Grant) bool { return x.ID == y.ID && x.Channel == y.Channel && x.Write == y.Write })
	return grants && slices.Equal(a.events, b.events) && slices.Equal(a.sku.Consents, b.sku.Consents) && a.sku.Phase == b.sku.Phase
}
