package ledger

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/event"
)

const minute = int64(60_000_000)

// start is a record time to begin at.
const start = 1_700_000_000_000_000

// small is options under which a few minutes see buckets end.
var small = Options{Window: 2 * time.Minute, CountWindow: time.Minute, OpenWindow: 10 * time.Minute}

// levels is the public state of all SKUs, without what depends on where batches ended.
func levels(p *Partition) map[string]Level {
	out := make(map[string]Level)
	p.SKUs(func(s *SKU) bool {
		var l Level
		p.Level(s, 0, &l)
		l.OldestReceivedAt, l.PreviousVersion = 0, 0
		for i := range l.Sold {
			l.Sold[i].EarliestAt = 0
		}
		out[s.Name()] = l
		return true
	})
	return out
}

// shelves is levels without versions and last events: what is on the shelves.
func shelves(p *Partition) map[string]Level {
	out := levels(p)
	for k, l := range out {
		l.SourceOffset, l.EventID, l.EventKind, l.ReceivedAt = 0, "", 0, 0
		for i := range l.Locations {
			at := &l.Locations[i]
			at.MovedAt, at.CountedAsOf, at.CountsFrom = 0, 0, 0
		}
		out[k] = l
	}
	return out
}

func applyAll(t testing.TB, p *Partition, es []event.Event) {
	t.Helper()
	for i := range es {
		if r := p.Apply(&es[i], int64(i), start+int64(i)); r.Outcome != Applied {
			t.Fatalf("event %d %+v: outcome %d, %s", i, es[i], r.Outcome, r.Fault.Detail)
		}
	}
}

// line writes an event of the tables below: kind, quantity, and the fields named by letter.
func ev(id string, k event.Kind, q Units, more ...string) event.Event {
	e := event.Event{ID: id, SKU: "S", Kind: k, Quantity: q, Channel: "web", OrderID: "o1", LineID: "1", Reference: "R", ReservationID: "H", OccurredAt: start - 1000}
	for _, m := range more {
		f, v, _ := strings.Cut(m, "=")
		switch f {
		case "at":
			e.Location = v
		case "to":
			e.ToLocation = v
		case "order":
			e.OrderID = v
		case "by":
			e.Channel = v
		case "ref":
			e.Reference = v
		case "how":
			e.Disposition, _ = event.ParseDisposition(v)
		case "restocked":
			e.RestockedByChannel = true
		case "occurred", "asof":
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				panic(fmt.Sprintf("%s=%s: %v", f, v, err)) // a slip in a test
			}
			if f == "asof" {
				e.AsOf = start + n
			} else {
				e.OccurredAt = start + n
			}
		}
	}
	return e
}

// show writes a level as the tables do: buckets that are not zero.
func show(l Level) string {
	var b strings.Builder
	for _, x := range l.Locations {
		for _, f := range []struct {
			name string
			v    Units
		}{{"onhand", x.OnHand}, {"committed", x.Committed}, {"held", x.Held}, {"inbound", x.Inbound}, {"unsellable", x.Unsellable}, {"safety", x.Safety}} {
			if f.v != 0 {
				fmt.Fprintf(&b, "%s.%s=%d ", x.Location, f.name, f.v)
			}
		}
	}
	if l.Unassigned != 0 {
		fmt.Fprintf(&b, "unassigned=%d ", l.Unassigned)
	}
	for _, c := range l.Sold {
		fmt.Fprintf(&b, "sold.%s=%d ", c.Channel, c.Units)
	}
	for _, c := range l.Restored {
		fmt.Fprintf(&b, "restored.%s=%d ", c.Channel, c.Units)
	}
	return strings.TrimSpace(b.String())
}

