package allocation

import (
	"slices"
	"strings"
)

// Place is a location as allocation sees it.
type Place struct {
	ID     string
	Buffer Units  // kept off all channels
	Owner  string // the only channel that sells from it; empty when it is shared
}

// Seller is a channel and the locations that serve it.
type Seller struct {
	ID    string
	Scope []string // ids of places; empty means all shared places and its own
}

// Layout is which channels sell from which places. It is compiled once per version of the settings and never changes: any number of
// solvers may share it.
type Layout struct {
	sellers []Seller // by id
	index   map[string]int
	group   []int // of each seller: sellers of one group have the same shared places
	groups  int
	places  []place
	byID    map[string]int
}

type place struct {
	Place
	owner  int      // seller, or -1 when shared
	served bool     // an owned place: its owner's scope has it
	groups []uint64 // a shared place: bit g is set when group g sells from it
}

// NewLayout compiles sellers and places; their order does not matter. Places that do not exist, and places that belong to another
// channel, are left out of a scope.
func NewLayout(sellers []Seller, places []Place) *Layout {
	l := &Layout{
		sellers: slices.SortedFunc(slices.Values(sellers), func(a, b Seller) int { return strings.Compare(a.ID, b.ID) }),
		index:   make(map[string]int, len(sellers)), byID: make(map[string]int, len(places)),
		group: make([]int, len(sellers)),
	}
	for i := range l.sellers {
		l.index[l.sellers[i].ID] = i
	}
	for _, p := range slices.SortedFunc(slices.Values(places), func(a, b Place) int { return strings.Compare(a.ID, b.ID) }) {
		at := place{Place: p, owner: -1}
		if p.Owner != "" {
			at.owner = len(sellers) // owned by a channel that does not exist: sold by nobody
			if i, ok := l.index[p.Owner]; ok {
				at.owner = i
			}
		}
		l.byID[p.ID] = len(l.places)
		l.places = append(l.places, at)
	}
	scopes := make(map[string]int) // shared places as bits -> group
	var members [][]byte
	for i, s := range l.sellers {
		bits := make([]byte, len(l.places))
		for j := range l.places {
			p := &l.places[j]
			in := len(s.Scope) == 0 || slices.Contains(s.Scope, p.ID)
			switch {
			case in && p.owner < 0:
				bits[j] = 1
			case in && p.owner == i:
				p.served = true
			}
		}
		g, ok := scopes[string(bits)]
		if !ok {
			g = len(members)
			scopes[string(bits)] = g
			members = append(members, bits)
		}
		l.group[i] = g
	}
	l.groups = len(members)
	for j := range l.places {
		l.places[j].groups = make([]uint64, (l.groups+63)/64)
		for g, bits := range members {
			if bits[j] == 1 {
				l.places[j].groups[g/64] |= 1 << (g % 64)
			}
		}
	}
	return l
}

// Sellers is the number of channels. They are numbered from 0 in order of their ids.
func (l *Layout) Sellers() int { return len(l.sellers) }

// SellerID is the id of channel i.
func (l *Layout) SellerID(i int) string { return l.sellers[i].ID }

// Seller is the number of a channel, or -1 when the layout has no such channel.
func (l *Layout) Seller(id string) int {
	if i, ok := l.index[id]; ok {
		return i
	}
	return -1
}

// Place is the number of a location, or -1 when the layout has no such location.
func (l *Layout) Place(id string) int {
	if i, ok := l.byID[id]; ok {
		return i
	}
	return -1
}

// Shared says that more than one channel may sell from a location; false when the layout has no such location.
func (l *Layout) Shared(id string) bool {
	i, ok := l.byID[id]
	return ok && l.places[i].owner < 0
}

// sells says whether group g sells from shared place p.
func (p *place) sells(g int) bool { return p.owner < 0 && p.groups[g/64]&(1<<(g%64)) != 0 }
