package simulation

import (
	"fmt"
	"strconv"

	"github.com/onhand/onhand/stock/event"
)

// What can happen.
const (
	buyerComes       uint8 = iota
	orderCancelled         // b: change index at channel c
	goodsReturned          // a: want, b: units
	shelfMoves             // a: move
	moveHeard              // a: move, b: quantity
	webhookArrives         // a: change, c: channel
	sweepReads             // c: channel
	sweepEnds              // c: channel
	returnHeard            // a: want, b: units
	requestAgain           // a: request
	projectorTurn          // c: partition
	allocatorTurn          //
	allocatorTick          //
	targetsVisible         // a: lot, c: partition
	resultsVisible         // c: partition
	pusherLooks            // c: channel; b: low bits of the moment
	requestApplies         // a: request
	requestEnds            // a: request
	serviceCrashes         // a: index, c: service
	serviceReturns         // a: index, c: service
	crashNears             // of the allocator
	pollReads              //
	pollWrites             //
	claimAsked             // a: want, b: units, c: attempt
	claimAnswered          // a: want, b: units granted and available, c: attempt
	claimReturned          // a: want, b: units
	allotmentWritten       // a: change
)

// happenings is their names.
var happenings = [...]string{
	"buyer comes", "order cancelled", "goods returned", "shelf moves", "move heard", "webhook arrives", "sweep reads", "sweep ends", "return heard", "request again", "projector turn", "allocator turn", "allocator tick", "targets visible", "results visible", "pusher looks", "request applies", "request ends", "service crashes", "service returns", "crash nears", "poll reads", "poll writes", "claim asked", "claim answered", "claim returned", "allotment written",
}

// world is one seed in one mode.
type world struct {
	cfg  *Config
	mode Mode
	sc   *scenario
	now  int64
	agenda
	r *source // everything of Onhand's own that takes time

	markets  []market
	shelf    []int64 // by SKU: truly there, not shipped, committed or not
	left     []int64 // by SKU: shelf less what is sold: what can still be kept of promises
	oversold []int64 // by SKU: units sold while nothing was left
	byCounts []int64 // by SKU: of these, units that were short by no more than counts had found missing
	kept     []int64 // by SKU: units sold and not cancelled
	lost     []int64 // by SKU: units that counts found missing
	moved    []int32 // by move: units that it came to
	known    []uint8 // by want: what the ledger has of it
	skuNames []string
	names    []string // of channels, then of those that stand for bundles
	nextWant int
	parts    []part
	alloc    allocating
	accounts []account // by SKU
	down     [services]bool
	pushing  []pushing
	requests []*request
	free     []int32
	poll     *poller
	changes  []event.Event // of allotments

	res    Result
	hash   uint64
	tail   [64]happening // the last that happened
	seen   uint64
	alerts []string // newest first
	err    error
}

// trace takes something into the trace hash.
func (w *world) trace(a, b, c uint64) {
	h := w.hash
	h = (h ^ a) * 0x9E3779B185EBCA87
	h ^= h >> 29
	h = (h ^ b) * 0xC2B2AE3D27D4EB4F
	h ^= h >> 32
	h = (h ^ c) * 0x165667B19E3779F9
	h ^= h >> 31
	w.hash = h
}

func newWorld(c *Config, sc *scenario, m Mode) (*world, error) {
	w := &world{
		cfg: c, mode: m, sc: sc, now: begin, r: newSource(sc.seed, 50), markets: make([]market, len(sc.shops)),
		shelf: make([]int64, len(sc.lines)), left: make([]int64, len(sc.lines)), oversold: make([]int64, len(sc.lines)), byCounts: make([]int64, len(sc.lines)), kept: make([]int64, len(sc.lines)), lost: make([]int64, len(sc.lines)),
		res: newResult(m),
	}
	w.moved, w.known = make([]int32, len(sc.moves)), make([]uint8, len(sc.wants))
	for i := range w.markets {
		w.markets[i] = market{shop: &sc.shops[i], r: newSource(sc.seed, 100+uint64(i)), cells: make([]cell, len(sc.lines)), until: begin}
		w.names = append(w.names, "channel-"+pad(i))
	}
	for i := range sc.kits {
		w.names = append(w.names, event.BundleChannel("sku-"+pad(int(sc.kits[i].sku))))
	}
	for i := range sc.lines {
		w.skuNames = append(w.skuNames, "sku-"+pad(i))
		w.shelf[i], w.left[i] = sc.lines[i].stock, sc.lines[i].stock
	}
	if len(sc.wants) > 0 {
		w.add(happening{at: sc.wants[0].at, kind: buyerComes})
	}
	for i := range sc.moves {
		w.add(happening{at: sc.moves[i].at, kind: shelfMoves, a: int32(i)})
	}
	if m == Polling {
		w.poll = newPoller(w)
		return w, nil
	}
	if err := w.buildOnhand(); err != nil {
		return nil, err
	}
	for i := range w.markets {
		w.add(happening{at: begin + w.r.below(w.markets[i].sweep), kind: sweepReads, c: uint16(i)})
	}
	for v := range services {
		for i, s := range sc.crashes[v] {
			w.add(happening{at: s.from, kind: serviceCrashes, a: int32(i), c: uint16(v)})
			w.add(happening{at: s.to, kind: serviceReturns, a: int32(i), c: uint16(v)})
		}
	}
	return w, nil
}

