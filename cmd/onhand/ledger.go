package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/services/ledger-projector/history"
	"github.com/onhand/onhand/services/ledger-projector/rebuild"
	"github.com/onhand/onhand/stock/ledger"
)

type ledgerCmd struct {
	Verify  ledgerVerifyCmd  `cmd:"" help:"Prove that the ledger in Redis is what stock.events makes it; name what differs. Exits with 1 when anything does."`
	Rebuild ledgerRebuildCmd `cmd:"" help:"Fold the ledger anew while the old one serves, compare, switch over, and drop the old one."`
	At      ledgerAtCmd      `cmd:"" help:"Say what the stock of a SKU was at a time, or after an event."`
	History ledgerHistoryCmd `cmd:"" help:"List every change of a SKU with its cause."`
}

// ledgerFlags is where the ledger is: that of the running onhand up, unless addresses are given.
type ledgerFlags struct {
	target
	Kafka     kafka.Config `prefix:"kafka-" embed:""`
	Redis     redis.Config `prefix:"redis-" embed:""`
	Namespace string       `help:"Prefix of the ledger's keys in Redis." default:"oh" env:"LEDGER_NAMESPACE"`
}

// find fills in the addresses of the running onhand up where none were given.
func (f *ledgerFlags) find() {
	f.Kafka = brokersOf(f.target, f.Kafka)
	if slices.Equal(f.Redis.Addrs, []string{"127.0.0.1:6379"}) { // the default
		if i, err := readInstance(f.Data); err == nil && i.alive() && i.Redis != "" {
			f.Redis.Addrs = strings.Split(i.Redis, ",")
		}
	}
}

// source is the ledger; the caller closes its Redis.
func (f *ledgerFlags) source() (audit.Source, error) {
	f.find()
	client, err := f.Redis.Client()
	if err != nil {
		return audit.Source{}, err
	}
	return audit.Source{Kafka: f.Kafka, Redis: client, Namespace: f.Namespace, Log: slog.New(slog.DiscardHandler)}, nil
}

// jsonLine prints one JSON object a line.
func jsonLine(out io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(b, '\n'))
	return err
}

type ledgerVerifyCmd struct {
	ledgerFlags
	Partition []int32 `help:"Only these partitions."`
	Workers   int     `help:"Partitions that are folded at a time; each is in memory as a whole." default:"2"`
	JSON      bool    `help:"One JSON object a line: a difference, or what was found about a partition."`
}

// Run verifies.
func (c *ledgerVerifyCmd) Run(ctx context.Context, s streams) error {
	src, err := c.source()
	if err != nil {
		return err
	}
	defer src.Redis.Close()
	n := 0
	var printing error
	found, err := audit.Verify(ctx, src, c.Partition, c.Workers, func(d audit.Difference) {
		n++
		if c.JSON {
			printing = errors.Join(printing, jsonLine(s.out, d))
			return
		}
		_, e := fmt.Fprintln(s.out, d)
		printing = errors.Join(printing, e)
	})
	if err = errors.Join(err, printing); err != nil {
		return err
	}
	var events int64
	skus := 0
	for _, p := range found {
		events += p.Events
		skus += p.SKUs
		if c.JSON {
			if err := jsonLine(s.out, p); err != nil {
				return err
			}
		}
	}
	if !c.JSON {
		w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "partition\tgeneration\toffset\tlog end\tSKUs\tids\topen items\tdigest\tdifferences")
		for _, p := range found {
			_, _ = fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%d\n", p.Partition, p.Generation, p.Offset, p.End, p.SKUs, p.Remembered, p.OpenItems, p.Digest, p.Differences)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if n > 0 {
		return &exitError{1, fmt.Sprintf("%d differences: the ledger in Redis is not what the log makes it; onhand ledger rebuild --accept-differences puts it right", n)}
	}
	if !c.JSON {
		_, err = fmt.Fprintf(s.out, "Redis is what the log makes it: %d SKUs after %d events in %d partitions\n", skus, events, len(found))
	}
	return err
}

type ledgerRebuildCmd struct {
	ledgerFlags
	From              string        `help:"Where to begin: start (the log's first event), or levels (the newest level of each SKU in stock.levels, and the log from where that suffices)." enum:"start,levels" default:"start"`
	AcceptDifferences bool          `help:"Switch over although the ledger that serves is not what the log makes it: to put it right."`
	Abort             bool          `help:"End a rebuild that was begun and not finished: drop what it made and did not switch to."`
	Workers           int           `help:"Partitions that are folded at a time; each is in memory as a whole." default:"2"`
	Grace             time.Duration `help:"How long the old keys are left to readers that have not followed the pointer yet." default:"1m"`
	Group             string        `help:"The ledger-projector's consumer group." default:"onhand-ledger-projector" env:"LEDGER_GROUP"`
	JSON              bool          `help:"The result as JSON."`
}

