module github.com/onhand/onhand/stock

go 1.26.0

require (
	github.com/govalues/decimal v0.1.36 // amounts of money and rates, exact
	pgregory.net/rapid v1.3.0 // property tests
)
