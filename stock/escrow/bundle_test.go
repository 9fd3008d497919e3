package escrow_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/stock/write"
)

// The world of bundles has two components and a bundle of them, marketplaces of each, and an owner of each that reads the logs of the others late. A sale of the bundle reaches three logs, each when
// it does. Owners take records in and decide in turns of their own; they stop and start, and then what they had not stored is gone. Of the events that they had yet to write nobody knows which were
// written, or will be.
//
// The first two sides are the components, the third is the bundle.

const (
	bundleSKU    = "B"
	shopThatAsks = "shop"
)

var (
	sideSKUs = [3]string{"A", "C", bundleSKU}
	toKit    = event.BundleChannel(bundleSKU)
	markets  = [3][2]string{{"mA0", "mA1"}, {"mC0", "mC1"}, {"mB0", "mB1"}}
)

// kitModel is the rules of the game.
type kitModel struct {
	quantity [2]units
	kinds    [3][]kind // of the marketplaces of A, C and the bundle
	layouts  [3]*allocation.Layout
	d        escrow.Decider
	parts    int           // components: 1 or 2
	adaptive bool          // to the bundle, what is not in the books yet bounds nothing
	more     units         // there is of C than of A
	apart    bool          // owners decide in steps of their own, after any number of records; else with each record
	tick     int64         // what waits for time waits for some of them
	plan     *catalog.Plan // turns are those of targeting.Engine, by these settings; nil: of escrow alone
	listings map[string]*catalog.Listing

	takes   bool // wrong: a component's owner takes units back without asking
	hurries bool // wrong: the bundle agrees before its channels have been lowered
	counts  bool // wrong: what is left is taken for all that the bundle may show, whichever log is ahead
	rushes  bool // wrong: the bundle agrees to more than one thing by one level
	begins  bool // wrong: an allotment begins with what is given, however much of that is sold by then
	repeats bool // wrong: an event of an allotment counts again when it comes again
	tallies bool // wrong: a reserved sale counts as the bundle's, in each log when it comes there

	asks bool // a shop that asks before it sells reserves bundles, by what is allotted to it of each component
}

// side is one SKU: its log, its marketplaces and its owner.
type side struct {
	log    kitLevel // as it is now
	late   int      // of a component: sales of the bundle that its log does not have
	kits   int      // sales of reserved bundles that the log does not have
	rsv    rsvState // of a component: its part of the reservation that is being made
	market [2]stall
	paused bool

	// The owner.
	sku, kept escrow.Snapshot
	undone    []escrow.Result // taken in, and gone with a crash before the next turn
	dirty     bool            // something was taken in that no turn has seen
	read      kitLevel        // of its own log, as taken in
	outbox    []kitEvent      // that may have been written, and may be written yet
	levels    [2]kitLevel     // the bundle's owner: of components
	books     [2]kitBooks     // the bundle's owner: of components
}

// stall is a SKU at one marketplace.
type stall struct {
	shown  units
	unsold units // sales that the SKU's own log does not have
	mark   int64
	open   bool
	late   bool // given up on: it may still be applied until it is settled
	stage  int
	grant  escrow.Grant
	answer escrow.Result
}

// rsvState is what became of a part of a reservation.
type rsvState uint8

const (
	unasked rsvState = iota
	granted
	refused
)

// kitEvent is a change of an allotment.
type kitEvent struct {
	to       int  // component
	shop     bool // the allotment of the shop that asks; else the bundle's
	quantity units
	sequence int64
}

// kitLevel is what a log says. That of a component has stock and an allotment to the bundle; that of the bundle counts what was sold.
type kitLevel struct {
	version  int64
	onHand   units
	sold     [2]units // by the SKU's own marketplaces
	inBundle units    // of a component, for the bundle
	left     units    // of the allotment
	sequence int64
	held     bool
	shop     units // what is left to the shop that asks, when it is held to that
	shopSeq  int64
	kits     units // reserved bundles, where a broken rule counts them
}

// kitBooks is what a component's books say to the bundle.
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
	short bool // a count has found less than there was said to be: what was promised before that may be gone
	twice string

	receipts, counts, pauses, stops, losses, sales int // left to happen
	reservations                                   int
	bundles, reserved                              units
}

