package marketplace

import (
	"testing"
	"time"
)

// TestOrderListIsBounded adds orders of every size: the list keeps the newest, in order, and its memory stays within what is promised.
func TestOrderListIsBounded(t *testing.T) {
	for _, size := range []int{10, 4 << 10, listedBytes + 1} {
		var l orderList
		n := min(3*rememberedOrders, 40*listedBytes/size)
		longest := 0
		line := make([]byte, size)
		for i := range n {
			l.add(time.Time{}, time.Time{}, report{path: ordersPath, line: line})
			if i%61 > 0 && i < n-1 {
				continue
			}
			sum := 0
			for i := range l.changes {
				sum += len(l.changes[i].report.line)
			}
			if sum != l.size {
				t.Fatalf("%d bytes are listed, and counted as %d", sum, l.size)
			}
			if longest = max(longest, len(l.changes)); len(l.changes) > 2*rememberedOrders || sum > 2*listedBytes+size {
				t.Fatalf("%d orders of %d bytes are listed", len(l.changes), size)
			}
		}
		if last := l.changes[len(l.changes)-1].seq; last != int64(n) || l.changes[0].seq != last-int64(len(l.changes))+1 {
			t.Errorf("orders %d to %d of %d are listed, in %d places", l.changes[0].seq, last, n, len(l.changes))
		}
		if want := min(n, rememberedOrders, listedBytes/size); longest < want {
			t.Errorf("at most %d orders of %d bytes were listed; want %d", longest, size, want)
		}
	}
}
