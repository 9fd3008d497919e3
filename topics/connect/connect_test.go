package connect

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/event"
)

func cluster(t *testing.T) kafka.Config {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return kafka.Config{Brokers: c.ListenAddrs(), Partitions: 3, Replication: 1}
}

func TestCodecMakesTheTopics(t *testing.T) {
	cfg := cluster(t)
	for range 2 { // the second time they are there
		codec, err := Codec(t.Context(), cfg, "", "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if v := codec.AppendEvent(nil, &event.Event{ID: "e", SKU: "A"}); len(v) == 0 || v[0] == 0 {
			t.Errorf("without a registry a value begins with %v; want bare Protobuf", v)
		}
	}
	client, err := cfg.Client(slog.New(slog.DiscardHandler), "check")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	got, err := kadm.NewClient(client).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range schemas.Topics() {
		if strings.HasPrefix(want.Name, schemas.TargetsPrefix) {
			continue // made for each channel
		}
		partitions := 3
		if want.SinglePart {
			partitions = 1
		}
		if n := len(got[want.Name].Partitions); n != partitions {
			t.Errorf("%s has %d partitions, want %d", want.Name, n, partitions)
		}
	}
}

func TestCodecRegistersTheSchemas(t *testing.T) {
	registry := srfake.New()
	defer registry.Close()
	codec, err := Codec(t.Context(), cluster(t), registry.URL(), "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if v := codec.AppendEvent(nil, &event.Event{ID: "e", SKU: "A"}); len(v) < 6 || v[0] != 0 {
		t.Errorf("with a registry a value begins with %.6v; want the frame", v)
	}
}

func TestCodecSaysWhatIsAway(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Codec(ctx, cluster(t), gone.URL, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "register") {
		t.Errorf("without its registry: %v", err)
	}
	if _, err := Codec(t.Context(), kafka.Config{}, "", "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "kafka-brokers") {
		t.Errorf("without brokers: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	away := kafka.Config{Brokers: []string{strings.TrimPrefix(gone.URL, "http://")}, Partitions: 1, Replication: 1}
	if _, err := Codec(ctx, away, "", "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "topic") {
		t.Errorf("without its cluster: %v", err)
	}
}
