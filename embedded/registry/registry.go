// Package registry runs a schema registry inside this process: srfake, with its
// content in a file.
//
// Every record of a topic carries the id of its schema, so an id must mean the
// same schema for ever. What changes the registry is therefore journalled before
// it is answered, and replayed at the start.
package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// maxBody bounds a request, bytes.
const maxBody = 4 << 20

// Registry is a running registry.
type Registry struct {
	url    string
	server *http.Server
	done   chan struct{}
	stop   sync.Once

	mu      sync.Mutex // one change at a time: ids follow the journal's order
	inner   http.Handler
	journal *os.File
	known   map[string]bool // changes that are in the journal already
}

// change is one line of the journal: a request that changed the registry.
type change struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
	ID     int             `json:"id,omitempty"` // the schema id that it gave
}

// Start runs a registry that keeps its content in dir, on 127.0.0.1; port 0
// takes a free one. It fails when the content cannot be read back as it was.
func Start(dir string, port int) (*Registry, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("registry: prepare the data directory: %w", err)
	}
	// No compatibility check of its own: that is what the build checks, and the
	// one here knows Protobuf's rules only in part.
	r := &Registry{inner: srfake.NewRegistry(srfake.WithGlobalCompat(sr.CompatNone)).Handler(), known: map[string]bool{}, done: make(chan struct{})}
	file := filepath.Join(dir, "schemas.jsonl")
	if err := r.replay(file); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		r.journal.Close()
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("registry: port %d is taken by another program: %w", port, err)
		}
		return nil, fmt.Errorf("registry: %w", err)
	}
	r.url = "http://" + l.Addr().String()
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(l) // it only says that the server was closed
	}()
	return r, nil
}

// replay applies the journal, cuts off a last line that a crash left unfinished,
// and opens the file for more.
func (r *Registry) replay(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("open the schemas: %w", err)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		f.Close()
		return fmt.Errorf("read the schemas: %w", err)
	}
	whole := bytes.LastIndexByte(raw, '\n') + 1 // what has no line end was never answered
	for i, line := range bytes.Split(raw[:whole], []byte{'\n'}) {
		if len(line) == 0 {
			continue
		}
		var c change
		err := json.Unmarshal(line, &c)
		if err == nil {
			res := r.apply(c)
			if id := schemaID(res); !succeeded(res) || id != c.ID {
				err = fmt.Errorf("it gave status %d and id %d, and was id %d", res.Code, id, c.ID)
			}
		}
		if err != nil {
			f.Close()
			return fmt.Errorf("%s, line %d cannot be applied: %w; the ids in stored records depend on it: restore the file from a copy", file, i+1, err)
		}
		r.remember(c)
	}
	if err := errors.Join(f.Truncate(int64(whole)), seekEnd(f)); err != nil {
		f.Close()
		return fmt.Errorf("open the schemas: %w", err)
	}
	r.journal = f
	return nil
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, io.SeekEnd)
	return err
}

// apply hands a change to the registry in memory.
func (r *Registry) apply(c change) *httptest.ResponseRecorder {
	req := httptest.NewRequest(c.Method, c.Path, bytes.NewReader(c.Body))
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	res := httptest.NewRecorder()
	r.inner.ServeHTTP(res, req)
	return res
}

func succeeded(res *httptest.ResponseRecorder) bool { return res.Code >= 200 && res.Code < 300 }

// schemaID is the id in an answer, 0 when there is none.
func schemaID(res *httptest.ResponseRecorder) int {
	var a struct {
		ID int `json:"id"`
	}
	if json.Unmarshal(res.Body.Bytes(), &a) != nil {
		return 0
	}
	return a.ID
}

// remember notes a change as journalled. Deletions and settings make all that
// was registered before worth journalling again.
func (r *Registry) remember(c change) {
	if c.Method != http.MethodPost {
		clear(r.known)
		return
	}
	r.known[c.Path+"\n"+string(c.Body)] = true
}

// ServeHTTP answers a request; a change is on the disk before it is answered.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	changes := req.Method == http.MethodPut || req.Method == http.MethodDelete ||
		req.Method == http.MethodPost && strings.HasPrefix(req.URL.Path, "/subjects/") && strings.HasSuffix(req.URL.Path, "/versions")
	if !changes {
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		r.inner.ServeHTTP(w, req)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, `{"error_code":413,"message":"the request is too large"}`, http.StatusRequestEntityTooLarge)
		return
	}
	var compact bytes.Buffer
	if len(body) > 0 && json.Compact(&compact, body) != nil {
		http.Error(w, `{"error_code":422,"message":"the request is not JSON"}`, http.StatusUnprocessableEntity)
		return
	}
	c := change{Method: req.Method, Path: req.URL.RequestURI(), Body: compact.Bytes()}
	r.mu.Lock()
	defer r.mu.Unlock()
	res := r.apply(c)
	if succeeded(res) && !r.known[c.Path+"\n"+string(c.Body)] {
		c.ID = schemaID(res)
		if err := r.write(c); err != nil {
			http.Error(w, fmt.Sprintf(`{"error_code":500,"message":%q}`, "the schema could not be kept: "+err.Error()), http.StatusInternalServerError)
			return
		}
		r.remember(c)
	}
	for name, values := range res.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(res.Code)
	_, _ = w.Write(res.Body.Bytes())
}

// write appends a change and syncs it. A line that could not be written whole is
// cut off again, so that the next one starts on its own.
func (r *Registry) write(c change) error {
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	at, err := r.journal.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err = r.journal.Write(append(line, '\n')); err == nil {
		err = r.journal.Sync()
	}
	if err != nil {
		return errors.Join(err, r.journal.Truncate(at))
	}
	return nil
}

// URL is the registry's base address.
func (r *Registry) URL() string { return r.url }

// Stop closes the registry.
func (r *Registry) Stop() {
	r.stop.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if r.server.Shutdown(ctx) != nil {
			r.server.Close()
		}
		<-r.done
		r.journal.Close()
	})
}
