package hotview

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

func BenchmarkStep(b *testing.B) {
	c := redis.NewClient(&redis.Options{Addr: os.Getenv("R")})
	ctx := context.Background()
	c.FlushAll(ctx)
	st := NewStore(c, "b", 0, "x", Identity{})
	m, _ := st.Claim(ctx)
	p, _, _ := st.Load(ctx, m, ledger.Options{})
	off := int64(-1)
	const n = 2048
	b.ReportAllocs()
	for b.Loop() {
		prev := off
		for i := range n {
			off++
			e := event.Event{ID: fmt.Sprintf("web/%08d/1/sale_recorded", off), SKU: fmt.Sprintf("SKU-%06d", i), Kind: event.SaleRecorded, Location: "berlin", Channel: "web", OrderID: fmt.Sprint(off), Quantity: 1}
			p.Apply(&e, off, 1_700_000_000_000_000)
		}
		if err := st.Step(ctx, p, &Batch{Prev: prev, Last: off}); err != nil {
			b.Fatal(err)
		}
	}
	b.Log(c.Info(ctx, "cpu").Val())
}
