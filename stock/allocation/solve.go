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
	Seller  int   // the layout's number
	Paused  bool  // the listing is paused: the channel shows nothing
	Weight  Units // its share in Proportional, before the rules' weight; 0 leaves it to them
	Margin  int64 // of two channels of one priority the one that earns more per unit is served first
	Reserve bool  // it is given its reserve and no more
}

// Input is all that the targets of one SKU depend on.
type Input struct {
	Layout     *Layout
	Rules      *Rules
	Stock      []Stock
	Unassigned Units    // sold, with no location yet
	Channels   []Listed // each channel once
	Bare       bool     // what there physically is: locations and the pool keep nothing back, and unassigned units come from where there is most
}

// maxScopes and maxSets bound the work on overlapping scopes that is done exactly.
const (
	maxScopes = 64
	maxSets   = 4096
)

// Solver computes targets. It keeps scratch memory between calls and so is for one goroutine; zero is ready for use.
type Solver struct {
	in    *Input
	mode  Mode
	n     Units // N: what all channels together may show
	pool  Units // Σ a over shared places, less unassigned
	kept  Units // pool buffer that was there to keep
	gone  Units // unassigned, not negative
	apart Units // of gone, what each scope by itself is taken to lose
	ch    []channel
	order []int // channels by priority, then id

	places []int   // shared places with stock: index into in.Stock
	a      []Units // and what each offers
	owned  []Units // by channel: stock of its own places

	// Scopes that differ in this SKU's stock.
	scopes     []scope
	words      int
	sig        []uint64 // scopes[i]: sig[i*words:(i+1)*words], bit p for places[p]
	sets       []scopeSet
	union      []uint64 // of sets, as sig
	seen       map[uint64]struct{}
	found      bool    // sets have been looked for
	exact      bool    // and all that matter are there
	rooms      []Units // by scope
	groupScope []int   // layout group -> scope, -1 not looked up yet
	active     []int
	bulk       []Units
}

type scope struct {
	total Units // Σ a
	given Units // g summed over its channels
}

// scopeSet is scopes that together are given at most cover.
type scopeSet struct {
	members uint64 // bit i for scopes[i]
	cover   Units  // F
}

type channel struct {
	rules    *ChannelRules
	seller   int
	scope    int // -1 when nothing is there
	paused   bool
	hidden   bool
	priority Units
	margin   int64
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
			c.target = max(c.target+s.owned[i], c.rules.Floor.value(0))
		}
	}
}

// Limit is the most that the rules of channel i of the last input let it show, whatever the others show.
func (s *Solver) Limit(i int) Units {
	c := &s.ch[i]
	if c.paused {
		return 0
	}
	return max(c.limit+s.owned[i], c.rules.Floor.value(0))
}

// Scopes is how many sets of places the channels of the last input sell from that differ in its stock.
func (s *Solver) Scopes() int { return len(s.scopes) }

// Own is what only channel i can sell: the stock of its own places.
func (s *Solver) Own(i int) Units { return s.owned[i] }

// Load reads in with nothing held yet, for [Solver.Hold] and [Solver.Room] alone: it computes no targets. The same holds for in as with [Solver.Solve].
func (s *Solver) Load(in *Input) { s.load(in) }

// Clear begins a count of what the channels hold, with [Solver.Hold], in place of what [Solver.Solve] gave them.
func (s *Solver) Clear() {
	for i := range s.ch {
		s.ch[i].given = 0
	}
	for i := range s.scopes {
		s.scopes[i].given = 0
	}
}

// Hold counts n more units of shared stock as held by channel i, or less when n is negative.
func (s *Solver) Hold(i int, n Units) {
	c := &s.ch[i]
	c.given += n
	if c.scope >= 0 {
		s.scopes[c.scope].given += n
	}
}

// Room is how many more units of shared stock channel i could hold beside all that is held; negative when more is held than there is in some set of
// scopes that its own belongs to.
func (s *Solver) Room(i int) Units {
	c := &s.ch[i]
	if c.scope < 0 {
		return -c.given
	}
	return s.slack(c.scope)
}

// Shared is what all channels together may hold of shared stock.
func (s *Solver) Shared() Units { return s.n }

