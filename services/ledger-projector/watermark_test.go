package ledgerprojector

import (
	"errors"
	"fmt"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/topics"
)

// pass sends a watermark into every partition.
func (r *rig) pass(channel string, until int64) {
	e := event.Event{ID: fmt.Sprint("watermark/", channel, "/", until), Kind: event.OrderWatermarkPassed, Channel: channel, OccurredAt: until, Source: "test"}
	for p := range int32(testPartitions) {
		rec := r.codec.EventRecord(&e)
		kafka.ToPartition(rec, p)
		r.produce(rec)
	}
}

// TestWatermarkComesAfterTheLevels holds what a reader of channel.watermarks relies on, over batches, restarts and repeats: whoever has read
// stock.levels up to levels_offset has the level of every event before the watermark, and each partition has a record of its own.
func TestWatermarkComesAfterTheLevels(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	newest := func(channel string) map[int32]*order.Watermark {
		out := make(map[int32]*order.Watermark)
		for _, rec := range r.read(schemas.ChannelWatermarks) {
			w, err := topics.DecodeWatermark(rec.Value)
			if err != nil || string(rec.Key) != w.Channel {
				t.Fatalf("%q: %+v, %v", rec.Key, w, err)
			}
			if w.Channel != channel {
				continue
			}
			if old := out[rec.Partition]; old != nil && w.Until <= old.Until {
				t.Errorf("partition %d: %d after %d", rec.Partition, w.Until, old.Until)
			}
			out[rec.Partition] = w
		}
		return out
	}
	until := int64(0)
	for life := range 3 {
		s := r.start(func(c *Config, _ *Deps) { c.BatchEvents = 7 })
		for range 3 {
			var sales []event.Event
			for i := range 40 {
				id := fmt.Sprintf("s%d-%d", until, i)
				sales = append(sales, event.Event{ID: id, Kind: event.SaleRecorded, SKU: fmt.Sprint("SKU-", i%17), Channel: "shop", OrderID: id, Quantity: 1, OccurredAt: until + 1, ReceivedAt: 1})
			}
			r.send(sales...)
			until += 10
			r.pass("shop", until)
			r.pass("shop", until-5) // an older one says nothing new
			r.pass("amz", until)
		}
		eventually(t, "watermarks of all partitions", func() error {
			for _, channel := range []string{"shop", "amz"} {
				marks := newest(channel)
				for p := range int32(testPartitions) {
					if w := marks[p]; w == nil || w.Until != until {
						return fmt.Errorf("life %d: partition %d of %s has %+v, want %d", life, p, channel, w, until)
					}
				}
			}
			return nil
		})
		s.stop()
	}
	levels := make(map[string][]*kgo.Record)
	for _, rec := range r.read(schemas.StockLevels) {
		levels[string(rec.Key)] = append(levels[string(rec.Key)], rec)
	}
	events := r.read(schemas.StockEvents)
	checked := 0
	for _, rec := range r.read(schemas.ChannelWatermarks) {
		w, err := topics.DecodeWatermark(rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if ev.Partition != rec.Partition || ev.Offset >= w.SourceOffset || len(levels[string(ev.Key)]) == 0 {
				continue
			}
			seen := int64(-1)
			for _, l := range levels[string(ev.Key)] {
				if l.Offset < w.LevelsOffset {
					v, err := topics.DecodeLevel(l.Value)
					if err != nil {
						t.Fatal(err)
					}
					seen = max(seen, v.SourceOffset)
				}
			}
			if seen < ev.Offset {
				t.Fatalf("partition %d: watermark %d of %s lets a reader stop at %d of the levels, where %s is at event %d, not at %d", rec.Partition, w.Until, w.Channel, w.LevelsOffset, ev.Key, seen, ev.Offset)
			}
			checked++
		}
	}
	if checked == 0 {
		t.Error("nothing was checked")
	}
	if rejected := r.read(schemas.StockRejected); len(rejected) > 0 {
		t.Error(errors.New(string(rejected[0].Value)))
	}
}
