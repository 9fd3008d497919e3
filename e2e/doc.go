// Package e2e tests the whole pipeline: the same scripted day on the embedded parts and on a real Apache Kafka, a real redis-server and the ClickHouse
// engine, and a second start on the data of a first.
package e2e
