package queue

import (
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
)

// Partition finds the queue's view of a partition of the channel's targets, or opens it. settled is the offset that the group had committed when the partition
// came, negative when it had committed none: then nobody ever had it before. end is the partition's end at that time: whoever had it before
// may have begun what is between the two. doubts is what was stored with the offset.
func (q *Queue) Partition(id int32, settled, end int64, doubts []Doubt, now time.Time) *Partition {
	p := q.parts[id]
	if p == nil {
		p = &Partition{}
		if settled >= 0 {
			p.settled, p.next, p.inherited, p.since = settled, settled, end, now
			if settled < end && end < math.MaxInt64 { // else nobody knows when it is caught up with
				p.doubts, p.catching = slices.Clone(doubts), true
				q.catching++
			}
		}
		q.parts[id] = p
	}
	return p
}

// Partitions calls f for every partition, in no order.
func (q *Queue) Partitions(f func(id int32, p *Partition)) {
	for id, p := range q.parts {
		f(id, p)
	}
}

// Take takes a consumed target. Targets of one SKU come in the order of their offsets. span is its trace context, nil when it is not traced.
func (q *Queue) Take(p *Partition, offset int64, t *allocation.Target, span *trace.SpanContext, now time.Time) {
	p.next = max(p.next, offset+1)
	x := target{
		quantity: int64(t.Quantity), levelVersion: t.LevelVersion, settingsVersion: t.SettingsVersion, sourceOffset: t.SourceOffset,
		sold: int64(t.Sold - t.Restored), received: t.ReceivedAt, oldest: t.OldestReceivedAt, decided: t.DecidedAt, withdrawn: t.Withdrawn,
		span: span, inherited: offset < p.inherited,
	}
	if t.Write != nil { // the caller may read the next target into the same memory
		w := *t.Write
		x.write = &w
	}
	external := t.ExternalID
	if external == "" {
		external = t.SKU
	}
	it := q.items[t.SKU]
	if it != nil && !x.grants() && x.older(&it.target) { // a granted write is never passed over: its books wait for what became of it
		q.stats.Superseded++
		return
	}
	seq := p.add(offset)
	if offset < p.settled || (q.ignoring && !x.grants() && (it == nil || !it.dirty)) {
		q.remember(p, it, t.SKU, external, x, now)
		p.done(seq)
		return
	}
	isNew := it == nil
	if isNew {
		it = q.create(p, t.SKU, external)
	} else if !it.dirty && it.place == resting && same(&x, &it.target) {
		it.target = x
		p.done(seq)
		return
	}
	if it.external != external {
		it.external, it.known = external, false
	}
	since := p.doubtedSince(offset)
	if x.inherited {
		x.doubted = since
	}
	if it.dirty && !q.supersede(it, p, seq, &x, now) {
		return
	}
	if x.write == nil {
		q.place(it, &x, now)
	} else if it.target.write == nil && !p.since.IsZero() && (!isNew || offset < p.inherited) {
		// Whoever had the partition before may have sent a write in pooled mode that still lands.
		if since.IsZero() {
			since = p.since
		}
		it.clear(since.Add(q.timeout + q.late))
	}
	it.target, it.seq, it.suspectSet = x, seq, false
	switch {
	case it.place == underWay || it.grant != nil: // first that
		q.mark(it, now)
	case it.place == resting:
		q.start(it, now)
	case x.write != nil:
		q.unqueue(it) // what waited in pooled mode is superseded
		q.mark(it, now)
		q.begin(it, now)
	case it.place == ready:
		it.changes++
		q.ready.fix(it)
	default:
		q.mark(it, now)
	}
}

// same says whether a target asks for nothing that the one before it did not.
func same(x, was *target) bool {
	if x.write != nil || was.write != nil {
		return x.write != nil && was.write != nil && x.write.ID == was.write.ID
	}
	return !was.older(x) && x.quantity == was.quantity && x.withdrawn == was.withdrawn
}

