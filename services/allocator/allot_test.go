package allocator_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// allotted is the events about allotments that are in the log.
func (b *bench) allotted() (out []event.Event) {
	b.t.Helper()
	_, err := kafka.Committed(b.t.Context(), b.client, map[string][]int32{schemas.StockEvents: {0, 1, 2, 3}}, nil, func(r *kgo.Record) {
		var x topics.EventReader
		var e event.Event
		if err := x.Read(slices.Clone(r.Value), &e); err != nil || string(r.Key) != e.SKU {
			b.t.Errorf("%q: %+v %v", r.Key, e, err)
		}
		out = append(out, e)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// TestAllotmentsAreWrittenAgainAfterARestart has the allocator stop while the ledger has not taken in its event, which could as well never have been written: the next one writes it again, as it was,
// and goes on when a level has it.
func TestAllotmentsAreWrittenAgainAfterARestart(t *testing.T) {
	b := newBench(t)
	strict := "strict"
	b.set(topics.Setting{Location: &catalog.Location{ID: "wh", Kind: catalog.Warehouse}}, topics.Setting{Rule: &catalog.Rule{ID: "all", Mode: &strict}},
		topics.Setting{Channel: &catalog.Channel{ID: "shop", Adapter: catalog.Claim, ListsAllSKUs: true}})
	version := int64(0)
	level := func(onHand ledger.Units, a ...ledger.Allotment) {
		version++
		now := time.Now().UnixMicro()
		b.produce(topics.Record(schemas.StockLevels, "MUG", b.codec.AppendLevel(nil, &ledger.Level{SKU: "MUG", Version: version, PreviousVersion: version - 1, SourceOffset: version, ReceivedAt: now,
			OldestReceivedAt: now, Locations: []ledger.LocationLevel{{Location: "wh", OnHand: onHand}}, Allotments: a})))
	}
	var log []event.Event
	wait := func(n int) event.Event {
		t.Helper()
		b.until("an event about the allotment", func() bool { log = b.allotted(); return len(log) >= n })
		e := log[n-1]
		if len(log) > n || e.SKU != "MUG" || e.Channel != "shop" || e.Sequence == 0 || !e.Checked || ledger.Check(&e, 0).Reason != "" {
			t.Fatalf("got %+v", log)
		}
		return e
	}
	level(9)
	b.start()
	first := wait(1)
	if first.Kind != event.AllotmentChanged || first.Quantity != 0 {
		t.Errorf("taken in by %+v", first)
	}
	b.stop()
	s := b.start()
	if again := wait(2); again.ID != first.ID || again.Sequence != first.Sequence || again.Quantity != 0 {
		t.Errorf("written again: %+v, was %+v", again, first)
	}
	level(9, ledger.Allotment{Channel: "shop", Sequence: first.Sequence})
	raise := wait(3)
	if raise.Quantity != 9 || raise.Sequence <= first.Sequence {
		t.Errorf("raised by %+v", raise)
	}
	level(9, ledger.Allotment{Channel: "shop", Units: 9, Sequence: raise.Sequence})
	level(7, ledger.Allotment{Channel: "shop", Units: 7, Sequence: raise.Sequence}) // two were claimed
	b.until("it is known what is left", func() bool {
		got := get(s, "MUG").Body.String()
		return strings.Contains(got, `"exposure":7`) && strings.Contains(got, `"room":0`)
	})
	if st := s.Stats(); st.Open != 0 || st.Breaches != 0 {
		t.Errorf("stats %+v", st)
	}
	level(5, ledger.Allotment{Channel: "shop", Units: 7, Sequence: raise.Sequence}) // a count finds fewer
	if back := wait(4); back.Quantity != -2 {
		t.Errorf("taken back by %+v", back)
	}
	target := b.target("shop/MUG")
	if target.Write == nil || target.Write.ID != "" || target.Write.Operation != 0 || target.Mode != "strict" {
		t.Errorf("the target holds something for a pusher: %+v", target)
	}
}
