package main

import (
	"context"
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

func parse(t *testing.T, yaml string, args ...string) (*flags, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &flags{}
	p, err := kong.New(f, program.Options(about())...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Parse(append([]string{"--config", file}, args...))
	return f, err
}

func TestSettingsFile(t *testing.T) {
	f, err := parse(t, "kafka-brokers: [a:1, b:2]\nledger-batch-skus: 7\nledger-window: 24h\nlisten: 127.0.0.1:0\n", "--ledger-window=48h")
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Kafka.Brokers) != 2 || f.Ledger.BatchSKUs != 7 || f.Listen != "127.0.0.1:0" || f.Ledger.Window.Hours() != 48 {
		t.Errorf("got %+v", f)
	}
	for yaml, want := range map[string]string{"ledger-windw: 1h": "ledger-windw", "ledger-batch-skus: 0": "batch-skus"} {
		if _, err := parse(t, yaml); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: no word of %s in %v", yaml, want, err)
		}
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The availability API asks for a key that may read; without keys the program does not start.
func TestTheAPIAsksForAKey(t *testing.T) {
	const key = "0123456789abcdef0123"
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	api, admin := free(t), free(t)
	args := []string{
		"--kafka-brokers", cluster.ListenAddrs()[0], "--kafka-partitions", "2", "--kafka-replication", "1", "--redis-addrs", miniredis.RunT(t).Addr(),
		"--listen", api, "--admin-listen", admin, "--log-level", "error",
	}
	t.Setenv("API_KEYS", "")
	f, err := parse(t, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.run(t.Context()); err == nil || !strings.Contains(err.Error(), "API keys") {
		t.Fatalf("without keys: %v", err)
	}
	t.Setenv("API_KEYS", "console read "+key+"\nshop write x"+key)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.run(ctx) }()
	get := func(url, key string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	for deadline := time.Now().Add(20 * time.Second); get("http://"+admin+"/readyz", "") != http.StatusOK; {
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
	for name, tt := range map[string]struct {
		path, key string
		want      int
	}{
		"no key":       {"/v1/availability/A", "", http.StatusUnauthorized},
		"unknown key":  {"/v1/availability/A", "y" + key, http.StatusUnauthorized},
		"may not read": {"/v1/availability/A", "x" + key, http.StatusForbidden},
		"may read":     {"/v1/availability/A", key, http.StatusNotFound}, // nothing is known of A
		"no such path": {"/v1/nothing", key, http.StatusNotFound},
	} {
		if got := get("http://"+api+tt.path, tt.key); got != tt.want {
			t.Errorf("%s: status %d, want %d", name, got, tt.want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}
