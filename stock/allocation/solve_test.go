package allocation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/allocation"
)

type units = allocation.Units

// sells is one channel of a test.
type sells struct {
	id                    string
	scope                 []string
	prio                  units // its place in the list when 0
	buffer, reserve, hide units
	max, cap, weight      units // not set when 0
	paused, listingPaused bool
}

// problem is one test of the target function, close to how it is written down.
type problem struct {
	mode       allocation.Mode
	rounding   allocation.Rounding
	stock      map[string]units
	buffers    map[string]units // by location
	owners     map[string]string
	poolBuffer units
	unassigned units
	channels   []sells
}

func set(u units, rule string) allocation.Setting {
	return allocation.Setting{Units: u, Set: true, Rule: rule}
}

func some(u units, rule string) allocation.Setting {
	if u == 0 {
		return allocation.Setting{}
	}
	return set(u, rule)
}

// input compiles p, listing channels and stock in the order of turn (a rotation), which must not matter.
func (p *problem) input(turn int) *allocation.Input {
	var sellers []allocation.Seller
	for _, c := range p.channels {
		sellers = append(sellers, allocation.Seller{ID: c.id, Scope: c.scope})
	}
	var places []allocation.Place
	var ids []string
	for id := range p.stock {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		places = append(places, allocation.Place{ID: id, Buffer: p.buffers[id], Owner: p.owners[id]})
	}
	rotate(sellers, turn)
	rotate(places, turn)
	rotate(ids, turn+1)
	l := allocation.NewLayout(sellers, places)
	r := &allocation.Rules{Mode: p.mode, Rounding: p.rounding, PoolBuffer: some(p.poolBuffer, "pool"), Channels: make([]allocation.ChannelRules, len(p.channels))}
	in := &allocation.Input{Layout: l, Rules: r, Unassigned: p.unassigned}
	for i, c := range p.channels {
		at := l.Seller(c.id)
		prio := c.prio
		if prio == 0 {
			prio = units(i + 1)
		}
		r.Channels[at] = allocation.ChannelRules{
			Buffer: some(c.buffer, "buf"), Reserve: some(c.reserve, "res"), HideAt: some(c.hide, "hide"), Max: some(c.max, "max"),
			Cap: some(c.cap, "cap"), Weight: some(c.weight, "weight"), Priority: set(prio, "prio"),
		}
		if c.paused {
			r.Channels[at].Paused = set(1, "stop")
		}
		in.Channels = append(in.Channels, allocation.Listed{Seller: at, Paused: c.listingPaused})
	}
	for _, id := range ids {
		in.Stock = append(in.Stock, allocation.Stock{Place: l.Place(id), ID: id, Available: p.stock[id]})
	}
	rotate(in.Channels, turn)
	return in
}

func rotate[T any](s []T, n int) {
	if len(s) > 0 {
		n %= len(s)
		slices.Reverse(s[:n])
		slices.Reverse(s[n:])
		slices.Reverse(s)
	}
}

// solve is the targets in the order of p's channels.
func (p *problem) solve(s *allocation.Solver) []units { return p.solveTurned(s, 0) }

func (p *problem) solveTurned(s *allocation.Solver, turn int) []units {
	in := p.input(turn)
	s.Solve(in)
	out := make([]units, len(p.channels))
	for i, listed := range in.Channels {
		for j, c := range p.channels {
			if in.Layout.SellerID(listed.Seller) == c.id {
				out[j] = s.Target(i)
			}
		}
	}
	return out
}

