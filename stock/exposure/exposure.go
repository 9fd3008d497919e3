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

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
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

// Write is one change of what a channel shows.
type Write struct {
	Operation catalog.Operation
	Quantity  Units // Absolute and CompareAndSet: what to show
	Expected  Units // CompareAndSet: applied only if this is shown
	Delta     Units // Delta: signed change
}

// raise is the most by which the write can raise exposure.
func (w Write) raise() Units {
	switch w.Operation {
	case catalog.CompareAndSet:
		return max(0, w.Quantity-w.Expected)
	case catalog.Delta:
		return max(0, w.Delta)
	default: // absolute: all that was exposed may have sold unseen, and the write shows its quantity on top
		return w.Quantity
	}
}

// fence is a bound on exposure that comes into force when the channel's watermark passes At: every sale up to At has been seen by then.
type fence struct {
	at     int64
	raised Units // by writes and restocks since the bound was taken: they come on top of it
	sold   Units // seen, with a sold_at after At
	shown  Units // at At the channel showed at most this (anchor)
	credit Units // at most E − credit remains (a decrease by delta that may have met an emptied shelf)
	anchor bool
}

// maxFences bounds the memory per SKU and channel; beyond it the oldest bound is given up, which keeps E too high, never too low.
const maxFences = 8

// Channel is the books of one SKU at one channel. Zero is a channel that shows nothing.
type Channel struct {
	e          Units
	belief     Units // what we think it shows: chooses expected values, never E
	known      bool
	write      Write
	inFlight   bool
	unresolved bool  // its outcome is unknown
	restocked  Units // seen since the write was sent
	watermark  int64
	fences     []fence
}

// Exposure is E: the most units the channel can still report as sold and the ledger has not deducted.
func (c *Channel) Exposure() Units { return c.e }

// Shown is what the channel is believed to show, and false when that is not known. It helps to choose a compare-and-set's expected value; the books do
// not depend on it.
func (c *Channel) Shown() (Units, bool) { return c.belief, c.known }

// InFlight reports a write under way; unresolved one whose outcome is unknown until a read.
func (c *Channel) InFlight() (w Write, inFlight, unresolved bool) {
	return c.write, c.inFlight, c.unresolved
}

// Settling reports that some exposure waits for the channel's watermark.
func (c *Channel) Settling() bool { return len(c.fences) > 0 }

// Watermark is the time up to which every order of the channel has been seen.
func (c *Channel) Watermark() int64 { return c.watermark }

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
// calls for decreases.
func (s *SKU) Room() Units { return s.Available - s.Hold - s.Exposed() }

// Sold books a sale that was seen: n units that channel c sold at soldAt. Available and E fall together. What c sold beyond its exposure is returned: it broke the
// assumption that it sells only what it shows, or somebody raised its number by hand.
func (s *SKU) Sold(c int, n Units, soldAt int64) (breach Units) {
	ch := &s.Channels[c]
	s.Available -= n
	ch.belief -= n
	ch.e -= n
	if ch.e < 0 {
		breach, ch.e = -ch.e, 0
	}
	for i := range ch.fences {
		if f := &ch.fences[i]; soldAt > f.at {
			f.sold += n
		}
	}
	return breach
}

// Cancelled books a cancellation of n units before they shipped. When the channel put them back on sale by itself, its exposure rises with
// what is available.
func (s *SKU) Cancelled(c int, n Units, restockedByChannel bool) {
	s.Available += n
	if !restockedByChannel {
		return
	}
	ch := &s.Channels[c]
	ch.e += n
	ch.belief += n
	ch.restocked += n
	for i := range ch.fences {
		ch.fences[i].raised += n
	}
}

// Send books a write before it is sent. It fails with [ErrInFlight] or a [RoomError] and changes nothing then.
func (s *SKU) Send(c int, w Write) error {
	ch := &s.Channels[c]
	if ch.inFlight {
		return ErrInFlight
	}
	need := w.raise()
	if need > 0 {
		if room := s.Room(); need > room {
			return &RoomError{Need: need, Room: room}
		}
	}
	ch.e += need
	for i := range ch.fences {
		ch.fences[i].raised += need
	}
	ch.write, ch.inFlight, ch.unresolved, ch.restocked = w, true, false, 0
	return nil
}

