package ingest

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/services/ingest/internal/intake"
	"github.com/onhand/onhand/stock/bundle"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
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

// parts is what has to be held for a reservation, each SKU once: of a bundle, its components. What is asked for is valid, SKU by SKU.
func (s *Service) parts(doc *ReservationDocument) (parts []ReservationItemDocument, faults []problem.Field) {
	channel := s.deps.Catalog.Settings().Channels[doc.Channel]
	at := make(map[string]int)
	add := func(where, named string, x ReservationItemDocument) {
		i, ok := at[x.SKU]
		switch {
		case !ok:
			at[x.SKU] = len(parts)
			parts = append(parts, x)
		case parts[i].Location != x.Location:
			faults = append(faults, problem.Field{Pointer: where + "/location", Code: "conflict", Detail: fmt.Sprintf(
				"%.64q is wanted at %q by %.64q, and at %q by another item: units of a SKU are held in one place or wherever they are, so give both items the same location, or make two reservations",
				x.SKU, x.Location, named, parts[i].Location)})
		default:
			parts[i].Quantity += x.Quantity
		}
		if q := parts[at[x.SKU]].Quantity; q > s.cfg.MaxQuantity {
			faults = append(faults, problem.Field{Pointer: where + "/quantity", Code: ledger.ReasonAbsurdQuantity, Detail: fmt.Sprintf(
				"with %.64q, %d of %.64q are asked for, beyond the limit of %d: correct it, or raise the limit", named, q, x.SKU, s.cfg.MaxQuantity)})
		}
	}
	for i, x := range doc.Items {
		where := "/items/" + strconv.Itoa(i)
		l := s.deps.Catalog.Listing(x.SKU)
		if l == nil || len(l.Components) == 0 {
			add(where, x.SKU, x)
			continue
		}
		for _, c := range l.Components {
			if channel != nil && channel.Adapter == catalog.Claim && !lists(channel, s.deps.Catalog.Listing(c.SKU)) {
				faults = append(faults, problem.Field{Pointer: where + "/sku", Code: "unlisted", Detail: fmt.Sprintf(
					"SKU %.64q is a bundle (%.200s), and %s, which asks before it sells, does not list its component %.64q, so that nothing of that can be allotted to it: list the component on the channel too",
					x.SKU, bundle.Describe(l.Components), channel.ID, c.SKU)})
				continue
			}
			add(where, x.SKU, ReservationItemDocument{SKU: c.SKU, Quantity: x.Quantity * int64(c.Quantity), Location: x.Location})
		}
	}
	if len(parts) > s.cfg.ReservationMaxItems {
		faults = append(faults, problem.Field{Pointer: "/items", Code: "invalid", Detail: fmt.Sprintf(
			"items come to %d SKUs, components of bundles among them, and at most %d are allowed", len(parts), s.cfg.ReservationMaxItems)})
	}
	return parts, faults
}

// lists says that a channel lists a SKU.
func lists(ch *catalog.Channel, l *catalog.Listing) bool {
	return ch.ListsAllSKUs || l != nil && slices.ContainsFunc(l.Channels, func(x catalog.ChannelListing) bool { return x.Channel == ch.ID })
}

// commitment is the sales that an order makes of a reservation: those that take what is held, and the bundles' own, which count what the channel sold. Of a bundle no more can be sold than was held for it:
// its channels sell from an allotment of its components, which a sale that says it was reserved leaves alone.
func (s *Service) commitment(id string, p whole, o *order.Order) (sales, own []event.Event, faults []problem.Field) {
	c := call{s: s, lim: s.limits()}
	all := o.Sales(nil, sourceAPI)
	if faults = intake.CheckSales(all, &c.lim); len(faults) > 0 {
		return nil, nil, faults
	}
	for i := range all {
		all[i].ReservationID, all[i].Checked = id, true
	}
	if all, faults = c.expand(all, true); len(faults) > 0 {
		return nil, nil, faults
	}
	wanted := make(map[string]event.Units)
	for i := range all {
		if all[i].Bundle == all[i].SKU {
			own = append(own, all[i])
			continue
		}
		sales = append(sales, all[i])
		wanted[all[i].SKU] += all[i].Quantity
	}
	told := make(map[string]bool)
	for i := range sales {
		e := &sales[i]
		if e.Bundle == "" || told[e.SKU] || p[e.SKU] != nil && wanted[e.SKU] <= p[e.SKU].Quantity {
			continue
		}
		told[e.SKU] = true
		held := event.Units(0)
		if p[e.SKU] != nil {
			held = p[e.SKU].Quantity
		}
		faults = append(faults, problem.Field{Pointer: fmt.Sprintf("/lines/%d/sku", slices.IndexFunc(o.Lines, func(l order.Line) bool { return l.ID == e.LineID })), Code: "conflict", Detail: fmt.Sprintf(
			"the order takes %d of %.64q, a component of bundle %.64q, and the reservation has %d: send what was not reserved as an order of its own, to POST /v1/orders", wanted[e.SKU], e.SKU, e.Bundle, held)})
	}
	return sales, own, faults
}
