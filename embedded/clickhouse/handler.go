package clickhouse

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// HandlerConfig says who may use the handler and how much.
type HandlerConfig struct {
	User     string   // with Password: the only user; empty: default
	Password string   // empty: any user name and password are taken
	Hosts    []string // names in the Host header that are taken besides IP addresses and localhost
	MaxQuery int64    // longest statement, without an INSERT's rows, bytes; default 1 MiB
	MaxBody  int64    // most bytes of an INSERT's rows, uncompressed; default 1 GiB
}

// Handler speaks ClickHouse's HTTP interface over an engine.
type Handler struct {
	engine   *Engine
	cfg      HandlerConfig
	sessions sessions
}

// NewHandler serves engine over HTTP.
func NewHandler(engine *Engine, cfg HandlerConfig) *Handler {
	if cfg.User == "" {
		cfg.User = "default"
	}
	if cfg.MaxQuery <= 0 {
		cfg.MaxQuery = 1 << 20
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 1 << 30
	}
	return &Handler{engine: engine, cfg: cfg, sessions: sessions{engine: engine, byID: map[string]*session{}}}
}

// Close ends the sessions of clients. Call it when no request runs any more, and
// before the engine is closed.
func (h *Handler) Close() { h.sessions.close() }

// notSettings are URL parameters of the interface that are no settings of the
// engine, or that mean nothing for one that holds results until complete.
var notSettings = map[string]bool{
	"query": true, "database": true, "default_format": true, "user": true, "password": true, "quota_key": true,
	"query_id": true, "session_id": true, "session_timeout": true, "session_check": true, "stacktrace": true,
	"compress": true, "decompress": true, "role": true, "client_protocol_version": true, "buffer_size": true,
	"wait_end_of_query": true, "close_session": true, "readonly": true, "enable_http_compression": true,
	"http_zlib_compression_level": true, "send_progress_in_http_headers": true, "http_headers_progress_interval_ms": true,
	"add_http_cors_header": true, "cancel_http_readonly_queries_on_client_disconnect": true,
	"network_compression_method": true, "network_zstd_compression_level": true,
	"http_write_exception_in_output_format": true, "http_response_buffer_size": true,
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-ClickHouse-Server-Display-Name", "onhand")
	w.Header().Set("X-ClickHouse-Timezone", h.engine.zone)
	if !h.hostAllowed(r) {
		// A page of another site must not reach this port through a browser.
		http.Error(w, "This address is for local clients: the Host or Origin header names another site.", http.StatusForbidden)
		return
	}
	switch r.URL.Path {
	case "/ping", "/replicas_status":
		_, _ = io.WriteString(w, "Ok.\n")
		return
	case "/", "":
	default:
		http.Error(w, "There is no handle "+r.URL.Path+"\nUse / or /ping for health checks. Send queries to / by GET ?query= or by POST.", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		h.fail(w, nil, &Error{Code: 62, Name: "SYNTAX_ERROR", Message: "Method " + r.Method + " is not supported: use GET or POST"}, http.StatusMethodNotAllowed)
		return
	}
	if err := h.authenticate(r); err != nil {
		status := http.StatusForbidden
		if err.Code == 194 {
			status = http.StatusUnauthorized
			w.Header().Set("WWW-Authenticate", `Basic realm="ClickHouse server HTTP API"`)
		}
		h.fail(w, nil, err, status)
		return
	}
	rq := &request{r: r, args: r.URL.Query(), id: r.URL.Query().Get("query_id")}
	if rq.id == "" {
		rq.id = newQueryID()
	}
	w.Header().Set("X-ClickHouse-Query-Id", rq.id)
	result, err := h.query(rq)
	switch {
	case errors.Is(err, errEmpty):
		_, _ = io.WriteString(w, "Ok.\n")
	case err != nil:
		h.fail(w, rq, err, 0)
	default:
		h.answer(w, rq, result)
	}
}

// hostAllowed tells a local client from a browser that another site steers.
func (h *Handler) hostAllowed(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	ok := host == "" || strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil
	for _, name := range h.cfg.Hosts {
		ok = ok || strings.EqualFold(host, name)
	}
	if origin := r.Header.Get("Origin"); ok && origin != "" {
		u, err := url.Parse(origin)
		return err == nil && strings.EqualFold(u.Host, r.Host)
	}
	return ok
}

// authenticate checks user and password when the handler has some.
func (h *Handler) authenticate(r *http.Request) *Error {
	if h.cfg.Password == "" {
		return nil
	}
	user, password := r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	if user == "" && password == "" {
		var ok bool
		if user, password, ok = r.BasicAuth(); !ok {
			user, password = r.URL.Query().Get("user"), r.URL.Query().Get("password")
		}
	}
	if user == "" && password == "" {
		return &Error{Code: 194, Name: "REQUIRED_PASSWORD", Message: "default: Authentication failed: password is required"}
	}
	if user == "" {
		user = "default"
	}
	userOK := subtle.ConstantTimeCompare([]byte(user), []byte(h.cfg.User))
	if userOK&subtle.ConstantTimeCompare([]byte(password), []byte(h.cfg.Password)) != 1 {
		return &Error{Code: 516, Name: "AUTHENTICATION_FAILED", Message: strconv.Quote(user) + ": Authentication failed: password is incorrect, or there is no user with such name."}
	}
	return nil
}

// request is one request with what is found out about it.
type request struct {
	r      *http.Request
	args   url.Values
	id     string
	format string // of the answer
	hello  bool   // the answer is the driver's hello block
}

// errEmpty reports a GET without a query, which a server answers "Ok.".
var errEmpty = errors.New("no query")

// query reads the statement and runs it. A nil result is an empty answer.
func (h *Handler) query(rq *request) (*Result, error) {
	r := rq.r
	body, err := h.body(rq)
	if err != nil {
		return nil, err
	}
	head := rq.args.Get("query")
	if head == "" {
		text, err := io.ReadAll(io.LimitReader(body, h.cfg.MaxQuery+1))
		if err != nil {
			return nil, bodyError(err)
		}
		if len(text) == 0 && r.Method != http.MethodPost {
			return nil, errEmpty
		}
		st := parse(string(text))
		if st.err != nil {
			return nil, st.err
		}
		if int64(len(text)) <= h.cfg.MaxQuery && (st.insert == nil || strings.EqualFold(st.insert.format, "Values") && st.insert.inline) {
			return h.run(rq, st, nil) // all of it is text
		}
		if st.insert == nil {
			return nil, h.tooLong()
		}
		return h.run(rq, st, io.MultiReader(bytes.NewReader(text[st.insert.dataAt:]), body))
	}
	if int64(len(head)) > h.cfg.MaxQuery {
		return nil, h.tooLong()
	}
	st := parse(head)
	if st.err == nil && st.insert != nil {
		if st.insert.inline {
			return h.run(rq, st, io.MultiReader(strings.NewReader(head[st.insert.dataAt:]), body))
		}
		return h.run(rq, st, body)
	}
	rest, err := io.ReadAll(io.LimitReader(body, h.cfg.MaxQuery+1))
	if err != nil {
		return nil, bodyError(err)
	}
	if len(rest) > 0 {
		if int64(len(head)+len(rest)) > h.cfg.MaxQuery {
			return nil, h.tooLong()
		}
		st = parse(head + "\n" + string(rest))
	}
	if st.err != nil {
		return nil, st.err
	}
	return h.run(rq, st, nil)
}

func (h *Handler) tooLong() error {
	return &Error{Code: codeTooLarge, Name: "QUERY_IS_TOO_LARGE", Message: fmt.Sprintf("The statement is longer than %d bytes", h.cfg.MaxQuery)}
}

// body undoes the body's compression and multipart form, and bounds its size.
func (h *Handler) body(rq *request) (io.Reader, error) {
	r := rq.r
	var body io.Reader = r.Body
	switch enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if errors.Is(err, io.EOF) { // no body at all
			return http.NoBody, nil
		}
		if err != nil {
			return nil, bodyError(err)
		}
		body = z
	case "deflate":
		z, err := zlib.NewReader(body)
		if err != nil {
			return nil, bodyError(err)
		}
		body = z
	case "zstd":
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(h.cfg.MaxBody)))
		if err != nil {
			return nil, bodyError(err)
		}
		body = z.IOReadCloser()
	case "lz4":
		body = lz4.NewReader(body)
	default:
		return nil, &Error{Code: 89, Name: "UNKNOWN_COMPRESSION_METHOD", Message: "Unknown content encoding " + strconv.Quote(enc) + ": use gzip, deflate, zstd, lz4 or none"}
	}
	if rq.args.Get("decompress") == "1" {
		body = blocks{compress.NewReader(body)}
	}
	if kind, par, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == "multipart/form-data" {
		form, err := readForm(body, par["boundary"], h.cfg.MaxQuery)
		if err != nil {
			return nil, err
		}
		for name, values := range form {
			rq.args[name] = append(rq.args[name], values...)
		}
		return http.NoBody, nil
	}
	return &limited{r: body, left: h.cfg.MaxBody + h.cfg.MaxQuery, max: h.cfg.MaxBody}, nil
}

