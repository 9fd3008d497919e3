// Package queue decides what is written to one channel account, when, and what became of it.
//
// It keeps the newest target of each SKU and gives out requests: scarce SKUs and decreases first, in batches, within the account's limits. In pooled mode
// it chooses how a quantity is written, and writes again what failed; a write whose outcome nobody told is read back before anything else is written for
// that SKU. Under books of exposure a target carries one granted write, and the queue carries out that and nothing else: it is sent again only while it is
// certain that it was not applied, and whatever is in doubt is reported at once, waited out and read before its books may close.
//
// A Queue does no I/O, starts no goroutine, and reads no clock: its caller passes the time, sends the requests and makes the results durable. The
// same calls give the same requests and results, so that a simulation runs the code that production runs.
package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/time/rate"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

// What a channel's settings leave out.
const (
	defaultBatch    = 100
	defaultInFlight = 4
	defaultTimeout  = 10 * time.Second
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 30 * time.Second
	staleAtOnce  = 5                // compare-and-set retries before backing off
	unknownHold  = 30 * time.Second // how long targets of a channel without settings are held
	clocksOff    = 2 * time.Second  // how far the clock of another instance may be off
	pauseHold    = 5 * time.Second  // how long a granted write waits for a pause to end before it is given up
)

// ReadBatch is the most items that are read in one request.
const ReadBatch = 100

// MaxLatency is the longest time that is told apart from longer ones, microseconds.
const MaxLatency = int64(10 * time.Minute / time.Microsecond)

// Config is how a queue works, its channel's settings apart.
type Config struct {
	Linger          time.Duration // how long a busy channel gathers a batch; an idle one never waits
	DriftSample     int           // SKUs compared with what an idle channel shows, each time; 0 compares none
	DriftEvery      time.Duration // how often
	DriftGrace      time.Duration // how long a difference may last before it is drift
	BreakerFailures int           // the channel is left alone when this many of twice as many requests failed
	BreakerDelay    time.Duration // how long
	StuckAfter      time.Duration // alert when the channel failed for this long
	BacklogAfter    time.Duration // alert when a target waited for this long
	Instance        string        // start of write ids, unique to the process
	Service         string        // who raises alerts
	Seed            uint64        // of the jitter
}

// Counts is what became of targets and requests since the start.
type Counts struct {
	Applied    int64 // items the channel applied
	Refused    int64 // items it refused for good
	NotSent    int64 // items that needed no write: the channel is known to show them; and granted writes that were given up
	Unknown    int64 // items whose outcome nobody told, before they were read back
	Retries    int64 // items sent or read again
	Superseded int64 // targets that a newer one replaced before they were settled
	Requests   int64
	Failures   int64 // requests that failed as a whole, throttled ones apart
	Throttled  int64 // requests that the channel refused for their number
	Sampled    int64 // items compared with what the channel shows
	Drift      int64 // of these, found to differ and repaired
	Cleared    int64 // of these, were in doubt here, and were found to differ and repaired: nobody edited anything
}

// Add adds o's counts.
func (c *Counts) Add(o *Counts) {
	c.Applied += o.Applied
	c.Refused += o.Refused
	c.NotSent += o.NotSent
	c.Unknown += o.Unknown
	c.Retries += o.Retries
	c.Superseded += o.Superseded
	c.Requests += o.Requests
	c.Failures += o.Failures
	c.Throttled += o.Throttled
	c.Sampled += o.Sampled
	c.Drift += o.Drift
	c.Cleared += o.Cleared
}

// State is a queue at a moment.
type State struct {
	Counts
	SKUs      int // known targets
	Backlog   int // targets queued, delayed or to be read
	InDoubt   int // granted writes of unknown outcome that are waited out
	InFlight  int // requests under way
	Doubtful  int // SKUs that may show too little until they have been looked at
	Paused    bool
	Breaker   string // closed, open or half-open
	LastError string
}

// Queue is what one channel account has to write, and what is known of it. It is not safe for concurrent use.
type Queue struct {
	cfg          Config
	id           string
	rng          *rand.Rand
	conf         *catalog.Channel // nil while no setting names the channel
	writable     bool
	caps         adapter.Capabilities
	ignoring     bool      // adapter none, or the channel is gone: targets are only remembered
	unknownSince time.Time // when targets first came without settings
	items        map[string]*item
	ring         []*item // all items in the order they came, for sampling
	cursor       int
	forgotten    int // items in ring that are gone
	parts        map[int32]*Partition
	ready, later pile
	byAge        queueByAge
	reads        []*item
	looks        []*item // items to sample at their lookAt
	nextSeq      int64
	nextID       int64
	inFlight     int
	unsettled    int // results that are not durable yet
	doubtful     int // items that are so
	inDoubt      int // granted writes that are so
	catching     int // partitions that are so
	report       Report
	limiter      *rate.Limiter
	breaker      breaker
	brokenSince  time.Time // breaker not closed since
	stuckAlert   bool
	pauseUntil   time.Time
	readySince   time.Time
	lastSent     time.Time
	nextSample   time.Time
	timeout      time.Duration
	late         time.Duration
	stats        Counts
	latency      *hdrhistogram.Histogram
	lastErr      string
}

