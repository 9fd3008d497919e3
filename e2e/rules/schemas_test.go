package rules

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGeneratedFilesAreCurrent regenerates what comes from the schemas, elsewhere, and compares.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	buf := tool(t, "schemas", "buf")
	fresh := t.TempDir()
	path := []string{"PATH=" + filepath.Dir(buf) + string(os.PathListSeparator) + os.Getenv("PATH")}
	if out, err := run(t, "schemas", path, buf, "generate", "--output", fresh); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list := func(dir string) map[string][]byte {
		files := make(map[string][]byte)
		for _, top := range []string{"gen", "README.md"} {
			err := filepath.WalkDir(filepath.Join(dir, top), func(p string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				rel, err := filepath.Rel(dir, p)
				if err != nil {
					return err
				}
				files[rel], err = os.ReadFile(p)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return files
	}
	have, want := list(filepath.Join(root(), "schemas")), list(fresh)
	for name, b := range want {
		if !bytes.Equal(have[name], b) {
			t.Errorf("schemas/%s is not what `make generate` makes of the schemas", name)
		}
	}
	for name := range have {
		if want[name] == nil {
			t.Errorf("schemas/%s comes from no schema any more", name)
		}
	}
}

// TestSchemasAreCompatible checks the schemas' style, and that whoever reads or writes the released ones can work with these.
func TestSchemasAreCompatible(t *testing.T) {
	buf := tool(t, "schemas", "buf")
	must(t, "schemas", buf, "lint")
	must(t, "schemas", buf, "breaking", "--against", "released.binpb")
}

// TestBreakingChangesAreFound sees the compatibility check fail: on a field that is taken away, renumbered, or given another type.
func TestBreakingChangesAreFound(t *testing.T) {
	buf := tool(t, "schemas", "buf")
	for name, change := range map[string][2]string{
		"taken away":   {"string event_id = 9;", ""},
		"renumbered":   {"string event_id = 9;", "string event_id = 99;"},
		"another type": {"string event_id = 9;", "int64 event_id = 9;"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(filepath.Join(dir, "proto"), os.DirFS(filepath.Join(root(), "schemas", "proto"))); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"buf.yaml", "released.binpb"} {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(read(t, "schemas/"+f)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			level := filepath.Join(dir, "proto", "onhand", "v1", "level.proto")
			text, err := os.ReadFile(level)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), change[0], change[1], 1)
			if changed == string(text) {
				t.Fatalf("level.proto has no %q any more", change[0])
			}
			if err := os.WriteFile(level, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			rel, err := filepath.Rel(root(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := run(t, rel, nil, buf, "breaking", "--against", "released.binpb"); err == nil || !strings.Contains(out, "event_id") {
				t.Errorf("the change was let pass: %v\n%s", err, out)
			}
		})
	}
}