// Run rebuilds.
func (c *ledgerRebuildCmd) Run(ctx context.Context, s streams) error {
	src, err := c.source()
	if err != nil {
		return err
	}
	defer src.Redis.Close()
	if c.Abort {
		switched, all, err := rebuild.Abort(ctx, src)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "The rebuild is ended. %d of %d partitions had been switched over, and stay so.\n", switched, all)
		return err
	}
	shown := make(map[string]time.Time)
	say := func(p rebuild.Progress) {
		step := fmt.Sprint(p.Partition, p.Step)
		if (p.Step == "folding" && time.Since(shown[step]) < time.Second) || c.JSON {
			return
		}
		shown[step] = time.Now()
		switch p.Step {
		case "folding":
			_, _ = fmt.Fprintf(s.err, "partition %d: folded %d of %d\n", p.Partition, p.Offset+1, p.End+1)
		case "switched":
			_, _ = fmt.Fprintf(s.err, "partition %d: switched over at offset %d\n", p.Partition, p.Offset)
		default:
			_, _ = fmt.Fprintf(s.err, "partition %d: %s\n", p.Partition, p.Step)
		}
	}
	res, err := rebuild.Run(ctx, rebuild.Config{
		Source: src, From: rebuild.From(c.From), AcceptDifferences: c.AcceptDifferences, Workers: c.Workers, Grace: c.Grace, Group: c.Group, Progress: say,
		Report: func(d rebuild.Difference) { _, _ = fmt.Fprintln(s.err, d) },
	})
	if res != nil && c.JSON {
		err = errors.Join(err, jsonLine(s.out, res))
	}
	switch {
	case errors.Is(err, rebuild.ErrDiffers):
		return &exitError{1, "the ledger that serves is not what the log makes it, as listed above; partitions that differ were left as they are. Run again with --accept-differences to switch over " +
			"(what is folded is not folded again), or with --abort to drop the new one"}
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("stopped; run again to go on, or with --abort to drop the new ledger: %w", err)
	case err != nil:
		return fmt.Errorf("%w (run again to go on, or with --abort to drop the new ledger)", err)
	case c.JSON:
		return nil
	}
	skus, differences, frozen := 0, 0, time.Duration(0)
	for _, p := range res.Partitions {
		skus += p.SKUs
		differences += p.Differences
		frozen = max(frozen, p.Frozen)
	}
	_, err = fmt.Fprintf(s.out, "Rebuilt %d partitions as generation %d: %d SKUs, %d differences put right; events waited %s at most.\n", len(res.Partitions), res.Generation, skus, differences, frozen.Round(time.Millisecond))
	return err
}

// pastFlags is what at and history share.
type pastFlags struct {
	ledgerFlags
	SKU    string `required:"" help:"The SKU." placeholder:"SKU"`
	Time   string `help:"Look at events appended until then: RFC 3339, a date, or how long ago (90m, 36h)." placeholder:"TIME"`
	Offset *int64 `help:"Look at events up to and with this offset of the SKU's partition of stock.events."`
	JSON   bool   `help:"As JSON, one object a line."`
}

// query is the question. The ledger's own settings are Redis's to tell; without them the defaults are taken.
func (f *pastFlags) query(ctx context.Context) (history.Query, error) {
	q := history.Query{SKU: f.SKU, Offset: f.Offset}
	var err error
	if f.Time != "" {
		if q.Time, err = moment("--time", f.Time, time.Now()); err != nil {
			return q, err
		}
	}
	src, err := f.source()
	if err != nil {
		return q, err
	}
	defer src.Redis.Close()
	q.Kafka, q.Log = src.Kafka, src.Log
	q.Options, err = audit.Options(ctx, src)
	return q, err
}

// moment reads a time of a flag.
func moment(flag, text string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%s %q: want 2026-01-31T12:00:00Z, 2026-01-31, or how long ago, such as 90m", flag, text)
}

type ledgerAtCmd struct{ pastFlags }

// levelShown is a level with --json.
type levelShown struct {
	SKU        string            `json:"sku"`
	Offset     int64             `json:"offset"`
	Version    int64             `json:"version"`
	Available  int64             `json:"available"`
	Unassigned int64             `json:"unassigned"`
	Locations  []locationShown   `json:"locations"`
	Sold       map[string]int64  `json:"sold"`
	Restored   map[string]int64  `json:"restored"`
	LastEvent  map[string]string `json:"last_event"`
}

