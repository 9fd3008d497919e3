package rebuild

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/eventlog"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// fromLevels begins a partition with the newest level of each SKU instead of the log's first event, and goes on from there. What levels do not hold is folded from
// the log's end part: event ids as far back as the window, and recent moves with them; open items as far back as it takes to account for all units that
// the levels have committed, held and inbound. When that is the whole log, it is folded as a whole.
//
// Levels hold what was emitted: all events below the offset that the projector committed. Where none is committed, reading begins at the lowest
// source offset of the levels, below which each SKU's level is its newest.
func (b *build) fromLevels(ctx context.Context, o ledger.Options) (*eventlog.Reader, error) {
	levels, err := b.readLevels(ctx)
	if err != nil {
		return nil, err
	}
	emitted, err := b.emitted(ctx, levels)
	if err != nil {
		return nil, err
	}
	newest, err := b.lastTime(ctx)
	if err != nil {
		return nil, err
	}
	window := o.Window
	if window == 0 {
		window = ledger.DefaultWindow
	}
	for back := window + window/4; ; back *= 4 { // one bucket of the journal more than the window, at least
		from, err := b.offsetAt(ctx, newest.Add(-back))
		if err != nil {
			return nil, err
		}
		if from = min(from, emitted); from <= b.r.log.Start[b.partition] || len(levels) == 0 {
			return b.fromStart(ctx, o)
		}
		reader, explained, err := b.foldBack(ctx, o, levels, from, emitted)
		if err != nil {
			return nil, err
		}
		if explained {
			b.out.Back = from
			return reader, nil
		}
		reader.Close()
	}
}

func (b *build) fromStart(ctx context.Context, o ledger.Options) (*eventlog.Reader, error) {
	if err := b.reset(ctx, o, hotview.NoOffset); err != nil {
		return nil, err
	}
	reader, err := eventlog.Open(b.r.cfg.Kafka, b.r.cfg.Log, b.partition, 0)
	if err != nil {
		return nil, err
	}
	b.out.Back = 0
	b.fold.From(reader)
	return reader, nil
}

// reset begins anew with nothing, as of an offset.
func (b *build) reset(ctx context.Context, o ledger.Options, offset int64) error {
	if err := b.store.Clear(ctx); err != nil {
		return err
	}
	state, _, err := b.store.Load(ctx, hotview.Meta{Offset: hotview.NoOffset}, o)
	if err != nil {
		return err
	}
	b.kept = hotview.NoOffset
	b.fold = eventlog.NewFold(nil, state, offset, 0)
	return nil
}

// foldBack folds from an offset on and puts each level in its place. It reports whether that was far enough back.
func (b *build) foldBack(ctx context.Context, o ledger.Options, levels map[string]*ledger.Level, from, emitted int64) (*eventlog.Reader, bool, error) {
	// What a crash leaves behind in here is neither a prefix of the log nor anything else: it must not be gone on with.
	if err := b.reset(ctx, o, from-1); err != nil {
		return nil, false, err
	}
	if err := b.store.Unfinished(ctx, true); err != nil {
		return nil, false, err
	}
	reader, err := eventlog.Open(b.r.cfg.Kafka, b.r.cfg.Log, b.partition, from)
	if err != nil {
		return nil, false, err
	}
	b.fold.From(reader)
	explained := true
	last := emitted - 1
	for _, sku := range slices.Sorted(maps.Keys(levels)) {
		l := levels[sku]
		if last = max(last, l.SourceOffset); l.SourceOffset >= from {
			continue
		}
		explained = b.fold.State.Adopt(l) && explained
		if len(b.fold.State.Changed()) >= batchSKUs {
			if err := b.keep(ctx); err != nil {
				return reader, false, err
			}
		}
	}
	if !explained {
		return reader, false, nil
	}
	if last >= b.r.log.End[b.partition] {
		return reader, false, fmt.Errorf("%s has a level of offset %d, and the log of the partition ends at %d: it is of another log; rebuild from the start", schemas.StockLevels, last, b.r.log.End[b.partition])
	}
	for b.fold.Offset < last {
		err := b.fold.Advance(ctx, last, func(r *kgo.Record, e *event.Event, res ledger.Result) bool {
			if l := levels[e.SKU]; l != nil && l.SourceOffset == r.Offset {
				explained = b.fold.State.Adopt(l) && explained
			}
			return b.each(r, e, res)
		})
		if err == nil {
			err = b.keep(ctx)
		}
		if err != nil {
			return reader, false, err
		}
		b.r.progress(Progress{Partition: b.partition, Step: "folding", Offset: b.fold.Offset, End: last})
		if err := b.r.step(b.partition, "folding"); err != nil {
			return reader, false, err
		}
	}
	if err := b.keep(ctx); err != nil {
		return reader, false, err
	}
	if explained {
		err = b.store.Unfinished(ctx, false)
	}
	return reader, explained, err
}

