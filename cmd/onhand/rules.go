package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/catalogfile"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/preview"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

type rulesCmd struct {
	Diff rulesDiffCmd `cmd:"" help:"Say which targets a settings file would move, and change nothing."`
}

type rulesDiffCmd struct {
	settingsFile
	target
	kafka.Config `prefix:"kafka-" embed:""`
	Prune        bool `help:"As with apply: without the channels, locations and rules that the file does not hold."`
	Top          int  `help:"Show this many targets, those that move most; 0 shows all." default:"20"`
	JSON         bool `help:"One JSON object: all targets that move, and sums by channel."`
}

// readWithin bounds how long the catalog and the levels are read.
const readWithin = 2 * time.Minute

// Run has the running instance check the file, then compares what the rules in force and those of the file make of the stock there is.
func (c *rulesDiffCmd) Run(ctx context.Context, s streams) error {
	conn, err := c.find()
	if err != nil {
		return err
	}
	name, text, err := c.read(s, conn)
	if err != nil {
		return err
	}
	path := "/v1/catalog?dry_run=true&prune=" + strconv.FormatBool(c.Prune)
	a, err := conn.call(ctx, http.MethodPut, path, "application/yaml", text)
	if err != nil {
		return err
	}
	if a.status/100 != 2 {
		return faults(name, a)
	}
	file, wrong := catalogfile.Parse(text)
	if len(wrong) > 0 {
		return fmt.Errorf("%s:%s", name, wrong[0])
	}
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	d, err := c.compare(ctx, file)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(s.out).Encode(d)
	}
	return d.print(s.out, c.Top)
}

// difference is what a file would move.
type difference struct {
	SKUs     int         `json:"skus"` // with a level
	Channels []moved     `json:"channels"`
	Targets  []movedUnit `json:"targets"`
}

// moved is the sum of one channel.
type moved struct {
	Channel string `json:"channel"`
	Up      int    `json:"up"`
	Down    int    `json:"down"`
	ToZero  int    `json:"to_zero"` // of those that go down
	Listed  int    `json:"listed"`
	Gone    int    `json:"delisted"`
	Units   int64  `json:"units"` // sum of all moves
}

// movedUnit is one target that moves.
type movedUnit struct {
	SKU     string `json:"sku"`
	Channel string `json:"channel"`
	Before  *int64 `json:"before"` // null where it was not listed
	After   *int64 `json:"after"`  // null where it is no longer
	Mode    string `json:"mode"`
	Because string `json:"because,omitempty"` // last step of its derivation
}

func (c *rulesDiffCmd) compare(ctx context.Context, file *catalogfile.File) (*difference, error) {
	log := slog.New(slog.DiscardHandler)
	conf := brokersOf(c.target, c.Config)
	before, listings, err := catalogNow(ctx, conf, log)
	if err != nil {
		return nil, err
	}
	after := &catalog.Settings{
		Version: before.Version, Channels: entries(before.Channels, c.Prune && file.Sections["channels"]),
		Locations: entries(before.Locations, c.Prune && file.Sections["locations"]), Rules: entries(before.Rules, c.Prune && file.Sections["rules"]),
	}
	later := entries(listings, c.Prune && file.Sections["listings"])
	file.Document.Merge(after, later)

	client, err := conf.Client(log, "onhand-rules-diff")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	values := make(map[string][]byte) // newest level by SKU
	if err := kafka.Whole(ctx, client, []string{schemas.StockLevels}, func(r *kgo.Record) { values[string(r.Key)] = r.Value }); err != nil {
		return nil, fmt.Errorf("levels: %w", err)
	}
	d := &difference{Targets: []movedUnit{}}
	sums := make(map[string]*moved)
	p := preview.New(preview.Catalog{Settings: before, Listings: listings}, preview.Catalog{Settings: after, Listings: later})
	var changes []preview.Change
	levels := make(map[string]*ledger.Level, len(values))
	for sku, value := range values {
		if len(value) == 0 {
			continue // the ledger no longer knows it
		}
		if levels[sku], err = topics.DecodeLevel(value); err != nil {
			return nil, fmt.Errorf("level of %s: %w", sku, err)
		}
	}
	skus := slices.Collect(maps.Keys(levels))
	for sku, l := range later { // what can be sold of a bundle is in the levels of its components
		if len(l.Components) > 0 && levels[sku] == nil {
			skus = append(skus, sku)
		}
	}
	level := func(sku string) *ledger.Level { return levels[sku] }
	for _, sku := range skus {
		d.SKUs++
		changes = p.SKU(changes[:0], sku, level)
		for i := range changes {
			x := &changes[i]
			m := sums[x.Channel]
			if m == nil {
				m = &moved{Channel: x.Channel}
				sums[x.Channel] = m
			}
			m.add(x)
			d.Targets = append(d.Targets, movedTarget(x))
		}
	}
	for _, m := range sums {
		d.Channels = append(d.Channels, *m)
	}
	slices.SortFunc(d.Channels, func(a, b moved) int { return cmp.Compare(a.Channel, b.Channel) })
	slices.SortFunc(d.Targets, func(a, b movedUnit) int {
		return cmp.Or(cmp.Compare(b.size(), a.size()), cmp.Compare(a.SKU, b.SKU), cmp.Compare(a.Channel, b.Channel))
	})
	return d, nil
}

