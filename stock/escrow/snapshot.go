package escrow

import (
	"slices"

	"github.com/onhand/onhand/stock/exposure"
)

// Snapshot is a SKU as plain values, to be stored and restored. It shares nothing with the SKU.
type Snapshot struct {
	SKU       string
	Phase     Phase
	Seen      bool // a level was taken in
	Version   int64
	Available Units
	Seq       int64 // of the last grant's id: ids never repeat
	Calm      int64
	Shortage  Units
	Held      bool              // since it was taken into the books, no more was exposed than there was, once
	Channels  []ChannelSnapshot // in order of id
	Consents  []Consent         // of a bundle, in order of component
}

// ChannelSnapshot is one channel of a [Snapshot].
type ChannelSnapshot struct {
	Channel        string
	Sold, Restored Units // counters taken in
	Fast, Slow     int64 // sale counts, decayed
	CountedAt      int64
	Allotted       bool // it is held to an allotment
	Booked         bool // what follows is set
	Claims         bool // it asks before it sells
	Books          exposure.State
	ExternalID     string
	Grant          string // id of the open write
	Share          Units
	Failures       int
	Stale          int
	Retry          int64
	Doubt          bool
	Suspect        bool
	Retiring       bool
	Since          int64 // when it was taken in
	Stranger       bool  // it had not been told of stock when it was taken in
	Surplus        Units // it sold or showed that much more than it was exposed to, and no cancellation explains it yet
	SurplusAt      int64 // the order watermark that passes it leaves none to come
	SurplusCause   string
	SurplusShown   bool  // it was what the channel showed, not what it sold
	Twice          Units // cancelled units that exposure has in it twice
}

// Snapshot gives the state to be stored.
func (s *SKU) Snapshot() Snapshot {
	out := Snapshot{
		SKU: s.ID, Phase: s.phase, Seen: s.seen, Version: s.version, Available: s.available, Seq: s.seq, Calm: s.calm, Shortage: s.shortage, Held: s.held,
		Channels: make([]ChannelSnapshot, len(s.channels)), Consents: slices.Clone(s.consents),
	}
	for i := range s.channels {
		c := &s.channels[i]
		x := &out.Channels[i]
		*x = ChannelSnapshot{Channel: c.id, Sold: c.sold, Restored: c.restored, Fast: c.fast, Slow: c.slow, CountedAt: c.at, Allotted: c.allotted}
		if b := c.book; b != nil {
			x.Booked, x.Books, x.ExternalID, x.Grant, x.Claims = true, b.State(), b.external, b.grant, b.claim
			x.Books.Fences = slices.Clone(x.Books.Fences)
			x.Share, x.Failures, x.Stale, x.Retry, x.Doubt, x.Suspect, x.Retiring = b.share, b.failures, b.stale, b.retry, b.doubt, b.suspect, b.retiring
			x.Since, x.Stranger = b.since, !b.pooled
			x.Surplus, x.SurplusAt, x.SurplusCause, x.SurplusShown, x.Twice = b.surplus.units, b.surplus.at, b.surplus.cause, b.surplus.shown, b.twice
		}
	}
	return out
}

// Restore gives the SKU of a snapshot. Levels newer than the snapshot's, results of its open writes and watermarks bring it up to date; what was taken in
// before it may come again.
func Restore(x *Snapshot) *SKU {
	s := &SKU{
		ID: x.SKU, phase: x.Phase, seen: x.Seen, version: x.Version, available: x.Available, seq: x.Seq, calm: x.Calm, shortage: x.Shortage, held: x.Held,
		channels: make([]channel, len(x.Channels)), dirty: true, settling: true,
		consents: slices.Clone(x.Consents),
	}
	for i := range x.Channels {
		c := &x.Channels[i]
		s.channels[i] = channel{id: c.Channel, sold: c.Sold, restored: c.Restored, fast: c.Fast, slow: c.Slow, at: c.CountedAt, allotted: c.Allotted}
		s.claiming = s.claiming || c.Allotted
		if !c.Booked {
			continue
		}
		s.channels[i].book = &book{
			Channel: exposure.Restore(c.Books), external: c.ExternalID, grant: c.Grant, claim: c.Claims, share: c.Share, failures: c.Failures, stale: c.Stale, retry: c.Retry,
			pooled: !c.Stranger, since: c.Since, doubt: c.Doubt, suspect: c.Suspect, retiring: c.Retiring, seller: -1, offer: -1,
			surplus: surplus{c.Surplus, c.SurplusAt, c.SurplusCause, c.SurplusShown}, twice: c.Twice,
		}
		s.claiming = s.claiming || c.Claims
		if c.Grant != "" {
			s.open++
		}
	}
	return s
}
