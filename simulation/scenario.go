package simulation

import (
	"slices"
)

// Virtual time is in microseconds. begin is the moment at which every world starts; its value means nothing.
const (
	microsecond int64 = 1
	millisecond       = 1000 * microsecond
	second            = 1000 * millisecond
	minute            = 60 * second
	hour              = 60 * minute

	begin   = 1_767_600_000 * second
	opening = begin + 10*minute // demand starts; until then the channels are stocked
)

// kind is how a marketplace takes quantities.
type kind uint8

const (
	compareAndSet kind = iota
	absolute           // sets at once
	feed               // sets when it has processed a file: slow to apply, slower to say so
	delta              // signed; may go below zero, and tells what it shows after
	clamped            // signed; stops at zero, and does not tell
	claiming           // shows nothing of its own: asks Onhand for each order. Without Onhand it is set, as absolute
	kinds
)

var kindNames = [kinds]string{"compare-and-set", "absolute", "feed", "delta", "clamped delta", "claim"}

// cast is the kinds of the channels in turn.
var cast = [...]kind{compareAndSet, absolute, delta, compareAndSet, feed, absolute, clamped, compareAndSet, absolute, delta, absolute, compareAndSet, clamped, feed, absolute}

// want is one buyer who comes to one channel.
type want struct {
	at          int64
	cancelAfter int64 // 0: never
	returnAfter int64 // 0: never
	sku         uint16
	channel     uint16
	units       uint8
	fewer       bool // takes what is shown when it is less than wanted
}

// move is one change of what is on the shelf, and when Onhand hears of it.
type move struct {
	at, heard int64
	units     int32 // received, or by how much a count differs
	sku       uint16
	count     bool
}

// span is a stretch of time.
type span struct{ from, to int64 }

func inside(spans []span, t int64) bool {
	for _, s := range spans {
		if t >= s.from && t < s.to {
			return true
		}
	}
	return false
}

// shop is one channel as the scenario has it.
type shop struct {
	kind         kind
	restocks     bool  // puts cancelled units on sale again by itself
	skew         int64 // its clock is ahead by this
	lag          int64 // orders are in its order API this long after they were taken
	webhook      int64 // median delay of an order's webhook
	lost         int64 // webhooks that never come, per million
	doubled      int64
	sweep        int64 // pause between two sweeps of its order API
	write        int64 // median time until a write is applied
	answer       int64 // median time from there to the answer
	timeout      int64 // after which Onhand gives a request up
	rate         int64 // least time between two requests
	batch        int
	outages      []span // every connection is refused
	blackouts    []span // requests are swallowed: applied or not, there is no answer
	storms       []span // 429 to most requests
	weightOfSale int64
}

// line is one SKU as the scenario has it.
type line struct {
	stock  int64 // on the shelf at the beginning
	nature nature
}

type nature uint8

const (
	calm      nature = iota // there is more than will be asked for
	scarce                  // less than will be asked for
	restocked               // less, and more comes now and then
	flash                   // most of its buyers come within minutes
	natures
)

var natureNames = [natures]string{"calm", "scarce", "restocked", "flash"}

// scenario is all of a seed that does not depend on what is decided: who wants what, when and where, and what goes wrong.
type scenario struct {
	seed     uint64
	end      int64
	shops    []shop
	lines    []line
	wants    []want
	moves    []move
	crashes  [services][]span
	kits     []kit
	makes    [][]piece // by SKU: what a unit of it takes
	ideal    []int64   // by SKU: units that an all-knowing seller sells
	pollFrom int64     // when the first poll of the polling baseline after the opening is due
}

// service is what can crash.
type service uint8

const (
	ingest service = iota
	projector
	allocator
	pusher
	services
)

func newScenario(c *Config, seed uint64) *scenario {
	s := &scenario{seed: seed, end: opening + c.Hours*hour, shops: make([]shop, c.Channels), lines: make([]line, c.SKUs)}
	s.makeShops(newSource(seed, 1))
	for i := range c.Claims { // spread over the others
		h := &s.shops[i*c.Channels/c.Claims]
		h.kind, h.restocks = claiming, false
	}
	s.makeFaults(newSource(seed, 2))
	s.makeDemand(newSource(seed, 3), c)
	s.makeBundles(newSource(seed, 5), c.Bundles)
	s.pollFrom = opening + newSource(seed, 4).below(15*minute)
	s.sellIdeally()
	return s
}

