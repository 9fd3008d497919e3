package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// metric is a metric's name in code or in docs.
var metric = regexp.MustCompile("[\"`](onhand_[a-z0-9_]+)[\"`]")

// inCode is what a metric's name is in code: the exporter adds the unit and, to a counter, _total, when the name lacks them.
func inCode(name string) string {
	name = strings.TrimSuffix(name, "_total")
	for _, unit := range []string{"_seconds", "_bytes"} {
		name = strings.TrimSuffix(name, unit)
	}
	return name
}

// TestEveryMetricIsDocumented holds docs/metrics.md and the services' instruments together.
func TestEveryMetricIsDocumented(t *testing.T) {
	read := func(file string, into map[string]string) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metric.FindAllStringSubmatch(string(b), -1) {
			into[inCode(m[1])] = m[1]
		}
	}
	code, docs := map[string]string{}, map[string]string{}
	read(filepath.Join(root(), "docs", "metrics.md"), docs)
	for _, service := range serviceNames(t) {
		files, err := filepath.Glob(filepath.Join(root(), "services", service, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		before := len(code)
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				read(file, code)
			}
		}
		if len(code) == before {
			t.Errorf("%s has no metrics", service)
		}
	}
	for short, name := range code {
		if docs[short] == "" {
			t.Errorf("docs/metrics.md does not name %s", name)
		}
	}
	for short, name := range docs {
		if code[short] == "" {
			t.Errorf("docs/metrics.md names %s, which no service has", name)
		}
	}
}
