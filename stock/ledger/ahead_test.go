package ledger

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/event"
)

// TestLookingAheadChangesNothing folds the same events with and without looking ahead: repeats, SKUs that an event of the same look makes, events
// that are told of and skipped, and looks that are given up half way.
func TestLookingAheadChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, "S", "T", "U")
		for range rapid.IntRange(0, 10).Draw(t, "repeats") {
			es = append(es, es[rapid.IntRange(0, len(es)-1).Draw(t, "repeat")])
		}
		at := make([]int64, len(es))
		for i := range at {
			at[i] = int64(i) * 3 // offsets have holes
		}
		p, q := New(Options{}), New(Options{})
		for i := 0; i < len(es); {
			n := rapid.IntRange(0, min(Lookahead, len(es)-i)).Draw(t, "looked at")
			q.Ahead(es[i:i+n], at[i:i+n])
			applied := rapid.IntRange(1, min(Lookahead+1, len(es)-i)).Draw(t, "applied")
			for j := range applied {
				if rapid.IntRange(0, 9).Draw(t, "skipped") == 0 {
					continue
				}
				want, got := p.Apply(&es[i+j], at[i+j], start), q.Apply(&es[i+j], at[i+j], start)
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%+v: got %+v, want %+v", es[i+j], got, want)
				}
			}
			i += applied
			i++
		}
		if got, want := levels(q), levels(p); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if got, want := q.Digest(), p.Digest(); *got != *want {
			t.Fatal("digests differ")
		}
	})
}

// TestLookingAheadCostsNoGarbage holds the hot path to what it promises.
func TestLookingAheadCostsNoGarbage(t *testing.T) {
	p := New(Options{})
	es := make([]event.Event, Lookahead)
	at := make([]int64, Lookahead)
	for i := range es {
		es[i], at[i] = event.Event{ID: "e", SKU: "S", Kind: event.SaleRecorded, Channel: "web", OrderID: "o", LineID: "1", Quantity: 1, ReceivedAt: start}, int64(i)
	}
	p.Ahead(es, at)
	p.Apply(&es[0], 0, start)
	if n := testing.AllocsPerRun(100, func() { p.Ahead(es, at) }); n != 0 {
		t.Errorf("%v allocations a look", n)
	}
}
