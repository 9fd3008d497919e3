module github.com/onhand/onhand/stock

go 1.26.0

require (
	github.com/HdrHistogram/hdrhistogram-go v1.4.0 // delays of channels
	github.com/govalues/decimal v0.1.36 // amounts of money and rates, exact
	pgregory.net/rapid v1.3.0 // property tests
)
