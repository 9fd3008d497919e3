package ledger

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/reservation"
)

// ask is a request of a reservation for units of S.
func ask(id string, q Units, more ...string) event.Event {
	e := ev("ask/"+id, event.ReservationRequested, q, more...)
	e.ReservationID, e.ExpiresAt = id, start+minute
	return e
}

// on is an event about a reservation.
func on(id string, k event.Kind, q Units, more ...string) event.Event {
	e := ev(fmt.Sprint(id, "/", k, q, more), k, q, more...)
	e.ReservationID = id
	if k == event.ReservationExtended {
		e.ExpiresAt = start + 2*minute
	}
	return e
}

func TestReservationsAreDecided(t *testing.T) {
	receipt := ev("r", event.ReceiptReceived, 10, "at=A", "ref=")
	second := ev("r2", event.ReceiptReceived, 3, "at=B", "ref=")
	scoped := func(e event.Event, scope ...string) event.Event {
		e.Scope = strings.Join(scope, "\n")
		return e
	}
	tentative := func(e event.Event) event.Event {
		e.PeerSKU, e.DecideBy, e.Parts = "P", start+1, 2
		return e
	}
	expire := func(id string, at int64) event.Event {
		e := on(id, event.ReservationReleased, 0)
		e.ID, e.ExpiresAt = fmt.Sprint("expire/", id, at), at
		return e
	}
	type events = []event.Event
	for name, tt := range map[string]struct {
		events events
		state  reservation.State // that the last one is answered with
		want   string
		avail  Units
	}{
		"granted":                         {events{receipt, ask("h", 4)}, reservation.Held, "A.onhand=10 A.held=4", 6},
		"the last unit":                   {events{receipt, ask("h", 10)}, reservation.Held, "A.onhand=10 A.held=10", 0},
		"refused":                         {events{receipt, ask("h", 11)}, reservation.Refused, "A.onhand=10", 10},
		"the second is refused":           {events{receipt, ask("h", 6), ask("i", 5)}, reservation.Refused, "A.onhand=10 A.held=6", 4},
		"most first":                      {events{second, receipt, ask("h", 4)}, reservation.Held, "A.onhand=10 A.held=4 B.onhand=3", 9},
		"in the order of the scope":       {events{receipt, second, scoped(ask("h", 3), "B", "A")}, reservation.Held, "A.onhand=10 B.onhand=3 B.held=3", 10},
		"the first that has them all":     {events{receipt, second, scoped(ask("h", 4), "B", "A")}, reservation.Held, "A.onhand=10 A.held=4 B.onhand=3", 9},
		"from two locations":              {events{receipt, second, scoped(ask("h", 12), "B", "A")}, reservation.Held, "A.onhand=10 A.held=9 B.onhand=3 B.held=3", 1},
		"outside the scope":               {events{receipt, second, scoped(ask("h", 4), "B", "C")}, reservation.Refused, "A.onhand=10 B.onhand=3", 13},
		"sold and not assigned counts":    {events{receipt, ev("s", event.SaleRecorded, 8), scoped(ask("h", 3), "A")}, reservation.Refused, "A.onhand=10 unassigned=8 sold.web=8", 2},
		"safety stock is not held":        {events{receipt, ev("f", event.SafetyStockSet, 9, "at=A"), ask("h", 2)}, reservation.Refused, "A.onhand=10 A.safety=9", 1},
		"released":                        {events{receipt, ask("h", 4), on("h", event.ReservationReleased, 0)}, reservation.Released, "A.onhand=10", 10},
		"released in part":                {events{receipt, ask("h", 4), on("h", event.ReservationReleased, 1)}, reservation.Held, "A.onhand=10 A.held=3", 7},
		"released twice":                  {events{receipt, ask("h", 4), on("h", event.ReservationReleased, 0), on("h", event.ReservationReleased, 2)}, reservation.Released, "A.onhand=10", 10},
		"expired":                         {events{receipt, ask("h", 4), expire("h", start+minute)}, reservation.Expired, "A.onhand=10", 10},
		"extended in between":             {events{receipt, ask("h", 4), on("h", event.ReservationExtended, 0), expire("h", start+minute)}, reservation.Held, "A.onhand=10 A.held=4", 6},
		"extended, and expired":           {events{receipt, ask("h", 4), on("h", event.ReservationExtended, 0), expire("h", start+2*minute)}, reservation.Expired, "A.onhand=10", 10},
		"extended too late":               {events{receipt, ask("h", 4), expire("h", start+minute), on("h", event.ReservationExtended, 0)}, reservation.Expired, "A.onhand=10", 10},
		"sold":                            {events{receipt, ask("h", 4), on("h", event.SaleRecorded, 4, "at=A")}, reservation.Committed, "A.onhand=10 A.committed=4 sold.web=4", 6},
		"sold in part":                    {events{receipt, ask("h", 4), on("h", event.SaleRecorded, 3)}, reservation.Held, "A.onhand=10 A.held=1 unassigned=3 sold.web=3", 6},
		"sold beyond":                     {events{receipt, ask("h", 4), on("h", event.SaleRecorded, 6, "at=A")}, reservation.Committed, "A.onhand=10 A.committed=6 sold.web=6", 4},
		"sold after it ended":             {events{receipt, ask("h", 4), expire("h", start+minute), on("h", event.SaleRecorded, 4)}, reservation.Expired, "A.onhand=10 unassigned=4 sold.web=4", 6},
		"sold without one":                {events{receipt, on("h", event.SaleRecorded, 4)}, reservation.Unknown, "A.onhand=10 unassigned=4 sold.web=4", 6},
		"tentative":                       {events{receipt, tentative(ask("h", 4))}, reservation.Tentative, "A.onhand=10 A.held=4", 6},
		"tentative does not expire":       {events{receipt, tentative(ask("h", 4)), expire("h", start+minute)}, reservation.Tentative, "A.onhand=10 A.held=4", 6},
		"confirmed":                       {events{receipt, tentative(ask("h", 4)), on("h", event.ReservationConfirmed, 0)}, reservation.Held, "A.onhand=10 A.held=4", 6},
		"aborted":                         {events{receipt, tentative(ask("h", 4)), on("h", event.ReservationAborted, 0)}, reservation.Aborted, "A.onhand=10", 10},
		"confirmed first":                 {events{receipt, tentative(ask("h", 4)), on("h", event.ReservationConfirmed, 0), on("h", event.ReservationAborted, 0)}, reservation.Held, "A.onhand=10 A.held=4", 6},
		"aborted first":                   {events{receipt, tentative(ask("h", 4)), on("h", event.ReservationAborted, 0), on("h", event.ReservationConfirmed, 0)}, reservation.Aborted, "A.onhand=10", 10},
		"aborted before it came":          {events{receipt, on("h", event.ReservationAborted, 0), tentative(ask("h", 4))}, reservation.Aborted, "A.onhand=10", 10},
		"a firm one is not aborted":       {events{receipt, ask("h", 4), on("h", event.ReservationAborted, 0)}, reservation.Held, "A.onhand=10 A.held=4", 6},
		"placed as a fact before":         {events{receipt, ev("p", event.ReservationPlaced, 1, "at=A"), ask("H", 1)}, reservation.Refused, "A.onhand=10 A.held=1", 9},
		"of a SKU that nobody knows":      {events{ask("h", 1)}, reservation.Refused, "", 0},
		"confirmation of what is unknown": {events{on("h", event.ReservationConfirmed, 0)}, reservation.Unknown, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(Options{})
			var r Result
			for i := range tt.events {
				r = p.Apply(&tt.events[i], int64(i), start+int64(i))
			}
			d := p.Decision()
			last := &tt.events[len(tt.events)-1]
			if !r.Decided || d.State != tt.state || d.EventID != last.ID || d.SourceOffset != int64(len(tt.events)-1) {
				t.Errorf("answered %+v of %+v, want %s", d, r, tt.state)
			}
			l := levels(p)["S"]
			if got := show(l); got != tt.want || l.Available() != tt.avail {
				t.Errorf("got %s, available %d, want %s, available %d", got, l.Available(), tt.want, tt.avail)
			}
			_, held := p.Reserved()
			if held != d.Units() && tt.state.Open() && name != "the second is refused" {
				t.Errorf("%d units are held and %d are told", held, d.Units())
			}
			// A repeat is answered with how things stand, and changes nothing.
			if r := p.Apply(last, 99, start+99); r.Outcome != Duplicate || tt.state != reservation.Unknown && (!r.Decided || p.Decision().State != tt.state) {
				t.Errorf("a repeat gives %+v, %+v", r, p.Decision())
			}
			if again := levels(p)["S"]; !reflect.DeepEqual(again, l) {
				t.Errorf("a repeat makes %+v of %+v", again, l)
			}
		})
	}
}

