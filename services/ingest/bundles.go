package ingest

import (
	"fmt"
	"strconv"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/bundle"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// expand appends to events about bundles what they mean for the components, and says what cannot be said of a bundle. What the log has is expanded: the ledger asks no catalog, so
// that a replay comes to the same.
func (c *call) expand(events []event.Event, lines bool) (out []event.Event, faults []problem.Field) {
	for i, n := 0, len(events); i < n; i++ {
		l := c.s.deps.Catalog.Listing(events[i].SKU)
		if l == nil || len(l.Components) == 0 {
			continue
		}
		at := "/"
		if lines {
			at = "/lines/" + strconv.Itoa(i) + "/"
		}
		if k := events[i].Kind; !ledger.OfBundle(k) {
			faults = append(faults, problem.Field{Pointer: at + "sku", Code: "bundle", Detail: fmt.Sprintf(
				"SKU %.64q is a bundle (%.200s) and has no stock of its own: send the %s for its components", events[i].SKU, bundle.Describe(l.Components), k)})
			continue
		}
		from := len(events)
		events = bundle.Expand(events, &events[i], l.Components)
		for j := from; j < len(events); j++ {
			f := ledger.Check(&events[j], c.lim.MaxQuantity)
			if f.Reason == "" {
				continue
			}
			field := f.Field
			if field != "quantity" && field != "id" {
				field = "sku"
			}
			faults = append(faults, problem.Field{Pointer: at + field, Code: f.Reason, Detail: fmt.Sprintf("of the bundle's component %.64q: %s", events[j].SKU, f.Detail)})
			break
		}
	}
	return events, faults
}
