// Package oneprocess measures `onhand up` as its users have it: the built program in a process of its own.
package oneprocess

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/onhand/onhand/bench/internal/process"
	"github.com/onhand/onhand/bench/internal/report"
	"github.com/onhand/onhand/e2e/testbed"
)

// build makes the program, in a directory of its own for what a benchmark needs; remove takes that away.
func build(ctx context.Context, root, benchmark string) (dir, program string, remove func() error, err error) {
	if dir, err = os.MkdirTemp("", "onhand-bench-"+benchmark+"-"); err != nil {
		return "", "", nil, err
	}
	remove = func() error { return os.RemoveAll(dir) }
	program = filepath.Join(dir, "onhand")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/onhand")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", nil, errors.Join(fmt.Errorf("build cmd/onhand: %w\n%s", err, out), remove())
	}
	return dir, program, remove, nil
}

// flags has the program use free ports, so that a running Onhand is no obstacle.
func flags(data string) []string {
	return []string{
		"up", "--data", data, "--plain", "--listen=127.0.0.1:0", "--port-kafka=0", "--port-registry=0", "--port-redis=0", "--port-click-house=0", "--port-marketplaces=0",
	}
}

// IdleConfig says how idle memory is measured.
type IdleConfig struct {
	After time.Duration // how long it idles
	Say   func(format string, args ...any)
}

// IdleFigures is resident memory in bytes.
type IdleFigures struct {
	Idle      int64 `json:"idle_bytes"`
	Peak      int64 `json:"peak_bytes"` // until then: starting takes more than idling
	Without   int64 `json:"idle_without_engine_bytes"`
	Engine    int64 `json:"engine_bytes"`     // the ClickHouse engine's share: the difference
	AfterSecs int64 `json:"idle_for_seconds"` // before memory was read
}

// Idle measures the memory of `onhand up` that has the example's catalog and nothing to do, once whole and once with the ClickHouse engine in
// another process.
func Idle(ctx context.Context, cfg IdleConfig, root string, r *report.Report) (err error) {
	dir, program, remove, err := build(ctx, root, "idle")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	f := IdleFigures{AfterSecs: int64(cfg.After.Seconds())}
	cfg.Say("onhand up, idle for %s", cfg.After)
	f.Idle, f.Peak, err = idle(ctx, program, append(flags(filepath.Join(dir, "whole")), "--no-replay"), cfg.After)
	if err != nil {
		return err
	}
	cfg.Say("the same with the ClickHouse engine elsewhere, idle for %s", cfg.After)
	engineDir := filepath.Join(dir, "engine")
	if err := os.Mkdir(engineDir, 0o755); err != nil {
		return err
	}
	engine, err := testbed.StartClickHouse(ctx, engineDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Stop()) }()
	if r.Versions["clickhouse"], err = engine.Query(ctx, "SELECT version()"); err != nil {
		return err
	}
	f.Without, _, err = idle(ctx, program, append(flags(filepath.Join(dir, "without")), "--no-replay", "--external=clickhouse", "--clickhouse-url="+engine.URL), cfg.After)
	if err != nil {
		return err
	}
	f.Engine = f.Idle - f.Without
	r.Figures = f
	r.Row("idle memory of onhand up", report.MB(f.Idle), "goal: < 600 MB")
	r.Row("  of it the ClickHouse engine", report.MB(f.Engine), "")
	r.Row("  of it all else", report.MB(f.Without), "")
	r.Row("peak while starting", report.MB(f.Peak), "")
	r.Note("Resident memory (VmRSS) of the process %s after it was ready, with the example's catalog and no orders. The engine's share is the difference to the same with the engine in another process.", cfg.After)
	return nil
}

// idle starts the program, waits until it is ready and has idled, and reads its memory.
func idle(ctx context.Context, program string, args []string, after time.Duration) (now, peak int64, err error) {
	up, err := start(ctx, program, args)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, up.stop()) }()
	idling := time.NewTimer(after)
	defer idling.Stop()
	select {
	case <-idling.C:
	case <-up.ended:
		return 0, 0, errors.New("onhand up ended while it idled")
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	return process.Memory(up.cmd.Process.Pid)
}

