package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is one line of go test -json (go doc test2json; build-output and build-fail are the go command's own).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// summary counts the tests of a stream of events and prints what a reader needs of it.
type summary struct {
	out      io.Writer
	packages map[string]*pkg
	builds   map[string]*strings.Builder // output of each build, printed when it fails
	passed   int
	failed   int
}

// pkg is what is known of a package whose tests run.
type pkg struct {
	output         map[string]*strings.Builder // by test; "" is the package's own
	running        map[string]bool
	passed, failed int
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, packages: make(map[string]*pkg), builds: make(map[string]*strings.Builder)}
}

func (s *summary) total() (passed, failed int) { return s.passed, s.failed }

// read takes in all events of r. Lines that are no event (a panic of the go command, say) are printed as they are.
func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(s.out, "%s", line)
			} else {
				s.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events of go test: %w", err)
		}
	}
}

func (s *summary) take(e event) {
	switch e.Action {
	case "build-output":
		b := s.builds[e.ImportPath]
		if b == nil {
			b = new(strings.Builder)
			s.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		return
	case "build-fail":
		return // the package that needed it says so itself, with FailedBuild
	}
	p := s.packages[e.Package]
	if p == nil {
		p = &pkg{output: make(map[string]*strings.Builder), running: make(map[string]bool)}
		s.packages[e.Package] = p
	}
	if e.Test == "" {
		s.takePackage(e, p)
		return
	}
	switch e.Action {
	case "run":
		p.running[e.Test] = true
	case "output":
		p.write(e.Test, e.Output)
	case "pass":
		p.passed++
		p.end(e.Test)
	case "fail":
		p.failed++
		s.printTest(e.Package, e.Test, p)
		p.end(e.Test)
	case "skip":
		p.failed++
		fmt.Fprintf(s.out, "--- SKIP: %s %s counts as a failure\n", e.Package, e.Test)
		s.printTest(e.Package, e.Test, p)
		p.end(e.Test)
	}
}

// takePackage ends a package's account. Only then do its tests enter the total, so that a panic is not hidden by what passed before it.
func (s *summary) takePackage(e event, p *pkg) {
	switch e.Action {
	case "output":
		p.write("", e.Output)
		return
	case "pass", "skip":
	case "fail":
		if e.FailedBuild != "" {
			p.failed++
			fmt.Fprintf(s.out, "--- FAIL: %s does not build\n", e.Package)
			if b := s.builds[e.FailedBuild]; b != nil {
				fmt.Fprint(s.out, b.String())
			}
			break
		}
		for name := range p.running {
			p.failed++
			fmt.Fprintf(s.out, "--- FAIL: %s %s did not finish\n", e.Package, name)
			fmt.Fprint(s.out, p.text(name))
		}
		if p.failed == 0 {
			p.failed++
		}
		fmt.Fprint(s.out, p.text(""))
	default:
		return
	}
	s.passed += p.passed
	s.failed += p.failed
	switch n := p.passed + p.failed; {
	case p.failed > 0:
		fmt.Fprintf(s.out, "FAIL\t%s\t%.1fs\t%d passed, %d failed\n", e.Package, e.Elapsed, p.passed, p.failed)
	case n > 0:
		fmt.Fprintf(s.out, "ok  \t%s\t%.1fs\t%d passed\n", e.Package, e.Elapsed, p.passed)
	}
	delete(s.packages, e.Package)
}

func (s *summary) printTest(path, test string, p *pkg) {
	if p.text(test) != "" {
		fmt.Fprintf(s.out, "=== %s %s\n%s", path, test, p.text(test))
	}
}

func (p *pkg) write(test, text string) {
	b := p.output[test]
	if b == nil {
		b = new(strings.Builder)
		p.output[test] = b
	}
	b.WriteString(text)
}

func (p *pkg) text(test string) string {
	if b := p.output[test]; b != nil {
		return b.String()
	}
	return ""
}

func (p *pkg) end(test string) {
	delete(p.running, test)
	delete(p.output, test)
}
