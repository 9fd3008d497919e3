package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/catalogfile"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/whatif"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

type whatifCmd struct {
	ledgerFlags
	From  string        `required:"" help:"Begin with events appended then: RFC 3339, a date, or how long ago (90m, 36h)." placeholder:"TIME"`
	To    string        `help:"End before events appended then; now when left out." placeholder:"TIME"`
	Rules string        `required:"" help:"The YAML settings file to try, on top of the settings in force; - reads standard input." placeholder:"FILE"`
	Delay time.Duration `help:"Take this long from the ledger to the channel, in place of what channel.writes tells of each channel."`
	JSON  bool          `help:"One JSON object."`
}

// Run reads the log, and has it replayed under the settings in force and under those with the file.
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
	}
	var conn connection
	if i, err := readInstance(c.Data); err == nil {
		conn.instance = i
	}
	name, text, err := (&settingsFile{File: c.Rules}).read(s, conn)
	if err != nil {
		return err
	}
	file, wrong := catalogfile.Parse(text)
	if len(wrong) > 0 {
		return &exitError{1, fmt.Sprintf("%s:%s", name, wrong[0])}
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
	if wrong := file.Document.Validate(before); len(wrong) > 0 {
		at := file.Place(wrong[0].Path)
		return &exitError{1, fmt.Sprintf("%s:%d:%d: %s", name, max(1, at.Line), max(1, at.Column), wrong[0].Message)}
	}
	after := &catalog.Settings{Version: before.Version, Channels: entries(before.Channels, false), Locations: entries(before.Locations, false), Rules: entries(before.Rules, false)}
	later := entries(listings, false)
	file.Document.Merge(after, later)

	o := whatif.Options{From: from.UnixMicro(), To: to.UnixMicro()}
	if o.Ledger, err = audit.Options(ctx, src); err != nil {
		return err
	}
	x, err := c.replay(ctx, src, o, whatif.Settings{Settings: before, Listings: listings}, whatif.Settings{Settings: after, Listings: later})
	if err != nil {
		return err
	}
	if c.JSON {
		return jsonLine(s.out, x)
	}
	return x.print(s.out)
}

// outcome is what came of a replay under two sets of settings.
type outcome struct {
	From             time.Time       `json:"from"`
	To               time.Time       `json:"to"`
	Complete         bool            `json:"complete"` // the log is there from its first event
	Events           int             `json:"events"`
	Sales            int             `json:"sales"`
	Units            int64           `json:"units"`
	RecordedOversold int64           `json:"recorded_oversold"`
	Imported         int             `json:"imported_sales"`
	SkippedNow       int             `json:"skipped_now"`
	SkippedThen      int             `json:"skipped_then"`
	StrictSKUs       [2]int          `json:"strict_skus"`   // now, then
	AdaptiveSKUs     [2]int          `json:"adaptive_skus"` // now, then
	Channels         []channelBeside `json:"channels"`
	Now              channelFigures  `json:"now"`
	Then             channelFigures  `json:"then"`
	Notes            []string        `json:"notes"`
}

// channelBeside is a channel under the rules in force, and under those of the file.
type channelBeside struct {
	Channel       string         `json:"channel"`
	DelayMS       float64        `json:"delay_ms"`
	DelayMeasured bool           `json:"delay_measured"`
	Unwritten     bool           `json:"unwritten,omitempty"`
	Now           channelFigures `json:"now"`
	Then          channelFigures `json:"then"`
}

type channelFigures struct {
	Sales         int   `json:"sales"`
	Units         int64 `json:"units"`
	LostSales     int   `json:"lost_sales"`
	Lost          int64 `json:"lost_units"`
	OversoldSales int   `json:"oversold_sales"`
	Oversold      int64 `json:"oversold_units"`
	Writes        int   `json:"writes"`
}

