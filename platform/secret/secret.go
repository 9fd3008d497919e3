// Package secret finds access tokens by name, in the environment or in a folder of files. Settings name secrets and never hold them.
package secret

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// life is how long a secret is kept before it is read again, so that a rotated one is picked up.
const life = 30 * time.Second

// ErrMissing reports a secret that is neither in the environment nor in the secrets folder.
var ErrMissing = errors.New("no such secret")

// Store finds tokens by name: the environment variable ONHAND_SECRET_<NAME>, or the file of that name in a folder. Values never appear in errors.
// Safe for concurrent use.
type Store struct {
	Dir string // empty for the environment alone

	mu    sync.Mutex
	found map[string]kept
}

type kept struct {
	value string
	at    time.Time
}

func variable(name string) string {
	return "ONHAND_SECRET_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// Get is the secret of a name, or an error that is ErrMissing.
func (s *Store) Get(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.found[name]; ok && time.Since(x.at) < life {
		return x.value, nil
	}
	v, err := s.read(name)
	if err != nil {
		return "", err
	}
	if s.found == nil {
		s.found = make(map[string]kept)
	}
	s.found[name] = kept{v, time.Now()}
	return v, nil
}

func (s *Store) read(name string) (string, error) {
	if v := os.Getenv(variable(name)); v != "" {
		return v, nil
	}
	if s.Dir == "" {
		return "", fmt.Errorf("secret %q: set %s, or name a secrets folder: %w", name, variable(name), ErrMissing)
	}
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("secret %q: a name has no path in it: %w", name, ErrMissing)
	}
	b, err := os.ReadFile(filepath.Join(s.Dir, name))
	if err != nil {
		return "", fmt.Errorf("secret %q: set %s, or put it into the secrets folder: %w", name, variable(name), errors.Join(ErrMissing, err))
	}
	v := strings.TrimRight(string(b), "\r\n")
	if v == "" {
		return "", fmt.Errorf("secret %q: its file is empty: %w", name, ErrMissing)
	}
	return v, nil
}
