package clickhouse

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where the engine keeps its data and what it may use. The zero
// value of every field but Dir has a default.
type Config struct {
	Dir         string        // data directory; made when missing
	Library     string        // path of libchdb.so; empty: see Find
	Memory      int64         // the engine's memory limit, bytes, results included; default 1 GiB. A statement over it fails, the process does not
	Threads     int           // threads of one query; default the number of processors, at most 4
	Connections int           // statements at once that write, and as many that read; default 4
	QueryTime   time.Duration // longest time of one statement; default 60 s
	Log         *slog.Logger  // default: discards
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("clickhouse: Config.Dir is empty: name the directory for the data")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("clickhouse: %w", err)
	}
	c.Dir = dir
	if c.Memory <= 0 {
		c.Memory = 1 << 30
	}
	if c.Threads <= 0 {
		c.Threads = min(runtime.NumCPU(), 4)
	}
	if c.Connections <= 0 {
		c.Connections = 4
	}
	if c.QueryTime <= 0 {
		c.QueryTime = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// ErrClosed reports a statement on an engine that is closed or closing.
var ErrClosed = errors.New("the ClickHouse engine is closed")

// ErrInUse reports that this process has an engine open already.
var ErrInUse = errors.New("this process already has a ClickHouse engine open: close it first")

// engineOpen guards the library's process-wide engine.
var engineOpen atomic.Bool

// Engine is the ClickHouse engine in this process. Its methods may be called by
// many goroutines.
type Engine struct {
	cfg     Config
	lib     *binding
	args    []string
	version string
	zone    string
	marks   atomic.Uint64 // numbers statements, so that one can be stopped

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // statements under way, and those that wait for a connection
	stop    context.CancelFunc
	stopped context.Context
	readers pool
	writers pool
	control *conn
}

// conn is one connection of the library: statements on it run one by one.
type conn struct {
	handle   uintptr
	database string
	settings map[string]string // what is set on it beyond the defaults
}

// pool hands out connections, made when first needed.
type pool struct {
	slots chan *conn // nil: not made yet
	setup string     // statement that a new connection runs first
}

// Open loads the library if that has not happened yet, starts the engine on
// cfg.Dir and checks that it answers. Errors: ErrNoLibrary, ErrInUse, or what
// the engine says of the directory.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	path, err := Find(cfg.Library, cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lib, err := load(path)
	if err != nil {
		return nil, err
	}
	if !engineOpen.CompareAndSwap(false, true) {
		return nil, ErrInUse
	}
	e, err := start(cfg, lib)
	if err != nil {
		engineOpen.Store(false)
		return nil, err
	}
	return e, nil
}