// catalogNow is the settings in force, and the listings by SKU.
func catalogNow(ctx context.Context, conf kafka.Config, log *slog.Logger) (*catalog.Settings, map[string]*catalog.Listing, error) {
	view, err := catalogview.New(conf, log)
	if err != nil {
		return nil, nil, err
	}
	viewing, stop := context.WithCancel(ctx)
	viewed := make(chan struct{})
	go func() {
		defer close(viewed)
		_ = view.Run(viewing) // what it could not read, WaitReady misses
	}()
	defer func() { stop(); <-viewed }()
	if err := view.WaitReady(ctx); err != nil {
		return nil, nil, err
	}
	listings := make(map[string]*catalog.Listing)
	view.Listings(func(l *catalog.Listing) bool {
		listings[l.SKU] = l
		return true
	})
	return view.Settings(), listings, nil
}

// entries is a copy of a section, empty when the file replaces it as a whole.
func entries[T any](m map[string]*T, replaced bool) map[string]*T {
	out := make(map[string]*T, len(m))
	if !replaced {
		for id, v := range m {
			out[id] = v
		}
	}
	return out
}

func (m *moved) add(x *preview.Change) {
	m.Units += int64(x.After - x.Before)
	switch {
	case !x.Was:
		m.Listed++
	case !x.Is:
		m.Gone++
	case x.After > x.Before:
		m.Up++
	default:
		m.Down++
		if x.After == 0 {
			m.ToZero++
		}
	}
}

func movedTarget(x *preview.Change) movedUnit {
	t := movedUnit{SKU: x.SKU, Channel: x.Channel, Mode: x.ModeAfter}
	if x.Was {
		n := int64(x.Before)
		t.Before = &n
	}
	if x.Is {
		n := int64(x.After)
		t.After = &n
	}
	if n := len(x.Steps); n > 0 {
		t.Because = x.Steps[n-1].Name
		if d := x.Steps[n-1].Detail; d != "" {
			t.Because += ": " + d
		}
	}
	return t
}

// size is how far the target moves.
func (t *movedUnit) size() int64 {
	var before, after int64
	if t.Before != nil {
		before = *t.Before
	}
	if t.After != nil {
		after = *t.After
	}
	return max(before-after, after-before)
}

func (d *difference) print(out io.Writer, top int) error {
	if len(d.Targets) == 0 {
		_, err := fmt.Fprintf(out, "no target of %d SKUs would move\n", d.SKUs)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "channel\tup\tdown\tof these to 0\tlisted\tdelisted\tunits\t") // reported by Flush
	for _, m := range d.Channels {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%+d\t\n", m.Channel, m.Up, m.Down, m.ToZero, m.Listed, m.Gone, m.Units)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	shown := d.Targets
	if top > 0 && len(shown) > top {
		shown = shown[:top]
	}
	_, _ = fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i := range shown {
		t := &shown[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s → %s\t%s\n", t.SKU, t.Channel, number(t.Before), number(t.After), t.Because)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := len(d.Targets) - len(shown); n > 0 {
		_, _ = fmt.Fprintf(out, "… and %d more (--top 0 shows all)\n", n)
	}
	_, err := fmt.Fprintf(out, "%d targets of %d SKUs would move; nothing was changed\n", len(d.Targets), d.SKUs)
	return err
}

// number is a target, or – where there is none.
func number(n *int64) string {
	if n == nil {
		return "–"
	}
	return group(*n)
}