// TestVectors is the worked cases of the design: shop, amz, ebay, served in that order unless a priority is given.
func TestVectors(t *testing.T) {
	w1 := func(n units) map[string]units { return map[string]units{"W1": n} }
	two := map[string]units{"W1": 5, "S1": 7}
	for name, tt := range map[string]struct {
		p    problem
		want []units
	}{
		"V1 pooled buffers": {problem{stock: w1(10), poolBuffer: 1, channels: []sells{{id: "shop"}, {id: "amz", buffer: 2}, {id: "ebay", buffer: 2, hide: 1}}}, []units{9, 7, 7}},
		"V2 pooled hide":    {problem{stock: w1(4), poolBuffer: 1, channels: []sells{{id: "shop"}, {id: "amz", buffer: 2}, {id: "ebay", buffer: 2, hide: 1}}}, []units{3, 1, 0}},
		"V3 pooled caps":    {problem{stock: w1(101), channels: []sells{{id: "shop", reserve: 10}, {id: "amz", cap: 3333}, {id: "ebay", cap: 2500, max: 20}}}, []units{101, 33, 20}},
		"V4 waterfall": {problem{mode: allocation.Waterfall, stock: w1(10), channels: []sells{{id: "shop", max: 6}, {id: "amz", reserve: 3}, {id: "ebay", reserve: 2}}},
			[]units{5, 3, 2}},
		"V5 waterfall scarce": {problem{mode: allocation.Waterfall, stock: w1(4), channels: []sells{{id: "shop", max: 6}, {id: "amz", reserve: 3}, {id: "ebay", reserve: 2}}},
			[]units{0, 3, 1}},
		"V6 proportional ties": {problem{mode: allocation.Proportional, stock: w1(10), channels: []sells{{id: "amz", prio: 1}, {id: "ebay", prio: 1}, {id: "shop", prio: 1}}},
			[]units{4, 3, 3}},
		"V7 proportional limits": {problem{mode: allocation.Proportional, stock: w1(100), channels: []sells{
			{id: "amz", weight: 60, cap: 4000}, {id: "shop", weight: 30}, {id: "ebay", weight: 10, max: 5}}}, []units{40, 55, 5}},
		"V8 fair": {problem{mode: allocation.Fair, stock: w1(11), channels: []sells{{id: "shop"}, {id: "amz", max: 2}, {id: "ebay"}}}, []units{5, 2, 4}},
		"V9 hide shares again": {problem{mode: allocation.Proportional, stock: w1(5), channels: []sells{
			{id: "shop", weight: 70}, {id: "amz", weight: 20, hide: 1}, {id: "ebay", weight: 10, hide: 2}}}, []units{5, 0, 0}},
		"V10 exclusive": {problem{mode: allocation.Proportional, stock: map[string]units{"FBA": 40, "W1": 6}, owners: map[string]string{"FBA": "amz_fba"}, poolBuffer: 1,
			channels: []sells{{id: "amz_fba", scope: []string{"FBA"}}, {id: "amz_mfn", weight: 1}, {id: "shop", weight: 2}}}, []units{40, 2, 3}},
		"V11 floor": {problem{stock: map[string]units{"W1": -3, "W2": 2}, poolBuffer: 3, channels: []sells{{id: "shop"}, {id: "amz"}, {id: "ebay"}}}, []units{0, 0, 0}},
		"V12 scope": {problem{mode: allocation.Proportional, stock: two, channels: []sells{{id: "shop"}, {id: "amz", scope: []string{"W1"}}}}, []units{7, 5}},
		"V13 scope waterfall": {problem{mode: allocation.Waterfall, stock: two, poolBuffer: 2, channels: []sells{
			{id: "amz", scope: []string{"W1"}}, {id: "ebay", scope: []string{"W1"}}, {id: "shop"}}}, []units{5, 0, 5}},
		// Beyond the list.
		"multi-channel FBA is shared": {problem{stock: map[string]units{"FBA": 40, "W1": 6}, channels: []sells{{id: "amz"}, {id: "shop"}}}, []units{46, 46}},
		"exclusive stock stays with its channel": {problem{stock: map[string]units{"FBA": 40, "W1": 6}, owners: map[string]string{"FBA": "amz"}, channels: []sells{
			{id: "amz"}, {id: "shop"}, {id: "greedy", scope: []string{"FBA"}}}}, []units{46, 6, 0}},
		"location buffer":                        {problem{stock: two, buffers: map[string]units{"W1": 6, "S1": 1}, channels: []sells{{id: "shop"}}}, []units{6}},
		"pause":                                  {problem{mode: allocation.Fair, stock: w1(9), channels: []sells{{id: "a", paused: true}, {id: "b", listingPaused: true}, {id: "c"}}}, []units{0, 0, 9}},
		"a paused channel reserves nothing":      {problem{stock: w1(9), channels: []sells{{id: "a", paused: true, reserve: 5}, {id: "b"}}}, []units{0, 9}},
		"reserves beyond stock go by priority":   {problem{stock: w1(5), channels: []sells{{id: "a", reserve: 10}, {id: "b", reserve: 10}, {id: "c"}}}, []units{5, 0, 0}},
		"a reserve elsewhere takes nothing here": {problem{stock: two, channels: []sells{{id: "a", scope: []string{"W1"}, reserve: 5}, {id: "b", scope: []string{"S1"}}, {id: "c"}}}, []units{5, 7, 7}},
		"unassigned sales count in every scope":  {problem{stock: two, unassigned: 2, channels: []sells{{id: "a", scope: []string{"W1"}}, {id: "b", scope: []string{"S1"}}, {id: "c"}}}, []units{3, 5, 10}},
		"unassigned sales and promises":          {problem{mode: allocation.Waterfall, stock: two, unassigned: 6, channels: []sells{{id: "a", scope: []string{"W1"}}, {id: "c"}}}, []units{0, 6}},
		"unassigned sales in scopes inside each other": {problem{mode: allocation.Waterfall, stock: map[string]units{"L1": 6, "L2": 1, "L3": 20}, unassigned: 3, channels: []sells{
			{id: "a", scope: []string{"L1"}}, {id: "b", scope: []string{"L1", "L2"}}, {id: "c"}}}, []units{3, 1, 20}},
		"hiding one lets the other show":            {problem{mode: allocation.Fair, stock: w1(6), channels: []sells{{id: "a", hide: 5}, {id: "b", hide: 5}}}, []units{6, 0}},
		"no weight, no share":                       {problem{mode: allocation.Proportional, stock: w1(6), channels: []sells{{id: "a", weight: -1, reserve: 1}, {id: "b"}}}, []units{1, 5}},
		"no stock at all":                           {problem{mode: allocation.Fair, stock: w1(0), channels: []sells{{id: "a"}, {id: "b"}}}, []units{0, 0}},
		"absurd numbers stay bounded":               {problem{mode: allocation.Proportional, stock: map[string]units{"W1": 1 << 62, "W2": 1 << 62}, channels: []sells{{id: "a", weight: 1 << 62}, {id: "b", weight: 1}}}, []units{999_999_000_001, 999_999}},
		"absurd numbers stay bounded, unit by unit": {problem{mode: allocation.Proportional, rounding: allocation.Webster, stock: w1(1 << 62), channels: []sells{{id: "a", weight: 1 << 62}, {id: "b", weight: 1}}}, []units{999_999_000_001, 999_999}},
	} {
		t.Run(name, func(t *testing.T) {
			var s allocation.Solver
			if got := tt.p.solve(&s); !slices.Equal(got, tt.want) {
				t.Errorf("targets %v; want %v", got, tt.want)
			}
		})
	}
}

