package escrow

import (
	"cmp"
	"slices"

	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/write"
)

// A bundle sells its components, whose owners keep books of their own. To a component the bundle is a claim channel (event.BundleChannel): its owner allots units to it by events in
// the component's log, and the component's part of each sale takes them there. But the bundle's channels sell without asking, so nothing is taken back that they may have sold.
//
// What makes that safe are cumulative numbers, which are true whichever log is ahead. G, all that a component ever allotted to the bundle, is what is left of the allotment and what the
// component's log has sold of it: both are in one level of the component. T, the most that the bundle may come to have sold, is what its own log has and the exposure of its channels.
//
//	T × quantity ≤ G for each component
//
// is what the bundle's books keep: [SKU.Ceiling] is the most that may be available to them. Since what is left is G less what is sold, it covers what the bundle's channels show and
// what they have sold that the component's log does not have yet.
//
// G grows by the component's owner alone. It falls, and an allotment begins, by the bundle's: the component's owner grants the change and waits; the bundle's owner sees it in
// exposure.books, lowers its channels, remembers that it keeps to the smaller G from now on ([Consent]), and then writes the event.

// Backing is what a bundle's owner knows of one component.
type Backing struct {
	Component string
	Quantity  Units // of it in one bundle
	Sold      Units // of it in the bundle, less what channels put back on sale, as the component's level says
	Held      bool  // to an allotment, as the level says
	Left      Units // of the allotment
	Sequence  int64 // of its last change in the level
	Phase     Phase // how the component is kept
	Strict    bool  // by its rules it is to be in the books, whatever is known of them yet
	Grant     string
	Change    Units // what the component's owner asks for by Grant, when that is not empty: to be taken in (0), or to have units back (negative)
}

// Consent is a bundle's answer to a component's owner that is not in the component's level yet.
type Consent struct {
	Component string
	Grant     string // that it answers
	Quantity  Units  // by which the allotment changes; that begins with what it comes to with all that was sold
	Most      Units  // G, once it has
}

// asked says that the component's owner waits for an answer that can be given: books may be read before the level that has the last answer, and that level says what is left.
func (s *SKU) asked(b *Backing) bool {
	return b.Grant != "" && Sequence(b.Grant) > b.Sequence && !slices.ContainsFunc(s.consents, func(c Consent) bool { return c.Component == b.Component })
}

// bound is G, and false where the component sets no bound: it is not in the books, or leaves them.
func (s *SKU) bound(b *Backing, sold Units) (g Units, ok bool) {
	for _, c := range s.consents {
		if c.Component == b.Component {
			return c.Most, true
		}
	}
	switch {
	case b.Held:
		return b.Left + b.Sold, true
	case b.Strict || b.Phase == Strict: // it is about to be taken in: no more than may be sold already
		return (sold + s.Exposed()) * b.Quantity, true
	}
	return 0, false
}

// settleConsents forgets the answers that levels have.
func (s *SKU) settleConsents(of []Backing) {
	n := len(s.consents)
	s.consents = slices.DeleteFunc(s.consents, func(c Consent) bool {
		return slices.ContainsFunc(of, func(b Backing) bool { return b.Component == c.Component && b.Sequence >= Sequence(c.Grant) })
	})
	if len(s.consents) != n {
		s.keep, s.dirty = true, true
	}
}

// Ceiling is the most that may be available of a bundle to its channels, by what its components in the books have allotted to it, and by how much that is less than it could be since
// their owners want units back. sold is what its level says was sold of it as a bundle, less what channels put back on sale. bound is false where no component is in the books.
func (s *SKU) Ceiling(sold Units, of []Backing) (most, yielding Units, bound bool) {
	s.settleConsents(of)
	could := Units(0)
	for i := range of {
		b := &of[i]
		g, ok := s.bound(b, sold)
		if !ok {
			continue
		}
		free := floorDiv(g, b.Quantity) - sold
		less := free
		if b.Held && b.Change < 0 && s.asked(b) {
			less = max(0, floorDiv(g+b.Change, b.Quantity)-sold)
			less = min(less, free)
		}
		if !bound || free < could {
			could = free
		}
		if !bound || less < most {
			most = less
		}
		bound = true
	}
	return most, could - most, bound
}

// Supply takes in what is available of a bundle, which has no level of its own to say so.
func (s *SKU) Supply(available, yielding Units) {
	if !s.seen || s.available != available || s.yielding != yielding {
		s.dirty = true
	}
	s.seen, s.available, s.yielding = true, available, yielding
}

// Answer agrees to what components' owners ask for, as far as the channels have come: to be decided after [Decider.Decide], and to be stored with it. Each new consent is an event to
// write once that is stored.
func (s *SKU) Answer(sold Units, of []Backing) (agreed []Consent) {
	if !s.Guarded() {
		return nil
	}
	at := len(s.consents)
	for i := range of {
		b := &of[i]
		if !s.asked(b) {
			continue
		}
		used := (sold + s.Exposed()) * b.Quantity
		c := Consent{Component: b.Component, Grant: b.Grant}
		switch {
		case b.Held && b.Change == 0: // its owner lost its books: what is allotted stays so
			c.Most = b.Left + b.Sold
		case b.Held:
			g := b.Left + b.Sold
			free := max(0, min(g-used, b.Left))
			if free < -b.Change && s.Exposed() > 0 { // its channels are on their way down
				continue
			}
			if free == 0 && b.Sold < sold*b.Quantity { // all of it was sold, as the component's log is yet to hear: to be asked again at once helps nobody
				continue
			}
			c.Quantity = max(b.Change, -free)
			c.Most = g + c.Quantity
		default:
			c.Most = max(used, b.Sold)
			c.Quantity = c.Most // what of it was sold the log knows when it begins
		}
		s.consents = append(s.consents, c)
	}
	if len(s.consents) == at {
		return nil
	}
	agreed = slices.Clone(s.consents[at:])
	slices.SortFunc(s.consents, func(a, b Consent) int { return cmp.Compare(a.Component, b.Component) })
	s.keep = true
	return agreed
}

// Consents is the answers that are not in their components' levels yet: after a restart nobody knows whether their events were written, and they can be written again.
func (s *SKU) Consents() []Consent { return s.consents }

// Asks is the grant of a claim channel that waits for a bundle's answer, with its change; the id is empty where there is none.
func (x *Snapshot) Asks(channel string) (grant string, change Units) {
	for i := range x.Channels {
		c := &x.Channels[i]
		if c.Channel == channel && c.Booked && c.Claims && c.Books.InFlight && NeedsConsent(c.Books.Write) {
			return c.Grant, c.Books.Write.Delta
		}
	}
	return "", 0
}

// NeedsConsent says that a change of a bundle's allotment is for the bundle's owner to write: all that does not raise it.
func NeedsConsent(w exposure.Write) bool { return w.Operation == write.Allot && w.Delta <= 0 }

func floorDiv(a, b Units) Units {
	if a < 0 {
		return -((b - 1 - a) / b)
	}
	return a / b
}
