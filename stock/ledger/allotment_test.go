package ledger

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/reservation"
)

// allots is a change of the allotment of web.
func allots(sequence int64, q Units, more ...string) event.Event {
	e := ev(fmt.Sprint("allot/", sequence, q), event.AllotmentChanged, q, more...)
	e.Sequence = sequence
	return e
}

func TestAllotments(t *testing.T) {
	receipt := ev("r", event.ReceiptReceived, 10, "at=A", "ref=")
	ends := func(sequence int64) event.Event {
		e := allots(sequence, 0)
		e.ID, e.Kind = "end/"+e.ID, event.AllotmentEnded
		return e
	}
	left := func(n Units, sequence int64) []Allotment {
		return []Allotment{{Channel: "web", Units: n, Sequence: sequence}}
	}
	type events = []event.Event
	for name, tt := range map[string]struct {
		events events
		state  reservation.State // that the last one is answered with; Unknown when it is not about a reservation
		avail  Units
		want   []Allotment
	}{
		"none":                            {events{receipt, ask("h", 10)}, reservation.Held, 0, nil},
		"set":                             {events{receipt, allots(5, 3)}, reservation.Unknown, 10, left(3, 5)},
		"a grant takes from it":           {events{receipt, allots(5, 3), ask("h", 2)}, reservation.Held, 8, left(1, 5)},
		"no more than is left":            {events{receipt, allots(5, 3), ask("h", 2), ask("i", 2)}, reservation.Refused, 8, left(1, 5)},
		"no more than there is":           {events{receipt, allots(5, 30), ask("h", 11)}, reservation.Refused, 10, left(30, 5)},
		"nothing allotted":                {events{receipt, allots(5, 0), ask("h", 1)}, reservation.Refused, 10, left(0, 5)},
		"raised":                          {events{receipt, allots(5, 3), allots(6, 4)}, reservation.Unknown, 10, left(7, 6)},
		"lowered":                         {events{receipt, allots(5, 3), allots(6, -2)}, reservation.Unknown, 10, left(1, 6)},
		"lowered by more than is left":    {events{receipt, allots(5, 3), ask("h", 2), allots(6, -3)}, reservation.Unknown, 8, left(0, 6)},
		"a late change is void":           {events{receipt, allots(6, 3), allots(5, 4)}, reservation.Unknown, 10, left(3, 6)},
		"a late end is void":              {events{receipt, allots(6, 3), ends(5)}, reservation.Unknown, 10, left(3, 6)},
		"ended":                           {events{receipt, allots(5, 3), ends(6), ask("h", 10)}, reservation.Held, 0, []Allotment{{"web", 0, 6, true}}},
		"begun anew":                      {events{receipt, allots(5, 3), ends(6), allots(7, 2)}, reservation.Unknown, 10, left(2, 7)},
		"released: may be taken again":    {events{receipt, allots(5, 3), ask("h", 3), on("h", event.ReservationReleased, 0)}, reservation.Released, 10, left(3, 5)},
		"released in part":                {events{receipt, allots(5, 3), ask("h", 3), on("h", event.ReservationReleased, 1)}, reservation.Held, 8, left(1, 5)},
		"released when it has ended":      {events{receipt, allots(5, 3), ask("h", 3), ends(6), on("h", event.ReservationReleased, 0)}, reservation.Released, 10, []Allotment{{"web", 0, 6, true}}},
		"held before it began":            {events{receipt, ask("h", 3), allots(5, 3), on("h", event.ReservationReleased, 0)}, reservation.Released, 10, left(6, 5)},
		"a sale of what is held":          {events{receipt, allots(5, 3), ask("h", 2), on("h", event.SaleRecorded, 2)}, reservation.Committed, 8, left(1, 5)},
		"a sale beyond what is held":      {events{receipt, allots(5, 4), ask("h", 2), on("h", event.SaleRecorded, 3)}, reservation.Committed, 7, left(1, 5)},
		"a sale that did not ask":         {events{receipt, allots(5, 3), ev("s", event.SaleRecorded, 2)}, reservation.Unknown, 8, left(1, 5)},
		"a sale of more than is allotted": {events{receipt, allots(5, 3), ev("s", event.SaleRecorded, 4)}, reservation.Unknown, 6, left(0, 5)},
		"a sale of another channel":       {events{receipt, allots(5, 3), ev("s", event.SaleRecorded, 4, "by=shop")}, reservation.Unknown, 6, left(3, 5)},
		"a cancelled sale is the pool's":  {events{receipt, allots(5, 3), ev("s", event.SaleRecorded, 2), ev("c", event.SaleCancelled, 2)}, reservation.Unknown, 10, left(1, 5)},
		"what is allotted is not others'": {events{receipt, allots(5, 3), ask("h", 8, "by=shop")}, reservation.Refused, 10, left(3, 5)},
		"what is not allotted is":         {events{receipt, allots(5, 3), ask("h", 7, "by=shop")}, reservation.Held, 3, left(3, 5)},
	} {
		t.Run(name, func(t *testing.T) {
			p, store := New(Options{}), newStore()
			var r Result
			for i := range tt.events {
				r = p.Apply(&tt.events[i], int64(i), start+int64(i))
				store.flush(p)
			}
			if tt.state != reservation.Unknown && (!r.Decided || p.Decision().State != tt.state) {
				t.Errorf("answered %+v of %+v, want %s", p.Decision(), r, tt.state)
			}
			l := levels(p)["S"]
			if l.Available() != tt.avail || !reflect.DeepEqual(append([]Allotment(nil), l.Allotments...), tt.want) {
				t.Errorf("got %+v, available %d, want %+v, available %d", l.Allotments, l.Available(), tt.want, tt.avail)
			}
			if again := levels(store.load(t, Options{}))["S"]; !reflect.DeepEqual(again, l) {
				t.Errorf("restored %+v\nwant %+v", again, l)
			}
			q := New(Options{})
			if q.Adopt(&l); !reflect.DeepEqual(append([]Allotment(nil), levels(q)["S"].Allotments...), tt.want) {
				t.Errorf("adopted %+v, want %+v", levels(q)["S"].Allotments, tt.want)
			}
		})
	}
}

