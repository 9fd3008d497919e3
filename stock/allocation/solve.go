package allocation

import (
	"math/bits"
)

// Stock is what is available of a SKU at one place. Negative is an oversell there: the place then has nothing to show.
type Stock struct {
	Place     int // the layout's number; negative when the layout does not know the place, and then it counts for nothing
	ID        string
	Available Units // on hand − committed − held − safety
}

// Listed is one channel that lists the SKU.
type Listed struct {
	Seller int  // the layout's number
	Paused bool // the listing is paused: the channel shows nothing
}

// Input is all that the targets of one SKU depend on.
type Input struct {
	Layout     *Layout
	Rules      *Rules
	Stock      []Stock
	Unassigned Units    // sold, with no location yet
	Channels   []Listed // each channel once
}

// maxScopes is the number of different scopes that are solved exactly: the work doubles with each.
const maxScopes = 16

// Solver computes targets. It keeps scratch memory between calls and so is for one goroutine; zero is ready for use.
type Solver struct {
	in    *Input
	mode  Mode
	n     Units // N: what all channels together may show
	pool  Units // Σ a over shared places, less unassigned
	kept  Units // pool buffer that was there to keep
	gone  Units // unassigned, not negative
	ch    []channel
	order []int // channels by priority, then id

	places []int   // shared places with stock: index into in.Stock
	a      []Units // and what each offers
	owned  []Units // by channel: stock of its own places

	// Scopes that differ in this SKU's stock.
	scopes     []scope
	words      int
	sig        []uint64 // scopes[i]: sig[i*words:(i+1)*words], bit p for places[p]
	covered    bool
	cover      []Units // by set of scopes: F, exact mode only
	used       []Units // by set of scopes: scratch
	rooms      []Units // by scope
	groupScope []int   // layout group -> scope, -1 not looked up yet
	active     []int
	bulk       []Units
}

type scope struct {
	total Units // Σ a
	given Units // g summed over its channels
}

type channel struct {
	rules    *ChannelRules
	seller   int
	scope    int // -1 when nothing is there
	paused   bool
	hidden   bool
	priority Units
	weight   Units
	limit    Units // U
	given    Units // g, or the reserve in force in pooled mode
	reserved Units // of given, by reserve
	open     Units // pooled: what reserves of others leave
	wouldBe  Units // before it was hidden
	target   Units
}

// Solve computes the target of each channel of in, in in's order. The result, and in itself, belong to the solver until the next call.
func (s *Solver) Solve(in *Input) {
	s.load(in)
	if s.mode == Pooled {
		s.pooled()
	} else {
		s.promised()
	}
	for i := range s.ch {
		c := &s.ch[i]
		if !c.paused {
			c.target += s.owned[i]
		}
	}
}

// Target is what channel i of the last input should show.
func (s *Solver) Target(i int) Units { return s.ch[i].target }

// load reads the stock, and finds which scopes differ in it and each channel's limit.
func (s *Solver) load(in *Input) {
	s.in, s.mode = in, in.Rules.Mode
	l := in.Layout
	s.ch, s.order, s.owned = s.ch[:0], s.order[:0], s.owned[:0]
	s.places, s.a = s.places[:0], s.a[:0]
	for _, listed := range in.Channels {
		r := &in.Rules.Channels[listed.Seller]
		s.ch = append(s.ch, channel{
			rules: r, seller: listed.Seller, paused: listed.Paused || r.Paused.value(0) != 0, priority: r.priority(), weight: r.weight(s.mode),
		})
		s.owned = append(s.owned, 0)
	}
	var total Units
	for i := range in.Stock {
		if in.Stock[i].Place < 0 {
			continue
		}
		p := &l.places[in.Stock[i].Place]
		a := offered(in.Stock[i].Available, p.Buffer)
		switch {
		case a <= 0:
		case p.owner < 0:
			total = min(total+a, MaxUnits)
			s.places, s.a = append(s.places, i), append(s.a, a)
		case p.served:
			for j := range s.ch {
				if s.ch[j].seller == p.owner {
					s.owned[j] = min(s.owned[j]+a, MaxUnits)
				}
			}
		}
	}
	s.gone = min(max(in.Unassigned, 0), MaxUnits)
	s.pool = max(0, total-s.gone)
	s.kept = min(in.Rules.PoolBuffer.value(0), s.pool)
	s.n = s.pool - s.kept
	s.findScopes()
	for i := range s.ch {
		c := &s.ch[i]
		if c.scope < 0 || c.paused {
			continue
		}
		f := min(s.n, s.scopes[c.scope].total-s.gone)
		c.limit = max(0, min(f-c.rules.Buffer.value(0), c.rules.Max.value(MaxUnits), s.capped(c.rules)))
	}
	for i := range s.ch { // by priority, then id, whatever the input's order
		j := len(s.order)
		s.order = append(s.order, i)
		for ; j > 0 && s.before(i, s.order[j-1]); j-- {
			s.order[j] = s.order[j-1]
		}
		s.order[j] = i
	}
}

