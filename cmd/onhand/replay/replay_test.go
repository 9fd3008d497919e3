package replay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	onlineretail "github.com/onhand/onhand/examples/online-retail"
	"github.com/onhand/onhand/simulators/marketplace"
)

// api is a public API that keeps what it is told, each id once.
type api struct {
	mu     sync.Mutex
	seen   map[string]bool
	units  map[string]int64 // by kind
	order  []string         // kinds, in order of arrival, runs of one kind once
	fail   int              // requests still to be answered 503
	before func()
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.before != nil {
		a.before()
	}
	if a.fail > 0 {
		a.fail--
		w.Header().Set("Retry-After", "1")
		http.Error(w, `{"detail":"Kafka does not answer"}`, http.StatusServiceUnavailable)
		return
	}
	n := 0
	note := func(id, kind string, units int64) {
		if a.seen[id] {
			return
		}
		a.seen[id] = true
		a.units[kind] += units
		if len(a.order) == 0 || a.order[len(a.order)-1] != kind {
			a.order = append(a.order, kind)
		}
	}
	for lines := bufio.NewScanner(r.Body); lines.Scan(); n++ {
		if strings.HasPrefix(r.URL.Path, "/v1/orders") {
			var o struct {
				ID, Channel string
				Lines       []struct {
					ID       string
					Quantity int64
				}
			}
			if json.Unmarshal(lines.Bytes(), &o) != nil {
				http.Error(w, "bad order", http.StatusBadRequest)
				return
			}
			for _, l := range o.Lines {
				note("sale/"+o.Channel+"/"+o.ID+"/"+l.ID, "sale_recorded", l.Quantity)
			}
			continue
		}
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.ID == "" {
			http.Error(w, "bad event", http.StatusBadRequest)
			return
		}
		note(e.ID, e.Kind, e.Quantity)
	}
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]any{"accepted": n, "duplicates": 0, "rejected": 0})
}

func newAPI(t *testing.T) (*api, string) {
	t.Helper()
	a := &api{seen: map[string]bool{}, units: map[string]int64{}}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	return a, srv.URL
}

const year = `InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,JUG,JUG,6,2010-12-01 08:26:00,2.55,17,United Kingdom
2,JUG,JUG,500,2010-12-01 08:45:00,2.55,12,France
3,CUP,CUP,8,2010-12-01 09:00:00,2.55,13,Germany
C4,JUG,JUG,-2,2010-12-01 09:41:00,2.55,17,United Kingdom
C5,JUG,JUG,-500,2010-12-01 10:00:00,2.55,12,France
6,CUP,damages,-1,2010-12-01 10:00:00,0,,United Kingdom
7,JUG,JUG,3,2010-12-02 11:00:00,3.39,15,EIRE
C8,CUP,CUP,-5,2010-12-03 12:00:00,2.55,13,Germany
C9,CUP,CUP,-4,2010-12-03 12:00:00,2.55,99,Japan
`

