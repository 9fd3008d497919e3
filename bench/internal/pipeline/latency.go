package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

// Quantiles is a distribution in milliseconds.
type Quantiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// quantiles sorts us, which are microseconds.
func quantiles(us []int64) Quantiles {
	if len(us) == 0 {
		return Quantiles{}
	}
	slices.Sort(us)
	at := func(q float64) float64 {
		return float64(us[min(len(us)-1, int(math.Ceil(q*float64(len(us))))-1)]) / 1000
	}
	return Quantiles{Count: len(us), P50: at(0.5), P95: at(0.95), P99: at(0.99), Max: float64(us[len(us)-1]) / 1000}
}

// latencies is what the topics say of the sales of a window.
type latencies struct {
	everywhere Quantiles // per sold line: from receipt to the acknowledgement of the last channel whose number it changed
	write      Quantiles // per write: from the receipt of the oldest event it carries to the channel's answer
	writes     float64   // channels told of a sold line
	missing    int       // sold lines that changed no channel's number
}

// pushed is one acknowledged write: it carries the events of its SKU that were received from oldest to newest.
type pushed struct{ oldest, newest, acked int64 }

type place struct{ sku, channel string }

// from is the offsets at which a window begins.
func (s *system) from(ctx context.Context, adm *kadm.Client) (kadm.ListedOffsets, error) {
	o, err := adm.ListEndOffsets(ctx, schemas.StockEvents, schemas.ChannelWrites)
	if err == nil {
		err = o.Error()
	}
	return o, err
}

// read takes sales received from from to to (Unix microseconds) and the writes that followed from the topics, from the offsets on.
func (s *system) read(ctx context.Context, adm *kadm.Client, start kadm.ListedOffsets, from, to int64) (out latencies, err error) {
	ends, err := s.from(ctx, adm)
	if err != nil {
		return out, err
	}
	at := make(map[string]map[int32]kgo.Offset)
	left := 0
	ends.Each(func(e kadm.ListedOffset) {
		b, _ := start.Lookup(e.Topic, e.Partition)
		if e.Offset <= b.Offset {
			return
		}
		if at[e.Topic] == nil {
			at[e.Topic] = make(map[int32]kgo.Offset)
		}
		at[e.Topic][e.Partition] = kgo.NewOffset().At(b.Offset)
		left++
	})
	if left == 0 {
		return out, errors.New("nothing was written during the window")
	}
	c, err := s.kafka.Client(s.tel.Log, "bench-read", kgo.ConsumePartitions(at))
	if err != nil {
		return out, err
	}
	defer c.Close()
	type line struct {
		sku      string
		received int64
	}
	var lines []line
	names := make(map[string]string) // one copy of each SKU
	writes := make(map[place][]pushed)
	var perWrite []int64
	var reader topics.EventReader
	var e event.Event
	done := make(map[place]bool)
	name := func(s string) string {
		n, ok := names[s]
		if !ok {
			n = string([]byte(s))
			names[n] = n
		}
		return n
	}
	for left > 0 {
		fetches := c.PollRecords(ctx, 20_000)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return out, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, _ := ends.Lookup(r.Topic, r.Partition)
			if p := (place{r.Topic, fmt.Sprint(r.Partition)}); r.Offset >= end.Offset-1 && !done[p] {
				done[p] = true
				left--
			}
			if r.Topic == schemas.StockEvents {
				if e1 := reader.Read(r.Value, &e); e1 != nil {
					err = e1
				} else if e.Kind == event.SaleRecorded && e.ReceivedAt >= from && e.ReceivedAt < to {
					lines = append(lines, line{name(e.SKU), e.ReceivedAt})
				}
				return
			}
			w, e1 := topics.DecodeWrite(r.Value)
			if e1 != nil {
				err = e1
				return
			}
			if w.Outcome != write.Applied || w.AckedAt == 0 || w.OldestReceivedAt == 0 || w.ReceivedAt < from {
				return
			}
			p := place{name(w.SKU), name(w.Channel)}
			writes[p] = append(writes[p], pushed{w.OldestReceivedAt, w.ReceivedAt, w.AckedAt})
			if w.OldestReceivedAt >= from && w.OldestReceivedAt < to {
				perWrite = append(perWrite, w.AckedAt-w.OldestReceivedAt)
			}
		})
		if err != nil {
			return out, err
		}
	}
	for _, ws := range writes {
		slices.SortFunc(ws, func(a, b pushed) int { return cmp.Or(cmp.Compare(a.newest, b.newest), cmp.Compare(a.acked, b.acked)) })
	}
	perLine := make([]int64, 0, len(lines))
	told := 0
	for _, l := range lines {
		last := int64(-1)
		for _, ch := range channels {
			ws := writes[place{l.sku, ch}]
			i, _ := slices.BinarySearchFunc(ws, l.received, func(w pushed, at int64) int { return cmp.Compare(w.newest, at) })
			if i == len(ws) || ws[i].oldest > l.received {
				continue // its number did not change: the channel had lowered it by itself
			}
			last = max(last, ws[i].acked-l.received)
			told++
		}
		if last < 0 {
			out.missing++
			continue
		}
		perLine = append(perLine, last)
	}
	if len(lines) > 0 {
		out.writes = float64(told) / float64(len(lines))
	}
	out.everywhere, out.write = quantiles(perLine), quantiles(perWrite)
	return out, nil
}
