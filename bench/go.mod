module github.com/onhand/onhand/bench

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0 // flags
	github.com/go-chi/chi/v5 v5.5.0 // routes of the availability API
	github.com/onhand/onhand/allinone v0.0.0
	github.com/onhand/onhand/e2e v0.0.0
	github.com/onhand/onhand/embedded v0.0.0
	github.com/onhand/onhand/platform v0.0.0
	github.com/onhand/onhand/schemas v0.0.0
	github.com/onhand/onhand/services/ledger-projector v0.0.0
	github.com/onhand/onhand/simulators v0.0.0
	github.com/onhand/onhand/stock v0.0.0
	github.com/onhand/onhand/topics v0.0.0
	github.com/redis/go-redis/v9 v9.23.0 // Redis client: the baseline of plain writes
	github.com/twmb/franz-go v1.22.2 // Kafka client: events to fold, and the baseline of plain consumption
	github.com/twmb/franz-go/pkg/kadm v1.19.0 // offsets
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // record batches made before, for a steady load
	github.com/twmb/franz-go/pkg/sr v1.8.0 // Schema Registry client
)

require (
	github.com/ClickHouse/ch-go v0.74.0 // indirect
	github.com/ClickHouse/clickhouse-go/v2 v2.50.0 // indirect
	github.com/HdrHistogram/hdrhistogram-go v1.4.0 // indirect
	github.com/alicebob/miniredis/v2 v2.40.0 // indirect
	github.com/andybalholm/brotli v1.2.6 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/danielgtaylor/huma/v2 v2.37.2 // indirect
	github.com/ebitengine/purego v0.11.3 // indirect
	github.com/go-faster/city v1.0.1 // indirect
	github.com/go-faster/errors v0.8.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/govalues/decimal v0.1.36 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.30.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/mfridman/interpolate v0.0.2 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/onhand/onhand/catalogfile v0.0.0 // indirect
	github.com/onhand/onhand/services/allocator v0.0.0 // indirect
	github.com/onhand/onhand/services/analytics v0.0.0 // indirect
	github.com/onhand/onhand/services/channel-pusher v0.0.0 // indirect
	github.com/onhand/onhand/services/ingest v0.0.0 // indirect
	github.com/paulmach/orb v0.13.0 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	github.com/pressly/goose/v3 v3.29.0 // indirect
	github.com/prometheus/client_golang v1.24.1 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/otlptranslator v1.0.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/segmentio/asm v1.2.1 // indirect
	github.com/sethvargo/go-retry v0.5.0 // indirect
	github.com/shopspring/decimal v1.5.0 // indirect
	github.com/twmb/franz-go/pkg/kfake v0.0.0-20260918054303-01f206a7e32c // indirect
	github.com/twmb/franz-go/plugin/kslog v1.0.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlptrace v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp v1.47.0 // indirect
	go.opentelemetry.io/otel/exporters/prometheus v0.69.0 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/sdk v1.47.0 // indirect
	go.opentelemetry.io/otel/sdk/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	go.opentelemetry.io/proto/otlp v1.11.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20261005182115-fad411399dd8 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261005182115-fad411399dd8 // indirect
	google.golang.org/grpc v1.84.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/onhand/onhand/allinone => ../allinone
	github.com/onhand/onhand/catalogfile => ../catalogfile
	github.com/onhand/onhand/e2e => ../e2e
	github.com/onhand/onhand/embedded => ../embedded
	github.com/onhand/onhand/examples => ../examples
	github.com/onhand/onhand/platform => ../platform
	github.com/onhand/onhand/schemas => ../schemas
	github.com/onhand/onhand/services/allocator => ../services/allocator
	github.com/onhand/onhand/services/analytics => ../services/analytics
	github.com/onhand/onhand/services/channel-pusher => ../services/channel-pusher
	github.com/onhand/onhand/services/ingest => ../services/ingest
	github.com/onhand/onhand/services/ledger-projector => ../services/ledger-projector
	github.com/onhand/onhand/simulators => ../simulators
	github.com/onhand/onhand/stock => ../stock
	github.com/onhand/onhand/topics => ../topics
)
