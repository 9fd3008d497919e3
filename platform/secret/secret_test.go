package secret

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ebay-uk"), []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Store{Dir: dir}
	if v, err := s.Get("ebay-uk"); v != "from file" || err != nil {
		t.Errorf("%q %v", v, err)
	}
	t.Setenv("ONHAND_SECRET_EBAY_DE", "from environment")
	if v, err := s.Get("ebay-de"); v != "from environment" || err != nil {
		t.Errorf("%q %v", v, err)
	}
	for _, name := range []string{"none", "empty", "../ebay-uk", "..", ".hidden", ""} {
		if v, err := s.Get(name); !errors.Is(err, ErrMissing) {
			t.Errorf("secret %q: %q %v", name, v, err)
		}
	}
}
