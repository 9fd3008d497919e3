package ledgerprojector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// Queue bounds, in records: fetching pauses above the one and goes on below the other.
const (
	queueHigh = 64_000
	queueLow  = 16_000
)

// chunk is records of one poll.
type chunk struct {
	records []*kgo.Record
	round   int64
}

// worker owns one partition: one goroutine loads, folds, stores and emits, in that order. Partitions overlap: while one waits for Redis, another folds.
type worker struct {
	s         *Service
	partition int32
	committed int64 // output of events before it has been acknowledged in an earlier life
	done      chan struct{}
	ctx       context.Context
	cancel    context.CancelFunc
	quit      chan struct{} // closed: finish the batch under way and stop
	quitOnce  sync.Once

	ready   atomic.Bool
	applied atomic.Int64 // last applied offset
	end     atomic.Int64 // of the log, as last seen
	skus    atomic.Int64 // in memory

	mu     sync.Mutex
	queue  []chunk
	queued int
	paused bool
	more   chan struct{} // has one token when the queue may have grown
	polled int64         // round that polled records carry; of the poll loop

	// What follows belongs to the goroutine.
	round    int64
	next     int64 // offset expected next
	first    bool  // no record of this round was seen yet
	gap      int64 // first offset after a gap that is being confirmed
	owners   int
	store    *hotview.Store
	state    *ledger.Partition
	oversold int64
	quiet    int64 // output of events before it was emitted in an earlier life
	out      *outbox
	reader   topics.EventReader
	level    ledger.Level
	pending  []chunk
	traced   map[string]context.Context
	spans    []trace.Span
}

