package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	for name, tt := range map[string]struct {
		events         string
		passed, failed int
		want           []string
		wantNot        string
	}{
		"passing tests are counted, their output is not shown": {
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Elapsed":1.25}`,
			passed: 1, want: []string{"ok  \tp\t1.2s\t1 passed"}, wantNot: "chatter",
		},
		"a failing test is shown whole": {
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			failed: 1, want: []string{"got 1, want 2", "FAIL\tp"},
		},
		"a test cut short by a panic fails, and so does its package": {
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"panic: boom\n"}
{"Action":"fail","Package":"p"}`,
			passed: 1, failed: 1, want: []string{"TestB did not finish", "panic: boom"},
		},
		"a package that fails with no failing test counts once": {
			events: `{"Action":"output","Package":"p","Output":"exit status 2\n"}
{"Action":"fail","Package":"p"}`,
			failed: 1, want: []string{"exit status 2"},
		},
		"a build fault is shown": {
			events: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"x.go:1: undefined: y\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
			failed: 1, want: []string{"undefined: y", "does not build"},
		},
		"a skipped test is a failure": {
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`,
			failed: 1, want: []string{"SKIP"},
		},
		"a package without tests is silent": {
			events: `{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p"}`,
			wantNot: "p",
		},
		"lines that are no event are passed on": {events: "go: something broke\n", want: []string{"something broke"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			s := newSummary(&out)
			if err := s.read(strings.NewReader(tt.events)); err != nil {
				t.Fatal(err)
			}
			if passed, failed := s.total(); passed != tt.passed || failed != tt.failed {
				t.Errorf("total = %d passed, %d failed; want %d, %d\n%s", passed, failed, tt.passed, tt.failed, out.String())
			}
			for _, w := range tt.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("output lacks %q:\n%s", w, out.String())
				}
			}
			if tt.wantNot != "" && strings.Contains(out.String(), tt.wantNot) {
				t.Errorf("output holds %q:\n%s", tt.wantNot, out.String())
			}
		})
	}
}
