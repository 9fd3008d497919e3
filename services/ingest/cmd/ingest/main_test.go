package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/onhand/onhand/platform/program"
)

// settingsOf parses arguments as main does.
func settingsOf(t *testing.T, args ...string) (*flags, error) {
	t.Helper()
	f := &flags{}
	p, err := kong.New(f, program.Options(about())...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Parse(args)
	return f, err
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestRunFromAFileOfSettings(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	api, admin := freeAddr(t), freeAddr(t)
	file := filepath.Join(t.TempDir(), "ingest.yaml")
	text := fmt.Sprintf("kafka-brokers: [%q]\nkafka-partitions: 2\nkafka-replication: 1\nredis-addrs: [%q]\nlisten: %q\nadmin-listen: %q\nlog-level: error\n",
		cluster.ListenAddrs()[0], miniredis.RunT(t).Addr(), api, admin)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("API_KEYS", "shop write write-key-0123456789")
	f, err := settingsOf(t, "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.run(ctx) }()
	get := func(method, url, body string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-API-Key", "write-key-0123456789")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	for deadline := time.Now().Add(20 * time.Second); get("GET", "http://"+admin+"/readyz", "") != 200; {
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("not ready in time")
		}
		time.Sleep(5 * time.Millisecond)
	}
	order := `{"id":"1","channel":"shop","placed_at":"2026-02-03T10:15:00Z","currency":"EUR","lines":[{"id":"1","sku":"A","quantity":1,"unit_price":"1"}]}`
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{{"POST", "/v1/orders", order, 202}, {"GET", "/v1/nothing", "", 404}, {"PATCH", "/v1/orders", "", 405}, {"GET", "/openapi.json", "", 200}} {
		if got := get(tt.method, "http://"+api+tt.path, tt.body); got != tt.want {
			t.Errorf("%s %s: status %d, want %d", tt.method, tt.path, got, tt.want)
		}
	}
	res, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"onhand_ingest_orders_total{", "onhand_ingest_ack_duration_seconds_count{", "onhand_ingest_request_duration_seconds_count{", "onhand_ingest_lag_records{", "onhand_ingest_received_bytes_total{"} {
		if !strings.Contains(string(metrics), "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestSettingsAreJudged(t *testing.T) {
	t.Setenv("API_KEYS", "")
	f, err := settingsOf(t, "--listen", "0.0.0.0:8080", "--api-keys-off")
	if err != nil {
		t.Fatal(err)
	}
	f.Ingest.MaxBatch, f.Kafka.Brokers = 0, []string{"nowhere"} // kong would stop at the first
	err = f.faults()
	for _, want := range []string{"api-keys-off: not with listen 0.0.0.0:8080", "max-batch", `kafka-brokers "nowhere"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
	file := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(file, []byte("lisen: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := settingsOf(t, "--config", file); err == nil || !strings.Contains(err.Error(), "lisen") {
		t.Errorf("a name that is no setting: %v", err)
	}
}
