package escrow

import (
	"strconv"
	"strings"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
)

// Units is a number of pieces.
type Units = event.Units

// Phase is how the SKU is kept now. Zero is Pooled.
type Phase uint8

// The phases.
const (
	Pooled  Phase = iota // no books
	Strict               // only granted writes may go out
	Leaving              // as Strict, but nothing more is granted: pooled as soon as no write is open
)

var phaseNames = [...]string{"pooled", "strict", "leaving"}

// String is the phase's name in targets and in explanations.
func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return "unknown"
}

// API is what can be done with a channel.
type API struct {
	Operation write.Operation // absolute, delta or compare-and-set; allot for a channel that asks before it sells; unspecified for one that is never written
	SetsAny   bool            // a compare-and-set channel that can also be set whatever it shows
	Reads     bool            // what it shows can be read
	Bundle    bool            // it stands for a bundle that the SKU is a component of: an allotment is taken back when the bundle has agreed
}

// claims says that the channel asks before it sells: what it may take is a number in the ledger.
func (a API) claims() bool { return a.Operation == write.Allot }

// APIOf is what can be done with a channel by its settings.
func APIOf(ch *catalog.Channel) API {
	switch {
	case ch.Adapter == catalog.Claim:
		return API{Operation: write.Allot}
	case !ch.Written():
		return API{}
	}
	return API{Operation: ch.Operation, SetsAny: ch.SetsAny, Reads: !ch.WriteOnly}
}

// WayDown says that a channel with unknown exposure can be brought under the books.
func (a API) WayDown() bool {
	return a.quiesces() || a.claims() || a.Operation != write.UnspecifiedOperation && a.Reads
}

// quiesces says that the channel can be set to 0 whatever it shows.
func (a API) quiesces() bool {
	return a.Operation == write.Absolute || a.Operation == write.CompareAndSet && a.SetsAny
}

// Offer is one channel that lists the SKU.
type Offer struct {
	Seller     int    // the layout's number
	ExternalID string // the SKU's id at the channel
	Paused     bool
	Margin     int64  // earned per unit (catalog.Margin), for channels of one priority; asked only where the share is by priority
	Hindrance  string // of a bundle: why its channels cannot be brought under the books; empty when they can
}

// Delay is how long a channel takes, in microseconds, as measured (p95).
type Delay struct {
	Event int64 // from a sale to the level that carries it
	Write int64 // from a decision to its acknowledgement
}

// DefaultDelay is assumed of a channel that was not measured yet.
var DefaultDelay = Delay{Event: 2_000_000, Write: 1_000_000}

// DefaultSkew is how far a channel's clock is taken to be off, in microseconds.
const DefaultSkew int64 = 2_000_000

// Counter is the cumulative counts of one channel's sales of the SKU.
type Counter struct {
	Channel    string
	Sold       Units
	Restored   Units // cancelled units that the channel put back on sale by itself
	EarliestAt int64 // earliest sold_at of the units that this level adds to the one before it; 0 when not known
}

// Level is what the ledger says of the SKU after an event.
type Level struct {
	Version   int64
	Previous  int64     // version of the level before it; 0 when not known
	Available Units     // in all locations, less unassigned
	Counters  []Counter // channels that are not named have not sold since the level before
	Allotted  []ledger.Allotment
	At        int64  // when it was decided or received, caller's clock
	Event     string // id of the event behind it, for alerts
	Kind      event.Kind
}

// Result is what is known of a granted write.
type Result struct {
	ID         string
	Channel    string
	Outcome    write.Outcome
	Settled    bool  // of an unknown outcome: it can no longer be applied
	AckedAt    int64 // when the channel answered, pusher's clock
	Shown      Units
	ShownKnown bool
	ShownAt    int64 // when the answer that told Shown came: it was shown at some moment up to then; 0 when not known: AckedAt counts
	ErrorCode  string
}

// ResultOf is the result of a write as channel.writes carries it.
func ResultOf(r *write.Result) Result {
	return Result{
		ID: r.WriteID, Channel: r.Channel, Outcome: r.Outcome, Settled: r.Settled, AckedAt: r.AckedAt, Shown: r.Shown, ShownKnown: r.ShownKnown,
		ShownAt: r.ShownAt, ErrorCode: r.ErrorCode,
	}
}

// Grant is one write that may go out. It is booked already: publish it, or lose room until its result comes.
type Grant struct {
	ID         string // unique; idempotency key
	Channel    string
	Seller     int // the layout's number, -1 when the channel is gone from it
	ExternalID string
	Write      exposure.Write
	Target     Units // what the channel should show once all is settled
	Exposure   Units // once the write is booked; -1 when it is not known yet
	Withdrawn  bool  // the channel no longer lists the SKU under that id
	Reason     string
}

