package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onhand/onhand/services/analytics"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/services/ledger-projector/history"
)

// past prints how the numbers came about at a past moment, from ClickHouse; stock that was removed there is folded from the log.
func (c *explainCmd) past(ctx context.Context, s streams, conn connection) error {
	at, err := moment("--time", c.Time, time.Now())
	if err != nil {
		return err
	}
	v := url.Values{"sku": {c.SKU}, "time": {at.UTC().Format(time.RFC3339Nano)}}
	if c.Channel != "" {
		v.Set("channel", c.Channel)
	}
	var raw json.RawMessage
	if err := conn.get(ctx, "/v1/analytics/explain?"+v.Encode(), &raw); err != nil {
		return fmt.Errorf("%s at %s: %w", c.SKU, c.Time, err)
	}
	if c.JSON {
		return json.NewEncoder(s.out).Encode(raw)
	}
	var x analytics.Explanation
	if err := json.Unmarshal(raw, &x); err != nil {
		return fmt.Errorf("%s at %s: %w", c.SKU, c.Time, err)
	}
	if x.Stock.Gone {
		if err := c.fold(ctx, at, &x.Stock); err != nil {
			x.Stock.Missing += " (tried here: " + err.Error() + ")"
		}
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	printPast(w, &x)
	return w.Flush()
}

// fold fills in what the stock was, from the log.
func (c *explainCmd) fold(ctx context.Context, at time.Time, st *analytics.PastStock) error {
	src, err := c.source()
	if err != nil {
		return err
	}
	defer src.Redis.Close()
	q := history.Query{Kafka: src.Kafka, Log: src.Log, SKU: c.SKU, Time: at}
	if q.Options, err = audit.Options(ctx, src); err != nil {
		return err
	}
	l, _, err := history.Of(ctx, q, nil)
	if err != nil {
		return err
	}
	if l == nil {
		st.Missing = "the ledger had no stock of the SKU yet"
		return nil
	}
	st.Missing, st.Version, st.Offset, st.Available, st.Unassigned = "", l.Version, l.SourceOffset, int64(l.Available()), int64(l.Unassigned)
	for _, p := range l.Locations {
		st.Locations = append(st.Locations, analytics.PastLocation{
			Location: p.Location, Available: int64(p.Available()), OnHand: int64(p.OnHand), Committed: int64(p.Committed), Held: int64(p.Held), Inbound: int64(p.Inbound),
			Unsellable: int64(p.Unsellable), SafetyStock: int64(p.Safety),
		})
	}
	return nil
}

// printPast tells it from the events to what was acknowledged. What it writes is reported by Flush of out.
func printPast(out io.Writer, x *analytics.Explanation) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	say("%s at %s", x.SKU, stamp(x.Time))
	st := &x.Stock
	say("\nevents")
	for _, k := range st.Kinds {
		say("  %s\t%s\t%s units", k.Kind, group(k.Events), group(k.Units))
	}
	if st.EventsMissing != "" {
		say("  not all: %s", st.EventsMissing)
	}
	if len(st.Latest) > 0 {
		e := st.Latest[0]
		line := fmt.Sprintf("  the last: %s %s of %s units, offset %d, %s", e.EventID, e.Kind, group(e.Units), e.Offset, stamp(e.At))
		if e.Channel != "" {
			line += ", " + e.Channel
		}
		say("%s", line)
	}
	switch {
	case x.Bundle != nil:
		printPastBundle(say, stamp, x.Bundle)
	case st.Missing != "":
		say("\n%s", st.Missing)
	default:
		source := ", folded from the log"
		if st.Since != nil {
			source = ", since " + stamp(*st.Since)
		}
		say("\n%s available (version %d%s)", group(st.Available), st.Version, source)
		say("  location\ton hand\tcommitted\theld\tinbound\tunsellable\tsafety\tavailable")
		for _, l := range st.Locations {
			say("  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", l.Location, group(l.OnHand), group(l.Committed), group(l.Held), group(l.Inbound), group(l.Unsellable), group(l.SafetyStock), group(l.Available))
		}
		if st.Unassigned != 0 {
			say("  sold without a location: %s", group(st.Unassigned))
		}
	}
	if e := x.Exposure; e != nil {
		room := "not known at every channel yet"
		if e.Slack != nil {
			room = group(*e.Slack) + " more could be shown"
		}
		say("exposure was kept in books (%s) since %s: %s of %s exposed, %s", e.Mode, stamp(e.Since), group(e.Exposed), group(e.Available), room)
	}
	for i := range x.Channels {
		printPastChannel(say, stamp, &x.Channels[i])
	}
	if len(x.Channels) == 0 {
		say("\nno target of it is known: no channel listed it, or records of then are gone")
	}
}

