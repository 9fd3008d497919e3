package escrow_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/write"
)

// The model checker explores every interleaving of a small world: on one side the real decisions, with the books stored and restored as the allocator does it, on
// the other what only the marketplaces know. Nothing is sampled: a world is explored until no new state is left. The books alone, under any policy of writing, are
// explored in package exposure.

// world is one state. Values are shared between states and never changed in place, except for what clone copies.
type world struct {
	sku    escrow.Snapshot
	kept   escrow.Snapshot // as stored with the last grants
	undone []escrow.Result // taken in since
	last   escrow.Level
	at     []truth
	onHand units
	clock  int64 // one for all; ticks when an answer is given

	cancels, backs, receipts, counts, losses, crashes, pauses, grants int // left to happen
	aheads, sales                                                     int // as well: zeros sent ahead, sales (negative: any number)
	broken                                                            bool
	promised                                                          bool // all is known, and exposed within what there is
	twice                                                             string
}

// truth is what really is at one channel.
type truth struct {
	shown    units
	sales    []int64 // sold_at of unseen sales, ascending
	back     units   // put back by the channel, unseen
	told     units   // sold and seen, not cancelled
	sold     units   // counters of the ledger
	restored units
	mark     int64
	stage    int
	open     bool // a grant is out
	late     bool // given up on: may still be applied until it is settled
	grant    escrow.Grant
	answer   escrow.Result
	paused   bool
	claim    claim // of a channel that asks
	pool     units // what a write of pooled mode sets it to that may still land, before what the books grant first is done; 0 when none may
}

func (w *world) clone() *world {
	n := *w
	n.at = slices.Clone(w.at)
	n.undone = slices.Clone(w.undone)
	return &n
}

// model is a world and the rules of the game.
type model struct {
	kinds  []kind
	layout *allocation.Layout
	rules  allocation.Rules
	d      escrow.Decider
	// broken replaces a rule of the books by a wrong one, to see that the checker notices; ch is the channel whose write was acknowledged.
	broken func(s *escrow.Snapshot, ch int, g *escrow.Grant)
	// forget has a restart lose open grants.
	forget bool
	// takeover has the channels sell in pooled mode before.
	takeover bool
	// hasty has the first granted write sent while one of pooled mode may still land.
	hasty bool
	// unknown has a channel that was pooled count as one that nobody ever told of stock.
	unknown bool
}

func newModel(ks ...kind) *model {
	m := &model{kinds: ks, rules: allocation.Rules{Guarantee: allocation.Strict, Share: allocation.Equally, Channels: make([]allocation.ChannelRules, len(ks))}}
	var sellers []allocation.Seller
	for i := range ks {
		sellers = append(sellers, allocation.Seller{ID: fmt.Sprint("c", i)})
	}
	m.layout = allocation.NewLayout(sellers, []allocation.Place{{ID: "W"}})
	return m
}

func (m *model) start(onHand units, shown ...units) *world {
	w := &world{onHand: onHand, clock: 1_000_000, sales: -1}
	for i := range m.kinds {
		t := truth{}
		if i < len(shown) {
			t.shown = shown[i]
		}
		w.at = append(w.at, t)
	}
	w.sku.SKU = "A"
	w.last = escrow.Level{Version: 1, Available: onHand}
	s := escrow.Restore(&w.sku)
	s.Level(&w.last)
	w.sku = s.Snapshot()
	w.kept = w.sku
	return w
}

// level has the ledger tell what it knows now.
func (w *world) level(ch int, soldAt int64) {
	l := escrow.Level{Version: w.last.Version + 1, Previous: w.last.Version, Available: w.onHand, Kind: event.SaleRecorded}
	for i := range w.at {
		c := escrow.Counter{Channel: fmt.Sprint("c", i), Sold: w.at[i].sold, Restored: w.at[i].restored}
		if i == ch {
			c.EarliestAt = soldAt
		}
		l.Counters = append(l.Counters, c)
	}
	l.Allotted = w.allotted()
	w.last = l
	s := escrow.Restore(&w.sku)
	s.Level(&l)
	w.sku = s.Snapshot()
	w.told()
}

