package escrow_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/write"
)

type units = escrow.Units

// kind is a kind of channel API, as the marketplaces have them.
type kind struct {
	api    escrow.API
	clamps bool // a decrease by delta stops at zero
	tells  bool // an answer says what is shown
}

var (
	cas      = kind{api: escrow.API{Operation: write.CompareAndSet, SetsAny: true, Reads: true}, tells: true}
	casOnly  = kind{api: escrow.API{Operation: write.CompareAndSet, Reads: true}}
	absolute = kind{api: escrow.API{Operation: write.Absolute}}
	readable = kind{api: escrow.API{Operation: write.Absolute, Reads: true}}
	delta    = kind{api: escrow.API{Operation: write.Delta, Reads: true}, clamps: true}
	tellsIt  = kind{api: escrow.API{Operation: write.Delta, Reads: true}, clamps: true, tells: true}
	kinds    = []kind{cas, casOnly, absolute, readable, delta, tellsIt}
)

// shop is what really is at one channel.
type shop struct {
	kind
	name     string
	shown    map[string]units // by external id
	unseen   []sale
	sold     units
	restored units // seen
	marked   int64 // watermark reported
	write    *escrow.Grant
	dueAt    int64
	applied  bool
	result   escrow.Result
	answer   int64 // when the result is known
	demand   float64
	paused   bool
	gone     bool
	external string
}

type sale struct {
	at int64
	n  units
}

// market is a SKU, its channels and time. Times are milliseconds in here, microseconds outside.
type market struct {
	t         testing.TB
	rnd       *rand.Rand
	now       int64
	shops     []*shop
	stock     units
	counters  map[string]units
	restored  map[string]units
	version   int64
	terms     int64
	sku       *escrow.SKU
	d         escrow.Decider
	layout    *allocation.Layout
	rules     *allocation.Rules
	in        escrow.Input
	events    int64 // event delay
	writes    int64
	lost      float64
	late      float64
	oversold  units
	sales     units
	written   int
	decisions int
	alerts    []escrow.Alert
	crash     float64
}

func newMarket(t testing.TB, seed uint64, stock units, g allocation.Guarantee, ks ...kind) *market {
	m := &market{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), stock: stock, counters: map[string]units{}, restored: map[string]units{}, sku: &escrow.SKU{ID: "A"}, now: 3_600_000,
		events: 2000, writes: 1000, version: 1, terms: 1}
	var sellers []allocation.Seller
	for i, k := range ks {
		name := fmt.Sprintf("ch%02d", i)
		m.shops = append(m.shops, &shop{kind: k, name: name, shown: map[string]units{"A": 0}, external: "A", demand: 1, marked: m.now})
		sellers = append(sellers, allocation.Seller{ID: name})
	}
	m.layout = allocation.NewLayout(sellers, []allocation.Place{{ID: "W"}})
	m.rules = &allocation.Rules{Guarantee: g, Channels: make([]allocation.ChannelRules, len(ks))}
	return m
}

// level tells the books what the ledger knows.
func (m *market) level(seller string, n units, at int64) {
	m.version++
	l := escrow.Level{Version: m.version, Previous: m.version - 1, Available: m.stock, At: m.now * 1000}
	if seller != "" {
		l.Counters = []escrow.Counter{{Channel: seller, Sold: m.counters[seller], Restored: m.restored[seller], EarliestAt: at * 1000}}
	}
	m.sku.Level(&l)
}

func (m *market) decide() {
	in := &m.in
	*in = escrow.Input{Now: m.now * 1000, Version: m.terms, Layout: m.layout, Rules: m.rules, Skew: 0, Offers: in.Offers[:0], Stock: in.Stock[:0], Marks: in.Marks[:0], APIs: in.APIs[:0]}
	in.Stock = append(in.Stock, allocation.Stock{Place: 0, ID: "W", Available: m.stock})
	for i, s := range m.shops {
		in.APIs = append(in.APIs, s.api)
		in.Marks = append(in.Marks, s.marked*1000)
		if !s.gone {
			in.Offers = append(in.Offers, escrow.Offer{Seller: i, ExternalID: s.external, Paused: s.paused})
		}
	}
	out := m.d.Decide(m.sku, in)
	m.decisions++
	m.alerts = append(m.alerts, out.Alerts...)
	for _, g := range out.Grants {
		s := m.shops[g.Seller]
		if s.write != nil {
			m.t.Fatalf("%s is granted %+v while %+v is open", s.name, g, *s.write)
		}
		s.write, s.applied = &g, false
		s.dueAt = m.now + m.exp(m.writes)
		m.written++
	}
	if m.crash > 0 && m.rnd.Float64() < m.crash {
		x := m.sku.Snapshot()
		m.sku = escrow.Restore(&x)
	}
}

