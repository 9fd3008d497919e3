package micro

import "testing"

func TestRead(t *testing.T) {
	out := `goos: linux
BenchmarkFold/hot-2   	  100	  210.0 ns/op	 4700000 events/s	   0 B/op	 0 allocs/op
BenchmarkFold/hot-2   	  100	  190.0 ns/op	 5200000 events/s	   0 B/op	 0 allocs/op
BenchmarkFold/hot-2   	  100	  200.0 ns/op	 5000000 events/s	   0 B/op	 0 allocs/op
PASS
`
	got, err := read([]byte(out))
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v: want one benchmark", got, err)
	}
	f := got[0]
	if f.Name != "Fold/hot" || f.Runs != 3 || f.Median["ns/op"] != 200 || f.Median["events/s"] != 5_000_000 || f.Spread["ns/op"] != 0.1 {
		t.Errorf("%+v", f)
	}
	if text, want := show(f), "200 ns/op ±5%, 5,000,000 events/s ±5%, 0 B/op, 0 allocs/op"; text != want {
		t.Errorf("shown as %q, want %q", text, want)
	}
	if _, err := read([]byte("BenchmarkX-2 10 many ns/op\n")); err == nil {
		t.Error("a value that is no number was read")
	}
}
