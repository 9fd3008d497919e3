package registry_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/embedded/registry"
)

func start(t *testing.T, dir string) (*registry.Registry, *sr.Client) {
	t.Helper()
	r, err := registry.Start(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	c, err := sr.NewClient(sr.URLs(r.URL()))
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

func schema(message string) sr.Schema {
	return sr.Schema{Type: sr.TypeProtobuf, Schema: "syntax = \"proto3\";\nmessage " + message + " { string sku = 1; }\n"}
}

func register(t *testing.T, c *sr.Client, subject string, s sr.Schema) int {
	t.Helper()
	out, err := c.CreateSchema(context.Background(), subject, s)
	if err != nil {
		t.Fatal(err)
	}
	return out.ID
}

// TestIDsAreForEver holds that each id names the same schema after restarts, in
// whatever order clients register afterwards, and after a crash in mid-write.
func TestIDsAreForEver(t *testing.T) {
	dir := t.TempDir()
	r, c := start(t, dir)
	ids := map[string]int{}
	for i := range 8 {
		name := fmt.Sprintf("M%d", i)
		ids[name] = register(t, c, name+"-value", schema(name))
	}
	if _, err := c.DeleteSubject(t.Context(), "M3-value", sr.SoftDelete); err != nil {
		t.Fatal(err)
	}
	ids["New"] = register(t, c, "New-value", schema("New"))
	file := filepath.Join(dir, "schemas.jsonl")
	for round := range 3 {
		r.Stop()
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(before, `{"method":"POST","pa`...), 0o644); err != nil {
			t.Fatal(err)
		}
		r, c = start(t, dir)
		for i := 7; i >= 0; i-- { // another order
			if name := fmt.Sprintf("M%d", i); name != "M3" && register(t, c, name+"-value", schema(name)) != ids[name] {
				t.Errorf("round %d: %s has another id", round, name)
			}
		}
		for name, id := range ids {
			s, err := c.SchemaByID(t.Context(), id)
			if err != nil || !strings.Contains(s.Schema, "message "+name+" ") {
				t.Errorf("round %d: id %d is %q, %v; want %s", round, id, s.Schema, err, name)
			}
		}
		fresh := fmt.Sprintf("Fresh%d", round)
		id := register(t, c, fresh, schema(fresh))
		for name, other := range ids {
			if id == other {
				t.Errorf("round %d: a new schema got %s's id", round, name)
			}
		}
		ids[fresh] = id
	}
	after, err := os.ReadFile(file)
	if lines := strings.Count(string(after), "\n"); err != nil || lines > 8+2+3+8 {
		t.Errorf("the journal grows with each start: %d lines, %v", lines, err)
	}
}

// TestDamage holds that a registry whose content was changed does not start with
// other ids.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	r, c := start(t, dir)
	register(t, c, "a", schema("A"))
	register(t, c, "b", schema("B"))
	r.Stop()
	file := filepath.Join(dir, "schemas.jsonl")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, second, _ := strings.Cut(string(raw), "\n")
	if err := os.WriteFile(file, []byte(second), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Start(dir, 0); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a damaged file: %v", err)
	}
}
