package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
)

// watermarkAhead is how far a channel's watermark may be ahead of Onhand's clock.
const watermarkAhead = 5 * time.Minute

// maxWatermark is the most bytes of a watermark's body.
const maxWatermark = 4 << 10

// WatermarkDocument says how far the orders of a channel have been sent.
type WatermarkDocument struct {
	Until time.Time `json:"until" doc:"Every order that the channel took up to here, by its own clock, has been sent and answered with 202." example:"2026-02-03T10:15:00Z"`
}

// WatermarkReceipt is the answer to a watermark.
type WatermarkReceipt struct {
	Channel string    `json:"channel" doc:"The channel."`
	Until   time.Time `json:"until" doc:"The watermark in force: the one that was sent, or a newer one."`
	Moved   bool      `json:"moved" doc:"The watermark in force is the one that was sent, and was an older one before."`
}

// watermark is the newest one of a channel that this instance has passed on. Its lock keeps their order.
type watermark struct {
	mu    chan struct{} // has a token when it is free
	until int64         // microseconds
}

// watermarks is all channels'.
type watermarks struct {
	mu         sync.Mutex
	channels   map[string]*watermark
	partitions int32 // of stock.events; 0 until known
}

func (ws *watermarks) of(channel string) *watermark {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.channels == nil {
		ws.channels = make(map[string]*watermark)
	}
	w := ws.channels[channel]
	if w == nil {
		w = &watermark{mu: make(chan struct{}, 1)}
		w.mu <- struct{}{}
		ws.channels[strings.Clone(channel)] = w
	}
	return w
}

// partitions is the number of partitions of stock.events. It never changes while a cluster lives.
func (s *Service) partitions(ctx context.Context) (int32, error) {
	s.watermarks.mu.Lock()
	defer s.watermarks.mu.Unlock()
	if s.watermarks.partitions > 0 {
		return s.watermarks.partitions, nil
	}
	m, err := kadm.NewClient(s.producer).Metadata(ctx, schemas.StockEvents)
	if err != nil {
		return 0, fmt.Errorf("partitions of %s: %w", schemas.StockEvents, err)
	}
	t := m.Topics[schemas.StockEvents]
	if t.Err != nil || len(t.Partitions) == 0 {
		return 0, fmt.Errorf("partitions of %s: %w", schemas.StockEvents, errors.Join(t.Err, errors.New("none are known")))
	}
	s.watermarks.partitions = int32(len(t.Partitions))
	return s.watermarks.partitions, nil
}

// passWatermark writes to every partition of stock.events that all orders of the channel up to until come before, and returns the watermark in
// force. The caller has had all these orders acknowledged. After an error some partitions may have the watermark: it is true there, and the
// caller passes it, or a later one, again.
func (s *Service) passWatermark(ctx context.Context, channel string, until int64, source string) (inForce int64, moved bool, err error) {
	w := s.watermarks.of(channel)
	select {
	case <-w.mu:
	case <-ctx.Done():
		return 0, false, fmt.Errorf("kafka has not acknowledged an earlier watermark: %w", ctx.Err())
	}
	defer func() { w.mu <- struct{}{} }()
	if until <= w.until {
		return w.until, false, nil
	}
	n, err := s.partitions(ctx)
	if err != nil {
		return 0, false, err
	}
	e := event.Event{
		ID: "watermark/" + channel + "/" + strconv.FormatInt(until, 10), Kind: event.OrderWatermarkPassed, Channel: channel, OccurredAt: until,
		ReceivedAt: time.Now().UnixMicro(), Source: source,
	}
	u := unit{records: make([]*kgo.Record, n)}
	for p := range n {
		u.records[p] = s.deps.Codec.EventRecord(&e)
		kafka.ToPartition(u.records[p], p)
	}
	c := call{s: s}
	batch := []pending{{unit: u}}
	if err := c.send(ctx, batch, nil); err != nil {
		return 0, false, err
	}
	if batch[0].err != nil {
		return 0, false, batch[0].err
	}
	w.until = until
	return until, true, nil
}

// postWatermark takes a connector's word that all orders of its channel up to a moment have been sent.
func (s *Service) postWatermark(w http.ResponseWriter, r *http.Request) {
	channel := chi.URLParam(r, "channel")
	until, fault := s.readWatermark(w, r, channel)
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), s.cfg.AckTimeout)
	defer cancel()
	inForce, moved, err := s.passWatermark(ctx, channel, until, sourceAPI)
	if err != nil {
		problem.Write(w, s.notAcknowledged(err))
		return
	}
	reply(w, http.StatusAccepted, WatermarkReceipt{Channel: channel, Until: time.UnixMicro(inForce).UTC(), Moved: moved})
}

func (s *Service) readWatermark(w http.ResponseWriter, r *http.Request, channel string) (int64, *problem.Details) {
	if !catalog.ValidChannelID(channel) {
		return 0, problem.New(http.StatusBadRequest, "parameter", "Parameter not valid",
			fmt.Sprintf("channel %.64q: want 1 to 100 letters, digits, points, dashes and underscores", channel))
	}
	ready, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := s.deps.Catalog.WaitReady(ready); err != nil {
		return 0, unavailable("the catalog has not been read yet: send the request again", 2*time.Second)
	}
	if s.deps.Catalog.Settings().Channels[channel] == nil {
		return 0, problem.New(http.StatusNotFound, "not-found", "Not found", fmt.Sprintf("there is no channel %q in the catalog: apply it first, with PUT /v1/catalog", channel))
	}
	if _, fault := mediaType(r, map[string]string{jsonBody: jsonBody}, jsonBody); fault != nil {
		return 0, fault
	}
	raw, fault := s.readAll(w, r, maxWatermark, `send {"until": …} only`)
	if fault != nil {
		return 0, fault
	}
	if len(raw) == 0 {
		return 0, emptyBody()
	}
	refuse := func(pointer, code, detail string) *problem.Details {
		return invalid([]problem.Field{{Pointer: pointer, Code: code, Detail: detail}})
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return 0, problem.New(http.StatusBadRequest, "syntax", "Not JSON", `the body is no JSON object such as {"until": "2026-02-03T10:15:00Z"}: `+err.Error())
	}
	for name := range fields {
		if name != "until" {
			return 0, refuse("/"+name, "unknown_field", fmt.Sprintf("%.64q is not a field of a watermark: it has until only", name))
		}
	}
	text, ok := fields["until"]
	if !ok || string(text) == "null" {
		return 0, refuse("/until", "required", "until is missing: give the time up to which all orders were sent, as in 2026-02-03T10:15:00Z")
	}
	var until time.Time
	if err := json.Unmarshal(text, &until); err != nil || until.UnixMicro() <= 0 {
		return 0, refuse("/until", "invalid", fmt.Sprintf("until %.64s is not a time after 1970 such as \"2026-02-03T10:15:00Z\"", text))
	}
	if ahead := time.Until(until); ahead > watermarkAhead {
		return 0, refuse("/until", "invalid", fmt.Sprintf("until is %v ahead of Onhand's clock, and at most %v are allowed: nobody knows the orders to come; check the channel's clock and time zone",
			ahead.Round(time.Second), watermarkAhead))
	}
	return until.UnixMicro(), nil
}
