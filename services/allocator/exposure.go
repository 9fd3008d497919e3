package allocator

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

const serviceName = "allocator"

// maxAhead is how many watermarks of a channel wait for their levels at most. What is left out only comes later.
const maxAhead = 1000

// sealAfter is the longest that checks of the invariant are not in the certificate, in microseconds. A crash forgets that they were made, nothing else.
const sealAfter = int64(5 * time.Second / time.Microsecond)

// loadBooks takes in the books and the certificates of the partitions.
func (s *Service) loadBooks(ctx context.Context, fresh map[int32]*owned, ids []int32) error {
	today := time.Now().UTC().Format(time.DateOnly)
	var bad error
	_, err := kafka.Committed(ctx, s.client, map[string][]int32{schemas.ExposureBooks: ids, schemas.Certificates: ids}, nil, func(r *kgo.Record) {
		s.mu.Lock()
		defer s.mu.Unlock()
		o := fresh[r.Partition]
		switch {
		case r.Topic == schemas.Certificates:
			if c, err := topics.DecodeCertificate(r.Value); err == nil && c.Day == today && c.Partition == r.Partition {
				o.seal = seal{Certificate: *c}
			}
		case len(r.Value) == 0:
			s.engine.unbook(o.partition, string(r.Key))
		default:
			x, err := topics.DecodeBooks(r.Value)
			if err != nil || x.SKU != string(r.Key) {
				bad = fmt.Errorf("%s, partition %d, offset %d (SKU %q): %w: without these books the allocator does not know what may still be sold; run the version that wrote them",
					r.Topic, r.Partition, r.Offset, r.Key, err)
				return
			}
			s.engine.restoreBooks(o.partition, x)
		}
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return fmt.Errorf("load books: %w", err)
	}
	return nil
}

// Audit has every channel whose exposure is other than what it is thought to show looked at now: a sale that crosses a write cannot be placed before or after it,
// and else that is found out after a while.
func (s *Service) Audit() {
	s.mu.Lock()
	for _, o := range s.parts {
		for k := range o.booked {
			k.books.Audit()
			s.engine.touch(o.partition, k)
		}
	}
	s.mu.Unlock()
	s.changes.call()
}

// takeSide feeds results of writes and watermarks to the engine. s.mu is held.
func (s *Service) takeSide(ctx context.Context, b *batch, fetches kgo.Fetches) {
	fetches.EachError(func(t string, p int32, err error) {
		s.deps.Telemetry.Log.WarnContext(ctx, "fetch failed; trying again", "topic", t, "partition", p, "err", err)
	})
	s.delays.tick(time.UnixMicro(s.engine.now))
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		o := s.parts[p.Partition]
		if o == nil || !o.loaded {
			return
		}
		for _, r := range p.Records {
			if p.Topic == schemas.ChannelWatermarks {
				o.passed = r.Offset + 1
				s.takeWatermark(ctx, o, r)
				continue
			}
			o.results = r.Offset + 1
			s.takeResult(ctx, b, o, r)
		}
		if len(p.Records) > 0 && o.live {
			b.moved[p.Partition] = o
		}
		s.settleMarks(o)
	})
}

func (s *Service) takeResult(ctx context.Context, b *batch, o *owned, r *kgo.Record) {
	w, err := topics.DecodeWrite(r.Value)
	if err == nil && (w.SKU == "" || w.SKU != string(r.Key)) {
		err = fmt.Errorf("its key is %q and its SKU %q: want the same", r.Key, w.SKU)
	}
	if err != nil { // analytics keeps it in stock.rejected
		s.deps.Telemetry.Log.ErrorContext(ctx, "result of a write not readable; if it was a granted one, its room stays booked", "partition", r.Partition, "offset", r.Offset, "err", err)
		return
	}
	if w.Outcome == write.Applied && w.AckedAt > 0 && w.DecidedAt > 0 {
		s.delays.wrote(w.Channel, w.AckedAt-w.DecidedAt)
	}
	if s.engine.result(o.partition, w) {
		s.stats.results.Add(1)
	}
}

