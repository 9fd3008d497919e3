// Package topics turns Onhand's values into Kafka records and back.
//
// A [Codec] frames Protobuf in Confluent's wire format when it has a Schema Registry, and writes bare Protobuf when it has none; it reads both
// (a bare message never starts with the frame's zero byte). Decoders of hot topics write into a value that the caller reuses, and the
// strings in it alias the record's bytes: clone what is kept longer than the record.
package topics