func (s *scenario) makeShops(r *source) {
	for i := range s.shops {
		h := &s.shops[i]
		h.kind = cast[i%len(cast)]
		h.restocks = r.chance(500_000)
		h.skew = r.between(-1500, 1500) * millisecond
		h.lag = r.between(0, 2000) * millisecond
		h.webhook = r.between(300, 3000) * millisecond
		h.lost, h.doubled = r.between(1_000, 30_000), r.between(1_000, 30_000)
		h.sweep = r.between(20, 60) * second
		h.write = r.between(80, 900) * millisecond
		h.answer = r.between(40, 300) * millisecond
		h.timeout = 10 * second
		h.rate = r.between(100, 500) * millisecond
		h.batch = int(r.between(25, 250))
		if h.kind == feed {
			h.write, h.answer, h.timeout = r.between(10, 40)*second, r.between(2, 10)*second, 180*second
			h.rate, h.batch = r.between(2, 10)*second, 1000
		}
		h.weightOfSale = 1_000_000 / int64(i/2+1) // a few sell most
	}
	for i := len(s.shops) - 1; i > 0; i-- { // which ones, differs
		j := r.below(int64(i + 1))
		s.shops[i].weightOfSale, s.shops[j].weightOfSale = s.shops[j].weightOfSale, s.shops[i].weightOfSale
	}
}

// makeFaults plans outages of channels and crashes of services.
func (s *scenario) makeFaults(r *source) {
	windows := func(one int64, shortest, longest int64) (out []span) {
		for r.chance(one) {
			at := begin + r.below(s.end-begin)
			out = append(out, span{at, at + r.between(shortest, longest)})
		}
		return out
	}
	for i := range s.shops {
		h := &s.shops[i]
		h.outages = windows(200_000, 20*second, 6*minute)
		h.blackouts = windows(200_000, 10*second, 90*second)
		h.storms = windows(300_000, 20*second, 4*minute)
	}
	for v := range services {
		s.crashes[v] = windows(700_000, second, 30*second)
		slices.SortFunc(s.crashes[v], func(a, b span) int { return int(min(1, max(-1, a.from-b.from))) })
		for i := 1; i < len(s.crashes[v]); i++ { // one at a time
			if p := s.crashes[v][i-1]; s.crashes[v][i].from <= p.to+second {
				d := s.crashes[v][i].to - s.crashes[v][i].from
				s.crashes[v][i].from = p.to + 2*second
				s.crashes[v][i].to = p.to + 2*second + d
			}
		}
	}
}

