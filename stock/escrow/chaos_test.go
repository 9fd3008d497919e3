package escrow_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// A chaos is a SKU, its channels, a ledger that coalesces, and a caller that crashes, with everything happening in any order.
type chaos struct {
	rnd    *rand.Rand
	now    int64 // microseconds
	stores []*store
	ledger struct {
		onHand    []units // by place; sales are deducted
		version   int64
		emitted   int64 // version of the last level
		earliest  map[string]int64
		sold      map[string]units
		restored  map[string]units
		last      escrow.Level
		available []allocation.Stock // of the last level
	}
	layout   *allocation.Layout
	scopes   [][]int // places by channel
	rules    allocation.Rules
	terms    int64
	d        escrow.Decider
	sku      *escrow.SKU
	kept     escrow.Snapshot
	undone   []escrow.Result // taken in since the snapshot was stored
	skew     int64
	alerts   map[escrow.AlertKind]int
	broken   bool // an assumption was broken
	promised bool // all is exposed within what there is
	steps    []string
	trace    bool
	wakes    int64
	grants   int
	sales    units
	multi    bool
	backs    bool // channels put cancelled units back on sale by themselves
	lossy    bool
	counts   bool
}

// store is what really is at one channel.
type store struct {
	kind
	name     string
	skew     int64
	shown    map[string]units // by external id
	unseen   []sale
	told     units // sold and reported: can be cancelled
	restocks units // put back by the channel, unseen
	mark     int64
	external string
	listed   bool
	paused   bool
	grant    *escrow.Grant
	stage    int
	late     bool // given up on: it may still be applied
	result   escrow.Result
}

const (
	onItsWay = iota
	handled
	gone
)

func newChaos(rnd *rand.Rand, g allocation.Guarantee, ks []kind) *chaos {
	c := &chaos{rnd: rnd, now: 3_600_000_000, skew: 2_000_000, alerts: map[escrow.AlertKind]int{}, terms: 1}
	c.ledger.earliest, c.ledger.sold, c.ledger.restored = map[string]int64{}, map[string]units{}, map[string]units{}
	c.ledger.onHand = make([]units, 1+rnd.IntN(3))
	places := make([]allocation.Place, len(c.ledger.onHand))
	for i := range places {
		places[i].ID = fmt.Sprint("W", i)
		c.ledger.onHand[i] = units(rnd.IntN(12))
	}
	var sellers []allocation.Seller
	for i, k := range ks {
		s := &store{kind: k, name: fmt.Sprintf("ch%02d", i), external: "A", shown: map[string]units{"A": units(rnd.IntN(3))}, listed: true, mark: c.now}
		s.skew = rnd.Int64N(2*c.skew) - c.skew
		c.stores = append(c.stores, s)
		seller := allocation.Seller{ID: s.name}
		var scope []int
		for p := range places {
			if len(places) == 1 || rnd.IntN(3) > 0 {
				scope = append(scope, p)
				seller.Scope = append(seller.Scope, places[p].ID)
			}
		}
		if len(scope) == 0 {
			scope, seller.Scope = []int{0}, []string{"W0"}
		}
		c.scopes = append(c.scopes, scope)
		sellers = append(sellers, seller)
	}
	c.layout = allocation.NewLayout(sellers, places)
	c.rules = allocation.Rules{Guarantee: g, Share: allocation.Share(rnd.IntN(4)), Channels: make([]allocation.ChannelRules, len(ks))}
	c.sku = &escrow.SKU{ID: "A"}
	c.kept = c.sku.Snapshot()
	c.decide(false)
	return c
}

func (c *chaos) say(format string, args ...any) {
	if c.trace {
		c.steps = append(c.steps, fmt.Sprintf("%d ", c.now)+fmt.Sprintf(format, args...))
	}
}

// emit writes a level of the ledger's state; sometimes the next event's level covers it.
func (c *chaos) emit() {
	l := &c.ledger
	if l.version == l.emitted && l.version > 0 {
		return
	}
	if l.version == 0 {
		l.version = 1
	}
	x := escrow.Level{Version: l.version, Previous: l.emitted, At: c.now, Event: fmt.Sprint("e", l.version), Kind: event.StockAdjusted}
	l.available = l.available[:0]
	for p, n := range l.onHand {
		x.Available += n
		l.available = append(l.available, allocation.Stock{Place: p, ID: fmt.Sprint("W", p), Available: n})
	}
	for _, s := range c.stores {
		x.Counters = append(x.Counters, escrow.Counter{Channel: s.name, Sold: l.sold[s.name], Restored: l.restored[s.name], EarliestAt: l.earliest[s.name]})
	}
	clear(l.earliest)
	l.emitted = l.version
	l.last = x
	if !c.sku.Level(&x) {
		panic("the level is not taken in")
	}
	c.say("level %d: available %d %v", x.Version, x.Available, l.onHand)
}