// takeWatermark keeps a watermark until the levels below it have been read.
func (s *Service) takeWatermark(ctx context.Context, o *owned, r *kgo.Record) {
	if len(r.Value) == 0 {
		return
	}
	w, err := topics.DecodeWatermark(r.Value)
	if err != nil || w.Channel == "" {
		s.deps.Telemetry.Log.WarnContext(ctx, "order watermark not readable; the next one counts", "partition", r.Partition, "offset", r.Offset, "err", err)
		return
	}
	waiting := o.ahead[w.Channel]
	if n := len(waiting); n > 0 && (w.Until <= waiting[n-1].Until || n >= maxAhead) {
		return
	}
	o.ahead[w.Channel] = append(waiting, *w)
}

// settleMarks brings the watermarks into force whose levels have been read.
func (s *Service) settleMarks(o *owned) {
	for channel, waiting := range o.ahead {
		n := 0
		for n < len(waiting) && waiting[n].LevelsOffset <= o.next {
			n++
		}
		if n == 0 {
			continue
		}
		s.engine.passed(o.partition, channel, waiting[n-1].Until, s.engine.now)
		if n == len(waiting) {
			delete(o.ahead, channel)
		} else {
			o.ahead[channel] = append([]order.Watermark(nil), waiting[n:]...)
		}
	}
}

// encodeBooks appends what the last decisions did to books, certificates and alerts to s.pointers, and names the partitions of books and certificates. s.mu is held.
func (s *Service) encodeBooks(now int64) (partitions []int32) {
	e := s.engine
	for _, k := range e.kept {
		r := topics.Record(schemas.ExposureBooks, k.id, nil)
		if k.books.Phase() == escrow.Pooled {
			if !k.stored {
				continue
			}
			k.stored = false
		} else {
			x := k.books.Snapshot()
			r.Value = s.deps.Codec.AppendBooks(nil, &x, now)
			k.stored = true
		}
		s.pointers = append(s.pointers, r)
		partitions = append(partitions, k.of.id)
	}
	certificate := func(c *escrow.Certificate) {
		r := topics.Record(schemas.Certificates, c.Day+"/"+strconv.Itoa(int(c.Partition)), s.deps.Codec.AppendCertificate(nil, c))
		kafka.ToPartition(r, c.Partition)
		s.pointers = append(s.pointers, r)
		partitions = append(partitions, c.Partition)
	}
	for i := range e.finished {
		certificate(&e.finished[i])
	}
	for i := range e.raised {
		s.pointers = append(s.pointers, s.alertRecord(&e.raised[i], now))
	}
	for p := range e.unsealed {
		if len(s.pointers) > 0 || now-p.seal.written > sealAfter {
			p.seal.written = now
			certificate(&p.seal.Certificate)
			delete(e.unsealed, p)
		}
	}
	return partitions
}

var alertKinds = map[escrow.AlertKind]alert.Kind{
	escrow.Breach: alert.ExposureBreach, escrow.Shortage: alert.ExposureShortage, escrow.Raised: alert.NumberRaised,
	escrow.Refusing: alert.ChannelStuck, escrow.Waiting: alert.ChannelStuck, escrow.Unguarded: alert.ChannelStuck,
}

func (s *Service) alertRecord(r *raised, now int64) *kgo.Record {
	a := &r.alert
	cause := a.Cause
	if cause == "" {
		cause = strconv.FormatInt(now, 10)
	}
	return topics.Record(schemas.StockAlerts, r.sku.id, s.deps.Codec.AppendAlert(nil, &alert.Alert{
		ID: "exposure-" + a.Kind.String() + "/" + r.sku.id + "/" + a.Channel + "/" + cause, Kind: alertKinds[a.Kind], SKU: r.sku.id, Channel: a.Channel, Units: a.Units,
		Cause: a.Cause, Message: a.Message, At: now, RaisedBy: serviceName,
	}))
}
