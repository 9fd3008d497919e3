package hotview

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Global is what holds for the ledger as a whole.
type Global struct {
	Partitions int32
	Dataset    string
	TopicID    string
}

// OpenGlobal stamps the namespace with g, unless it was stamped from the same topic before, and returns what is stored.
func OpenGlobal(ctx context.Context, c redis.UniversalClient, ns Namespace, g Global) (Global, error) {
	m, err := c.HGetAll(ctx, ns.Meta()).Result()
	if err != nil {
		return Global{}, fmt.Errorf("read %s: %w", ns.Meta(), err)
	}
	if n, err := strconv.ParseInt(m["partitions"], 10, 32); err == nil && m["topic_id"] == g.TopicID {
		return Global{Partitions: int32(n), Dataset: m["dataset"], TopicID: m["topic_id"]}, nil
	}
	err = c.HSet(ctx, ns.Meta(), "layout", Layout, "namespace", string(ns), "partitions", g.Partitions, "dataset", g.Dataset, "topic_id", g.TopicID).Err()
	if err != nil {
		return Global{}, fmt.Errorf("write %s: %w", ns.Meta(), err)
	}
	return g, nil
}
