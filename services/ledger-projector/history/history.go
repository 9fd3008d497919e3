// Package history tells what the stock of a SKU was, and how it became what it is: by folding the SKU's partition of stock.events once more.
//
// The whole partition is folded, with the rules that the ledger is folded with, so that what comes out is what the ledger held at that offset, repeats and
// rejected events included.
package history

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/internal/eventlog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// Query is what to look at. Zero bounds are open: the whole log.
type Query struct {
	Kafka   kafka.Config
	Log     *slog.Logger
	Options ledger.Options // that the ledger is folded with
	SKU     string
	Offset  *int64    // the last event to look at
	Time    time.Time // events appended later are left out
}

// Delta is how one number changed.
type Delta struct {
	Bucket   string `json:"bucket"`             // on_hand, committed, held, inbound, unsellable, safety_stock, unassigned, sold, restored
	Location string `json:"location,omitempty"` // or the channel, for sold and restored
	Units    int64  `json:"units"`
	Now      int64  `json:"now"`
}

// Change is what one event did.
type Change struct {
	Offset      int64     `json:"offset"`
	At          time.Time `json:"at"` // when it was appended
	OccurredAt  time.Time `json:"occurred_at"`
	EventID     string    `json:"event_id"`
	Kind        string    `json:"kind"`
	Outcome     string    `json:"outcome"` // applied, unchanged (about a reservation), duplicate or rejected
	Why         string    `json:"why,omitempty"`
	Quantity    int64     `json:"quantity"`
	Location    string    `json:"location,omitempty"`
	ToLocation  string    `json:"to_location,omitempty"`
	Channel     string    `json:"channel,omitempty"`
	Order       string    `json:"order,omitempty"`
	Line        string    `json:"line,omitempty"`
	Reference   string    `json:"reference,omitempty"`
	Reservation string    `json:"reservation,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Source      string    `json:"source,omitempty"`
	Deltas      []Delta   `json:"deltas"`
	Available   int64     `json:"available"`
	Oversold    int64     `json:"oversold,omitempty"` // units that it left without stock
	Version     int64     `json:"version"`
}

// Partition is the partition of stock.events that a SKU is in.
func Partition(sku string, partitions int) int32 {
	p := kgo.StickyKeyPartitioner(nil).ForTopic(schemas.StockEvents)
	return int32(p.Partition(&kgo.Record{Key: []byte(sku)}, partitions))
}

// Of gives each event that named the SKU to yield, with what it changed, in order. It returns the level at the end, nil when no event was applied to it, and
// the offset that the partition was folded to.
func Of(ctx context.Context, q Query, yield func(Change) error) (*ledger.Level, int64, error) {
	log, err := eventlog.Describe(ctx, q.Kafka, q.Log)
	if err != nil {
		return nil, 0, err
	}
	p := Partition(q.SKU, len(log.End))
	if log.Start[p] > 0 {
		return nil, 0, fmt.Errorf("the log of partition %d begins at offset %d: what came before cannot be folded again", p, log.Start[p])
	}
	last := log.End[p] - 1
	if q.Offset != nil {
		last = min(last, *q.Offset)
	}
	reader, err := eventlog.Open(q.Kafka, q.Log, p, 0)
	if err != nil {
		return nil, 0, err
	}
	defer reader.Close()
	fold := eventlog.NewFold(reader, ledger.New(q.Options), -1, 0)
	var before, after ledger.Level
	var level *ledger.Level
	var failed error
	at := int64(-1)
	for fold.Offset < last {
		if !q.Time.IsZero() {
			r, err := reader.Peek(ctx, last+1) // a record that is too late must not be folded
			if err != nil {
				return nil, 0, err
			}
			if r == nil || r.Timestamp.After(q.Time) {
				break
			}
		}
		was := fold.Offset
		err := fold.Advance(ctx, last, func(r *kgo.Record, e *event.Event, res ledger.Result) bool {
			at = r.Offset
			fold.Forget()
			if string(r.Key) == q.SKU && yield != nil || e.SKU == q.SKU && res.Outcome == ledger.Applied {
				if k := fold.State.SKU(q.SKU); k != nil {
					fold.State.Level(k, 0, &after)
				}
				if yield != nil {
					c := change(r, e, res, &before, &after)
					if res.Decided {
						d := fold.State.Decision()
						if c.Why = "the reservation is " + d.State.String(); d.Reason != "" {
							c.Why += ": " + d.Reason
						}
					}
					failed = yield(c)
				}
				before = *after.Clone()
				if after.SKU != "" {
					level = &before
				}
			}
			return failed == nil && q.Time.IsZero()
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return nil, 0, err
		}
		if fold.Offset == was {
			break // nothing but markers is left
		}
	}
	return level, at, nil
}

func micros(us int64) time.Time {
	if us <= 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func change(r *kgo.Record, e *event.Event, res ledger.Result, before, after *ledger.Level) Change {
	c := Change{Offset: r.Offset, At: r.Timestamp.UTC(), Available: int64(after.Available()), Version: after.Version, Deltas: []Delta{}, Oversold: int64(res.Oversold), Outcome: "applied"}
	if res.Fault.Reason != eventlog.Undecodable {
		c.OccurredAt, c.EventID, c.Kind, c.Quantity = micros(e.OccurredAt), strings.Clone(e.ID), e.Kind.String(), int64(e.Quantity)
		c.Location, c.ToLocation, c.Channel = strings.Clone(e.Location), strings.Clone(e.ToLocation), strings.Clone(e.Channel)
		c.Order, c.Line, c.Reference, c.Reservation = strings.Clone(e.OrderID), strings.Clone(e.LineID), strings.Clone(e.Reference), strings.Clone(e.ReservationID)
		c.Reason, c.Source = strings.Clone(e.Reason), strings.Clone(e.Source)
	}
	switch res.Outcome {
	case ledger.Duplicate:
		c.Outcome = "duplicate"
		return c
	case ledger.Unchanged:
		c.Outcome = "unchanged"
		return c
	case ledger.Rejected:
		c.Outcome, c.Why = "rejected", res.Fault.Reason+": "+res.Fault.Detail
		return c
	}
	if res.Unknown {
		c.Why = "it speaks of more units than were open"
	}
	c.Deltas = deltas(before, after)
	return c
}

// deltas is what differs between two levels of a SKU.
func deltas(before, after *ledger.Level) []Delta {
	out := []Delta{}
	add := func(bucket, name string, was, is ledger.Units) {
		if was != is {
			out = append(out, Delta{bucket, name, int64(is - was), int64(is)})
		}
	}
	for _, at := range after.Locations {
		var was ledger.LocationLevel
		if i, ok := slices.BinarySearchFunc(before.Locations, at.Location, func(l ledger.LocationLevel, name string) int { return cmp.Compare(l.Location, name) }); ok {
			was = before.Locations[i]
		}
		add("on_hand", at.Location, was.OnHand, at.OnHand)
		add("committed", at.Location, was.Committed, at.Committed)
		add("held", at.Location, was.Held, at.Held)
		add("inbound", at.Location, was.Inbound, at.Inbound)
		add("unsellable", at.Location, was.Unsellable, at.Unsellable)
		add("safety_stock", at.Location, was.Safety, at.Safety)
	}
	add("unassigned", "", before.Unassigned, after.Unassigned)
	byChannel := func(bucket string, before, after []ledger.ChannelUnits) {
		for _, c := range after {
			var was ledger.Units
			for _, b := range before {
				if b.Channel == c.Channel {
					was = b.Units
				}
			}
			add(bucket, c.Channel, was, c.Units)
		}
	}
	byChannel("sold", before.Sold, after.Sold)
	byChannel("restored", before.Restored, after.Restored)
	for _, a := range after.Allotments {
		var was ledger.Units
		for _, b := range before.Allotments {
			if b.Channel == a.Channel {
				was = b.Units
			}
		}
		add("allotted", a.Channel, was, a.Units)
	}
	return out
}
