package queue

import (
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
)

// Request is one request to the channel: a write of Items, or a read of IDs. The caller sends it and answers with AnswerWrite or AnswerRead.
type Request struct {
	Key     string               // unique to the request: its idempotency key
	Items   []adapter.Item       // of a write
	IDs     []string             // of a read
	Timeout time.Duration        // longest wait for the answer
	Traces  []*trace.SpanContext // by item, nil for one that is not traced; nil when none is
	SKUs    []string             // by item, when Traces is set
	// Problems is, once answered, what kept each traced item from being applied; empty when nothing did.
	Problems []string
	Spans    []trace.Span // by item: the caller's, for what it traces

	kind    jobKind
	items   []*item
	changes []int64 // of a sample's items when it began
	started time.Time
}

// Read says whether the request reads what is shown.
func (j *Request) Read() bool { return j.kind != writing }

type jobKind uint8

const (
	writing jobKind = iota
	reading
	sampling
)

// Next is the request to send now, or when to look again (zero: after the next target, answer or settings). It may have something to Report.
func (q *Queue) Next(now time.Time) (*Request, time.Time) {
	if q.catching > 0 {
		q.catchUp(now)
	}
	for q.later.len() > 0 && !q.later.items[0].notBefore.After(now) {
		it := q.later.items[0]
		q.later.remove(it)
		it.place = resting
		switch {
		case it.grant != nil:
			q.dueGrant(it, now)
		case it.uncertain:
			q.toRead(it)
		default:
			q.makeReady(it, now)
		}
	}
	var until time.Time
	sooner := func(t time.Time) {
		if until.IsZero() || t.Before(until) {
			until = t
		}
	}
	if q.later.len() > 0 {
		sooner(q.later.items[0].notBefore)
	}
	if !q.writable || q.conf == nil || q.conf.Paused || q.ignoring {
		return nil, until
	}
	inFlight := q.conf.MaxInFlight
	if inFlight <= 0 {
		inFlight = defaultInFlight
	}
	if q.inFlight >= inFlight {
		return nil, until
	}
	if q.pauseUntil.After(now) {
		sooner(q.pauseUntil)
		return nil, until
	}
	for len(q.reads) > 0 && (q.reads[0].gone || q.reads[0].place != toRead) {
		q.reads = q.reads[1:]
	}
	sample := q.sampleDue(now)
	full := q.ready.len() >= q.batch()
	switch {
	case len(q.reads) > 0:
	case q.ready.len() > 0:
		busy := q.inFlight > 0 || now.Sub(q.lastSent) < q.cfg.Linger
		if wait := q.readySince.Add(q.cfg.Linger); busy && !full && wait.After(now) {
			sooner(wait)
			return nil, until
		}
	case sample:
	default:
		if q.cfg.DriftSample > 0 && len(q.items) > 0 && q.caps.ReadBack && q.idle() {
			sooner(q.nextSample)
		}
		if len(q.looks) > 0 {
			sooner(q.looks[0].lookAt)
		}
		return nil, until
	}
	if ok, at := q.breaker.ready(now); !ok {
		if !at.IsZero() {
			sooner(at)
		}
		return nil, until
	}
	if !q.limiter.AllowN(now, 1) {
		missing := 1 - q.limiter.TokensAt(now)
		sooner(now.Add(time.Duration(missing/float64(q.limiter.Limit())*float64(time.Second)) + 1))
		return nil, until
	}
	j := &Request{Timeout: q.timeout, started: now}
	switch {
	case len(q.reads) > 0:
		q.takeReads(j, now)
	case q.ready.len() > 0:
		q.takeWrites(j, now)
	default:
		q.takeSample(j, now)
	}
	if len(j.items) == 0 {
		return nil, now
	}
	q.breaker.take()
	q.inFlight++
	q.lastSent = now
	q.stats.Requests++
	return j, time.Time{}
}

func (q *Queue) batch() int {
	n := q.conf.BatchSize
	if n <= 0 {
		n = defaultBatch
	}
	if q.caps.MaxBatch > 0 {
		n = min(n, q.caps.MaxBatch)
	}
	return n
}

func (q *Queue) takeReads(j *Request, now time.Time) {
	j.kind = reading
	n := 0
	for _, it := range q.reads {
		n++
		if it.gone || it.place != toRead {
			continue
		}
		external := it.external
		if g := it.grant; g != nil {
			external = g.external
			if why := q.unable(g); why != "" && !g.doubt {
				it.place = resting
				q.giveUp(it, "unsupported", why, now)
				continue
			}
			if !g.doubt {
				it.attempts++
				it.op.sentAt = now.UnixMicro()
			}
		}
		it.place = underWay
		it.part.underWay++
		j.items = append(j.items, it)
		j.IDs = append(j.IDs, external)
		if len(j.items) == ReadBatch {
			break
		}
	}
	q.reads = q.reads[n:]
}

