// Package eventlog folds one partition of stock.events to an exact offset, on demand and without a consumer group: what a rebuild, a check or a look into the past
// needs. The fold itself is package ledger's; what the projector rejects, it leaves out as well.
package eventlog

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

// Reasons of records that never reach the fold.
const (
	Undecodable = "undecodable"
	KeyMismatch = "key_mismatch"
)

// Apply folds one record into p, by way of e. A record that is no event of its key's SKU is Rejected, with the reason.
func Apply(p *ledger.Partition, reader *topics.EventReader, e *event.Event, r *kgo.Record) ledger.Result {
	if err := reader.Read(r.Value, e); err != nil {
		return ledger.Result{Outcome: ledger.Rejected, Fault: ledger.Fault{Reason: Undecodable, Detail: err.Error() + ": find who writes to " + schemas.StockEvents +
			", and send the event again through the API"}}
	}
	if string(r.Key) != e.Key() {
		return ledger.Result{Outcome: ledger.Rejected, Fault: ledger.Fault{Reason: KeyMismatch, Field: "sku", Detail: fmt.Sprintf(
			"the record's key %.64q is not the SKU %.64q, so that it may be in the wrong partition: key events by SKU", r.Key, e.Key())}}
	}
	return p.Apply(e, r.Offset, r.Timestamp.UnixMicro())
}

// Log is stock.events as a whole.
type Log struct {
	TopicID string
	Cluster string
	Start   map[int32]int64 // first offset by partition
	End     map[int32]int64 // the next offset by partition, when it was described
}

// Describe asks the cluster about stock.events.
func Describe(ctx context.Context, cfg kafka.Config, log *slog.Logger) (*Log, error) {
	client, err := cfg.Client(log, "onhand-ledger-tools")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	m, err := adm.Metadata(ctx, schemas.StockEvents)
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", schemas.StockEvents, err)
	}
	t := m.Topics[schemas.StockEvents]
	if t.Err != nil {
		return nil, fmt.Errorf("describe %s: %w", schemas.StockEvents, t.Err)
	}
	starts, err := adm.ListStartOffsets(ctx, schemas.StockEvents)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("start offsets of %s: %w", schemas.StockEvents, err)
	}
	ends, err := adm.ListEndOffsets(ctx, schemas.StockEvents)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end offsets of %s: %w", schemas.StockEvents, err)
	}
	l := &Log{TopicID: t.ID.String(), Cluster: m.Cluster, Start: make(map[int32]int64), End: make(map[int32]int64)}
	starts.Each(func(o kadm.ListedOffset) { l.Start[o.Partition] = o.Offset })
	ends.Each(func(o kadm.ListedOffset) { l.End[o.Partition] = o.Offset })
	return l, nil
}

// Reader reads one partition. Not safe for concurrent use.
type Reader struct {
	client    *kgo.Client
	partition int32
	queue     []*kgo.Record
	next      int64
}

// Open reads a partition from an offset on.
func Open(cfg kafka.Config, log *slog.Logger, partition int32, from int64) (*Reader, error) {
	client, err := cfg.Client(log, "onhand-ledger-tools",
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.StockEvents: {partition: kgo.NewOffset().At(from)}}),
		kgo.KeepControlRecords(), // so that the end is seen where markers of transactions are the last
		kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(8<<20))
	if err != nil {
		return nil, err
	}
	return &Reader{client: client, partition: partition, next: from}, nil
}

// Close ends the reader.
func (r *Reader) Close() { r.client.Close() }

// Next is the offset of the next record to come, or less where the log has holes.
func (r *Reader) Next() int64 { return r.next }

// errGone reports that the log does not begin where reading was to.
var errGone = errors.New("the log no longer holds these events")

// Peek is the next record below an offset, which stays the next; nil when there is none. It waits for records that the log does not have yet.
func (r *Reader) Peek(ctx context.Context, end int64) (*kgo.Record, error) {
	for r.next < end {
		for len(r.queue) == 0 {
			fetches := r.client.PollFetches(ctx)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			for _, e := range fetches.Errors() {
				var gone *kgo.ErrDataLoss
				if errors.As(e.Err, &gone) {
					return nil, fmt.Errorf("read partition %d of %s at %d: %w", r.partition, schemas.StockEvents, r.next, errGone)
				}
				return nil, fmt.Errorf("read partition %d of %s at %d: %w", r.partition, schemas.StockEvents, r.next, e.Err)
			}
			r.queue = fetches.Records()
		}
		rec := r.queue[0]
		if rec.Offset >= end {
			r.next = end // the rest up to there is a hole
			return nil, nil
		}
		if !rec.Attrs.IsControl() {
			return rec, nil
		}
		r.skip(rec)
	}
	return nil, nil
}

func (r *Reader) skip(rec *kgo.Record) {
	r.queue[0] = nil
	r.queue = r.queue[1:]
	r.next = rec.Offset + 1
}

// Until gives take the records below an offset, in order, until it returns false (the record it was given counts as read). It waits for records that the log does not
// have yet.
func (r *Reader) Until(ctx context.Context, end int64, take func(*kgo.Record) bool) error {
	for {
		rec, err := r.Peek(ctx, end)
		if rec == nil || err != nil {
			return err
		}
		r.skip(rec)
		if !take(rec) {
			return nil
		}
	}
}

// Fold is the fold of one partition at an offset. Not safe for concurrent use.
type Fold struct {
	State    *ledger.Partition
	Offset   int64 // of the last record in State; -1 for none
	Oversold int64
	log      *Reader
	reader   topics.EventReader
	event    event.Event
}

// NewFold goes on with a state that is of an offset, by reading from log, which must begin at the next.
func NewFold(log *Reader, state *ledger.Partition, offset, oversold int64) *Fold {
	return &Fold{State: state, Offset: offset, Oversold: oversold, log: log}
}

// From has the fold read on from another reader.
func (f *Fold) From(log *Reader) { f.log = log }

// Advance folds the records up to and with an offset. each, when it is not nil, is told of every record, after it was folded; the event is valid until it
// returns, and Advance stops when it returns false.
func (f *Fold) Advance(ctx context.Context, to int64, each func(*kgo.Record, *event.Event, ledger.Result) bool) error {
	return f.log.Until(ctx, to+1, func(r *kgo.Record) bool {
		res := Apply(f.State, &f.reader, &f.event, r)
		f.Offset = r.Offset
		f.Oversold += int64(res.Oversold)
		if each == nil {
			f.Forget()
			return true
		}
		return each(r, &f.event, res)
	})
}

// Forget lets the state forget what was to be stored, when nothing stores it.
func (f *Fold) Forget() {
	if len(f.State.Changed()) > 4096 || len(f.State.Journal()) > 0 && len(f.State.Journal()[0].Data) > 1<<20 {
		f.State.Flushed()
	}
}
