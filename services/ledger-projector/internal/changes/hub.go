// Package changes gives readers the changes of stock.levels as they come, from wherever they stopped.
//
// A [Hub] follows all partitions of the topic while somebody listens, with a Kafka client of its own and outside any consumer group: whatever readers do, the projector
// is not held up. For each reader it keeps only the newest level of each SKU that the reader has not taken yet, so that a reader that is somewhat slow
// skips values and not SKUs; one with too many of them waiting is told so and let go.
package changes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// Why a stream was refused, or ended before its reader did.
var (
	ErrFull    = errors.New("as many streams are open as this instance serves")
	ErrStopped = errors.New("this instance is stopping")
	ErrSlow    = errors.New("too many changed SKUs were waiting to be read")
)

// leaveWithin is the longest wait for the client to close.
const leaveWithin = 2 * time.Second

// Config is what a hub works with.
type Config struct {
	Kafka   kafka.Config
	Log     *slog.Logger
	Streams int                                       // most at once
	Pending int                                       // most SKUs that wait for one reader
	Replay  int64                                     // most records of the log that are read for a stream that resumes
	Where   func(partitions int32) func(string) int32 // the partition of a SKU
}

// Hub serves streams. Make it with New; Stop it at the end.
type Hub struct {
	cfg      Config
	starting chan struct{} // holds one while a follower is being started

	mu      sync.Mutex
	run     *follower // nil while nobody listens
	open    int
	stopped bool

	dropped atomic.Int64
}

// New makes a hub that reaches out once somebody listens.
func New(cfg Config) *Hub { return &Hub{cfg: cfg, starting: make(chan struct{}, 1)} }

// Open is the number of streams.
func (h *Hub) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// Dropped is the number of streams that ended because their readers were slow.
func (h *Hub) Dropped() int64 { return h.dropped.Load() }

// Stop ends all streams and refuses new ones.
func (h *Hub) Stop() {
	h.mu.Lock()
	h.stopped = true
	f := h.run
	h.mu.Unlock()
	if f != nil {
		h.fail(f, ErrStopped)
	}
}

// change is the newest level of a SKU that a reader has not taken.
type change struct {
	level     *ledger.Level
	partition int32
	offset    int64
}

// follower reads the topic for all streams.
type follower struct {
	client  *kgo.Client
	topicID kadm.TopicID
	where   func(string) int32
	cancel  context.CancelFunc
	done    chan struct{}
	users   int // streams, and those being made; under Hub.mu

	mu  sync.Mutex
	at  []int64 // the next offset, by partition
	all map[*Stream]struct{}
	by  map[string]map[*Stream]struct{} // streams of named SKUs
	err error                           // why it ended
}

// Stream is what one reader is owed. It is not safe for concurrent use.
type Stream struct {
	hub         *Hub
	f           *follower
	skus        []string // nil for all
	partitions  []int32
	fingerprint uint32
	limit       int
	start       string
	resumed     bool
	wake        chan struct{}
	closed      bool

	// under f.mu
	pending map[string]change
	err     error
}

// Subscribe begins a stream of the SKUs, or of all when there are none. after is the id from which an earlier one is to be resumed: what changed since is what the stream
// begins with, unless that is unknown or too long ago (see [Stream.Resumed]).
func (h *Hub) Subscribe(ctx context.Context, skus []string, after string) (*Stream, error) {
	f, err := h.join(ctx)
	if err != nil {
		return nil, err
	}
	s := &Stream{hub: h, f: f, skus: skus, limit: h.cfg.Pending, wake: make(chan struct{}, 1), pending: make(map[string]change)}
	if len(skus) == 0 {
		s.partitions = make([]int32, len(f.at))
		for p := range s.partitions {
			s.partitions[p] = int32(p)
		}
	} else {
		s.skus = slices.Compact(slices.Sorted(slices.Values(skus)))
		for _, sku := range s.skus {
			s.partitions = append(s.partitions, f.where(sku))
		}
		slices.Sort(s.partitions)
		s.partitions = slices.Compact(s.partitions)
	}
	s.fingerprint = fingerprint(f.topicID, s.partitions)
	now := f.add(s)
	s.start = encodeID(s.fingerprint, now)
	if after == "" {
		return s, nil
	}
	if from, ok := decodeID(after, s.fingerprint, len(s.partitions)); ok {
		if s.resumed, err = s.replay(ctx, from, now, h.cfg.Replay); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// join finds or starts the follower, and counts the stream in.
func (h *Hub) join(ctx context.Context) (*follower, error) {
	select {
	case h.starting <- struct{}{}:
		defer func() { <-h.starting }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h.mu.Lock()
	switch {
	case h.stopped:
		h.mu.Unlock()
		return nil, ErrStopped
	case h.open >= h.cfg.Streams:
		h.mu.Unlock()
		return nil, ErrFull
	}
	h.open++
	if f := h.run; f != nil {
		f.users++
		h.mu.Unlock()
		return f, nil
	}
	h.mu.Unlock()
	f, err := h.follow(ctx)
	h.mu.Lock()
	if err == nil && h.stopped {
		err = ErrStopped
	}
	if err != nil {
		h.open--
		h.mu.Unlock()
		if f != nil {
			f.cancel()
			<-f.done
		}
		return nil, err
	}
	f.users, h.run = 1, f
	h.mu.Unlock()
	return f, nil
}

// follow starts to read every partition from its end.
func (h *Hub) follow(ctx context.Context) (*follower, error) {
	asking, err := h.cfg.Kafka.Client(h.cfg.Log, "ledger-projector-changes")
	if err != nil {
		return nil, err
	}
	defer kafka.Close(asking, leaveWithin)
	adm := kadm.NewClient(asking)
	found, err := adm.ListTopics(ctx, schemas.StockLevels)
	if err == nil {
		err = found.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", schemas.StockLevels, err)
	}
	ends, err := adm.ListEndOffsets(ctx, schemas.StockLevels)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end offsets of %s: %w", schemas.StockLevels, err)
	}
	n := len(found[schemas.StockLevels].Partitions)
	f := &follower{
		topicID: found[schemas.StockLevels].ID, where: h.cfg.Where(int32(n)), done: make(chan struct{}), at: make([]int64, n), all: make(map[*Stream]struct{}),
		by: make(map[string]map[*Stream]struct{}),
	}
	from := make(map[int32]kgo.Offset, n)
	for p := range f.at {
		end, ok := ends.Lookup(schemas.StockLevels, int32(p))
		if !ok {
			return nil, fmt.Errorf("end offset of partition %d of %s is unknown", p, schemas.StockLevels)
		}
		f.at[p], from[int32(p)] = end.Offset, kgo.NewOffset().At(end.Offset)
	}
	// A log that lost its end is not skipped over: streams end, and begin anew.
	f.client, err = h.cfg.Kafka.Client(h.cfg.Log, "ledger-projector-changes", kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.StockLevels: from}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxBytes(4<<20), kgo.FetchMaxPartitionBytes(1<<20), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() {
		defer close(f.done)
		defer kafka.Close(f.client, leaveWithin)
		if err := f.read(running, h.cfg.Log); err != nil {
			h.cfg.Log.Warn("the feed of changes ended; streams begin anew", "err", err)
			h.fail(f, err)
		}
	}()
	return f, nil
}

// fail ends the streams of a follower, each with a last word to its reader.
func (h *Hub) fail(f *follower, err error) {
	h.mu.Lock()
	if h.run == f {
		h.run = nil
	}
	h.mu.Unlock()
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	for s := range f.all {
		s.end(f.err)
	}
	for _, some := range f.by {
		for s := range some {
			s.end(f.err)
		}
	}
}

// read offers what comes to the streams, until ctx ends (nil) or the topic cannot be followed.
func (f *follower) read(ctx context.Context, log *slog.Logger) error {
	for {
		fetches := f.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, e := range fetches.Errors() {
			return fmt.Errorf("follow %s, partition %d: %w", e.Topic, e.Partition, e.Err)
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, r := range p.Records {
				f.take(r, log)
			}
		})
	}
}

// take is under mu.
func (f *follower) take(r *kgo.Record, log *slog.Logger) {
	f.at[r.Partition] = r.Offset + 1
	some := f.by[string(r.Key)]
	if len(f.all)+len(some) == 0 {
		return
	}
	c, ok := decode(r, log)
	if !ok {
		return
	}
	for s := range f.all {
		s.offer(c)
	}
	for s := range some {
		s.offer(c)
	}
}

// decode is false for what holds no level; it was not written by a projector, and the log says so.
func decode(r *kgo.Record, log *slog.Logger) (change, bool) {
	if r.Value == nil {
		return change{}, false
	}
	l, err := topics.DecodeLevel(r.Value)
	if err != nil {
		log.Warn("a record is no stock level; streams go on after it", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
		return change{}, false
	}
	return change{l, r.Partition, r.Offset}, true
}

// add lets the stream be offered changes, and says from which offsets of its partitions on.
func (f *follower) add(s *Stream) []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		s.end(f.err)
	}
	if s.skus == nil {
		f.all[s] = struct{}{}
	}
	for _, sku := range s.skus {
		if f.by[sku] == nil {
			f.by[sku] = make(map[*Stream]struct{})
		}
		f.by[sku][s] = struct{}{}
	}
	return s.next()
}

// next is where the stream's partitions are. Under f.mu.
func (s *Stream) next() []int64 {
	next := make([]int64, len(s.partitions))
	for i, p := range s.partitions {
		next[i] = s.f.at[p]
	}
	return next
}

