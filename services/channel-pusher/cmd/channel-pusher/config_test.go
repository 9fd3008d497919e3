package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/onhand/onhand/platform/program"
)

func parse(t *testing.T, yaml string, args ...string) (flags, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var f flags
	p, err := kong.New(&f, program.Options(about())...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Parse(append(args, "--config", file))
	return f, err
}

func TestYAMLFile(t *testing.T) {
	f, err := parse(t, "kafka-brokers: [a:1, b:2]\nallow-private: true\ndrift-every: 30s\nlinger: 5ms\n", "--linger", "7ms")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Kafka.Brokers, []string{"a:1", "b:2"}) || !f.Pusher.AllowPrivate || f.Pusher.DriftEvery != 30*time.Second {
		t.Errorf("%+v", f)
	}
	if f.Pusher.Linger != 7*time.Millisecond {
		t.Errorf("linger %s: the command line comes first", f.Pusher.Linger)
	}
	if _, err := parse(t, "driftevery: 30s\n"); err == nil || !strings.Contains(err.Error(), "driftevery") {
		t.Errorf("a misspelt name: %v", err)
	}
	if _, err := parse(t, ":\n :"); err == nil {
		t.Error("a broken file was taken")
	}
	if _, err := parse(t, ""); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}