// TestAlabama is the paradox: with largest remainder one more unit of stock takes one from the lightest channel; unit by unit it does not.
func TestAlabama(t *testing.T) {
	var s allocation.Solver
	at := func(n units, r allocation.Rounding) []units {
		p := problem{mode: allocation.Proportional, rounding: r, stock: map[string]units{"W1": n}, channels: []sells{
			{id: "a", weight: 6}, {id: "b", weight: 6}, {id: "c", weight: 2}}}
		return p.solve(&s)
	}
	for _, tt := range []struct {
		n    units
		r    allocation.Rounding
		want []units
	}{
		{10, allocation.LargestRemainder, []units{4, 4, 2}}, {11, allocation.LargestRemainder, []units{5, 5, 1}},
		{10, allocation.Webster, []units{5, 4, 1}}, {11, allocation.Webster, []units{5, 5, 1}},
	} {
		if got := at(tt.n, tt.r); !slices.Equal(got, tt.want) {
			t.Errorf("%d units by %v: %v; want %v", tt.n, tt.r, got, tt.want)
		}
	}
}

var placeIDs = []string{"L0", "L1", "L2", "L3"}

// genProblem draws a problem of few units, so that the oracle can try everything. With overlap, channels have scopes of their own.
func genProblem(t *rapid.T, modes []allocation.Mode, overlap bool) *problem {
	p := &problem{
		mode: rapid.SampledFrom(modes).Draw(t, "mode"), rounding: allocation.Rounding(rapid.IntRange(0, 1).Draw(t, "rounding")),
		stock: map[string]units{}, buffers: map[string]units{}, poolBuffer: units(rapid.IntRange(0, 3).Draw(t, "pool buffer")),
	}
	if rapid.Bool().Draw(t, "some unassigned") {
		p.unassigned = units(rapid.IntRange(0, 4).Draw(t, "unassigned"))
	}
	for _, id := range placeIDs[:rapid.IntRange(1, len(placeIDs)).Draw(t, "places")] {
		p.stock[id] = units(rapid.IntRange(-2, 9).Draw(t, id))
		p.buffers[id] = units(rapid.IntRange(0, 1).Draw(t, id+" buffer"))
	}
	few := func(label string) units { return units(max(0, rapid.IntRange(-6, 6).Draw(t, label))) }
	for i := range rapid.IntRange(1, 5).Draw(t, "channels") {
		c := sells{id: fmt.Sprintf("c%d", i), prio: units(rapid.IntRange(1, 3).Draw(t, "prio")), buffer: few("buffer"), reserve: few("reserve"), hide: few("hide"),
			max: few("max"), weight: units(rapid.IntRange(1, 7).Draw(t, "weight")), paused: rapid.IntRange(0, 9).Draw(t, "paused") == 0}
		if rapid.Bool().Draw(t, "has cap") {
			c.cap = units(rapid.IntRange(1, 10000).Draw(t, "cap"))
		}
		if overlap {
			c.scope = rapid.SliceOfNDistinct(rapid.SampledFrom(placeIDs), 0, 4, rapid.ID).Draw(t, "scope")
		}
		p.channels = append(p.channels, c)
	}
	return p
}

