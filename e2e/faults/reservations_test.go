package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onhand/onhand/e2e/testbed"
	"github.com/onhand/onhand/platform/telemetry"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/services/ledger-projector/audit"
	"github.com/onhand/onhand/stock/event"
)

// api is a process of ingest.
type api struct {
	*testbed.Program
	url string
}

// ingest starts one on a port of its own.
func (r *rig) ingest(path string) *api {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	addr := l.Addr().String()
	r.must(l.Close())
	r.started++
	a := &api{url: "http://" + addr}
	a.Program, err = testbed.StartProgram(fmt.Sprintf("ingest %d", r.started), filepath.Join(r.dir, fmt.Sprintf("ingest-%d.log", r.started)), path,
		"--kafka-brokers", r.broker.Addr, "--kafka-partitions", strconv.Itoa(partitions), "--kafka-replication", "1", "--redis-addrs", strings.Join(r.addrs, ","),
		"--listen", addr, "--admin-listen", "127.0.0.1:0", "--api-keys-off", "--log-format", "text", "--reservation-timeout", "2s", "--requests-per-second", "0")
	r.must(err)
	r.t.Cleanup(func() {
		if err := a.Kill(); err != nil {
			r.t.Error(err)
		}
		if r.t.Failed() {
			r.t.Logf("--- the end of %s:\n%s", a.url, a.Tail())
		}
	})
	return a
}

// standing is a reservation as the API answers.
type standing struct {
	State string
	Items []struct {
		State string
		Held  []struct{ Units int64 }
	}
}

// call asks the API. What it does not answer is an error.
func (a *api) call(ctx context.Context, method, path string, body any) (int, standing, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out standing
	b, err := json.Marshal(body)
	if err != nil {
		return 0, out, err
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(b))
	if err != nil {
		return 0, out, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, out, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, out, json.NewDecoder(resp.Body).Decode(&out)
}

// TestNoCrashLeavesHalfAReservation kills ledger-projectors and instances of ingest, as processes, while callers reserve two SKUs at once, in whatever step they are. In
// the end each reservation is held whole or not at all, all that was answered as held is, and Redis is the fold of the log.
func TestNoCrashLeavesHalfAReservation(t *testing.T) {
	path, err := build(scratch, "ingest")
	if err != nil {
		t.Fatal(err)
	}
	s := schedule{seed: 1, events: 1, skus: 1, batch: 1000, backlog: 1000}
	r := fresh(t, program, s)
	const pairs, units = 6, 150
	for i := range pairs {
		for _, side := range []string{"L", "R"} {
			sku := fmt.Sprint(side, i)
			now := time.Now().UnixMicro()
			e := event.Event{ID: "receipt/" + sku, SKU: sku, Kind: event.ReceiptReceived, Location: "main", Quantity: units, OccurredAt: now, ReceivedAt: now, Source: "faults", Checked: true}
			r.must(r.prod.ProduceSync(t.Context(), r.codec.EventRecord(&e)).FirstErr())
		}
	}
	var mu sync.Mutex
	apis := []*api{r.ingest(path), r.ingest(path)}
	r.start()
	r.start()
	pick := func() *api {
		mu.Lock()
		defer mu.Unlock()
		return apis[rand.IntN(len(apis))]
	}
	var asked, promised atomic.Int64
	var held sync.Map
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				id := fmt.Sprint("r-", asked.Add(1))
				item := func(side string) map[string]any {
					return map[string]any{"sku": fmt.Sprint(side, rand.IntN(pairs)), "quantity": 1}
				}
				status, _, err := pick().call(t.Context(), http.MethodPost, "/v1/reservations", map[string]any{"id": id, "ttl_seconds": 3000, "items": []any{item("L"), item("R")}})
				if err != nil {
					time.Sleep(5 * time.Millisecond) // it is dead, or starts
				} else if status == http.StatusCreated {
					held.Store(id, true)
					promised.Add(1)
				}
			}
		})
	}
	for life := range 6 {
		enough := promised.Load() + 20 + rand.Int64N(60) // somewhere in the middle: where does not matter
		r.eventually("some are answered", func(context.Context) error {
			if n := promised.Load(); n < enough {
				return fmt.Errorf("%d of %d are", n, enough)
			}
			return nil
		})
		if life%2 == 0 {
			p := r.pick(life / 2)
			r.gone(p)
			r.must(p.Kill())
			r.start()
			continue
		}
		a := pick()
		r.must(a.Kill())
		fresh := r.ingest(path)
		mu.Lock()
		for i := range apis {
			if apis[i] == a {
				apis[i] = fresh
			}
		}
		mu.Unlock()
	}
	stop()
	callers.Wait()

	n, whole := int(asked.Load()), 0
	const never = "not in the log" // or the instance that is asked has not read so far
	ended := map[int]string{}
	decided := func(ctx context.Context) error {
		for i := 1; i <= n; i++ {
			if ended[i] != "" && ended[i] != never {
				continue
			}
			status, x, err := pick().call(ctx, http.MethodGet, fmt.Sprint("/v1/reservations/r-", i), nil)
			switch {
			case err != nil:
				return err
			case status == http.StatusNotFound:
				ended[i] = never
			case status != http.StatusOK:
				return fmt.Errorf("r-%d: status %d", i, status)
			case x.State == "tentative":
				return fmt.Errorf("r-%d is tentative", i)
			default:
				ended[i] = x.State
				parts := int64(0)
				for _, it := range x.Items {
					for _, h := range it.Held {
						parts += h.Units
					}
				}
				if x.State == "held" {
					whole++
				}
				if x.State == "held" && parts != 2 || x.State != "held" && parts != 0 {
					t.Errorf("r-%d is %s and holds %d of two units", i, x.State, parts)
				}
			}
		}
		return nil
	}
	r.eventually("everything is decided", decided)
	// The log says the same, and so does Redis: nothing else is held anywhere.
	r.eventually("no part of any other is held, in the log and in Redis", func(ctx context.Context) error {
		if err := decided(ctx); err != nil {
			return err
		}
		f, err := ledgerprojector.FoldTopic(ctx, r.kafka(), telemetry.Silent().Log, ledgerprojector.DefaultConfig().Options())
		if err != nil {
			return err
		}
		want := levels(f.Levels())
		if err := diff(r.inRedis(), want); err != nil {
			return err
		}
		sides := map[byte]int64{}
		for name, v := range want {
			if strings.HasSuffix(name, ":held") {
				sides[name[0]] += v
			}
		}
		if sides['L'] != int64(whole) || sides['R'] != int64(whole) {
			return fmt.Errorf("%d are held, and the SKUs have %d and %d", whole, sides['L'], sides['R'])
		}
		return nil
	})
	held.Range(func(id, _ any) bool {
		i, _ := strconv.Atoi(strings.TrimPrefix(id.(string), "r-"))
		if ended[i] != "held" {
			t.Errorf("%s was promised, and is %q", id, ended[i])
		}
		return true
	})
	found, err := audit.Verify(t.Context(), audit.Source{Kafka: r.kafka(), Redis: r.redis, Namespace: r.namespace, Log: telemetry.Silent().Log}, nil, 2, func(d audit.Difference) { t.Error(d) })
	if err != nil || len(found) == 0 {
		t.Error(err)
	}
	t.Logf("%d asked for, %d promised, %d held", n, promised.Load(), whole)
	if promised.Load() == 0 || whole == n {
		t.Error(errors.New("nothing was interrupted, or everything"))
	}
}
