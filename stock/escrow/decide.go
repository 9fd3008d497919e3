package escrow

import (
	"slices"
	"strings"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/write"
)

// What is decided with, times in microseconds.
const (
	few        Units = 4           // of its share a channel always shows
	each       Units = 64          // by channel, at or below which adaptive keeps books whatever sells
	calmFor    int64 = 300_000_000 // above 2 T before pooled again
	lookAgain  int64 = 10_000_000  // an adaptive SKU in strict
	firstRetry int64 = 1_000_000   // after a write that failed; doubled each time
	lastRetry  int64 = 300_000_000 //
	stuckAfter int64 = 900_000_000 // a watermark that does not move
	stalled    int64 = 900_000_000 // a watermark too old to rely on
	strangers  int64 = 60_000_000  // a channel that Onhand never told of stock is waited for
	leastPass  int64 = 10_000_000  // that an order watermark takes to pass a write
	auditAfter int64 = 20_000_000  // exposure above what a channel is thought to show; doubled each time
)

// Decider decides. It keeps scratch memory between decisions and so is for one goroutine; zero is ready for use.
type Decider struct {
	solver allocation.Solver
	input  allocation.Input
	rules  allocation.Rules
	out    Decision
	plans  []plan
	order  []int
	s      *SKU
	in     *Input
	gone   Units // exposed by channels that are not listed any more
	spare  Units // that, and an allowance for channels whose exposure is not known
}

// plan is what a decision knows of one channel under the books, or of an offer that is never written.
type plan struct {
	c     *channel
	b     *book // nil: never written
	offer *Offer
	api   API
	at    int // index in the solver's input; -1 when not listed
	share Units
	limit Units
	keep  Units // of the share, kept back for whoever runs low first
}

// Quiet reports that [Decider.Decide] would find nothing to do: nothing happened since the last decision.
func (s *SKU) Quiet(in *Input) bool {
	if s.dirty || !s.started || s.terms != in.Version || s.wake != 0 && in.Now >= s.wake || len(s.alerts) > 0 {
		return false
	}
	if s.settling && s.phase != Pooled {
		for i := range s.channels {
			b := s.channels[i].book
			if b == nil || b.seller < 0 {
				continue
			}
			if m := mark(in, b.seller); b.Settling() && m >= b.SettlesAt() || b.surplus.units > 0 && m >= b.surplus.at {
				return false
			}
		}
	}
	return true
}

func mark(in *Input, seller int) int64 {
	if seller >= 0 && seller < len(in.Marks) {
		return in.Marks[seller]
	}
	return 0
}

func delay(in *Input, seller int) Delay {
	d := DefaultDelay
	if seller >= 0 && seller < len(in.Delays) {
		if m := in.Delays[seller]; m.Event > 0 {
			d.Event = m.Event
		}
		if m := in.Delays[seller]; m.Write > 0 {
			d.Write = m.Write
		}
	}
	return d
}

// Decide says what follows from all that s and in say. Grants are booked in s: publish them, and store the books, before anything else of s is decided.
func (d *Decider) Decide(s *SKU, in *Input) *Decision {
	out := &d.out
	out.Phase, out.Entered, out.Hindrance = s.phase, false, ""
	out.Grants, out.Alerts = out.Grants[:0], out.Alerts[:0]
	if s.Quiet(in) {
		out.Wake = s.wake
		return out
	}
	d.s, d.in = s, in
	if s.phase != Pooled {
		d.watermarks()
	}
	was := s.phase
	d.phase()
	d.surpluses()
	if s.phase == Strict {
		d.plan()
		d.act()
	}
	s.shared = s.phase == Pooled && (s.shared || s.seen && s.available > 0)
	out.Phase, out.Entered = s.phase, s.phase != was
	if out.Entered {
		s.keep = true
	}
	out.Alerts = append(out.Alerts, s.alerts...)
	clear(s.alerts)
	s.alerts = s.alerts[:0]
	s.dirty, s.started, s.terms = false, true, in.Version
	out.Wake = s.wake
	d.s, d.in = nil, nil
	return out
}