// supersede makes room for a newer target of an item that is not settled. False means that there is nothing more to do: it is the same write again.
func (q *Queue) supersede(it *item, p *Partition, seq int64, x *target, now time.Time) bool {
	q.stats.Superseded++
	g := it.grant
	waits := g == nil || it.seq != g.seq // the newest target has not begun
	switch {
	case g != nil && x.write != nil && x.write.ID == g.write.ID:
		if waits {
			q.pass(it)
		} else {
			q.settle(p, g.seq)
		}
		g.seq, it.seq, it.target = seq, seq, *x
		return false
	case waits && x.write != nil && it.target.write != nil && x.write.ID == it.target.write.ID: // the same, before it began
		q.settle(p, it.seq)
		it.seq, it.target = seq, *x
		return false
	case waits && it.target.inherited && it.target.grants(): // it may have been sent, and what became of it was told before another was decided
		q.settle(it.part, it.seq)
	case waits:
		q.pass(it)
		if g == nil && it.place != underWay {
			x.oldest = earliest(x.oldest, it.target.oldest)
		}
	}
	switch {
	case g == nil || it.place == underWay:
	case !g.doubt:
		q.unqueue(it)
		q.giveUp(it, "superseded", "a newer target came before it was sent", now)
	case g.inherited && x.grants():
		// The next write is granted only after what became of this one is known: whoever had the partition before has told it. It was sent, or given up,
		// when nothing sent before could land any more.
		q.unqueue(it)
		q.settle(it.part, g.seq)
		q.forgetGrant(it)
		it.clearAt = time.Time{}
		if g.ran.After(now) {
			it.clearAt = g.ran
		}
	}
	return true
}

// pass settles the newest target of an item, which was never begun.
func (q *Queue) pass(it *item) {
	if it.target.grants() {
		q.notSent(it, &it.target, it.seq, "superseded", "a newer target came before it was sent")
		return
	}
	q.settle(it.part, it.seq)
}

// place finds, in pooled mode, the sales that nobody can tell to be before or after the moment for which it is known what the channel showed.
func (q *Queue) place(it *item, x *target, now time.Time) {
	// A target may stand for many events: the oldest decides.
	if !it.known || it.readAt <= 0 || earliest(x.oldest, x.received) > it.readAt+q.cfg.DriftGrace.Microseconds() {
		return
	}
	// Sold before the number was read or set, as far as anyone can say: it did not fall for these units.
	// If it did, the channel now shows too little, so that it is looked at once no doubt is left. What it put back itself it may have had then, too.
	if x.sold != it.basis {
		it.basis, it.exact = max(x.sold, it.basis), false
		q.doubt(it, now)
	}
}

// mark makes an item dirty that is somewhere already.
func (q *Queue) mark(it *item, now time.Time) {
	it.dirty = true
	it.changes++
	if !it.listed {
		it.since = now
		q.byAge.add(it)
	}
}

// start makes a resting item dirty and begins its target.
func (q *Queue) start(it *item, now time.Time) {
	q.mark(it, now)
	q.begin(it, now)
}

// begin queues a dirty item that is nowhere.
func (q *Queue) begin(it *item, now time.Time) {
	it.place = resting
	switch {
	case it.target.write != nil:
		q.open(it, now)
	case q.ignoring:
		q.dropTarget(it, now)
	case it.part.catching: // a granted write may have followed, which this one must not undo
	default:
		q.makeReady(it, now)
	}
}

// catchUp begins what waited until everything was known that whoever had a partition before may have begun.
func (q *Queue) catchUp(now time.Time) {
	n := 0
	for _, p := range q.parts {
		if p.catching && p.caughtUp() {
			p.catching, p.sure = false, now
			n++
		}
	}
	if n == 0 {
		return
	}
	q.catching -= n
	for _, it := range slices.Clone(q.ring) {
		if !it.gone && !it.part.catching && it.dirty && it.place == resting && it.grant == nil {
			q.begin(it, now)
		}
	}
}

func (q *Queue) makeReady(it *item, now time.Time) {
	if q.ready.len() == 0 {
		q.readySince = now
	}
	q.nextSeq++
	it.seqNo, it.place = q.nextSeq, ready
	q.ready.push(it)
}

func (q *Queue) delay(it *item, until time.Time) {
	q.nextSeq++
	it.seqNo, it.place, it.notBefore = q.nextSeq, delayed, until
	q.later.push(it)
}

func (q *Queue) toRead(it *item) {
	it.place = toRead
	q.reads = append(q.reads, it)
}

// unqueue takes an item from wherever it waits.
func (q *Queue) unqueue(it *item) {
	switch it.place {
	case ready:
		q.ready.remove(it)
	case delayed:
		q.later.remove(it)
	case toRead, resting: // the list of reads skips what is not there any more
	case underWay:
		return
	}
	it.place = resting
}

func (q *Queue) clean(it *item, now time.Time) {
	it.dirty, it.seq, it.attempts, it.failures, it.stale, it.most = false, -1, 0, 0, 0, 0
	it.uncertain, it.suspectSet = false, false
	q.byAge.remove(it)
	if it.target.withdrawn && !it.clearAt.After(now) { // until then what may land must not be forgotten
		q.forget(it)
	}
}

