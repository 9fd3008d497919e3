package apikey

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/onhand/onhand/platform/problem"
)

const (
	writerKey = "writer-key-0123456789"
	adminKey  = "admin-key-0123456789a"
)

func keys(t *testing.T) *Keys {
	t.Helper()
	sum := sha256.Sum256([]byte(adminKey))
	k, err := Parse("# who may do what\n\nshop write " + writerKey + "\nops read,admin sha256:" + hex.EncodeToString(sum[:]) + "\n")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRequire(t *testing.T) {
	k := keys(t)
	for name, tt := range map[string]struct {
		header, value string
		scope         Scope
		status        int
		who           string
	}{
		"bearer":                  {"Authorization", "Bearer " + writerKey, Write, 200, "shop"},
		"scheme in any case":      {"Authorization", "bearer " + writerKey, Write, 200, "shop"},
		"own header":              {"X-API-Key", adminKey, Admin, 200, "ops"},
		"admin includes write":    {"X-API-Key", adminKey, Write, 200, "ops"},
		"write does not read":     {"X-API-Key", writerKey, Read, 403, ""},
		"write is not admin":      {"X-API-Key", writerKey, Admin, 403, ""},
		"no key":                  {"X-Other", "x", Write, 401, ""},
		"unknown key":             {"X-API-Key", writerKey + "x", Write, 401, ""},
		"digest is not a key":     {"X-API-Key", "sha256:" + writerKey, Write, 401, ""},
		"basic is not understood": {"Authorization", "Basic " + writerKey, Write, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var who string
			h := k.Require(tt.scope)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { who = From(r.Context()).Name }))
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r.Header.Set(tt.header, tt.value)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.status || who != tt.who {
				t.Fatalf("status %d as %q; want %d as %q", w.Code, who, tt.status, tt.who)
			}
			if tt.status == 200 {
				return
			}
			var d problem.Details
			if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.Status != tt.status || d.Detail == "" || w.Header().Get("Content-Type") != problem.ContentType {
				t.Errorf("body %s (%v) is no problem document of status %d", w.Body, err, tt.status)
			}
			if strings.Contains(w.Body.String(), writerKey) || strings.Contains(w.Body.String(), adminKey) {
				t.Errorf("the answer repeats a key: %s", w.Body)
			}
			if (tt.status == 401) != (w.Header().Get("WWW-Authenticate") != "") {
				t.Errorf("WWW-Authenticate %q with status %d", w.Header().Get("WWW-Authenticate"), tt.status)
			}
		})
	}
}

func TestParseReportsEveryFaultWithoutTheKey(t *testing.T) {
	_, err := Parse("a write short\nb fly " + writerKey + "\nc write sha256:12\nd write\na write " + adminKey + "\ne write " + adminKey + "; f read " + adminKey)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"line 1 (a)", "line 2 (b): unknown scope", "line 3 (c)", "line 4: want NAME", `line 5: the name "a"`, "line 7 (f): the same key as e"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	for _, secret := range []string{writerKey, adminKey, "short\n"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error repeats a key: %v", err)
		}
	}
	if _, err := Parse("# none\n"); err == nil {
		t.Error("an empty set of keys was accepted")
	}
}

func TestOpenLetsAllIn(t *testing.T) {
	w := httptest.NewRecorder()
	Open("local").Require(Admin)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(From(r.Context()).Name))
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != 200 || w.Body.String() != "local" {
		t.Errorf("status %d, %q", w.Code, w.Body)
	}
}

func TestLimiter(t *testing.T) {
	l := NewLimiter(2, 3)
	now := time.Unix(1_700_000_000, 0)
	for i := range 3 {
		if w := l.take("a", now); w != 0 {
			t.Fatalf("request %d of the burst waits %v", i, w)
		}
	}
	if w := l.take("a", now); w != 500*time.Millisecond {
		t.Errorf("beyond the burst: wait %v, want 500ms", w)
	}
	if w := l.take("b", now); w != 0 {
		t.Errorf("another key waits %v", w)
	}
	if w := l.take("a", now.Add(500*time.Millisecond)); w != 0 {
		t.Errorf("after waiting as told: wait %v more", w)
	}
}

func TestLimiterAnswers429(t *testing.T) {
	h := Open("local").Require(Read)(NewLimiter(0.001, 1).Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	for i, want := range []int{200, 429} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != want || (want == 429) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("request %d: status %d, Retry-After %q; want %d", i, w.Code, w.Header().Get("Retry-After"), want)
		}
	}
}
