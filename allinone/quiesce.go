package allinone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/analytics"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// Quiesce waits until everything that came in before has run through every stage: the ledger has folded all events, the allocator all levels, the channels have
// settled all targets, and ClickHouse holds all records. It goes by the offsets that the groups have committed, so that it is also right for services in other
// processes: they have come to the ends that the topics had a moment ago, and nothing was written since. Order watermarks, which channels post for ever, count as
// nothing until something follows from one.
func (p *Process) Quiesce(ctx context.Context) error {
	return p.quiesce(ctx, func(string) bool { return true })
}

// QuiesceChannels is Quiesce without waiting for ClickHouse.
func (p *Process) QuiesceChannels(ctx context.Context) error {
	return p.quiesce(ctx, func(service string) bool { return service != Analytics })
}

// ends is the end of each partition of the pipeline's topics, by topic.
type ends map[string]map[int32]int64

func (p *Process) quiesce(ctx context.Context, of func(service string) bool) error {
	adm := kadm.NewClient(p.admin)
	var goal, last ends // where the topics ended when something was last written to them, and at the last look
	var waiting string
	before := false // it was quiet a moment ago: once more, as a service may be between a look at what came and its answer
	for {
		behind, err := p.behind(ctx, adm, goal, of)
		idle := p.idle(of)
		now, moved := last, true
		if err == nil {
			now, moved, err = p.look(ctx, adm, last)
		}
		quiet := err == nil && !moved && idle && len(behind) == 0
		if quiet && before {
			return nil
		}
		before = quiet
		if err == nil && !moved && idle && len(behind) == 1 && strings.HasPrefix(behind[0], Analytics+" ") && p.Analytics != nil {
			p.Analytics.Flush() // nothing more comes for it to wait for
		}
		if last = now; err == nil {
			waiting = strings.Join(behind, ", ")
		}
		if moved {
			goal = now
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("not quiet yet: %s: %w", waiting, ctx.Err()), err)
		case <-p.Done():
			return p.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// idle reports that no service here knows of work. Analytics is told by its offsets alone: it always has watermarks before it.
func (p *Process) idle(of func(service string) bool) bool {
	for _, s := range p.parts {
		if s.name != Analytics && of(s.name) && s.lag() > 0 {
			return false
		}
	}
	if p.Allocator != nil && p.Allocator.Stats().Open > 0 { // granted writes whose results it has not taken in: more may follow from them
		return false
	}
	return p.Pusher == nil || p.Pusher.Stats().Doubtful == 0
}

// look finds where the topics end now, and whether anything but order watermarks was written since an earlier look.
func (p *Process) look(ctx context.Context, adm *kadm.Client, before ends) (now ends, moved bool, err error) {
	listed, err := adm.ListEndOffsets(ctx)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, false, fmt.Errorf("end offsets: %w", err)
	}
	now = make(ends)
	listed.Each(func(o kadm.ListedOffset) {
		if strings.HasPrefix(o.Topic, "_") { // bookkeeping of a group is no work
			return
		}
		if now[o.Topic] == nil {
			now[o.Topic] = make(map[int32]int64)
		}
		now[o.Topic][o.Partition] = o.Offset
		if o.Topic != schemas.StockEvents && o.Topic != schemas.ChannelWatermarks && before[o.Topic][o.Partition] != o.Offset {
			moved = true
		}
	})
	if moved || before == nil || maps.Equal(before[schemas.StockEvents], now[schemas.StockEvents]) {
		return now, moved || before == nil, nil
	}
	moved, err = p.happened(ctx, before[schemas.StockEvents])
	return now, moved, err
}

// happened reports whether stock.events holds anything but order watermarks from the offsets on.
func (p *Process) happened(ctx context.Context, since map[int32]int64) (bool, error) {
	var from kadm.Offsets
	for partition, at := range since {
		from.Add(kadm.Offset{Topic: schemas.StockEvents, Partition: partition, At: at, LeaderEpoch: -1})
	}
	some := false
	var read topics.EventReader
	_, err := kafka.Committed(ctx, p.admin, map[string][]int32{schemas.StockEvents: slices.Collect(maps.Keys(since))}, from, func(r *kgo.Record) {
		var e event.Event
		some = some || read.Read(r.Value, &e) != nil || e.Kind != event.OrderWatermarkPassed
	})
	return some, err
}

// behind is the groups that have not committed as far as the goal, with how much they lack of it.
func (p *Process) behind(ctx context.Context, adm *kadm.Client, goal ends, of func(service string) bool) (behind []string, err error) {
	if goal == nil {
		return nil, nil
	}
	starts, err := adm.ListStartOffsets(ctx)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("start offsets: %w", err)
	}
	for _, s := range p.parts {
		reads := groupReads(s.name)
		if reads == nil || !of(s.name) {
			continue
		}
		committed, err := adm.FetchOffsets(ctx, "onhand-"+s.name)
		if err == nil {
			err = committed.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("offsets of onhand-%s: %w", s.name, err)
		}
		var lag int64
		for topic, partitions := range goal {
			if !reads(topic) {
				continue
			}
			for partition, end := range partitions {
				at := int64(0)
				if st, ok := starts.Lookup(topic, partition); ok {
					at = st.Offset
				}
				if c, ok := committed.Lookup(topic, partition); ok {
					at = max(at, c.At)
				}
				lag += max(0, end-at)
			}
		}
		if lag > 0 {
			behind = append(behind, fmt.Sprintf("%s has %d records to go", s.name, lag))
		}
	}
	slices.Sort(behind)
	return behind, nil
}

// groupReads says which topics the consumer group of a service reads.
func groupReads(service string) func(topic string) bool {
	one := func(name string) func(string) bool { return func(t string) bool { return t == name } }
	switch service {
	case Ingest:
		return one(schemas.OrdersIn)
	case Projector:
		return one(schemas.StockEvents)
	case Allocator:
		return one(schemas.StockLevels)
	case Pusher:
		return func(t string) bool { return strings.HasPrefix(t, schemas.TargetsPrefix) }
	case Analytics:
		return analytics.Reads
	}
	return nil
}
