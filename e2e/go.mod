module github.com/onhand/onhand/e2e

go 1.26.0

require (
	github.com/onhand/onhand/embedded v0.0.0
	github.com/onhand/onhand/platform v0.0.0
	github.com/redis/go-redis/v9 v9.23.0 // looks at the real Redis
	github.com/twmb/franz-go v1.22.2 // looks at the real Kafka
	github.com/twmb/franz-go/pkg/kadm v1.19.0 // topics, offsets and lag
)

require (
	github.com/ClickHouse/ch-go v0.74.0 // indirect
	github.com/alicebob/miniredis/v2 v2.40.0 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/ebitengine/purego v0.11.3 // indirect
	github.com/go-faster/city v1.0.1 // indirect
	github.com/go-faster/errors v0.8.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/twmb/franz-go/pkg/kfake v0.0.0-20260918054303-01f206a7e32c // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
	github.com/twmb/franz-go/pkg/sr v1.8.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	github.com/onhand/onhand/allinone => ../allinone
	github.com/onhand/onhand/embedded => ../embedded
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
