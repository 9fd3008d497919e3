package analytics

import (
	"testing"
)

func TestAllRowsArriveOnce(t *testing.T) {
	w := newWorld(t)
	w.produce(w.sales(0, 5000)...)
	s := w.start()
	w.caughtUp(s)
	w.exactly("stock_events", 5000)
	w.produce(w.sales(5000, 6000)...)
	w.caughtUp(s)
	w.exactly("stock_events", 6000)
	s.stop()
	s = w.start()
	w.produce(w.sales(6000, 6100)...)
	w.caughtUp(s)
	w.exactly("stock_events", 6100)
}
