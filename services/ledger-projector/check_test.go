package ledgerprojector

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

// What is changed behind the ledger's back raises an alert that names the SKU, while events keep coming; and an undisturbed ledger raises none.
func TestTheDigestGivesAwayWhatOthersChange(t *testing.T) {
	m := miniredis.RunT(t)
	r := newRig(t, m.Addr())
	r.start(func(c *Config, _ *Deps) { c.CheckRate = 1_000_000 })
	send := func(n int) {
		for i := range n {
			r.send(event.Event{
				ID: fmt.Sprint(r.sent, "/", i), SKU: fmt.Sprint("SKU-", i%50), Kind: event.ReceiptReceived, Location: "berlin", Quantity: 1, OccurredAt: 1, ReceivedAt: 1,
			})
		}
	}
	send(200)
	r.check(DefaultConfig().Options())
	mismatches := func() (out []*alert.Alert) {
		for _, rec := range r.read(schemas.StockAlerts) {
			a, err := topics.DecodeAlert(rec.Value)
			if err != nil {
				t.Fatal(err)
			}
			if a.Kind == alert.LedgerMismatch {
				out = append(out, a)
			}
		}
		return out
	}
	if got := mismatches(); len(got) > 0 {
		t.Fatalf("an undisturbed ledger raises %v", got[0])
	}
	key := ""
	for _, k := range m.Keys() {
		if strings.Contains(k, ":sku:") {
			key = k
		}
	}
	if err := r.redis.HIncrBy(context.Background(), key, "berlin:on_hand", 7).Err(); err != nil {
		t.Fatal(err)
	}
	sku := key[strings.LastIndex(key, ":")+1:]
	eventually(t, "an alert", func() error {
		for _, a := range mismatches() {
			if strings.Contains(a.Message, sku) {
				return nil
			}
		}
		return errors.New("none names " + sku)
	})
}
