package analytics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// sink is one table: what waits for it, and the goroutine that inserts it.
type sink struct {
	s     *Service
	table table
	rows  encoder // the goroutine's own
	ring  chan struct{}

	mu       sync.Mutex
	parts    map[*part]struct{} // with something queued
	queued   int
	oldest   time.Time // when the oldest of what is queued came
	newest   time.Time
	hurried  bool // what is queued is to be inserted without waiting for more
	recovers []*recovery

	pending                             atomic.Int64 // queued, and under way
	rowsIn, inserts, redone, lastInsert atomic.Int64
}

func newSink(s *Service, t table) *sink {
	return &sink{s: s, table: t, rows: t.encoder(), ring: make(chan struct{}, 1), parts: make(map[*part]struct{})}
}

// prefixed says that the table holds several topics, and so has a column for them.
func (k *sink) prefixed() bool { return strings.HasSuffix(k.table.topic, ".") }

// cutPart is the records of one partition in a block.
type cutPart struct {
	part    *part
	records []*kgo.Record
}

func (c *cutPart) span() span {
	return span{c.part.topic, c.part.id, c.records[0].Offset, c.records[len(c.records)-1].Offset}
}

// recovery is an intent that was found, not known to be inserted, and the parts that wait for it.
type recovery struct {
	text  string
	spans []span
	parts []*part
}

type rejection struct {
	record *kgo.Record
	fault  *fault
}

func (k *sink) notify() {
	select {
	case k.ring <- struct{}{}:
	default:
	}
}

// take queues records of a part. Those it holds already are left out.
func (k *sink) take(p *part, records []*kgo.Record, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(records) > 0 && records[0].Offset < p.next {
		records = records[1:]
	}
	if len(records) == 0 || p.lost.Load() {
		return
	}
	p.next = records[len(records)-1].Offset + 1
	p.queue = append(p.queue, records...)
	k.add(p, len(records), now)
	k.notify()
}

func (k *sink) add(p *part, n int, now time.Time) {
	if k.queued == 0 {
		k.oldest = now
	}
	k.newest = now
	k.parts[p] = struct{}{}
	k.queued += n
	k.pending.Add(int64(n))
}

// hurry has what is queued now inserted without waiting for more.
func (k *sink) hurry() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.queued > 0 {
		k.hurried = true
		k.notify()
	}
}

// drop forgets what is queued of a part that has moved away.
func (k *sink) drop(p *part) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queued -= len(p.queue)
	k.pending.Add(-int64(len(p.queue)))
	p.queue = nil
	delete(k.parts, p)
	k.s.roomier()
	k.notify()
}

func (k *sink) recover(r *recovery) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.recovers = append(k.recovers, r)
	k.notify()
}

// run inserts until ctx has ended and nothing is left, or work ends.
func (k *sink) run(ctx, work context.Context) {
	for work.Err() == nil {
		r, cut, wait := k.next(ctx.Err() != nil)
		var err error
		switch {
		case r != nil:
			err = k.redo(work, r)
		case len(cut) > 0:
			err = k.insert(work, cut)
		case ctx.Err() != nil:
			return
		default:
			timer := time.NewTimer(wait)
			select {
			case <-k.ring:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
		if err != nil && work.Err() == nil { // retries end only with work
			k.s.fatal(fmt.Errorf("table %s: %w", k.table.name, err))
			return
		}
	}
}

// next is what to do: an intent to settle, a block to insert, or how long to wait.
func (k *sink) next(draining bool) (*recovery, []cutPart, time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.recovers) > 0 {
		r := k.recovers[0]
		k.recovers = k.recovers[1:]
		return r, nil, 0
	}
	if k.queued == 0 {
		return nil, nil, time.Hour
	}
	now := time.Now()
	wait := min(k.oldest.Add(k.s.cfg.FlushInterval).Sub(now), k.newest.Add(k.s.cfg.FlushInterval/5).Sub(now))
	if k.queued < k.s.cfg.MaxRows && wait > 0 && !draining && !k.hurried {
		return nil, nil, wait
	}
	cut := k.cut()
	k.hurried = k.hurried && k.queued > 0 && len(cut) > 0
	if len(cut) == 0 {
		return nil, nil, time.Hour // all of it waits for an intent to be settled
	}
	return nil, cut, 0
}

// cut takes the next block off the queues: at most MaxRows records, and no more parts than an intent has room for.
func (k *sink) cut() []cutPart {
	parts := slices.SortedFunc(maps.Keys(k.parts), func(a, b *part) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return int(a.id) - int(b.id)
	})
	var out []cutPart
	left, room := k.s.cfg.MaxRows, intentLimit-len(intentVersion)
	for _, p := range parts {
		if p.blocked || left == 0 {
			continue
		}
		if room -= spanSize(p.topic); room < 0 {
			break
		}
		n := min(left, len(p.queue))
		out = append(out, cutPart{p, p.queue[:n:n]})
		left -= n
		if p.queue = p.queue[n:]; len(p.queue) == 0 {
			p.queue = nil
			delete(k.parts, p)
		}
	}
	k.queued -= k.s.cfg.MaxRows - left
	return out
}

