package ledger

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/event"
)

// inBundle makes e the event of a component of bundle B, of which nothing was reserved.
func inBundle(e event.Event) event.Event {
	e.Bundle, e.ReservationID = "B", ""
	return e
}

// A bundle's own events count what channels sold and put back, and move nothing.
func TestBundleMovesNoStock(t *testing.T) {
	p := New(Options{})
	own := func(e event.Event) event.Event {
		e.SKU, e.Bundle, e.ReservationID = "B", "B", ""
		return e
	}
	applyAll(t, p, []event.Event{
		own(ev("s1", event.SaleRecorded, 3)), own(ev("s2", event.SaleRecorded, 1, "by=shop", "order=o2")), own(ev("a", event.SaleAssigned, 3, "at=A")),
		own(ev("c1", event.SaleCancelled, 1)), own(ev("c2", event.SaleCancelled, 1, "restocked", "by=shop", "order=o2")),
		own(ev("x", event.ShipmentConfirmed, 2, "at=A")), own(ev("r", event.ReturnReceived, 1, "at=A", "how=restock")),
	})
	l := levels(p)["B"]
	if len(l.Locations) != 0 || l.Unassigned != 0 || l.Available() != 0 || l.Version != 7 {
		t.Errorf("stock of a bundle moved: %+v", l)
	}
	if want := []ChannelUnits{{Channel: "bundle:B", Units: 4}, {Channel: "shop", Units: 1}, {Channel: "web", Units: 3}}; !reflect.DeepEqual(l.Sold, want) {
		t.Errorf("sold %+v, want %+v", l.Sold, want)
	}
	if want := []ChannelUnits{{Channel: "bundle:B", Units: 1}, {Channel: "shop", Units: 1}}; !reflect.DeepEqual(l.Restored, want) {
		t.Errorf("restored %+v, want %+v", l.Restored, want)
	}
}

// What a bundle takes of a component is stock like any other, but counts as sold by the bundle: the channel's own number of the component has not changed.
func TestComponentsOfBundles(t *testing.T) {
	p := New(Options{})
	allot := ev("g", event.AllotmentChanged, 5, "by=bundle:B")
	allot.Sequence = 7
	events := []event.Event{
		ev("in", event.ReceiptReceived, 10, "at=A", "ref="), allot, ev("s0", event.SaleRecorded, 1, "order=o0"),
		inBundle(ev("s1", event.SaleRecorded, 2)), inBundle(ev("s2", event.SaleRecorded, 2, "order=o2")),
		inBundle(ev("c1", event.SaleCancelled, 2, "restocked")), inBundle(ev("c2", event.SaleCancelled, 1, "order=o2")),
	}
	applyAll(t, p, events)
	l := levels(p)["S"]
	if got, want := l.Available(), Units(10-1-2-2+2+1); got != want {
		t.Errorf("%d available, want %d", got, want)
	}
	if want := []ChannelUnits{{Channel: "bundle:B", Units: 4}, {Channel: "web", Units: 1}}; !reflect.DeepEqual(l.Sold, want) {
		t.Errorf("sold %+v, want %+v", l.Sold, want)
	}
	if want := []ChannelUnits{{Channel: "bundle:B", Units: 2}}; !reflect.DeepEqual(l.Restored, want) {
		t.Errorf("restored %+v, want %+v", l.Restored, want)
	}
	if want := []Allotment{{Channel: "bundle:B", Units: 5 - 2 - 2 + 2, Sequence: 7}}; !reflect.DeepEqual(l.Allotments, want) {
		t.Errorf("allotted %+v, want %+v", l.Allotments, want)
	}
	applyAll(t, p, []event.Event{inBundle(ev("x", event.ShipmentConfirmed, 1, "order=o2", "at=A"))})
	if l := levels(p)["S"]; l.Locations[0].OnHand != 9 || l.Locations[0].Committed != 0 || l.Unassigned != 1 || l.Available() != 8 {
		t.Errorf("after what was left of the second order shipped: %s", show(l))
	}
}

