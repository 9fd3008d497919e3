package analytics

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/telemetry"
)

// maxTraced is the most traces that one insert makes spans for: what the exporter queues at most by default.
const maxTraced = 2048

// insertSpans is the spans of one insert: one for each trace that records of the block carry, however many of them do.
type insertSpans []trace.Span

// startSpans opens the spans of a block: the last stage that an order or event passes through.
func (k *sink) startSpans(each func(func(*kgo.Record))) insertSpans {
	var spans insertSpans
	var seen map[trace.TraceID]bool
	each(func(r *kgo.Record) {
		if len(spans) == maxTraced {
			return
		}
		ctx := telemetry.Extract(context.Background(), r)
		sc := trace.SpanContextFromContext(ctx)
		if !sc.IsSampled() || seen[sc.TraceID()] {
			return
		}
		if seen == nil {
			seen = make(map[trace.TraceID]bool)
		}
		seen[sc.TraceID()] = true
		_, span := k.s.deps.Telemetry.Tracer.Start(ctx, "analytics insert", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			attribute.String("onhand.table", k.table.name), attribute.String("messaging.destination.name", r.Topic), attribute.Int64("messaging.kafka.offset", r.Offset)))
		spans = append(spans, span)
	})
	return spans
}

func (s insertSpans) end(err error) {
	for _, span := range s {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, "not inserted")
		}
		span.End()
	}
}