func newKitModel(a, c units, kinds [3][]kind) *kitModel {
	m := &kitModel{quantity: [2]units{a, c}, kinds: kinds, tick: 1, parts: 2}
	if c == 0 {
		m.parts = 1
	}
	for i := range 3 {
		var sellers []allocation.Seller
		if i < 2 {
			sellers = append(sellers, allocation.Seller{ID: toKit})
		}
		for k := range kinds[i] {
			sellers = append(sellers, allocation.Seller{ID: markets[i][k]})
		}
		m.layouts[i] = allocation.NewLayout(sellers, []allocation.Place{{ID: "W"}})
	}
	return m
}

// has says that a side takes part.
func (m *kitModel) has(i int) bool { return i < m.parts || i == 2 }

// start is a world in which marketplaces were pooled before, and show so little that nothing can be sold twice.
func (m *kitModel) start(onHand, shown units) *kitWorld {
	w := &kitWorld{clock: 1_000_000, sales: 1 << 30}
	for i := range w.side {
		x := &w.side[i]
		x.sku.SKU, x.kept.SKU = sideSKUs[i], sideSKUs[i]
		x.log.version = 1
		for k := range m.kinds[i] {
			x.market[k].shown = shown
		}
		if i < 2 {
			x.log.onHand = onHand + units(i)*m.more
			w.had[i] = x.log.onHand
		}
	}
	for i := range w.side {
		if m.has(i) {
			m.readLevel(w, i)
			m.turn(w, i)
		}
	}
	return w
}

// sold is by all marketplaces of the SKU.
func (l *kitLevel) all() units { return l.sold[0] + l.sold[1] + l.kits }

// level is that of the ledger.
func (m *kitModel) level(i int, l *kitLevel) *ledger.Level {
	out := &ledger.Level{SKU: sideSKUs[i], Version: l.version}
	if i < 2 {
		out.Locations = []ledger.LocationLevel{{Location: "W", OnHand: l.onHand}}
		out.Sold = append(out.Sold, ledger.ChannelUnits{Channel: toKit, Units: l.inBundle})
		if l.sequence > 0 {
			out.Allotments = []ledger.Allotment{{Channel: toKit, Units: l.left, Sequence: l.sequence, Ended: !l.held}}
		}
		if l.shopSeq > 0 {
			out.Allotments = append(out.Allotments, ledger.Allotment{Channel: shopThatAsks, Units: l.shop, Sequence: l.shopSeq})
		}
	} else {
		out.Sold = append(out.Sold, ledger.ChannelUnits{Channel: toKit, Units: l.all()})
	}
	for k := range m.kinds[i] {
		out.Sold = append(out.Sold, ledger.ChannelUnits{Channel: markets[i][k], Units: l.sold[k]})
	}
	return out
}

// readLevel has an owner take in the newest level of its own SKU.
func (m *kitModel) readLevel(w *kitWorld, i int) {
	x := &w.side[i]
	x.read, x.dirty = x.log, true
	s := escrow.Restore(&x.sku)
	l := escrow.Level{Version: x.log.version, Available: x.log.onHand}
	if i == 2 {
		m.supply(w, s)
		l.Available = s.Available()
	}
	of := m.level(i, &x.log)
	l.Allotted = of.Allotments
	for _, c := range of.Sold {
		if i < 2 || c.Channel != toKit {
			l.Counters = append(l.Counters, escrow.Counter{Channel: c.Channel, Sold: c.Units})
		}
	}
	s.Level(&l)
	x.sku = s.Snapshot()
}

// backing is what the bundle's owner knows of its components.
func (m *kitModel) backing(w *kitWorld) []escrow.Backing {
	x := &w.side[2]
	out := make([]escrow.Backing, m.parts)
	for i := range out {
		l, b := &x.levels[i], &x.books[i]
		out[i] = escrow.Backing{Component: sideSKUs[i], Quantity: m.quantity[i], Sold: l.inBundle, Held: l.held, Left: l.left, Sequence: l.sequence,
			Phase: b.phase, Strict: !m.adaptive, Grant: b.grant, Change: b.change}
	}
	return out
}

// supply tells the bundle's books what is available by its components, and whether they bound it.
func (m *kitModel) supply(w *kitWorld, s *escrow.SKU) (bound bool) {
	x := &w.side[2]
	sold := x.read.all()
	backing := m.backing(w)
	most, yielding, bound := s.Ceiling(sold, backing)
	total := allocation.MaxUnits
	for j := range backing {
		q := m.quantity[j]
		lacks := sold*q - backing[j].Sold
		if !bound {
			lacks = max(0, lacks)
		}
		n := x.levels[j].onHand - lacks
		if n < 0 {
			n -= q - 1
		}
		total = min(total, n/q)
	}
	if m.counts {
		most = allocation.MaxUnits
		for j := range backing {
			most = min(most, (backing[j].Left+m.quantity[j]-1)/m.quantity[j])
		}
	}
	if !bound {
		s.Supply(total, 0)
		return false
	}
	s.Supply(min(total, most), yielding)
	return true
}