type locationShown struct {
	Location    string `json:"location"`
	Available   int64  `json:"available"`
	OnHand      int64  `json:"on_hand"`
	Committed   int64  `json:"committed"`
	Held        int64  `json:"held"`
	Inbound     int64  `json:"inbound"`
	Unsellable  int64  `json:"unsellable"`
	SafetyStock int64  `json:"safety_stock"`
}

func showLevel(l *ledger.Level) levelShown {
	x := levelShown{
		SKU: l.SKU, Offset: l.SourceOffset, Version: l.Version, Available: int64(l.Available()), Unassigned: int64(l.Unassigned), Locations: []locationShown{},
		Sold: map[string]int64{}, Restored: map[string]int64{}, LastEvent: map[string]string{"id": l.EventID, "kind": l.EventKind.String()},
	}
	for _, at := range l.Locations {
		x.Locations = append(x.Locations, locationShown{at.Location, int64(at.Available()), int64(at.OnHand), int64(at.Committed), int64(at.Held), int64(at.Inbound), int64(at.Unsellable), int64(at.Safety)})
	}
	for _, c := range l.Sold {
		x.Sold[c.Channel] = int64(c.Units)
	}
	for _, c := range l.Restored {
		x.Restored[c.Channel] = int64(c.Units)
	}
	return x
}

// Run says what the stock was.
func (c *ledgerAtCmd) Run(ctx context.Context, s streams) error {
	q, err := c.query(ctx)
	if err != nil {
		return err
	}
	l, _, err := history.Of(ctx, q, nil)
	if err != nil {
		return err
	}
	if l == nil {
		return &exitError{1, fmt.Sprintf("no event had been applied to SKU %s by then", c.SKU)}
	}
	x := showLevel(l)
	if c.JSON {
		return jsonLine(s.out, x)
	}
	_, _ = fmt.Fprintf(s.out, "%s: %d available, version %d, after %s %s (offset %d)\n", x.SKU, x.Available, x.Version, x.LastEvent["kind"], x.LastEvent["id"], x.Offset)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "location\tavailable\ton hand\tcommitted\theld\tsafety stock\tinbound\tunsellable")
	for _, at := range x.Locations {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", at.Location, at.Available, at.OnHand, at.Committed, at.Held, at.SafetyStock, at.Inbound, at.Unsellable)
	}
	if x.Unassigned != 0 {
		_, _ = fmt.Fprintf(w, "(none yet)\t%d\t\t%d\n", -x.Unassigned, x.Unassigned)
	}
	return w.Flush()
}

type ledgerHistoryCmd struct {
	pastFlags
	All bool `help:"Also repeats and rejected events, which changed nothing."`
}

// Run lists the changes.
func (c *ledgerHistoryCmd) Run(ctx context.Context, s streams) error {
	q, err := c.query(ctx)
	if err != nil {
		return err
	}
	n := 0
	_, _, err = history.Of(ctx, q, func(x history.Change) error {
		if x.Outcome != "applied" && !c.All {
			return nil
		}
		n++
		if c.JSON {
			return jsonLine(s.out, x)
		}
		_, err := fmt.Fprintln(s.out, changeLine(x))
		return err
	})
	if err == nil && n == 0 {
		return &exitError{1, fmt.Sprintf("no event had been applied to SKU %s by then", c.SKU)}
	}
	return err
}

// changeLine is a change for people: when, what, what it did, and what is left.
func changeLine(x history.Change) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %s", x.At.Format("2006-01-02T15:04:05.000Z"), x.Offset, x.Kind)
	for _, f := range []struct{ name, value string }{
		{"order", x.Order}, {"line", x.Line}, {"channel", x.Channel}, {"reference", x.Reference}, {"reservation", x.Reservation}, {"reason", x.Reason},
	} {
		if f.value != "" {
			b.WriteString(" " + f.name + "=" + quoted(f.value))
		}
	}
	b.WriteString(" id=" + quoted(x.EventID))
	if x.Outcome != "applied" {
		b.WriteString(": " + x.Outcome)
		if x.Why != "" {
			b.WriteString(" (" + x.Why + ")")
		}
		return b.String()
	}
	b.WriteString(":")
	for _, d := range x.Deltas {
		where := ""
		if d.Location != "" {
			where = d.Location + " "
		}
		fmt.Fprintf(&b, " %s%s %+d;", where, strings.ReplaceAll(d.Bucket, "_", " "), d.Units)
	}
	fmt.Fprintf(&b, " available %d", x.Available)
	if x.Oversold > 0 {
		fmt.Fprintf(&b, " (%d oversold)", x.Oversold)
	}
	if x.Why != "" {
		b.WriteString(" (" + x.Why + ")")
	}
	return b.String()
}

// quoted is a value that may hold blanks.
func quoted(s string) string {
	if strings.ContainsAny(s, " \t\"'=;:") {
		return strconv.Quote(s)
	}
	return s
}
