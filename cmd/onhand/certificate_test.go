package main

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/topics"
)

// Of each day and partition the newest certificate counts; a day's least slack is that of its tightest partition, and a breach is the exit status.
func TestCertificate(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, schemas.Certificates))
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
	codec, err := topics.NewCodec(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(c escrow.Certificate) {
		t.Helper()
		r := topics.Record(schemas.Certificates, c.Day+"/"+strconv.Itoa(int(c.Partition)), codec.AppendCertificate(nil, &c))
		kafka.ToPartition(r, c.Partition)
		if err := client.ProduceSync(t.Context(), []*kgo.Record{r}...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	put(escrow.Certificate{Day: "2026-01-01", Partition: 0, Checked: 5, LeastSlack: 9, Tightest: "OLD"})
	put(escrow.Certificate{Day: "2026-01-01", Partition: 0, Checked: 10, LeastSlack: 3, Tightest: "A", Granted: 4})
	put(escrow.Certificate{Day: "2026-01-01", Partition: 1, Checked: 7, LeastSlack: 1, Tightest: "B", Granted: 2})
	run := func(args ...string) (int, string) {
		t.Helper()
		var out, errs bytes.Buffer
		code := run(append([]string{"certificate", "--kafka-brokers", conf.Brokers[0]}, args...), streams{strings.NewReader(""), &out, &errs})
		return code, out.String() + errs.String()
	}
	code, text := run("--day", "2026-01-01")
	if code != 0 || !strings.Contains(text, "all") || !strings.Contains(text, "17") || strings.Contains(text, "OLD") {
		t.Errorf("exit %d:\n%s", code, text)
	}
	put(escrow.Certificate{Day: "2026-01-02", Partition: 1, Checked: 1, LeastSlack: -2, Tightest: "C", Breaches: 1})
	code, text = run("--json")
	var got certificates
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if code != 1 || len(got.Partitions) != 3 || len(got.Days) != 2 || *got.Days[0].LeastSlack != 1 || got.Days[0].Tightest != "B" || *got.Days[1].LeastSlack != -2 {
		t.Errorf("exit %d: %s", code, text)
	}
	if code, text = run("--day", "2026-01-03"); code != 0 || !strings.Contains(text, "nothing to certify") {
		t.Errorf("exit %d: %s", code, text)
	}
	if code, text = run("--day", "yesterday"); code == 0 || !strings.Contains(text, "2006-01-02") {
		t.Errorf("exit %d: %s", code, text)
	}
}