func (m *model) input(w *world) *escrow.Input {
	in := &escrow.Input{Now: w.clock, Version: 1, Layout: m.layout, Rules: &m.rules, Stock: []allocation.Stock{{ID: "W", Available: w.last.Available}}}
	if m.takeover && len(w.sku.Channels) > 0 { // no channel is waited for only because it is new
		in.Now += 61_000_000
	}
	for i, k := range m.kinds {
		in.APIs, in.Marks = append(in.APIs, k.api), append(in.Marks, w.at[i].mark)
		in.Offers = append(in.Offers, escrow.Offer{Seller: i, ExternalID: "A", Paused: w.at[i].paused})
	}
	return in
}

// decide is the transaction: the grants are published and the books stored, or neither.
func (m *model) decide(w *world) *world {
	s := escrow.Restore(&w.sku)
	out := m.d.Decide(s, m.input(w))
	n := w.clone()
	n.sku = s.Snapshot()
	for i := range n.sku.Channels {
		if m.takeover && !m.unknown {
			n.sku.Channels[i].Stranger = false
		}
		if !m.takeover || n.twice != "" || !n.sku.Channels[i].Booked || !n.sku.Channels[i].Books.Open {
			continue
		}
		for _, g := range out.Grants { // it may sell all there is
			if g.Write.Quantity > g.Write.Expected || g.Write.Delta > 0 {
				n.twice = fmt.Sprintf("%s is raised while nobody knows what %s shows", g.Channel, n.sku.Channels[i].Channel)
			}
		}
	}
	if s.Kept() || len(out.Grants) > 0 {
		n.kept, n.undone = n.sku, nil
	}
	for _, g := range out.Grants {
		t := &n.at[g.Seller]
		if t.open {
			n.twice = fmt.Sprintf("%s is granted a write while another is open", g.Channel)
		}
		t.open, t.stage, t.late, t.grant = true, onItsWay, false, g
		n.grants--
	}
	return n
}

// restart is a crash: what was stored, the newest level, and the results that were not committed.
func (m *model) restart(w *world) *world {
	n := w.clone()
	n.promised = n.promised && !m.takeover // it knows less than before of what was lowered, until it has read the watermarks again
	x := w.kept
	if m.forget {
		x.Channels = slices.Clone(x.Channels)
		for i := range x.Channels {
			x.Channels[i].Grant, x.Channels[i].Books.InFlight = "", false
		}
	}
	s := escrow.Restore(&x)
	s.Level(&w.last)
	for i := range w.undone {
		s.Result(&w.undone[i], 0)
	}
	n.sku = s.Snapshot()
	return n
}

func (m *model) result(w *world, ch int, r escrow.Result) {
	s := escrow.Restore(&w.sku)
	s.Result(&r, 0)
	w.sku = s.Snapshot()
	if m.broken != nil && r.Outcome == write.Applied {
		w.sku.Channels = slices.Clone(w.sku.Channels)
		m.broken(&w.sku, ch, &w.at[ch].grant)
	}
	w.undone = append(w.undone, r)
	if r.Outcome != write.Unknown || r.Settled {
		if !m.hasty { // it was sent, or given up, when nothing of pooled mode could land any more
			w.at[ch].pool = 0
		}
		w.at[ch].open, w.at[ch].grant, w.at[ch].answer, w.at[ch].late = false, escrow.Grant{}, escrow.Result{}, false
	}
	w.clock++
}

// steps visits every state that can come next.
func (m *model) steps(w *world, visit func(string, *world)) {
	if w.grants > 0 {
		n := m.decide(w)
		visit("decide", n)
		if w.crashes > 0 && len(n.kept.Channels) > 0 {
			n = m.restart(w)
			n.crashes--
			visit("crash, before the decision is stored", n)
		}
	}
	if w.receipts > 0 {
		n := w.clone()
		n.receipts--
		n.onHand++
		n.level(-1, 0)
		visit("receipt of 1", n)
	}
	if w.counts > 0 && w.onHand > 0 {
		n := w.clone()
		n.counts--
		n.onHand--
		n.broken = true
		n.level(-1, 0)
		visit("a count finds 1 less", n)
	}
	for i := range w.at {
		if m.kinds[i].api.Operation == write.Allot {
			m.claims(w, i, visit)
		} else {
			m.channel(w, i, visit)
		}
	}
}