// blocks reads ClickHouse's compressed blocks, whose end is a plain EOF only
// between two blocks.
type blocks struct{ r *compress.Reader }

func (b blocks) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// limited fails once more than max bytes were read, instead of cutting short.
type limited struct {
	r         io.Reader
	left, max int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, &Error{Code: codeTooLarge, Name: "QUERY_IS_TOO_LARGE", Message: fmt.Sprintf("The body is longer than %d bytes; send it in parts", l.max)}
	}
	return n, err
}

// bodyError is what is said of a body that cannot be read.
func bodyError(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: 432, Name: "UNKNOWN_CODEC", Message: "The request's body cannot be read: " + err.Error()}
}

// run runs a statement with the request's settings, and rows when it inserts.
func (h *Handler) run(rq *request, st statement, rows io.Reader) (*Result, error) {
	q := Query{Text: st.text, Database: rq.args.Get("database"), Settings: map[string]string{}, Params: map[string]string{}}
	if q.Database == "" {
		q.Database = rq.r.Header.Get("X-ClickHouse-Database")
	}
	for name, values := range rq.args {
		if p, ok := strings.CutPrefix(name, "param_"); ok {
			q.Params[p] = values[0]
		} else if !notSettings[name] {
			q.Settings[name] = values[0]
		}
	}
	rq.format = st.format
	if rq.format == "" {
		rq.format = rq.r.Header.Get("X-ClickHouse-Format")
	}
	if rq.format == "" {
		rq.format = rq.args.Get("default_format")
	}
	if rq.format == "" {
		rq.format = "TabSeparated"
	}
	if !isWord(rq.format) {
		return nil, &Error{Code: 73, Name: "UNKNOWN_FORMAT", Message: "Unknown format " + rq.format}
	}
	q.Format = rq.format
	if v := rq.args.Get("readonly"); rq.r.Method != http.MethodPost || v == "1" || v == "2" {
		if st.barred = true; st.writes() || st.hidden && rq.args.Get("session_id") != "" {
			return nil, &Error{Code: 164, Name: "READONLY", Message: "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. You should use method POST for modifying queries."}
		}
	}
	if isHello(st.text) && rq.format == "Native" && rq.args.Get("client_protocol_version") != "" {
		rq.hello = true
		return nil, nil
	}
	s, err := h.session(rq)
	if err != nil {
		return nil, err
	}
	if rows != nil {
		return h.engine.insert(rq.r.Context(), st, rows, q, s)
	}
	return h.engine.run(rq.r.Context(), st, q, s)
}

