package hotview

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/stock/ledger"
)

// Digest is the sums of a partition's digest, by bucket.
type Digest = [ledger.DigestBuckets]uint64

// run is neighbouring sums of the digest, to be written at once.
type run struct{ from, to int }

// sumRuns fills st.runs with what to write of the digest, and st.sums with its bytes. Runs with little between them are written as one.
func (st *Step) sumRuns(p *ledger.Partition) {
	digest, changed := p.Digest(), p.DigestChanged()
	st.runs, st.sums = st.runs[:0], st.sums[:0]
	for b := range digest {
		if !changed[b] {
			continue
		}
		if n := len(st.runs); n > 0 && b-st.runs[n-1].to <= 4 {
			st.runs[n-1].to = b + 1
		} else {
			st.runs = append(st.runs, run{b, b + 1})
		}
	}
	for _, r := range st.runs {
		for b := r.from; b < r.to; b++ {
			st.sums = binary.LittleEndian.AppendUint64(st.sums, digest[b])
		}
	}
}

// loadDigest reads the stored digest; nil when none is stored.
func (s *Store) loadDigest(ctx context.Context) (*Digest, error) {
	b, err := s.client.Get(ctx, s.key("digest")).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.prefix, err)
	}
	d := parseDigest(b)
	return &d, nil
}

// parseDigest reads what Step wrote. Redis leaves out zeros that nothing was written after.
func parseDigest(b []byte) (d Digest) {
	for i := range d {
		if len(b) >= 8*(i+1) {
			d[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
	}
	return d
}
