package pipeline

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/onhand/onhand/bench/internal/process"
	"github.com/onhand/onhand/simulators/marketplace"
)

// command is one line that the world reads.
type command struct {
	ReportTo string `json:"report_to,omitempty"` // Onhand's API
	Key      string `json:"key,omitempty"`
	Load     *load  `json:"load,omitempty"`
}

// load is customers who buy at a steady rate.
type load struct {
	Channels []string      `json:"channels"`
	SKUs     int           `json:"skus"`
	Flat     float64       `json:"flat"`
	Rate     int           `json:"rate"` // orders a second
	Warmup   time.Duration `json:"warmup"`
	For      time.Duration `json:"for"`
	Prefix   string        `json:"prefix"` // of order ids
}

// message is one line that the world writes.
type message struct {
	URL       string  `json:"url,omitempty"`       // of the marketplaces: the first line
	Accepted  bool    `json:"accepted,omitempty"`  // a report_to was taken
	Measuring bool    `json:"measuring,omitempty"` // the warm-up is over
	Progress  *bought `json:"progress,omitempty"`
	Done      *bought `json:"done,omitempty"`
	Err       string  `json:"err,omitempty"`
}

// bought is what happened since the warm-up.
type bought struct {
	Seconds      float64 `json:"seconds"`
	Orders       int64   `json:"orders"`
	Lines        int64   `json:"lines"`
	RefusedUnits int64   `json:"refused_units"` // the marketplace showed too few
	Unreported   int64   `json:"unreported"`    // sales that Onhand has not acknowledged yet
	Late         float64 `json:"late_ms"`       // longest time an order was placed after it was due
	CPU          float64 `json:"cpu_seconds"`
}

// World is the marketplaces and their customers, in a process of its own: it does what the lines of in say, one JSON object each, and answers on
// out. It ends with in.
func World(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	markets, err := marketplace.New(marketplace.Config{Reporters: 12})
	if err != nil {
		return err
	}
	if err := markets.Start(); err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		err = errors.Join(err, markets.Stop(stopping))
	}()
	enc := json.NewEncoder(out)
	if err := enc.Encode(message{URL: markets.URL()}); err != nil {
		return err
	}
	s := bufio.NewScanner(in)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var c command
		if err := json.Unmarshal(s.Bytes(), &c); err != nil {
			return fmt.Errorf("%q: %w", s.Bytes(), err)
		}
		var m message
		switch {
		case c.ReportTo != "":
			m.Accepted = true
			err = markets.ReportTo(c.ReportTo, c.Key)
		case c.Load != nil:
			var b bought
			b, err = c.Load.run(ctx, markets, func(m message) error { return enc.Encode(m) })
			m.Done = &b
		default:
			err = errors.New("a command that says nothing")
		}
		if err != nil {
			m = message{Err: err.Error()}
		}
		if err := enc.Encode(m); err != nil {
			return err
		}
	}
	return s.Err()
}

// run has customers buy, each order when it is due and one after another, and tells how it goes.
func (l *load) run(ctx context.Context, markets *marketplace.Server, tell func(message) error) (bought, error) {
	rng := rand.New(rand.NewPCG(3, uint64(l.Rate)))
	zipf := rand.NewZipf(rng, 1.01, max(1, l.Flat), uint64(l.SKUs-1))
	if zipf == nil {
		return bought{}, fmt.Errorf("no Zipf distribution over %d SKUs", l.SKUs)
	}
	names := make([]string, l.SKUs)
	for i := range names {
		names[i] = skuName(i)
	}
	refused := func() (units, unreported int64) {
		for _, s := range markets.Stats() {
			units += s.RefusedUnits
			unreported += s.Unreported
		}
		return units, unreported
	}
	var b bought
	began := time.Now()
	measured := began.Add(l.Warmup)
	end := measured.Add(l.For)
	measuring := false
	var cpu time.Duration
	var before int64
	told := measured
	now := func() bought {
		x := b
		x.Seconds = time.Since(measured).Seconds()
		x.CPU = (process.CPU() - cpu).Seconds()
		x.RefusedUnits, x.Unreported = refused()
		x.RefusedUnits -= before
		return x
	}
	for sent := 0; ; sent++ {
		due := began.Add(time.Duration(float64(sent) * float64(time.Second) / float64(l.Rate)))
		if wait := time.Until(due); wait > time.Millisecond { // orders due within a millisecond are placed together
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return b, ctx.Err()
			}
		}
		at := time.Now()
		if !measuring && !at.Before(measured) {
			measuring, b, cpu = true, bought{}, process.CPU()
			before, _ = refused()
			if err := tell(message{Measuring: true}); err != nil {
				return b, err
			}
		}
		if at.After(end) {
			return now(), nil
		}
		if at.Sub(told) > 500*time.Millisecond {
			told = at
			x := now()
			if err := tell(message{Progress: &x}); err != nil {
				return b, err
			}
		}
		sale := marketplace.Sale{ID: fmt.Sprintf("%s-%08d", l.Prefix, sent), PlacedAt: at, Currency: "EUR", Lines: make([]marketplace.Line, 1+rng.IntN(3))}
		for i := range sale.Lines {
			sale.Lines[i] = marketplace.Line{ID: fmt.Sprint(i + 1), SKU: names[zipf.Uint64()], Quantity: 1 + rng.Int64N(2), UnitPrice: "19.99", Location: location}
		}
		if _, err := markets.Sell(ctx, l.Channels[rng.IntN(len(l.Channels))], sale); err != nil {
			return b, err
		}
		b.Orders++
		b.Lines += int64(len(sale.Lines))
		b.Late = max(b.Late, float64(time.Since(due).Microseconds())/1000)
	}
}

func skuName(i int) string { return fmt.Sprintf("SKU-%05d", i) }

const location = "warehouse"