func TestEffects(t *testing.T) {
	receipt := ev("r", event.ReceiptReceived, 10, "at=A", "ref=")
	for name, tt := range map[string]struct {
		events []event.Event
		want   string
		avail  Units
	}{
		"sale at a location": {[]event.Event{receipt, ev("s", event.SaleRecorded, 3, "at=A")}, "A.onhand=10 A.committed=3 sold.web=3", 7},
		"sale unassigned":    {[]event.Event{receipt, ev("s", event.SaleRecorded, 3)}, "A.onhand=10 unassigned=3 sold.web=3", 7},
		"oversale is kept":   {[]event.Event{ev("s", event.SaleRecorded, 3, "at=A")}, "A.committed=3 sold.web=3", -3},
		"cancelled in part":  {[]event.Event{ev("s", event.SaleRecorded, 3, "at=A"), ev("c", event.SaleCancelled, 1)}, "A.committed=2 sold.web=3", -2},
		"cancelled, and the channel restocks": {
			[]event.Event{ev("s", event.SaleRecorded, 3), ev("c", event.SaleCancelled, 3, "restocked")}, "sold.web=3 restored.web=3", 0},
		"cancellation of an unknown line raises nothing": {[]event.Event{receipt, ev("c", event.SaleCancelled, 2)}, "A.onhand=10", 10},
		"cancellation of a cancelled line raises nothing": {
			[]event.Event{receipt, ev("s", event.SaleRecorded, 2, "at=A"), ev("x", event.SaleRecorded, 1, "at=A", "order=o2"), ev("c", event.SaleCancelled, 2), ev("c2", event.SaleCancelled, 2)},
			"A.onhand=10 A.committed=1 sold.web=3", 9},
		"cancellation before its sale": {
			[]event.Event{receipt, ev("c", event.SaleCancelled, 2), ev("s", event.SaleRecorded, 3, "at=A")}, "A.onhand=10 A.committed=1 sold.web=3", 9},
		"two channels with the same number": {
			[]event.Event{receipt, ev("s", event.SaleRecorded, 3, "at=A"), ev("t", event.SaleRecorded, 2, "at=A", "by=shop"), ev("h", event.ShipmentConfirmed, 2, "at=A", "by=shop"), ev("c", event.SaleCancelled, 5)},
			"A.onhand=8 sold.shop=2 sold.web=3", 8},
		"assigned":              {[]event.Event{ev("s", event.SaleRecorded, 3), ev("a", event.SaleAssigned, 2, "at=A")}, "A.committed=2 unassigned=1 sold.web=3", -3},
		"assigned before sale":  {[]event.Event{ev("a", event.SaleAssigned, 2, "at=A"), ev("s", event.SaleRecorded, 3)}, "A.committed=2 unassigned=1 sold.web=3", -3},
		"assigned to three":     {[]event.Event{ev("s", event.SaleRecorded, 3), ev("a", event.SaleAssigned, 1, "at=A"), ev("b", event.SaleAssigned, 1, "at=B"), ev("d", event.SaleAssigned, 1, "at=C"), ev("x", event.ShipmentConfirmed, 1, "at=B")}, "A.committed=1 B.onhand=-1 C.committed=1 sold.web=3", -3},
		"assigned, cancelled":   {[]event.Event{ev("s", event.SaleRecorded, 3), ev("a", event.SaleAssigned, 3, "at=A"), ev("c", event.SaleCancelled, 1)}, "A.committed=2 sold.web=3", -2},
		"reassigned":            {[]event.Event{ev("s", event.SaleRecorded, 3, "at=A"), ev("a", event.SaleReassigned, 2, "at=A", "to=B")}, "A.committed=1 B.committed=2 sold.web=3", -3},
		"shipped":               {[]event.Event{receipt, ev("s", event.SaleRecorded, 3, "at=A"), ev("x", event.ShipmentConfirmed, 3, "at=A")}, "A.onhand=7 sold.web=3", 7},
		"shipped from unassign": {[]event.Event{receipt, ev("s", event.SaleRecorded, 3), ev("x", event.ShipmentConfirmed, 2, "at=A")}, "A.onhand=8 unassigned=1 sold.web=3", 7},
		"shipped elsewhere":     {[]event.Event{receipt, ev("s", event.SaleRecorded, 3, "at=B"), ev("x", event.ShipmentConfirmed, 3, "at=A")}, "A.onhand=7 sold.web=3", 7},
		"shipped before sale":   {[]event.Event{receipt, ev("x", event.ShipmentConfirmed, 3, "at=A"), ev("s", event.SaleRecorded, 3, "at=A")}, "A.onhand=7 sold.web=3", 7},
		"shipped and cancelled": {[]event.Event{receipt, ev("s", event.SaleRecorded, 3, "at=A"), ev("x", event.ShipmentConfirmed, 3, "at=A"), ev("c", event.SaleCancelled, 3)}, "A.onhand=7 sold.web=3", 7},
		"return restocked":      {[]event.Event{ev("t", event.ReturnReceived, 2, "at=A", "how=restock")}, "A.onhand=2", 2},
		"return to repair":      {[]event.Event{ev("t", event.ReturnReceived, 2, "at=A", "how=refurbish")}, "A.unsellable=2", 0},
		"return in quarantine":  {[]event.Event{ev("t", event.ReturnReceived, 2, "at=A", "how=quarantine")}, "A.unsellable=2", 0},
		"return scrapped":       {[]event.Event{ev("t", event.ReturnReceived, 2, "at=A", "how=scrap")}, "", 0},
		"ordered":               {[]event.Event{ev("i", event.InboundExpected, 9, "at=A")}, "A.inbound=9", 0},
		"order cancelled":       {[]event.Event{ev("i", event.InboundExpected, 9, "at=A"), ev("j", event.InboundCancelled, 4)}, "A.inbound=5", 0},
		"order received":        {[]event.Event{ev("i", event.InboundExpected, 9, "at=A"), ev("r", event.ReceiptReceived, 4, "at=A")}, "A.onhand=4 A.inbound=5", 4},
		"order received beyond": {[]event.Event{ev("i", event.InboundExpected, 9, "at=A"), ev("r", event.ReceiptReceived, 12, "at=A")}, "A.onhand=12", 12},
		"order received first":  {[]event.Event{ev("r", event.ReceiptReceived, 4, "at=A"), ev("i", event.InboundExpected, 9, "at=A")}, "A.onhand=4 A.inbound=5", 4},
		"receipt without order": {[]event.Event{ev("i", event.InboundExpected, 9, "at=A"), receipt}, "A.onhand=10 A.inbound=9", 10},
		"adjusted":              {[]event.Event{receipt, ev("a", event.StockAdjusted, -4, "at=A")}, "A.onhand=6", 6},
		"transfer in transit":   {[]event.Event{receipt, ev("x", event.TransferShipped, 4, "at=A", "to=B")}, "A.onhand=6 B.inbound=4", 6},
		"transfer received":     {[]event.Event{receipt, ev("x", event.TransferShipped, 4, "at=A", "to=B"), ev("y", event.TransferReceived, 3, "at=B")}, "A.onhand=6 B.onhand=3 B.inbound=1", 9},
		"held":                  {[]event.Event{receipt, ev("h", event.ReservationPlaced, 4, "at=A")}, "A.onhand=10 A.held=4", 6},
		"released":              {[]event.Event{receipt, ev("h", event.ReservationPlaced, 4, "at=A"), ev("g", event.ReservationReleased, 1)}, "A.onhand=10 A.held=3", 7},
		"released whole, twice": {[]event.Event{receipt, ev("h", event.ReservationPlaced, 4, "at=A"), ev("g", event.ReservationReleased, 0), ev("f", event.ReservationReleased, 4)}, "A.onhand=10", 10},
		"released before":       {[]event.Event{receipt, ev("g", event.ReservationReleased, 0), ev("h", event.ReservationPlaced, 4, "at=A")}, "A.onhand=10", 10},
		"safety stock":          {[]event.Event{receipt, ev("z", event.SafetyStockSet, 4, "at=A"), ev("y", event.SafetyStockSet, 3, "at=A")}, "A.onhand=10 A.safety=3", 7},
		"counted":               {[]event.Event{receipt, ev("k", event.StockCounted, 7, "at=A", "asof=0")}, "A.onhand=7", 7},
		"counted before a move": {[]event.Event{receipt, ev("a", event.StockAdjusted, -2, "at=A", "occurred=-10"), ev("k", event.StockCounted, 7, "at=A", "asof=-20")}, "A.onhand=5", 5},
		"move before the count": {[]event.Event{receipt, ev("k", event.StockCounted, 7, "at=A", "asof=-5"), ev("a", event.StockAdjusted, -2, "at=A", "occurred=-10")}, "A.onhand=7", 7},
		"an older count":        {[]event.Event{receipt, ev("k", event.StockCounted, 7, "at=A", "asof=-5"), ev("l", event.StockCounted, 9, "at=A", "asof=-10")}, "A.onhand=7", 7},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(Options{})
			applyAll(t, p, tt.events)
			var l Level
			p.Level(p.SKU("S"), 0, &l)
			if got := show(l); got != tt.want || l.Available() != tt.avail || p.SKU("S").Available() != tt.avail {
				t.Errorf("got %q, available %d (kept %d); want %q, %d", got, l.Available(), p.SKU("S").Available(), tt.want, tt.avail)
			}
			if l.Version != int64(len(tt.events)) || l.SourceOffset != int64(len(tt.events)-1) {
				t.Errorf("version %d, offset %d after %d events", l.Version, l.SourceOffset, len(tt.events))
			}
		})
	}
}

