package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/topics"
)

// What is retried goes where it came from, byte by byte and once; it is marked, and nothing is deleted.
func TestRejectedRetry(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	conf := kafka.Config{Brokers: cluster.ListenAddrs()}
	client, err := conf.Client(telemetry.Silent().Log, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := kafka.EnsureTopics(t.Context(), client, -1, topics.Specs(2)); err != nil {
		t.Fatal(err)
	}
	codec, err := topics.NewCodec(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	poison := []byte{0xff, 0x00, 0x17}
	for _, r := range []*kgo.Record{
		{Topic: schemas.StockEvents, Offset: 7, Key: []byte("S"), Value: poison, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}},
		{Topic: schemas.StockLevels, Offset: 8, Key: []byte("S"), Value: poison},
	} {
		rej := codec.RejectedRecord(r, "undecodable", "it makes no sense", "test", time.Now())
		if err := client.ProduceSync(t.Context(), rej).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	brokers := "--kafka-brokers=" + strings.Join(conf.Brokers, ",")
	onhand := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := run(append(args, brokers, "--data="+t.TempDir()), streams{strings.NewReader(""), &out, &out}); got != want {
			t.Fatalf("%v ends with %d, want %d: %s", args, got, want, out.String())
		}
		return out.String()
	}
	events := func() (n int) {
		_, err := kafka.Committed(t.Context(), client, map[string][]int32{schemas.StockEvents: {0, 1}}, nil, func(r *kgo.Record) {
			n++
			if !bytes.Equal(r.Value, poison) || string(r.Key) != "S" || len(r.Headers) != 1 {
				t.Errorf("%+v is not what was rejected", r)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if out := onhand(0, "rejected", "list"); strings.Count(out, "undecodable") != 2 {
		t.Errorf("list shows %s", out)
	}
	if out := onhand(1, "rejected", "retry", "--all", "--dry-run"); !strings.Contains(out, "1 would be sent again, 1 not") || events() != 0 {
		t.Errorf("a dry run of retry says %s", out)
	}
	if out := onhand(1, "rejected", "retry", "--reason=undecodable"); !strings.Contains(out, "1 sent again, 1 not") || events() != 1 {
		t.Errorf("retry says %s", out)
	}
	if out := onhand(0, "rejected", "list"); strings.Count(out, "undecodable") != 1 {
		t.Errorf("after the retry, list shows %s", out)
	}
	if out := onhand(0, "rejected", "list", "--all", "--json"); strings.Count(out, `"retried":true`) != 1 || strings.Count(out, "\n") != 2 {
		t.Errorf("list --all shows %s", out)
	}
	if onhand(1, "rejected", "retry", "--all"); events() != 1 {
		t.Error("what was retried is sent once more")
	}
	if out := onhand(1, "rejected", "retry", "--id=9/9"); !strings.Contains(out, "9/9 is no record") {
		t.Errorf("retry of what is not there says %s", out)
	}
}
