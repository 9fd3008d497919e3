module github.com/onhand/onhand/services/allocator

go 1.26.0

require (
	github.com/onhand/onhand/platform v0.0.0
	github.com/onhand/onhand/schemas v0.0.0
	github.com/onhand/onhand/stock v0.0.0
	github.com/onhand/onhand/topics v0.0.0
)

replace (
	github.com/onhand/onhand/platform => ../../platform
	github.com/onhand/onhand/schemas => ../../schemas
	github.com/onhand/onhand/stock => ../../stock
	github.com/onhand/onhand/topics => ../../topics
)
