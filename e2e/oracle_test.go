package e2e

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

// books is what stock must be, kept with plain maps from what the test itself did: the oracle. It shares no code with the ledger.
type books struct {
	mu      sync.Mutex
	skus    map[string]*page
	lines   []*line            // every order line that was sold
	expects map[string]*expect // purchase orders and transfers by reference and SKU
	holds   map[string]*hold   // reservations by id
	sent    int                // events that must count, each once
	orders  map[string]bool    // order ids
}

// page is one SKU.
type page struct {
	shelves        map[string]*shelf
	unassigned     int64
	sold, restored map[string]int64
	events         int64
}

type shelf struct {
	moves                               []moved
	count                               *moved // newest: the quantity counted, and the moment it speaks of
	committed, held, unsellable, safety int64
	inbound                             int64
}

type moved struct {
	at    int64 // seconds of the day
	units int64
}

type line struct {
	channel, order, id, sku string
	at                      string // location; empty while unassigned
	open                    int64  // neither cancelled nor shipped
	shipped                 int64  // and not returned
	touched                 bool
}

type expect struct {
	sku, location string
	left          int64
}

type hold struct {
	sku, location string
	left          int64
}

func newBooks() *books {
	return &books{skus: map[string]*page{}, expects: map[string]*expect{}, holds: map[string]*hold{}, orders: map[string]bool{}}
}

func (b *books) page(sku string) *page {
	p := b.skus[sku]
	if p == nil {
		p = &page{shelves: map[string]*shelf{}, sold: map[string]int64{}, restored: map[string]int64{}}
		b.skus[sku] = p
	}
	return p
}

func (p *page) shelf(location string) *shelf {
	s := p.shelves[location]
	if s == nil {
		s = &shelf{}
		p.shelves[location] = s
	}
	return s
}

// onHand is the newest count and what moved after it.
func (s *shelf) onHand() int64 {
	var n int64
	after := int64(-1 << 62)
	if s.count != nil {
		n, after = s.count.units, s.count.at
	}
	for _, m := range s.moves {
		if m.at > after {
			n += m.units
		}
	}
	return n
}

// event counts one event of a SKU.
func (b *books) event(sku string) *page {
	b.sent++
	p := b.page(sku)
	p.events++
	return p
}

func (b *books) move(sku, location string, at, units int64) {
	s := b.page(sku).shelf(location)
	s.moves = append(s.moves, moved{at, units})
}

// sale books an order line that was sold.
func (b *books) sale(channel, order, id, sku, location string, units int64) {
	p := b.event(sku)
	p.sold[channel] += units
	if location == "" {
		p.unassigned += units
	} else {
		p.shelf(location).committed += units
	}
	b.orders[order] = true
	b.lines = append(b.lines, &line{channel: channel, order: order, id: id, sku: sku, at: location, open: units})
}

// commit changes what is committed of a line, wherever it is.
func (b *books) commit(l *line, units int64) {
	p := b.page(l.sku)
	if l.at == "" {
		p.unassigned += units
	} else {
		p.shelf(l.at).committed += units
	}
	l.open += units
}

// pick takes a line that fits, or nil.
func (b *books) pick(rng *rand.Rand, fits func(*line) bool) *line {
	if len(b.lines) == 0 {
		return nil
	}
	first := rng.IntN(len(b.lines))
	for i := range b.lines {
		if l := b.lines[(first+i)%len(b.lines)]; fits(l) {
			return l
		}
	}
	return nil
}

// levels is all that the books say, by name: what every store is compared with.
func (b *books) levels() map[string]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]int64{}
	for sku, p := range b.skus {
		put(out, sku, "", "version", p.events)
		put(out, sku, "", "unassigned", p.unassigned)
		available := -p.unassigned
		for location, s := range p.shelves {
			put(out, sku, location, "on_hand", s.onHand())
			put(out, sku, location, "committed", s.committed)
			put(out, sku, location, "held", s.held)
			put(out, sku, location, "inbound", s.inbound)
			put(out, sku, location, "unsellable", s.unsellable)
			put(out, sku, location, "safety_stock", s.safety)
			available += s.onHand() - s.committed - s.held - s.safety
		}
		put(out, sku, "", "available", available)
		for ch, n := range p.sold {
			put(out, sku, ch, "sold", n)
		}
		for ch, n := range p.restored {
			put(out, sku, ch, "restored", n)
		}
	}
	return out
}

// put notes a number that is not zero: a store may say zero, or nothing.
func put(to map[string]int64, sku, of, what string, n int64) {
	if n != 0 {
		to[fmt.Sprintf("%s %s %s", sku, of, what)] = n
	}
}
