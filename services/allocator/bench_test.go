package allocator

import (
	"fmt"
	"testing"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/topics"
)

// BenchmarkChangedSKU is all that a changed SKU costs on 12 channels between Kafka and Kafka: decode the level, decide 12 targets with their
// explanations, encode them.
func BenchmarkChangedSKU(b *testing.B) {
	for _, mode := range []string{"pooled", "waterfall", "proportional"} {
		b.Run(mode, func(b *testing.B) {
			const skus = 2000
			set := &catalog.Settings{Version: 7, Channels: map[string]*catalog.Channel{}, Locations: map[string]*catalog.Location{}, Rules: map[string]*catalog.Rule{}}
			for i := range 12 {
				id := fmt.Sprintf("channel-%02d", i)
				set.Channels[id] = &catalog.Channel{ID: id, ListsAllSKUs: true}
				buffer, priority := catalog.Units(i%4), int32(i)
				set.Rules[id] = &catalog.Rule{ID: "rule-" + id, Match: catalog.Match{Channel: id}, Buffer: &buffer, Priority: &priority}
			}
			for _, id := range []string{"berlin", "rotterdam"} {
				set.Locations[id] = &catalog.Location{ID: id, Kind: catalog.Warehouse}
			}
			set.Rules["mode"] = &catalog.Rule{ID: "mode", Mode: &mode}
			codec, err := topics.NewCodec(b.Context(), nil)
			if err != nil {
				b.Fatal(err)
			}
			s := &Service{deps: Deps{Codec: codec}, engine: targeting.New(func(string) *catalog.Listing { return nil }, 0), topicNames: map[string]string{}}
			p := s.engine.Partition(0)
			s.engine.Settings(catalog.Compile(set))
			s.engine.Start(p)
			values := make([][]byte, skus)
			level := func(i, version int) {
				l := ledger.Level{SKU: fmt.Sprintf("SKU-%05d", i), Version: int64(version), SourceOffset: int64(version), ReceivedAt: int64(version), OldestReceivedAt: 1,
					Sold:      []ledger.ChannelUnits{{Channel: "channel-03", Units: 5}, {Channel: "channel-07", Units: ledger.Units(version)}},
					Locations: []ledger.LocationLevel{{Location: "berlin", OnHand: ledger.Units(1000 + version%500)}, {Location: "rotterdam", OnHand: 40}}}
				values[i] = codec.AppendLevel(values[i][:0], &l)
			}
			b.ReportAllocs()
			version, targets, size := 0, 0, 0
			for at := skus; b.Loop(); at++ {
				if at == skus { // a batch is full
					b.StopTimer()
					version++
					for i := range skus {
						level(i, version)
					}
					at = 0
					b.StartTimer()
				}
				l, err := topics.DecodeLevel(values[at])
				if err != nil {
					b.Fatal(err)
				}
				s.engine.Level(p, l)
				if at%100 == 99 {
					out, _ := s.engine.Decide(1, 1<<20)
					s.encode(&batch{}, out)
					for _, r := range s.pointers {
						size += len(r.Value)
					}
					s.pointers = s.pointers[:0]
					targets += len(out)
				}
			}
			if targets > 0 {
				b.ReportMetric(float64(size)/float64(targets), "B/target")
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "SKUs/s")
		})
	}
}
