package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/onhand/onhand/simulation"
)

type simulateCmd struct {
	Seeds     int      `help:"How many worlds to try. A seed makes one: its channels, buyers, delays and faults." default:"20"`
	SeedStart uint64   `help:"First seed." default:"1"`
	Modes     []string `help:"Modes to compare in each world: strict, adaptive, pooled, polling (no Onhand: orders are read and channels set every 15 minutes)." default:"strict,adaptive,pooled,polling"`
	Channels  int      `help:"Channels that sell the same stock." default:"30"`
	Claims    int      `help:"Of the channels, how many ask Onhand for each order (adapter: claim) rather than show a number." name:"claim-channels" default:"0"`
	SKUs      int      `name:"skus" help:"SKUs in a world." default:"24"`
	Bundles   int      `help:"Of the SKUs, how many are bundles of two others, which are sold by themselves as well." default:"0"`
	Demand    int      `help:"Buyers in a world." default:"14000"`
	Hours     int64    `help:"Hours of demand in a world." default:"2"`
	Check     bool     `help:"Verify the invariants of strict after everything that happens, and stop where one breaks."`
	Workers   int      `help:"Worlds at a time; 0 is one per processor." default:"0"`
	JSON      bool     `help:"As JSON, for scripts."`
}

// Run simulates and prints what each mode did. The exit status is 1 when an invariant broke.
func (c *simulateCmd) Run(ctx context.Context, s streams) error {
	cfg := simulation.Config{
		Seeds: c.Seeds, SeedStart: c.SeedStart, Channels: c.Channels, Claims: c.Claims, SKUs: c.SKUs, Bundles: c.Bundles, Demand: c.Demand, Hours: c.Hours, Check: c.Check, Workers: c.Workers,
	}
	for _, m := range c.Modes {
		cfg.Modes = append(cfg.Modes, simulation.Mode(m))
	}
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	var progress func()
	if isTerminal(s.err) {
		bar := progressbar.NewOptions(c.Seeds, progressbar.OptionSetWriter(s.err), progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
			progressbar.OptionSetDescription("simulate"), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionShowCount(), progressbar.OptionSetItsString("seeds"),
			progressbar.OptionClearOnFinish())
		var mu sync.Mutex
		progress = func() {
			mu.Lock()
			defer mu.Unlock()
			_ = bar.Add(1) // drawing is best effort
		}
	}
	began := time.Now()
	report, err := simulation.Run(ctx, cfg, progress)
	var broken *simulation.BrokenError
	switch {
	case errors.As(err, &broken):
		return &exitError{1, "onhand: an invariant broke: " + broken.Error()}
	case err != nil:
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	if err := report.Table(s.out); err != nil {
		return err
	}
	var orders int64
	for i := range report.Modes {
		orders += report.Modes[i].Orders
	}
	took := time.Since(began)
	_, err = fmt.Fprintf(s.out, "%s orders simulated in %s, %s a minute\n", group(orders), took.Round(100*time.Millisecond), group(int64(float64(orders)/took.Minutes())))
	return err
}
