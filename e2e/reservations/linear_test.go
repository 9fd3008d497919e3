package reservations

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The sequential object that reservations of one SKU must look like, whatever runs at once: units that are held by name.
type (
	shelf struct {
		left int64
		by   map[string]int64 // reservation: units held; 0 when it was refused or given back
	}
	op struct {
		sku, what, id string // reserve, release, read
		units         int64
	}
	result struct {
		held bool  // of reserve
		left int64 // of read
	}
)

func model(stock int64) porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			by := make(map[string][]porcupine.Operation)
			for _, o := range history {
				sku := o.Input.(op).sku
				by[sku] = append(by[sku], o)
			}
			var out [][]porcupine.Operation
			for _, h := range by {
				out = append(out, h)
			}
			return out
		},
		Init: func() any { return shelf{left: stock} },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(shelf), input.(op), output.(result)
			switch in.what {
			case "read":
				return out.left == s.left, s
			case "release":
				n := shelf{s.left + s.by[in.id], maps.Clone(s.by)}
				n.by[in.id] = 0
				return true, n
			}
			if _, again := s.by[in.id]; again {
				return false, s // each is asked for once
			}
			n := shelf{s.left, maps.Clone(s.by)}
			if n.by == nil {
				n.by = make(map[string]int64)
			}
			granted := s.left >= in.units
			if n.by[in.id] = 0; granted {
				n.left -= in.units
				n.by[in.id] = in.units
			}
			return out.held == granted, n
		},
		Equal: func(a, b any) bool {
			x, y := a.(shelf), b.(shelf)
			return x.left == y.left && maps.Equal(x.by, y.by)
		},
	}
}

// TestHistoriesAreLinearizable has callers of two instances reserve, release and read the same few SKUs at once, and asks Porcupine whether what they saw can be
// put in an order in which each sees all before it.
func TestHistoriesAreLinearizable(t *testing.T) {
	const stock, skus, callers, rounds = 5, 3, 8, 40
	g := start(t)
	apis := []*api{g.api(), g.api()}
	for i := range skus {
		apis[0].receive(fmt.Sprint("L", i), stock)
	}
	var mu sync.Mutex
	var history []porcupine.Operation
	began := time.Now()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(c)))
			a := apis[c%2]
			held := map[string][]string{}
			for i := range rounds {
				in := op{sku: fmt.Sprint("L", rng.IntN(skus)), units: 1 + rng.Int64N(2), id: fmt.Sprintf("c%d-%d", c, i), what: "reserve"}
				mine := held[in.sku]
				switch n := rng.IntN(10); {
				case n < 2:
					in.what = "read"
				case n < 6 && len(mine) > 0:
					in.what, in.id = "release", mine[0]
				}
				call := time.Since(began)
				var out result
				switch in.what {
				case "read":
					out.left = g.available(in.sku)
				case "release":
					status, x := a.call(http.MethodDelete, "/v1/reservations/"+in.id, nil)
					if status != 200 || x.State != "released" {
						t.Errorf("release: %d %+v", status, x)
					}
					held[in.sku] = mine[1:]
				default:
					status, x := a.call(http.MethodPost, "/v1/reservations", request(in.id, item{in.sku, in.units}))
					if out.held = status == 201; out.held {
						held[in.sku] = append(mine, in.id)
					} else if x.State != "refused" {
						t.Errorf("reserve: %d %+v", status, x)
					}
				}
				back := time.Since(began)
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: c, Input: in, Output: out, Call: int64(call), Return: int64(back)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got := porcupine.CheckOperationsTimeout(model(stock), history, 30*time.Second); got != porcupine.Ok {
		t.Errorf("the history of %d operations is %s", len(history), got)
	}
}
