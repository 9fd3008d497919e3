package ledgerprojector

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/ledger"
)

// Availability is what the availability API says of one SKU.
type Availability struct {
	SKU          string                 `json:"sku"`
	Version      int64                  `json:"version"`       // grows by one with each event of the SKU
	Generation   int64                  `json:"generation"`    // of the ledger: a rebuild begins another, in which versions count anew
	SourceOffset int64                  `json:"source_offset"` // of the last event, in the SKU's partition of stock.events
	Available    int64                  `json:"available"`     // all locations, less unassigned; of the location when one was asked for
	Unassigned   int64                  `json:"unassigned"`    // committed with no location yet
	Locations    []LocationAvailability `json:"locations"`
	Sold         map[string]int64       `json:"sold,omitempty"` // by channel, cumulative
	Restored     map[string]int64       `json:"restored,omitempty"`
	LastEvent    LastEvent              `json:"last_event"`
}

// LocationAvailability is the stock at one location.
type LocationAvailability struct {
	Location    string `json:"location"`
	Available   int64  `json:"available"`
	OnHand      int64  `json:"on_hand"`
	Committed   int64  `json:"committed"`
	Held        int64  `json:"held"`
	Inbound     int64  `json:"inbound"`
	Unsellable  int64  `json:"unsellable"`
	SafetyStock int64  `json:"safety_stock"`
}

// LastEvent is the event that made the version.
type LastEvent struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind"`
	ReceivedAt time.Time `json:"received_at"`
}

// Problem is an error body of RFC 9457.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Field  string `json:"field,omitempty"` // the part of the request that is at fault
}

// Routes adds the availability API, inside Deps.Middleware.
func (s *Service) Routes(r chi.Router) {
	r.Group(func(r chi.Router) {
		if s.deps.Middleware != nil {
			r.Use(s.deps.Middleware)
		}
		r.Get("/v1/availability/{sku}", s.getAvailability)
		r.Get("/v1/availability", s.getBatch)
		r.Post("/v1/availability", s.postAvailability)
		r.Get("/v1/availability/changes", s.getChanges)
	})
}

// where says which partition a SKU is in: Kafka's murmur2, as producers of stock.events do.
func where(partitions int32) func(sku string) int32 {
	p := kgo.StickyKeyPartitioner(nil).ForTopic(schemas.StockEvents)
	return func(sku string) int32 { return int32(p.Partition(&kgo.Record{Key: []byte(sku)}, int(partitions))) }
}

func (s *Service) getAvailability(w http.ResponseWriter, r *http.Request) {
	sku, location := pathSKU(r), r.URL.Query().Get("location")
	n := s.partitions.Load()
	if n == 0 {
		unavailable(w, "the ledger is starting: ask again in a moment")
		return
	}
	v, err := s.levels.Read(r.Context(), []string{sku}, where(n))
	if err != nil {
		s.readFailed(w, r, err)
		return
	}
	for p, offset := range v.Applied {
		w.Header().Set(viewHeader, fmt.Sprintf("%d@%d", p, offset))
	}
	a, known := availability(v.Levels[0], location)
	switch {
	case v.Levels[0] == nil:
		problem(w, Problem{Title: "Unknown SKU", Status: http.StatusNotFound, Detail: fmt.Sprintf("no event has named SKU %q", sku), Field: "sku"})
		return
	case !known:
		problem(w, Problem{Title: "Unknown location", Status: http.StatusNotFound, Detail: fmt.Sprintf("SKU %q was never at location %q", sku, location), Field: "location"})
		return
	}
	if !unchanged(w, r, versionTag(a.Generation, a.Version)) {
		reply(w, http.StatusOK, "application/json", a)
	}
}

// viewHeader says how far the ledger was when it was read: partition@offset of stock.events. It moves on with every event of the partition, the ETag only with those
// of the SKU.
const viewHeader = "Onhand-View"

func versionTag(generation, version int64) string {
	if generation == 0 {
		return `"` + strconv.FormatInt(version, 10) + `"`
	}
	return fmt.Sprintf(`"%d.%d"`, generation, version)
}

// unchanged answers 304 when the client has what the tag stands for.
func unchanged(w http.ResponseWriter, r *http.Request, tag string) bool {
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "private, no-cache") // may be kept, must be checked
	if !matches(r.Header.Get("If-None-Match"), tag) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

// pathSKU is the SKU of the path, whatever it is made of: chi leaves it escaped when the path is.
func pathSKU(r *http.Request) string {
	_, rest, _ := strings.Cut(r.URL.Path, "/v1/availability/")
	return rest
}

func matches(header, tag string) bool {
	tag = strings.TrimPrefix(tag, "W/")
	for t := range strings.SplitSeq(header, ",") {
		t = strings.TrimPrefix(strings.TrimSpace(t), "W/")
		if t == tag || t == "*" {
			return true
		}
	}
	return false
}

// BatchRequest asks for the availability of many SKUs.
type BatchRequest struct {
	SKUs     []string `json:"skus"`
	Location string   `json:"location,omitempty"`
}

// BatchResponse answers in the order asked, without those that are unknown.
type BatchResponse struct {
	Items   []Availability `json:"items"`
	Unknown []string       `json:"unknown"` // never named by an event, or never at the location
	View    []ViewOffset   `json:"view"`    // of each partition that a SKU asked for is in
}