// start prepares the directory and opens the first connection.
func start(cfg Config, lib *binding) (*Engine, error) {
	for _, dir := range []string{cfg.Dir, filepath.Join(cfg.Dir, "data"), filepath.Join(cfg.Dir, "inserts")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("clickhouse: prepare the data directory: %w", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(cfg.Dir, "inserts", "*"))
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	for _, file := range left { // bodies of inserts that a crash cut off
		if err := os.Remove(file); err != nil {
			return nil, fmt.Errorf("clickhouse: clear the data directory: %w", err)
		}
	}
	if err := writeSettings(cfg); err != nil {
		return nil, fmt.Errorf("clickhouse: write the engine's settings: %w", err)
	}
	e := &Engine{cfg: cfg, lib: lib, args: []string{
		"onhand", "--path=" + filepath.Join(cfg.Dir, "data"), "--config-file=" + filepath.Join(cfg.Dir, "config.xml"),
	}}
	e.stopped, e.stop = context.WithCancel(context.Background())
	e.writers = pool{slots: make(chan *conn, cfg.Connections)}
	e.readers = pool{slots: make(chan *conn, cfg.Connections), setup: "SET readonly = 2"}
	for range cfg.Connections {
		e.readers.slots <- nil
		e.writers.slots <- nil
	}
	if e.control, err = e.connect(""); err != nil {
		return nil, fmt.Errorf("clickhouse: open %s: %w (is another process using it, or the disk full?)", cfg.Dir, err)
	}
	out, err := e.exec(e.control, "SELECT version(), timezone()", "TSV", nil)
	if err != nil {
		e.lib.closeConn(e.control.handle)
		return nil, fmt.Errorf("clickhouse: open %s: %w", cfg.Dir, err)
	}
	version, zone, _ := strings.Cut(strings.TrimSpace(string(out.Data())), "\t")
	out.Free()
	e.version, e.zone = version, zone
	return e, nil
}

// writeSettings writes the engine's configuration. It is made anew on every
// start: the directory belongs to us. Caches and pools are small, since this
// engine shares a machine with everything else, and rows are merged as rarely:
// eight to ten parts at a time and none beyond 64 MB; a merge holds a block of each.
// Parts get a file per column only
// where they are larger than that: writing one takes 2 MB of buffers a column,
// which is 140 MB for the widest table. The functions that reach files, the network or other programs are
// not granted.
func writeSettings(cfg Config) error {
	users := filepath.Join(cfg.Dir, "users.xml")
	var path strings.Builder
	if err := xml.EscapeText(&path, []byte(users)); err != nil {
		return err
	}
	server := fmt.Sprintf(`<clickhouse>
  <users_config>%s</users_config>
  <max_server_memory_usage>%d</max_server_memory_usage>
  <mark_cache_size>16777216</mark_cache_size>
  <index_mark_cache_size>4194304</index_mark_cache_size>
  <primary_index_cache_size>8388608</primary_index_cache_size>
  <query_condition_cache_size>4194304</query_condition_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <compiled_expression_cache_size>4194304</compiled_expression_cache_size>
  <vector_similarity_index_cache_size>1048576</vector_similarity_index_cache_size>
  <iceberg_metadata_files_cache_size>1048576</iceberg_metadata_files_cache_size>
  <mmap_cache_size>64</mmap_cache_size>
  <background_pool_size>2</background_pool_size>
  <background_merges_mutations_concurrency_ratio>1</background_merges_mutations_concurrency_ratio>
  <os_threads_nice_value_merge_mutate>10</os_threads_nice_value_merge_mutate>
  <background_schedule_pool_size>2</background_schedule_pool_size>
  <max_thread_pool_size>256</max_thread_pool_size>
  <max_thread_pool_free_size>8</max_thread_pool_free_size>
  <thread_pool_queue_size>1024</thread_pool_queue_size>
  <max_io_thread_pool_size>8</max_io_thread_pool_size>
  <max_io_thread_pool_free_size>0</max_io_thread_pool_free_size>
  <merge_tree>
    <min_parts_to_merge_at_once>8</min_parts_to_merge_at_once>
    <max_parts_to_merge_at_once>10</max_parts_to_merge_at_once>
    <merge_max_block_size>2048</merge_max_block_size>
    <max_bytes_to_merge_at_max_space_in_pool>67108864</max_bytes_to_merge_at_max_space_in_pool>
    <min_bytes_for_wide_part>268435456</min_bytes_for_wide_part>
  </merge_tree>
</clickhouse>
`, path.String(), cfg.Memory)
	profile := fmt.Sprintf(`<clickhouse>
  <profiles><default>
    <max_threads>%d</max_threads>
    <max_insert_threads>1</max_insert_threads>
    <max_memory_usage>%d</max_memory_usage>
    <max_execution_time>%d</max_execution_time>
    <query_profiler_real_time_period_ns>0</query_profiler_real_time_period_ns>
    <query_profiler_cpu_time_period_ns>0</query_profiler_cpu_time_period_ns>
  </default></profiles>
  <users><default>
    <password></password>
    <networks><ip>::/0</ip></networks>
    <profile>default</profile>
    <quota>default</quota>
    <grants><query>GRANT SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, CREATE FUNCTION, DROP, TRUNCATE, OPTIMIZE, KILL QUERY, SYSTEM MERGES, SYSTEM DROP CACHE, SYSTEM JEMALLOC, dictGet ON *.*</query></grants>
  </default></users>
  <quotas><default></default></quotas>
</clickhouse>
`, cfg.Threads, cfg.Memory/4*3, int(cfg.QueryTime.Seconds()+0.999))
	return errors.Join(
		os.WriteFile(filepath.Join(cfg.Dir, "config.xml"), []byte(server), 0o644),
		os.WriteFile(users, []byte(profile), 0o644))
}

// Version is the engine's version, e.g. 26.5.1.1.
func (e *Engine) Version() string { return e.version }

// connect opens one more connection and runs setup on it.
func (e *Engine) connect(setup string) (*conn, error) {
	handle := e.lib.open(e.args)
	if handle == 0 {
		return nil, errors.New("the engine does not start")
	}
	c := &conn{handle: handle, database: "default", settings: map[string]string{}}
	if setup != "" {
		if err := e.do(c, setup); err != nil {
			e.lib.closeConn(handle)
			return nil, err
		}
	}
	return c, nil
}

// Result is what a statement answered. Its bytes live in the engine's memory
// until Free.
type Result struct {
	lib                       *binding
	handle                    uintptr
	Rows                      uint64 // rows of the answer
	ReadRows, ReadBytes       uint64 // read from tables
	WrittenRows, WrittenBytes uint64
	Elapsed                   time.Duration
}

// Data is the answer in the format that was asked for, valid until Free.
func (r *Result) Data() []byte { return r.lib.data(r.handle) }

// Free gives the answer's memory back.
func (r *Result) Free() {
	if r.handle != 0 {
		r.lib.destroy(r.handle)
		r.handle = 0
	}
}

// exec runs one statement on a connection that the caller holds.
func (e *Engine) exec(c *conn, text, format string, params []param) (*Result, error) {
	began := time.Now()
	h := e.lib.run(c.handle, text, format, params)
	if h == 0 {
		return nil, errors.New("the ClickHouse engine gave no result")
	}
	if msg := e.lib.failure(h); msg != "" {
		e.lib.destroy(h)
		return nil, parseError(msg)
	}
	return &Result{
		lib: e.lib, handle: h, Elapsed: time.Since(began), Rows: e.lib.rows(h),
		ReadRows: e.lib.storageRows(h), ReadBytes: e.lib.storageByte(h),
		WrittenRows: e.lib.written(h), WrittenBytes: e.lib.writtenByte(h),
	}, nil
}

// do runs a statement whose answer nobody reads.
func (e *Engine) do(c *conn, text string) error {
	r, err := e.exec(c, text, "Null", nil)
	if err != nil {
		return err
	}
	r.Free()
	return nil
}

// Query is one statement with what belongs to it.
type Query struct {
	Text     string
	Format   string            // default output format; empty: TabSeparated
	Database string            // default database; empty: default
	Settings map[string]string // ClickHouse settings for this statement
	Params   map[string]string // values of {name:Type} placeholders, in ClickHouse's escaped text
}

// Exec runs a statement and returns its answer, which the caller frees. When ctx
// ends first, the statement is stopped. Errors of the engine are *Error.
func (e *Engine) Exec(ctx context.Context, q Query) (*Result, error) {
	st := parse(q.Text)
	if st.err != nil {
		return nil, st.err
	}
	return e.run(ctx, st, q, nil)
}

// begin counts a statement in, so that Close waits for it.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.running.Add(1)
	return nil
}

