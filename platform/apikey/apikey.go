// Package apikey guards HTTP routes by API keys: who calls, what the key may do, and how often.
//
// A key is presented as "Authorization: Bearer KEY" or "X-API-Key: KEY". Onhand keeps only SHA-256 digests of keys (they are long random
// strings, not passwords, so that a slow hash would protect nothing) and compares them in constant time. No key is ever logged or put into an
// error.
package apikey

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/onhand/onhand/platform/problem"
)

// Scope is what a key may do.
type Scope uint8

// The scopes. Admin includes write and read; write does not include read.
const (
	Read  Scope = 1 << iota // query stock, targets, settings, rejected input
	Write                   // send orders and events
	Admin                   // change channels, locations, rules and listings
)

// scopeNames are the names in key files.
var scopeNames = map[string]Scope{"read": Read, "write": Write, "admin": Admin | Write | Read}

// String names a single scope.
func (s Scope) String() string {
	switch s {
	case Read:
		return "read"
	case Write:
		return "write"
	case Admin:
		return "admin"
	}
	return "unknown"
}

// Principal is who a key stands for.
type Principal struct {
	Name   string
	Scopes Scope
}

// Has says whether the principal may do what s names.
func (p Principal) Has(s Scope) bool { return p.Scopes&s == s }

const minKey = 16 // characters: shorter ones can be guessed

type entry struct {
	digest [sha256.Size]byte
	who    Principal
}

// Keys is a set of keys. Safe for concurrent use; it never changes.
type Keys struct {
	entries []entry
	open    *Principal
}

// Open is keys that let every request in as name, with all scopes: for a server that only this machine can reach.
func Open(name string) *Keys {
	return &Keys{open: &Principal{Name: name, Scopes: Admin | Write | Read}}
}

