package ledgerprojector

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/topics"
)

// outbox is the output of a partition under way to Kafka. Alerts and rejected records are also in Redis, from the step that made them until they
// are acknowledged; levels need not be, for the state has them.
type outbox struct {
	w      *worker
	failed chan struct{} // closed when Kafka refused a record: all that is not acknowledged is to be emitted again

	mu      sync.Mutex
	queue   []*output // sent, not acknowledged, in order
	emitted int64     // output of events up to here is acknowledged
	sent    int       // entries of the stored outbox that are acknowledged and not trimmed
	broken  bool
	idle    chan struct{} // closed when nothing is under way; nil when nobody waits
	sends   int64         // outputs that were ever sent

	ctx     context.Context // of all that is produced: what is not under way yet when the outbox is closed is never sent
	cancel  context.CancelFunc
	strays  []*stray      // not answered, in order
	unread  chan struct{} // has a token when one may not be read
	read    chan struct{} // has a token when one may have been read and not taken
	watched chan struct{} // closed when nothing reads strays any more

	levelsEnd int64            // offset in stock.levels, same partition, after the last level that is acknowledged, or known to be another's
	passed    map[string]int64 // by channel: the newest watermark passed on
	passing   int              // watermarks under way
}

// newOutbox begins with the offset up to which output is acknowledged, the offset in stock.levels up to which nothing is strange, and its end now.
func newOutbox(w *worker, emitted, settled, levelsEnd int64) *outbox {
	o := &outbox{
		w: w, failed: make(chan struct{}), emitted: emitted, levelsEnd: min(settled, levelsEnd), passed: make(map[string]int64),
		unread: make(chan struct{}, 1), read: make(chan struct{}, 1), watched: make(chan struct{}),
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	if o.levelsEnd < levelsEnd {
		o.strange(levelsEnd)
	}
	go o.watch()
	return o
}

// output is what one batch emits.
type output struct {
	box     *outbox
	last    int64        // offset that is emitted when all is acknowledged
	outbox  int          // its entries in the stored outbox
	values  []byte       // of levels, with their keys
	slab    []kgo.Record // of levels
	records []*kgo.Record
	left    int      // not acknowledged yet; under box.mu
	answers []*stray // are answered once all is acknowledged
	awaited bool     // a caller waits for one of its records, a decision: they do not linger

	watermarks []order.Watermark // to be passed on once all is acknowledged
}

func (o *outbox) begin(last int64) *output { return &output{box: o, last: last} }

func (b *output) add(r *kgo.Record) { b.records = append(b.records, r) }

// send emits the records. Their acknowledgements move the partition's emitted offset on, in order.
func (b *output) send() {
	o := b.box
	b.left = len(b.records)
	o.mu.Lock()
	o.queue = append(o.queue, b)
	o.sends++
	o.settle()
	o.mu.Unlock()
	levels := int64(0)
	for _, r := range b.records {
		if r.Topic == schemas.StockLevels {
			levels++
		}
		o.w.s.client.Produce(o.ctx, r, b.acknowledge)
	}
	b.records, b.values, b.slab = nil, nil, nil
	if b.awaited {
		kafka.Hurry(o.w.s.client)
	}
	o.w.s.totals.levels.Add(levels)
}

func (b *output) acknowledge(r *kgo.Record, err error) {
	o := b.box
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		if !o.broken {
			o.broken = true
			close(o.failed)
			if !errors.Is(err, kgo.ErrClientClosed) && o.ctx.Err() == nil {
				o.w.s.log.Error("kafka did not take a record; it will be emitted again", "topic", r.Topic, "partition", o.w.partition, "err", err)
			}
		}
		return
	}
	if r.Topic == schemas.StockLevels && r.Partition == o.w.partition {
		o.note(r.Offset)
	}
	b.left--
	o.settle()
}