func (m *model) channel(w *world, i int, visit func(string, *world)) {
	t, k := &w.at[i], m.kinds[i]
	name := fmt.Sprint("c", i)
	if t.shown > 0 && w.sales != 0 {
		n := w.clone()
		n.sales--
		x := &n.at[i]
		x.shown--
		x.sales = append(slices.Clone(x.sales), w.clock)
		visit(name+" sells 1", n)
	}
	for j, at := range t.sales {
		if j > 0 && t.sales[j-1] == at {
			continue
		}
		n := w.clone()
		x := &n.at[i]
		x.sales = slices.Delete(slices.Clone(x.sales), j, j+1)
		x.told++
		x.sold++
		n.onHand--
		n.level(i, at)
		visit(fmt.Sprintf("sale of %s at %d is seen", name, at), n)
	}
	if t.told > 0 && w.cancels > 0 {
		n := w.clone()
		n.cancels--
		n.at[i].told--
		n.onHand++
		n.level(-1, 0)
		visit(name+" cancels 1", n)
	}
	if t.told > 0 && w.backs > 0 {
		n := w.clone()
		n.backs--
		n.at[i].told--
		n.at[i].shown++
		n.at[i].back++
		visit(name+" restocks 1", n)
	}
	if t.back > 0 {
		n := w.clone()
		n.at[i].back--
		n.at[i].restored++
		n.onHand++
		n.level(-1, 0)
		visit("restock of "+name+" is seen", n)
	}
	if w.pauses > 0 {
		n := w.clone()
		n.pauses--
		n.at[i].paused = !t.paused
		s := escrow.Restore(&n.sku) // as a change of settings: decided anew
		n.sku = s.Snapshot()
		visit(name+" is paused or goes on", n)
	}
	mark := w.clock - 1
	if len(t.sales) > 0 {
		mark = min(mark, t.sales[0]-1)
	}
	if mark > t.mark && waits(&w.sku, i) {
		n := w.clone()
		n.at[i].mark = mark
		visit(fmt.Sprintf("watermark of %s passes %d", name, mark), n)
	}
	if t.pool > 0 && (m.hasty || !t.open || t.late || t.stage == onItsWay) {
		n := w.clone()
		n.at[i].shown, n.at[i].pool = t.pool, 0
		visit("a write of pooled mode lands at "+name, n)
	}
	if !t.open {
		return
	}
	// The pusher sends a granted 0 ahead of the write itself while that has to wait: it may land at any time until the write is handled, or settled.
	if g := t.grant.Write; w.aheads > 0 && t.shown > 0 && g.Operation == write.Absolute && g.Quantity == 0 && (t.late || t.stage == onItsWay) {
		n := w.clone()
		n.aheads--
		n.at[i].shown = 0
		visit("a 0 sent ahead lands at "+name, n)
	}
	switch {
	case t.late:
		if t.stage == onItsWay {
			n := w.clone()
			n.at[i].apply(k, w.clock)
			visit(name+" handles the write late", n)
		}
		n := w.clone()
		n.at[i].stage = gone
		r := escrow.Result{ID: t.grant.ID, Channel: name, Outcome: write.Unknown, Settled: true, AckedAt: w.clock}
		if k.api.Reads {
			r.Shown, r.ShownKnown, r.ShownAt = t.shown, true, w.clock
		}
		m.result(n, i, r)
		visit(fmt.Sprintf("the write to %s is settled: %+v", name, r), n)
	case t.stage == onItsWay:
		n := w.clone()
		n.at[i].apply(k, w.clock)
		visit(fmt.Sprintf("%s handles %v %+v", name, t.grant.Write.Operation, t.grant.Write), n)
		if w.losses > 0 {
			n = w.clone()
			n.losses--
			m.result(n, i, escrow.Result{ID: t.grant.ID, Channel: name, Outcome: write.NotSent, AckedAt: w.clock})
			visit("the write to "+name+" never leaves", n)
			n = w.clone()
			n.losses--
			n.at[i].late = true
			m.result(n, i, escrow.Result{ID: t.grant.ID, Channel: name, Outcome: write.Unknown})
			visit("nobody knows of the write to "+name, n)
		}
	case t.stage == handled:
		n := w.clone()
		r := t.answer
		r.AckedAt = w.clock
		m.result(n, i, r)
		visit(name+" acknowledges", n)
		if w.losses > 0 {
			n = w.clone()
			n.losses--
			n.at[i].late = true
			m.result(n, i, escrow.Result{ID: t.grant.ID, Channel: name, Outcome: write.Unknown})
			visit("the answer of "+name+" is lost", n)
		}
	}
}

