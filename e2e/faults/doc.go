// Package faults tests that the ledger counts every event exactly once whatever breaks: ledger-projectors run as processes on a real Kafka and a real
// Redis while a schedule of faults, drawn from a seed, kills, freezes and moves them, and takes Redis and the broker away or back in time.
// Then Redis, and the newest level of each SKU in stock.levels, must equal a fold of the log and the books of who wrote the events, to the unit.
package faults