func TestOversold(t *testing.T) {
	p := New(Options{})
	for i, step := range []struct {
		e    event.Event
		want Units
	}{
		{ev("r", event.ReceiptReceived, 5, "at=A"), 0},
		{ev("z", event.SafetyStockSet, 9, "at=A"), 0}, // offering less is no oversell
		{ev("s", event.SaleRecorded, 4, "at=A"), 0},
		{ev("t", event.SaleRecorded, 3, "at=A", "order=o2"), 2},
		{ev("u", event.SaleRecorded, 3, "at=A", "order=o3"), 3},
		{ev("c", event.SaleCancelled, 3, "order=o3"), 0},
		{ev("a", event.StockAdjusted, -1, "at=A"), 1},
		{ev("x", event.ShipmentConfirmed, 4, "at=A"), 0}, // available stays
	} {
		if r := p.Apply(&step.e, int64(i), start); r.Outcome != Applied || r.Oversold != step.want {
			t.Errorf("step %d %s: %+v, want oversold %d", i, step.e.Kind, r, step.want)
		}
	}
}

func TestRejected(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*event.Event)
		reason string
	}{
		"no id":              {func(e *event.Event) { e.ID = "" }, ReasonInvalid},
		"no sku":             {func(e *event.Event) { e.SKU = "" }, ReasonInvalid},
		"no kind":            {func(e *event.Event) { e.Kind = 0 }, ReasonUnknownKind},
		"later kind":         {func(e *event.Event) { e.Kind = 99 }, ReasonUnknownKind},
		"no channel":         {func(e *event.Event) { e.Channel = "" }, ReasonInvalid},
		"cancelled where":    {func(e *event.Event) { e.Kind, e.Channel = event.SaleCancelled, "" }, ReasonInvalid},
		"assigned where":     {func(e *event.Event) { e.Kind, e.Channel, e.Location = event.SaleAssigned, "", "A" }, ReasonInvalid},
		"shipped for whom":   {func(e *event.Event) { e.Kind, e.Channel, e.Location = event.ShipmentConfirmed, "", "A" }, ReasonInvalid},
		"no order":           {func(e *event.Event) { e.OrderID = "" }, ReasonInvalid},
		"zero":               {func(e *event.Event) { e.Quantity = 0 }, ReasonInvalid},
		"negative":           {func(e *event.Event) { e.Quantity = -1 }, ReasonInvalid},
		"absurd":             {func(e *event.Event) { e.Quantity = 10_000_001 }, ReasonAbsurdQuantity},
		"least number":       {func(e *event.Event) { e.Quantity = -1 << 63 }, ReasonAbsurdQuantity},
		"control characters": {func(e *event.Event) { e.SKU = "a\nb" }, ReasonInvalid},
		"not UTF-8":          {func(e *event.Event) { e.Location = "\xff" }, ReasonInvalid},
		"long":               {func(e *event.Event) { e.Location = strings.Repeat("x", 129) }, ReasonInvalid},
		"reserved location":  {func(e *event.Event) { e.Location = "sold" }, ReasonInvalid},
		"no disposition":     {func(e *event.Event) { e.Kind, e.Location = event.ReturnReceived, "A" }, ReasonInvalid},
		"move to itself": {func(e *event.Event) {
			e.Kind, e.Location, e.ToLocation = event.TransferShipped, "A", "A"
		}, ReasonInvalid},
		"future count": {func(e *event.Event) {
			e.Kind, e.Location, e.AsOf = event.StockCounted, "A", start+10*minute
		}, ReasonInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(Options{})
			e := ev("s", event.SaleRecorded, 1)
			tt.change(&e)
			r := p.Apply(&e, 0, start)
			if r.Outcome != Rejected || r.Fault.Reason != tt.reason || r.Fault.Detail == "" {
				t.Errorf("got %+v, want %s", r, tt.reason)
			}
			if p.Len() != 0 || len(p.Changed()) != 0 || len(p.Journal()) != 0 {
				t.Error("a rejected event left something behind")
			}
		})
	}
}

