package oneprocess

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/onhand/onhand/bench/internal/calls"
	"github.com/onhand/onhand/bench/internal/process"
	"github.com/onhand/onhand/bench/internal/report"
)

// APIConfig says how calls are measured.
type APIConfig struct {
	For  time.Duration // each kind of call
	SKUs int
	Say  func(format string, args ...any)
}

// APIFigures is how the API of onhand up answers.
type APIFigures struct {
	SKUs         int             `json:"skus"`
	Reads        []calls.Figures `json:"reads"`
	Reservations []calls.Figures `json:"reservations"`
}

// callers is the most that call at once.
const callers = 16

// API measures reads of availability, and reservations, of an `onhand up` that does nothing else.
func API(ctx context.Context, cfg APIConfig, root string, r *report.Report) (err error) {
	dir, program, remove, err := build(ctx, root, "api")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	data := filepath.Join(dir, "data")
	up, err := start(ctx, program, append(flags(data), "--no-replay"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.stop()) }()
	api, err := reach(data)
	if err != nil {
		return err
	}
	const location = "bench"
	catalog := "locations:\n  - {id: " + location + ", name: Bench, kind: warehouse, country: DE, time_zone: Europe/Berlin}\n"
	if _, _, err := api.Do(ctx, http.MethodPut, "/v1/catalog", "application/yaml", []byte(catalog), nil, http.StatusOK); err != nil {
		return err
	}
	name := func(i int) string { return fmt.Sprintf("BENCH-%06d", i) }
	cfg.Say("stocking %s SKUs", report.Count(cfg.SKUs))
	var b bytes.Buffer
	now := time.Now().UTC().Format(time.RFC3339)
	for i := range cfg.SKUs {
		fmt.Fprintf(&b, `{"id":"opening/%d","kind":"receipt_received","sku":%q,"quantity":1000000,"location":%q,"occurred_at":%q}`+"\n", i, name(i), location, now)
	}
	if _, _, err := api.Do(ctx, http.MethodPost, "/v1/events?results=failed", "application/x-ndjson", b.Bytes(), nil, http.StatusAccepted); err != nil {
		return err
	}
	for stocked := time.Now().Add(time.Minute); ; {
		_, _, err := api.Do(ctx, http.MethodGet, "/v1/availability/"+name(cfg.SKUs-1), "", nil, nil, http.StatusOK)
		if err == nil {
			break
		}
		if time.Now().After(stocked) || ctx.Err() != nil {
			return fmt.Errorf("the stock is not there after a minute: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cfg.Say("waiting until the stock is everywhere")
	if err := up.settled(ctx); err != nil {
		return err
	}
	f := APIFigures{SKUs: cfg.SKUs}
	cfg.Say("reads")
	if f.Reads, err = calls.Reads(ctx, api, name, cfg.SKUs, cfg.For); err != nil {
		return err
	}
	for _, x := range f.Reads {
		r.Row(fmt.Sprintf("read %s, %d at once", x.What, x.Callers), x.String(), fmt.Sprintf("%s answers/s, %s SKUs/s", report.Count(x.PerS), report.Count(x.SKUsPS)))
	}
	cfg.Say("reservations")
	for _, c := range []struct {
		skus, callers int
	}{{1, 1}, {1, callers}, {2, 1}, {2, callers}} {
		x, err := calls.Run(ctx, fmt.Sprintf("%d SKU", c.skus), c.callers, cfg.For, func(ctx context.Context, n int64) error {
			var items []string
			for k := range c.skus {
				items = append(items, fmt.Sprintf(`{"sku":%q,"quantity":1}`, name((int(n)*7+k*4001)%cfg.SKUs)))
			}
			body := fmt.Sprintf(`{"id":"bench-%d-%d-%d","ttl_seconds":600,"items":[%s]}`, c.skus, c.callers, n, strings.Join(items, ","))
			_, _, err := api.Do(ctx, http.MethodPost, "/v1/reservations", "application/json", []byte(body), nil, http.StatusCreated)
			return err
		})
		if err != nil {
			return err
		}
		f.Reservations = append(f.Reservations, x)
		r.Row(fmt.Sprintf("reserve %d SKU, %d at once", c.skus, c.callers), x.String(), fmt.Sprintf("goal: p99 30 ms; %s/s", report.Count(x.PerS)))
	}
	r.Figures = f
	r.Note("The built program in a process of its own, with the example's catalog, its marketplaces and %s SKUs, and no other work. Callers are in the benchmark's process, on the same machine, over HTTP; each "+
		"makes its next call when the one before is answered. Each kind of call for %s. A reservation is answered when it is decided: it is in the log, and folded.", report.Count(cfg.SKUs), cfg.For)
	return nil
}

// settled waits until the process has little to do: the stock is at all marketplaces, and in ClickHouse.
func (up *running) settled(ctx context.Context) error {
	const calm, look = 0.25, 2 * time.Second // cores
	last, err := process.CPUOf(up.cmd.Process.Pid)
	tick := time.NewTicker(look)
	defer tick.Stop()
	for limit := time.Now().Add(3 * time.Minute); err == nil; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		was := last
		if last, err = process.CPUOf(up.cmd.Process.Pid); err == nil && (last-was).Seconds() < calm*look.Seconds() {
			return nil
		}
		if time.Now().After(limit) {
			return errors.New("onhand up is still busy three minutes after it was stocked")
		}
	}
	return err
}

// reach finds the API of the onhand up that keeps its data in a directory.
func reach(data string) (*calls.API, error) {
	b, err := os.ReadFile(filepath.Join(data, "run.json"))
	if err != nil {
		return nil, err
	}
	var at struct {
		API string `json:"api"`
	}
	if err := json.Unmarshal(b, &at); err != nil {
		return nil, fmt.Errorf("run.json: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(data, "api-key"))
	if err != nil {
		return nil, err
	}
	return calls.New(at.API, strings.TrimSpace(string(key)), callers), nil
}
