package allocator

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/allocation"
)

// Answer is the body of GET /v1/targets/{sku}.
type Answer struct {
	SKU             string           `json:"sku"`
	LevelVersion    int64            `json:"level_version"`
	SettingsVersion int64            `json:"settings_version"`
	Targets         []AnsweredTarget `json:"targets"` // in order of channel
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
	case !o.live:
		return nil, loading
	}
	st := o.skus[sku]
	if st == nil || !st.known {
		return nil, problem.New(http.StatusNotFound, "unknown-sku", "Unknown SKU", "the ledger has no stock level of this SKU; check its spelling, or send its first receipt or count")
	}
	a := &Answer{SKU: st.id, LevelVersion: st.version, SettingsVersion: s.engine.plan.Version, Targets: []AnsweredTarget{}}
	for _, t := range s.engine.explained(st, 0) {
		at := AnsweredTarget{Channel: t.Channel, ExternalID: t.ExternalID, Quantity: t.Quantity, Mode: t.Mode, Sold: t.Sold, Restored: t.Restored}
		for _, step := range t.Explanation {
			at.Explanation = append(at.Explanation, AnsweredStep{Step: step.Name, Units: step.Units, Detail: step.Detail})
		}
		a.Targets = append(a.Targets, at)
	}
	return a, nil
}
