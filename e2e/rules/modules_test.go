package rules

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTheWorkspaceListsEveryModule finds a module that workspace-wide commands, and so the tests, would pass over.
func TestTheWorkspaceListsEveryModule(t *testing.T) {
	var work struct {
		Go  string
		Use []struct{ DiskPath string }
	}
	if err := json.Unmarshal([]byte(must(t, ".", "go", "work", "edit", "-json")), &work); err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, u := range work.Use {
		used = append(used, filepath.Clean(u.DiskPath))
	}
	for _, m := range modules(t) {
		if m.isTool() {
			continue
		}
		if !slices.Contains(used, m.dir) {
			t.Errorf("%s is a module and not in go.work", m.dir)
		}
		if want := base + m.dir; m.Module.Path != want {
			t.Errorf("%s is module %s, want %s", m.dir, m.Module.Path, want)
		}
		if m.Go != work.Go {
			t.Errorf("%s/go.mod says go %s, go.work %s", m.dir, m.Go, work.Go)
		}
	}
}

// TestSharedDependenciesAgree finds modules that would be built with different versions of what both name.
func TestSharedDependenciesAgree(t *testing.T) {
	type use struct{ dir, version string }
	uses := make(map[string][]use)
	for _, m := range modules(t) {
		if m.isTool() {
			continue
		}
		for _, r := range m.Require {
			if !r.Indirect && !strings.HasPrefix(r.Path, base) {
				uses[r.Path] = append(uses[r.Path], use{m.dir, r.Version})
			}
		}
	}
	for path, us := range uses {
		for _, u := range us[1:] {
			if u.version != us[0].version {
				t.Errorf("%s: %s has %s, %s has %s", path, us[0].dir, us[0].version, u.dir, u.version)
			}
		}
	}
}

// TestDependenciesSayWhy wants a trailing comment on each direct dependency in go.mod. Modules of the repository explain themselves.
func TestDependenciesSayWhy(t *testing.T) {
	for _, m := range modules(t) {
		if m.isTool() {
			continue
		}
		text := read(t, filepath.Join(m.dir, "go.mod"))
		for _, r := range m.Require {
			if r.Indirect || strings.HasPrefix(r.Path, base) {
				continue
			}
			for line := range strings.Lines(text) {
				line = strings.TrimPrefix(strings.TrimSpace(line), "require ")
				if rest, ok := strings.CutPrefix(line, r.Path+" "+r.Version); ok {
					if why, ok := strings.CutPrefix(strings.TrimSpace(rest), "//"); !ok || len(strings.Fields(why)) < 1 {
						t.Errorf("%s/go.mod: say in a trailing comment why %s is there", m.dir, r.Path)
					}
				}
			}
		}
	}
}

// TestEachModuleBuildsAlone builds every module without the workspace, and holds that its go.mod and go.sum are tidy.
func TestEachModuleBuildsAlone(t *testing.T) {
	for _, m := range modules(t) {
		if m.isTool() {
			continue
		}
		t.Run(m.dir, func(t *testing.T) {
			alone := []string{"GOWORK=off"}
			if out, err := run(t, m.dir, alone, "go", "build", "./..."); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if out, err := run(t, m.dir, alone, "go", "mod", "tidy", "-diff"); err != nil {
				t.Errorf("go mod tidy would change it: %v\n%s", err, out)
			}
		})
	}
}