var (
	promising = []allocation.Mode{allocation.Waterfall, allocation.Proportional, allocation.Fair}
	allModes  = append([]allocation.Mode{allocation.Pooled}, promising...)
)

// a is what location id offers, straight from the definition.
func (p *problem) a(id string) units { return max(0, p.stock[id]-p.buffers[id]) }

func (p *problem) n() units {
	var sum units
	for id := range p.stock {
		sum += p.a(id)
	}
	return max(0, max(0, sum-p.unassigned)-p.poolBuffer)
}

func (c *sells) has(id string) bool { return len(c.scope) == 0 || slices.Contains(c.scope, id) }

func (p *problem) scope(c *sells) units {
	var sum units
	for id := range p.stock {
		if c.has(id) {
			sum += p.a(id)
		}
	}
	return max(0, sum-p.unassigned)
}

// keeps says whether g holds for every subset of channels, one by one, from the definition.
func (p *problem) keeps(g []units) bool {
	var all units
	for _, u := range g {
		all += u
	}
	if all > p.n() {
		return false
	}
	for set := 1; set < 1<<len(g); set++ {
		var need, have units
		for id := range p.stock {
			for i := range g {
				if set&(1<<i) != 0 && p.channels[i].has(id) {
					have += p.a(id)
					break
				}
			}
		}
		for i := range g {
			if set&(1<<i) != 0 {
				need += g[i]
			}
		}
		if need > max(0, have-p.unassigned) {
			return false
		}
	}
	return true
}

