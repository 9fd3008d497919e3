package escrow

import "math"

// Half-lives of the two counts from which a sale rate is estimated, in microseconds: one that follows a flash sale, one that knows the channel.
const (
	fastHalf int64 = 15_000_000
	slowHalf int64 = 600_000_000
)

// milli is the scale of counts and rates: thousandths of a unit, a second.
const milli = 1000

// decay lowers a count by what has passed of its half-life.
func decay(n, passed, half int64) int64 {
	if passed <= 0 || n == 0 {
		return n
	}
	k := passed / half
	if k > 40 {
		return 0
	}
	n >>= k
	return n - n*(passed-k*half)/(2*half)
}

// count adds a sale.
func (c *channel) count(sold Units, at int64) {
	at = max(at, c.at)
	n := int64(min(sold, 1_000_000_000)) * milli
	c.fast = decay(c.fast, at-c.at, fastHalf) + n
	c.slow = decay(c.slow, at-c.at, slowHalf) + n
	c.at = at
}

// perSecond turns a decayed count into thousandths of a unit a second.
func perSecond(n, half int64) int64 {
	const ln2 = 693_147 // millionths
	return n * ln2 / half
}

// rate is the higher of the two estimates, in thousandths of a unit a second.
func (c *channel) rate(now int64) int64 {
	return max(perSecond(decay(c.fast, now-c.at, fastHalf), fastHalf), perSecond(decay(c.slow, now-c.at, slowHalf), slowHalf))
}

// demand is the long count, for shares.
func (c *channel) demand(now int64) int64 { return decay(c.slow, now-c.at, slowHalf) }

// Rate is the estimated sale rate of a channel, in thousandths of a unit a second.
func (s *SKU) Rate(id string, now int64) int64 {
	if c := s.find(id); c != nil {
		return c.rate(now)
	}
	return 0
}

// OversellProbability is the probability that a channel in pooled mode sells more than there is, once the pool is sold out: that it sells more than
// its buffer while the news is under way. The rate is in thousandths of a unit a second, the window (event and write delay together) in
// microseconds. Sales are taken to be a Poisson process.
func OversellProbability(rate, window int64, buffer Units) float64 {
	return tail(float64(rate)/milli*float64(window)/1e6, buffer)
}

// ExpectedOversell is how many units a channel in pooled mode is expected to sell beyond its buffer, once the pool is sold out and while the news is under way.
// Arguments are those of [OversellProbability].
func ExpectedOversell(rate, window int64, buffer Units) float64 {
	mean := float64(rate) / milli * float64(window) / 1e6
	return max(0, mean*tail(mean, buffer-1)-float64(buffer)*tail(mean, buffer))
}

// tail is P(Poisson(mean) > n).
func tail(mean float64, n Units) float64 {
	switch {
	case mean <= 0:
		return 0
	case n < 0:
		return 1
	case float64(n) < mean: // the lower part is the smaller sum
		sum, term := 0.0, math.Exp(-mean)
		if term == 0 { // beyond what floats hold, by the normal law
			return 0.5 * math.Erfc((float64(n)+0.5-mean)/math.Sqrt(2*mean))
		}
		for k := Units(0); k <= n; k++ {
			sum += term
			term *= mean / float64(k+1)
		}
		return max(0, 1-sum)
	default:
		lg, _ := math.Lgamma(float64(n) + 2)
		sum, term := 0.0, math.Exp(float64(n+1)*math.Log(mean)-mean-lg)
		for k := n + 2; term > sum*1e-17 && term > 0; k++ {
			sum += term
			term *= mean / float64(k)
		}
		return min(1, sum)
	}
}

// most is the number of sales that a Poisson process of that mean exceeds once in a million times.
func most(mean float64) Units {
	if mean <= 0 {
		return 0
	}
	// Start below, by the normal law, and step: a handful of terms.
	n := Units(max(0, mean+3*math.Sqrt(mean)))
	for tail(mean, n) > 1e-6 {
		n++
	}
	return n
}