func load(t *testing.T) *onlineretail.Dataset {
	t.Helper()
	d, err := onlineretail.Load(strings.NewReader(year))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shops is marketplaces that report to the API and show 100 of everything.
func shops(t *testing.T, to string) *marketplace.Server {
	t.Helper()
	m, err := marketplace.New(marketplace.Config{Ingest: to})
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range []string{"wholesale", "webshop", "france", "germany", "ireland", "export"} {
		for _, sku := range []string{"JUG", "CUP"} {
			if err := m.Set(ch, sku, 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

func check(t *testing.T, tally Tally, a *api) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for kind, want := range map[string]int64{
		"receipt_received": tally.Received, "sale_recorded": tally.Sold, "sale_cancelled": tally.Cancelled, "return_received": tally.Returned,
		"stock_adjusted": tally.Adjusted, "shipment_confirmed": tally.Shipped,
	} {
		if a.units[kind] != want {
			t.Errorf("%s: the API was told %d units, the tally says %d", kind, a.units[kind], want)
		}
	}
}

func TestSalesHappenAtMarketplaces(t *testing.T) {
	a, url := newAPI(t)
	m := shops(t, url)
	st, err := Run(t.Context(), load(t), Config{API: url, Marketplaces: m.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, st.Tally, a)
	got := st.Tally
	got.Received, got.Events, got.Lines = 0, 0, 0
	want := Tally{Asked: 517, Sold: 17, Refused: 500, Cancelled: 2, Returned: 9, NeverSold: 500, Adjusted: -1, Shipped: 15}
	if got != want || !st.Finished() {
		t.Errorf("tally %+v, want %+v (finished %v)", got, want, st.Finished())
	}
	// Nothing leaves before it was sold, nothing is sold before it came in.
	if first, ship, sale := a.order[0], slices.Index(a.order, "shipment_confirmed"), slices.Index(a.order, "sale_recorded"); first != "receipt_received" || ship < sale {
		t.Errorf("kinds arrived in the order %v", a.order)
	}
	again, err := Run(t.Context(), load(t), Config{API: url, Marketplaces: m.URL()})
	if err != nil || again.Tally.Repeated != 517 || again.Tally.Sold != 0 {
		t.Errorf("a second replay: %+v, %v; want all its sales repeated", again.Tally, err)
	}
	check(t, st.Tally, a)
}

func TestWithoutMarketplacesOrdersGoToTheAPI(t *testing.T) {
	a, url := newAPI(t)
	a.fail = 2
	d := load(t)
	p := Config{API: url}
	st, err := Run(t.Context(), d, p)
	if err != nil {
		t.Fatal(err)
	}
	check(t, st.Tally, a)
	if st.Tally.Sold != 517 || st.Tally.Cancelled != 502 || st.Tally.Shipped != 15 {
		t.Errorf("tally %+v", st.Tally)
	}
}

func TestStoppedReplayGoesOn(t *testing.T) {
	a, url := newAPI(t)
	m := shops(t, url)
	ctx, stop := context.WithCancel(t.Context())
	first, err := Run(ctx, load(t), Config{API: url, Marketplaces: m.URL(), Save: func(st State) error {
		if st.Next > 6 {
			stop()
		}
		return nil
	}})
	if !errors.Is(err, context.Canceled) || first.Finished() {
		t.Fatalf("stopped at %d of %d: %v", first.Next, first.Documents, err)
	}
	b, err := json.Marshal(first) // as it is kept between the runs
	if err != nil {
		t.Fatal(err)
	}
	var from State
	if err := json.Unmarshal(b, &from); err != nil {
		t.Fatal(err)
	}
	st, err := Run(t.Context(), load(t), Config{API: url, Marketplaces: m.URL(), From: from})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, st.Tally, a)
	if st.Tally.Sold != 17 || st.Tally.Shipped != 15 || st.Tally.Repeated != 0 {
		t.Errorf("tally %+v", st.Tally)
	}
	if _, err := Run(t.Context(), load(t), Config{From: State{Next: 1, Documents: 3}}); err == nil || !strings.Contains(err.Error(), "a file with 3 documents") {
		t.Errorf("another file's state: %v", err)
	}
}

func TestRefusalsOfTheAPIEndTheReplay(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"title":"No valid API key","detail":"send an API key"}`))
	}))
	defer srv.Close()
	_, err := Run(t.Context(), load(t), Config{API: srv.URL})
	if err == nil || !strings.Contains(err.Error(), "401: send an API key") {
		t.Errorf("got %v", err)
	}
}

func TestPostGivesUp(t *testing.T) {
	tried := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tried++
		http.Error(w, "no", http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	c := client{http: srv.Client(), wait: func(context.Context, time.Duration) error { return nil }}
	if err := c.post(t.Context(), srv.URL, nil, nil); err == nil || tried != tries {
		t.Errorf("%d tries: %v", tried, err)
	}
}
