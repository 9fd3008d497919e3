package rules

import (
	"slices"
	"strings"
	"testing"
)

// room is the first part of a package's path that has a rule: a service, or a folder at the root.
func room(rel string) string {
	parts := strings.Split(rel, "/")
	if parts[0] == "services" && len(parts) > 1 {
		return "services/" + parts[1]
	}
	return parts[0]
}

// closed is, for each room, the rooms that nothing in it may depend on, directly or not.
var closed = map[string][]string{
	"stock":       {"platform", "schemas", "topics", "services", "simulators", "simulation", "embedded", "allinone", "bench", "cmd", "e2e", "examples"},
	"platform":    {"stock", "schemas", "topics", "services", "simulators", "simulation", "embedded", "allinone", "bench", "cmd", "e2e", "examples"},
	"schemas":     {"stock", "platform", "topics", "services", "simulators", "simulation", "embedded", "allinone", "bench", "cmd", "e2e", "examples"},
	"catalogfile": {"platform", "schemas", "topics", "services", "simulators", "simulation", "embedded", "allinone", "bench", "cmd", "e2e", "examples"},
	"topics":      {"services", "simulators", "simulation", "embedded", "allinone", "bench", "cmd", "e2e", "examples"},
	"services":    {"services", "simulators", "simulation", "embedded", "allinone", "bench", "cmd", "e2e", "examples"},
	"embedded":    {"stock", "services", "simulation", "allinone", "bench", "cmd", "e2e"},
	"simulators":  {"services", "simulation", "embedded", "allinone", "bench", "cmd", "e2e"},
	"simulation":  {"platform", "schemas", "topics", "simulators", "embedded", "allinone", "bench", "cmd", "e2e", "examples"},
	"examples":    {"services", "platform", "simulation", "embedded", "allinone", "bench", "cmd", "e2e"},
	"allinone":    {"bench", "cmd", "e2e"},
	"bench":       {"cmd"},
	"e2e":         {"cmd"},
}

// TestImports holds who may depend on whom. Services meet in topics only; stock is arithmetic and platform is plumbing, and neither has heard
// of the other; what only the all-in-one process and the tests need stays out of what runs in production.
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		from := room(p.rel())
		rule := closed[from]
		if strings.HasPrefix(from, "services/") {
			rule = closed["services"]
		}
		for _, dep := range p.Deps {
			rel, ours := strings.CutPrefix(dep, base)
			if !ours || room(rel) == from {
				continue
			}
			if slices.Contains(rule, strings.Split(rel, "/")[0]) {
				t.Errorf("%s depends on %s", p.rel(), rel)
			}
		}
		// What tests import directly: a service's tests may use the simulators, never another service.
		if strings.HasPrefix(from, "services/") {
			for _, dep := range slices.Concat(p.TestImports, p.XTestImports) {
				if rel, ours := strings.CutPrefix(dep, base); ours && strings.HasPrefix(rel, "services/") && room(rel) != from {
					t.Errorf("tests of %s import %s", p.rel(), rel)
				}
			}
		}
	}
}

// TestSimulationRunsTheCores holds that the simulation knows of services only what decides without a clock: the pusher's queue.
func TestSimulationRunsTheCores(t *testing.T) {
	allowed := []string{"services/channel-pusher/queue", "services/channel-pusher/adapter"}
	for _, p := range packages(t) {
		if room(p.rel()) != "simulation" {
			continue
		}
		for _, dep := range p.Deps {
			if rel, ours := strings.CutPrefix(dep, base); ours && strings.HasPrefix(rel, "services/") && !slices.Contains(allowed, rel) {
				t.Errorf("%s depends on %s", p.rel(), rel)
			}
		}
		for _, dep := range p.Imports {
			if slices.Contains([]string{"net", "net/http", "os", "log", "log/slog"}, dep) {
				t.Errorf("%s imports %s: a simulation is of its seed alone", p.rel(), dep)
			}
		}
		if clock(t, p) {
			t.Errorf("%s reads the clock: a simulation has its own", p.rel())
		}
	}
}

// TestStockIsPure holds that the domain depends on nothing that reads a clock, a network or a disk: the standard library's arithmetic, a
// decimal type, a hash and a histogram.
func TestStockIsPure(t *testing.T) {
	allowed := []string{"github.com/govalues/decimal", "github.com/cespare/xxhash/v2", "github.com/HdrHistogram/hdrhistogram-go"}
	forbidden := []string{"net", "net/http", "os/exec", "log", "log/slog", "math/rand", "math/rand/v2", "database/sql"}
	for _, p := range packages(t) {
		if room(p.rel()) != "stock" {
			continue
		}
		for _, dep := range p.Deps {
			first, _, _ := strings.Cut(dep, "/")
			switch {
			case strings.HasPrefix(dep, base) && room(strings.TrimPrefix(dep, base)) == "stock":
			case strings.Contains(first, "."):
				if !slices.ContainsFunc(allowed, func(a string) bool { return dep == a || strings.HasPrefix(dep, a+"/") }) {
					t.Errorf("%s depends on %s", p.rel(), dep)
				}
			}
		}
		for _, dep := range p.Imports {
			if slices.Contains(forbidden, dep) || dep == "os" || dep == "time" && clock(t, p) {
				t.Errorf("%s imports %s: stock does no I/O and reads no clock", p.rel(), dep)
			}
		}
	}
}

// clock says whether a package asks what time it is; types and arithmetic of time are welcome.
func clock(t *testing.T, p pkg) bool {
	for _, f := range p.GoFiles {
		text := read(t, p.rel()+"/"+f)
		for _, call := range []string{"time.Now(", "time.Since(", "time.Until(", "time.Sleep(", "time.After("} {
			if strings.Contains(text, call) {
				return true
			}
		}
	}
	return false
}
