package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/onhand/onhand/e2e/testbed"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/topics"
)

// outsiders reads the day's data with clients that have never heard of Onhand.
func (d *day) outsiders() {
	t := d.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const sku = "SKU-04"
	want := d.books.levels()

	// kcat prints key, length of the value and the value; the last record of a key is its level.
	out, err := testbed.Kcat(ctx, d.Kafka[0], "-C", "-t", schemas.StockLevels, "-o", "beginning", "-e", "-q", "-f", "%k %S\n%s\n")
	if err != nil {
		t.Fatalf("kcat: %v", err)
	}
	var last string
	keys := map[string]bool{}
	for out != "" {
		head, rest, ok := strings.Cut(out, "\n")
		key, size, ok2 := strings.Cut(head, " ")
		n, err := strconv.Atoi(size)
		if !ok || !ok2 || err != nil || len(rest) < n+1 {
			t.Fatalf("kcat prints %q", head)
		}
		keys[key] = true
		if key == sku {
			last = rest[:n]
		}
		out = rest[n+1:]
	}
	if len(keys) != len(d.books.skus) {
		t.Errorf("kcat finds %d keys, want %d", len(keys), len(d.books.skus))
	}
	l, err := topics.DecodeLevel([]byte(last))
	if err != nil || l.SKU != sku || l.Version != want[sku+"  version"] {
		t.Errorf("kcat: the last level of %s is %+v, %v; want version %d", sku, l, err, want[sku+"  version"])
	}

	key, err := testbed.RedisCLI(ctx, d.Redis, "--scan", "--pattern", "oh:{p*}:sku:"+sku)
	if err != nil {
		t.Fatalf("redis-cli: %v", err)
	}
	got, err := testbed.RedisCLI(ctx, d.Redis, "HGET", strings.TrimSpace(key), "main:on_hand")
	if n := want[sku+" main on_hand"]; err != nil || strings.TrimSpace(got) != strconv.FormatInt(n, 10) {
		t.Errorf("redis-cli: on hand is %q, %v; want %d", got, err, n)
	}

	const query = "SELECT sku, available FROM onhand.current_levels WHERE sku = '" + sku + "'"
	available := want[sku+"  available"]
	if rows, err := testbed.ClickHousePython(ctx, strings.TrimPrefix(d.ClickHouse, "http://"), query); err != nil || rows != fmt.Sprintf("[('%s', %d)]", sku, available) {
		t.Errorf("clickhouse-connect: %q, %v; want %s %d", rows, err, sku, available)
	}
	if rows, err := testbed.ClickHouseQuery(ctx, d.ClickHouse, query); err != nil || rows != fmt.Sprintf("%s\t%d", sku, available) {
		t.Errorf("ClickHouse over HTTP: %q, %v; want %s %d", rows, err, sku, available)
	}
}
