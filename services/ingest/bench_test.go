package ingest

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// BenchmarkOrderStream sends orders of four lines as NDJSON through HTTP, validation and acknowledgement; Kafka (embedded) runs in the same process.
func BenchmarkOrderStream(b *testing.B) {
	g := start(b)
	const orders, lines = 20_000, 4
	var body strings.Builder
	for i := range orders {
		var ls []string
		for j := range lines {
			ls = append(ls, line(strconv.Itoa(j), "SKU-"+strconv.Itoa((i*7+j)%5000), 1))
		}
		body.WriteString(orderJSON(strconv.Itoa(i), ls...) + "\n")
	}
	b.SetBytes(int64(body.Len()))
	for b.Loop() {
		a := g.do(http.MethodPost, "/v1/orders?results=failed", strings.NewReader(body.String()), "Content-Type", "application/x-ndjson")
		if a.status != http.StatusAccepted {
			b.Fatalf("status %d: %s", a.status, a.body)
		}
	}
	b.ReportMetric(float64(b.N*orders*lines)/b.Elapsed().Seconds(), "lines/s")
}
