package allocator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/topics"
)

const (
	loadingPoll = 250 * time.Millisecond // how often progress is looked at while partitions load
	sealAfter   = time.Duration(targeting.SealAfter) * time.Microsecond
)

// fromStart has every assigned partition read from its start: the state is in memory, and made of all levels. That the group's offsets have come says that the
// partition is ours alone.
func (s *Service) fromStart(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	s.mu.Lock()
	for _, ps := range offsets {
		for p, o := range ps {
			if got := s.parts[p]; got != nil {
				got.committed, got.ours = o.EpochOffset().Offset, true
			}
			ps[p] = kgo.NewOffset().AtStart()
		}
	}
	s.mu.Unlock()
	s.changes.call()
	return offsets, nil
}

func (s *Service) assigned(_ context.Context, _ *kgo.Client, got map[string][]int32) {
	s.mu.Lock()
	for _, p := range got[schemas.StockLevels] {
		s.parts[p] = s.newOwned(p)
	}
	s.mu.Unlock()
	s.joined.Store(true)
	s.changes.call()
}

// revoked gives partitions up. No turn is under way then, except when they are lost to someone else, who owns them already: its transaction will not be committed.
func (s *Service) revoked(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range gone[schemas.StockLevels] {
		if o := s.parts[p]; o != nil {
			s.engine.Drop(o.Partition)
			delete(s.parts, p)
			s.sideStale = true
			s.adrift.Store(true)
		}
	}
	s.count()
}

// turn takes in what is there, at once and as a whole, decides, and writes.
func (s *Service) turn(ctx context.Context) error {
	fetches := s.poll(ctx)
	defer s.client.AllowRebalance()
	if fetches.IsClientClosed() || ctx.Err() != nil && fetches.NumRecords() == 0 {
		return ctx.Err()
	}
	fetches.EachError(func(t string, p int32, err error) {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			s.deps.Telemetry.Log.WarnContext(ctx, "fetch failed; trying again", "topic", t, "partition", p, "err", err)
		}
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.WriteLimit+loadLimit) // what was taken in is finished
	defer cancel()
	begun := time.Now()
	settings, relisted := s.changes.take()
	if settings {
		if err := s.applySettings(ctx, s.partitions); err != nil {
			return err
		}
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	for sku := range relisted {
		s.engine.Index(sku, s.deps.Catalog.Listing(sku))
	}
	s.mu.Unlock()
	if err := s.followComponents(ctx); err != nil {
		return err
	}
	b := batch{log: s.deps.Telemetry.Log, moved: make(map[int32]*owned)}
	s.mu.Lock()
	s.engine.Begin(begun.UnixMicro())
	for sku := range relisted {
		if o := s.parts[s.partitionOf(sku)]; o != nil {
			s.engine.Relisted(o.Partition, sku)
		}
	}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) { s.takeIn(ctx, &b, p) })
	s.takeSide(ctx, &b, s.side.take())
	s.takeComponents(ctx, s.feed.take())
	s.mu.Unlock()
	if err := s.startLoaded(ctx); err != nil {
		return err
	}
	wrote, err := s.write(ctx, &b)
	if err != nil {
		return err
	}
	if took := time.Since(begun); wrote > 0 || fetches.NumRecords() > 0 {
		s.stats.batch(ctx, took)
		if settings {
			s.stats.recompute.Store(int64(took))
		}
	}
	return nil
}

