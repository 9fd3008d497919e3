package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	readAtOnce     = 4 << 20   // most bytes of one answer of a broker
	readPartition  = 512 << 10 // of them, of one partition
	readRetryAfter = 100 * time.Millisecond
)

// Committed reads partitions from their start, or from where from says, to the end that they have when it begins, and gives each record that is committed to take, in
// order of offset within a partition. It asks the brokers and takes their word for the end: a partition whose last records were compacted away, or are markers of
// transactions, ends where it ends, and a slow broker is waited for as long as ctx allows. So is a transaction under way: the markers of one that was committed reach
// its partitions one after another, and what it wrote is not to be missed. Nil from is every partition's start. It returns where each partition was read up to.
func Committed(ctx context.Context, client *kgo.Client, partitions map[string][]int32, from kadm.Offsets, take func(*kgo.Record)) (kadm.Offsets, error) {
	return CommittedUntil(ctx, client, partitions, from, nil, take)
}

// CommittedUntil is Committed that stops early: a partition that until names is read no further than to there, though take may be given some records beyond.
func CommittedUntil(ctx context.Context, client *kgo.Client, partitions map[string][]int32, from, until kadm.Offsets, take func(*kgo.Record)) (kadm.Offsets, error) {
	r := reader{client: client, adm: kadm.NewClient(client), take: take}
	if err := r.begin(ctx, partitions, from, until); err != nil {
		return nil, err
	}
	for len(r.missing) > 0 {
		if err := r.round(ctx); err != nil {
			return nil, err
		}
	}
	return r.at, nil
}

// Whole is Committed for all partitions of topics, from their start. A topic that does not exist is an error.
func Whole(ctx context.Context, client *kgo.Client, topics []string, take func(*kgo.Record)) error {
	found, err := kadm.NewClient(client).ListTopics(ctx, topics...)
	if err == nil {
		err = found.Error()
	}
	if err != nil {
		return err
	}
	partitions := make(map[string][]int32)
	for _, t := range found.Sorted() {
		partitions[t.Topic] = t.Partitions.Numbers()
	}
	_, err = Committed(ctx, client, partitions, nil, take)
	return err
}

// Empty reports that a partition holds nothing committed from an offset on: the broker was asked and had no record to give.
func Empty(ctx context.Context, client *kgo.Client, topic string, partition int32, offset int64) (bool, error) {
	some := false
	var from kadm.Offsets
	from.Add(kadm.Offset{Topic: topic, Partition: partition, At: offset})
	_, err := Committed(ctx, client, map[string][]int32{topic: {partition}}, from, func(*kgo.Record) { some = true })
	return !some && err == nil, err
}

type reader struct {
	client  *kgo.Client
	adm     *kadm.Client
	take    func(*kgo.Record)
	at      kadm.Offsets
	missing map[string]map[int32]int64 // the end of partitions that are not read yet
}

func (r *reader) begin(ctx context.Context, partitions map[string][]int32, from, until kadm.Offsets) error {
	names := make([]string, 0, len(partitions))
	for t := range partitions {
		names = append(names, t)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return nil
	}
	starts, err := listed(ctx, r.adm.ListStartOffsets, names)
	if err != nil {
		return err
	}
	ends, err := listed(ctx, r.adm.ListEndOffsets, names)
	if err != nil {
		return err
	}
	r.at, r.missing = make(kadm.Offsets), make(map[string]map[int32]int64)
	for _, t := range names {
		for _, p := range partitions[t] {
			start, ok := starts.Lookup(t, p)
			end, ended := ends.Lookup(t, p)
			if !ok || !ended {
				return fmt.Errorf("read %s: it has no partition %d", t, p)
			}
			at := start.Offset
			if o, ok := from.Lookup(t, p); ok {
				at = max(at, o.At)
			}
			if o, ok := until.Lookup(t, p); ok {
				end.Offset = min(end.Offset, o.At)
			}
			r.at.Add(kadm.Offset{Topic: t, Partition: p, At: at, LeaderEpoch: -1})
			if at < end.Offset {
				if r.missing[t] == nil {
					r.missing[t] = make(map[int32]int64)
				}
				r.missing[t][p] = end.Offset
			}
		}
	}
	return nil
}

func listed(ctx context.Context, list func(context.Context, ...string) (kadm.ListedOffsets, error), names []string) (kadm.ListedOffsets, error) {
	o, err := list(ctx, names...)
	if err == nil {
		err = o.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of %v: %w", names, err)
	}
	return o, nil
}