func TestReservationIsForgotten(t *testing.T) {
	p := New(Options{})
	receipt, request, release := ev("r", event.ReceiptReceived, 5, "at=A", "ref="), ask("h", 2), on("h", event.ReservationReleased, 0)
	applyAll(t, p, []event.Event{receipt, request, release})
	answer := func(at int64) reservation.State {
		if r := p.Apply(&request, 9, at); r.Outcome != Duplicate || !r.Decided {
			t.Fatalf("%+v", r)
		}
		return p.Decision().State
	}
	if got := answer(start + HoldMemory.Microseconds()); got != reservation.Released {
		t.Errorf("within the memory it is %s", got)
	}
	if got := answer(start + HoldMemory.Microseconds() + 10); got != reservation.Unknown {
		t.Errorf("after it, it is %s", got)
	}
}

// anyOfHolds draws an event from a small world of reservations and what else moves the same shelves.
func anyOfHolds(t *rapid.T, n int) event.Event {
	k := rapid.SampledFrom([]event.Kind{
		event.ReservationRequested, event.ReservationRequested, event.ReservationRequested, event.ReservationExtended, event.ReservationConfirmed,
		event.ReservationAborted, event.ReservationReleased, event.SaleRecorded, event.SaleCancelled, event.ReceiptReceived, event.StockAdjusted,
	}).Draw(t, "kind")
	e := event.Event{
		ID: fmt.Sprint("e", n), SKU: rapid.SampledFrom([]string{"S", "T"}).Draw(t, "sku"), Kind: k, Quantity: Units(rapid.IntRange(1, 4).Draw(t, "quantity")), Channel: "web",
		OrderID: fmt.Sprint("o", rapid.IntRange(1, 3).Draw(t, "order")), ReservationID: fmt.Sprint("h", rapid.IntRange(1, 4).Draw(t, "reservation")),
		OccurredAt: start, ReceivedAt: start,
	}
	switch k {
	case event.ReservationRequested:
		e.ExpiresAt = start + int64(rapid.IntRange(1, 3).Draw(t, "expires"))
		if rapid.Bool().Draw(t, "several") {
			e.PeerSKU, e.DecideBy, e.Parts = "S", start+1, 2
		}
		e.Scope = rapid.SampledFrom([]string{"", "A", "B\nA"}).Draw(t, "scope")
	case event.ReservationExtended:
		e.ExpiresAt = start + int64(rapid.IntRange(1, 3).Draw(t, "expires"))
	case event.ReservationReleased:
		e.Quantity = Units(rapid.IntRange(0, 2).Draw(t, "released"))
		if rapid.Bool().Draw(t, "time is up") {
			e.Quantity, e.ExpiresAt = 0, start+int64(rapid.IntRange(1, 3).Draw(t, "expired"))
		}
	case event.ReceiptReceived, event.StockAdjusted:
		e.ReservationID, e.OrderID = "", ""
		e.Location = rapid.SampledFrom([]string{"A", "B"}).Draw(t, "location")
		if k == event.StockAdjusted {
			e.Quantity = -e.Quantity
		}
	}
	return e
}

