package clickhouse

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"
)

// binding holds the library's functions. A handle of the library is a uintptr:
// it points at memory that Go neither moves nor frees.
type binding struct {
	connect     func(argc int32, argv *uintptr) uintptr
	closeConn   func(conn uintptr)
	query       func(conn uintptr, q *byte, qLen uintptr, format *byte, fLen uintptr) uintptr
	queryParams func(conn uintptr, q *byte, qLen uintptr, format *byte, fLen uintptr, names, nameLens, values, valueLens *uintptr, n uintptr) uintptr
	errorText   func(result uintptr) uintptr
	buffer      func(result uintptr) uintptr
	length      func(result uintptr) uintptr
	elapsed     func(result uintptr) float64
	rows        func(result uintptr) uint64
	storageRows func(result uintptr) uint64
	storageByte func(result uintptr) uint64
	written     func(result uintptr) uint64
	writtenByte func(result uintptr) uint64
	destroy     func(result uintptr)
	signals     func(enabled int32)
	sigaction   func(sig int32, act, old *byte) int32
}

var (
	loadMu sync.Mutex
	loaded = map[string]*binding{}
)

// load opens the library once per path; it stays loaded, as unloading a C++
// runtime is not safe.
func load(path string) (*binding, error) {
	loadMu.Lock()
	defer loadMu.Unlock()
	if b := loaded[path]; b != nil {
		return b, nil
	}
	lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load the ClickHouse engine: %w", err)
	}
	b := &binding{}
	for name, fn := range map[string]any{
		"chdb_connect": &b.connect, "chdb_close_conn": &b.closeConn,
		"chdb_query_n": &b.query, "chdb_query_with_params_n": &b.queryParams,
		"chdb_result_error": &b.errorText, "chdb_result_buffer": &b.buffer, "chdb_result_length": &b.length,
		"chdb_result_elapsed": &b.elapsed, "chdb_result_rows_read": &b.rows,
		"chdb_result_storage_rows_read": &b.storageRows, "chdb_result_storage_bytes_read": &b.storageByte,
		"chdb_result_rows_written": &b.written, "chdb_result_bytes_written": &b.writtenByte,
		"chdb_destroy_query_result": &b.destroy, "chdb_set_signal_handlers_enabled": &b.signals,
	} {
		addr, err := purego.Dlsym(lib, name)
		if err != nil {
			return nil, fmt.Errorf("load the ClickHouse engine: %s has no %s: version %s or newer is needed", path, name, Version)
		}
		purego.RegisterFunc(fn, addr)
	}
	addr, err := purego.Dlsym(purego.RTLD_DEFAULT, "sigaction")
	if err != nil {
		return nil, fmt.Errorf("load the ClickHouse engine: %w", err)
	}
	purego.RegisterFunc(&b.sigaction, addr)
	loaded[path] = b
	return b, nil
}

// goSignals are the signals whose handlers the library replaces or resets when
// an engine starts, and which the Go runtime must keep.
var goSignals = []syscall.Signal{
	syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGILL, syscall.SIGBUS, syscall.SIGSYS,
	syscall.SIGFPE, syscall.SIGTRAP, syscall.SIGTSTP, syscall.SIGURG, syscall.SIGPIPE,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP,
}

// keepSignals runs f and puts back the signal handlers that it changed. A
// struct sigaction is at most 152 bytes on the platforms that have a library.
func (b *binding) keepSignals(f func()) {
	var saved [32][256]byte
	ok := make([]bool, len(goSignals))
	for i, sig := range goSignals {
		ok[i] = b.sigaction(int32(sig), nil, &saved[i][0]) == 0
	}
	f()
	for i, sig := range goSignals {
		if ok[i] {
			b.sigaction(int32(sig), &saved[i][0], nil)
		}
	}
}

// open makes one connection. All connections share one engine, which the first
// one starts with the arguments and the last one to close stops.
func (b *binding) open(args []string) uintptr {
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]uintptr, len(args)+1)
	for i, arg := range args {
		c := append([]byte(arg), 0)
		pin.Pin(&c[0])
		argv[i] = uintptr(unsafe.Pointer(&c[0]))
	}
	var conn uintptr
	b.keepSignals(func() {
		b.signals(0)
		conn = b.connect(int32(len(args)), &argv[0])
	})
	return conn
}

// param is one value for a {name:Type} placeholder, in ClickHouse's escaped text.
type param struct{ name, value string }

// run executes a statement on a connection and returns the result's handle,
// which the caller destroys.
func (b *binding) run(conn uintptr, query, format string, params []param) uintptr {
	inner := *(*uintptr)(pointer(conn)) // chdb_connect returns a pointer to the handle
	q, f := bytesOf(query), bytesOf(format)
	if len(params) == 0 {
		return b.query(inner, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)))
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	at := func(s string) uintptr {
		c := bytesOf(s)
		pin.Pin(&c[0])
		return uintptr(unsafe.Pointer(&c[0]))
	}
	n := len(params)
	table := make([]uintptr, 4*n)
	for i, p := range params {
		table[i], table[n+i] = at(p.name), uintptr(len(p.name))
		table[2*n+i], table[3*n+i] = at(p.value), uintptr(len(p.value))
	}
	return b.queryParams(inner, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)),
		&table[0], &table[n], &table[2*n], &table[3*n], uintptr(n))
}

// failure is the error text of a result, empty when it has none.
func (b *binding) failure(result uintptr) string {
	p := b.errorText(result)
	if p == 0 {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(pointer(p), n)) != 0 {
		n++
	}
	return strings.Clone(unsafe.String((*byte)(pointer(p)), n))
}

// data is the result's bytes, in the library's memory until it is destroyed.
func (b *binding) data(result uintptr) []byte {
	p, n := b.buffer(result), b.length(result)
	if p == 0 || n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(pointer(p)), n)
}

// bytesOf copies s with a NUL behind it, so that an empty one has an address.
func bytesOf(s string) []byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return b
}

// pointer makes a pointer of an address in the library's memory. The detour
// tells vet what it cannot see: that no Go object is at that address.
func pointer(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }
