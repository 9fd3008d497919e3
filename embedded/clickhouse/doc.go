// Package clickhouse runs the ClickHouse engine inside this process (libchdb,
// loaded when it is first opened, never at import) and speaks ClickHouse's HTTP
// interface over it, so that clickhouse-go, clickhouse-connect, curl and other
// clients work as they do with a server.
//
//	engine, err := clickhouse.Open(ctx, clickhouse.Config{Dir: "./.onhand/clickhouse"})
//	http.Serve(listener, clickhouse.NewHandler(engine, clickhouse.HandlerConfig{}))
//
// What differs from a server: a result is held in memory until it is complete
// (so that an error always has its HTTP status), external tables are not taken,
// and the functions that read files or the network (file, url, s3 and so on) are
// not granted: whoever can reach the port must not read this machine through it.
//
// A process can hold one engine open at a time; the library keeps its state
// process-wide. It can be closed and opened again, also on another directory.
package clickhouse
