package apikey

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/onhand/onhand/platform/problem"
)

// Limiter holds each key to a rate of requests: a token bucket per key name. The number of buckets is the number of keys.
type Limiter struct {
	rate  rate.Limit
	burst int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

// NewLimiter allows each key perSecond requests a second, and burst at once after a pause. A perSecond of 0 sets no limit.
func NewLimiter(perSecond float64, burst int) *Limiter {
	return &Limiter{rate: rate.Limit(perSecond), burst: burst, buckets: make(map[string]*rate.Limiter)}
}

// Middleware answers 429 with Retry-After to a request beyond the rate of its key. It belongs behind [Keys.Require].
func (l *Limiter) Middleware(next http.Handler) http.Handler {
	if l.rate <= 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := From(r.Context())
		if wait := l.take(p.Name, time.Now()); wait > 0 {
			d := problem.New(http.StatusTooManyRequests, "rate-limited", "Too many requests", fmt.Sprintf(
				"the key %q may make %g requests a second: wait as Retry-After says, and send more items in each request", p.Name, float64(l.rate)))
			d.RetryAfter = wait
			problem.Write(w, d)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// take takes a token of the key's bucket, or says how long to wait for one.
func (l *Limiter) take(name string, now time.Time) time.Duration {
	l.mu.Lock()
	b := l.buckets[name]
	if b == nil {
		b = rate.NewLimiter(l.rate, l.burst)
		l.buckets[name] = b
	}
	l.mu.Unlock()
	res := b.ReserveN(now, 1)
	if !res.OK() {
		return time.Second
	}
	wait := res.DelayFrom(now)
	if wait > 0 {
		res.CancelAt(now)
	}
	return wait
}
