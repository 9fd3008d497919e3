package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/onhand/onhand/e2e/testbed"
	"github.com/onhand/onhand/embedded/clickhouse"
	"github.com/onhand/onhand/schemas"
)

// TestCommandOnExternalParts runs the command itself on a Kafka and a Redis that run elsewhere, twice on the same data directory: a file is replayed and reconciled to
// the unit, and what came of it is where it was told to be.
func TestCommandOnExternalParts(t *testing.T) {
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	library, err := clickhouse.Find("", root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	program := filepath.Join(dir, "onhand")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/onhand")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	kafka, err := testbed.StartKafka(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Stop() })
	redis, err := testbed.StartRedis(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Stop() })
	file := filepath.Join(dir, "week.csv")
	if err := os.WriteFile(file, []byte(`InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART,2,2010-12-01 08:26:00,2.55,17850,United Kingdom
536370,85123A,WHITE HANGING HEART,12,2010-12-01 08:45:00,2.55,12583,France
536371,22086,PAPER CHAIN KIT,40,2010-12-01 09:00:00,2.55,13748,Germany
C536379,85123A,WHITE HANGING HEART,-1,2010-12-01 09:41:00,2.55,17850,United Kingdom
536380,22086,damages,-1,2010-12-01 10:00:00,0,,United Kingdom
536381,22086,PAPER CHAIN KIT,3,2010-12-02 11:00:00,3.39,15311,EIRE
`), 0o600); err != nil {
		t.Fatal(err)
	}

	up := func() string {
		cmd := exec.CommandContext(ctx, program, "up", "--once", "--replay="+file, "--data="+filepath.Join(dir, "data"), "--listen=127.0.0.1:0", "--port-marketplaces=0",
			"--external=kafka,redis", "--kafka-brokers="+kafka.Addr, "--kafka-partitions=4", "--redis-addrs="+redis.Addr, "--port-registry=0", "--port-click-house=0")
		cmd.Env = append(os.Environ(), clickhouse.LibraryEnv+"="+library)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("onhand up: %v\n%s", err, out)
		}
		return string(out)
	}
	said := up()
	for _, want := range []string{`Starting afresh`, `units received .* ok`, `units sold .* ok`, `rows repeated .* ok`, `SKUs at channels: .* ok`, `oversold since this start: 0 units`,
		regexp.QuoteMeta(kafka.Addr), regexp.QuoteMeta(redis.Addr)} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("the command does not say %q:\n%s", want, said)
		}
	}
	if out, err := testbed.Kcat(ctx, kafka.Addr, "-C", "-t", schemas.StockLevels, "-o", "beginning", "-e", "-q", "-f", "%k\n"); err != nil || !strings.Contains(out, "85123A\n") {
		t.Errorf("kcat: %q, %v; want levels of 85123A", out, err)
	}
	if out, err := testbed.RedisCLI(ctx, redis.Addr, "--scan", "--pattern", "oh:{p*}:sku:22086"); err != nil || strings.TrimSpace(out) == "" {
		t.Errorf("redis-cli: %q, %v; want the key of 22086", out, err)
	}
	if said := up(); !strings.Contains(said, "Going on with what is in") || !regexp.MustCompile(`units sold .* ok`).MatchString(said) || strings.Contains(said, "DIFFERS") {
		t.Errorf("the second start says:\n%s", said)
	}
}
