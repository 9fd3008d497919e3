package exposure

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/onhand/onhand/stock/write"
)

// The model checker explores every interleaving of a small world: the real books on one side, and on the other what only the marketplaces
// know. Nothing here is sampled; a world is explored until no new state is left.

// api is a kind of channel API.
type api struct {
	name       string
	operation  write.Operation
	clamps     bool // a decrease by delta stops at zero
	tellsShown bool // the answer to a write says what is shown now
}

var (
	casAPI      = api{name: "compare-and-set", operation: write.CompareAndSet, tellsShown: true}
	absoluteAPI = api{name: "absolute", operation: write.Absolute}
	clampAPI    = api{name: "delta, clamps, silent", operation: write.Delta, clamps: true}
	toldAPI     = api{name: "delta, clamps, tells", operation: write.Delta, clamps: true, tellsShown: true}
)

// The life of a write outside our books.
const (
	noWrite  = iota
	onItsWay // may be applied at any later moment, even after we gave up waiting
	applied  // the answer is on its way back
	conflict // the channel found another value than expected; the answer is on its way back
	gone     // lost before it was applied
)

// truth is what really is at one channel.
type truth struct {
	shown    Units
	sales    []int64 // sold_at of unseen sales, ascending
	restocks Units   // put back by the channel, unseen
	sold     Units   // sold in all, less cancelled: what can still be cancelled
	write    Write
	stage    int
	answer   Units // what it showed when it applied the write
}

// world is one state.
type world struct {
	books            SKU
	at               []truth
	clock            int64 // one for all channels; ticks when an answer or a read arrives
	cancels, restock int   // left to happen
	receipts         int
	writes, reads    int  // left to try
	restocks         bool // this world has restocks at all
}

func (w *world) clone() *world {
	n := *w
	n.books.Channels = slices.Clone(w.books.Channels)
	for i := range n.books.Channels {
		n.books.Channels[i].fences = slices.Clone(n.books.Channels[i].fences)
	}
	n.at = slices.Clone(w.at)
	for i := range n.at {
		n.at[i].sales = slices.Clone(n.at[i].sales)
	}
	return &n
}

// key is the state with its times replaced by their ranks, so that worlds which differ in the hour alone are one state.
func (w *world) key() string {
	times := []int64{w.clock}
	for i := range w.at {
		times = append(times, w.at[i].sales...)
		times = append(times, w.books.Channels[i].watermark)
		for _, f := range w.books.Channels[i].fences {
			times = append(times, f.At)
		}
	}
	slices.Sort(times)
	times = slices.Compact(times)
	rank := func(t int64) int64 { i, _ := slices.BinarySearch(times, t); return int64(i) }
	var b []byte
	put := func(ns ...int64) {
		for _, n := range ns {
			b = binary.AppendVarint(b, n)
		}
	}
	flag := func(v bool) int64 {
		if v {
			return 1
		}
		return 0
	}
	put(int64(w.books.Available), rank(w.clock), int64(w.cancels), int64(w.restock), int64(w.receipts), int64(w.writes), int64(w.reads))
	for i := range w.at {
		c, t := &w.books.Channels[i], &w.at[i]
		put(int64(c.e), flag(c.inFlight), flag(c.unresolved), flag(c.open), rank(c.watermark), int64(len(c.fences)))
		if c.inFlight {
			put(int64(c.restocked), int64(c.seen), int64(c.write.Quantity), int64(c.write.Expected), int64(c.write.Delta))
		}
		for _, f := range c.fences {
			put(rank(f.At), int64(f.Raised), int64(f.Sold), int64(f.Shown), int64(f.Credit), flag(f.Anchor))
		}
		put(int64(t.shown), int64(t.restocks), int64(t.sold), int64(t.stage), int64(t.answer), int64(len(t.sales)))
		for _, s := range t.sales {
			put(rank(s))
		}
		if t.stage == onItsWay {
			put(int64(t.write.Quantity), int64(t.write.Expected), int64(t.write.Delta))
		}
	}
	return string(b)
}

// broken replaces the bookkeeping of an applied write by a wrong rule, to see that the checker notices.
type broken func(s *SKU, c int, w Write)

// check explores the world from its start and returns how many states there are, or the first broken promise with the way to it.
func check(apis []api, units Units, cancels, restock, receipts, writes, reads int, wrong broken) (states int, violation string) {
	start := &world{books: SKU{Available: units, Channels: make([]Channel, len(apis))}, at: make([]truth, len(apis)),
		clock: 1, cancels: cancels, restock: restock, receipts: receipts, writes: writes, reads: reads, restocks: restock > 0}
	type arrival struct {
		from string
		step string
	}
	seen := map[string]arrival{start.key(): {}}
	queue := []*world{start}
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		from := w.key()
		bad := ""
		visit := func(step string, n *world) {
			if bad != "" {
				return
			}
			k := n.key()
			if _, ok := seen[k]; ok {
				return
			}
			seen[k] = arrival{from, step}
			queue = append(queue, n)
			if v := n.violation(); v != "" {
				bad = v
				for at := seen[k]; at.step != ""; at = seen[at.from] {
					bad = at.step + "\n" + bad
				}
			}
		}
		w.steps(apis, units+Units(receipts), wrong, visit)
		if bad != "" {
			return len(seen), bad
		}
	}
	return len(seen), ""
}

