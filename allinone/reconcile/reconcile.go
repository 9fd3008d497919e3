// Package reconcile adds up the same units in every place that keeps them (what went in, the ledger in Redis, ClickHouse, the targets in Kafka, and what simulated
// marketplaces show) and says where they differ. Each sum is read from its store with a plain client, not through the services.
package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/topics"
)

// Units is the sums of one place. A pointer is nil for what the place does not keep.
type Units struct {
	SKUs                                                   *int64
	Received, Sold, Cancelled, Returned, Adjusted, Shipped *int64
	OnHand, Committed, Available                           *int64
}

func at(n int64) *int64 { return &n }

// Input is the sums of what went in, and what must follow from them.
type Input struct {
	Received, Sold, Cancelled, Returned, Adjusted, Shipped int64
}

// Units is the input as sums, with the levels that follow.
func (i Input) Units() Units {
	onHand, committed := i.Received+i.Returned+i.Adjusted-i.Shipped, i.Sold-i.Cancelled-i.Shipped
	return Units{
		Received: at(i.Received), Sold: at(i.Sold), Cancelled: at(i.Cancelled), Returned: at(i.Returned), Adjusted: at(i.Adjusted), Shipped: at(i.Shipped),
		OnHand: at(onHand), Committed: at(committed), Available: at(onHand - committed),
	}
}

// Ledger adds up the SKU hashes of the ledger in Redis.
func Ledger(ctx context.Context, client redis.UniversalClient, namespace string) (Units, error) {
	var skus, sold, restored, onHand, committed, held, safety int64
	add := func(ctx context.Context, c redis.Cmdable, keys []string) error {
		cmds, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, k := range keys {
				p.HGetAll(ctx, k)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i, cmd := range cmds {
			skus++
			for field, v := range cmd.(*redis.MapStringStringCmd).Val() {
				var to *int64
				switch {
				case strings.HasPrefix(field, "sold:"):
					to = &sold
				case strings.HasPrefix(field, "restored:"):
					to = &restored
				case field == "unassigned", strings.HasSuffix(field, ":committed"):
					to = &committed
				case strings.HasSuffix(field, ":on_hand"):
					to = &onHand
				case strings.HasSuffix(field, ":held"):
					to = &held
				case strings.HasSuffix(field, ":safety_stock"):
					to = &safety
				default:
					continue
				}
				n, err := strconv.ParseInt(v, 10, 64)
				if err != nil {
					return fmt.Errorf("%s %s: %q is no number", keys[i], field, v)
				}
				*to += n
			}
		}
		return nil
	}
	scan := func(ctx context.Context, c redis.Cmdable) error {
		prefixes := make(map[string]string) // of a partition's first generation -> of its live one
		var cursor uint64
		for {
			keys, next, err := c.Scan(ctx, cursor, namespace+":{p*}:*sku:*", 1000).Result()
			if err == nil {
				keys, err = live(ctx, c, keys, prefixes)
			}
			if err == nil && len(keys) > 0 {
				err = add(ctx, c, keys)
			}
			if err != nil {
				return err
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	var err error
	if cluster, ok := client.(*redis.ClusterClient); ok {
		var one sync.Mutex // the masters are visited at once
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			one.Lock()
			defer one.Unlock()
			return scan(ctx, c)
		})
	} else {
		err = scan(ctx, client)
	}
	if err != nil {
		return Units{}, fmt.Errorf("ledger in Redis: %w", err)
	}
	return Units{SKUs: at(skus), Sold: at(sold), Cancelled: at(restored), OnHand: at(onHand), Committed: at(committed), Available: at(onHand - committed - held - safety)}, nil
}

// live leaves out the keys of generations that are not served.
func live(ctx context.Context, c redis.Cmdable, keys []string, prefixes map[string]string) ([]string, error) {
	out := keys[:0]
	for _, k := range keys {
		first := k[:strings.Index(k, "}:")+2]
		if _, known := prefixes[first]; !known {
			prefix, err := c.Get(ctx, first+"live").Result()
			if errors.Is(err, redis.Nil) {
				prefix, err = first, nil
			}
			if err != nil {
				return nil, err
			}
			prefixes[first] = prefix
		}
		if strings.HasPrefix(k, prefixes[first]+"sku:") {
			out = append(out, k)
		}
	}
	return out, nil
}

// ClickHouse says where to ask.
type ClickHouse struct {
	URL, Database, User, Password string
}

// Ask runs a query and decodes each row, a JSON object, into a T.
func Ask[T any](ctx context.Context, c ClickHouse, query string) ([]T, error) {
	q := url.Values{"database": {c.Database}, "default_format": {"JSONEachRow"}, "output_format_json_quote_64bit_integers": {"0"},
		"max_threads": {"1"}} // sums of everything: a second thread takes as much memory again
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/?"+q.Encode(), strings.NewReader(query))
	if err != nil {
		return nil, err
	}
	if c.User != "" {
		r.SetBasicAuth(c.User, c.Password)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ClickHouse: %w", err)
	}
	b, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return nil, fmt.Errorf("ClickHouse: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ClickHouse: %s", strings.TrimSpace(string(b[:min(len(b), 500)])))
	}
	var out []T
	for line := range strings.Lines(string(b)) {
		var x T
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			return nil, fmt.Errorf("ClickHouse: %w", err)
		}
		out = append(out, x)
	}
	return out, nil
}

