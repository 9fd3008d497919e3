// Package bundle says what a bundle is to stock: it has none of its own, and what happens to it happens to its components.
//
// A sale of a bundle becomes the bundle's own event, which counts what the channel sold and carries the price, and one event for each component, which moves stock. What can
// be sold of a bundle is what its components make: at each location the least, over them, of what is available divided by how many one bundle takes.
//
// The composition of a bundle is part of what its SKU means and never changes, so that what comes later (a cancellation, a return) is expanded as the sale was. Components are
// no bundles themselves. The package does no I/O and reads no clock.
package bundle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
)

// Units is a number of pieces.
type Units = event.Units

// idPrefix begins the ids of components' events.
const idPrefix = "bundle/"

var escaper = strings.NewReplacer("%", "%25", "/", "%2F")

// EventID is the id of a component's event: fixed by the id of the bundle's, so that a repeat counts once.
func EventID(id, component string) string {
	return idPrefix + id + "/" + escaper.Replace(component)
}

// Expand makes e, an event about a bundle, the bundle's own, and appends to dst what it means for each component. Only the bundle's event has the price: what was earned counts
// once. The kind must be one that ledger.OfBundle allows.
func Expand(dst []event.Event, e *event.Event, of []catalog.Component) []event.Event {
	e.Bundle = e.SKU
	for _, c := range of {
		x := *e
		x.ID, x.SKU, x.Quantity = EventID(e.ID, c.SKU), c.SKU, e.Quantity*c.Quantity
		x.UnitPrice, x.UnitCost, x.Currency = "", "", ""
		dst = append(dst, x)
	}
	return dst
}

// Describe is a composition in words: 2 × TEA, 1 × CUP.
func Describe(of []catalog.Component) string {
	parts := make([]string, len(of))
	for i, c := range of {
		parts[i] = fmt.Sprintf("%d × %s", c.Quantity, c.SKU)
	}
	return strings.Join(parts, ", ")
}

// Same says that two compositions are one, in whatever order they are written.
func Same(a, b []catalog.Component) bool {
	if len(a) != len(b) {
		return false
	}
	order := func(x, y catalog.Component) int { return cmp.Compare(x.SKU, y.SKU) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
}