func printPastBundle(say func(string, ...any), stamp func(time.Time) string, b *analytics.PastBundle) {
	if b.Makes != nil {
		say("\na bundle: its components made %s", group(*b.Makes))
	} else {
		say("\na bundle: how many its components made is not known")
	}
	say("  component\tin one\tavailable\tpool buffer\tenough for\tsince")
	for _, c := range b.Components {
		if c.Gone {
			say("  %s\t%s\t–\t%s\t–\t%s", c.SKU, group(c.Quantity), group(c.PoolBuffer), c.Missing)
			continue
		}
		since := c.Missing
		if c.Since != nil {
			since = stamp(*c.Since)
		}
		say("  %s\t%s\t%s\t%s\t%s\t%s", c.SKU, group(c.Quantity), group(c.Available), group(c.PoolBuffer), group(c.Makes), since)
	}
}

func printPastChannel(say func(string, ...any), stamp func(time.Time) string, c *analytics.ExplainedChannel) {
	if t := c.Target; t == nil {
		say("\n%s: %s", c.Channel, c.Missing)
	} else {
		if t.Withdrawn {
			say("\n%s no longer listed it, since %s", c.Channel, stamp(t.DecidedAt))
		} else {
			say("\n%s should have shown %s (%s), since %s, by level %d and settings %d", c.Channel, group(t.Quantity), t.Mode, stamp(t.DecidedAt), t.LevelVersion, t.SettingsVersion)
		}
		for _, e := range t.Steps {
			say("  %s\t%s\t%s", e.Step, group(e.Units), e.Detail)
		}
	}
	for _, r := range c.Rules {
		say("  rule %s, set by %s at %s: %s", r.ID, r.AppliedBy, stamp(r.AppliedAt), set(r.Rule))
	}
	if b := c.Books; b != nil {
		line := "  in the books: share " + group(b.Share)
		if b.Exposure != nil {
			line += ", exposure " + group(*b.Exposure)
		}
		if b.Shown != nil {
			line += ", thought to show " + group(*b.Shown)
		}
		if b.OpenWrite != "" {
			line += ", write " + b.OpenWrite + " open"
		}
		say("%s", line)
	}
	say("  %s", c.Writes)
	write := func(name string, w *analytics.PastWrite) {
		line := fmt.Sprintf("  %s: %s %s, sent %s", name, w.Operation, group(w.Value), stamp(w.SentAt))
		if w.AckedAt != nil {
			line += ", answered " + stamp(*w.AckedAt)
		}
		line += ", " + w.Outcome
		if w.Shown != nil {
			line += "; it showed " + group(*w.Shown)
		}
		say("%s", strings.TrimRight(line+" "+w.Error, " "))
	}
	if c.Sent != nil {
		write("last sent", c.Sent)
	}
	if a := c.Acknowledged; a != nil && (c.Sent == nil || a.ID != c.Sent.ID || !a.SentAt.Equal(c.Sent.SentAt)) {
		write("last acknowledged", a)
	}
}

// set is what a rule sets: its JSON without the fields that are left open.
func set(rule json.RawMessage) string {
	var fields map[string]any
	if json.Unmarshal(rule, &fields) != nil {
		return string(rule)
	}
	open := func(_ string, v any) bool { return v == nil || v == "" }
	maps.DeleteFunc(fields, open)
	if match, ok := fields["Match"].(map[string]any); ok {
		maps.DeleteFunc(match, open)
	}
	delete(fields, "ID")
	text, err := json.Marshal(fields)
	if err != nil {
		return string(rule)
	}
	return string(text)
}