// takeWrites fills a batch: most of it the most urgent, an eighth the longest waiting, so that nothing waits for ever.
func (q *Queue) takeWrites(j *Request, now time.Time) {
	j.kind = writing
	n := q.batch()
	q.nextID++
	j.Key = q.cfg.Instance + "-" + strconv.FormatInt(q.nextID, 36)
	j.items, j.Items = make([]*item, 0, min(n, q.ready.len())), make([]adapter.Item, 0, min(n, q.ready.len()))
	old := n / 8
	if q.ready.len() <= n {
		old = 0
	}
	for q.ready.len() > 0 && len(j.items) < n-old {
		it := q.ready.items[0]
		if it.most > 0 {
			if len(j.items) >= it.most {
				break
			}
			n, old = min(n, it.most), 0
		}
		q.takeWrite(j, it, now)
	}
	for it, seen := q.byAge.front, 0; it != nil && len(j.items) < n && seen < 2*n && old > 0; seen++ {
		next := it.next
		if it.place == ready && it.most == 0 {
			q.takeWrite(j, it, now)
		}
		it = next
	}
	q.readySince = now
	for i, it := range j.items {
		if it.sent.span == nil {
			continue
		}
		if j.Traces == nil {
			j.Traces, j.SKUs, j.Problems = make([]*trace.SpanContext, len(j.items)), make([]string, len(j.items)), make([]string, len(j.items))
		}
		j.Traces[i], j.SKUs[i] = it.sent.span, it.sku
	}
}

// takeWrite takes a ready item into a request, if it is to be written at all.
func (q *Queue) takeWrite(j *Request, it *item, now time.Time) {
	q.ready.remove(it)
	it.place = resting
	var id string
	external := it.external
	if g := it.grant; g != nil {
		if g.ahead && (q.unable(g) != "" || !it.clearAt.After(now)) {
			g.ahead = false
			if g.doubt || it.clearAt.After(now) {
				q.delay(it, later(it.clearAt, now))
				return
			}
		}
		if why := q.unable(g); why != "" {
			q.giveUp(it, "unsupported", why, now)
			return
		}
		id, external = g.write.ID, g.external
		if g.ahead { // the write itself must not be taken for the same one
			id += "/ahead"
			g.left = true
		}
		it.op.sentAt = now.UnixMicro()
		it.sent, it.sentSeq = g.target, g.seq
	} else {
		op, do := q.plan(it)
		switch do {
		case readFirst:
			q.toRead(it)
			return
		case alreadyShown:
			it.sent, it.op = it.target, op
			q.tell(q.result(it, write.NotSent, "already_shown", "the channel is known to show this already", 0), nil, 0)
			q.settles(it.part, it.seq)
			it.shown, it.basis, it.expectedSet = op.asked, it.target.sold, false
			q.stats.NotSent++
			q.clean(it, now)
			return
		}
		op.id = j.Key + "/" + strconv.Itoa(len(j.items))
		op.sentAt = now.UnixMicro()
		it.op, it.sent, it.sentSeq = op, it.target, it.seq
	}
	it.place = underWay
	it.part.underWay++
	it.attempts++
	it.changes++
	j.items = append(j.items, it)
	j.Items = append(j.Items, adapter.Item{ID: id, ExternalID: external, Operation: it.op.kind, Quantity: it.op.quantity, Delta: it.op.delta, Expected: it.op.expected})
}

type todo uint8

const (
	send todo = iota
	readFirst
	alreadyShown
)

// want is the quantity to show in pooled mode, within what the channel can show.
func (q *Queue) want(t *target) int64 {
	if t.withdrawn {
		return 0
	}
	n := max(0, t.quantity)
	if q.caps.MaxQuantity > 0 {
		n = min(n, q.caps.MaxQuantity)
	}
	return n
}

// plan decides how an item is written in pooled mode.
func (q *Queue) plan(it *item) (operation, todo) {
	n := q.want(&it.target)
	op := operation{kind: q.operation(), asked: n, quantity: n}
	if op.kind == catalog.Absolute {
		// The channel lowers its number by itself when it sells. Setting it again would put units back that it sold meanwhile.
		if it.known && it.exact && it.belief() == n {
			return op, alreadyShown
		}
		return op, send
	}
	if !it.known {
		return op, readFirst
	}
	belief := it.belief()
	if op.kind == catalog.Delta {
		op.quantity, op.delta = 0, n-belief
		if op.delta == 0 {
			return op, alreadyShown
		}
		return op, send
	}
	op.expected = belief
	if it.expectedSet {
		// The channel shows less than believed: sales that the ledger has not seen. Change by as much as was meant, so that none of them is sold
		// again. It shows more: someone raised it, and the target alone counts.
		op.expected = it.expected
		if it.expected <= belief {
			op.quantity = max(0, it.expected+n-belief)
		} else {
			op.anchored = true
		}
	} else if belief == n {
		return op, alreadyShown
	}
	if op.expected == op.quantity {
		return op, alreadyShown
	}
	return op, send
}

// result is the channel.writes value of the item's last write.
func (q *Queue) result(it *item, o write.Outcome, code, detail string, acked int64) write.Result {
	s, external := &it.sent, it.external
	if it.grant != nil {
		external = it.grant.external
	}
	return write.Result{
		WriteID: it.op.id, SKU: it.sku, Channel: q.id, ExternalID: external, Operation: it.op.kind, Quantity: event.Units(it.op.quantity),
		Delta: event.Units(it.op.delta), Expected: event.Units(it.op.expected), Outcome: o, ErrorCode: code, ErrorDetail: detail,
		Attempts: it.attempts, LevelVersion: s.levelVersion, SourceOffset: s.sourceOffset, SettingsVersion: s.settingsVersion,
		OldestReceivedAt: s.oldest, ReceivedAt: s.received, DecidedAt: s.decided, SentAt: it.op.sentAt, AckedAt: acked,
	}
}
