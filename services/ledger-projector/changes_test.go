package ledgerprojector

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// listener reads a stream of changes as a browser does.
type listener struct {
	t      *testing.T
	res    *http.Response
	cancel context.CancelFunc
	in     *bufio.Scanner
	id     string // what a browser would send as Last-Event-ID
}

type sse struct {
	name string
	data Availability
	raw  string
}

func serve(t *testing.T, s *running) string {
	t.Helper()
	router := chi.NewRouter()
	s.Routes(router)
	srv := httptest.NewServer(router)
	t.Cleanup(srv.Close)
	eventually(t, "the service knows its log", func() error {
		if s.partitions.Load() == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	return srv.URL
}

func listen(t *testing.T, base, query, after string) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/availability/changes"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{t: t, res: res, cancel: cancel, in: bufio.NewScanner(res.Body), id: after}
	l.in.Buffer(nil, 1<<20)
	t.Cleanup(l.close)
	return l
}

func (l *listener) close() {
	l.cancel()
	_ = l.res.Body.Close()
}

// next is the next event that a browser would dispatch; false at the stream's end. An id counts from its blank line on.
func (l *listener) next() (sse, bool) {
	l.t.Helper()
	var e sse
	id := l.id
	for l.in.Scan() {
		line := l.in.Text()
		switch field, value, _ := strings.Cut(line, ": "); {
		case line == "":
			l.id = id
			if e.raw == "" {
				e = sse{}
				continue
			}
			if e.name == "availability" {
				if err := json.Unmarshal([]byte(e.raw), &e.data); err != nil {
					l.t.Fatal(err)
				}
			}
			return e, true
		case field == "id":
			id = value
		case field == "event":
			e.name = value
		case field == "data":
			e.raw = value
		}
	}
	return e, false
}

// until reads until the SKU has the version, and fails when a version goes back.
func (l *listener) until(sku string, version int64) Availability {
	l.t.Helper()
	last := make(map[string]int64)
	for {
		e, ok := l.next()
		if !ok {
			l.t.Fatalf("the stream ended before version %d of %s: %v", version, sku, l.in.Err())
		}
		if e.name != "availability" {
			l.t.Fatalf("got %s %s", e.name, e.raw)
		}
		if e.data.Version < last[e.data.SKU] {
			l.t.Errorf("%s went back from version %d to %d", e.data.SKU, last[e.data.SKU], e.data.Version)
		}
		last[e.data.SKU] = e.data.Version
		if e.data.SKU == sku && e.data.Version == version {
			return e.data
		}
	}
}

// settle reads on until the id that follows the newest event is there.
func (l *listener) settle() string {
	l.t.Helper()
	before := l.id
	for l.id == before && l.in.Scan() {
		if id, ok := strings.CutPrefix(l.in.Text(), "id: "); ok {
			l.id = id
		}
	}
	return l.id
}

func receipt(n int, sku, location string) event.Event {
	return event.Event{ID: fmt.Sprint(sku, "-", n), SKU: sku, Kind: event.ReceiptReceived, Location: location, Quantity: 1, ReceivedAt: int64(n) * 1e9}
}

func TestChangesGoOnWhereTheyStopped(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(nil)
	base := serve(t, s)
	r.send(receipt(1, "A", "berlin"), receipt(1, "B", "berlin"))
	r.check(opts())

	one := listen(t, base, "?sku=A&sku=none", "")
	if ct := one.res.Header.Get("Content-Type"); one.res.StatusCode != http.StatusOK || ct != "text/event-stream" {
		t.Fatal(one.res.StatusCode, ct)
	}
	one.until("A", 1) // named SKUs begin with what is
	all := listen(t, base, "", "")
	if s.Stats().Streams != 2 {
		t.Errorf("%d streams", s.Stats().Streams)
	}
	r.send(receipt(2, "B", "berlin"), receipt(2, "A", "wien"))
	if a := one.until("A", 2); a.Available != 2 || len(a.Locations) != 2 {
		t.Errorf("got %+v", a)
	}
	one.settle()
	seen := map[string]bool{}
	for len(seen) < 2 { // in any order: they are in different partitions, or one batch
		e, ok := all.next()
		if !ok {
			t.Fatal("the stream of all ended")
		}
		seen[e.data.SKU] = true
	}
	all.settle()
	one.close()
	all.close()
	eventually(t, "nobody listens", func() error {
		if n := s.Stats().Streams; n != 0 {
			return fmt.Errorf("%d streams", n)
		}
		return nil
	})

	// Nobody follows the topic now; what changes is found in the log.
	for n := 3; n < 20; n++ {
		r.send(receipt(n, "A", "berlin"), receipt(n, "B", "wien"))
	}
	r.check(opts())
	again := listen(t, base, "?sku=A&sku=none", one.id)
	if a := again.until("A", 19); a.Available != 19 {
		t.Errorf("got %+v", a)
	}
	many := listen(t, base, "", all.id)
	got := map[string]int64{}
	for got["A"] < 19 || got["B"] < 19 {
		e, ok := many.next()
		if !ok || e.name != "availability" {
			t.Fatalf("%+v %v", e, ok)
		}
		got[e.data.SKU] = e.data.Version
	}
	// Another order of the same SKUs is the same stream, other partitions are not.
	same := listen(t, base, "?sku=none&sku=A&location=wien", one.id)
	if a := same.until("A", 19); len(a.Locations) != 1 || a.Available != 1 {
		t.Errorf("at wien: %+v", a)
	}
	for _, id := range []string{"nonsense", one.id, all.id[:len(all.id)-1]} {
		l := listen(t, base, "", id)
		if e, ok := l.next(); !ok || e.name != "resync" {
			t.Errorf("id %q of another stream: %+v", id, e)
		}
	}
	other := listen(t, base, "?sku=B", all.id)
	other.until("B", 19)
}

func TestTooOldAnIDBeginsAnew(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(func(c *Config, _ *Deps) { c.ChangeReplay = 3 })
	base := serve(t, s)
	all, one := listen(t, base, "", ""), listen(t, base, "?sku=A", "")
	old, oldOne := all.settle(), one.settle()
	for n := 1; n < 10; n++ {
		r.send(receipt(n, "A", "berlin"))
		r.check(opts()) // so that each makes a level
	}
	l := listen(t, base, "", old)
	if e, ok := l.next(); !ok || e.name != "resync" || l.id == old {
		t.Errorf("got %+v, id %s", e, l.id)
	}
	named := listen(t, base, "?sku=A", oldOne)
	if e, ok := named.next(); !ok || e.name != "availability" || e.data.Version != 9 {
		t.Errorf("got %+v", e)
	}
}

// slowWriter is a connection whose reader takes nothing until let go.
type slowWriter struct {
	http.ResponseWriter
	stuck chan struct{} // closed at the first write
	free  chan struct{}
	once  sync.Once
}

func (w *slowWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *slowWriter) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.stuck) })
	<-w.free
	return w.ResponseWriter.Write(b)
}