// ViewOffset says how far a partition of the ledger was when it was read.
type ViewOffset struct {
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"` // of stock.events: all events up to it are in the answer, later ones may be; -1 for none
}

// getBatch is postAvailability for as many SKUs as fit into a URL.
func (s *Service) getBatch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.batch(w, r, BatchRequest{SKUs: q["sku"], Location: q.Get("location")})
}

func (s *Service) postAvailability(w http.ResponseWriter, r *http.Request) {
	var req BatchRequest
	limit := int64(s.cfg.BatchLimit)*200 + 1<<12
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	d.DisallowUnknownFields()
	err := d.Decode(&req)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the JSON object")
		}
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		problem(w, Problem{Title: "Body too large", Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body may have %d bytes: ask for fewer SKUs at once", limit)})
		return
	}
	if err != nil {
		problem(w, Problem{Title: "Malformed body", Status: http.StatusBadRequest, Detail: "want {\"skus\": [\"…\"], \"location\": \"…\"}: " + err.Error()})
		return
	}
	s.batch(w, r, req)
}

func (s *Service) batch(w http.ResponseWriter, r *http.Request, req BatchRequest) {
	switch {
	case len(req.SKUs) == 0:
		problem(w, Problem{Title: "No SKUs", Status: http.StatusUnprocessableEntity, Detail: "name at least one SKU", Field: "skus"})
		return
	case len(req.SKUs) > s.cfg.BatchLimit:
		problem(w, Problem{Title: "Too many SKUs", Status: http.StatusUnprocessableEntity, Detail: fmt.Sprintf("%d SKUs were asked for; one request may ask for %d", len(req.SKUs), s.cfg.BatchLimit), Field: "skus"})
		return
	}
	n := s.partitions.Load()
	if n == 0 {
		unavailable(w, "the ledger is starting: ask again in a moment")
		return
	}
	v, err := s.levels.Read(r.Context(), req.SKUs, where(n))
	if err != nil {
		s.readFailed(w, r, err)
		return
	}
	if unchanged(w, r, batchTag(req, v.Levels)) {
		return
	}
	out := BatchResponse{Items: make([]Availability, 0, len(v.Levels)), Unknown: []string{}, View: make([]ViewOffset, 0, len(v.Applied))}
	for p, offset := range v.Applied {
		out.View = append(out.View, ViewOffset{p, offset})
	}
	slices.SortFunc(out.View, func(a, b ViewOffset) int { return cmp.Compare(a.Partition, b.Partition) })
	for i, l := range v.Levels {
		if a, ok := availability(l, req.Location); ok {
			out.Items = append(out.Items, a)
		} else {
			out.Unknown = append(out.Unknown, req.SKUs[i])
		}
	}
	reply(w, http.StatusOK, "application/json", out)
}

// batchTag is a digest of what was asked and of the versions found. It is weak: the view that the answer tells is not in it.
func batchTag(req BatchRequest, levels []*ledger.Level) string {
	h := sha256.New()
	line := strconv.AppendQuote(nil, req.Location)
	for i, l := range levels {
		line = strconv.AppendQuote(append(line, '\n'), req.SKUs[i])
		if l != nil {
			line = strconv.AppendInt(append(line, ' '), l.Generation, 10)
			line = strconv.AppendInt(append(line, ' '), l.Version, 10)
		}
		h.Write(line)
		line = line[:0]
	}
	return `W/"` + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16]) + `"`
}

// availability is the answer about a level, narrowed to a location when one is named; false when there is none.
func availability(l *ledger.Level, location string) (Availability, bool) {
	if l == nil {
		return Availability{}, false
	}
	a := Availability{
		SKU: l.SKU, Version: l.Version, Generation: l.Generation, SourceOffset: l.SourceOffset, Available: int64(l.Available()), Unassigned: int64(l.Unassigned),
		Locations: make([]LocationAvailability, 0, len(l.Locations)), Sold: byChannel(l.Sold), Restored: byChannel(l.Restored),
		LastEvent: LastEvent{ID: l.EventID, Kind: l.EventKind.String(), ReceivedAt: time.UnixMicro(l.ReceivedAt).UTC()},
	}
	found := location == ""
	for _, at := range l.Locations {
		if location != "" && at.Location != location {
			continue
		}
		found = true
		if location != "" {
			a.Available = int64(at.Available())
		}
		a.Locations = append(a.Locations, LocationAvailability{
			Location: at.Location, Available: int64(at.Available()), OnHand: int64(at.OnHand), Committed: int64(at.Committed), Held: int64(at.Held),
			Inbound: int64(at.Inbound), Unsellable: int64(at.Unsellable), SafetyStock: int64(at.Safety),
		})
	}
	return a, found
}

func byChannel(cs []ledger.ChannelUnits) map[string]int64 {
	out := make(map[string]int64, len(cs))
	for _, c := range cs {
		out[c.Channel] = int64(c.Units)
	}
	return out
}

func (s *Service) readFailed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the client has gone
	}
	s.log.Warn("availability not read", "err", err)
	unavailable(w, "the ledger's store does not answer: ask again in a moment")
}

func unavailable(w http.ResponseWriter, detail string) {
	w.Header().Set("Retry-After", "1")
	problem(w, Problem{Title: "Not available", Status: http.StatusServiceUnavailable, Detail: detail})
}

func problem(w http.ResponseWriter, p Problem) {
	p.Type = "about:blank"
	reply(w, p.Status, "application/problem+json", p)
}

func reply(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
