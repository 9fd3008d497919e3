// Package rebuild folds the ledger anew while the old one serves, and puts it in its place.
//
// Each partition goes through the same steps, and each step can be cut off and begun again, by the same process or another:
//
//	fold     into keys of a new generation, batch by batch, with the fence that owners have: what was folded is not folded again
//	compare  every SKU of the live generation with the fold, at the offset that it is at, while events keep coming
//	freeze   take the live generation from its owner, for seconds at most, and catch up the last events
//	switch   one script, if both are at the same offset and still ours: the pointer names the new generation, and the output
//	         that was under way to Kafka moves along
//	drop     the old generation, once readers have had time to follow the pointer
//
// There is one pointer to a partition, in its own slot, and the owner that is frozen out fails its fence before anything is switched: at no moment are there two owners, and
// no event is applied twice or left out. Whoever claims the partition next, the same process within milliseconds as a rule, claims what the pointer names.
package rebuild

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/services/ledger-projector/internal/eventlog"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// Bounds of one step, and of the time that a partition has no owner.
const (
	batchEvents = 16384
	batchSKUs   = 2048
	frozenFor   = 10 * time.Second
	attempts    = 5 // to catch up with a frozen partition
)

// From says what a rebuild begins with.
type From string

// What a rebuild can begin with.
const (
	Start  From = "start"  // the log's first event
	Levels From = "levels" // the newest level of each SKU in stock.levels
)

// Config is what to rebuild and how.
type Config struct {
	audit.Source
	From              From
	AcceptDifferences bool             // switch although the live generation is not what the log makes it
	Workers           int              // partitions at a time
	Grace             time.Duration    // how long the old generation is left to readers before it is dropped
	Group             string           // the projector's consumer group: what is committed for it has been emitted
	Options           *ledger.Options  // for a log that no generation was folded from yet
	Progress          func(Progress)   // one call at a time; may be nil
	Report            func(Difference) // one call at a time; may be nil

	step func(partition int32, step string) error // of tests: called after each step
}

// Difference is where the live generation is not what the log makes it.
type Difference = audit.Difference

// Progress says where a partition is.
type Progress struct {
	Partition int32
	Step      string // folding, comparing, switching, switched, dropped
	Offset    int64
	End       int64 // of the log, or of what there is to fold at present
}

// Partition is what became of one partition.
type Partition struct {
	Partition   int32         `json:"partition"`
	Offset      int64         `json:"offset"` // at the switch
	SKUs        int           `json:"skus"`
	Differences int           `json:"differences"`
	Switched    bool          `json:"switched"`
	Frozen      time.Duration `json:"frozen_ns"` // how long nobody applied events
	Back        int64         `json:"read_from"` // first offset that was read
}

// Result is what became of a rebuild.
type Result struct {
	Generation int64       `json:"generation"`
	Resumed    bool        `json:"resumed"`
	From       From        `json:"from"`
	Partitions []Partition `json:"partitions"`
}

// ErrDiffers reports that the live generation of some partition is not what the log makes it, and was left in place.
var ErrDiffers = errors.New("the live ledger differs from the fold of its log, and was left in place")

// record is what is noted of a rebuild that is under way.
func recordKey(ns string) string { return ns + ":rebuild" }

// State is the rebuild that is under way.
type State struct {
	Generation int64
	From       From
	StartedAt  time.Time
}

// Underway reads the rebuild that was begun and not finished; nil when there is none.
func Underway(ctx context.Context, c redis.UniversalClient, namespace string) (*State, error) {
	m, err := c.HGetAll(ctx, recordKey(namespace)).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", recordKey(namespace), err)
	}
	if len(m) == 0 {
		return nil, nil
	}
	g, err := strconv.ParseInt(m["generation"], 10, 64)
	if err != nil || g < 1 {
		return nil, fmt.Errorf("%s names generation %q: delete the key to begin a new rebuild", recordKey(namespace), m["generation"])
	}
	at, _ := time.Parse(time.RFC3339, m["started_at"]) // only to be shown
	return &State{Generation: g, From: From(m["from"]), StartedAt: at}, nil
}

