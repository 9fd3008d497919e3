package clickhouse_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	"github.com/onhand/onhand/embedded/clickhouse"
)

// memory returns the process's resident memory, MB: all of it, and what is not a
// mapped file (the library's code is one, and can be dropped at any time).
func memory(b *testing.B) (rss, anon float64) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0 // a system without /proc
	}
	for line := range strings.Lines(string(raw)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			rss = kb / 1e3
		}
		if n, _ := fmt.Sscanf(line, "RssAnon: %f kB", &kb); n == 1 {
			anon = kb / 1e3
		}
	}
	return rss, anon
}

// BenchmarkInsert tells what the engine costs in memory, and how fast rows go in.
func BenchmarkInsert(b *testing.B) {
	const batches, rows = 20, 50_000
	for b.Loop() {
		rss0, anon0 := memory(b)
		engine, err := clickhouse.Open(b.Context(), clickhouse.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		h := clickhouse.NewHandler(engine, clickhouse.HandlerConfig{})
		s := httptest.NewServer(h)
		rss1, anon1 := memory(b)
		c, err := driver.Open(&driver.Options{Protocol: driver.HTTP, Addr: []string{s.Listener.Addr().String()}})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Exec(b.Context(), "CREATE TABLE sales (id UInt64, sku LowCardinality(String), qty Int64) ENGINE = MergeTree ORDER BY id"); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		for i := range batches {
			if err := insertRows(b.Context(), c, "INSERT INTO sales", i*rows, rows); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(batches*rows/time.Since(began).Seconds(), "rows/s")
		rss2, anon2 := memory(b)
		began = time.Now()
		const queries = 500
		for range queries {
			var n uint64
			if err := c.QueryRow(b.Context(), "SELECT count() FROM sales WHERE id = 77").Scan(&n); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/queries, "µs/query")
		c.Close()
		s.Close()
		h.Close()
		began = time.Now()
		if err := engine.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "close-ms")
		b.ReportMetric(rss1-rss0, "MB-open")
		b.ReportMetric(anon1-anon0, "MB-open-anon")
		b.ReportMetric(rss2-rss0, "MB-1M-rows")
		b.ReportMetric(anon2-anon0, "MB-1M-rows-anon")
	}
}
