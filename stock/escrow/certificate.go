package escrow

// Certificate says how well the invariant held, for the SKUs of one partition on one day: over the channels that share stock, exposure is never more than what is
// available. Zero with a day and a partition has seen nothing.
type Certificate struct {
	Day        string // UTC, 2006-01-02
	Partition  int32
	Checked    int64  // times that the invariant was checked
	LeastSlack Units  // by which available exceeded exposure, at the least, but for cancelled units that a channel put on sale again before they were told; nothing when Checked is 0
	Tightest   string // the SKU where that was
	TightestAt int64  // when, caller's clock
	Breaches   int64  // checks that found less available than exposed
	Granted    int64  // writes
	Unknown    int64  // decisions while exposure was not known at every channel: the invariant says nothing of these
	At         int64  // when it was last changed
}

// Check takes in what a decision at now left of s, with the number of writes that it granted. SKUs without books do not count.
func (c *Certificate) Check(s *SKU, granted int, now int64) {
	if s.phase == Pooled {
		return
	}
	c.Granted += int64(granted)
	c.At = now
	if !s.Guarded() {
		c.Unknown++
		return
	}
	slack := s.available - s.Exposed() + s.explained()
	if slack < 0 {
		c.Breaches++
	}
	if c.Checked == 0 || slack < c.LeastSlack {
		c.LeastSlack, c.Tightest, c.TightestAt = slack, s.ID, now
	}
	c.Checked++
}

// OpenWrites is how many granted writes have no result yet.
func (s *SKU) OpenWrites() int { return s.open }
