package allocation_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/allocation"
)

// served says whether every channel can be served what it holds: a maximum flow from channels to places, unit by unit.
func served(need []units, scopes [][]bool, stock []units) bool {
	left := append([]units(nil), stock...)
	given := make([][]units, len(need)) // by channel and place
	for i := range need {
		given[i] = make([]units, len(stock))
	}
	var find func(i int, seen []bool) bool
	find = func(i int, seen []bool) bool {
		for p := range stock {
			if !scopes[i][p] || seen[p] {
				continue
			}
			seen[p] = true
			if left[p] > 0 {
				left[p]--
				given[i][p]++
				return true
			}
			for j := range need { // somebody else served from there may find another place
				if j != i && given[j][p] > 0 && find(j, seen) {
					given[j][p]--
					given[i][p]++
					return true
				}
			}
		}
		return false
	}
	for i := range need {
		for range need[i] {
			if !find(i, make([]bool, len(stock))) {
				return false
			}
		}
	}
	return true
}

// TestRoomIsWhatAFlowAllows: room is exactly by how much what a channel holds may grow before somebody could not be served.
func TestRoomIsWhatAFlowAllows(t *testing.T) {
	var s allocation.Solver
	rapid.Check(t, func(t *rapid.T) {
		n, places := rapid.IntRange(1, 5).Draw(t, "channels"), rapid.IntRange(1, 4).Draw(t, "places")
		in := &allocation.Input{Rules: &allocation.Rules{Channels: make([]allocation.ChannelRules, n)}}
		var sellers []allocation.Seller
		var ps []allocation.Place
		stock := make([]units, places)
		for p := range places {
			id := string(rune('P' + p))
			stock[p] = units(rapid.IntRange(0, 5).Draw(t, "stock"))
			ps = append(ps, allocation.Place{ID: id})
			in.Stock = append(in.Stock, allocation.Stock{Place: p, ID: id, Available: stock[p]})
		}
		scopes := make([][]bool, n)
		for i := range n {
			seller := allocation.Seller{ID: string(rune('a' + i))}
			scopes[i] = make([]bool, places)
			for p := range places {
				if rapid.Bool().Draw(t, "serves") {
					scopes[i][p] = true
					seller.Scope = append(seller.Scope, ps[p].ID)
				}
			}
			if len(seller.Scope) == 0 {
				scopes[i][0], seller.Scope = true, []string{ps[0].ID}
			}
			sellers = append(sellers, seller)
			in.Channels = append(in.Channels, allocation.Listed{Seller: i})
		}
		in.Layout = allocation.NewLayout(sellers, ps)
		s.Load(in)
		held := make([]units, n)
		for range rapid.IntRange(0, 12).Draw(t, "grants") {
			i := rapid.IntRange(0, n-1).Draw(t, "channel")
			if s.Room(i) > 0 {
				k := units(rapid.IntRange(1, int(s.Room(i))).Draw(t, "units"))
				s.Hold(i, k)
				held[i] += k
			}
		}
		if !served(held, scopes, stock) {
			t.Fatalf("%v cannot be served from %v in %v", held, stock, scopes)
		}
		for i := range n {
			room := s.Room(i)
			held[i] += room
			if !served(held, scopes, stock) {
				t.Errorf("channel %d has room %d, and cannot be served: %v from %v in %v", i, room, held, stock, scopes)
			}
			held[i]++
			if served(held, scopes, stock) {
				t.Errorf("channel %d has room %d, and could be served more: %v from %v in %v", i, room, held, stock, scopes)
			}
			held[i] -= room + 1
		}
	})
}

// TestFloorIsShownWithNothingThere in every mode, unless the channel is paused, and is explained.
func TestFloorIsShownWithNothingThere(t *testing.T) {
	var s allocation.Solver
	for mode := allocation.Pooled; mode <= allocation.Fair; mode++ {
		for _, available := range []units{-3, 0, 2, 9} {
			in := &allocation.Input{
				Layout: allocation.NewLayout([]allocation.Seller{{ID: "a"}, {ID: "b"}, {ID: "c"}}, []allocation.Place{{ID: "W"}}), Stock: []allocation.Stock{{ID: "W", Available: available}},
				Channels: []allocation.Listed{{Seller: 0}, {Seller: 1}, {Seller: 2, Paused: true}},
				Rules:    &allocation.Rules{Mode: mode, Channels: []allocation.ChannelRules{{Floor: set(4, "mto"), HideAt: set(1, "hide")}, {}, {Floor: set(4, "mto")}}},
			}
			s.Solve(in)
			if got := s.Target(0); got < 4 || got > max(4, available) {
				t.Errorf("%v with %d: shows %d; want its floor of 4", mode, available, got)
			}
			if got := s.Target(1); got > max(0, available) || mode != allocation.Pooled && got > max(0, available-4) {
				t.Errorf("%v with %d: the other shows %d", mode, available, got)
			}
			if got := s.Target(2); got != 0 {
				t.Errorf("%v with %d: the paused one shows %d", mode, available, got)
			}
			for i := range 3 {
				if steps := s.Explain(nil, i); steps[len(steps)-1].Units != s.Target(i) {
					t.Errorf("%v with %d: channel %d shows %d, explained as %v", mode, available, i, s.Target(i), steps)
				}
			}
		}
	}
}
