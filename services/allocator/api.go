package allocator

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/targeting"
	"github.com/onhand/onhand/stock/write"
)

// Answer is the body of GET /v1/targets/{sku}.
type Answer struct {
	SKU             string            `json:"sku"`
	LevelVersion    int64             `json:"level_version"`
	SettingsVersion int64             `json:"settings_version"`
	Guarantee       string            `json:"guarantee"`           // that the rules ask for: pooled, adaptive or strict
	Phase           string            `json:"phase"`               // how exposure is kept now: pooled, strict or leaving
	Hindrance       string            `json:"hindrance,omitempty"` // why exposure is not kept in books where adaptive would have it
	Threshold       *allocation.Units `json:"threshold,omitempty"` // adaptive and pooled: at or below it exposure is kept in books
	Room            *allocation.Units `json:"room,omitempty"`      // kept in books: available less exposure at all channels
	Targets         []AnsweredTarget  `json:"targets"`             // in order of channel
	Bundle          *AnsweredBundle   `json:"bundle,omitempty"`    // when the SKU is one
}

// AnsweredBundle is how many of a bundle its components make.
type AnsweredBundle struct {
	Makes      allocation.Units    `json:"makes"` // all its channels together may show that
	Components []AnsweredComponent `json:"components"`
}

// AnsweredComponent is what a component contributes to a bundle.
type AnsweredComponent struct {
	SKU       string            `json:"sku"`
	Quantity  allocation.Units  `json:"quantity"`           // of it in one bundle
	Available allocation.Units  `json:"available"`          // in all locations
	Kept      allocation.Units  `json:"pool_buffer"`        // of that, kept off all channels
	Makes     allocation.Units  `json:"makes"`              // bundles that the rest is enough for
	Allotted  *allocation.Units `json:"allotted,omitempty"` // kept in books: what the bundle may still sell of it
}

// AnsweredTarget is what one channel should show, and why.
type AnsweredTarget struct {
	Channel     string           `json:"channel"`
	ExternalID  string           `json:"external_id"`
	Quantity    allocation.Units `json:"quantity"`
	Mode        string           `json:"mode"`
	Sold        allocation.Units `json:"sold"`
	Restored    allocation.Units `json:"restored"`
	Explanation []AnsweredStep   `json:"explanation"`

	Exposure     *allocation.Units `json:"exposure,omitempty"` // kept in books: the most that the channel can still report as sold; absent when pooled or not known yet
	Granted      *AnsweredGrant    `json:"granted,omitempty"`  // the write that has no result yet
	Watermark    *time.Time        `json:"watermark,omitempty"`
	LastWrite    *AnsweredWrite    `json:"last_write,omitempty"`           // newest seen since this instance began
	OversellRisk *float64          `json:"oversell_probability,omitempty"` // pooled: that the channel sells more than there is, should stock run out now
	SalesPerHour float64           `json:"sales_per_hour"`
}

// AnsweredGrant is a write that was granted and has no result.
type AnsweredGrant struct {
	ID string `json:"id"`
}

// AnsweredWrite is what became of a write.
type AnsweredWrite struct {
	Operation string            `json:"operation"`
	Value     allocation.Units  `json:"value"` // quantity, or change of it
	Outcome   string            `json:"outcome"`
	Shown     *allocation.Units `json:"shown,omitempty"`
	SentAt    *time.Time        `json:"sent_at,omitempty"`
	AckedAt   *time.Time        `json:"acked_at,omitempty"`
}

// AnsweredStep is one step of a derivation.
type AnsweredStep struct {
	Step   string           `json:"step"`
	Units  allocation.Units `json:"units"`
	Detail string           `json:"detail,omitempty"`
}

// Routes adds the HTTP API to r.
func (s *Service) Routes(r chi.Router) {
	var h http.Handler = http.HandlerFunc(s.getTargets)
	if s.deps.Middleware != nil {
		h = s.deps.Middleware(h)
	}
	r.Method(http.MethodGet, "/v1/targets/{sku}", h)
}