// waits says that a bound of the channel waits for its watermark: nothing else depends on it.
func waits(s *escrow.Snapshot, i int) bool {
	return i < len(s.Channels) && len(s.Channels[i].Books.Fences) > 0
}

func (t *truth) apply(k kind, now int64) {
	t.stage = handled
	r := escrow.Result{ID: t.grant.ID, Channel: t.grant.Channel, Outcome: write.Applied, Shown: t.shown, ShownKnown: k.tells, ShownAt: now}
	switch g := t.grant.Write; g.Operation {
	case write.Read:
		r.ShownKnown = true
	case write.CompareAndSet:
		if t.shown != g.Expected {
			r.Outcome, r.ErrorCode = write.Refused, escrow.Stale
			break
		}
		t.shown, r.Shown = g.Quantity, g.Quantity
	case write.Delta:
		t.shown += g.Delta
		if k.clamps {
			t.shown = max(0, t.shown)
		}
		r.Shown = t.shown
	default:
		t.shown, r.Shown = g.Quantity, g.Quantity
	}
	t.answer = r
}

// violation names the promise that does not hold in this state.
func (m *model) violation(w *world) string {
	if w.twice != "" {
		return w.twice
	}
	s := escrow.Restore(&w.sku)
	var could, backs units
	for i := range w.at {
		t := &w.at[i]
		x := max(0, t.shown) + units(len(t.sales)) + t.claim.left
		could += x
		backs += t.back
		if v, ok := s.View(fmt.Sprint("c", i)); ok && v.Known && v.Exposure+t.back+t.claim.given < x {
			return fmt.Sprintf("c%d could still report %d and its exposure is %d", i, x, v.Exposure)
		}
	}
	if !s.Guarded() || w.broken || backs > 0 {
		return ""
	}
	if could > w.onHand && (w.promised || m.rules.Guarantee == allocation.Strict && !m.takeover) { // what pooled mode or adaptive promised is lowered first
		return fmt.Sprintf("channels could still report %d of %d", could, w.onHand)
	}
	if w.promised && s.Exposed() > w.last.Available {
		return fmt.Sprintf("%d are exposed of %d", s.Exposed(), w.last.Available)
	}
	return ""
}

// promise notes whether the sum of exposures is within what there is. From then on it must stay so, as long as nothing is put back by a channel: a sale of that may be seen
// before it.
func (w *world) promise() {
	s := escrow.Restore(&w.sku)
	w.promised = s.Guarded() && !w.broken && (w.promised || s.Exposed() <= w.last.Available)
	for i := range w.at {
		w.promised = w.promised && w.at[i].back == 0 && w.at[i].restored == 0
	}
}