// placeable says whether the units of g can be laid on the locations, each on one of its channel's: an augmenting-path search that knows
// nothing of subsets. Unassigned must be 0.
func (p *problem) placeable(g []units) bool {
	var owner [4][]int // by location, the channel of each unit
	var find func(c int, seen map[string]bool) bool
	find = func(c int, seen map[string]bool) bool {
		for at, id := range placeIDs {
			if _, ok := p.stock[id]; !ok || seen[id] || c < len(p.channels) && !p.channels[c].has(id) {
				continue
			}
			seen[id] = true
			if units(len(owner[at])) < p.a(id) {
				owner[at] = append(owner[at], c)
				return true
			}
			for j, other := range owner[at] {
				if find(other, seen) {
					owner[at][j] = c
					return true
				}
			}
		}
		return false
	}
	for c, n := range g {
		for range n {
			if !find(c, map[string]bool{}) {
				return false
			}
		}
	}
	var kept units // the pool buffer may lie anywhere
	for id := range p.stock {
		kept += p.a(id)
	}
	kept -= p.n()
	for range kept {
		if !find(len(p.channels), map[string]bool{}) {
			return false
		}
	}
	return true
}

func (p *problem) limit(c *sells) units {
	if c.paused {
		return 0
	}
	u := min(p.scope(c), p.n()) - c.buffer
	if c.max > 0 {
		u = min(u, c.max)
	}
	if c.cap > 0 {
		u = min(u, p.n()*c.cap/10000)
	}
	return max(0, min(u, p.n()))
}

// oracle divides unit by unit, asking keeps before each: slow and obvious. Shares by largest remainder it does not know.
func (p *problem) oracle() []units {
	order := make([]int, len(p.channels))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(p.channels[a].prio - p.channels[b].prio) }) // ids are in order
	hidden := make([]bool, len(order))
	for {
		g := make([]units, len(order))
		add := func(i int) bool {
			if hidden[i] || g[i] >= p.limit(&p.channels[i]) {
				return false
			}
			g[i]++
			if !p.keeps(g) {
				g[i]--
				return false
			}
			return true
		}
		for _, i := range order {
			for g[i] < p.channels[i].reserve && add(i) {
			}
		}
		if p.mode == allocation.Waterfall {
			for _, i := range order {
				for add(i) {
				}
			}
		} else {
			k := make([]units, len(order))
			weight := func(i int) units {
				if p.mode == allocation.Fair {
					return 1
				}
				return p.channels[i].weight
			}
			for again := true; again; {
				again = false
				try := slices.Clone(order)
				slices.SortStableFunc(try, func(a, b int) int { return int((2*k[a]+1)*weight(b) - (2*k[b]+1)*weight(a)) })
				for _, i := range try {
					if add(i) {
						k[i]++
						again = true
						break
					}
				}
			}
		}
		hide := -1
		for _, i := range order {
			if g[i] > 0 && g[i] <= p.channels[i].hide {
				hide = i
			}
		}
		if hide < 0 {
			return g
		}
		hidden[hide] = true
	}
}

// TestAgainstOracle compares overlapping scopes and unit-by-unit shares with the oracle.
func TestAgainstOracle(t *testing.T) {
	var s allocation.Solver
	rapid.Check(t, func(t *rapid.T) {
		for range 10 { // one is not enough to meet the rare shapes
			p := genProblem(t, promising, rapid.Bool().Draw(t, "overlap"))
			p.rounding = allocation.Webster
			if got, want := p.solve(&s), p.oracle(); !slices.Equal(got, want) {
				t.Fatalf("%v: targets %v; want %v", p.mode, got, want)
			}
		}
	})
}

