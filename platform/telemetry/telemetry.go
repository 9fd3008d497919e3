// Package telemetry gives a process its log, its traces and its metrics: slog, OpenTelemetry over OTLP where a collector is configured, and a
// Prometheus endpoint always.
//
// Tracing is by head sampling where work enters; everything downstream follows the parent's decision, and only sampled records carry trace
// context in their headers, so that an unsampled event costs nothing.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.39.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config says where telemetry goes.
type Config struct {
	LogLevel     string  `help:"Least level that is logged: debug, info, warn or error." default:"info" env:"LOG_LEVEL"`
	LogFormat    string  `help:"Form of the log: text or json." default:"json" enum:"text,json" env:"LOG_FORMAT"`
	OTLPEndpoint string  `help:"OTLP/HTTP collector for traces and metrics, as a URL; empty sends none." env:"OTEL_EXPORTER_OTLP_ENDPOINT"`
	TraceRatio   float64 `help:"Share of orders and events that are traced, 0 to 1." default:"0.01" env:"TRACE_RATIO"`
}

// Validate reports every fault of the settings.
func (c Config) Validate() error {
	var errs []error
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		errs = append(errs, fmt.Errorf("log-level %q: want debug, info, warn or error", c.LogLevel))
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		errs = append(errs, fmt.Errorf("log-format %q: want text or json", c.LogFormat))
	}
	if c.TraceRatio < 0 || c.TraceRatio > 1 {
		errs = append(errs, fmt.Errorf("trace-ratio %g: want 0 to 1", c.TraceRatio))
	}
	if c.OTLPEndpoint != "" { // the exporter would fall back to its own default
		if u, err := url.Parse(c.OTLPEndpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("otlp-endpoint %q: want a URL such as http://collector:4318", c.OTLPEndpoint))
		}
	}
	return errors.Join(errs...)
}

// Telemetry is what the parts of a process are given.
type Telemetry struct {
	Log        *slog.Logger
	Tracer     trace.Tracer
	Meter      metric.Meter
	Metrics    http.Handler          // the Prometheus endpoint
	Registerer prometheus.Registerer // for libraries that speak Prometheus themselves
	Gatherer   prometheus.Gatherer

	traces  *sdktrace.TracerProvider // nil when tracing is off
	metrics *sdkmetric.MeterProvider
}

// Start sets telemetry up for a process. Logs go to out. The caller calls Stop, which sends what is left.
func Start(ctx context.Context, cfg Config, service, version string, out io.Writer) (*Telemetry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // validated above
	var h slog.Handler = slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level})
	if cfg.LogFormat == "text" {
		h = slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})
	}
	res := resource.NewSchemaless(semconv.ServiceName(service), semconv.ServiceVersion(version))
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	prom, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		return nil, fmt.Errorf("prometheus exporter: %w", err)
	}
	meters := []sdkmetric.Option{sdkmetric.WithReader(prom), sdkmetric.WithResource(res)}
	t := &Telemetry{
		Log: slog.New(h), Tracer: noop.NewTracerProvider().Tracer(service), Registerer: reg, Gatherer: reg,
		Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
	}
	if cfg.OTLPEndpoint != "" {
		cfg.OTLPEndpoint = strings.TrimRight(cfg.OTLPEndpoint, "/")
		spans, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(cfg.OTLPEndpoint+"/v1/traces"))
		if err != nil {
			return nil, fmt.Errorf("otlp traces to %s: %w", cfg.OTLPEndpoint, err)
		}
		t.traces = sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(res),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.TraceRatio))))
		t.Tracer = t.traces.Tracer(service)
		values, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(cfg.OTLPEndpoint+"/v1/metrics"))
		if err != nil {
			return nil, fmt.Errorf("otlp metrics to %s: %w", cfg.OTLPEndpoint, err)
		}
		meters = append(meters, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(values)))
	}
	t.metrics = sdkmetric.NewMeterProvider(meters...)
	t.Meter = t.metrics.Meter(service)
	return t, nil
}

// Stop sends what is left and ends the exporters, within the life of ctx.
func (t *Telemetry) Stop(ctx context.Context) error {
	var err error
	if t.traces != nil {
		err = t.traces.Shutdown(ctx)
	}
	if t.metrics != nil {
		err = errors.Join(err, t.metrics.Shutdown(ctx))
	}
	return err
}

// For gives a part of the process its own logger; tracer and meter stay the process's.
func (t *Telemetry) For(part string) *Telemetry {
	c := *t
	c.Log = t.Log.With("service", part)
	return &c
}

// Traced gives telemetry that records spans with a provider of the caller's, as tests do.
func (t *Telemetry) Traced(p trace.TracerProvider, name string) *Telemetry {
	c := *t
	c.Tracer = p.Tracer(name)
	return &c
}

// Silent is telemetry for tests and tools: warnings to standard error, metrics kept and not served, nothing traced.
func Silent() *Telemetry {
	reg := prometheus.NewRegistry()
	prom, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		panic("telemetry: prometheus exporter on an empty registry: " + err.Error())
	}
	mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(prom))
	return &Telemetry{
		Log:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Tracer: noop.NewTracerProvider().Tracer(""), Meter: mp.Meter(""), metrics: mp, Registerer: reg, Gatherer: reg,
		Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
	}
}

var propagator = propagation.TraceContext{}

// Inject adds the trace context of ctx to a record's headers when it is sampled, and nothing otherwise.
func Inject(ctx context.Context, r *kgo.Record) {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return
	}
	propagator.Inject(ctx, headers{r})
}

// Extract gives ctx the trace context in a record's headers. Without any it returns ctx itself: no allocation for an untraced record.
func Extract(ctx context.Context, r *kgo.Record) context.Context {
	for i := range r.Headers {
		if r.Headers[i].Key == "traceparent" {
			return propagator.Extract(ctx, headers{r})
		}
	}
	return ctx
}

// headers is a record as OpenTelemetry's carrier.
type headers struct{ r *kgo.Record }

func (h headers) Get(key string) string {
	for _, x := range h.r.Headers {
		if x.Key == key {
			return string(x.Value)
		}
	}
	return ""
}

func (h headers) Set(key, value string) {
	for i := range h.r.Headers {
		if h.r.Headers[i].Key == key {
			h.r.Headers[i].Value = []byte(value)
			return
		}
	}
	h.r.Headers = append(h.r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
}

func (h headers) Keys() []string {
	keys := make([]string, len(h.r.Headers))
	for i, x := range h.r.Headers {
		keys[i] = x.Key
	}
	return keys
}