// key is the state with its times replaced by their ranks, and without what decides nothing here: ids, counts of sales over time.
func (w *world) key(dst []byte, times []int64) ([]byte, []int64) {
	times = append(times[:0], w.clock)
	for i := range w.at {
		times = append(times, w.at[i].sales...)
		times = append(times, w.at[i].mark, w.at[i].answer.ShownAt)
	}
	for _, s := range []*escrow.Snapshot{&w.sku, &w.kept} {
		for i := range s.Channels {
			b := &s.Channels[i].Books
			times = append(times, b.Watermark, s.Channels[i].Retry)
			for j := range b.Fences {
				times = append(times, b.Fences[j].At)
			}
		}
	}
	for i := range w.undone {
		times = append(times, w.undone[i].AckedAt, w.undone[i].ShownAt)
	}
	slices.Sort(times)
	times = slices.Compact(times)
	b := dst[:0]
	put := func(ns ...units) {
		for _, n := range ns {
			b = binary.AppendVarint(b, int64(n))
		}
	}
	rank := func(t int64) { n, _ := slices.BinarySearch(times, t); put(units(n)) }
	flags := func(vs ...bool) {
		n := byte(0)
		for i, v := range vs {
			if v {
				n |= 1 << i
			}
		}
		b = append(b, n)
	}
	put(w.onHand, units(w.cancels), units(w.backs), units(w.receipts), units(w.counts), units(w.losses), units(w.crashes), units(w.pauses), units(w.grants), units(w.aheads), units(max(w.sales, -1)))
	rank(w.clock)
	flags(w.broken, w.promised)
	for i := range w.at {
		t := &w.at[i]
		put(t.shown, t.back, t.told, t.sold, t.restored, units(t.stage), units(len(t.sales)))
		put(t.pool)
		put(t.claim.left, t.claim.given, t.claim.holds, w.last.Available)
		flags(t.claim.allotted, t.claim.unseen)
		for _, at := range t.sales {
			rank(at)
		}
		rank(t.mark)
		flags(t.open, t.late, t.paused, t.answer.ShownKnown)
		if t.open {
			put(units(t.grant.Write.Operation), t.grant.Write.Quantity, t.grant.Write.Expected, t.grant.Write.Delta)
			put(units(t.answer.Outcome), t.answer.Shown)
			rank(t.answer.ShownAt)
		}
	}
	for n, s := range []*escrow.Snapshot{&w.sku, &w.kept} {
		if n == 1 && w.crashes == 0 {
			break
		}
		put(units(s.Phase), s.Available, units(len(s.Channels)), units(w.last.Version-s.Version))
		for i := range s.Channels {
			c := &s.Channels[i]
			x := &c.Books
			put(c.Sold, c.Restored, x.E, x.Belief, x.Restocked, x.Seen, c.Share, units(c.Failures), units(c.Stale), units(len(x.Fences)))
			flags(c.Booked, x.Open, x.Known, x.InFlight, x.Unresolved, c.Grant != "", c.Doubt, c.Suspect)
			if x.InFlight {
				put(units(x.Write.Operation), x.Write.Quantity, x.Write.Expected, x.Write.Delta)
			}
			rank(x.Watermark)
			rank(c.Retry)
			for j := range x.Fences {
				f := &x.Fences[j]
				rank(f.At)
				put(f.Raised, f.Sold, f.Shown, f.Credit)
				flags(f.Anchor)
			}
		}
	}
	if w.crashes > 0 {
		put(units(len(w.undone)))
		for i := range w.undone {
			r := &w.undone[i]
			put(units(r.Channel[1]), units(r.Outcome), r.Shown)
			flags(r.Settled, r.ShownKnown, r.ErrorCode != "")
			rank(r.AckedAt)
			rank(r.ShownAt)
		}
	}
	return b, times
}

// explore goes through all that can happen, and returns the number of states, or with the first broken promise the way to it.
func (m *model) explore(start *world) (states int, violation string) {
	type arrival struct {
		w    *world
		from int
		step string
	}
	var scratch []byte
	var times []int64
	scratch, times = start.key(scratch, times)
	seen := map[string]struct{}{string(scratch): {}}
	queue := []arrival{{w: start, from: -1}}
	for i := 0; i < len(queue) && violation == ""; i++ {
		m.steps(queue[i].w, func(step string, n *world) {
			if violation != "" {
				return
			}
			n.promise()
			scratch, times = n.key(scratch, times)
			if _, ok := seen[string(scratch)]; ok {
				return
			}
			seen[string(scratch)] = struct{}{}
			queue = append(queue, arrival{n, i, step})
			if v := m.violation(n); v != "" {
				violation = v
				for j := len(queue) - 1; j > 0; j = queue[j].from {
					violation = queue[j].step + "\n" + violation
				}
			}
		})
		queue[i].w = nil
	}
	return len(seen), violation
}