// turn is a turn of an owner: what it grants is stored with the books, and events are written after that.
func (m *kitModel) turn(w *kitWorld, i int) {
	x := &w.side[i]
	var did turned
	if m.plan != nil {
		did = m.engineTurn(w, i)
	} else {
		did = m.coreTurn(w, i)
	}
	for _, g := range did.grants {
		k := slices.Index(markets[i][:], g.Channel)
		t := &x.market[k]
		if t.open {
			w.twice = fmt.Sprintf("%s is granted %+v while %+v is open", sideSKUs[i], g, t.grant)
		}
		t.open, t.late, t.stage, t.grant = true, false, onItsWay, g
	}
	for _, e := range did.events {
		m.post(w, i, e)
	}
	x.sku, x.dirty = did.sku, false
	if did.store || len(x.undone) > 0 { // what came of a write is stored with the turn that has seen it
		x.kept, x.undone = x.sku, nil
	}
}

// turned is what a turn comes to.
type turned struct {
	grants []escrow.Grant // to marketplaces
	events []kitEvent
	sku    escrow.Snapshot
	store  bool
}

// coreTurn decides by the books, as targeting does it.
func (m *kitModel) coreTurn(w *kitWorld, i int) (did turned) {
	x := &w.side[i]
	s := escrow.Restore(&x.sku)
	rules := &allocation.Rules{Guarantee: allocation.Strict, Share: allocation.Equally, Channels: make([]allocation.ChannelRules, m.layouts[i].Sellers())}
	in := &escrow.Input{Now: w.clock, Version: 1, Layout: m.layouts[i], Rules: rules}
	var available units
	if i < 2 {
		in.APIs, in.Marks = append(in.APIs, escrow.API{Operation: write.Allot, Bundle: true}), append(in.Marks, 0)
		in.Offers = append(in.Offers, escrow.Offer{Seller: 0, ExternalID: x.sku.SKU, Paused: w.side[2].paused || len(m.kinds[2]) == 0})
		available = x.read.onHand
	} else {
		if !m.supply(w, s) {
			rules.Guarantee = allocation.NoGuarantee
		}
		available = s.Available()
	}
	for k, of := range m.kinds[i] {
		in.APIs, in.Marks = append(in.APIs, of.api), append(in.Marks, x.market[k].mark)
		in.Offers = append(in.Offers, escrow.Offer{Seller: m.layouts[i].Seller(markets[i][k]), ExternalID: x.sku.SKU, Paused: x.paused})
	}
	if i < 2 && m.asks {
		in.APIs, in.Marks = append(in.APIs, escrow.API{Operation: write.Allot}), append(in.Marks, 0)
		in.Offers = append(in.Offers, escrow.Offer{Seller: m.layouts[i].Seller(shopThatAsks), ExternalID: x.sku.SKU, Paused: x.paused})
	}
	in.Stock = []allocation.Stock{{ID: "W", Available: available}}
	out := m.d.Decide(s, in)
	for _, g := range out.Grants {
		if g.Channel == shopThatAsks {
			did.events = append(did.events, kitEvent{to: i, shop: true, quantity: g.Write.Delta, sequence: escrow.Sequence(g.ID)})
		} else if g.Channel != toKit {
			did.grants = append(did.grants, g)
		} else if !escrow.NeedsConsent(g.Write) || m.takes && g.Write.Delta < 0 {
			did.events = append(did.events, kitEvent{to: i, quantity: g.Write.Delta, sequence: escrow.Sequence(g.ID)})
		}
	}
	if i == 2 && out.Phase != escrow.Pooled {
		backing := m.backing(w)
		if m.hurries { // as if nothing were exposed
			for j := range backing {
				b := &backing[j]
				if b.Held && b.Change < 0 && escrow.Sequence(b.Grant) > b.Sequence {
					did.events = append(did.events, kitEvent{to: j, quantity: b.Change, sequence: escrow.Sequence(b.Grant)})
					b.Grant = ""
				}
			}
		}
		kept := s.Snapshot()
		if m.rushes { // as if nothing had been agreed to but what is asked for now
			kept.Consents = slices.DeleteFunc(slices.Clone(kept.Consents), func(c escrow.Consent) bool {
				return slices.ContainsFunc(backing, func(b escrow.Backing) bool { return b.Component == c.Component && b.Grant != c.Grant })
			})
			s = escrow.Restore(&kept)
		}
		for _, c := range s.Answer(x.read.all(), backing) {
			did.events = append(did.events, consentOf(c))
		}
	}
	did.sku = s.Snapshot()
	did.store = s.Kept() || len(out.Grants) > 0
	return did
}

