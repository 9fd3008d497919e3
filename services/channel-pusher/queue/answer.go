package queue

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// AnswerWrite takes the answers to a request that writes, one for each item in order, or why it failed as a whole.
func (q *Queue) AnswerWrite(j *Request, results []adapter.ItemResult, err error, now time.Time) {
	q.inFlight--
	if err != nil {
		q.failed(j, err, now)
		return
	}
	q.breaker.back(false, now)
	q.lastErr = ""
	q.report.Results = slices.Grow(q.report.Results, len(j.items))
	q.report.settled = slices.Grow(q.report.settled, len(j.items))
	var busy time.Duration
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		var r adapter.ItemResult
		if i < len(results) {
			r = results[i]
		}
		if r.Verdict == adapter.Busy && busy == 0 {
			busy = q.backoff(it.failures + 1)
		}
		if it.grant != nil && it.grant.ahead {
			if r.Verdict == adapter.Busy {
				q.aheadAgain(it, now.Add(busy), now)
			} else {
				q.ran(it, r.Verdict != adapter.Applied && r.Verdict != adapter.Refused && r.Verdict != adapter.Stale, now)
			}
			continue
		}
		if it.grant != nil {
			q.answerGrant(j, i, &r, now.Add(busy), now)
			continue
		}
		q.answerItem(j, i, &r, now.Add(busy), now)
	}
}

// problem notes what kept an item from being applied, for its trace.
func (j *Request) problem(i int, what string) {
	if j.Problems != nil {
		j.Problems[i] = what
	}
}

// answerGrant takes the answer to a granted write.
func (q *Queue) answerGrant(j *Request, i int, r *adapter.ItemResult, busyUntil, now time.Time) {
	it := j.items[i]
	var shown *int64
	if r.ShownKnown {
		shown = &r.Shown
	}
	switch r.Verdict {
	case adapter.Applied:
		q.stats.Applied++
		q.synced(it, now.UnixMicro())
		q.closeWith(it, write.Applied, "", "", now.UnixMicro(), shown, j, i, now)
	case adapter.Refused:
		q.stats.Refused++
		j.problem(i, r.Code)
		q.closeWith(it, write.Refused, r.Code, r.Detail, now.UnixMicro(), shown, j, i, now)
	case adapter.Stale:
		q.stats.Refused++
		j.problem(i, "stale")
		q.closeWith(it, write.Refused, "stale", r.Detail, now.UnixMicro(), shown, j, i, now)
	case adapter.Busy:
		j.problem(i, r.Code)
		it.grant.left = true
		q.sendAgain(it, busyUntil, now)
	default:
		j.problem(i, "unknown")
		q.wonder(it, "no_answer", "the channel's answer says nothing of this item", j, i, now, now.Add(q.late))
	}
}

// answerItem takes the answer to a write in pooled mode.
func (q *Queue) answerItem(j *Request, i int, r *adapter.ItemResult, busyUntil, now time.Time) {
	it, acked := j.items[i], now.UnixMicro()
	newer := it.seq != it.sentSeq
	var res write.Result
	switch r.Verdict {
	case adapter.Applied:
		res = q.result(it, write.Applied, "", "", acked)
		q.stats.Applied++
		q.synced(it, acked)
		if it.op.kind == catalog.Absolute || it.op.anchored {
			it.readAt, it.exact = acked, true
		}
		it.known, it.shown, it.basis = true, it.op.asked, it.sent.sold
	case adapter.Refused:
		res = q.result(it, write.Refused, r.Code, r.Detail, acked)
		q.stats.Refused++
		j.problem(i, r.Code)
		it.known = false
	case adapter.Stale:
		q.stats.Retries++
		j.problem(i, "stale")
		it.stale++
		if newer {
			it.target.oldest = earliest(it.target.oldest, it.sent.oldest)
		}
		it.expected, it.expectedSet = r.Shown, r.ShownKnown
		if !r.ShownKnown {
			it.known = false
		}
		switch {
		case it.gone:
		case it.stale > staleAtOnce && it.target.write == nil:
			it.failures++
			q.postpone(it, now.Add(q.backoff(it.failures)), now)
		default:
			q.begin(it, now)
		}
		return
	case adapter.Busy:
		q.stats.Retries++
		j.problem(i, r.Code)
		q.retry(it, busyUntil, now)
		return
	default:
		j.problem(i, "unknown")
		q.unknown(it, "no_answer", "the channel's answer says nothing of this item", j, i, now)
		return
	}
	if r.ShownKnown {
		res.Shown, res.ShownKnown, res.ShownAt = event.Units(r.Shown), true, now.UnixMicro()
	}
	it.expectedSet, it.stale, it.failures, it.most = false, 0, 0, 0
	q.tell(res, j, i)
	q.settles(it.part, it.sentSeq)
	q.rest(it, newer, now)
}

