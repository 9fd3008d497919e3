package channelpusher

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// The flags' defaults and DefaultConfig are written twice: they must agree.
func TestDefaultsAgree(t *testing.T) {
	var f struct {
		Pusher Config `embed:""`
	}
	p, err := kong.New(&f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(nil); err != nil {
		t.Fatal(err)
	}
	if f.Pusher != DefaultConfig() {
		t.Errorf("flags say %+v, DefaultConfig %+v", f.Pusher, DefaultConfig())
	}
	if err := f.Pusher.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	c := DefaultConfig()
	c.Linger, c.DriftSample, c.BreakerFailures, c.Drain = -1, 101, 0, 0
	err := c.Validate()
	for _, name := range []string{"linger", "drift-sample", "breaker-failures", "drain"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ebay-uk"), []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &secrets{dir: dir}
	if v, err := s.get("ebay-uk"); v != "from file" || err != nil {
		t.Errorf("%q %v", v, err)
	}
	t.Setenv("ONHAND_SECRET_EBAY_DE", "from environment")
	if v, err := s.get("ebay-de"); v != "from environment" || err != nil {
		t.Errorf("%q %v", v, err)
	}
	for _, name := range []string{"none", "empty", "../ebay-uk", "..", ".hidden", ""} {
		if v, err := s.get(name); !errors.Is(err, errNoSecret) {
			t.Errorf("secret %q: %q %v", name, v, err)
		}
	}
}