func (q *Queue) forget(it *item) {
	if it.gone {
		return
	}
	q.unqueue(it)
	q.byAge.remove(it)
	it.gone = true
	if it.grant != nil && it.grant.doubt {
		q.inDoubt--
	}
	q.certain(it)
	delete(q.items, it.sku)
	q.forgotten++
	if q.forgotten > 64 && q.forgotten > len(q.ring)/2 {
		kept := q.ring[:0]
		for _, x := range q.ring {
			if !x.gone {
				kept = append(kept, x)
			}
		}
		clear(q.ring[len(kept):])
		q.ring, q.forgotten, q.cursor = kept, 0, 0
	}
}

func (q *Queue) settle(p *Partition, seq int64) {
	if seq >= 0 {
		p.done(seq)
	}
}

// doubt has a SKU looked at when the sales that nobody can place must all be in.
func (q *Queue) doubt(it *item, now time.Time) {
	if it.doubtful || !q.writable || !q.caps.ReadBack || q.operation() == catalog.Absolute { // which sets the number whatever it was
		return
	}
	it.doubtful = true
	q.doubtful++
	if it.lookAt.IsZero() {
		it.lookAt = now.Add(q.cfg.DriftGrace)
		q.looks = append(q.looks, it)
	}
}

// Audit has each SKU that is not under books compared with what the channel shows as soon as nothing is queued for it. Call it when no sale is on its way: one
// that is looks like a difference. Until all have been compared, State counts them as doubtful.
func (q *Queue) Audit(now time.Time) {
	if !q.writable || !q.caps.ReadBack {
		return
	}
	for _, it := range q.ring {
		if it.gone || it.target.write != nil {
			continue
		}
		if !it.doubtful {
			it.doubtful = true
			q.doubtful++
		}
		if it.lookAt.IsZero() {
			it.lookAt = now
			q.looks = append(q.looks, it)
		}
	}
}

func (q *Queue) certain(it *item) {
	if it.doubtful {
		it.doubtful = false
		q.doubtful--
	}
}

func (q *Queue) create(p *Partition, sku, external string) *item {
	it := &item{sku: sku, external: external, part: p, seq: -1}
	q.items[sku] = it
	q.ring = append(q.ring, it)
	return it
}

// remember keeps a target that needs no write.
func (q *Queue) remember(p *Partition, it *item, sku, external string, x target, now time.Time) {
	if it == nil {
		if x.withdrawn {
			return
		}
		it = q.create(p, sku, external)
	}
	if it.dirty {
		return // a newer one is on its way
	}
	it.target, it.external = x, external
	it.changes++
	if x.withdrawn && !it.clearAt.After(now) {
		q.forget(it)
	}
}

// Removed takes a record without a value: nobody wants the SKU's target any more.
func (q *Queue) Removed(p *Partition, offset int64, sku string) {
	p.next = max(p.next, offset+1)
	if it := q.items[sku]; it != nil && !it.dirty && it.place == resting {
		q.forget(it)
	}
}

func earliest(x, y int64) int64 {
	if x == 0 || (y != 0 && y < x) {
		return y
	}
	return x
}

// Revoke gives a partition up: nothing of it is sent from now on, and granted writes that were never sent are told to be so. nil means that the queue does
// not have it.
func (q *Queue) Revoke(id int32, now time.Time) *Partition {
	p := q.parts[id]
	if p == nil {
		return nil
	}
	for _, it := range slices.Clone(q.ring) {
		if it.part != p || it.gone {
			continue
		}
		q.handOver(it, now)
		q.forget(it)
	}
	delete(q.parts, id)
	if p.catching {
		q.catching--
	}
	return p
}

// Stop tells of granted writes that were never sent and now will not be; call it when nothing more is sent.
func (q *Queue) Stop(now time.Time) {
	for _, it := range slices.Clone(q.ring) {
		if !it.gone {
			q.handOver(it, now)
		}
	}
}

// handOver closes the granted writes of an item that never left, so that nobody has to wonder whether they did.
func (q *Queue) handOver(it *item, now time.Time) {
	if it.clearAt.After(now) {
		return // left open, it is in doubt after a restart, and that is waited out
	}
	g := it.grant
	if it.dirty && it.target.grants() && (g == nil || it.seq != g.seq) {
		q.notSent(it, &it.target, it.seq, "stopped", "the service stopped before it was sent")
		it.seq = -1
	}
	// One that the channel said it did not apply stays open, too: a request that was doubled on its way may have been applied by its twin, which the next
	// read tells.
	if g != nil && !g.doubt && !g.left && it.place != underWay {
		q.unqueue(it)
		it.target.write = nil // nothing follows
		q.giveUp(it, "stopped", "the service stopped before it was sent", now)
	}
}