func TestCountTooOld(t *testing.T) {
	p := New(small)
	do := func(at int64, e event.Event) Result { t.Helper(); return p.Apply(&e, 0, at) }
	do(start, ev("r", event.ReceiptReceived, 10, "at=A"))
	adjust := ev("a", event.StockAdjusted, -1, "at=A")
	adjust.OccurredAt = start + 2*minute
	do(start+2*minute, adjust)
	old := ev("k", event.StockCounted, 7, "at=A")
	old.AsOf = start + minute/2
	if r := do(start+2*minute, old); r.Fault.Reason != ReasonCountTooOld {
		t.Errorf("a count from before the count window: %+v", r)
	}
	old.ID, old.AsOf = "l", start+3*minute/2
	if r := do(start+2*minute, old); r.Outcome != Applied {
		t.Errorf("a count within the window: %+v", r)
	}
	if l := levels(p)["S"]; show(l) != "A.onhand=6" {
		t.Errorf("on hand after a count of 7 with one gone since: %s", show(l))
	}
	// Nothing moved after as_of: no matter how old it is.
	old.ID, old.AsOf = "m", start+2*minute
	if r := do(start+60*minute, old); r.Outcome != Applied {
		t.Errorf("an old count of a still shelf: %+v", r)
	}
}

func TestCountsFrom(t *testing.T) {
	p := New(Options{})
	for i := range maxMoves + 10 {
		e := ev(fmt.Sprint(i), event.StockAdjusted, 1, "at=A")
		e.OccurredAt = start + int64(i)
		p.Apply(&e, int64(i), start+int64(i))
	}
	k := ev("k", event.StockCounted, 0, "at=A", "asof=100")
	if r := p.Apply(&k, 0, start+maxMoves+10); r.Fault.Reason != ReasonCountTooOld {
		t.Errorf("a count from before the moves that are kept: %+v", r)
	}
	k = ev("l", event.StockCounted, 0, "at=A", fmt.Sprint("asof=", maxMoves))
	if r := p.Apply(&k, 0, start+maxMoves+10); r.Outcome != Applied {
		t.Fatalf("%+v", r)
	}
	if l := levels(p)["S"]; show(l) != "A.onhand=9" {
		t.Errorf("got %s", show(l))
	}
}