// Held is all that is held.
func (s *Solver) Held() Units { return s.total() }

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
			margin: listed.Margin,
		})
		if listed.Weight > 0 && s.mode == Proportional {
			s.ch[len(s.ch)-1].weight = min(listed.Weight, MaxWeight)
		}
		s.owned = append(s.owned, 0)
	}
	var total Units
	for i := range in.Stock {
		if in.Stock[i].Place < 0 {
			continue
		}
		p := &l.places[in.Stock[i].Place]
		buffer := p.Buffer
		if in.Bare {
			buffer = 0
		}
		a := offered(in.Stock[i].Available, buffer)
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
	if s.apart = s.gone; in.Bare {
		s.apart = 0
	}
	s.pool = max(0, total-s.gone)
	s.kept = min(in.Rules.PoolBuffer.value(0), s.pool)
	if in.Bare {
		s.kept = 0
	}
	s.n = s.pool - s.kept
	s.findScopes()
	for i := range s.ch {
		c := &s.ch[i]
		if c.scope < 0 || c.paused {
			continue
		}
		f := min(s.n, s.scopes[c.scope].total-s.apart)
		c.limit = max(0, min(f-c.rules.Buffer.value(0), c.rules.Max.value(MaxUnits), s.capped(c.rules)))
		if in.Channels[i].Reserve {
			c.limit = min(c.limit, c.rules.Reserve.value(0))
		}
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
	if a.priority != b.priority {
		return a.priority < b.priority
	}
	if a.margin != b.margin {
		return a.margin > b.margin
	}
	return a.seller < b.seller
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
	s.found = false
}

// findSets finds the sets of scopes whose stock bounds what they are given, once an input needs them, and says whether it could: scopes may be too
// many. Not all 2^k sets matter. A set that does not hold every scope within its places asks less than the one that does; and a set that
// falls into parts without a place in common asks no more than its parts. What is left are the unions of overlapping scopes: k of
// them for scopes inside each other or apart, as stores and a shop that serves from all are.
func (s *Solver) findSets() bool {
	if s.found {
		return s.exact
	}
	s.found, s.exact = true, false
	s.sets, s.union = s.sets[:0], s.union[:0]
	k := len(s.scopes)
	if k > maxScopes {
		return false
	}
	if s.seen == nil {
		s.seen = make(map[uint64]struct{})
	}
	clear(s.seen)
	for i := range k {
		s.union = append(s.union, s.sig[i*s.words:(i+1)*s.words]...)
		s.addSet()
	}
	for n := 0; n < len(s.sets); n++ { //nolint:intrange // addSet makes the list longer
		for i := range k {
			if s.sets[n].members&(1<<i) != 0 || !meet(s.union[n*s.words:(n+1)*s.words], s.sig[i*s.words:(i+1)*s.words]) {
				continue
			}
			for w := range s.words {
				s.union = append(s.union, s.union[n*s.words+w]|s.sig[i*s.words+w])
			}
			s.addSet()
			if len(s.sets) > maxSets {
				return false
			}
		}
	}
	s.exact = true
	return true
}

// addSet adds the set of all scopes within the union that was appended last, unless it is there.
func (s *Solver) addSet() {
	at := len(s.union) - s.words
	union := s.union[at:]
	var set scopeSet
	for i := range s.scopes {
		inside := true
		for w := range s.words {
			inside = inside && s.sig[i*s.words+w]&^union[w] == 0
		}
		if inside {
			set.members |= 1 << i
		}
	}
	if _, dup := s.seen[set.members]; dup {
		s.union = s.union[:at]
		return
	}
	s.seen[set.members] = struct{}{}
	for p, a := range s.a {
		if union[p/64]&(1<<(p%64)) != 0 {
			set.cover += a
		}
	}
	set.cover = max(0, set.cover-s.apart)
	s.sets = append(s.sets, set)
}

// given is what the scopes of a set are given.
func (s *Solver) given(members uint64) Units {
	var sum Units
	for ; members != 0; members &= members - 1 {
		sum += s.scopes[bits.TrailingZeros64(members)].given
	}
	return sum
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

// meet says whether two sets of places have one in common.
func meet(a, b []uint64) bool {
	for w := range a {
		if a[w]&b[w] != 0 {
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
func (s *Solver) room(k int) Units { return max(0, s.slack(k)) }

func (s *Solver) slack(k int) Units {
	room := s.n - s.total()
	switch {
	case len(s.scopes) == 1:
		room = min(room, s.scopes[0].total-s.apart-s.scopes[0].given)
	case s.findSets():
		for i := range s.sets {
			if set := &s.sets[i]; set.members&(1<<k) != 0 {
				room = min(room, set.cover-s.given(set.members))
			}
		}
	default:
		f := s.scopes[k].total - s.apart
		for i := range s.scopes {
			if meet(s.sig[k*s.words:(k+1)*s.words], s.sig[i*s.words:(i+1)*s.words]) {
				f -= s.scopes[i].given
			}
		}
		room = min(room, f)
	}
	return room
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
		if m := min(max(c.rules.Reserve.value(0), c.rules.Floor.value(0)), c.limit); m > 0 {
			c.reserved = min(m, s.room(c.scope))
			s.give(i, c.reserved)
		}
	}
	switch {
	case s.mode == Waterfall:
		s.waterfall()
	case len(s.scopes) > 1 && !s.findSets():
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
	for i := range s.sets {
		if s.given(s.sets[i].members) > s.sets[i].cover {
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

// Compare says which of channels i and j of the last input is served first by priority: negative when i is.
func (s *Solver) Compare(i, j int) int {
	switch {
	case i == j:
		return 0
	case s.before(i, j):
		return -1
	default:
		return 1
	}
}
