package ledgerprojector

import (
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/reservation"
	"github.com/onhand/onhand/topics"
)

// decisions is the newest decision on each part, by reservation and SKU.
func (r *rig) decisions() map[string]*reservation.Decision {
	out := make(map[string]*reservation.Decision)
	for _, rec := range r.read(schemas.ReservationDecisions) {
		d, err := topics.DecodeDecision(rec.Value)
		if err != nil || string(rec.Key) != d.ReservationID {
			r.t.Fatalf("%q: %+v, %v", rec.Key, d, err)
		}
		key := d.ReservationID + "/" + d.SKU
		if old := out[key]; old == nil || d.SourceOffset >= old.SourceOffset {
			out[key] = d
		}
	}
	return out
}

// states waits until the parts stand as wanted.
func (r *rig) states(want map[string]reservation.State) map[string]*reservation.Decision {
	r.t.Helper()
	var got map[string]*reservation.Decision
	eventually(r.t, "decisions", func() error {
		got = r.decisions()
		for part, state := range want {
			if d := got[part]; d == nil || d.State != state {
				return fmt.Errorf("%s is %+v, want %s", part, d, state)
			}
		}
		return nil
	})
	return got
}

func stocked(sku string, units event.Units) event.Event {
	return event.Event{ID: "receipt/" + sku, Kind: event.ReceiptReceived, SKU: sku, Location: "berlin", Quantity: units, OccurredAt: 1, ReceivedAt: 1}
}

// part is the request of one part of a reservation, for those that have several SKUs with the peer and the moment to be decided by.
func part(id, sku string, units event.Units, ttl time.Duration, peer string, decide time.Duration) event.Event {
	now := time.Now()
	e := event.Event{
		ID: "rsv/" + id + "/request/" + sku, Kind: event.ReservationRequested, SKU: sku, ReservationID: id, Quantity: units, ExpiresAt: now.Add(ttl).UnixMicro(), Parts: 1,
		OccurredAt: now.UnixMicro(), ReceivedAt: now.UnixMicro(), RequestHash: 7,
	}
	if peer != "" {
		e.PeerSKU, e.Parts, e.DecideBy = peer, 2, now.Add(decide).UnixMicro()
	}
	return e
}

func verdict(id, sku string, k event.Kind) event.Event {
	return event.Event{ID: fmt.Sprintf("rsv/%s/%s/%s", id, k, sku), Kind: k, SKU: sku, ReservationID: id, RequestHash: 7, OccurredAt: 1, ReceivedAt: 1}
}

// TestReservationIsDecidedAndExpires goes through the life of reservations of one SKU, over a restart: whoever owns the partition answers each event, and
// ends what has expired by an event of its own, so that a fold of the log agrees.
func TestReservationIsDecidedAndExpires(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	r.send(stocked("A", 3), part("long", "A", 2, time.Hour, "", 0), part("refused", "A", 2, time.Hour, "", 0), part("short", "A", 1, time.Millisecond, "", 0))
	got := r.states(map[string]reservation.State{"long/A": reservation.Held, "refused/A": reservation.Refused, "short/A": reservation.Expired})
	if d := got["refused/A"]; d.Available != 1 || d.Quantity != 2 || d.Units() != 0 {
		t.Errorf("the refusal says %+v", d)
	}
	if d := got["short/A"]; d.EventKind != event.ReservationReleased || d.Available != 1 {
		t.Errorf("the end says %+v", d)
	}
	s.stop()
	r.check(opts())
	// The next owner knows what is open, and answers a repeat.
	s = r.start(nil)
	r.send(part("long", "A", 2, time.Hour, "", 0), verdict("long", "A", event.ReservationReleased))
	got = r.states(map[string]reservation.State{"long/A": reservation.Released})
	if d := got["long/A"]; d.Available != 3 {
		t.Errorf("the release says %+v", d)
	}
	s.stop()
	f := r.check(opts())
	if l := f.Levels()["A"]; l.Available() != 3 || l.Version != 5 { // the refused request and the repeat change nothing
		t.Errorf("%+v", l)
	}
}

// TestNoPartialHoldSurvives stops whoever makes a reservation of two SKUs after each step that it can have taken, with owners that restart meanwhile: in the end
// both parts are held, or neither is.
func TestNoPartialHoldSurvives(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	const (
		requestA = 1 << iota // of the SKU that decides
		requestB
		confirmA
		confirmB
		abortA
		abortB
		lateA // the requests reach the log only after everything else
	)
	held := map[string]bool{}
	want := map[string]reservation.State{}
	var events, late []event.Event
	n := 0
	stock := map[string]event.Units{}
	for name, steps := range map[string]int{
		"only the decider": requestA, "only the other": requestB, "both": requestA | requestB, "confirmed, nobody told": requestA | requestB | confirmA,
		"confirmed, all told": requestA | requestB | confirmA | confirmB, "aborted, nobody told": requestA | requestB | abortA, "aborted, all told": requestA | requestB | abortA | abortB,
		"confirmed and aborted": requestA | requestB | confirmA | abortA, "the decider came late": requestB | lateA,
	} {
		n++
		id, a, b := fmt.Sprint("r", n), fmt.Sprint("A", n), fmt.Sprint("B", n)
		events = append(events, stocked(a, 2), stocked(b, 2))
		stock[a], stock[b] = 2, 2
		decide := 50 * time.Millisecond
		for step, e := range map[int]event.Event{requestA: part(id, a, 1, time.Hour, a, decide), requestB: part(id, b, 1, time.Hour, a, decide)} {
			if steps&step != 0 {
				events = append(events, e)
			}
		}
		if steps&confirmA != 0 {
			events = append(events, verdict(id, a, event.ReservationConfirmed))
		}
		if steps&confirmB != 0 {
			events = append(events, verdict(id, b, event.ReservationConfirmed))
		}
		if steps&abortA != 0 {
			events = append(events, verdict(id, a, event.ReservationAborted))
		}
		if steps&abortB != 0 {
			events = append(events, verdict(id, b, event.ReservationAborted))
		}
		if steps&lateA != 0 {
			late = append(late, part(id, a, 1, time.Hour, a, decide))
		}
		state := reservation.Aborted
		if steps&confirmA != 0 {
			state = reservation.Held
		}
		for _, sku := range []string{a, b} {
			if sku == b && steps == requestA {
				continue // nobody ever spoke of it
			}
			held[sku] = state == reservation.Held
			want[id+"/"+sku] = state
		}
		t.Log(id, name)
	}
	for i := range events {
		r.send(events[i])
		if i%7 == 6 {
			s.stop()
			s = r.start(nil)
		}
	}
	r.states(want)
	r.send(late...)
	r.states(want)
	s.stop()
	f := r.check(opts())
	for sku, l := range f.Levels() {
		left := stock[sku]
		if held[sku] {
			left--
		}
		if l.Available() != left {
			t.Errorf("%s has %d left, want %d", sku, l.Available(), left)
		}
	}
}