func consentOf(c escrow.Consent) kitEvent {
	return kitEvent{to: slices.Index(sideSKUs[:], c.Component), quantity: c.Quantity, sequence: escrow.Sequence(c.Grant)}
}

// post puts an event among those that may be written. One whose number is not newer than the log's changes nothing there, so it is left out: that is also what becomes of a repeat.
func (m *kitModel) post(w *kitWorld, i int, e kitEvent) {
	if x := &w.side[i]; !slices.Contains(x.outbox, e) && (m.repeats || e.sequence > w.side[e.to].log.last(e.shop)) {
		x.outbox = append(slices.Clone(x.outbox), e)
	}
}

// last is the number of the last change of the shop's allotment, or of the bundle's.
func (l *kitLevel) last(shop bool) int64 {
	if shop {
		return l.shopSeq
	}
	return l.sequence
}

// land has an event reach the log of its component.
func (m *kitModel) land(w *kitWorld, e kitEvent) {
	l := &w.side[e.to].log
	l.version++
	if e.shop {
		l.shopSeq, l.shop = e.sequence, max(0, l.shop+e.quantity)
	} else {
		if !l.held && !m.begins {
			l.left = -l.inBundle
		}
		l.sequence, l.held, l.left = e.sequence, true, max(0, l.left+e.quantity)
	}
	for i := range w.side {
		x := &w.side[i]
		x.outbox = slices.DeleteFunc(slices.Clone(x.outbox), func(o kitEvent) bool {
			return !m.repeats && o.to == e.to && o.shop == e.shop && o.sequence <= e.sequence
		})
	}
}

// act is a kind of step.
type act uint8

const (
	sells      act = iota // a customer buys a unit
	logs                  // a sale is in the SKU's own log
	logsBundle            // a sale of the bundle is in a component's log
	reads                 // an owner reads its own level
	readsLevel            // the bundle's owner reads a component's level
	readsBooks            // the bundle's owner reads a component's books
	turns                 // an owner decides, and stores
	lands                 // an event is in the log
	applies               // a marketplace handles a write
	answers               // an owner reads what it did
	neverSent             // the write never left
	unknown               // nobody knows what became of it, or the answer is lost
	settles               // it can no longer be applied
	watermark             // all orders up to now are known
	restarts              // an owner stops, and starts anew
	pauses                // a SKU is taken off sale, or goes on
	receives              // a unit comes in
	counted               // a count finds a unit less
	reserves              // a part of a reservation is decided
	gives                 // the reservation comes to nothing, or is given back
	commits               // it becomes an order
	logsKit               // the sale of a reserved bundle is in the SKU's log
)

// kitStep is one thing that can happen.
type kitStep struct {
	act     act
	side, n int
}

// steps is everything that can happen next.
func (m *kitModel) steps(w *kitWorld, dst []kitStep) []kitStep {
	add := func(a act, i, n int) { dst = append(dst, kitStep{a, i, n}) }
	for i := range w.side {
		if !m.has(i) {
			continue
		}
		x := &w.side[i]
		for k := range m.kinds[i] {
			t := &x.market[k]
			if t.shown > 0 && w.sales > 0 {
				add(sells, i, k)
			}
			if t.unsold > 0 {
				add(logs, i, k)
			}
			if t.unsold == 0 && x.read.version == x.log.version && t.mark < w.clock && awaits(&x.sku, markets[i][k]) {
				add(watermark, i, k)
			}
			if !t.open {
				continue
			}
			if t.stage == onItsWay {
				add(applies, i, k)
			}
			switch {
			case t.late:
				add(settles, i, k)
			case t.stage == handled:
				add(answers, i, k)
			case w.losses > 0:
				add(neverSent, i, k)
			}
			if !t.late && w.losses > 0 {
				add(unknown, i, k)
			}
		}
		if x.read.version < x.log.version {
			add(reads, i, 0)
		}
		if x.dirty {
			add(turns, i, 0)
		}
		for k := range x.outbox {
			add(lands, i, k)
		}
		if w.stops > 0 {
			add(restarts, i, 0)
		}
		if w.pauses > 0 {
			add(pauses, i, 0)
		}
		if x.kits > 0 {
			add(logsKit, i, 0)
		}
		if i == 2 {
			continue
		}
		if x.rsv == unasked && w.reservations > 0 {
			add(reserves, i, 0)
		}
		if x.late > 0 {
			add(logsBundle, i, 0)
		}
		if w.side[2].levels[i].version < x.log.version {
			add(readsLevel, i, 0)
		}
		if w.side[2].books[i] != booksOf(&x.kept) {
			add(readsBooks, i, 0)
		}
		if w.receipts > 0 {
			add(receives, i, 0)
		}
		if w.counts > 0 && x.log.onHand > 0 {
			add(counted, i, 0)
		}
	}
	if all := w.side[:m.parts]; w.reservations > 0 && !slices.ContainsFunc(all, func(x side) bool { return x.rsv == unasked }) {
		add(gives, 0, 0)
		if !slices.ContainsFunc(all, func(x side) bool { return x.rsv == refused }) {
			add(commits, 0, 0)
		}
	}
	return dst
}

