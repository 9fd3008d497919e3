module github.com/onhand/onhand/topics

go 1.26.0

require (
	github.com/onhand/onhand/schemas v0.0.0
	github.com/onhand/onhand/stock v0.0.0-00010101000000-000000000000
	github.com/twmb/franz-go v1.22.2
	github.com/twmb/franz-go/pkg/sr v1.8.0
)

require (
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/planetscale/vtprotobuf v0.6.0 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
	github.com/twmb/franz-go/plugin/kslog v1.0.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/onhand/onhand/schemas => ../schemas
	github.com/onhand/onhand/stock => ../stock
)

require (
	github.com/onhand/onhand/platform v0.0.0
	github.com/twmb/franz-go/pkg/kadm v1.19.0
)

replace github.com/onhand/onhand/platform => ../platform
