module github.com/onhand/onhand/stock

go 1.26.0
