package marketplace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onhand stands for Onhand's public API: it keeps what is reported, and fails now and then when told to.
type onhand struct {
	mu      sync.Mutex
	lines   []map[string]any
	failing int // of the next requests
	refuse  string
}

func (o *onhand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failing > 0 {
		o.failing--
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	var got []map[string]any
	sc := bufio.NewScanner(r.Body)
	for sc.Scan() {
		var m map[string]any
		if json.Unmarshal(sc.Bytes(), &m) != nil || (o.refuse != "" && m["id"] == o.refuse) {
			http.Error(w, "bad record", http.StatusUnprocessableEntity)
			return
		}
		m["path"] = r.URL.Path
		got = append(got, m)
	}
	o.lines = append(o.lines, got...)
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"accepted":1,"rejected":0}`)
}

func (o *onhand) all() []map[string]any {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]map[string]any(nil), o.lines...)
}

func start(t *testing.T, cfg Config) (*Server, *onhand) {
	t.Helper()
	o := &onhand{}
	ts := httptest.NewServer(o)
	t.Cleanup(ts.Close)
	cfg.Ingest = ts.URL
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s, o
}

func post(t *testing.T, url, body string, header ...string) (int, string) {
	t.Helper()
	return call(t, http.MethodPost, url, body, header...)
}

func call(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(bytes.TrimSpace(b))
}

func TestInventoryModes(t *testing.T) {
	s, _ := start(t, Config{Token: "secret", BatchLimit: 10})
	u := s.ChannelURL("shop") + "/inventory"
	auth := []string{"Authorization", "Bearer secret"}
	if code, _ := post(t, u, `{"items":[]}`); code != http.StatusUnauthorized {
		t.Fatalf("without token: %d", code)
	}
	steps := []struct{ body, want string }{
		{`{"items":[{"sku":"a","quantity":5},{"sku":"b","quantity":-1}]}`,
			`{"items":[{"sku":"a","status":"applied","shown":5},{"sku":"b","status":"refused","code":"invalid_quantity","message":"quantity -1: want 0 to 1000000000","shown":0}]}`},
		{`{"items":[{"sku":"a","delta":-2}]}`, `{"items":[{"sku":"a","status":"applied","shown":3}]}`},
		{`{"items":[{"sku":"a","delta":-9}]}`, `{"items":[{"sku":"a","status":"applied","shown":0}]}`},
		{`{"items":[{"sku":"a","quantity":7,"expected":3}]}`, `{"items":[{"sku":"a","status":"refused","code":"stale","message":"the shown quantity is not the expected one","shown":0}]}`},
		{`{"items":[{"sku":"a","quantity":7,"expected":0}]}`, `{"items":[{"sku":"a","status":"applied","shown":7}]}`},
		{`{"idempotency_key":"k","items":[{"sku":"a","delta":1}]}`, `{"items":[{"sku":"a","status":"applied","shown":8}]}`},
		{`{"idempotency_key":"k","items":[{"sku":"a","delta":1}]}`, `{"items":[{"sku":"a","status":"applied","shown":8}]}`},
	}
	for _, st := range steps {
		if code, got := post(t, u, st.body, auth...); code != http.StatusMultiStatus || got != st.want {
			t.Errorf("%s: %d %s, want %s", st.body, code, got, st.want)
		}
	}
	if code, _ := post(t, u, `{"idempotency_key":"k","items":[{"sku":"a","delta":2}]}`, auth...); code != http.StatusConflict {
		t.Errorf("key with other items: %d", code)
	}
	if code, _ := post(t, u, `{"items":[`+strings.Repeat(`{"sku":"a","quantity":1},`, 10)+`{"sku":"a","quantity":1}]}`, auth...); code != http.StatusUnprocessableEntity {
		t.Errorf("over the batch limit: %d", code)
	}
	if _, got := call(t, http.MethodGet, u+"?sku=a&sku=zz", "", auth...); got != `{"items":[{"sku":"a","shown":8,"listed":true},{"sku":"zz","shown":0,"listed":false}]}` {
		t.Errorf("read-back: %s", got)
	}
	for i := range 5 {
		if err := s.Set("shop", fmt.Sprintf("p%d", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	seen, after := 0, ""
	for {
		_, got := call(t, http.MethodGet, u+"?limit=2&after="+after, "", auth...)
		var page struct {
			Items []shownItem
			Next  string
		}
		if err := json.Unmarshal([]byte(got), &page); err != nil {
			t.Fatal(err)
		}
		seen += len(page.Items)
		if after = page.Next; after == "" {
			break
		}
	}
	if seen != 6 {
		t.Errorf("pages hold %d items, want 6", seen)
	}
}

// Whatever is written, sold and cancelled at once, a channel never sells what it does not show, and what it shows always adds up.
func TestNeverSellsBelowZero(t *testing.T) {
	s, o := start(t, Config{})
	if err := s.Set("shop", "a", 200); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range 100 {
				sale := Sale{ID: fmt.Sprintf("o%d-%d", w, i), Currency: "EUR", Lines: []Line{{ID: "1", SKU: "a", Quantity: 1 + rng.Int64N(2), UnitPrice: "2.50"}, {ID: "2", SKU: "none", Quantity: 1}}}
				if _, err := s.Sell(t.Context(), "shop", sale); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()[0]
	left, _ := s.Shown("shop", "a")
	if left < 0 || st.SoldUnits+left != 200 {
		t.Errorf("sold %d, left %d of 200", st.SoldUnits, left)
	}
	var reported int64
	for _, m := range o.all() {
		for _, l := range m["lines"].([]any) {
			reported += int64(l.(map[string]any)["quantity"].(float64))
			if l.(map[string]any)["sku"] != "a" {
				t.Errorf("a refused line was reported: %v", m)
			}
		}
	}
	if reported != st.SoldUnits {
		t.Errorf("reported %d units, sold %d", reported, st.SoldUnits)
	}
}

func TestReportsInOrderThroughFailures(t *testing.T) {
	s, o := start(t, Config{Gzip: false})
	o.failing, o.refuse = 3, "o7"
	_ = s.Set("shop", "a", 1000)
	var body strings.Builder
	for i := range 50 {
		fmt.Fprintf(&body, `{"id":"o%d","placed_at":"2011-12-09T12:50:00Z","currency":"GBP","ship_to":{"country":"GB"},"lines":[{"id":"1","sku":"a","quantity":1,"unit_price":"1.25"}]}`+"\n", i)
	}
	code, got := post(t, s.ChannelURL("shop")+"/sales", body.String())
	if code != http.StatusOK || strings.Count(got, `"sold":true`) != 50 {
		t.Fatalf("%d %s", code, got)
	}
	if _, got := post(t, s.ChannelURL("shop")+"/sales", `[{"id":"o3","currency":"GBP","lines":[{"id":"1","sku":"a","quantity":1}]}]`); !strings.Contains(got, `"repeated":true`) {
		t.Errorf("a repeated sale: %s", got)
	}
	if _, got := post(t, s.ChannelURL("shop")+"/cancellations", `{"order_id":"o3","line_id":"1","sku":"a","quantity":1}`); !strings.Contains(got, "accepted") {
		t.Errorf("cancellation: %s", got)
	}
	if _, got := post(t, s.ChannelURL("shop")+"/returns", `{"order_id":"o4","line_id":"1","sku":"a","quantity":1,"disposition":"scrap","location":"W1"}`); !strings.Contains(got, "accepted") {
		t.Errorf("return: %s", got)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := o.all()
	if len(lines) != 51 {
		t.Fatalf("%d records reported, want 49 orders and 2 events", len(lines))
	}
	want := 0
	for _, m := range lines[:49] {
		if want == 7 {
			want++
		}
		if m["id"] != fmt.Sprintf("o%d", want) || m["placed_at"] != "2011-12-09T12:50:00Z" || m["channel"] != "shop" {
			t.Fatalf("record %v, want order o%d", m, want)
		}
		want++
	}
	if m := lines[49]; m["kind"] != "sale_cancelled" || m["restocked_by_channel"] != true || m["path"] != "/v1/events" {
		t.Errorf("cancellation reported as %v", m)
	}
	if m := lines[50]; m["kind"] != "return_received" || m["disposition"] != "scrap" {
		t.Errorf("return reported as %v", m)
	}
	if st := s.Stats()[0]; st.RejectedReports != 1 || st.Reported != 51 || st.ReportRetries < 3 {
		t.Errorf("stats %+v", st)
	}
	if q, _ := s.Shown("shop", "a"); q != 951 {
		t.Errorf("shows %d, want 951: 50 sold, 1 cancelled, returns are not restocked by the channel", q)
	}
}

func TestRefusedLineCannotComeBack(t *testing.T) {
	s, _ := start(t, Config{})
	if res, err := s.Sell(t.Context(), "shop", Sale{ID: "o", Currency: "EUR", Lines: []Line{{ID: "1", SKU: "a", Quantity: 1}}}); err != nil || res.Lines[0].Sold {
		t.Fatal(res, err)
	}
	if err := s.Cancel(t.Context(), "shop", Cancellation{OrderID: "o", LineID: "1", SKU: "a", Quantity: 1}); !errors.Is(err, ErrNeverSold) {
		t.Errorf("cancel: %v", err)
	}
	if err := s.Return(t.Context(), "shop", Return{OrderID: "o", LineID: "1", SKU: "a", Quantity: 1, Location: "W1"}); !errors.Is(err, ErrNeverSold) {
		t.Errorf("return: %v", err)
	}
}

func TestStateOutlivesAStop(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	s, err := New(Config{StateFile: file, Ingest: "http://127.0.0.1:9"}) // nobody answers there
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Set("shop", "a", 3)
	for i := range 3 {
		if _, err := s.Sell(t.Context(), "shop", Sale{ID: fmt.Sprint(i), Currency: "EUR", Lines: []Line{{ID: "1", SKU: "a", Quantity: 2}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, o := start(t, Config{StateFile: file})
	if q, ok := again.Shown("shop", "a"); q != 1 || !ok {
		t.Errorf("shows %d after the restart, want 1", q)
	}
	if err := again.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lines := o.all(); len(lines) != 1 || lines[0]["id"] != "0" {
		t.Errorf("reported after the restart: %v", lines)
	}
	if res, _ := again.Sell(t.Context(), "shop", Sale{ID: "0", Currency: "EUR", Lines: []Line{{ID: "1", SKU: "a", Quantity: 1}}}); !res.Repeated {
		t.Error("the sale of before the restart was taken again")
	}
	if st := again.Stats()[0]; st.SoldUnits != 2 || st.RefusedUnits != 4 || st.Reported != 1 {
		t.Errorf("stats %+v", st)
	}
}

// TestWatermarkAfterAStop holds that what was not reported before a stop comes before the first watermark after it.
func TestWatermarkAfterAStop(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	s, err := New(Config{StateFile: file, Ingest: "http://127.0.0.1:9"}) // nobody answers there
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Set("shop", "a", 3)
	if _, err := s.Sell(t.Context(), "shop", Sale{ID: "1", Currency: "EUR", Lines: []Line{{ID: "1", SKU: "a", Quantity: 2}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int32
	marked := make(chan bool, 100)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/watermark") {
			select {
			case marked <- tries.Load() > 2:
			default:
			}
		} else if tries.Add(1) <= 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer h.Close()
	again, err := New(Config{StateFile: file, Ingest: h.URL, Watermarks: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if known := <-marked; !known {
		t.Error("a watermark came before the sale of before the stop")
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFaults(t *testing.T) {
	s, o := start(t, Config{})
	u := s.ChannelURL("shop")
	if code, _ := call(t, http.MethodPut, u+"/faults", `{"error_rate":2}`); code != http.StatusUnprocessableEntity {
		t.Errorf("a rate of 2: %d", code)
	}
	if code, _ := call(t, http.MethodPut, u+"/faults", `{"throttle_rate":1,"retry_after_s":2}`); code != http.StatusOK {
		t.Errorf("faults: %d", code)
	}
	if code, _ := post(t, u+"/inventory", `{"items":[{"sku":"a","quantity":5}]}`); code != http.StatusTooManyRequests {
		t.Errorf("throttled: %d", code)
	}
	_ = s.SetFaults("shop", Faults{ErrorAppliedRate: 1})
	if code, _ := post(t, u+"/inventory", `{"items":[{"sku":"a","quantity":5}]}`); code != http.StatusInternalServerError {
		t.Errorf("error: %d", code)
	}
	if q, _ := s.Shown("shop", "a"); q != 5 {
		t.Errorf("shows %d: the error should have come after the write", q)
	}
	_ = s.SetFaults("shop", Faults{LostReports: 1})
	_, _ = s.Sell(t.Context(), "shop", Sale{ID: "lost", Currency: "EUR", Lines: []Line{{ID: "1", SKU: "a", Quantity: 1}}})
	_ = s.SetFaults("shop", Faults{DuplicatedReports: 1})
	_, _ = s.Sell(t.Context(), "shop", Sale{ID: "twice", Currency: "EUR", Lines: []Line{{ID: "1", SKU: "a", Quantity: 1}}})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(o.all()); n != 2 {
		t.Errorf("%d reports, want the same sale twice", n)
	}
	if n, _ := s.Redeliver("shop"); n != 1 {
		t.Errorf("redelivered %d", n)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lines := o.all(); len(lines) != 3 || lines[2]["id"] != "lost" {
		t.Errorf("after redelivery: %v", lines)
	}
}

func BenchmarkSales(b *testing.B) {
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer ts.Close()
	s, err := New(Config{Ingest: ts.URL})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Start(); err != nil {
		b.Fatal(err)
	}
	const batch = 200
	_ = s.Set("shop", "a", 1<<40)
	for n := 0; b.Loop(); n++ {
		var body bytes.Buffer
		for i := range batch {
			fmt.Fprintf(&body, `{"id":"o%d-%d","placed_at":"2011-12-09T12:50:00Z","currency":"GBP","lines":[{"id":"1","sku":"a","quantity":1,"unit_price":"1.25"},{"id":"2","sku":"a","quantity":2,"unit_price":"3.25"}]}`+"\n", n, i)
		}
		resp, err := http.Post(s.ChannelURL("shop")+"/sales", "application/x-ndjson", &body)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if err := s.Drain(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "orders/s")
	_ = s.Stop(context.Background())
	http.DefaultClient.CloseIdleConnections()
}

// TestWatermarksFollowAcknowledgedSales holds that a channel never tells Onhand of a moment before all its sales up to it are acknowledged, and
// falls silent while a report is lost.
func TestWatermarksFollowAcknowledgedSales(t *testing.T) {
	var mu sync.Mutex
	var early time.Time // moment of a sale that a watermark was ahead of
	var marks []time.Time
	placed := make(map[string]time.Time)
	var known int
	s, err := New(Config{Seed: 1, Watermarks: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "/watermark") {
			var m struct{ Until time.Time }
			if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.URL.Path != "/v1/channels/shop/watermark" {
				t.Errorf("%s: %v", r.URL.Path, err)
			}
			for _, at := range placed {
				if !at.After(m.Until) {
					early = at
				}
			}
			marks = append(marks, m.Until)
			w.WriteHeader(http.StatusAccepted)
			return
		}
		if known++; known%3 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		d := json.NewDecoder(r.Body)
		for {
			var o struct {
				ID       string
				PlacedAt time.Time `json:"placed_at"`
			}
			if d.Decode(&o) != nil {
				break
			}
			delete(placed, o.ID)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer h.Close()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Stop(t.Context()) }()
	if err := s.ReportTo(h.URL, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("shop", "A", 1000); err != nil {
		t.Fatal(err)
	}
	sell := func(id string) {
		t.Helper()
		mu.Lock()
		placed[id] = time.Now()
		mu.Unlock()
		if res, err := s.Sell(t.Context(), "shop", Sale{ID: id, Currency: "EUR", Lines: []Line{{ID: "1", SKU: "A", Quantity: 1}}}); err != nil || !res.Lines[0].Sold {
			t.Fatal(res, err)
		}
	}
	for i := range 40 {
		sell(fmt.Sprint("o", i))
	}
	after := func(at time.Time) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(marks) > 0 && marks[len(marks)-1].After(at)
		}
	}
	wait(t, "watermark after the last sale", after(time.Now()))
	if err := s.SetFaults("shop", Faults{LostReports: 1}); err != nil {
		t.Fatal(err)
	}
	sell("lost")
	mu.Lock()
	delete(placed, "lost") // nobody waits for it
	lostAt := time.Now()
	mu.Unlock()
	code, body := call(t, http.MethodGet, s.ChannelURL("shop")+"/orders?limit=500&since="+lostAt.Add(-time.Minute).UTC().Format(time.RFC3339Nano), "")
	if code != 200 || strings.Count(body, `"lines"`) != 41 || !strings.Contains(body, `"id":"lost"`) {
		t.Errorf("order list: %d, %d orders", code, strings.Count(body, `"lines"`))
	}
	if n, err := s.Redeliver("shop"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wait(t, "watermark after the lost sale", after(lostAt))
	mu.Lock()
	defer mu.Unlock()
	if !early.IsZero() {
		t.Errorf("a watermark came before the sale of %v was acknowledged", early)
	}
	for i := 1; i < len(marks); i++ {
		if marks[i].Before(marks[i-1]) {
			t.Errorf("%v after %v", marks[i], marks[i-1])
		}
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}
