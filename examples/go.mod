module github.com/onhand/onhand/examples

go 1.26.0

require github.com/klauspost/compress v1.20.3 // the data set is kept zstd-compressed
