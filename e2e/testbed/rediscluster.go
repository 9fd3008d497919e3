package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisCluster is a real Redis Cluster of masters without replicas, the slots divided evenly.
type RedisCluster struct {
	Addrs []string // of the nodes, host:port
	Logs  []string // paths of their logs

	procs []*process
}

// StartRedisCluster runs a Redis Cluster of its own of so many nodes in dir. It serves all slots when it returns.
func StartRedisCluster(ctx context.Context, dir string, nodes int) (*RedisCluster, error) {
	if err := Install(ctx, PartRedis, nil); err != nil {
		return nil, err
	}
	ports, err := freePorts(2 * nodes) // each node has a port for clients, and one for the others
	if err != nil {
		return nil, err
	}
	c := &RedisCluster{}
	for i := range nodes {
		at := filepath.Join(dir, fmt.Sprintf("node-%d", i+1))
		if err := os.MkdirAll(at, 0o755); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
		log := filepath.Join(at, "redis.log")
		p, err := spawn("redis-server", log, "redis-server", "--port", fmt.Sprint(ports[i]), "--cluster-port", fmt.Sprint(ports[nodes+i]), "--cluster-enabled", "yes",
			"--cluster-config-file", "nodes.conf", "--bind", "127.0.0.1", "--dir", at, "--save", "", "--appendonly", "no", "--daemonize", "no")
		if err != nil {
			return nil, errors.Join(err, c.Stop())
		}
		c.Addrs, c.Logs, c.procs = append(c.Addrs, loopback(ports[i])), append(c.Logs, log), append(c.procs, p)
	}
	if err := c.form(ctx, ports[:nodes], ports[nodes:]); err != nil {
		return nil, errors.Join(fmt.Errorf("form a Redis Cluster: %w", err), c.Stop())
	}
	return c, nil
}

// form gives each node its slots, makes the nodes known to each other, and waits until all agree.
func (c *RedisCluster) form(ctx context.Context, ports, bus []int) error {
	const slots = 16384
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i, p := range c.procs {
		node := redis.NewClient(&redis.Options{Addr: c.Addrs[i], MaxRetries: -1})
		defer node.Close()
		if err := p.await(ctx, func(ctx context.Context) error { return node.Ping(ctx).Err() }); err != nil {
			return err
		}
		if err := node.ClusterAddSlotsRange(ctx, i*slots/len(c.procs), (i+1)*slots/len(c.procs)-1).Err(); err != nil {
			return err
		}
		if err := node.Do(ctx, "cluster", "set-config-epoch", i+1).Err(); err != nil {
			return err
		}
		if err := node.Do(ctx, "cluster", "meet", "127.0.0.1", ports[0], bus[0]).Err(); err != nil {
			return err
		}
	}
	for i, p := range c.procs {
		node := redis.NewClient(&redis.Options{Addr: c.Addrs[i], MaxRetries: -1})
		defer node.Close()
		err := p.await(ctx, func(ctx context.Context) error {
			info, err := node.ClusterInfo(ctx).Result()
			if err == nil && (!strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", len(c.procs))) ||
				!strings.Contains(info, fmt.Sprintf("cluster_size:%d\r", len(c.procs)))) {
				err = errors.New(info)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop ends all nodes.
func (c *RedisCluster) Stop() error {
	var errs []error
	for _, p := range c.procs {
		errs = append(errs, p.end(5*time.Second))
	}
	return errors.Join(errs...)
}