func (d *Decider) watermarks() {
	s := d.s
	s.settling = false
	for i := range s.channels {
		b := s.channels[i].book
		if b == nil {
			continue
		}
		if s.terms != d.in.Version || !s.started {
			b.seller = d.in.Layout.Seller(s.channels[i].id)
		}
		if b.seller >= 0 {
			b.Seen(mark(d.in, b.seller))
		}
		if b.Settling() {
			s.settling = true
			if b.SettlesAt()+stuckAfter < d.in.Now && !b.stuck {
				b.stuck = true
				s.alert(Alert{Kind: Waiting, Channel: s.channels[i].id, Units: b.Exposure(),
					Message: "the order watermark of " + s.channels[i].id + " does not move: what it may still report as sold stays out of reach of other channels"})
			}
		} else {
			b.stuck = false
		}
	}
}

// phase chooses between pooled and strict.
func (d *Decider) phase() {
	s, in := d.s, d.in
	s.wake = 0
	want := s.phase == Strict
	switch in.Rules.Guarantee {
	case allocation.Strict:
		want = true
	case allocation.Adaptive:
		if d.out.Hindrance = d.hindrance(); d.out.Hindrance != "" && s.phase != Strict {
			want = false
			break
		}
		if len(in.Offers) == 0 && s.phase != Strict {
			want = false
			break
		}
		t := d.threshold()
		switch {
		case s.phase != Strict:
			want = s.seen && s.available <= t
		case s.available <= 2*t:
			s.calm = 0
			s.wake = in.Now + lookAgain
		case s.calm == 0:
			s.calm = in.Now
			s.wake = in.Now + calmFor
		case in.Now-s.calm >= calmFor:
			want = false
		default:
			s.wake = s.calm + calmFor
		}
	default:
		want = false
	}
	switch {
	case want && s.phase != Strict:
		s.calm, s.held = 0, false
		s.phase = Strict
		s.seq = max(s.seq, in.Now)
	case !want && s.phase == Strict:
		s.phase = Leaving
	}
	if !want && s.phase == Pooled && s.Allotted() { // the books were lost
		s.phase = Leaving
	}
	if s.phase == Leaving {
		d.lift()
	}
	if s.phase == Leaving && s.open == 0 {
		s.phase, s.calm, s.shortage, s.settling = Pooled, 0, 0, false
		for i := range s.channels {
			if b := s.channels[i].book; b != nil && b.surplus.units > 0 { // nothing will explain it any more
				s.tell(&s.channels[i])
			}
			s.channels[i].book = nil
		}
	}
}

// surpluses tells of what channels sold or showed beyond their exposure, once no cancellation can explain it, or when nobody knows.
func (d *Decider) surpluses() {
	s, in := d.s, d.in
	for i := range s.channels {
		c := &s.channels[i]
		if c.book == nil || c.book.surplus.units == 0 {
			continue
		}
		x := &c.book.surplus
		if x.at == 0 {
			x.at = in.Now + in.Skew
			s.keep = true
		}
		m := mark(in, c.book.seller)
		if until := x.at + stuckAfter; m > 0 && m < x.at && in.Now < until {
			s.settling = true
			d.wakeAt(until)
			continue
		}
		s.tell(c)
		s.keep = true
	}
}

// hindrance is why an adaptive SKU cannot be kept in books, or empty.
func (d *Decider) hindrance() string {
	in := d.in
	for i := range in.Offers {
		o := &in.Offers[i]
		if o.Hindrance != "" {
			return o.Hindrance
		}
		if api := in.api(o.Seller); api.Operation == write.UnspecifiedOperation || api.claims() {
			continue
		}
		if !in.api(o.Seller).WayDown() {
			return d.in.Layout.SellerID(o.Seller) + " can neither be read nor set whatever it shows"
		}
		if m := mark(d.in, o.Seller); m == 0 {
			return d.in.Layout.SellerID(o.Seller) + " reports no order watermark"
		} else if m+stalled < d.in.Now {
			return "the order watermark of " + d.in.Layout.SellerID(o.Seller) + " does not move"
		}
	}
	return ""
}