func pad(i int) string {
	s := strconv.Itoa(i)
	for len(s) < 3 {
		s = "0" + s
	}
	return s
}

// run lets the world happen until its end.
func (w *world) run() error {
	for len(w.heap) > 0 && w.err == nil {
		h := w.next()
		if h.at >= w.sc.end {
			break
		}
		w.now = h.at
		w.trace(uint64(h.at), uint64(h.kind)<<56|uint64(h.c)<<32|uint64(uint32(h.a)), uint64(uint32(h.b)))
		w.tail[w.seen%uint64(len(w.tail))] = h
		w.seen++
		w.happen(&h)
	}
	if w.err != nil {
		return w.err
	}
	w.finish()
	return nil
}

func (w *world) happen(h *happening) {
	switch h.kind {
	case buyerComes:
		w.buyer()
	case orderCancelled:
		w.cancel(int(h.c), int(h.a), h.b)
	case goodsReturned:
		w.goodsBack(int(h.a), h.b)
	case shelfMoves:
		w.shelfMoves(int(h.a))
	case moveHeard:
		w.moveHeard(int(h.a), h.b)
	case webhookArrives:
		w.webhook(int(h.c), int(h.a))
	case sweepReads:
		w.sweepReads(int(h.c))
	case sweepEnds:
		w.sweepEnds(int(h.c))
	case returnHeard:
		x := &w.sc.wants[h.a]
		w.append(logged{kind: event.ReturnReceived, sku: x.sku, ref: h.a, units: h.b, occurred: x.at + x.returnAfter})
	case requestAgain:
		rq := w.requests[h.a]
		w.requests[h.a], w.free = nil, append(w.free, h.a)
		w.send(rq)
	case projectorTurn:
		w.project(int(h.c))
	case allocatorTurn:
		w.allocate()
	case allocatorTick:
		w.ticks()
	case targetsVisible:
		w.targetsVisible(int(h.c), int(h.a))
	case resultsVisible:
		w.resultsVisible(int(h.c))
	case pusherLooks:
		w.look(int(h.c))
	case requestApplies:
		w.applies(h.a)
	case requestEnds:
		w.ends(h.a)
	case serviceCrashes:
		w.crash(service(h.c))
	case serviceReturns:
		w.back(service(h.c))
	case crashNears:
		w.crashNears()
	case claimAsked:
		w.claimAsked(h.a, h.b, uint8(h.c))
	case claimAnswered:
		w.claimAnswered(h.a, h.b>>16, h.b&0xFFFF, uint8(h.c))
	case claimReturned:
		w.claimReturned(h.a, h.b)
	case allotmentWritten:
		w.allotmentWritten(int(h.a))
	case pollReads:
		w.poll.reads()
	case pollWrites:
		w.poll.writes()
	}
}

// buyer is someone who wants to buy at a channel: it sells what it shows, and nothing else.
func (w *world) buyer() {
	i := w.nextWant
	x := &w.sc.wants[i]
	w.nextWant++
	if w.nextWant < len(w.sc.wants) {
		w.add(happening{at: w.sc.wants[w.nextWant].at, kind: buyerComes})
	}
	w.res.Demand++
	w.res.DemandUnits += int64(x.units)
	if w.claims(int(x.channel)) {
		w.ask(int32(i), 0, int32(x.units))
		return
	}
	m := &w.markets[x.channel]
	c := &m.cells[x.sku]
	units := int32(x.units)
	if c.shown < units {
		if !x.fewer || c.shown <= 0 {
			w.res.LostSales++
			w.res.LostUnits += int64(units)
			return
		}
		w.res.LostUnits += int64(units - c.shown)
		units = c.shown
	}
	c.shown -= units
	w.take(int(x.channel), int32(i), units, 0)
}