// violation names the promise that does not hold in this state.
func (w *world) violation() string {
	var could, restocks Units
	for i := range w.at {
		t, e := &w.at[i], w.books.Channels[i].Exposure()
		x := max(t.shown, 0) + Units(len(t.sales))
		if e+t.restocks < x {
			return fmt.Sprintf("channel %d could still report %d units and its exposure is %d", i, x, e)
		}
		could += x
		restocks += t.restocks
	}
	if could > w.books.Available+restocks {
		return fmt.Sprintf("channels could still report %d units of %d available", could, w.books.Available+restocks)
	}
	if w.books.Room() < 0 && !w.restocks { // a sale of a restocked unit may be seen before the restock is
		return fmt.Sprintf("room is %d", w.books.Room())
	}
	return ""
}

// steps visits every state that can come next.
func (w *world) steps(apis []api, most Units, wrong broken, visit func(string, *world)) {
	if w.receipts > 0 {
		n := w.clone()
		n.receipts--
		n.books.Available++
		visit("receipt of 1", n)
	}
	for c := range w.at {
		t, book := &w.at[c], &w.books.Channels[c]
		if t.shown > 0 {
			n := w.clone()
			n.at[c].shown--
			n.at[c].sold++
			n.at[c].sales = append(n.at[c].sales, w.clock)
			visit(fmt.Sprintf("channel %d sells 1", c), n)
		}
		for i, s := range t.sales { // reports arrive in any order
			if i > 0 && t.sales[i-1] == s {
				continue
			}
			n := w.clone()
			n.at[c].sales = slices.Delete(n.at[c].sales, i, i+1)
			if n.books.Sold(c, 1, s) != 0 && !w.restocks {
				n.books.Available = -99 // a channel that keeps the rules is never found beyond its exposure
			}
			visit(fmt.Sprintf("sale of channel %d at %d is seen", c, s), n)
		}
		if seen := t.sold - Units(len(t.sales)); seen > 0 && w.cancels > 0 {
			n := w.clone()
			n.cancels--
			n.at[c].sold--
			n.books.Cancelled(c, 1, false)
			visit(fmt.Sprintf("channel %d: 1 cancelled, not restocked", c), n)
		}
		if t.sold > 0 && w.restock > 0 {
			n := w.clone()
			n.restock--
			n.at[c].sold--
			n.at[c].shown++
			n.at[c].restocks++
			visit(fmt.Sprintf("channel %d restocks 1 cancelled", c), n)
		}
		if t.restocks > 0 {
			n := w.clone()
			n.at[c].restocks--
			n.books.Cancelled(c, 1, true)
			visit(fmt.Sprintf("restock of channel %d is seen", c), n)
		}
		// The watermark moves as far as it truthfully can.
		mark := w.clock - 1
		if len(t.sales) > 0 {
			mark = min(mark, t.sales[0]-1)
		}
		if mark > book.watermark {
			n := w.clone()
			n.books.Channels[c].Seen(mark)
			visit(fmt.Sprintf("watermark of channel %d passes %d", c, mark), n)
		}
		if w.writes > 0 && !book.inFlight && t.stage != onItsWay {
			for _, wr := range writes(apis[c], most) {
				n := w.clone()
				if n.books.Send(c, wr) != nil {
					continue
				}
				n.writes--
				n.at[c].write, n.at[c].stage = wr, onItsWay
				visit(fmt.Sprintf("channel %d is sent %+v", c, wr), n)
			}
		}
		switch t.stage {
		case onItsWay:
			n := w.clone()
			n.at[c].apply(apis[c])
			visit(fmt.Sprintf("channel %d handles the write", c), n)
			n = w.clone()
			n.at[c].stage = gone
			visit(fmt.Sprintf("the write to channel %d is lost", c), n)
			if book.inFlight && !book.unresolved {
				n = w.clone()
				n.at[c].stage = noWrite
				n.books.Channels[c].NotApplied()
				visit(fmt.Sprintf("channel %d refuses the write", c), n)
			}
		case applied:
			if book.inFlight && !book.unresolved {
				n := w.clone()
				n.at[c].stage = noWrite
				wr := n.books.Channels[c].write
				n.books.Channels[c].Applied(n.clock, t.answer, apis[c].tellsShown)
				if wrong != nil {
					wrong(&n.books, c, wr)
				}
				n.clock++
				visit(fmt.Sprintf("channel %d acknowledges", c), n)
			}
		case conflict:
			if book.inFlight && !book.unresolved {
				n := w.clone()
				n.at[c].stage = noWrite
				n.books.Channels[c].NotApplied()
				visit(fmt.Sprintf("channel %d reports a conflict", c), n)
			}
		}
		if book.inFlight && !book.unresolved { // a time-out, or a crash of ours: the answer, if any, is never read
			n := w.clone()
			n.books.Channels[c].Unknown()
			visit(fmt.Sprintf("the answer of channel %d is not heard", c), n)
		}
		if w.reads > 0 && (!book.inFlight || book.unresolved) && t.stage != onItsWay {
			n := w.clone()
			n.reads--
			n.at[c].stage = noWrite
			if _, ok := n.books.Channels[c].Read(t.shown, n.clock); ok {
				n.clock++
				visit(fmt.Sprintf("channel %d is read: %d", c, t.shown), n)
			}
		}
	}
}

