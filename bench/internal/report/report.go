// Package report is what a benchmark leaves behind: a table for people, and a JSON file with the machine and the versions, so that figures of
// different days can be compared.
package report

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

// Report is the outcome of one benchmark.
type Report struct {
	Name     string            `json:"name"`
	At       time.Time         `json:"at"`      // when it began, UTC
	Seconds  float64           `json:"seconds"` // it took
	Commit   string            `json:"commit"`  // of the source; with -dirty when files were changed since
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Notes    []string          `json:"notes"` // how it was measured
	Figures  any               `json:"figures"`
	Rows     []Row             `json:"rows"` // the table
}

// Row is one line of the table.
type Row struct {
	Figure   string `json:"figure"`
	Value    string `json:"value"`
	Baseline string `json:"baseline"` // what it is compared with, or the goal; empty when there is none
}

// Machine is where it ran.
type Machine struct {
	CPU       string  `json:"cpu"`
	Cores     int     `json:"cores"`
	MemoryMB  int64   `json:"memory_mb"`
	Kernel    string  `json:"kernel"`
	LoadStart float64 `json:"load_at_start"` // of the last minute, before it began: above 0 means that others used the machine
	LoadEnd   float64 `json:"load_at_end"`
}

// New begins a report. root is the repository.
func New(ctx context.Context, name, root string) *Report {
	return &Report{
		Name: name, At: time.Now().UTC().Truncate(time.Second), Commit: commit(ctx, root), Versions: versions(),
		Machine: Machine{CPU: cpuModel(), Cores: runtime.NumCPU(), MemoryMB: memory() >> 20, Kernel: kernel(), LoadStart: load()},
	}
}

// Note adds a sentence on how it was measured.
func (r *Report) Note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// Row adds a line to the table.
func (r *Report) Row(figure, value, baseline string) {
	r.Rows = append(r.Rows, Row{figure, value, baseline})
}

// Finish writes dir/NAME.json and prints the table.
func (r *Report) Finish(dir string, out io.Writer) error {
	r.Seconds = time.Since(r.At).Round(time.Second).Seconds()
	r.Machine.LoadEnd = load()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, r.Name+".json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return r.print(out)
}

func (r *Report) print(out io.Writer) error {
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, "\n%s  (%s, %d cores, %d MB, Linux %s, %s; load %.1f before, %.1f after)\n", r.Name, r.Machine.CPU, r.Machine.Cores, r.Machine.MemoryMB,
		r.Machine.Kernel, runtime.Version(), r.Machine.LoadStart, r.Machine.LoadEnd) // a buffer takes all
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "  figure\tmeasured\tgoal or baseline")
	for _, x := range r.Rows {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", x.Figure, x.Value, x.Baseline)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range r.Notes {
		_, _ = fmt.Fprintln(&b, "  "+wrap(n, 150, "    "))
	}
	_, err := out.Write(b.Bytes())
	return err
}

// wrap breaks a note into lines of at most width characters.
func wrap(s string, width int, indent string) string {
	var b strings.Builder
	n := 0
	for i, word := range strings.Fields(s) {
		l := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case n+1+l > width:
			b.WriteString("\n" + indent)
			n = len(indent)
		default:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += l
	}
	return b.String()
}

// Count writes a whole number with groups of three digits.
func Count[T int | int64 | float64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		return "-" + s
	}
	return s
}

// MB writes bytes as megabytes (2^20 bytes).
func MB(n int64) string { return Count(n>>20) + " MB" }

// versions is Go and the modules that the figures depend on.
func versions() map[string]string {
	out := map[string]string{"go": runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	wanted := []string{
		"twmb/franz-go", "redis/go-redis", "alicebob/miniredis", "ClickHouse/", "protobuf", "vtprotobuf", "klauspost/compress", "opentelemetry.io/otel", "xxhash",
		"purego", "failsafe-go", "go-chi",
	}
	for _, d := range info.Deps {
		for _, w := range wanted {
			if strings.Contains(d.Path, w) {
				out[d.Path] = d.Version
			}
		}
	}
	return out
}

func commit(ctx context.Context, root string) string {
	b, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

func memory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kb int64
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kb); err != nil {
		return 0
	}
	return kb << 10
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return strings.TrimSpace(string(b))
}

func load() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	one, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(one, 64)
	if err != nil {
		return 0
	}
	return v
}

// JarVersion is the version in the name of the one jar of dir that starts with prefix, as in kafka_2.13-4.3.1.jar.
func JarVersion(dir, prefix string) (string, error) {
	names, err := filepath.Glob(filepath.Join(dir, prefix+"[0-9]*.jar"))
	if err != nil {
		return "", err
	}
	if len(names) != 1 {
		return "", fmt.Errorf("%s holds %d files %s*.jar: want one", dir, len(names), prefix)
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(names[0]), prefix), ".jar"), nil
}

// ErrNone says that there is no benchmark of a name.
var ErrNone = errors.New("there is no such benchmark")