// take is a channel taking a buyer's order. claimed is how often it asked for the units, 0 when it did not.
func (w *world) take(ch int, i, units int32, claimed uint8) {
	x := &w.sc.wants[i]
	m := &w.markets[ch]
	m.cells[x.sku].sold += units
	w.res.Orders++
	w.res.Units += int64(units)
	w.kept[x.sku] += int64(units)
	if w.sc.kitOf(x.sku) >= 0 {
		w.res.Bundles += int64(units)
	}
	for _, p := range w.sc.makes[x.sku] {
		takes := int64(units) * int64(p.units)
		if left := w.left[p.sku]; left < takes {
			over := takes - max(0, left)
			w.oversold[p.sku] += over
			w.byCounts[p.sku] += min(over, max(0, w.lost[p.sku]-max(0, -left))) // it would have been there
			w.trace(0xEE, uint64(i), uint64(units))
		}
		w.left[p.sku] -= takes
	}
	w.told(ch, change{at: m.clock(w.now), want: i, units: units, claimed: claimed})
	if x.cancelAfter > 0 {
		w.add(happening{at: w.now + x.cancelAfter, kind: orderCancelled, a: i, b: units, c: x.channel})
	} else if x.returnAfter > 0 {
		w.add(happening{at: w.now + x.returnAfter, kind: goodsReturned, a: i, b: units})
	}
	w.verifySold(x.sku)
}

// told has a channel list a change, and send a webhook for it: once, twice or never.
func (w *world) told(ch int, c change) {
	m := &w.markets[ch]
	m.changes = append(m.changes, c)
	if w.mode == Polling {
		return
	}
	at := int32(len(m.changes) - 1)
	if !m.r.chance(m.lost) {
		w.add(happening{at: w.now + m.r.skewed(m.webhook, 256), kind: webhookArrives, a: at, c: uint16(ch)})
	}
	if m.r.chance(m.doubled) {
		w.add(happening{at: w.now + m.r.skewed(3*m.webhook, 384), kind: webhookArrives, a: at, c: uint16(ch)})
	}
}

func (w *world) cancel(ch, want int, units int32) {
	x := &w.sc.wants[want]
	m := &w.markets[ch]
	w.sc.add(w.left, x.sku, int64(units))
	w.res.CancelledUnits += int64(units)
	w.kept[x.sku] -= int64(units)
	if m.restocks {
		m.cells[x.sku].shown += units
		m.cells[x.sku].restored += units
	}
	w.told(ch, change{at: m.clock(w.now), want: int32(want), units: units, cancelled: true})
	w.verifySold(x.sku)
}

func (w *world) goodsBack(want int, units int32) {
	x := &w.sc.wants[want]
	w.sc.add(w.shelf, x.sku, int64(units))
	w.sc.add(w.left, x.sku, int64(units))
	w.append(logged{kind: event.ReturnReceived, sku: x.sku, ref: int32(want), units: units, occurred: w.now})
}

func (w *world) shelfMoves(i int) {
	v := &w.sc.moves[i]
	units := int64(v.units)
	if v.count {
		if w.cfg.noLosses {
			units = max(units, 0)
		}
		units = max(units, -w.shelf[v.sku])
		w.lost[v.sku] += max(0, -units)
	}
	w.moved[i] = int32(units)
	w.shelf[v.sku] += units
	w.left[v.sku] += units
	quantity := units
	if v.count {
		quantity = w.shelf[v.sku]
	}
	w.add(happening{at: max(w.now, v.heard), kind: moveHeard, a: int32(i), b: int32(quantity)})
}

func (w *world) moveHeard(i int, quantity int32) {
	v := &w.sc.moves[i]
	k := event.ReceiptReceived
	if v.count {
		k = event.StockCounted
	}
	w.append(logged{kind: k, sku: v.sku, ref: int32(i), units: quantity, occurred: v.at})
}

// finish closes the books of the world.
func (w *world) finish() {
	for i := range w.oversold {
		w.res.OversoldUnits += w.oversold[i] - w.byCounts[i]
		w.res.OversoldByCounts += w.byCounts[i]
		n := &w.res.natures[w.sc.lines[i].nature]
		n.sold += w.kept[i] - w.oversold[i]
		n.ideal += w.sc.ideal[i]
	}
	w.res.hash = w.hash
	w.res.Happenings = w.seen
}

// fail stops the world.
func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = &BrokenError{Seed: w.sc.seed, Mode: w.mode, At: w.now - begin, What: fmt.Sprintf(format, args...), Tail: w.trail()}
	}
}
