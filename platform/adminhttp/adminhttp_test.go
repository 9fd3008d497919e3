package adminhttp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func get(h http.Handler, path string) (int, map[string]string, string) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil))
	var out map[string]string
	_ = json.Unmarshal(rec.Body.Bytes(), &out) // nil when it is no JSON
	return rec.Code, out, rec.Body.String()
}

func TestReadiness(t *testing.T) {
	var fault error
	h := Handler(http.NotFoundHandler(), map[string]Check{
		"a": func(context.Context) error { return fault },
		"b": func(context.Context) error { return nil },
	})
	fault = errors.New("catalog not read yet")
	if status, out, _ := get(h, "/readyz"); status != http.StatusServiceUnavailable || out["a"] != fault.Error() || out["b"] != "ok" {
		t.Errorf("with a fault: %d %v", status, out)
	}
	if status, _, _ := get(h, "/healthz"); status != http.StatusOK {
		t.Errorf("a process that is not ready is alive all the same: %d", status)
	}
	fault = nil
	if status, out, _ := get(h, "/readyz"); status != http.StatusOK || out["a"] != "ok" {
		t.Errorf("without a fault: %d %v", status, out)
	}
	if status, _, _ := get(Handler(http.NotFoundHandler(), nil), "/readyz"); status != http.StatusOK {
		t.Errorf("nothing to wait for: %d", status)
	}
}

// A check that hangs is given up after two seconds, and takes no time from the others.
func TestAHangingCheckIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		h := Handler(http.NotFoundHandler(), map[string]Check{
			"hangs": hang, "hangs too": hang,
			"slow": func(ctx context.Context) error {
				select {
				case <-time.After(1900 * time.Millisecond):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		})
		began := time.Now()
		status, out, _ := get(h, "/readyz")
		if took := time.Since(began); status != http.StatusServiceUnavailable || took != 2*time.Second {
			t.Errorf("%d after %v, want 503 after 2s", status, took)
		}
		if out["slow"] != "ok" || out["hangs"] != context.DeadlineExceeded.Error() || out["hangs too"] != context.DeadlineExceeded.Error() {
			t.Errorf("%v", out)
		}
	})
}

func TestMetricsAndProfiles(t *testing.T) {
	h := Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("onhand_x 1")) }), nil)
	if status, _, body := get(h, "/metrics"); status != http.StatusOK || body != "onhand_x 1" {
		t.Errorf("/metrics: %d %s", status, body)
	}
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap?debug=1": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/symbol": 200, "/debug/pprof/nothing": 404, "/": 404,
	} {
		if status, _, _ := get(h, path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}
