package channelpusher

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// perform sends one request and deals with the answer.
func (a *account) perform(j *job) {
	a.exchange(j)
	a.mu.Lock()
	a.inFlight--
	a.mu.Unlock()
	a.nudge()
}

func (a *account) exchange(j *job) {
	ctx, cancel := context.WithTimeout(a.flights, j.timeout)
	defer cancel()
	for _, s := range j.spans {
		if s != nil {
			ctx = trace.ContextWithSpan(ctx, s) // one request carries one of its items' traces
			break
		}
	}
	if j.secret != "" {
		token, err := a.secret(j.secret)
		if err != nil {
			a.failed(j, &adapter.CallError{Kind: adapter.Denied, Detail: "token of the channel", Err: err})
			return
		}
		j.to.Token = token
	}
	if j.kind != writing {
		got, err := j.adapter.Read(ctx, j.to, j.ids, make([]adapter.Shown, 0, len(j.ids)))
		switch {
		case err != nil:
			a.failed(j, err)
		case j.kind == reading:
			a.finishRead(j, got)
		default:
			a.finishSample(j, got)
		}
		return
	}
	results, err := j.adapter.Write(ctx, j.to, j.key, j.wire, make([]adapter.ItemResult, 0, len(j.wire)))
	var ce *adapter.CallError
	if len(j.items) > 1 && errors.As(err, &ce) && ce.Kind == adapter.Malformed {
		// One bad item must not stop the others: halve until it stands alone.
		half := len(j.items) / 2
		for i, part := range []job{
			{items: j.items[:half], wire: j.wire[:half]}, {items: j.items[half:], wire: j.wire[half:]},
		} {
			part.kind, part.adapter, part.to, part.secret, part.timeout, part.started = writing, j.adapter, j.to, j.secret, j.timeout, j.started
			part.key = j.key + "." + strconv.Itoa(i)
			if j.spans != nil {
				part.spans = j.spans[i*half : i*half+len(part.items)]
			}
			_ = a.limiter.Wait(a.flights) // fails only when requests are to be given up, as the next one then will
			a.exchange(&part)
		}
		return
	}
	if err != nil {
		a.failed(j, err)
		return
	}
	a.finishWrite(j, results)
}

// finishWrite takes the channel's answers.
func (a *account) finishWrite(j *job, results []adapter.ItemResult) {
	now := time.Now()
	acked := now.UnixMicro()
	out := make([]outcome, 0, len(j.items))
	settled := make([]openSeq, 0, len(j.items))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaker.RecordSuccess()
	a.lastErr = ""
	var busy time.Duration
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		var r adapter.ItemResult
		if i < len(results) {
			r = results[i]
		}
		newer := it.seq != it.sentSeq
		var res write.Result
		switch r.Verdict {
		case adapter.Applied:
			res = a.result(it, write.Applied, "", "", acked)
			a.stats.Applied++
			a.synced(it, acked)
			if it.op.kind == catalog.Absolute || it.op.anchored {
				it.readAt, it.exact = acked, true
			}
			it.known, it.shown, it.basis = true, it.op.asked, it.sent.sold
		case adapter.Refused:
			res = a.result(it, write.Refused, r.Code, r.Detail, acked)
			a.stats.Refused++
			it.known = false
		case adapter.Stale:
			a.stats.Retries++
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
			case it.stale > staleAtOnce:
				it.failures++
				a.postpone(it, now.Add(backoff(it.failures)))
			default:
				a.makeReady(it)
			}
			a.endSpan(j, i, "stale")
			continue
		case adapter.Busy:
			if busy == 0 {
				busy = backoff(it.failures + 1)
			}
			a.stats.Retries++
			a.retry(it, now.Add(busy))
			a.endSpan(j, i, r.Code)
			continue
		default:
			res = a.unknown(it, "no_answer", "the channel's answer says nothing of this item", now)
			out = append(out, outcome{res, a.endSpan(j, i, "unknown")})
			continue
		}
		res.Shown, res.ShownKnown = event.Units(r.Shown), r.ShownKnown
		it.expectedSet, it.stale, it.failures = false, 0, 0
		out = append(out, outcome{res, a.endSpan(j, i, res.ErrorCode)})
		settled = append(settled, openSeq{it.part, it.sentSeq})
		a.rest(it, newer)
	}
	a.recent.add(out)
	a.report(out, settled)
}

// synced counts the time from the receipt of the oldest event behind a write to the channel's answer, when there is one. The caller holds mu.
func (a *account) synced(it *item, acked int64) {
	if it.sent.oldest <= 0 {
		return
	}
	us := min(max(acked-it.sent.oldest, 1), maxLatency)
	_ = a.latency.RecordValue(us) // within bounds by construction
	if a.syncLatency != nil {
		a.syncLatency.Record(context.Background(), float64(us)/1e6, a.measured)
	}
}

