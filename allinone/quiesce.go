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

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/analytics"
)

// Quiesce waits until everything that came in before has run through every stage: the ledger has folded all events, the allocator all levels, the channels have
// settled all targets, and ClickHouse holds all records. It goes by the offsets that the groups have committed, twice in a row without anything new, so that it
// is also right for services in other processes.
func (p *Process) Quiesce(ctx context.Context) error {
	return p.quiesce(ctx, func(string) bool { return true })
}

// QuiesceChannels is Quiesce without waiting for ClickHouse.
func (p *Process) QuiesceChannels(ctx context.Context) error {
	return p.quiesce(ctx, func(service string) bool { return service != Analytics })
}

func (p *Process) quiesce(ctx context.Context, of func(service string) bool) error {
	adm := kadm.NewClient(p.admin)
	var before map[string]int64
	var waiting string
	for {
		ends, behind, err := p.standing(ctx, adm, of)
		if err == nil && len(behind) == 0 && p.idle(of) {
			if before != nil && maps.Equal(before, ends) {
				return nil
			}
			before = ends
		} else {
			before = nil
			waiting = strings.Join(behind, ", ")
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

// idle reports that no service here knows of work.
func (p *Process) idle(of func(service string) bool) bool {
	for _, s := range p.parts {
		if of(s.name) && s.lag() > 0 {
			return false
		}
	}
	if p.Allocator != nil && p.Allocator.Stats().Open > 0 { // granted writes whose results it has not taken in: more may follow from them
		return false
	}
	return p.Pusher == nil || p.Pusher.Stats().Doubtful == 0
}

// standing is the end of each partition of the pipeline's topics, and the groups that have not committed so far, with their lag.
func (p *Process) standing(ctx context.Context, adm *kadm.Client, of func(service string) bool) (ends map[string]int64, behind []string, err error) {
	listed, err := adm.ListEndOffsets(ctx)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("end offsets: %w", err)
	}
	starts, err := adm.ListStartOffsets(ctx)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("start offsets: %w", err)
	}
	ends = make(map[string]int64)
	listed.Each(func(o kadm.ListedOffset) {
		if !strings.HasPrefix(o.Topic, "_") { // bookkeeping of a group is no work
			ends[fmt.Sprintf("%s/%d", o.Topic, o.Partition)] = o.Offset
		}
	})
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
			return nil, nil, fmt.Errorf("offsets of onhand-%s: %w", s.name, err)
		}
		var lag int64
		listed.Each(func(o kadm.ListedOffset) {
			if !reads(o.Topic) {
				return
			}
			at := int64(0)
			if st, ok := starts.Lookup(o.Topic, o.Partition); ok {
				at = st.Offset
			}
			if c, ok := committed.Lookup(o.Topic, o.Partition); ok {
				at = max(at, c.At)
			}
			lag += max(0, o.Offset-at)
		})
		if lag > 0 {
			behind = append(behind, fmt.Sprintf("%s has %d records to go", s.name, lag))
		}
	}
	slices.Sort(behind)
	return ends, behind, nil
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