// synced counts the time from the receipt of the oldest event behind a write to the channel's answer, when there is one.
func (q *Queue) synced(it *item, acked int64) {
	if it.sent.oldest > 0 {
		_ = q.latency.RecordValue(min(max(acked-it.sent.oldest, 1), MaxLatency)) // within bounds by construction
	}
}

// rest ends an item's write: it is clean, or its newer target is next.
func (q *Queue) rest(it *item, newer bool, now time.Time) {
	it.changes++
	switch {
	case it.gone:
	case newer:
		it.attempts = 0
		it.since = now
		q.byAge.remove(it)
		q.byAge.add(it)
		q.begin(it, now)
	default:
		q.clean(it, now)
	}
}

// retry puts an item that was certainly not applied back into the queue.
func (q *Queue) retry(it *item, at, now time.Time) {
	if it.seq != it.sentSeq {
		it.target.oldest = earliest(it.target.oldest, it.sent.oldest)
	}
	it.failures++
	if !it.gone {
		q.postpone(it, at, now)
	}
}

// postpone lets an item wait in pooled mode; the granted write of a newer target begins.
func (q *Queue) postpone(it *item, at, now time.Time) {
	if q.ignoring || it.target.write != nil {
		q.begin(it, now)
		return
	}
	q.delay(it, at)
}

// unknown tells of a write in pooled mode whose outcome nobody told, to be read back before anything else is written for the SKU.
func (q *Queue) unknown(it *item, code, detail string, j *Request, i int, now time.Time) {
	q.stats.Unknown++
	q.stats.Retries++
	q.tell(q.result(it, write.Unknown, code, detail, 0), j, i)
	it.known, it.expectedSet = false, false
	it.clear(now.Add(q.late))
	if q.caps.ReadBack {
		it.uncertain, it.lastID = true, it.op.id
	}
	q.retry(it, now.Add(q.backoff(it.failures+1)), now)
}

// failed deals with a request that failed as a whole.
func (q *Queue) failed(j *Request, err error, now time.Time) {
	ce := &adapter.CallError{Kind: adapter.Uncertain, Err: err}
	_ = errors.As(err, &ce) // any other error is uncertain
	halve := ce.Kind == adapter.Malformed && len(j.items) > 1 && j.kind == writing
	q.lastErr = ce.Error()
	switch ce.Kind {
	case adapter.Throttled, adapter.Malformed:
		q.breaker.back(false, now)
	default:
		q.breaker.back(true, now)
		q.stats.Failures++
	}
	failures := 0
	for _, it := range j.items {
		failures = max(failures, it.failures)
	}
	at := now
	if !halve {
		at = now.Add(q.backoff(failures + 1))
	}
	if ce.Kind == adapter.Throttled {
		q.stats.Throttled++
	}
	if ce.RetryAfter > 0 && (ce.Kind == adapter.Throttled || ce.Kind == adapter.Unavailable) {
		at = now.Add(ce.RetryAfter)
		if at.After(q.pauseUntil) {
			q.pauseUntil = at
		}
	} else if ce.Kind == adapter.Throttled && at.After(q.pauseUntil) {
		q.pauseUntil = at
	}
	if j.kind == sampling {
		for _, it := range j.items {
			if it.suspectSet || !it.lookAt.IsZero() {
				it.lookAt = now.Add(q.cfg.DriftGrace)
				q.looks = append(q.looks, it)
			}
		}
		return
	}
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		switch {
		case it.grant != nil && it.grant.ahead && j.kind == writing:
			j.problem(i, ce.Kind.String())
			if ce.Kind == adapter.Uncertain || ce.Kind == adapter.Malformed {
				q.ran(it, ce.Kind == adapter.Uncertain, now)
			} else {
				q.aheadAgain(it, at, now)
			}
		case halve:
			j.problem(i, ce.Kind.String())
			q.halve(it, len(j.items), now)
		case j.kind == reading:
			it.failures++
			q.stats.Retries++
			q.readAgain(it, at, now)
		case ce.Kind == adapter.Uncertain && it.grant != nil:
			j.problem(i, "unknown")
			q.wonder(it, ce.Kind.String(), ce.Error(), j, i, now, now.Add(q.late))
		case ce.Kind == adapter.Uncertain:
			j.problem(i, "unknown")
			q.unknown(it, ce.Kind.String(), ce.Error(), j, i, now)
		case ce.Kind == adapter.Malformed:
			j.problem(i, "malformed")
			q.stats.Refused++
			if it.grant != nil {
				q.closeWith(it, write.Refused, "malformed", ce.Error(), now.UnixMicro(), nil, j, i, now)
				continue
			}
			q.tell(q.result(it, write.Refused, "malformed", ce.Error(), now.UnixMicro()), j, i)
			q.settles(it.part, it.sentSeq)
			q.rest(it, it.seq != it.sentSeq, now)
		case it.grant != nil:
			j.problem(i, ce.Kind.String())
			it.grant.left = it.grant.left || ce.Kind != adapter.NotSent
			q.sendAgain(it, at, now)
		default:
			j.problem(i, ce.Kind.String())
			q.stats.Retries++
			q.retry(it, at, now)
		}
	}
}

