package ledgerprojector

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
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

// queueHigh is how many records may wait to be folded before fetching pauses, until they are taken. It is more than one poll brings: a partition that paused with each would wait for
// the next fetch, which the broker holds back while the other partitions have nothing.
const queueHigh = 2 * pollMax

// chunk is records of one poll.
type chunk struct {
	records []*kgo.Record
	round   int64
}

// worker owns one partition. One goroutine loads and folds, a second one stores and emits what the first has folded ([turn]): while a batch is on its way to
// Redis, the next is folded, and the one before is on its way to Kafka. When a batch cannot be stored, all that was folded after it is forgotten too, and
// the state is loaded again.
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
	serving atomic.Int64 // generation
	moved   chan error   // has one when a rebuild has switched over, or Redis has lost what was stored
	box     atomic.Pointer[outbox]
	applied atomic.Int64 // last offset that is in Redis
	end     atomic.Int64 // of the log, as last seen
	skus    atomic.Int64 // in memory

	mu     sync.Mutex
	queue  []chunk
	queued int
	paused bool
	more   chan struct{} // has one token when the queue may have grown
	polled int64         // round that polled records carry; of the poll loop

	// What follows belongs to the goroutine that folds.
	round      int64
	next       int64 // offset expected next
	first      bool  // no record of this round was seen yet
	gap        int64 // first offset after a gap that is being confirmed
	owners     int
	store      *hotview.Store
	generation int64 // of store
	state      *ledger.Partition
	folded     int64 // last offset in state
	oversold   int64
	quiet      int64 // output of events before it was emitted in an earlier life
	out        *outbox
	reader     topics.EventReader
	level      ledger.Level
	pending    []chunk
	records    []*kgo.Record // taken and not folded
	ahead      ahead         // of records
	traced     map[string]context.Context
	strange    map[string]edition // SKUs whose last level is another's, as far as that is to be answered
	answering  []*stray           // strays they are in
	hushed     bool               // until the next tick
}

func newWorker(s *Service, partition int32, start, committed int64) *worker {
	w := &worker{
		s: s, partition: partition, committed: committed, done: make(chan struct{}), quit: make(chan struct{}), more: make(chan struct{}, 1), moved: make(chan error, 1),
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

// take is all that is queued; nothing when nothing is.
func (w *worker) take() []chunk {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return nil
	}
	got := append(w.pending[:0], w.queue...)
	clear(w.queue)
	w.queue, w.queued = w.queue[:0], 0
	if w.paused {
		w.paused = false
		w.s.client.ResumeFetchPartitions(map[string][]int32{schemas.StockEvents: {w.partition}})
	}
	return got
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
		if errors.Is(err, hotview.ErrFrozen) { // a rebuild catches up: in a moment it is ours again
			p.n = min(p.n, 2)
			log.Debug("waiting for a rebuild to take the partition over", "err", err)
		} else {
			w.s.metrics.reloads.Add(w.ctx, 1)
			log.Warn("loading the partition again", "applied", w.applied.Load(), "err", err)
		}
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
	st := w.storing(p)
	err := w.fold(st)
	if e := st.end(); err == nil {
		err = e
	}
	if err == nil {
		w.release()
	}
	return err
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
	// After the claim: whatever levels the last owner still knew to be acknowledged are below.
	levelsEnd, endErr := s.endOf(ctx, schemas.StockLevels, w.partition)
	if endErr != nil {
		return endErr
	}
	log := s.log.With("partition", w.partition)
	useful := err == nil && w.store.Fits(m, end)
	if w.out != nil { // an earlier round in this process knows more
		w.committed = max(w.committed, w.out.acknowledged().To+1)
	}
	var entries [][]byte
	if useful {
		w.state, entries, err = w.store.Load(ctx, m, s.cfg.Options())
		if errors.Is(err, hotview.ErrDamaged) {
			log.Error("stored state is damaged; folding the log anew", "err", err)
			w.s.metrics.mismatches.Add(ctx, 1)
			w.s.alertDamage(ctx, w.partition, err)
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
		m = hotview.Meta{Offset: hotview.NoOffset, Emitted: hotview.NoOffset, Levels: hotview.NoOffset}
		if w.state, entries, err = w.store.Load(ctx, m, s.cfg.Options()); err != nil {
			return err
		}
	}
	if m.Offset == hotview.NoOffset { // Redis may have lost what holds for all partitions too
		if _, err := hotview.OpenGlobal(ctx, s.deps.Redis, s.ns, s.global()); err != nil {
			return err
		}
	}
	w.oversold, w.generation = m.Oversold, int64(w.store.Generation())
	w.serving.Store(w.generation)
	select {
	case <-w.moved: //nolint:errcheck // it is what was just loaded
	default:
	}
	w.applied.Store(m.Offset)
	w.folded, w.pending, w.records = m.Offset, nil, nil
	w.quiet = 0
	if m.Emitted == hotview.NoOffset && w.committed <= end {
		w.quiet = w.committed // events below were emitted in an earlier life of this state
	}
	settled := m.Levels
	if settled == hotview.NoOffset {
		if settled = levelsEnd; w.out != nil {
			settled = w.out.acknowledged().Levels
		}
	}
	if settled > levelsEnd {
		log.Warn(schemas.StockLevels+" is shorter than what it has taken: all levels are emitted again", "end", levelsEnd, "want", settled)
		m.Emitted = hotview.NoOffset
	}
	w.strange, w.answering, w.hushed = nil, nil, false
	w.out = newOutbox(w, m.Emitted, settled, levelsEnd)
	if err := w.repair(m, entries); err != nil {
		w.out.close()
		return err
	}
	w.box.Store(w.out)
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

// release waits for output under way, and notes that it was acknowledged.
func (w *worker) release() {
	ctx, cancel := context.WithTimeout(w.ctx, w.s.cfg.Drain)
	defer cancel()
	w.out.wait(ctx)
	if err := w.store.Release(ctx, w.out.acknowledged()); err != nil && !errors.Is(err, hotview.ErrOwner) {
		w.s.log.Warn("what was emitted is not noted; the next owner emits it again", "partition", w.partition, "err", err)
	}
}

// trace opens a span for an event that is traced, and has the SKU's level carry it on.
func (w *worker) trace(t *turn, r *kgo.Record, e *event.Event) {
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
		attribute.String("stock.event.id", strings.Clone(e.ID)), attribute.String("stock.event.kind", e.Kind.String()), attribute.String("stock.sku", strings.Clone(e.SKU)),
		attribute.Int64("messaging.kafka.offset", r.Offset)))
	t.spans = append(t.spans, span)
	w.traced[w.state.SKU(e.SKU).Name()] = ctx
}
