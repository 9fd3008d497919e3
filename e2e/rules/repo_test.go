package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const base = "github.com/onhand/onhand/"

// root is the repository's root.
var root = sync.OnceValue(func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
})

// run runs a command in dir, under the repository's root, and returns what it printed.
func run(t *testing.T, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = filepath.Join(root(), dir)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), errors.Join(err, errors.New(stderr.String()))
	}
	return string(out), nil
}

// must is run for a command that has to succeed.
func must(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	out, err := run(t, dir, nil, name, args...)
	if err != nil {
		t.Fatalf("%s %s in %s: %v\n%s", name, strings.Join(args, " "), dir, err, out[max(0, len(out)-4000):])
	}
	return out
}

// tool is the path of a pinned tool, built first if need be.
func tool(t *testing.T, group, name string) string {
	t.Helper()
	must(t, ".", "make", "-s", ".tools/"+group+".stamp")
	return filepath.Join(root(), ".tools", name)
}

// tracked is every file of the repository that is in git or would be with the next commit, by path from the root.
func tracked(t *testing.T) []string {
	t.Helper()
	out := must(t, ".", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	var files []string
	for f := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		if _, err := os.Stat(filepath.Join(root(), f)); err == nil {
			files = append(files, f)
		}
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(), file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// generated says whether a file was made by a program, and so follows that program's taste.
func generated(file string) bool {
	return strings.HasPrefix(file, "schemas/gen/") || strings.HasSuffix(file, "_gen.go")
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath, Doc, Dir                              string
	GoFiles, Imports, TestImports, XTestImports, Deps []string
}

// rel is the package's path from the repository's root.
func (p pkg) rel() string { return strings.TrimPrefix(p.ImportPath, base) }

// packages is every package of the workspace.
func packages(t *testing.T) []pkg {
	t.Helper()
	out := must(t, ".", "go", "list", "-json=ImportPath,Doc,Dir,GoFiles,Imports,TestImports,XTestImports,Deps", "work")
	d := json.NewDecoder(strings.NewReader(out))
	var all []pkg
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages: the rules would hold of nothing", len(all))
	}
	return all
}

// module is what go mod edit says of a go.mod.
type module struct {
	dir     string // from the root
	Module  struct{ Path string }
	Go      string
	Require []struct {
		Path, Version string
		Indirect      bool
	}
}

// modules is every module of the repository, tools included.
func modules(t *testing.T) []module {
	t.Helper()
	var all []module
	for _, f := range tracked(t) {
		if filepath.Base(f) != "go.mod" {
			continue
		}
		m := module{dir: filepath.Dir(f)}
		if err := json.Unmarshal([]byte(must(t, m.dir, "go", "mod", "edit", "-json")), &m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// isTool says whether a module only pins programs that work on the repository. Those follow their own versions, and are in no workspace.
func (m module) isTool() bool { return m.dir == "tools" || strings.HasPrefix(m.dir, "tools/") }
