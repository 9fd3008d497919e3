package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/onhand/onhand/bench/internal/process"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/topics"
)

// order is what a generator is started with.
type order struct {
	Brokers []string      `json:"brokers"`
	Redis   []string      `json:"redis"`
	Shape   string        `json:"shape"`
	Rate    float64       `json:"rate"`
	Lasts   time.Duration `json:"lasts"`
}

// errand has a generator send what it has made, and watch.
type errand struct {
	Input     string        `json:"input"`
	Output    string        `json:"output"`
	Namespace string        `json:"namespace"` // in Redis; empty watches the output alone
	First     bool          `json:"first"`     // only the first send, which stocks every SKU
	Rest      bool          `json:"rest"`      // all but the first
	Patience  time.Duration `json:"patience"`  // for what is under way at the end
}

// phase is how far a generator is.
type phase string

const (
	ready   phase = "ready"
	warm    phase = "warm"
	gone    phase = "gone"
	watched phase = "watched"
)

// news is one line that a generator writes.
type news struct {
	Phase   phase   `json:"phase"`
	Latency Latency `json:"latency,omitzero"`
}

// Load is a generator, in a process of its own: it makes a load, then sends and watches it as the lines of in say, one JSON object each, and answers on out.
func Load(ctx context.Context, in io.Reader, out io.Writer) error {
	lines, to := json.NewDecoder(in), json.NewEncoder(out)
	tell := func(p phase) error { return to.Encode(news{Phase: p}) }
	var o order
	if err := lines.Decode(&o); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	codec, err := topics.NewCodec(ctx, nil)
	if err != nil {
		return err
	}
	p := &parts{kafka: kafka.Config{Brokers: o.Brokers, Partitions: partitions, Replication: 1}}
	if p.redis, err = (redis.Config{Addrs: o.Redis}).Client(); err != nil {
		return err
	}
	defer p.redis.Close()
	known := shapes()
	i := slices.IndexFunc(known, func(s shape) bool { return s.name == o.Shape })
	if i < 0 {
		return fmt.Errorf("load: no shape %q is known", o.Shape)
	}
	all := prepareLoad(codec, known[i], o.Rate, o.Lasts)
	if err := tell(ready); err != nil {
		return err
	}
	for {
		var e errand
		if err := lines.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		l := *all
		if e.First {
			l.sends = l.sends[:1]
		}
		if e.Rest {
			l.sends = l.sends[1:]
		}
		got, err := p.latency(ctx, &l, e.Input, e.Output, e.Namespace, e.Patience, tell)
		if err != nil {
			return err
		}
		if err := to.Encode(news{Phase: watched, Latency: got}); err != nil {
			return err
		}
	}
}

// generator is the other process.
type generator struct{ *process.Child }

// startLoad runs this program again, as a generator, waits until it has made its load, and warms the broker.
func (p *parts) startLoad(ctx context.Context, sh shape, rate float64, lasts time.Duration) (g generator, err error) {
	if g.Child, err = process.Again(ctx, "--load"); err != nil {
		return g, err
	}
	err = g.Send(order{Brokers: []string{p.broker.Addr}, Redis: []string{p.store.Addr}, Shape: sh.name, Rate: rate, Lasts: lasts})
	if err == nil {
		err = g.Next(new(news))
	}
	if err == nil {
		err = p.warm(ctx)
	}
	if err != nil {
		return g, errors.Join(err, g.Stop())
	}
	return g, nil
}

// run has it send and watch, and counts processor time from when it is warm until all is sent. What is measured is this process, or another.
func (g generator) run(p *parts, e errand, pid int) (Latency, error) {
	if err := g.Send(e); err != nil {
		return Latency{}, err
	}
	var began time.Time
	var m *meter
	var before [2]time.Duration
	read := func() (out [2]time.Duration, err error) {
		out[0] = process.CPU()
		if pid != 0 {
			if out[0], err = process.CPUOf(pid); err != nil {
				return out, err
			}
		}
		out[1], err = process.CPUOf(g.PID)
		return out, err
	}
	var used Cores
	for {
		var n news
		if err := g.Next(&n); err != nil {
			return Latency{}, fmt.Errorf("the generator: %w", err)
		}
		switch n.Phase {
		case warm:
			var err error
			if before, err = read(); err != nil {
				return Latency{}, err
			}
			m, began = p.meter(), time.Now()
		case gone:
			if m == nil {
				continue
			}
			after, err := read()
			if err != nil {
				return Latency{}, err
			}
			secs := time.Since(began).Seconds()
			c, err := m.read(secs * 1e6)
			if err != nil {
				return Latency{}, err
			}
			used = Cores{Process: (after[0] - before[0]).Seconds() / secs, Redis: c.Redis, Kafka: c.Kafka, Load: (after[1] - before[1]).Seconds() / secs}
		case watched:
			n.Latency.Cores = used
			return n.Latency, nil
		case ready:
		}
	}
}