func (c *chaos) changed() {
	c.ledger.version++
	if c.rnd.IntN(4) > 0 {
		c.emit()
	}
}

// decide is what the caller does: decide, then store the books and publish the grants in one transaction, which a crash may prevent.
func (c *chaos) decide(mayCrash bool) {
	c.emit()
	in := escrow.Input{Now: c.now, Version: c.terms, Layout: c.layout, Rules: &c.rules, Skew: c.skew, Stock: c.ledger.available}
	for i, s := range c.stores {
		in.APIs = append(in.APIs, s.api)
		in.Marks = append(in.Marks, s.mark)
		if s.listed {
			in.Offers = append(in.Offers, escrow.Offer{Seller: i, ExternalID: s.external, Paused: s.paused})
		}
	}
	out := c.d.Decide(c.sku, &in)
	c.wakes = out.Wake
	for _, a := range out.Alerts {
		c.alerts[a.Kind]++
		c.say("alert %v %s %d", a.Kind, a.Channel, a.Units)
	}
	if mayCrash && c.rnd.IntN(10) == 0 {
		c.say("crash before the books are stored; %d grants are lost", len(out.Grants))
		c.restart()
		return
	}
	if c.sku.Kept() {
		c.kept = c.sku.Snapshot()
		c.undone = c.undone[:0]
	} else if len(out.Grants) > 0 {
		panic("grants without the books being stored")
	}
	for _, g := range out.Grants {
		s := c.stores[g.Seller]
		if s.grant != nil {
			panic(fmt.Sprintf("%s is granted %+v while %+v is open", s.name, g, *s.grant))
		}
		c.grants++
		s.grant, s.stage, s.late = &g, onItsWay, false
		c.say("granted %s %v %+v (%s) E %d share %d", g.Channel, g.Write.Operation, g.Write, g.Reason, g.Exposure, g.Target)
	}
}

func (c *chaos) restart() {
	c.sku = escrow.Restore(&c.kept)
	c.d = escrow.Decider{}
	c.sku.Level(&c.ledger.last)
	for i := range c.undone {
		c.sku.Result(&c.undone[i], c.skew)
	}
}

func (c *chaos) result(s *store, r escrow.Result) {
	c.say("result of %s: %+v", s.name, r)
	if c.rnd.IntN(8) == 0 {
		c.emit()
	}
	if !c.sku.Result(&r, c.skew) {
		panic(fmt.Sprintf("result %+v is not taken in", r))
	}
	c.undone = append(c.undone, r)
	if c.rnd.IntN(4) == 0 && c.sku.Result(&escrow.Result{ID: "of another write", Channel: s.name, Outcome: write.Applied}, c.skew) {
		panic("the result of another write was taken in")
	}
	if r.Outcome != write.Unknown || r.Settled {
		s.grant = nil
	}
}

// sell has a channel take an order.
func (c *chaos) sell(s *store) {
	for id, n := range s.shown {
		if n <= 0 {
			continue
		}
		k := units(1)
		if c.multi {
			k += units(c.rnd.IntN(int(min(n, 3))))
		}
		s.shown[id] -= k
		s.unseen = append(s.unseen, sale{at: c.now + s.skew, n: k})
		c.sales += k
		c.say("%s sells %d", s.name, k)
		return
	}
}

// report has the ledger hear of an order. The router serves it so that what others show can still be served: the promise of scopes is the router's too.
func (c *chaos) report(s *store, i int, at int) {
	x := s.unseen[i]
	s.unseen = slices.Delete(s.unseen, i, i+1)
	l := &c.ledger
	for range x.n {
		l.sold[s.name]++
		if p := c.route(at); p >= 0 {
			l.onHand[p]--
		} else {
			l.onHand[c.scopes[at][0]]--
		}
	}
	if e, ok := l.earliest[s.name]; !ok || x.at < e {
		l.earliest[s.name] = x.at
	}
	s.told += x.n
	c.say("sale of %s at %d is seen", s.name, x.at)
	c.changed()
}

