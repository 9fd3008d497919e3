package hotview

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/stock/ledger"
)

// Read reads the levels of SKUs in one round trip; nil for a SKU that the ledger does not know. partition says where a SKU lives.
func Read(ctx context.Context, c redis.UniversalClient, ns Namespace, skus []string, partition func(string) int32) ([]*ledger.Level, error) {
	found, err := fetch(ctx, c, skus, func(sku string) string { return ns.SKU(partition(sku), sku) })
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
