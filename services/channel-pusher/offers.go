package channelpusher

import (
	"time"

	"github.com/onhand/onhand/stock/catalog"
)

// queue makes a resting item dirty and ready.
func (a *account) queue(it *item) {
	it.dirty = true
	it.changes++
	if !it.listed {
		it.since = time.Now()
		a.byAge.add(it)
	}
	a.makeReady(it)
}

func (a *account) makeReady(it *item) {
	if a.ready.len() == 0 {
		a.readySince = time.Now()
	}
	a.nextSeq++
	it.seqNo, it.place = a.nextSeq, ready
	a.ready.push(it)
}

// unqueue takes an item from wherever it waits.
func (a *account) unqueue(it *item) {
	switch it.place {
	case ready:
		a.ready.remove(it)
	case delayed:
		a.later.remove(it)
	case toRead, resting: // the list of reads skips what is not there any more
	case underWay:
		return
	}
	it.place = resting
}

func (a *account) clean(it *item) {
	it.dirty, it.seq, it.attempts, it.failures, it.stale = false, -1, 0, 0, 0
	it.uncertain, it.suspectSet = false, false
	a.byAge.remove(it)
	if it.target.withdrawn {
		a.forget(it)
	}
}

func (a *account) forget(it *item) {
	if it.gone {
		return
	}
	a.unqueue(it)
	a.byAge.remove(it)
	it.gone = true
	a.certain(it)
	delete(a.items, it.sku)
	a.forgotten++
	if a.forgotten > 64 && a.forgotten > len(a.ring)/2 {
		kept := a.ring[:0]
		for _, x := range a.ring {
			if !x.gone {
				kept = append(kept, x)
			}
		}
		clear(a.ring[len(kept):])
		a.ring, a.forgotten, a.cursor = kept, 0, 0
	}
}

func (a *account) settle(p *partition, seq int64) {
	if seq >= 0 {
		p.done(seq)
	}
}

// partition finds the account's view of a partition. settled is the group's committed offset.
func (a *account) partition(topic string, id int32, settled int64) *partition {
	p := a.parts[id]
	if p == nil {
		p = &partition{topic: topic, id: id, settled: settled, next: settled, stored: settled}
		a.parts[id] = p
	}
	return p
}

// offer takes a consumed target. The caller holds mu, and nudges when it is through.
func (a *account) offer(p *partition, offset int64, sku, external string, t target) {
	p.next = max(p.next, offset+1)
	it := a.items[sku]
	if it != nil && t.older(&it.target) {
		a.stats.Superseded++
		return
	}
	seq := p.add(offset)
	if offset < p.settled || a.ignoring {
		a.remember(p, it, sku, external, t)
		p.done(seq)
		return
	}
	if it == nil {
		it = a.create(p, sku, external)
	} else if !it.dirty && it.place == resting && !t.older(&it.target) && !it.target.older(&t) && it.target.quantity == t.quantity && it.target.withdrawn == t.withdrawn {
		p.done(seq) // the same target again
		return
	}
	if it.external != external {
		it.external, it.known = external, false
	}
	if it.dirty {
		a.stats.Superseded++
		a.settle(p, it.seq)
		if it.place != underWay {
			t.oldest = earliest(t.oldest, it.target.oldest)
		}
	}
	// A target may stand for many events: the oldest decides.
	if it.known && it.readAt > 0 && earliest(t.oldest, t.received) <= it.readAt+a.cfg.DriftGrace.Microseconds() {
		// Sold before the number was read or set, as far as anyone can say: it did not fall for these units.
		// If it did, the channel now shows too little, so that it is looked at once no doubt is left. What it put back itself it may have had then, too.
		if t.sold != it.basis {
			it.basis, it.exact = max(t.sold, it.basis), false
			a.doubt(it)
		}
	}
	it.target, it.seq, it.suspectSet = t, seq, false
	switch it.place {
	case resting:
		a.queue(it)
	case ready:
		it.changes++
		a.ready.fix(it)
	default:
		it.dirty = true
		it.changes++
		if !it.listed {
			it.since = time.Now()
			a.byAge.add(it)
		}
	}
}

// doubt has a SKU looked at when the sales that nobody can place must all be in.
func (a *account) doubt(it *item) {
	if it.doubtful || a.wire == nil || !a.caps.ReadBack || a.operation() == catalog.Absolute { // which sets the number whatever it was
		return
	}
	it.doubtful = true
	a.doubtful++
	if it.lookAt.IsZero() {
		it.lookAt = time.Now().Add(a.cfg.DriftGrace)
		a.looks = append(a.looks, it)
		a.nudge()
	}
}

func (a *account) certain(it *item) {
	if it.doubtful {
		it.doubtful = false
		a.doubtful--
	}
}

func (a *account) create(p *partition, sku, external string) *item {
	it := &item{sku: sku, external: external, part: p, seq: -1}
	a.items[sku] = it
	a.ring = append(a.ring, it)
	return it
}

// remember keeps a target that needs no write.
func (a *account) remember(p *partition, it *item, sku, external string, t target) {
	if it == nil {
		if t.withdrawn {
			return
		}
		it = a.create(p, sku, external)
	}
	if it.dirty {
		return // a newer one is on its way
	}
	it.target, it.external = t, external
	it.changes++
	if t.withdrawn {
		a.forget(it)
	}
}

// removed handles a record without a value: nobody wants the SKU's target any more.
func (a *account) removed(p *partition, offset int64, sku string) {
	p.next = max(p.next, offset+1)
	if it := a.items[sku]; it != nil && !it.dirty && it.place == resting {
		a.forget(it)
	}
}

func earliest(x, y int64) int64 {
	if x == 0 || (y != 0 && y < x) {
		return y
	}
	return x
}

// revoke gives a partition up: nothing of it is sent from now on.
func (a *account) revoke(id int32) *partition {
	p := a.parts[id]
	if p == nil {
		return nil
	}
	for _, it := range a.items {
		if it.part == p {
			a.forget(it)
		}
	}
	p.gone = true
	delete(a.parts, id)
	return p
}