// run takes a connection from a pool, or the session's own, and runs st on it.
func (e *Engine) run(ctx context.Context, st statement, q Query, s *session) (*Result, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.running.Done()
	if s != nil {
		if err := s.lock(ctx); err != nil {
			return nil, err
		}
		defer s.unlock()
		if s.conn == nil {
			c, err := e.connect("")
			if err != nil {
				return nil, err
			}
			s.conn = c
		}
		r, err := e.runOn(ctx, s.conn, st, q)
		if err != nil && e.do(s.conn, "SELECT 1") != nil { // see below; a session keeps its state if it can
			e.lib.closeConn(s.conn.handle)
			s.conn = nil
		}
		return r, err
	}
	p := &e.writers
	if st.reads() || st.barred {
		p = &e.readers
	}
	var c *conn
	select {
	case c = <-p.slots:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a connection of the ClickHouse engine: %w", context.Cause(ctx))
	case <-e.stopped.Done():
		return nil, ErrClosed
	}
	defer func() { p.slots <- c }()
	if c == nil {
		var err error
		if c, err = e.connect(p.setup); err != nil {
			return nil, err
		}
	}
	r, err := e.runOn(ctx, c, st, q)
	// What a statement left behind must not be seen by the next one: the state
	// that it set, or the part of its answer that it wrote before it failed.
	if err != nil || st.changesSession() {
		e.lib.closeConn(c.handle)
		c = nil
	}
	return r, err
}