// session finds the session that the request names, if any.
func (h *Handler) session(rq *request) (*session, error) {
	id := rq.args.Get("session_id")
	if id == "" {
		return nil, nil
	}
	keep := 60 * time.Second
	if v := rq.args.Get("session_timeout"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > 3600 {
			return nil, &Error{Code: 374, Name: "INVALID_SESSION_TIMEOUT", Message: "Invalid session timeout: '" + v + "': give 0 to 3600 seconds"}
		}
		keep = time.Duration(n) * time.Second
	}
	return h.sessions.get(id, keep, rq.args.Get("session_check") == "1")
}

// contentTypes are those that a server names for its common formats.
var contentTypes = map[string]string{
	"tabseparated": "text/tab-separated-values; charset=UTF-8", "tabseparatedwithnames": "text/tab-separated-values; charset=UTF-8; header=present",
	"tsv": "text/tab-separated-values; charset=UTF-8", "tsvwithnames": "text/tab-separated-values; charset=UTF-8; header=present",
	"tabseparatedwithnamesandtypes": "text/tab-separated-values; charset=UTF-8; header=present",
	"csv":                           "text/csv; charset=UTF-8; header=absent", "csvwithnames": "text/csv; charset=UTF-8; header=present",
	"json": "application/json; charset=UTF-8", "jsoncompact": "application/json; charset=UTF-8", "jsonstrings": "application/json; charset=UTF-8",
	"jsoneachrow": "application/x-ndjson; charset=UTF-8", "jsoncompacteachrow": "application/x-ndjson; charset=UTF-8",
	"jsonlines": "application/x-ndjson; charset=UTF-8", "ndjson": "application/x-ndjson; charset=UTF-8",
	"xml": "application/xml; charset=UTF-8", "native": "application/octet-stream", "rowbinary": "application/octet-stream",
	"rowbinarywithnamesandtypes": "application/octet-stream", "parquet": "application/octet-stream", "arrow": "application/octet-stream",
	"arrowstream": "application/octet-stream", "prometheus": "text/plain; version=0.0.4; charset=UTF-8",
}

