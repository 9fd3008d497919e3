package allocator

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
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
	case !o.live:
		return nil, loading
	}
	st := o.skus[sku]
	if st == nil || !st.known {
		return nil, problem.New(http.StatusNotFound, "unknown-sku", "Unknown SKU", "the ledger has no stock level of this SKU; check its spelling, or send its first receipt or count")
	}
	a := &Answer{SKU: st.id, LevelVersion: st.version, SettingsVersion: s.engine.plan.Version, Targets: []AnsweredTarget{}}
	s.engine.answer(a, st, time.Now().UnixMicro())
	return a, nil
}

// answer fills in the targets of a SKU in force, with the derivation of each.
func (e *engine) answer(a *Answer, s *sku, now int64) {
	rules := e.prepare(s)
	e.solver.Solve(&e.input)
	a.Phase, a.Guarantee = s.books.Phase().String(), rules.Guarantee.String()
	kept := s.books.Phase() != escrow.Pooled
	if kept && s.books.Guarded() {
		room := s.books.Available() - s.books.Exposed()
		a.Room = &room
	}
	e.fill(s.of, now)
	e.escrowInput(s, rules, now)
	if rules.Guarantee == allocation.Adaptive && !kept {
		a.Hindrance = s.hindrance
		t := e.decider.Threshold(s.books, &e.in)
		a.Threshold = &t
	}
	for i := range e.offers {
		x := e.shows(s, i, rules)
		at := AnsweredTarget{Channel: x.channel, ExternalID: x.externalID, Quantity: x.quantity, Mode: x.mode, Sold: x.sold, Restored: x.restored}
		last, written := find(s.shown, x.channel)
		var steps []allocation.Step
		if kept {
			steps = e.derive(nil, s, x.channel)
			at.Mode = strictMode
			if written {
				at.Quantity = s.shown[last].quantity
			}
			if v, ok := s.books.View(x.channel); ok {
				if v.Known {
					at.Exposure = &v.Exposure
				}
				if v.OpenWrite != "" {
					at.Granted = &AnsweredGrant{ID: v.OpenWrite}
					steps = append(steps, allocation.Step{Name: "granted", Units: at.Quantity, Detail: "write " + v.OpenWrite + " is under way; nothing else may be written until its result comes"})
				}
			}
		} else {
			steps = e.solver.Explain(nil, i)
			risk := e.risk(s, i)
			at.OversellRisk = &risk
		}
		for _, step := range steps {
			at.Explanation = append(at.Explanation, AnsweredStep{Step: step.Name, Units: step.Units, Detail: step.Detail})
		}
		at.Watermark = moment(s.of.marks[x.channel])
		at.SalesPerHour = float64(s.books.Rate(x.channel, now)) * 3.6
		if written {
			at.LastWrite = answeredWrite(&s.shown[last].last)
		}
		a.Targets = append(a.Targets, at)
	}
}

// risk is the probability that a pooled channel sells more than there is, should stock run out now. The solver and the input are those of the SKU.
func (e *engine) risk(s *sku, offer int) float64 {
	return escrow.OversellProbability(e.doubt(s, offer))
}

// doubt is what the risk of a pooled channel comes from: its rate of sales, how long the news is under way, and its buffer. The plan's channels and their delays have been
// filled in, and the SKU prepared.
func (e *engine) doubt(s *sku, offer int) (rate, window int64, buffer allocation.Units) {
	o := &e.offers[offer]
	id := e.plan.Layout.SellerID(o.Channel)
	d := escrow.DefaultDelay
	if m := e.in.Delays[o.Channel]; m.Event > 0 {
		d.Event = m.Event
	}
	if m := e.in.Delays[o.Channel]; m.Write > 0 {
		d.Write = m.Write
	}
	return s.books.Rate(id, e.in.Now), d.Event + d.Write, e.input.Rules.Channels[o.Channel].Buffer.Units
}

func answeredWrite(r *result) *AnsweredWrite {
	if r.outcome == write.UnspecifiedOutcome {
		return nil
	}
	w := &AnsweredWrite{Operation: r.operation.String(), Value: r.value, Outcome: r.outcome.String(), SentAt: moment(r.sentAt), AckedAt: moment(r.ackedAt)}
	if r.shownKnown {
		shown := r.shown
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