// AlertKind says what is wrong.
type AlertKind uint8

// The kinds.
const (
	Breach    AlertKind = iota + 1 // a channel sold more than it was exposed to
	Shortage                       // less is available than is exposed
	Raised                         // a channel shows more than Onhand let it
	Refusing                       // a channel refuses the writes of the SKU
	Waiting                        // a channel's order watermark does not move, and room waits for it
	Unguarded                      // a channel cannot be brought under the books, and is given nothing
)

var alertNames = [...]string{"", "breach", "shortage", "raised", "refusing", "waiting", "unguarded"}

// String is the kind's name.
func (k AlertKind) String() string {
	if int(k) < len(alertNames) {
		return alertNames[k]
	}
	return "unknown"
}

// Alert is something that a person should know.
type Alert struct {
	Kind    AlertKind
	Channel string
	Units   Units
	Cause   string // event or write id
	Message string
}

// SKU is all that is known of one SKU. Zero with an ID is one of which nothing is.
type SKU struct {
	ID string

	phase     Phase
	seen      bool // a level was taken in
	version   int64
	available Units
	seq       int64
	calm      int64 // adaptive: more than 2 T has been available since; 0
	wake      int64 // decide again at that time at the latest
	terms     int64 // version of the settings last decided by
	started   bool  // decided at least once since it was restored
	dirty     bool  // something happened that needs a decision
	shared    bool  // decided as pooled before: channels were told of stock
	scoped    bool  // channels sell from different places: any change of stock needs a decision
	keep      bool  // the books changed in a way that a restart would not find out by itself
	channels  []channel
	open      int  // grants without a result
	claiming  bool // levels have told of allotments, or there are books of claim channels
	settling  bool // a channel may have bounds that wait for its watermark
	shortage  Units
	held      bool // since it was taken into the books, no more was exposed than there was, once
	event     string
	kind      event.Kind
	alerts    []Alert
	consents  []Consent // of a bundle
	yielding  Units     // of a bundle: by how much less it is to have than it could, as its components' owners ask
}

// channel is one channel that ever sold the SKU or was in its books, in order of id.
type channel struct {
	id             string
	allotted       bool // a claim channel that is held to an allotment, as the level says
	sold, restored Units
	fast, slow     int64 // decayed counts, in thousandths of a unit
	at             int64 // of both
	book           *book
}

// book is a channel under the books.
type book struct {
	exposure.Channel
	external string
	grant    string // id of the open write
	claim    bool   // it asks before it sells
	low      Units  // at or below that, it is time to look again
	share    Units  // what it should show
	failures int
	stale    int   // compare-and-sets in a row that found another number than expected
	backoff  bool  // the last write failed: wait
	retry    int64 // do not write before
	doubt    bool  // E may be wrong: look, or begin anew
	suspect  bool  // a restock may have been overwritten before it was seen: E may be too high
	surplus  surplus
	twice    Units // cancelled units that it put on sale again, and that E had in it before they were told: it is that much too high, until somebody looks
	pooled   bool  // taken in from pooled: it was told to show all there was
	since    int64 // when it was taken in
	stuck    bool  // said so already
	audit    int64 // look then, if what it is thought to show is still not what it is exposed to; 0
	audits   int   // done in a row

	seller   int
	offer    int // index in the input's offers; -1 when the channel no longer lists the SKU
	retiring bool
}

// surplus is what a channel sold or showed beyond its exposure. A cancelled unit that it put on sale again by itself, and sold or told of before the cancellation was seen, looks like that; so nobody is
// told before the order watermark says that no cancellation is missing.
type surplus struct {
	units Units  // not explained by a cancellation yet
	at    int64  // the order watermark that passes it leaves none to come; 0: set by the next decision
	cause string // the first event or write behind it
	shown bool   // it was what the channel showed, not what it sold
}

// exceeds takes in that a channel had n units more than it was exposed to.
func (s *SKU) exceeds(b *book, n Units, cause string, shown bool) {
	if x := &b.surplus; x.units == 0 {
		*x = surplus{cause: cause, shown: shown}
	}
	b.surplus.units += n
	b.doubt, s.dirty, s.keep = true, true, true
}

// tell raises the alert of a surplus.
func (s *SKU) tell(c *channel) {
	x := &c.book.surplus
	a := Alert{Kind: Breach, Channel: c.id, Units: x.units, Cause: x.cause,
		Message: c.id + " sold " + num(x.units) + " more than it was exposed to: its number was raised by hand, or it sells beyond what it shows"}
	if x.shown {
		a.Kind = Raised
		a.Message = c.id + " shows " + num(x.units) + " more than Onhand let it: its number was raised by hand"
	}
	s.alert(a)
	*x = surplus{}
}

