module github.com/onhand/onhand/allinone

go 1.26.0

require (
	github.com/onhand/onhand/platform v0.0.0
	github.com/onhand/onhand/schemas v0.0.0
	github.com/onhand/onhand/services/allocator v0.0.0
	github.com/onhand/onhand/services/analytics v0.0.0
	github.com/onhand/onhand/services/channel-pusher v0.0.0
	github.com/onhand/onhand/services/ingest v0.0.0
	github.com/onhand/onhand/services/ledger-projector v0.0.0
	github.com/onhand/onhand/stock v0.0.0
	github.com/onhand/onhand/topics v0.0.0
)

require github.com/go-chi/chi/v5 v5.5.0 // indirect

replace (
	github.com/onhand/onhand/platform => ../platform
	github.com/onhand/onhand/schemas => ../schemas
	github.com/onhand/onhand/services/allocator => ../services/allocator
	github.com/onhand/onhand/services/analytics => ../services/analytics
	github.com/onhand/onhand/services/channel-pusher => ../services/channel-pusher
	github.com/onhand/onhand/services/ingest => ../services/ingest
	github.com/onhand/onhand/services/ledger-projector => ../services/ledger-projector
	github.com/onhand/onhand/stock => ../stock
	github.com/onhand/onhand/topics => ../topics
)
