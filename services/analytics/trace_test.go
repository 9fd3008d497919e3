package analytics

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/onhand/onhand/platform/telemetry"
)

const (
	traceA = "0af7651916cd43dd8448eb211c80319c"
	traceB = "1af7651916cd43dd8448eb211c80319c"
	parent = "b7ad6b7169203331"
)

func traced(r *kgo.Record, trace, flags string) *kgo.Record {
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "traceparent", Value: []byte("00-" + trace + "-" + parent + "-" + flags)})
	return r
}

func recorder(t *testing.T) (*telemetry.Telemetry, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	t.Cleanup(func() { _ = p.Shutdown(t.Context()) })
	return telemetry.Silent().Traced(p, "test"), spans
}

// A block makes one span for each trace that its records carry, and none for records that carry none or are not sampled.
func TestOneSpanForEachTraceOfABlock(t *testing.T) {
	w := newWorld(t)
	tel, spans := recorder(t)
	s, err := New(w.cfg, Deps{Kafka: w.kafka, Codec: w.codec, Telemetry: tel})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.inserter.close()
		_ = s.query.Close()
	})
	records := w.sales(0, 6)
	traced(records[1], traceA, "01")
	traced(records[2], traceB, "01")
	traced(records[3], traceA, "01")
	traced(records[4], "2af7651916cd43dd8448eb211c80319c", "00")
	traced(records[5], "nonsense", "01")
	got := s.sinks[0].startSpans(func(yield func(*kgo.Record)) {
		for _, r := range records {
			yield(r)
		}
	})
	got.end(nil)
	ended := spans.Ended()
	if len(ended) != 2 || ended[0].SpanContext().TraceID().String() != traceA || ended[1].SpanContext().TraceID().String() != traceB {
		t.Fatalf("%d spans, want one of each trace", len(ended))
	}
	for _, span := range ended {
		if span.Parent().SpanID().String() != parent || span.Name() != "analytics insert" {
			t.Errorf("span %q has the parent %s, want the record's", span.Name(), span.Parent().SpanID())
		}
	}
}

// A traced record that reaches ClickHouse ends its trace there, and one whose insert is broken at first has one span all the same.
func TestTraceEndsInClickHouse(t *testing.T) {
	w := newWorld(t)
	g := newGate(t)
	g.mode.Store(refuse)
	w.cfg.ClickHouse.URL = g.URL
	tel, spans := recorder(t)
	w.tel = tel
	i := w.start()
	w.produce(traced(w.sales(0, 1)[0], traceA, "01"))
	w.until("an insert is broken", func() bool { return g.hit.Load() > 0 })
	g.mode.Store(open)
	w.caughtUp(i)
	i.stop()
	if ended := spans.Ended(); len(ended) != 1 || ended[0].SpanContext().TraceID().String() != traceA {
		t.Errorf("%d spans, want one of the record's trace", len(ended))
	}
	w.exactly("stock_events", 1)
	rec := httptest.NewRecorder()
	tel.Metrics.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`onhand_analytics_rows_total{`, `onhand_analytics_retries_total{`, `onhand_analytics_lag_records{`, `onhand_analytics_insert_seconds_count{`,
	} {
		if !strings.Contains(rec.Body.String(), "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}
