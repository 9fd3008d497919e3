package ledgerprojector

import (
	"context"
	"errors"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/reservation"
	"github.com/onhand/onhand/topics"
)

const (
	// dueEvery is how often the owner of a partition looks for reservations whose time is up.
	dueEvery = 250 * time.Millisecond
	// dueMargin is how long after its time a reservation is given up: what was sent in time has then reached the log, if clocks agree that well.
	dueMargin = time.Second
	// dueAgain is when it is tried again, where what was appended about a reservation did not come back.
	dueAgain = 10 * time.Second
)

// decide emits what was decided on an event about a reservation. Like alerts it is stored with the step, and repeated by the next owner when it may not have
// reached Kafka.
func (w *worker) decide(o *output, e *event.Event, offset int64, b *hotview.Batch) {
	d := w.state.Decision()
	d.DecidedAt = time.Now().UnixMicro()
	o.awaited = true
	w.keep(o, topics.Record(schemas.ReservationDecisions, d.ReservationID, w.s.deps.Codec.AppendDecision(nil, d)), offset, b)
	if e.Kind != event.ReservationAborted || e.PeerSKU == "" || e.PeerSKU == e.SKU {
		return
	}
	// The owner of another part asks what was decided for all of them: this SKU's part says so, and from now on for ever.
	told := event.Event{
		ID: "rsv/" + d.ReservationID + "/told/" + d.State.String() + "/" + e.PeerSKU, Kind: event.ReservationAborted, SKU: e.PeerSKU, Channel: e.Channel, ReservationID: d.ReservationID,
		RequestHash: e.RequestHash, OccurredAt: d.DecidedAt, ReceivedAt: d.DecidedAt, Source: name, Checked: true,
		Reason: "the reservation as a whole came to nothing",
	}
	if d.RequestHash == e.RequestHash && d.State != reservation.Aborted && d.State != reservation.Refused && d.State != reservation.Unknown {
		told.Kind, told.Reason = event.ReservationConfirmed, ""
	}
	w.keep(o, w.s.deps.Codec.EventRecord(&told), offset, b) // it holds copies
}

// giveUp appends to the log what is due: the end of reservations that have expired, and the question what became of those that nobody confirmed. The fold decides;
// what was extended or confirmed meanwhile stays. Of the goroutine that folds.
func (w *worker) giveUp() {
	if !w.ready.Load() {
		return // it does not know yet what has become of them
	}
	now := time.Now()
	w.state.Due(now.Add(-dueMargin).UnixMicro(), dueAgain, func(d ledger.Due) {
		e := event.Event{
			SKU: d.SKU, ReservationID: d.ReservationID, Channel: d.Channel, RequestHash: d.RequestHash, OccurredAt: now.UnixMicro(), ReceivedAt: now.UnixMicro(), Source: name, Checked: true,
		}
		if d.Tentative {
			e.Kind, e.SKU, e.PeerSKU, e.Reason = event.ReservationAborted, d.PeerSKU, d.SKU, "not confirmed in time"
			e.ID = "rsv/" + d.ReservationID + "/undecided/" + strconv.FormatUint(hash(d.SKU), 16) + "/" + d.PeerSKU // both names may not fit
		} else {
			e.Kind, e.ExpiresAt, e.Reason = event.ReservationReleased, d.ExpiresAt, "expired"
			e.ID = "rsv/" + d.ReservationID + "/expire/" + strconv.FormatInt(d.ExpiresAt, 10) + "/" + d.SKU
		}
		// It neither waits nor holds the fold up: what is lost is tried again.
		w.s.client.TryProduce(context.Background(), w.s.deps.Codec.EventRecord(&e), func(r *kgo.Record, err error) {
			if err != nil && !errors.Is(err, kgo.ErrClientClosed) {
				w.s.log.Warn("kafka did not take the end of a reservation; it is tried again", "sku", string(r.Key), "partition", w.partition, "err", err)
			}
		})
	})
}

func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s)) // cannot fail
	return h.Sum64()
}
