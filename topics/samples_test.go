package topics_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onhand/onhand/schemas"
)

var update = flag.Bool("update", false, "write the expected domain values of samples that have none")

// TestRecordedSamplesDecodeForEver decodes every value recorded in schemas/samples, framed and bare, to the domain value that it meant when
// it was recorded.
func TestRecordedSamplesDecodeForEver(t *testing.T) {
	files, err := filepath.Glob("../schemas/samples/*.binpb")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	seen := make(map[string]bool)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".binpb")
		t.Run(name, func(t *testing.T) {
			message, _, _ := strings.Cut(name, ".")
			decode := decoders()[message]
			if decode == nil {
				t.Fatalf("no decoder of %s", message)
			}
			seen[message] = true
			value, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v, err := decode(value)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "samples", strings.TrimSuffix(strings.TrimSuffix(name, ".bare"), ".framed")+".json")
			want, err := os.ReadFile(golden)
			if os.IsNotExist(err) && *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v: write it with go test -update, and read it", err)
			}
			// Fields that the domain has gained since are zero in an old value; what was there must read as it did.
			if !includes(t, got, want) {
				t.Errorf("%s\n got: %s\nwant: %s", golden, got, want)
			}
		})
	}
	for _, topic := range schemas.Topics() {
		if topic.Message != "" && !seen[topic.Message] {
			t.Errorf("no sample of %s", topic.Message)
		}
	}
}

// includes reports whether got says all that want says.
func includes(t *testing.T, got, want []byte) bool {
	t.Helper()
	var g, w any
	decode := func(b []byte, v any) {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber() // microseconds are beyond a float's whole numbers
		if err := d.Decode(v); err != nil {
			t.Fatal(err)
		}
	}
	decode(got, &g)
	decode(want, &w)
	var in func(g, w any) bool
	in = func(g, w any) bool {
		switch w := w.(type) {
		case map[string]any:
			gm, ok := g.(map[string]any)
			for k, v := range w {
				ok = ok && in(gm[k], v)
			}
			return ok
		case []any:
			gs, ok := g.([]any)
			ok = ok && len(gs) == len(w)
			for i := 0; ok && i < len(w); i++ {
				ok = in(gs[i], w[i])
			}
			return ok
		}
		return g == w
	}
	return in(g, w)
}
