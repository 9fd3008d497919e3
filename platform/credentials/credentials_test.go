package credentials

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from file \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("A_PASSWORD", "from environment")
	for _, c := range []struct{ file, want string }{{"", "from environment"}, {file, "from file "}} {
		if got, err := Password("a-password-file", c.file, "A_PASSWORD"); err != nil || got != c.want {
			t.Errorf("Password with file %q = %q, %v; want %q", c.file, got, err, c.want)
		}
	}
	if _, err := Password("a-password-file", file+".gone", "A_PASSWORD"); err == nil || !strings.HasPrefix(err.Error(), "a-password-file: ") {
		t.Errorf("a missing file gives %v; want an error that begins with its setting", err)
	}
}

func TestTLSNamesTheSetting(t *testing.T) {
	conf, err := TLS("a-ca-file", "")
	if err != nil || conf.RootCAs != nil {
		t.Errorf("no file: %v, %v; want the public authorities", conf, err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("not PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{file, file + ".gone"} {
		if _, err := TLS("a-ca-file", f); err == nil || !strings.HasPrefix(err.Error(), "a-ca-file") {
			t.Errorf("%s gives %v; want an error that begins with its setting", f, err)
		}
	}
}
