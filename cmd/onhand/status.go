package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/onhand/onhand/allinone/figures"
)

type statusCmd struct {
	target
	JSON bool `help:"As JSON, for scripts."`
}

// state is what status prints as JSON.
type state struct {
	instance
	Running bool             `json:"running"`
	Ready   bool             `json:"ready"`
	Reason  string           `json:"reason,omitempty"` // why it is not running or not ready
	Figures *figures.Figures `json:"figures,omitempty"`
}

// Run prints the state. The exit status is 1 unless everything is ready.
func (c *statusCmd) Run(ctx context.Context, s streams) error {
	var st state
	conn, err := c.find()
	st.instance = conn.instance
	if err == nil {
		st.API = conn.API
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		var f figures.Figures
		if err = conn.get(ctx, "/v1/figures", &f); err == nil {
			st.Running, st.Ready, st.Figures = true, f.Ready, &f
			for _, n := range f.NotReady {
				st.Reason += n.Name + ": " + n.Reason + "; "
			}
		}
	}
	if err != nil {
		st.Reason = err.Error()
	}
	if c.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(st); err != nil {
			return err
		}
	} else if st.Running {
		w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintf(w, "onhand\t%s, process %d, since %s\n", st.Version, st.PID, st.StartedAt.Local().Format(time.DateTime)) // reported by Flush
		for _, a := range st.Figures.Addresses {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", a.Name, a.URL)
		}
		for _, g := range st.Figures.Stages {
			_, _ = fmt.Fprintf(w, "%s\t%s %s, %s waiting\n", g.Name, group(g.Total), g.Unit, group(g.Lag))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if !st.Ready {
		text := "onhand: " + st.Reason
		if c.JSON {
			text = ""
		}
		return &exitError{1, text}
	}
	return nil
}

type consoleCmd struct{ target }

// Run asks the running process for a link.
func (c *consoleCmd) Run(ctx context.Context, s streams) error {
	conn, err := c.find()
	if err != nil {
		return err
	}
	a, err := conn.call(ctx, http.MethodPost, "/console/links", "", nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusCreated {
		return a.problem()
	}
	var out struct{ Path string }
	if err := json.Unmarshal(a.body, &out); err != nil {
		return fmt.Errorf("console link: %w", err)
	}
	_, err = fmt.Fprintln(s.out, conn.API+out.Path)
	return err
}

type explainCmd struct {
	ledgerFlags
	SKU     string `help:"The SKU." required:"" name:"sku"`
	Channel string `help:"Only this channel."`
	Time    string `help:"As it was then, by Onhand's clock: RFC 3339, a date, or how long ago (90m, 36h). Now when left out." placeholder:"TIME"`
	JSON    bool   `help:"The API's own answers."`
}

// Run prints availability and targets with their derivation.
func (c *explainCmd) Run(ctx context.Context, s streams) error {
	conn, err := c.target.find()
	if err != nil {
		return err
	}
	if c.Time != "" {
		return c.past(ctx, s, conn)
	}
	var targets json.RawMessage
	var t targetsOf
	missing := conn.get(ctx, "/v1/targets/"+url.PathEscape(c.SKU), &targets)
	if missing == nil {
		if err := json.Unmarshal(targets, &t); err != nil {
			return fmt.Errorf("targets of %s: %w", c.SKU, err)
		}
	}
	var stock json.RawMessage
	if t.Bundle == nil { // which has no stock of its own
		if err := conn.get(ctx, "/v1/availability/"+url.PathEscape(c.SKU), &stock); err != nil {
			return fmt.Errorf("availability of %s: %w", c.SKU, err)
		}
	}
	if missing != nil {
		return fmt.Errorf("targets of %s: %w", c.SKU, missing)
	}
	if c.JSON {
		return json.NewEncoder(s.out).Encode(map[string]json.RawMessage{"availability": stock, "targets": targets})
	}
	if t.Bundle != nil {
		err = t.printBundle(s.out, c.SKU)
	} else {
		err = t.printStock(s.out, c.SKU, stock)
	}
	if err != nil {
		return err
	}
	found := false
	for _, x := range t.Targets {
		if c.Channel != "" && x.Channel != c.Channel {
			continue
		}
		found = true
		_, _ = fmt.Fprintf(s.out, "\n%s should show %s (%s)\n", x.Channel, group(x.Quantity), x.Mode)
		w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		for _, e := range x.Explanation {
			_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", e.Step, group(e.Units), e.Detail)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, line := range x.written() {
			_, _ = fmt.Fprintln(s.out, "  "+line)
		}
	}
	if !found {
		if c.Channel != "" {
			return fmt.Errorf("channel %s has no target for %s: is it listed there?", c.Channel, c.SKU)
		}
		_, _ = fmt.Fprintln(s.out, "\nno channel lists it")
	}
	return nil
}

// printStock tells what there is of a SKU.
func (t *targetsOf) printStock(out io.Writer, sku string, stock json.RawMessage) error {
	var a availability
	if err := json.Unmarshal(stock, &a); err != nil {
		return fmt.Errorf("availability of %s: %w", sku, err)
	}
	_, _ = fmt.Fprintf(out, "%s: %s available%s\n", sku, group(a.Available), t.kept()) // reported by Flush
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "  location\ton hand\tcommitted\theld\tinbound\tunsellable\tsafety\tavailable\t")
	for _, l := range a.Locations {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", l.Location, group(l.OnHand), group(l.Committed), group(l.Held), group(l.Inbound), group(l.Unsellable),
			group(l.SafetyStock), group(l.Available))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if a.Unassigned == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "  sold without a location yet: %s\n", group(a.Unassigned))
	return err
}