// threshold is T.
func (d *Decider) threshold() Units {
	var rate, slowest int64
	for i := range d.s.channels {
		rate += d.s.channels[i].rate(d.in.Now)
	}
	n := Units(0)
	for i := range d.in.Offers {
		if d.in.api(d.in.Offers[i].Seller).Operation == write.UnspecifiedOperation {
			continue
		}
		n++
		if api := d.in.api(d.in.Offers[i].Seller); api.claims() && !api.Bundle { // it cannot take what is not there
			continue
		}
		l := delay(d.in, d.in.Offers[i].Seller)
		if m := mark(d.in, d.in.Offers[i].Seller); m > 0 { // webhooks get lost: what is certain is certain up to the watermark
			l.Event = max(l.Event, min(d.in.Now-m, stalled))
		}
		slowest = max(slowest, l.Event+2*l.Write)
	}
	return Units(4*rate*(slowest/1000)/(milli*1000)) + each*n
}

// Threshold is T of a SKU by an input: at or below it, an adaptive SKU is kept in books.
func (d *Decider) Threshold(s *SKU, in *Input) Units {
	d.s, d.in = s, in
	defer func() { d.s, d.in = nil, nil }()
	return d.threshold()
}

// plan brings the books in line with what is listed, and finds each channel's share.
func (d *Decider) plan() {
	s, in := d.s, d.in
	for i := range s.channels {
		if b := s.channels[i].book; b != nil {
			b.offer, b.seller = -1, in.Layout.Seller(s.channels[i].id)
		}
	}
	next := 0
	for i := range in.Offers { // offers and channels are both in order of id
		o := &in.Offers[i]
		id := in.Layout.SellerID(o.Seller)
		for next < len(s.channels) && s.channels[next].id < id {
			next++
		}
		var c *channel
		if next < len(s.channels) && s.channels[next].id == id {
			c = &s.channels[next]
		} else {
			c = s.channel(id)
		}
		if c.book == nil {
			if in.api(o.Seller).Operation == write.UnspecifiedOperation {
				continue
			}
			c.book = &book{Channel: exposure.Opened(), external: strings.Clone(o.ExternalID), claim: in.api(o.Seller).claims(), seller: o.Seller, pooled: s.shared, since: in.Now}
			s.keep = true
			if !in.api(o.Seller).WayDown() {
				s.alert(Alert{Kind: Unguarded, Channel: c.id, Message: c.id + " can neither be read nor set whatever it shows: it is given nothing while the SKU is strict"})
			}
		}
		b := c.book
		b.offer = i
		b.retiring = b.external != o.ExternalID && !b.claim || b.claim != in.api(o.Seller).claims() && in.api(o.Seller).Operation != write.UnspecifiedOperation
		if b.retiring && d.empty(b) { // the old listing shows nothing and has nothing to report: go on with the new one
			*b = book{Channel: exposure.Opened(), external: strings.Clone(o.ExternalID), claim: in.api(o.Seller).claims(), seller: o.Seller, offer: i, since: in.Now}
			s.keep = true
		}
	}
	d.input = allocation.Input{Layout: in.Layout, Stock: in.Stock, Unassigned: in.Unassigned + debts(in), Channels: d.input.Channels[:0]}
	d.rules = *in.Rules
	d.rules.Mode = in.Rules.Share.Mode()
	d.input.Rules = &d.rules
	d.plans = d.plans[:0]
	var sum, top int64
	for i := range s.channels {
		sum += s.channels[i].demand(in.Now)
	}
	even := sum / (10 * max(4, int64(len(in.Offers))))
	for i := range s.channels {
		c := &s.channels[i]
		b := c.book
		if b == nil {
			continue
		}
		if b.offer < 0 {
			b.retiring = true
			if d.empty(b) {
				c.book = nil
				s.keep = true
				continue
			}
		}
		p := plan{c: c, b: b, at: -1, api: in.apiOf(b)}
		if b.offer >= 0 {
			p.offer = &in.Offers[b.offer]
			p.at = len(d.input.Channels)
			l := allocation.Listed{Seller: p.offer.Seller, Paused: p.offer.Paused || b.retiring || b.Open() && !p.api.WayDown(), Margin: p.offer.Margin}
			if in.Rules.Share == allocation.ByDemand {
				l.Weight = Units(c.demand(in.Now) + even + milli) // nobody is left out for not having sold yet
				if b.Exposure() > 0 {
					l.Weight += l.Weight / 8 // what is somewhere stays there, if it makes little difference
				}
				top = max(top, int64(l.Weight))
			}
			d.input.Channels = append(d.input.Channels, l)
		}
		d.plans = append(d.plans, p)
	}
	for i := range in.Offers { // what is never written has its reserve, and no more
		if o := &in.Offers[i]; in.api(o.Seller).Operation == write.UnspecifiedOperation && d.s.booked(in.Layout.SellerID(o.Seller)) == nil {
			d.plans = append(d.plans, plan{offer: o, at: len(d.input.Channels)})
			d.input.Channels = append(d.input.Channels, allocation.Listed{Seller: o.Seller, Paused: o.Paused, Reserve: true})
		}
	}
	if shift := max(0, top/int64(allocation.MaxWeight)); shift > 0 {
		for i := range d.input.Channels {
			if l := &d.input.Channels[i]; l.Weight > 0 {
				l.Weight = max(1, l.Weight/Units(shift+1))
			}
		}
	}
	d.solver.Solve(&d.input)
	s.scoped = d.solver.Scopes() > 1
	selling := 0
	for i := range d.plans {
		if p := &d.plans[i]; p.at >= 0 {
			p.share, p.limit = d.solver.Target(p.at), d.solver.Limit(p.at)
			if p.b != nil && p.limit > 0 {
				selling++
			}
		}
	}
	for i := range d.plans {
		p := &d.plans[i]
		if p.at < 0 || p.b == nil {
			continue
		}
		p.b.share = p.share
		l := delay(in, p.offer.Seller)
		if selling > 1 { // the others could run low first
			p.keep = min(p.share/2, max(p.share/8, p.share-few-cover(p.c.rate(in.Now), l)), p.share-d.floor(p))
		}
	}
}

