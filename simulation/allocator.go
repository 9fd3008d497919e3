package simulation

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
)

// lot is the targets of one turn of the allocator, on their way to the topics.
type lot struct{ targets []posting }

type posting struct {
	channel, sku uint16
	target       allocation.Target
}

// reports is results on their way to channel.writes.
type report struct {
	result write.Result
	sku    int
}

// allocating is the allocator's state of one partition.
type allocating struct {
	plan    *catalog.Plan
	rules   *allocation.Rules // of every SKU
	offers  []catalog.Offer
	solver  allocation.Solver
	input   allocation.Input
	decider escrow.Decider
	in      escrow.Input
	skus    []sku // by SKU; those of other partitions stay unknown
	read    int64 // offset in stock.levels
	marked  int   // offset in channel.watermarks
	heard   int   // offset in channel.writes
	due     bool  // a turn is
	ticks   int64 // the moment of the tick that is due; 0 is none
	turns   int64
	lots    []*lot
	spare   []*lot
	touch   []int
	delays  []delays // by channel
	crashAt int64    // the next crash
	counter []escrow.Counter
}

// sku is what the allocator knows of a SKU.
type sku struct {
	level      ledger.Level
	known      bool
	touched    bool
	oldest     int64
	wake       int64
	shown      []shown // by channel, in pooled mode
	books      *escrow.SKU
	stored     escrow.Snapshot // as exposure.books has it, when a crash is near
	hasStore   bool
	storedOwes [3]int64
	seen       []counts // by channel: what the books have taken in
	ahead      int64    // units of cancellations that came before their sales, as of the level taken in
	lost       int64    // units that counts took, as of the level taken in
	debt       int64    // exposed beyond what is available, since a count took it
}

// store keeps the books as exposure.books has them.
func (s *sku) store() {
	s.stored, s.hasStore, s.storedOwes = s.books.Snapshot(), true, [3]int64{s.lost, s.debt, s.ahead}
}

// counts is cumulative sales of a SKU at a channel.
type counts struct{ sold, restored int64 }

type shown struct {
	quantity, sold, restored allocation.Units
	set                      bool
}

// buildOnhand makes the services as they are before the first event.
func (w *world) buildOnhand() error {
	s := &catalog.Settings{Version: 1, Channels: map[string]*catalog.Channel{}, Locations: map[string]*catalog.Location{shelfName: {ID: shelfName, Kind: catalog.Warehouse}}, Rules: map[string]*catalog.Rule{}}
	for i := range w.markets {
		s.Channels[w.names[i]] = w.setting(i)
	}
	mode := string(w.mode)
	s.Rules["mode"] = &catalog.Rule{ID: "mode", Mode: &mode}
	w.parts = make([]part, w.cfg.Partitions)
	w.pushing = make([]pushing, len(w.markets))
	for p := range w.parts {
		pt := &w.parts[p]
		pt.ledger = ledger.New(ledger.Options{})
		pt.lost, pt.ahead = make([]int64, len(w.skuNames)), make([]int64, len(w.skuNames))
		pt.newest, pt.newestMk = make([]*emitted, len(w.skuNames)), make([]mark, len(w.markets))
		a := &pt.alloc
		a.plan = catalog.Compile(s)
		a.rules = a.plan.Rules(w.skuNames[0], nil)
		a.skus = make([]sku, len(w.skuNames))
		a.offers = a.plan.Offers(nil, w.skuNames[0], nil)
		a.delays = make([]delays, len(w.markets))
		a.in = escrow.Input{
			Version: 1, Layout: a.plan.Layout, Rules: a.rules, Skew: escrow.DefaultSkew, Marks: make([]int64, len(w.markets)), Delays: make([]escrow.Delay, len(w.markets)),
		}
		for i := range w.markets {
			a.in.Offers = append(a.in.Offers, escrow.Offer{Seller: i, ExternalID: ""})
			a.in.APIs = append(a.in.APIs, escrow.APIOf(s.Channels[w.names[i]]))
		}
		for i := range a.skus {
			a.skus[i].shown = make([]shown, len(w.markets))
			a.skus[i].seen = make([]counts, len(w.markets))
			a.skus[i].books = &escrow.SKU{ID: w.skuNames[i]}
		}
	}
	w.planCrash()
	for ch := range w.pushing {
		p := &w.pushing[ch]
		p.topic, p.next, p.stored, p.parts = make([]posted, len(w.skuNames)), make([]int64, len(w.parts)), make([]int64, len(w.parts)), make([]*queue.Partition, len(w.parts))
		for i := range p.stored {
			p.stored[i] = -1
		}
		w.newQueue(ch)
	}
	w.stockUp()
	return nil
}

// setting is a channel as the brand would set it up.
func (w *world) setting(i int) *catalog.Channel {
	m := &w.markets[i]
	c := &catalog.Channel{ID: w.names[i], Adapter: "http", BatchSize: m.batch, MaxInFlight: 4, ListsAllSKUs: true, TimeoutMS: int(m.timeout / millisecond),
		RatePerSecond: strconv.FormatFloat(float64(second)/float64(m.rate), 'f', 3, 64), Burst: 1}
	switch m.kind {
	case compareAndSet:
		c.Operation, c.SetsAny = catalog.CompareAndSet, i%2 == 0
	case delta, clamped:
		c.Operation = catalog.Delta
	default:
		c.Operation = catalog.Absolute
	}
	return c
}

func (w *world) wakeAllocator(p int) {
	a := &w.parts[p].alloc
	if a.due || w.down[allocator] {
		return
	}
	a.due = true
	w.add(happening{at: w.now + 2*millisecond + w.r.wait(6*millisecond), kind: allocatorTurn, c: uint16(p)})
}

// allocate is a turn of the allocator: all that is there is taken in, and what follows from it is written, or nothing of either.
func (w *world) allocate(p int) {
	pt := &w.parts[p]
	a := &pt.alloc
	a.due = false
	if w.down[allocator] {
		return
	}
	for ; a.read < pt.levelBase+int64(len(pt.levels)); a.read++ {
		w.takeLevel(p, pt.levels[a.read-pt.levelBase])
	}
	pt.compact(a.read)
	for ; a.heard < len(pt.writes); a.heard++ {
		w.takeResult(a, &pt.writes[a.heard])
	}
	pt.writes, a.heard = pt.writes[:0], 0
	marks := false
	for ; a.marked < len(pt.marks); a.marked++ {
		m := &pt.marks[a.marked]
		if m.levels > a.read {
			break
		}
		if m.until > a.in.Marks[m.channel] {
			a.in.Marks[m.channel] = m.until
			marks = true
		}
	}
	pt.marks, a.marked = append(pt.marks[:0], pt.marks[a.marked:]...), 0
	out := a.take()
	if w.mode == Pooled {
		for _, i := range a.touch {
			w.pooled(a, i, out)
		}
	} else {
		if a.turns++; a.turns%32 == 1 {
			for ch := range a.delays {
				a.in.Delays[ch] = a.delays[ch].measured()
			}
		}
		if marks || a.ticks == w.now {
			for i := range a.skus {
				if a.skus[i].known && !a.skus[i].touched {
					w.decide(a, i, out)
				}
			}
		}
		for _, i := range a.touch {
			w.decide(a, i, out)
		}
	}
	for _, i := range a.touch {
		a.skus[i].touched = false
	}
	a.touch = a.touch[:0]
	if a.ticks == w.now {
		a.ticks = 0
	}
	w.plan(p)
	w.publish(p, out)
}

// plan has the allocator look again when some SKU needs it.
func (w *world) plan(p int) {
	a := &w.parts[p].alloc
	at := int64(0)
	for i := range a.skus {
		if t := a.skus[i].wake; t > 0 && (at == 0 || t < at) {
			at = t
		}
	}
	if at > 0 {
		at = max(at, w.now+100*millisecond) // as often as the service looks
		if a.ticks != 0 && a.ticks <= at {
			return
		}
		a.ticks = at
		w.add(happening{at: at, kind: allocatorTick, c: uint16(p)})
	}
}

func (w *world) tick(p int) {
	a := &w.parts[p].alloc
	if a.ticks == w.now && !w.down[allocator] {
		w.allocate(p)
	}
}

// takeLevel takes in a level.
func (w *world) takeLevel(p int, e *emitted) {
	l := &e.Level
	a := &w.parts[p].alloc
	i := w.number(l.SKU)
	s := &a.skus[i]
	if s.known && l.Version <= s.level.Version {
		return
	}
	places := append(s.level.Locations[:0], l.Locations...)
	s.level, s.known = *l, true
	s.level.Locations, s.level.Sold, s.level.Restored = places, nil, nil
	if s.oldest == 0 || l.OldestReceivedAt < s.oldest {
		s.oldest = l.OldestReceivedAt
	}
	a.touched(i)
	x := escrow.Level{Version: l.Version, Previous: l.PreviousVersion, Available: l.Available(), At: w.now, Event: l.EventID, Kind: l.EventKind}
	a.counter = a.counter[:0]
	restored := l.Restored
	for j := range l.Sold { // both are in order of ids
		c := &l.Sold[j]
		for len(restored) > 0 && restored[0].Channel < c.Channel {
			a.counter = append(a.counter, escrow.Counter{Channel: restored[0].Channel, Restored: restored[0].Units})
			restored = restored[1:]
		}
		n := escrow.Counter{Channel: c.Channel, Sold: c.Units, EarliestAt: c.EarliestAt}
		if len(restored) > 0 && restored[0].Channel == c.Channel {
			n.Restored, restored = restored[0].Units, restored[1:]
		}
		a.counter = append(a.counter, n)
	}
	for _, c := range restored {
		a.counter = append(a.counter, escrow.Counter{Channel: c.Channel, Restored: c.Units})
	}
	x.Counters = a.counter
	if w.mode != Pooled {
		s.books.Level(&x)
		took := e.lost - s.lost
		s.lost, s.ahead = e.lost, e.ahead
		w.owes(a, i, took)
	}
	for j := range a.counter {
		c := &a.counter[j]
		ch := w.channelNumber(c.Channel)
		if c.EarliestAt > 0 {
			a.delays[ch].event(w.now - c.EarliestAt)
		}
		s.seen[ch] = counts{int64(c.Sold), int64(c.Restored)}
	}
}

// takeResult takes in a granted write's outcome.
func (w *world) takeResult(a *allocating, r *report) {
	ch := w.channelNumber(r.result.Channel)
	x := escrow.ResultOf(&r.result)
	s := &a.skus[r.sku]
	if s.books.Result(&x, a.in.Skew) {
		w.owes(a, r.sku, 0)
		if w.cfg.trustAcks && r.result.AckedAt > 0 {
			a.in.Marks[ch] = max(a.in.Marks[ch], r.result.AckedAt+a.in.Skew)
		}
		a.touched(r.sku)
	}
}

// resultsVisible has the allocator read what is new in channel.writes.
func (w *world) resultsVisible(p int) {
	pt := &w.parts[p]
	pt.writes = append(pt.writes, pt.outbox...)
	pt.outbox = pt.outbox[:0]
	w.wakeAllocator(p)
}

// decide decides for a SKU, and publishes what follows.
func (w *world) decide(a *allocating, i int, out *lot) {
	s := &a.skus[i]
	in := &a.in
	in.Now, in.Unassigned = w.now, s.level.Unassigned
	in.Stock = in.Stock[:0]
	for j := range s.level.Locations {
		l := &s.level.Locations[j]
		in.Stock = append(in.Stock, allocation.Stock{Place: a.plan.Layout.Place(l.Location), ID: l.Location, Available: l.Available()})
	}
	for j := range in.Offers {
		in.Offers[j].ExternalID = w.skuNames[i]
	}
	d := a.decider.Decide(s.books, in)
	s.wake = d.Wake
	for j := range d.Alerts {
		w.alert(i, &d.Alerts[j])
	}
	if d.Entered {
		w.res.Phases++
		if d.Phase != escrow.Pooled { // whatever pooled mode still has under way is over
			for ch := range s.shown {
				s.shown[ch] = shown{}
			}
		}
	}
	if d.Phase == escrow.Pooled {
		if s.touched || d.Entered {
			w.pooled(a, i, out)
		}
	}
	if d.Entered && d.Phase == escrow.Strict { // where nothing is granted yet, nothing may be written
		for ch := range w.markets {
			if !slices.ContainsFunc(d.Grants, func(g escrow.Grant) bool { return g.Seller == ch }) {
				out.targets = append(out.targets, posting{uint16(ch), uint16(i), w.strictTarget(s, i, ch)})
			}
		}
	}
	for j := range d.Grants {
		g := &d.Grants[j]
		t := w.strictTarget(s, i, g.Seller)
		t.Quantity, t.Exposure = g.Target, g.Exposure
		*t.Write = allocation.GrantedWrite{ID: g.ID, Operation: g.Write.Operation, Quantity: g.Write.Quantity, Delta: g.Write.Delta, Expected: g.Write.Expected}
		out.targets = append(out.targets, posting{uint16(g.Seller), uint16(i), t})
	}
	if s.touched {
		s.oldest = 0
	}
	if s.books.Kept() && a.crashAt-w.now < minute {
		s.store()
	}
	w.verifyBooks(a, i)
}

func (a *allocating) touched(i int) {
	if !a.skus[i].touched {
		a.skus[i].touched = true
		a.touch = append(a.touch, i)
	}
}

func (a *allocating) take() *lot {
	if n := len(a.spare); n > 0 {
		l := a.spare[n-1]
		a.spare = a.spare[:n-1]
		return l
	}
	return &lot{}
}

func (a *allocating) recycle(l *lot) {
	l.targets = l.targets[:0]
	a.spare = append(a.spare, l)
}

// publish writes a lot; others see it once Kafka has it.
func (w *world) publish(p int, l *lot) {
	a := &w.parts[p].alloc
	if len(l.targets) == 0 {
		a.recycle(l)
		return
	}
	at := -1
	for i := range a.lots {
		if a.lots[i] == nil {
			at = i
			break
		}
	}
	if at < 0 {
		at = len(a.lots)
		a.lots = append(a.lots, nil)
	}
	a.lots[at] = l
	w.add(happening{at: w.now + 3*millisecond + w.r.wait(4*millisecond), kind: targetsVisible, a: int32(at), c: uint16(p)})
}

// strictTarget is a target of a SKU under the books, with nothing granted.
func (w *world) strictTarget(s *sku, i, ch int) allocation.Target {
	return allocation.Target{
		SKU: w.skuNames[i], Channel: w.names[ch], ExternalID: w.skuNames[i], LevelVersion: s.level.Version, SourceOffset: s.level.SourceOffset, SettingsVersion: 1,
		Mode: "strict", ReceivedAt: s.level.ReceivedAt, OldestReceivedAt: s.oldest, DecidedAt: w.now, Write: &allocation.GrantedWrite{},
	}
}

// pooled decides for a SKU as the allocator does in pooled mode: every channel shows the pool.
func (w *world) pooled(a *allocating, i int, out *lot) {
	s := &a.skus[i]
	in := &a.input
	in.Layout, in.Rules, in.Unassigned = a.plan.Layout, a.rules, s.level.Unassigned
	in.Stock = in.Stock[:0]
	for j := range s.level.Locations {
		l := &s.level.Locations[j]
		in.Stock = append(in.Stock, allocation.Stock{Place: a.plan.Layout.Place(l.Location), ID: l.Location, Available: l.Available()})
	}
	in.Channels = in.Channels[:0]
	for j := range a.offers {
		in.Channels = append(in.Channels, allocation.Listed{Seller: a.offers[j].Channel})
	}
	a.solver.Solve(in)
	for j := range a.offers {
		ch := a.offers[j].Channel
		next := shown{quantity: a.solver.Target(j), sold: allocation.Units(s.seen[ch].sold), restored: allocation.Units(s.seen[ch].restored), set: true}
		if s.shown[ch] == next {
			continue
		}
		s.shown[ch] = next
		out.targets = append(out.targets, posting{uint16(ch), uint16(i), allocation.Target{
			SKU: w.skuNames[i], Channel: w.names[ch], ExternalID: w.skuNames[i], Quantity: next.quantity, LevelVersion: s.level.Version, SourceOffset: s.level.SourceOffset,
			SettingsVersion: 1, Mode: "pooled", Sold: next.sold, Restored: next.restored, ReceivedAt: s.level.ReceivedAt, OldestReceivedAt: s.oldest, DecidedAt: w.now,
		}})
	}
	s.oldest = 0
}

// channelNumber is the number of a channel by its name, "channel-012".
func (w *world) channelNumber(name string) int {
	n := 0
	for _, c := range name[len("channel-"):] {
		n = n*10 + int(c-'0')
	}
	return n
}

// number is the number of a SKU by its name, "sku-012".
func (w *world) number(name string) int {
	n := 0
	for _, c := range name[len("sku-"):] {
		n = n*10 + int(c-'0')
	}
	return n
}

