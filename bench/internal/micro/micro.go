// Package micro runs the Go benchmarks of the hot paths, each several times, and sums them up by median and spread.
package micro

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onhand/onhand/bench/internal/report"
)

// Config says how long and how often.
type Config struct {
	Time  string // as go test -benchtime takes it
	Count int
	Say   func(format string, args ...any)
}

// packages are what is measured: directory below the root, package in it, and which benchmarks.
var packages = []struct{ dir, path, bench string }{
	{"stock", "./ledger", "Fold"},
	{"stock", "./allocation", "Solve"},
	{"stock", "./catalog", "Rules"},
	{"bench", "./codec", "."},
	{"services/ingest", "./internal/intake", "ReadOrder"},
	{"services/allocator", ".", "ChangedSKU"},
	{"services/analytics", ".", "Encode"},
}

// Figure is one benchmark: the median of each unit over its runs, and how far the runs are apart.
type Figure struct {
	Package string             `json:"package"`
	Name    string             `json:"name"`
	Runs    int                `json:"runs"`
	Median  map[string]float64 `json:"median"` // by unit
	Spread  map[string]float64 `json:"spread"` // (highest − lowest) ÷ median
}

// Bench runs it.
func Bench(ctx context.Context, cfg Config, root string, r *report.Report) error {
	var figures []Figure
	for _, p := range packages {
		cfg.Say("%s %s", p.dir, p.path)
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", p.bench, "-benchmem", "-benchtime", cfg.Time, "-count", strconv.Itoa(max(1, cfg.Count)), p.path)
		cmd.Dir = filepath.Join(root, filepath.FromSlash(p.dir))
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %s: %w\n%s", p.dir, p.path, err, out)
		}
		got, err := read(out)
		if err != nil {
			return fmt.Errorf("%s %s: %w", p.dir, p.path, err)
		}
		if len(got) == 0 {
			return fmt.Errorf("%s %s: no benchmark is called %s", p.dir, p.path, p.bench)
		}
		for _, f := range got {
			f.Package = strings.TrimSuffix(p.dir+"/"+strings.TrimPrefix(p.path, "./"), "/.")
			figures = append(figures, f)
			r.Row(f.Package+" "+f.Name, show(f), "")
		}
	}
	r.Figures = figures
	r.Note("Median of %d runs of %s, ± half the distance between the highest and the lowest. One core.", cfg.Count, cfg.Time)
	return nil
}

func show(f Figure) string {
	var parts []string
	one := func(unit string) {
		if v, ok := f.Median[unit]; ok {
			text := strconv.FormatFloat(v, 'f', -1, 64)
			if v >= 1000 {
				text = report.Count(v)
			}
			text += " " + unit
			if f.Spread[unit] >= 0.01 {
				text += fmt.Sprintf(" ±%.0f%%", 50*f.Spread[unit])
			}
			parts = append(parts, text)
		}
	}
	known := []string{"ns/op", "B/op", "allocs/op"}
	one(known[0])
	units := make([]string, 0, len(f.Median))
	for u := range f.Median {
		if !slices.Contains(known, u) {
			units = append(units, u)
		}
	}
	slices.Sort(units)
	for _, u := range append(units, known[1:]...) {
		one(u)
	}
	return strings.Join(parts, ", ")
}

// read sums up the output of go test -bench.
func read(out []byte) ([]Figure, error) {
	var names []string
	values := make(map[string]map[string][]float64)
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		if values[name] == nil {
			names = append(names, name)
			values[name] = make(map[string][]float64)
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", s.Text(), err)
			}
			values[name][f[i+1]] = append(values[name][f[i+1]], v)
		}
	}
	var figures []Figure
	for _, name := range names {
		f := Figure{Name: name, Median: make(map[string]float64), Spread: make(map[string]float64)}
		for unit, vs := range values[name] {
			slices.Sort(vs)
			f.Runs = len(vs)
			f.Median[unit] = vs[len(vs)/2]
			if f.Median[unit] > 0 {
				f.Spread[unit] = (vs[len(vs)-1] - vs[0]) / f.Median[unit]
			}
		}
		figures = append(figures, f)
	}
	return figures, nil
}
