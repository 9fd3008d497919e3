package clickhouse_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/shopspring/decimal"

	"github.com/onhand/onhand/embedded/clickhouse"
)

// server runs the engine on dir behind HTTP until the test ends or stop is called.
func server(t *testing.T, dir string, cfg clickhouse.HandlerConfig) (base string, stop func()) {
	t.Helper()
	engine, err := clickhouse.Open(t.Context(), clickhouse.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	h := clickhouse.NewHandler(engine, cfg)
	s := httptest.NewServer(h)
	stop = sync.OnceFunc(func() {
		s.Close()
		h.Close()
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s.URL, stop
}

func connect(t *testing.T, base string, more func(*driver.Options)) driver.Conn {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	o := &driver.Options{Protocol: driver.HTTP, Addr: []string{u.Host}}
	if more != nil {
		more(o)
	}
	c, err := driver.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func exec(t *testing.T, c driver.Conn, sql string, args ...any) {
	t.Helper()
	if err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func count(t *testing.T, c driver.Conn, sql string, args ...any) uint64 {
	t.Helper()
	var n uint64
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// insertRows sends n rows (id, sku, qty) as one Native batch.
func insertRows(ctx context.Context, c driver.Conn, into string, from, n int) error {
	b, err := c.PrepareBatch(ctx, into)
	if err != nil {
		return err
	}
	for i := from; i < from+n; i++ {
		if err := b.Append(uint64(i), fmt.Sprintf("SKU-%d", i%1000), int64(i%7)); err != nil {
			return err
		}
	}
	return b.Send()
}

// TestDriver holds what analytics needs of the driver: DDL, large batches, views,
// de-duplication, parameters, and data that outlives the process's engine.
func TestDriver(t *testing.T) {
	dir := t.TempDir()
	base, stop := server(t, dir, clickhouse.HandlerConfig{})
	c := connect(t, base, func(o *driver.Options) { o.Settings = driver.Settings{"max_execution_time": 30} })
	exec(t, c, "CREATE DATABASE onhand")
	exec(t, c, "CREATE TABLE onhand.sales (id UInt64, sku LowCardinality(String), qty Int64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000")
	exec(t, c, "CREATE TABLE onhand.by_sku (sku String, qty Int64) ENGINE = SummingMergeTree ORDER BY sku SETTINGS non_replicated_deduplication_window = 1000")
	exec(t, c, "CREATE MATERIALIZED VIEW onhand.sales_mv TO onhand.by_sku AS SELECT sku, sum(qty) AS qty FROM onhand.sales GROUP BY sku")
	token := driver.Context(t.Context(), driver.WithSettings(driver.Settings{
		"insert_deduplication_token": "stock.events/3:0-99999", "insert_deduplicate": 1, "deduplicate_blocks_in_dependent_materialized_views": 1}))
	for range 2 { // the second is a repetition after a crash: it must add nothing
		if err := insertRows(token, c, "INSERT INTO onhand.sales", 0, 100_000); err != nil {
			t.Fatal(err)
		}
	}
	if err := insertRows(t.Context(), c, "INSERT INTO onhand.sales (id, sku, qty)", 100_000, 10); err != nil {
		t.Fatal(err)
	}
	want := uint64(0)
	for i := range 100_010 {
		want += uint64(i % 7)
	}
	check := func(c driver.Conn) {
		t.Helper()
		if n := count(t, c, "SELECT count() FROM onhand.sales"); n != 100_010 {
			t.Errorf("%d rows, want 100010", n)
		}
		if n := count(t, c, "SELECT toUInt64(sum(qty)) FROM onhand.by_sku"); n != want {
			t.Errorf("the view sums to %d, want %d", n, want)
		}
		if n := count(t, c, "SELECT count() FROM onhand.sales WHERE sku = {sku:String} AND id < {below:UInt64}",
			driver.Named("sku", "SKU-7"), driver.Named("below", 50_000)); n != 50 {
			t.Errorf("%d rows of SKU-7, want 50", n)
		}
	}
	check(c)
	began := time.Now()
	stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("closing took %v", d)
	}
	base, _ = server(t, dir, clickhouse.HandlerConfig{})
	check(connect(t, base, nil))
}

// TestTypes sends and reads back values of every type that our tables use, in
// every compression that the driver has.
func TestTypes(t *testing.T) {
	base, _ := server(t, t.TempDir(), clickhouse.HandlerConfig{})
	exec(t, connect(t, base, nil), `CREATE TABLE kinds (n UInt32, price Decimal(18, 4), at DateTime64(6, 'UTC'), day Date,
		channel LowCardinality(String), tags Array(String), shown Map(String, Int64), note Nullable(String), ok Bool, kind Enum8('sale' = 1, 'return' = 2), id UUID, f Float64)
		ENGINE = MergeTree ORDER BY n`)
	at := time.Date(2026, 3, 29, 1, 30, 0, 123456000, time.UTC)
	note := "naïve \t\n' \\ \x00 ☃"
	id := "6f1f8a52-0bb9-4f6b-a0a4-96a0ea9b4f0e"
	for i, method := range []driver.CompressionMethod{driver.CompressionNone, driver.CompressionLZ4, driver.CompressionZSTD, driver.CompressionGZIP, driver.CompressionDeflate} {
		t.Run(method.String(), func(t *testing.T) {
			c := connect(t, base, func(o *driver.Options) { o.Compression = &driver.Compression{Method: method, Level: 3} })
			b, err := c.PrepareBatch(t.Context(), "INSERT INTO kinds")
			if err != nil {
				t.Fatal(err)
			}
			for j, n := range []*string{&note, nil} {
				if err := b.Append(uint32(2*i+j), decimal.RequireFromString("1234567.8901"), at, at, "amazon", []string{"a", ""}, map[string]int64{"x": -5}, n, true, "return", id, 0.1); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Send(); err != nil {
				t.Fatal(err)
			}
			rows, err := c.Query(t.Context(), "SELECT price, at, day, channel, tags, shown, note, ok, kind, toString(id), f FROM kinds WHERE n IN ({a:UInt32}, {b:UInt32}) ORDER BY n",
				driver.Named("a", 2*i), driver.Named("b", 2*i+1))
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			for j := range 2 {
				if !rows.Next() {
					t.Fatalf("row %d is missing: %v", j, rows.Err())
				}
				var (
					price              decimal.Decimal
					gotAt, day         time.Time
					channel, kind, id2 string
					tags               []string
					shown              map[string]int64
					gotNote            *string
					ok                 bool
					f                  float64
				)
				if err := rows.Scan(&price, &gotAt, &day, &channel, &tags, &shown, &gotNote, &ok, &kind, &id2, &f); err != nil {
					t.Fatal(err)
				}
				if price.String() != "1234567.8901" || !gotAt.Equal(at) || day.Format(time.DateOnly) != "2026-03-29" || channel != "amazon" ||
					!reflect.DeepEqual(tags, []string{"a", ""}) || !reflect.DeepEqual(shown, map[string]int64{"x": -5}) || !ok || kind != "return" || id2 != id || f != 0.1 {
					t.Errorf("row %d: %v %v %v %v %v %v %v %v %v %v", j, price, gotAt, day, channel, tags, shown, ok, kind, id2, f)
				}
				if j == 0 && (gotNote == nil || *gotNote != note) || j == 1 && gotNote != nil {
					t.Errorf("row %d: note %v", j, gotNote)
				}
			}
			var e *driver.Exception
			if err := c.Exec(t.Context(), "SELECT * FROM nowhere"); !errors.As(err, &e) || e.Code != 60 {
				t.Errorf("error %v, want code 60", err)
			}
		})
	}
}

// TestReadsDuringInserts runs reads of all kinds beside inserts: each read sees
// whole inserts only.
func TestReadsDuringInserts(t *testing.T) {
	base, _ := server(t, t.TempDir(), clickhouse.HandlerConfig{})
	c := connect(t, base, func(o *driver.Options) { o.MaxOpenConns = 8 })
	exec(t, c, "CREATE TABLE sales (id UInt64, sku String, qty Int64) ENGINE = MergeTree ORDER BY id")
	const batches, rows = 20, 5000
	var inserted atomic.Int64
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := w; i < batches; i += 2 {
				if err := insertRows(t.Context(), c, "INSERT INTO sales", i*rows, rows); err != nil {
					t.Error(err)
				}
				inserted.Add(1)
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			for inserted.Load() < batches && !t.Failed() {
				var n, sum uint64
				if err := c.QueryRow(t.Context(), "SELECT count(), toUInt64(uniqExact(id)) FROM sales").Scan(&n, &sum); err != nil {
					t.Error(err)
				} else if n%rows != 0 || sum != n {
					t.Errorf("a read saw %d rows, %d of them different", n, sum)
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, c, "SELECT count() FROM sales"); n != batches*rows {
		t.Errorf("%d rows, want %d", n, batches*rows)
	}
}

// call sends one plain HTTP request and returns status, headers and body.
func call(t *testing.T, method, target, body string, head ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(head); i += 2 {
		if head[i] == "Host" {
			r.Host = head[i+1]
		}
		r.Header.Set(head[i], head[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(out)
}

func q(base, sql string, more ...string) string {
	v := url.Values{"query": {sql}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return base + "/?" + v.Encode()
}

// TestHTTP sends what curl and other plain clients send.
func TestHTTP(t *testing.T) {
	base, _ := server(t, t.TempDir(), clickhouse.HandlerConfig{})
	for _, tt := range []struct {
		name, method, url, body string
		status                  int
		want                    string // of the body; with a leading ~: contained
		head                    []string
	}{
		{name: "ping", method: "GET", url: base + "/ping", status: 200, want: "Ok.\n"},
		{name: "replicas", method: "GET", url: base + "/replicas_status", status: 200, want: "Ok.\n"},
		{name: "root", method: "GET", url: base + "/", status: 200, want: "Ok.\n"},
		{name: "unknown path", method: "GET", url: base + "/nope", status: 404, want: "~There is no handle /nope"},
		{name: "query in the URL", method: "GET", url: q(base, "SELECT 1"), status: 200, want: "1\n"},
		{name: "query in the body", method: "POST", url: base, body: "SELECT 1, 'a'", status: 200, want: "1\ta\n"},
		{name: "query in both", method: "POST", url: q(base, "SELECT 1,"), body: "2", status: 200, want: "1\t2\n"},
		{name: "semicolon at the end", method: "POST", url: base, body: "SELECT 1 ; -- done\n", status: 200, want: "1\n"},
		{name: "format in the query", method: "GET", url: q(base, "SELECT 1 AS n FORMAT JSONEachRow"), status: 200, want: "{\"n\":1}\n"},
		{name: "default format", method: "GET", url: q(base, "SELECT 1 AS n", "default_format", "CSVWithNames"), status: 200, want: "\"n\"\n1\n"},
		{name: "format header", method: "GET", url: q(base, "SELECT 1 AS n"), head: []string{"X-ClickHouse-Format", "TSVWithNames"}, status: 200, want: "n\n1\n"},
		{name: "parameter", method: "GET", url: q(base, "SELECT {s:String}, {n:Int32} + 1", "param_s", `it's\t\\`, "param_n", "41"), status: 200, want: `it\'s\t\\` + "\t42\n"},
		{name: "database", method: "GET", url: q(base, "SELECT currentDatabase()", "database", "system"), status: 200, want: "system\n"},
		{name: "default database", method: "GET", url: q(base, "SELECT currentDatabase()"), status: 200, want: "default\n"},
		{name: "setting", method: "GET", url: q(base, "SELECT getSetting('max_block_size')", "max_block_size", "777"), status: 200, want: "777\n"},
		{name: "setting is gone", method: "GET", url: q(base, "SELECT getSetting('max_block_size') = 777"), status: 200, want: "0\n"},
		{name: "unknown setting", method: "GET", url: q(base, "SELECT 1", "no_such", "1"), status: 404, want: "~(UNKNOWN_SETTING)"},
		{name: "odd setting", method: "GET", url: q(base, "SELECT 1", "max_threads = 1, readonly", "0"), status: 404, want: "~(UNKNOWN_SETTING)"},
		{name: "unknown table", method: "GET", url: q(base, "SELECT * FROM nowhere"), status: 404, want: "~Code: 60. DB::Exception: "},
		{name: "syntax", method: "GET", url: q(base, "SELEC 1"), status: 400, want: "~Code: 62. DB::Exception: "},
		{name: "division", method: "GET", url: q(base, "SELECT intDiv(1, 0)"), status: 500, want: "~Code: 153. DB::Exception: "},
		{name: "memory limit", method: "GET", url: q(base, "SELECT count() FROM (SELECT number, count() FROM numbers(10000000) GROUP BY number)", "max_memory_usage", "1000000"), status: 500, want: "~(MEMORY_LIMIT_EXCEEDED)"},
		{name: "time limit", method: "GET", url: q(base, "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1", "max_execution_time", "1"), status: 408, want: "~(TIMEOUT_EXCEEDED)"},
		{name: "result limit", method: "GET", url: q(base, "SELECT repeat('x', 1000) FROM numbers(2000000)"), status: 500, want: "~(MEMORY_LIMIT_EXCEEDED)"},
		{name: "two statements", method: "POST", url: base, body: "SELECT 1; SELECT 2", status: 400, want: "~Multi-statements are not allowed"},
		{name: "GET changes nothing", method: "GET", url: q(base, "CREATE TABLE no (a Int8) ENGINE = Memory"), status: 500, want: "~(READONLY)"},
		{name: "readonly asked for", method: "POST", url: q(base, "CREATE TABLE no (a Int8) ENGINE = Memory", "readonly", "1"), status: 500, want: "~(READONLY)"},
		{name: "hidden insert", method: "GET", url: q(base, "WITH 1 AS a INSERT INTO no SELECT a"), status: 404, want: "~DB::Exception"},
		{name: "file function", method: "POST", url: base, body: "SELECT * FROM file('/etc/hostname', 'LineAsString')", status: 403, want: "~(ACCESS_DENIED)"},
		{name: "file table", method: "POST", url: base, body: "CREATE TABLE f (a String) ENGINE = File(TSV, '/etc/hostname')", status: 403, want: "~(ACCESS_DENIED)"},
		{name: "network function", method: "POST", url: base, body: "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')", status: 403, want: "~(ACCESS_DENIED)"},
		{name: "stop the server", method: "POST", url: base, body: "SYSTEM SHUTDOWN", status: 403, want: "~(ACCESS_DENIED)"},
		{name: "file behind an insert", method: "POST", url: base, body: "INSERT INTO t FROM INFILE '/etc/hostname' FORMAT TSV", status: 404, want: "~infile"},
		{name: "file written", method: "POST", url: base, body: "SELECT 1 INTO /* x */ OUTFILE '/tmp/never' FORMAT CSV", status: 501, want: "~INTO OUTFILE is not allowed"},
		{name: "word in a string", method: "POST", url: base, body: "SELECT 'a; INTO OUTFILE', \"n\" FROM (SELECT 1 AS n) -- ; x", status: 200, want: "a; INTO OUTFILE\t1\n"},
		{name: "empty body", method: "POST", url: base, status: 400, want: "~Empty query"},
		{name: "another site's page", method: "POST", url: base, body: "SELECT 1", head: []string{"Origin", "https://example.com"}, status: 403, want: "~another site"},
		{name: "rebound name", method: "POST", url: base, body: "SELECT 1", head: []string{"Host", "example.com"}, status: 403, want: "~another site"},
		{name: "method", method: "PUT", url: base, body: "SELECT 1", status: 405, want: "~not supported"},
		{name: "create", method: "POST", url: base, body: "CREATE TABLE t (a UInt32, s String) ENGINE = MergeTree ORDER BY a", status: 200, want: ""},
		{name: "insert values in the body", method: "POST", url: base, body: "INSERT INTO t VALUES (1, 'x;'), (2, 'FORMAT')", status: 200, want: ""},
		{name: "insert values apart", method: "POST", url: q(base, "INSERT INTO t VALUES"), body: "(3, upper('z'))", status: 200, want: ""},
		{name: "insert rows with format", method: "POST", url: q(base, "INSERT INTO t (s, a) FORMAT CSV"), body: "four,4\nfive,5\n", status: 200, want: ""},
		{name: "insert rows inline", method: "POST", url: base, body: "INSERT INTO t FORMAT JSONEachRow\n{\"a\":6,\"s\":\"six\"}\n{\"a\":7}", status: 200, want: ""},
		{name: "insert with settings", method: "POST", url: q(base, "INSERT INTO t SETTINGS async_insert = 0 FORMAT TSV"), body: "8\teight\n", status: 200, want: ""},
		{name: "insert with settings last", method: "POST", url: q(base, "INSERT INTO t FORMAT TSV SETTINGS async_insert = 0, max_insert_threads=1"), body: "9\tnine\n", status: 200, want: ""},
		{name: "insert select", method: "POST", url: base, body: "INSERT INTO t SELECT number + 10, 'n' FROM numbers(2)", status: 200, want: ""},
		{name: "insert no rows", method: "POST", url: q(base, "INSERT INTO t FORMAT Native"), status: 200, want: ""},
		{name: "insert bad row", method: "POST", url: q(base, "INSERT INTO t FORMAT CSV"), body: "12,x\nnope,y\n", status: 400, want: "~Code: 27. DB::Exception: "},
		{name: "insert nowhere", method: "POST", url: q(base, "INSERT INTO nowhere FORMAT CSV"), body: "1\n", status: 404, want: "~Code: 60. DB::Exception: "},
		{name: "all of it", method: "GET", url: q(base, "SELECT groupArray((a, s)) FROM (SELECT * FROM t ORDER BY a)"), status: 200,
			want: "[(1,'x;'),(2,'FORMAT'),(3,'Z'),(4,'four'),(5,'five'),(6,'six'),(7,''),(8,'eight'),(9,'nine'),(10,'n'),(11,'n')]\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, head, body := call(t, tt.method, tt.url, tt.body, tt.head...)
			part, contains := strings.CutPrefix(tt.want, "~")
			if status != tt.status || !contains && body != tt.want || contains && !strings.Contains(body, part) {
				t.Errorf("%d %q, want %d %q", status, body, tt.status, tt.want)
			}
			if strings.HasPrefix(body, "Code: ") && !strings.HasPrefix(body, "Code: "+head.Get("X-ClickHouse-Exception-Code")+".") {
				t.Errorf("X-ClickHouse-Exception-Code %q with %q", head.Get("X-ClickHouse-Exception-Code"), body)
			}
		})
	}
	if _, err := os.Stat("/tmp/never"); err == nil {
		t.Error("a query wrote a file")
	}
	_, head, _ := call(t, "POST", base+"/?query_id=abc&default_format=JSON", "SELECT a FROM t")
	if head.Get("X-ClickHouse-Query-Id") != "abc" || head.Get("X-ClickHouse-Format") != "JSON" ||
		!strings.HasPrefix(head.Get("Content-Type"), "application/json") || !strings.Contains(head.Get("X-ClickHouse-Summary"), `"result_rows":"11"`) {
		t.Errorf("headers %v", head)
	}
}

// TestBodies sends compressed and oversized bodies.
func TestBodies(t *testing.T) {
	base, _ := server(t, t.TempDir(), clickhouse.HandlerConfig{MaxQuery: 10_000, MaxBody: 1_000_000})
	exec(t, connect(t, base, nil), "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	var rows bytes.Buffer
	for i := range 50_000 {
		fmt.Fprintln(&rows, i)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(rows.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if status, _, body := call(t, "POST", q(base, "INSERT INTO t FORMAT TSV"), zipped.String(), "Content-Encoding", "gzip"); status != 200 {
		t.Errorf("gzip body: %d %s", status, body)
	}
	if status, _, body := call(t, "POST", base, "INSERT INTO t FORMAT TSV\n"+rows.String()); status != 200 {
		t.Errorf("long body with its statement: %d %s", status, body)
	}
	if status, _, body := call(t, "POST", q(base, "INSERT INTO t FORMAT TSV"), strings.Repeat(rows.String(), 4)); status != 413 {
		t.Errorf("body over the limit: %d %s", status, body)
	}
	if status, _, body := call(t, "POST", base, "SELECT 1 "+strings.Repeat(" ", 20_000)); status != 413 {
		t.Errorf("statement over the limit: %d %s", status, body)
	}
	if status, _, body := call(t, "POST", base, "x", "Content-Encoding", "compress"); status == 200 || !strings.Contains(body, "use gzip") {
		t.Errorf("unknown encoding: %d %s", status, body)
	}
	if _, _, body := call(t, "GET", q(base, "SELECT count(), uniqExact(a) FROM t"), ""); body != "100000\t50000\n" {
		t.Errorf("%q", body)
	}
	_, head, body := call(t, "GET", q(base, "SELECT * FROM numbers(1000)", "enable_http_compression", "1"), "", "Accept-Encoding", "gzip")
	if r, err := gzip.NewReader(strings.NewReader(body)); head.Get("Content-Encoding") != "gzip" || err != nil {
		t.Errorf("answer is not gzip: %v %v", head, err)
	} else if out, err := io.ReadAll(r); err != nil || strings.Count(string(out), "\n") != 1000 {
		t.Errorf("gzip answer: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(t.TempDir(), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSessions holds that a session keeps its state and others do not see it.
func TestSessions(t *testing.T) {
	base, _ := server(t, t.TempDir(), clickhouse.HandlerConfig{})
	one := base + "/?session_id=one"
	for _, sql := range []string{"CREATE TEMPORARY TABLE mine (a Int8)", "INSERT INTO mine VALUES (7)", "SET max_block_size = 123"} {
		if status, _, body := call(t, "POST", one, sql); status != 200 {
			t.Fatalf("%s: %d %s", sql, status, body)
		}
	}
	if _, _, body := call(t, "POST", one, "SELECT a, getSetting('max_block_size') FROM mine"); body != "7\t123\n" {
		t.Errorf("in the session: %q", body)
	}
	for _, other := range []string{base, base + "/?session_id=two"} {
		if status, _, _ := call(t, "POST", other, "SELECT a FROM mine"); status != 404 {
			t.Errorf("%s sees the session's table: %d", other, status)
		}
		call(t, "POST", other, "USE system")
		call(t, "POST", other, "SET max_block_size = 55")
	}
	for range 9 { // whichever connection answers
		if _, _, body := call(t, "POST", base, "SELECT currentDatabase(), getSetting('max_block_size') = 55"); body != "default\t0\n" {
			t.Fatalf("state leaked out of a request: %q", body)
		}
	}
	if status, _, _ := call(t, "POST", base+"/?session_id=three&session_check=1", "SELECT 1"); status == 200 {
		t.Error("session_check took a session that is not there")
	}
	for _, at := range []string{one, base} { // an answer cut off by an error must not show up in the next one
		for range 9 {
			status, _, body := call(t, "POST", at, "SELECT number, throwIf(number = 3000) FROM numbers(5000) SETTINGS max_block_size = 1000")
			if status != 500 || !strings.HasPrefix(body, "Code: 395.") {
				t.Fatalf("%d %q", status, body)
			}
			if _, _, body := call(t, "POST", at, "SELECT 'next'"); body != "next\n" {
				t.Fatalf("after an error: %.100q", body)
			}
		}
	}
	if _, _, body := call(t, "POST", one, "SELECT a FROM mine"); body != "7\n" {
		t.Errorf("the session lost its table after an error: %q", body)
	}
	for i := range 40 { // more than it keeps: the oldest ends
		if status, _, body := call(t, "POST", fmt.Sprintf("%s/?session_id=s%d", base, i), "SELECT 1"); status != 200 {
			t.Fatalf("session %d: %d %s", i, status, body)
		}
	}
}

// TestPassword holds that a password, when set, is asked for in all three ways.
func TestPassword(t *testing.T) {
	base, _ := server(t, t.TempDir(), clickhouse.HandlerConfig{User: "analyst", Password: "secret"})
	bare := strings.TrimPrefix(base, "http://")
	for _, tt := range []struct {
		url    string
		head   []string
		status int
	}{
		{q(base, "SELECT 1"), nil, 401},
		{q(base, "SELECT 1"), []string{"X-ClickHouse-User", "analyst", "X-ClickHouse-Key", "secret"}, 200},
		{q(base, "SELECT 1"), []string{"X-ClickHouse-User", "analyst", "X-ClickHouse-Key", "secre"}, 403},
		{q(base, "SELECT 1"), []string{"X-ClickHouse-User", "default", "X-ClickHouse-Key", "secret"}, 403},
		{q(base, "SELECT 1", "user", "analyst", "password", "secret"), nil, 200},
		{q(base, "SELECT 1"), []string{"Authorization", "Basic YW5hbHlzdDpzZWNyZXQ="}, 200},
		{base + "/ping", nil, 200},
	} {
		if status, _, body := call(t, "GET", tt.url, "", tt.head...); status != tt.status {
			t.Errorf("%s %v: %d %s, want %d", tt.url, tt.head, status, body, tt.status)
		}
	}
	c := connect(t, "http://"+bare, func(o *driver.Options) { o.Auth = driver.Auth{Username: "analyst", Password: "secret"} })
	if n := count(t, c, "SELECT toUInt64(1)"); n != 1 {
		t.Error(n)
	}
}

// TestCancel holds that a statement stops when its client leaves, and that
// closing the engine does not wait for long ones.
func TestCancel(t *testing.T) {
	base, stop := server(t, t.TempDir(), clickhouse.HandlerConfig{})
	const long = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
	running := func() string {
		_, _, body := call(t, "GET", q(base, "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64(number)%' AND query NOT LIKE '%processes%'"), "")
		return strings.TrimSpace(body)
	}
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	send := func(ctx context.Context) {
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, q(base, long), nil)
		if res, err := http.DefaultTransport.RoundTrip(r); err == nil {
			res.Body.Close()
		}
	}
	wg.Go(func() { send(ctx) })
	await(t, func() bool { return running() == "1" })
	leave()
	await(t, func() bool { return running() == "0" })
	wg.Wait()
	ctx, leave = context.WithCancel(t.Context())
	defer leave()
	engineDone := make(chan struct{})
	wg.Go(func() { send(ctx) })
	await(t, func() bool { return running() == "1" })
	go func() { leave(); stop(); close(engineDone) }()
	select {
	case <-engineDone:
	case <-time.After(20 * time.Second):
		t.Fatal("the engine does not close while a statement runs")
	}
	wg.Wait()
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 20 s")
		}
	}
}

// TestOpenFaults holds what a user is told when the engine cannot start.
func TestOpenFaults(t *testing.T) {
	t.Setenv(clickhouse.LibraryEnv, filepath.Join(t.TempDir(), "libchdb.so"))
	_, err := clickhouse.Open(t.Context(), clickhouse.Config{Dir: t.TempDir()})
	if !errors.Is(err, clickhouse.ErrNoLibrary) || !strings.Contains(err.Error(), clickhouse.LibraryEnv) {
		t.Errorf("missing library: %v", err)
	}
	t.Setenv(clickhouse.LibraryEnv, "")
	if _, err := clickhouse.Open(t.Context(), clickhouse.Config{}); err == nil {
		t.Error("no directory: no error")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := clickhouse.Open(t.Context(), clickhouse.Config{Dir: file}); err == nil {
		t.Error("a file as directory: no error")
	}
	server(t, t.TempDir(), clickhouse.HandlerConfig{})
	if _, err := clickhouse.Open(t.Context(), clickhouse.Config{Dir: t.TempDir()}); !errors.Is(err, clickhouse.ErrInUse) {
		t.Errorf("second engine: %v", err)
	}
	for platform, want := range map[string]string{"linux/amd64": "@chdb/lib-linux-x64-gnu", "linux/arm64": "@chdb/lib-linux-arm64-gnu", "darwin/arm64": "@chdb/lib-darwin-arm64", "windows/amd64": ""} {
		goos, arch, _ := strings.Cut(platform, "/")
		if pkg, err := clickhouse.PackageName(goos, arch); pkg != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", platform, pkg, err)
		}
	}
}
