package hotview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/stock/ledger"
)

// Reader reads the live generations. Safe for concurrent use.
type Reader struct {
	client redis.UniversalClient
	ns     Namespace

	mu   sync.RWMutex
	live map[int32]string // prefix by partition, as last seen: a guess that each read checks
}

// NewReader reads the ledger under a namespace.
func NewReader(c redis.UniversalClient, ns Namespace) *Reader {
	return &Reader{client: c, ns: ns, live: make(map[int32]string)}
}

// View is what one read found.
type View struct {
	Levels  []*ledger.Level // in the order asked; nil for a SKU that the ledger does not know
	Applied map[int32]int64 // by partition: events up to this offset of stock.events are in Levels, later ones may be; NoOffset before the first
}

// Read reads the levels of SKUs in one round trip (in a Redis Cluster: one to each node that is concerned, at the same time; no command has keys of two slots).
// partition says where a SKU lives.
func (r *Reader) Read(ctx context.Context, skus []string, partition func(string) int32) (View, error) {
	v, found, err := r.fetch(ctx, skus, partition)
	if err != nil {
		return View{}, fmt.Errorf("read %d SKUs from redis: %w", len(skus), err)
	}
	v.Levels = make([]*ledger.Level, len(skus))
	for i, f := range found {
		if len(f.fields) == 0 {
			continue
		}
		st, err := parseSKU(skus[i], f.fields)
		if err != nil {
			return View{}, err
		}
		v.Levels[i] = level(st)
		v.Levels[i].Generation = int64(f.generation)
	}
	return v, nil
}

type hash struct {
	fields     map[string]string
	generation Generation
}

// place is what a read asks about a partition besides its SKUs.
type place struct {
	prefix        string
	applied, live *redis.StringCmd
}

// fetch reads how far each partition is, then hashes where they are taken to be, and then the pointers that say where they were: commands of a slot are answered in
// order. After a switch between generations it reads once more.
func (r *Reader) fetch(ctx context.Context, skus []string, partition func(string) int32) (View, []hash, error) {
	at := make([]*place, len(skus))
	used := make(map[int32]*place)
	numbers := make([]int32, len(skus))
	for i, sku := range skus {
		n := partition(sku)
		if used[n] == nil {
			used[n] = new(place)
		}
		at[i], numbers[i] = used[n], n
	}
	cmds := make([]*redis.MapStringStringCmd, len(skus))
	for {
		pipe := r.client.Pipeline()
		r.mu.RLock()
		for n, p := range used {
			if p.prefix = r.live[n]; p.prefix == "" {
				p.prefix = r.ns.Prefix(n, 0)
			}
			p.applied = pipe.HGet(ctx, p.prefix+"meta", "offset")
		}
		r.mu.RUnlock()
		for i, sku := range skus {
			cmds[i] = pipe.HGetAll(ctx, at[i].prefix+"sku:"+sku)
		}
		for n, p := range used {
			p.live = pipe.Get(ctx, r.ns.Live(n))
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return View{}, nil, err
		}
		moved := false
		v := View{Applied: make(map[int32]int64, len(used))}
		for n, p := range used {
			live, err := p.live.Result()
			if errors.Is(err, redis.Nil) {
				live, err = r.ns.Prefix(n, 0), nil
			}
			if err != nil {
				return View{}, nil, err
			}
			if live != p.prefix {
				moved = true
				r.mu.Lock()
				r.live[n] = live
				r.mu.Unlock()
			}
			v.Applied[n], err = p.applied.Int64()
			if errors.Is(err, redis.Nil) {
				v.Applied[n], err = NoOffset, nil
			}
			if err != nil {
				return View{}, nil, err
			}
		}
		if moved {
			if err := ctx.Err(); err != nil {
				return View{}, nil, err
			}
			continue
		}
		out := make([]hash, len(skus))
		for i, c := range cmds {
			m, err := c.Result()
			if err != nil {
				return View{}, nil, err
			}
			g, _ := r.ns.parsePrefix(numbers[i], at[i].prefix)
			out[i] = hash{m, g}
		}
		return v, out, nil
	}
}

// level is the public state of a stored SKU.
func level(st *ledger.Stored) *ledger.Level {
	l := &ledger.Level{
		SKU: st.SKU, Version: st.Version, SourceOffset: st.Offset, EventID: st.EventID, EventKind: st.EventKind, ReceivedAt: st.ReceivedAt,
		OldestReceivedAt: st.ReceivedAt,
	}
	byName := make(map[string]*ledger.LocationLevel)
	for _, c := range st.Changes {
		units := ledger.Units(c.Value)
		switch c.Field {
		case ledger.Unassigned:
			l.Unassigned = units
		case ledger.Sold:
			l.Sold = append(l.Sold, ledger.ChannelUnits{Channel: c.Name, Units: units})
		case ledger.Restored:
			l.Restored = append(l.Restored, ledger.ChannelUnits{Channel: c.Name, Units: units})
		case ledger.Allotted:
			a := allotment(l, c.Name)
			a.Units, a.Ended = max(0, units), units < 0
		case ledger.Sequence:
			allotment(l, c.Name).Sequence = c.Value
		default:
			at := byName[c.Name]
			if at == nil {
				at = &ledger.LocationLevel{Location: c.Name}
				byName[c.Name] = at
			}
			switch c.Field {
			case ledger.OnHand:
				at.OnHand = units
			case ledger.Committed:
				at.Committed = units
			case ledger.Held:
				at.Held = units
			case ledger.Inbound:
				at.Inbound = units
			case ledger.Unsellable:
				at.Unsellable = units
			case ledger.Safety:
				at.Safety = units
			case ledger.MovedAt:
				at.MovedAt = c.Value
			case ledger.CountedAsOf:
				at.CountedAsOf = c.Value
			case ledger.CountsFrom:
				at.CountsFrom = c.Value
			}
		}
	}
	for _, at := range byName {
		l.Locations = append(l.Locations, *at)
	}
	slices.SortFunc(l.Locations, func(a, b ledger.LocationLevel) int { return strings.Compare(a.Location, b.Location) })
	byChannel := func(a, b ledger.ChannelUnits) int { return strings.Compare(a.Channel, b.Channel) }
	slices.SortFunc(l.Sold, byChannel)
	slices.SortFunc(l.Restored, byChannel)
	slices.SortFunc(l.Allotments, func(a, b ledger.Allotment) int { return strings.Compare(a.Channel, b.Channel) })
	return l
}

func allotment(l *ledger.Level, channel string) *ledger.Allotment {
	for i := range l.Allotments {
		if l.Allotments[i].Channel == channel {
			return &l.Allotments[i]
		}
	}
	l.Allotments = append(l.Allotments, ledger.Allotment{Channel: channel})
	return &l.Allotments[len(l.Allotments)-1]
}
