package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/e2e/testbed"
)

// TestRedisCluster runs the ledger on a Redis Cluster of three nodes, with its owners killed and moved: the keys of a partition share a slot, so that a step
// into it is one script, and partitions are on more than one node.
func TestRedisCluster(t *testing.T) {
	cluster, err := testbed.StartRedisCluster(t.Context(), t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := draw(11, crash, move, crash)
	t.Log(s)
	r := newRig(t, program, "cluster", s, &rig{addrs: cluster.Addrs})
	for range s.projectors {
		r.start()
	}
	for _, f := range s.faults {
		r.until(f.String(), func() bool { return r.applied >= f.at })
		r.hurt(f)
	}
	r.settled()

	client, ok := r.redis.(*goredis.ClusterClient)
	if !ok {
		t.Fatalf("the client is a %T", r.redis)
	}
	var mu sync.Mutex
	slots, nodes, keys := map[string]int64{}, map[string]bool{}, 0
	err = client.ForEachMaster(t.Context(), func(ctx context.Context, node *goredis.Client) error {
		all, err := node.Keys(ctx, "cluster:{p*").Result()
		if err != nil {
			return err
		}
		for _, k := range all {
			slot, err := node.ClusterKeySlot(ctx, k).Result()
			if err != nil {
				return err
			}
			partition, _, _ := strings.Cut(k, "}")
			mu.Lock()
			if first, ok := slots[partition]; ok && first != slot {
				err = fmt.Errorf("%s is in slot %d, other keys of the partition in %d", k, slot, first)
			}
			slots[partition], nodes[node.Options().Addr], keys = slot, true, keys+1
			mu.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if len(slots) != partitions || len(nodes) < 2 || keys < s.skus {
		t.Errorf("%d keys of %d partitions on %d nodes; want all %d partitions on more than one node", keys, len(slots), len(nodes), partitions)
	}
}
