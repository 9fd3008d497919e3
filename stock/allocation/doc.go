// Package allocation decides what each channel may show of what is available, and why.
//
// A [Layout] says which channels sell from which locations; [Rules] say how; a [Solver] turns the stock of one SKU into one quantity per
// channel. The functions are pure: the same input gives the same output, in whatever order the input comes, and ties end on channel ids.
//
// # The target function
//
//	a(l)  = max(0, available − location buffer)           of a shared location l
//	N     = Σ a(l) − unassigned − pool buffer             what all channels together may show
//	F(C)  = Σ a(l) over the scopes of channels C − unassigned
//	U(c)  = min(min(F(c), N) − buffer, max, cap × N)              the limit of channel c, 0 when paused
//
// Pooled: each channel shows min(U, what reserves of others leave of F and N, less its buffer). The other modes promise each unit once: for every set C of
// channels Σ targets ≤ F(C), and Σ of all ≤ N. Reserves are served first, by priority; the rest by priority (waterfall) or by shares.
//
// Units sold and not yet assigned to a location may be taken from any of them, so every scope is lowered by all of them: what is shown stays true
// wherever the router sends the order.
//
// Overlapping scopes are solved exactly for up to 64 scopes that differ in the stock of the SKU at hand, as long as their overlaps are not too
// many (4,096 unions; 12 scopes that all overlap stay within it). Beyond, each channel's room is what its own scope leaves when all overlapping channels
// are taken to draw on it: never too much, perhaps too little.
//
// A location with an owner (fulfilment by a marketplace) is outside all of this: its stock goes to its channel whole.
package allocation