// begin notes a rebuild, or finds the one that was begun.
func begin(ctx context.Context, cfg Config, partitions []int32) (*State, bool, error) {
	for {
		st, err := Underway(ctx, cfg.Redis, cfg.Namespace)
		if err != nil {
			return nil, false, err
		}
		if st != nil {
			if st.From != cfg.From {
				return nil, false, fmt.Errorf("a rebuild from %s, begun at %s, is not finished: go on with it (--from %s), or end it with --abort", st.From, st.StartedAt.Format(time.RFC3339), st.From)
			}
			return st, true, nil
		}
		var newest hotview.Generation
		for _, p := range partitions {
			g, err := hotview.LiveGeneration(ctx, cfg.Redis, hotview.Namespace(cfg.Namespace), p)
			if err != nil {
				return nil, false, err
			}
			newest = max(newest, g)
		}
		first, err := cfg.Redis.HSetNX(ctx, recordKey(cfg.Namespace), "generation", int64(newest)+1).Result()
		if err == nil && first {
			err = cfg.Redis.HSet(ctx, recordKey(cfg.Namespace), "from", string(cfg.From), "started_at", time.Now().UTC().Format(time.RFC3339)).Err()
		}
		if err != nil {
			return nil, false, fmt.Errorf("write %s: %w", recordKey(cfg.Namespace), err)
		}
		if first {
			return &State{Generation: int64(newest) + 1, From: cfg.From, StartedAt: time.Now()}, false, nil
		}
	}
}

// Run rebuilds the ledger, or goes on with a rebuild that was begun. Partitions are independent: when one fails, those that were switched stay so, and
// Run again does the rest.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.From == "" {
		cfg.From = Start
	}
	log, err := eventlog.Describe(ctx, cfg.Kafka, cfg.Log)
	if err != nil {
		return nil, err
	}
	partitions := slices.Sorted(maps.Keys(log.End))
	st, resumed, err := begin(ctx, cfg, partitions)
	if err != nil {
		return nil, err
	}
	res := &Result{Generation: st.Generation, Resumed: resumed, From: st.From}
	var mu sync.Mutex
	r := &run{cfg: cfg, log: log, ns: hotview.Namespace(cfg.Namespace), to: hotview.Generation(st.Generation), id: "rebuild/" + rand.Text()[:12]}
	if err := r.step(-1, "begun"); err != nil {
		return res, err
	}
	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, cfg.Workers))
	for _, p := range partitions {
		g.Go(func() error {
			done, err := r.partition(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			if done != nil {
				res.Partitions = append(res.Partitions, *done)
			}
			if err != nil && !errors.Is(err, ErrDiffers) {
				return fmt.Errorf("partition %d: %w", p, err)
			}
			return nil
		})
	}
	err = g.Wait()
	slices.SortFunc(res.Partitions, func(a, b Partition) int { return cmp.Compare(a.Partition, b.Partition) })
	if err != nil {
		return res, err
	}
	left := false
	for _, p := range res.Partitions {
		left = left || !p.Switched
	}
	if left {
		return res, ErrDiffers
	}
	return res, r.finish(outer, partitions)
}

// run is one run of a rebuild.
type run struct {
	cfg Config
	log *eventlog.Log
	ns  hotview.Namespace
	to  hotview.Generation
	id  string

	mu       sync.Mutex
	switched time.Time // the last one
}

func (r *run) step(p int32, name string) error {
	if r.cfg.step == nil {
		return nil
	}
	return r.cfg.step(p, name)
}

func (r *run) progress(p Progress) {
	if r.cfg.Progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg.Progress(p)
}

// build is one partition in the making.
type build struct {
	r         *run
	partition int32
	live      hotview.Generation
	stored    *hotview.Stored // the live one
	store     *hotview.Store
	fold      *eventlog.Fold
	kept      int64 // offset that is stored
	events    int   // since
	batch     hotview.Step
	end       int64
	out       *Partition
}