// TestPooledAgainstDefinition computes the pooled formula with overlapping scopes from subsets of channels.
func TestPooledAgainstDefinition(t *testing.T) {
	var s allocation.Solver
	rapid.Check(t, func(t *rapid.T) {
		p := genProblem(t, []allocation.Mode{allocation.Pooled}, true)
		order := make([]int, len(p.channels))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(p.channels[a].prio - p.channels[b].prio) })
		m := make([]units, len(order)) // reserves in force
		most := func(i int) units {
			for m[i]++; p.keeps(m); m[i]++ {
			}
			m[i]--
			return m[i]
		}
		for _, i := range order {
			if c := &p.channels[i]; !c.paused {
				m[i] = min(c.reserve, most(i))
			}
		}
		want := make([]units, len(order))
		for i := range p.channels {
			c := &p.channels[i]
			own := m[i]
			m[i] = 0
			want[i] = max(0, min(p.limit(c), most(i)-c.buffer))
			m[i] = own
			if want[i] <= c.hide {
				want[i] = 0
			}
		}
		if got := p.solve(&s); !slices.Equal(got, want) {
			t.Errorf("targets %v; want %v", got, want)
		}
	})
}

// TestLaws holds in every mode, rounding and scope.
func TestLaws(t *testing.T) {
	var s, other allocation.Solver
	rapid.Check(t, func(t *rapid.T) {
		p := genProblem(t, allModes, rapid.Bool().Draw(t, "overlap"))
		got := p.solve(&s)
		for i := range p.channels {
			c := &p.channels[i]
			if got[i] < 0 || got[i] > p.limit(c) || got[i] > 0 && got[i] <= c.hide {
				t.Errorf("%s shows %d; its limit is %d, it hides at %d", c.id, got[i], p.limit(c), c.hide)
			}
			if p.mode == allocation.Pooled {
				continue
			}
			if r := min(c.reserve, p.limit(c)); got[i] < r && c.hide == 0 && p.roomFor(got, i) {
				t.Errorf("%s shows %d, less than its reserve of %d, and there is room: %v", c.id, got[i], r, got)
			}
		}
		if p.mode != allocation.Pooled {
			if !p.keeps(got) {
				t.Errorf("%v promises more than there is", got)
			}
			if p.unassigned == 0 && !p.placeable(got) {
				t.Errorf("%v cannot be laid on the locations", got)
			}
		}
		turn := rapid.IntRange(1, 4).Draw(t, "turn")
		if again := p.solveTurned(&other, turn); !slices.Equal(got, again) {
			t.Errorf("the order of input changed %v to %v", got, again)
		}
		in := p.input(turn) // the derivation ends at the target, and only its last step may rise (a channel's own locations)
		other.Solve(in)
		for i := range in.Channels {
			steps := other.Explain(nil, i)
			if last := steps[len(steps)-1].Units; last != other.Target(i) {
				t.Errorf("the derivation %+v ends at %d; the target is %d", steps, last, other.Target(i))
			}
			for j := 1; j < len(steps); j++ {
				if steps[j].Units > steps[j-1].Units {
					t.Errorf("step %d of %+v rises", j, steps)
				}
			}
		}
	})
}

func (p *problem) roomFor(g []units, i int) bool {
	h := slices.Clone(g)
	h[i]++
	return p.keeps(h)
}

// TestMoreStockNeverLowersATarget holds where it is claimed: pooled without reserves, waterfall in one scope, and shares unit by unit in one scope; all without hiding,
// and with limits that do not move with stock.
func TestMoreStockNeverLowersATarget(t *testing.T) {
	var s allocation.Solver
	rapid.Check(t, func(t *rapid.T) {
		p := genProblem(t, promising, false)
		p.rounding = allocation.Webster
		pooled := rapid.Bool().Draw(t, "pooled")
		if pooled {
			p.mode = allocation.Pooled
		}
		for i := range p.channels {
			c := &p.channels[i]
			c.hide, c.reserve, c.buffer = 0, 0, 0
			if !pooled {
				c.cap = 0
			}
		}
		before := p.solve(&s)
		p.stock["L0"] += units(rapid.IntRange(1, 5).Draw(t, "more"))
		after := p.solve(&s)
		for i := range before {
			if after[i] < before[i] {
				t.Fatalf("%v: more stock turned %v into %v", p.mode, before, after)
			}
		}
	})
}

