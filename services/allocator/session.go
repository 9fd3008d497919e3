package allocator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
)

// Everything that a turn decides is written in one Kafka transaction, with the books of exposure it was decided by and the offset of the results it takes into account.
// So a write is granted if and only if the books remember it. The transaction also commits an offset of every partition of stock.levels that it writes for, as a member
// of the group: Kafka refuses that to one that the group has gone on without, and gives a new owner the partition's offset only when transactions under way are
// over (KIP-447). So of two instances that both think they own a partition only the right one can write, and it has read all that the other wrote.

const (
	// leaveWithin is the longest wait for Kafka to let the group be left.
	leaveWithin = 2 * time.Second
	// heartbeatEvery is how soon a member hears of a rebalance: transactions wait for one that is under way.
	heartbeatEvery = time.Second
)

// errSuperseded says that a transaction was not committed, as the group went on without this instance.
var errSuperseded = errors.New("transaction not committed")

// transactionalID names the instance to Kafka: a second one of the same name shuts the first out.
func transactionalID(cfg Config) string {
	instance := cfg.Instance
	if instance == "" {
		instance = strconv.FormatUint(rand.Uint64(), 36)
	}
	return cfg.Group + "-" + instance
}

// connect joins the group.
func (s *Service) connect() (err error) {
	s.session, err = s.deps.Kafka.Session(s.deps.Telemetry.Log, "onhand-allocator",
		kgo.ConsumerGroup(s.cfg.Group), kgo.ConsumeTopics(schemas.StockLevels), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.AdjustFetchOffsetsFn(s.fromStart), kgo.SessionTimeout(s.cfg.Session), kgo.HeartbeatInterval(min(heartbeatEvery, s.cfg.Session/3)),
		kgo.OnPartitionsAssigned(s.assigned), kgo.OnPartitionsRevoked(s.revoked), kgo.OnPartitionsLost(s.revoked),
		kgo.TransactionalID(s.txn), kgo.TransactionTimeout(s.cfg.WriteLimit),
		kgo.MetadataMinAge(250*time.Millisecond), // a new channel need not wait for its topic to be noticed
		kgo.ManualFlushing(), kgo.MaxBufferedRecords(2*s.cfg.WriteMax+100_000))
	if err != nil {
		return err
	}
	s.client = s.session.Client()
	s.adm = kadm.NewClient(s.client)
	if s.allots, err = s.openAllotments(); err != nil {
		kafka.Close(s.client, leaveWithin)
	}
	return err
}

// disconnect leaves the group and forgets all that was taken in.
func (s *Service) disconnect() {
	s.side.close()
	s.side = nil
	s.feed.close()
	s.feed, s.fed = nil, nil
	s.allots.close()
	s.allots = nil
	kafka.Close(s.client, leaveWithin)
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, o := range s.parts {
		s.engine.Drop(o.Partition)
		delete(s.parts, p)
	}
	s.pointers = s.pointers[:0]
	s.engine.Again() // whoever loads the books next has them
	s.engine.Unfollow()
	s.joined.Store(false)
	s.started.Store(false)
	s.adrift.Store(false)
	s.count()
}

// transact writes s.pointers and the offsets in one transaction, and returns when it is committed. Nothing to write is no transaction.
func (s *Service) transact(ctx context.Context, offsets map[string]map[int32]kgo.EpochOffset) error {
	if len(s.pointers) == 0 {
		return nil
	}
	if s.adrift.Swap(false) {
		s.clear(ctx)
	}
	if err := s.session.Begin(); err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	if err := s.produce(ctx); err != nil {
		return errors.Join(err, s.abort(ctx))
	}
	committed, err := s.session.End(kgo.PreTxnCommitFnContext(ctx, func(req *kmsg.TxnOffsetCommitRequest) error {
		req.Topics = offsetTopics(req.Topics, offsets)
		return nil
	}), kgo.TryCommit)
	switch {
	case err != nil:
		return fmt.Errorf("commit a transaction: %w", err)
	case !committed:
		return errSuperseded
	}
	return nil
}

// clear has the session forget that partitions were given up: it would void the next transaction for it, which has nothing of theirs. Doing so it goes
// back to the group's offsets, so it is told again where the partitions that are left were read up to.
func (s *Service) clear(ctx context.Context) {
	_, _ = s.session.End(ctx, kgo.TryAbort) // there is no transaction that could fail to end
	at := make(map[int32]kgo.EpochOffset)
	s.mu.Lock()
	for p, o := range s.parts {
		if o.loaded {
			at[p] = kgo.EpochOffset{Epoch: -1, Offset: o.Next()}
		}
	}
	s.mu.Unlock()
	s.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{schemas.StockLevels: at})
}

func (s *Service) abort(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	if _, err := s.session.End(ctx, kgo.TryAbort); err != nil {
		return fmt.Errorf("abort the transaction: %w", err)
	}
	return nil
}

// offsetTopics is the part of a commit that says how far the group is. It keeps the topic ids of what the client would have committed.
func offsetTopics(was []kmsg.TxnOffsetCommitRequestTopic, offsets map[string]map[int32]kgo.EpochOffset) []kmsg.TxnOffsetCommitRequestTopic {
	var out []kmsg.TxnOffsetCommitRequestTopic
	for name, parts := range offsets {
		t := kmsg.NewTxnOffsetCommitRequestTopic()
		t.Topic = name
		for i := range was {
			if was[i].Topic == name {
				t.TopicID = was[i].TopicID
			}
		}
		for p, o := range parts {
			rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch = p, o.Offset, o.Epoch
			t.Partitions = append(t.Partitions, rp)
		}
		if len(t.Partitions) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// leaveBehind commits how far the group is at an orderly end.
func (s *Service) leaveBehind(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin) // a commit waits for a join that is under way, as leaving does
	defer cancel()
	s.client.CommitOffsetsSync(ctx, s.offsets(s.owners(), true), nil) // what is written says the same; this is for those who look at lag
}

// owners is the live partitions.
func (s *Service) owners() map[int32]*owned {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[int32]*owned, len(s.parts))
	for p, o := range s.parts {
		if o.Live() {
			out[p] = o
		}
	}
	return out
}

// offsets is how far the group is in the partitions, and, when everything that was taken in has been written, in the results of writes.
func (s *Service) offsets(parts map[int32]*owned, whole bool) map[string]map[int32]kgo.EpochOffset {
	levels, results := make(map[int32]kgo.EpochOffset, len(parts)), make(map[int32]kgo.EpochOffset)
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, o := range parts {
		o.committed = max(o.committed, o.Next()) // reading again what was committed before never takes the group's offset back
		levels[p] = kgo.EpochOffset{Epoch: -1, Offset: o.committed}
		if whole && o.Live() {
			results[p] = kgo.EpochOffset{Epoch: -1, Offset: o.results}
		}
	}
	return map[string]map[int32]kgo.EpochOffset{schemas.StockLevels: levels, schemas.ChannelWrites: results}
}
