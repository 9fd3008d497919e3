package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/catalogfile"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/whatif"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

type whatifCmd struct {
	ledgerFlags
	From  string        `required:"" help:"Begin with events appended then: RFC 3339, a date, or how long ago (90m, 36h)." placeholder:"TIME"`
	To    string        `help:"End before events appended then; now when left out." placeholder:"TIME"`
	Rules string        `help:"The YAML settings file to try, on top of the settings in force; - reads standard input." placeholder:"FILE"`
	Modes []string      `help:"Try each of these modes for all SKUs too: pooled, adaptive, strict, waterfall, proportional, fair." placeholder:"MODE"`
	Delay time.Duration `help:"Take this long from the ledger to the channel, in place of what channel.writes tells of each channel."`
	JSON  bool          `help:"One JSON object."`
}

// Run reads the log, and has it replayed under the settings in force, under those with the file, and under these with each of the modes.
func (c *whatifCmd) Run(ctx context.Context, s streams) error {
	now := time.Now()
	from, err := moment("--from", c.From, now)
	if err != nil {
		return err
	}
	to := now
	if c.To != "" {
		if to, err = moment("--to", c.To, now); err != nil {
			return err
		}
	}
	switch {
	case !from.Before(to):
		return fmt.Errorf("--from (%s) is not before --to (%s)", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	case c.Delay < 0:
		return errors.New("--delay is below 0")
	case c.Rules == "" && len(c.Modes) == 0:
		return errors.New("nothing to try: give a settings file with --rules, or modes with --modes")
	}
	for _, m := range c.Modes {
		if _, _, ok := allocation.ParseRuleMode(m); !ok {
			return fmt.Errorf("--modes: %q is no mode: want pooled, adaptive, strict, waterfall, proportional or fair", m)
		}
	}
	var conn connection
	if i, err := readInstance(c.Data); err == nil {
		conn.instance = i
	}
	var name string
	var file *catalogfile.File
	if c.Rules != "" {
		var text []byte
		if name, text, err = (&settingsFile{File: c.Rules}).read(s, conn); err != nil {
			return err
		}
		var wrong []catalogfile.Fault
		if file, wrong = catalogfile.Parse(text); len(wrong) > 0 {
			return &exitError{1, fmt.Sprintf("%s:%s", name, wrong[0])}
		}
	}
	src, err := c.source()
	if err != nil {
		return err
	}
	defer src.Redis.Close()
	before, listings, err := catalogNow(ctx, src.Kafka, src.Log)
	if err != nil {
		return err
	}
	trials := []trial{{"now", whatif.Settings{Settings: before, Listings: listings}}}
	last := trials[0].settings
	if file != nil {
		if wrong := file.Document.Validate(before); len(wrong) > 0 {
			at := file.Place(wrong[0].Path)
			return &exitError{1, fmt.Sprintf("%s:%d:%d: %s", name, max(1, at.Line), max(1, at.Column), wrong[0].Message)}
		}
		after := *before
		after.Channels, after.Locations, after.Rules = entries(before.Channels, false), entries(before.Locations, false), entries(before.Rules, false)
		last = whatif.Settings{Settings: &after, Listings: entries(listings, false)}
		file.Document.Merge(last.Settings, last.Listings)
		trials = append(trials, trial{"then", last})
	}
	for _, m := range c.Modes {
		trials = append(trials, trial{m, last.WithMode(m)})
	}
	o := whatif.Options{From: from.UnixMicro(), To: to.UnixMicro()}
	if o.Ledger, err = audit.Options(ctx, src); err != nil {
		return err
	}
	x, err := c.replay(ctx, src, o, trials)
	if err != nil {
		return err
	}
	if c.JSON {
		return jsonLine(s.out, x)
	}
	return x.print(s.out)
}

// trial is settings to be tried: now, then, or the name of a mode.
type trial struct {
	name     string
	settings whatif.Settings
}

// outcome is what came of a replay under several sets of settings.
type outcome struct {
	From             time.Time     `json:"from"`
	To               time.Time     `json:"to"`
	Complete         bool          `json:"complete"` // the log is there from its first event
	Events           int           `json:"events"`
	Sales            int           `json:"sales"`
	Units            int64         `json:"units"`
	RecordedOversold int64         `json:"recorded_oversold"`
	Imported         int           `json:"imported_sales"`
	Delays           []delayOf     `json:"delays"`  // in order of channel
	Replays          []replayed    `json:"replays"` // now; then, when there was a file; and each mode
	Notes            []string      `json:"notes"`
	fallback         time.Duration // delay where none was measured
}

// delayOf is how long writes to a channel take in the model.
type delayOf struct {
	Channel  string  `json:"channel"`
	MS       float64 `json:"delay_ms"`
	Measured bool    `json:"measured"`
}

// replayed is the window under one set of settings.
type replayed struct {
	Name     string         `json:"name"`
	Total    channelFigures `json:"total"`
	Channels []rowFigures   `json:"channels"` // sums over modes
	Modes    []rowFigures   `json:"modes"`    // sums over channels
	Rows     []rowFigures   `json:"rows"`     // by channel and mode
	SKUs     map[string]int `json:"skus"`     // by mode
	Skipped  int            `json:"skipped"`  // events that follow a lost sale
	Unmarked []string       `json:"channels_without_watermark"`
}

// rowFigures is the figures of a channel, of a mode, or of a mode at a channel.
type rowFigures struct {
	Channel   string `json:"channel,omitempty"`
	Mode      string `json:"mode,omitempty"`
	Unwritten bool   `json:"unwritten,omitempty"`
	channelFigures
}

type channelFigures struct {
	Sales         int   `json:"sales"`
	Units         int64 `json:"units"`
	LostSales     int   `json:"lost_sales"`
	Lost          int64 `json:"lost_units"`
	OversoldSales int   `json:"oversold_sales"`
	Oversold      int64 `json:"oversold_units"`
	Writes        int   `json:"writes"`
	Reads         int   `json:"reads"`
}

func figuresOf(c whatif.Figures) channelFigures {
	return channelFigures{c.Sales, int64(c.Units), c.LostSales, int64(c.Lost), c.OversoldSales, int64(c.Oversold), c.Writes, c.Reads}
}

func rowsOf(rows []whatif.Row) []rowFigures {
	out := make([]rowFigures, len(rows))
	for i, r := range rows {
		out[i] = rowFigures{r.Channel, r.Mode, r.Unwritten, figuresOf(r.Figures)}
	}
	return out
}

// partitionsOf lists the partitions of a topic, and says whether all are there from their first record.
func partitionsOf(ctx context.Context, adm *kadm.Client, topic string) (parts map[string][]int32, complete bool, err error) {
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, false, fmt.Errorf("topic %s: %w", topic, err)
	}
	parts, complete = map[string][]int32{}, true
	starts.Each(func(o kadm.ListedOffset) {
		parts[o.Topic] = append(parts[o.Topic], o.Partition)
		complete = complete && o.Offset == 0
	})
	return parts, complete, nil
}

