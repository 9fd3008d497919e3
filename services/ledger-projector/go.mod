module github.com/onhand/onhand/services/ledger-projector

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0 // flags and environment
	github.com/alicebob/miniredis/v2 v2.40.0 // Redis in-process, for tests
	github.com/go-chi/chi/v5 v5.5.0 // HTTP routes
	github.com/onhand/onhand/platform v0.0.0 // Kafka, Redis, telemetry, lifecycle
	github.com/onhand/onhand/schemas v0.0.0 // topic names
	github.com/onhand/onhand/stock v0.0.0 // the arithmetic of stock
	github.com/onhand/onhand/topics v0.0.0 // values of the topics
	github.com/redis/go-redis/v9 v9.23.0 // Redis client
	github.com/twmb/franz-go v1.22.2 // Kafka client
	github.com/twmb/franz-go/pkg/kadm v1.19.0 // topic ids and offsets
	github.com/twmb/franz-go/pkg/kfake v0.0.0-20260918054303-01f206a7e32c // Kafka in-process, for tests
	go.opentelemetry.io/otel v1.47.0 // attributes of spans and metrics
	go.opentelemetry.io/otel/metric v1.47.0 // metrics
	go.opentelemetry.io/otel/sdk v1.47.0 // spans in tests
	go.opentelemetry.io/otel/trace v1.47.0 // traces
	go.uber.org/goleak v1.3.0 // no goroutine outlives a test
)

require golang.org/x/sync v0.24.0 // partitions assigned, verified and rebuilt together

require (
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/govalues/decimal v0.1.36 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.30.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	github.com/prometheus/client_golang v1.24.1 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/otlptranslator v1.0.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
	github.com/twmb/franz-go/pkg/sr v1.8.0 // indirect
	github.com/twmb/franz-go/plugin/kslog v1.0.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlptrace v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/prometheus v0.69.0 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/sdk/metric v1.47.0 // indirect
	go.opentelemetry.io/proto/otlp v1.11.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/net v0.59.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/grpc v1.83.2 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/onhand/onhand/platform => ../../platform
	github.com/onhand/onhand/schemas => ../../schemas
	github.com/onhand/onhand/stock => ../../stock
	github.com/onhand/onhand/topics => ../../topics
)
