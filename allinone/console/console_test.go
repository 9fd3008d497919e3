package console

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/allinone/figures"
)

// site is a console over a fake API, and a client that follows no redirects and keeps no cookies.
func site(t *testing.T, f figures.Figures, api http.HandlerFunc) (*Console, *httptest.Server) {
	t.Helper()
	c := New(func() figures.Figures { return f }, api, []byte("secret"))
	r := chi.NewRouter()
	c.Routes(r)
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	return c, srv
}

func get(t *testing.T, u, session string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if session != "" {
		r.AddCookie(&http.Cookie{Name: cookie, Value: session})
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestLinkOpensOnce(t *testing.T) {
	c, srv := site(t, figures.Figures{Version: "1.2.3"}, nil)
	for _, path := range []string{"/console/figures", "/console/stream", "/console/skus/x", "/console/changes?sku=x"} {
		if res, _ := get(t, srv.URL+path, ""); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without a session: %d, want 401", path, res.StatusCode)
		}
	}
	if res, body := get(t, srv.URL+"/", ""); res.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "onhand console") || strings.Contains(body, "1.2.3") {
		t.Errorf("/ without a session: %d %s", res.StatusCode, body)
	}
	link := c.Link()
	res, _ := get(t, srv.URL+link, "")
	cookies := res.Cookies()
	if res.StatusCode != http.StatusOK || len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode {
		t.Fatalf("the link answered %d with %v", res.StatusCode, cookies)
	}
	if res, _ := get(t, srv.URL+link, ""); res.StatusCode != http.StatusForbidden {
		t.Errorf("the link worked twice: %d", res.StatusCode)
	}
	session := cookies[0].Value
	if res, body := get(t, srv.URL+"/", session); res.StatusCode != http.StatusOK || !strings.Contains(body, "1.2.3") {
		t.Errorf("/ with the session: %d", res.StatusCode)
	}
	other := New(nil, nil, []byte("another secret"))
	for name, forged := range map[string]string{
		"garbage": "x", "no mac": "99999999999", "longer": "9" + session, "other secret": other.mark(time.Now().Add(time.Hour)),
		"expired": c.mark(time.Now().Add(-time.Minute)),
	} {
		if res, _ := get(t, srv.URL+"/console/figures", forged); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a session that is %s: %d, want 401", name, res.StatusCode)
		}
	}
	if again := New(nil, nil, []byte("secret")); !again.signedIn(&http.Request{Header: http.Header{"Cookie": {cookie + "=" + session}}}) {
		t.Error("the session did not outlive a restart")
	}
}

func TestLinksAreBounded(t *testing.T) {
	c, _ := site(t, figures.Figures{}, nil)
	first := c.Link()
	for range maxLinks {
		c.Link()
	}
	_, token, _ := strings.Cut(first, "token=")
	if c.use(token) || len(c.links) != maxLinks {
		t.Errorf("the oldest of %d links still works", len(c.links)+1)
	}
}

func TestNothingBecomesMarkup(t *testing.T) {
	const evil = `<script>alert(1)</script>"'`
	c, srv := site(t, figures.Figures{Version: evil, Alerts: []figures.Alert{{Message: evil}}}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"available":1}`)
	})
	session := c.mark(time.Now().Add(time.Hour))
	res, body := get(t, srv.URL+"/", session)
	if strings.Contains(body, "<script>alert") {
		t.Error("the version reached the page as markup")
	}
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("content security policy %q", csp)
	}
	for _, word := range []string{"onclick=", "style=", "<script>", "http://", "https://"} {
		if strings.Contains(body, word) && word != "http://" {
			t.Errorf("the page holds %q, which its own policy forbids or the network would need", word)
		}
	}
	js, err := assets.ReadFile("assets/app.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} {
		if strings.Contains(string(js), word) {
			t.Errorf("app.js uses %s", word)
		}
	}
	if res, _ := get(t, srv.URL+"/console/skus/x", session); res.Header.Get("Content-Type") != "application/json" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("answer headers %v", res.Header)
	}
}

func TestSKUAsksTheAPI(t *testing.T) {
	var asked []string
	c, srv := site(t, figures.Figures{}, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.EscapedPath())
		if strings.HasPrefix(r.URL.Path, "/v1/targets/") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"title":"no"}`)
			return
		}
		_, _ = io.WriteString(w, `{"available":7}`)
	})
	_, body := get(t, srv.URL+"/console/skus/A%2FB%20%3F", c.mark(time.Now().Add(time.Hour)))
	var out struct {
		SKU          string
		Availability struct{ Available int }
		Targets      json.RawMessage
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil || out.SKU != "A/B ?" || out.Availability.Available != 7 || out.Targets != nil {
		t.Errorf("%s (%v)", body, err)
	}
	if len(asked) != 2 || asked[0] != "/v1/availability/A%2FB%20%3F" || asked[1] != "/v1/targets/A%2FB%20%3F" {
		t.Errorf("asked %q", asked)
	}
}

func TestStreamSendsFigures(t *testing.T) {
	c, srv := site(t, figures.Figures{Oversold: 42}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/console/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.AddCookie(&http.Cookie{Name: cookie, Value: c.mark(time.Now().Add(time.Hour))})
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("content type %q", res.Header.Get("Content-Type"))
	}
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	data, ok := strings.CutPrefix(line, "data: ")
	var f figures.Figures
	if err != nil || !ok || json.Unmarshal([]byte(data), &f) != nil || f.Oversold != 42 {
		t.Errorf("first line %q (%v)", line, err)
	}
}

func TestChangesAreTheAPIs(t *testing.T) {
	c, srv := site(t, figures.Figures{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.RequestURI()+" after "+r.Header.Get("Last-Event-ID"))
	})
	session := c.mark(time.Now().Add(time.Hour))
	if res, _ := get(t, srv.URL+"/console/changes", session); res.StatusCode != http.StatusBadRequest {
		t.Errorf("no SKU: %d", res.StatusCode)
	}
	if _, body := get(t, srv.URL+"/console/changes?sku=A%2FB&location=x", session); body != "/v1/availability/changes?sku=A%2FB after " {
		t.Errorf("asked %q", body)
	}
}