// awaits says that a bound of the channel waits for its order watermark.
func awaits(x *escrow.Snapshot, channel string) bool {
	for i := range x.Channels {
		if c := &x.Channels[i]; c.Channel == channel {
			return len(c.Books.Fences) > 0
		}
	}
	return false
}

func booksOf(x *escrow.Snapshot) (b kitBooks) {
	b.phase = x.Phase
	b.grant, b.change = x.Asks(toKit)
	return b
}

// do has a step happen.
func (m *kitModel) do(w *kitWorld, s kitStep) {
	i, x := s.side, &w.side[s.side]
	t := &x.market[0]
	if s.n < len(x.market) {
		t = &x.market[s.n]
	}
	switch s.act {
	case sells:
		m.sell(w, i, t)
	case logs:
		t.unsold--
		x.log.sold[s.n]++
		x.log.version++
		if i < 2 {
			x.log.onHand--
		}
	case logsBundle:
		l := &x.log
		x.late--
		l.version++
		l.onHand -= m.quantity[i]
		l.inBundle += m.quantity[i]
		if l.held {
			l.left = max(0, l.left-m.quantity[i])
		}
	case reads:
		m.readLevel(w, i)
	case readsLevel:
		w.side[2].levels[i], w.side[2].dirty = x.log, true
	case readsBooks:
		w.side[2].books[i], w.side[2].dirty = booksOf(&x.kept), true
	case turns:
		m.turn(w, i)
	case lands:
		m.land(w, x.outbox[s.n])
	case applies:
		w.clock += m.tick
		m.apply(w, i, s.n)
	case answers:
		w.clock += m.tick
		r := t.answer
		r.AckedAt = w.clock
		m.result(w, i, t, r)
	case neverSent:
		w.losses--
		m.result(w, i, t, escrow.Result{ID: t.grant.ID, Channel: t.grant.Channel, Outcome: write.NotSent, AckedAt: w.clock})
	case unknown:
		w.losses--
		t.late = true
		m.result(w, i, t, escrow.Result{ID: t.grant.ID, Channel: t.grant.Channel, Outcome: write.Unknown})
	case settles:
		w.clock += m.tick
		r := escrow.Result{ID: t.grant.ID, Channel: t.grant.Channel, Outcome: write.Unknown, Settled: true, AckedAt: w.clock}
		if m.kinds[i][s.n].api.Reads {
			r.Shown, r.ShownKnown, r.ShownAt = t.shown, true, w.clock
		}
		m.result(w, i, t, r)
	case watermark:
		t.mark = w.clock // what is sold from now on is later
		w.clock += m.tick
		x.dirty = true
	case restarts:
		w.stops--
		m.restart(w, i)
	case pauses:
		w.pauses--
		x.paused = !x.paused
		w.clock += 60 * m.tick // what waits for time
		for j := range w.side {
			if m.has(j) {
				m.again(w, j)
			}
		}
	case receives:
		w.receipts--
		x.log.onHand++
		x.log.version++
		w.had[i]++
	case counted:
		w.counts--
		x.log.onHand--
		x.log.version++
		w.had[i]--
		w.short = true
	}
	m.doReservation(w, s)
	for j := range w.side {
		if w.side[j].dirty && !m.apart {
			m.turn(w, j)
		}
	}
}

