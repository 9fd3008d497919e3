package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/services/channel-pusher/queue"
)

// Mode is how stock is kept in step.
type Mode string

// The modes.
const (
	Strict   Mode = "strict"
	Adaptive Mode = "adaptive"
	Pooled   Mode = "pooled"
	Polling  Mode = "polling" // no Onhand: every 15 minutes all orders are read, and all channels set
)

// Modes is all of them.
var Modes = []Mode{Strict, Adaptive, Pooled, Polling}

// Config says what to simulate. Zero fields take their defaults.
type Config struct {
	SeedStart  uint64
	Seeds      int
	Modes      []Mode
	Channels   int
	SKUs       int
	Demand     int   // buyers in a seed
	Hours      int64 // of demand in a seed
	Partitions int
	Claims     int          // of the channels, those that ask before they sell
	Bundles    int          // of the SKUs, those that are made of two others
	Check      bool         // verify the invariants of strict after everything that happens
	Workers    int          // seeds at a time
	unnamed    bool         // for tests: shops that ask do not say who they are, so that no allotment binds them
	noLosses   bool         // for tests: no count finds less than there should be
	generous   bool         // for tests: a bundle takes more to be left of its allotments than is
	trustAcks  bool         // for tests: exposure falls when a write is acknowledged, whatever was sold unseen
	Queue      queue.Config // of the pushers; its Instance and Seed are the world's
}

// BrokenError is an invariant that does not hold.
type BrokenError struct {
	Seed uint64
	Mode Mode
	At   int64 // microseconds since the world began
	What string
	Tail []string // what happened last
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("seed %d, %s, %.6f s: %s\nlast happenings:\n  %s", e.Seed, e.Mode, float64(e.At)/1e6, e.What, strings.Join(e.Tail, "\n  "))
}

func (c *Config) validate() error {
	var errs []error
	for _, m := range c.Modes {
		if !slices.Contains(Modes, m) {
			errs = append(errs, fmt.Errorf("mode %q: want strict, adaptive, pooled or polling", m))
		}
	}
	limit := func(name string, v, lo, hi int64) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%s %d: want %d to %d", name, v, lo, hi))
		}
	}
	limit("seeds", int64(c.Seeds), 1, 1_000_000)
	limit("channels", int64(c.Channels), 1, 900)
	limit("skus", int64(c.SKUs), 1, 900)
	limit("demand", int64(c.Demand), 1, 10_000_000)
	limit("hours", c.Hours, 1, 48)
	limit("claim channels", int64(c.Claims), 0, int64(c.Channels))
	limit("bundles", int64(c.Bundles), 0, max(0, min(int64(c.SKUs)/2, int64(c.SKUs)-2)))
	if c.Bundles > 0 && c.Claims > 0 {
		errs = append(errs, errors.New("bundles and claim channels: a channel that asks before it sells cannot sell bundles, so have one or the other"))
	}
	limit("partitions", int64(c.Partitions), 1, 64)
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if c.Seeds == 0 {
		c.Seeds = 20
	}
	if c.Channels == 0 {
		c.Channels = 30
	}
	if c.SKUs == 0 {
		c.SKUs = 24
	}
	if c.Demand == 0 {
		c.Demand = 14_000
	}
	if c.Hours == 0 {
		c.Hours = 2
	}
	if c.Partitions == 0 {
		c.Partitions = 2
	}
	if c.Modes == nil {
		c.Modes = Modes
	}
	if c.Queue == (queue.Config{}) {
		c.Queue = queue.Config{ // as channel-pusher has it by default
			Linger: 20 * time.Millisecond, DriftSample: 5, DriftGrace: 10 * time.Second, DriftEvery: 10 * time.Second, BreakerFailures: 5, BreakerDelay: 5 * time.Second,
			StuckAfter: time.Minute, BacklogAfter: 5 * time.Minute, Service: "channel-pusher",
		}
	}
	if c.Workers == 0 {
		c.Workers = 1
	}
	return c
}

// Run simulates. The result depends on the configuration alone, never on the number of workers; progress, if not nil, is told of each seed
// that is done.
func Run(ctx context.Context, c Config, progress func()) (*Report, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	all := make([][]Result, c.Seeds)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.Workers)
	for i := range c.Seeds {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			r, err := seed(&c, c.SeedStart+uint64(i))
			all[i] = r
			if progress != nil {
				progress()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := &Report{SeedStart: c.SeedStart, Seeds: c.Seeds, Channels: c.Channels, Modes: make([]Result, len(c.Modes))}
	for i := range out.Modes {
		m := &out.Modes[i]
		*m = newResult(c.Modes[i])
		for _, r := range all {
			m.add(&r[i])
		}
		m.close()
	}
	return out, nil
}

// seed runs one seed in all modes.
func seed(c *Config, n uint64) ([]Result, error) {
	sc := newScenario(c, n)
	var out []Result
	for _, m := range c.Modes {
		w, err := newWorld(c, sc, m)
		if err != nil {
			return nil, err
		}
		if err := w.run(); err != nil {
			return nil, err
		}
		out = append(out, w.res)
	}
	return out, nil
}