// offer is under f.mu.
func (s *Stream) offer(c change) {
	if s.err != nil {
		return
	}
	was, ok := s.pending[c.level.SKU]
	if ok && was.offset >= c.offset {
		return // it was read again for one who resumed
	}
	if !ok && len(s.pending) >= s.limit {
		s.hub.dropped.Add(1)
		s.end(ErrSlow)
		return
	}
	s.pending[c.level.SKU] = c
	s.notify()
}

// end is under f.mu.
func (s *Stream) end(err error) {
	if s.err == nil {
		s.err, s.pending = err, nil
		s.notify()
	}
}

func (s *Stream) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// replay reads the log between two positions. False when it cannot or would have to read too much; then the reader must begin anew.
func (s *Stream) replay(ctx context.Context, from, now []int64, most int64) (bool, error) {
	var gap int64
	missed := make(map[string][]int32)
	offsets, until := make(kadm.Offsets), make(map[int32]int64)
	for i, p := range s.partitions {
		if from[i] > now[i] {
			return false, nil // of a log that was longer
		}
		if from[i] < now[i] {
			gap += now[i] - from[i]
			missed[schemas.StockLevels] = append(missed[schemas.StockLevels], p)
			offsets.Add(kadm.Offset{Topic: schemas.StockLevels, Partition: p, At: from[i], LeaderEpoch: -1})
			until[p] = now[i]
		}
	}
	if gap == 0 {
		return true, nil
	}
	if gap > most {
		return false, nil
	}
	starts, err := kadm.NewClient(s.f.client).ListStartOffsets(ctx, schemas.StockLevels)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return false, fmt.Errorf("start offsets of %s: %w", schemas.StockLevels, err)
	}
	for _, p := range missed[schemas.StockLevels] {
		at, _ := offsets.Lookup(schemas.StockLevels, p)
		if start, ok := starts.Lookup(schemas.StockLevels, p); !ok || start.Offset > at.At {
			return false, nil // records were deleted; compaction alone leaves the newest of each SKU
		}
	}
	wanted := func(string) bool { return true }
	if s.skus != nil {
		wanted = func(sku string) bool { _, ok := slices.BinarySearch(s.skus, sku); return ok }
	}
	found := make(map[string]change)
	_, err = kafka.Committed(ctx, s.f.client, missed, offsets, func(r *kgo.Record) {
		if r.Offset >= until[r.Partition] || !wanted(string(r.Key)) {
			return // from there on the follower offers
		}
		if c, ok := decode(r, s.hub.cfg.Log); ok {
			found[c.level.SKU] = c
		}
	})
	if err != nil {
		return false, fmt.Errorf("read what changed meanwhile: %w", err)
	}
	if len(found) > s.limit {
		return false, nil
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for _, c := range found {
		s.offer(c)
	}
	return true, nil
}

// Resumed is true when the stream goes on from the id that was asked for. Otherwise it begins at the moment it was made.
func (s *Stream) Resumed() bool { return s.resumed }

// Start is the id of the moment the stream was made; a stream that was resumed begins before.
func (s *Stream) Start() string { return s.start }

// Ready has a value when there may be something to take.
func (s *Stream) Ready() <-chan struct{} { return s.wake }

// Take is what changed since the last time, the oldest change first, and the id from which a reader who has got it may resume. The error says why the stream
// ended, by ErrSlow, ErrStopped or Kafka's own; what the reader had not taken then is found again from its last id.
func (s *Stream) Take() ([]*ledger.Level, string, error) {
	s.f.mu.Lock()
	if s.err != nil {
		defer s.f.mu.Unlock()
		return nil, "", s.err
	}
	id := encodeID(s.fingerprint, s.next())
	taken := s.pending
	if len(taken) > 0 {
		s.pending = make(map[string]change)
	}
	s.f.mu.Unlock()
	if len(taken) == 0 {
		return nil, id, nil
	}
	sorted := make([]change, 0, len(taken))
	for _, c := range taken {
		sorted = append(sorted, c)
	}
	slices.SortFunc(sorted, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.level.AppliedAt, b.level.AppliedAt), cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	})
	out := make([]*ledger.Level, len(sorted))
	for i, c := range sorted {
		out[i] = c.level
	}
	return out, id, nil
}

// Close ends the stream. The last one takes the hub's Kafka client along.
func (s *Stream) Close() {
	if s.closed {
		return
	}
	s.closed = true
	f, h := s.f, s.hub
	f.mu.Lock()
	delete(f.all, s)
	for _, sku := range s.skus {
		if delete(f.by[sku], s); len(f.by[sku]) == 0 {
			delete(f.by, sku)
		}
	}
	f.mu.Unlock()
	h.mu.Lock()
	h.open--
	f.users--
	last := f.users == 0
	if last && h.run == f {
		h.run = nil
	}
	h.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
}
