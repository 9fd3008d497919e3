package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/allinone"
	"github.com/onhand/onhand/allinone/memory"
	"github.com/onhand/onhand/bench/internal/process"
	"github.com/onhand/onhand/embedded"
	"github.com/onhand/onhand/embedded/clickhouse"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
)

// channels are where customers buy.
var channels = []string{
	"webshop", "wholesale", "germany", "france", "spain", "italy", "netherlands", "poland", "sweden", "ireland", "export", "outlet",
}

const key = "bench-0123456789abcdef0123456789abcdef"

// system is Onhand on embedded parts, with the settings of onhand up, in this process.
type system struct {
	*allinone.Process
	kafka kafka.Config
	house string // URL of ClickHouse
	tel   *telemetry.Telemetry
	stops []func() error
}

func (s *system) stop() error {
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i]())
	}
	s.stops = nil
	return errors.Join(errs...)
}

func startSystem(ctx context.Context, root, dir string, traced float64) (s *system, err error) {
	s = &system{}
	following, stop := context.WithCancel(ctx)
	go memory.New(memory.Floor).Follow(following)
	s.stops = append(s.stops, func() error { stop(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	log, err := os.Create(filepath.Join(dir, "onhand.log"))
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, log.Close)
	s.tel, err = telemetry.Start(ctx, telemetry.Config{LogLevel: "info", LogFormat: "json", TraceRatio: traced}, "onhand", "bench", log)
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() error {
		stopping, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return s.tel.Stop(stopping)
	})
	library, err := clickhouse.Find("", root)
	if err != nil {
		return nil, err
	}
	parts, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(dir, "data"), Library: library, ClickHouseMemory: 400 << 20, Partitions: 8, Log: s.tel.Log})
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, parts.Stop)
	client, err := (redis.Config{Addrs: []string{parts.Redis}}).Client()
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, client.Close)
	registry, err := sr.NewClient(sr.URLs(parts.Registry))
	if err != nil {
		return nil, err
	}
	keys, err := apikey.Parse("bench admin " + key)
	if err != nil {
		return nil, err
	}
	s.house = parts.ClickHouse
	s.kafka = kafka.Config{Brokers: parts.Kafka, Partitions: 8, Replication: 1}
	cfg := allinone.DefaultConfig()
	cfg.Drain = 15 * time.Second
	cfg.Ingest.AllowPrivateChannels, cfg.Pusher.AllowPrivate = true, true
	cfg.Ingest.RequestsPerSecond = 0
	cfg.Analytics.ClickHouse.URL = parts.ClickHouse
	s.Process, err = allinone.Start(ctx, cfg, allinone.Deps{Kafka: s.kafka, Redis: client, Registry: registry, Telemetry: s.tel, Keys: keys, Version: "bench"})
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, s.Stop)
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s, s.Ready(ready, allinone.Ingest)
}

// call sends a body to the API and wants it accepted.
func (s *system) call(ctx context.Context, method, path, contentType string, body io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, method, s.URL()+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return nil
}

// fill gives every channel an entry in the catalog and every SKU its opening stock, and waits until all channels show it.
func (s *system) fill(ctx context.Context, markets string, skus int) error {
	var y strings.Builder
	y.WriteString("locations:\n  - {id: " + location + ", name: Warehouse, kind: warehouse, country: DE, time_zone: Europe/Berlin}\nchannels:\n")
	for _, c := range channels {
		fmt.Fprintf(&y, "  - {id: %s, name: %s, adapter: http, base_url: %q, operation: absolute, batch_size: 500, lists_all_skus: true}\n", c, c, markets+"/channels/"+c)
	}
	y.WriteString("rules:\n  - {id: everywhere, mode: pooled}\n")
	if err := s.call(ctx, http.MethodPut, "/v1/catalog", "application/yaml", strings.NewReader(y.String())); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.Ready(ready); err != nil {
		return err
	}
	var b bytes.Buffer
	now := time.Now().UTC().Format(time.RFC3339)
	for i := range skus {
		fmt.Fprintf(&b, `{"id":"opening/%d","kind":"receipt_received","sku":%q,"quantity":1000000,"location":%q,"occurred_at":%q}`+"\n", i, skuName(i), location, now)
	}
	if err := s.call(ctx, http.MethodPost, "/v1/events?results=failed", "application/x-ndjson", &b); err != nil {
		return err
	}
	return s.quiesce(ctx)
}

func (s *system) quiesce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return s.Quiesce(ctx)
}

// world is the other process.
type world struct {
	*process.Child
	url string
}

// startWorld runs this program again, as the marketplaces and their customers.
func startWorld(ctx context.Context) (*world, error) {
	child, err := process.Again(ctx, "--world")
	if err != nil {
		return nil, err
	}
	w := &world{Child: child}
	m, err := w.next()
	if err != nil {
		return nil, errors.Join(err, w.Stop())
	}
	w.url = m.URL
	return w, nil
}

func (w *world) next() (m message, err error) {
	if err := w.Next(&m); err != nil {
		return m, fmt.Errorf("the process of the marketplaces: %w", err)
	}
	if m.Err != "" {
		return m, fmt.Errorf("the process of the marketplaces: %s", m.Err)
	}
	return m, nil
}
