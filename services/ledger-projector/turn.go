package ledgerprojector

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
)

// gather is the longest that a batch waits for records that are in the log and not fetched yet: the larger a batch, the fewer writes an event costs.
const gather = 10 * time.Millisecond

// turn is one batch of a partition on its way: it is folded, then made ready (step and out), then stored, then emitted.
type turn struct {
	batch hotview.Batch
	step  hotview.Step // all that is to be stored, as it was when the batch ended
	out   *output
	quiet bool // an earlier life has emitted its output

	began                                   time.Time
	records                                 int
	skus                                    int64 // in memory after it
	applied, duplicates, rejected, oversold int64
	spans                                   []trace.Span
}

func (t *turn) empty() bool { return t.batch.Last == t.batch.Prev }

// endSpans ends what was begun for traced events.
func (t *turn) endSpans(err error) {
	for _, sp := range t.spans {
		if err != nil {
			sp.RecordError(err)
		}
		sp.End()
	}
	clear(t.spans)
	t.spans = t.spans[:0]
}

// storing is the goroutine that stores and emits the turns of one round, in order.
type storing struct {
	w      *worker
	out    *outbox
	store  *hotview.Store
	pause  *pause
	turns  chan *turn
	idle   chan struct{} // has a token while it waits for a turn
	free   chan *turn    // turns to use again
	broken chan struct{} // closed when a turn could not be stored: err says why
	done   chan struct{}
	err    error
}

// storing starts the goroutine. end ends it.
func (w *worker) storing(p *pause) *storing {
	st := &storing{
		w: w, out: w.out, store: w.store, pause: p, turns: make(chan *turn, 1), idle: make(chan struct{}, 1), free: make(chan *turn, 2),
		broken: make(chan struct{}), done: make(chan struct{}),
	}
	st.idle <- struct{}{}
	st.free <- new(turn)
	st.free <- new(turn)
	go st.run()
	return st
}

func (st *storing) run() {
	defer close(st.done)
	for t := range st.turns {
		if st.err == nil {
			if st.err = st.keep(t); st.err != nil {
				close(st.broken)
			}
		}
		if st.err != nil {
			t.endSpans(st.err)
		}
		st.free <- t
		st.idle <- struct{}{}
	}
}

// stuck says whether a turn could not be stored.
func (st *storing) stuck() bool {
	select {
	case <-st.broken:
		return true
	default:
		return false
	}
}

// end waits for what was handed over, and returns why something of it could not be stored.
func (st *storing) end() error {
	close(st.turns)
	<-st.done
	return st.err
}

// keep stores a turn, for as long as it takes Redis to come back, and then emits its output: never before.
func (st *storing) keep(t *turn) error {
	w := st.w
	var p pause
	for {
		acked := st.out.acknowledged()
		err := st.store.Apply(w.ctx, &t.step, acked)
		if err == nil {
			st.out.trimmed(acked.Sent)
			break
		}
		if errors.Is(err, hotview.ErrOwner) || errors.Is(err, hotview.ErrStale) {
			return err
		}
		w.s.log.Warn("redis did not take a batch; trying again", "partition", w.partition, "from", t.batch.Prev, "to", t.batch.Last, "err", err)
		if !p.wait(w.ctx) {
			return err
		}
	}
	st.pause.n = 0
	w.applied.Store(t.batch.Last)
	w.skus.Store(t.skus)
	if !t.quiet {
		t.out.send()
	}
	t.out = nil
	t.endSpans(nil)
	if !w.ready.Load() && w.lag() == 0 {
		w.ready.Store(true)
	}
	w.s.totals.add(t.applied, t.duplicates, t.rejected, t.oversold, t.batch.AppliedAt)
	w.s.metrics.batch(w.ctx, t.records, time.Since(t.began))
	return nil
}