// TestReservationsKeepTheLaws holds what the ledger promises, over histories of reservations: what the shelves hold is what the open reservations do, no grant
// takes available below zero, only a grant holds and only an end gives back; a repeat changes nothing; and an owner that reads what was stored goes on and
// answers as if it had never stopped.
func TestReservationsKeepTheLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole, part, store := New(small), New(small), newStore()
		at := int64(start)
		var es []event.Event
		for i := range rapid.IntRange(1, 60).Draw(t, "events") {
			e := anyOfHolds(t, i)
			if i > 0 && rapid.IntRange(0, 7).Draw(t, "repeat") == 0 {
				e = es[rapid.IntRange(0, i-1).Draw(t, "of")]
			}
			es = append(es, e)
			at += rapid.SampledFrom([]int64{0, 1000, 20_000_000, 3 * minute, HoldMemory.Microseconds()}).Draw(t, "pause")
			before, had := levels(whole)[e.SKU], whole.hold(e.ReservationID, e.SKU)
			heldBefore := Units(0)
			if had != nil {
				heldBefore = had.units()
			}
			want, got := whole.Apply(&e, int64(i), at), part.Apply(&e, int64(i), at)
			if got != want || want.Decided && !reflect.DeepEqual(whole.Decision(), part.Decision()) {
				t.Fatalf("event %d %+v: got %+v, %+v; want %+v, %+v", i, e, got, part.Decision(), want, whole.Decision())
			}
			after := levels(whole)[e.SKU]
			if want.Outcome == Unchanged || want.Outcome == Duplicate {
				if !reflect.DeepEqual(before, after) {
					t.Fatalf("%+v changed %+v to %+v", e, before, after)
				}
			}
			if d := whole.Decision(); want.Decided && e.Kind == event.ReservationRequested && want.Outcome == Applied {
				if after.Available() < 0 || d.Units() != e.Quantity || heldBefore != 0 {
					t.Fatalf("%+v was granted: %+v, available is %d", e, d, after.Available())
				}
			}
			var onShelves Units
			for _, l := range levels(whole) {
				for _, x := range l.Locations {
					onShelves += x.Held
				}
			}
			placed := Units(0) // released facts hold nothing
			if _, held := whole.Reserved(); held+placed != onShelves {
				t.Fatalf("%+v: the shelves hold %d, the reservations %d", e, onShelves, held)
			}
			if rapid.IntRange(0, 3).Draw(t, "batch ends") == 0 {
				store.flush(part)
				if rapid.Bool().Draw(t, "owner changes") {
					part = store.load(t, small)
				}
			}
		}
		if got, want := levels(part), levels(whole); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
		if got, want := part.Memory(), whole.Memory(); got != want {
			t.Fatalf("%+v is remembered, want %+v", got, want)
		}
		// Both know the same deadlines, and tell of each once in a while.
		due := func(p *Partition, now int64) map[Due]int {
			out := make(map[Due]int)
			p.Due(now, time.Second, func(d Due) { out[d]++ })
			return out
		}
		a, b := due(part, start+10), due(whole, start+10)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("due %v, want %v", a, b)
		}
		open, _ := whole.Reserved()
		if len(b) != open || len(due(whole, start+10)) != 0 || len(due(whole, start+2_000_000)) != open {
			t.Fatalf("%d are open and %v are due", open, b)
		}
	})
}
