module github.com/onhand/onhand/catalogfile

go 1.26.0

require (
	github.com/goccy/go-yaml v1.19.2 // YAML with the place of each fault
	github.com/onhand/onhand/stock v0.0.0 // channels, locations, rules and listings
	pgregory.net/rapid v1.3.0 // round trips of any value, in tests
)

require github.com/govalues/decimal v0.1.36 // indirect

replace github.com/onhand/onhand/stock => ../stock
