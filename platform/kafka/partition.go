package kafka

import "github.com/twmb/franz-go/pkg/kgo"

// ToPartition addresses a record that is to be produced to a partition, in place of the one that its key hashes to. It holds for clients of
// [Config.Client], and for one time: when a record failed and is produced again, it is to be addressed again.
func ToPartition(r *kgo.Record, partition int32) {
	// A record has no field for this. Partition is the producer's own, and is overwritten before it asks a second time; LeaderEpoch means nothing
	// on the way out, is left alone, and is never below -1 otherwise.
	r.LeaderEpoch = -2 - partition
}

func addressed(r *kgo.Record) bool { return r.LeaderEpoch < -1 }

// partitioner honours ToPartition, and leaves all other records to another one.
type partitioner struct{ kgo.Partitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{p.Partitioner.ForTopic(topic)}
}

type topicPartitioner struct{ kgo.TopicPartitioner }

// RequiresConsistency is true for addressed records, so that all partitions are to choose from and not just those that have a leader.
func (p topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return addressed(r) || p.TopicPartitioner.RequiresConsistency(r)
}

func (p topicPartitioner) Partition(r *kgo.Record, n int) int {
	if addressed(r) {
		return int(-2 - r.LeaderEpoch)
	}
	return p.TopicPartitioner.Partition(r, n)
}

// OnNewBatch passes on what the sticky partitioner needs for records without a key.
func (p topicPartitioner) OnNewBatch() {
	if b, ok := p.TopicPartitioner.(kgo.TopicPartitionerOnNewBatch); ok {
		b.OnNewBatch()
	}
}
