// Package targeting decides what each channel is told: it is all of the allocator that does no I/O and reads no clock, and the simulation runs the same.
//
// An [Engine] has the SKUs of some partitions, and is fed with what the topics say: [Engine.Level], [Engine.Result], [Engine.Watermark], [Engine.Settings], [Engine.Relisted].
// From these it keeps, per SKU, the stock, the books of exposure (package escrow), and what was written to each channel last; and, per channel, the delays that were measured, by
// which adaptive SKUs are kept in books or not. [Engine.Decide] says which targets change:
//
//	e.Begin(now)
//	e.Level(p, level) // and whatever else has come
//	e.Read(p, next)
//	for more := true; more; {
//		out, more = e.Decide(now, most)
//		// write out, the books in e.Kept, e.Alerts and what e.Seal gives, all or nothing
//	}
//
// Who starts again restores what was written ([Engine.RestoreBooks], [Engine.Restore]), takes in the newest level of each SKU and calls [Engine.Start]: only what differs is written.
//
// Times are in microseconds: of the caller's clock where named now, else as in the records.
package targeting
