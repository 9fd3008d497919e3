package hotview

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/stock/ledger"
)

// Stored is what one generation of a partition holds, for checking. It claims nothing. Safe for concurrent use.
type Stored struct {
	client    redis.UniversalClient
	ns        Namespace
	partition int32
	prefix    string
}

// Generation reads a generation of a partition.
func (n Namespace) Generation(c redis.UniversalClient, p int32, g Generation) *Stored {
	return &Stored{client: c, ns: n, partition: p, prefix: n.Prefix(p, g)}
}

// Partition is the partition's number.
func (s *Stored) Partition() int32 { return s.partition }

// Snapshot is some of what a partition holds, all of one moment.
type Snapshot struct {
	Meta      Meta
	partition int32
	Owner     string
	Live      bool // its generation is the live one
	Known     bool // there is such a generation
	Digest    Digest
	Digested  bool                // there is a digest
	SKUs      []map[string]string // the fields of those asked for; empty for one that is not there
	Listed    []bool              // whether each is in the set of the partition's SKUs
	Count     int                 // SKUs in that set
}

// Partition is the partition's number.
func (s *Snapshot) Partition() int32 { return s.partition }

// Snapshot reads SKUs, the partition's offset and its digest in one step.
func (s *Stored) Snapshot(ctx context.Context, skus []string) (*Snapshot, error) {
	var meta *redis.MapStringStringCmd
	var live, digest *redis.StringCmd
	hashes := make([]*redis.MapStringStringCmd, len(skus))
	var listed *redis.BoolSliceCmd
	var count *redis.IntCmd
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		meta = p.HGetAll(ctx, s.prefix+"meta")
		live = p.Get(ctx, s.ns.Live(s.partition))
		digest = p.Get(ctx, s.prefix+"digest")
		count = p.SCard(ctx, s.prefix+"skus")
		if len(skus) > 0 {
			members := make([]any, len(skus))
			for i, sku := range skus {
				hashes[i] = p.HGetAll(ctx, s.prefix+"sku:"+sku)
				members[i] = sku
			}
			listed = p.SMIsMember(ctx, s.prefix+"skus", members...)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read %s: %w", s.prefix, err)
	}
	out := &Snapshot{partition: s.partition, SKUs: make([]map[string]string, len(skus))}
	fields, err := meta.Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.prefix, err)
	}
	out.Known = len(fields) > 0
	out.Meta = Meta{Offset: NoOffset, Emitted: NoOffset, Levels: NoOffset}
	if out.Known {
		if out.Meta, err = parseMeta(fields); err != nil {
			return nil, err
		}
	}
	out.Owner = fields["owner"]
	prefix, err := live.Result()
	if errors.Is(err, redis.Nil) {
		prefix, err = s.ns.Prefix(s.partition, 0), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.ns.Live(s.partition), err)
	}
	out.Live = prefix == s.prefix
	switch b, err := digest.Bytes(); {
	case err == nil:
		out.Digest, out.Digested = parseDigest(b), true
	case !errors.Is(err, redis.Nil):
		return nil, fmt.Errorf("read %s: %w", s.prefix, err)
	}
	for i, h := range hashes {
		if out.SKUs[i], err = h.Result(); err != nil {
			return nil, fmt.Errorf("read SKU %s: %w", skus[i], err)
		}
	}
	n, err := count.Result()
	if err != nil {
		return nil, fmt.Errorf("read %sskus: %w", s.prefix, err)
	}
	out.Count = int(n)
	if listed != nil {
		if out.Listed, err = listed.Result(); err != nil {
			return nil, fmt.Errorf("read %sskus: %w", s.prefix, err)
		}
	}
	return out, nil
}

// Names is the SKUs of the partition, each once, in no order. SKUs that are added meanwhile may be missing.
func (s *Stored) Names(ctx context.Context) ([]string, error) {
	var out []string
	seen := make(map[string]bool)
	var cursor uint64
	for {
		names, next, err := s.client.SScan(ctx, s.prefix+"skus", cursor, "", 1000).Result()
		if err != nil {
			return nil, fmt.Errorf("read %sskus: %w", s.prefix, err)
		}
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
		if cursor = next; cursor == 0 {
			return out, nil
		}
	}
}

// Memory restores what the partition remembers beside its SKUs: ids, open items and moves. The offset it is of comes with it; at
// gives the fold of that offset, whose SKUs the moves speak of. ErrDamaged reports that it does not hold together.
func (s *Stored) Memory(ctx context.Context, o ledger.Options, at func(offset int64) (*ledger.Partition, error)) (p *ledger.Partition, offset int64, err error) {
	for {
		var meta, index *redis.MapStringStringCmd
		var locations *redis.StringSliceCmd
		_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			meta = p.HGetAll(ctx, s.prefix+"meta")
			index = p.HGetAll(ctx, s.prefix+"journal")
			locations = p.LRange(ctx, s.prefix+"locations", 0, -1)
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", s.prefix, err)
		}
		m, err := parseMeta(meta.Val())
		if err != nil {
			return nil, 0, err
		}
		skus, err := at(m.Offset)
		if err != nil {
			return nil, 0, err
		}
		r, err := ledger.Restore(o, append([]string{""}, locations.Val()...), m.Clock)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		skus.SKUs(func(k *ledger.SKU) bool {
			err = r.SKU(&ledger.Stored{SKU: k.Name()})
			return err == nil
		})
		if err != nil {
			return nil, 0, err
		}
		st := NewStore(s.client, s.ns, s.partition, "", Identity{})
		st.prefix = s.prefix
		err = st.readJournal(ctx, index.Val(), r)
		if errors.Is(err, ErrDamaged) { // unless a bucket ended meanwhile
			now, e := s.client.HGetAll(ctx, s.prefix+"journal").Result()
			if e != nil {
				return nil, 0, fmt.Errorf("read %s: %w", s.prefix, e)
			}
			gone := false
			for f := range index.Val() {
				_, ok := now[f]
				gone = gone || !ok
			}
			if gone {
				continue
			}
		}
		if err != nil {
			return nil, 0, err
		}
		return r.Done(), m.Offset, nil
	}
}

// Fields is the hash that a SKU of a fold must have in Redis.
func Fields(p *ledger.Partition, k *ledger.SKU) map[string]string {
	var st Step
	st.lasts = make([]text, 0, 1)
	out := map[string]string{
		"version": strconv.FormatInt(k.Version(), 10), "available": strconv.FormatInt(int64(k.Available()), 10), "last": string(st.last(k).b),
	}
	for _, c := range k.AppendChanges(nil, true) {
		name := ""
		switch c.Field {
		case ledger.Unassigned:
		case ledger.Sold, ledger.Restored, ledger.Allotted, ledger.Sequence:
			name = p.Channels()[c.Name]
		default:
			name = p.Locations()[c.Name]
		}
		out[fieldName(c.Field, name)] = strconv.FormatInt(c.Value, 10)
	}
	return out
}

// DigestOf is the digest of a SKU's hash; false when it is none that the ledger writes.
func DigestOf(sku string, fields map[string]string) (uint64, bool) {
	st, err := parseSKU(sku, fields)
	if err != nil {
		return 0, false
	}
	return st.Digest(), true
}
