package analytics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/onhand/onhand/platform/kafka"
)

const pollMax = 20_000 // records in one poll

// leaveWithin is the longest wait for Kafka to let the group be left.
const leaveWithin = 2 * time.Second

// Run consumes until ctx ends, then inserts what has been read, within the drain time, and returns nil. It returns early only for what no retry can mend: the
// group has read further than a topic is long.
func (s *Service) Run(parent context.Context) error {
	ctx, fatal := context.WithCancelCause(parent)
	defer fatal(nil)
	s.fatal = fatal
	defer s.inserter.close()
	defer s.query.Close()

	if err := s.retry(ctx, "migrate ClickHouse", func() error { return Migrate(ctx, s.cfg.ClickHouse) }); err != nil {
		return ended(parent, ctx)
	}
	s.migrated.Store(true)
	if err := s.connect(ctx); err != nil {
		return err
	}

	// Work outlives ctx by the drain time: what was read is inserted, and its offsets committed, before the group is left.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var sinks sync.WaitGroup
	for _, k := range s.sinks {
		sinks.Go(func() { k.run(ctx, work) })
	}
	s.poll(ctx)
	timer := time.AfterFunc(s.cfg.Drain, stop)
	sinks.Wait()
	timer.Stop()
	kafka.Close(s.client, leaveWithin)
	return ended(parent, ctx)
}

// ended is nil for a requested stop, and otherwise why it was not one.
func ended(parent, ctx context.Context) error {
	if parent.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

func (s *Service) connect(ctx context.Context) error {
	var patterns []string
	for _, t := range tables {
		patterns = append(patterns, t.pattern())
	}
	client, err := s.deps.Kafka.Client(s.log, Group,
		kgo.ConsumerGroup(Group), kgo.ConsumeTopics(patterns...), kgo.ConsumeRegex(), kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(s.cfg.SessionTimeout), kgo.HeartbeatInterval(min(3*time.Second, s.cfg.SessionTimeout/3)),
		kgo.MetadataMaxAge(s.cfg.TopicsRefresh), kgo.MetadataMinAge(min(s.cfg.TopicsRefresh/2, 2500*time.Millisecond)),
		kgo.OnPartitionsAssigned(func(_ context.Context, client *kgo.Client, added map[string][]int32) {
			s.onAssigned(ctx, client, added) // a stop need not wait for ClickHouse
		}),
		kgo.OnPartitionsRevoked(s.onLost), kgo.OnPartitionsLost(s.onLost),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), // markers of transactions count for where a partition is read up to
		kgo.AdjustFetchOffsetsFn(s.adjust), kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(512<<10),
		kgo.FetchMinBytes(256<<10), kgo.FetchMaxWait(250*time.Millisecond), // rows wait for their insert anyway: fewer, larger fetches
	)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	s.client = client
	return nil
}

// poll moves records from Kafka into the sinks' queues until ctx ends.
func (s *Service) poll(ctx context.Context) {
	for {
		for s.full() { // before the poll, since a rebalance waits from poll to AllowRebalance
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
			}
		}
		fetches := s.client.PollRecords(ctx, pollMax)
		if ctx.Err() != nil {
			s.client.AllowRebalance()
			return
		}
		fetches.EachError(func(topic string, p int32, err error) {
			s.log.WarnContext(ctx, "fetch failed, will be tried again", "topic", topic, "partition", p, "error", err)
		})
		now := time.Now()
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			s.own.RLock()
			p := s.parts[partition{f.Topic, f.Partition}]
			s.own.RUnlock()
			if p == nil {
				return // it has moved away
			}
			if f.HighWatermark > 0 {
				p.high.Store(f.HighWatermark)
			}
			p.sink.take(p, f.Records, now)
		})
		s.client.AllowRebalance()
	}
}

// full reports whether some sink has as much queued as it should.
func (s *Service) full() bool {
	for _, k := range s.sinks {
		if k.pending.Load() >= int64(2*s.cfg.MaxRows) {
			return true
		}
	}
	return false
}

func (s *Service) roomier() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) sinkOf(topic string) *sink {
	for _, k := range s.sinks {
		if k.table.holds(topic) {
			return k
		}
	}
	return nil
}

