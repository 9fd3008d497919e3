package escrow_test

import (
	"fmt"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/write"
)

// settled is a SKU with 30 channels in the books, all showing their share of a hundred units each.
func settled(t testing.TB) (*escrow.SKU, *escrow.Decider, *escrow.Input) {
	const n = 30
	s, d := &escrow.SKU{ID: "A"}, &escrow.Decider{}
	in := &escrow.Input{Now: 1_000_000_000, Version: 1, Rules: &allocation.Rules{Guarantee: allocation.Strict, Channels: make([]allocation.ChannelRules, n)},
		Stock: []allocation.Stock{{ID: "W", Available: n * 100}}}
	var sellers []allocation.Seller
	for i := range n {
		sellers = append(sellers, allocation.Seller{ID: fmt.Sprintf("ch%02d", i)})
		in.Offers = append(in.Offers, escrow.Offer{Seller: i, ExternalID: "A"})
		in.APIs = append(in.APIs, kinds[i%len(kinds)].api)
		in.Marks = append(in.Marks, 1)
	}
	in.Layout = allocation.NewLayout(sellers, []allocation.Place{{ID: "W"}})
	s.Level(&escrow.Level{Version: 1, Available: n * 100, At: in.Now})
	for range 50 {
		in.Now += 1_000_000
		for _, g := range d.Decide(s, in).Grants {
			r := escrow.Result{ID: g.ID, Channel: g.Channel, Outcome: write.Applied, AckedAt: in.Now}
			if g.Write.Operation == write.Read {
				r.ShownKnown, r.Shown = true, 0
			}
			s.Result(&r, 0)
		}
		for i := range in.Marks {
			in.Marks[i] = in.Now
		}
	}
	if !s.Guarded() || s.Exposed() < n*40 {
		t.Fatalf("guarded %v, exposed %d", s.Guarded(), s.Exposed())
	}
	return s, d, in
}

// sale makes the level of one more sale of channel i.
func sales(s *escrow.SKU, in *escrow.Input) func(i int) *escrow.Level {
	l := &escrow.Level{Version: s.Version(), Counters: make([]escrow.Counter, 1)}
	sold := make([]units, len(in.Offers))
	return func(i int) *escrow.Level {
		sold[i]++
		l.Previous = l.Version
		l.Version++
		in.Stock[0].Available--
		l.Available = in.Stock[0].Available
		l.Counters[0] = escrow.Counter{Channel: in.Layout.SellerID(i), Sold: sold[i], EarliestAt: in.Now}
		l.At = in.Now
		return l
	}
}

func BenchmarkSaleWithoutWrite(b *testing.B) {
	b.ReportAllocs()
	s, d, in := settled(b)
	next := sales(s, in)
	n := 0
	for b.Loop() {
		if n++; n%150 == 0 {
			b.StopTimer()
			s, d, in = settled(b)
			next = sales(s, in)
			b.StartTimer()
		}
		s.Level(next(n % 30))
		d.Decide(s, in)
	}
}

func BenchmarkQuiet(b *testing.B) {
	b.ReportAllocs()
	s, d, in := settled(b)
	for b.Loop() {
		d.Decide(s, in)
	}
}

// BenchmarkFullDecision is what a change of stock costs: shares and rooms of all channels.
func BenchmarkFullDecision(b *testing.B) {
	b.ReportAllocs()
	s, d, in := settled(b)
	l := escrow.Level{Version: s.Version(), Available: in.Stock[0].Available}
	for b.Loop() {
		l.Version++
		l.Available ^= 1
		in.Stock[0].Available = l.Available
		s.Level(&l)
		d.Decide(s, in)
	}
}

func TestNothingIsAllocatedPerSale(t *testing.T) {
	s, d, in := settled(t)
	next := sales(s, in)
	i := 0
	if n := testing.AllocsPerRun(60, func() {
		i++
		s.Level(next(i % 30))
		if out := d.Decide(s, in); len(out.Grants) > 0 {
			t.Errorf("sale %d brings %+v", i, out.Grants)
		}
	}); n > 0 {
		t.Errorf("%v allocations a sale", n)
	}
	l := escrow.Level{Version: s.Version(), Available: in.Stock[0].Available}
	if n := testing.AllocsPerRun(60, func() {
		l.Version++
		l.Available ^= 1
		in.Stock[0].Available = l.Available
		s.Level(&l)
		d.Decide(s, in)
	}); n > 0 {
		t.Errorf("%v allocations a decision without a write", n)
	}
}