// TestAllotmentsKeepTheLaws holds what the allocator relies on, over histories of reservations, sales, receipts and allotments: a claim channel never gets more by asking than
// is left of what it was allotted; what is available and what is left fall and rise together with what it holds; what one is allotted no other is granted; a change counts once
// and never after a later one; and all of that wherever batches end and owners change.
func TestAllotmentsKeepTheLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole, part, store := New(small), New(small), newStore()
		at := int64(start)
		var es []event.Event
		for i := range rapid.IntRange(1, 60).Draw(t, "events") {
			e := anyOfHolds(t, i)
			e.Channel = rapid.SampledFrom([]string{"app", "shop", "web"}).Draw(t, "channel")
			if e.Kind == event.ReservationAborted || e.Kind == event.ReservationExtended {
				e.Kind, e.ReservationID, e.OrderID, e.ExpiresAt = event.AllotmentChanged, "", "", 0
				e.Sequence, e.Quantity = int64(rapid.IntRange(1, 12).Draw(t, "sequence")), Units(rapid.IntRange(-4, 6).Draw(t, "change"))
				if rapid.IntRange(0, 5).Draw(t, "end") == 0 {
					e.Kind, e.Quantity = event.AllotmentEnded, 0
				}
				if e.Channel == "shop" {
					e.Channel = "web" // which is never held to one
				}
			}
			if i > 0 && rapid.IntRange(0, 7).Draw(t, "repeat") == 0 {
				e = es[rapid.IntRange(0, i-1).Draw(t, "of")]
			}
			es = append(es, e)
			at += rapid.SampledFrom([]int64{0, 1000, 20_000_000, 3 * minute, HoldMemory.Microseconds()}).Draw(t, "pause")
			before, had := levels(whole)[e.SKU], whole.hold(e.ReservationID, e.SKU)
			heldBefore, of := Units(0), e.Channel
			if had != nil {
				heldBefore, of = had.units(), had.channel
			}
			want, got := whole.Apply(&e, int64(i), at), part.Apply(&e, int64(i), at)
			if got != want || want.Decided && !reflect.DeepEqual(whole.Decision(), part.Decision()) {
				t.Fatalf("event %d %+v: got %+v, %+v; want %+v, %+v", i, e, got, part.Decision(), want, whole.Decision())
			}
			after := levels(whole)[e.SKU]
			held := Units(0)
			if h := whole.hold(e.ReservationID, e.SKU); h != nil {
				held, of = h.units(), h.channel // a new one, when an old one was forgotten
			}
			for _, ch := range []string{"app", "shop", "web"} {
				was, is := find(before, ch), find(after, ch)
				expect := was
				switch { // the obvious model
				case want.Outcome != Applied:
				case e.Kind == event.AllotmentChanged && e.Channel == ch && e.Sequence > was.Sequence:
					expect = Allotment{ch, max(0, was.Units+e.Quantity), e.Sequence, false}
				case e.Kind == event.AllotmentEnded && e.Channel == ch && e.Sequence > was.Sequence:
					expect = Allotment{ch, 0, e.Sequence, true}
				case was.Sequence == 0 || was.Ended:
				case e.Kind == event.SaleRecorded && e.Channel == ch:
					expect.Units = max(0, was.Units-(e.Quantity-(heldBefore-held)))
				case e.Kind != event.SaleRecorded && of == ch:
					expect.Units = was.Units - (held - heldBefore)
				}
				if is != expect {
					t.Fatalf("%+v makes %+v of %+v, want %+v", e, is, was, expect)
				}
				if is.Units < 0 {
					t.Fatalf("%+v leaves %+v", e, is)
				}
			}
			if e.Kind == event.ReservationRequested && want.Outcome == Applied {
				mine := find(before, e.Channel)
				var others Units
				for _, a := range before.Allotments {
					if a.Channel != e.Channel {
						others += a.Units
					}
				}
				if limited := mine.Sequence > 0 && !mine.Ended; limited && e.Quantity > mine.Units || !limited && e.Quantity > before.Available()-others || after.Available() < 0 {
					t.Fatalf("%+v was granted of %+v", e, before)
				}
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
		if *part.Digest() != *whole.Digest() {
			t.Fatal("the digest kept along differs from the one of an unbroken fold")
		}
	})
}

func find(l Level, channel string) Allotment {
	for _, a := range l.Allotments {
		if a.Channel == channel {
			return a
		}
	}
	return Allotment{Channel: channel}
}