// cover is what a channel is expected to sell before it can be given more, four times over.
func cover(rate int64, l Delay) Units {
	return Units(4 * rate * ((l.Event + 2*l.Write) / 1000) / (milli * 1000))
}

func (s *SKU) booked(id string) *book {
	if c := s.find(id); c != nil {
		return c.book
	}
	return nil
}

// empty says that a listing shows nothing, and has nothing to report.
func (d *Decider) empty(b *book) bool {
	shown, known := b.Shown()
	return !b.Open() && b.Exposure() == 0 && known && shown == 0 && b.grant == "" && !b.Settling() && b.surplus.units == 0
}

// debts is what shared locations owe: sold there beyond what there was, to be served from elsewhere.
func debts(in *Input) Units {
	var n Units
	for i := range in.Stock {
		if a := in.Stock[i].Available; a < 0 && in.Stock[i].Place >= 0 {
			n -= a
		}
	}
	return n
}

// held is what a channel's exposure takes of shared stock.
func (d *Decider) held(p *plan, bare bool) Units {
	switch {
	case p.b == nil:
		return p.share
	case p.b.Open():
		return 0
	}
	e := p.b.Exposure()
	own := Units(0)
	if p.at >= 0 {
		own = d.solver.Own(p.at)
		if bare {
			own += max(0, d.floor(p))
		}
	}
	return max(0, e-own)
}

// floor is what the channel shows even when nothing is available.
func (d *Decider) floor(p *plan) Units {
	if f := &d.in.Rules.Channels[p.offer.Seller].Floor; f.Set && !p.offer.Paused {
		return f.Units
	}
	return 0
}

// hold counts what all hold, and the allowance for what is not known.
func (d *Decider) hold(bare bool) {
	d.solver.Clear()
	d.gone = 0
	for i := range d.plans {
		p := &d.plans[i]
		if p.at >= 0 {
			d.solver.Hold(p.at, d.held(p, bare))
		} else {
			d.gone += p.b.Exposure() // of a channel that is gone: from anywhere
		}
	}
	d.spare = d.gone + d.allowance()
}

