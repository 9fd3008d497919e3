package audit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// after calls f after each list of SKUs that Redis gives.
type after struct{ f func() }

func (h after) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h after) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h after) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "sscan" {
			h.f()
		}
		return err
	}
}

// A new ledger fills with SKUs faster than they are listed: that is no fault of it. What is changed behind its back all the same is found.
func TestSKUsThatComeDuringTheCheckAreNoMismatch(t *testing.T) {
	m := miniredis.RunT(t)
	client, checking := redis.NewClient(&redis.Options{Addr: m.Addr()}), redis.NewClient(&redis.Options{Addr: m.Addr()})
	defer client.Close()
	defer checking.Close()
	options := ledgerprojector.DefaultConfig().Options()
	store := hotview.NewStore(client, "oh", 0, "owner/0/1", hotview.Identity{Dataset: "d", TopicID: "t", Fold: options.String()})
	meta, err := store.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	state, _, err := store.Load(t.Context(), meta, options)
	if err != nil {
		t.Fatal(err)
	}
	offset := int64(-1)
	// more stores a step that brings one SKU to each bucket of the digest.
	more := func() {
		prev := offset
		var in [ledger.DigestBuckets]bool
		for left, n := len(in), 0; left > 0; n++ {
			sku := fmt.Sprintf("SKU-%d-%d", prev, n)
			b := ledger.DigestBucket(sku)
			if in[b] {
				continue
			}
			in[b] = true
			left--
			offset++
			e := event.Event{ID: sku, SKU: sku, Kind: event.ReceiptReceived, Location: "berlin", Quantity: 1, OccurredAt: 1, ReceivedAt: 1}
			state.Apply(&e, offset, 1)
		}
		var step hotview.Step
		store.Prepare(state, &hotview.Batch{Prev: prev, Last: offset}, &step)
		if err := store.Apply(t.Context(), &step, hotview.Emitted{To: -1, Levels: -1}); err != nil {
			t.Fatal(err)
		}
	}
	more()
	grow := 0 // lists after which more SKUs come
	checking.AddHook(after{func() {
		if grow--; grow >= 0 {
			more()
		}
	}})
	check := func(lists int) (found []audit.Mismatch) {
		grow = lists
		if _, err := audit.Digests(t.Context(), checking, "oh", 0, func(int) error { return nil }, func(m audit.Mismatch) { found = append(found, m) }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	for lists := range 12 {
		if found := check(lists); len(found) > 0 {
			t.Fatalf("SKUs came after %d lists, and a ledger that only grows is said to be wrong: %s", lists, found[0])
		}
		if grow > 0 {
			t.Fatalf("SKUs came after %d lists less than %d", grow, lists)
		}
	}
	for _, k := range m.Keys() {
		if strings.HasPrefix(k, "oh:{p0}:sku:") {
			m.HSet(k, "available", "77")
			break
		}
	}
	if found := check(2); len(found) != 1 {
		t.Errorf("one SKU was changed while others came: %d mismatches", len(found))
	}
}