// answer writes a result in the compression that the client takes.
func (h *Handler) answer(w http.ResponseWriter, rq *request, result *Result) {
	var data []byte
	if rq.hello {
		data = helloBlock(rq.args.Get("client_protocol_version"), h.engine.version, h.engine.zone)
	}
	summary := "{}"
	if result != nil {
		defer result.Free()
		data = result.Data()
		summary = fmt.Sprintf(`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0","result_rows":"%d","result_bytes":"%d","elapsed_ns":"%d"}`,
			result.ReadRows, result.ReadBytes, result.WrittenRows, result.WrittenBytes, result.Rows, len(data), result.Elapsed.Nanoseconds())
	}
	head := w.Header()
	head.Set("X-ClickHouse-Summary", summary)
	head.Set("X-ClickHouse-Format", rq.format)
	kind := contentTypes[strings.ToLower(rq.format)]
	if kind == "" {
		kind = "text/plain; charset=UTF-8"
	}
	head.Set("Content-Type", kind)
	head.Set("X-Content-Type-Options", "nosniff")
	if rq.r.Method == http.MethodHead {
		return
	}
	if err := writeData(w, rq, data); err != nil && rq.r.Context().Err() == nil {
		h.engine.cfg.Log.Debug("an answer was not taken to the end", "err", err)
	}
}

// writeData writes the bytes of an answer, compressed as the request asks.
func writeData(w http.ResponseWriter, rq *request, data []byte) error {
	switch {
	case rq.args.Get("compress") == "1":
		return writeBlocks(w, rq.args, data)
	case rq.args.Get("enable_http_compression") == "1" && len(data) > 512 && acceptsGzip(rq.r):
		w.Header().Set("Content-Encoding", "gzip")
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
		_, err = z.Write(data)
		return errors.Join(err, z.Close())
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, err := w.Write(data)
	return err
}

// writeBlocks writes data as ClickHouse's compressed blocks.
func writeBlocks(w io.Writer, args url.Values, data []byte) error {
	method := compress.LZ4
	if strings.EqualFold(args.Get("network_compression_method"), "ZSTD") {
		method = compress.ZSTD
	}
	c := compress.NewWriter(compress.LevelZero, method)
	for len(data) > 0 {
		n := min(len(data), 1<<20)
		if err := c.Compress(data[:n]); err != nil {
			return err
		}
		if _, err := w.Write(c.Data); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, quality, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(name, "gzip") && strings.TrimSpace(quality) != "q=0" {
			return true
		}
	}
	return false
}

// fail answers an error as a server does: code and name in headers, text in the
// body. status 0 takes the one that goes with the error.
func (h *Handler) fail(w http.ResponseWriter, rq *request, err error, status int) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Code: 1001, Name: "STD_EXCEPTION", Message: err.Error()}
		switch {
		case errors.Is(err, syscall.ENOSPC):
			e = &Error{Code: 243, Name: "NOT_ENOUGH_SPACE", Message: err.Error()}
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			e = &Error{Code: 394, Name: "QUERY_WAS_CANCELLED", Message: "Query was cancelled"}
		case errors.Is(err, ErrClosed):
			status = http.StatusServiceUnavailable
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded):
			status = http.StatusBadRequest
		}
	}
	if status == 0 {
		status = httpStatus(e.Code)
	}
	if status >= 500 && e.Code != 394 && e.Code != 48 {
		h.engine.cfg.Log.Log(context.Background(), slog.LevelWarn, "a ClickHouse statement failed", "code", e.Code, "err", e.Message)
	}
	head := w.Header()
	head.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.Code))
	head.Set("X-ClickHouse-Exception-Name", e.Name)
	head.Set("Content-Type", "text/plain; charset=UTF-8")
	text := e.Error() + " (version " + h.engine.version + " (embedded))\n"
	if rq != nil && rq.args.Get("compress") == "1" {
		w.WriteHeader(status)
		_ = writeBlocks(w, rq.args, []byte(text))
		return
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// newQueryID makes a random UUID.
func newQueryID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
