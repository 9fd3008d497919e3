module github.com/onhand/onhand/simulators

go 1.26.0

require (
	go.uber.org/goleak v1.3.0 // tests leave no goroutine behind
	golang.org/x/time v0.16.0 // token buckets
)

replace github.com/onhand/onhand/platform => ../platform