func TestWindow(t *testing.T) {
	p := New(small)
	e := ev("s", event.SaleRecorded, 1, "at=A")
	outcomes := []Outcome{}
	for _, at := range []int64{0, 0, minute, 2 * minute, 5 * minute, 5 * minute} {
		outcomes = append(outcomes, p.Apply(&e, 0, start+at).Outcome)
	}
	if want := []Outcome{Applied, Duplicate, Duplicate, Duplicate, Applied, Duplicate}; !slices.Equal(outcomes, want) {
		t.Errorf("got %v, want %v", outcomes, want)
	}
}

func TestOpenLineOutlivesTheWindow(t *testing.T) {
	p := New(small)
	apply := func(at int64, e event.Event) { t.Helper(); p.Apply(&e, 0, start+at) }
	apply(0, ev("s", event.SaleRecorded, 2, "at=A"))
	apply(0, ev("c", event.SaleCancelled, 1, "order=never sold"))
	for i := range int64(8) {
		apply(i*minute, ev(fmt.Sprint(i), event.StockAdjusted, 1, "at=B"))
	}
	if _, n := p.Remembered(); n != 1 {
		t.Errorf("%d items are remembered, want the open line alone", n)
	}
	apply(8*minute, ev("d", event.SaleCancelled, 2))
	if l := levels(p)["S"]; show(l) != "B.onhand=8 sold.web=2" {
		t.Errorf("got %s", show(l))
	}
}

// model is the slow and obvious ledger of one SKU: it keeps all events and works out each bucket from the whole of them.
type model struct{ events []event.Event }

func (m *model) level() string {
	type place = map[string]Units
	onHand, unsellable, safety := place{}, place{}, place{}
	sold, restored := place{}, place{}
	rows := map[string]bool{}
	lines := map[string]place{}
	closed := map[string]bool{}
	counts := map[string]event.Event{}
	add := func(line, loc string, q Units) {
		if lines[line] == nil {
			lines[line] = place{}
		}
		lines[line][loc] += q
	}
	for _, e := range m.events {
		if e.Kind == event.StockCounted && e.AsOf >= counts[e.Location].AsOf {
			counts[e.Location] = e
		}
	}
	for l, c := range counts {
		onHand[l] = c.Quantity
	}
	move := func(e event.Event, q Units) {
		if e.OccurredAt > counts[e.Location].AsOf {
			onHand[e.Location] += q
		}
	}
	for _, e := range m.events {
		q := e.Quantity
		if e.Location != "" {
			rows[e.Location] = true
		}
		if kindNeeds[e.Kind]&needToLocation != 0 {
			rows[e.ToLocation] = true
		}
		sale, hold, po, transfer := "0"+e.Channel+"/"+e.OrderID, "1"+e.ReservationID, "2"+e.Reference, "3"+e.Reference
		switch e.Kind {
		case event.SaleRecorded:
			sold[e.Channel] += q
			add(sale, e.Location, q)
		case event.SaleCancelled:
			if e.RestockedByChannel {
				restored[e.Channel] += q
			}
			add(sale, e.Location, -q)
		case event.SaleAssigned:
			add(sale, "", -q)
			add(sale, e.Location, q)
		case event.SaleReassigned:
			add(sale, e.Location, -q)
			add(sale, e.ToLocation, q)
		case event.ShipmentConfirmed:
			move(e, -q)
			add(sale, e.Location, -q)
		case event.ReturnReceived:
			switch e.Disposition {
			case event.Restock:
				move(e, q)
			case event.Refurbish, event.Quarantine:
				unsellable[e.Location] += q
			}
		case event.InboundExpected:
			add(po, e.Location, q)
		case event.InboundCancelled:
			add(po, e.Location, -q)
		case event.ReceiptReceived:
			move(e, q)
			if e.Reference != "" {
				add(po, e.Location, -q)
			}
		case event.StockAdjusted:
			move(e, q)
		case event.TransferShipped:
			move(e, -q)
			add(transfer, e.ToLocation, q)
		case event.TransferReceived:
			move(e, q)
			add(transfer, e.Location, -q)
		case event.ReservationPlaced:
			add(hold, e.Location, q)
		case event.ReservationReleased:
			if q == 0 {
				closed[hold] = true
			}
			add(hold, e.Location, -q)
		case event.SafetyStockSet:
			safety[e.Location] = q
		}
	}
	fill := [3]place{{}, {}, {}}
	for line, at := range lines {
		var total, short Units
		for _, q := range at {
			total += q
			short += max(0, -q)
		}
		if total <= 0 || closed[line] {
			continue
		}
		for _, loc := range slices.Sorted(maps.Keys(at)) {
			q := max(0, at[loc])
			take := min(q, short)
			short -= take
			fill[min(int(line[0]-'0'), 2)][loc] += q - take
		}
	}
	l := Level{Unassigned: fill[0][""]}
	for _, loc := range slices.Sorted(maps.Keys(rows)) {
		l.Locations = append(l.Locations, LocationLevel{Location: loc, OnHand: onHand[loc], Committed: fill[0][loc], Held: fill[1][loc], Inbound: fill[2][loc], Unsellable: unsellable[loc], Safety: safety[loc]})
	}
	for _, c := range slices.Sorted(maps.Keys(sold)) {
		l.Sold = append(l.Sold, ChannelUnits{Channel: c, Units: sold[c]})
	}
	for _, c := range slices.Sorted(maps.Keys(restored)) {
		l.Restored = append(l.Restored, ChannelUnits{Channel: c, Units: restored[c]})
	}
	return show(l)
}

