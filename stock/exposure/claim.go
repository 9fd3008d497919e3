package exposure

import "github.com/onhand/onhand/stock/write"

// A claim channel asks before it sells: what it may take is a number in the ledger, its allotment. It is not shown anywhere, so there is nothing to believe and nothing
// to wait for: exposure is what is left of the allotment, as the level says that available comes from, and what a change under way may add.

// Claimed books what is left of a claim channel's allotment, as a level says. changed says that the change under way is in it: it is over then.
func (c *Channel) Claimed(left Units, changed bool) {
	if changed {
		c.inFlight, c.unresolved = false, false
	}
	c.e, c.open, c.belief, c.known = left, false, left, true
	if c.inFlight {
		c.e += c.write.raise()
	}
}

// Lost books that a claim channel is held to no allotment: it may take all there is, and E is not known.
func (c *Channel) Lost() { c.open, c.known = true, false }

// Claims says that the write changes what a claim channel may take.
func (w Write) Claims() bool { return w.Operation == write.Allot || w.Operation == write.Lift }
