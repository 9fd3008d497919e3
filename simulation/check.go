package simulation

import (
	"fmt"

	"github.com/onhand/onhand/stock/escrow"
)

// slack is what is available less what is exposed.
func slack(b *escrow.SKU) int64 { return int64(b.Available() - b.Exposed()) }

// owes allows for what the books could not foresee: units that a count took, until decreases have made up for them; and units of a cancelled order that a
// channel has put on sale again, when it tells of them or sells them before anybody has heard of the cancellation, which will make as many available.
func (w *world) owes(i int, took int64) {
	if b := w.books(i); b.Phase() == escrow.Strict {
		x := &w.accounts[i]
		x.debt = min(x.debt+took+w.unheard(i), max(0, -slack(b)-x.ahead))
	}
}

// unheard is units that channels put on sale again and the books have not taken in.
func (w *world) unheard(i int) (n int64) {
	for ch := range w.markets {
		n += int64(w.markets[ch].cells[i].restored) - w.accounts[i].seen[ch].restored
	}
	w.ofBundles(i, func(at int, k *kit, q int64) {
		_, done := w.atBundle(k, q)
		n += done.restored - w.accounts[i].seen[len(w.markets)+at].restored
	})
	return n
}

// verify checks the promise of a SKU after something happened to it at a channel.
func (w *world) verify(i int) {
	if w.cfg.Check && len(w.parts) > 0 && !w.down[allocator] {
		w.verifyBooks(i)
	}
}

// verifySold checks the promise of a SKU, and of what it is made of, after something was sold of it or put back.
func (w *world) verifySold(sku uint16) {
	w.verify(int(sku))
	if w.sc.kitOf(sku) >= 0 {
		for _, p := range w.sc.makes[sku] {
			w.verify(int(p.sku))
		}
	}
}

// verifyBooks holds the books of a SKU against the truth: no channel can still report more than its exposure, and all exposure together is
// no more than there is, but for what a count took.
func (w *world) verifyBooks(i int) {
	b, x := w.books(i), &w.accounts[i]
	if b == nil || b.Phase() != escrow.Strict || !b.Guarded() {
		return
	}
	bundle := w.sc.kitOf(uint16(i)) >= 0 // what is available of it follows from its components, and so does whether that is kept
	slack := slack(b) + x.ahead
	x.debt = min(x.debt, max(0, -slack))
	if w.mode == Strict && !bundle {
		w.res.slack = min(w.res.slack, slack+x.debt)
	}
	if !w.cfg.Check {
		return
	}
	w.res.Checks++
	if w.mode == Strict && !bundle && slack+x.debt < 0 {
		w.fail("%s: %d are exposed and %d available, and counts explain no more than %d of that", w.skuNames[i], b.Exposed(), b.Available(), x.debt)
		return
	}
	var sum int64 // what all channels can still report, less what they put back and did not report
	for ch := range w.markets {
		v, ok := b.View(w.names[ch])
		if !ok || !v.Known {
			continue
		}
		if w.markets[ch].kind == claiming { // the ledger took what it sold out of both, and exposure is what is left
			sum += int64(v.Exposure)
			continue
		}
		c := &w.markets[ch].cells[i]
		unseen := int64(c.sold) - x.seen[ch].sold
		back := int64(c.restored) - x.seen[ch].restored
		could := int64(max(0, c.shown)) + unseen - back
		sum += could
		if could > int64(v.Exposure) {
			w.fail("%s at %s (%s) could still report %d (shows %d, sold %d that are not seen, put back %d that are not) and its exposure is %d: %+v",
				w.skuNames[i], w.names[ch], kindNames[w.markets[ch].kind], could, c.shown, unseen, back, v.Exposure, v)
			return
		}
	}
	w.ofBundles(i, func(at int, k *kit, q int64) {
		v, ok := b.View(w.names[len(w.markets)+at])
		if !ok || !v.Known {
			return
		}
		shown, done := w.atBundle(k, q)
		seen := x.seen[len(w.markets)+at]
		could := shown + done.sold - seen.sold - (done.restored - seen.restored)
		sum += could
		if could > int64(v.Exposure) {
			w.fail("%s could still take %d of %s (shown are %d, sold and not seen %d, put back and not seen %d) and its exposure is %d: %+v",
				w.skuNames[k.sku], could, w.skuNames[i], shown, done.sold-seen.sold, done.restored-seen.restored, v.Exposure, v)
		}
	})
	if w.mode == Strict && !bundle && sum > int64(b.Available())+x.debt+x.ahead {
		w.fail("%s: channels could still report %d of %d available", w.skuNames[i], sum, b.Available())
	}
}

// trail is what happened last.
func (w *world) trail() (out []string) {
	n := min(w.seen, uint64(len(w.tail)))
	for i := w.seen - n; i < w.seen; i++ {
		h := &w.tail[i%uint64(len(w.tail))]
		name := "?"
		if int(h.kind) < len(happenings) {
			name = happenings[h.kind]
		}
		out = append(out, fmt.Sprintf("%.6f s %s a=%d b=%d c=%d", float64(h.at-begin)/1e6, name, h.a, h.b, h.c))
	}
	for _, a := range w.alerts {
		out = append(out, "alert "+a)
	}
	return out
}