// A bundle that was reserved took its units from a hold. Neither log counts it as the bundle's, so that what was ever allotted to the bundle, and what its channels may have sold, stay what they were, whichever
// log is ahead.
func TestReservedBundlesLeaveTheAllotmentAlone(t *testing.T) {
	allot := func(id, channel string, q Units) event.Event {
		e := ev(id, event.AllotmentChanged, q, "by="+channel)
		e.Sequence = 7
		return e
	}
	sale := func(q Units, more ...string) event.Event {
		e := inBundle(on("h", event.SaleRecorded, q, more...))
		e.ReservationID = "h"
		return e
	}
	receipt := ev("in", event.ReceiptReceived, 10, "at=A", "ref=")
	for name, c := range map[string]struct {
		events    []event.Event
		available Units
		left      map[string]Units
		restored  Units
	}{
		"out of what was held":             {[]event.Event{receipt, allot("g", "bundle:B", 5), ask("h", 4), sale(4)}, 6, map[string]Units{"bundle:B": 5}, 0},
		"a repeat":                         {[]event.Event{receipt, allot("g", "bundle:B", 5), ask("h", 4), sale(4), sale(4)}, 6, map[string]Units{"bundle:B": 5}, 0},
		"too late":                         {[]event.Event{receipt, allot("g", "bundle:B", 5), ask("h", 4), on("h", event.ReservationReleased, 0), sale(4)}, 6, map[string]Units{"bundle:B": 5}, 0},
		"of a claim channel":               {[]event.Event{receipt, allot("g", "web", 4), ask("h", 4), sale(4)}, 6, map[string]Units{"web": 0}, 0},
		"of a claim channel, given back":   {[]event.Event{receipt, allot("g", "web", 4), ask("h", 4), on("h", event.ReservationReleased, 0)}, 10, map[string]Units{"web": 4}, 0},
		"of a claim channel, too late":     {[]event.Event{receipt, allot("g", "web", 5), ask("h", 4), on("h", event.ReservationReleased, 0), sale(4)}, 6, map[string]Units{"web": 1}, 0},
		"refused beyond the claim channel": {[]event.Event{receipt, allot("g", "web", 3), ask("h", 4)}, 10, map[string]Units{"web": 3}, 0},
		"cancelled":                        {[]event.Event{receipt, allot("g", "bundle:B", 5), ask("h", 4), sale(4), inBundle(ev("c", event.SaleCancelled, 4))}, 10, map[string]Units{"bundle:B": 5}, 0},
		"cancelled and on sale again": {[]event.Event{receipt, allot("g", "bundle:B", 5), ask("h", 4), sale(4), inBundle(ev("c", event.SaleCancelled, 4, "restocked"))}, 10,
			map[string]Units{"bundle:B": 9}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(Options{})
			for i := range c.events {
				if r := p.Apply(&c.events[i], int64(i), start+int64(i)); r.Outcome == Rejected {
					t.Fatalf("%+v: %s", c.events[i], r.Fault.Detail)
				}
			}
			l := levels(p)["S"]
			if l.Available() != c.available {
				t.Errorf("%d available, want %d: %s", l.Available(), c.available, show(l))
			}
			for _, a := range l.Allotments {
				if want := c.left[a.Channel]; a.Units != want {
					t.Errorf("%d are left to %s, want %d", a.Units, a.Channel, want)
				}
			}
			sold, restored := Units(0), Units(0)
			for _, x := range l.Sold {
				sold += x.Units
			}
			for _, x := range l.Restored {
				restored += x.Units
			}
			if sold != 0 || restored != c.restored {
				t.Errorf("%d count as sold and %d as put back, want 0 and %d", sold, restored, c.restored)
			}
		})
	}
	// The bundle's own log: the channel has sold it, and nobody is asked about a hold, for there is none.
	p := New(Options{})
	own := sale(2)
	own.SKU = "B"
	for i := range 2 {
		if r := p.Apply(&own, int64(i), start); r.Decided || r.Outcome == Rejected {
			t.Errorf("the bundle's own event: %+v", r)
		}
	}
	if l := levels(p)["B"]; !reflect.DeepEqual(l.Sold, []ChannelUnits{{Channel: "web", Units: 2}}) {
		t.Errorf("the bundle's own event counts as sold %+v", l.Sold)
	}
}

// While a bundle takes no more than it was allotted, what is left and what it has sold make what it was ever allotted: whoever knows what its channels sold need not know how far
// the component's log has come.
func TestAllottedToABundleIsLeftOrSold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := New(Options{})
		granted, left, sold, seq := Units(0), Units(0), Units(0), int64(0)
		for i := range rapid.IntRange(1, 60).Draw(t, "events") {
			e := inBundle(ev(fmt.Sprint("e", i), event.SaleRecorded, 1, fmt.Sprint("order=o", i)))
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				seq++
				e = ev(e.ID, event.AllotmentChanged, Units(rapid.IntRange(0, 5).Draw(t, "more")), "by=bundle:B")
				e.Sequence = seq
				if seq == 1 { // it begins with all that the bundle may have sold, and that is in this log or not yet
					e.Quantity += sold
					left = -sold
				}
				granted, left = granted+e.Quantity, left+e.Quantity
			case 1:
				if left == 0 && seq > 0 {
					continue
				}
				if sold++; seq > 0 {
					left--
				}
			case 2:
				if sold == 0 {
					continue
				}
				e.Kind, e.RestockedByChannel = event.SaleCancelled, true
				if sold--; seq > 0 {
					left++
				}
			case 3:
				e.Kind = event.SaleCancelled // the units go to the pool, and the channel shows what it showed
			}
			if r := p.Apply(&e, int64(i), start+int64(i)); r.Outcome != Applied {
				t.Fatalf("%+v: outcome %d, %s", e, r.Outcome, r.Fault.Detail)
			}
		}
		l, ok := levels(p)["S"]
		if !ok || len(l.Allotments) == 0 {
			return
		}
		net := Units(0)
		for _, c := range l.Sold {
			net += c.Units
		}
		for _, c := range l.Restored {
			net -= c.Units
		}
		if got := l.Allotments[0].Units + net; got != granted {
			t.Fatalf("%d left and %d sold, and %d allotted", l.Allotments[0].Units, net, granted)
		}
	})
}

func TestBundleEventsThatMakeNoSense(t *testing.T) {
	for name, e := range map[string]event.Event{
		"a receipt of a bundle":        inBundle(ev("e", event.ReceiptReceived, 1, "at=A")),
		"a count of a bundle":          inBundle(ev("e", event.StockCounted, 1, "at=A", "asof=0")),
		"a channel called as a bundle": ev("e", event.SaleRecorded, 1, "by=bundle:B"),
		"a name that is none":          inBundle(ev("e\x01", event.SaleRecorded, 1)),
	} {
		if f := Check(&e, 0); f.Reason != ReasonInvalid || !strings.Contains(f.Detail, "e") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