// allowance is what is kept for channels whose exposure is not known yet: their share, and what they may have sold unseen. Under strict one that was pooled may sell all there is, and
// nothing is raised meanwhile; one that Onhand never told of stock is waited for at first.
func (d *Decider) allowance() Units {
	unknown := 0
	mean := 0.0
	var shares Units
	for i := range d.plans {
		p := &d.plans[i]
		if p.b == nil || !p.b.Open() || p.offer == nil || !p.api.WayDown() {
			continue
		}
		if p.b.claim { // a moment, and it is known
			return allocation.MaxUnits
		}
		unknown++
		l := delay(d.in, p.offer.Seller)
		window := l.Event + l.Write
		m := mark(d.in, p.offer.Seller)
		shown, known := p.b.Shown()
		at := p.b.SettlesAt()
		if d.in.Rules.Guarantee == allocation.Strict {
			until := p.b.since + strangers
			if p.b.pooled || d.in.Now <= until {
				if d.in.Now <= until {
					d.wakeAt(until + 1)
				}
				return allocation.MaxUnits
			}
		}
		switch {
		case at > 0: // it is known what it showed then
			window = min(window, max(0, at-m))
			if known {
				shares += shown
			}
		case m > 0:
			window = max(window, d.in.Now-m+l.Write)
			shares += p.share
		default:
			shares += p.share
		}
		mean += float64(p.c.rate(d.in.Now)) / milli * float64(window) / 1e6
	}
	if unknown == 0 {
		return 0
	}
	return max(shares, most(mean+0.1*float64(unknown)))
}

// room is by how much the exposure of a channel may rise.
func (d *Decider) room(p *plan) Units {
	room := d.solver.Room(p.at) - d.spare
	e := p.b.Exposure()
	free := max(d.solver.Own(p.at), d.floor(p)) - e // covered by what is its own, or promised to be made
	return max(0, max(room, 0)+max(0, d.solver.Own(p.at)-e), free)
}

// act grants what may and should go out.
func (d *Decider) act() {
	d.hold(false)
	d.shortage()
	for i := range d.plans {
		if p := &d.plans[i]; p.b != nil && d.free(p) {
			d.demanded(p)
		}
	}
	d.raise()
	d.lend()
	for i := range d.plans {
		if p := &d.plans[i]; p.b != nil {
			p.b.low = d.lowMark(p)
		}
	}
}

// lowMark is the exposure at which a channel is looked at again.
func (d *Decider) lowMark(p *plan) Units {
	hide := Units(0)
	if p.offer != nil {
		hide = d.in.Rules.Channels[p.offer.Seller].HideAt.Units
	}
	return max(min(p.b.Exposure(), p.share)-max(1, p.share/8), hide, 0)
}

// free says that a write to the channel may go out.
func (d *Decider) free(p *plan) bool {
	b := p.b
	if b.grant != "" {
		return false
	}
	if b.backoff {
		b.backoff = false
		b.retry = d.in.Now + min(lastRetry, firstRetry<<min(b.failures, 10))
		if b.failures == 5 {
			d.s.alert(Alert{Kind: Refusing, Channel: p.c.id, Units: b.Exposure(), Message: p.c.id + " refuses the writes of " + d.s.ID})
		}
	}
	if d.in.Now < b.retry {
		d.wakeAt(b.retry)
		return false
	}
	return true
}

// api is what can be done with a channel. One that is gone from the settings cannot be written any more.
func (in *Input) api(seller int) API {
	if seller >= 0 && seller < len(in.APIs) {
		return in.APIs[seller]
	}
	return API{}
}

// demanded grants what must happen whatever the others need: the way down, a doubt, and decreases that rules demand.
func (d *Decider) demanded(p *plan) {
	b, api := p.b, p.api
	shown, known := b.Shown()
	switch {
	case b.Open() && !b.Settling(): // taken in
		switch {
		case api.claims():
			d.grant(p, exposure.Write{Operation: write.Allot}, "take in")
		case api.quiesces():
			d.grant(p, exposure.Write{Operation: write.Absolute, Quantity: d.first(p)}, "take in")
		case api.Reads:
			d.grant(p, exposure.Write{Operation: write.Read}, "take in")
		}
	case b.doubt && !b.Settling():
		switch {
		case api.Reads:
			d.grant(p, exposure.Write{Operation: write.Read}, "look")
		case api.quiesces():
			d.grant(p, exposure.Write{Operation: write.Absolute}, "begin anew")
		}
	case !known:
		if p.share == 0 && (b.Open() || b.Exposure() > 0) && api.quiesces() {
			d.grant(p, exposure.Write{Operation: write.Absolute}, "stop")
		} else if api.Reads {
			d.grant(p, exposure.Write{Operation: write.Read}, "look")
		} else {
			d.audit(p, 0)
		}
	case d.audit(p, shown):
	case shown > 0 && p.share == 0 && (p.limit == 0 || p.b.retiring):
		d.lower(p, 0, "stop")
	case shown > p.limit+p.limit/10:
		d.lower(p, min(p.limit, max(p.share, 0)), "limit")
	case b.Open() && shown > p.share:
		d.lower(p, p.share, "way down")
	}
}