// round asks the leader of every partition that is not read yet for more.
func (r *reader) round(ctx context.Context) error {
	names := make([]string, 0, len(r.missing))
	for t := range r.missing {
		names = append(names, t)
	}
	slices.Sort(names)
	found, err := r.adm.Metadata(ctx, names...)
	if err == nil {
		err = found.Topics.Error()
	}
	if err != nil {
		return fmt.Errorf("read %v: %w", names, err)
	}
	byLeader := make(map[int32]*kmsg.FetchRequest)
	for _, t := range names {
		detail := found.Topics[t]
		for p := range r.missing[t] {
			leader := detail.Partitions[p].Leader
			if leader < 0 {
				continue // none at the moment
			}
			req := byLeader[leader]
			if req == nil {
				req = fetchRequest()
				byLeader[leader] = req
			}
			if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != t {
				rt := kmsg.NewFetchRequestTopic()
				rt.Topic, rt.TopicID = t, detail.ID
				req.Topics = append(req.Topics, rt)
			}
			rt := &req.Topics[len(req.Topics)-1]
			o, _ := r.at.Lookup(t, p)
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p, o.At, readPartition
			rt.Partitions = append(rt.Partitions, rp)
		}
	}
	progress := false
	for leader, req := range byLeader {
		resp, err := r.client.Broker(int(leader)).RetriableRequest(ctx, req)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("read %v: %w", names, ctx.Err())
			}
			continue // the leader may have moved: the next round asks who leads
		}
		some, err := r.answer(req, resp.(*kmsg.FetchResponse))
		if err != nil {
			return err
		}
		progress = progress || some
	}
	if progress {
		return nil
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("read %v: %w", names, ctx.Err())
	case <-time.After(readRetryAfter):
		return nil
	}
}

func fetchRequest() *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.IsolationLevel = readAtOnce, 1 // no session, no wait: an answer without records says that there are none
	return req
}

// answer takes in what a broker gave. progress says that a partition came further or to its end.
func (r *reader) answer(req *kmsg.FetchRequest, resp *kmsg.FetchResponse) (progress bool, err error) {
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		if kerr.IsRetriable(err) {
			return false, nil
		}
		return false, fmt.Errorf("read: %w", err)
	}
	full := 0 // once an answer is full, partitions are left empty for want of space
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			full += len(resp.Topics[i].Partitions[j].RecordBatches)
		}
	}
	for i := range resp.Topics {
		t := resp.Topics[i].Topic
		if t == "" {
			for k := range req.Topics {
				if req.Topics[k].TopicID == resp.Topics[i].TopicID {
					t = req.Topics[k].Topic
				}
			}
		}
		for j := range resp.Topics[i].Partitions {
			rp := &resp.Topics[i].Partitions[j]
			end, ok := r.missing[t][rp.Partition]
			if !ok {
				continue
			}
			at, _ := r.at.Lookup(t, rp.Partition)
			got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				Offset: at.At, IsolationLevel: kgo.ReadCommitted(), Topic: t, Partition: rp.Partition,
			}, rp, kgo.DefaultDecompressor(), nil)
			switch {
			case got.Err == nil:
			case kerr.IsRetriable(got.Err):
				continue
			case errors.Is(got.Err, kerr.OffsetOutOfRange) && got.LogStartOffset > at.At: // its oldest records went meanwhile
				next = got.LogStartOffset
			default:
				return false, fmt.Errorf("read %s, partition %d at %d: %w", t, rp.Partition, at.At, got.Err)
			}
			for _, rec := range got.Records {
				if rec.Offset < end {
					r.take(rec)
				}
			}
			done := next >= end || len(rp.RecordBatches) == 0 && full == 0 && got.LastStableOffset >= end
			if next > at.At || done {
				progress = true
				r.at[t][rp.Partition] = kadm.Offset{Topic: t, Partition: rp.Partition, At: max(next, at.At), LeaderEpoch: -1}
			}
			if done {
				if next < end {
					r.at[t][rp.Partition] = kadm.Offset{Topic: t, Partition: rp.Partition, At: end, LeaderEpoch: -1}
				}
				if delete(r.missing[t], rp.Partition); len(r.missing[t]) == 0 {
					delete(r.missing, t)
				}
			}
		}
	}
	return progress, nil
}
