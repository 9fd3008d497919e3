module github.com/onhand/onhand/topics

go 1.26.0

require (
	github.com/onhand/onhand/platform v0.0.0 // topics as a cluster should have them
	github.com/onhand/onhand/schemas v0.0.0 // messages and the table of topics
	github.com/onhand/onhand/stock v0.0.0 // domain values
	github.com/twmb/franz-go v1.22.2 // Kafka records
	github.com/twmb/franz-go/pkg/kadm v1.19.0 // end offsets, to know when the catalog was read whole
	github.com/twmb/franz-go/pkg/kfake v0.0.0-20260918054303-01f206a7e32c // Kafka in the process, in tests
	github.com/twmb/franz-go/pkg/sr v1.8.0 // Schema Registry, and its fake in tests
	go.uber.org/goleak v1.3.0 // tests leave no goroutine behind
	google.golang.org/protobuf v1.36.12 // decoding with standard clients, in tests
	pgregory.net/rapid v1.3.0 // round trips of any value, in tests
)

require (
	github.com/govalues/decimal v0.1.36 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/planetscale/vtprotobuf v0.6.0 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
	github.com/twmb/franz-go/plugin/kslog v1.0.0 // indirect
)

replace (
	github.com/onhand/onhand/platform => ../platform
	github.com/onhand/onhand/schemas => ../schemas
	github.com/onhand/onhand/stock => ../stock
)
