module github.com/onhand/onhand/simulators

go 1.26.0

require (
	github.com/onhand/onhand/platform v0.0.0
)

replace (
	github.com/onhand/onhand/platform => ../platform
)