// takenIn is a world whose channels sold in pooled mode: each was told of all there is, and may be told so once more.
func takenIn(onHand units, ks ...kind) (*model, *world) {
	m := newModel(ks...)
	m.takeover = true
	w := m.start(onHand)
	w.grants, w.sales = 4, 2
	for i := range w.at {
		w.at[i].shown, w.at[i].pool = onHand-units(i), onHand
	}
	return m, w
}

// worlds are the small cases. What is left to happen bounds each.
func worlds(race bool) (out []struct {
	name  string
	m     *model
	start *world
}) {
	add := func(name string, onHand units, set func(*world), ks ...kind) {
		m := newModel(ks...)
		w := m.start(onHand, 1)
		w.grants, w.sales = 4, -1
		set(w)
		out = append(out, struct {
			name  string
			m     *model
			start *world
		}{name, m, w})
	}
	for _, k := range []struct {
		name string
		kind kind
	}{{"compare-and-set, tells", cas}, {"compare-and-set, silent", casOnly}, {"absolute", absolute}, {"absolute, readable", readable}, {"delta, silent", delta}, {"delta, tells", tellsIt}} {
		add(k.name+": crashes and losses", 2, func(w *world) { w.crashes, w.losses = 1, 1 }, k.kind)
		if !race {
			add(k.name+": restocks", 2, func(w *world) { w.cancels, w.backs = 1, 1 }, k.kind)
			add(k.name+": receipt and count", 3, func(w *world) { w.receipts, w.counts = 1, 1 }, k.kind)
			add(k.name+": pause", 2, func(w *world) { w.pauses, w.losses, w.grants = 2, 1, 5 }, k.kind)
			add(k.name+": two of them", 2, func(w *world) { w.grants = 6 }, k.kind, k.kind)
			add(k.name+": two of them, a loss", 2, func(w *world) { w.losses, w.grants = 1, 4 }, k.kind, k.kind)
		}
	}
	if !race {
		add("compare-and-set and absolute, a loss", 2, func(w *world) { w.losses, w.grants = 1, 5 }, cas, absolute)
		add("delta and absolute", 2, func(w *world) { w.grants = 6 }, delta, absolute)
		add("delta and compare-and-set, a crash", 2, func(w *world) { w.crashes, w.grants = 1, 5 }, delta, cas)
		add("three kinds", 1, func(w *world) { w.grants = 4 }, casOnly, absolute, delta)
		add("four units", 4, func(w *world) { w.grants = 4 }, cas, absolute)
		add("a 0 sent ahead", 2, func(w *world) { w.aheads, w.losses, w.grants = 2, 1, 5 }, absolute)
		add("a 0 sent ahead, readable", 2, func(w *world) { w.aheads, w.losses, w.grants = 2, 1, 5 }, readable)
		add("a 0 sent ahead, and a crash", 2, func(w *world) { w.aheads, w.losses, w.crashes = 1, 1, 1 }, cas)
		add("a 0 sent ahead, two channels", 2, func(w *world) { w.aheads, w.losses, w.sales = 1, 1, 2 }, absolute, delta)
		for _, k := range []kind{absolute, readable, cas, casOnly, delta, tellsIt} {
			if k != cas && k != tellsIt {
				add("taken in", 2, func(*world) {}, absolute, k)
				out[len(out)-1].m, out[len(out)-1].start = takenIn(2, absolute, k)
			}
			add("taken in, a loss and a 0 ahead", 1, func(*world) {}, k)
			m, w := takenIn(2, k)
			w.losses, w.aheads, w.crashes = 1, 1, 1
			out[len(out)-1].m, out[len(out)-1].start = m, w
		}
		// Adaptive with plenty: absolute channels are set to their part as they are taken in, not to 0.
		for _, k := range []kind{absolute, casOnly} {
			add("adaptive with plenty", 12, func(w *world) {
				w.sales, w.grants = 2, 3
				for i := range w.at {
					w.at[i].shown, w.at[i].mark = 12, w.clock-1
				}
			}, absolute, k)
			out[len(out)-1].m.rules.Guarantee = allocation.Adaptive
		}
	}
	return out
}

