package ledgerprojector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/topics"
)

// followEvery is how often owners ask whether a rebuild has moved their partitions, and whether Redis still has what they stored.
const followEvery = time.Second

// errMoved has a worker load the generation that a rebuild switched to.
var errMoved = errors.New("a rebuild has switched the partition over")

// errLost has a worker load what is left, and fold the rest again.
var errLost = errors.New("redis has lost what was stored")

// follow wakes workers whose partition was rebuilt, or whose partition Redis has lost or has as it was before. One that has events to store finds out by its
// fence; this is for those that have none.
func (s *Service) follow(ctx context.Context) {
	t := time.NewTicker(followEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		workers := s.owned()
		s.strays(ctx, workers)
		for _, w := range workers {
			if err := s.look(ctx, w); err != nil {
				select {
				case w.moved <- err:
				default:
				}
			}
		}
	}
}

// look compares what a worker knows to be stored with what Redis has. It returns errMoved or errLost, or nil: also when Redis does not say.
func (s *Service) look(ctx context.Context, w *worker) error {
	if !w.ready.Load() {
		return nil
	}
	applied := w.applied.Load()
	st := hotview.NewStore(s.deps.Redis, s.ns, w.partition, s.id, s.identity)
	m, err := st.Peek(ctx)
	if err != nil && !errors.Is(err, hotview.ErrDamaged) {
		return nil
	}
	if int64(st.Generation()) > w.serving.Load() {
		return errMoved
	}
	// Redis was asked later, and may be ahead. It is behind a worker that has just loaded older state too.
	if (err != nil || m.Offset < applied) && w.applied.Load() >= applied {
		return errLost
	}
	return nil
}

func (s *Service) owned() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*worker, 0, len(s.workers))
	for _, w := range s.workers {
		out = append(out, w)
	}
	return out
}

// check compares what Redis holds of the partitions owned here with the digest that is kept along, again and again, reading so many SKUs a second.
func (s *Service) check(ctx context.Context) {
	if s.cfg.CheckRate == 0 {
		return
	}
	alerted := make(map[string]bool) // by sum, so that one fault is told once until it is gone
	wait := func(d time.Duration) error {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			return nil
		}
	}
	pace := func(skus int) error { return wait(time.Duration(skus) * time.Second / time.Duration(s.cfg.CheckRate)) }
	for wait(followEvery) == nil {
		for _, w := range s.owned() {
			if !w.ready.Load() {
				continue
			}
			found := make(map[string]bool)
			n, err := audit.Digests(ctx, s.deps.Redis, s.cfg.Namespace, w.partition, pace, func(m audit.Mismatch) {
				s.metrics.mismatches.Add(ctx, 1)
				id := fmt.Sprintf("%d/%d/%d", alert.LedgerMismatch, m.Partition, m.Bucket)
				found[id] = true
				if !alerted[id] {
					alerted[id] = true
					s.alertMismatch(ctx, id, m)
				}
			})
			s.metrics.checked.Add(ctx, int64(n))
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("the ledger in redis could not be checked; trying again", "partition", w.partition, "err", err)
				}
				continue
			}
			for b := range audit.Buckets {
				id := fmt.Sprintf("%d/%d/%d", alert.LedgerMismatch, w.partition, b)
				if alerted[id] && !found[id] {
					delete(alerted, id)
				}
			}
		}
	}
}

func (s *Service) alertMismatch(ctx context.Context, id string, m audit.Mismatch) {
	s.log.Error("redis does not hold what the ledger stored", "partition", m.Partition, "offset", m.Offset, "sum", m.Bucket, "skus", len(m.SKUs))
	now := time.Now().UnixMicro()
	a := alert.Alert{
		ID: fmt.Sprintf("%s/%d", id, now), Kind: alert.LedgerMismatch, At: now, RaisedBy: name,
		Message: m.String() + ". Run onhand ledger verify to see which, and onhand ledger rebuild --accept-differences to put it right",
	}
	if len(m.Unread) > 0 {
		a.SKU = m.Unread[0]
	} else if len(m.SKUs) == 1 {
		a.SKU = m.SKUs[0]
	}
	s.client.Produce(ctx, topics.Record(schemas.StockAlerts, a.SKU, s.deps.Codec.AppendAlert(nil, &a)), func(_ *kgo.Record, err error) {
		if err != nil && ctx.Err() == nil {
			s.log.Error("an alert was not taken by kafka", "alert", a.Message, "err", err)
		}
	})
}

// alertDamage tells that a partition's stored state was of no use to its new owner, which folds it anew.
func (s *Service) alertDamage(ctx context.Context, partition int32, cause error) {
	now := time.Now().UnixMicro()
	a := alert.Alert{
		ID: fmt.Sprintf("%d/%d/load/%d", alert.LedgerMismatch, partition, now), Kind: alert.LedgerMismatch, At: now, RaisedBy: name,
		Message: fmt.Sprintf("the ledger in Redis was damaged in partition %d (%v): it is being folded anew from the log, and until then SKUs of it are missing. Find out who writes to its keys", partition, cause),
	}
	s.client.Produce(ctx, topics.Record(schemas.StockAlerts, "", s.deps.Codec.AppendAlert(nil, &a)), nil)
}
