package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/topics"
)

type certificateCmd struct {
	target
	kafka.Config `prefix:"kafka-" embed:""`
	Day          string `help:"Only this day, UTC, as 2006-01-02; all days without it."`
	JSON         bool   `help:"As JSON, for scripts."`
}

// certificate is what the allocators say of one day and partition.
type certificate struct {
	Day        string     `json:"day"`
	Partition  int32      `json:"partition"`
	Checked    int64      `json:"checked"`
	LeastSlack *int64     `json:"least_slack"` // nil when nothing was checked
	Tightest   string     `json:"tightest_sku,omitempty"`
	TightestAt *time.Time `json:"tightest_at,omitempty"`
	Breaches   int64      `json:"breaches"`
	Granted    int64      `json:"granted_writes"`
	Unknown    int64      `json:"decided_with_unknown_exposure"`
}

// certificates is what the command prints as JSON.
type certificates struct {
	Partitions []certificate `json:"partitions"`
	Days       []certificate `json:"days"` // over all partitions; partition is -1
}

// Run prints the certificates. The exit status is 1 when the invariant was found broken.
func (c *certificateCmd) Run(ctx context.Context, s streams) error {
	if c.Day != "" {
		if _, err := time.Parse(time.DateOnly, c.Day); err != nil {
			return fmt.Errorf("--day %q: want a day as 2006-01-02", c.Day)
		}
	}
	conf := brokersOf(c.target, c.Config)
	all, err := readCertificates(ctx, conf, c.Day)
	if err != nil {
		return err
	}
	out := certificates{Partitions: []certificate{}, Days: []certificate{}}
	for i := range all {
		x := certificateOf(&all[i])
		out.Partitions = append(out.Partitions, x)
		if n := len(out.Days); n == 0 || out.Days[n-1].Day != x.Day {
			sum := x
			sum.Partition = -1
			out.Days = append(out.Days, sum)
			continue
		}
		out.Days[len(out.Days)-1].add(&x)
	}
	if c.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(out); err != nil {
			return err
		}
	} else {
		if err := c.print(s, &out); err != nil {
			return err
		}
	}
	for i := range out.Days {
		if out.Days[i].Breaches > 0 {
			return &exitError{1, ""}
		}
	}
	return nil
}

func (c *certificateCmd) print(s streams, out *certificates) error {
	if len(out.Days) == 0 {
		_, err := fmt.Fprintln(s.out, "No SKU's exposure has been kept in books: there is nothing to certify. Rules with mode adaptive or strict have it kept.")
		return err
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "day\tpartition\tchecked\tleast slack\ttightest SKU\tbreaches\twrites granted\tunknown exposure") // reported by Flush
	line := func(x *certificate, partition string) {
		slack := "-"
		if x.LeastSlack != nil {
			slack = group(*x.LeastSlack)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Day, partition, group(x.Checked), slack, x.Tightest, group(x.Breaches), group(x.Granted), group(x.Unknown))
	}
	for i := range out.Days {
		for j := range out.Partitions {
			if p := &out.Partitions[j]; p.Day == out.Days[i].Day && c.Day != "" {
				line(p, fmt.Sprint(p.Partition))
			}
		}
		line(&out.Days[i], "all")
	}
	return w.Flush()
}

func certificateOf(x *escrow.Certificate) certificate {
	out := certificate{Day: x.Day, Partition: x.Partition, Checked: x.Checked, Breaches: x.Breaches, Granted: x.Granted, Unknown: x.Unknown}
	if x.Checked > 0 {
		slack, at := int64(x.LeastSlack), time.UnixMicro(x.TightestAt).UTC()
		out.LeastSlack, out.Tightest, out.TightestAt = &slack, x.Tightest, &at
	}
	return out
}

// add makes c the certificate of both.
func (c *certificate) add(x *certificate) {
	if x.LeastSlack != nil && (c.LeastSlack == nil || *x.LeastSlack < *c.LeastSlack) {
		c.LeastSlack, c.Tightest, c.TightestAt = x.LeastSlack, x.Tightest, x.TightestAt
	}
	c.Checked += x.Checked
	c.Breaches += x.Breaches
	c.Granted += x.Granted
	c.Unknown += x.Unknown
}

// readCertificates is the newest certificate of each day and partition, in that order.
func readCertificates(ctx context.Context, conf kafka.Config, day string) ([]escrow.Certificate, error) {
	client, err := conf.Client(slog.New(slog.DiscardHandler), "onhand-certificate")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	asking, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	newest := make(map[string]escrow.Certificate)
	var bad error
	err = kafka.Whole(asking, client, []string{schemas.Certificates}, func(r *kgo.Record) {
		x, err := topics.DecodeCertificate(r.Value)
		if err != nil {
			bad = fmt.Errorf("%s, partition %d, offset %d: %w", r.Topic, r.Partition, r.Offset, err)
			return
		}
		if day == "" || x.Day == day {
			newest[string(r.Key)] = *x
		}
	})
	if err != nil {
		return nil, fmt.Errorf("topic %s on %s: %w", schemas.Certificates, strings.Join(conf.Brokers, ","), err)
	}
	if bad != nil {
		return nil, bad
	}
	out := make([]escrow.Certificate, 0, len(newest))
	for _, x := range newest {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b escrow.Certificate) int {
		if c := strings.Compare(a.Day, b.Day); c != 0 {
			return c
		}
		return int(a.Partition - b.Partition)
	})
	return out, nil
}
