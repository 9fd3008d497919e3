// Package console serves the web page that shows a running Onhand: live figures, one SKU with its stock, targets and their reasons, recent pushes and alerts.
//
// It only reads. A browser gets in by a link that `onhand up` or `onhand console` prints: the link holds a token that works once and is exchanged for a session
// cookie (HttpOnly, SameSite=Strict, 12 hours). Nothing is shown without it, also on loopback: other users and other web pages reach loopback too.
package console

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/allinone/figures"
)

//go:embed assets
var assets embed.FS

var pages = template.Must(template.ParseFS(assets, "assets/*.html"))

const (
	cookie     = "onhand_session"
	sessionFor = 12 * time.Hour
	linkFor    = 24 * time.Hour
	maxLinks   = 64 // unused links that are remembered; the oldest goes
	every      = time.Second
)

// Console serves the page. Make it with New.
type Console struct {
	figures func() figures.Figures
	api     http.Handler // answers GET /v1/…, as a principal that may read
	secret  [sha256.Size]byte

	mu    sync.Mutex
	links []link
}

type link struct {
	digest [sha256.Size]byte
	until  time.Time
}

// New makes a console. latest must be cheap and safe for concurrent use. api answers GET requests to /v1/ without asking for a key. Sessions last across restarts that give
// the same secret.
func New(latest func() figures.Figures, api http.Handler, secret []byte) *Console {
	c := &Console{figures: latest, api: api}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("onhand console session"))
	c.secret = [sha256.Size]byte(mac.Sum(nil))
	return c
}

// Link is a path with a token that opens the console once.
func (c *Console) Link() string {
	token := rand.Text()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.links) == maxLinks {
		c.links = c.links[1:]
	}
	c.links = append(c.links, link{sha256.Sum256([]byte(token)), time.Now().Add(linkFor)})
	return "/console/open?token=" + token
}

// use reports whether the token is good, and spends it.
func (c *Console) use(token string) bool {
	digest := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, l := range c.links {
		if subtle.ConstantTimeCompare(l.digest[:], digest[:]) == 1 {
			c.links = append(c.links[:i:i], c.links[i+1:]...)
			return time.Now().Before(l.until)
		}
	}
	return false
}

// Routes mounts the console: /, and what it needs under /console/.
func (c *Console) Routes(r chi.Router) {
	r.Group(func(r chi.Router) {
		r.Use(headers)
		r.Get("/", c.index)
		r.Get("/console/open", c.open)
		r.Get("/console/assets/{name}", asset)
		r.Group(func(r chi.Router) {
			r.Use(c.session)
			r.Get("/console/stream", c.stream)
			r.Get("/console/figures", func(w http.ResponseWriter, _ *http.Request) { reply(w, c.figures()) })
			r.Get("/console/skus/{sku}", c.sku)
			r.Get("/console/changes", c.changes)
		})
	})
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// mark is the cookie's value for a session that ends then.
func (c *Console) mark(until time.Time) string {
	ends := strconv.FormatInt(until.Unix(), 10)
	mac := hmac.New(sha256.New, c.secret[:])
	mac.Write([]byte(ends))
	return ends + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (c *Console) signedIn(r *http.Request) bool {
	got, err := r.Cookie(cookie)
	if err != nil {
		return false
	}
	ends, _, _ := strings.Cut(got.Value, ".")
	unix, err := strconv.ParseInt(ends, 10, 64)
	if err != nil || time.Now().Unix() >= unix {
		return false
	}
	return hmac.Equal([]byte(got.Value), []byte(c.mark(time.Unix(unix, 0))))
}

func (c *Console) session(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.signedIn(r) {
			http.Error(w, "the console is closed: open the link that `onhand console` prints", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// open exchanges a link's token for a session.
func (c *Console) open(w http.ResponseWriter, r *http.Request) {
	if !c.signedIn(r) {
		if !c.use(r.URL.Query().Get("token")) {
			page(w, http.StatusForbidden, "closed.html", "This link has been used, or is too old.")
			return
		}
		http.SetCookie(w, &http.Cookie{
			Name: cookie, Value: c.mark(time.Now().Add(sessionFor)), Path: "/", MaxAge: int(sessionFor.Seconds()), HttpOnly: true,
			SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
		})
	}
	// Not a redirect: a browser sends no strict cookie along one that began at another site, such as a terminal's link handler.
	page(w, http.StatusOK, "opened.html", nil)
}

func (c *Console) index(w http.ResponseWriter, r *http.Request) {
	if !c.signedIn(r) {
		page(w, http.StatusUnauthorized, "closed.html", "")
		return
	}
	page(w, http.StatusOK, "index.html", c.figures())
}

// page renders whole before it answers, so that a fault never leaves half a page.
func page(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		http.Error(w, "the page could not be drawn: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client has gone
}

func asset(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "name")
	types := map[string]string{"app.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
	kind, ok := types[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	b, err := assets.ReadFile("assets/" + name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(b) // the client has gone
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

// stream sends the figures once a second as server-sent events, until the client or the server goes.
func (c *Console) stream(w http.ResponseWriter, r *http.Request) {
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		b, err := json.Marshal(c.figures())
		if err != nil {
			return // figures are plain values
		}
		_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second)) // a stalled reader must not hold the process
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// sku answers with the API's own answers about one SKU.
func (c *Console) sku(w http.ResponseWriter, r *http.Request) {
	sku, err := url.PathUnescape(chi.URLParam(r, "sku"))
	if err != nil || sku == "" {
		http.Error(w, "name a SKU", http.StatusBadRequest)
		return
	}
	var out struct {
		SKU          string          `json:"sku"`
		Availability json.RawMessage `json:"availability,omitempty"`
		Targets      json.RawMessage `json:"targets,omitempty"`
		Error        string          `json:"error,omitempty"`
	}
	out.SKU = sku
	var status int
	if status, out.Availability = c.get(r.Context(), "/v1/availability/"+url.PathEscape(sku)); status != http.StatusOK {
		out.Error, out.Availability = why(status, out.Availability), nil
	}
	if status, out.Targets = c.get(r.Context(), "/v1/targets/"+url.PathEscape(sku)); status != http.StatusOK {
		out.Targets = nil
	}
	reply(w, out)
}

// changes is the API's stream of one SKU's changes.
func (c *Console) changes(w http.ResponseWriter, r *http.Request) {
	sku := r.URL.Query().Get("sku")
	if sku == "" {
		http.Error(w, "name a SKU", http.StatusBadRequest)
		return
	}
	asked, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "/v1/availability/changes?"+url.Values{"sku": {sku}}.Encode(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	asked.Header.Set("Last-Event-ID", r.Header.Get("Last-Event-ID"))
	c.api.ServeHTTP(w, asked)
}

// why is a problem document's text for people.
func why(status int, body []byte) string {
	if status == http.StatusNotFound {
		return "No stock is known under this SKU."
	}
	var p struct{ Title, Detail string }
	if json.Unmarshal(body, &p) == nil && p.Detail != "" {
		return p.Detail
	}
	return http.StatusText(status)
}

// get asks the API in the same process.
func (c *Console) get(ctx context.Context, path string) (int, json.RawMessage) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return http.StatusBadRequest, nil
	}
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	c.api.ServeHTTP(w, r)
	if !json.Valid(w.body.Bytes()) {
		return http.StatusBadGateway, nil
	}
	return w.status, w.body.Bytes()
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }
