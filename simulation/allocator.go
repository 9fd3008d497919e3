package simulation

import (
	"fmt"
	"strconv"

	"github.com/onhand/onhand/services/channel-pusher/queue"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/stock/write"
)

// lot is the targets of one turn of the allocator in one partition, on their way to the topics.
type lot struct{ targets []posting }

type posting struct {
	channel, sku uint16
	target       allocation.Target
}

// report is a result on its way to channel.writes.
type report struct {
	result write.Result
	sku    int
}

// allocating is the allocator: what production decides with, and what is due.
type allocating struct {
	plan    *catalog.Plan
	engine  *targeting.Engine
	parts   []*targeting.Partition
	due     bool  // a turn is
	tick    int64 // the moment of the tick that is due; 0 is none
	lots    []*lot
	spare   []*lot
	turn    []*lot       // by partition: of the turn under way
	touched []int        // SKUs that the turn took something in of
	crashAt int64        // the next crash
	written []bookRecord // books of components that were written and not read
}

// account is what the checks know of a SKU's books, and the books as they are stored.
type account struct {
	seen       []counts // by channel, those that stand for bundles too: what the books have taken in
	ahead      int64    // units of cancellations that came before their sales, as of the level taken in
	lost       int64    // units that counts took, as of the level taken in
	debt       int64    // exposed beyond what is available, since a count took it
	phase      escrow.Phase
	touched    bool
	stored     escrow.Snapshot // as exposure.books has it, when a crash is near
	hasStore   bool
	storedOwes [3]int64
}

// counts is cumulative sales of a SKU at a channel.
type counts struct{ sold, restored int64 }

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
	}
	w.accounts = make([]account, len(w.skuNames))
	for i := range w.accounts {
		w.accounts[i].seen = make([]counts, len(w.names))
	}
	w.alloc.plan = catalog.Compile(s)
	w.alloc.turn = make([]*lot, len(w.parts))
	w.newEngine()
	w.followed()
	for _, p := range w.alloc.parts {
		w.alloc.engine.Start(p)
	}
	w.planCrash()
	for ch := range w.pushing {
		p := &w.pushing[ch]
		p.topic, p.next, p.stored, p.parts = make([]posted, len(w.skuNames)), make([]int64, len(w.parts)), make([]int64, len(w.parts)), make([]*queue.Partition, len(w.parts))
		p.doubts = make([][]queue.Doubt, len(w.parts))
		for i := range p.stored {
			p.stored[i] = -1
		}
		w.newQueue(ch)
	}
	w.stockUp()
	return nil
}

// newEngine has an allocator that knows the settings, and nothing else. Every channel lists every SKU.
func (w *world) newEngine() {
	a := &w.alloc
	a.engine = targeting.New(w.listing, escrow.DefaultSkew)
	a.parts = a.parts[:0]
	for p := range w.parts {
		a.parts = append(a.parts, a.engine.Partition(int32(p)))
	}
	a.engine.Settings(a.plan)
	w.knowBundles(a.engine)
}

// books is the books of a SKU; nil before the allocator knows it.
func (w *world) books(i int) *escrow.SKU {
	if s := w.alloc.parts[i%len(w.parts)].SKU(w.skuNames[i]); s != nil {
		return s.Books()
	}
	return nil
}