// settle moves on past what is acknowledged. Under mu.
func (o *outbox) settle() {
	moved := false
	for len(o.queue) > 0 && o.queue[0].left == 0 {
		o.emitted = max(o.emitted, o.queue[0].last)
		o.sent += o.queue[0].outbox
		if answers := o.queue[0].answers; len(answers) > 0 {
			o.strays = slices.DeleteFunc(o.strays, func(st *stray) bool { return slices.Contains(answers, st) })
		}
		o.passOn(o.queue[0].watermarks)
		o.queue[0] = nil
		o.queue = o.queue[1:]
		moved = true
	}
	if !moved {
		return
	}
	if o.emitted >= 0 {
		o.w.s.client.MarkCommitOffsets(map[string]map[int32]kgo.EpochOffset{schemas.StockEvents: {o.w.partition: {Epoch: -1, Offset: o.emitted + 1}}})
	}
	o.rest()
}

// rest tells who waits that nothing is under way. Under mu.
func (o *outbox) rest() {
	if len(o.queue) == 0 && o.passing == 0 && o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// passOn tells the readers of this partition's levels how far the orders of a channel are in them: all levels of events before the watermarks are
// acknowledged. One that is lost is made up for by the next, so that none is stored, and none holds the ledger up. Under mu, which keeps
// their order.
func (o *outbox) passOn(ws []order.Watermark) {
	w := o.w
	for i := range ws {
		m := &ws[i]
		if m.Until <= o.passed[m.Channel] {
			continue
		}
		o.passed[m.Channel] = m.Until
		m.LevelsOffset, m.AppliedAt = o.levelsEnd, time.Now().UnixMicro()
		r := topics.Record(schemas.ChannelWatermarks, m.Channel, w.s.deps.Codec.AppendWatermark(nil, m))
		kafka.ToPartition(r, w.partition)
		o.passing++
		// It neither waits nor calls back at once, which mu would not allow.
		w.s.client.TryProduce(context.Background(), r, func(r *kgo.Record, err error) {
			if err != nil && !errors.Is(err, kgo.ErrClientClosed) {
				w.s.log.Warn("kafka did not take an order watermark; the channel's next one tells as much", "channel", string(r.Key), "partition", w.partition, "err", err)
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			o.passing--
			o.rest()
		})
	}
}

// acknowledged is what of the output is in Kafka.
func (o *outbox) acknowledged() hotview.Emitted {
	o.mu.Lock()
	defer o.mu.Unlock()
	return hotview.Emitted{To: o.emitted, Levels: o.settledTo(), Sent: o.sent}
}

// trimmed notes that entries were taken from the stored outbox.
func (o *outbox) trimmed(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent -= n
}

// wait returns when all output is acknowledged, or some was refused, or ctx ended.
func (o *outbox) wait(ctx context.Context) {
	o.mu.Lock()
	if len(o.queue) == 0 && o.passing == 0 {
		o.mu.Unlock()
		return
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	idle := o.idle
	o.mu.Unlock()
	select {
	case <-idle:
	case <-o.failed:
	case <-ctx.Done():
	}
}

// close lets later acknowledgements go: what they would tell is found out again by the next load. What is not on its way yet is not sent any more: another may
// own the partition by now.
func (o *outbox) close() {
	o.cancel()
	o.mu.Lock()
	if !o.broken {
		o.broken = true
		close(o.failed)
	}
	o.mu.Unlock()
	<-o.watched
}

// room makes room for so many levels at once.
func (b *output) room(levels int) {
	const each = 200 // bytes, with a location or two; more is grown
	b.values = make([]byte, 0, levels*each)
	b.slab = make([]kgo.Record, 0, levels)
	b.records = slices.Grow(b.records, levels)
}

// levelRecord is the stock.levels record of a SKU as it is now.
func (w *worker) levelRecord(b *output, k *ledger.SKU, now int64) *kgo.Record {
	w.state.Level(k, now, &w.level)
	w.level.Generation = w.generation
	from := len(b.values)
	b.values = w.s.deps.Codec.AppendLevel(b.values, &w.level)
	at := len(b.values)
	b.values = append(b.values, w.level.SKU...)
	if len(b.slab) == cap(b.slab) { // records stay where they are
		b.slab = make([]kgo.Record, 0, 64)
	}
	b.slab = append(b.slab, kgo.Record{Topic: schemas.StockLevels, Key: b.values[at:len(b.values):len(b.values)], Value: b.values[from:at:at], Headers: topics.ProtobufHeaders()})
	r := &b.slab[len(b.slab)-1]
	if ctx, ok := w.traced[w.level.SKU]; ok {
		telemetry.Inject(ctx, r)
	}
	return r
}

// keep emits a record that the state does not hold, and has it stored until it is acknowledged. During a quiet time an earlier life has emitted it.
func (w *worker) keep(o *output, r *kgo.Record, offset int64, b *hotview.Batch) {
	if offset < w.quiet {
		return
	}
	o.add(r)
	b.Outbox = append(b.Outbox, encodeEntry(r))
}

func (w *worker) reject(o *output, r *kgo.Record, reason, detail string, b *hotview.Batch) {
	out := w.s.deps.Codec.RejectedRecord(r, reason, detail, name, time.Now())
	out.Key = bytes.Clone(out.Key) // r's memory is used again
	w.keep(o, out, r.Offset, b)
}

func (w *worker) alertOversold(o *output, e *event.Event, units ledger.Units, b *hotview.Batch) {
	where := ""
	if e.Location != "" {
		where = " at " + e.Location
	}
	w.alert(o, e, alert.Oversold, units, fmt.Sprintf(
		"%s%s left %d units of %s without stock (available is now %d). Restock it, or cancel or reassign an order; event %s", e.Kind, where, units, e.SKU,
		w.state.SKU(e.SKU).Available(), e.ID), b)
}

func (w *worker) alertUnknown(o *output, e *event.Event, b *hotview.Batch) {
	what := "order " + e.OrderID + " line " + e.LineID
	switch e.Kind {
	case event.ReservationReleased:
		what = "reservation " + e.ReservationID
	case event.InboundCancelled:
		what = "order " + e.Reference
	}
	w.alert(o, e, alert.Anomaly, e.Quantity, fmt.Sprintf(
		"%s of %d units of %s for %s, of which so many are not open: nothing was released for the rest, and it is netted if the missing event comes; event %s",
		e.Kind, e.Quantity, e.SKU, what, e.ID), b)
}

func (w *worker) alert(o *output, e *event.Event, kind alert.Kind, units ledger.Units, message string, b *hotview.Batch) {
	a := alert.Alert{
		ID: fmt.Sprintf("%d/%s", kind, e.ID), Kind: kind, SKU: e.SKU, Location: e.Location, Channel: e.Channel, Units: units, Cause: e.ID,
		Message: message, At: time.Now().UnixMicro(), RaisedBy: name,
	}
	w.keep(o, topics.Record(schemas.StockAlerts, e.SKU, w.s.deps.Codec.AppendAlert(nil, &a)), b.Last, b)
}

// encodeEntry packs a record for the stored outbox: topic, key and value, each with its length.
func encodeEntry(r *kgo.Record) []byte {
	var out []byte
	for _, part := range [][]byte{[]byte(r.Topic), r.Key, r.Value} {
		out = binary.AppendUvarint(out, uint64(len(part)))
		out = append(out, part...)
	}
	return out
}

var errEntry = errors.New("it is cut short")

func decodeEntry(b []byte) (*kgo.Record, error) {
	var parts [3][]byte
	for i := range parts {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, errEntry
		}
		parts[i], b = b[w:w+int(n)], b[w+int(n):]
	}
	r := topics.Record(string(parts[0]), "", parts[2])
	r.Key = parts[1]
	return r, nil
}
