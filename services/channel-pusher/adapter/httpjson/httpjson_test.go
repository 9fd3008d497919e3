package httpjson

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/outgoing"
	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/services/channel-pusher/adapter/adaptertest"
	"github.com/onhand/onhand/simulators/marketplace"
	"github.com/onhand/onhand/stock/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 300

// market is a simulated marketplace as the contract wants it.
type market struct {
	t      *testing.T
	srv    *marketplace.Server
	client *http.Client
}

func open(t *testing.T) adaptertest.Channel {
	srv, err := marketplace.New(marketplace.Config{Token: "sesame", BatchLimit: limit})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(); err != nil {
		t.Fatal(err)
	}
	c := outgoing.Client(true)
	t.Cleanup(func() {
		c.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return &market{t, srv, c}
}

func (m *market) Adapter() adapter.Adapter { return New(m.client) }
func (m *market) Account() adapter.Account {
	return adapter.Account{Channel: "shop", BaseURL: m.srv.ChannelURL("shop"), Token: "sesame"}
}
func (m *market) Limit() int       { return limit }
func (m *market) Unlisted() string { return "" }
func (m *market) Show(id string, q int64) {
	if err := m.srv.Set("shop", id, q); err != nil {
		m.t.Fatal(err)
	}
}
func (m *market) Shown(id string) (int64, bool) { return m.srv.Shown("shop", id) }
func (m *market) Trouble(x adaptertest.Trouble) {
	f := map[adaptertest.Trouble]marketplace.Faults{
		adaptertest.Throttle: {ThrottleRate: 1, RetryAfterS: 2}, adaptertest.Outage: {Outage: true}, adaptertest.Break: {ErrorAppliedRate: 1},
		adaptertest.Silence: {TimeoutRate: 1},
	}[x]
	if err := m.srv.SetFaults("shop", f); err != nil {
		m.t.Fatal(err)
	}
}

func (m *market) Unreachable() adapter.Account {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	defer l.Close()
	return adapter.Account{BaseURL: "http://" + l.Addr().String()} // nobody listens there any more
}

func (m *market) Forbidden() (adapter.Account, bool) {
	return adapter.Account{BaseURL: "http://169.254.169.254/latest"}, true
}

func TestContract(t *testing.T) { adaptertest.Run(t, open) }

func serve(t *testing.T, h http.HandlerFunc) (*Adapter, adapter.Account) {
	ts := httptest.NewServer(h)
	c := outgoing.Client(true)
	t.Cleanup(func() {
		c.CloseIdleConnections()
		ts.Close()
	})
	return New(c), adapter.Account{BaseURL: ts.URL}
}

var items = []adapter.Item{{ExternalID: "a", Operation: catalog.Absolute, Quantity: 1}, {ExternalID: "b", Operation: catalog.Absolute, Quantity: 2}}

// Answers that break the contract leave the outcome open, item by item where some of it can be read.
func TestBrokenAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want []adapter.Verdict
		err  bool
	}{
		"other order":    {`{"items":[{"sku":"b","status":"applied","shown":2},{"sku":"a","status":"refused","code":"x"}]}`, []adapter.Verdict{adapter.Refused, adapter.Applied}, false},
		"item missing":   {`{"items":[{"sku":"b","status":"applied","shown":2}]}`, []adapter.Verdict{adapter.Silent, adapter.Applied}, false},
		"unknown status": {`{"items":[{"sku":"a","status":"later"},{"sku":"b","status":"applied"}]}`, []adapter.Verdict{adapter.Silent, adapter.Applied}, false},
		"no items":       {`{}`, []adapter.Verdict{adapter.Silent, adapter.Silent}, false},
		"not JSON":       {`<html>`, nil, true},
		"cut off":        {`{"items":[{"sku":"a","st`, nil, true},
		"too long":       {`{"items":[{"sku":"a","message":"` + strings.Repeat("x", maxAnswer) + `"}]}`, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, acc := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, c.body) })
			for range 2 { // the second call uses the first one's memory again
				out, err := a.Write(t.Context(), acc, "k", items, nil)
				var ce *adapter.CallError
				if c.err {
					if !errors.As(err, &ce) || ce.Kind != adapter.Uncertain {
						t.Errorf("error %v", err)
					}
					continue
				}
				if err != nil || len(out) != 2 || out[0].Verdict != c.want[0] || out[1].Verdict != c.want[1] {
					t.Errorf("%+v %v, want %v", out, err, c.want)
				}
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	reached := false
	a, acc := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			reached = true
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	_, err := a.Write(t.Context(), acc, "k", items, nil)
	var ce *adapter.CallError
	if !errors.As(err, &ce) || ce.Kind != adapter.Denied || reached {
		t.Errorf("error %v, reached %v", err, reached)
	}
}

func TestCarriesTraceAndToken(t *testing.T) {
	var header http.Header
	a, acc := serve(t, func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Clone()
		_, _ = fmt.Fprint(w, `{"items":[]}`)
	})
	acc.Token = "sesame"
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	if _, err := a.Write(trace.ContextWithSpanContext(t.Context(), sc), acc, "k", items, nil); err != nil {
		t.Fatal(err)
	}
	if header.Get("Traceparent") != "00-01000000000000000000000000000000-0200000000000000-01" || header.Get("Authorization") != "Bearer sesame" {
		t.Errorf("headers %v", header)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for h, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-1": 0, "999999": time.Hour, "soon": 0, now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(h, now); got != want {
			t.Errorf("Retry-After %q: %s, want %s", h, got, want)
		}
	}
}
