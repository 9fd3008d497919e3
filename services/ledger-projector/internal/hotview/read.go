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

// Read reads the levels of SKUs in one round trip; nil for a SKU that the ledger does not know. partition says where a SKU lives.
func (r *Reader) Read(ctx context.Context, skus []string, partition func(string) int32) ([]*ledger.Level, error) {
	found, err := r.fetch(ctx, skus, partition)
	if err != nil {
		return nil, fmt.Errorf("read %d SKUs from redis: %w", len(skus), err)
	}
	out := make([]*ledger.Level, len(skus))
	for i, fields := range found {
		if len(fields) == 0 {
			continue
		}
		st, err := parseSKU(skus[i], fields)
		if err != nil {
			return nil, err
		}
		out[i] = level(st)
	}
	return out, nil
}

// fetch reads hashes where they are taken to be, and then the pointers that say where they were. After a switch between generations it reads once more.
func (r *Reader) fetch(ctx context.Context, skus []string, partition func(string) int32) ([]map[string]string, error) {
	at := make([]int32, len(skus))
	used := make(map[int32]*redis.StringCmd)
	prefix := make(map[int32]string)
	for i, sku := range skus {
		at[i] = partition(sku)
		used[at[i]] = nil
	}
	for {
		r.mu.RLock()
		for p := range used {
			if prefix[p] = r.live[p]; prefix[p] == "" {
				prefix[p] = r.ns.Prefix(p, 0)
			}
		}
		r.mu.RUnlock()
		pipe := r.client.Pipeline()
		cmds := make([]*redis.MapStringStringCmd, len(skus))
		for i, sku := range skus {
			cmds[i] = pipe.HGetAll(ctx, prefix[at[i]]+"sku:"+sku)
		}
		for p := range used {
			used[p] = pipe.Get(ctx, r.ns.Live(p))
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		moved := false
		for p, cmd := range used {
			live, err := cmd.Result()
			if errors.Is(err, redis.Nil) {
				live, err = r.ns.Prefix(p, 0), nil
			}
			if err != nil {
				return nil, err
			}
			if live != prefix[p] {
				moved = true
				r.mu.Lock()
				r.live[p] = live
				r.mu.Unlock()
			}
		}
		if moved {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			continue
		}
		out := make([]map[string]string, len(skus))
		for i, c := range cmds {
			m, err := c.Result()
			if err != nil {
				return nil, err
			}
			out[i] = m
		}
		return out, nil
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
	return l
}