// doReservation has a step of a reservation of one bundle happen. Units that are held are promised, and not available.
func (m *kitModel) doReservation(w *kitWorld, s kitStep) {
	x := &w.side[s.side]
	switch s.act {
	case reserves:
		q := m.quantity[s.side]
		if x.rsv = refused; x.log.shop >= q && x.log.onHand >= q {
			x.rsv = granted
			m.hold(w, s.side, q)
		}
	case gives, commits:
		w.reservations--
		for j := range m.parts {
			y := &w.side[j]
			switch {
			case s.act == commits:
				y.kits++
			case y.rsv == granted:
				m.hold(w, j, -m.quantity[j])
			}
			y.rsv = unasked
		}
		if s.act == commits {
			w.side[2].kits++
			w.reserved++
		}
	case logsKit:
		x.kits--
		x.log.version++
		switch {
		case !m.tallies:
		case s.side == 2:
			x.log.kits++
		default:
			x.log.inBundle += m.quantity[s.side]
		}
	}
}

// hold takes units of a component for a reservation, or gives them back.
func (m *kitModel) hold(w *kitWorld, j int, q units) {
	l := &w.side[j].log
	l.version++
	l.onHand -= q
	l.shop -= q
	if w.gone[j] += q; w.gone[j] > w.had[j] && !w.short {
		w.twice = fmt.Sprintf("%d of %d of %s are sold or held", w.gone[j], w.had[j], sideSKUs[j])
	}
}

// sell has a customer buy a unit at a marketplace.
func (m *kitModel) sell(w *kitWorld, i int, t *stall) {
	w.sales--
	t.shown--
	t.unsold++
	if i == 2 {
		w.bundles++
	}
	for j := range m.parts {
		switch i {
		case j:
			w.gone[j]++
		case 2:
			w.gone[j] += m.quantity[j]
			w.side[j].late++
		}
		if w.gone[j] > w.had[j] && !w.short {
			w.twice = fmt.Sprintf("%d of %d of %s are sold", w.gone[j], w.had[j], sideSKUs[j])
		}
	}
}

// result has an owner hear of its write.
func (m *kitModel) result(w *kitWorld, i int, t *stall, r escrow.Result) {
	x := &w.side[i]
	s := escrow.Restore(&x.sku)
	if !s.Result(&r, 0) {
		w.twice = fmt.Sprintf("the result %+v is not taken", r)
	}
	x.sku, x.dirty = s.Snapshot(), true
	x.undone = append(slices.Clone(x.undone), r)
	if r.Outcome != write.Unknown || r.Settled {
		t.open, t.late, t.stage, t.grant, t.answer = false, false, 0, escrow.Grant{}, escrow.Result{}
	}
}

// again has an owner decide by other settings.
func (m *kitModel) again(w *kitWorld, i int) {
	x := &w.side[i]
	s := escrow.Restore(&x.sku) // a SKU that was restored decides anew
	x.sku, x.dirty = s.Snapshot(), true
}

func (m *kitModel) apply(w *kitWorld, i, k int) {
	t, of := &w.side[i].market[k], &m.kinds[i][k]
	g := &t.grant
	r := escrow.Result{ID: g.ID, Channel: g.Channel, Outcome: write.Applied, ShownAt: w.clock}
	switch g.Write.Operation {
	case write.Read:
		r.Shown, r.ShownKnown = t.shown, true
	case write.CompareAndSet:
		if t.shown != g.Write.Expected {
			r.Outcome, r.ErrorCode, r.Shown, r.ShownKnown = write.Refused, escrow.Stale, t.shown, of.tells
			break
		}
		t.shown = g.Write.Quantity
	case write.Delta:
		t.shown = max(0, t.shown+g.Write.Delta)
	default:
		t.shown = g.Write.Quantity
	}
	if g.Write.Operation != write.Read && r.Outcome == write.Applied && of.tells {
		r.Shown, r.ShownKnown = t.shown, true
	}
	t.stage, t.answer = handled, r
}

// restart has an owner lose what it had not stored. It reads its level again, and those of components and their books, and writes again what it may not have written; what it wrote before
// may still come.
func (m *kitModel) restart(w *kitWorld, i int) {
	x := &w.side[i]
	x.sku = x.kept
	s := escrow.Restore(&x.sku)
	s.Claims(func(g *escrow.Grant) {
		if g.Channel == shopThatAsks {
			m.post(w, i, kitEvent{to: i, shop: true, quantity: g.Write.Delta, sequence: escrow.Sequence(g.ID)})
		} else if g.Channel == toKit && (!escrow.NeedsConsent(g.Write) || m.takes && g.Write.Delta < 0) {
			m.post(w, i, kitEvent{to: i, quantity: g.Write.Delta, sequence: escrow.Sequence(g.ID)})
		}
	})
	for _, c := range s.Consents() {
		m.post(w, i, consentOf(c))
	}
	if i == 2 {
		for j := range m.parts {
			x.levels[j], x.books[j] = w.side[j].log, booksOf(&w.side[j].kept)
		}
	}
	m.readLevel(w, i)
	s = escrow.Restore(&x.sku)
	for k := range x.undone {
		s.Result(&x.undone[k], 0)
	}
	x.sku = s.Snapshot()
}

