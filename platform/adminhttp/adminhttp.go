// Package adminhttp serves what operators and orchestrators ask of every process: /healthz, /readyz, /metrics and /debug/pprof. It belongs on a
// port of its own that is not open to the outside.
package adminhttp

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
)

// Check reports why a part is not ready, or nil.
type Check func(context.Context) error

// Handler serves the endpoints. /healthz answers 200 while the process lives; /readyz answers 503 and names each failing check until all
// pass, each given two seconds.
func Handler(metrics http.Handler, checks map[string]Check) http.Handler {
	r := chi.NewRouter()
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	r.Get("/readyz", func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), 2*time.Second)
		defer cancel()
		var mu sync.Mutex
		status, out := http.StatusOK, make(map[string]string, len(checks))
		var asked sync.WaitGroup
		for name, check := range checks { // at once, so that a slow one takes no time from the others
			asked.Go(func() {
				err := check(ctx)
				mu.Lock()
				defer mu.Unlock()
				out[name] = "ok"
				if err != nil {
					status, out[name] = http.StatusServiceUnavailable, err.Error()
				}
			})
		}
		asked.Wait()
		reply(w, status, out)
	})
	r.Handle("/metrics", metrics)
	r.HandleFunc("/debug/pprof/", pprof.Index)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/{name}", func(w http.ResponseWriter, req *http.Request) {
		pprof.Handler(chi.URLParam(req, "name")).ServeHTTP(w, req)
	})
	return r
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
