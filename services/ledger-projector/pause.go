package ledgerprojector

import (
	"context"
	"math/rand/v2"
	"time"
)

// pause grows with each wait, up to two seconds, with jitter so that partitions do not come back all at once.
type pause struct{ n int }

// wait returns false when ctx ended first.
func (p *pause) wait(ctx context.Context) bool {
	d := min(20*time.Millisecond<<min(p.n, 10), 2*time.Second)
	p.n++
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