// halve has an item of a malformed request sent again in smaller ones, until the bad item stands alone: it must not stop the others.
func (q *Queue) halve(it *item, n int, now time.Time) {
	it.most = (n + 1) / 2
	switch {
	case it.gone:
	case it.grant != nil:
		it.grant.left = true
		if q.ignoring || q.paused() {
			q.sendAgain(it, now, now)
			return
		}
		q.makeReady(it, now)
	default:
		if it.seq != it.sentSeq {
			it.target.oldest = earliest(it.target.oldest, it.sent.oldest)
		}
		q.begin(it, now)
	}
}

// readAgain has an item read once more.
func (q *Queue) readAgain(it *item, at, now time.Time) {
	switch {
	case it.gone:
	case it.grant == nil:
		q.postpone(it, at, now)
	case !it.grant.doubt:
		it.grant.left = true
		q.sendAgain(it, at, now)
	case q.ignoring:
		q.surmise(it, nil, now)
	default:
		q.delay(it, at)
	}
}

// backoff is exponential with full jitter.
func (q *Queue) backoff(failures int) time.Duration {
	d := lastBackoff
	if failures < 9 {
		d = min(lastBackoff, firstBackoff<<(failures-1))
	}
	return time.Millisecond + time.Duration(q.rng.Int64N(int64(d)))
}

// AnswerRead takes what the channel shows of a request's IDs, one for each in order, or why it failed as a whole.
func (q *Queue) AnswerRead(j *Request, got []adapter.Shown, err error, now time.Time) {
	q.inFlight--
	switch {
	case err != nil:
		q.failed(j, err, now)
	case j.kind == sampling:
		q.breaker.back(false, now)
		q.finishSample(j, got, now)
	default:
		q.breaker.back(false, now)
		for i, it := range j.items {
			it.part.underWay--
			it.place = resting
			var s adapter.Shown
			if i < len(got) {
				s = got[i]
			}
			q.finishRead(j, i, &s, now)
		}
	}
}

// finishRead takes what the channel shows of an item that waits for it.
func (q *Queue) finishRead(j *Request, i int, s *adapter.Shown, now time.Time) {
	it := j.items[i]
	if it.gone {
		return
	}
	if !s.Known {
		it.failures++
		q.stats.Retries++
		it.uncertain = it.grant == nil // ask again before writing
		q.readAgain(it, now.Add(q.backoff(it.failures)), now)
		return
	}
	if g := it.grant; g != nil {
		if g.doubt {
			q.surmise(it, &s.Quantity, now)
			return
		}
		q.stats.Applied++
		q.closeWith(it, write.Applied, "", "", now.UnixMicro(), &s.Quantity, j, i, now)
		return
	}
	it.known, it.exact, it.shown, it.basis, it.readAt, it.expectedSet = true, false, s.Quantity, it.target.sold, now.UnixMicro(), false
	if !s.Listed {
		it.readAt = 0 // what was not there sold nothing before
	}
	if it.uncertain {
		it.uncertain = false
		it.lookAt = now.Add(max(q.late, q.cfg.DriftGrace)) // a late write may still land
		q.looks = append(q.looks, it)
	}
	if !it.dirty {
		return
	}
	if it.lastID != "" && it.target.write == nil && s.Quantity == q.want(&it.target) {
		it.sent, it.op.id, it.op.asked = it.target, it.lastID, s.Quantity
		res := q.result(it, write.Applied, "", "", now.UnixMicro())
		res.Shown, res.ShownKnown, res.ShownAt = event.Units(s.Quantity), true, now.UnixMicro()
		q.stats.Applied++
		q.synced(it, now.UnixMicro())
		q.tell(res, nil, 0)
		q.settles(it.part, it.seq)
		it.lastID = ""
		q.rest(it, false, now)
		return
	}
	it.lastID = ""
	q.begin(it, now)
}

