module github.com/onhand/onhand/simulation

go 1.26.0

require (
	github.com/HdrHistogram/hdrhistogram-go v1.4.0 // latency percentiles that add up over seeds
	github.com/onhand/onhand/services/channel-pusher v0.0.0 // the queue under test
	github.com/onhand/onhand/stock v0.0.0 // ledger, allocation and escrow under test
	golang.org/x/sync v0.24.0 // seeds side by side
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/govalues/decimal v0.1.36 // indirect
	go.opentelemetry.io/otel v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace (
	github.com/onhand/onhand/platform => ../platform
	github.com/onhand/onhand/schemas => ../schemas
	github.com/onhand/onhand/services/channel-pusher => ../services/channel-pusher
	github.com/onhand/onhand/simulators => ../simulators
	github.com/onhand/onhand/stock => ../stock
	github.com/onhand/onhand/topics => ../topics
)
