package topics

import (
	"strings"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
)

// Specs is the topics of the contract as a cluster should have them, with the number of partitions that all topics by SKU share. The
// targets.<channel> topics are not among them: [TargetsSpec] has those.
func Specs(partitions int32) []kafka.Topic {
	var out []kafka.Topic
	for _, t := range schemas.Topics() {
		if !strings.HasPrefix(t.Name, schemas.TargetsPrefix) {
			out = append(out, spec(t, t.Name, partitions))
		}
	}
	return out
}

// TargetsSpec is the topic of one channel's targets.
func TargetsSpec(channel string, partitions int32) kafka.Topic {
	for _, t := range schemas.Topics() {
		if strings.HasPrefix(t.Name, schemas.TargetsPrefix) {
			return spec(t, schemas.TargetsTopic(channel), partitions)
		}
	}
	panic("topics: the contract has no targets topic")
}

func spec(t schemas.Topic, name string, partitions int32) kafka.Topic {
	if t.SinglePart {
		partitions = 1
	}
	configs := kafka.Retention(t.Retention)
	if t.Cleanup == schemas.Compact {
		configs = map[string]string{"cleanup.policy": "compact"}
	}
	return kafka.Topic{Name: name, Partitions: partitions, Configs: configs}
}
