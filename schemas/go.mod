module github.com/onhand/onhand/schemas

go 1.26.0

require (
	github.com/planetscale/vtprotobuf v0.6.0 // fast encoding and decoding, generated
	google.golang.org/protobuf v1.36.12 // the messages, and the plugin that writes their reference
)
