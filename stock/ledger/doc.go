// Package ledger is the arithmetic of stock: what each event does to the buckets of a SKU, by location.
//
// A [Partition] is the fold of one partition of stock.events. [Partition.Apply] takes one event after another and never refuses one for lack of
// stock: goods have moved, and a shelf below zero is kept and reported. It refuses only what makes no sense ([Fault]).
//
//	p := ledger.New(ledger.Options{})
//	r := p.Apply(&e, offset, recordTime) // Applied, Duplicate or Rejected
//	for _, s := range p.Changed() { … }  // what to store; p.Journal() has the rest of the state, as bytes to append
//	p.Flushed()
//
// # Promises
//
//  1. The state is a function of the sequence of events, their offsets and record times alone: where a batch ends does not matter, and a partition
//     restored from what was stored goes on as if it had never stopped.
//  2. An event id counts once within the window ([Options.Window], by record time).
//  3. The effect of the events of one order line, reservation, purchase order or transfer does not depend on their order: a cancellation that comes
//     before its sale is remembered and netted when the sale comes; one that was never sold raises nothing.
//  4. On hand is the newest count plus what moved after the moment it speaks of, in whatever order they arrive.
//  5. The fold of different SKUs is independent.
//
// # Reservations
//
// A reservation that is placed (event.ReservationPlaced) is a fact. One that is requested is decided: its units are held if the locations of its scope and the SKU as
// a whole have them, else nothing is. [Partition.Decision] is the answer, to a repeat of the request too; a replay decides the same, for time comes from events alone
// ([Partition.Due] only tells what its caller may append to the log). Of several SKUs each part is tentative until the peer, the SKU that decides for all, has seen
// the first confirmation or abort. docs/decisions/0007 has the reasons.
//
// # Open items
//
// An open item is an order line that is committed, a reservation that is held, or a purchase order or transfer that is inbound. It is kept as a
// signed number of units by location, whose positive total is what the buckets hold: sale + at its location, assignment − here + there, shipment −
// where it left, cancellation −. Items that balance are forgotten. The package is pure: no I/O, no clock, no goroutines. A Partition is not
// safe for concurrent use.
package ledger
