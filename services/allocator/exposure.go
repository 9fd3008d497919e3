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
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/topics"
)

const serviceName = "allocator"

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
				s.engine.RestoreCertificate(o.Partition, c)
			}
		case len(r.Value) == 0:
			s.engine.Unbook(o.Partition, string(r.Key))
		default:
			x, err := topics.DecodeBooks(r.Value)
			if err != nil || x.SKU != string(r.Key) {
				bad = fmt.Errorf("%s, partition %d, offset %d (SKU %q): %w: without these books the allocator does not know what may still be sold; run the version that wrote them",
					r.Topic, r.Partition, r.Offset, r.Key, err)
				return
			}
			s.engine.RestoreBooks(o.Partition, x)
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
	s.engine.Audit()
	s.mu.Unlock()
	s.changes.call()
}

// takeSide feeds results of writes and watermarks to the engine. s.mu is held.
func (s *Service) takeSide(ctx context.Context, b *batch, fetches kgo.Fetches) {
	fetches.EachError(func(t string, p int32, err error) {
		s.deps.Telemetry.Log.WarnContext(ctx, "fetch failed; trying again", "topic", t, "partition", p, "err", err)
	})
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
		if len(p.Records) > 0 && o.Live() {
			b.moved[p.Partition] = o
		}
		s.engine.Read(o.Partition, o.Next())
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
	if s.engine.Result(o.Partition, w) {
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
	s.engine.Watermark(o.Partition, w)
}

// encodeBooks appends what the last decisions did to books, certificates and alerts to s.pointers, and names the partitions of books and certificates. s.mu is held.
func (s *Service) encodeBooks(now int64) (partitions []int32) {
	for _, k := range s.engine.Kept() {
		r := topics.Record(schemas.ExposureBooks, k.ID(), nil)
		if k.Books().Phase() != escrow.Pooled {
			x := k.Books().Snapshot()
			r.Value = s.deps.Codec.AppendBooks(nil, &x, now)
		}
		s.pointers = append(s.pointers, r)
		partitions = append(partitions, k.Partition().ID())
	}
	alerts := s.engine.Alerts()
	for i := range alerts {
		s.pointers = append(s.pointers, s.alertRecord(&alerts[i], now))
	}
	s.engine.Seal(now, len(s.pointers) > 0, func(c *escrow.Certificate) {
		r := topics.Record(schemas.Certificates, c.Day+"/"+strconv.Itoa(int(c.Partition)), s.deps.Codec.AppendCertificate(nil, c))
		kafka.ToPartition(r, c.Partition)
		s.pointers = append(s.pointers, r)
		partitions = append(partitions, c.Partition)
	})
	return partitions
}

var alertKinds = map[escrow.AlertKind]alert.Kind{
	escrow.Breach: alert.ExposureBreach, escrow.Shortage: alert.ExposureShortage, escrow.Raised: alert.NumberRaised,
	escrow.Refusing: alert.ChannelStuck, escrow.Waiting: alert.ChannelStuck, escrow.Unguarded: alert.ChannelStuck,
}

func (s *Service) alertRecord(a *targeting.Alert, now int64) *kgo.Record {
	cause := a.Cause
	if cause == "" {
		cause = strconv.FormatInt(now, 10)
	}
	return topics.Record(schemas.StockAlerts, a.SKU, s.deps.Codec.AppendAlert(nil, &alert.Alert{
		ID: "exposure-" + a.Kind.String() + "/" + a.SKU + "/" + a.Channel + "/" + cause, Kind: alertKinds[a.Kind], SKU: a.SKU, Channel: a.Channel, Units: a.Units,
		Cause: a.Cause, Message: a.Message, At: now, RaisedBy: serviceName,
	}))
}