// readLevels is the newest level of each SKU of the partition.
func (b *build) readLevels(ctx context.Context) (map[string]*ledger.Level, error) {
	client, err := b.r.cfg.Kafka.Client(b.r.cfg.Log, "onhand-ledger-tools")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	levels := make(map[string]*ledger.Level)
	var bad error
	_, err = kafka.Committed(ctx, client, map[string][]int32{schemas.StockLevels: {b.partition}}, nil, func(r *kgo.Record) {
		if len(r.Value) == 0 {
			delete(levels, string(r.Key))
			return
		}
		l, err := topics.DecodeLevel(r.Value)
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("%s partition %d offset %d: %w", schemas.StockLevels, r.Partition, r.Offset, err))
			return
		}
		if have := levels[l.SKU]; have == nil || have.Version <= l.Version || have.Generation < l.Generation {
			levels[l.SKU] = l
		}
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("read levels: %w", err)
	}
	return levels, nil
}

// emitted is the offset below which the levels hold every event.
func (b *build) emitted(ctx context.Context, levels map[string]*ledger.Level) (int64, error) {
	client, err := b.r.cfg.Kafka.Client(b.r.cfg.Log, "onhand-ledger-tools")
	if err != nil {
		return 0, err
	}
	defer client.Close()
	if b.r.cfg.Group != "" {
		got, err := kadm.NewClient(client).FetchOffsets(ctx, b.r.cfg.Group)
		if err != nil {
			return 0, fmt.Errorf("committed offsets of %s: %w", b.r.cfg.Group, err)
		}
		if o, ok := got.Lookup(schemas.StockEvents, b.partition); ok && o.Err == nil && o.At >= 0 && o.At <= b.r.log.End[b.partition] {
			return o.At, nil
		}
	}
	lowest := b.r.log.End[b.partition]
	for _, l := range levels {
		lowest = min(lowest, l.SourceOffset)
	}
	return lowest, nil
}

// lastTime is when the log's last record was appended.
func (b *build) lastTime(ctx context.Context) (time.Time, error) {
	end := b.r.log.End[b.partition]
	var at time.Time
	if end == 0 {
		return at, nil
	}
	reader, err := eventlog.Open(b.r.cfg.Kafka, b.r.cfg.Log, b.partition, end-1)
	if err != nil {
		return at, err
	}
	defer reader.Close()
	err = reader.Until(ctx, end, func(r *kgo.Record) bool {
		at = r.Timestamp
		return true
	})
	return at, err
}

// offsetAt is the offset of the first record at or after a moment.
func (b *build) offsetAt(ctx context.Context, at time.Time) (int64, error) {
	client, err := b.r.cfg.Kafka.Client(b.r.cfg.Log, "onhand-ledger-tools")
	if err != nil {
		return 0, err
	}
	defer client.Close()
	got, err := kadm.NewClient(client).ListOffsetsAfterMilli(ctx, max(0, at.UnixMilli()), schemas.StockEvents)
	if err == nil {
		err = got.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("offset of %s: %w", at.Format(time.RFC3339), err)
	}
	o, ok := got.Lookup(schemas.StockEvents, b.partition)
	if !ok {
		return 0, nil
	}
	return o.Offset, nil
}