// Parse reads keys, one a line (or separated by semicolons): a name, its scopes separated by commas, and the key itself or, better, its digest as sha256:HEX.
// Blank lines and those that start with # are left out.
//
//	shop-connector  write       sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//	console         read,admin  sha256:…
//
// It reports every fault, with its line and without the key.
func Parse(text string) (*Keys, error) {
	var errs []error
	k := &Keys{}
	names := make(map[string]int)
	digests := make(map[[sha256.Size]byte]string)
	n := 0
	for line := range strings.Lines(strings.ReplaceAll(text, ";", "\n")) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 {
			errs = append(errs, fmt.Errorf("API keys, line %d: want NAME SCOPES KEY, found %d words", n, len(f)))
			continue
		}
		e := entry{who: Principal{Name: f[0]}}
		if len(f[0]) > 100 || !utf8.ValidString(f[0]) {
			errs = append(errs, fmt.Errorf("API keys, line %d: the name must be UTF-8 of at most 100 bytes", n))
			continue
		}
		if first, ok := names[f[0]]; ok {
			errs = append(errs, fmt.Errorf("API keys, line %d: the name %q is taken by line %d", n, f[0], first))
			continue
		}
		names[f[0]] = n
		for s := range strings.SplitSeq(f[1], ",") {
			scope, ok := scopeNames[s]
			if !ok {
				errs = append(errs, fmt.Errorf("API keys, line %d (%s): unknown scope; want read, write or admin", n, f[0]))
			}
			e.who.Scopes |= scope
		}
		if digest, ok := strings.CutPrefix(f[2], "sha256:"); ok {
			b, err := hex.DecodeString(digest)
			if err != nil || len(b) != sha256.Size {
				errs = append(errs, fmt.Errorf("API keys, line %d (%s): after sha256: want 64 hexadecimal digits", n, f[0]))
				continue
			}
			e.digest = [sha256.Size]byte(b)
		} else {
			if len(f[2]) < minKey {
				errs = append(errs, fmt.Errorf("API keys, line %d (%s): the key has fewer than %d characters; make one with: openssl rand -hex 32", n, f[0], minKey))
				continue
			}
			e.digest = sha256.Sum256([]byte(f[2]))
		}
		if other, ok := digests[e.digest]; ok {
			errs = append(errs, fmt.Errorf("API keys, line %d (%s): the same key as %s", n, f[0], other))
			continue
		}
		digests[e.digest] = f[0]
		k.entries = append(k.entries, e)
	}
	if len(errs) == 0 && len(k.entries) == 0 {
		errs = append(errs, errors.New("API keys: there are none"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return k, nil
}

// Config says where keys come from.
type Config struct {
	File string `help:"File of API keys, one a line: NAME SCOPES KEY, the key as sha256:HEX; without it API_KEYS is read." env:"API_KEYS_FILE"`
	Off  bool   `help:"Ask for no API key. Only for a server that listens on this machine's loopback address." env:"API_KEYS_OFF"`
}

// Load reads the keys from the file, else from the environment variable API_KEYS.
func (c Config) Load() (*Keys, error) {
	if c.Off {
		return Open("local"), nil
	}
	if c.File != "" {
		b, err := os.ReadFile(c.File)
		if err != nil {
			return nil, fmt.Errorf("API keys: %w", err)
		}
		return Parse(string(b))
	}
	text := os.Getenv("API_KEYS")
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("API keys: name a file (API_KEYS_FILE) or set API_KEYS; each line is NAME SCOPES KEY")
	}
	return Parse(text)
}

// Find is the principal of a key. It takes the same time whichever key matches, and when none does.
func (k *Keys) Find(key string) (Principal, bool) {
	digest := sha256.Sum256([]byte(key))
	found := -1
	for i := range k.entries {
		same := subtle.ConstantTimeCompare(digest[:], k.entries[i].digest[:])
		found = subtle.ConstantTimeSelect(same, i, found)
	}
	if found < 0 {
		return Principal{}, false
	}
	return k.entries[found].who, true
}

type contextKey struct{}

// From is the principal of a request that passed [Keys.Require].
func From(ctx context.Context) Principal {
	p, _ := ctx.Value(contextKey{}).(Principal)
	return p
}

// With gives ctx a principal, as Require does.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// Require is middleware that lets a request through when its key has the scope: otherwise 401 or 403.
func (k *Keys) Require(scope Scope) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, fault := k.authenticate(r)
			if fault == nil && !p.Has(scope) {
				fault = problem.New(http.StatusForbidden, "forbidden", "Not allowed with this key",
					fmt.Sprintf("the key %q lacks the scope %s: use another key, or have the scope added", p.Name, scope))
			}
			if fault != nil {
				if fault.Status == http.StatusUnauthorized {
					w.Header().Set("WWW-Authenticate", `Bearer realm="onhand"`)
				}
				problem.Write(w, fault)
				return
			}
			next.ServeHTTP(w, r.WithContext(With(r.Context(), p)))
		})
	}
}

// Authenticate is middleware that guards whole routers: GET and HEAD ask for the scope read, everything else for write.
func (k *Keys) Authenticate(next http.Handler) http.Handler {
	read, write := k.Require(Read)(next), k.Require(Write)(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			read.ServeHTTP(w, r)
			return
		}
		write.ServeHTTP(w, r)
	})
}

func (k *Keys) authenticate(r *http.Request) (Principal, *problem.Details) {
	if k.open != nil {
		return *k.open, nil
	}
	key := r.Header.Get("X-API-Key")
	if auth := r.Header.Get("Authorization"); auth != "" {
		scheme, token, _ := strings.Cut(auth, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return Principal{}, problem.New(http.StatusUnauthorized, "unauthorized", "No valid API key",
				"the Authorization header must be: Bearer KEY")
		}
		key = strings.TrimSpace(token)
	}
	if key == "" {
		return Principal{}, problem.New(http.StatusUnauthorized, "unauthorized", "No valid API key",
			"send an API key in the header Authorization: Bearer KEY (or X-API-Key)")
	}
	p, ok := k.Find(key)
	if !ok {
		return Principal{}, problem.New(http.StatusUnauthorized, "unauthorized", "No valid API key",
			"the API key is not known: check that it is complete and still in use")
	}
	return p, nil
}