// crash takes a service down: all it had in memory is gone.
func (w *world) crash(v service) {
	w.down[v] = true
	w.res.Crashes++
	if v == allocator {
		w.allocatorDies()
	}
}

// back starts a service again, from what it had stored.
func (w *world) back(v service) {
	w.down[v] = false
	switch v {
	case projector:
		w.projectorReturns()
	case allocator:
		w.allocatorReturns()
	case pusher:
		w.pushersReturn()
	}
}

// planCrash finds the next crash of the allocator: its stored state is of interest only when one is near.
func (w *world) planCrash() {
	at := int64(1 << 62)
	for _, c := range w.sc.crashes[allocator] {
		if c.from > w.now {
			at = min(at, c.from)
		}
	}
	for p := range w.parts {
		w.parts[p].alloc.crashAt = at
	}
	if at < 1<<62 {
		w.add(happening{at: max(w.now, at-minute), kind: crashNears})
	}
}

// crashNears stores all books: from here to the crash they are stored as the service stores them.
func (w *world) crashNears() {
	for p := range w.parts {
		a := &w.parts[p].alloc
		for i := range a.skus {
			if s := &a.skus[i]; s.known {
				s.store()
			}
		}
	}
}

// allocatorDies has the allocator fall back to what it had stored. Half the time it dies in a turn, and nothing of that turn is stored.
func (w *world) allocatorDies() {
	for p := range w.parts {
		pt := &w.parts[p]
		a := &pt.alloc
		a.touch, a.ticks = a.touch[:0], 0
		for i := range a.skus {
			s := &a.skus[i]
			if !s.hasStore {
				s.books = &escrow.SKU{ID: w.skuNames[i]}
			} else {
				s.books = escrow.Restore(&s.stored)
			}
			clear(s.seen)
			if s.hasStore && w.mode != Pooled {
				for j := range s.stored.Channels {
					c := &s.stored.Channels[j]
					s.seen[w.channelNumber(c.Channel)] = counts{int64(c.Sold), int64(c.Restored)}
				}
			}
			s.lost, s.debt, s.ahead = s.storedOwes[0], s.storedOwes[1], s.storedOwes[2]
			s.hasStore, s.stored, s.known, s.touched, s.wake = false, escrow.Snapshot{}, false, false, 0
		}
		clear(a.delays)
		clear(a.in.Delays)
		clear(a.in.Marks)
	}
}

// allocatorReturns reads the topics from their start: of each SKU the newest level, of each channel the newest watermark.
func (w *world) allocatorReturns() {
	w.planCrash()
	for p := range w.parts {
		pt := &w.parts[p]
		a := &pt.alloc
		for _, l := range pt.newest {
			if l != nil {
				w.takeLevel(p, l)
			}
		}
		pt.marks = pt.marks[:0]
		a.marked = 0
		for ch := range pt.newestMk {
			if m := &pt.newestMk[ch]; m.until > 0 {
				pt.marks = append(pt.marks, *m)
			}
		}
		w.wakeAllocator(p)
	}
}

// delays measures a channel: how long a sale takes to become a level, and a write to be acknowledged.
type delays struct {
	events, writes [64]int64
	nEvent, nWrite int
}

func (d *delays) event(took int64) {
	d.events[d.nEvent%len(d.events)] = max(took, 1)
	d.nEvent++
}

func (d *delays) write(took int64) {
	d.writes[d.nWrite%len(d.writes)] = max(took, 1)
	d.nWrite++
}

// measured is the 95th percentile of the newest of both.
func (d *delays) measured() escrow.Delay {
	return escrow.Delay{Event: p95(&d.events, d.nEvent), Write: p95(&d.writes, d.nWrite)}
}

func p95(of *[64]int64, n int) int64 {
	n = min(n, len(of))
	if n < 8 {
		return 0
	}
	x := *of
	slices.Sort(x[:n])
	return x[n*95/100]
}

// alert counts what a person would be told.
func (w *world) alert(i int, al *escrow.Alert) {
	w.res.Alerts++
	if al.Kind == escrow.Breach {
		w.res.Breaches++
	}
	if len(w.alerts) < 20 {
		w.alerts = append(w.alerts, "")
	}
	copy(w.alerts[1:], w.alerts)
	w.alerts[0] = fmt.Sprintf("%.6f s %s %s: %s", float64(w.now-begin)/1e6, w.skuNames[i], al.Kind, al.Message)
}
