// Package ledger is the arithmetic of stock: what each event does to the buckets of a SKU, by location.
package ledger