// rest ends an item's write: it is clean, or its newer target is next.
func (a *account) rest(it *item, newer bool) {
	it.changes++
	switch {
	case it.gone:
	case newer:
		it.attempts = 0
		it.since = time.Now()
		a.byAge.remove(it)
		a.byAge.add(it)
		if a.ignoring {
			a.settle(it.part, it.seq)
			a.clean(it)
			return
		}
		a.makeReady(it)
	default:
		a.clean(it)
	}
}

// retry puts an item that was certainly not applied back into the queue.
func (a *account) retry(it *item, at time.Time) {
	if it.seq != it.sentSeq {
		it.target.oldest = earliest(it.target.oldest, it.sent.oldest)
	}
	it.failures++
	if !it.gone {
		a.postpone(it, at)
	}
}

func (a *account) postpone(it *item, at time.Time) {
	if a.ignoring {
		a.settle(it.part, it.seq)
		a.clean(it)
		return
	}
	it.place, it.notBefore = delayed, at
	a.later.push(it)
}

// unknown marks a write whose outcome nobody told, to be read back before anything else is written for the SKU.
func (a *account) unknown(it *item, code, detail string, now time.Time) write.Result {
	res := a.result(it, write.Unknown, code, detail, 0)
	a.stats.Unknown++
	a.stats.Retries++
	it.known, it.expectedSet = false, false
	if a.caps.ReadBack {
		it.uncertain, it.lastID = true, it.op.id
	}
	a.retry(it, now.Add(backoff(it.failures+1)))
	return res
}

func (a *account) endSpan(j *job, i int, problem string) trace.SpanContext {
	if j.spans == nil || j.spans[i] == nil {
		return trace.SpanContext{}
	}
	s := j.spans[i]
	if problem != "" {
		s.SetAttributes(attribute.String("onhand.problem", problem))
	}
	s.End()
	return s.SpanContext()
}

// failed deals with a request that failed as a whole.
func (a *account) failed(j *job, err error) {
	now := time.Now()
	ce := &adapter.CallError{Kind: adapter.Uncertain, Err: err}
	_ = errors.As(err, &ce) // any other error is uncertain
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastErr = ce.Error()
	switch ce.Kind {
	case adapter.Throttled, adapter.Malformed:
		a.breaker.RecordSuccess()
	default:
		a.breaker.RecordFailure()
		a.stats.Failures++
	}
	failures := 0
	for _, it := range j.items {
		failures = max(failures, it.failures)
	}
	at := now.Add(backoff(failures + 1))
	if ce.Kind == adapter.Throttled {
		a.stats.Throttled++
	}
	if ce.RetryAfter > 0 && (ce.Kind == adapter.Throttled || ce.Kind == adapter.Unavailable) {
		at = now.Add(ce.RetryAfter)
		if at.After(a.pauseUntil) {
			a.pauseUntil = at
		}
	} else if ce.Kind == adapter.Throttled && at.After(a.pauseUntil) {
		a.pauseUntil = at
	}
	if j.kind == sampling {
		for _, it := range j.items {
			if it.suspectSet || !it.lookAt.IsZero() {
				it.lookAt = now.Add(a.cfg.DriftGrace)
				a.looks = append(a.looks, it)
			}
		}
		return
	}
	var out []outcome
	var settled []openSeq
	for i, it := range j.items {
		it.part.underWay--
		it.place = resting
		switch {
		case j.kind == reading:
			it.failures++
			a.stats.Retries++
			if !it.gone {
				a.postpone(it, at)
			}
		case ce.Kind == adapter.Uncertain:
			out = append(out, outcome{a.unknown(it, ce.Kind.String(), ce.Error(), now), a.endSpan(j, i, "unknown")})
		case ce.Kind == adapter.Malformed:
			res := a.result(it, write.Refused, "malformed", ce.Error(), now.UnixMicro())
			out = append(out, outcome{res, a.endSpan(j, i, "malformed")})
			settled = append(settled, openSeq{it.part, it.sentSeq})
			a.stats.Refused++
			a.rest(it, it.seq != it.sentSeq)
		default:
			a.stats.Retries++
			a.endSpan(j, i, ce.Kind.String())
			a.retry(it, at)
		}
	}
	a.recent.add(out)
	a.report(out, settled)
}

// backoff is exponential with full jitter.
func backoff(failures int) time.Duration {
	d := lastBackoff
	if failures < 9 {
		d = min(lastBackoff, firstBackoff<<(failures-1))
	}
	return time.Millisecond + rand.N(d)
}
