package rules

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// longest is how many lines a Go file may have before it holds more than one thing.
const longest = 1200

// TestPackagesSayWhatTheyAreFor wants a package comment on each package.
func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" && !generated(p.rel()+"/") {
			t.Errorf("%s has no package comment", p.rel())
		}
	}
}

// TestGoFiles holds what is asked of each Go file by itself.
func TestGoFiles(t *testing.T) {
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") || generated(file) {
			continue
		}
		text := read(t, file)
		if n := strings.Count(text, "\n"); n > longest {
			t.Errorf("%s has %d lines, more than %d: find the second thing in it", file, n, longest)
		}
		if want, err := format.Source([]byte(text)); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		} else if !bytes.Equal(want, []byte(text)) {
			t.Errorf("%s is not formatted: run gofmt -w on it", file)
		}
		if strings.HasSuffix(file, "_test.go") {
			for _, fault := range testFaults(t, file, text) {
				t.Error(fault)
			}
		}
	}
}

// testFaults finds tests that sleep for a fixed time (they are slow, and still fail on a slow machine) and tests that skip (they tell nothing). A
// loop that looks again and again for a condition may pause between looks, and in a synctest bubble time is virtual.
func testFaults(t *testing.T, file, text string) (faults []string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	bubble := slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
	var around []ast.Node
	ast.Inspect(f, func(n ast.Node) bool {
		if n == nil {
			around = around[:len(around)-1]
			return true
		}
		around = append(around, n)
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, _ := sel.X.(*ast.Ident)
		switch {
		case x != nil && x.Name == "time" && sel.Sel.Name == "Sleep" && !bubble && !slices.ContainsFunc(around, looks):
			faults = append(faults, set.Position(n.Pos()).String()+": wait for a condition, do not sleep")
		case x != nil && (x.Name == "t" || x.Name == "b" || x.Name == "f") && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name):
			faults = append(faults, set.Position(n.Pos()).String()+": install what the test needs, do not skip it")
		}
		return true
	})
	return faults
}

// looks reports whether n is a loop that goes on until a condition holds: it has one, or leaves from within.
func looks(n ast.Node) bool {
	loop, ok := n.(*ast.ForStmt)
	if !ok || loop.Post != nil {
		return false
	}
	found := loop.Cond != nil
	ast.Inspect(loop.Body, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.ReturnStmt, *ast.BranchStmt:
			found = true
		}
		return !found
	})
	return found
}

func TestTestFaultsAreFound(t *testing.T) {
	for body, want := range map[string]int{
		"time.Sleep(1)":                                          1,
		"for range 3 { time.Sleep(1) }":                          1,
		"for i := 0; i < 3; i++ { time.Sleep(1) }":               1,
		"for { time.Sleep(1) }":                                  1,
		"t.Skip()":                                               1,
		"for !done() { time.Sleep(1) }":                          0,
		"for { if done() { return }; time.Sleep(1) }":            0,
		"synctest.Test(t, func(t *testing.T) { time.Sleep(1) })": 0,
	} {
		imports := `"testing"; "time"`
		if strings.Contains(body, "synctest") {
			imports += `; "testing/synctest"`
		}
		text := "package p\nimport (" + imports + ")\nfunc TestA(t *testing.T) { " + body + " }"
		if n := len(testFaults(t, "a_test.go", text)); n != want {
			t.Errorf("%s: %d faults found, want %d", body, n, want)
		}
	}
}

// The marks below are put together from parts, so that this file does not hold them.
var (
	undone   = regexp.MustCompile(`\b(` + "TO" + `DO|FIX` + `ME|X` + `XX)\b`)
	registry = regexp.MustCompile(strings.ReplaceAll(`proxy@golang@org|sum@golang@org|registry@npmjs@|npmjs@org|repo1?@maven@|maven@org/maven2|pypi@org|pythonhosted@org|deb@debian@org|crates@io`, "@", `\.`))
	machine  = regexp.MustCompile("(^|[^A-Za-z0-9_.~-])/" + "(root|home|work)" + "/[a-z.]")
)

// TestTrackedFiles holds what no file of the repository may contain: work left undone, the address of a package registry (which one is used is
// the machine's affair), and paths of somebody's machine.
func TestTrackedFiles(t *testing.T) {
	for _, file := range tracked(t) {
		text := read(t, file)
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			continue // no text
		}
		for what, re := range map[string]*regexp.Regexp{"work left undone": undone, "a package registry": registry, "a path of one machine": machine} {
			if at := re.FindStringIndex(text); at != nil && !(re == undone && filepath.Ext(file) == ".csv") {
				t.Errorf("%s:%d names %s: %q", file, 1+strings.Count(text[:at[0]], "\n"), what, text[at[0]:at[1]])
			}
		}
	}
}