// onAssigned takes over partitions: it reads where the group stands in each, and what its last holder meant to insert.
func (s *Service) onAssigned(ctx context.Context, client *kgo.Client, added map[string][]int32) {
	defer s.assigned.Store(true)
	if len(added) == 0 {
		return
	}
	var standing map[partition]kadm.Offset
	var ends kadm.ListedOffsets
	known := make(map[partition]int64)
	err := s.retry(ctx, "take over partitions", func() (err error) {
		if standing, err = s.standing(ctx, client, added); err != nil {
			return err
		}
		if ends, err = kadm.NewClient(client).ListEndOffsets(ctx, slices.Collect(maps.Keys(added))...); err != nil {
			return err
		}
		return s.knownOffsets(ctx, added, standing, known)
	})
	if err != nil {
		return // the client closes
	}
	member, _ := client.GroupMetadata()
	redo := make(map[string]*recovery)
	s.own.Lock()
	defer s.own.Unlock()
	for topic, ids := range added {
		k := s.sinkOf(topic)
		if k == nil {
			continue
		}
		for _, id := range ids {
			p := &part{partition: partition{topic, id}, sink: k, member: member, next: -1}
			if e, ok := ends.Lookup(topic, id); ok && e.Err == nil {
				p.high.Store(e.Offset)
			}
			at, ok := standing[p.partition]
			if next, found := known[p.partition]; found && !ok {
				p.next = next
			}
			if ok {
				p.next = at.At
				spans, err := parseIntent(at.Metadata)
				if err != nil {
					s.fatal(fmt.Errorf("offset of %s/%d carries an intent this version cannot read: %w: run the version that wrote it, or a later one", topic, id, err))
					return
				}
				for _, sp := range spans {
					if sp.topic == topic && sp.partition == id && sp.from == at.At {
						p.blocked = true
						p.next = sp.to + 1
					}
				}
				if p.blocked {
					r := redo[at.Metadata]
					if r == nil {
						r = &recovery{text: at.Metadata, spans: spans}
						redo[at.Metadata] = r
					}
					r.parts = append(r.parts, p)
				}
			}
			if e, ok := ends.Lookup(topic, id); ok && e.Err == nil && p.next > e.Offset {
				s.fatal(fmt.Errorf("%s/%d ends at offset %d, and ClickHouse database %s holds it up to %d: the topic was made anew or cut off. "+
					"Give analytics another database and delete consumer group %s, or drop the rows of that topic first",
					topic, id, e.Offset, s.cfg.ClickHouse.Database, p.next, Group))
				return
			}
			p.done.Store(max(0, p.next))
			s.parts[p.partition] = p
		}
	}
	for _, r := range redo {
		r.parts[0].sink.recover(r)
	}
}

// standing is the group's committed offset, with metadata, of each partition that has one.
func (s *Service) standing(ctx context.Context, client *kgo.Client, of map[string][]int32) (map[partition]kadm.Offset, error) {
	all, err := kadm.NewClient(client).FetchOffsetsForTopics(ctx, Group, slices.Collect(maps.Keys(of))...)
	if err != nil {
		return nil, fmt.Errorf("fetch offsets of %s: %w", Group, err)
	}
	out := make(map[partition]kadm.Offset)
	for topic, ids := range of {
		for _, id := range ids {
			o, ok := all.Lookup(topic, id)
			if !ok {
				continue
			}
			if o.Err != nil {
				return nil, fmt.Errorf("fetch offset of %s/%d: %w", topic, id, o.Err)
			}
			if o.At >= 0 {
				out[partition{topic, id}] = o.Offset
			}
		}
	}
	return out, nil
}

// knownOffsets adds, for partitions where the group has no offset, the first offset that ClickHouse does not hold: Kafka forgets the offsets of a group that
// has been away for long (a week by default), and nothing that old is still under way.
func (s *Service) knownOffsets(ctx context.Context, added map[string][]int32, standing map[partition]kadm.Offset, known map[partition]int64) error {
	for topic, ids := range added {
		missing := slices.ContainsFunc(ids, func(id int32) bool {
			_, ok := standing[partition{topic, id}]
			return !ok
		})
		k := s.sinkOf(topic)
		if !missing || k == nil {
			continue
		}
		where, args := "", []any(nil)
		if k.prefixed() {
			where, args = " WHERE topic = ?", []any{topic}
		}
		rows, err := s.query.Query(ctx, "SELECT partition, max(offset) FROM "+k.table.name+where+" GROUP BY partition", args...)
		if err != nil {
			return fmt.Errorf("read offsets of table %s: %w", k.table.name, err)
		}
		for rows.Next() {
			var id int32
			var last int64
			if err := rows.Scan(&id, &last); err != nil {
				return errors.Join(err, rows.Close())
			}
			known[partition{topic, id}] = last + 1
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("read offsets of table %s: %w", k.table.name, err)
		}
	}
	return nil
}

