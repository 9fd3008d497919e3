package ingest

import (
	"fmt"
	"strconv"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
)

// unknown holds events against the catalog, marks them as checked, and returns what the brand's policy refuses in them. What is refused here never gets into the log, and
// what is in the log is never refused for it later: so a replay decides the same, whatever the catalog has become.
func (c *call) unknown(events []event.Event, lines bool) (faults []problem.Field) {
	settings := c.s.deps.Catalog.Settings()
	policy := settings.Intake()
	for i := range events {
		e := &events[i]
		e.Checked = true
		if policy == (catalog.Policy{ID: policy.ID}) {
			continue
		}
		at := "/"
		if lines {
			at = "/lines/" + strconv.Itoa(i) + "/"
		}
		if policy.RejectSKUs && e.SKU != "" && c.s.deps.Catalog.Listing(e.SKU) == nil {
			faults = append(faults, problem.Field{Pointer: at + "sku", Code: "unknown_sku", Detail: fmt.Sprintf(
				"SKU %.64q has no listing, and the intake policy rejects unknown SKUs: correct it, or add a listing and send it again", e.SKU)})
		}
		if !policy.RejectLocations {
			continue
		}
		for _, x := range [...]struct{ field, id string }{{"location", e.Location}, {"to_location", e.ToLocation}} {
			if x.id != "" && settings.Locations[x.id] == nil {
				faults = append(faults, problem.Field{Pointer: at + x.field, Code: "unknown_location", Detail: fmt.Sprintf(
					"location %.64q is not in the catalog, and the intake policy rejects unknown locations: correct it, or add the location and send it again", x.id)})
			}
		}
	}
	return faults
}