// TestManyScopes is a shop that serves from all stores, and a till in each: solved exactly, with all that there is promised; and with so many stores that it is
// not, when what is promised can still be laid on the locations.
func TestManyScopes(t *testing.T) {
	var s allocation.Solver
	rapid.Check(t, func(t *rapid.T) {
		p := &problem{mode: rapid.SampledFrom(promising).Draw(t, "mode"), stock: map[string]units{}}
		p.channels = append(p.channels, sells{id: "shop", prio: units(rapid.IntRange(1, 2).Draw(t, "prio"))})
		stores := rapid.SampledFrom([]int{20, 70}).Draw(t, "stores")
		var all units
		for i := range stores {
			id := fmt.Sprintf("S%02d", i)
			p.stock[id] = units(rapid.IntRange(1, 3).Draw(t, id))
			all += p.stock[id]
			p.channels = append(p.channels, sells{id: "pos" + id, scope: []string{id}, prio: 1, reserve: units(rapid.IntRange(0, 2).Draw(t, "reserve"))})
		}
		g := p.solve(&s)
		left, promised := g[0], g[0] // each till draws on its own store, the shop on what is left
		for i := range stores {
			free := p.stock[fmt.Sprintf("S%02d", i)] - g[i+1]
			if free < 0 {
				t.Fatalf("till %d was promised more than its store has", i)
			}
			left -= free
			promised += g[i+1]
		}
		if left > 0 {
			t.Fatalf("%d units promised beyond what there is: %v", left, g)
		}
		if stores == 20 && promised != all {
			t.Fatalf("%d of %d units promised", promised, all)
		}
	})
}

// TestEntangledScopes has so many overlapping scopes that their unions are not all looked at: what is promised stays within every pair's stock.
func TestEntangledScopes(t *testing.T) {
	var s allocation.Solver
	rapid.Check(t, func(t *rapid.T) {
		p := &problem{mode: rapid.SampledFrom(promising).Draw(t, "mode"), stock: map[string]units{}}
		const n = 16
		id := func(i int) string { return fmt.Sprintf("L%02d", i%n) }
		for i := range n {
			p.stock[id(i)] = units(rapid.IntRange(1, 4).Draw(t, id(i)))
			p.channels = append(p.channels, sells{id: fmt.Sprintf("c%02d", i), scope: []string{id(0), id(i + 1), id(i + 2)}, prio: 1})
		}
		g := p.solve(&s)
		for set := 1; set < 1<<n; set = set*3 + 1 { // a sample of the subsets
			var need, have units
			for l := range n {
				for i := range n {
					if set&(1<<i) != 0 && p.channels[i].has(id(l)) {
						have += p.stock[id(l)]
						break
					}
				}
			}
			for i := range n {
				if set&(1<<i) != 0 {
					need += g[i]
				}
			}
			if need > have {
				t.Fatalf("set %x: %d promised of %d", set, need, have)
			}
		}
	})
}