// adjust makes the client start each partition where its part does.
func (s *Service) adjust(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	s.own.RLock()
	defer s.own.RUnlock()
	for topic, ids := range offsets {
		for id := range ids {
			if p := s.parts[partition{topic, id}]; p != nil {
				p.sink.mu.Lock()
				if p.next >= 0 {
					ids[id] = kgo.NewOffset().At(p.next)
				}
				p.sink.mu.Unlock()
			}
		}
	}
	return offsets, nil
}

// onLost lets partitions go. What is queued of them is dropped: the next holder reads it again. A block that is under way goes on: its intent is committed, so
// the next holder sends the same one, and ClickHouse keeps it once.
func (s *Service) onLost(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	var parts []*part
	s.own.Lock()
	for topic, ids := range gone {
		for _, id := range ids {
			if p := s.parts[partition{topic, id}]; p != nil {
				p.lost.Store(true)
				delete(s.parts, p.partition)
				parts = append(parts, p)
			}
		}
	}
	s.own.Unlock()
	for _, p := range parts {
		p.sink.drop(p)
	}
}

// errLost reports that a partition has moved to another instance.
var errLost = errors.New("a partition has moved away")

// commit writes the group's offset of each span's part. Offsets are at(i), metadata is text. With all set, either every part is still held and its offset is
// committed, or the error is errLost and nothing may be sent; without it, parts that moved away are left out, because their next holder commits for them.
//
// The group's generation fences it: an instance that was taken for dead cannot commit, and once it has come back as another member it does not commit for
// what it held before, even if it has not been told of the loss yet. While the outcome of a try is unknown the lock is kept, so that no part
// moves away with an intent that may or may not stand.
func (s *Service) commit(ctx context.Context, cuts []cutPart, text string, all bool, at func(*cutPart) int64) error {
	wait := 20 * time.Millisecond
	for {
		err, settled := func() (error, bool) {
			s.own.RLock()
			defer s.own.RUnlock()
			offsets := make(map[string]map[int32]kgo.EpochOffset)
			member, _ := s.client.GroupMetadata()
			for i := range cuts {
				c := &cuts[i]
				if c.part.lost.Load() || c.part.member != member {
					if all {
						return errLost, true
					}
					continue
				}
				if offsets[c.part.topic] == nil {
					offsets[c.part.topic] = make(map[int32]kgo.EpochOffset)
				}
				offsets[c.part.topic][c.part.id] = kgo.EpochOffset{Epoch: -1, Offset: at(c)}
			}
			if len(offsets) == 0 {
				return nil, true
			}
			for unknown := false; ; {
				err := s.commitOnce(ctx, member, offsets, text)
				switch {
				case err == nil:
					return nil, true
				case ctx.Err() != nil:
					return fmt.Errorf("commit offsets: %w", errors.Join(ctx.Err(), err)), true
				case fenced(err) || errors.Is(err, errLost):
					return err, false // the client gives all partitions up, and onLost needs the lock for that
				}
				var refused *kerr.Error
				if !errors.As(err, &refused) {
					unknown = true
				}
				s.log.WarnContext(ctx, "commit failed, will be tried again", "error", err)
				if !unknown {
					return err, false
				}
				if !sleep(ctx, wait) {
					return fmt.Errorf("commit offsets: %w", errors.Join(ctx.Err(), err)), true
				}
				wait = min(2*wait, 2*time.Second)
			}
		}()
		if settled {
			return err
		}
		if !sleep(ctx, wait) {
			return fmt.Errorf("commit offsets: %w", errors.Join(ctx.Err(), err))
		}
		wait = min(2*wait, 2*time.Second)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (s *Service) commitOnce(ctx context.Context, member string, offsets map[string]map[int32]kgo.EpochOffset, text string) error {
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		if req.MemberID != member {
			return errLost
		}
		for t := range req.Topics {
			for p := range req.Topics[t].Partitions {
				req.Topics[t].Partitions[p].Metadata = &text
			}
		}
		return nil
	})
	var failed error
	s.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				err := kerr.ErrorForCode(p.ErrorCode)
				if err == nil || errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
					continue // a topic that was deleted meanwhile has no next holder
				}
				failed = fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err)
			}
		}
	})
	return failed
}

