package analytics

import (
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/topics"
)

// BenchmarkEncode is the work for one row of stock.events: decode the record, append it to the columns, write the block.
func BenchmarkEncode(b *testing.B) {
	codec, err := topics.NewCodec(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	records := make([]*kgo.Record, 10_000)
	for i := range records {
		records[i] = codec.EventRecord(sale(i))
		records[i].Offset = int64(i)
	}
	rows := newEventRows()
	b.ReportAllocs()
	for b.Loop() {
		rows.base().reset()
		for _, r := range records {
			if f := rows.add(r); f != nil {
				b.Fatal(f)
			}
		}
		if _, err := io.Copy(io.Discard, rows.base().body()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(records))/b.Elapsed().Seconds(), "rows/s")
}
