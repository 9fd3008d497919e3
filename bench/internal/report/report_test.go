package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFinish(t *testing.T) {
	dir := t.TempDir()
	r := New(t.Context(), "pipeline", dir)
	r.Figures = map[string]int{"orders_per_s": 2000}
	r.Row("orders/s", Count(2000), "goal: 2,000")
	r.Note("%d channels", 12)
	var out strings.Builder
	if err := r.Finish(filepath.Join(dir, "out"), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"orders/s  2,000     goal: 2,000", "12 channels", "cores"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "out", "pipeline.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Name     string
		Machine  Machine
		Versions map[string]string
		Figures  map[string]int
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "pipeline" || got.Machine.Cores < 1 || got.Machine.CPU == "" || got.Versions["go"] == "" || got.Figures["orders_per_s"] != 2000 {
		t.Errorf("the file holds %+v", got)
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 100: "100", -100: "-100"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}
