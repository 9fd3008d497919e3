package reservations

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// BenchmarkReserve is how long one caller after another waits for a reservation of one SKU, and of two.
func BenchmarkReserve(b *testing.B) {
	for _, skus := range []int{1, 2} {
		b.Run(fmt.Sprint("skus=", skus), func(b *testing.B) {
			g := start(b)
			a := g.api()
			var items []item
			for i := range skus {
				sku := fmt.Sprint("S", i)
				a.receive(sku, 10_000_000)
				items = append(items, item{sku, 1})
			}
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if status, out := a.call(http.MethodPost, "/v1/reservations", request(fmt.Sprint("b-", len(took)), items...)); status != 201 {
					b.Fatalf("%d %+v", status, out)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			for name, q := range map[string]int{"p50-ms": 50, "p99-ms": 99} {
				b.ReportMetric(took[(len(took)-1)*q/100].Seconds()*1000, name)
			}
		})
	}
}
