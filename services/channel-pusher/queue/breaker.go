package queue

import (
	"math/rand/v2"
	"time"
)

// breaker leaves a channel alone that fails. It counts the last answers: as many failures among twice as many open it; after a delay one request may
// try, and its answer closes it or opens it again. It is our own because those of libraries read the wall clock, which would keep a queue from running on
// another.
type breaker struct {
	failures int // that open it
	delay    time.Duration
	rng      *rand.Rand // a fifth of jitter on the delay, so that breakers that opened together do not try together

	state  breakerState
	last   []bool // failed, of the last 2 × failures answers
	next   int
	failed int       // of last
	until  time.Time // open: when one may try
	trying bool      // half open: one is trying
}

type breakerState uint8

const (
	closed breakerState = iota
	open
	halfOpen
)

func (s breakerState) String() string { return [...]string{"closed", "open", "half-open"}[s] }

// ready says whether a request may go now, and otherwise when to ask again (zero: after the next answer).
func (b *breaker) ready(now time.Time) (bool, time.Time) {
	switch {
	case b.state == closed:
		return true, time.Time{}
	case b.state == halfOpen:
		return !b.trying, time.Time{}
	case now.Before(b.until):
		return false, b.until
	}
	return true, time.Time{}
}

// take books a request that goes now.
func (b *breaker) take() {
	if b.state == closed {
		return
	}
	b.state, b.trying = halfOpen, true
}

// back books an answer.
func (b *breaker) back(failed bool, now time.Time) {
	if b.state != closed {
		// An answer to an earlier request tells as much as the trial's, except that it must not end the delay.
		if b.state == open {
			return
		}
		b.trying = false
		if failed {
			b.open(now)
		} else {
			b.close()
		}
		return
	}
	if len(b.last) < 2*b.failures {
		b.last = append(b.last, failed)
	} else {
		if b.last[b.next] {
			b.failed--
		}
		b.last[b.next] = failed
		b.next = (b.next + 1) % len(b.last)
	}
	if failed {
		b.failed++
	}
	if b.failed >= b.failures {
		b.open(now)
	}
}

func (b *breaker) open(now time.Time) {
	b.close()
	b.state = open
	b.until = now.Add(b.delay + time.Duration((b.rng.Float64()*0.4-0.2)*float64(b.delay)))
}

func (b *breaker) close() {
	b.state, b.failed, b.next, b.last, b.trying = closed, 0, 0, b.last[:0], false
}
