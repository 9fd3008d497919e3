// Package whatif replays recorded stock events under other settings: what would have been sold, refused, oversold and written.
//
// A [Replay] takes the log in, record by record, and then runs the events of a window once for each set of settings. What decides is what production runs: the fold of
// stock/ledger, and the whole of stock/targeting with its books of exposure, allotments and bundles. What lies between is a small model without chance:
//
//   - Before the window, time stands still for the stock and runs for everything else: channels are written and read, and their order watermarks move, until they show what
//     the settings make of the stock that the ledger knew. None of it is counted.
//   - A recorded sale happens at its sold_at. A channel that shows fewer units than it has refuses it as a whole: these settings lose it. Else the channel lowers its
//     number, and units beyond what was there at that moment (on hand less committed and held, at all locations, less what was sold and not yet heard of) are oversold.
//     A bundle is shown and refused as such; what was there is asked of each of its components.
//   - The ledger sees each event when its record was appended, order watermarks among them. The writes that follow go to channels one at a time per SKU and channel; each takes
//     effect, and is acknowledged, after the channel's delay. An absolute write shows what it says, sales unheard of put back on sale with it; a compare-and-set that the
//     books granted is refused where the channel shows another number; a difference changes the number, not below 0. Pooled writes by compare-and-set count as differences.
//   - What follows a lost sale (cancellation, assignment, shipment, return) is left out, and counted. A sale whose reservation is not granted under these settings is lost.
//   - Allotments that were recorded are left out: these settings make their own.
//
// The log does not have the demand that was refused in reality, or that a higher number would have brought: settings that show more cannot gain sales here.
//
// The package is pure: no I/O, no clock, no goroutines.
package whatif

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// Defaults of Options.
const (
	DefaultDelay   = 2 * time.Second
	DefaultOldSale = 24 * time.Hour
)

// Options is what the sets of settings have in common.
type Options struct {
	From, To int64                    // the window, by the time at which records were appended, Unix microseconds; To is not in it
	Ledger   ledger.Options           // as the log was folded with
	Delays   map[string]time.Duration // by channel: from the ledger's seeing an event to the write's taking effect; DefaultDelay for others
	Skew     time.Duration            // how far channels' clocks may be off; 0 is escrow.DefaultSkew
	OldSale  time.Duration            // a sale heard of later than that after sold_at counts as sold when it was heard of (an import); 0 is DefaultOldSale
}

// Settings is one set of settings.
type Settings struct {
	*catalog.Settings
	Listings map[string]*catalog.Listing
}

// WithMode is the same settings with one mode for all SKUs: each rule that sets a mode sets this one, and one more rule sets it for all. The mode is one of the names that a rule
// may have; another counts as not set.
func (s Settings) WithMode(mode string) Settings {
	all := *s.Settings
	all.Rules = make(map[string]*catalog.Rule, len(s.Rules)+1)
	for id, r := range s.Rules {
		if r.Mode != nil {
			x := *r
			x.Mode, r = &mode, &x
		}
		all.Rules[id] = r
	}
	all.Rules[""] = &catalog.Rule{Mode: &mode} // no other rule is without an id
	s.Settings = &all
	return s
}

// Report is what came out.
type Report struct {
	Events   int         // of the window that changed stock
	Sales    int         // of these
	Units    event.Units // sold
	Oversold event.Units // as the ledger recorded: how far sales took a SKU below zero
	Imported int         // sales that count as sold when they were heard of (Options.OldSale)
	Results  []Result    // by settings, in New's order
}

// Result is what one set of settings made of the window.
type Result struct {
	Rows     []Row          // in order of channel, then mode: those that sold or were written
	SKUs     map[string]int // SKUs of the window and what decides with them (the rest of their bundles), by mode
	Skipped  int            // events left out because they follow a lost sale
	Unmarked []string       // channels that are written and of which no order watermark is recorded: nothing that waits for one is given away again
}

// Figures are counts of what happened.
type Figures struct {
	Sales         int         // taken
	Units         event.Units // sold
	LostSales     int
	Lost          event.Units // units of sales that were refused
	OversoldSales int
	Oversold      event.Units // of a bundle: units of its components
	Writes        int         // of one SKU each
	Reads         int         // of one SKU each: the books look at what a channel shows
}

// Row is the figures of the SKUs of one mode at one channel.
type Row struct {
	Channel   string
	Mode      string // that the rules say: pooled, adaptive, strict, waterfall, proportional or fair
	Unwritten bool   // nobody writes the channel (unknown, paused, or without an operation): what it shows is not known, and each of its sales is taken
	Figures
}

func (f *Figures) add(g *Figures) {
	f.Sales, f.Units, f.LostSales, f.Lost = f.Sales+g.Sales, f.Units+g.Units, f.LostSales+g.LostSales, f.Lost+g.Lost
	f.OversoldSales, f.Oversold, f.Writes, f.Reads = f.OversoldSales+g.OversoldSales, f.Oversold+g.Oversold, f.Writes+g.Writes, f.Reads+g.Reads
}