// offered is what a place offers of what is available there.
func offered(available, buffer Units) Units {
	return max(0, min(available, MaxUnits)-min(max(buffer, 0), MaxUnits))
}

func (s *Solver) before(i, j int) bool {
	a, b := &s.ch[i], &s.ch[j]
	return a.priority < b.priority || a.priority == b.priority && a.seller < b.seller
}

// capped is the channel's cap in units.
func (s *Solver) capped(r *ChannelRules) Units {
	return s.n * min(r.Cap.value(FullCap), FullCap) / FullCap
}

// findScopes gives each channel its scope: channels that see the same stocked places share one.
func (s *Solver) findScopes() {
	l := s.in.Layout
	s.words = (len(s.places) + 63) / 64
	s.scopes, s.sig = s.scopes[:0], s.sig[:0]
	s.groupScope = s.groupScope[:0]
	for range l.groups {
		s.groupScope = append(s.groupScope, -2)
	}
	for i := range s.ch {
		g := l.group[s.ch[i].seller]
		if s.groupScope[g] == -2 {
			s.groupScope[g] = s.findScope(g)
		}
		s.ch[i].scope = s.groupScope[g]
	}
	s.covered = false
}

// findCover computes F by set of scopes, once an input needs it: first Σ a by the exact set of scopes that sell from a place, then over
// subsets, and then what the complement does not hold.
func (s *Solver) findCover() {
	if s.covered {
		return
	}
	s.covered = true
	k := len(s.scopes)
	s.cover = zeroed(s.cover, 1<<k)
	s.used = zeroed(s.used, 1<<k)
	for p, a := range s.a {
		var set int
		for i := range k {
			if s.sig[i*s.words+p/64]&(1<<(p%64)) != 0 {
				set |= 1 << i
			}
		}
		s.used[set] += a
	}
	for i := range k {
		for set := range s.used {
			if set&(1<<i) != 0 {
				s.used[set] += s.used[set&^(1<<i)]
			}
		}
	}
	all := len(s.used) - 1
	for set := range s.cover {
		s.cover[set] = max(0, s.used[all]-s.used[all&^set]-s.gone)
	}
}

func zeroed(u []Units, n int) []Units {
	if cap(u) < n {
		return make([]Units, n)
	}
	u = u[:n]
	clear(u)
	return u
}

func (s *Solver) findScope(g int) int {
	l := s.in.Layout
	at := len(s.sig)
	for range s.words {
		s.sig = append(s.sig, 0)
	}
	var total Units
	for p, i := range s.places {
		if l.places[s.in.Stock[i].Place].sells(g) {
			s.sig[at+p/64] |= 1 << (p % 64)
			total = min(total+s.a[p], MaxUnits)
		}
	}
	if total == 0 {
		s.sig = s.sig[:at]
		return -1
	}
	for i := range s.scopes {
		if equal(s.sig[i*s.words:(i+1)*s.words], s.sig[at:]) {
			s.sig = s.sig[:at]
			return i
		}
	}
	s.scopes = append(s.scopes, scope{total: total})
	return len(s.scopes) - 1
}

