module github.com/onhand/onhand/embedded

go 1.26.0

require (
	github.com/ClickHouse/ch-go v0.74.0 // ClickHouse's compressed blocks, which clients may send and ask for
	github.com/ClickHouse/clickhouse-go/v2 v2.50.0 // tests: the driver that services use
	github.com/alicebob/miniredis/v2 v2.40.0 // the embedded Redis
	github.com/ebitengine/purego v0.11.3 // binds the ClickHouse engine's library without cgo, when it is opened
	github.com/klauspost/compress v1.20.3 // gzip and zstd bodies of the ClickHouse HTTP interface
	github.com/pierrec/lz4/v4 v4.1.33 // lz4 bodies of the ClickHouse HTTP interface
	github.com/redis/go-redis/v9 v9.23.0 // tests: the Redis client that services use
	github.com/shopspring/decimal v1.5.0 // tests: the decimal type of clickhouse-go
	github.com/twmb/franz-go v1.22.2 // tests: the Kafka client that services use
	github.com/twmb/franz-go/pkg/kadm v1.19.0 // tests: topics and offsets
	github.com/twmb/franz-go/pkg/kfake v0.0.0-20260918054303-01f206a7e32c // the embedded Kafka broker
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // names of Kafka requests, to see when the broker is quiet
	github.com/twmb/franz-go/pkg/sr v1.8.0 // the embedded schema registry (srfake)
	go.uber.org/goleak v1.3.0 // tests: nothing is left running
)

require (
	github.com/andybalholm/brotli v1.2.6 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-faster/city v1.0.1 // indirect
	github.com/go-faster/errors v0.7.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/paulmach/orb v0.13.0 // indirect
	github.com/segmentio/asm v1.2.1 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.opentelemetry.io/otel v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	github.com/onhand/onhand/platform => ../platform
	github.com/onhand/onhand/schemas => ../schemas
)
