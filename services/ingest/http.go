package ingest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unsafe"

	"github.com/klauspost/compress/gzip"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/services/ingest/internal/intake"
	"github.com/onhand/onhand/stock/event"
)

// refused answers a request whose items were all refused: the problem, and what became of each item.
type refused struct {
	*problem.Details
	Receipt *Receipt `json:"receipt,omitempty"`
}

// recorder keeps the status of an answer for metrics and spans.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// guard is what every route has around its handler: counting, a span, the API key, the key's rate.
func (s *Service) guard(route string, scope apikey.Scope, h http.HandlerFunc) http.HandlerFunc {
	inner := s.deps.Keys.Require(scope)(s.limiter.Middleware(h))
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := s.tel.Tracer.Start(ctx, route, trace.WithSpanKind(trace.SpanKindServer))
		defer func() {
			attrs := metric.WithAttributes(attribute.String("route", route), attribute.Int("status", rec.status))
			s.metrics.requests.Add(ctx, 1, attrs)
			s.metrics.seconds.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(attribute.String("route", route)))
			span.SetAttributes(attribute.Int("http.response.status_code", rec.status))
			if rec.status >= 500 {
				span.SetStatus(codes.Error, http.StatusText(rec.status))
			}
			span.End()
		}()
		if !s.enter() {
			problem.Write(rec, unavailable("Onhand is stopping: send the request again", time.Second))
			return
		}
		defer s.leave()
		inner.ServeHTTP(rec, r.WithContext(ctx))
	}
}

func unavailable(detail string, retry time.Duration) *problem.Details {
	d := problem.New(http.StatusServiceUnavailable, "unavailable", "Not available at present", detail)
	d.RetryAfter = retry
	return d
}

func tooLarge(detail string) *problem.Details {
	return problem.New(http.StatusRequestEntityTooLarge, "too-large", "Too large", detail)
}

// Kinds of bodies.
const (
	jsonBody   = "application/json"
	ndjsonBody = "application/x-ndjson"
)

var bodyTypes = map[string]string{
	"application/json": jsonBody, "application/x-ndjson": ndjsonBody, "application/ndjson": ndjsonBody, "application/jsonl": ndjsonBody,
}

// mediaType is the kind of a body among types, or a problem 415.
func mediaType(r *http.Request, types map[string]string, want string) (string, *problem.Details) {
	unsupported := func(detail string) *problem.Details {
		return problem.New(http.StatusUnsupportedMediaType, "unsupported-media-type", "Form of the body not supported", detail)
	}
	t, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	kind, ok := types[t]
	if err != nil || !ok {
		return "", unsupported(fmt.Sprintf("Content-Type %q is not supported: send %s", r.Header.Get("Content-Type"), want))
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return "", unsupported(fmt.Sprintf("charset %q is not supported: send UTF-8", cs))
	}
	switch strings.ToLower(r.Header.Get("Content-Encoding")) {
	case "", "identity", "gzip":
	default:
		return "", unsupported(fmt.Sprintf("Content-Encoding %q is not supported: send gzip, or the plain body", r.Header.Get("Content-Encoding")))
	}
	return kind, nil
}

// errTooLarge ends a body that is longer than its limit.
var errTooLarge = errors.New("body too large")

// errNotGzip ends a body that says it is gzip and is not.
var errNotGzip = errors.New("the body is not valid gzip")

// body reads a request's body, unpacked, to at most limit bytes, each pause bounded by the idle timeout.
type body struct {
	in    io.Reader
	rc    *http.ResponseController
	idle  time.Duration
	left  int64
	gz    *gzip.Reader
	plain io.Reader
}

func (s *Service) body(w http.ResponseWriter, r *http.Request, limit int64) io.Reader {
	b := &body{in: r.Body, rc: http.NewResponseController(w), idle: s.cfg.IdleTimeout, left: limit}
	b.plain = idleReader{b}
	if strings.EqualFold(r.Header.Get("Content-Encoding"), "gzip") {
		b.plain = nil // the header is read with the first bytes
	}
	return b
}

// idleReader moves the connection's deadline before each read.
type idleReader struct{ b *body }