func (m *market) exp(mean int64) int64 { return 1 + int64(m.rnd.ExpFloat64()*float64(mean)) }

// step lets a millisecond pass at every channel.
func (m *market) step() {
	m.now++
	for _, s := range m.shops {
		if m.rnd.Float64() < s.demand/1000 && s.shown[s.external] > 0 {
			s.shown[s.external]--
			s.sold++
			m.sales++
			s.unseen = append(s.unseen, sale{at: m.now, n: 1})
		}
		seen := false
		for i := 0; i < len(s.unseen); i++ {
			if m.rnd.Float64() > 1/float64(m.events) {
				continue
			}
			x := s.unseen[i]
			s.unseen = slices.Delete(s.unseen, i, i+1)
			i--
			m.stock -= x.n
			m.counters[s.name] += x.n
			m.level(s.name, x.n, x.at)
			if m.stock < 0 {
				m.oversold++
			}
			seen = true
		}
		if m.rnd.Float64() < 1/500.0 {
			mark := m.now - 1
			for _, x := range s.unseen {
				mark = min(mark, x.at-1)
			}
			s.marked = max(s.marked, mark)
			seen = true
		}
		if w := s.write; w != nil {
			if !s.applied && m.now >= s.dueAt {
				s.applied = true
				s.result = m.apply(s, w)
				s.answer = m.now + m.exp(m.writes/4)
			}
			if s.applied && m.now >= s.answer {
				s.result.AckedAt = m.now * 1000
				s.write = nil
				if !m.sku.Result(&s.result, 0) {
					m.t.Fatalf("result %+v is not taken", s.result)
				}
				seen = true
			}
		}
		if seen {
			m.decide()
		}
	}
	if m.now%1000 == 0 {
		m.decide()
	}
}

func (m *market) apply(s *shop, g *escrow.Grant) escrow.Result {
	r := escrow.Result{ID: g.ID, Channel: s.name, Outcome: write.Applied, ShownAt: m.now * 1000}
	was := s.shown[g.ExternalID]
	switch g.Write.Operation {
	case write.Read:
		r.Shown, r.ShownKnown = was, true
		return r
	case write.CompareAndSet:
		if was != g.Write.Expected {
			r.Outcome, r.ErrorCode, r.Shown, r.ShownKnown = write.Refused, escrow.Stale, was, s.tells
			return r
		}
		s.shown[g.ExternalID] = g.Write.Quantity
	case write.Delta:
		s.shown[g.ExternalID] = was + g.Write.Delta
		if s.clamps {
			s.shown[g.ExternalID] = max(0, was+g.Write.Delta)
		}
	default:
		s.shown[g.ExternalID] = g.Write.Quantity
	}
	r.Shown, r.ShownKnown = s.shown[g.ExternalID], s.tells
	return r
}

// truth checks what only the channels know against the books.
func (m *market) truth() {
	m.t.Helper()
	var could units
	for _, s := range m.shops {
		x := units(0)
		for _, n := range s.shown {
			x += max(0, n)
		}
		for _, u := range s.unseen {
			x += u.n
		}
		could += x
		if v, ok := m.sku.View(s.name); ok && v.Known && v.Exposure < x {
			m.t.Fatalf("%d: %s could still report %d and its exposure is %d: %+v", m.now, s.name, x, v.Exposure, v)
		}
	}
	if m.sku.Guarded() && could > m.stock {
		m.t.Fatalf("%d: channels could still report %d of %d", m.now, could, m.stock)
	}
}

var _ = exposure.Write{}

func TestSmoke(t *testing.T) {
	for _, g := range []allocation.Guarantee{allocation.Strict} {
		for seed := range uint64(5) {
			for _, ks := range [][]kind{{cas, cas, cas, cas}, {absolute, absolute, absolute, absolute}, {delta, delta, delta, delta}, {cas, casOnly, absolute, readable, delta, tellsIt, cas, absolute}} {
				m := newMarket(t, seed, 200, g, ks...)
				m.level("", 0, 0)
				m.decide()
				for range 300_000 {
					m.step()
					m.truth()
					if m.stock == 0 {
						break
					}
				}
				t.Logf("seed %d %d kinds: sold %d of 200 in %ds, oversold %d, %d writes, %d decisions, exposed %d, alerts %v", seed, len(ks), m.sales, (m.now-3_600_000)/1000, m.oversold, m.written, m.decisions, m.sku.Exposed(), m.alerts)
				if m.stock != 0 {
					for _, s := range m.shops {
						v, _ := m.sku.View(s.name)
						t.Logf("%s shows %v %+v", s.name, s.shown, v)
					}
				}
			}
		}
	}
}
