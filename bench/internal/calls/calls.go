// Package calls measures how long HTTP calls take, and how many there are room for.
package calls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Figures is how one kind of call did.
type Figures struct {
	What    string  `json:"what"`
	Callers int     `json:"callers"` // each makes its next call when the one before is answered
	Calls   int     `json:"calls"`
	PerS    float64 `json:"per_s"`
	SKUsPS  float64 `json:"skus_per_s,omitempty"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
}

// String is the figures for people.
func (f Figures) String() string { return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", f.P50, f.P99) }

// Run has callers make calls for a time. Call gets a number of its own. The first error ends it.
func Run(ctx context.Context, what string, callers int, long time.Duration, call func(ctx context.Context, n int64) error) (Figures, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var n atomic.Int64
	took, errs := make([][]time.Duration, callers), make([]error, callers)
	began := time.Now()
	for i := range callers {
		wg.Go(func() {
			for time.Since(began) < long && ctx.Err() == nil {
				at := time.Now()
				if errs[i] = call(ctx, n.Add(1)); errs[i] != nil {
					cancel()
					return
				}
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(began).Seconds()
	if err := errors.Join(errs...); err != nil {
		return Figures{}, fmt.Errorf("%s: %w", what, err)
	}
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	if len(all) == 0 {
		return Figures{}, fmt.Errorf("%s: no call was made: %w", what, ctx.Err())
	}
	ms := func(q float64) float64 {
		return float64(all[min(len(all)-1, int(q*float64(len(all))))].Microseconds()) / 1000
	}
	return Figures{What: what, Callers: callers, Calls: len(all), PerS: float64(len(all)) / elapsed, P50: ms(.5), P99: ms(.99)}, nil
}

// API is an Onhand to call.
type API struct {
	URL string
	Key string // empty when none is asked for

	client http.Client
}

// New is an API with connections enough for so many callers.
func New(url, key string, callers int) *API {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = callers
	return &API{URL: url, Key: key, client: http.Client{Transport: t, Timeout: 30 * time.Second}}
}

// Do makes a call, wants its status, and returns the answer's body and ETag.
func (a *API) Do(ctx context.Context, method, path, contentType string, body []byte, header map[string]string, want int) ([]byte, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	if a.Key != "" {
		req.Header.Set("Authorization", "Bearer "+a.Key)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode != want {
		return nil, "", fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, text)
	}
	return text, resp.Header.Get("ETag"), nil
}

// Reads measures the availability API: single SKUs and batches, some of which are known to the caller already.
func Reads(ctx context.Context, a *API, name func(int) string, skus int, long time.Duration) ([]Figures, error) {
	var out []Figures
	one := func(ctx context.Context, _ int64) error {
		_, _, err := a.Do(ctx, http.MethodGet, "/v1/availability/"+name(rand.IntN(skus)), "", nil, nil, http.StatusOK)
		return err
	}
	batch := func(size int) []byte {
		from := rand.IntN(skus)
		names := make([]string, size)
		for i := range names {
			names[i] = name((from + i*37) % skus)
		}
		b, _ := json.Marshal(map[string]any{"skus": names}) // strings always can be
		return b
	}
	for _, c := range []struct {
		what          string
		callers, size int
		known         bool
	}{
		{"one SKU", 1, 1, false}, {"one SKU", 8, 1, false}, {"1,000 SKUs", 1, 1000, false}, {"1,000 SKUs", 4, 1000, false}, {"5,000 SKUs", 1, 5000, false},
		{"1,000 SKUs that have not changed (304)", 1, 1000, true},
	} {
		call := one
		if c.size > 1 {
			call = func(ctx context.Context, _ int64) error {
				b, _, err := a.Do(ctx, http.MethodPost, "/v1/availability", "application/json", batch(c.size), nil, http.StatusOK)
				if err == nil && bytes.Contains(b, []byte(`"unknown":["`)) {
					err = errors.New("some SKUs are unknown")
				}
				return err
			}
		}
		if c.known {
			asked := batch(c.size)
			_, tag, err := a.Do(ctx, http.MethodPost, "/v1/availability", "application/json", asked, nil, http.StatusOK)
			if err != nil {
				return nil, err
			}
			call = func(ctx context.Context, _ int64) error {
				_, _, err := a.Do(ctx, http.MethodPost, "/v1/availability", "application/json", asked, map[string]string{"If-None-Match": tag}, http.StatusNotModified)
				return err
			}
		}
		f, err := Run(ctx, c.what, c.callers, long, call)
		if err != nil {
			return nil, err
		}
		f.SKUsPS = f.PerS * float64(c.size)
		out = append(out, f)
	}
	return out, nil
}