func (r idleReader) Read(p []byte) (int, error) {
	_ = r.b.rc.SetReadDeadline(time.Now().Add(r.b.idle)) // unsupported by recorders in tests, which never block
	return r.b.in.Read(p)
}

func (b *body) Read(p []byte) (int, error) {
	if b.plain == nil {
		gz, err := gzip.NewReader(idleReader{b})
		if err != nil {
			return 0, gzipFault(err)
		}
		b.gz, b.plain = gz, gz
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more, to see whether there is more
	}
	n, err := b.plain.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, errTooLarge
	}
	if err != nil && !errors.Is(err, io.EOF) && b.gz != nil {
		err = gzipFault(err)
	}
	return n, err
}

func gzipFault(err error) error {
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", errNotGzip, err)
	}
	var corrupt interface{ Error() string }
	if errors.As(err, &corrupt) && strings.Contains(err.Error(), "flate") {
		return fmt.Errorf("%w: %w", errNotGzip, err)
	}
	return err
}

// bodyFault is the problem for a body that could not be read to its end.
func bodyFault(err error, limit int64, advice string) *problem.Details {
	switch {
	case errors.Is(err, errTooLarge):
		return tooLarge(fmt.Sprintf("the body has more than %d bytes (unpacked): %s", limit, advice))
	case errors.Is(err, errNotGzip):
		return problem.New(http.StatusBadRequest, "syntax", "Not gzip", err.Error()+": pack it again, or leave Content-Encoding out")
	default:
		return problem.New(http.StatusBadRequest, "incomplete", "Body incomplete", "the body could not be read to its end ("+err.Error()+"): send it again")
	}
}

const ndjsonAdvice = "send less at once, or a stream (application/x-ndjson)"

// readAll reads a body of at most limit bytes.
func (s *Service) readAll(w http.ResponseWriter, r *http.Request, limit int64, advice string) ([]byte, *problem.Details) {
	if r.ContentLength > limit {
		return nil, tooLarge(fmt.Sprintf("the body has %d bytes; %d are allowed: %s", r.ContentLength, limit, advice))
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, 1<<20)) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(s.body(w, r, limit)); err != nil {
		return nil, bodyFault(err, limit, advice)
	}
	return buf.Bytes(), nil
}

// alias is b as a string, for b that never changes again.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// intakeRoute takes orders or events in.
func (s *Service) intakeRoute(path string, read func(*call, string, int) (unit, *problem.Details)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		kind, fault := mediaType(r, bodyTypes, "application/json (one item or an array) or application/x-ndjson (one item a line)")
		if fault != nil {
			problem.Write(w, fault)
			return
		}
		if fault := s.catalogReady(r); fault != nil { // what is a bundle is in the catalog
			problem.Write(w, fault)
			return
		}
		c := &call{s: s, read: read, source: sourceAPI, path: path, who: apikey.From(r.Context()).Name, seen: newRecent(),
			lim: s.limits()}
		c.receipt.Results = []Result{}
		if c.failedOnly, fault = failedOnly(r); fault != nil {
			problem.Write(w, fault)
			return
		}
		key := r.Header.Get("Idempotency-Key")
		if kind == ndjsonBody && key == "" {
			s.stream(w, r, c)
			return
		}
		s.whole(w, r, c, kind, key)
	}
}

// catalogReady waits for the catalog to be read, which at a start takes a moment.
func (s *Service) catalogReady(r *http.Request) *problem.Details {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := s.deps.Catalog.WaitReady(ctx); err != nil {
		return unavailable("the catalog has not been read yet: send the request again", 2*time.Second)
	}
	return nil
}

func (s *Service) limits() intake.Limits {
	return intake.Limits{MaxQuantity: event.Units(s.cfg.MaxQuantity), Now: time.Now(), MaxAhead: s.cfg.MaxAhead}
}

// failedOnly says whether the caller wants the rejected items only.
func failedOnly(r *http.Request) (bool, *problem.Details) {
	switch v := r.URL.Query().Get("results"); v {
	case "failed":
		return true, nil
	case "all":
		return false, nil
	case "":
		for _, h := range r.Header.Values("Prefer") {
			for p := range strings.SplitSeq(h, ",") {
				if strings.EqualFold(strings.TrimSpace(p), "return=minimal") {
					return true, nil
				}
			}
		}
		return false, nil
	default:
		return false, problem.New(http.StatusBadRequest, "parameter", "Parameter not valid", fmt.Sprintf("results=%q: want all or failed", v))
	}
}

