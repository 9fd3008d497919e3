package allinone

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/allinone/console"
	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/services/allocator"
	"github.com/onhand/onhand/services/analytics"
	channelpusher "github.com/onhand/onhand/services/channel-pusher"
	"github.com/onhand/onhand/services/ingest"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/topics"
)

// assemble makes the services, without starting them: some register with the catalog view, which must not run before.
func (p *Process) assemble(names []string, codec *topics.Codec) error {
	d := &p.deps
	readers := p.guard(apikey.Read)
	for _, name := range names {
		tel := d.Telemetry.For(name)
		s := &part{name: name}
		var err error
		switch name {
		case Ingest:
			if p.Ingest, err = ingest.New(p.cfg.Ingest, ingest.Deps{Kafka: d.Kafka, Codec: codec, Redis: d.Redis, Catalog: p.view, Telemetry: tel, Keys: d.Keys}); err != nil {
				return err
			}
			s.unit, s.run, s.ready = "events", p.Ingest.Run, p.Ingest.Ready
			s.total = func() int64 { st := p.Ingest.Stats(); return st.Lines + st.Events }
			s.lag = func() int64 { return 0 } // a request waits for its own answer
		case Projector:
			if p.Projector, err = ledgerprojector.New(p.cfg.Projector, ledgerprojector.Deps{Kafka: d.Kafka, Codec: codec, Redis: d.Redis, Telemetry: tel, Middleware: readers}); err != nil {
				return err
			}
			s.unit, s.run, s.ready = "events", p.Projector.Run, p.Projector.Ready
			s.total = func() int64 { return p.Projector.Stats().Applied }
			s.lag = func() (n int64) {
				for _, l := range p.Projector.Stats().Lag {
					n += l
				}
				return n
			}
		case Allocator:
			if p.Allocator, err = allocator.New(p.cfg.Allocator, allocator.Deps{Kafka: d.Kafka, Codec: codec, Catalog: p.view, Telemetry: tel, Middleware: readers}); err != nil {
				return err
			}
			s.unit, s.run, s.ready = "targets", p.Allocator.Run, p.Allocator.Ready
			s.total = func() int64 { return p.Allocator.Stats().Targets }
			s.lag = func() int64 { return p.Allocator.Stats().Lag }
		case Pusher:
			if p.Pusher, err = channelpusher.New(p.cfg.Pusher, channelpusher.Deps{Kafka: d.Kafka, Codec: codec, Catalog: p.view, Telemetry: tel}); err != nil {
				return err
			}
			s.unit, s.run = "writes", p.Pusher.Run
			s.ready = func(ctx context.Context) error {
				if len(p.view.Settings().Channels) == 0 && p.Pusher.Stats().Channels == nil {
					return p.view.WaitReady(ctx) // its group has nothing to join for
				}
				return p.Pusher.Ready(ctx)
			}
			s.total = func() int64 { return p.Pusher.Stats().Applied }
			s.lag = func() int64 { st := p.Pusher.Stats(); return int64(st.Backlog + st.InFlight) }
		case Analytics:
			if p.Analytics, err = analytics.New(p.cfg.Analytics, analytics.Deps{Kafka: d.Kafka, Codec: codec, Telemetry: tel, Middleware: []func(http.Handler) http.Handler{readers}}); err != nil {
				return err
			}
			s.unit, s.run, s.ready = "rows", p.Analytics.Run, p.Analytics.Ready
			s.total = func() int64 { return p.Analytics.Stats().Rows }
			s.lag = func() int64 { return p.Analytics.Stats().Lag }
		}
		p.parts = append(p.parts, s)
	}
	return nil
}

// inside marks requests that the process makes of its own routes. Nothing outside can set it.
type inside struct{}

// guard asks for a key with the scope, except from the process itself.
func (p *Process) guard(scope apikey.Scope) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		asked := p.deps.Keys.Require(scope)(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Context().Value(inside{}) != nil {
				next.ServeHTTP(w, r)
				return
			}
			asked.ServeHTTP(w, r)
		})
	}
}

// handler is everything that the listener serves.
func (p *Process) handler() http.Handler {
	r := chi.NewRouter()
	if p.Ingest != nil {
		p.Ingest.Routes(r)
	}
	queries := chi.NewRouter() // what the console may ask; the services guard these routes themselves
	mount := func(r chi.Router) {
		if p.Projector != nil {
			p.Projector.Routes(r)
		}
		if p.Allocator != nil {
			p.Allocator.Routes(r)
		}
	}
	mount(r)
	mount(queries)
	if p.Analytics != nil {
		p.Analytics.Routes(r)
	}
	r.Group(func(r chi.Router) {
		r.Use(p.guard(apikey.Read))
		r.Get("/v1/figures", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, p.Figures()) })
		r.Get("/v1/quiet", p.quiet)
	})
	admin := adminhttp.Handler(p.deps.Telemetry.Metrics, p.checks())
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		r.Method(http.MethodGet, path, admin)
	}
	r.Group(func(r chi.Router) {
		r.Use(p.guard(apikey.Admin)) // a profile takes time, and shows what the process holds
		r.Handle("/debug/pprof/*", admin)
	})
	if p.cfg.Console {
		c := console.New(p.Figures, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			queries.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), inside{}, true)))
		}), p.deps.ConsoleSecret)
		p.open = c
		c.Routes(r)
		r.Group(func(r chi.Router) {
			r.Use(p.guard(apikey.Admin))
			r.Post("/console/links", func(w http.ResponseWriter, _ *http.Request) {
				reply(w, http.StatusCreated, map[string]string{"path": c.Link()})
			})
		})
	}
	return r
}

// ConsoleLink is a URL that opens the console once; empty when there is none.
func (p *Process) ConsoleLink() string {
	if p.open == nil {
		return ""
	}
	return p.URL() + p.open.Link()
}

// quiet answers when everything that came in before has run through every stage: 204, or 504 after a minute.
func (p *Process) quiet(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	if err := p.Quiesce(ctx); err != nil {
		problem.Write(w, problem.New(http.StatusGatewayTimeout, "busy", "Not quiet yet", err.Error()+"; ask again"))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// checks is what /readyz tells.
func (p *Process) checks() map[string]adminhttp.Check {
	out := make(map[string]adminhttp.Check, len(p.parts)+len(p.deps.Checks)+1)
	for _, s := range p.parts {
		out[s.name] = s.ready
	}
	for name, c := range p.deps.Checks {
		out[name] = c
	}
	out["process"] = func(context.Context) error { return p.Err() }
	return out
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