func (c *whatifCmd) replay(ctx context.Context, src audit.Source, o whatif.Options, trials []trial) (*outcome, error) {
	client, err := src.Kafka.Client(src.Log, "onhand-whatif")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	fallback := whatif.DefaultDelay
	if c.Delay > 0 {
		fallback = c.Delay
	}
	o.Delays = make(map[string]time.Duration)
	measured := make(map[string]bool)
	if c.Delay == 0 {
		if err := measure(ctx, src.Log, client, adm, &o, measured); err != nil {
			return nil, err
		}
	}
	settings := make([]whatif.Settings, len(trials))
	for i := range trials {
		settings[i] = trials[i].settings
		for id := range settings[i].Channels {
			if _, ok := o.Delays[id]; !ok {
				o.Delays[id] = fallback
			}
		}
	}
	parts, complete, err := partitionsOf(ctx, adm, schemas.StockEvents)
	if err != nil {
		return nil, err
	}
	replay := whatif.New(o, settings...)
	var reader topics.EventReader
	var e event.Event
	ends, err := adm.ListOffsetsAfterMilli(ctx, (o.To+999)/1000, schemas.StockEvents)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("topic %s: %w", schemas.StockEvents, err)
	}
	if _, err := kafka.CommittedUntil(ctx, client, parts, nil, ends.Offsets(), func(r *kgo.Record) {
		if reader.Read(r.Value, &e) == nil { // what cannot be read changed no stock: it is in stock.rejected
			replay.Add(r.Partition, r.Offset, r.Timestamp.UnixMicro(), &e)
		}
	}); err != nil {
		return nil, fmt.Errorf("topic %s: %w", schemas.StockEvents, err)
	}
	x := outcomeOf(&o, replay.Run(), trials, measured)
	x.Complete, x.fallback = complete, fallback
	x.note()
	return x, nil
}