// whole takes a body that fits in memory in: all of it is judged for syntax before anything is sent to Kafka.
func (s *Service) whole(w http.ResponseWriter, r *http.Request, c *call, kind, key string) {
	advice := ndjsonAdvice
	if kind == ndjsonBody {
		advice = "leave Idempotency-Key out (orders and events with ids need none), or send less at once"
	}
	raw, fault := s.readAll(w, r, s.cfg.MaxBody, advice)
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	var cl claim
	ctx := context.WithoutCancel(r.Context()) // what was read is finished, even when the caller has gone
	if key != "" {
		var done bool
		if cl, done = s.claim(ctx, w, r, c, kind, key, raw); done {
			return
		}
	}
	status, ctype, answer, retry := s.wholeAnswer(ctx, c, kind, raw)
	if key != "" {
		keep := status < 500
		var err error
		if keep {
			err = s.idem.finish(ctx, cl, status, ctype, answer)
		} else {
			err = s.idem.release(ctx, cl)
		}
		if err != nil {
			s.tel.Log.Warn("answer not remembered; a repeat is taken in again, and the ledger drops it by its ids", "err", err)
		}
	}
	write(w, status, ctype, answer, retry)
}

func write(w http.ResponseWriter, status int, ctype string, answer []byte, retry string) {
	h := w.Header()
	h.Set("Content-Type", ctype)
	h.Set("Cache-Control", "no-store")
	if retry != "" {
		h.Set("Retry-After", retry)
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer) // the client has gone
}

