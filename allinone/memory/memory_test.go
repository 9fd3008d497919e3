package memory

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestLimit(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct{ live, rest, want int64 }{{0, 0, 450}, {300, 50, 450}, {400, 50, 550}, {450, 10, 572}, {500, 50, 775}, {550, 50, 937}, {4000, 100, 8100}, {400, -1, 500}} {
		if got := limit(450*mb, c.live*mb, c.rest*mb); got/mb != c.want {
			t.Errorf("%d MB live: limit %d MB, want %d", c.live, got/mb, c.want)
		}
	}
}

// What lives above the floor has room beside it.
func TestLimitFollows(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	m := New(1 << 20)
	held := make([]byte, 64<<20)
	runtime.GC()
	m.adjust()
	if got := debug.SetMemoryLimit(-1); got < 80<<20 {
		t.Errorf("limit %d with 64 MB that live", got)
	}
	runtime.KeepAlive(held)
	if before := m.Set(1 << 40); before != 1<<20 || debug.SetMemoryLimit(-1) != 1<<40 {
		t.Errorf("floor before %d, limit %d", before, debug.SetMemoryLimit(-1))
	}
}

// Whoever sets the limit in the environment keeps it.
func TestLimitOfTheEnvironment(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "3GiB")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	debug.SetMemoryLimit(3 << 30)
	New(1 << 20).Set(2 << 20)
	if got := debug.SetMemoryLimit(-1); got != 3<<30 {
		t.Errorf("limit %d", got)
	}
}
