package ledger

import (
	"reflect"
	"testing"

	"github.com/onhand/onhand/stock/event"
)

// TestLevelSaysWhatItAdds holds previous version and earliest sale against what a reader needs: from PreviousVersion on, no unit that a channel has
// sold beyond what was known came earlier than EarliestAt.
func TestLevelSaysWhatItAdds(t *testing.T) {
	p := New(Options{})
	sale := func(id, channel string, at int64) {
		t.Helper()
		e := event.Event{ID: id, SKU: "S", Kind: event.SaleRecorded, Channel: channel, OrderID: id, Quantity: 1, OccurredAt: at, ReceivedAt: 1000}
		if r := p.Apply(&e, p.nextOffset(), 1000); r.Outcome != Applied {
			t.Fatal(r)
		}
	}
	want := func(previous int64, earliest map[string]int64) {
		t.Helper()
		var l Level
		p.Level(p.SKU("S"), 0, &l)
		got := make(map[string]int64)
		for _, c := range l.Sold {
			if c.EarliestAt != 0 {
				got[c.Channel] = c.EarliestAt
			}
		}
		if l.PreviousVersion != previous || !reflect.DeepEqual(got, earliest) {
			t.Errorf("previous version %d, earliest %v; want %d, %v", l.PreviousVersion, got, previous, earliest)
		}
	}
	sale("1", "b", 50)
	sale("2", "a", 70)
	sale("3", "b", 40)
	want(0, map[string]int64{"a": 70, "b": 40})
	p.Flushed()
	want(0, map[string]int64{}) // emitted again: it adds nothing that it can tell
	sale("4", "b", 90)
	want(3, map[string]int64{"b": 90})
	sale("5", "b", 0) // a time that is not known is before every other
	want(3, map[string]int64{})
	sale("6", "b", 95)
	want(3, map[string]int64{})
	p.Flushed()
	repeat := event.Event{ID: "6", SKU: "S", Kind: event.SaleRecorded, Channel: "b", OrderID: "6", Quantity: 1, OccurredAt: 1, ReceivedAt: 1000}
	if r := p.Apply(&repeat, p.nextOffset(), 1000); r.Outcome != Duplicate {
		t.Fatal(r)
	}
	want(0, map[string]int64{})
	e := event.Event{ID: "c", SKU: "S", Kind: event.SaleCancelled, Channel: "a", OrderID: "2", Quantity: 1, OccurredAt: 5, RestockedByChannel: true}
	p.Apply(&e, p.nextOffset(), 1000)
	want(6, map[string]int64{})
	sale("7", "a", -3)
	want(6, map[string]int64{})
}

// nextOffset numbers events by how many were applied, which is all this test needs.
func (p *Partition) nextOffset() int64 {
	if s := p.SKU("S"); s != nil {
		return s.Version()
	}
	return 0
}

// TestWatermarkChangesNothing holds that a watermark is taken with a channel and a time, and leaves no trace.
func TestWatermarkChangesNothing(t *testing.T) {
	p := New(Options{})
	good := event.Event{ID: "w", Kind: event.OrderWatermarkPassed, Channel: "a", OccurredAt: 10}
	for range 2 { // and again: it is not remembered
		if r := p.Apply(&good, 0, 10); r.Outcome != Passed {
			t.Fatalf("%+v", r)
		}
	}
	if p.Len() != 0 || len(p.Changed()) != 0 || len(p.Journal()) != 0 {
		t.Errorf("%d SKUs, %d changed, %d journal segments", p.Len(), len(p.Changed()), len(p.Journal()))
	}
	for field, e := range map[string]event.Event{
		"channel":     {ID: "w", Kind: event.OrderWatermarkPassed, OccurredAt: 10},
		"occurred_at": {ID: "w", Kind: event.OrderWatermarkPassed, Channel: "a"},
		"sku":         {ID: "w", Kind: event.OrderWatermarkPassed, Channel: "a", OccurredAt: 10, SKU: "S"},
		"quantity":    {ID: "w", Kind: event.OrderWatermarkPassed, Channel: "a", OccurredAt: 10, Quantity: 1},
	} {
		if f := Check(&e, 0); f.Reason != ReasonInvalid || f.Field != field {
			t.Errorf("%s: %+v", field, f)
		}
	}
}
