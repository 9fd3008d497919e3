package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/topics"
)

type rejectedCmd struct {
	List  rejectedListCmd  `cmd:"" help:"List the records of stock.rejected, oldest first."`
	Retry rejectedRetryCmd `cmd:"" help:"Send rejected input again, as it was, after what was wrong has been put right."`
}

// retried is the reason of a record of stock.rejected that marks another one: its topic, partition and offset are that one's place in stock.rejected. So nothing is deleted,
// and what was retried is not offered again.
const retried = "retried"

// rejection is a rejected record, and where it lies in stock.rejected.
type rejection struct {
	*alert.Rejected
	place place
	again bool // it was retried
}

type place struct {
	partition int32
	offset    int64
}

// id names it for --id: partition/offset in stock.rejected.
func (r rejection) id() string {
	return strconv.Itoa(int(r.place.partition)) + "/" + strconv.FormatInt(r.place.offset, 10)
}

// readRejected is all of stock.rejected, oldest first, and how many records could not be decoded themselves.
func readRejected(ctx context.Context, conf kafka.Config) ([]rejection, int, error) {
	client, err := conf.Client(slog.New(slog.DiscardHandler), "onhand-rejected")
	if err != nil {
		return nil, 0, err
	}
	defer client.Close()
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(asking, schemas.StockRejected)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, 0, fmt.Errorf("topic %s on %s: %w", schemas.StockRejected, strings.Join(conf.Brokers, ","), err)
	}
	var parts []int32
	ends.Each(func(o kadm.ListedOffset) { parts = append(parts, o.Partition) })
	var out []rejection
	unreadable := 0
	marks := make(map[place]bool)
	_, err = kafka.Committed(ctx, client, map[string][]int32{schemas.StockRejected: parts}, nil, func(r *kgo.Record) {
		x, err := topics.DecodeRejected(r.Value)
		switch {
		case err != nil:
			unreadable++
		case x.Reason == retried && x.Topic == schemas.StockRejected:
			marks[place{x.Partition, x.Offset}] = true
		default:
			out = append(out, rejection{Rejected: x, place: place{r.Partition, r.Offset}})
		}
	})
	if err != nil {
		return nil, 0, fmt.Errorf("topic %s: %w", schemas.StockRejected, err)
	}
	for i := range out {
		out[i].again = marks[out[i].place]
	}
	slices.SortStableFunc(out, func(a, b rejection) int { return int(min(1, max(-1, a.At-b.At))) })
	return out, unreadable, nil
}

type rejectedListCmd struct {
	target
	kafka.Config `prefix:"kafka-" embed:""`
	JSON         bool   `help:"One JSON object a line."`
	All          bool   `help:"Also those that were retried."`
	Reason       string `help:"Only those with this reason: undecodable, unknown_kind, invalid, absurd_quantity, unknown_sku …"`
	Count        int    `help:"Stop after this many records." short:"n"`
}

// rejectedShown is one line with --json.
type rejectedShown struct {
	ID         string            `json:"id"`
	Source     string            `json:"source"` // topic/partition/offset it came from
	Key        string            `json:"key"`
	Value      string            `json:"value,omitempty"`
	Bytes      []byte            `json:"value_base64,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"`
	Reason     string            `json:"reason"`
	Detail     string            `json:"detail"`
	RejectedBy string            `json:"rejected_by"`
	RejectedAt time.Time         `json:"rejected_at"`
	Retried    bool              `json:"retried"`
}

func (r rejection) shown() rejectedShown {
	x := rejectedShown{
		ID: r.id(), Source: topics.RejectedID(r.Rejected), Key: string(r.Key), Reason: r.Reason, Detail: r.Detail, RejectedBy: r.RejectedBy, RejectedAt: time.UnixMicro(r.At).UTC(), Retried: r.again,
	}
	if bytes.Equal(bytes.ToValidUTF8(r.Value, nil), r.Value) {
		x.Value = string(r.Value)
	} else {
		x.Bytes = r.Value
	}
	for _, h := range r.Headers {
		if x.Headers == nil {
			x.Headers = make(map[string]string)
		}
		x.Headers[h.Key] = string(h.Value)
	}
	return x
}

// Run lists what was rejected.
func (c *rejectedListCmd) Run(ctx context.Context, s streams) error {
	all, unreadable, err := readRejected(ctx, brokersOf(c.target, c.Config))
	if err != nil {
		return err
	}
	n := 0
	for _, r := range all {
		if r.again && !c.All || c.Reason != "" && r.Reason != c.Reason {
			continue
		}
		if c.JSON {
			err = jsonLine(s.out, r.shown())
		} else {
			mark := ""
			if r.again {
				mark = " (retried)"
			}
			_, err = fmt.Fprintf(s.out, "%s %s from %s by %s: %s%s\n  %s\n  key %q value %s\n", time.UnixMicro(r.At).UTC().Format(time.RFC3339), r.id(), topics.RejectedID(r.Rejected), r.RejectedBy, r.Reason, mark,
				r.Detail, r.Key, printable(r.Value))
		}
		if err != nil {
			return err
		}
		if n++; n == c.Count {
			break
		}
	}
	if unreadable > 0 {
		_, err = fmt.Fprintf(s.err, "%d records of %s cannot be decoded themselves: onhand tail %s --no-follow --json shows their bytes\n", unreadable, schemas.StockRejected, schemas.StockRejected)
	}
	return err
}

