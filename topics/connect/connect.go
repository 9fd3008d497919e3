// Package connect makes ready what a program needs of Kafka before it starts: the topics of the contract, and the codec of their values.
package connect

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/topics"
)

// longest is how long a cluster may take to make the topics, or a registry to take the schemas.
const longest = time.Minute

// Codec makes the topics that do not exist yet, and registers the schemas with the registry at registryURL; without a URL the codec reads and writes
// bare Protobuf. Topics that exist stay as they are. It fails when the cluster or the registry does not answer within a minute.
func Codec(ctx context.Context, cfg kafka.Config, registryURL, service string, log *slog.Logger) (*topics.Codec, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	client, err := cfg.Client(log, "onhand-"+service+"-setup")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if err := kafka.EnsureTopics(ctx, client, cfg.Replication, topics.Specs(cfg.Partitions)); err != nil {
		return nil, err
	}
	if registryURL == "" {
		return topics.NewCodec(ctx, nil)
	}
	registry, err := sr.NewClient(sr.URLs(registryURL))
	if err != nil {
		return nil, fmt.Errorf("registry-url %q: %w", registryURL, err)
	}
	return topics.NewCodec(ctx, registry)
}
