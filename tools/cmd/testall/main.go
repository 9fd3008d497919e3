// Command testall runs the tests of every module in the workspace and of the tools, and says what came of them: one line for each package
// as it ends, the whole output of each test that fails, and "N passed, N failed" as the last line.
//
// A package that does not build, panics, times out or leaves a test unfinished counts as at least one failure. So does a skipped test: what
// a test needs is installed before it runs, and a test that does not run tells nothing.
//
//	go -C tools run ./cmd/testall [-race] [-root DIR] [-timeout D] [package …]
//
// Without packages it tests all of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

func run() int {
	root := flag.String("root", "..", "the repository's root")
	race := flag.Bool("race", false, "run under the race detector")
	timeout := flag.Duration("timeout", 20*time.Minute, "longest that the tests of one package may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	dir, err := filepath.Abs(*root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testall:", err)
		return 1
	}
	args := []string{"test", "-json", "-count=1", "-timeout", timeout.String()}
	if *race {
		args = append(args, "-race")
	}
	sum := newSummary(os.Stdout)
	faults := 0
	try := func(dir string, env []string, args ...string) {
		if err := goTest(ctx, sum, dir, env, args); err != nil {
			faults++
			fmt.Fprintf(os.Stdout, "FAIL\tgo %v in %s: %v\n", args, dir, err)
		}
	}
	workspace := []string{"GOWORK="} // found as ever, though this program runs without
	if flag.NArg() > 0 {
		try(dir, workspace, append(args, flag.Args()...)...)
	} else {
		try(filepath.Join(dir, "tools"), []string{"GOWORK=off"}, append(args, "./...")...)
		// The days and the faults of e2e start many processes and compare what each came to rest at: they get the machine to themselves, at full speed.
		packages, err := listed(ctx, dir, workspace)
		if err != nil {
			fmt.Fprintln(os.Stderr, "testall:", err)
			return 1
		}
		apart := func(pkg string) bool { return strings.HasSuffix(pkg, "/e2e") || strings.HasSuffix(pkg, "/e2e/faults") }
		try(dir, workspace, append(args, slices.DeleteFunc(slices.Clone(packages), apart)...)...)
		for _, pkg := range packages {
			if apart(pkg) {
				try(dir, workspace, "test", "-json", "-count=1", "-timeout", timeout.String(), pkg)
			}
		}
	}
	passed, failed := sum.total()
	failed += faults
	if passed == 0 && failed == 0 {
		fmt.Println("FAIL\tno test ran")
		failed = 1
	}
	fmt.Printf("\n%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return 1
	}
	return 0
}

// goTest runs one go test -json and feeds its events to sum. It returns an error only for a fault that no event told of.
func goTest(ctx context.Context, sum *summary, dir string, env, args []string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	before := sum.failed
	readErr := sum.read(out)
	_, _ = io.Copy(io.Discard, out) // a broken stream must not block the child
	if err := cmd.Wait(); err != nil && sum.failed == before {
		return err // it failed and no event said so
	}
	return readErr
}

// listed names the packages of the workspace.
func listed(ctx context.Context, dir string, env []string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "work")
	cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), env...), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages of the workspace: %w", err)
	}
	return strings.Fields(string(out)), nil
}
