package simulation

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"text/tabwriter"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what the modes did in the same worlds.
type Report struct {
	SeedStart uint64   `json:"seed_start"`
	Seeds     int      `json:"seeds"`
	Channels  int      `json:"channels"`
	Modes     []Result `json:"modes"`
}

// Result is what one mode did in the worlds of all seeds.
type Result struct {
	Mode    Mode  `json:"mode"`
	Orders  int64 `json:"orders"`            // taken by channels
	Units   int64 `json:"units"`             // of these
	Bundles int64 `json:"bundles,omitempty"` // of these units, those of bundles

	OversoldUnits      int64   `json:"oversold_units"`       // sold while nothing was left, but for the next
	OversoldByCounts   int64   `json:"oversold_by_counts"`   // the same, up to what counts had found missing of the SKU
	OversoldPerMillion float64 `json:"oversold_per_million"` // orders
	SellThrough        float64 `json:"sell_through"`         // units sold and not cancelled, less oversold ones, of what an all-knowing seller sells
	WritesPerSale      float64 `json:"writes_per_sale"`      // items written to channels, by order
	LostSales          int64   `json:"lost_sales"`           // buyers who were shown less than they wanted and left
	LostUnits          int64   `json:"lost_units"`
	LatencyP50         float64 `json:"sync_latency_p50_ms"` // from the oldest event behind a write, as received, to its acknowledgement
	LatencyP95         float64 `json:"sync_latency_p95_ms"`
	LatencyP99         float64 `json:"sync_latency_p99_ms"`
	MinSlack           *int64  `json:"min_slack,omitempty"` // least available less exposed, under strict; what a count took is not counted

	Demand         int64  `json:"demand"` // buyers
	DemandUnits    int64  `json:"demand_units"`
	IdealUnits     int64  `json:"ideal_units"` // what an all-knowing seller sells, less what is cancelled
	CancelledUnits int64  `json:"cancelled_units"`
	Writes         int64  `json:"writes"`
	Reads          int64  `json:"reads"`
	Requests       int64  `json:"requests"`
	Events         int64  `json:"events"` // folded by the ledger
	Crashes        int64  `json:"crashes"`
	Phases         int64  `json:"phases"` // times that a SKU went from pooled to strict or back
	Alerts         int64  `json:"alerts"`
	Breaches       int64  `json:"breaches"` // alerts of channels that sold more than they were exposed to
	Checks         int64  `json:"checks"`   // of the invariants
	Happenings     uint64 `json:"happenings"`
	Trace          string `json:"trace"` // hash of everything that happened, in order

	SellThroughOf map[string]float64 `json:"sell_through_of"` // by the nature of the SKU: calm, scarce, restocked, flash

	natures [natures]struct{ sold, ideal int64 }
	hash    uint64
	slack   int64
	latency *hdrhistogram.Histogram
}

func newResult(m Mode) Result {
	return Result{Mode: m, slack: math.MaxInt64, latency: hdrhistogram.New(1, 48*hour, 2)}
}

func (r *Result) add(o *Result) {
	for _, f := range []struct{ to, from *int64 }{
		{&r.Orders, &o.Orders}, {&r.Units, &o.Units}, {&r.Bundles, &o.Bundles}, {&r.OversoldUnits, &o.OversoldUnits}, {&r.OversoldByCounts, &o.OversoldByCounts},
		{&r.LostSales, &o.LostSales}, {&r.LostUnits, &o.LostUnits}, {&r.Demand, &o.Demand}, {&r.DemandUnits, &o.DemandUnits},
		{&r.CancelledUnits, &o.CancelledUnits}, {&r.Writes, &o.Writes}, {&r.Reads, &o.Reads},
		{&r.Requests, &o.Requests}, {&r.Events, &o.Events}, {&r.Crashes, &o.Crashes}, {&r.Checks, &o.Checks}, {&r.Phases, &o.Phases}, {&r.Breaches, &o.Breaches}, {&r.Alerts, &o.Alerts},
	} {
		*f.to += *f.from
	}
	r.Happenings += o.Happenings
	r.hash = (r.hash^o.hash)*0x9E3779B185EBCA87 + 1
	r.slack = min(r.slack, o.slack)
	for i := range o.natures {
		r.natures[i].sold += o.natures[i].sold
		r.natures[i].ideal += o.natures[i].ideal
	}
	r.latency.Merge(o.latency)
}

// close works out the ratios.
func (r *Result) close() {
	ratio := func(a, b int64) float64 {
		if b == 0 {
			return 0
		}
		return float64(a) / float64(b)
	}
	r.SellThroughOf = make(map[string]float64)
	for i, n := range r.natures {
		r.IdealUnits += n.ideal
		r.SellThroughOf[natureNames[i]] = ratio(n.sold, n.ideal)
	}
	r.OversoldPerMillion = 1e6 * ratio(r.OversoldUnits, r.Orders)
	r.SellThrough = ratio(r.Units-r.CancelledUnits-r.OversoldUnits-r.OversoldByCounts, r.IdealUnits)
	r.WritesPerSale = ratio(r.Writes, r.Orders)
	ms := func(q float64) float64 { return float64(r.latency.ValueAtQuantile(q)) / 1000 }
	r.LatencyP50, r.LatencyP95, r.LatencyP99 = ms(50), ms(95), ms(99)
	if r.slack != math.MaxInt64 {
		r.MinSlack = &r.slack
	}
	r.Trace = fmt.Sprintf("%016x", r.hash)
}

// Table writes the report for people.
func (r *Report) Table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "mode\torders\tunits\toversold\tper million orders\tsell-through\twrites per sale\tlost sales\tlatency p50\tp95\tp99\tmin slack\t") // reported by Flush
	for i := range r.Modes {
		m := &r.Modes[i]
		slack := "–"
		if m.MinSlack != nil {
			slack = group(*m.MinSlack)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f\t%.2f %%\t%.2f\t%s\t%s\t%s\t%s\t%s\t\n", m.Mode, group(m.Orders), group(m.Units), group(m.OversoldUnits), m.OversoldPerMillion,
			100*m.SellThrough, m.WritesPerSale, group(m.LostSales), duration(m.LatencyP50), duration(m.LatencyP95), duration(m.LatencyP99), slack)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	last := r.SeedStart + uint64(r.Seeds) - 1
	_, err := fmt.Fprintf(out, "\nSeeds %d to %d, %d channels, the same buyers in each mode.", r.SeedStart, last, r.Channels)
	for i := range r.Modes {
		if m := &r.Modes[i]; err == nil && m.OversoldByCounts > 0 {
			_, err = fmt.Fprintf(out, " %s: %s more units were sold that counts then found missing.", m.Mode, group(m.OversoldByCounts))
		}
	}
	for i := range r.Modes {
		if m := &r.Modes[i]; err == nil && m.Bundles > 0 {
			_, err = fmt.Fprintf(out, " %s: %s of the units were bundles.", m.Mode, group(m.Bundles))
		}
	}
	if err == nil {
		_, err = fmt.Fprintln(out)
	}
	for i := range r.Modes {
		if err == nil {
			_, err = fmt.Fprintf(out, "trace %s %s\n", r.Modes[i].Mode, r.Modes[i].Trace)
		}
	}
	return err
}

func duration(ms float64) string {
	switch {
	case ms == 0:
		return "–"
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 120_000:
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return fmt.Sprintf("%.1f min", ms/60_000)
}

// group writes a number with a comma between thousands.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	digits := len(s)
	if n < 0 {
		digits--
	}
	for at := len(s) - 3; digits > 3; at, digits = at-3, digits-3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}