func newWorker(s *Service, partition int32, start, committed int64) *worker {
	w := &worker{
		s: s, partition: partition, committed: committed, done: make(chan struct{}), quit: make(chan struct{}), more: make(chan struct{}, 1),
		next: start, first: true, gap: -1, traced: make(map[string]context.Context),
	}
	w.applied.Store(start - 1)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// push queues records; of the poll loop.
func (w *worker) push(rs []*kgo.Record, end int64) {
	w.end.Store(max(end, w.end.Load()))
	if len(rs) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, chunk{rs, w.polled})
	w.queued += len(rs)
	if w.queued > queueHigh && !w.paused {
		w.paused = true
		w.s.client.PauseFetchPartitions(map[string][]int32{schemas.StockEvents: {w.partition}})
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// take is all that is queued, waiting for something to be; nil when the worker is to stop, or kick was closed.
func (w *worker) take(kick <-chan struct{}) []chunk {
	for {
		w.mu.Lock()
		if len(w.queue) > 0 {
			got := append(w.pending[:0], w.queue...)
			clear(w.queue)
			w.queue, w.queued, w.pending = w.queue[:0], 0, got
			if w.paused {
				w.paused = false
				w.s.client.ResumeFetchPartitions(map[string][]int32{schemas.StockEvents: {w.partition}})
			}
			w.mu.Unlock()
			return got
		}
		w.mu.Unlock()
		select {
		case <-w.more:
		case <-kick:
			return nil
		case <-w.quit:
			return nil
		}
	}
}

func (w *worker) lag() int64 { return max(0, w.end.Load()-w.applied.Load()-1) }

// stop lets the worker finish its batch, and cuts it off when ctx ends. It returns when the worker has gone.
func (w *worker) stop(ctx context.Context) {
	w.quitOnce.Do(func() { close(w.quit) })
	select {
	case <-w.done:
	case <-ctx.Done():
		w.cancel()
		<-w.done
	}
	w.cancel()
}

func (w *worker) stopping() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

// run owns the partition until it is told to stop. State that turned out not to be Redis's is forgotten and loaded again.
func (w *worker) run() {
	defer close(w.done)
	log := w.s.log.With("partition", w.partition)
	var p pause
	for !w.stopping() {
		err := w.serve(&p)
		if err == nil || w.stopping() {
			return
		}
		w.s.metrics.reloads.Add(w.ctx, 1)
		log.Warn("loading the partition again", "applied", w.applied.Load(), "err", err)
		ctx, cancel := context.WithCancel(w.ctx)
		go func() {
			select {
			case <-w.quit:
				cancel()
			case <-ctx.Done():
			}
		}()
		p.wait(ctx)
		cancel()
	}
}

// serve claims the partition, loads its state and works until the state turns out to be another than Redis's. It returns nil when it was stopped.
func (w *worker) serve(p *pause) error {
	if err := w.load(); err != nil {
		return err
	}
	defer w.out.close()
	for {
		chunks := w.take(w.out.failed)
		if chunks == nil {
			if w.stopping() {
				w.release()
				return nil
			}
			return errEmit
		}
		for i := range chunks {
			c := &chunks[i]
			if c.round != w.round {
				c.records = nil
				continue // polled before the seek
			}
			if w.first && len(c.records) > 0 {
				if at := c.records[0].Offset; at > w.next && at != w.gap {
					w.gap = at // is it a gap in the log, or was the seek overtaken? Ask once more.
					w.seek(w.next)
					continue
				}
				w.first = false
			}
			if err := w.project(c.records); err != nil {
				return err
			}
			c.records = nil
			p.n = 0
			if w.stopping() {
				w.release()
				return nil
			}
		}
	}
}

// seek has the poll loop go on at an offset, and drops what was polled before.
func (w *worker) seek(offset int64) {
	w.round++
	w.next, w.first = offset, true
	w.s.ask(w, offset, w.round)
}

var errEmit = errors.New("kafka did not take all output")

// load claims the partition and restores its state, from nothing when what is stored is of no use, and emits what the last owner had no time to.
func (w *worker) load() error {
	s, ctx := w.s, w.ctx
	w.owners++
	began := time.Now()
	w.store = hotview.NewStore(s.deps.Redis, s.ns, w.partition, s.id+"/"+strconv.Itoa(int(w.partition))+"/"+strconv.Itoa(w.owners), s.identity)
	end, err := s.end(ctx, w.partition)
	if err != nil {
		return err
	}
	w.end.Store(max(end, w.end.Load()))
	m, err := w.store.Claim(ctx)
	if err != nil && !errors.Is(err, hotview.ErrDamaged) {
		return err
	}
	log := s.log.With("partition", w.partition)
	useful := err == nil && w.store.Fits(m, end)
	if w.out != nil { // an earlier round in this process knows more
		w.committed = max(w.committed, w.out.emittedTo()+1)
	}
	var entries [][]byte
	if useful {
		w.state, entries, err = w.store.Load(ctx, m, s.cfg.Options())
		if errors.Is(err, hotview.ErrDamaged) {
			log.Error("stored state is damaged; folding the log anew", "err", err)
			useful = false
		} else if err != nil {
			return err
		}
	}
	if !useful {
		log.Warn("the stored ledger is of no use; folding the log anew", "stored_offset", m.Offset, "log_end", end, "stored_from", m.Identity, "this_is", s.identity)
		if err := w.store.Clear(ctx); err != nil {
			return err
		}
		m = hotview.Meta{Offset: hotview.NoOffset, Emitted: hotview.NoOffset}
		if w.state, entries, err = w.store.Load(ctx, m, s.cfg.Options()); err != nil {
			return err
		}
	}
	w.oversold = m.Oversold
	w.applied.Store(m.Offset)
	w.quiet = 0
	if m.Emitted == hotview.NoOffset && w.committed <= end {
		w.quiet = w.committed // events below were emitted in an earlier life of this state
	}
	w.out = newOutbox(w, m.Emitted)
	if err := w.repair(m, entries); err != nil {
		return err
	}
	if w.next != m.Offset+1 || w.round > 0 || !w.first {
		w.seek(m.Offset + 1)
	}
	w.skus.Store(int64(w.state.Len()))
	w.ready.Store(m.Offset+1 >= end)
	log.Info("partition loaded", "offset", m.Offset, "skus", w.state.Len(), "took", time.Since(began))
	return nil
}

// repair emits what was applied and not acknowledged.
func (w *worker) repair(m hotview.Meta, entries [][]byte) error {
	if w.quiet > 0 && m.Offset+1 < w.quiet {
		return nil // later, all at once
	}
	b := w.out.begin(m.Offset)
	b.outbox = len(entries)
	for _, e := range entries {
		r, err := decodeEntry(e)
		if err != nil {
			w.s.log.Error("an entry of the ledger's outbox cannot be read", "partition", w.partition, "err", err)
			continue
		}
		b.add(r)
	}
	now := time.Now().UnixMicro()
	w.state.SKUs(func(k *ledger.SKU) bool {
		if k.Offset() > m.Emitted {
			b.add(w.levelRecord(b, k, now))
		}
		return true
	})
	b.send()
	w.quiet = 0
	return nil
}

// project folds records in batches, each stored and emitted before the next.
func (w *worker) project(rs []*kgo.Record) error {
	for len(rs) > 0 {
		n, err := w.batch(rs)
		if err != nil {
			return err
		}
		rs = rs[n:]
		if w.stopping() {
			return nil
		}
	}
	return nil
}

// batch folds, stores and emits a batch from the head of rs, and returns how many records it took.
func (w *worker) batch(rs []*kgo.Record) (int, error) {
	s := w.s
	began := time.Now()
	prev := w.applied.Load()
	b := hotview.Batch{Prev: prev, Last: prev, Oversold: w.oversold}
	out := w.out.begin(prev)
	var e event.Event
	var applied, duplicates, rejected, oversold int64
	n := 0
	for n < len(rs) && n < s.cfg.BatchEvents && len(w.state.Changed()) < s.cfg.BatchSKUs {
		r := rs[n]
		n++
		if r.Offset <= prev {
			continue // fetched twice
		}
		b.Last = r.Offset
		if err := w.reader.Read(r.Value, &e); err != nil {
			rejected++
			w.reject(out, r, "undecodable", err.Error()+": find who writes to "+schemas.StockEvents+", and send the event again through the API", &b)
			continue
		}
		if string(r.Key) != e.SKU {
			rejected++
			w.reject(out, r, "key_mismatch", fmt.Sprintf("the record's key %.64q is not the SKU %.64q, so that it may be in the wrong partition: key events by SKU", r.Key, e.SKU), &b)
			continue
		}
		res := w.state.Apply(&e, r.Offset, r.Timestamp.UnixMicro())
		switch res.Outcome {
		case ledger.Applied:
			applied++
			if res.Oversold > 0 {
				oversold += int64(res.Oversold)
				w.alertOversold(out, &e, res.Oversold, &b)
			}
			if res.Unknown {
				w.alertUnknown(out, &e, &b)
			}
			w.trace(r, &e)
		case ledger.Duplicate:
			duplicates++
		case ledger.Rejected:
			rejected++
			w.reject(out, r, res.Fault.Reason, res.Fault.Detail, &b)
		}
	}
	if b.Last == prev {
		return n, nil
	}
	if len(b.Outbox) > 0 && rejected > 0 {
		s.log.Warn("events rejected: see stock.rejected", "partition", w.partition, "from", prev+1, "to", b.Last, "count", rejected)
	}
	now := time.Now()
	b.AppliedAt = now.UnixMicro()
	b.Oversold += oversold
	out.last, out.outbox = b.Last, len(b.Outbox)
	quiet := b.Last+1 < w.quiet
	if !quiet && w.quiet == 0 {
		for _, k := range w.state.Changed() {
			out.add(w.levelRecord(out, k, b.AppliedAt))
		}
	}
	if err := w.step(&b); err != nil {
		w.endSpans(err)
		return 0, err
	}
	w.oversold = b.Oversold
	w.applied.Store(b.Last)
	w.next = b.Last + 1
	w.skus.Store(int64(w.state.Len()))
	switch {
	case quiet:
	case w.quiet > 0: // caught up with an earlier life: from here on as usual, after all that it may have lost
		w.quiet = 0
		w.state.SKUs(func(k *ledger.SKU) bool {
			out.add(w.levelRecord(out, k, b.AppliedAt))
			return true
		})
		out.send()
	default:
		out.send()
	}
	w.endSpans(nil)
	if !w.ready.Load() && w.lag() == 0 {
		w.ready.Store(true)
	}
	s.totals.add(applied, duplicates, rejected, oversold, b.AppliedAt)
	s.metrics.batch(w.ctx, n, time.Since(began))
	return n, nil
}

// step stores a batch, for as long as it takes Redis to come back.
func (w *worker) step(b *hotview.Batch) error {
	var p pause
	for {
		b.Emitted, b.Sent = w.out.acknowledged()
		err := w.store.Step(w.ctx, w.state, b)
		switch {
		case err == nil:
			w.out.trimmed(b.Sent)
			return nil
		case errors.Is(err, hotview.ErrOwner), errors.Is(err, hotview.ErrStale):
			return err
		}
		w.s.log.Warn("redis did not take a batch; trying again", "partition", w.partition, "from", b.Prev, "to", b.Last, "err", err)
		if !p.wait(w.ctx) {
			return err
		}
	}
}

// release waits for output under way, and notes that it was acknowledged.
func (w *worker) release() {
	ctx, cancel := context.WithTimeout(w.ctx, w.s.cfg.Drain)
	defer cancel()
	w.out.wait(ctx)
	emitted, sent := w.out.acknowledged()
	if err := w.store.Release(ctx, emitted, sent); err != nil && !errors.Is(err, hotview.ErrOwner) {
		w.s.log.Warn("what was emitted is not noted; the next owner emits it again", "partition", w.partition, "err", err)
	}
}

// trace opens a span for an event that is traced, and has the SKU's level carry it on.
func (w *worker) trace(r *kgo.Record, e *event.Event) {
	if len(w.traced) > 0 {
		delete(w.traced, e.SKU) // the level carries the trace of its last event
	}
	if !slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "traceparent" }) {
		return
	}
	ctx := telemetry.Extract(context.Background(), r)
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return
	}
	ctx, span := w.s.deps.Telemetry.Tracer.Start(ctx, "ledger apply", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("stock.event.id", e.ID), attribute.String("stock.event.kind", e.Kind.String()), attribute.String("stock.sku", e.SKU),
		attribute.Int64("messaging.kafka.offset", r.Offset)))
	w.spans = append(w.spans, span)
	w.traced[w.state.SKU(e.SKU).Name()] = ctx
}

func (w *worker) endSpans(err error) {
	for _, sp := range w.spans {
		if err != nil {
			sp.RecordError(err)
		}
		sp.End()
	}
	clear(w.spans)
	w.spans = w.spans[:0]
	clear(w.traced)
}
