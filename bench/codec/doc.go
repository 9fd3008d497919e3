// Package codec holds the benchmarks of how the hot topics' values are encoded and decoded.
package codec