func (r *run) partition(ctx context.Context, p int32) (*Partition, error) {
	live, err := hotview.LiveGeneration(ctx, r.cfg.Redis, r.ns, p)
	if err != nil {
		return nil, err
	}
	out := &Partition{Partition: p, Offset: hotview.NoOffset}
	if live == r.to { // an earlier run got this far
		s, err := r.ns.Generation(r.cfg.Redis, p, live).Snapshot(ctx, nil)
		if err != nil {
			return nil, err
		}
		out.Offset, out.Switched = s.Meta.Offset, true
		r.mu.Lock()
		r.switched = time.Now() // when it was is not known: readers get the whole grace
		r.mu.Unlock()
		return out, nil
	}
	b := &build{r: r, partition: p, live: live, stored: r.ns.Generation(r.cfg.Redis, p, live), out: out}
	m, options, comparable, err := b.look(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.open(ctx, m, options); err != nil {
		return nil, err
	}
	reader, err := b.begin(ctx, options)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	if err := r.step(p, "claimed"); err != nil {
		return nil, err
	}
	b.end = r.log.End[p] - 1
	if comparable { // never past the live one: it is to be compared with
		b.end = m.Offset
	}
	if err := b.advance(ctx, b.end); err != nil {
		return nil, err
	}
	if err := r.step(p, "folded"); err != nil {
		return nil, err
	}
	if comparable {
		if err := b.compare(ctx); err != nil {
			return nil, err
		}
		if err := r.step(p, "compared"); err != nil {
			return nil, err
		}
		if out.Differences > 0 && !r.cfg.AcceptDifferences {
			return out, ErrDiffers
		}
	}
	if err := b.takeOver(ctx, comparable); err != nil {
		return out, err
	}
	out.Switched, out.Offset, out.SKUs = true, b.fold.Offset, b.fold.State.Len()
	r.mu.Lock()
	r.switched = time.Now()
	r.mu.Unlock()
	r.progress(Progress{Partition: p, Step: "switched", Offset: b.fold.Offset, End: b.fold.Offset})
	return out, r.step(p, "switched")
}

// look finds out what is live, and whether it can be compared with the log.
func (b *build) look(ctx context.Context) (hotview.Meta, ledger.Options, bool, error) {
	s, err := b.stored.Snapshot(ctx, nil)
	if err != nil && !errors.Is(err, hotview.ErrDamaged) {
		return hotview.Meta{}, ledger.Options{}, false, err
	}
	var m hotview.Meta
	if err == nil && s.Known {
		m = s.Meta
		options, err := audit.Fit(ctx, b.r.cfg.Source, m, b.r.log, b.partition)
		if err == nil {
			return m, options, true, nil
		}
		if !errors.Is(err, audit.ErrUnfit) {
			return m, options, false, err
		}
	}
	// Nothing that serves: the rebuild goes by the settings that it was given.
	options := ledger.Options{}
	if b.r.cfg.Options != nil {
		options = *b.r.cfg.Options
	}
	m = hotview.Meta{Identity: hotview.Identity{Dataset: b.r.log.Cluster, TopicID: b.r.log.TopicID, Fold: options.String()}}
	return m, options, false, nil
}

// open claims the new generation.
func (b *build) open(ctx context.Context, m hotview.Meta, o ledger.Options) error {
	b.store = hotview.NewCandidate(b.r.cfg.Redis, b.r.ns, b.partition, b.r.to, b.r.id, m.Identity)
	mine, err := b.store.Claim(ctx)
	if err != nil && !errors.Is(err, hotview.ErrDamaged) {
		return err
	}
	var state *ledger.Partition
	if err == nil && b.store.Fits(mine, b.r.log.End[b.partition]) {
		state, _, err = b.store.Load(ctx, mine, o)
		if err != nil && !errors.Is(err, hotview.ErrDamaged) {
			return err
		}
	}
	if state == nil {
		if err := b.store.Clear(ctx); err != nil {
			return err
		}
		mine = hotview.Meta{Offset: hotview.NoOffset}
		if state, _, err = b.store.Load(ctx, mine, o); err != nil {
			return err
		}
	}
	b.kept = mine.Offset
	b.fold = eventlog.NewFold(nil, state, mine.Offset, mine.Oversold)
	return nil
}

// begin reads the log from where the new generation is.
func (b *build) begin(ctx context.Context, o ledger.Options) (*eventlog.Reader, error) {
	if b.r.cfg.From == Levels && b.kept == hotview.NoOffset {
		return b.fromLevels(ctx, o)
	}
	reader, err := eventlog.Open(b.r.cfg.Kafka, b.r.cfg.Log, b.partition, b.kept+1)
	if err != nil {
		return nil, err
	}
	b.out.Back = b.kept + 1
	b.fold.From(reader)
	return reader, nil
}

// advance folds and stores up to and with an offset.
func (b *build) advance(ctx context.Context, to int64) error {
	for b.fold.Offset < to {
		err := b.fold.Advance(ctx, to, b.each)
		if err != nil {
			return err
		}
		if err := b.keep(ctx); err != nil {
			return err
		}
		b.r.progress(Progress{Partition: b.partition, Step: "folding", Offset: b.fold.Offset, End: to})
		if b.fold.Offset < to {
			if err := b.r.step(b.partition, "folding"); err != nil {
				return err
			}
		}
	}
	return nil
}

// keep stores what was folded since the last time.
func (b *build) keep(ctx context.Context) error {
	b.events = 0
	if b.fold.Offset == b.kept && len(b.fold.State.Changed()) == 0 {
		return nil
	}
	b.store.Prepare(b.fold.State, &hotview.Batch{Prev: b.kept, Last: b.fold.Offset, Oversold: b.fold.Oversold, AppliedAt: time.Now().UnixMicro()}, &b.batch)
	wait := 50 * time.Millisecond
	for {
		err := b.store.Apply(ctx, &b.batch, hotview.Emitted{To: hotview.NoOffset, Levels: hotview.NoOffset})
		if err == nil {
			b.kept = b.fold.Offset
			return nil
		}
		if errors.Is(err, hotview.ErrOwner) {
			return fmt.Errorf("another rebuild has taken over: %w", err)
		}
		if errors.Is(err, hotview.ErrStale) || ctx.Err() != nil || wait > 10*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait *= 2
		}
	}
}

