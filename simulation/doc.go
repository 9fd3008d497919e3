// Package simulation tries how stock is kept in step, in made-up worlds with everything that goes wrong in the real one, and counts what is sold twice.
//
// A world is made from a seed: channels of every kind of API with their delays, clocks and outages, SKUs that are scarce or wanted all at once, buyers, receipts,
// counts, returns, cancellations, and crashes of each service. It has a clock of its own and does one thing after another, so that a seed always
// gives the same world: the same trace hash.
//
// What is decided in a world is decided by the code that production runs: the ledger's fold (stock/ledger), allocation (stock/allocation, stock/catalog), the
// books of exposure (stock/escrow), the allocator (stock/targeting) and the pusher's queue (services/channel-pusher/queue). What lies between them is modelled: topics with
// their delays, compaction and what is read again after a crash, the connectors that sweep channels for orders, and the marketplaces.
//
// The same worlds are run in each [Mode], and once by a seller who knows at every moment what is left. docs/simulation.md has the model in full.
package simulation
