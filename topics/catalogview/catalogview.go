// Package catalogview keeps the whole catalog of a brand in memory by following the catalog topics: channels, locations and rules, and
// the listing of each SKU. Every service that decides by them holds one [View].
package catalogview

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/topics"
)

// Change is what one read of the topics changed.
type Change struct {
	Settings bool     // channels, locations or rules
	SKUs     []string // SKUs whose listing changed
}

// View is the catalog as the topics last had it. Its readers may run at once, beside Run.
type View struct {
	client   *kgo.Client
	log      *slog.Logger
	settings atomic.Pointer[catalog.Settings]
	ready    chan struct{}

	mu        sync.RWMutex
	listings  map[string]*catalog.Listing
	listeners []func(Change)
}

// New makes a view over the catalog topics, which must exist. Run fills it.
func New(cfg kafka.Config, log *slog.Logger) (*View, error) {
	client, err := cfg.Client(log, "onhand-catalog",
		kgo.ConsumeTopics(schemas.CatalogSettings, schemas.CatalogListings), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	v := &View{client: client, log: log, ready: make(chan struct{}), listings: make(map[string]*catalog.Listing)}
	v.settings.Store(&catalog.Settings{
		Channels: map[string]*catalog.Channel{}, Locations: map[string]*catalog.Location{}, Rules: map[string]*catalog.Rule{}, Policies: map[string]*catalog.Policy{},
	})
	return v, nil
}

// OnChange calls f after each change, from Run's goroutine, once the change can be read. Register before Run.
func (v *View) OnChange(f func(Change)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.listeners = append(v.listeners, f)
}

// Settings is the channels, locations and rules. The value is never changed afterwards: do not change it either.
func (v *View) Settings() *catalog.Settings { return v.settings.Load() }

// Listing is the listing of a SKU, or nil when there is none. Do not change it.
func (v *View) Listing(sku string) *catalog.Listing {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.listings[sku]
}

// Listings calls f with each listing, in no order, until it returns false.
func (v *View) Listings(f func(*catalog.Listing) bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, l := range v.listings {
		if !f(l) {
			return
		}
	}
}

// WaitReady returns when the view holds all that the topics held when Run began.
func (v *View) WaitReady(ctx context.Context) error {
	select {
	case <-v.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("catalog not read yet: %w", ctx.Err())
	}
}

// Run follows the topics until ctx ends. It closes the view's client. A record that cannot be decoded is logged and skipped: its earlier value
// stays in force.
func (v *View) Run(ctx context.Context) error {
	defer v.client.Close()
	missing, err := v.ends(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if len(missing) == 0 {
		close(v.ready)
	}
	for {
		fetches := v.client.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return nil
		}
		var change Change
		fetches.EachError(func(t string, p int32, err error) {
			v.log.Warn("catalog fetch failed; trying again", "topic", t, "partition", p, "err", err)
		})
		next := *v.settings.Load()
		fetches.EachRecord(func(r *kgo.Record) {
			if err := v.apply(r, &next, &change); err != nil {
				v.log.Error("catalog record ignored", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "key", string(r.Key), "err", err)
			}
		})
		if change.Settings {
			v.settings.Store(&next)
		}
		v.mu.RLock()
		listeners := v.listeners
		v.mu.RUnlock()
		if change.Settings || len(change.SKUs) > 0 {
			for _, f := range listeners {
				f(change)
			}
		}
		if len(missing) == 0 {
			continue
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			key := partition{p.Topic, p.Partition}
			if end, ok := missing[key]; ok && len(p.Records) > 0 && p.Records[len(p.Records)-1].Offset+1 >= end {
				delete(missing, key)
			}
		})
		if len(missing) == 0 {
			close(v.ready)
		}
	}
}

type partition struct {
	topic string
	id    int32
}

// ends is the end offset of each partition that holds anything.
func (v *View) ends(ctx context.Context) (map[partition]int64, error) {
	adm := kadm.NewClient(v.client)
	starts, err := adm.ListStartOffsets(ctx, schemas.CatalogSettings, schemas.CatalogListings)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("catalog start offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, schemas.CatalogSettings, schemas.CatalogListings)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("catalog end offsets: %w", err)
	}
	missing := make(map[partition]int64)
	ends.Each(func(o kadm.ListedOffset) {
		if s, ok := starts.Lookup(o.Topic, o.Partition); ok && s.Offset < o.Offset {
			missing[partition{o.Topic, o.Partition}] = o.Offset
		}
	})
	return missing, nil
}

var errKey = errors.New("key is not kind/id")

func (v *View) apply(r *kgo.Record, next *catalog.Settings, change *Change) error {
	if r.Topic == schemas.CatalogListings {
		return v.applyListing(r, change)
	}
	kind, id, ok := strings.Cut(string(r.Key), "/")
	if !ok {
		return errKey
	}
	var s topics.Setting
	if len(r.Value) > 0 {
		got, err := topics.DecodeSetting(r.Value)
		if err != nil {
			return err
		}
		s = *got
	}
	if len(r.Value) > 0 && s.Key() != string(r.Key) { // to take it as a deletion would be worse than to leave it out
		return fmt.Errorf("%w: its value is %q", errKey, s.Key())
	}
	switch kind {
	case "channel":
		next.Channels = with(next.Channels, id, s.Channel)
	case "location":
		next.Locations = with(next.Locations, id, s.Location)
	case "rule":
		next.Rules = with(next.Rules, id, s.Rule)
	case "policy":
		next.Policies = with(next.Policies, id, s.Policy)
	default:
		return fmt.Errorf("setting kind %q is not known to this version", kind)
	}
	next.Version = r.Offset + 1
	change.Settings = true
	return nil
}

// with is m with id set to s, or without id when s is nil. m itself may be in use by readers and stays as it is.
func with[T any](m map[string]*T, id string, s *T) map[string]*T {
	m = maps.Clone(m)
	if s == nil {
		delete(m, id)
	} else {
		m[id] = s
	}
	return m
}

func (v *View) applyListing(r *kgo.Record, change *Change) error {
	sku := string(r.Key)
	var l *catalog.Listing
	if len(r.Value) > 0 {
		got, err := topics.DecodeListing(r.Value)
		if err != nil {
			return err
		}
		if l = got; l.SKU != sku {
			return fmt.Errorf("key is not the SKU of its value, %q", l.SKU)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if l == nil {
		delete(v.listings, sku)
	} else {
		v.listings[sku] = l
	}
	change.SKUs = append(change.SKUs, sku)
	return nil
}
