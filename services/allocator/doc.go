// Package allocator turns stock levels into the targets of each channel.
//
// It consumes stock.levels as a group: the owner of a partition holds the state of its SKUs in memory, loaded on assignment from the compacted
// levels and from the targets that were written last, so that a restart writes only what changed meanwhile. A change of rules, channels, locations or
// listings recomputes the SKUs concerned at once. Targets go to targets.<channel>, each with the derivation of its number.
//
// What is decided is in stock/targeting, which does no I/O; this package feeds it, and writes what it says.
package allocator
