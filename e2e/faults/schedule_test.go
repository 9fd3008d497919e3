package faults

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// kind is what breaks.
type kind int

const (
	crash       kind = iota // a projector is killed, and another started once more events have come
	leave                   // a projector is stopped as a roll-out does, and another started
	move                    // one more projector joins; where there are three, one leaves
	zombie                  // a projector is frozen until others own its partitions, and goes on with what it was about to write
	snapshot                // Redis dies and comes back with what it held some events before
	flush                   // FLUSHALL
	unreachable             // no projector reaches Redis
	isolated                // one projector does not reach Redis, and still reaches Kafka
	frozen                  // Redis stands still
	broker                  // the broker is killed, and starts again
	outage                  // no projector reaches Redis for a time by the clock, and one more is started meanwhile; never drawn, as it takes so long
	restored                // Redis is down for a time by the clock, and comes back with what it held some events before; never drawn
	kinds
)

func (k kind) String() string {
	return [...]string{"crash", "leave", "move", "zombie", "snapshot", "flush", "unreachable", "isolated", "frozen", "broker", "outage", "restored"}[k]
}

// weights says how often a kind is drawn. What takes long is rare.
var weights = [kinds]int{crash: 8, leave: 2, move: 5, zombie: 4, snapshot: 4, flush: 3, unreachable: 4, isolated: 3, frozen: 2, broker: 1}

// moment is where in the step into Redis a crash or a freeze comes.
type moment int

const (
	anywhere moment = iota
	unsent          // the step has left the projector and has not reached Redis
	sent            // Redis has it, its answer is lost
	answered        // the answer is on its way to the projector: the next thing is output to Kafka
	moments
)

func (m moment) String() string { return [...]string{"anywhere", "unsent", "sent", "answered"}[m] }

// fault is one thing that breaks.
type fault struct {
	kind   kind
	at     int           // it comes once so many of the schedule's events are in Redis
	who    int           // which of the projectors that run, modulo their number
	moment moment        // of crash and zombie
	span   int           // events that come while it lasts
	lasts  time.Duration // of outage and restored
}

func (f fault) String() string {
	s := fmt.Sprintf("%d %s", f.at, f.kind)
	switch f.kind {
	case crash, zombie:
		s += fmt.Sprintf("(%d, %s, %d)", f.who, f.moment, f.span)
	case leave, move, isolated:
		s += fmt.Sprintf("(%d, %d)", f.who, f.span)
	case snapshot, unreachable, frozen:
		s += fmt.Sprintf("(%d)", f.span)
	case outage, restored:
		s += fmt.Sprintf("(%s, %d)", f.lasts, f.span)
	case flush, broker, kinds:
	}
	return s
}

// schedule is one run: all of it follows from the seed.
type schedule struct {
	seed       uint64
	events     int
	skus       int
	projectors int // at the start
	batch      int // most events in a step
	backlog    int // most events in the log that are not in Redis, while nothing is broken
	faults     []fault
}

func (s schedule) String() string {
	parts := make([]string, len(s.faults))
	for i, f := range s.faults {
		parts[i] = f.String()
	}
	return fmt.Sprintf("seed %d: %d events of %d SKUs, %d projectors, steps of %d, backlog %d: %s", s.seed, s.events, s.skus, s.projectors, s.batch, s.backlog, strings.Join(parts, ", "))
}

// draw makes the schedule of a seed. Kinds that are named come for certain, in this order.
func draw(seed uint64, named ...kind) schedule {
	rng := rand.New(rand.NewPCG(seed, 0xfa17))
	s := schedule{
		seed: seed, events: 6000 + rng.IntN(6000), skus: 20 + rng.IntN(400), projectors: 1 + rng.IntN(3), batch: 50 << rng.IntN(6), backlog: 300 << rng.IntN(4),
	}
	if len(named) == 0 {
		total := 0
		for _, w := range weights {
			total += w
		}
		for range 2 + rng.IntN(4) {
			n, k := rng.IntN(total), kind(0)
			for n >= weights[k] {
				n -= weights[k]
				k++
			}
			named = append(named, k)
		}
	}
	for i, k := range named {
		room := s.events * 8 / 10 / len(named)
		s.faults = append(s.faults, fault{kind: k, at: i*room + rng.IntN(room), who: rng.IntN(3), moment: moment(rng.IntN(int(moments))), span: 100 + rng.IntN(1000)})
	}
	return s
}

// lasting has the outages of a schedule last for a time.
func (s schedule) lasting(d time.Duration) schedule {
	for i := range s.faults {
		if k := s.faults[i].kind; k == outage || k == restored {
			s.faults[i].lasts = d
		}
	}
	return s
}

// TestTheSameSeedGivesTheSameSchedule holds that a printed seed is enough to repeat a schedule, and that seeds reach all that can break.
func TestTheSameSeedGivesTheSameSchedule(t *testing.T) {
	seen := map[string]bool{}
	drawn := map[string]bool{}
	for seed := range uint64(200) {
		s := draw(seed)
		if again := draw(seed); again.String() != s.String() {
			t.Errorf("seed %d gives\n%s and\n%s", seed, s, again)
		}
		drawn[s.String()] = true
		for i, f := range s.faults {
			seen[f.kind.String()] = true
			if f.kind == crash || f.kind == zombie {
				seen[f.kind.String()+" "+f.moment.String()] = true
			}
			if f.at >= s.events || i > 0 && f.at < s.faults[i-1].at {
				t.Errorf("%s: fault %d comes too late or before the one before", s, i)
			}
		}
	}
	if want := int(outage) + 2*int(moments); len(seen) != want {
		t.Errorf("200 seeds reach %d of %d faults: %v", len(seen), want, seen)
	}
	if len(drawn) != 200 {
		t.Errorf("200 seeds give %d schedules", len(drawn))
	}
}
