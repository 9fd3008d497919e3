// Package testbed runs the real parts on loopback ports for tests and benchmarks:
// Apache Kafka, redis-server and the ClickHouse engine, each shared by the tests
// of one process, Redis Cluster too, and the outside clients kcat, redis-cli and clickhouse-connect.
// It installs what is missing (see Install) and can hurt what it runs: kill,
// restart, pause.
//
//	func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }
//
//	func TestX(t *testing.T) { addr := testbed.Kafka(t).Addr }
//
// A test that cannot have a part fails with the reason; it is never left out.
package testbed