func figuresOf(c whatif.Channel) channelFigures {
	return channelFigures{c.Sales, int64(c.Units), c.LostSales, int64(c.Lost), c.OversoldSales, int64(c.Oversold), c.Writes}
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

func (c *whatifCmd) replay(ctx context.Context, src audit.Source, o whatif.Options, now, then whatif.Settings) (*outcome, error) {
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
	for _, s := range []whatif.Settings{now, then} {
		for id := range s.Channels {
			if _, ok := o.Delays[id]; !ok {
				o.Delays[id] = fallback
			}
		}
	}
	parts, complete, err := partitionsOf(ctx, adm, schemas.StockEvents)
	if err != nil {
		return nil, err
	}
	replay := whatif.New(o, now, then)
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
	x := beside(&o, replay.Run(), measured)
	x.Complete = complete
	x.note(fallback)
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
		if w.Outcome == write.Applied && w.DecidedAt > 0 && w.AckedAt >= w.DecidedAt {
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

// beside puts the results of two sets of settings side by side.
func beside(o *whatif.Options, r *whatif.Report, measured map[string]bool) *outcome {
	now, then := &r.Results[0], &r.Results[1]
	x := &outcome{
		From: time.UnixMicro(o.From).UTC(), To: time.UnixMicro(o.To).UTC(), Events: r.Events, Sales: r.Sales, Units: int64(r.Units), RecordedOversold: int64(r.Oversold), Imported: r.Imported,
		SkippedNow: now.Skipped, SkippedThen: then.Skipped, StrictSKUs: [2]int{now.Strict, then.Strict}, AdaptiveSKUs: [2]int{now.Adaptive, then.Adaptive},
		Channels: []channelBeside{}, Now: figuresOf(now.Total()), Then: figuresOf(then.Total()),
	}
	at := make(map[string]int)
	row := func(c whatif.Channel) *channelBeside {
		i, ok := at[c.Channel]
		if !ok {
			i = len(x.Channels)
			at[c.Channel] = i
			x.Channels = append(x.Channels, channelBeside{Channel: c.Channel, DelayMS: float64(o.Delays[c.Channel].Microseconds()) / 1000, DelayMeasured: measured[c.Channel]})
		}
		return &x.Channels[i]
	}
	for _, c := range now.Channels {
		b := row(c)
		b.Now, b.Unwritten = figuresOf(c), c.Unwritten
	}
	for _, c := range then.Channels {
		b := row(c)
		b.Then, b.Unwritten = figuresOf(c), b.Unwritten || c.Unwritten
	}
	slices.SortFunc(x.Channels, func(a, b channelBeside) int {
		if a.Channel < b.Channel {
			return -1
		}
		return 1
	})
	return x
}

// note says what the figures do not tell.
func (x *outcome) note(fallback time.Duration) {
	add := func(format string, args ...any) { x.Notes = append(x.Notes, fmt.Sprintf(format, args...)) }
	add("demand that was refused in reality, or that a higher number would have brought, is not in the log: rules that show more cannot gain sales here")
	if n := max(x.StrictSKUs[0], x.StrictSKUs[1]); n > 0 {
		add("%s SKUs are strict: they were divided by their share, without books of exposure, so that more is oversold here than with books", group(int64(n)))
	}
	if n := max(x.AdaptiveSKUs[0], x.AdaptiveSKUs[1]); n > 0 {
		add("%s SKUs are adaptive: they were pooled all the time, without books of exposure, so that more is oversold here than with books", group(int64(n)))
	}
	if !x.Complete {
		add("the log no longer begins with its first event: stock that came before is not known, and sales of it count as lost or oversold")
	}
	if x.Imported > 0 {
		add("sales heard of more than a day after they were made, which count as made when they were heard of: %s", group(int64(x.Imported)))
	}
	if x.SkippedNow+x.SkippedThen > 0 {
		add("%s (now) and %s (then) cancellations, assignments, shipments and returns of lost sales were left out", group(int64(x.SkippedNow)), group(int64(x.SkippedThen)))
	}
	for i := range x.Channels {
		switch c := &x.Channels[i]; {
		case c.Unwritten:
			add("%s is not written by Onhand: each of its sales is taken", c.Channel)
		case !c.DelayMeasured:
			add("%s: no write was acknowledged in the window, or --delay was given; %s is taken as its delay", c.Channel, fallback)
		}
	}
}

func (x *outcome) print(out io.Writer) error {
	_, _ = fmt.Fprintf(out, "%s to %s: %s events, %s sales of %s units, %s oversold as recorded\n\n", x.From.Format(time.RFC3339), x.To.Format(time.RFC3339), group(int64(x.Events)),
		group(int64(x.Sales)), group(x.Units), group(x.RecordedOversold))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "units\toversold now\tthen\tlost now\tthen\twrites now\tthen\tdelay\t") // reported by Flush
	line := func(name string, a, b channelFigures, delay string) {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", name, group(a.Oversold), group(b.Oversold), group(a.Lost), group(b.Lost), group(int64(a.Writes)), group(int64(b.Writes)), delay)
	}
	for i := range x.Channels {
		c := &x.Channels[i]
		delay := (time.Duration(c.DelayMS*1000) * time.Microsecond).Round(time.Millisecond).String()
		if c.Unwritten {
			delay = "–"
		}
		line(c.Channel, c.Now, c.Then, delay)
	}
	line("all", x.Now, x.Then, "")
	if err := w.Flush(); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out)
	for _, n := range x.Notes {
		_, _ = fmt.Fprintln(out, "-", n)
	}
	_, err := fmt.Fprintln(out, "Now is the settings in force, then is those with the file; nothing was changed.")
	return err
}
