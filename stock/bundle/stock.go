package bundle

import (
	"slices"
	"strings"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
)

// Shelf is what is available at one location. Negative is an oversell there.
type Shelf struct {
	Location  string
	Available Units
}

// Part is what there is of one component.
type Part struct {
	Quantity   Units // of it in one bundle
	Shelves    []Shelf
	Unassigned Units // sold with no location yet, and what is kept off all channels
}

// PartOf is what a level has of a component; nil where there is none.
func PartOf(c catalog.Component, l *ledger.Level) Part {
	p := Part{Quantity: c.Quantity}
	if l == nil {
		return p
	}
	p.Unassigned = l.Unassigned
	for i := range l.Locations {
		p.Shelves = append(p.Shelves, Shelf{Location: l.Locations[i].Location, Available: l.Locations[i].Available()})
	}
	return p
}

// Stock appends to dst what the components make, by location in order of name: the least of what is available of each divided by its quantity, since a bundle ships together. The
// units that have no location yet are as many as make the sum no more than any component allows.
func Stock(dst []Shelf, parts []Part) (shelves []Shelf, unassigned Units) {
	at := len(dst)
	for i := range parts {
		for _, s := range parts[i].Shelves {
			if !slices.ContainsFunc(dst[at:], func(x Shelf) bool { return x.Location == s.Location }) {
				dst = append(dst, Shelf{Location: s.Location})
			}
		}
	}
	slices.SortFunc(dst[at:], func(a, b Shelf) int { return strings.Compare(a.Location, b.Location) })
	for j := at; j < len(dst); j++ {
		for i := range parts {
			there := Units(0)
			for _, s := range parts[i].Shelves {
				if s.Location == dst[j].Location {
					there = s.Available
				}
			}
			if n := floor(there, parts[i].Quantity); i == 0 || n < dst[j].Available {
				dst[j].Available = n
			}
		}
	}
	sum := Units(0)
	for _, s := range dst[at:] {
		sum += s.Available
	}
	if len(parts) > 0 {
		_, most := Least(parts)
		unassigned = max(0, sum-most)
	}
	return dst, unassigned
}

// Makes is how many bundles the component allows: its stock of all locations together, less what is unassigned. Negative where it is oversold.
func (p *Part) Makes() (bundles Units) {
	for _, s := range p.Shelves {
		bundles += s.Available
	}
	return floor(bundles-p.Unassigned, p.Quantity)
}

// Least is the component that allows the fewest bundles, and how many.
func Least(parts []Part) (at int, bundles Units) {
	for i := range parts {
		if n := parts[i].Makes(); i == 0 || n < bundles {
			at, bundles = i, n
		}
	}
	return at, bundles
}

// floor is a/b rounded down; b is positive.
func floor(a, b Units) Units {
	if a < 0 {
		return -((b - 1 - a) / b)
	}
	return a / b
}