func (b *build) compare(ctx context.Context) error {
	b.r.progress(Progress{Partition: b.partition, Step: "comparing", Offset: b.fold.Offset, End: b.fold.Offset})
	c := audit.Comparison{Stored: b.stored, Fold: b.fold, Advance: b.advance, Report: b.differs}
	return c.Run(ctx)
}

// takeOver freezes the live generation, catches up with it, and switches. A live generation that is of no use is caught up with the log instead.
func (b *build) takeOver(ctx context.Context, comparable bool) (err error) {
	r, p := b.r, b.partition
	for range attempts {
		began := time.Now()
		var at int64
		at, err = hotview.Freeze(ctx, r.cfg.Redis, r.ns, p, b.live, r.id, frozenFor)
		if err != nil {
			return err
		}
		err = b.switchAt(ctx, at, comparable)
		b.out.Frozen += time.Since(began)
		if err == nil {
			return nil
		}
		if e := hotview.Thaw(context.WithoutCancel(ctx), r.cfg.Redis, r.ns, p, b.live, r.id); e != nil {
			r.cfg.Log.Warn("the live generation stays frozen for some seconds", "partition", p, "err", e)
		}
		if !errors.Is(err, hotview.ErrThawed) && !errors.Is(err, hotview.ErrBehind) {
			return err
		}
	}
	return fmt.Errorf("after %d attempts: %w", attempts, err)
}

func (b *build) switchAt(ctx context.Context, at int64, comparable bool) error {
	r, p := b.r, b.partition
	if err := r.step(p, "frozen"); err != nil {
		return err
	}
	if !comparable {
		at = max(at, b.fold.Offset)
	}
	if err := b.advance(ctx, at); err != nil {
		return err
	}
	if err := r.step(p, "caught up"); err != nil {
		return err
	}
	r.progress(Progress{Partition: p, Step: "switching", Offset: at, End: at})
	if comparable && b.out.Differences == 0 {
		if err := b.sameDigest(ctx); err != nil {
			return err
		}
	}
	return b.store.Switch(ctx, b.live, r.id, hotview.SwitchOptions{
		EmitAll: b.out.Differences > 0 || !comparable, AnyOffset: !comparable, TakeOversold: comparable && r.cfg.From == Levels,
	})
}