// fold folds what is fetched, turn after turn, until the worker is to stop (nil) or its state is not to be gone on with. A turn ends when it is full, or when
// nothing more is there to fold and the one before it is stored: so batches are small when there is little to do, and large when there is much.
func (w *worker) fold(st *storing) error {
	late := time.NewTimer(gather)
	defer late.Stop()
	due := time.NewTicker(dueEvery)
	defer due.Stop()
	for {
		var t *turn
		select {
		case t = <-st.free:
		case <-st.broken:
			return nil // end says why
		}
		w.begin(t)
		for full := false; !full; {
			select {
			case <-st.broken:
				t.endSpans(errAbandoned)
				return nil
			case <-w.out.failed:
				t.endSpans(errEmit)
				return errEmit
			default:
			}
			if w.stopping() {
				break
			}
			select {
			case <-due.C:
				w.tick()
			default:
			}
			select {
			case <-w.out.read:
				w.collect()
			default:
			}
			if len(w.records) == 0 {
				w.refill()
			}
			if len(w.records) > 0 {
				full = w.foldInto(t)
				continue
			}
			// Nothing is queued. Wait for more; once there is something to store, also for the turn before to be stored.
			idle, waited := st.idle, late.C
			if t.empty() {
				waited = nil
				if !w.answerable() {
					idle = nil
				}
			} else if age := time.Since(t.began); w.end.Load()-w.folded-1 > int64(w.s.cfg.BatchEvents) && age < gather {
				idle = nil // more is in the log and about to come
				late.Reset(gather - age)
			} else {
				waited = nil
			}
			select {
			case <-w.more:
			case <-due.C:
				w.tick()
			case <-w.out.read:
				w.collect()
			case <-waited:
			case <-idle:
				if t.empty() && !st.stuck() {
					if err := w.answerNow(); err != nil {
						t.endSpans(err)
						st.idle <- struct{}{}
						return err
					}
				}
				st.idle <- struct{}{}
				full = true
			case <-w.out.failed:
				t.endSpans(errEmit)
				return errEmit
			case <-st.broken:
			case err := <-w.moved:
				t.endSpans(err)
				return err
			case <-w.quit:
			}
		}
		if t.empty() {
			if w.stopping() {
				return nil
			}
			st.free <- t
			continue
		}
		w.finish(t)
		select {
		case <-st.idle:
			st.turns <- t
		case <-st.broken:
			t.endSpans(errAbandoned)
			return nil
		}
		if w.stopping() {
			return nil
		}
	}
}

// errAbandoned is told of events that were folded on top of a batch that could not be stored: they are folded again.
var errAbandoned = errors.New("the batch before was not stored; the event is applied later")

// tick is what comes up while nothing else does.
func (w *worker) tick() {
	w.hushed = false
	w.giveUp()
}

// refill takes the next records of this round that are queued.
func (w *worker) refill() {
	for {
		if len(w.pending) == 0 {
			if w.pending = w.take(); len(w.pending) == 0 {
				return
			}
		}
		c := w.pending[0]
		w.pending[0].records = nil
		w.pending = w.pending[1:]
		if c.round != w.round || len(c.records) == 0 {
			continue // polled before the seek
		}
		if w.first {
			if at := c.records[0].Offset; at > w.next && at != w.gap {
				w.gap = at // is it a gap in the log, or was the seek overtaken? Ask once more.
				w.seek(w.next)
				continue
			}
			w.first = false
		}
		w.records = c.records
		return
	}
}

// begin makes t the next turn, on top of what was folded.
func (w *worker) begin(t *turn) {
	t.batch = hotview.Batch{Prev: w.folded, Last: w.folded, Outbox: t.batch.Outbox[:0]}
	t.out = w.out.begin(w.folded)
	t.records, t.applied, t.duplicates, t.rejected, t.oversold = 0, 0, 0, 0, 0
}

// foldInto folds records into a turn, until there are none or it is full.
func (w *worker) foldInto(t *turn) (full bool) {
	s := w.s
	if t.records == 0 {
		t.began = time.Now()
	}
	b, rs := &t.batch, w.records
	n := 0
	for n < len(rs) && !full {
		some := rs[n:min(n+ledger.Lookahead, len(rs))]
		w.lookAhead(some)
		for i, r := range some {
			some[i] = nil
			n++
			if r.Offset > w.folded { // else it was fetched twice
				t.records++
				w.folded, b.Last = r.Offset, r.Offset
				w.apply(t, r, i)
			}
			r.Recycle() // nothing of it is kept
			if full = t.records >= s.cfg.BatchEvents || len(w.state.Changed()) >= s.cfg.BatchSKUs; full {
				break // the rest is decoded once more
			}
		}
	}
	w.records = rs[n:]
	w.next = w.folded + 1
	return full
}