// sampleDue says whether there is something to look at: SKUs to look at again at their time, others in turn while the channel is idle.
func (q *Queue) sampleDue(now time.Time) bool {
	if !q.caps.ReadBack {
		return false
	}
	for len(q.looks) > 0 && q.looks[0].gone {
		q.looks = q.looks[1:]
	}
	return (len(q.looks) > 0 && !q.looks[0].lookAt.After(now)) ||
		(q.cfg.DriftSample > 0 && len(q.items) > 0 && q.idle() && !q.nextSample.After(now))
}

// takeSample picks SKUs to compare with what the channel shows: those to look at again, and the next few in turn. What is under books is not compared: it
// shows less than its quantity whenever it has sold.
func (q *Queue) takeSample(j *Request, now time.Time) {
	j.kind = sampling
	pick := func(it *item) bool {
		if it.gone || it.dirty || it.place != resting || it.target.write != nil {
			return false
		}
		j.items = append(j.items, it)
		j.IDs = append(j.IDs, it.external)
		j.changes = append(j.changes, it.changes)
		return true
	}
	for n := len(q.looks); n > 0 && len(j.items) < ReadBatch && !q.looks[0].lookAt.After(now); n-- {
		it := q.looks[0]
		q.looks = q.looks[1:]
		switch {
		case it.gone || pick(it):
		case it.target.write != nil:
			it.lookAt = time.Time{}
		default:
			it.lookAt = now.Add(q.cfg.DriftGrace)
			q.looks = append(q.looks, it)
		}
	}
	if q.cfg.DriftSample > 0 && q.idle() && !q.nextSample.After(now) {
		q.nextSample = now.Add(q.cfg.DriftEvery)
		for range min(q.cfg.DriftSample, len(q.ring)) {
			if q.cursor >= len(q.ring) {
				q.cursor = 0
			}
			pick(q.ring[q.cursor])
			q.cursor++
		}
	}
}

// finishSample compares what the channel shows with the targets. A difference counts as drift when a second look, a grace later, finds the same
// and nothing happened in between: a sale that is still on its way to the ledger looks like drift at first.
func (q *Queue) finishSample(j *Request, got []adapter.Shown, now time.Time) {
	for i, it := range j.items {
		if it.gone || it.dirty || it.changes != j.changes[i] || i >= len(got) || !got[i].Known {
			if !it.gone && !it.lookAt.IsZero() { // the look that was due tells nothing
				it.lookAt = now.Add(q.cfg.DriftGrace)
				q.looks = append(q.looks, it)
			}
			continue
		}
		q.stats.Sampled++
		it.lookAt = time.Time{}
		want := q.want(&it.target)
		if got[i].Quantity == want {
			it.suspectSet = false
			q.certain(it)
			if !it.known {
				it.known, it.exact, it.shown, it.basis, it.readAt = true, false, want, it.target.sold, now.UnixMicro()
			}
			continue
		}
		if !it.suspectSet || it.suspect != got[i].Quantity {
			it.suspect, it.suspectSet = got[i].Quantity, true
			it.lookAt = now.Add(q.cfg.DriftGrace)
			q.looks = append(q.looks, it)
			continue
		}
		if it.doubtful { // of our own making: nobody edited anything
			q.certain(it)
			q.stats.Cleared++
			q.repair(it, got[i].Quantity, now)
			continue
		}
		q.stats.Drift++
		q.alert(alert.Alert{
			ID:  "drift/" + q.id + "/" + it.sku + "/" + strconv.FormatInt(it.target.levelVersion, 10) + "/" + strconv.FormatInt(it.target.settingsVersion, 10) + "/" + strconv.FormatInt(got[i].Quantity, 10),
			SKU: it.sku, Channel: q.id, Kind: alert.Drift, Units: event.Units(got[i].Quantity - want), Cause: it.op.id,
			Message: fmt.Sprintf("%s shows %d of %s and should show %d; it is being set right. Look for edits at the channel itself.", q.id, got[i].Quantity, it.sku, want),
			At:      now.UnixMicro(), RaisedBy: q.cfg.Service,
		})
		q.repair(it, got[i].Quantity, now)
	}
}

// repair writes a SKU of which the channel was found to show something else.
func (q *Queue) repair(it *item, shown int64, now time.Time) {
	it.suspectSet = false
	it.known, it.exact, it.shown, it.basis, it.readAt = true, false, shown, it.target.sold, now.UnixMicro()
	it.target.oldest = 0 // no event behind this write: it has no latency
	it.target.span = nil
	q.start(it, now)
}