// printBundle tells what a bundle is made of, and how many there can be.
func (t *targetsOf) printBundle(out io.Writer, sku string) error {
	_, _ = fmt.Fprintf(out, "%s is a bundle: its components make %s%s\n", sku, group(t.Bundle.Makes), t.kept()) // reported by Flush
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "  component\tin one\tavailable\tpool buffer\tenough for\tallotted\t")
	for _, c := range t.Bundle.Components {
		allotted := "–"
		if c.Allotted != nil {
			allotted = group(*c.Allotted)
		}
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t\n", c.SKU, group(c.Quantity), group(c.Available), group(c.PoolBuffer), group(c.Makes), allotted)
	}
	return w.Flush()
}

// availability is what explain reads of GET /v1/availability/{sku}.
type availability struct {
	Available  int64 `json:"available"`
	Unassigned int64 `json:"unassigned"`
	Locations  []struct {
		Location    string `json:"location"`
		OnHand      int64  `json:"on_hand"`
		Committed   int64  `json:"committed"`
		Held        int64  `json:"held"`
		Inbound     int64  `json:"inbound"`
		Unsellable  int64  `json:"unsellable"`
		SafetyStock int64  `json:"safety_stock"`
		Available   int64  `json:"available"`
	} `json:"locations"`
}

// targetsOf is what explain reads of GET /v1/targets/{sku}.
type targetsOf struct {
	Guarantee string     `json:"guarantee"`
	Phase     string     `json:"phase"`
	Hindrance string     `json:"hindrance"`
	Threshold *int64     `json:"threshold"`
	Room      *int64     `json:"room"`
	Targets   []targetOf `json:"targets"`
	Bundle    *struct {
		Makes      int64 `json:"makes"`
		Components []struct {
			SKU        string `json:"sku"`
			Quantity   int64  `json:"quantity"`
			Available  int64  `json:"available"`
			PoolBuffer int64  `json:"pool_buffer"`
			Makes      int64  `json:"makes"`
			Allotted   *int64 `json:"allotted"`
		} `json:"components"`
	} `json:"bundle"`
}

type targetOf struct {
	Channel     string `json:"channel"`
	Quantity    int64  `json:"quantity"`
	Mode        string `json:"mode"`
	Explanation []struct {
		Step   string `json:"step"`
		Units  int64  `json:"units"`
		Detail string `json:"detail"`
	} `json:"explanation"`
	SalesPerHour float64    `json:"sales_per_hour"`
	OversellRisk *float64   `json:"oversell_probability"`
	Watermark    *time.Time `json:"watermark"`
	LastWrite    *struct {
		Operation string     `json:"operation"`
		Value     int64      `json:"value"`
		Outcome   string     `json:"outcome"`
		Shown     *int64     `json:"shown"`
		SentAt    *time.Time `json:"sent_at"`
		AckedAt   *time.Time `json:"acked_at"`
	} `json:"last_write"`
}

// kept says how exposure is kept.
func (t *targetsOf) kept() string {
	switch {
	case t.Phase == "strict" || t.Phase == "leaving":
		if t.Room != nil {
			return "; exposure is kept in books, with room for " + group(*t.Room) + " more"
		}
		return "; exposure is kept in books, and not known yet at every channel"
	case t.Hindrance != "":
		return "; exposure cannot be kept in books: " + t.Hindrance
	case t.Guarantee == "adaptive" && t.Threshold != nil:
		return "; exposure is kept in books at " + group(*t.Threshold) + " or less"
	}
	return ""
}

// written says what was sent and acknowledged, and how sure the number is.
func (x *targetOf) written() []string {
	var out []string
	if w := x.LastWrite; w != nil {
		line := "last write: " + w.Operation + " " + group(w.Value) + ", " + w.Outcome
		if w.SentAt != nil {
			line += ", sent " + w.SentAt.Format(time.RFC3339Nano)
		}
		if w.AckedAt != nil {
			line += ", acknowledged " + w.AckedAt.Format(time.RFC3339Nano)
		}
		if w.Shown != nil {
			line += "; it showed " + group(*w.Shown)
		}
		out = append(out, line)
	} else {
		out = append(out, "last write: none seen by this allocator")
	}
	if x.Watermark != nil {
		out = append(out, "its orders are known up to "+x.Watermark.Format(time.RFC3339Nano))
	}
	if x.OversellRisk != nil {
		out = append(out, fmt.Sprintf("sells %.3g an hour; were stock to run out now, it would oversell with a probability of %.2g", x.SalesPerHour, *x.OversellRisk))
	}
	return out
}