// Analytics adds up the events and the newest levels in ClickHouse: the levels must be those of the ledger, the events those that went in.
func Analytics(ctx context.Context, c ClickHouse) (events, levels Units, repeated int64, err error) {
	parts, err := Ask[struct{ Partition int32 }](ctx, c, "SELECT DISTINCT partition AS Partition FROM stock_events ORDER BY 1")
	if err != nil {
		return Units{}, Units{}, 0, err
	}
	type sums struct {
		Received, Sold, Cancelled, Returned, Restocked, Adjusted, Shipped int64
	}
	var g sums
	for _, p := range parts { // one by one: a year's event ids at once would not fit into an embedded engine's memory
		got, err := Ask[sums](ctx, c, fmt.Sprintf(`SELECT sumIf(q, k = 'receipt_received') AS Received, sumIf(q, k = 'sale_recorded') AS Sold, sumIf(q, k = 'sale_cancelled') AS Cancelled,
			sumIf(q, k = 'return_received') AS Returned, sumIf(q, k = 'return_received' AND d = 'restock') AS Restocked, sumIf(q, k = 'stock_adjusted') AS Adjusted,
			sumIf(q, k = 'shipment_confirmed') AS Shipped
			FROM (SELECT argMin(kind, offset) AS k, argMin(quantity, offset) AS q, argMin(disposition, offset) AS d FROM stock_events
				WHERE partition = %[1]d AND offset NOT IN (SELECT source_offset FROM rejected_records
					WHERE source_topic = 'stock.events' AND source_partition = %[1]d AND rejected_by != 'analytics')
				GROUP BY event_id)`, p.Partition))
		if err != nil {
			return Units{}, Units{}, 0, err
		}
		for _, x := range got {
			g.Received += x.Received
			g.Sold += x.Sold
			g.Cancelled += x.Cancelled
			g.Returned += x.Returned
			g.Restocked += x.Restocked
			g.Adjusted += x.Adjusted
			g.Shipped += x.Shipped
		}
	}
	now, err := Ask[struct{ SKUs, OnHand, Committed, Available int64 }](ctx, c,
		"SELECT count() AS SKUs, sum(on_hand) AS OnHand, sum(committed + unassigned) AS Committed, sum(available) AS Available FROM current_levels SETTINGS max_threads = 1")
	if err != nil {
		return Units{}, Units{}, 0, err
	}
	if len(now) != 1 {
		return Units{}, Units{}, 0, errors.New("ClickHouse: no levels")
	}
	for _, t := range []string{"stock_events", "stock_levels", "channel_targets", "channel_writes", "orders"} {
		of := "offset"
		if t == "channel_targets" { // one topic for each channel
			of = "topic, offset"
		}
		parts, err := Ask[struct{ Partition int32 }](ctx, c, "SELECT DISTINCT partition AS Partition FROM "+t)
		if err != nil {
			return Units{}, Units{}, 0, err
		}
		for _, p := range parts { // one by one, as above
			twice, err := Ask[struct{ Repeated int64 }](ctx, c, fmt.Sprintf("SELECT toInt64(count() - uniqExact(%s)) AS Repeated FROM %s WHERE partition = %d SETTINGS max_threads = 1",
				of, t, p.Partition))
			if err != nil {
				return Units{}, Units{}, 0, err
			}
			for _, x := range twice {
				repeated += x.Repeated
			}
		}
	}
	onHand, committed := g.Received+g.Restocked+g.Adjusted-g.Shipped, g.Sold-g.Cancelled-g.Shipped
	events = Units{Received: at(g.Received), Sold: at(g.Sold), Cancelled: at(g.Cancelled), Returned: at(g.Returned), Adjusted: at(g.Adjusted), Shipped: at(g.Shipped),
		OnHand: at(onHand), Committed: at(committed), Available: at(onHand - committed)}
	l := now[0]
	levels = Units{SKUs: at(l.SKUs), OnHand: at(l.OnHand), Committed: at(l.Committed), Available: at(l.Available)}
	return events, levels, repeated, nil
}