// apply is what the channel does with the write.
func (t *truth) apply(a api) {
	t.stage = applied
	switch t.write.Operation {
	case write.CompareAndSet:
		if t.shown != t.write.Expected {
			t.stage = conflict
			return
		}
		t.shown = t.write.Quantity
	case write.Delta:
		t.shown += t.write.Delta
		if a.clamps {
			t.shown = max(0, t.shown)
		}
	default:
		t.shown = t.write.Quantity
	}
	t.answer = t.shown
}

// writes is every write worth trying: all of them, wise or not, for the books must hold against any policy.
func writes(a api, most Units) []Write {
	var out []Write
	for q := Units(0); q <= most; q++ {
		switch a.operation {
		case write.CompareAndSet:
			for e := Units(0); e <= most; e++ {
				out = append(out, Write{Operation: a.operation, Quantity: q, Expected: e})
			}
		case write.Delta:
			if q > 0 {
				out = append(out, Write{Operation: a.operation, Delta: q}, Write{Operation: a.operation, Delta: -q})
			}
		default:
			out = append(out, Write{Operation: a.operation, Quantity: q})
		}
	}
	return out
}

func TestEveryInterleavingKeepsTheBooks(t *testing.T) {
	for i, tt := range []struct {
		apis              []api
		units             Units
		cancels, restocks int
		receipts          int
		writes, reads     int
	}{
		{[]api{casAPI}, 2, 1, 1, 0, 2, 1},
		{[]api{absoluteAPI}, 2, 1, 1, 0, 2, 1},
		{[]api{clampAPI}, 2, 1, 1, 0, 2, 1},
		{[]api{toldAPI}, 2, 1, 1, 0, 2, 1},
		{[]api{absoluteAPI}, 3, 0, 0, 1, 3, 0},
		{[]api{clampAPI}, 3, 0, 0, 1, 3, 0},
		{[]api{casAPI, casAPI}, 1, 0, 0, 0, 3, 1},
		{[]api{absoluteAPI, absoluteAPI}, 2, 0, 0, 0, 3, 0},
		{[]api{casAPI, absoluteAPI}, 1, 0, 0, 0, 3, 1},
		{[]api{clampAPI, absoluteAPI}, 1, 0, 0, 0, 3, 1},
		{[]api{toldAPI, clampAPI}, 2, 0, 0, 0, 3, 0},
		{[]api{casAPI, clampAPI, absoluteAPI}, 1, 0, 0, 0, 2, 0},
	} {
		if raceEnabled && i%4 != 0 { // nothing here runs beside anything else
			continue
		}
		name := ""
		for _, a := range tt.apis {
			name += a.name + " + "
		}
		t.Run(fmt.Sprintf("%s%d units", name, tt.units), func(t *testing.T) {
			states, violation := check(tt.apis, tt.units, tt.cancels, tt.restocks, tt.receipts, tt.writes, tt.reads, nil)
			t.Logf("%d states explored", states)
			if violation != "" {
				t.Errorf("after %d states:\n%s", states, violation)
			}
		})
	}
}

func TestWrongRulesAreCaught(t *testing.T) {
	for _, tt := range []struct {
		name string
		api  api
		rule broken
	}{
		{"absolute: exposure is the quantity at acknowledgement", absoluteAPI, func(s *SKU, c int, w Write) {
			s.Channels[c].e, s.Channels[c].fences = w.Quantity, nil
		}},
		{"delta: a decrease is credited at once", clampAPI, func(s *SKU, c int, w Write) {
			if w.Delta < 0 {
				s.Channels[c].lower(-w.Delta)
				s.Channels[c].fences = nil
			}
		}},
		{"compare-and-set: exposure is the quantity after success", casAPI, func(s *SKU, c int, w Write) {
			s.Channels[c].e = w.Quantity
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states, violation := check([]api{tt.api}, 2, 0, 0, 0, 3, 1, tt.rule)
			if violation == "" {
				t.Errorf("%d states explored and the wrong rule was not noticed", states)
			}
			t.Logf("caught after %d states:\n%s", states, violation)
		})
	}
}
