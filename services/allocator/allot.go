package allocator

import (
	"context"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/stock/event"
)

// What a claim channel may take is changed by an event in stock.events. The grant is in the books first, in the turn's transaction; the event is written after that, outside
// of it: readers of the log of stock need not wait for a transaction to end, least of all one that a crash has left open. A crash in between loses the event and not the grant,
// so whoever loads the books writes it again. The ledger takes each in once, and none after a later one (Sequence), however late an instance that was shut out writes it.

// allotAgain is when an event that Kafka did not take is written again.
const allotAgain = time.Second

// allotments writes events about allotments, beside the session.
type allotments struct {
	ctx    context.Context
	stop   context.CancelFunc
	client *kgo.Client
	record func(*event.Event) *kgo.Record
	log    *slog.Logger
}

func (s *Service) openAllotments() (*allotments, error) {
	client, err := s.deps.Kafka.Client(s.deps.Telemetry.Log, "onhand-allocator-allotments")
	if err != nil {
		return nil, err
	}
	a := &allotments{client: client, record: s.deps.Codec.EventRecord, log: s.deps.Telemetry.Log}
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a, nil
}

// write has the events written, as long as it takes.
func (a *allotments) write(events []*event.Event) {
	for _, e := range events {
		a.client.Produce(a.ctx, a.record(e), func(r *kgo.Record, err error) {
			if err == nil || a.ctx.Err() != nil {
				return
			}
			a.log.WarnContext(a.ctx, "a change of an allotment was not written; trying again", "sku", e.SKU, "channel", e.Channel, "err", err)
			time.AfterFunc(allotAgain, func() {
				if a.ctx.Err() == nil {
					a.write([]*event.Event{e})
				}
			})
		})
	}
}

// close gives up what Kafka has not taken in a moment: whoever loads the books writes it.
func (a *allotments) close() {
	if a == nil {
		return
	}
	ctx, cancel := context.WithTimeout(a.ctx, leaveWithin)
	defer cancel()
	_ = a.client.Flush(ctx) // see above
	a.stop()
	kafka.Close(a.client, leaveWithin)
}
