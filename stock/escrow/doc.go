// Package escrow decides, for one SKU at a time, which writes to its channels may go out now, so that no unit can be sold twice.
//
// A [SKU] keeps the books of exposure (package exposure) of each channel that lists it, and what it takes to choose well: sale rates, what each channel
// should show, the open write. It is fed with facts, each in a function that may be repeated with the same fact: [SKU.Level], [SKU.Result], and the order
// watermarks and settings in an [Input]. A [Decider] then says what follows: the writes to grant, alerts, and the phase.
//
// # Phases
//
// Pooled: no books; each channel's target is what the rules make of the whole pool, and the caller writes it as it sees fit. Strict: the only writes
// that may go out are those granted. Leaving: strict has ended, and the last granted writes are waited for. A rule asks for one of these
// guarantees: pooled, strict, or adaptive, which is pooled while more is available than T and strict from there on:
//
//	T = 4 × Σ sale rate × max over channels of (event delay or age of the order watermark + 2 × write delay) + 64 units per channel
//
// and comes back when available has been above 2 T for five minutes. Adaptive needs channels that can be written, that have a way down ([API.WayDown]), and
// order watermarks that move; without them it stays pooled and says why ([Decision.Hindrance]).
//
// # The way down
//
// A channel that has been selling without books has an unknown exposure. It is taken in by the strongest thing its API has: an absolute 0 (under adaptive with
// plenty, what is to be shown from then on: the last number of a channel counts, whatever it was), or a read followed by
// a decrease; when its order watermark has passed that, exposure is exact. Until every channel is, room is counted with an allowance for what the
// others may have sold unseen; under strict nothing is raised before that.
//
// # What is granted
//
// Decreases that rules or a shortage demand; then raises, as far as there is room; then decreases of channels that hold far more than their share, when others have less than theirs. A
// sale needs no write: available and the seller's exposure fall together. At most one write per SKU and channel is open.
//
// # Claim channels
//
// A channel that asks before it sells (API.Operation is write.Allot) is granted changes of its allotment, which the caller writes as events in the log. Levels say what is left of it: exposure is exact,
// and there is no result to wait for but the level that has the change ([SKU.Claims] names those that are waited for).
//
// The package does no I/O and reads no clock. Times are microseconds: of the caller's clock where named now, else the channel's.
package escrow