// Targets is what each channel should show of each SKU now: the quantity of its newest target or, where exposure is kept in books, what the books think it shows,
// less what the channel itself has sold since: no write follows a sale there. It is read from the topics. Withdrawn ones are left out.
func Targets(ctx context.Context, cfg kafka.Config, channels []string) (map[string]map[string]int64, error) {
	out := make(map[string]map[string]int64)
	names := make([]string, 0, len(channels))
	for _, ch := range channels {
		out[ch] = make(map[string]int64)
		names = append(names, schemas.TargetsTopic(ch))
	}
	if len(names) == 0 {
		return out, nil
	}
	client, err := cfg.Client(slog.New(slog.DiscardHandler), "onhand-reconcile")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	type listing struct{ channel, sku string }
	counted := make(map[listing]int64) // sold less restored, when the target was decided
	targets, err := newest(ctx, client, names...)
	if err != nil {
		return nil, err
	}
	for topic, bySKU := range targets {
		ch := strings.TrimPrefix(topic, schemas.TargetsPrefix)
		for sku, v := range bySKU {
			t, err := topics.DecodeTarget(v)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", topic, sku, err)
			}
			if t.Withdrawn {
				continue
			}
			out[ch][sku] = int64(t.Quantity)
			if t.Write != nil {
				counted[listing{ch, sku}] = int64(t.Sold - t.Restored)
			}
		}
	}
	if len(counted) == 0 {
		return out, nil
	}
	read, err := newest(ctx, client, schemas.ExposureBooks, schemas.StockLevels)
	if err != nil {
		return nil, err
	}
	for sku, v := range read[schemas.ExposureBooks] {
		x, err := topics.DecodeBooks(v)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", schemas.ExposureBooks, sku, err)
		}
		for i := range x.Channels {
			c := &x.Channels[i]
			at := listing{c.Channel, x.SKU}
			if _, strict := counted[at]; !strict || !c.Booked {
				continue
			}
			books := exposure.Restore(c.Books)
			if shown, known := books.Shown(); known {
				out[at.channel][at.sku], counted[at] = int64(shown), int64(c.Sold-c.Restored)
			}
		}
	}
	since := make(map[listing]int64)
	for _, v := range read[schemas.StockLevels] {
		l, err := topics.DecodeLevel(v)
		if err != nil {
			continue // the allocator does without it, too
		}
		for _, c := range l.Sold {
			since[listing{c.Channel, l.SKU}] = int64(c.Units)
		}
		for _, c := range l.Restored {
			since[listing{c.Channel, l.SKU}] -= int64(c.Units)
		}
	}
	for at, then := range counted {
		if now, ok := since[at]; ok {
			out[at.channel][at.sku] = max(0, out[at.channel][at.sku]-(now-then))
		}
	}
	return out, nil
}

// newest reads topics to their ends: the newest value of each key, by topic and key, without those that were deleted. Only these are worth decoding: a year has hundreds
// of values for some keys.
func newest(ctx context.Context, client *kgo.Client, names ...string) (map[string]map[string][]byte, error) {
	out := make(map[string]map[string][]byte)
	for _, name := range names {
		out[name] = make(map[string][]byte)
	}
	err := kafka.Whole(ctx, client, names, func(r *kgo.Record) {
		of := out[r.Topic]
		if len(r.Value) == 0 {
			delete(of, string(r.Key))
			return
		}
		of[string(r.Key)] = append(of[string(r.Key)][:0], r.Value...)
	})
	if err != nil {
		return nil, fmt.Errorf("read %v: %w", names, err)
	}
	return out, nil
}

// Difference is one SKU that a channel shows otherwise than it should.
type Difference struct {
	Channel, SKU  string
	Target, Shown int64
}

// Row is one line of the table.
type Row struct {
	Name                          string
	Input, Ledger, Events, Levels *int64
	OK                            bool
}

// Result is a whole reconciliation.
type Result struct {
	Rows        []Row
	Repeated    int64 // rows that ClickHouse holds more than once
	Targets     int   // SKUs times channels
	TargetUnits int64
	ShownUnits  int64
	Differences []Difference
	Shown       bool // marketplaces were compared
}