// anyEvent draws an event that is valid, from few names, so that events meet.
func anyEvent(t *rapid.T, n int, skus ...string) event.Event {
	pick := func(what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
	k := event.Kind(rapid.IntRange(1, int(event.SafetyStockSet)).Draw(t, "kind"))
	e := event.Event{
		ID: fmt.Sprint("e", n), SKU: pick("sku", skus...), Kind: k, Quantity: Units(rapid.IntRange(1, 5).Draw(t, "quantity")),
		Channel: pick("channel", "web", "shop"), OrderID: pick("order", "o1", "o2", "o3"), LineID: "1", Reference: pick("reference", "R1", "R2"),
		ReservationID: pick("reservation", "H1", "H2"), Disposition: event.Disposition(rapid.IntRange(1, 4).Draw(t, "disposition")),
		RestockedByChannel: rapid.Bool().Draw(t, "restocked"), ReceivedAt: start,
		OccurredAt: start - int64(rapid.IntRange(1, 1000).Draw(t, "occurred")), AsOf: start - int64(rapid.IntRange(1, 1000).Draw(t, "as of")),
	}
	n1, n2 := kindNeeds[k], pick("location", "A", "B", "C")
	if n1&needLocation != 0 || rapid.Bool().Draw(t, "located") {
		e.Location = n2
	}
	if n1&needToLocation != 0 {
		e.ToLocation = map[string]string{"A": "B", "B": "C", "C": "A"}[n2]
	}
	if k == event.StockAdjusted && rapid.Bool().Draw(t, "minus") {
		e.Quantity = -e.Quantity
	}
	if k == event.ReservationReleased && rapid.Bool().Draw(t, "whole") {
		e.Quantity = 0
	}
	return e
}

func history(t *rapid.T, skus ...string) []event.Event {
	es := make([]event.Event, rapid.IntRange(1, 60).Draw(t, "events"))
	for i := range es {
		es[i] = anyEvent(t, i, skus...)
	}
	return es
}

func TestFoldEqualsTheObviousModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, "S")
		p, m := New(Options{}), model{}
		for i := range es {
			if r := p.Apply(&es[i], int64(i), start); r.Outcome != Applied {
				t.Fatalf("%+v: %+v", es[i], r)
			}
			m.events = append(m.events, es[i])
			if got, want := show(levels(p)["S"]), m.level(); got != want {
				t.Fatalf("after %+v:\n got %s\nwant %s", es[i], got, want)
			}
		}
		var l Level
		p.Level(p.SKU("S"), 0, &l)
		if l.Available() != p.SKU("S").Available() {
			t.Fatalf("available %d is kept as %d", l.Available(), p.SKU("S").Available())
		}
	})
}

func TestReplayChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, "S", "T")
		p := New(Options{})
		for i := range es {
			p.Apply(&es[i], int64(i), start)
		}
		want := levels(p)
		for i := range es[:rapid.IntRange(0, len(es)).Draw(t, "prefix")] {
			if r := p.Apply(&es[i], int64(len(es)+i), start); r.Outcome != Duplicate {
				t.Fatalf("%+v again: %+v", es[i], r)
			}
		}
		if got := levels(p); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var es []event.Event
		asOf := map[int64]bool{}
		for _, e := range history(t, "S", "T") {
			// Only where the last word counts does order matter: safety stock, and two counts of one moment.
			if e.Kind == event.SafetyStockSet || e.Kind == event.StockCounted && asOf[e.AsOf] {
				continue
			}
			asOf[e.AsOf] = true
			es = append(es, e)
		}
		other := rapid.Permutation(es).Draw(t, "order")
		p, q := New(Options{}), New(Options{})
		for i := range es {
			p.Apply(&es[i], int64(i), start)
			q.Apply(&other[i], int64(i), start)
		}
		if got, want := shelves(q), shelves(p); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestUnitsAreConserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, "S")
		p := New(Options{})
		var owned Units // what came in less what went out, with what is on its way between locations
		sentOf, cameOf := map[string]Units{}, map[string]Units{}
		for i, e := range es {
			if e.Kind == event.StockCounted {
				continue // a count says that the books were wrong
			}
			p.Apply(&es[i], int64(i), start)
			switch e.Kind {
			case event.ReceiptReceived, event.StockAdjusted:
				owned += e.Quantity
			case event.ShipmentConfirmed:
				owned -= e.Quantity
			case event.ReturnReceived:
				if e.Disposition != event.Scrap {
					owned += e.Quantity
				}
			case event.TransferShipped:
				sentOf[e.Reference] += e.Quantity
			case event.TransferReceived:
				cameOf[e.Reference] += e.Quantity
			}
		}
		var there Units
		for _, l := range levels(p)["S"].Locations {
			there += l.OnHand + l.Unsellable
		}
		for _, r := range []string{"R1", "R2"} {
			there += sentOf[r] - cameOf[r]
		}
		if there != owned {
			t.Fatalf("%d units are there or on their way, %d are owned", there, owned)
		}
	})
}

