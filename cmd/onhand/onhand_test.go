package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/onhand/onhand/embedded/clickhouse"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"onhand": main})
}

// TestScripts runs the command as its users do: messages, files and exit statuses.
func TestScripts(t *testing.T) {
	library, err := clickhouse.Find("", "")
	if err != nil {
		t.Fatal(err)
	}
	if library, err = filepath.Abs(library); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv(clickhouse.LibraryEnv, library)
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// taken NAME: holds a port of loopback until the script ends, and sets NAME to it.
			"taken": func(ts *testscript.TestScript, _ bool, args []string) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				ts.Check(err)
				ts.Defer(func() { _ = l.Close() })
				ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
			},
			// mode FILE OCTAL: checks the permissions of a file.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[0]))
				ts.Check(err)
				if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
					ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
				}
			},
		},
	})
}
