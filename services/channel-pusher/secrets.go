package channelpusher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// secretLife is how long a secret is kept before it is read again, so that a rotated one is picked up.
const secretLife = 30 * time.Second

// errNoSecret reports a secret that is neither in the environment nor in the secrets folder.
var errNoSecret = errors.New("no such secret")

// secrets finds tokens by name: the environment variable ONHAND_SECRET_<NAME>, or the file of that name in a folder. Values never appear in errors.
type secrets struct {
	dir string

	mu    sync.Mutex
	found map[string]secret
}

type secret struct {
	value string
	at    time.Time
}

func secretVariable(name string) string {
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

func (s *secrets) get(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.found[name]; ok && time.Since(x.at) < secretLife {
		return x.value, nil
	}
	v, err := s.read(name)
	if err != nil {
		return "", err
	}
	if s.found == nil {
		s.found = make(map[string]secret)
	}
	s.found[name] = secret{v, time.Now()}
	return v, nil
}

func (s *secrets) read(name string) (string, error) {
	if v := os.Getenv(secretVariable(name)); v != "" {
		return v, nil
	}
	if s.dir == "" {
		return "", fmt.Errorf("secret %q: set %s, or name a secrets folder: %w", name, secretVariable(name), errNoSecret)
	}
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("secret %q: a name has no path in it: %w", name, errNoSecret)
	}
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return "", fmt.Errorf("secret %q: set %s, or put it into the secrets folder: %w", name, secretVariable(name), errors.Join(errNoSecret, err))
	}
	v := strings.TrimRight(string(b), "\r\n")
	if v == "" {
		return "", fmt.Errorf("secret %q: its file is empty: %w", name, errNoSecret)
	}
	return v, nil
}