func equal(a, b []uint64) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// overlap says whether two scopes share a stocked place.
func (s *Solver) overlap(i, j int) bool {
	for w := range s.words {
		if s.sig[i*s.words+w]&s.sig[j*s.words+w] != 0 {
			return true
		}
	}
	return false
}

// give adds units to what channel i holds.
func (s *Solver) give(i int, n Units) {
	s.ch[i].given += n
	s.scopes[s.ch[i].scope].given += n
}

// total is all that is given.
func (s *Solver) total() Units {
	var sum Units
	for i := range s.scopes {
		sum += s.scopes[i].given
	}
	return sum
}

// room is the most that one more channel of a scope could be given beside all that is given: the least slack of any set of scopes with it.
func (s *Solver) room(k int) Units {
	room := s.n - s.total()
	switch n := len(s.scopes); {
	case n == 1:
		room = min(room, s.scopes[0].total-s.gone-s.scopes[0].given)
	case n <= maxScopes:
		s.sumGiven()
		for set := 1; set < len(s.cover); set++ {
			if set&(1<<k) != 0 {
				room = min(room, s.cover[set]-s.used[set])
			}
		}
	default:
		f := s.scopes[k].total - s.gone
		for i := range s.scopes {
			if s.overlap(k, i) {
				f -= s.scopes[i].given
			}
		}
		room = min(room, f)
	}
	return max(0, room)
}

// sumGiven sets used to what is given, by set of scopes.
func (s *Solver) sumGiven() {
	s.findCover()
	s.used[0] = 0
	for set := 1; set < len(s.used); set++ {
		s.used[set] = s.used[set&(set-1)] + s.scopes[bits.TrailingZeros(uint(set))].given
	}
}

// pooled gives each channel all that its limit and the reserves of others leave. A reserve that is not there is no reserve: they are served
// by priority, as far as stock goes. A paused channel reserves nothing.
func (s *Solver) pooled() {
	reserves := false
	for _, i := range s.order {
		c := &s.ch[i]
		if c.scope < 0 || c.paused || c.rules.Reserve.value(0) == 0 {
			continue
		}
		s.give(i, min(c.rules.Reserve.value(0), s.room(c.scope)))
		c.reserved = c.given
		reserves = true
	}
	for i := range s.ch {
		c := &s.ch[i]
		if c.scope < 0 {
			continue
		}
		if reserves {
			own := c.given
			s.give(i, -own)
			c.open = s.room(c.scope)
			s.give(i, own)
		} else {
			c.open = max(0, min(s.n, s.scopes[c.scope].total-s.gone))
		}
		c.target = min(c.limit, max(0, c.open-c.rules.Buffer.value(0)))
		if c.target > 0 && c.target <= c.rules.HideAt.value(0) {
			c.hidden, c.wouldBe, c.target = true, c.target, 0
		}
	}
}

// promised gives each unit to one channel. A channel whose share is too small to show is hidden, and the others share again: the last in
// order first, so that two that could not both be shown do not hide each other.
func (s *Solver) promised() {
	for {
		s.divide()
		hide := -1
		for at := len(s.order) - 1; at >= 0 && hide < 0; at-- {
			if c := &s.ch[s.order[at]]; c.given > 0 && c.given <= c.rules.HideAt.value(0) {
				hide = s.order[at]
			}
		}
		if hide < 0 {
			break
		}
		c := &s.ch[hide]
		c.hidden, c.wouldBe, c.limit = true, c.given, 0
	}
	for i := range s.ch {
		s.ch[i].target = s.ch[i].given
	}
}