// TestExplanation is the text that people read.
func TestExplanation(t *testing.T) {
	for name, tt := range map[string]struct {
		p    problem
		want []string // by channel
	}{
		"pooled": {
			problem{stock: map[string]units{"W1": 101, "S1": -3, "FBA": 7}, owners: map[string]string{"FBA": "amz"}, buffers: map[string]units{"W1": 2}, poolBuffer: 1, unassigned: 4, channels: []sells{
				{id: "amz", cap: 3333}, {id: "shop", reserve: 10}, {id: "ebay", buffer: 2, max: 200, hide: 99}, {id: "till", paused: true}}},
			[]string{
				"available 101 (S1 -3, W1 101) | location_buffer 99 (W1 keeps 2) | unassigned 95 (4 sold, with no location yet) | pool_buffer 94 (pool: 1 kept off all channels) | " +
					"cap 31 (cap: 33.33 % of 94) | reserve 31 (10 reserved for other channels) | exclusive 38 (7 in its own locations, outside the rules)",
				"available 101 (S1 -3, W1 101) | location_buffer 99 (W1 keeps 2) | unassigned 95 (4 sold, with no location yet) | pool_buffer 94 (pool: 1 kept off all channels)",
				"available 101 (S1 -3, W1 101) | location_buffer 99 (W1 keeps 2) | unassigned 95 (4 sold, with no location yet) | pool_buffer 94 (pool: 1 kept off all channels) | " +
					"buffer 92 (buf: 2 held back) | max 92 (max: at most 200) | reserve 82 (10 reserved for other channels) | hide 0 (hide: hidden, as it is not more than 99)",
				"available 101 (S1 -3, W1 101) | location_buffer 99 (W1 keeps 2) | unassigned 95 (4 sold, with no location yet) | pool_buffer 94 (pool: 1 kept off all channels) | pause 0 (stop: the channel is paused)",
			}},
		"waterfall": {
			problem{mode: allocation.Waterfall, stock: map[string]units{"W1": 10}, channels: []sells{{id: "shop", max: 6}, {id: "amz", reserve: 3}, {id: "ebay", reserve: 2, listingPaused: true}}},
			[]string{
				"available 10 (W1 10) | max 6 (max: at most 6) | priority 6 (prio: priority 1, 1 of 3 in 10)",
				"available 10 (W1 10) | priority 4 (res: reserve 3; prio: priority 2, 2 of 3 in 10)",
				"available 10 (W1 10) | pause 0 (the listing is paused)",
			}},
		"shares": {
			problem{mode: allocation.Proportional, stock: map[string]units{"W1": 5}, channels: []sells{{id: "shop", weight: 70}, {id: "amz", weight: 20, hide: 1}}},
			[]string{
				"available 5 (W1 5) | share 5 (weight: weight 70 of 90 in 5)",
				"available 5 (W1 5) | share 1 (weight: weight 20 of 90 in 5) | hide 0 (hide: hidden, as it is not more than 1)",
			}},
	} {
		t.Run(name, func(t *testing.T) {
			var s allocation.Solver
			in := tt.p.input(0)
			slices.SortFunc(in.Stock, func(a, b allocation.Stock) int { return strings.Compare(a.ID, b.ID) })
			s.Solve(in)
			for i, want := range tt.want {
				var got []string
				for _, st := range s.Explain(nil, i) {
					got = append(got, fmt.Sprintf("%s %d (%s)", st.Name, st.Units, st.Detail))
				}
				if got := strings.Join(got, " | "); got != want {
					t.Errorf("%s:\n got %s\nwant %s", tt.p.channels[i].id, got, want)
				}
			}
		})
	}
}

// BenchmarkSolve is one SKU on 12 channels: without explanations, as for a level that changes nothing, and with them.
func BenchmarkSolve(b *testing.B) {
	for _, mode := range allModes {
		for _, scopes := range []int{1, 3, 12} {
			p := problem{mode: mode, stock: map[string]units{}, poolBuffer: 2}
			for i := range 12 {
				p.stock[fmt.Sprintf("L%02d", i)] = units(20 + i)
				c := sells{id: fmt.Sprintf("c%02d", i), buffer: units(i % 3), weight: units(i + 1), cap: 9000, reserve: units(i % 2)}
				if scopes > 1 && i%scopes > 0 {
					for j := range i%scopes + 1 {
						c.scope = append(c.scope, fmt.Sprintf("L%02d", j))
					}
				}
				p.channels = append(p.channels, c)
			}
			in := p.input(0)
			for _, explain := range []bool{false, true} {
				b.Run(fmt.Sprintf("%v/scopes=%d/explain=%v", mode, scopes, explain), func(b *testing.B) {
					var s allocation.Solver
					steps := make([]allocation.Step, 0, 256)
					b.ReportAllocs()
					for b.Loop() {
						s.Solve(in)
						if explain {
							steps = steps[:0]
							for i := range in.Channels {
								steps = s.Explain(steps, i)
							}
						}
					}
					b.ReportMetric(float64(b.N)*float64(len(in.Channels))/b.Elapsed().Seconds(), "targets/s")
				})
			}
		}
	}
}
