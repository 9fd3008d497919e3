package telemetry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func config() Config { return Config{LogLevel: "info", LogFormat: "json", TraceRatio: 1} }

func sampled(t *testing.T, flags trace.TraceFlags) context.Context {
	t.Helper()
	id, err := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	if err != nil {
		t.Fatal(err)
	}
	span, err := trace.SpanIDFromHex("b7ad6b7169203331")
	if err != nil {
		t.Fatal(err)
	}
	return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: flags}))
}

func TestContextTravelsInHeaders(t *testing.T) {
	r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("x")}, {Key: "traceparent", Value: []byte("stale")}}}
	Inject(sampled(t, trace.FlagsSampled), r)
	if len(r.Headers) != 2 || string(r.Headers[1].Value) != parent || string(r.Headers[0].Value) != "x" {
		t.Fatalf("headers %q", r.Headers)
	}
	sc := trace.SpanContextFromContext(Extract(t.Context(), r))
	if !sc.IsRemote() || !sc.IsSampled() || sc.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || sc.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("extracted %+v", sc)
	}
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "tracestate", Value: []byte("vendor=1")})
	if got := trace.SpanContextFromContext(Extract(t.Context(), r)).TraceState().Get("vendor"); got != "1" {
		t.Errorf("tracestate is lost: %q", got)
	}
	for _, bad := range []string{"", "00-x", strings.Repeat("0", 55), "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-"} {
		r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte(bad)}}}
		if sc := trace.SpanContextFromContext(Extract(t.Context(), r)); sc.IsValid() {
			t.Errorf("traceparent %q gave %+v", bad, sc)
		}
	}
}

// What is not traced costs nothing: no header, no allocation.
func TestUntracedCostsNothing(t *testing.T) {
	r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "content-type"}, {Key: "event-id"}}}
	plain, unsampled := t.Context(), sampled(t, 0)
	if n := testing.AllocsPerRun(100, func() {
		Inject(plain, r)
		Inject(unsampled, r)
		if Extract(plain, r) != plain {
			t.Error("the context was replaced")
		}
	}); n != 0 || len(r.Headers) != 2 {
		t.Errorf("%g allocations, headers %q", n, r.Headers)
	}
}

func TestEveryFaultOfTheSettings(t *testing.T) {
	err := Config{LogLevel: "loud", LogFormat: "xml", TraceRatio: 2, OTLPEndpoint: "collector:4318"}.Validate()
	for _, want := range []string{"log-level", "log-format", "trace-ratio", "otlp-endpoint"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
	for _, url := range []string{"", "http://collector:4318", "https://collector.example/otlp/"} {
		c := config()
		if c.OTLPEndpoint = url; c.Validate() != nil {
			t.Errorf("%q: %v", url, c.Validate())
		}
	}
	if _, err := Start(t.Context(), Config{}, "test", "v1", io.Discard); err == nil {
		t.Error("settings with faults were taken")
	}
}

// collector is an OTLP collector that keeps what it is sent.
type collector struct {
	*httptest.Server
	mu   sync.Mutex
	sent map[string][]byte
}

func newCollector(t *testing.T) *collector {
	c := &collector{sent: make(map[string][]byte)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sent[r.URL.Path] = append(c.sent[r.URL.Path], b...)
	}))
	t.Cleanup(c.Close)
	return c
}

func TestSpansAndMetricsGoToTheCollector(t *testing.T) {
	c := newCollector(t)
	cfg := config()
	cfg.OTLPEndpoint = c.URL + "/" // a slash too many is no other address
	tel, err := Start(t.Context(), cfg, "projector", "v7", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer.Start(t.Context(), "fold a batch")
	span.End()
	events, err := tel.Meter.Int64Counter("onhand_test_events")
	if err != nil {
		t.Fatal(err)
	}
	events.Add(t.Context(), 3)
	if err := tel.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{"/v1/traces": {"fold a batch", "projector", "v7"}, "/v1/metrics": {"onhand_test_events", "projector"}} {
		for _, s := range want {
			if !bytes.Contains(c.sent[path], []byte(s)) {
				t.Errorf("%s holds no %q: %d bytes", path, s, len(c.sent[path]))
			}
		}
	}
	if len(c.sent) != 2 {
		t.Errorf("sent to %d paths", len(c.sent))
	}
}

// The ratio decides where a trace begins; further down the parent does.
func TestTheParentDecides(t *testing.T) {
	c := newCollector(t)
	cfg := config()
	cfg.OTLPEndpoint, cfg.TraceRatio = c.URL, 0
	tel, err := Start(t.Context(), cfg, "test", "v1", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer.Start(t.Context(), "nobody asked")
	span.End()
	r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte(parent)}}}
	_, span = tel.Tracer.Start(Extract(t.Context(), r), "the caller asked")
	span.End()
	if err := tel.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sent := c.sent["/v1/traces"]; bytes.Contains(sent, []byte("nobody asked")) || !bytes.Contains(sent, []byte("the caller asked")) {
		t.Errorf("sent %q", sent)
	}
}

func TestWithoutACollector(t *testing.T) {
	var out bytes.Buffer
	tel, err := Start(t.Context(), config(), "test", "v1", &out)
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer.Start(t.Context(), "x")
	if span.IsRecording() {
		t.Error("spans are recorded, and nobody takes them")
	}
	n, err := tel.Meter.Int64Counter("onhand_test_events")
	if err != nil {
		t.Fatal(err)
	}
	n.Add(t.Context(), 5)
	rec := httptest.NewRecorder()
	tel.Metrics.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if body := rec.Body.String(); !strings.Contains(body, "\nonhand_test_events_total{") || !strings.Contains(body, "\ngo_goroutines ") {
		t.Errorf("/metrics: %.300s", body)
	}
	tel.For("ingest").Log.Info("hello")
	tel.Log.Debug("chatter")
	if s := out.String(); !strings.Contains(s, `"service":"ingest"`) || strings.Contains(s, "chatter") {
		t.Errorf("log: %s", s)
	}
	if err := tel.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A collector that is away costs a stop no more than its time, and the process says so.
func TestACollectorThatIsAway(t *testing.T) {
	c := newCollector(t)
	c.Close()
	cfg := config()
	cfg.OTLPEndpoint = c.URL
	tel, err := Start(t.Context(), cfg, "test", "v1", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer.Start(t.Context(), "x")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tel.Stop(ctx); err == nil {
		t.Error("nothing was sent, and nobody was told")
	}
}

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{"json": `"msg":"hello"`, "text": "msg=hello"} {
		var out bytes.Buffer
		cfg := config()
		cfg.LogFormat, cfg.LogLevel = format, "debug"
		tel, err := Start(t.Context(), cfg, "test", "v1", &out)
		if err != nil {
			t.Fatal(err)
		}
		tel.Log.Log(t.Context(), slog.LevelDebug, "hello")
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: %s", format, out.String())
		}
		if err := tel.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