func TestASlowReaderIsLetGoAndHoldsNobodyUp(t *testing.T) {
	r := newRig(t, miniredis.RunT(t).Addr())
	s := r.start(func(c *Config, _ *Deps) { c.ChangePending, c.ChangeStreams, c.ChangeSKUs = 5, 2, 3 })
	base := serve(t, s)
	w := &slowWriter{ResponseWriter: httptest.NewRecorder(), stuck: make(chan struct{}), free: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.getChanges(w, httptest.NewRequest(http.MethodGet, "/v1/availability/changes", nil))
	}()
	<-w.stuck
	fast := listen(t, base, "?sku=S-0", "")
	for _, x := range []struct {
		query  string
		status int
	}{{"", 503}, {"?sku=a&sku=b&sku=c&sku=d", 422}, {"?sku=", 422}} {
		if l := listen(t, base, x.query, ""); l.res.StatusCode != x.status || l.res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%q: %d, want %d", x.query, l.res.StatusCode, x.status)
		}
	}
	for n := range 20 {
		r.send(receipt(1, fmt.Sprint("S-", n), "berlin"))
	}
	r.check(opts())
	fast.until("S-0", 1)
	eventually(t, "the slow one is let go", func() error {
		if n := s.Stats().SlowStreams; n != 1 {
			return fmt.Errorf("%d slow streams", n)
		}
		return nil
	})
	close(w.free)
	<-done
	body := w.ResponseWriter.(*httptest.ResponseRecorder).Body.String()
	if last := body[strings.LastIndex(strings.TrimSpace(body), "\n\n")+2:]; !strings.HasPrefix(last, "event: end\ndata: {\"reason\":\"slow\"") {
		t.Errorf("its last event is %q", last)
	}
	listen(t, base, "?sku=S-1", "").until("S-1", 1) // there is room again

	s.stop()
	if e, ok := fast.next(); !ok || e.name != "end" || !strings.Contains(e.raw, `"stopping"`) {
		t.Errorf("at the stop: %+v", e)
	}
	if _, ok := fast.next(); ok {
		t.Error("the stream goes on after its end")
	}
	if l := listen(t, base, "", ""); l.res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the stop: %d", l.res.StatusCode)
	}
}

func TestStreamsBeginWithNothingTwice(t *testing.T) {
	c := changeWriter{w: httptest.NewRecorder()}
	level := func(sku string, generation, version int64) *ledger.Level {
		return &ledger.Level{SKU: sku, Generation: generation, Version: version}
	}
	c.begin([]*ledger.Level{level("A", 0, 5), nil, level("A", 0, 5), level("B", 1, 2)}, "x")
	if n := strings.Count(c.buf.String(), "event:"); n != 2 {
		t.Fatalf("%d events in %s", n, c.buf.String())
	}
	c.buf.Reset()
	if _ = c.levels([]*ledger.Level{level("A", 0, 4), level("B", 0, 9)}, "y"); c.buf.Len() != 0 {
		t.Errorf("older levels: %s", c.buf.String())
	}
	_ = c.levels([]*ledger.Level{level("A", 0, 6), level("B", 2, 1)}, "z")
	if n := strings.Count(c.buf.String(), "event:"); n != 2 || !strings.HasSuffix(c.buf.String(), "\n\nid: z\n\n") {
		t.Errorf("newer levels: %s", c.buf.String())
	}
}