// running is an onhand up.
type running struct {
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it prints no more
	cancel context.CancelFunc
	errs   strings.Builder
}

// start starts the program, and waits until it is ready.
func start(ctx context.Context, program string, args []string) (*running, error) {
	ctx, cancel := context.WithCancel(ctx)
	up := &running{cmd: exec.CommandContext(ctx, program, args...), ended: make(chan struct{}), cancel: cancel}
	up.cmd.Cancel = func() error { return up.cmd.Process.Signal(os.Interrupt) }
	up.cmd.WaitDelay = 30 * time.Second
	up.cmd.Stderr = &up.errs
	out, err := up.cmd.StdoutPipe()
	if err == nil {
		err = up.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	ready := make(chan struct{})
	go func() {
		defer close(up.ended)
		isReady := false
		for s := bufio.NewScanner(out); s.Scan(); {
			if strings.HasPrefix(s.Text(), "Ready in") && !isReady {
				isReady = true
				close(ready)
			}
		}
	}()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	select {
	case <-ready:
		return up, nil
	case <-up.ended:
		return nil, errors.Join(errors.New("onhand up ended before it was ready"), up.stop())
	case <-limit.C:
		return nil, errors.Join(errors.New("onhand up was not ready after two minutes"), up.stop())
	}
}

// stop ends it. How it ended is an error when it was not this that ended it.
func (up *running) stop() error {
	early := false
	select {
	case <-up.ended:
		early = true
	default:
	}
	up.cancel()
	<-up.ended
	if err := up.cmd.Wait(); err != nil && early {
		return fmt.Errorf("%w\n%s", err, up.errs.String())
	}
	return nil
}

// DatasetFigures is the whole example in one go.
type DatasetFigures struct {
	Seconds    float64  `json:"seconds"` // from start to exit
	CPUSeconds float64  `json:"cpu_seconds"`
	PeakBytes  int64    `json:"peak_bytes"`
	ExitCode   int      `json:"exit_code"`
	DataBytes  int64    `json:"data_bytes"` // left in the data directory
	Summary    []string `json:"summary"`    // what it printed at the end
}

// Dataset runs the complete example through `onhand up --once`.
func Dataset(ctx context.Context, root string, r *report.Report, say func(string, ...any)) (err error) {
	dir, program, remove, err := build(ctx, root, "dataset")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	data := filepath.Join(dir, "data")
	say("onhand up --once")
	running, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(running, program, append(flags(data), "--once")...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("onhand up --once: %w", err)
	}
	if running.Err() != nil {
		return fmt.Errorf("onhand up --once was not at its end after %s: %w\n%s", took.Round(time.Second), running.Err(), tail(out, 20))
	}
	cpu, peak := process.Exit(cmd.ProcessState)
	f := DatasetFigures{Seconds: took.Seconds(), CPUSeconds: cpu.Seconds(), PeakBytes: peak, ExitCode: cmd.ProcessState.ExitCode(), Summary: tail(out, 40)}
	err = filepath.WalkDir(data, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			f.DataBytes += info.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	r.Figures = f
	r.Row("whole data set through onhand up --once", fmt.Sprintf("%.1f s", f.Seconds), "limit 120 s, goal 60 s")
	r.Row("peak memory", report.MB(f.PeakBytes), "limit 1,024 MB")
	r.Row("processor time", fmt.Sprintf("%.1f s", f.CPUSeconds), "")
	r.Row("data directory", report.MB(f.DataBytes), "")
	r.Row("exit code", fmt.Sprint(f.ExitCode), "0: every unit reconciles")
	r.Note("The built program in a process of its own, an empty data directory, marketplaces in the same process, as users have it; from start to exit, with start, reconciliation and stop.")
	for _, line := range f.Summary {
		say("%s", line)
	}
	return nil
}

// tail is the last n lines.
func tail(out []byte, n int) []string {
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	return lines[max(0, len(lines)-n):]
}
