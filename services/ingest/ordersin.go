package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
)

const (
	pollRecords = 1000
	leaveWithin = 2 * time.Second // longest wait for Kafka to let the group be left
)

// consumeOrders takes the orders of orders.in in until ctx ends: what a fetch holds is produced and acknowledged before its offsets are committed,
// so that a crash repeats orders and loses none.
func (s *Service) consumeOrders(ctx context.Context) error {
	client, err := s.deps.Kafka.Client(s.tel.Log, "onhand-ingest", kgo.ConsumerGroup(Group), kgo.ConsumeTopics(schemas.OrdersIn),
		kgo.SessionTimeout(s.cfg.Session), kgo.HeartbeatInterval(s.cfg.Session/5), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsRevoked(s.lost), kgo.OnPartitionsLost(s.lost), kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			if slices.Contains(got[schemas.OrdersIn], 0) {
				s.sweeper.own(true)
			}
			s.joined.Store(true)
		}))
	if err != nil {
		return err
	}
	defer kafka.Close(client, leaveWithin)
	if err := s.deps.Catalog.WaitReady(ctx); err != nil { // what is a bundle is in the catalog; it fails only when ctx ends
		return nil
	}
	for {
		fetches := client.PollRecords(ctx, pollRecords)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return nil
		}
		fetches.EachError(func(t string, p int32, err error) {
			if !errors.Is(err, context.Canceled) {
				s.tel.Log.Warn("fetch failed; trying again", "topic", t, "partition", p, "err", err)
			}
		})
		if recs := fetches.Records(); len(recs) > 0 {
			if err := s.takeRecords(ctx, recs); err != nil {
				return nil // ctx ended: the records are read again by whoever comes next
			}
			if err := client.CommitRecords(context.WithoutCancel(ctx), recs...); err != nil {
				s.tel.Log.Warn("offsets not committed; the records are read again, which the ledger notices by their ids", "topic", schemas.OrdersIn, "err", err)
			}
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if n := len(p.Records); n > 0 {
				s.behind.set(p.Partition, max(0, p.HighWatermark-p.Records[n-1].Offset-1))
			}
		})
		client.AllowRebalance()
	}
}

func (s *Service) lost(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	if slices.Contains(gone[schemas.OrdersIn], 0) {
		s.sweeper.own(false)
	}
	s.behind.forget(gone[schemas.OrdersIn])
}

// takeRecords produces what recs hold, and tries again until Kafka has acknowledged or ctx ends.
func (s *Service) takeRecords(ctx context.Context, recs []*kgo.Record) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := s.takeOnce(ctx, recs)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.tel.Log.Error("orders not acknowledged; trying again", "topic", schemas.OrdersIn, "records", len(recs), "wait", wait, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (s *Service) takeOnce(ctx context.Context, recs []*kgo.Record) error {
	// There is no hurry here, and sending again what may still arrive would only add repeats; but a stop waits no longer than Drain.
	stopping := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(stopping, func() { time.AfterFunc(s.cfg.Drain, cancel) })()
	c := &call{s: s, source: sourceOrdersIn, lim: s.limits()}
	codec := s.deps.Codec
	batch := make([]pending, 0, len(recs))
	var rejects []*kgo.Record
	var faults []*problem.Details
	refuse := func(r *kgo.Record, fault *problem.Details) {
		faults = append(faults, fault)
		kept, detail := *r, explain(fault)
		if len(kept.Value) > keptRejected {
			detail += fmt.Sprintf(" (only the first %d of %d bytes are kept; topic, partition and offset say where the rest is)", keptRejected, len(kept.Value))
			kept.Value = kept.Value[:keptRejected]
		}
		rejects = append(rejects, codec.RejectedRecord(&kept, reason(fault), detail, Name, c.lim.Now))
	}
	bytes := 0
	from := make([]*kgo.Record, 0, len(recs))
	for _, r := range recs {
		bytes += len(r.Value)
		if len(r.Value) == 0 {
			refuse(r, problem.New(http.StatusBadRequest, "empty", "Nothing sent", "the record has no value: each record holds one order as JSON"))
			continue
		}
		u, fault := readOrder(c, string(r.Value), 0)
		if fault != nil {
			if fault.Status == http.StatusBadRequest {
				fault.Type = problem.Prefix + "undecodable"
			}
			refuse(r, fault)
			continue
		}
		if in := telemetry.Extract(ctx, r); in != ctx && trace.SpanContextFromContext(in).IsSampled() {
			in, span := s.tel.Tracer.Start(in, "ingest order", trace.WithSpanKind(trace.SpanKindConsumer))
			for _, out := range u.records {
				telemetry.Inject(in, out)
			}
			defer span.End() // once acknowledged
		}
		batch, from = append(batch, pending{unit: u, result: -1}), append(from, r)
	}
	if err := c.send(ctx, batch, rejects); err != nil {
		return err
	}
	// What Kafka will never take must not stop the partition.
	rejects = nil
	kept := batch[:0]
	for i := range batch {
		if errors.Is(batch[i].err, kerr.MessageTooLarge) {
			refuse(from[i], tooLarge("the order is larger than a record of Kafka may be: split it"))
			continue
		}
		kept = append(kept, batch[i])
	}
	if err := c.send(ctx, nil, rejects); err != nil {
		return err
	}
	s.stats.ordersIn.Add(int64(len(faults)))
	for _, f := range faults {
		c.count(f)
	}
	c.settle(ctx, kept, bytes)
	return nil
}
