package ledgerprojector

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/topics"
)

// An owner that was cut off may have levels on their way to Kafka, and append them after those of the owner that came after it. By their version readers tell that
// they are older; but the last record of a SKU is what compaction keeps, and all that a reader which starts later will see. So an owner watches for levels
// that others have written: it knows the offsets of its own, and what is between or behind them is strange to it. It reads which SKUs are in there, and
// emits their newest levels again, so that the owner has the last word. How far that is done is stored beside the partition, for the next owner to go on
// from: whoever claims a partition looks at all that was written since.

// stray is a stretch of the partition of stock.levels that its owner has not written.
type stray struct {
	from, to int64
	last     map[string]edition // by SKU, its last level in there; nil while it is not read
	taken    bool               // the worker has it
}

// edition tells one level of a SKU from another.
type edition struct{ version, generation int64 }

// unreadable is a level that cannot be read: none is like it.
var unreadable = edition{-1, -1}

// note takes in that one of the owner's levels is at an offset. Under mu.
func (o *outbox) note(offset int64) {
	if offset > o.levelsEnd {
		o.strange(offset)
	}
	o.levelsEnd = max(o.levelsEnd, offset+1)
}

// strange notes that others have written what is between the owner's last level and an offset. Under mu.
func (o *outbox) strange(to int64) {
	o.strays = append(o.strays, &stray{from: o.levelsEnd, to: to})
	o.levelsEnd = to
	select {
	case o.unread <- struct{}{}:
	default:
	}
}

// still says whether nothing is on its way, and how much has ever been sent.
func (o *outbox) still() (bool, int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) == 0, o.sends
}

// ended takes in where the partition of stock.levels ends, as asked while nothing was on its way: sends is what still said before.
func (o *outbox) ended(end, sends int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(o.queue) > 0 || o.sends != sends || o.broken:
	case end > o.levelsEnd:
		o.strange(end)
	case end < o.levelsEnd: // the topic has lost records, or was made anew: load again, which emits all
		o.broken = true
		close(o.failed)
		o.w.s.log.Warn(schemas.StockLevels+" is shorter than what it has taken: all levels are emitted again", "partition", o.w.partition, "end", end, "want", o.levelsEnd)
	}
}

// settledTo is the offset in stock.levels up to which nothing strange is left to answer. Under mu.
func (o *outbox) settledTo() int64 {
	if len(o.strays) > 0 {
		return o.strays[0].from
	}
	return o.levelsEnd
}

// watch reads what is strange, until the outbox is closed.
func (o *outbox) watch() {
	defer close(o.watched)
	var p pause
	for {
		o.mu.Lock()
		var next *stray
		for _, st := range o.strays {
			if st.last == nil {
				next = st
				break
			}
		}
		o.mu.Unlock()
		if next == nil {
			select {
			case <-o.unread:
				continue
			case <-o.ctx.Done():
				return
			}
		}
		last, err := o.w.s.editions(o.ctx, o.w.partition, next.from, next.to)
		if err != nil {
			if o.ctx.Err() == nil {
				o.w.s.log.Warn("levels that another has written cannot be read; trying again", "partition", o.w.partition, "err", err)
			}
			if !p.wait(o.ctx) {
				return
			}
			continue
		}
		p.n = 0
		o.mu.Lock()
		next.last = last
		o.mu.Unlock()
		select {
		case o.read <- struct{}{}:
		default:
		}
	}
}

// editions is the last level of each SKU in a stretch of a partition of stock.levels.
func (s *Service) editions(ctx context.Context, p int32, from, to int64) (map[string]edition, error) {
	client, err := s.deps.Kafka.Client(s.log, name+"-strays")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	out := make(map[string]edition)
	var at kadm.Offsets
	at.Add(kadm.Offset{Topic: schemas.StockLevels, Partition: p, At: from})
	_, err = kafka.Committed(ctx, client, map[string][]int32{schemas.StockLevels: {p}}, at, func(r *kgo.Record) {
		if r.Offset >= to {
			return
		}
		e := unreadable
		if v, err := topics.DecodeLevel(r.Value); err == nil && v.SKU == string(r.Key) {
			e = edition{v.Version, v.Generation}
		}
		out[string(r.Key)] = e
	})
	return out, err
}

// collect takes over what was read.
func (w *worker) collect() {
	o := w.out
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, st := range o.strays {
		if st.last == nil || st.taken {
			continue
		}
		st.taken = true
		if w.strange == nil {
			w.strange = make(map[string]edition)
		}
		for sku, e := range st.last {
			w.strange[sku] = e
		}
		w.answering = append(w.answering, st)
	}
}

// answer adds the newest levels of SKUs whose last level is another's and not the newest to an output. Once that is acknowledged, the strays are done with.
func (w *worker) answer(b *output) {
	now, n := time.Now().UnixMicro(), int64(0)
	for sku, e := range w.strange {
		if k := w.state.SKU(sku); k != nil && (edition{k.Version(), w.generation}) != e {
			b.add(w.levelRecord(b, k, now))
			n++
		}
	}
	if n > 0 {
		w.s.log.Info("others have written levels: the newest of their SKUs are emitted again", "partition", w.partition, "skus", n)
		w.s.metrics.answered.Add(w.ctx, n)
	}
	b.answers = w.answering
	w.strange, w.answering = nil, nil
}

// answerNow answers while there is nothing to store: all that was folded is, and is emitted. It returns ErrOwner or ErrStale when the partition is not this owner's any
// more, which then has no say. While Redis does not answer it does nothing: the next tick tries again.
func (w *worker) answerNow() error {
	err := w.store.Note(w.ctx, w.out.acknowledged())
	if errors.Is(err, hotview.ErrOwner) || errors.Is(err, hotview.ErrStale) {
		return err
	}
	if err != nil {
		w.s.log.Warn("redis does not say whose the partition is; levels that another has written are answered later", "partition", w.partition, "err", err)
		w.hushed = true
		return nil
	}
	b := w.out.begin(w.folded)
	w.answer(b)
	b.send()
	return nil
}

// strays looks whether others have written behind the levels of partitions that are at rest. Where levels come, their offsets tell.
func (s *Service) strays(ctx context.Context, workers []*worker) {
	type rest struct {
		box   *outbox
		sends int64
	}
	still := make(map[int32]rest)
	for _, w := range workers {
		if box := w.box.Load(); box != nil {
			if ok, sends := box.still(); ok {
				still[w.partition] = rest{box, sends}
			}
		}
	}
	if len(still) == 0 {
		return
	}
	ends, err := kadm.NewClient(s.client).ListEndOffsets(ctx, schemas.StockLevels)
	if err != nil {
		return // it is looked at again in a moment
	}
	for p, r := range still {
		if end, ok := ends.Lookup(schemas.StockLevels, p); ok && end.Err == nil {
			r.box.ended(end.Offset, r.sends)
		}
	}
}

// answerable says whether there is something to answer that is not better left to the next turn.
func (w *worker) answerable() bool { return len(w.answering) > 0 && !w.hushed && w.quiet == 0 }