// measure sets the delay of each channel that was written in the window: the median from decision to acknowledgement.
func measure(ctx context.Context, log *slog.Logger, client *kgo.Client, adm *kadm.Client, o *whatif.Options, measured map[string]bool) error {
	parts, _, err := partitionsOf(ctx, adm, schemas.ChannelWrites)
	if err != nil {
		return err
	}
	starts, err := adm.ListOffsetsAfterMilli(ctx, o.From/1000, schemas.ChannelWrites)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("topic %s: %w", schemas.ChannelWrites, err)
	}
	took := make(map[string][]int64)
	if _, err = kafka.Committed(ctx, client, parts, starts.Offsets(), func(r *kgo.Record) {
		if at := r.Timestamp.UnixMicro(); at < o.From || at >= o.To {
			return
		}
		w, err := topics.DecodeWrite(r.Value)
		if err != nil {
			log.Warn("a write result cannot be read", "partition", r.Partition, "offset", r.Offset, "error", err)
			return
		}
		if w.Outcome == write.Applied && w.Operation != write.Read && w.DecidedAt > 0 && w.AckedAt >= w.DecidedAt {
			took[w.Channel] = append(took[w.Channel], w.AckedAt-w.DecidedAt)
		}
	}); err != nil {
		return fmt.Errorf("topic %s: %w", schemas.ChannelWrites, err)
	}
	for channel, all := range took {
		slices.Sort(all)
		o.Delays[channel], measured[channel] = time.Duration(all[len(all)/2])*time.Microsecond, true
	}
	return nil
}

// outcomeOf puts the results of the trials side by side.
func outcomeOf(o *whatif.Options, r *whatif.Report, trials []trial, measured map[string]bool) *outcome {
	x := &outcome{
		From: time.UnixMicro(o.From).UTC(), To: time.UnixMicro(o.To).UTC(), Events: r.Events, Sales: r.Sales, Units: int64(r.Units), RecordedOversold: int64(r.Oversold), Imported: r.Imported,
		Delays: []delayOf{},
	}
	known := make(map[string]bool)
	for i := range r.Results {
		y := &r.Results[i]
		x.Replays = append(x.Replays, replayed{
			Name: trials[i].name, Total: figuresOf(y.Total()), Channels: rowsOf(y.ByChannel()), Modes: rowsOf(y.ByMode()), Rows: rowsOf(y.Rows), SKUs: y.SKUs, Skipped: y.Skipped, Unmarked: append([]string{}, y.Unmarked...),
		})
		for _, c := range y.ByChannel() {
			if !known[c.Channel] && !c.Unwritten {
				known[c.Channel] = true
				x.Delays = append(x.Delays, delayOf{c.Channel, float64(o.Delays[c.Channel].Microseconds()) / 1000, measured[c.Channel]})
			}
		}
	}
	slices.SortFunc(x.Delays, func(a, b delayOf) int { return cmp.Compare(a.Channel, b.Channel) })
	return x
}