// could is what each channel can still report.
func (s *store) could() units {
	var x units
	for _, n := range s.shown {
		x += max(0, n)
	}
	for _, u := range s.unseen {
		x += u.n
	}
	return x
}

// route finds a place for one unit of channel at, with what all can still report covered after it.
func (c *chaos) route(at int) int {
	for _, books := range []bool{true, false} {
		for _, p := range c.scopes[at] {
			if c.ledger.onHand[p] > 0 {
				c.ledger.onHand[p]--
				ok := c.feasible(books)
				c.ledger.onHand[p]++
				if ok {
					return p
				}
			}
		}
	}
	best := -1
	for _, p := range c.scopes[at] {
		if n := c.ledger.onHand[p]; n > 0 && (best < 0 || n > c.ledger.onHand[best]) {
			best = p
		}
	}
	return best
}

// feasible says whether what all channels can still report, or by the books might, can be served: for every set of channels what they need is in their
// places.
func (c *chaos) feasible(books bool) bool {
	for set := 1; set < 1<<len(c.stores); set++ {
		var need, have units
		places := 0
		for i, s := range c.stores {
			if set&(1<<i) != 0 {
				x := s.could() - s.restocks
				if v, ok := c.sku.View(s.name); ok && v.Known && books {
					x = max(x, v.Exposure-c.taken(s))
				}
				need += x
				for _, p := range c.scopes[i] {
					places |= 1 << p
				}
			}
		}
		for p, n := range c.ledger.onHand {
			if places&(1<<p) != 0 {
				have += max(0, n)
			}
		}
		if need > have {
			return false
		}
	}
	return true
}

// step lets one thing happen.
func (c *chaos) step() {
	c.now += c.rnd.Int64N(400_000)
	at := c.rnd.IntN(len(c.stores))
	s := c.stores[at]
	switch c.rnd.IntN(22) {
	case 0, 1, 2, 3:
		c.sell(s)
	case 4, 5, 6:
		if len(s.unseen) > 0 {
			c.report(s, c.rnd.IntN(len(s.unseen)), at)
		}
	case 7, 8: // the watermark passes, once all that is before it has been emitted
		c.emit()
		mark := c.now + s.skew - 1
		for _, u := range s.unseen {
			mark = min(mark, u.at-1)
		}
		s.mark = max(s.mark, mark)
		c.say("watermark of %s is %d", s.name, s.mark)
		c.decide(true)
	case 9:
		c.receive(at)
	case 10:
		if s.told > 0 { // cancelled, and back on the shelf
			s.told--
			c.ledger.onHand[c.scopes[at][0]]++
			c.say("%s cancels 1", s.name)
			c.changed()
		}
	case 11:
		switch {
		case s.restocks > 0:
			s.restocks--
			c.ledger.restored[s.name]++
			c.ledger.onHand[c.scopes[at][0]]++
			c.say("restock of %s is seen", s.name)
			c.changed()
		case s.told > 0 && s.listed && c.backs:
			if v, ok := c.sku.View(s.name); ok && v.ExternalID != s.external { // nothing comes back to a listing that has ended
				break
			}
			s.told--
			s.restocks++
			s.shown[s.external]++
			c.say("%s restocks 1", s.name)
		}
	case 12, 13, 14, 15:
		c.write(s)
	case 16:
		c.settings(s)
	case 17:
		if c.rnd.IntN(6) == 0 {
			c.say("crash")
			c.restart()
		}
	case 18:
		if c.counts && c.rnd.IntN(10) == 0 {
			p := c.rnd.IntN(len(c.ledger.onHand))
			c.ledger.onHand[p] -= units(1 + c.rnd.IntN(3))
			c.broken = true
			c.say("a count finds less: %v", c.ledger.onHand)
			c.changed()
		}
	default:
		c.decide(true)
	}
}

func (c *chaos) receive(at int) {
	if c.rnd.IntN(8) == 0 {
		c.ledger.onHand[c.scopes[at][0]] += units(1 + c.rnd.IntN(4))
		c.say("receipt: %v", c.ledger.onHand)
		c.changed()
	}
}