func (s *scenario) makeDemand(r *source, c *Config) {
	open := s.end - opening
	total := int64(c.Demand)
	weights := make([]int64, len(s.shops))
	for i := range s.lines {
		l := &s.lines[i]
		l.nature = nature(i % int(natures))
		share := total / int64(len(s.lines)) // buyers
		switch l.nature {
		case calm:
			share = share * r.between(20, 120) / 100
		case flash:
			share = share * r.between(100, 250) / 100
		case scarce, restocked:
			share = share * r.between(40, 140) / 100
		}
		if share < 4 {
			share = 4
		}
		var sum int64
		for j := range weights {
			weights[j] = s.shops[j].weightOfSale * r.between(30, 170) / 100
			sum += weights[j]
		}
		if l.nature == flash { // one channel starts it
			j := r.below(int64(len(weights)))
			weights[j] += sum * r.between(10, 80) / 100
			sum = 0
			for j := range weights {
				sum += weights[j]
			}
		}
		from, length := opening+r.below(open*7/10), r.between(30, 600)*second
		expected := share * 135 / 100
		switch l.nature {
		case calm:
			l.stock = expected * r.between(130, 400) / 100
		case scarce:
			l.stock = expected * r.between(40, 95) / 100
		case restocked:
			l.stock = expected * r.between(15, 50) / 100
		case flash:
			l.stock = expected * r.between(25, 110) / 100
		}
		buyer := func(at int64) {
			w := want{at: at, sku: uint16(i), units: 1}
			x := r.below(sum)
			for x >= weights[w.channel] {
				x -= weights[w.channel]
				w.channel++
			}
			switch d := r.below(100); {
			case d >= 98:
				w.units = uint8(r.between(4, 6))
			case d >= 93:
				w.units = 3
			case d >= 80:
				w.units = 2
			}
			w.fewer = r.chance(500_000)
			if r.chance(30_000) {
				w.cancelAfter = 5*second + r.skewed(3*minute, 512)
			} else if r.chance(30_000) {
				w.returnAfter = r.between(10, 60) * minute
			}
			s.wants = append(s.wants, w)
		}
		// A Poisson process is buyers at uniform moments, their number being Poisson; its spread matters little here.
		hot := int64(0)
		if l.nature == flash {
			hot = share * r.between(60, 95) / 100
		}
		for range hot {
			buyer(from + min(r.wait(length/2), length*3))
		}
		for range share - hot {
			buyer(opening + r.below(open))
		}
		if l.nature == restocked {
			for range r.between(1, 3) {
				s.receipt(r, i, opening+r.below(open), expected*r.between(5, 30)/100)
			}
		}
		if r.chance(300_000) { // the shelf is counted, and is not what the books say
			at := opening + r.below(open)
			off := r.between(-4, 2)
			if r.chance(100_000) {
				off = -r.between(1, l.stock/4+1)
			}
			s.moves = append(s.moves, move{at: at, heard: at + r.skewed(20*second, 256), units: int32(off), sku: uint16(i), count: true})
		}
		if r.chance(200_000) {
			s.receipt(r, i, opening+r.below(open), r.between(1, 60))
		}
	}
	order := func(a, b int64) int {
		switch {
		case a < b:
			return -1
		case a > b:
			return 1
		}
		return 0
	}
	s.wants = slices.DeleteFunc(s.wants, func(w want) bool { return w.at >= s.end })
	slices.SortStableFunc(s.wants, func(a, b want) int { return order(a.at, b.at) })
	slices.SortStableFunc(s.moves, func(a, b move) int { return order(a.at, b.at) })
}

func (s *scenario) receipt(r *source, sku int, at, units int64) {
	s.moves = append(s.moves, move{at: at, heard: at + r.skewed(5*second, 512), units: int32(units), sku: uint16(sku)})
}

// sellIdeally is what a seller would have sold that knows at every moment what is left: units of orders less what was cancelled, by SKU.
func (s *scenario) sellIdeally() {
	s.ideal = make([]int64, len(s.lines))
	left := make([]int64, len(s.lines))
	for i := range s.lines {
		left[i] = s.lines[i].stock
	}
	type back struct {
		at    int64
		sku   uint16
		units int32
	}
	var backs []back
	add := func(b back) {
		i, _ := slices.BinarySearchFunc(backs, b, func(x, y back) int { return int(min(1, max(-1, x.at-y.at))) })
		backs = slices.Insert(backs, i, b)
	}
	moves := s.moves
	for i := range s.wants {
		w := &s.wants[i]
		for len(moves) > 0 && moves[0].at <= w.at {
			left[moves[0].sku] += int64(moves[0].units)
			moves = moves[1:]
		}
		n := 0
		for ; n < len(backs) && backs[n].at <= w.at; n++ {
			s.add(left, backs[n].sku, int64(backs[n].units))
		}
		backs = backs[n:]
		units := int64(w.units)
		if most := s.most(int(w.sku), left); units > most {
			if !w.fewer || most <= 0 {
				continue
			}
			units = most
		}
		s.add(left, w.sku, -units)
		s.ideal[w.sku] += units
		if w.cancelAfter > 0 {
			add(back{w.at + w.cancelAfter, w.sku, int32(units)})
			if w.at+w.cancelAfter < s.end {
				s.ideal[w.sku] -= units
			}
		}
		if w.returnAfter > 0 {
			add(back{w.at + w.returnAfter, w.sku, int32(units)})
		}
	}
}