func (s *Solver) divide() {
	for i := range s.ch {
		s.ch[i].given, s.ch[i].reserved = 0, 0
	}
	for i := range s.scopes {
		s.scopes[i].given = 0
	}
	for _, i := range s.order {
		c := &s.ch[i]
		if m := min(c.rules.Reserve.value(0), c.limit); m > 0 {
			c.reserved = min(m, s.room(c.scope))
			s.give(i, c.reserved)
		}
	}
	switch {
	case s.mode == Waterfall:
		s.waterfall()
	case len(s.scopes) > maxScopes:
		s.sharesApart()
	case len(s.scopes) == 1 && s.in.Rules.Rounding == LargestRemainder:
		s.findActive()
		s.largestRemainder(min(s.n, s.scopes[0].total-s.gone) - s.total())
		for j, i := range s.active {
			s.give(i, s.bulk[j])
		}
	case len(s.scopes) > 0:
		s.webster()
	}
}

func (s *Solver) waterfall() {
	for _, i := range s.order {
		if c := &s.ch[i]; c.limit > c.given {
			s.give(i, min(c.limit-c.given, s.room(c.scope)))
		}
	}
}

// findActive lists the channels that may get more, in order, and clears bulk for them.
func (s *Solver) findActive() {
	s.active, s.bulk = s.active[:0], s.bulk[:0]
	for _, i := range s.order {
		if c := &s.ch[i]; c.limit > c.given && c.weight > 0 {
			s.active, s.bulk = append(s.active, i), append(s.bulk, 0)
		}
	}
}

// largestRemainder shares r units among the active channels into bulk: a channel whose quota reaches its headroom gets the headroom and
// leaves; when none is left that does, the others get the whole part of their quota, and the units over go to the largest fractions.
func (s *Solver) largestRemainder(r Units) {
	if r <= 0 {
		return
	}
	var w Units
	for _, i := range s.active {
		w += s.ch[i].weight
	}
	for again := true; again; {
		again = false
		left, weights := r, w
		for j, i := range s.active {
			c := &s.ch[i]
			if s.bulk[j] > 0 { // it left
				continue
			}
			if q, _ := quota(left, c.weight, weights); q >= c.limit-c.given {
				s.bulk[j] = c.limit - c.given
				r -= s.bulk[j]
				w -= c.weight
				again = true
			}
		}
	}
	over := r
	for j, i := range s.active {
		if s.bulk[j] == 0 {
			s.bulk[j], _ = quota(r, s.ch[i].weight, w)
			s.bulk[j] = -s.bulk[j] - 1 // negative marks that it has a fraction
			over += s.bulk[j] + 1
		}
	}
	for ; over > 0 && w > 0; over-- {
		best, most := -1, Units(0)
		for j, i := range s.active {
			if s.bulk[j] < 0 {
				if _, f := quota(r, s.ch[i].weight, w); best < 0 || f > most {
					best, most = j, f
				}
			}
		}
		if best < 0 {
			break
		}
		s.bulk[best] = -s.bulk[best] // (q + 1): the fraction is spent
	}
	for j := range s.bulk {
		if s.bulk[j] < 0 {
			s.bulk[j] = -s.bulk[j] - 1
		}
	}
}

// quota is r·w / total and its remainder; w ≤ total.
func quota(r, w, total Units) (q, rem Units) {
	hi, lo := bits.Mul64(uint64(r), uint64(w))
	a, b := bits.Div64(hi, lo, uint64(total))
	return Units(a), Units(b)
}