// settings change under way.
func (c *chaos) settings(s *store) {
	if c.rnd.IntN(6) > 0 {
		return
	}
	c.terms++
	at := slices.Index(c.stores, s)
	switch c.rnd.IntN(6) {
	case 0:
		s.paused = !s.paused
		c.say("%s paused %v", s.name, s.paused)
	case 1:
		if s.restocks > 0 && s.listed {
			break // what comes back to a listing as it ends is the withdrawal's to take off
		}
		s.listed = !s.listed
		c.say("%s listed %v", s.name, s.listed)
	case 2:
		if len(s.shown) < 3 && s.restocks == 0 {
			s.external = fmt.Sprint("B", c.terms)
			s.shown[s.external] = 0
			c.say("%s lists it as %s", s.name, s.external)
		}
	case 3:
		k := kinds[c.rnd.IntN(len(kinds))]
		if s.grant == nil {
			s.kind = k
			c.say("%s is another kind: %+v", s.name, k)
		}
	case 4:
		c.rules.Channels[at] = allocation.ChannelRules{Max: allocation.Setting{Set: c.rnd.IntN(2) == 0, Units: units(c.rnd.IntN(6))},
			Reserve: allocation.Setting{Set: c.rnd.IntN(2) == 0, Units: units(c.rnd.IntN(4))}, HideAt: allocation.Setting{Set: c.rnd.IntN(3) == 0, Units: 1}}
	case 5:
		c.rules.Share = allocation.Share(c.rnd.IntN(4))
	}
}

// write moves the write that is under way.
func (c *chaos) write(s *store) {
	g := s.grant
	if g == nil {
		return
	}
	chance := func(n int) bool { return c.lossy && c.rnd.IntN(n) == 0 }
	switch {
	case s.late: // unknown; it may be applied until it is settled
		switch {
		case s.stage == onItsWay && c.rnd.IntN(3) == 0:
			s.apply(c)
		case c.rnd.IntN(3) == 0:
			s.stage = gone
			r := escrow.Result{ID: g.ID, Channel: s.name, Outcome: write.Unknown, Settled: true, AckedAt: c.now}
			if s.api.Reads && c.rnd.IntN(4) > 0 {
				r.Shown, r.ShownKnown, r.ShownAt = s.shown[g.ExternalID], true, c.now
			}
			c.result(s, r)
		}
	case s.stage == onItsWay && chance(10):
		c.result(s, escrow.Result{ID: g.ID, Channel: s.name, Outcome: write.NotSent, AckedAt: c.now})
	case s.stage == onItsWay && chance(10):
		c.result(s, escrow.Result{ID: g.ID, Channel: s.name, Outcome: write.Refused, ErrorCode: "listing_blocked", AckedAt: c.now})
	case chance(10):
		s.late = true
		if s.stage == onItsWay && c.rnd.IntN(3) == 0 {
			s.stage = gone
		}
		c.result(s, escrow.Result{ID: g.ID, Channel: s.name, Outcome: write.Unknown})
	case s.stage == onItsWay:
		s.apply(c)
	case s.stage == handled:
		s.result.AckedAt = c.now
		c.result(s, s.result)
	}
}

func (s *store) apply(c *chaos) {
	g := s.grant
	s.stage = handled
	was := s.shown[g.ExternalID]
	r := escrow.Result{ID: g.ID, Channel: s.name, Outcome: write.Applied, ShownAt: c.now, Shown: was, ShownKnown: s.tells}
	switch g.Write.Operation {
	case write.Read:
		r.ShownKnown = true
	case write.CompareAndSet:
		if was != g.Write.Expected {
			r.Outcome, r.ErrorCode = write.Refused, escrow.Stale
		} else {
			s.shown[g.ExternalID], r.Shown = g.Write.Quantity, g.Write.Quantity
		}
	case write.Delta:
		now := was + g.Write.Delta
		if s.clamps {
			now = max(0, now)
		}
		s.shown[g.ExternalID], r.Shown = now, now
	default:
		s.shown[g.ExternalID], r.Shown = g.Write.Quantity, g.Write.Quantity
	}
	c.say("%s handles %v: shows %d", s.name, g.Write.Operation, s.shown[g.ExternalID])
	s.result = r
}

// violation names a promise that does not hold.
func (c *chaos) violation() string {
	var could, restocks units
	known := true
	for _, s := range c.stores {
		x := s.could()
		could += x
		restocks += s.restocks
		v, ok := c.sku.View(s.name)
		switch {
		case ok && v.Known:
			for id, n := range s.shown { // of a listing that has not been taken in yet nothing is promised
				if id != v.ExternalID {
					x -= max(0, n)
				}
			}
			if v.Exposure+s.restocks+c.untold(s) < x {
				return fmt.Sprintf("%s could still report %d and its exposure is %d", s.name, x, v.Exposure)
			}
		case x > 0:
			known = false
		}
	}
	if c.sku.Phase() != escrow.Strict || !known || !c.sku.Guarded() {
		c.promised = false // nothing is, while a channel is being taken in
		return ""
	}
	if restocks > 0 || c.broken {
		return ""
	}
	if !c.promised { // it may have been sold beyond what there is before
		c.promised = c.feasible(true) && slices.Min(c.ledger.onHand) >= 0
		return ""
	}
	if !c.feasible(false) {
		return fmt.Sprintf("channels could still report %d of %v", could, c.ledger.onHand)
	}
	return ""
}

