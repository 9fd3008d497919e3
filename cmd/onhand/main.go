// Command onhand runs Onhand on one machine and talks to a running one: `onhand up` starts everything, with a year of real orders to replay; the
// other commands load settings, feed orders, and show what goes on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/onhand/onhand/platform/program"
)

// version is set when a release is built.
var version = ""

// streams is where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

type cli struct {
	Up          upCmd          `cmd:"" help:"Run all of Onhand in one process, on embedded parts or on yours."`
	Replay      replayCmd      `cmd:"" help:"Feed a file of past orders to a running Onhand."`
	Apply       applyCmd       `cmd:"" help:"Set channels, locations, rules and listings from a YAML file."`
	Rules       rulesCmd       `cmd:"" help:"Try other rules before they are applied."`
	Status      statusCmd      `cmd:"" help:"Show what runs, where it listens, and how it is."`
	Console     consoleCmd     `cmd:"" help:"Print a link that opens the console once."`
	Tail        tailCmd        `cmd:"" help:"Follow a topic, its records as JSON."`
	Simulate    simulateCmd    `cmd:"" help:"Try the allocation modes in simulated worlds with faults, and count what is oversold."`
	Whatif      whatifCmd      `cmd:"" help:"Replay recorded events under other rules: what would have been oversold, lost and written."`
	Ledger      ledgerCmd      `cmd:"" help:"Verify, rebuild and look into the past of the ledger."`
	Rejected    rejectedCmd    `cmd:"" help:"Look at input that could not be applied."`
	Explain     explainCmd     `cmd:"" help:"Say what each channel should show of a SKU, and why."`
	Certificate certificateCmd `cmd:"" help:"Say how well the invariant held that rules an oversell out, by day and partition."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, "onhand", releaseName())
	return err
}

// releaseName is the version, or what the build knows of its source.
func releaseName() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unreleased"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "unreleased-" + s.Value[:12]
		}
	}
	return "unreleased"
}

// exitError ends the program with a status of its own, its message already printed when silent.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func main() { os.Exit(run(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})) }

// run is the whole program: it returns the exit status, which is 0, 1 when something failed, or 2 for a command line that is wrong.
func run(args []string, s streams) int {
	var c cli
	status := -1
	parser, err := kong.New(&c, kong.Name("onhand"), kong.UsageOnError(), kong.Writers(s.out, s.err), kong.Exit(func(code int) { status = code }), kong.Configuration(program.File("up")),
		kong.Description("Keeps every sales channel in step with the real stock."), kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		_, _ = fmt.Fprintln(s.err, "onhand:", err)
		return 1
	}
	parsed, err := parser.Parse(args)
	if status >= 0 { // help was asked for
		return status
	}
	if err != nil {
		_, _ = fmt.Fprintf(s.err, "onhand: %v; see onhand --help\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills at once
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(s)
	err = parsed.Run()
	if errors.Is(err, syscall.EPIPE) { // the reader of our output has seen enough
		return 0
	}
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.text != "" {
			_, _ = fmt.Fprintln(s.err, exit.text)
		}
		return exit.code
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return 130
	}
	_, _ = fmt.Fprintln(s.err, "onhand:", err)
	return 1
}
