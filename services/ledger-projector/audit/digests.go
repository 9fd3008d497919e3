package audit

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/services/ledger-projector/internal/hotview"
	"github.com/onhand/onhand/stock/ledger"
)

// Mismatch is a sum of a partition's digest that its SKUs do not make.
type Mismatch struct {
	Partition int32
	Offset    int64 // of the partition when it was read
	Bucket    int
	SKUs      []string // of the bucket: at least one of them is not what its owner stored, or is missing
	Unread    []string // of those, what is no SKU of the ledger's at all
}

// String says what was found, for people.
func (m Mismatch) String() string {
	named := m.Unread
	if len(named) == 0 {
		named = m.SKUs
	}
	more := ""
	if len(named) > 5 {
		more = fmt.Sprintf(" and %d more", len(named)-5)
		named = named[:5]
	}
	return fmt.Sprintf("the stock of at least one of %q%s in Redis is not what the ledger stored (partition %d, offset %d, sum %d of its digest)", named, more, m.Partition, m.Offset, m.Bucket)
}

// Digests compares each sum of a partition's digest with the SKUs that Redis holds, once. Each bucket is read in one step with its sum, so that events may keep
// coming. wait is called with the number of SKUs read, and paces it; an error of it ends the check. It returns how many SKUs were read. A partition that
// is not there, is being cleared or has no digest yet has none to compare.
func Digests(ctx context.Context, c redis.UniversalClient, namespace string, p int32, wait func(skus int) error, report func(Mismatch)) (int, error) {
	ns := hotview.Namespace(namespace)
	g, err := hotview.LiveGeneration(ctx, c, ns, p)
	if err != nil {
		return 0, err
	}
	stored := ns.Generation(c, p, g)
	names, err := byBucket(ctx, stored)
	if err != nil {
		return 0, err
	}
	read := 0
	for b := range ledger.DigestBuckets {
		for doubt, short := false, 0; short < shortLists; {
			skus := names.skus[b]
			s, err := stored.Snapshot(ctx, skus)
			if err != nil {
				return read, err
			}
			if !s.Live || !s.Digested || s.Meta.Clearing {
				return read, nil
			}
			read += len(skus)
			if err := wait(len(skus)); err != nil {
				return read, err
			}
			m := Mismatch{Partition: p, Offset: s.Meta.Offset, Bucket: b, SKUs: skus}
			var sum uint64
			for i, sku := range skus {
				d, ok := hotview.DigestOf(sku, s.SKUs[i])
				if !ok {
					m.Unread = append(m.Unread, sku)
				}
				sum += d
			}
			if sum == s.Digest[b] && len(m.Unread) == 0 {
				break
			}
			// SKUs come, and none ever goes: a list that is as long as the set was at that moment is all of it, and any other says nothing about a sum.
			if s.Count == names.count {
				if doubt {
					report(m)
					break
				}
				doubt = true
			} else {
				short++
			}
			if names, err = byBucket(ctx, stored); err != nil {
				return read, err
			}
		}
	}
	return read, nil
}

// shortLists is how many times SKUs may come while they are listed: then the bucket is left to the next check.
const shortLists = 3

// listing is the SKUs of a partition by bucket.
type listing struct {
	skus  [ledger.DigestBuckets][]string
	count int
}

func byBucket(ctx context.Context, stored *hotview.Stored) (*listing, error) {
	all, err := stored.Names(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(all)
	out := listing{count: len(all)}
	for _, n := range all {
		b := ledger.DigestBucket(n)
		out.skus[b] = append(out.skus[b], n)
	}
	return &out, nil
}

// Buckets is how many sums a partition's digest has.
const Buckets = ledger.DigestBuckets
