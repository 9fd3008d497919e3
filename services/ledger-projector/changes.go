package ledgerprojector

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/onhand/onhand/services/ledger-projector/internal/changes"
	"github.com/onhand/onhand/stock/ledger"
)

const (
	changeHeartbeat = 15 * time.Second // proxies close connections that are silent for a minute or so
	changeStall     = 10 * time.Second // longest wait for a reader's connection to take more
	changeRetry     = 2 * time.Second  // what browsers wait before they connect again
	changeChunk     = 32 << 10         // bytes between two looks at whether the reader still takes them
	changeStart     = 20 * time.Second // longest wait for Kafka when a stream begins
)

// StreamEnd is the last event of a stream that ends before its reader does.
type StreamEnd struct {
	Reason string `json:"reason"` // slow, stopping or failed
	Detail string `json:"detail"`
}

// Resync is the event that begins a stream of all SKUs which could not go on from Last-Event-ID.
type Resync struct {
	Detail string `json:"detail"`
}

// getChanges streams the levels of SKUs as they change, as server-sent events.
func (s *Service) getChanges(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	skus, location := q["sku"], q.Get("location")
	n := s.partitions.Load()
	switch {
	case n == 0:
		unavailable(w, "the ledger is starting: ask again in a moment")
		return
	case len(skus) > s.cfg.ChangeSKUs:
		problem(w, Problem{Title: "Too many SKUs", Status: http.StatusUnprocessableEntity, Detail: fmt.Sprintf(
			"%d SKUs were asked for; one stream may name %d, or none to follow all", len(skus), s.cfg.ChangeSKUs), Field: "sku"})
		return
	}
	for _, sku := range skus {
		if sku == "" {
			problem(w, Problem{Title: "Empty SKU", Status: http.StatusUnprocessableEntity, Detail: "give each sku a name, or leave sku out to follow all", Field: "sku"})
			return
		}
	}
	after := r.Header.Get("Last-Event-ID")
	starting, cancel := context.WithTimeout(r.Context(), changeStart)
	defer cancel()
	stream, err := s.feed.Subscribe(starting, skus, after)
	if err != nil {
		s.changesFailed(w, r, err)
		return
	}
	defer stream.Close()
	out := changeWriter{w: w, control: http.NewResponseController(w), location: location}
	fmt.Fprintf(&out.buf, "retry: %d\n", changeRetry.Milliseconds())
	switch {
	case stream.Resumed():
		out.id(after)
	case len(skus) > 0: // begin with what is: named SKUs need no resync
		v, err := s.levels.Read(starting, skus, where(n))
		if err != nil {
			s.readFailed(w, r, err)
			return
		}
		out.begin(v.Levels, stream.Start())
	case after != "":
		out.event("resync", stream.Start(), Resync{"what changed since the last event is not known here, or is too much: read afresh what you show"})
	default:
		out.id(stream.Start())
	}
	cancel()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	if out.flush() != nil {
		return
	}
	beat := time.NewTicker(changeHeartbeat)
	defer beat.Stop()
	for {
		silent := false
		select {
		case <-r.Context().Done(): // the client has gone, or the server stops
			return
		case <-stream.Ready():
		case <-beat.C:
			silent = true
		}
		levels, id, err := stream.Take()
		if err != nil {
			out.event("end", "", streamEnd(err))
			_ = out.flush() // a last try
			return
		}
		if out.levels(levels, id) != nil {
			return
		}
		if silent && out.buf.Len() == 0 {
			out.buf.WriteString(": heartbeat\n")
			out.id(id)
		}
		if out.flush() != nil {
			return
		}
	}
}

func streamEnd(err error) StreamEnd {
	switch {
	case errors.Is(err, changes.ErrSlow):
		return StreamEnd{"slow", err.Error() + ": connect again to go on from the last id, read faster, or name the SKUs you show"}
	case errors.Is(err, changes.ErrStopped):
		return StreamEnd{"stopping", err.Error() + ": connect again to go on from the last id"}
	}
	return StreamEnd{"failed", "changes cannot be followed at the moment: connect again to go on from the last id"}
}

func (s *Service) changesFailed(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil: // the client has gone
	case errors.Is(err, changes.ErrFull):
		unavailable(w, fmt.Sprintf("%d streams are open, as many as this instance serves: close one, or ask again in a moment", s.cfg.ChangeStreams))
	case errors.Is(err, changes.ErrStopped):
		unavailable(w, "the ledger is stopping: ask again in a moment")
	default:
		s.log.Warn("a stream of changes could not begin", "err", err)
		unavailable(w, "Kafka does not answer: ask again in a moment")
	}
}

// seen is a state that a reader has got.
type seen struct{ generation, version int64 }

func (a seen) before(l *ledger.Level) bool {
	return a.generation < l.Generation || a.generation == l.Generation && a.version < l.Version
}

// changeWriter writes events. It gathers them in buf, and gives the connection at most changeStall for each part it is handed.
type changeWriter struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	location string
	buf      bytes.Buffer
	first    map[string]seen // what the stream began with, of SKUs that did not change since
}

// begin writes the present state of SKUs. Redis is ahead of stock.levels: what comes from there and is not newer is left out.
func (c *changeWriter) begin(levels []*ledger.Level, id string) {
	c.first = make(map[string]seen)
	for _, l := range levels {
		if l == nil {
			continue
		}
		if _, twice := c.first[l.SKU]; twice {
			continue
		}
		c.first[l.SKU] = seen{l.Generation, l.Version}
		if a, ok := availability(l, c.location); ok {
			c.event("availability", "", a)
		}
	}
	c.id(id)
}

// levels writes one event for each; the last one has the id, since only then all of them have arrived.
func (c *changeWriter) levels(levels []*ledger.Level, id string) error {
	wrote := false
	for _, l := range levels {
		if at, ok := c.first[l.SKU]; ok {
			if !at.before(l) {
				continue
			}
			delete(c.first, l.SKU)
		}
		a, ok := availability(l, c.location)
		if !ok {
			continue
		}
		c.event("availability", "", a)
		wrote = true
		if c.buf.Len() >= changeChunk {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	if wrote {
		c.id(id)
	}
	return nil
}

// id moves the reader's position on. An id without data makes no event; browsers keep it all the same.
func (c *changeWriter) id(id string) { fmt.Fprintf(&c.buf, "id: %s\n\n", id) }

func (c *changeWriter) event(name, id string, data any) {
	b, err := json.Marshal(data)
	if err != nil {
		return // plain values always marshal
	}
	if id != "" {
		fmt.Fprintf(&c.buf, "id: %s\n", id)
	}
	fmt.Fprintf(&c.buf, "event: %s\ndata: %s\n\n", name, b)
}

func (c *changeWriter) flush() error {
	if c.buf.Len() == 0 {
		return nil
	}
	_ = c.control.SetWriteDeadline(time.Now().Add(changeStall)) // a connection without deadlines is its server's to bound
	if _, err := c.w.Write(c.buf.Bytes()); err != nil {
		return err
	}
	c.buf.Reset()
	return c.control.Flush()
}