type rejectedRetryCmd struct {
	target
	kafka.Config `prefix:"kafka-" embed:""`
	ID           []string `help:"Those with these ids, PARTITION/OFFSET as rejected list shows." placeholder:"ID"`
	Reason       string   `help:"All with this reason."`
	All          bool     `help:"All that have not been retried yet."`
	Again        bool     `help:"Also those that were retried before."`
	DryRun       bool     `help:"Only say what would be sent."`
}

// Run sends rejected input again: HTTP input to the API, records to the topic they came from, with their keys, headers and bytes. What is refused once more is in stock.rejected
// once more.
func (c *rejectedRetryCmd) Run(ctx context.Context, s streams) error {
	if len(c.ID) == 0 && c.Reason == "" && !c.All {
		return errors.New("say which: --id, --reason or --all")
	}
	conf := brokersOf(c.target, c.Config)
	all, _, err := readRejected(ctx, conf)
	if err != nil {
		return err
	}
	wanted := make(map[string]bool)
	for _, id := range c.ID {
		wanted[id] = true
	}
	client, err := conf.Client(slog.New(slog.DiscardHandler), "onhand-rejected")
	if err != nil {
		return err
	}
	defer client.Close()
	codec, err := topics.NewCodec(ctx, nil)
	if err != nil {
		return err
	}
	sent, kept := 0, 0
	for _, r := range all {
		named := wanted[r.id()]
		delete(wanted, r.id())
		if !named && !c.All && (c.Reason == "" || r.Reason != c.Reason) || c.Reason != "" && r.Reason != c.Reason {
			continue
		}
		if r.again && !c.Again {
			if named {
				_, _ = fmt.Fprintf(s.out, "%s was retried before: --again sends it once more\n", r.id())
			}
			continue
		}
		to, err := r.destination()
		if err == nil && !c.DryRun {
			err = c.send(ctx, client, r)
		}
		if err != nil {
			kept++
			_, _ = fmt.Fprintf(s.out, "%s stays: %v\n", r.id(), err)
			continue
		}
		sent++
		if c.DryRun {
			_, _ = fmt.Fprintf(s.out, "%s would go to %s: key %q value %s\n", r.id(), to, r.Key, printable(r.Value))
			continue
		}
		if err := mark(ctx, client, codec, r, to); err != nil {
			return fmt.Errorf("%s was sent to %s and could not be marked: %w", r.id(), to, err)
		}
		_, _ = fmt.Fprintf(s.out, "%s sent to %s\n", r.id(), to)
	}
	for id := range wanted {
		kept++
		_, _ = fmt.Fprintf(s.out, "%s is no record of %s\n", id, schemas.StockRejected)
	}
	verb := "sent again"
	if c.DryRun {
		verb = "would be sent again"
	}
	_, err = fmt.Fprintf(s.out, "%d %s, %d not\n", sent, verb, kept)
	if err == nil && kept > 0 {
		return &exitError{1, ""}
	}
	return err
}

// destination is where a rejected record can be sent again: where it came from.
func (r rejection) destination() (string, error) {
	if strings.Contains(r.Detail, "(only the first ") {
		return "", errors.New("it was so large that only its beginning is kept: send it again from its source")
	}
	switch r.Topic {
	case schemas.OrdersIn, schemas.StockEvents:
		return r.Topic, nil
	case "http":
		for _, h := range r.Headers {
			if h.Key == "route" && strings.HasPrefix(string(h.Value), "/v1/") {
				return "POST " + string(h.Value), nil
			}
		}
		return "", errors.New("the route that it came by is not kept")
	}
	return "", fmt.Errorf("it is from %s, which Onhand writes itself: the service reads it again from there", r.Topic)
}

func (c *rejectedRetryCmd) send(ctx context.Context, client *kgo.Client, r rejection) error {
	if r.Topic != "http" {
		out := &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		return client.ProduceSync(ctx, out).FirstErr()
	}
	api, err := c.target.find()
	if err != nil {
		return err
	}
	to, err := r.destination()
	if err != nil {
		return err
	}
	a, err := api.call(ctx, http.MethodPost, strings.TrimPrefix(to, "POST "), "application/json", r.Value)
	if err != nil {
		return err
	}
	if a.status/100 != 2 {
		return a.problem()
	}
	return nil
}

// mark notes in stock.rejected itself that a record was sent again.
func mark(ctx context.Context, client *kgo.Client, codec *topics.Codec, r rejection, to string) error {
	note := &kgo.Record{Topic: schemas.StockRejected, Partition: r.place.partition, Offset: r.place.offset, Key: r.Key}
	out := codec.RejectedRecord(note, retried, "sent again to "+to+", after it was rejected as "+r.Reason, "onhand rejected retry", time.Now())
	return client.ProduceSync(ctx, out).FirstErr()
}
