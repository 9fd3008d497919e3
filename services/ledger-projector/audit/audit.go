// Package audit proves that the ledger in Redis is the fold of the log, and says where it is not.
//
// [Verify] folds each partition of stock.events from its start and compares every SKU, field by field, and what is remembered beside them. Events may
// keep coming: SKUs are read in one step with the offset they are of, and the fold is taken to just that offset before they are compared.
//
// [Digests] does not fold. It adds up the SKUs that Redis holds and compares with the digest that their owner keeps in the same step as it changes them: what was
// changed by anybody else, or went back in time by itself, shows. It is cheap enough to run all the time, which the ledger-projector does.
package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/services/ledger-projector/internal/eventlog"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/ledger"
)

// Source is a ledger: its log and its store.
type Source struct {
	Kafka     kafka.Config
	Redis     redis.UniversalClient
	Namespace string
	Log       *slog.Logger
}

// Difference is one place where Redis is not what the log makes it.
type Difference struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`          // of the partition when it was compared
	SKU       string `json:"sku,omitempty"`   // empty for what is kept of the partition as a whole
	Field     string `json:"field,omitempty"` // empty when the whole SKU is missing on one side
	Redis     string `json:"redis"`           // Missing when there is none
	Fold      string `json:"fold"`
}

// Missing stands for a value that is not there.
const Missing = "(missing)"

// String is the difference for people.
func (d Difference) String() string {
	what := "partition " + strconv.Itoa(int(d.Partition))
	if d.SKU != "" {
		what += " SKU " + d.SKU
	}
	if d.Field != "" {
		what += " " + d.Field
	}
	return fmt.Sprintf("%s: Redis has %s, the log makes it %s (offset %d)", what, d.Redis, d.Fold, d.Offset)
}

// Partition is what was found about one partition.
type Partition struct {
	Partition   int32  `json:"partition"`
	Generation  int64  `json:"generation"`
	Offset      int64  `json:"offset"` // that Redis and the fold were compared at; -1 for an empty partition
	End         int64  `json:"log_end"`
	SKUs        int    `json:"skus"`
	Events      int64  `json:"events"`
	Remembered  int    `json:"remembered_ids"`
	OpenItems   int    `json:"open_items"`
	Digest      string `json:"digest"` // sum of all sums of the digest, in hexadecimal
	Differences int    `json:"differences"`
}

// ErrUnfit reports that Redis cannot be compared with this log at all.
var ErrUnfit = errors.New("the ledger in Redis is not folded from this log")

// Verify compares partitions, all when none is named, workers of them at a time. report is told of each difference, one call at a time; the result is by partition.
func Verify(ctx context.Context, src Source, partitions []int32, workers int, report func(Difference)) ([]Partition, error) {
	log, err := eventlog.Describe(ctx, src.Kafka, src.Log)
	if err != nil {
		return nil, err
	}
	if partitions, err = choose(log, partitions); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var out []Partition
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, workers))
	for _, p := range partitions {
		g.Go(func() error {
			found, err := verify(ctx, src, log, p, func(d Difference) {
				mu.Lock()
				defer mu.Unlock()
				report(d)
			})
			if err != nil {
				return fmt.Errorf("partition %d: %w", p, err)
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, *found)
			return nil
		})
	}
	err = g.Wait()
	slices.SortFunc(out, func(a, b Partition) int { return cmp.Compare(a.Partition, b.Partition) })
	return out, err
}

func choose(log *eventlog.Log, partitions []int32) ([]int32, error) {
	if len(partitions) == 0 {
		return slices.Sorted(maps.Keys(log.End)), nil
	}
	for _, p := range partitions {
		if _, ok := log.End[p]; !ok {
			return nil, fmt.Errorf("stock.events has no partition %d: it has %d", p, len(log.End))
		}
	}
	return partitions, nil
}

// Fit says whether state stored under m was folded from this log, and how. Events may have come since the log was looked at: its end is looked at again where
// the state is past it.
func Fit(ctx context.Context, src Source, m hotview.Meta, log *eventlog.Log, p int32) (ledger.Options, error) {
	if m.Offset >= log.End[p] {
		var err error
		if log, err = eventlog.Describe(ctx, src.Kafka, src.Log); err != nil {
			return ledger.Options{}, err
		}
	}
	switch {
	case m.Layout != hotview.Layout:
		return ledger.Options{}, fmt.Errorf("%w: its layout is version %s, this program's %s", ErrUnfit, m.Layout, hotview.Layout)
	case m.TopicID != log.TopicID:
		return ledger.Options{}, fmt.Errorf("%w: it is of topic id %s, stock.events has %s", ErrUnfit, m.TopicID, log.TopicID)
	case m.Clearing:
		return ledger.Options{}, fmt.Errorf("%w: it is being cleared, to be folded anew: try again in a moment", ErrUnfit)
	case m.Offset >= log.End[p]:
		return ledger.Options{}, fmt.Errorf("%w: it is at offset %d, and the log ends at %d", ErrUnfit, m.Offset, log.End[p])
	case log.Start[p] > 0:
		return ledger.Options{}, fmt.Errorf("the log begins at offset %d: what came before cannot be folded again; set retention.ms=-1 on stock.events", log.Start[p])
	}
	return ledger.ParseOptions(m.Fold)
}

func verify(ctx context.Context, src Source, log *eventlog.Log, p int32, report func(Difference)) (*Partition, error) {
	ns := hotview.Namespace(src.Namespace)
	g, err := hotview.LiveGeneration(ctx, src.Redis, ns, p)
	if err != nil {
		return nil, err
	}
	stored := ns.Generation(src.Redis, p, g)
	first, err := stored.Snapshot(ctx, nil)
	if err != nil {
		return nil, err
	}
	out := &Partition{Partition: p, Generation: int64(g), Offset: first.Meta.Offset, End: log.End[p], Digest: "0"}
	if !first.Known {
		if log.End[p] > log.Start[p] {
			return nil, fmt.Errorf("%w: Redis knows nothing of the partition, and the log has %d events; is the ledger-projector running, with this namespace (%s)?", ErrUnfit, log.End[p]-log.Start[p], src.Namespace)
		}
		return out, nil
	}
	options, err := Fit(ctx, src, first.Meta, log, p)
	if err != nil {
		return nil, err
	}
	reader, err := eventlog.Open(src.Kafka, src.Log, p, 0)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	fold := eventlog.NewFold(reader, ledger.New(options), hotview.NoOffset, 0)
	c := Comparison{Stored: stored, Fold: fold, Report: func(d Difference) {
		out.Differences++
		report(d)
	}, Advance: func(ctx context.Context, to int64) error { return fold.Advance(ctx, to, nil) }}
	if err := c.Run(ctx); err != nil {
		return nil, err
	}
	if err := c.memory(ctx, options); err != nil {
		return nil, err
	}
	m := fold.State.Memory()
	out.Offset, out.Events, out.SKUs, out.Remembered, out.OpenItems = fold.Offset, fold.Offset+1, fold.State.Len(), m.IDs, m.Items
	var sum uint64
	for _, s := range c.digest {
		sum += s
	}
	out.Digest = fmt.Sprintf("%016x", sum)
	return out, nil
}

// chunk is how many SKUs are read in one step.
const chunk = 256

// Comparison compares one generation of a partition with a fold of the log, SKU by SKU, while both may go on.
type Comparison struct {
	Stored  *hotview.Stored
	Fold    *eventlog.Fold
	Advance func(ctx context.Context, to int64) error // takes Fold to an offset
	Report  func(Difference)

	digest hotview.Digest
}

// errBack reports that the stored offset fell.
var errBack = errors.New("the stored offset went back while it was compared: Redis lost data, or the partition is being folded anew; try again")

// Run compares everything that is stored of SKUs.
func (c *Comparison) Run(ctx context.Context) error {
	names, err := c.Stored.Names(ctx)
	if err != nil {
		return err
	}
	slices.Sort(names)
	seen := make(map[string]bool, len(names))
	for _, n := range names {
		seen[n] = true
	}
	for part := range slices.Chunk(names, chunk) {
		if err := c.compare(ctx, part); err != nil {
			return err
		}
	}
	for { // SKUs that the log has and the list had not
		var more []string
		c.Fold.State.SKUs(func(k *ledger.SKU) bool {
			if !seen[k.Name()] {
				seen[k.Name()] = true
				more = append(more, k.Name())
			}
			return true
		})
		if len(more) == 0 {
			break
		}
		slices.Sort(more)
		for part := range slices.Chunk(more, chunk) {
			if err := c.compare(ctx, part); err != nil {
				return err
			}
		}
	}
	return c.digests(ctx)
}

func (c *Comparison) snapshot(ctx context.Context, names []string) (*hotview.Snapshot, error) {
	s, err := c.Stored.Snapshot(ctx, names)
	if err != nil {
		return nil, err
	}
	if !s.Known || s.Meta.Clearing || s.Meta.Offset < c.Fold.Offset {
		return nil, errBack
	}
	return s, c.Advance(ctx, s.Meta.Offset)
}

// compare reads SKUs with the offset they are of, takes the fold there, and compares.
func (c *Comparison) compare(ctx context.Context, names []string) error {
	s, err := c.snapshot(ctx, names)
	if err != nil {
		return err
	}
	p := s.Partition()
	differ := func(sku, field, redis, fold string) {
		c.Report(Difference{Partition: p, Offset: s.Meta.Offset, SKU: sku, Field: field, Redis: redis, Fold: fold})
	}
	for i, sku := range names {
		got := s.SKUs[i]
		k := c.Fold.State.SKU(sku)
		if k == nil {
			if len(got) > 0 || s.Listed[i] {
				differ(sku, "", "it", Missing)
			}
			continue
		}
		if len(got) == 0 {
			differ(sku, "", Missing, "version "+strconv.FormatInt(k.Version(), 10))
			continue
		}
		if !s.Listed[i] {
			differ(sku, "skus", Missing, "listed")
		}
		want := hotview.Fields(c.Fold.State, k)
		if maps.Equal(got, want) {
			continue
		}
		for _, f := range slices.Sorted(maps.Keys(want)) {
			if v, ok := got[f]; !ok {
				differ(sku, f, Missing, want[f])
			} else if v != want[f] {
				differ(sku, f, v, want[f])
			}
		}
		for _, f := range slices.Sorted(maps.Keys(got)) {
			if _, ok := want[f]; !ok {
				differ(sku, f, got[f], Missing)
			}
		}
	}
	return nil
}

// digests compares the digest that is kept along with that of the fold.
func (c *Comparison) digests(ctx context.Context) error {
	s, err := c.snapshot(ctx, nil)
	if err != nil {
		return err
	}
	c.digest = hotview.Digest{}
	c.Fold.State.SKUs(func(k *ledger.SKU) bool {
		if d, ok := hotview.DigestOf(k.Name(), hotview.Fields(c.Fold.State, k)); ok {
			c.digest[ledger.DigestBucket(k.Name())] += d
		}
		return true
	})
	if !s.Digested { // of before there were digests
		return nil
	}
	for b := range c.digest {
		if c.digest[b] != s.Digest[b] {
			c.Report(Difference{Partition: s.Partition(), Offset: s.Meta.Offset, Field: "digest sum " + strconv.Itoa(b), Redis: fmt.Sprintf("%016x", s.Digest[b]), Fold: fmt.Sprintf("%016x", c.digest[b])})
		}
	}
	return nil
}

// memory compares what is remembered beside the SKUs.
func (c *Comparison) memory(ctx context.Context, o ledger.Options) error {
	differ := func(offset int64, field, redis, fold string) {
		c.Report(Difference{Partition: c.Stored.Partition(), Offset: offset, Field: field, Redis: redis, Fold: fold})
	}
	got, offset, err := c.Stored.Memory(ctx, o, func(offset int64) (*ledger.Partition, error) {
		if offset < c.Fold.Offset {
			return nil, errBack
		}
		return c.Fold.State, c.Advance(ctx, offset)
	})
	if errors.Is(err, hotview.ErrDamaged) {
		differ(c.Fold.Offset, "journal", err.Error(), "what is remembered")
		return nil
	}
	if err != nil {
		return err
	}
	g, w := got.Memory(), c.Fold.State.Memory()
	text := func(n int, d uint64) string { return fmt.Sprintf("%d (%016x)", n, d) }
	if g.IDs != w.IDs || g.IDDigest != w.IDDigest {
		differ(offset, "remembered ids", text(g.IDs, g.IDDigest), text(w.IDs, w.IDDigest))
	}
	if g.Items != w.Items || g.ItemDigest != w.ItemDigest {
		differ(offset, "open items", text(g.Items, g.ItemDigest), text(w.Items, w.ItemDigest))
	}
	return nil
}

// Options is the settings that the ledger in Redis was folded with; the defaults when nothing is stored yet.
func Options(ctx context.Context, src Source) (ledger.Options, error) {
	ns := hotview.Namespace(src.Namespace)
	log, err := eventlog.Describe(ctx, src.Kafka, src.Log)
	if err != nil {
		return ledger.Options{}, err
	}
	for p := range log.End {
		g, err := hotview.LiveGeneration(ctx, src.Redis, ns, p)
		if err != nil {
			return ledger.Options{}, err
		}
		s, err := ns.Generation(src.Redis, p, g).Snapshot(ctx, nil)
		if err != nil {
			return ledger.Options{}, err
		}
		if s.Known {
			return ledger.ParseOptions(s.Meta.Fold)
		}
	}
	return ledger.Options{}, nil
}