// Applied books that the channel said it applied the write, at ackedAt. For a decrease by delta, shown is what it says it shows now,
// when it says so: above zero it proves that the whole decrease was met.
func (s *SKU) Applied(c int, ackedAt int64, shown Units, shownKnown bool) {
	ch := &s.Channels[c]
	if !ch.inFlight {
		return
	}
	w := ch.write
	ch.inFlight, ch.unresolved = false, false
	switch w.Operation {
	case catalog.CompareAndSet:
		// It showed exactly the expected number, so no sale was forgotten: the write was an exact difference.
		if d := w.Expected - w.Quantity; d > 0 {
			ch.lower(d)
		}
		ch.belief, ch.known = w.Quantity, true
	case catalog.Delta:
		ch.belief += w.Delta
		if d := -w.Delta; d > 0 {
			if shownKnown && shown > 0 {
				ch.lower(d)
			} else {
				ch.addFence(fence{at: ackedAt, raised: ch.restocked, credit: d})
			}
		}
	default:
		ch.belief, ch.known = w.Quantity, true
		ch.addFence(fence{at: ackedAt, raised: ch.restocked, shown: w.Quantity, anchor: true})
	}
	if shownKnown {
		ch.belief, ch.known = shown, true
	}
	ch.settle()
}

// NotApplied books that the write certainly did nothing and never will.
func (s *SKU) NotApplied(c int) {
	ch := &s.Channels[c]
	if !ch.inFlight {
		return
	}
	ch.inFlight, ch.unresolved = false, false
	ch.lower(ch.write.raise())
}

// Unknown books that nobody knows what became of the write. E keeps the worst case, and nothing more is sent until [SKU.Read].
func (s *SKU) Unknown(c int) {
	ch := &s.Channels[c]
	ch.unresolved = ch.inFlight
	ch.known = false
}

// Read books what the channel showed at a moment. With a write unresolved, the caller vouches that the write can no longer be applied after
// that moment. It returns false and changes nothing while a write is properly under way: the read may be from before it.
func (s *SKU) Read(c int, shown Units, at int64) bool {
	ch := &s.Channels[c]
	if ch.inFlight && !ch.unresolved {
		return false
	}
	ch.inFlight, ch.unresolved = false, false
	ch.belief, ch.known = shown, true
	ch.addFence(fence{at: at, shown: max(0, shown), anchor: true})
	ch.settle()
	return true
}

// Seen moves the channel's watermark: every order that it took up to w has been seen. A watermark never goes back.
func (s *SKU) Seen(c int, w int64) {
	ch := &s.Channels[c]
	ch.watermark = max(ch.watermark, w)
	ch.settle()
}

// lower takes a certain decrease of what the channel shows out of E, and out of the bounds taken before it.
func (c *Channel) lower(d Units) {
	c.e = max(0, c.e-d)
}

func (c *Channel) addFence(f fence) {
	if n := len(c.fences); n > 0 { // bounds come into force in the order they were taken, whatever the channel's clock says
		f.at = max(f.at, c.fences[n-1].at)
	}
	if len(c.fences) == maxFences {
		c.fences = c.fences[1:]
	}
	c.fences = append(c.fences[:len(c.fences):len(c.fences)], f) // copies of a state share nothing
}

// settle brings the bounds into force that the watermark has passed.
func (c *Channel) settle() {
	kept := c.fences[:0:0]
	for _, f := range c.fences {
		if c.watermark < f.at {
			kept = append(kept, f)
			continue
		}
		bound := max(f.raised, c.e-f.credit)
		if f.anchor {
			bound = max(0, f.shown-f.sold) + f.raised
		}
		c.e = min(c.e, bound)
	}
	c.fences = kept
}