// explained is by how much less is available, or more is exposed, than there will be once all is seen: cancelled units that channels put on sale again by themselves, or may have.
func (s *SKU) explained() (n Units) {
	for i := range s.channels {
		if b := s.channels[i].book; b != nil {
			n += b.surplus.units + b.twice
		}
	}
	return n
}

// Phase is how the SKU is kept now.
func (s *SKU) Phase() Phase { return s.phase }

// Version is that of the newest level taken in.
func (s *SKU) Version() int64 { return s.version }

// Kept reports that the books changed since [SKU.Kept] was last called in a way that a restart would not find out by itself: they must be stored with what was decided.
func (s *SKU) Kept() bool {
	k := s.keep
	s.keep = false
	return k
}

// Guarded reports that exposure is known at every channel: the promise holds.
func (s *SKU) Guarded() bool {
	if s.phase == Pooled {
		return false
	}
	for i := range s.channels {
		if b := s.channels[i].book; b != nil && b.Open() {
			return false
		}
	}
	return true
}

// Settled reports that exposure is known at every channel, and no bound of it waits for an order watermark.
func (s *SKU) Settled() bool {
	if !s.Guarded() {
		return false
	}
	for i := range s.channels {
		if b := s.channels[i].book; b != nil && b.Settling() {
			return false
		}
	}
	return true
}

// Audit has each channel whose exposure is other than what it is thought to show looked at with the next decision, rather than after a while.
func (s *SKU) Audit() {
	for i := range s.channels {
		b := s.channels[i].book
		if b == nil || b.Open() {
			continue
		}
		if shown, known := b.Shown(); !known || b.suspect || shown != b.Exposure() {
			b.audit, s.dirty = 1, true
		}
	}
}

// Exposed is the sum of E over the channels whose exposure is known.
func (s *SKU) Exposed() Units {
	var n Units
	for i := range s.channels {
		if b := s.channels[i].book; b != nil && !b.Open() {
			n += b.Exposure()
		}
	}
	return n
}

// Available is what the newest level says, over all locations.
func (s *SKU) Available() Units { return s.available }

// View is one channel of a SKU under the books.
type View struct {
	Channel    string
	ExternalID string
	Exposure   Units
	Known      bool // Exposure is
	Shown      Units
	ShownKnown bool
	Share      Units // what it should show
	OpenWrite  string
	Settles    int64 // a bound waits for the channel's watermark to pass it; 0
	Watermark  int64
}

// View is what the books say of a channel, and false when it is not in them.
func (s *SKU) View(id string) (View, bool) {
	c := s.find(id)
	if c == nil || c.book == nil {
		return View{}, false
	}
	b := c.book
	v := View{
		Channel: c.id, ExternalID: b.external, Exposure: b.Exposure(), Known: !b.Open(), Share: b.share, OpenWrite: b.grant, Settles: b.SettlesAt(),
		Watermark: b.Watermark(),
	}
	v.Shown, v.ShownKnown = b.Shown()
	return v, true
}

func (s *SKU) find(id string) *channel {
	for i := range s.channels {
		if s.channels[i].id == id {
			return &s.channels[i]
		}
	}
	return nil
}

// channel finds a channel, or makes it. Others may move.
func (s *SKU) channel(id string) *channel {
	at := len(s.channels)
	for i := range s.channels {
		c := &s.channels[i]
		if c.id == id {
			return c
		}
		if c.id > id {
			at = i
			break
		}
	}
	s.channels = append(s.channels, channel{})
	copy(s.channels[at+1:], s.channels[at:])
	s.channels[at] = channel{id: strings.Clone(id)}
	return &s.channels[at]
}

// Level takes in what the ledger says. It returns false, and changes nothing, when that is not newer than what is known.
func (s *SKU) Level(l *Level) bool {
	if s.seen && l.Version <= s.version {
		return false
	}
	follows := l.Previous != 0 && l.Previous == s.version
	expected := s.available
	var last *book // of those that sold or restocked
	var again Units
	for i := range l.Counters {
		n := &l.Counters[i]
		c := s.channel(n.Channel)
		sold, restored := n.Sold-c.sold, n.Restored-c.restored
		c.sold, c.restored = n.Sold, n.Restored
		if sold > 0 && s.seen {
			c.count(sold, l.At)
		}
		b := c.book
		if b == nil || b.claim || sold <= 0 && restored <= 0 { // a claim channel's allotment says it all
			continue
		}
		expected += max(0, restored) - max(0, sold)
		last, again = b, max(0, restored)
		if restored > 0 {
			b.Restocked(restored)
			b.suspect, s.dirty, s.keep = true, true, true
			if n := min(restored, b.surplus.units); n > 0 {
				b.twice += n
				if b.surplus.units -= n; b.surplus.units == 0 {
					b.surplus = surplus{}
				}
			}
		}
		if sold > 0 {
			at := n.EarliestAt
			if !follows {
				at = 0
			}
			if breach := b.Sold(sold, at); breach > 0 {
				s.exceeds(b, breach, l.Event, false)
			}
			if b.Exposure() <= b.low || b.Open() {
				s.dirty = true
			}
		}
	}
	expected += s.claimed(l.Allotted)
	if diff := expected - l.Available; last != nil && follows { // a cancellation that is seen before its sale: what it put back is exposed, and available only once the sale is seen
		switch {
		case diff > 0 && l.Kind == event.SaleCancelled:
			last.twice += min(diff, again)
		case diff < 0 && l.Kind == event.SaleRecorded:
			last.twice -= min(-diff, last.twice)
		}
	}
	if !s.seen || l.Available != expected {
		s.dirty = true
	}
	s.seen, s.version, s.available = true, l.Version, l.Available
	if s.phase != Strict || s.scoped {
		s.dirty = true
	}
	s.event, s.kind = l.Event, l.Kind
	return true
}

