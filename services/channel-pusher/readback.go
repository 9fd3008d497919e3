package channelpusher

import (
	"fmt"
	"strconv"
	"time"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// finishRead takes what the channel shows of items that wait for it.
func (a *account) finishRead(j *job, got []adapter.Shown) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaker.RecordSuccess()
	var out []outcome
	var settled []openSeq
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		if it.gone {
			continue
		}
		if i >= len(got) || !got[i].Known {
			it.failures++
			a.stats.Retries++
			it.uncertain = true // ask again before writing
			a.postpone(it, now.Add(backoff(it.failures)))
			continue
		}
		it.known, it.exact, it.shown, it.basis, it.readAt, it.expectedSet = true, false, got[i].Quantity, it.target.sold, now.UnixMicro(), false
		if !got[i].Listed {
			it.readAt = 0 // what was not there sold nothing before
		}
		if it.uncertain {
			it.uncertain = false
			it.lookAt = now.Add(max(2*a.timeout, a.cfg.DriftGrace)) // a late write may still land
			a.looks = append(a.looks, it)
		}
		if !it.dirty {
			continue
		}
		if it.lastID != "" && got[i].Quantity == a.want(&it.target) {
			it.sent, it.op.id, it.op.asked = it.target, it.lastID, got[i].Quantity
			res := a.result(it, write.Applied, "", "", now.UnixMicro())
			res.Shown, res.ShownKnown = event.Units(got[i].Quantity), true
			a.stats.Applied++
			a.synced(it, now.UnixMicro())
			out = append(out, outcome{res: res})
			settled = append(settled, openSeq{it.part, it.seq})
			it.lastID = ""
			a.rest(it, false)
			continue
		}
		it.lastID = ""
		if a.ignoring {
			a.settle(it.part, it.seq)
			a.clean(it)
			continue
		}
		a.makeReady(it)
	}
	a.recent.add(out)
	a.report(out, settled)
}

// sampleDue says whether there is something to look at: SKUs to look at again at their time, others in turn while the channel is idle.
func (a *account) sampleDue(now time.Time) bool {
	if !a.caps.ReadBack {
		return false
	}
	for len(a.looks) > 0 && a.looks[0].gone {
		a.looks = a.looks[1:]
	}
	return (len(a.looks) > 0 && !a.looks[0].lookAt.After(now)) ||
		(a.cfg.DriftSample > 0 && len(a.items) > 0 && a.idle() && !a.nextSample.After(now))
}

// takeSample picks SKUs to compare with what the channel shows: those to look at again, and the next few in turn.
func (a *account) takeSample(j *job, now time.Time) {
	j.kind = sampling
	pick := func(it *item) bool {
		if it.gone || it.dirty || it.place != resting {
			return false
		}
		j.items = append(j.items, it)
		j.ids = append(j.ids, it.external)
		j.changes = append(j.changes, it.changes)
		return true
	}
	for n := len(a.looks); n > 0 && len(j.items) < readBatch && !a.looks[0].lookAt.After(now); n-- {
		it := a.looks[0]
		a.looks = a.looks[1:]
		if !pick(it) && !it.gone {
			it.lookAt = now.Add(a.cfg.DriftGrace)
			a.looks = append(a.looks, it)
		}
	}
	if a.cfg.DriftSample > 0 && a.idle() && !a.nextSample.After(now) {
		a.nextSample = now.Add(a.cfg.DriftEvery)
		for range min(a.cfg.DriftSample, len(a.ring)) {
			if a.cursor >= len(a.ring) {
				a.cursor = 0
			}
			pick(a.ring[a.cursor])
			a.cursor++
		}
	}
}

// finishSample compares what the channel shows with the targets. A difference counts as drift when a second look, a grace later, finds the same
// and nothing happened in between: a sale that is still on its way to the ledger looks like drift at first.
func (a *account) finishSample(j *job, got []adapter.Shown) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaker.RecordSuccess()
	for i, it := range j.items {
		if it.gone || it.dirty || it.changes != j.changes[i] || i >= len(got) || !got[i].Known {
			if !it.gone && !it.lookAt.IsZero() { // the look that was due tells nothing
				it.lookAt = now.Add(a.cfg.DriftGrace)
				a.looks = append(a.looks, it)
			}
			continue
		}
		a.stats.Sampled++
		it.lookAt = time.Time{}
		want := a.want(&it.target)
		if got[i].Quantity == want {
			it.suspectSet = false
			a.certain(it)
			if !it.known {
				it.known, it.exact, it.shown, it.basis, it.readAt = true, false, want, it.target.sold, now.UnixMicro()
			}
			continue
		}
		if !it.suspectSet || it.suspect != got[i].Quantity {
			it.suspect, it.suspectSet = got[i].Quantity, true
			it.lookAt = now.Add(a.cfg.DriftGrace)
			a.looks = append(a.looks, it)
			continue
		}
		if it.doubtful { // of our own making: nobody edited anything
			a.certain(it)
			a.repair(it, got[i].Quantity, now)
			continue
		}
		a.stats.Drift++
		a.out.alert(alert.Alert{
			ID:  "drift/" + a.id + "/" + it.sku + "/" + strconv.FormatInt(it.target.levelVersion, 10) + "/" + strconv.FormatInt(it.target.settingsVersion, 10) + "/" + strconv.FormatInt(got[i].Quantity, 10),
			SKU: it.sku, Channel: a.id, Kind: alert.Drift, Units: event.Units(got[i].Quantity - want), Cause: it.op.id,
			Message: fmt.Sprintf("%s shows %d of %s and should show %d; it is being set right. Look for edits at the channel itself.", a.id, got[i].Quantity, it.sku, want),
			At:      now.UnixMicro(), RaisedBy: service,
		})
		a.repair(it, got[i].Quantity, now)
	}
}

// repair writes a SKU of which the channel was found to show something else.
func (a *account) repair(it *item, shown int64, now time.Time) {
	it.suspectSet = false
	it.known, it.exact, it.shown, it.basis, it.readAt = true, false, shown, it.target.sold, now.UnixMicro()
	it.target.oldest = 0 // no event behind this write: it has no latency
	it.target.span = nil
	a.queue(it)
}
