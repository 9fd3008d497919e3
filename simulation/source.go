package simulation

import (
	"math"
	"math/rand/v2"
)

// source is randomness from a seed. Draws of durations use integer tables, so that they are the same on every processor.
type source struct{ pcg rand.PCG }

// newSource is the stream of a seed. Streams of one seed are independent of one another: what one part draws does not shift what another sees.
func newSource(seed uint64, stream uint64) *source {
	s := &source{}
	s.pcg.Seed(seed*0x9E3779B97F4A7C15+0x2545F4914F6CDD1D, stream*0xD1B54A32D192ED03+seed)
	return s
}

func (s *source) bits() uint64 { return s.pcg.Uint64() }

// below is uniform in [0, n).
func (s *source) below(n int64) int64 {
	if n <= 1 {
		return 0
	}
	// The bias is below 2⁻³⁰ for the n that are used here.
	return int64((s.bits() >> 1) % uint64(n))
}

// between is uniform in [lo, hi].
func (s *source) between(lo, hi int64) int64 { return lo + s.below(hi-lo+1) }

// chance is true once in a million × ppm.
func (s *source) chance(ppm int64) bool { return ppm > 0 && int64(s.bits()>>44)*1_000_000>>20 < ppm }

const tableSize = 4096

// exponential and normal are quantiles: of −ln(1−u) in 1/65536, and of the standard normal in 1/4096.
var exponential, normal = func() (e [tableSize]int64, n [tableSize]int64) {
	for i := range tableSize {
		u := (float64(i) + 0.5) / tableSize
		e[i] = int64(math.Round(-math.Log1p(-u) * 65536))
		n[i] = int64(math.Round(math.Sqrt2 * math.Erfinv(2*u-1) * 4096))
	}
	return e, n
}()

// wait is exponential with a mean.
func (s *source) wait(mean int64) int64 {
	return mean * exponential[s.bits()>>52] >> 16
}

// powers is 2^(i/256) in 1/65536, for skewed.
var powers = func() (p [256]int64) {
	for i := range p {
		p[i] = int64(math.Round(math.Exp2(float64(i)/256) * 65536))
	}
	return p
}()

// skewed is log-normal: the median, times 2 to the power of spread/256 standard deviations.
func (s *source) skewed(median, spread int64) int64 {
	x := normal[s.bits()>>52] * spread >> 12 // exponent in 1/256
	whole, part := x>>8, x&255
	v := median * powers[part] >> 16
	if whole >= 0 {
		return v << min(whole, 20)
	}
	return v >> min(-whole, 60)
}