// sameDigest compares the digests of both generations, when the live one is frozen: what was changed in it since it was compared shows here.
func (b *build) sameDigest(ctx context.Context) error {
	s, err := b.stored.Snapshot(ctx, nil)
	if err != nil {
		return err
	}
	if !s.Digested || s.Digest == *b.fold.State.Digest() {
		return nil
	}
	b.differs(Difference{Partition: b.partition, Offset: s.Meta.Offset, Field: "digest", Redis: "another", Fold: "one"})
	if b.r.cfg.AcceptDifferences {
		return nil
	}
	return ErrDiffers
}

func (b *build) differs(d Difference) {
	b.out.Differences++
	if b.r.cfg.Report != nil {
		b.r.mu.Lock()
		defer b.r.mu.Unlock()
		b.r.cfg.Report(d)
	}
}

// each counts what was folded since it was stored: it says when a batch is full.
func (b *build) each(*kgo.Record, *event.Event, ledger.Result) bool {
	b.events++
	return b.events < batchEvents && len(b.fold.State.Changed()) < batchSKUs
}

// finish drops the old generations, when readers have had time to follow, and forgets the rebuild.
func (r *run) finish(ctx context.Context, partitions []int32) error {
	if !r.switched.IsZero() {
		t := time.NewTimer(time.Until(r.switched.Add(r.cfg.Grace)))
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err() // to be gone on with
		case <-t.C:
		}
	}
	for _, p := range partitions {
		old, err := hotview.Generations(ctx, r.cfg.Redis, r.ns, p, r.to)
		if err != nil {
			return err
		}
		for _, g := range old {
			if err := hotview.Drop(ctx, r.cfg.Redis, r.ns, p, g); err != nil {
				return err
			}
		}
		r.progress(Progress{Partition: p, Step: "dropped"})
		if err := r.step(p, "dropped"); err != nil {
			return err
		}
	}
	if err := r.cfg.Redis.Del(ctx, recordKey(r.cfg.Namespace)).Err(); err != nil {
		return fmt.Errorf("delete %s: %w", recordKey(r.cfg.Namespace), err)
	}
	return nil
}

// Abort ends a rebuild that was begun: what it made and did not switch to is dropped. Partitions that were switched stay so; their old generations are dropped. It returns
// how many partitions were switched, of how many.
func Abort(ctx context.Context, src audit.Source) (switched, all int, err error) {
	st, err := Underway(ctx, src.Redis, src.Namespace)
	if err != nil {
		return 0, 0, err
	}
	if st == nil {
		return 0, 0, errors.New("no rebuild is under way")
	}
	log, err := eventlog.Describe(ctx, src.Kafka, src.Log)
	if err != nil {
		return 0, 0, err
	}
	ns := hotview.Namespace(src.Namespace)
	for _, p := range slices.Sorted(maps.Keys(log.End)) {
		live, err := hotview.LiveGeneration(ctx, src.Redis, ns, p)
		if err != nil {
			return switched, all, err
		}
		all++
		if int64(live) == st.Generation {
			switched++
		}
		found, err := hotview.Generations(ctx, src.Redis, ns, p, hotview.Generation(st.Generation)+1)
		if err != nil {
			return switched, all, err
		}
		for _, g := range found {
			if g == live {
				continue
			}
			if err := hotview.Drop(ctx, src.Redis, ns, p, g); err != nil {
				return switched, all, err
			}
		}
	}
	if err := src.Redis.Del(ctx, recordKey(src.Namespace)).Err(); err != nil {
		return switched, all, fmt.Errorf("delete %s: %w", recordKey(src.Namespace), err)
	}
	return switched, all, nil
}
