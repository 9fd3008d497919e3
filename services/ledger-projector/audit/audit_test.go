package audit_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever single field of whatever SKU is changed, lost or added, verify finds it, names the SKU and the field, and nothing else; and so does the digest, but for the name of
// the field.
func TestVerifyFindsAnySingleMutatedField(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	m := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	defer client.Close()
	src := audit.Source{Kafka: kafka.Config{Brokers: cluster.ListenAddrs()}, Redis: client, Namespace: "oh", Log: slog.New(slog.DiscardHandler)}
	prod, err := src.Kafka.Client(src.Log, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer prod.Close()
	if err := kafka.EnsureTopics(t.Context(), prod, -1, topics.Specs(2)); err != nil {
		t.Fatal(err)
	}
	codec, err := topics.NewCodec(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixMicro()
	for i := range 12 {
		for j, k := range []event.Kind{event.ReceiptReceived, event.SaleRecorded, event.SaleRecorded, event.StockCounted, event.SaleCancelled} {
			e := event.Event{
				ID: fmt.Sprint(i, "/", j), SKU: fmt.Sprint("SKU-", i), Kind: k, Location: "berlin", Channel: "web", OrderID: fmt.Sprint(i, j/4), LineID: "1", Quantity: 3, OccurredAt: now, ReceivedAt: now,
				AsOf: now - 5, RestockedByChannel: true,
			}
			if j == 2 {
				e.Location = ""
			}
			if err := prod.ProduceSync(t.Context(), codec.EventRecord(&e)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := ledgerprojector.New(ledgerprojector.DefaultConfig(), ledgerprojector.Deps{Kafka: src.Kafka, Codec: codec, Redis: client, Telemetry: telemetry.Silent()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	verify := func() (found []audit.Difference, behind bool) {
		t.Helper()
		parts, err := audit.Verify(t.Context(), src, nil, 2, func(d audit.Difference) { found = append(found, d) })
		behind = err != nil
		for _, p := range parts {
			behind = behind || p.Offset+1 < p.End
		}
		return found, behind
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if found, behind := verify(); len(found) > 0 {
			t.Fatal(found[0])
		} else if !behind {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the ledger does not catch up")
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	digest := func() (n int) {
		for p := range int32(2) {
			if _, err := audit.Digests(t.Context(), client, "oh", p, func(int) error { return nil }, func(audit.Mismatch) { n++ }); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	if n := digest(); n > 0 {
		t.Fatalf("the digest finds %d faults in a ledger that is right", n)
	}
	keys := slices.DeleteFunc(m.Keys(), func(k string) bool { return !strings.Contains(k, ":sku:") })
	if len(keys) != 12 {
		t.Fatalf("there are %d SKUs", len(keys))
	}
	for n, key := range keys {
		fields, err := m.HKeys(key)
		if err != nil {
			t.Fatal(err)
		}
		if n > 1 {
			fields = fields[n%len(fields) : n%len(fields)+1] // each field of two SKUs, some of the others
		}
		sku := key[strings.LastIndex(key, ":")+1:]
		for _, f := range append(fields, "berlin:moved_at", "rome:on_hand") {
			was := m.HGet(key, f)
			for _, mutate := range []func(){
				func() { m.HSet(key, f, was+"1") },
				func() { m.HDel(key, f) },
			} {
				mutate()
				if now := m.HGet(key, f); now == was {
					continue // it was not there
				}
				found, _ := verify()
				if len(found) != 1 || found[0].SKU != sku || found[0].Field != f {
					t.Errorf("%s of %s was changed, and verify finds %v", f, sku, found)
				}
				if n := digest(); n != 1 {
					t.Errorf("%s of %s was changed, and the digest finds %d faults", f, sku, n)
				}
				if was == "" {
					m.HDel(key, f)
				} else {
					m.HSet(key, f, was)
				}
			}
		}
	}
	if found, _ := verify(); len(found) > 0 {
		t.Errorf("all was put back, and verify finds %v", found)
	}
	m.Del(keys[3])
	if found, _ := verify(); len(found) != 1 || found[0].Redis != audit.Missing || digest() != 1 {
		t.Errorf("a SKU was deleted, and verify finds %v", found)
	}
}
