// Package whatif replays recorded stock events under other settings: what would have been sold, refused, oversold and written.
//
// A [Replay] takes the log in, record by record, and then runs the events of a window once for each set of settings. What decides is what production runs: the fold of
// stock/ledger, the rules of stock/catalog, the division of stock/allocation. What lies between is a small model without chance:
//
//   - A channel shows, per SKU, a number. At the beginning of the window it is what the settings make of the stock that the ledger knew.
//   - A recorded sale happens at its sold_at. A channel that shows fewer units than it has refuses it as a whole: these settings lose it. Else the channel lowers its
//     number, and units beyond what was there at that moment (on hand less committed and held, at all locations, less what was sold and not yet heard of) are oversold.
//   - The ledger sees each event when its record was appended. The targets that follow are written to channels, one write at a time per SKU and channel; it takes effect
//     after the channel's delay. An absolute write shows what it says, sales unheard of put back on sale with it; the others change the number by a difference.
//   - What follows a lost sale (cancellation, assignment, shipment, return) is left out, and counted.
//
// Books of exposure are not kept here. A SKU of mode strict is divided by its share, each unit shown once, with sales so far as the demand of each channel; one of mode
// adaptive is pooled. Both oversell more here than with books.
//
// The log does not have the demand that was refused in reality, or that a higher number would have brought: settings that show more cannot gain sales here.
//
// The package is pure: no I/O, no clock, no goroutines.
package whatif

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/onhand/onhand/stock/catalog"
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
	OldSale  time.Duration            // a sale heard of later than that after sold_at counts as sold when it was heard of (an import); 0 is DefaultOldSale
}

// Settings is one set of settings.
type Settings struct {
	*catalog.Settings
	Listings map[string]*catalog.Listing
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
	Channels []Channel // in order of id: those that sold or were written
	Skipped  int       // events left out because they follow a lost sale
	Strict   int       // SKUs of the window whose rules ask for strict: run without books
	Adaptive int       // SKUs of the window whose rules ask for adaptive: run without books
}

// Channel is the figures of one channel.
type Channel struct {
	Channel       string
	Unwritten     bool        // nobody writes it (unknown, paused, or without an operation): what it shows is not known, and each of its sales is taken
	Sales         int         // taken
	Units         event.Units // sold
	LostSales     int
	Lost          event.Units // units of sales that it refused
	OversoldSales int
	Oversold      event.Units
	Writes        int // of one SKU each
}

// Total is the sum over channels.
func (r *Result) Total() (t Channel) {
	for i := range r.Channels {
		c := &r.Channels[i]
		t.Sales, t.Units, t.LostSales, t.Lost = t.Sales+c.Sales, t.Units+c.Units, t.LostSales+c.LostSales, t.Lost+c.Lost
		t.OversoldSales, t.Oversold, t.Writes = t.OversoldSales+c.OversoldSales, t.Oversold+c.Oversold, t.Writes+c.Writes
	}
	return t
}

// entry is one event of the window.
type entry struct {
	event.Event
	offset, at int64 // of its record
	sold       int64 // when a sale happens
	partition  int32
}

// log is the fold of one partition as it was recorded.
type log struct {
	fold  *ledger.Partition
	since int // records since Flushed
	clock int64
}

// flushAfter bounds what folds remember as not stored.
const flushAfter = 1024

// Replay takes the log in. It is for one goroutine.
type Replay struct {
	o       Options
	sides   []*side
	logs    map[int32]*log
	entries []entry
	report  Report
}

// New begins a replay of the same events under each of some settings. o.Ledger must be valid.
func New(o Options, settings ...Settings) *Replay {
	if o.OldSale <= 0 {
		o.OldSale = DefaultOldSale
	}
	r := &Replay{o: o, logs: make(map[int32]*log)}
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
		l = &log{fold: ledger.New(r.o.Ledger)}
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
		for _, s := range r.sides {
			s.before(partition, offset, at, e)
		}
		return
	}
	if res.Outcome != ledger.Applied {
		return // a repeat, a fault, or a watermark
	}
	x := entry{Event: clone(e), partition: partition, offset: offset, at: at}
	r.report.Events++
	if e.Kind == event.SaleRecorded {
		r.report.Sales++
		r.report.Units += e.Quantity
		r.report.Oversold += res.Oversold
		x.sold = at
		if e.OccurredAt > 0 && e.OccurredAt < at {
			if at-e.OccurredAt > r.o.OldSale.Microseconds() {
				r.report.Imported++
			} else {
				x.sold = max(e.OccurredAt, r.o.From)
			}
		}
	}
	r.entries = append(r.entries, x)
}

// clone is e with strings of its own.
func clone(e *event.Event) event.Event {
	x := *e
	for _, s := range []*string{&x.ID, &x.SKU, &x.Location, &x.ToLocation, &x.Channel, &x.OrderID, &x.LineID, &x.Reference, &x.ReservationID, &x.Scope, &x.PeerSKU, &x.Reason, &x.Source, &x.UnitPrice, &x.UnitCost, &x.Currency} {
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
	r.logs = nil
	steps := make([]step, 0, 2*len(r.entries))
	for i := range r.entries {
		x := &r.entries[i]
		if x.Kind == event.SaleRecorded {
			steps = append(steps, step{x.sold, false, x})
		}
		steps = append(steps, step{x.at, true, x})
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
		for i := range steps {
			x := &steps[i]
			s.land(x.at)
			if x.seen {
				s.see(x.entry)
			} else {
				s.sell(x.entry)
			}
		}
		r.report.Results = append(r.report.Results, s.result())
	}
	return &r.report
}