// useEngine has turns be those of targeting.Engine.
func (m *kitModel) useEngine() {
	mode, share := "strict", "fair"
	settings := &catalog.Settings{Version: 1, Channels: map[string]*catalog.Channel{}, Locations: map[string]*catalog.Location{"W": {ID: "W"}},
		Rules: map[string]*catalog.Rule{"all": {ID: "all", Mode: &mode, Share: &share}}}
	m.listings = map[string]*catalog.Listing{}
	for i, sku := range sideSKUs {
		m.listings[sku] = &catalog.Listing{SKU: sku}
		for k, of := range m.kinds[i] {
			id := markets[i][k]
			settings.Channels[id] = &catalog.Channel{ID: id, Adapter: "http", Operation: of.api.Operation, SetsAny: of.api.SetsAny, WriteOnly: !of.api.Reads}
			m.listings[sku].Channels = append(m.listings[sku].Channels, catalog.ChannelListing{Channel: id})
		}
	}
	for j := range m.parts {
		m.listings[bundleSKU].Components = append(m.listings[bundleSKU].Components, catalog.Component{SKU: sideSKUs[j], Quantity: m.quantity[j]})
	}
	m.plan = catalog.Compile(settings)
}

// engineTurn decides as an allocator does that has just started: what is known of the SKU goes into an engine of its own.
func (m *kitModel) engineTurn(w *kitWorld, i int) (did turned) {
	x := &w.side[i]
	sku := sideSKUs[i]
	listing := func(id string) *catalog.Listing {
		l := m.listings[id]
		if j := slices.Index(sideSKUs[:], id); l != nil && w.side[j].paused {
			c := *l
			c.Channels = slices.Clone(l.Channels)
			for k := range c.Channels {
				c.Channels[k].Paused = true
			}
			return &c
		}
		return l
	}
	e := targeting.New(listing, 0)
	p := e.Partition(0)
	e.Begin(w.clock)
	e.Settings(m.plan)
	e.Own(func(id string) *targeting.Partition {
		if id == sku {
			return p
		}
		return nil
	})
	e.Index(bundleSKU, listing(bundleSKU))
	e.RestoreBooks(p, &x.sku)
	if i == 2 {
		e.Follow(sideSKUs[:m.parts])
		for j := range m.parts {
			e.ComponentLevel(sideSKUs[j], m.level(j, &x.levels[j]))
			e.ComponentBooks(sideSKUs[j], x.books[j].snapshot(sideSKUs[j]))
		}
		e.Followed(sideSKUs[:m.parts])
	}
	e.Level(p, m.level(i, &x.read))
	for k := range m.kinds[i] {
		e.Watermark(p, &order.Watermark{Channel: markets[i][k], Until: x.market[k].mark})
	}
	e.Read(p, 1)
	e.Start(p)
	out, _ := e.Decide(w.clock, 1000)
	for _, d := range out {
		if g := d.Target.Write; g != nil && g.ID != "" {
			did.grants = append(did.grants, escrow.Grant{ID: g.ID, Channel: d.Target.Channel,
				Write: exposure.Write{Operation: g.Operation, Quantity: g.Quantity, Expected: g.Expected, Delta: g.Delta}})
		}
	}
	for _, v := range e.Events() {
		did.events = append(did.events, kitEvent{to: slices.Index(sideSKUs[:], v.SKU), quantity: v.Quantity, sequence: v.Sequence})
	}
	did.sku = p.SKU(sku).Books().Snapshot()
	did.store = len(e.Kept()) > 0
	return did
}

// snapshot is books that say so much to a bundle.
func (b *kitBooks) snapshot(sku string) *escrow.Snapshot {
	if b.phase == escrow.Pooled {
		return nil
	}
	x := &escrow.Snapshot{SKU: sku, Phase: b.phase}
	if b.grant != "" {
		x.Channels = []escrow.ChannelSnapshot{{Channel: toKit, Booked: true, Claims: true, Grant: b.grant,
			Books: exposure.State{InFlight: true, Write: exposure.Write{Operation: write.Allot, Delta: b.change}}}}
	}
	return x
}

