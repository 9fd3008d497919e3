// Package exposure keeps the books that make an oversell impossible.
//
// For one SKU and one channel, exposure E is an upper bound on the units that the channel can still report as sold and the ledger has not
// deducted yet: what it shows now plus what it sold unseen, counting every write that is under way at its worst. While the sum of E over the channels
// that share a pool stays at or below what is available there, no order of sales, delays, crashes and retries can sell a unit twice: whatever
// is still to be reported is covered, and each sale that is seen lowers available and E together. Only writes move room between channels, and [SKU.Send]
// refuses one that there is no room for.
//
// The rules are those of the escrow method (O'Neil 1986) and the demarcation protocol (Barbará and Garcia-Molina 1992), with a channel's quantity
// field in the place of a site. What they assume of a channel: it sells a unit only while it shows one and lowers the number in the same step; nobody else raises
// its number, except the channel itself by restocking a cancelled order; of two writes to one SKU the older is never applied last, so that after an
// unknown outcome nothing is sent before a read that is known to come after it.
//
// Times are the channel's clock, in microseconds. The package does no I/O and reads no clock.
package exposure

import (
	"errors"
	"fmt"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// Units is a number of pieces.
type Units = event.Units

// ErrInFlight refuses a write while another to the same SKU and channel is under way or unresolved.
var ErrInFlight = errors.New("a write is under way")

// RoomError refuses a write that could raise exposure beyond what is available.
type RoomError struct{ Need, Room Units }

func (e *RoomError) Error() string {
	return fmt.Sprintf("write needs %d units of room and there are %d", e.Need, e.Room)
}

// Write is one change of what a channel shows, or with the operation [write.Read] a look at it.
type Write struct {
	Operation write.Operation
	Quantity  Units // Absolute and CompareAndSet: what to show
	Expected  Units // CompareAndSet: applied only if this is shown
	Delta     Units // Delta, Allot: signed change
}

// raise is the most by which the write can raise exposure.
func (w Write) raise() Units {
	switch w.Operation {
	case write.CompareAndSet:
		return max(0, w.Quantity-w.Expected)
	case write.Delta:
		return max(0, w.Delta)
	case write.Allot:
		return max(0, w.Delta)
	case write.Absolute: // all that was exposed may have sold unseen, and the write shows its quantity on top
		return w.Quantity
	default:
		return 0
	}
}

// Fence is a bound on exposure that comes into force when the channel's watermark passes At: every sale up to At has been seen by then.
type Fence struct {
	At     int64
	Raised Units // by writes and restocks since the bound was taken, less certain decreases: they come on top of it
	Sold   Units // seen, with a sold_at after At
	Shown  Units // at At the channel showed at most this (Anchor)
	Credit Units // at most E − Credit remains (a decrease by delta that may have met an emptied shelf)
	Anchor bool
}

// maxFences bounds the memory per SKU and channel; beyond it the oldest bound is given up, which keeps E too high, never too low.
const maxFences = 8

// Channel is the books of one SKU at one channel. Zero is a channel that shows nothing.
type Channel struct {
	e          Units
	open       bool  // E is not known: no bound has come into force since the channel was taken in
	belief     Units // what we think it shows: chooses expected values, never E
	known      bool
	write      Write
	inFlight   bool
	unresolved bool  // its outcome is unknown
	restocked  Units // seen since the write was sent
	seen       Units // sales seen since the write was sent
	watermark  int64
	fences     []Fence
}

// State is a [Channel] as plain values, to be kept and restored.
type State struct {
	E          Units
	Open       bool // E is not known
	Belief     Units
	Known      bool // Belief is
	Write      Write
	InFlight   bool
	Unresolved bool
	Restocked  Units
	Seen       Units
	Watermark  int64
	Fences     []Fence
}

// State appends nothing to and shares Fences with the channel: copy what must outlive its next change.
func (c *Channel) State() State {
	return State{
		E: c.e, Open: c.open, Belief: c.belief, Known: c.known, Write: c.write, InFlight: c.inFlight, Unresolved: c.unresolved,
		Restocked: c.restocked, Seen: c.seen, Watermark: c.watermark, Fences: c.fences,
	}
}

// Restore gives the books of a state. It copies.
func Restore(s State) Channel {
	return Channel{
		e: s.E, open: s.Open, belief: s.Belief, known: s.Known, write: s.Write, inFlight: s.InFlight, unresolved: s.Unresolved,
		restocked: s.Restocked, seen: s.Seen, watermark: s.Watermark, fences: append([]Fence(nil), s.Fences...),
	}
}

// Opened is the books of a channel that has been selling without any: its exposure is not known until a bound comes into force.
func Opened() Channel { return Channel{open: true} }

// Exposure is E: the most units the channel can still report as sold and the ledger has not deducted. It says nothing while the channel is [Channel.Open].
func (c *Channel) Exposure() Units { return c.e }

// Open reports that E is not known yet.
func (c *Channel) Open() bool { return c.open }

// Shown is what the channel is believed to show, and false when that is not known. It helps to choose a compare-and-set's expected value; the books do
// not depend on it.
func (c *Channel) Shown() (Units, bool) {
	if c.e == 0 && !c.open && !c.inFlight { // it can show nothing then
		return 0, true
	}
	return max(0, c.belief), c.known
}

// InFlight reports a write under way; unresolved one whose outcome is unknown until a read.
func (c *Channel) InFlight() (w Write, inFlight, unresolved bool) {
	return c.write, c.inFlight, c.unresolved
}

// Settling reports that some exposure waits for the channel's watermark.
func (c *Channel) Settling() bool { return len(c.fences) > 0 }

// SettlesAt is the earliest time at which the watermark brings a bound into force; 0 when none waits.
func (c *Channel) SettlesAt() int64 {
	if len(c.fences) == 0 {
		return 0
	}
	return c.fences[0].At
}

// Due is the credit that waits for the watermark: how much E may fall when all bounds have come into force.
func (c *Channel) Due() Units {
	e := c.e
	for i := range c.fences {
		e = c.fences[i].bound(e, c.open)
	}
	return c.e - e
}

// Watermark is the time up to which every order of the channel has been seen.
func (c *Channel) Watermark() int64 { return c.watermark }

// Sold books a sale that was seen: n units sold at soldAt. What was sold beyond E is returned: the channel broke the assumption that it sells only what it
// shows, somebody raised its number by hand, or a restock is yet to be seen.
func (c *Channel) Sold(n Units, soldAt int64) (breach Units) {
	c.belief -= n // below zero, a raise is yet to be acknowledged
	c.seen += n
	if !c.open {
		c.e -= n
		if c.e < 0 {
			breach, c.e = -c.e, 0
		}
	}
	for i := range c.fences {
		if f := &c.fences[i]; soldAt > f.At {
			f.Sold += n
		}
	}
	return breach
}

// Restocked books that the channel put n cancelled units back on sale by itself: its exposure rises with what is available.
func (c *Channel) Restocked(n Units) {
	if !c.open {
		c.e += n
	}
	c.belief += n
	c.restocked += n
	for i := range c.fences {
		c.fences[i].Raised += n
	}
}

// Send books a write before it is sent, given the room there is. It fails with [ErrInFlight] or a [RoomError] and changes nothing then.
func (c *Channel) Send(w Write, room Units) error {
	if c.inFlight {
		return ErrInFlight
	}
	need := w.raise()
	if need > 0 && need > room {
		return &RoomError{Need: need, Room: room}
	}
	if !c.open {
		c.e += need
	}
	for i := range c.fences {
		c.fences[i].Raised += need
	}
	c.write, c.inFlight, c.unresolved, c.restocked, c.seen = w, true, false, 0, 0
	return nil
}

// Applied books that the channel said it applied the write, at ackedAt (or later: the later it is taken to be, the longer E stays high). shown is what
// it says it shows since, when it says so. It returns by how much the answer proves E too low: somebody else raised what is shown.
func (c *Channel) Applied(ackedAt int64, shown Units, shownKnown bool) (raised Units) {
	if !c.inFlight || c.write.Operation == write.Read {
		return 0
	}
	w, moved := c.write, c.seen // sales seen meanwhile may have come after the write
	c.inFlight, c.unresolved = false, false
	switch w.Operation {
	case write.CompareAndSet:
		// It showed exactly the expected number, so no sale was forgotten: the write was an exact difference.
		c.lower(w.Expected - w.Quantity)
		c.belief, c.known = w.Quantity-moved, true
		raised = c.atLeast(w.Quantity - moved)
	case write.Delta:
		c.belief += w.Delta
		if d := -w.Delta; d > 0 {
			if shownKnown && shown > 0 {
				c.lower(d)
			} else {
				c.addFence(Fence{At: ackedAt, Raised: c.restocked, Credit: d})
			}
		}
	default:
		c.belief, c.known = w.Quantity-moved, true
		if !shownKnown {
			c.addFence(Fence{At: ackedAt, Raised: c.restocked, Shown: w.Quantity, Anchor: true})
		}
	}
	if shownKnown {
		shown = max(0, shown)
		c.belief, c.known = shown-moved, true
		if w.Operation == write.Absolute || c.open || c.e > shown {
			c.addFence(Fence{At: ackedAt, Raised: c.restocked, Shown: shown, Anchor: true})
		}
		raised += c.atLeast(shown - moved)
	}
	c.settle()
	return raised
}

// NotApplied books that the write certainly did nothing and never will.
func (c *Channel) NotApplied() {
	if !c.inFlight {
		return
	}
	c.inFlight, c.unresolved = false, false
	c.lower(c.write.raise())
}

// Unknown books that nobody knows what became of the write. E keeps the worst case, and nothing more is sent until [Channel.Read] or [Channel.Abandoned].
func (c *Channel) Unknown() {
	c.unresolved = c.inFlight
	c.known = false
}

// Abandoned books that nobody will ever know what became of the write, and that it can no longer be applied. E keeps the worst case.
func (c *Channel) Abandoned() {
	c.inFlight, c.unresolved, c.known = false, false, false
}

// Read books what the channel showed at a moment (or before at; the later it is taken to be, the longer E stays high). With a write unresolved, the caller vouches
// that the write can no longer be applied after that moment. It reports false and changes nothing while a write is properly under way: the read may
// be from before it. raised is by how much it proves E too low: somebody else raised what is shown.
func (c *Channel) Read(shown Units, at int64) (raised Units, ok bool) {
	if c.inFlight && !c.unresolved && c.write.Operation != write.Read {
		return 0, false
	}
	return c.look(shown, at), true
}

// RefusedShowing is [Channel.NotApplied] with an answer that says what the channel shows, from a request that was sent before at; see [Channel.Read].
func (c *Channel) RefusedShowing(shown Units, at int64) (raised Units) {
	if !c.inFlight {
		return 0
	}
	c.lower(c.write.raise())
	return c.look(shown, at)
}

// look takes in what the channel showed at some time since the write was sent, if one is in flight. Sales and restocks seen since then may be in it, or come
// on top of it.
func (c *Channel) look(shown Units, at int64) (raised Units) {
	var moved, restocked Units
	if c.inFlight {
		moved, restocked = c.seen, c.restocked
	}
	c.inFlight, c.unresolved = false, false
	shown = max(0, shown)
	c.belief, c.known = shown-moved, true
	c.addFence(Fence{At: at, Raised: restocked, Shown: shown, Anchor: true})
	raised = c.atLeast(shown - moved)
	c.settle()
	return raised
}

// Seen moves the channel's watermark: every order that it took up to w has been seen. A watermark never goes back. It reports whether a bound came into
// force.
func (c *Channel) Seen(w int64) bool {
	if w <= c.watermark {
		return false
	}
	c.watermark = w
	n := len(c.fences)
	c.settle()
	return len(c.fences) < n
}

// lower takes a certain decrease of what the channel shows out of E, and out of what is added to the bounds taken before it.
func (c *Channel) lower(d Units) {
	if d <= 0 {
		return
	}
	if !c.open {
		c.e = max(0, c.e-d)
	}
	for i := range c.fences {
		c.fences[i].Raised -= d
	}
}

// atLeast takes in the proof that the channel can still report n units, and returns by how much E was below that.
func (c *Channel) atLeast(n Units) (raised Units) {
	if c.open || n <= c.e {
		return 0
	}
	raised, c.e = n-c.e, n
	for i := range c.fences {
		c.fences[i].Raised += raised
	}
	return raised
}

func (c *Channel) addFence(f Fence) {
	if n := len(c.fences); n > 0 { // bounds come into force in the order they were taken, whatever the channel's clock says
		f.At = max(f.At, c.fences[n-1].At)
	}
	if len(c.fences) == maxFences {
		c.fences = append(c.fences[:0], c.fences[1:]...)
	}
	c.fences = append(c.fences, f)
}

// bound is what remains of e once the fence is in force.
func (f *Fence) bound(e Units, open bool) Units {
	b := f.Shown + f.Raised - f.Sold
	if !f.Anchor {
		if open {
			return e
		}
		b = max(f.Raised-f.Sold, e-f.Credit)
	}
	if open {
		return max(0, b)
	}
	return min(e, max(0, b))
}

// settle brings the bounds into force that the watermark has passed.
func (c *Channel) settle() {
	n := 0
	for i := range c.fences {
		f := &c.fences[i]
		if c.watermark < f.At {
			c.fences[n] = *f
			n++
			continue
		}
		c.e = f.bound(c.e, c.open)
		c.open = c.open && !f.Anchor
	}
	c.fences = c.fences[:n]
}

// SKU is the books of one SKU in one pool of stock that all its channels draw on.
type SKU struct {
	Available Units // as the ledger says: seen sales are deducted
	Hold      Units // kept for demand that is in no channel's exposure
	Channels  []Channel
}

// Exposed is the sum of E over the channels.
func (s *SKU) Exposed() Units {
	var n Units
	for i := range s.Channels {
		n += s.Channels[i].e
	}
	return n
}

// Room is what is available beyond all exposure and the hold. Negative means the promise is broken from outside (a count, damage), and
// calls for decreases. It says nothing while a channel is [Channel.Open].
func (s *SKU) Room() Units { return s.Available - s.Hold - s.Exposed() }

// Sold books a sale of channel c that was seen; see [Channel.Sold]. Available and E fall together.
func (s *SKU) Sold(c int, n Units, soldAt int64) (breach Units) {
	s.Available -= n
	return s.Channels[c].Sold(n, soldAt)
}

// Cancelled books a cancellation of n units before they shipped; see [Channel.Restocked] for those that the channel put back on sale by itself.
func (s *SKU) Cancelled(c int, n Units, restockedByChannel bool) {
	s.Available += n
	if restockedByChannel {
		s.Channels[c].Restocked(n)
	}
}

// Send books a write to channel c before it is sent; see [Channel.Send].
func (s *SKU) Send(c int, w Write) error { return s.Channels[c].Send(w, s.Room()) }