// note says what the figures do not tell.
func (x *outcome) note() {
	add := func(format string, args ...any) { x.Notes = append(x.Notes, fmt.Sprintf(format, args...)) }
	add("sales are those that the rules of that time let happen: demand that was refused in reality, or that a higher number would have brought, is not in the log, so that rules that show more cannot gain sales here")
	if !x.Complete {
		add("the log no longer begins with its first event: stock that came before is not known, and sales of it count as lost or oversold")
	}
	if x.Imported > 0 {
		add("sales heard of more than a day after they were made, which count as made when they were heard of: %s", group(int64(x.Imported)))
	}
	var skipped []string
	for i := range x.Replays {
		if r := &x.Replays[i]; r.Skipped > 0 {
			skipped = append(skipped, r.Name+" "+group(int64(r.Skipped)))
		}
	}
	if len(skipped) > 0 {
		add("cancellations, assignments, shipments and returns of lost sales that were left out: %s", strings.Join(skipped, ", "))
	}
	for i := range x.Replays {
		r := &x.Replays[i]
		if r.SKUs["strict"]+r.SKUs["adaptive"] > 0 && len(r.Unmarked) > 0 {
			add("%s: no order watermark of %s is recorded before --to: books of exposure wait for one where a channel may have sold", r.Name, strings.Join(r.Unmarked, ", "))
		}
	}
	seen := make(map[string]bool)
	for i := range x.Replays {
		for _, c := range x.Replays[i].Channels {
			if c.Unwritten && !seen[c.Channel] {
				seen[c.Channel] = true
				add("%s is not written by Onhand: each of its sales is taken", c.Channel)
			}
		}
	}
	for _, d := range x.Delays {
		if !d.Measured {
			add("%s: no write was acknowledged in the window, or --delay was given; %s is taken as its delay", d.Channel, x.fallback)
		}
	}
}

func (x *outcome) print(out io.Writer) error {
	_, _ = fmt.Fprintf(out, "%s to %s: %s events, %s sales of %s units, %s oversold as recorded\n\n", x.From.Format(time.RFC3339), x.To.Format(time.RFC3339), group(int64(x.Events)),
		group(int64(x.Sales)), group(x.Units), group(x.RecordedOversold))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(first, rules string, f channelFigures, last string) {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", first, rules, group(f.Units), group(f.Lost), group(f.Oversold), group(int64(f.Writes)), group(int64(f.Reads)), last)
	}
	table := func(rows func(*replayed) []rowFigures, name func(*rowFigures) string, last func(*replayed, string) string) {
		var names []string
		for i := range x.Replays {
			for _, f := range rows(&x.Replays[i]) {
				if !slices.Contains(names, name(&f)) {
					names = append(names, name(&f))
				}
			}
		}
		slices.Sort(names)
		for _, n := range names {
			shown := n
			for i := range x.Replays {
				r := &x.Replays[i]
				for _, f := range rows(r) {
					if name(&f) == n {
						line(shown, r.Name, f.channelFigures, last(r, n))
						shown = ""
					}
				}
			}
		}
	}
	_, _ = fmt.Fprintln(w, "channel\trules\tsold\tlost\toversold\twrites\treads\tdelay\t") // reported by Flush
	table(func(r *replayed) []rowFigures { return r.Channels }, func(f *rowFigures) string { return f.Channel }, func(_ *replayed, channel string) string {
		for _, d := range x.Delays {
			if d.Channel == channel {
				return (time.Duration(d.MS*1000) * time.Microsecond).Round(time.Millisecond).String()
			}
		}
		return "–"
	})
	name := "all"
	for i := range x.Replays {
		line(name, x.Replays[i].Name, x.Replays[i].Total, "")
		name = ""
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out)
	_, _ = fmt.Fprintln(w, "mode\trules\tsold\tlost\toversold\twrites\treads\tSKUs\t")
	table(func(r *replayed) []rowFigures { return r.Modes }, func(f *rowFigures) string { return f.Mode }, func(r *replayed, mode string) string { return group(int64(r.SKUs[mode])) })
	if err := w.Flush(); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out)
	for _, n := range x.Notes {
		_, _ = fmt.Fprintln(out, "-", n)
	}
	said := "Now is the settings in force"
	base := ""
	for _, r := range x.Replays[1:] {
		switch {
		case r.Name == "then":
			said, base = said+", then is those with the file", "then"
		case base == "":
			said, base = said+", a mode is these with that mode for all SKUs", "mode"
		case base == "then":
			said, base = said+", a mode is then with that mode for all SKUs", "mode"
		}
	}
	_, err := fmt.Fprintln(out, said+"; nothing was changed.")
	return err
}