// shelfStore is a stand-in for what the projector writes: fields by SKU, the journal by bucket.
type shelfStore struct {
	skus      map[string]*Stored
	fields    map[string]map[string]StoredChange
	journal   map[int64][]byte
	locations []string
	clock     int64
	digest    [DigestBuckets]uint64
}

func newStore() *shelfStore {
	return &shelfStore{skus: map[string]*Stored{}, fields: map[string]map[string]StoredChange{}, journal: map[int64][]byte{}}
}

func (st *shelfStore) flush(p *Partition) {
	sums, changed := p.Digest(), p.DigestChanged()
	for b := range sums {
		if changed[b] {
			st.digest[b] = sums[b]
		}
	}
	for _, s := range p.Changed() {
		st.skus[s.Name()] = &Stored{SKU: s.Name(), Version: s.Version(), Offset: s.Offset(), ReceivedAt: s.ReceivedAt(), EventID: string(s.EventID()), EventKind: s.Kind(), Available: s.Available()}
		if s.Fresh() {
			st.fields[s.Name()] = map[string]StoredChange{}
		}
		for _, c := range s.AppendChanges(nil, false) {
			name := ""
			switch {
			case c.Field < locationFields:
				name = p.Locations()[c.Name]
			case c.Field != Unassigned:
				name = p.Channels()[c.Name]
			}
			st.fields[s.Name()][fmt.Sprint(c.Field, name)] = StoredChange{c.Field, name, c.Value}
		}
	}
	for _, b := range p.Dropped() {
		delete(st.journal, b)
	}
	for _, g := range p.Journal() {
		if len(g.Data) > 0 {
			st.journal[g.Bucket] = append(st.journal[g.Bucket], g.Data...)
		}
	}
	st.locations, st.clock = slices.Clone(p.Locations()), p.Clock()
	p.Flushed()
}

func (st *shelfStore) load(t interface{ Fatal(...any) }, o Options) *Partition {
	r, err := Restore(o, st.locations, st.clock)
	if err != nil {
		t.Fatal(err)
	}
	for sku, s := range st.skus {
		c := *s
		c.Changes = slices.Collect(maps.Values(st.fields[sku]))
		if err := r.SKU(&c); err != nil {
			t.Fatal(err)
		}
	}
	if differ := r.Digest(&st.digest); differ != nil {
		t.Fatal("the stored SKUs and their digest differ in", differ)
	}
	for _, b := range slices.Sorted(maps.Keys(st.journal)) {
		if err := r.Journal(b, st.journal[b]); err != nil {
			t.Fatal(err)
		}
	}
	return r.Done()
}

// The promise that everything else rests on: wherever batches end, and wherever the owner is replaced by one that reads what was stored, the result
// is that of an unbroken fold, also across the ends of buckets.
func TestRestoredGoesOnAsBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, "S", "T")
		whole, part, store := New(small), New(small), newStore()
		at := int64(start)
		for i := range es {
			at += rapid.SampledFrom([]int64{0, 1000, 5_000_000, 20_000_000, 3 * minute}).Draw(t, "pause")
			es[i].OccurredAt = at - int64(rapid.IntRange(0, 90_000_000).Draw(t, "late"))
			es[i].AsOf = at - int64(rapid.IntRange(0, 90_000_000).Draw(t, "as of"))
			if rapid.IntRange(0, 5).Draw(t, "repeat") == 0 {
				es[i].ID = es[rapid.IntRange(0, i).Draw(t, "of")].ID
			}
			want, got := whole.Apply(&es[i], int64(i), at), part.Apply(&es[i], int64(i), at)
			if got != want {
				t.Fatalf("event %d %+v: got %+v, want %+v", i, es[i], got, want)
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
		if got, want := part.Memory(), whole.Memory(); got != want {
			t.Fatalf("%+v is remembered, want %+v", got, want)
		}
		gi, gn := part.Remembered()
		wi, wn := whole.Remembered()
		if gi != wi || gn != wn {
			t.Fatalf("%d ids and %d items are remembered, want %d and %d", gi, gn, wi, wn)
		}
	})
}