// Compare sets the sums beside each other.
func Compare(in, ledger, events, levels Units, repeated int64) Result {
	r := Result{Repeated: repeated}
	for _, x := range []struct {
		name string
		of   func(Units) *int64
	}{
		{"SKUs", func(u Units) *int64 { return u.SKUs }},
		{"units received", func(u Units) *int64 { return u.Received }},
		{"units sold", func(u Units) *int64 { return u.Sold }},
		{"units cancelled", func(u Units) *int64 { return u.Cancelled }},
		{"units returned", func(u Units) *int64 { return u.Returned }},
		{"units adjusted", func(u Units) *int64 { return u.Adjusted }},
		{"units shipped", func(u Units) *int64 { return u.Shipped }},
		{"on hand now", func(u Units) *int64 { return u.OnHand }},
		{"committed now", func(u Units) *int64 { return u.Committed }},
		{"available now", func(u Units) *int64 { return u.Available }},
	} {
		row := Row{Name: x.name, Input: x.of(in), Ledger: x.of(ledger), Events: x.of(events), Levels: x.of(levels), OK: true}
		var first *int64
		for _, v := range []*int64{row.Input, row.Ledger, row.Events, row.Levels} {
			if v == nil {
				continue
			}
			if first == nil {
				first = v
			}
			row.OK = row.OK && *v == *first
		}
		r.Rows = append(r.Rows, row)
	}
	return r
}

// CompareShown adds what marketplaces show, by channel and SKU, beside the targets, in place of an earlier look.
func (r *Result) CompareShown(targets, shown map[string]map[string]int64) {
	r.Shown, r.Targets, r.TargetUnits, r.ShownUnits, r.Differences = true, 0, 0, 0, nil
	for ch, skus := range targets {
		for sku, want := range skus {
			r.Targets++
			r.TargetUnits += want
			got := shown[ch][sku]
			r.ShownUnits += got
			if got != want {
				r.Differences = append(r.Differences, Difference{ch, sku, want, got})
			}
		}
		for sku, got := range shown[ch] {
			if _, ok := skus[sku]; !ok && got != 0 {
				r.ShownUnits += got
				r.Differences = append(r.Differences, Difference{ch, sku, 0, got})
			}
		}
	}
	slices.SortFunc(r.Differences, func(a, b Difference) int {
		return strings.Compare(a.Channel+"\x00"+a.SKU, b.Channel+"\x00"+b.SKU)
	})
}

// Since leaves only those differences that an earlier look had, to the unit: what is under way differs at most once.
func (r *Result) Since(earlier []Difference) {
	r.Differences = slices.DeleteFunc(slices.Clone(r.Differences), func(d Difference) bool { return !slices.Contains(earlier, d) })
}

// OK reports that nothing differs.
func (r *Result) OK() bool {
	for _, row := range r.Rows {
		if !row.OK {
			return false
		}
	}
	return r.Repeated == 0 && len(r.Differences) == 0
}

// Print writes the table.
func (r *Result) Print(out io.Writer, number func(int64) string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // reported by Flush
	verdict := func(ok bool) string {
		if ok {
			return "ok"
		}
		return "DIFFERS"
	}
	cell := func(v *int64) string {
		if v == nil {
			return "–"
		}
		return number(*v)
	}
	say("\tinput\tledger (Redis)\tevents (ClickHouse)\tlevels (ClickHouse)\t\t\n")
	for _, row := range r.Rows {
		say("%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Name, cell(row.Input), cell(row.Ledger), cell(row.Events), cell(row.Levels), verdict(row.OK))
	}
	say("rows repeated\t–\t–\t%s\t–\t%s\t\n", number(r.Repeated), verdict(r.Repeated == 0))
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Shown {
		if _, err := fmt.Fprintf(out, "\n%s SKUs at channels: targets %s units, shown %s units, %s\n", number(int64(r.Targets)), number(r.TargetUnits), number(r.ShownUnits), verdict(len(r.Differences) == 0)); err != nil {
			return err
		}
	}
	for i, d := range r.Differences {
		if i == 20 {
			_, err := fmt.Fprintf(out, "  … and %d more\n", len(r.Differences)-i)
			return err
		}
		if _, err := fmt.Fprintf(out, "  %s %s should show %d and shows %d\n", d.Channel, d.SKU, d.Target, d.Shown); err != nil {
			return err
		}
	}
	return nil
}