// webster hands out unit by unit: the next goes to the channel with room for it and the lowest (2k+1)/weight, k being what it got so far;
// ties by priority, then id. It goes in strides: all channels take the units whose (2k+1)/weight is at most t, with t as high as nobody is
// blocked; single units then show who is, and the others go on.
func (s *Solver) webster() {
	s.findActive()
	var heaviest Units
	for _, i := range s.active {
		heaviest = max(heaviest, s.ch[i].weight)
	}
	k := s.bulk // units each got so far
	t := uint64(0)
	for len(s.active) > 0 {
		// The highest level that fits, by bisection; beyond hi every channel is at its own limit.
		lo, hi := t, t
		for j, i := range s.active {
			hi = max(hi, full(k[j]+s.ch[i].limit-s.ch[i].given, s.ch[i].weight, heaviest))
		}
		for lo < hi {
			mid := lo + (hi-lo+1)/2
			s.level(k, mid, heaviest, 1)
			fits := s.fits()
			s.level(k, mid, heaviest, -1)
			if fits {
				lo = mid
			} else {
				hi = mid - 1
			}
		}
		t = lo
		for j, i := range s.active {
			n := s.step(j, i, k, t, heaviest)
			s.give(i, n)
			k[j] += n
		}
		for s.dropFull(k) {
			best := 0
			for j := 1; j < len(s.active); j++ {
				if less(2*k[j]+1, s.ch[s.active[j]].weight, 2*k[best]+1, s.ch[s.active[best]].weight) {
					best = j
				}
			}
			s.give(s.active[best], 1)
			k[best]++
		}
		k = s.bulk[:len(s.active)]
	}
}

// level adds (sign 1) to what the scopes are given, or takes back (sign −1), what each active channel gets on the way to level t.
func (s *Solver) level(k []Units, t uint64, heaviest, sign Units) {
	for j, i := range s.active {
		s.scopes[s.ch[i].scope].given += sign * s.step(j, i, k, t, heaviest)
	}
}

// step is how many more units active channel j gets on the way to level t, within its own limit.
func (s *Solver) step(j, i int, k []Units, t uint64, heaviest Units) Units {
	c := &s.ch[i]
	hi, lo := bits.Mul64(t, uint64(c.weight))
	q, _ := bits.Div64(hi, lo, uint64(heaviest))
	return max(0, min(Units((q+1)/2)-k[j], c.limit-c.given))
}

// full is a level at which a channel that starts at 0 has n units.
func full(n, weight, heaviest Units) uint64 {
	hi, lo := bits.Mul64(uint64(2*n-1), uint64(heaviest))
	q, _ := bits.Div64(hi, lo, uint64(weight)) // 2·10¹² × 10⁶ fits
	return q + 1
}

// less says whether a/b < c/d.
func less(a, b, c, d Units) bool {
	h1, l1 := bits.Mul64(uint64(a), uint64(d))
	h2, l2 := bits.Mul64(uint64(c), uint64(b))
	return h1 < h2 || h1 == h2 && l1 < l2
}

// fits says whether what is given keeps every set of scopes within its stock.
func (s *Solver) fits() bool {
	if s.total() > s.n {
		return false
	}
	if len(s.scopes) == 1 {
		return s.scopes[0].given <= s.scopes[0].total-s.gone
	}
	s.sumGiven()
	for set := 1; set < len(s.cover); set++ {
		if s.used[set] > s.cover[set] {
			return false
		}
	}
	return true
}

// dropFull removes active channels that can get no more. It returns false when it removed any, or none is left.
func (s *Solver) dropFull(k []Units) bool {
	s.rooms = s.rooms[:0]
	for i := range s.scopes {
		s.rooms = append(s.rooms, s.room(i))
	}
	n := 0
	for j, i := range s.active {
		if c := &s.ch[i]; c.limit > c.given && s.rooms[c.scope] > 0 {
			s.active[n], s.bulk[n] = i, k[j]
			n++
		}
	}
	some := n < len(s.active)
	s.active, s.bulk = s.active[:n], s.bulk[:n]
	return !some && n > 0
}

// sharesApart divides by shares where scopes are too many to solve exactly: the shares that equal scopes would give, as far as each
// scope has room, and what is over by priority.
func (s *Solver) sharesApart() {
	s.findActive()
	s.largestRemainder(s.n - s.total())
	for j, i := range s.active {
		s.give(i, min(s.bulk[j], s.room(s.ch[i].scope)))
	}
	for _, i := range s.active {
		s.give(i, min(s.ch[i].limit-s.ch[i].given, s.room(s.ch[i].scope)))
	}
}
