package kafka

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestAddressedRecordsGoWhereTheyShould mixes records of every partition with some that are keyed and some that have no key, in small batches so
// that the client often asks for a partition twice.
func TestAddressedRecordsGoWhereTheyShould(t *testing.T) {
	const partitions, rounds = 7, 200
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	client, err := Config{Brokers: cluster.ListenAddrs()}.Client(quietLog, "test", kgo.ProducerBatchMaxBytes(1024))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var mu sync.Mutex
	keyed, keyless := make(map[string]int32), make(map[int32]bool)
	for i := range rounds {
		for p := range int32(partitions) {
			r := &kgo.Record{Topic: "t", Key: []byte("same"), Value: make([]byte, 100)}
			ToPartition(r, p)
			client.Produce(context.Background(), r, func(r *kgo.Record, err error) {
				if err != nil || r.Partition != p {
					t.Errorf("addressed to %d, in %d: %v", p, r.Partition, err)
				}
			})
		}
		key := strconv.Itoa(i % 20)
		client.Produce(context.Background(), &kgo.Record{Topic: "t", Key: []byte(key), Value: make([]byte, 100)}, func(r *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if at, ok := keyed[key]; err != nil || ok && at != r.Partition {
				t.Errorf("key %s in %d and in %d: %v", key, at, r.Partition, err)
			}
			keyed[key] = r.Partition
		})
		client.Produce(context.Background(), &kgo.Record{Topic: "t", Value: make([]byte, 400)}, func(r *kgo.Record, _ error) {
			mu.Lock()
			defer mu.Unlock()
			keyless[r.Partition] = true
		})
	}
	if err := client.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for key, p := range keyed {
		if n := want.Partition(&kgo.Record{Key: []byte(key)}, partitions); int32(n) != p {
			t.Errorf("key %s is in %d, and Kafka's partitioner says %d", key, p, n)
		}
	}
	if len(keyless) < 2 {
		t.Errorf("records without a key all went to %v", keyless)
	}
	// What has no such partition fails, and does not stand in the way.
	r := &kgo.Record{Topic: "t"}
	ToPartition(r, partitions)
	if err := client.ProduceSync(context.Background(), r).FirstErr(); err == nil {
		t.Error("a partition beyond the last was taken")
	}
}