// giveBack queues again what was cut and not sent, for the parts that are still held.
func (k *sink) giveBack(cut []cutPart) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for _, c := range cut {
		k.pending.Add(-int64(len(c.records)))
		if c.part.lost.Load() {
			continue
		}
		c.part.queue = append(slices.Clone(c.records), c.part.queue...)
		k.add(c.part, len(c.records), now)
	}
	k.s.roomier()
}

// insert takes one block from intent to committed offsets.
func (k *sink) insert(ctx context.Context, cut []cutPart) error {
	spans := make([]span, len(cut))
	n := 0
	for i := range cut {
		spans[i] = cut[i].span()
		n += len(cut[i].records)
	}
	text := intent(spans)
	each := func(yield func(*kgo.Record)) {
		for i := range cut {
			for _, r := range cut[i].records {
				yield(r)
			}
		}
	}
	faults := k.encode(each)
	switch err := k.s.commit(ctx, cut, text, true, func(c *cutPart) int64 { return c.records[0].Offset }); {
	case errors.Is(err, errLost):
		k.giveBack(cut)
		return nil
	case err != nil:
		return err
	}
	traced := k.startSpans(each)
	err := k.send(ctx, text, faults)
	traced.end(err)
	if err != nil {
		return err
	}
	if err := k.s.commit(ctx, cut, "", false, func(c *cutPart) int64 { return c.records[len(c.records)-1].Offset + 1 }); err != nil {
		return err
	}
	for i := range cut {
		cut[i].part.done.Store(cut[i].records[len(cut[i].records)-1].Offset + 1)
	}
	k.pending.Add(-int64(n))
	k.s.roomier()
	return nil
}

// encode fills the block with the records' rows, and returns what was wrong with them.
func (k *sink) encode(each func(func(*kgo.Record))) (faults []rejection) {
	k.rows.base().reset()
	each(func(r *kgo.Record) {
		if r.Attrs.IsControl() {
			return
		}
		if f := k.rows.add(r); f != nil {
			faults = append(faults, rejection{r, f})
		}
	})
	return faults
}

// send reports the faults, then inserts the block, until both are acknowledged.
func (k *sink) send(ctx context.Context, text string, faults []rejection) error {
	if err := k.s.reject(ctx, faults); err != nil {
		return err
	}
	for _, f := range faults {
		k.s.rejected.Add(1)
		k.s.rejectedTotal.Add(ctx, 1, reasonAttr(f.fault.reason))
	}
	b := k.rows.base()
	if b.rows == 0 {
		return nil
	}
	began, tries := time.Now(), 0
	err := k.s.retry(ctx, "insert into "+k.table.name, func() error {
		if tries++; tries > 1 {
			k.s.retriesTotal.Add(ctx, 1, tableAttr(k.table.name))
		}
		return k.s.inserter.insert(ctx, k.table.name, token(text), b)
	})
	if err != nil {
		return err
	}
	k.rowsIn.Add(int64(b.rows))
	k.inserts.Add(1)
	k.lastInsert.Store(time.Now().UnixMicro())
	k.s.rowsTotal.Add(ctx, int64(b.rows), tableAttr(k.table.name))
	k.s.insertsTotal.Add(ctx, 1, tableAttr(k.table.name))
	k.s.insertSeconds.Record(ctx, time.Since(began).Seconds())
	return nil
}

