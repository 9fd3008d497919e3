module github.com/onhand/onhand/embedded

go 1.26.0

require (
	github.com/onhand/onhand/platform v0.0.0
	github.com/onhand/onhand/schemas v0.0.0
)

replace (
	github.com/onhand/onhand/platform => ../platform
	github.com/onhand/onhand/schemas => ../schemas
)