func TestEveryInterleavingOfDecisionsKeepsThePromise(t *testing.T) {
	total := 0
	for _, x := range worlds(raceEnabled) {
		t.Run(x.name, func(t *testing.T) {
			states, violation := x.m.explore(x.start)
			total += states
			t.Logf("%d states explored", states)
			if violation != "" {
				t.Errorf("after %d states:\n%s", states, violation)
			}
		})
	}
	t.Logf("%d states explored in all", total)
}

// TestWrongRulesAreCaught proves that the checker would notice: each rule is one that people have believed in.
func TestWrongRulesAreCaught(t *testing.T) {
	set := func(s *escrow.Snapshot, ch int, e units) {
		s.Channels[ch].Books.E, s.Channels[ch].Books.Open, s.Channels[ch].Books.Fences = e, false, nil
	}
	for _, x := range []struct {
		name   string
		kinds  []kind
		broken func(s *escrow.Snapshot, ch int, g *escrow.Grant)
		forget bool
		set    func(*world)
	}{
		{name: "absolute: exposure is the quantity at acknowledgement", kinds: []kind{absolute}, set: func(*world) {},
			broken: func(s *escrow.Snapshot, ch int, g *escrow.Grant) {
				if g.Write.Operation == write.Absolute {
					set(s, ch, g.Write.Quantity)
				}
			}},
		{name: "delta: a decrease is credited at once", kinds: []kind{delta}, set: func(w *world) { w.pauses = 1; w.grants = 6 },
			broken: func(s *escrow.Snapshot, ch int, g *escrow.Grant) {
				if b := &s.Channels[ch].Books; g.Write.Operation == write.Delta && g.Write.Delta < 0 {
					b.E = max(0, b.E+g.Write.Delta)
					b.Fences = slices.DeleteFunc(slices.Clone(b.Fences), func(f exposure.Fence) bool { return !f.Anchor })
				}
			}},
		{name: "compare-and-set: exposure is the quantity after success", kinds: []kind{casOnly}, set: func(w *world) { w.receipts = 1 },
			broken: func(s *escrow.Snapshot, ch int, g *escrow.Grant) {
				if g.Write.Operation == write.CompareAndSet {
					set(s, ch, g.Write.Quantity)
				}
			}},
		{name: "read: exposure is what was read", kinds: []kind{casOnly}, set: func(*world) {},
			broken: func(s *escrow.Snapshot, ch int, g *escrow.Grant) {
				if g.Write.Operation == write.Read {
					set(s, ch, s.Channels[ch].Books.Belief)
				}
			}},
		{name: "a restart forgets open grants", kinds: []kind{cas, cas}, forget: true, set: func(w *world) { w.crashes, w.grants = 1, 6 }},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := newModel(x.kinds...)
			m.broken, m.forget = x.broken, x.forget
			w := m.start(2, 1)
			w.grants, w.sales = 4, -1
			x.set(w)
			states, violation := m.explore(w)
			if violation == "" {
				t.Fatalf("%d states explored and the wrong rule was not noticed", states)
			}
			t.Logf("caught after %d states:\n%s", states, violation)
		})
	}
}

// TestWrongTakeoversAreCaught proves that the checker would notice a wrong way to take channels in that sold in pooled mode.
func TestWrongTakeoversAreCaught(t *testing.T) {
	for name, set := range map[string]func() (*model, *world){
		"a write of pooled mode lands after the first that is granted": func() (*model, *world) {
			m, w := takenIn(2, absolute, casOnly)
			m.hasty = true
			return m, w
		},
		"a channel that was pooled counts as new": func() (*model, *world) {
			m, w := takenIn(24, absolute, casOnly)
			m.unknown, w.sales = true, 1
			return m, w
		},
	} {
		m, w := set()
		states, violation := m.explore(w)
		if violation == "" {
			t.Errorf("%s: %d states explored and it was not noticed", name, states)
		}
		t.Logf("%s: caught after %d states:\n%s", name, states, violation)
	}
}