// getTargets answers from memory: 421 when another instance owns the SKU, 503 while its partition loads, 404 when the ledger has no level of it.
func (s *Service) getTargets(w http.ResponseWriter, r *http.Request) {
	sku := chi.URLParam(r, "sku")
	if r.URL.RawPath != "" { // chi matched the encoded path: a SKU may hold a slash
		var err error
		if sku, err = url.PathUnescape(sku); err != nil {
			problem.Write(w, problem.New(http.StatusBadRequest, "invalid", "Invalid SKU", "the SKU in the path is not percent-encoded right"))
			return
		}
	}
	a, p := s.answer(sku)
	if p != nil {
		problem.Write(w, p)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(a) // the client has gone
}

func (s *Service) answer(sku string) (*Answer, *problem.Details) {
	s.mu.Lock()
	defer s.mu.Unlock()
	loading := problem.New(http.StatusServiceUnavailable, "loading", "Loading", "the allocator is still reading its state; try again in a moment")
	loading.RetryAfter = time.Second
	part := s.partitionOf(sku)
	if part < 0 {
		return nil, loading
	}
	o := s.parts[part]
	switch {
	case o == nil:
		return nil, problem.New(http.StatusMisdirectedRequest, "not-owner", "Another instance owns this SKU",
			"this instance does not own the SKU's partition; ask the other allocators, one of them does")
	case !o.Live():
		return nil, loading
	}
	found, ok := s.engine.Explain(o.Partition, sku, time.Now().UnixMicro())
	if l := s.deps.Catalog.Listing(sku); !ok && l != nil && len(l.Components) > 0 { // it takes no level of its own
		return nil, loading
	}
	if !ok {
		return nil, problem.New(http.StatusNotFound, "unknown-sku", "Unknown SKU", "the ledger has no stock level of this SKU; check its spelling, or send its first receipt or count")
	}
	return answered(sku, &found), nil
}

// answered is an answer of the engine as the API gives it.
func answered(sku string, x *targeting.Answer) *Answer {
	a := &Answer{SKU: sku, LevelVersion: x.LevelVersion, SettingsVersion: x.SettingsVersion, Guarantee: x.Guarantee.String(), Phase: x.Phase.String(), Hindrance: x.Hindrance, Targets: []AnsweredTarget{}}
	if x.ThresholdSet {
		a.Threshold = &x.Threshold
	}
	if x.RoomKnown {
		a.Room = &x.Room
	}
	if len(x.Components) > 0 {
		a.Bundle = &AnsweredBundle{Makes: x.Makes}
		for i := range x.Components {
			c := &x.Components[i]
			y := AnsweredComponent{SKU: c.SKU, Quantity: c.Quantity, Available: c.Available, Kept: c.Kept, Makes: c.Makes}
			if c.Bound {
				y.Allotted = &c.Allotted
			}
			a.Bundle.Components = append(a.Bundle.Components, y)
		}
	}
	for i := range x.Channels {
		c := &x.Channels[i]
		at := AnsweredTarget{
			Channel: c.Channel, ExternalID: c.ExternalID, Quantity: c.Quantity, Mode: c.Mode, Sold: c.Sold, Restored: c.Restored,
			Watermark: moment(c.Watermark), SalesPerHour: float64(c.Rate) * 3.6, LastWrite: answeredWrite(&c.Last),
		}
		for _, step := range c.Steps {
			at.Explanation = append(at.Explanation, AnsweredStep{Step: step.Name, Units: step.Units, Detail: step.Detail})
		}
		if c.ExposureKnown {
			at.Exposure = &c.Exposure
		}
		if c.Granted != "" {
			at.Granted = &AnsweredGrant{ID: c.Granted}
		}
		if c.Pooled {
			at.OversellRisk = &c.OversellRisk
		}
		a.Targets = append(a.Targets, at)
	}
	return a
}

func answeredWrite(r *targeting.LastWrite) *AnsweredWrite {
	if r.Outcome == write.UnspecifiedOutcome {
		return nil
	}
	w := &AnsweredWrite{Operation: r.Operation.String(), Value: r.Value, Outcome: r.Outcome.String(), SentAt: moment(r.SentAt), AckedAt: moment(r.AckedAt)}
	if r.ShownKnown {
		shown := r.Shown
		w.Shown = &shown
	}
	return w
}

func moment(us int64) *time.Time {
	if us == 0 {
		return nil
	}
	t := time.UnixMicro(us).UTC()
	return &t
}