// redo settles an intent that was found: the same records, in a block with the same token, as often as it takes.
func (k *sink) redo(ctx context.Context, r *recovery) error {
	k.s.log.InfoContext(ctx, "insert again what was under way", "table", k.table.name, "intent", r.text)
	var records []*kgo.Record
	err := k.s.retry(ctx, "read again "+r.text, func() (err error) {
		records, err = k.s.read(ctx, r.spans)
		return err
	})
	if err != nil {
		return err
	}
	each := func(yield func(*kgo.Record)) {
		for _, rec := range records {
			yield(rec)
		}
	}
	faults := k.encode(each)
	traced := k.startSpans(each)
	err = k.send(ctx, r.text, faults)
	traced.end(err)
	if err != nil {
		return err
	}
	k.redone.Add(1)
	last := make(map[partition]int64)
	for _, sp := range r.spans {
		last[partition{sp.topic, sp.partition}] = sp.to
	}
	cuts := make([]cutPart, len(r.parts))
	for i, p := range r.parts {
		cuts[i].part = p
	}
	if err := k.s.commit(ctx, cuts, "", false, func(c *cutPart) int64 { return last[c.part.partition] + 1 }); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range r.parts {
		p.blocked = false
		p.done.Store(last[p.partition] + 1)
	}
	k.notify()
	return nil
}

// quiet is how long a range of a compacted topic may yield nothing before what has come counts as all: its last records may be gone.
const quiet = 10 * time.Second

// read reads spans with a client of its own, in order. Records that the topic no longer has are left out.
func (s *Service) read(ctx context.Context, spans []span) ([]*kgo.Record, error) {
	offsets := make(map[string]map[int32]kgo.Offset)
	topics := make([]string, 0, len(spans))
	for _, sp := range spans {
		topics = append(topics, sp.topic)
	}
	adm := kadm.NewClient(s.client)
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	left := make(map[partition]span)
	for _, sp := range spans {
		at, ok := starts.Lookup(sp.topic, sp.partition)
		switch {
		case !ok || errors.Is(at.Err, kerr.UnknownTopicOrPartition):
			continue // deleted
		case at.Err != nil:
			return nil, fmt.Errorf("start of %s/%d: %w", sp.topic, sp.partition, at.Err)
		case at.Offset > sp.to:
			continue // beyond retention
		}
		if offsets[sp.topic] == nil {
			offsets[sp.topic] = make(map[int32]kgo.Offset)
		}
		offsets[sp.topic][sp.partition] = kgo.NewOffset().At(max(sp.from, at.Offset))
		left[partition{sp.topic, sp.partition}] = sp
	}
	if len(left) == 0 {
		return nil, nil
	}
	client, err := s.deps.Kafka.Client(s.log, Group+"-redo", kgo.ConsumePartitions(offsets), kgo.FetchMaxWait(250*time.Millisecond),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer client.Close()
	found := make(map[partition][]*kgo.Record)
	heard := time.Now()
	for len(left) > 0 {
		poll, cancel := context.WithTimeout(ctx, quiet)
		fetches := client.PollRecords(poll, pollMax)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var failed error
		fetches.EachError(func(topic string, p int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				failed = fmt.Errorf("fetch %s/%d: %w", topic, p, err)
			}
		})
		if failed != nil {
			return nil, failed
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at := partition{r.Topic, r.Partition}
			sp, ok := left[at]
			if !ok {
				return
			}
			heard = time.Now()
			if r.Offset <= sp.to {
				found[at] = append(found[at], r)
			}
			if r.Offset >= sp.to {
				delete(left, at)
			}
		})
		if time.Since(heard) >= quiet {
			s.log.WarnContext(ctx, "records of an insert under way are gone from their topic", "partitions", len(left))
			break
		}
	}
	var out []*kgo.Record
	for _, sp := range spans {
		out = append(out, found[partition{sp.topic, sp.partition}]...)
	}
	return out, nil
}

func reasonAttr(reason string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", reason)))
}
