package queue

import (
	"slices"
	"time"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// grant is a granted write while it is carried out. Its life: queued, and again after every failure that certainly left the channel as it was; under way; then
// closed by an answer, or in doubt. In doubt it is told so at once, waited out for the channel's late window, and read where that is possible: then it is closed, too.
type grant struct {
	write        allocation.GrantedWrite
	external     string
	target       target // that it came with
	seq          int64
	left         bool      // it reached the channel at least once, in vain
	doubt        bool      // it may have been applied, or may still be
	inherited    bool      // in doubt because whoever had the partition before may have sent it
	ahead        bool      // a forerunner is queued or under way
	ran          time.Time // until then a forerunner that nobody answered may still land
	code, detail string    // of the doubt
}

// urgency is that of what the write does: decreases before increases, scarce before plenty.
func (g *grant) urgency() (class, quantity int64) {
	w := &g.write
	switch w.Operation {
	case catalog.Delta:
		if w.Delta < 0 {
			return 1, g.target.quantity
		}
	case catalog.CompareAndSet:
		if w.Quantity < w.Expected && w.Quantity > 0 {
			return 1, int64(w.Quantity)
		}
		if w.Quantity == 0 {
			return 0, 0
		}
	default:
		if w.Quantity == 0 {
			return 0, 0
		}
	}
	return 2, g.target.quantity
}

// clear keeps granted writes from being sent before a moment.
func (it *item) clear(at time.Time) {
	if at.After(it.clearAt) {
		it.clearAt = at
	}
}

// open begins the granted write of an item's newest target.
func (q *Queue) open(it *item, now time.Time) {
	t := &it.target
	it.known, it.exact, it.expectedSet, it.uncertain, it.lastID = false, false, false, false, ""
	it.attempts, it.failures, it.stale, it.most, it.held = 0, 0, 0, 0, false
	q.certain(it)
	if !t.grants() {
		q.settle(it.part, it.seq)
		q.clean(it, now)
		return
	}
	g := &grant{write: *t.write, external: it.external, target: *t, seq: it.seq}
	it.grant = g
	it.op = operation{id: g.write.ID, kind: g.write.Operation, asked: int64(g.write.Quantity), quantity: int64(g.write.Quantity), delta: int64(g.write.Delta), expected: int64(g.write.Expected)}
	it.sent, it.sentSeq = g.target, g.seq
	switch {
	case t.inherited && g.write.Operation != write.Read:
		// It may have been under way when its request's owner stopped, and that request's time has to run out first: counted from the first restart, as it is not sent again.
		g.inherited = true
		since := now
		if !t.doubted.IsZero() {
			since = t.doubted
		}
		q.wonder(it, "restarted", "it may have been sent before a restart", nil, 0, now, since.Add(q.timeout+q.late))
		if it.clearAt.After(now) {
			q.forerun(it, now)
		}
	case q.ignoring:
		q.giveUp(it, "no_channel", "nothing is written to the channel", now)
	case q.paused():
		q.wait(it, now)
	default:
		q.enqueue(it, now)
	}
}

// wait has a granted write wait for the end of a pause, and longer where what was sent before may land: so that it is not given up before that is over.
func (q *Queue) wait(it *item, now time.Time) {
	until := now.Add(pauseHold)
	if it.clearAt.After(until) {
		until = it.clearAt
	}
	it.held = true
	q.delay(it, until)
}

// enqueue queues a granted write.
func (q *Queue) enqueue(it *item, now time.Time) {
	it.held = false
	switch {
	case it.clearAt.After(now):
		q.delay(it, it.clearAt)
		if it.grant.ran.IsZero() {
			q.forerun(it, now)
		}
	case it.grant.write.Operation == write.Read:
		q.toRead(it)
	default:
		q.makeReady(it, now)
	}
}

// forerun has a granted 0 that must wait for what was sent before sent ahead of that, too. Nobody is told, and nothing is taken to follow from it: what was sent before
// may land after it, and the write itself, or the read, still comes when that is over. But the channel stops selling at once if it can, and a 0 more never lets a
// channel sell more than it was exposed to, however late it lands. The item waits.
func (q *Queue) forerun(it *item, now time.Time) {
	g := it.grant
	if it.gone || q.ignoring || q.paused() || g.write.Operation != write.Absolute || g.write.Quantity != 0 {
		return
	}
	q.unqueue(it)
	g.ahead = true
	q.makeReady(it, now)
}

// ran goes on with a granted write whose forerunner was answered, or is not sent. A forerunner of unknown outcome may land for a while.
func (q *Queue) ran(it *item, unknown bool, now time.Time) {
	g := it.grant
	g.ahead = false
	g.ran = now
	if unknown {
		g.ran = now.Add(q.late)
		it.clear(g.ran)
	}
	switch {
	case it.gone:
	case g.inherited && it.seq != g.seq && it.target.grants(): // as in supersede
		q.settle(it.part, g.seq)
		q.forgetGrant(it)
		it.clearAt = g.ran
		q.rest(it, true, now)
	default:
		q.delay(it, later(it.clearAt, now))
	}
}

// aheadAgain has a forerunner that certainly did nothing sent again, unless the write itself is due before.
func (q *Queue) aheadAgain(it *item, at, now time.Time) {
	if it.gone || q.ignoring || q.paused() || !it.clearAt.After(at) || it.seq != it.grant.seq {
		q.ran(it, false, now)
		return
	}
	it.failures++
	q.stats.Retries++
	q.delay(it, at)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// unable says why a granted write cannot be carried out at this channel; empty when it can.
func (q *Queue) unable(g *grant) string {
	w := &g.write
	switch {
	case w.Operation == write.Read:
		if !q.caps.ReadBack {
			return "what the channel shows cannot be read"
		}
	case !q.caps.Can(w.Operation):
		return "the channel's API has no operation " + w.Operation.String()
	case w.Quantity < 0 || (q.caps.MaxQuantity > 0 && int64(w.Quantity) > q.caps.MaxQuantity):
		return "the channel cannot show that many units"
	}
	return ""
}

// dueGrant deals with a granted write whose time has come.
func (q *Queue) dueGrant(it *item, now time.Time) {
	g := it.grant
	if g.ahead && it.clearAt.After(now) && !q.ignoring && !q.paused() {
		q.makeReady(it, now)
		return
	}
	g.ahead = false
	switch {
	case g.doubt && (q.ignoring || (q.writable && !q.caps.ReadBack)):
		q.surmise(it, nil, now)
	case g.doubt:
		q.toRead(it)
	case q.ignoring:
		q.giveUp(it, "no_channel", "nothing is written to the channel", now)
	case q.paused():
		q.giveUp(it, "paused", "nothing is written to the channel while it is paused", now)
	default:
		q.enqueue(it, now)
	}
}

// hold has granted writes wait for the end of a pause that has begun.
func (q *Queue) hold(now time.Time) {
	for _, it := range slices.Clone(q.ring) {
		if it.gone || it.grant == nil || it.grant.doubt || it.place == underWay {
			continue
		}
		q.unqueue(it)
		q.wait(it, now)
	}
}

// release ends what hold began.
func (q *Queue) release(now time.Time) {
	for _, it := range slices.Clone(q.ring) {
		if !it.gone && it.held && it.place == delayed {
			q.unqueue(it)
			q.enqueue(it, now)
		}
	}
}

// dropGrant deals with a granted write when its channel is not written to any more.
func (q *Queue) dropGrant(it *item, now time.Time) {
	switch {
	case it.place == underWay: // its answer comes
	case !it.grant.doubt:
		q.unqueue(it)
		q.giveUp(it, "no_channel", "nothing is written to the channel", now)
	case it.place == toRead:
		q.unqueue(it)
		q.surmise(it, nil, now)
	case it.grant.ahead:
		q.unqueue(it)
		q.ran(it, false, now)
	}
}

// closeWith ends a granted write with what a request told of it.
func (q *Queue) closeWith(it *item, o write.Outcome, code, detail string, acked int64, shown *int64, j *Request, i int, now time.Time) {
	res := q.result(it, o, code, detail, acked)
	if shown != nil {
		res.Shown, res.ShownKnown, res.ShownAt = event.Units(*shown), true, now.UnixMicro()
	}
	q.close(it, res, j, i, now)
}

// close ends a granted write with its last result.
func (q *Queue) close(it *item, res write.Result, j *Request, i int, now time.Time) {
	seq := it.grant.seq
	q.tell(res, j, i)
	q.settles(it.part, seq)
	q.forgetGrant(it)
	q.rest(it, it.seq != seq, now)
}

func (q *Queue) forgetGrant(it *item) {
	if it.grant.doubt && !it.gone {
		q.inDoubt--
	}
	it.grant, it.held = nil, false
}

// giveUp closes a granted write that was certainly not applied and is not sent again. The item is nowhere.
func (q *Queue) giveUp(it *item, code, detail string, now time.Time) {
	o := write.NotSent
	if it.grant.left {
		o = write.Refused
		q.stats.Refused++
	} else {
		q.stats.NotSent++
	}
	seq := it.grant.seq
	res := q.result(it, o, code, detail, 0)
	if !it.grant.ran.IsZero() { // it was not applied, but its forerunner may have been: nobody can say what is shown
		res.Outcome, res.Settled = write.Unknown, true
	}
	q.tell(res, nil, 0)
	q.settles(it.part, seq)
	q.forgetGrant(it)
	if code != "superseded" { // then the caller goes on
		q.rest(it, it.seq != seq, now)
	}
}

// notSent tells of a granted write that never began.
func (q *Queue) notSent(it *item, t *target, seq int64, code, detail string) {
	w := t.write
	q.stats.NotSent++
	q.tell(write.Result{
		WriteID: w.ID, SKU: it.sku, Channel: q.id, ExternalID: it.external, Operation: w.Operation, Quantity: w.Quantity, Delta: w.Delta, Expected: w.Expected,
		Outcome: write.NotSent, ErrorCode: code, ErrorDetail: detail, LevelVersion: t.levelVersion, SourceOffset: t.sourceOffset, SettingsVersion: t.settingsVersion,
		OldestReceivedAt: t.oldest, ReceivedAt: t.received, DecidedAt: t.decided,
	}, nil, 0)
	q.settles(it.part, seq)
}

// sendAgain has a granted write sent again that certainly was not applied.
func (q *Queue) sendAgain(it *item, at time.Time, now time.Time) {
	it.failures++
	q.stats.Retries++
	switch {
	case it.gone:
	case q.ignoring:
		q.giveUp(it, "no_channel", "nothing is written to the channel", now)
	case q.paused():
		q.wait(it, now)
	default:
		q.delay(it, at)
	}
}

// wonder tells that a granted write is in doubt, and waits until it can no longer be applied.
func (q *Queue) wonder(it *item, code, detail string, j *Request, i int, now, until time.Time) {
	g := it.grant
	g.doubt, g.code, g.detail = true, code, detail
	q.stats.Unknown++
	q.tell(q.result(it, write.Unknown, code, detail, 0), j, i)
	if it.gone {
		return
	}
	q.inDoubt++
	it.failures = 0
	it.clear(until)
	q.delay(it, later(it.clearAt, now))
}

// surmise closes a granted write in doubt: it can no longer be applied, and shown, where it could be read, tells what there is to know.
func (q *Queue) surmise(it *item, shown *int64, now time.Time) {
	res := q.result(it, write.Unknown, it.grant.code, it.grant.detail, 0)
	res.Settled = true
	if shown != nil {
		res.Shown, res.ShownKnown, res.ShownAt = event.Units(*shown), true, now.UnixMicro()
	}
	q.close(it, res, nil, 0, now)
}
