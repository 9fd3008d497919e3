package whatif

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// side is one set of settings, and the world under it.
type side struct {
	o        *Options
	settings Settings
	plan     *catalog.Plan
	folds    map[int32]*fold
	skus     map[string]*sku
	lost     map[line]struct{} // order lines whose sale was refused
	channels map[string]*Channel
	landings landings
	out      Result
	seq      int64

	divided map[*allocation.Rules]*allocation.Rules // rules of SKUs under books, as they are run here
	solver  allocation.Solver
	input   allocation.Input
	offers  []catalog.Offer
	stock   []allocation.Stock
	level   ledger.Level
}

type fold struct {
	*ledger.Partition
	since int
}

// line is an order line; a return may not say of which channel.
type line struct{ channel, order, id, sku string }

// sku is one SKU.
type sku struct {
	id     string
	fold   *fold
	unseen event.Units // sold, and the ledger does not know
	cells  []cell      // in order of seller
}

// cell is a SKU at a channel.
type cell struct {
	seller   int
	counts   *Channel
	target   event.Units
	shown    event.Units
	belief   event.Units // what Onhand believes is shown
	landed   int64       // when the newest write took effect
	open     bool        // a write is under way
	asked    event.Units // by it
	delta    event.Units
	absolute bool // how it is written
}

func newSide(o *Options, settings Settings) *side {
	return &side{
		o: o, settings: settings, plan: catalog.Compile(settings.Settings), folds: make(map[int32]*fold), skus: make(map[string]*sku), lost: make(map[line]struct{}),
		channels: make(map[string]*Channel), divided: make(map[*allocation.Rules]*allocation.Rules),
	}
}

func (s *side) fold(partition int32) *fold {
	f := s.folds[partition]
	if f == nil {
		f = &fold{Partition: ledger.New(s.o.Ledger)}
		s.folds[partition] = f
	}
	return f
}

func (f *fold) apply(e *event.Event, offset, at int64) ledger.Outcome {
	out := f.Apply(e, offset, at).Outcome
	if f.since++; f.since >= flushAfter {
		f.Flushed()
		f.since = 0
	}
	return out
}

// before folds an event from before the window.
func (s *side) before(partition int32, offset, at int64, e *event.Event) {
	s.fold(partition).apply(e, offset, at)
}

// channel is the figures of a channel.
func (s *side) channel(id string) *Channel {
	c := s.channels[id]
	if c == nil {
		c = &Channel{Channel: id, Unwritten: true}
		if i := s.plan.Layout.Seller(id); i >= 0 {
			c.Unwritten = !written(s.plan.Channels[i])
		}
		s.channels[id] = c
	}
	return c
}

// written says whether Onhand writes to a channel.
func written(c *catalog.Channel) bool {
	return !c.Paused && c.Operation != catalog.UnspecifiedOperation && c.Written()
}

// sku is a SKU as it stands; the first time it is asked for, nothing of the window has happened to it, and channels show its targets.
func (s *side) sku(x *entry) *sku {
	k := s.skus[x.SKU]
	if k != nil {
		return k
	}
	k = &sku{id: x.SKU, fold: s.fold(x.partition)}
	s.skus[x.SKU] = k
	switch s.plan.Rules(k.id, s.settings.Listings[k.id]).Guarantee {
	case allocation.Strict:
		s.out.Strict++
	case allocation.Adaptive:
		s.out.Adaptive++
	}
	s.solve(k)
	for i := range k.cells {
		c := &k.cells[i]
		c.shown, c.belief = c.target, c.target
	}
	return k
}

// cell is the SKU at a channel, or nil where it is not listed.
func (k *sku) cell(seller int) *cell {
	i, ok := slices.BinarySearchFunc(k.cells, seller, func(c cell, seller int) int { return cmp.Compare(c.seller, seller) })
	if !ok {
		return nil
	}
	return &k.cells[i]
}

// load reads the level of a SKU; false when there is none.
func (s *side) load(k *sku) bool {
	f := k.fold.SKU(k.id)
	if f == nil {
		return false
	}
	k.fold.Level(f, 0, &s.level)
	return true
}

// solve sets the targets of a SKU.
func (s *side) solve(k *sku) {
	if !s.load(k) {
		return
	}
	l, listing := &s.level, s.settings.Listings[k.id]
	s.offers = s.plan.Offers(s.offers[:0], k.id, listing)
	in := &s.input
	in.Layout, in.Rules, in.Unassigned = s.plan.Layout, s.rules(k.id, listing), l.Unassigned
	s.stock, in.Channels = s.stock[:0], in.Channels[:0]
	for i := range l.Locations {
		x := &l.Locations[i]
		s.stock = append(s.stock, allocation.Stock{Place: s.plan.Layout.Place(x.Location), ID: x.Location, Available: x.Available()})
	}
	in.Stock = s.stock
	for i := range s.offers {
		o := &s.offers[i]
		id := s.plan.Layout.SellerID(o.Channel)
		x := allocation.Listed{Seller: o.Channel, Paused: o.Paused, Margin: catalog.Margin(listing, id)}
		if in.Rules.Guarantee == allocation.Strict && in.Rules.Share == allocation.ByDemand {
			x.Weight = 1
			for j := range l.Sold {
				if l.Sold[j].Channel == id {
					x.Weight = min(l.Sold[j].Units+1, allocation.MaxWeight)
				}
			}
		}
		in.Channels = append(in.Channels, x)
	}
	s.solver.Solve(in)
	if len(k.cells) == 0 { // who lists a SKU does not change within the window
		for i := range s.offers {
			if seller := s.offers[i].Channel; written(s.plan.Channels[seller]) {
				k.cells = append(k.cells, cell{seller: seller, counts: s.channel(s.plan.Layout.SellerID(seller)), absolute: s.plan.Channels[seller].Operation == catalog.Absolute})
			}
		}
		slices.SortFunc(k.cells, func(a, b cell) int { return cmp.Compare(a.seller, b.seller) })
	}
	for i := range s.offers {
		if c := k.cell(s.offers[i].Channel); c != nil {
			c.target = s.solver.Target(i)
		}
	}
}