// taken is what s sold that is on no level yet.
func (c *chaos) taken(s *store) units {
	for _, n := range c.ledger.last.Counters {
		if n.Channel == s.name {
			return c.ledger.sold[s.name] - n.Sold
		}
	}
	return 0
}

// untold is what s put back that no level carries yet.
func (c *chaos) untold(s *store) units {
	for _, n := range c.ledger.last.Counters {
		if n.Channel == s.name {
			return c.ledger.restored[s.name] - n.Restored
		}
	}
	return 0
}

// quiesce has everybody stop, all that is under way arrive, and the books come to rest.
func (c *chaos) quiesce() {
	c.lossy = false
	for range 400 {
		c.now += 2_000_000
		for at, s := range c.stores {
			for len(s.unseen) > 0 {
				c.report(s, 0, at)
			}
			for ; s.restocks > 0; s.restocks-- {
				c.ledger.restored[s.name]++
				c.ledger.onHand[c.scopes[at][0]]++
				c.changed()
			}
			c.write(s)
			c.emit()
			s.mark = max(s.mark, c.now+s.skew-1)
		}
		c.decide(false)
	}
}

func (c *chaos) run(steps int) string {
	for range steps {
		c.step()
		if v := c.violation(); v != "" {
			return v
		}
	}
	return ""
}

// hoarded says that an absolute channel holds more than its share: it is not taken off sale for a little.
func (c *chaos) hoarded() bool {
	for _, s := range c.stores {
		if v, ok := c.sku.View(s.name); ok && s.api.Operation == write.Absolute && v.Exposure > v.Share {
			return true
		}
	}
	return false
}

func TestNoInterleavingSellsAUnitTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newChaos(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), allocation.Strict, rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 4).Draw(t, "kinds"))
		c.trace = true
		c.multi, c.backs, c.lossy, c.counts = rapid.Bool().Draw(t, "multi"), rapid.Bool().Draw(t, "backs"), rapid.Bool().Draw(t, "lossy"), rapid.Bool().Draw(t, "counts")
		if v := c.run(rapid.IntRange(1, 400).Draw(t, "steps")); v != "" {
			for _, s := range c.steps {
				t.Log(s)
			}
			t.Fatal(v)
		}
	})
}

// TestNoRoomLeaks has everything come to rest, and then expects each channel to show its share, and nothing that the books do not know.
func TestNoRoomLeaks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newChaos(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), allocation.Strict, rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 4).Draw(t, "kinds"))
		c.trace = true
		c.multi, c.backs, c.lossy, c.counts = rapid.Bool().Draw(t, "multi"), rapid.Bool().Draw(t, "backs"), rapid.Bool().Draw(t, "lossy"), rapid.Bool().Draw(t, "counts")
		c.run(rapid.IntRange(1, 300).Draw(t, "steps"))
		c.say("quiesce")
		c.quiesce()
		for _, s := range c.stores {
			v, ok := c.sku.View(s.name)
			bad := ""
			var shown units
			for _, n := range s.shown {
				shown += max(0, n)
			}
			switch {
			case !s.listed:
				if ok || shown > 0 {
					bad = "is not listed"
				}
			case !ok, !v.Known:
				bad = "is not in the books"
			case v.OpenWrite != "":
				bad = "has an open write"
			case shown > v.Exposure || v.Exposure-shown > v.Share/2 || shown != v.Exposure && s.api.Reads:
				bad = "shows something else than it is exposed to"
			case c.hoarded():
			case shown < v.Share/4, shown == 0 && v.Share > 0: // no write for a small difference; an absolute raise needs its whole quantity of room
				bad = "does not show its share"
			}
			if bad != "" {
				for _, x := range c.steps {
					t.Log(x)
				}
				t.Fatalf("%s %s: shows %v, listed as %s %v; %+v; on hand %v", s.name, bad, s.shown, s.external, s.listed, v, c.ledger.onHand)
			}
		}
	})
}