// runOn brings the connection to the query's database and settings and runs it.
func (e *Engine) runOn(ctx context.Context, c *conn, st statement, q Query) (*Result, error) {
	database := q.Database
	if database == "" {
		database = "default"
	}
	if c.database != database {
		if err := e.do(c, "USE "+quoteName(database)); err != nil {
			return nil, err
		}
		c.database = database
	}
	if !maps.Equal(c.settings, q.Settings) {
		if err := e.set(c, q.Settings); err != nil {
			return nil, err
		}
	}
	if st.kind == "USE" {
		defer func() { c.database = "" }()
	}
	params := make([]param, 0, len(q.Params))
	for _, name := range slices.Sorted(maps.Keys(q.Params)) {
		params = append(params, param{name, q.Params[name]})
	}
	format := q.Format
	if format == "" {
		format = "TabSeparated"
	}
	mark := "/* onhand:" + strconv.FormatUint(e.marks.Add(1), 36) + " */ "
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		e.killWhenLeft(ctx, mark, done)
	}()
	r, err := e.exec(c, mark+st.text, format, params)
	close(done)
	<-watched
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return r, err
}

// killWhenLeft stops the statement with this mark once nobody waits for it.
func (e *Engine) killWhenLeft(ctx context.Context, mark string, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-ctx.Done():
	case <-e.stopped.Done():
	}
	for {
		e.mu.Lock()
		err := e.do(e.control, "KILL QUERY WHERE startsWith(query, "+quoteString(mark)+") ASYNC")
		e.mu.Unlock()
		if err != nil {
			e.cfg.Log.Warn("a statement could not be stopped", "err", err)
		}
		select { // it may not have started yet
		case <-done:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// set brings the settings of a connection to want with one statement.
func (e *Engine) set(c *conn, want map[string]string) error {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c.settings)) {
		if _, ok := want[name]; !ok {
			list = append(list, name+" = DEFAULT")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if was, ok := c.settings[name]; !ok || was != want[name] {
			if !isSettingName(name) {
				return &Error{Code: 115, Name: "UNKNOWN_SETTING", Message: fmt.Sprintf("Unknown setting '%s'.", name)}
			}
			list = append(list, name+" = "+quoteString(want[name]))
		}
	}
	if err := e.do(c, "SET "+strings.Join(list, ", ")); err != nil {
		// All or nothing is not promised: put back what may have been set.
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if isSettingName(name) {
				_ = e.do(c, "SET "+name+" = DEFAULT")
			}
		}
		for name := range c.settings {
			_ = e.do(c, "SET "+name+" = DEFAULT")
		}
		c.settings = map[string]string{}
		return err
	}
	c.settings = maps.Clone(want)
	if c.settings == nil {
		c.settings = map[string]string{}
	}
	return nil
}

func isSettingName(name string) bool {
	return name != "" && isLetter(name[0]) && isWord(name)
}

var escaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "`", "\\`")

func quoteString(s string) string { return "'" + escaper.Replace(s) + "'" }

func quoteName(s string) string { return "`" + escaper.Replace(s) + "`" }

// Purge gives memory that the engine freed back to the system. The engine does
// so by itself within seconds; this is for moments that measure memory.
func (e *Engine) Purge(ctx context.Context) error {
	r, err := e.Exec(ctx, Query{Text: "SYSTEM JEMALLOC PURGE"})
	if err != nil {
		return err
	}
	r.Free()
	return nil
}

// closeGrace is how long Close lets running statements go on before it stops them.
const closeGrace = time.Second

// Close waits a second for running statements, stops those that go on, and
// closes the engine: its directory can be opened again then. The sessions of a Handler must be closed
// before (Handler.Close).
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	idle := make(chan struct{})
	go func() { e.running.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-time.After(closeGrace):
	}
	e.stop()
	<-idle
	for _, p := range []pool{e.readers, e.writers} {
		for range cap(p.slots) {
			if c := <-p.slots; c != nil {
				e.lib.closeConn(c.handle)
			}
		}
	}
	e.lib.closeConn(e.control.handle)
	engineOpen.Store(false)
	return nil
}