func (s *SKU) alert(a Alert) { s.alerts = append(s.alerts, a) }

// Result takes in what is known of a granted write. It returns false, and changes nothing, when the write is not the open one of its channel.
func (s *SKU) Result(res *Result, skew int64) bool {
	known := *res
	r := &known
	c := s.find(r.Channel)
	if c == nil || c.book == nil || c.book.claim || c.book.grant == "" || c.book.grant != r.ID {
		return false
	}
	b := c.book
	w, _, _ := b.InFlight()
	shownAt := r.ShownAt
	r.ShownKnown = r.ShownKnown && max(shownAt, r.AckedAt) > 0
	if shownAt == 0 {
		shownAt = r.AckedAt
	}
	var raised Units
	done := true
	switch r.Outcome {
	case write.Applied:
		switch {
		case r.AckedAt <= 0: // nobody can say which sales came before it
			b.Abandoned()
			b.doubt = true
		case w.Operation != write.Read:
			raised = b.Applied(r.AckedAt+skew, r.Shown, r.ShownKnown)
			b.doubt = b.doubt && w.Operation != write.Absolute
		case r.ShownKnown:
			raised, _ = b.Read(r.Shown, shownAt+skew)
			b.doubt = false
		default:
			b.Abandoned()
			b.backoff = true
		}
		b.failures, b.stale = 0, 0
	case write.Refused, write.NotSent:
		switch {
		case r.ShownKnown:
			raised = b.RefusedShowing(r.Shown, shownAt+skew)
		case w.Operation == write.CompareAndSet && r.ErrorCode == Stale:
			b.NotApplied()
			b.Unknown() // only forgets what we thought it shows
		default:
			b.NotApplied()
			b.suspect = b.suspect || w.Operation == write.Read || w.Operation == write.Absolute && w.Quantity == 0 // nobody has looked
		}
		if r.ErrorCode == Stale && r.Outcome == write.Refused {
			b.stale++
		}
		if b.stale == 0 || b.stale > 3 { // a race lost on a busy SKU is soon won, or it is not
			b.failures++
			b.backoff = true
		}
	case write.Unknown:
		switch {
		case !r.Settled:
			b.Unknown()
			done = false
		case r.ShownKnown:
			raised, _ = b.Read(r.Shown, shownAt+skew)
		default:
			b.Abandoned()
			b.doubt = true
		}
	default:
		return false
	}
	if raised > 0 {
		s.exceeds(b, raised, r.ID, true)
	}
	if done {
		b.grant = ""
		s.open--
	}
	s.dirty, s.keep, s.settling = true, true, true
	return true
}

// Stale is the error code of a compare-and-set that found another number than it expected.
const Stale = "stale"

func num(u Units) string { return strconv.FormatInt(int64(u), 10) }

// Input is what a decision depends on beside the SKU's own state. Slices are by the layout's channel numbers, unless said.
type Input struct {
	Now        int64 // microseconds
	Version    int64 // of settings and listing together: another version is decided by at once
	Layout     *allocation.Layout
	Rules      *allocation.Rules
	Offers     []Offer // channels that list the SKU, in order of number
	APIs       []API
	Stock      []allocation.Stock // with the layout's place numbers
	Unassigned Units
	Delays     []Delay // as measured; DefaultDelay where zero or missing
	Marks      []int64 // order watermarks, the channel's clock; 0 when there is none. Only those behind whose levels the SKU's level is
	Skew       int64   // how far channels' clocks may be off
}

// Decision is what follows. It belongs to the decider until its next decision.
type Decision struct {
	Phase     Phase
	Entered   bool // the phase is another than before
	Grants    []Grant
	Alerts    []Alert
	Hindrance string // why an adaptive SKU that should be strict is not
	Wake      int64  // decide again at that time at the latest; 0 when there is no need
}