// poll waits for levels, or for a change of the catalog or of the assignment. While partitions load it looks at their progress now and then.
func (s *Service) poll(ctx context.Context) kgo.Fetches {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	wait := time.Duration(-1)
	if at := s.engine.NextWake(); at > 0 {
		wait = max(0, time.Until(time.UnixMicro(at)))
	}
	if s.engine.Unsealed() && (wait < 0 || wait > sealAfter) {
		wait = sealAfter + time.Microsecond
	}
	for _, o := range s.parts {
		if !o.Live() && (wait < 0 || wait > loadingPoll) {
			wait = loadingPoll
			break
		}
	}
	s.mu.Unlock()
	if wait >= 0 {
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	s.changes.waiting(cancel)
	defer s.changes.waiting(nil)
	return s.client.PollRecords(ctx, s.cfg.PollMax)
}

// batch is what one turn took in.
type batch struct {
	log      logger
	rejected []*kgo.Record
	traced   map[string]context.Context // by SKU
	spans    []trace.Span
	moved    map[int32]*owned // partitions of which something was taken in
}

type logger interface {
	ErrorContext(ctx context.Context, msg string, args ...any)
}

// takeIn feeds the records of one partition to the engine. s.mu is held.
func (s *Service) takeIn(ctx context.Context, b *batch, p kgo.FetchTopicPartition) {
	o := s.parts[p.Partition]
	if o == nil || len(p.Records) == 0 { // given up meanwhile
		return
	}
	o.heard, o.high = time.Now(), p.HighWatermark
	next := o.Next()
	for _, r := range p.Records {
		next = r.Offset + 1
		if len(r.Value) == 0 {
			s.engine.Forget(o.Partition, string(r.Key))
			continue
		}
		l, err := topics.DecodeLevel(r.Value)
		if err == nil && (l.SKU == "" || l.SKU != string(r.Key)) {
			err = fmt.Errorf("its key is %q and its SKU %q: want the same", r.Key, l.SKU)
		}
		if err != nil {
			s.reject(ctx, b, o, r, err)
			continue
		}
		s.stats.levels.Add(1)
		if !s.engine.Level(o.Partition, l) {
			s.stats.stale.Add(1)
			continue
		}
		if !o.Live() {
			continue
		}
		if tc := telemetry.Extract(ctx, r); tc != ctx {
			tc, span := s.deps.Telemetry.Tracer.Start(tc, "allocate", trace.WithSpanKind(trace.SpanKindConsumer),
				trace.WithAttributes(attribute.String("onhand.sku", l.SKU), attribute.Int64("onhand.level_version", l.Version)))
			if b.traced == nil {
				b.traced = make(map[string]context.Context)
			}
			b.traced[l.SKU] = tc // of several levels of a SKU, the newest stands for all
			b.spans = append(b.spans, span)
		}
	}
	b.moved[p.Partition] = o
	s.engine.Read(o.Partition, next)
}

// reject keeps a record that cannot be read, once: a restart reads it again, but the group is past it then.
func (s *Service) reject(ctx context.Context, b *batch, o *owned, r *kgo.Record, err error) {
	if r.Offset < o.committed {
		return
	}
	s.stats.rejected.Add(1)
	b.log.ErrorContext(ctx, "level rejected", "partition", r.Partition, "offset", r.Offset, "sku", string(r.Key), "err", err)
	detail := strings.TrimSpace(err.Error()) + "; the SKU keeps its earlier level until a newer one comes"
	b.rejected = append(b.rejected, s.deps.Codec.RejectedRecord(r, "undecodable", detail, "allocator", time.Now()))
}

// startLoaded makes partitions live whose levels have all been read. Where no more come, Kafka is asked whether there are any: the last may have been compacted away.
func (s *Service) startLoaded(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.count()
	for p, o := range s.parts {
		if o.Live() || !o.loaded {
			continue
		}
		done := o.Next() >= o.end
		if !done && time.Since(o.heard) > loadingPoll {
			next := o.Next()
			s.mu.Unlock()
			empty, err := kafka.Empty(ctx, s.client, schemas.StockLevels, p, next)
			s.mu.Lock()
			if err != nil {
				return err
			}
			if done, o.heard = empty && o.Next() == next, time.Now(); done {
				s.engine.Read(o.Partition, o.end)
			}
		}
		if done && s.parts[p] == o {
			s.engine.Start(o.Partition)
		}
	}
	return nil
}

// count sets what Stats says of the partitions. s.mu is held.
func (s *Service) count() {
	var skus, lag int64
	for _, o := range s.parts {
		skus += int64(o.SKUs())
		lag += max(0, o.high-o.Next())
	}
	s.stats.skus.Store(skus)
	s.stats.lag.Store(lag)
	var booked, unsettled, open, slack, checked, breaches int64
	for _, o := range s.parts {
		booked += int64(o.Booked())
		open += int64(o.Open())
		unsettled += int64(o.Unsettled())
		if c := o.Certificate(); c.Checked > 0 {
			if least := int64(c.LeastSlack); checked == 0 || least < slack {
				slack = least
			}
			checked += c.Checked
			breaches += c.Breaches
		}
	}
	s.stats.booked.Store(booked)
	s.stats.unsettled.Store(unsettled)
	s.stats.open.Store(open)
	s.stats.slack.Store(slack)
	s.stats.checked.Store(checked)
	s.stats.breaches.Store(breaches)
}

// write writes what the engine decides for touched SKUs, in runs of WriteMax, and returns when Kafka has acknowledged all of it.
func (s *Service) write(ctx context.Context, b *batch) (wrote int, err error) {
	defer func() {
		for _, span := range b.spans {
			span.End()
		}
	}()
	s.pointers = append(s.pointers, b.rejected...)
	for more := true; more; {
		s.mu.Lock()
		var out []targeting.Decision
		now := time.Now().UnixMicro()
		out, more = s.engine.Decide(now, s.cfg.WriteMax)
		s.encode(b, out)
		kept := s.encodeBooks(now)
		allots := s.engine.Events()
		s.count()
		s.mu.Unlock()
		if len(s.pointers) == 0 {
			break
		}
		if err := s.transact(ctx, s.offsets(s.behind(b, out, kept), !more)); err != nil {
			return wrote, err
		}
		wrote += len(out)
		s.stats.granted.Add(int64(len(allots)))
		s.stats.targets.Add(int64(len(out)))
		for i := range out {
			if out[i].Target.Withdrawn {
				s.stats.withdrawn.Add(1)
			}
			if w := out[i].Target.Write; w != nil && w.ID != "" {
				s.stats.granted.Add(1)
			}
			if e := out[i].Allots; e != nil {
				s.stats.granted.Add(1)
				allots = append(allots, e)
			}
		}
		s.allots.write(allots)
	}
	s.mu.Lock()
	again := s.engine.Again()
	s.mu.Unlock()
	s.allots.write(again)
	if wrote == 0 && len(b.moved) > 0 { // everything taken in is in what was written before: say how far that is, for those who look at lag
		s.client.CommitOffsets(context.Background(), s.offsets(b.moved, true), nil)
	}
	return wrote, nil
}

// behind is the partitions that a transaction writes for or reports on.
func (s *Service) behind(b *batch, out []targeting.Decision, kept []int32) map[int32]*owned {
	parts := maps.Clone(b.moved)
	s.mu.Lock()
	defer s.mu.Unlock()
	add := func(p int32) {
		if _, ok := parts[p]; !ok && s.parts[p] != nil {
			parts[p] = s.parts[p]
		}
	}
	for i := range out {
		add(out[i].SKU.Partition().ID())
	}
	for _, p := range kept {
		add(p)
	}
	return parts
}

var targetHeaders = []kgo.RecordHeader{{Key: topics.ContentTypeHeader, Value: []byte("application/x-protobuf")}}

// encode appends the records of decisions to s.pointers. Records and values are in memory that the next run uses again: by then Kafka has
// acknowledged them.
func (s *Service) encode(b *batch, out []targeting.Decision) {
	if cap(s.records) < len(out) {
		s.records = make([]kgo.Record, len(out), len(out)+len(out)/2)
	}
	s.records, s.values = s.records[:len(out)], s.values[:0]
	for i := range out {
		t := &out[i].Target
		at := len(s.values)
		s.values = s.deps.Codec.AppendTarget(s.values, t) // when it grows, what is encoded stays where it is
		r := &s.records[i]
		*r = kgo.Record{Topic: s.topic(t.Channel), Key: out[i].SKU.Key(), Value: s.values[at:len(s.values):len(s.values)], Headers: targetHeaders[:1:1]}
		if b.traced != nil {
			if ctx, ok := b.traced[t.SKU]; ok {
				telemetry.Inject(ctx, r)
			}
		}
		s.pointers = append(s.pointers, r)
	}
}

// topic is the topic of a channel, without making its name anew.
func (s *Service) topic(channel string) string {
	if name, ok := s.topicNames[channel]; ok {
		return name
	}
	name := schemas.TargetsTopic(channel)
	s.topicNames[channel] = name
	return name
}

// produce writes s.pointers and waits.
func (s *Service) produce(ctx context.Context) error {
	if len(s.pointers) == 0 {
		return nil
	}
	failed := make(chan error, 1)
	promise := func(r *kgo.Record, err error) {
		if err != nil {
			select {
			case failed <- fmt.Errorf("write to %s: %w", r.Topic, err):
			default: // the first says enough
			}
		}
	}
	for _, r := range s.pointers {
		s.client.Produce(ctx, r, promise)
	}
	clear(s.pointers)
	s.pointers = s.pointers[:0]
	if err := s.client.Flush(ctx); err != nil {
		return fmt.Errorf("write targets: %w", err)
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// partitionOf is the partition of a SKU, as producers choose it.
func (s *Service) partitionOf(sku string) int32 {
	if s.partitions <= 0 {
		return -1
	}
	p := kgo.StickyKeyPartitioner(nil).ForTopic(schemas.StockLevels)
	return int32(p.Partition(&kgo.Record{Key: []byte(sku)}, int(s.partitions)))
}