// Total is the sum over all rows.
func (r *Result) Total() (t Figures) {
	for i := range r.Rows {
		t.add(&r.Rows[i].Figures)
	}
	return t
}

// ByChannel is the sums over modes, in order of channel.
func (r *Result) ByChannel() []Row {
	return r.sums(func(x *Row) Row { return Row{Channel: x.Channel, Unwritten: x.Unwritten} })
}

// ByMode is the sums over channels, in order of mode.
func (r *Result) ByMode() []Row { return r.sums(func(x *Row) Row { return Row{Mode: x.Mode} }) }

func (r *Result) sums(of func(*Row) Row) (out []Row) {
	for i := range r.Rows {
		sum := of(&r.Rows[i])
		at := slices.IndexFunc(out, func(x Row) bool { return x.Channel == sum.Channel && x.Mode == sum.Mode })
		if at < 0 {
			at = len(out)
			out = append(out, sum)
		}
		out[at].add(&r.Rows[i].Figures)
	}
	slices.SortFunc(out, inOrder)
	return out
}

func inOrder(a, b Row) int {
	return cmp.Or(cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Mode, b.Mode))
}

// entry is one event of the window.
type entry struct {
	event.Event
	offset, at int64 // of its record
	sold       int64 // when a sale happens
	until      int64 // of an order watermark: what is known of the channel's orders in all partitions
	partition  int32
	parts      []*entry // of a bundle's own sale: those of its components
	of         *entry   // of a component's sale: the bundle's own
}

// component says that the event is a component's: the channel sold a bundle, and shows the component's number as before.
func (x *entry) component() bool { return x.Bundle != "" && x.Bundle != x.SKU }

// sale is a sale from before the window: by these the books know what sells where.
type sale struct {
	channel string
	units   event.Units
	at      int64
}

// lead is how long before the window sales are remembered, in microseconds: rates of sales have forgotten older ones.
const lead = int64(time.Hour / time.Microsecond)

// log is the fold of one partition as it was recorded.
type log struct {
	fold  *ledger.Partition
	since int // records since Flushed
	clock int64
	marks map[string]int64 // order watermarks at the beginning of the window, by channel
}

// flushAfter bounds what folds remember as not stored.
const flushAfter = 1024

// Replay takes the log in. It is for one goroutine.
type Replay struct {
	o       Options
	sides   []*side
	logs    map[int32]*log
	recent  map[string][]sale
	entries []*entry
	report  Report
}

// New begins a replay of the same events under each of some settings. o.Ledger must be valid.
func New(o Options, settings ...Settings) *Replay {
	if o.OldSale <= 0 {
		o.OldSale = DefaultOldSale
	}
	if o.Skew <= 0 {
		o.Skew = time.Duration(escrow.DefaultSkew) * time.Microsecond
	}
	r := &Replay{o: o, logs: make(map[int32]*log), recent: make(map[string][]sale)}
	for _, s := range settings {
		r.sides = append(r.sides, newSide(&r.o, s))
	}
	return r
}

// Add takes one record of stock.events: its partition, its offset, its time in Unix microseconds, and the event in it. Records of a partition come in order of offset from
// the beginning of the log; partitions in any order. Nothing of e is kept. Records from Options.To on are ignored.
func (r *Replay) Add(partition int32, offset, at int64, e *event.Event) {
	l := r.logs[partition]
	if l == nil {
		l = &log{fold: ledger.New(r.o.Ledger), marks: make(map[string]int64)}
		r.logs[partition] = l
	}
	l.clock = max(l.clock, at)
	if at = l.clock; at >= r.o.To {
		return
	}
	res := l.fold.Apply(e, offset, at)
	if l.since++; l.since >= flushAfter {
		l.fold.Flushed()
		l.since = 0
	}
	if at < r.o.From {
		r.before(l, partition, at, e, res.Outcome)
		return
	}
	switch res.Outcome {
	case ledger.Applied:
	case ledger.Passed:
		r.entries = append(r.entries, &entry{Event: clone(e), partition: partition, offset: offset, at: at})
		return
	case ledger.Unchanged:
		if e.Kind == event.ReservationRequested { // refused then: nothing came of it
			return
		}
	default:
		return // a repeat, or a fault
	}
	if e.Kind == event.AllotmentChanged || e.Kind == event.AllotmentEnded {
		return
	}
	x := &entry{Event: clone(e), partition: partition, offset: offset, at: at}
	r.entries = append(r.entries, x)
	if res.Outcome == ledger.Applied {
		r.report.Events++
	}
	if e.Kind != event.SaleRecorded {
		return
	}
	x.sold = at
	old := e.OccurredAt > 0 && at-e.OccurredAt > r.o.OldSale.Microseconds()
	if e.OccurredAt > 0 && e.OccurredAt < at && !old {
		x.sold = max(e.OccurredAt, r.o.From)
	}
	r.report.Oversold += res.Oversold
	if x.component() { // the bundle's own event says what was sold
		return
	}
	r.report.Sales++
	r.report.Units += e.Quantity
	if old {
		r.report.Imported++
	}
}

