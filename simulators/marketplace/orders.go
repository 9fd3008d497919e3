package marketplace

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"time"
)

// A channel's order list holds this many changes at least, and twice as many at most; fewer when they are longer than listedBytes together.
const (
	rememberedOrders = 1 << 13
	listedBytes      = 2 << 20
)

// maxOrders is the most changes in one page of the order list.
const maxOrders = 500

// change is an order, or what became of one, in the order list.
type change struct {
	seq    int64
	at     time.Time // by the channel's clock
	really time.Time // by the true one: what is shown of it does not depend on a wrong clock
	report report
}

// orderList is the newest changes of a channel's orders, oldest first. Guarded by the channel's mu.
type orderList struct {
	changes []change
	size    int // bytes of the reports
	seq     int64
}

func (l *orderList) add(at, really time.Time, r report) {
	l.seq++
	if len(l.changes) >= 2*rememberedOrders || l.size > 2*listedBytes {
		from := max(0, len(l.changes)-rememberedOrders)
		l.size = 0
		for i := len(l.changes) - 1; i >= from; i-- {
			if l.size += len(l.changes[i].report.line); l.size > listedBytes {
				from = i
			}
		}
		l.changes = slices.Clone(l.changes[from:])
	}
	l.changes = append(l.changes, change{l.seq, at, really, r})
	l.size += len(r.line)
}

// getOrders lists what changed since a moment by the channel's clock (since), page by page (after, limit): orders as they were placed, and events
// for what became of them. A change shows up ListLagMS late.
func (c *channel) getOrders(w http.ResponseWriter, r *http.Request) {
	p := c.plan()
	if p.fail(w, r, func() {}) {
		return
	}
	q := r.URL.Query()
	since, err := time.Parse(time.RFC3339Nano, q.Get("since"))
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, "since", fmt.Sprintf("since %q: want a time such as 2026-02-03T10:15:00Z", q.Get("since")))
		return
	}
	after, limit := int64(0), maxOrders
	if s := q.Get("after"); s != "" {
		if after, err = strconv.ParseInt(s, 10, 64); err != nil {
			problem(w, http.StatusUnprocessableEntity, "after", fmt.Sprintf("after %q: want the next of the page before", s))
			return
		}
	}
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxOrders {
			problem(w, http.StatusUnprocessableEntity, "limit", fmt.Sprintf("limit %q: want 1 to %d", s, maxOrders))
			return
		}
	}
	c.mu.Lock()
	shown := time.Now().Add(-time.Duration(c.faults.ListLagMS * float64(time.Millisecond)))
	all := c.list.changes
	from := sort.Search(len(all), func(i int) bool { return all[i].seq > after })
	var orders, events [][]byte
	next := int64(0)
	for i := from; i < len(all); i++ {
		x := &all[i]
		if x.really.After(shown) {
			break
		}
		if x.at.Before(since) {
			continue
		}
		if len(orders)+len(events) == limit {
			next = all[i-1].seq
			break
		}
		if x.report.path == ordersPath {
			orders = append(orders, x.report.line)
		} else {
			events = append(events, x.report.line)
		}
	}
	c.mu.Unlock()
	out := append(join([]byte(`{"orders":[`), orders), `],"events":[`...)
	out = append(join(out, events), ']')
	if next > 0 {
		out = strconv.AppendInt(append(out, `,"next":"`...), next, 10)
		out = append(out, '"')
	}
	answerBytes(w, http.StatusOK, append(out, '}'))
}

func join(b []byte, items [][]byte) []byte {
	for i, x := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, x...)
	}
	return b
}