// rules is the settings in force for a SKU; strict ones divide by their share.
func (s *side) rules(id string, listing *catalog.Listing) *allocation.Rules {
	r := s.plan.Rules(id, listing)
	if r.Guarantee != allocation.Strict {
		return r
	}
	d := s.divided[r]
	if d == nil {
		x := *r
		x.Mode = r.Share.Mode()
		d = &x
		s.divided[r] = d
	}
	return d
}

// sell has a recorded sale happen.
func (s *side) sell(x *entry) {
	k := s.sku(x)
	n := s.channel(x.Channel)
	if x.ReservationID != "" { // its units are held for it: nothing is promised anew
		n.Sales++
		n.Units += x.Quantity
		if c := k.cell(s.plan.Layout.Seller(x.Channel)); c != nil {
			c.shown = max(0, c.shown-x.Quantity)
		}
		return
	}
	if !n.Unwritten {
		c := k.cell(s.plan.Layout.Seller(x.Channel))
		if c == nil || c.shown < x.Quantity {
			n.LostSales++
			n.Lost += x.Quantity
			s.lost[line{x.Channel, x.OrderID, x.LineID, x.SKU}], s.lost[line{"", x.OrderID, x.LineID, x.SKU}] = struct{}{}, struct{}{}
			return
		}
		c.shown -= x.Quantity
	}
	n.Sales++
	n.Units += x.Quantity
	there := -k.unseen
	if s.load(k) {
		there -= s.level.Unassigned
		for i := range s.level.Locations {
			l := &s.level.Locations[i]
			there += l.OnHand - l.Committed - l.Held
		}
	}
	if over := x.Quantity - max(0, there); over > 0 {
		n.OversoldSales++
		n.Oversold += over
	}
	k.unseen += x.Quantity
}

// see has the ledger apply an event, and writes what follows.
func (s *side) see(x *entry) {
	if s.follows(x) {
		if x.Kind != event.SaleRecorded { // which is counted as lost
			s.out.Skipped++
		}
		return
	}
	k := s.sku(x)
	var c *cell
	if x.Channel != "" {
		c = k.cell(s.plan.Layout.Seller(x.Channel))
	}
	switch {
	case x.Kind == event.SaleRecorded:
		if x.ReservationID == "" {
			k.unseen -= x.Quantity
		}
		if c != nil && !(c.absolute && x.sold <= c.landed) { // else a write has set the number since
			c.belief -= x.Quantity
		}
	case x.Kind == event.SaleCancelled && x.RestockedByChannel && c != nil:
		c.shown += x.Quantity
		c.belief += x.Quantity
	}
	if k.fold.apply(&x.Event, x.offset, x.at) != ledger.Applied {
		return
	}
	s.solve(k)
	for i := range k.cells {
		s.write(k, &k.cells[i], x.at)
	}
}

// follows says whether an event is of a lost sale.
func (s *side) follows(x *entry) bool {
	if x.OrderID == "" {
		return false
	}
	switch x.Kind {
	case event.SaleRecorded, event.SaleCancelled, event.SaleAssigned, event.SaleReassigned, event.ShipmentConfirmed, event.ReturnReceived:
		_, ok := s.lost[line{x.Channel, x.OrderID, x.LineID, x.SKU}]
		return ok
	}
	return false
}

// write sends the target of a cell when the channel is believed to show another number and no write is under way.
func (s *side) write(k *sku, c *cell, now int64) {
	if c.open || max(0, c.belief) == c.target {
		return
	}
	c.open, c.asked, c.delta = true, c.target, c.target-max(0, c.belief)
	c.counts.Writes++
	delay, ok := s.o.Delays[c.counts.Channel]
	if !ok {
		delay = DefaultDelay
	}
	s.seq++
	heap.Push(&s.landings, landing{now + delay.Microseconds(), s.seq, k, c.seller})
}

// land has all writes take effect that do so until now.
func (s *side) land(now int64) {
	for len(s.landings) > 0 && s.landings[0].at <= now {
		x := heap.Pop(&s.landings).(landing)
		c := x.sku.cell(x.seller)
		c.open, c.landed = false, x.at
		if c.absolute {
			c.shown, c.belief = c.asked, c.asked
		} else {
			c.shown, c.belief = max(0, c.shown+c.delta), max(0, c.belief+c.delta)
		}
		s.write(x.sku, c, x.at)
	}
}

func (s *side) result() Result {
	s.land(math.MaxInt64) // writes that were still due
	for _, c := range s.channels {
		if c.Sales+c.LostSales+c.Writes > 0 {
			s.out.Channels = append(s.out.Channels, *c)
		}
	}
	slices.SortFunc(s.out.Channels, func(a, b Channel) int { return cmp.Compare(a.Channel, b.Channel) })
	return s.out
}

// landing is a write that takes effect.
type landing struct {
	at, seq int64
	sku     *sku
	seller  int
}

// landings is a heap by time, then by when they were sent.
type landings []landing

func (h landings) Len() int { return len(h) }
func (h landings) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].at, h[j].at), cmp.Compare(h[i].seq, h[j].seq)) < 0
}
func (h landings) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for package heap.
func (h *landings) Push(x any) { *h = append(*h, x.(landing)) }

// Pop is for package heap.
func (h *landings) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
