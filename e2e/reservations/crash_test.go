package reservations

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onhand/onhand/services/ingest"
)

// TestInstancesDieInTheMiddle stops instances of the API again and again while callers reserve two SKUs at once, so that reservations are left at every step. In
// the end each is held whole, or not at all, and all that was answered as held is.
func TestInstancesDieInTheMiddle(t *testing.T) {
	g := start(t)
	hasty := func(c *ingest.Config) {
		c.ReservationTimeout, c.Drain, c.AckTimeout = 2*time.Second, time.Millisecond, time.Second
	}
	a := g.api(hasty)
	const pairs, units = 6, 200
	for i := range pairs {
		a.receive(fmt.Sprint("L", i), units)
		a.receive(fmt.Sprint("R", i), units)
	}
	promised := make(map[string]bool)
	var mu sync.Mutex
	n := 0
	for life := range 6 {
		before := len(promised)
		var wg sync.WaitGroup
		var stopped atomic.Bool
		for c := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(life), uint64(c)))
				for !stopped.Load() {
					mu.Lock()
					n++
					id := fmt.Sprint("r-", n)
					mu.Unlock()
					status, _ := a.call(http.MethodPost, "/v1/reservations", request(id, item{fmt.Sprint("L", rng.IntN(pairs)), 1}, item{fmt.Sprint("R", rng.IntN(pairs)), 1}))
					if status == 201 {
						mu.Lock()
						promised[id] = true
						mu.Unlock()
					}
				}
			})
		}
		enough := before + 1 + rand.IntN(30) // somewhere in the middle: where does not matter
		g.eventually("some are answered", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(promised) >= enough
		})
		a.stop()
		stopped.Store(true)
		wg.Wait()
		a = g.api(hasty)
	}
	held := 0
	g.eventually("everything is decided", func() bool {
		held = 0
		for i := range n {
			status, x := a.call(http.MethodGet, fmt.Sprint("/v1/reservations/r-", i+1), nil)
			if status == 404 {
				continue // its request never reached the log
			}
			if x.State == "tentative" {
				return false
			}
			if x.State == "held" {
				held++
			}
		}
		return true
	})
	for id := range promised {
		if _, x := a.call(http.MethodGet, "/v1/reservations/"+id, nil); x.State != "held" || len(x.Items) != 2 {
			t.Errorf("%s was promised and is %+v", id, x)
		}
	}
	// The shelves have what the reservations say: no part of any other is left.
	total := func() (left int64) {
		for i := range pairs {
			left += g.available(fmt.Sprint("L", i)) + g.available(fmt.Sprint("R", i))
		}
		return left
	}
	g.eventually("the owners have given back what nobody confirmed", func() bool { return total() == 2*pairs*units-int64(2*held) })
	left := int64(0)
	for _, l := range g.fold() {
		left += int64(l.Available())
	}
	if left != total() {
		t.Errorf("the log leaves %d, Redis %d", left, total())
	}
	t.Logf("%d asked for, %d promised, %d held", n, len(promised), held)
	if len(promised) == 0 || len(promised) == n {
		t.Error("nothing was interrupted, or everything")
	}
}
