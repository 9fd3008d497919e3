package ledgerprojector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// Fold is the ledger folded from records alone: no store, no group. It is what the stored ledger must equal. Not safe for concurrent use.
type Fold struct {
	Applied, Duplicates, Rejected int64
	Oversold                      ledger.Units

	options    ledger.Options
	partitions map[int32]*ledger.Partition
	reader     topics.EventReader
}

// NewFold is the fold of nothing.
func NewFold(o ledger.Options) *Fold {
	return &Fold{options: o, partitions: make(map[int32]*ledger.Partition)}
}

// Record folds a record of stock.events. Records of one partition come in order. What the service rejects is counted as rejected.
func (f *Fold) Record(r *kgo.Record) {
	p := f.partitions[r.Partition]
	if p == nil {
		p = ledger.New(f.options)
		f.partitions[r.Partition] = p
	}
	var e event.Event
	if err := f.reader.Read(r.Value, &e); err != nil || string(r.Key) != e.Key() {
		f.Rejected++
		return
	}
	switch res := p.Apply(&e, r.Offset, r.Timestamp.UnixMicro()); res.Outcome {
	case ledger.Applied:
		f.Applied++
		f.Oversold += res.Oversold
	case ledger.Unchanged:
		f.Applied++
	case ledger.Duplicate:
		f.Duplicates++
	case ledger.Rejected:
		f.Rejected++
	case ledger.Passed: // it changes no stock
	}
	if len(p.Changed()) > 4096 || len(p.Journal()) > 0 && len(p.Journal()[0].Data) > 1<<20 {
		p.Flushed() // nothing is stored: only forget what was to be
	}
}

// Levels is the level of each SKU. AppliedAt is 0: nothing was applied anywhere. Nor was a record emitted before, so that PreviousVersion and
// EarliestAt are 0.
func (f *Fold) Levels() map[string]*ledger.Level {
	out := make(map[string]*ledger.Level)
	for _, p := range f.partitions {
		p.SKUs(func(k *ledger.SKU) bool {
			l := new(ledger.Level)
			p.Level(k, 0, l)
			l.OldestReceivedAt, l.PreviousVersion = l.ReceivedAt, 0
			for i := range l.Sold {
				l.Sold[i].EarliestAt = 0
			}
			out[l.SKU] = l
			return true
		})
	}
	return out
}

// FoldTopic folds stock.events from its start to where it ends now. The options must be those of the ledger that it is compared with
// (Config.Options).
func FoldTopic(ctx context.Context, cfg kafka.Config, log *slog.Logger, o ledger.Options) (*Fold, error) {
	client, err := cfg.Client(log, name+"-fold", kgo.ConsumeTopics(schemas.StockEvents), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, fmt.Errorf("fold %s: %w", schemas.StockEvents, err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	starts, err := adm.ListStartOffsets(ctx, schemas.StockEvents)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("fold %s: start offsets: %w", schemas.StockEvents, err)
	}
	ends, err := adm.ListEndOffsets(ctx, schemas.StockEvents)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("fold %s: end offsets: %w", schemas.StockEvents, err)
	}
	left := make(map[int32]int64)
	ends.Each(func(e kadm.ListedOffset) {
		if s, ok := starts.Lookup(e.Topic, e.Partition); ok && s.Offset < e.Offset {
			left[e.Partition] = e.Offset
		}
	})
	f := NewFold(o)
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrClientClosed) {
			return nil, fmt.Errorf("fold %s: %w", schemas.StockEvents, err)
		}
		fetches.EachError(func(t string, p int32, err error) {
			log.Warn("fetch failed; trying again", "topic", t, "partition", p, "err", err)
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			end, ok := left[p.Partition]
			if !ok {
				return
			}
			for _, r := range p.Records {
				if r.Offset < end {
					f.Record(r)
				}
				if r.Offset+1 >= end {
					delete(left, p.Partition)
					return
				}
			}
		})
	}
	return f, nil
}
