package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func parse(t *testing.T, yaml string, args ...string) (settings, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var c settings
	p, err := kong.New(&c, kong.Configuration(yamlSettings), kong.Vars{"version": "test"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Parse(append([]string{"--config", file}, args...))
	return c, err
}

func TestSettingsFile(t *testing.T) {
	c, err := parse(t, "kafka-brokers: [a:1, b:2]\nledger-batch-skus: 7\nledger-window: 24h\nlisten: 127.0.0.1:0\n", "--ledger-window=48h")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Kafka.Brokers) != 2 || c.Ledger.BatchSKUs != 7 || c.Listen != "127.0.0.1:0" || c.Ledger.Window.Hours() != 48 {
		t.Errorf("got %+v", c)
	}
	for yaml, want := range map[string]string{"ledger-windw: 1h": "ledger-windw", "ledger-batch-skus: 0": "batch-skus", "a: [": "settings file"} {
		if _, err := parse(t, yaml); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: no word of %s in %v", yaml, want, err)
		}
	}
}