// first is what a channel whose exposure is not known is set to as it is taken in: 0, but under adaptive its part while there is plenty, more than twice over what may have
// been sold unseen everywhere. From the watermark on that passes the acknowledgement exposure is exact then, as after a 0.
func (d *Decider) first(p *plan) Units {
	if d.in.Rules.Guarantee != allocation.Adaptive || p.at < 0 || p.share <= p.keep || p.b.retiring || p.b.doubt {
		return 0
	}
	var kept Units
	mean := 0.0
	for i := range d.plans {
		q := &d.plans[i]
		if q.b == nil || q.at < 0 {
			continue
		}
		kept += q.keep
		if q.b.Open() {
			l := delay(d.in, q.offer.Seller)
			window := max(l.Event, d.in.Now-mark(d.in, q.offer.Seller)) + l.Write
			mean += float64(q.c.rate(d.in.Now)) / milli * float64(window) / 1e6
		}
	}
	if kept <= 2*most(mean) {
		return 0
	}
	return p.share - p.keep
}

// audit looks at a channel whose exposure has for a while been other than what it is thought to show: sales at the time of a read and restocked cancellations
// leave E too high, and room must not leak.
func (d *Decider) audit(p *plan, shown Units) bool {
	b := p.b
	e := b.Exposure()
	switch {
	case b.Open() || b.Settling():
		return false
	case e == shown && !b.suspect:
		b.audit, b.audits, b.twice = 0, 0, 0
		return false
	case b.audit == 0:
		b.audit = d.in.Now + auditAfter<<min(b.audits, 6)
	}
	if d.in.Now < b.audit {
		d.wakeAt(b.audit)
		return false
	}
	b.audit = 0
	b.audits++
	switch {
	case p.api.Reads:
		b.suspect = false
		return d.grant(p, exposure.Write{Operation: write.Read}, "look")
	case p.api.quiesces() && (shown == 0 || b.suspect || e-shown > p.share/2):
		b.suspect = false
		return d.grant(p, exposure.Write{Operation: write.Absolute}, "begin anew")
	}
	return false
}

func (d *Decider) wakeAt(t int64) {
	if d.s.wake == 0 || t < d.s.wake {
		d.s.wake = t
	}
}

// lower grants the strongest decrease to n that the channel has, and reports whether it did.
func (d *Decider) lower(p *plan, n Units, reason string) bool {
	b, api := p.b, p.api
	shown, known := b.Shown()
	if known && shown <= n && !b.doubt {
		return false
	}
	switch {
	case api.Operation == write.Absolute || api.quiesces() && (n == 0 || b.stale > 0):
		if known && shown == 0 {
			return false
		}
		if n > 0 && p.at >= 0 && !b.Open() && d.room(p) >= n {
			return d.grant(p, exposure.Write{Operation: write.Absolute, Quantity: n}, reason)
		}
		return d.grant(p, exposure.Write{Operation: write.Absolute}, reason)
	case api.Operation == write.CompareAndSet && known:
		return d.grant(p, exposure.Write{Operation: write.CompareAndSet, Expected: shown, Quantity: n}, reason)
	case api.claims() && known:
		return d.grant(p, exposure.Write{Operation: write.Allot, Delta: n - shown}, reason)
	case api.Operation == write.Delta && known:
		return d.grant(p, exposure.Write{Operation: write.Delta, Delta: n - shown}, reason)
	case api.Operation == write.Delta && !b.Open() && b.Exposure() > n && !api.Reads:
		return d.grant(p, exposure.Write{Operation: write.Delta, Delta: n - b.Exposure()}, reason)
	case api.Reads:
		return d.grant(p, exposure.Write{Operation: write.Read}, reason)
	}
	return false
}