// claim takes the Idempotency-Key for the body; done means that the request has been answered.
func (s *Service) claim(ctx context.Context, w http.ResponseWriter, r *http.Request, c *call, kind, key string, raw []byte) (cl claim, done bool) {
	if !validKey(key) {
		d := problem.New(http.StatusBadRequest, "header", "Header not valid", "Idempotency-Key must be 1 to 255 visible ASCII characters; a UUID is fine")
		problem.Write(w, d)
		return cl, true
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%t\x00", kind, c.failedOnly)
	h.Write(raw)
	asked, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cl, err := s.idem.begin(asked, c.who+"\x00"+c.path, key, [sha256.Size]byte(h.Sum(nil)))
	if err != nil {
		s.stats.unavailable.Add(1)
		s.tel.Log.Error("Redis failed; a request with an Idempotency-Key was refused", "err", err)
		problem.Write(w, unavailable("the memory of idempotency keys cannot be reached: send the request again later, or without Idempotency-Key if its items have ids", 2*time.Second))
		return cl, true
	}
	switch cl.state {
	case answered:
		s.stats.byKey.Add(1)
		w.Header().Set("Idempotency-Replayed", "true")
		write(w, cl.status, cl.ctype, cl.body, "")
		return cl, true
	case conflict:
		problem.Write(w, problem.New(http.StatusConflict, "idempotency-conflict", "Idempotency-Key used before",
			"this Idempotency-Key was sent with another body: use a new key for a new request"))
		return cl, true
	case busy:
		d := problem.New(http.StatusConflict, "in-progress", "Still under way",
			"the same request is being worked on: send it again when Retry-After has passed")
		d.RetryAfter = min(cl.wait, time.Second)
		problem.Write(w, d)
		return cl, true
	}
	c.derive = "key/" + keyEscaper.Replace(c.who) + "/" + keyEscaper.Replace(key) + "/"
	return cl, false
}

var keyEscaper = strings.NewReplacer("%", "%25", "/", "%2F")

func validKey(key string) bool {
	if key == "" || len(key) > 255 {
		return false
	}
	for i := range len(key) {
		if key[i] <= 0x20 || key[i] >= 0x7f {
			return false
		}
	}
	return true
}

// wholeAnswer takes the items in and gives the answer.
func (s *Service) wholeAnswer(ctx context.Context, c *call, kind string, raw []byte) (status int, ctype string, answer []byte, retry string) {
	fail := func(d *problem.Details, receipt *Receipt) (int, string, []byte, string) {
		b, _ := json.Marshal(refused{d, receipt}) // plain values: cannot fail
		if d.RetryAfter > 0 {
			retry = fmt.Sprint(int64((d.RetryAfter + time.Second - 1) / time.Second))
		}
		return d.Status, problem.ContentType, b, retry
	}
	src := alias(raw)
	var items []string
	single := false
	if kind == jsonBody {
		var n int
		var syntax *intake.SyntaxError
		if items, n, syntax = intake.Split(src, s.cfg.MaxBatch); syntax != nil {
			return fail(unreadable(syntax, src), nil)
		}
		if n > s.cfg.MaxBatch {
			return fail(tooLarge(fmt.Sprintf("the array has %d items; at most %d are allowed: %s", n, s.cfg.MaxBatch, ndjsonAdvice)), nil)
		}
		single = !strings.HasPrefix(strings.TrimLeft(src, " \t\r\n"), "[")
	} else {
		for line := range strings.Lines(src) {
			if line = strings.TrimSpace(line); line != "" {
				items = append(items, line)
			}
		}
		if len(items) > s.cfg.MaxStreamItems {
			return fail(tooLarge(fmt.Sprintf("the stream has %d items; at most %d are allowed", len(items), s.cfg.MaxStreamItems)), nil)
		}
	}
	if len(items) == 0 {
		return fail(emptyBody(), nil)
	}
	c.keep, c.spans = !single, len(items) > 1
	for len(items) > 0 {
		n := min(len(items), 4*chunkItems)
		if err := c.process(ctx, items[:n]); err != nil {
			d := s.notAcknowledged(err)
			if c.n == 0 {
				return fail(d, nil)
			}
			return fail(d, &c.receipt)
		}
		items = items[n:]
	}
	if single && c.receipt.Rejected == 1 {
		var d *problem.Details
		for _, r := range c.receipt.Results {
			d = r.Problem
		}
		return fail(d, nil)
	}
	if d := c.allRefused(); d != nil {
		return fail(d, &c.receipt)
	}
	b, _ := json.Marshal(&c.receipt) // plain values: cannot fail
	return http.StatusAccepted, "application/json", b, ""
}

func emptyBody() *problem.Details {
	return problem.New(http.StatusBadRequest, "empty", "Nothing sent", "the body holds no item: send at least one")
}

// allRefused is the problem when no item could be used, and nil when some could.
func (c *call) allRefused() *problem.Details {
	if c.receipt.Accepted+c.receipt.Duplicates > 0 {
		return nil
	}
	return problem.New(http.StatusUnprocessableEntity, "invalid", "Not valid",
		fmt.Sprintf("none of the %d items could be used: receipt says why, item by item", c.receipt.Rejected))
}

// notAcknowledged is the answer when Kafka fails.
func (s *Service) notAcknowledged(err error) *problem.Details {
	s.stats.unavailable.Add(1)
	s.tel.Log.Error("input not acknowledged; the caller was told to send it again", "err", err)
	return unavailable("Kafka has not acknowledged the input in time: send it again; what did get through is not counted twice, as its ids are the same", 2*time.Second)
}

// chunk is some lines of a stream, or its end.
type chunk struct {
	lines []string
	long  []int // which of the lines were too long, and were cut
	err   error // io.EOF at the end
}

// stream takes NDJSON in while it arrives: memory is bounded by a few chunks, and a chunk is acknowledged while the next is read.
func (s *Service) stream(w http.ResponseWriter, r *http.Request, c *call) {
	ctx := context.WithoutCancel(r.Context())
	c.keep, c.spans = true, true
	chunks := make(chan chunk, 2)
	stop := make(chan struct{})
	readDone := make(chan struct{})
	go func() {
		defer close(readDone)
		defer close(chunks)
		s.readLines(s.body(w, r, s.cfg.MaxStream), chunks, stop)
	}()
	fault := s.takeStream(ctx, c, chunks)
	close(stop)
	if fault != nil { // stop reading: what is still to come is not wanted
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
		w.Header().Set("Connection", "close")
	}
	for range chunks {
	}
	<-readDone
	if fault == nil && c.n == 0 {
		problem.Write(w, emptyBody())
		return
	}
	if fault == nil {
		fault = c.allRefused()
	}
	if fault != nil {
		problem.WriteBody(w, fault, refused{fault, &c.receipt})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(&c.receipt) // the client has gone
}

// takeStream processes chunks to the end of the stream, or to what makes its rest useless.
func (s *Service) takeStream(ctx context.Context, c *call, chunks <-chan chunk) *problem.Details {
	resume := func() string {
		return fmt.Sprintf("the first %d items have been dealt with, and receipt tells of them; to repeat them does no harm", c.n)
	}
	for ch := range chunks {
		lines, end := ch.lines, ch.err
		long := ch.long
	merge: // what has arrived meanwhile goes along
		for end == nil && len(lines) < chunkItems && len(long) == 0 {
			select {
			case more, ok := <-chunks:
				if !ok {
					break merge
				}
				for _, i := range more.long {
					long = append(long, i+len(lines))
				}
				lines, end = append(lines, more.lines...), more.err
			default:
				break merge
			}
		}
		if c.n+len(lines) > s.cfg.MaxStreamItems {
			return tooLarge(fmt.Sprintf("the stream has more than %d items: send the rest as another request; %s", s.cfg.MaxStreamItems, resume()))
		}
		for len(lines) > 0 {
			if len(long) > 0 && long[0] == 0 {
				c.rejectLong(ctx, lines[0])
				lines, long = lines[1:], shift(long[1:], 1)
				continue
			}
			n := len(lines)
			if len(long) > 0 {
				n = long[0]
			}
			if err := c.process(ctx, lines[:n]); err != nil {
				d := s.notAcknowledged(err)
				d.Detail += "; " + resume()
				return d
			}
			lines, long = lines[n:], shift(long, n)
		}
		if errors.Is(end, io.EOF) {
			return nil
		}
		if end != nil {
			d := bodyFault(end, s.cfg.MaxStream, "send the rest as another request")
			d.Detail += "; " + resume()
			return d
		}
	}
	return nil
}

func shift(at []int, by int) []int {
	for i := range at {
		at[i] -= by
	}
	return at
}

// rejectLong refuses a line beyond the limit; start is as much of it as was kept.
func (c *call) rejectLong(ctx context.Context, start string) {
	fault := tooLarge(fmt.Sprintf("the line has more than %d bytes: split the order, or check that there is one item a line", c.s.cfg.MaxLine))
	c.lim.Now = time.Now()
	index := c.n
	c.n++
	acked, cancel := context.WithTimeout(ctx, c.s.cfg.AckTimeout)
	defer cancel()
	if err := c.send(acked, nil, c.reject(nil, index, "", start, fault)); err != nil {
		c.s.tel.Log.Warn("a refused line could not be kept", "err", err)
	}
}

// readLines cuts the body into lines and hands them on: as soon as nothing more is there to read at once, or a chunk is full.
func (s *Service) readLines(in io.Reader, out chan<- chunk, stop <-chan struct{}) {
	br := bufio.NewReaderSize(in, 64<<10)
	var cur chunk
	size := 0
	flush := func() bool {
		if len(cur.lines) == 0 && cur.err == nil {
			return true
		}
		select {
		case out <- cur:
		case <-stop:
			return false
		}
		cur, size = chunk{}, 0
		return true
	}
	var line []byte // what is there of a line longer than the reader's buffer
	cut := false    // the line is too long, and the rest of it is left out
	for {
		part, err := br.ReadSlice('\n')
		if !cut {
			if cut = len(line)+len(part) > s.cfg.MaxLine+2; cut { // a line end of two bytes is no part of the line
				part = part[:max(0, s.cfg.MaxLine-len(line))]
			}
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		// A line that broke off is not an item, unless the body ends with it.
		if text := bytes.TrimSpace(line); len(text) > 0 && (err == nil || errors.Is(err, io.EOF)) {
			if cut {
				cur.long = append(cur.long, len(cur.lines))
			}
			cur.lines = append(cur.lines, string(text))
			size += len(text)
		}
		line, cut = line[:0], false
		cur.err = err
		if err != nil || len(cur.lines) >= chunkItems || size >= chunkBytes || br.Buffered() == 0 {
			if !flush() || err != nil {
				return
			}
		}
	}
}
