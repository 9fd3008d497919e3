package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/onhand/onhand/bench/internal/process"
)

// setting is how the peer is run.
type setting struct {
	Threads int    `json:"threads"`
	Store   string `json:"store"` // memory or rocksdb
	Caching bool   `json:"caching"`
}

func (s setting) String() string {
	cached := "uncached"
	if s.Caching {
		cached = "cached"
	}
	threads := "threads"
	if s.Threads == 1 {
		threads = "thread"
	}
	return fmt.Sprintf("%d %s, %s, %s", s.Threads, threads, s.Store, cached)
}

// settings is what the peer may be at its best with.
func settings(which string) []setting {
	switch which {
	case "none":
		return nil
	case "best":
		return []setting{{2, "memory", true}, {2, "rocksdb", true}, {2, "memory", false}}
	}
	var out []setting
	for _, threads := range []int{1, 2, 4} {
		for _, store := range []string{"memory", "rocksdb"} {
			for _, caching := range []bool{true, false} {
				out = append(out, setting{threads, store, caching})
			}
		}
	}
	return out
}

// buildPeer compiles the Kafka Streams application with Maven and returns its class path.
func buildPeer(ctx context.Context, root string) (string, error) {
	dir := filepath.Join(root, "bench", "peers", "kafka-streams")
	lib := filepath.Join(dir, "target", "lib")
	cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", filepath.Join(dir, "pom.xml"), "compile", "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory="+lib)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the Kafka Streams peer (Maven and a JDK 17 are needed): %w\n%s", err, out)
	}
	return filepath.Join(dir, "target", "classes") + string(os.PathListSeparator) + filepath.Join(lib, "*"), nil
}

// peerArgs is the command line of the peer that processes n events.
func peerArgs(classes, broker, input, output string, n int64, s setting, state string) []string {
	return []string{
		"-Xms1g", "-Xmx2g", "-XX:+UseParallelGC", "-cp", classes, "onhand.peer.Ledger", broker, input, output, strconv.FormatInt(n, 10), strconv.Itoa(s.Threads), s.Store,
		strconv.FormatBool(s.Caching), state,
	}
}

// peerRun is one run of the peer.
type peerRun struct {
	Setting  setting `json:"setting"`
	EventsPS float64 `json:"events_per_s"`
	CPU      CPU     `json:"cpu_us_per_event"` // from the first event processed to the last; Kafka's from the start of the process to its end
	PeakMB   int64   `json:"peak_mb"`
}

func (p *parts) peer(ctx context.Context, classes, input, output, dir string, n int, s setting) (peerRun, error) {
	state, err := os.MkdirTemp(dir, "peer-")
	if err != nil {
		return peerRun{}, err
	}
	defer os.RemoveAll(state)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	m := p.meter()
	cmd := exec.CommandContext(ctx, "java", peerArgs(classes, p.broker.Addr, input, output, int64(n), s, state)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return peerRun{}, fmt.Errorf("Kafka Streams (%s): %w\n%s%s", s, err, out.Bytes(), errs.Bytes())
	}
	var got struct {
		Events  int64   `json:"events"`
		Seconds float64 `json:"seconds"`
		CPU     float64 `json:"cpu_seconds"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Seconds <= 0 {
		return peerRun{}, fmt.Errorf("Kafka Streams (%s) printed %q, not its figures: %w", s, out.Bytes(), err)
	}
	cpu, err := m.read(float64(n))
	if err != nil {
		return peerRun{}, err
	}
	cpu.Process, cpu.Redis = got.CPU*1e6/float64(n), 0
	cpu.Total = cpu.Process + cpu.Kafka
	_, peak := process.Exit(cmd.ProcessState)
	return peerRun{Setting: s, EventsPS: float64(got.Events) / got.Seconds, CPU: cpu, PeakMB: peak >> 20}, nil
}