// byCover orders the channels with the least of their share first; under a share by priority, by that.
func (d *Decider) byCover() {
	d.order = d.order[:0]
	for i := range d.plans {
		if p := &d.plans[i]; p.b != nil && p.at >= 0 && !p.b.Open() {
			d.order = append(d.order, i)
		}
	}
	if d.in.Rules.Share == allocation.ByPriority {
		slices.SortStableFunc(d.order, func(i, j int) int { return d.solver.Compare(d.plans[i].at, d.plans[j].at) })
		return
	}
	slices.SortStableFunc(d.order, func(i, j int) int {
		a, b := &d.plans[i], &d.plans[j]
		x, y := a.b.Exposure()*(b.share+1), b.b.Exposure()*(a.share+1)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}

// raise gives room to the channels that should show more.
func (d *Decider) raise() {
	d.byCover()
	for _, i := range d.order {
		p := &d.plans[i]
		b, api := p.b, p.api
		e := b.Exposure()
		want := p.share - p.keep - e
		if b.retiring || b.doubt || want <= 0 || e > 0 && want < p.share/4 || !d.free(p) {
			continue
		}
		n := min(want, d.room(p))
		if n <= 0 {
			continue
		}
		shown, known := b.Shown()
		switch api.Operation {
		case write.Delta, write.Allot:
			d.grant(p, exposure.Write{Operation: api.Operation, Delta: n}, "share")
		case write.CompareAndSet:
			if known {
				d.grant(p, exposure.Write{Operation: write.CompareAndSet, Expected: shown, Quantity: shown + n}, "share")
			}
		case write.Absolute: // on top of all that is exposed
			q := min(p.share-p.keep, d.room(p))
			if !known {
				shown = e
			}
			if e == 0 || q > shown+max(0, p.share/8) {
				d.grant(p, exposure.Write{Operation: write.Absolute, Quantity: q}, "share")
			}
		}
	}
}

// back is how long it takes until room comes back from a channel that is lowered, in microseconds: a write, and where it is set to 0 for that, the watermark that has to pass it.
func (d *Decider) back(p *plan) int64 {
	t := delay(d.in, p.b.seller).Write
	if p.api.Operation == write.Absolute {
		t += max(leastPass, min(stalled, d.in.Now-mark(d.in, p.b.seller)))
	}
	return t
}

// lend lowers the channels that hold far more than their share, as far as others have less than theirs: first those of which most comes back soonest.
func (d *Decider) lend() {
	var need, starving, coming Units
	for i := range d.plans {
		p := &d.plans[i]
		if p.b == nil || p.b.Open() {
			continue
		}
		e := p.b.Exposure()
		coming += p.coming()
		if _, flying, _ := p.b.InFlight(); flying {
			continue
		}
		if p.at >= 0 && !p.b.retiring && p.share > 0 && e <= p.share {
			want := p.share - p.keep - e // below zero where it holds some of what is kept back of its share: that much less is wanted
			need += want
			if want > 0 && e < max(1, p.share/4) {
				starving += want // what another keeps back does not serve it
			}
		}
	}
	need = max(need, starving)
	for coming < need {
		best, most := -1, Units(0)
		for i := range d.plans {
			p := &d.plans[i]
			if p.b == nil || p.b.Open() || !d.free(p) {
				continue
			}
			shown, known := p.b.Shown()
			over := p.b.Exposure() - p.share
			if known {
				over = min(over, shown-p.share)
			}
			least := max(1, p.share/4)
			if coming < starving { // little to this one, all to another
				least = 1
			}
			if p.api.Operation == write.Absolute {
				least = max(1, 2*p.share) // it goes off sale for a while
			}
			if worth := over * 1_000_000 / Units(1_000+d.back(p)/1_000); over >= least && worth > most {
				best, most = i, worth
			}
		}
		if best < 0 {
			return
		}
		p := &d.plans[best]
		shown, known := p.b.Shown()
		if !known {
			shown = p.b.Exposure()
		}
		if !d.lower(p, max(p.share, shown-(need-coming)), "lend") {
			return
		}
		coming += p.coming()
	}
}

// shortage lowers what is held beyond what there is: at once where that is exposed beyond what there physically is.
func (d *Decider) shortage() {
	if d.short() <= 0 {
		d.s.shortage = 0
		if !d.s.held && d.s.Guarded() {
			d.s.held, d.s.keep = true, true
		}
		return
	}
	d.input.Bare = true
	d.solver.Load(&d.input)
	d.hold(true)
	switch n := d.short() - d.s.yielding - d.s.explained(); {
	case n <= 0:
		d.s.shortage = 0
	case d.s.held && n > d.s.shortage: // before, it was pooled: each channel was told of all there was, and is lowered for that
		d.s.shortage = n
		d.s.alert(Alert{Kind: Shortage, Units: n, Cause: d.s.event, Message: "after " + d.s.kind.String() + ", channels may still sell " + num(n) +
			" units more than there are; they are lowered at once, and what was sold before that is an oversell"})
	}
	d.input.Bare = false
	d.solver.Load(&d.input)
	d.hold(false)
	for i := range d.plans { // what is on its way down already
		if p := &d.plans[i]; p.b != nil && p.at >= 0 {
			d.solver.Hold(p.at, -min(d.held(p, false), p.coming()))
		}
	}
	for d.short() > 0 {
		best, most := -1, Units(0)
		for i := range d.plans {
			p := &d.plans[i]
			if p.b == nil || p.at < 0 || p.b.Open() || d.solver.Room(p.at) >= 0 || !d.free(p) {
				continue
			}
			shown, known := p.b.Shown()
			over := p.b.Exposure() - p.share
			if known {
				over = min(over, shown-p.share)
			}
			if over > most {
				best, most = i, over
			}
		}
		if best < 0 {
			break
		}
		p := &d.plans[best]
		if !d.lower(p, p.share, "shortage") {
			break
		}
		d.solver.Hold(p.at, -min(d.held(p, false), p.coming()))
	}
	d.hold(false)
}

// short is by how much more is held than there is, in the scopes where it is most.
func (d *Decider) short() Units {
	var n Units
	for i := range d.plans {
		if p := &d.plans[i]; p.at >= 0 {
			n = max(n, d.gone-d.solver.Room(p.at))
		}
	}
	return n
}

// coming is by how much the exposure of the channel falls with what is on its way.
func (p *plan) coming() Units {
	if p.b.Open() {
		return 0
	}
	n := p.b.Due()
	if w, flying, _ := p.b.InFlight(); flying {
		switch w.Operation {
		case write.CompareAndSet:
			n += max(0, w.Expected-w.Quantity)
		case write.Delta, write.Allot:
			n += max(0, -w.Delta)
		case write.Absolute:
			n += max(0, p.b.Exposure()-n-w.Quantity)
		}
	}
	return n
}

// grant books a write and adds it to the decision. It reports whether it could.
func (d *Decider) grant(p *plan, w exposure.Write, reason string) bool {
	s, b := d.s, p.b
	before := Units(0)
	if p.at >= 0 {
		before = d.held(p, false)
	}
	room := allocation.MaxUnits
	if p.at >= 0 && !b.Open() {
		room = d.room(p)
	} else if p.at < 0 {
		room = 0
	}
	if b.Send(w, room) != nil {
		return false
	}
	if p.at >= 0 {
		d.solver.Hold(p.at, d.held(p, false)-before)
	}
	s.seq++
	s.seq = max(s.seq, d.in.Now)
	b.grant = s.ID + "/" + p.c.id + "/" + num(Units(s.seq))
	s.open++
	s.keep = true
	g := Grant{
		ID: b.grant, Channel: p.c.id, Seller: b.seller, ExternalID: b.external, Write: w, Target: p.share, Exposure: b.Exposure(),
		Withdrawn: b.retiring && b.offer < 0, Reason: reason,
	}
	if b.retiring {
		g.Target = 0
	}
	if b.Open() {
		g.Exposure = -1
	}
	d.out.Grants = append(d.out.Grants, g)
	return true
}