// ahead is what a few records that are folded next say.
type ahead struct {
	events  [ledger.Lookahead]event.Event
	offsets [ledger.Lookahead]int64
	at      [ledger.Lookahead]int64 // time of the record, Unix microseconds
	faults  [ledger.Lookahead]error // why a record cannot be decoded
}

// lookAhead decodes records, and tells the state what comes.
func (w *worker) lookAhead(rs []*kgo.Record) {
	a := &w.ahead
	for i, r := range rs {
		a.offsets[i], a.at[i], a.faults[i] = r.Offset, r.Timestamp.UnixMicro(), w.reader.Read(r.Value, &a.events[i])
	}
	w.state.Ahead(a.events[:len(rs)], a.offsets[:len(rs)])
}

// apply folds one record, the i-th of those looked ahead at.
func (w *worker) apply(t *turn, r *kgo.Record, i int) {
	b, e := &t.batch, &w.ahead.events[i]
	if err := w.ahead.faults[i]; err != nil {
		t.rejected++
		w.reject(t.out, r, "undecodable", err.Error()+": find who writes to "+schemas.StockEvents+", and send the event again through the API", b)
		return
	}
	if string(r.Key) != e.Key() {
		t.rejected++
		w.reject(t.out, r, "key_mismatch", fmt.Sprintf("the record's key %.64q is not the SKU %.64q, so that it may be in the wrong partition: key events by SKU", r.Key, e.Key()), b)
		return
	}
	res := w.state.Apply(e, r.Offset, w.ahead.at[i])
	if res.Decided {
		w.decide(t.out, e, r.Offset, b)
	}
	switch res.Outcome {
	case ledger.Applied:
		t.applied++
		if res.Oversold > 0 {
			t.oversold += int64(res.Oversold)
			w.alertOversold(t.out, e, res.Oversold, b)
		}
		if res.Unknown {
			w.alertUnknown(t.out, e, b)
		}
		w.trace(t, r, e)
	case ledger.Unchanged:
		t.applied++
	case ledger.Duplicate:
		t.duplicates++
	case ledger.Passed:
		t.out.watermarks = append(t.out.watermarks, order.Watermark{Channel: strings.Clone(e.Channel), Until: e.OccurredAt, SourceOffset: r.Offset})
	case ledger.Rejected:
		t.rejected++
		w.reject(t.out, r, res.Fault.Reason, res.Fault.Detail, b)
	}
}

// finish makes a turn ready to be stored and emitted. From then on the state may change again: the turn holds copies.
func (w *worker) finish(t *turn) {
	b := &t.batch
	if len(b.Outbox) > 0 && t.rejected > 0 {
		w.s.log.Warn("events rejected: see "+schemas.StockRejected, "partition", w.partition, "from", b.Prev+1, "to", b.Last, "count", t.rejected)
	}
	b.AppliedAt = time.Now().UnixMicro()
	w.oversold += t.oversold
	b.Oversold = w.oversold
	t.out.last, t.out.outbox = b.Last, len(b.Outbox)
	t.skus = int64(w.state.Len())
	switch t.quiet = b.Last+1 < w.quiet; {
	case t.quiet:
	case w.quiet > 0: // caught up with an earlier life: from here on as usual, after all that it may have lost
		w.quiet = 0
		w.state.SKUs(func(k *ledger.SKU) bool {
			t.out.add(w.levelRecord(t.out, k, b.AppliedAt))
			return true
		})
	default:
		t.out.room(len(w.state.Changed()))
		for _, k := range w.state.Changed() {
			t.out.add(w.levelRecord(t.out, k, b.AppliedAt))
		}
	}
	clear(w.traced)
	if len(w.answering) > 0 && !t.quiet {
		w.answer(t.out)
	}
	w.store.Prepare(w.state, b, &t.step)
}