// TestBundlesAtRandom lets components and a bundle trade at random, with late records, restarts, lost answers, pauses and receipts: no unit is sold twice, and most of what there is is sold.
func TestBundlesAtRandom(t *testing.T) {
	seeds := 500
	if raceEnabled || testing.Short() {
		seeds = 60
	}
	var bundles, left, had units
	var next []kitStep
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 7))
		pick := func() []kind { return []kind{kinds[r.IntN(len(kinds))], kinds[r.IntN(len(kinds))]}[:1+seed/2%2] }
		m := newKitModel(1, units(1+seed%2), [3][]kind{pick(), pick(), pick()})
		m.tick, m.apart = 10_000_000, seed%3 == 0
		w := m.start(12, units(seed%3))
		w.receipts, w.pauses, w.stops, w.losses = 3, 4, 4, 4
		next = m.live(t, r, w, next)
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
	if bundles < 2*units(seeds) || left > had/10 {
		t.Errorf("%d bundles sold in %d worlds; %d of %d units left", bundles, seeds, left, had)
	}
}

// ask has a shop that asks before it sells take part.
func (m *kitModel) ask() {
	m.asks = true
	for i := range 2 {
		sellers := []allocation.Seller{{ID: toKit}}
		for k := range m.kinds[i] {
			sellers = append(sellers, allocation.Seller{ID: markets[i][k]})
		}
		m.layouts[i] = allocation.NewLayout(append(sellers, allocation.Seller{ID: shopThatAsks}), []allocation.Place{{ID: "W"}})
	}
}

// TestReservedBundlesAtRandom has a shop that asks reserve bundles, part by part, beside marketplaces that sell them and their components: no unit is promised twice, with late records, restarts, lost answers,
// pauses and receipts. Were the sale of a reserved bundle counted as the bundle's, in each log when it comes there, some would be.
func TestReservedBundlesAtRandom(t *testing.T) {
	seeds := 300
	if raceEnabled || testing.Short() {
		seeds = 60
	}
	for name, wrong := range map[string]bool{"as it is": false, "counted as the bundle's": true} {
		t.Run(name, func(t *testing.T) {
			var bundles, reserved units
			var twice string
			var next []kitStep
			for seed := range uint64(seeds) {
				r := rand.New(rand.NewPCG(seed, 11))
				pick := func() []kind { return []kind{kinds[r.IntN(len(kinds))], kinds[r.IntN(len(kinds))]}[:1+seed/2%2] }
				m := newKitModel(1, units(1+seed%2), [3][]kind{pick(), pick(), pick()})
				m.tick, m.apart, m.tallies = 10_000_000, seed%3 == 0, wrong
				m.ask()
				w := m.start(12, units(seed%3))
				w.receipts, w.pauses, w.stops, w.losses, w.reservations = 3, 4, 4, 4, 40
				next = m.live(t, r, w, next)
				if w.twice != "" {
					twice = fmt.Sprintf("seed %d: %s", seed, w.twice)
					break
				}
				bundles += w.bundles
				reserved += w.reserved
			}
			t.Logf("%d bundles sold by marketplaces, %d reserved and sold; %s", bundles, reserved, twice)
			switch {
			case wrong != (twice != ""):
				t.Errorf("a unit sold twice: %q; wrong: %v", twice, wrong)
			case !wrong && (bundles < units(seeds)/2 || reserved < units(seeds)/5): // what a shop sells in bundles is no demand for their components, so that its part of them is small
				t.Errorf("%d and %d bundles in %d worlds", bundles, reserved, seeds)
			}
		})
	}
}

// live takes a world through its troubles, and then, without any, through what waits for time, until a unit is sold twice.
func (m *kitModel) live(t *testing.T, r *rand.Rand, w *kitWorld, next []kitStep) []kitStep {
	next = m.walk(t, r, w, 1500, next)
	w.pauses, w.stops, w.losses = 0, 0, 0
	for range 3 {
		if w.twice != "" {
			break
		}
		w.clock += 600_000_000
		for i := range w.side {
			w.side[i].paused = false
			m.again(w, i)
			m.turn(w, i)
		}
		next = m.walk(t, r, w, 1000, next)
	}
	return next
}

// walk takes steps at random.
func (m *kitModel) walk(t *testing.T, r *rand.Rand, w *kitWorld, steps int, next []kitStep) []kitStep {
	for range steps {
		if next = m.steps(w, next[:0]); len(next) == 0 {
			break
		}
		if m.do(w, next[r.IntN(len(next))]); w.twice != "" {
			break
		}
	}
	return next
}