// New makes the queue of a channel. It writes nothing before Configure.
func New(channel string, cfg Config, now time.Time) *Queue {
	q := &Queue{
		cfg: cfg, id: channel, rng: rand.New(rand.NewPCG(cfg.Seed, nameSeed(channel))), items: make(map[string]*item), parts: make(map[int32]*Partition),
		limiter: rate.NewLimiter(rate.Inf, 1), latency: hdrhistogram.New(1, MaxLatency, 2), nextSample: now.Add(cfg.DriftEvery),
		timeout: defaultTimeout, late: 2 * defaultTimeout,
	}
	q.ready.less = func(x, y *item) bool { return x.before(y) }
	q.later.less = func(x, y *item) bool {
		if !x.notBefore.Equal(y.notBefore) {
			return x.notBefore.Before(y.notBefore)
		}
		return x.seqNo < y.seqNo
	}
	q.breaker = breaker{failures: cfg.BreakerFailures, delay: cfg.BreakerDelay, rng: q.rng}
	return q
}

// nameSeed is FNV-1a, so that channels of one seed do not share their jitter.
func nameSeed(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// Configure puts a channel's settings in force. A nil c means that no setting names the channel. caps is what its adapter can do, nil when there is none of
// that name. An error says why nothing can be written to the channel: its queue is held until the next settings.
func (q *Queue) Configure(c *catalog.Channel, caps *adapter.Capabilities, now time.Time) error {
	was, known, wasPaused := q.conf, q.writable, q.paused()
	q.writable = false
	if c == nil {
		if q.conf != nil {
			q.drop(now)
		} else if q.unknownSince.IsZero() {
			q.unknownSince = now
		}
		q.conf = nil
		return nil
	}
	q.conf, q.unknownSince = c, time.Time{}
	if !c.Written() {
		q.drop(now)
		return nil
	}
	wasIgnoring := q.ignoring
	q.ignoring = false
	err := q.connect(c, caps, now)
	if err != nil {
		q.lastErr = err.Error()
	}
	if wasIgnoring || (known && (was.BaseURL != c.BaseURL || was.Operation != c.Operation)) {
		q.again(now)
	}
	switch {
	case q.paused() && !wasPaused:
		q.hold(now)
	case !q.paused() && wasPaused:
		q.release(now)
	}
	return err
}

// connect takes over operation and limits of the settings.
func (q *Queue) connect(c *catalog.Channel, caps *adapter.Capabilities, now time.Time) error {
	if caps == nil {
		return fmt.Errorf("adapter %q is not known", c.Adapter)
	}
	op := q.operation()
	if !caps.Can(op) {
		return fmt.Errorf("adapter %s has no operation %s", c.Adapter, op)
	}
	if op != catalog.Absolute && !caps.ReadBack {
		return fmt.Errorf("adapter %s cannot read back, which operation %s needs", c.Adapter, op)
	}
	q.timeout = defaultTimeout
	if c.TimeoutMS > 0 {
		q.timeout = time.Duration(c.TimeoutMS) * time.Millisecond
	}
	q.late = 2 * q.timeout
	if c.LateWindowMS > 0 {
		q.late = time.Duration(c.LateWindowMS) * time.Millisecond
	}
	limit, burst := rate.Inf, max(1, c.Burst)
	if c.RatePerSecond != "" {
		r, err := strconv.ParseFloat(c.RatePerSecond, 64)
		if err != nil || !(r >= 0) {
			return fmt.Errorf("rate_per_second %q: want a number", c.RatePerSecond)
		}
		if r > 0 {
			limit = rate.Limit(r)
		}
	}
	q.limiter.SetLimitAt(now, limit)
	q.limiter.SetBurstAt(now, burst)
	q.caps, q.writable = *caps, true
	return nil
}

func (q *Queue) operation() catalog.Operation {
	if q.conf.Operation == catalog.UnspecifiedOperation {
		return catalog.Absolute
	}
	return q.conf.Operation
}

func (q *Queue) paused() bool { return q.conf != nil && q.conf.Paused }

// drop settles the whole queue without writing, and remembers targets only from now on.
func (q *Queue) drop(now time.Time) {
	q.ignoring = true
	for _, it := range slices.Clone(q.ring) {
		if it.gone {
			continue
		}
		if it.grant != nil {
			q.dropGrant(it, now)
			continue
		}
		q.unqueue(it)
		if it.dirty && it.place != underWay {
			q.dropTarget(it, now)
		}
	}
	for _, it := range q.looks {
		q.certain(it)
		it.lookAt = time.Time{}
	}
	q.reads, q.looks = nil, nil
}

// dropTarget settles an item's newest target without writing it.
func (q *Queue) dropTarget(it *item, now time.Time) {
	if it.target.grants() {
		q.notSent(it, &it.target, it.seq, "no_channel", "nothing is written to the channel")
	} else {
		q.settle(it.part, it.seq)
	}
	q.clean(it, now)
}

// again queues every SKU: what the channel shows is not known any more. What is under books is left to those who keep them.
func (q *Queue) again(now time.Time) {
	for _, it := range slices.Clone(q.ring) {
		it.known, it.expectedSet = false, false
		if !it.gone && !it.dirty && it.place == resting && it.target.write == nil {
			it.target.oldest, it.target.span = 0, nil // no event behind it
			q.start(it, now)
		}
	}
}

// idle says whether nothing is queued or under way.
func (q *Queue) idle() bool { return q.inFlight == 0 && q.byAge.front == nil }

// ErrNotConfigured says that no setting has named the channel for so long that its targets are not written.
var ErrNotConfigured = errors.New("no setting names this channel: its targets are not written")

// Watch looks after what takes long, and is called about once a second: a channel that takes no writes, which it tells by an alert, and targets of a channel that no setting
// names, which it drops with ErrNotConfigured.
func (q *Queue) Watch(now time.Time) error {
	var dropped error
	if q.conf == nil && !q.ignoring && !q.unknownSince.IsZero() && now.Sub(q.unknownSince) > unknownHold {
		dropped = ErrNotConfigured
		q.drop(now)
	}
	if q.breaker.state == closed {
		q.brokenSince = time.Time{}
	} else if q.brokenSince.IsZero() {
		q.brokenSince = now
	}
	var reason string
	var since time.Time
	switch it := q.byAge.front; {
	case it == nil || q.conf == nil || q.conf.Paused:
	case !q.brokenSince.IsZero() && now.Sub(q.brokenSince) > q.cfg.StuckAfter:
		since, reason = q.brokenSince, "it has failed every request"
	case now.Sub(it.since) > q.cfg.BacklogAfter:
		since, reason = it.since, "a target has waited to be written"
	}
	if reason == "" {
		q.stuckAlert = false
		return dropped
	}
	if q.stuckAlert {
		return dropped
	}
	q.stuckAlert = true
	last := q.lastErr
	if last == "" {
		last = "none; look at its rate limit"
	}
	q.alert(alert.Alert{
		ID: "stuck/" + q.id + "/" + strconv.FormatInt(since.UnixMicro(), 10), Channel: q.id, Kind: alert.ChannelStuck, At: now.UnixMicro(), RaisedBy: q.cfg.Service,
		Message: fmt.Sprintf("%s takes no writes: %s since %s, and what it shows grows old. Last error: %s", q.id, reason, since.UTC().Format(time.RFC3339), last),
	})
	return dropped
}

// Busy is how much is queued, under way or not durable yet.
func (q *Queue) Busy() int {
	n := q.inFlight + q.unsettled
	if q.byAge.front != nil {
		n++
	}
	return n
}

// State is the queue's state now.
func (q *Queue) State() State {
	return State{
		Counts: q.stats, SKUs: len(q.items), Backlog: q.ready.len() + q.later.len() + len(q.reads), InDoubt: q.inDoubt, InFlight: q.inFlight, Doubtful: q.doubtful,
		Paused: q.paused(), Breaker: q.breaker.state.String(), LastError: q.lastErr,
	}
}

// Latency is the distribution of acked_at − oldest_received_at, microseconds. It is the queue's own: copy it or merge it elsewhere.
func (q *Queue) Latency() *hdrhistogram.Histogram { return q.latency }

type openSeq struct {
	part *Partition
	seq  int64
}

// Outcome is one result for channel.writes, and the request that it came from.
type Outcome struct {
	write.Result
	Request *Request // nil when it came from none
	Item    int      // in the request
}

// Report is what a queue has to tell: results in the order they came about, of one SKU in the order they are to be read, and alerts.
type Report struct {
	Results []Outcome
	Alerts  []alert.Alert
	settled []openSeq
}

// Report takes what there is to tell since the last call. The caller makes the results durable and then calls Durable.
func (q *Queue) Report() Report {
	r := q.report
	q.report = Report{}
	return r
}

// Durable settles the targets whose results are durable. The caller makes reports durable in the order it took them.
func (q *Queue) Durable(r *Report) {
	q.unsettled -= len(r.Results)
	for _, s := range r.settled {
		s.part.unreported--
		q.settle(s.part, s.seq)
	}
}

// tell adds a result to the report.
func (q *Queue) tell(res write.Result, j *Request, i int) {
	q.unsettled++
	q.report.Results = append(q.report.Results, Outcome{res, j, i})
}

// settles says that a target is settled once the results told so far are durable.
func (q *Queue) settles(p *Partition, seq int64) {
	if seq < 0 {
		return
	}
	p.unreported++
	q.report.settled = append(q.report.settled, openSeq{p, seq})
}

func (q *Queue) alert(a alert.Alert) { q.report.Alerts = append(q.report.Alerts, a) }
