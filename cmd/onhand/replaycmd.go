package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/onhand/onhand/allinone/figures"
	"github.com/onhand/onhand/cmd/onhand/replay"
	onlineretail "github.com/onhand/onhand/examples/online-retail"
)

// exampleName stands for the data set that the program holds.
const exampleName = "online-retail"

type replayCmd struct {
	target
	File         string  `arg:"" help:"A file of the Online Retail form, .csv or .csv.zst; online-retail names the data set that comes with Onhand."`
	Speed        float64 `help:"Times real speed; 0 is as fast as possible." default:"0"`
	Marketplaces string  `help:"URL of simulated marketplaces where sales happen; without it, those of the onhand up in --data, else orders go to the API." placeholder:"URL"`
	Direct       bool    `help:"Send orders to the API, even where there are simulated marketplaces."`
}

// loadFile reads a data set.
func loadFile(name string) (*onlineretail.Dataset, error) {
	if name == exampleName {
		return onlineretail.Load(onlineretail.File())
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := onlineretail.Load(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// Run replays the file.
func (c *replayCmd) Run(ctx context.Context, s streams) error {
	conn, err := c.find()
	if err != nil {
		return err
	}
	data, err := loadFile(c.File)
	if err != nil {
		return err
	}
	printLeftOut(s.err, data)
	cfg := replay.Config{API: conn.API, Key: conn.key, Marketplaces: c.Marketplaces, Speed: c.Speed}
	if cfg.Marketplaces == "" && !c.Direct {
		cfg.Marketplaces = conn.Marketplaces
	}
	if c.Direct {
		cfg.Marketplaces = ""
	}
	backlog := func(ctx context.Context) (figures.Figures, error) {
		var f figures.Figures
		err := conn.get(ctx, "/v1/figures", &f)
		return f, err
	}
	if _, err := backlog(ctx); err == nil { // separate processes have no such figures, and then nothing paces the replay
		cfg.Settle = func(ctx context.Context) error {
			return settle(ctx, settled, func(ctx context.Context) (int64, error) {
				f, err := backlog(ctx)
				return f.Pending(), err
			})
		}
		cfg.Loaded = conn.quiet
	}
	var done func(replay.Progress)
	if isTerminal(s.err) {
		bar := progressbar.NewOptions(len(data.Documents), progressbar.OptionSetWriter(s.err), progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
			progressbar.OptionSetDescription("replay"), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionShowCount(), progressbar.OptionSetItsString("documents"))
		done = func(p replay.Progress) {
			bar.Describe("replay " + p.At.UTC().Format(time.DateOnly))
			_ = bar.Set(p.Done) // drawing is best effort
		}
		defer func() { _, _ = fmt.Fprintln(s.err) }()
	} else {
		last := time.Now()
		done = func(p replay.Progress) {
			if time.Since(last) >= 2*time.Second || p.Done == p.Documents {
				last = time.Now()
				_, _ = fmt.Fprintf(s.err, "replay %s %5.1f %% %s lines\n", p.At.UTC().Format(time.DateOnly), 100*p.Share(), group(p.Lines))
			}
		}
	}
	cfg.Progress = done
	began := time.Now()
	st, err := replay.Run(ctx, data, cfg)
	if err != nil {
		return fmt.Errorf("replay stopped at document %d of %d (all ids come from the file: run it again to go on): %w", st.Next, st.Documents, err)
	}
	return printTally(s.out, st.Tally, time.Since(began))
}

// settled is the backlog below which a fast replay goes on to its next day.
const settled = 1500

// underWay is the number of granted writes without a result below which it does: a day of the file is a moment there, and what runs low is to be filled up by the next.
const underWay = 20

// settle asks until little is on its way to the channels.
func settle(ctx context.Context, most int64, pending func(context.Context) (int64, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := pending(ctx)
		if err != nil {
			return err
		}
		if n < most {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// quiet waits until everything that came in has run through every stage.
func (c connection) quiet(ctx context.Context) error {
	for {
		a, err := c.call(ctx, http.MethodGet, "/v1/quiet", "", nil)
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case a.status == http.StatusNoContent:
			return nil
		case a.status != http.StatusGatewayTimeout:
			return a.problem()
		}
	}
}

func printLeftOut(out io.Writer, data *onlineretail.Dataset) {
	n := 0
	for _, k := range data.LeftOut {
		n += k
	}
	_, _ = fmt.Fprintf(out, "%s lines: %s of codes that are no goods are left out\n", group(int64(data.Lines)), group(int64(n)))
}

func printTally(out io.Writer, t replay.Tally, took time.Duration) error {
	_, err := fmt.Fprintf(out, "replayed in %s: %s units received, %s asked for, %s sold, %s refused at the marketplaces, %s cancelled, %s returned, %s adjusted, %s shipped\n",
		took.Round(100*time.Millisecond), group(t.Received), group(t.Asked), group(t.Sold), group(t.Refused), group(t.Cancelled), group(t.Returned), group(t.Adjusted), group(t.Shipped))
	return err
}

// replayFile is where `onhand up` keeps how far its replay has come.
func replayFile(data string) string { return filepath.Join(data, "replay.json") }

// kept is what the file holds.
type kept struct {
	File  string       `json:"file"`
	State replay.State `json:"state"`
}

func readKept(data string) (kept, error) {
	var k kept
	b, err := os.ReadFile(replayFile(data))
	if errors.Is(err, os.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return k, fmt.Errorf("%s: %w", replayFile(data), err)
	}
	return k, nil
}

func (k kept) write(data string) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return writeWhole(replayFile(data), b, 0o644)
}