// fenced reports that the group goes on without this member.
func fenced(err error) bool {
	for _, e := range []error{kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.FencedInstanceID, kerr.FencedMemberEpoch, kerr.StaleMemberEpoch} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// reject sends the faults of a block to stock.rejected and waits for the acknowledgement.
func (s *Service) reject(ctx context.Context, faults []rejection) error {
	if len(faults) == 0 {
		return nil
	}
	now := time.Now()
	records := make([]*kgo.Record, len(faults))
	return s.retry(ctx, "send to stock.rejected", func() error {
		for i, f := range faults {
			records[i] = s.deps.Codec.RejectedRecord(f.record, f.fault.reason, f.fault.detail, serviceName, now)
		}
		return s.client.ProduceSync(ctx, records...).FirstErr()
	})
}

// Lag is how many records of all topics are not in ClickHouse yet, over all instances, by the group's committed offsets.
func (s *Service) Lag(ctx context.Context) (int64, error) {
	behind, err := s.behind(ctx, nil)
	var n int64
	for _, l := range behind {
		n += l
	}
	return n, err
}

// Ends is an end offset for each partition of each topic.
type Ends map[string]map[int32]int64

// Ends is where the topics that analytics reads end now.
func (s *Service) Ends(ctx context.Context) (Ends, error) {
	adm, err := s.admin()
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	ends, err := s.endOffsets(ctx, adm)
	if err != nil {
		return nil, err
	}
	out := make(Ends)
	ends.Each(func(o kadm.ListedOffset) {
		if out[o.Topic] == nil {
			out[o.Topic] = make(map[int32]int64)
		}
		out[o.Topic][o.Partition] = o.Offset
	})
	return out, nil
}

// CaughtUp reports whether ClickHouse holds every record below the given ends.
func (s *Service) CaughtUp(ctx context.Context, ends Ends) (bool, error) {
	behind, err := s.behind(ctx, ends)
	return err == nil && len(behind) == 0, err
}

// WaitCaughtUp returns when ClickHouse holds all that the topics held when it was called.
func (s *Service) WaitCaughtUp(ctx context.Context) error {
	var ends Ends
	if err := s.retry(ctx, "list end offsets", func() (err error) { ends, err = s.Ends(ctx); return err }); err != nil {
		return err
	}
	for {
		ok, err := s.CaughtUp(ctx, ends)
		if ok {
			return nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			behind, _ := s.behind(context.WithoutCancel(ctx), ends)
			return fmt.Errorf("analytics is not caught up, behind by %v: %w", behind, errors.Join(ctx.Err(), err))
		}
	}
}

// admin is a client apart from the consumer's, so that questions can be asked before and after Run.
func (s *Service) admin() (*kadm.Client, error) {
	client, err := s.deps.Kafka.Client(s.log, Group+"-admin")
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return kadm.NewClient(client), nil
}

func (s *Service) endOffsets(ctx context.Context, adm *kadm.Client) (kadm.ListedOffsets, error) {
	found, err := adm.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	var names []string
	for _, name := range found.Names() {
		if s.sinkOf(name) != nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err := errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	return ends, nil
}

// behind is the number of records missing in each partition that misses any, up to the given ends or, without them, to where the topics end.
func (s *Service) behind(ctx context.Context, ends Ends) (map[string]int64, error) {
	adm, err := s.admin()
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	if ends == nil {
		listed, err := s.endOffsets(ctx, adm)
		if err != nil {
			return nil, err
		}
		ends = make(Ends)
		listed.Each(func(o kadm.ListedOffset) {
			if ends[o.Topic] == nil {
				ends[o.Topic] = make(map[int32]int64)
			}
			ends[o.Topic][o.Partition] = o.Offset
		})
	}
	out := make(map[string]int64)
	if len(ends) == 0 {
		return out, nil
	}
	standing, err := adm.FetchOffsets(ctx, Group)
	if err != nil {
		return nil, fmt.Errorf("fetch offsets of %s: %w", Group, err)
	}
	starts, err := adm.ListStartOffsets(ctx, slices.Collect(maps.Keys(ends))...)
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	for topic, ids := range ends {
		for id, end := range ids {
			at := int64(0)
			if o, ok := standing.Lookup(topic, id); ok && o.Err == nil {
				at = o.At
			}
			if o, ok := starts.Lookup(topic, id); ok && o.Err == nil {
				at = max(at, o.Offset)
			}
			if end > at {
				out[topic+"/"+strconv.Itoa(int(id))] = end - at
			}
		}
	}
	return out, nil
}