func TestHashIsMurmur3(t *testing.T) {
	for text, want := range map[string][2]uint64{
		"":                          {0, 0},
		"hello":                     {0xcbd8a7b341bd9b02, 0x5b1e906a48ae1d19},
		"hello, world":              {0x342fac623a5ebc8e, 0x4cdcbc079642414d},
		"19 Jan 2038 at 3:14:07 AM": {0xb89e5988b737affc, 0x664fc2950231b2cb},
		"The quick brown fox jumps over the lazy dog.": {0xcd99481f9ee902c9, 0x695da1a38987b6e7},
	} {
		if lo, hi := hash128([]byte(text)); lo != want[0] || hi != want[1] {
			t.Errorf("%q: %x %x, want %x", text, lo, hi, want)
		}
	}
}

func TestSeenSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s seenSet
		model := map[[2]uint64]int64{}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for range rapid.IntRange(0, 3000).Draw(t, "steps") {
			k := [2]uint64{rng.Uint64N(50) | rng.Uint64N(2)<<63, rng.Uint64N(50) << 4} // in two segments
			bucket := int64(rng.IntN(9))
			n := [2]uint64{max(1, k[0]), k[1]}
			_, known := model[n]
			if s.has(k[0], k[1]) != known {
				t.Fatal("has")
			}
			if s.add(k[0], k[1], bucket) == known {
				t.Fatal("add")
			}
			if !known {
				model[n] = bucket
			}
			if rng.IntN(500) == 0 {
				s.drop(1 << 3)
				maps.DeleteFunc(model, func(_ [2]uint64, b int64) bool { return b == 3 })
			}
			if s.n != len(model) {
				t.Fatalf("%d kept, want %d", s.n, len(model))
			}
		}
	})
}

func FuzzJournal(f *testing.F) {
	p := New(small)
	e := ev("s", event.SaleRecorded, 1, "at=A")
	p.Apply(&e, 0, start)
	f.Add(p.Journal()[0].Data)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Restore(small, []string{"", "A"}, start)
		if err != nil {
			t.Fatal(err)
		}
		if r.Journal(start/(15_000_000), b) == nil {
			e := ev("x", event.SaleCancelled, 1, "at=A")
			r.Done().Apply(&e, 1, start)
		}
	})
}

// FuzzApply explores histories of arbitrary fields: nothing panics, what is kept agrees with the level, and a repeat changes nothing.
func FuzzApply(f *testing.F) {
	f.Add([]byte("\x01\x02\x01\x05"), "S", "A", int64(5))
	f.Fuzz(func(t *testing.T, raw []byte, sku, loc string, q int64) {
		p := New(small)
		at := int64(start)
		for i := 0; i+1 < len(raw) && i < 400; i += 2 {
			e := event.Event{
				ID: fmt.Sprint(raw[i+1] & 31), SKU: sku, Kind: event.Kind(raw[i] & 31), Location: loc, ToLocation: "B", Channel: "c", OrderID: "o",
				Reference: loc, ReservationID: sku, Quantity: Units(q) + Units(raw[i+1]), Disposition: event.Disposition(raw[i] >> 5), AsOf: at, OccurredAt: at - int64(raw[i]),
			}
			at += int64(binary.BigEndian.Uint16(raw[i:])) * 1000
			if p.Apply(&e, int64(i), at).Outcome != Applied {
				continue
			}
			var l Level
			p.Level(p.SKU(sku), 0, &l)
			if l.Available() != p.SKU(sku).Available() {
				t.Fatalf("available %d is kept as %d", l.Available(), p.SKU(sku).Available())
			}
			if p.Apply(&e, int64(i), at).Outcome != Duplicate {
				t.Fatal("a repeat was applied")
			}
		}
	})
}

func BenchmarkFold(b *testing.B) {
	for _, shape := range []struct {
		name string
		skus int
	}{{"uniform", 20_000}, {"hot", 1}} {
		b.Run(shape.name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			const n = 1 << 18
			es := make([]event.Event, n)
			for i := range es {
				es[i] = event.Event{
					ID: fmt.Sprintf("web/order-%08d/1/sale_recorded", i), SKU: fmt.Sprintf("SKU-%06d", rng.IntN(shape.skus)), Kind: event.SaleRecorded,
					Location: "berlin", Channel: "web", OrderID: fmt.Sprintf("order-%08d", i), LineID: "1", Quantity: 1, ReceivedAt: start,
				}
			}
			p := New(Options{})
			b.ReportAllocs()
			i, before := 0, cpu()
			for b.Loop() {
				if i%n == 0 && i > 0 {
					b.StopTimer()
					p = New(Options{})
					b.StartTimer()
				}
				p.Apply(&es[i%n], int64(i), start)
				if i++; i%4096 == 0 {
					p.Flushed()
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/event")
		})
	}
}

// cpu is the processor time of this process: it says more than the clock on a machine that is shared.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
