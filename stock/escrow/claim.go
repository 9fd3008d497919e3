package escrow

import (
	"strconv"
	"strings"

	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
)

// A claim channel asks before it sells. Its write is an event in the log, which says by how much its allotment changes and has the grant's number; what became of it is in
// the level: that it is in there, and what is left. So exposure of such a channel is exact as of the level, and a decrease is credited with the level that has it.

// claimed takes in what is left of allotments. It returns by how much available changed with it: what a claim channel takes or gives back changes both.
func (s *SKU) claimed(now []ledger.Allotment) (moved Units) {
	if len(now) == 0 && !s.claiming {
		return 0
	}
	s.claiming = true
	for i := range now {
		s.channel(now[i].Channel)
	}
	none := ledger.Allotment{Ended: true}
	for i := range s.channels {
		c := &s.channels[i]
		a := &none
		for j := range now {
			if now[j].Channel == c.id {
				a = &now[j]
			}
		}
		c.allotted = !a.Ended
		b := c.book
		if b == nil || !b.claim {
			continue
		}
		done := b.grant != "" && a.Sequence >= Sequence(b.grant)
		w, flying, _ := b.InFlight()
		switch {
		case a.Ended: // it may take all there is
			if done {
				b.Claimed(0, true)
			}
			if !b.Open() {
				b.Lost()
				s.dirty, s.keep = true, true
			}
		case done:
			b.Claimed(a.Units, true)
		case !b.Open():
			was := b.Exposure()
			if flying && w.Operation == write.Allot {
				was -= max(0, w.Delta)
			}
			moved += a.Units - was
			b.Claimed(a.Units, false)
			if b.Exposure() <= b.low {
				s.dirty = true
			}
		}
		if done {
			b.grant = ""
			s.open--
			s.dirty, s.keep = true, true
		}
	}
	return moved
}

// Sequence is the number of a grant: of two grants of one SKU the later has the higher one. It is 0 for what is no grant's id.
func Sequence(grant string) int64 {
	n, _ := strconv.ParseInt(grant[strings.LastIndexByte(grant, '/')+1:], 10, 64)
	return n
}

// Allotted reports that a claim channel is held to an allotment, as the newest level says.
func (s *SKU) Allotted() bool {
	for i := range s.channels {
		if s.channels[i].allotted {
			return true
		}
	}
	return false
}

// Claims calls f with each granted change of an allotment that is not in a level yet: after a restart nobody knows whether its event was written, and it can be written again.
func (s *SKU) Claims(f func(*Grant)) {
	for i := range s.channels {
		if b := s.channels[i].book; b != nil && b.claim && b.grant != "" {
			w, _, _ := b.InFlight()
			f(&Grant{ID: b.grant, Channel: s.channels[i].id, Seller: b.seller, ExternalID: b.external, Write: w, Target: b.share})
		}
	}
}

// lift has claim channels take from all that is available again, when no books are kept any more. No channel that is held to an allotment is left out, be it listed or not.
func (d *Decider) lift() {
	s := d.s
	for i := range s.channels {
		c := &s.channels[i]
		if !c.allotted || c.book != nil && c.book.grant != "" {
			continue
		}
		if c.book == nil || !c.book.claim {
			c.book = &book{Channel: exposure.Opened(), claim: true, external: s.ID}
		}
		c.book.seller = d.in.Layout.Seller(c.id)
		d.grant(&plan{c: c, b: c.book, at: -1, api: API{Operation: write.Allot}}, exposure.Write{Operation: write.Lift}, "no books are kept any more")
	}
}

// apiOf is what can be done with a channel in the books. Whether it asks before it sells is settled when it is taken in: an allotment can be lowered whatever the settings
// say by now, and one that showed a number goes on showing it.
func (in *Input) apiOf(b *book) API {
	a := in.api(b.seller)
	switch {
	case b.claim:
		return API{Operation: write.Allot, Bundle: a.Bundle}
	case a.claims():
		return API{}
	}
	return a
}
