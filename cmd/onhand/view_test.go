package main

import (
	"strings"
	"testing"

	"github.com/onhand/onhand/allinone/figures"
)

// A write that moves room has no sale that waited for it, and so no latency.
func TestBoardTellsLatencyOfSalesAlone(t *testing.T) {
	m := &board{now: figures.Figures{Pushes: []figures.Push{{Channel: "web", SKU: "A", Quantity: 3, Millis: 12.5, Outcome: "applied"}, {Channel: "fair", SKU: "B", Quantity: 4, Outcome: "applied"}}}, width: 120, height: 40}
	var sold, moved string
	for line := range strings.Lines(m.draw()) {
		if strings.Contains(line, "web ") {
			sold = line
		}
		if strings.Contains(line, "fair ") {
			moved = line
		}
	}
	if !strings.Contains(sold, "12.5 ms") || strings.Contains(moved, "ms") || !strings.Contains(moved, "–  applied") {
		t.Errorf("%q\n%q", sold, moved)
	}
}
