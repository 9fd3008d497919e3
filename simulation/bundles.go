package simulation

import (
	"slices"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/targeting"
)

// A bundle is a SKU without a shelf: each channel shows and sells it like any other, and what is sold of it is gone from its components, which are sold by themselves as well.

// piece is what one unit of a SKU takes of a shelf.
type piece struct {
	sku   uint16
	units int32
}

// kit is a bundle.
type kit struct {
	sku uint16
	of  []piece
}

// makeBundles has some of the SKUs, spread over the others, be made of two others each, which have part of the stock that it would have had.
func (s *scenario) makeBundles(r *source, n int) {
	s.makes = make([][]piece, len(s.lines))
	for i := range s.lines {
		s.makes[i] = []piece{{uint16(i), 1}}
	}
	if n == 0 {
		return
	}
	for i := range n {
		s.kits = append(s.kits, kit{sku: uint16(i * len(s.lines) / n)})
	}
	var plain []uint16
	for i := range s.lines {
		if s.kitOf(uint16(i)) < 0 {
			plain = append(plain, uint16(i))
		}
	}
	for i := range s.kits {
		k := &s.kits[i]
		first := r.below(int64(len(plain)))
		second := (first + r.between(1, int64(len(plain)-1))) % int64(len(plain))
		k.of = []piece{{plain[first], int32(r.between(1, 2))}, {plain[second], 1}}
		s.makes[k.sku] = k.of
		for _, p := range k.of {
			s.lines[p.sku].stock += s.lines[k.sku].stock * int64(p.units) / 2
		}
		s.lines[k.sku].stock = 0
		s.moves = slices.DeleteFunc(s.moves, func(m move) bool { return m.sku == k.sku })
	}
}

// kitOf is the number of a bundle by its SKU; negative for another.
func (s *scenario) kitOf(sku uint16) int {
	return slices.IndexFunc(s.kits, func(k kit) bool { return k.sku == sku })
}

// most is how many of a SKU can be made of what is left.
func (s *scenario) most(sku int, left []int64) int64 {
	n := int64(1) << 62
	for _, p := range s.makes[sku] {
		n = min(n, max(0, left[p.sku])/int64(p.units))
	}
	return n
}

// add takes units of a SKU, or gives them back, of what is left of all that it is made of.
func (s *scenario) add(left []int64, sku uint16, units int64) {
	for _, p := range s.makes[sku] {
		left[p.sku] += units * int64(p.units)
	}
}

// expand writes what happened to a bundle: its own event, and one for each component, as ingest does.
func (w *world) expand(k int, l logged) {
	l.bundle = uint16(k + 1)
	w.appendTo(int(l.sku)%len(w.parts), l)
	for j, p := range w.sc.kits[k].of {
		x := l
		x.sku, x.units, x.part = p.sku, l.units*p.units, uint8(j+1)
		w.appendTo(int(x.sku)%len(w.parts), x)
	}
}

// listing is who a SKU is made of, for the allocator: every channel lists every SKU.
func (w *world) listing(sku string) *catalog.Listing {
	k := w.sc.kitOf(uint16(w.number(sku)))
	if k < 0 {
		return nil
	}
	l := &catalog.Listing{SKU: sku}
	for _, p := range w.sc.kits[k].of {
		l.Components = append(l.Components, catalog.Component{SKU: w.skuNames[p.sku], Quantity: catalog.Units(p.units)})
	}
	return l
}

// knowBundles has a new engine know of the bundles.
func (w *world) knowBundles(e *targeting.Engine) {
	if len(w.sc.kits) == 0 {
		return
	}
	e.Own(func(sku string) *targeting.Partition { return w.alloc.parts[w.number(sku)%len(w.parts)] })
	for i := range w.sc.kits {
		sku := w.skuNames[w.sc.kits[i].sku]
		e.Index(sku, w.listing(sku))
		for _, p := range w.sc.kits[i].of {
			if !e.Follows(w.skuNames[p.sku]) {
				e.Follow([]string{w.skuNames[p.sku]})
			}
		}
	}
}

// followed has bundles decided: all that there was of their components has been read.
func (w *world) followed() {
	for i := range w.sc.kits {
		for _, p := range w.sc.kits[i].of {
			w.alloc.engine.Followed([]string{w.skuNames[p.sku]})
		}
	}
}

// componentLevel is a level as the owner of a bundle reads it. It is used beyond its turn, and the records of a topic are written over once they are compacted.
func (w *world) componentLevel(l *ledger.Level) *ledger.Level {
	x := l.Clone()
	if w.cfg.generous {
		for i := range x.Allotments {
			x.Allotments[i].Units += 10
		}
	}
	return x
}

// storeBooks has the allocator read the books of a component after they were written.
func (w *world) storeBooks(i int) {
	a := &w.alloc
	if !a.engine.Follows(w.skuNames[i]) {
		return
	}
	var x *escrow.Snapshot
	if b := w.books(i); b != nil && b.Phase() != escrow.Pooled {
		s := b.Snapshot()
		x = &s
	}
	a.written = append(a.written, bookRecord{w.skuNames[i], x})
}

// bookRecord is a record of exposure.books.
type bookRecord struct {
	sku   string
	books *escrow.Snapshot
}

// readBooks has the allocator read the books of components that were written.
func (w *world) readBooks() {
	a := &w.alloc
	for _, r := range a.written {
		a.engine.ComponentBooks(r.sku, r.books)
	}
	a.written = a.written[:0]
}

// bundleChannel is the number of the channel that stands for a bundle: they come after the others.
func (w *world) bundleChannel(name string) (n int, ok bool) {
	sku, ok := event.BundleOf(name)
	if !ok {
		return 0, false
	}
	return len(w.markets) + w.sc.kitOf(uint16(w.number(sku))), true
}

// atBundle is what channels did to a bundle, all together and counted in units of a component that it takes q of.
func (w *world) atBundle(k *kit, q int64) (shown int64, done counts) {
	for ch := range w.markets {
		c := &w.markets[ch].cells[k.sku]
		shown += q * int64(max(0, c.shown))
		done.sold += q * int64(c.sold)
		done.restored += q * int64(c.restored)
	}
	return shown, done
}

// ofBundles calls f with each bundle that takes some of a SKU.
func (w *world) ofBundles(i int, f func(n int, k *kit, q int64)) {
	for n := range w.sc.kits {
		for _, p := range w.sc.kits[n].of {
			if int(p.sku) == i {
				f(n, &w.sc.kits[n], int64(p.units))
			}
		}
	}
}
