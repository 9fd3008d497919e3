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

// runGap is the most unchanged sums that are written again rather than to begin another run: 256 bytes cost Redis less than one more command of a script.
const runGap = 32

// sumRuns fills s.runs with what to write of the digest, and s.sums with its bytes. Runs with little between them are written as one.
func (s *Step) sumRuns(p *ledger.Partition) {
	digest, changed := p.Digest(), p.DigestChanged()
	s.runs, s.sums = s.runs[:0], s.sums[:0]
	for b := range digest {
		if !changed[b] {
			continue
		}
		if n := len(s.runs); n > 0 && b-s.runs[n-1].to <= runGap {
			s.runs[n-1].to = b + 1
		} else {
			s.runs = append(s.runs, run{b, b + 1})
		}
	}
	for _, r := range s.runs {
		for b := r.from; b < r.to; b++ {
			s.sums = binary.LittleEndian.AppendUint64(s.sums, digest[b])
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
