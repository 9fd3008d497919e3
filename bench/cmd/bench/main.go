// Command bench measures Onhand. Each benchmark prints a table with the goal or the baseline beside each figure, and writes bench/out/NAME.json with the
// machine and the versions. Nothing is asserted: figures are for people to judge.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/onhand/onhand/bench/internal/ledger"
	"github.com/onhand/onhand/bench/internal/micro"
	"github.com/onhand/onhand/bench/internal/oneprocess"
	"github.com/onhand/onhand/bench/internal/pipeline"
	"github.com/onhand/onhand/bench/internal/report"
	"github.com/onhand/onhand/e2e/testbed"
)

type settings struct {
	Name    string `help:"The benchmark to run: ${names}; empty runs all." default:""`
	Profile bool   `help:"Also write processor profiles to bench/out/ (pipeline, ledger)."`

	Pipeline struct {
		Rate    int           `help:"Orders a second." default:"2000"`
		For     time.Duration `help:"How long the load is measured." default:"60s"`
		Warmup  time.Duration `help:"How long it runs before." default:"5s"`
		Search  bool          `help:"Also find the highest rate at which the backlog does not grow, in steps of half --pipeline-rate."`
		StepFor time.Duration `help:"How long each step of the search is measured." default:"20s"`
		SKUs    int           `name:"skus" help:"SKUs that are sold." default:"4000"`
		Flat    float64       `help:"How flat the head of the Zipf distribution is: rank k is drawn with a weight of (FLAT+k)^-1.01, k from 0. 1 is Zipf's law, 20 gives the best seller 1 % of all." default:"1"`
		Trace   float64       `help:"Share of orders that are traced, as in onhand up." default:"0.01"`
	} `embed:"" prefix:"pipeline-"`
	Idle struct {
		After time.Duration `help:"How long the process idles before its memory is read." default:"30s"`
	} `embed:"" prefix:"idle-"`
	API struct {
		For  time.Duration `help:"How long each kind of call is measured." default:"4s"`
		SKUs int           `name:"skus" help:"SKUs that are read and reserved." default:"20000"`
	} `embed:"" prefix:"api-" name:"api"`
	Ledger struct {
		Events int           `help:"Events in the topic." default:"1000000"`
		Shapes []string      `help:"uniform, zipf, hot; empty runs all."`
		Runs   int           `help:"Runs of the projector, of which the best counts." default:"3"`
		Peer   string        `help:"Settings of the peer to try: best (those that are best as a rule), full (all), none." enum:"best,full,none" default:"best"`
		Rates  []float64     `help:"Shares of the highest rate at which latency is measured, or events a second; 0 measures none." default:"0.1,0.5"`
		For    time.Duration `help:"How long latency is measured at each." default:"6s"`
		Large  int           `help:"SKUs of the ledger whose memory and cold start are measured; 0 for none." default:"1000000"`
	} `embed:"" prefix:"ledger-"`
	Micro struct {
		Time  string `help:"Of each run of each benchmark, as go test -benchtime takes it." default:"300ms"`
		Count int    `help:"Runs of each benchmark." default:"5"`
	} `embed:"" prefix:"micro-"`

	Load  bool `help:"Internal: be who sends events to a ledger and watches them become visible, as told on standard input." hidden:""`
	World bool `help:"Internal: be the marketplaces and their customers, told what to do on standard input." hidden:""`
}

// benchmarks are run in this order.
var benchmarks = []string{"pipeline", "idle", "api", "dataset", "ledger", "micro"}

func main() {
	var c settings
	kong.Parse(&c, kong.Name("bench"), kong.Description("Measures Onhand on this machine."), kong.Vars{"names": strings.Join(benchmarks, ", ")})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func (c *settings) run(ctx context.Context) error {
	if c.Load {
		return ledger.Load(ctx, os.Stdin, os.Stdout)
	}
	if c.World {
		return pipeline.World(ctx, os.Stdin, os.Stdout)
	}
	if c.Name == "" {
		return all(ctx)
	}
	if !slices.Contains(benchmarks, c.Name) {
		return fmt.Errorf("%q: %w; there are %s", c.Name, report.ErrNone, strings.Join(benchmarks, ", "))
	}
	root, err := testbed.Root()
	if err != nil {
		return err
	}
	out := filepath.Join(root, "bench", "out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	profile := ""
	if c.Profile {
		profile = out
	}
	say := func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }
	fmt.Printf("%s …\n", c.Name)
	r := report.New(ctx, c.Name, root)
	switch c.Name {
	case "pipeline":
		p := c.Pipeline
		err = pipeline.Bench(ctx, pipeline.Config{
			Rate: p.Rate, For: p.For, Warmup: p.Warmup, Search: p.Search, StepFor: p.StepFor, SKUs: p.SKUs, Flat: p.Flat, Trace: p.Trace, Profile: profile, Say: say,
		}, root, r)
	case "idle":
		err = oneprocess.Idle(ctx, oneprocess.IdleConfig{After: c.Idle.After, Say: say}, root, r)
	case "api":
		err = oneprocess.API(ctx, oneprocess.APIConfig{For: c.API.For, SKUs: c.API.SKUs, Say: say}, root, r)
	case "dataset":
		err = oneprocess.Dataset(ctx, root, r, say)
	case "ledger":
		l := c.Ledger
		err = ledger.Bench(ctx, ledger.Config{Events: l.Events, Shapes: l.Shapes, Runs: l.Runs, Peer: l.Peer, Rates: slices.DeleteFunc(l.Rates, func(x float64) bool { return x <= 0 }), For: l.For, Large: l.Large, Profile: profile, Say: say}, root, r)
	case "micro":
		err = micro.Bench(ctx, micro.Config{Time: c.Micro.Time, Count: c.Micro.Count, Say: say}, root, r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Name, err)
	}
	return r.Finish(out, os.Stdout)
}

// all runs every benchmark in a process of its own, so that none finds the memory of another, and goes on after one that failed.
func all(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range benchmarks {
		cmd := exec.CommandContext(ctx, self, append([]string{"--name", name}, os.Args[1:]...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 30 * time.Second
		if err := cmd.Run(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}