// setting is a channel as the brand would set it up.
func (w *world) setting(i int) *catalog.Channel {
	m := &w.markets[i]
	if m.kind == claiming {
		return &catalog.Channel{ID: w.names[i], Adapter: catalog.Claim, ListsAllSKUs: true}
	}
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

func (w *world) wakeAllocator() {
	a := &w.alloc
	if a.due || w.down[allocator] {
		return
	}
	a.due = true
	w.add(happening{at: w.now + 2*millisecond + w.r.wait(6*millisecond), kind: allocatorTurn})
}

// allocate is a turn of the allocator: all that is there is taken in, and what follows from it is written, or nothing of either.
func (w *world) allocate() {
	a := &w.alloc
	a.due = false
	if w.down[allocator] {
		return
	}
	a.engine.Begin(w.now)
	w.readBooks()
	for p := range w.parts {
		pt := &w.parts[p]
		w.takeLevels(p)
		for i := range pt.writes {
			w.takeResult(p, &pt.writes[i])
		}
		pt.writes = pt.writes[:0]
		w.takeMarks(p, pt.marks)
		pt.marks = pt.marks[:0]
		a.engine.Read(a.parts[p], pt.read)
	}
	for _, e := range a.engine.Again() {
		w.allots(e)
	}
	out, _ := a.engine.Decide(w.now, 1<<30)
	for i := range out {
		d := &out[i]
		if d.Allots != nil {
			w.allots(d.Allots)
		}
		d.Target.Explanation = nil // it is not kept
		sku := w.number(d.Target.SKU)
		w.touch(sku)
		p := sku % len(w.parts)
		if a.turn[p] == nil {
			a.turn[p] = a.take()
		}
		a.turn[p].targets = append(a.turn[p].targets, posting{uint16(w.channelNumber(d.Target.Channel)), uint16(sku), d.Target})
	}
	for _, e := range a.engine.Events() {
		w.allots(e)
	}
	alerts := a.engine.Alerts()
	for i := range alerts {
		w.alert(alerts[i].SKU, &alerts[i].Alert)
	}
	for _, s := range a.engine.Kept() {
		i := w.number(s.ID())
		w.touch(i)
		if a.crashAt-w.now < minute {
			w.keep(i)
		}
		w.storeBooks(i)
	}
	for _, i := range a.touched {
		x := &w.accounts[i]
		x.touched = false
		if now := w.books(i).Phase(); now != x.phase {
			x.phase = now
			w.res.Phases++
		}
		w.verifyBooks(i)
	}
	a.touched = a.touched[:0]
	if len(a.written) > 0 {
		w.wakeAllocator()
	}
	w.plan()
	for p, l := range a.turn {
		if l != nil {
			w.publish(p, l)
			a.turn[p] = nil
		}
	}
}

// touch notes that the turn did something to a SKU.
func (w *world) touch(i int) {
	if x := &w.accounts[i]; !x.touched {
		x.touched = true
		w.alloc.touched = append(w.alloc.touched, i)
	}
}

// plan has the allocator look again when some SKU needs it.
func (w *world) plan() {
	a := &w.alloc
	at := a.engine.NextWake()
	if at == 0 {
		return
	}
	at = max(at, w.now+millisecond)
	if a.tick > w.now && a.tick <= at {
		return
	}
	a.tick = at
	w.add(happening{at: at, kind: allocatorTick})
}

func (w *world) ticks() {
	if w.alloc.tick == w.now && !w.down[allocator] {
		w.allocate()
	}
}

// takeLevels takes in the levels that have not been read.
func (w *world) takeLevels(p int) {
	pt := &w.parts[p]
	for ; pt.read < pt.levelBase+int64(len(pt.levels)); pt.read++ {
		w.takeLevel(p, pt.levels[pt.read-pt.levelBase])
	}
	pt.compact(pt.read)
	w.alloc.engine.Read(w.alloc.parts[p], pt.read)
}

// takeLevel takes in a level.
func (w *world) takeLevel(p int, e *emitted) {
	l := &e.Level
	if !w.alloc.engine.Level(w.alloc.parts[p], l) {
		return
	}
	if w.alloc.engine.Follows(l.SKU) {
		w.alloc.engine.ComponentLevel(l.SKU, w.componentLevel(l))
	}
	i := w.number(l.SKU)
	x := &w.accounts[i]
	w.touch(i)
	took := e.lost - x.lost
	x.lost, x.ahead = e.lost, e.ahead
	w.owes(i, took)
	for j := range l.Sold {
		x.seen[w.channelNumber(l.Sold[j].Channel)].sold = int64(l.Sold[j].Units)
	}
	for j := range l.Restored {
		x.seen[w.channelNumber(l.Restored[j].Channel)].restored = int64(l.Restored[j].Units)
	}
}

// takeResult takes in what became of a write.
func (w *world) takeResult(p int, r *report) {
	if !w.alloc.engine.Result(w.alloc.parts[p], &r.result) {
		return
	}
	w.touch(r.sku)
	w.owes(r.sku, 0)
	if w.cfg.trustAcks && r.result.AckedAt > 0 {
		w.alloc.engine.Watermark(w.alloc.parts[p], &order.Watermark{Channel: r.result.Channel, Until: r.result.AckedAt + escrow.DefaultSkew})
	}
}

func (w *world) takeMarks(p int, marks []mark) {
	for i := range marks {
		if m := &marks[i]; m.until > 0 {
			w.alloc.engine.Watermark(w.alloc.parts[p], &order.Watermark{Channel: w.names[m.channel], Until: m.until, LevelsOffset: m.levels})
		}
	}
}

// resultsVisible has the allocator read what is new in channel.writes.
func (w *world) resultsVisible(p int) {
	pt := &w.parts[p]
	pt.writes = append(pt.writes, pt.outbox...)
	pt.outbox = pt.outbox[:0]
	w.wakeAllocator()
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
	a := &w.alloc
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

// channelNumber is the number of a channel by its name, "channel-012".
func (w *world) channelNumber(name string) int {
	if n, ok := w.bundleChannel(name); ok {
		return n
	}
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
	w.alloc.crashAt = at
	if at < 1<<62 {
		w.add(happening{at: max(w.now, at-minute), kind: crashNears})
	}
}

// crashNears stores all books: from here to the crash they are stored as the service stores them.
func (w *world) crashNears() {
	for i := range w.accounts {
		if b := w.books(i); b != nil {
			w.keep(i)
		}
	}
}

// keep stores the books of a SKU as exposure.books has them.
func (w *world) keep(i int) {
	x, b := &w.accounts[i], w.books(i)
	if x.hasStore = b.Phase() != escrow.Pooled; x.hasStore {
		x.stored, x.storedOwes = b.Snapshot(), [3]int64{x.lost, x.debt, x.ahead}
	}
}

// allocatorDies has the allocator fall back to what it had stored. A turn is one transaction: one that is cut short was never there.
func (w *world) allocatorDies() {
	w.alloc.written = w.alloc.written[:0]
	w.newEngine()
	for i := range w.accounts {
		x := &w.accounts[i]
		clear(x.seen)
		x.lost, x.debt, x.ahead, x.phase = 0, 0, 0, escrow.Pooled
		if x.hasStore {
			for j := range x.stored.Channels {
				c := &x.stored.Channels[j]
				x.seen[w.channelNumber(c.Channel)] = counts{int64(c.Sold), int64(c.Restored)}
			}
			x.lost, x.debt, x.ahead, x.phase = x.storedOwes[0], x.storedOwes[1], x.storedOwes[2], x.stored.Phase
			w.alloc.engine.RestoreBooks(w.alloc.parts[i%len(w.parts)], &x.stored)
		}
		x.hasStore, x.stored = false, escrow.Snapshot{}
	}
	w.alloc.tick = 0
}

// allocatorReturns reads the topics from their start: of each channel and SKU the newest target, of each SKU the newest level, of each channel the newest watermark.
func (w *world) allocatorReturns() {
	w.planCrash()
	a := &w.alloc
	a.engine.Begin(w.now)
	for p := range w.parts {
		pt := &w.parts[p]
		for ch := range w.pushing {
			for s := p; s < len(w.skuNames); s += len(w.parts) {
				if t := &w.pushing[ch].topic[s]; t.known {
					a.engine.Restore(a.parts[p], &t.target)
				}
			}
		}
		for _, l := range pt.newest {
			if l != nil {
				w.takeLevel(p, l)
			}
		}
		w.takeLevels(p)
		w.takeMarks(p, pt.newestMk)
		pt.marks = pt.marks[:0]
		a.engine.Read(a.parts[p], pt.read)
		a.engine.Start(a.parts[p])
	}
	for i := range w.skuNames {
		w.storeBooks(i)
	}
	w.readBooks()
	w.followed()
	w.wakeAllocator()
}

// alert counts what a person would be told.
func (w *world) alert(sku string, al *escrow.Alert) {
	w.res.Alerts++
	if al.Kind == escrow.Breach {
		w.res.Breaches++
	}
	if len(w.alerts) < 20 {
		w.alerts = append(w.alerts, "")
	}
	copy(w.alerts[1:], w.alerts)
	w.alerts[0] = fmt.Sprintf("%.6f s %s %s: %s", float64(w.now-begin)/1e6, sku, al.Kind, al.Message)
}