// before takes in a record from before the window.
func (r *Replay) before(l *log, partition int32, at int64, e *event.Event, outcome ledger.Outcome) {
	if outcome == ledger.Passed {
		channel := strings.Clone(e.Channel)
		l.marks[channel] = max(l.marks[channel], e.OccurredAt)
		return
	}
	if e.Kind == event.AllotmentChanged || e.Kind == event.AllotmentEnded {
		return
	}
	if outcome == ledger.Applied && e.Kind == event.SaleRecorded && at >= r.o.From-lead {
		sku := strings.Clone(e.SKU)
		r.recent[sku] = append(r.recent[sku], sale{strings.Clone(e.Seller()), e.Quantity, at})
	}
	for _, s := range r.sides {
		s.fold(partition).apply(e, at)
	}
}

// clone is e with strings of its own.
func clone(e *event.Event) event.Event {
	x := *e
	for _, s := range []*string{&x.ID, &x.SKU, &x.Location, &x.ToLocation, &x.Channel, &x.OrderID, &x.LineID, &x.Reference, &x.ReservationID, &x.Scope, &x.PeerSKU, &x.Reason, &x.Source, &x.UnitPrice, &x.UnitCost, &x.Currency, &x.Bundle} {
		*s = strings.Clone(*s)
	}
	return x
}

// step is what happens to an entry at a time: its sale, or the ledger's seeing it.
type step struct {
	at    int64
	seen  bool
	entry *entry
}

// Run replays the window under each of the settings and says what came of it. The replay is then at its end.
func (r *Replay) Run() *Report {
	r.bundle()
	marks := r.marks()
	window := make(map[string]int32)
	steps := make([]step, 0, 2*len(r.entries))
	for _, x := range r.entries {
		if x.Kind == event.OrderWatermarkPassed {
			if x.until > 0 {
				steps = append(steps, step{x.at, true, x})
			}
			continue
		}
		window[x.SKU] = x.partition
		if x.Kind == event.SaleRecorded && x.of == nil {
			steps = append(steps, step{x.sold, false, x})
		}
		steps = append(steps, step{max(x.at, x.sold), true, x})
	}
	slices.SortFunc(steps, func(a, b step) int {
		c := cmp.Compare(a.at, b.at)
		if c == 0 && a.seen != b.seen { // sales first
			if a.seen {
				return 1
			}
			return -1
		}
		return cmp.Or(c, cmp.Compare(a.entry.partition, b.entry.partition), cmp.Compare(a.entry.offset, b.entry.offset))
	})
	for _, s := range r.sides {
		s.begin(window, r.recent, marks)
		for i := 0; i < len(steps); {
			j := i + 1
			for j < len(steps) && steps[j].at == steps[i].at {
				j++
			}
			s.advance(steps[i].at - 1)
			s.turn(steps[i].at, steps[i:j])
			i = j
		}
		s.advance(min(s.now+settle, r.o.To-1))
		r.report.Results = append(r.report.Results, s.result())
	}
	return &r.report
}

// bundle finds the components' part of each sale of a bundle: they happen together, whenever their records were appended.
func (r *Replay) bundle() {
	own := make(map[line]*entry)
	for _, x := range r.entries {
		if x.Kind == event.SaleRecorded && x.Bundle == x.SKU && x.Bundle != "" {
			own[lineOf(x)] = x
		}
	}
	for _, x := range r.entries {
		if x.Kind == event.SaleRecorded && x.component() {
			if b := own[lineOf(x)]; b != nil {
				x.of, x.sold = b, b.sold
				b.parts = append(b.parts, x)
			}
		}
	}
}

// marks sets what is known of each channel's orders after each order watermark, which is what the partition that is furthest behind says, and returns what was known at the
// beginning of the window.
func (r *Replay) marks() map[string]int64 {
	heard := make(map[string]map[int32]int64)
	of := func(channel string) map[int32]int64 {
		if heard[channel] == nil {
			heard[channel] = make(map[int32]int64)
		}
		return heard[channel]
	}
	for p, l := range r.logs {
		for channel, until := range l.marks {
			of(channel)[p] = until
		}
	}
	var passed []*entry
	for _, x := range r.entries {
		if x.Kind == event.OrderWatermarkPassed {
			passed = append(passed, x)
			if m := of(x.Channel); m[x.partition] == 0 {
				m[x.partition] = 0
			}
		}
	}
	least := func(channel string) int64 {
		first, until := true, int64(0)
		for _, u := range heard[channel] {
			if first || u < until {
				first, until = false, u
			}
		}
		return until
	}
	begin := make(map[string]int64)
	for channel := range heard {
		begin[channel] = least(channel)
	}
	slices.SortStableFunc(passed, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	})
	known := maps.Clone(begin)
	for _, x := range passed {
		m := heard[x.Channel]
		m[x.partition] = max(m[x.partition], x.OccurredAt)
		if u := least(x.Channel); u > known[x.Channel] {
			known[x.Channel], x.until = u, u
		}
	}
	return begin
}
