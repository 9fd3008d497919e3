package faults

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onhand/onhand/e2e/testbed"
)

// stepSource is the script that a projector has Redis run for a step.
func stepSource(t testing.TB) string {
	t.Helper()
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "services", "ledger-projector", "internal", "hotview", "step.lua"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What of a step is its fence.
const (
	byOwner  = "if meta[1] ~= ARGV[1] then return 'owner' end\n"
	byOffset = "if meta[2] ~= ARGV[2] then\n  if tonumber(meta[2]) >= tonumber(ARGV[3]) then return 'done' end\n  return 'stale'\nend\n"
)

// without is the script of a step that lacks some of its lines.
func without(t testing.TB, lines ...string) string {
	t.Helper()
	s := stepSource(t)
	for _, l := range lines {
		if strings.Count(s, l) != 1 {
			t.Fatalf("the script of a step does not have %q once", l)
		}
		s = strings.Replace(s, l, "", 1)
	}
	return s
}

// play has Redis run a step that was caught, by a script of one's own, and returns the answer.
func (r *rig) play(tr *trap, source string) string {
	r.t.Helper()
	args, err := arguments(tr.caught)
	r.must(err)
	args[0], args[1] = "eval", source
	answer, err := r.redis.Do(r.t.Context(), args...).Text()
	r.must(err)
	return answer
}

// arguments is what a command that is sent to Redis consists of.
func arguments(b []byte) ([]any, error) {
	in := bufio.NewReader(bytes.NewReader(b))
	number := func(kind byte) (int, error) {
		line, err := in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line[0] != kind {
			return 0, fmt.Errorf("%q does not begin with %q", line, kind)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := number('*')
	if err != nil {
		return nil, err
	}
	out := make([]any, n)
	for i := range out {
		size, err := number('$')
		if err != nil {
			return nil, fmt.Errorf("argument %d of %d: %w", i, n, err)
		}
		arg := make([]byte, size+2)
		if _, err := io.ReadFull(in, arg); err != nil {
			return nil, fmt.Errorf("argument %d of %d: %w", i, n, err)
		}
		out[i] = arg[:size]
	}
	return out, nil
}

// hold freezes a projector in the next step that it makes of the next n events, before the step has reached Redis.
func (r *rig) hold(p *projector, n int) *trap {
	r.t.Helper()
	r.gone(p) // it is to write nothing, and does not count
	tr := p.wires[0].set(unsent, func() { _ = p.Pause() })
	r.t.Cleanup(func() {
		select {
		case <-tr.release:
		default:
			close(tr.release)
		}
	})
	r.span(n)
	select {
	case <-tr.sprung:
	case <-time.After(r.patience):
		r.t.Fatal("no step has come by")
	}
	return tr
}

// arrive lets a step that is held go on to Redis, and returns the answer.
func (r *rig) arrive(tr *trap) string {
	r.t.Helper()
	close(tr.release)
	select {
	case answer := <-tr.answer:
		return answer
	case <-time.After(r.patience):
		r.t.Fatal("Redis does not answer the step")
		return ""
	}
}

// unharmed fails the test when Redis is not the fold of the log.
func (r *rig) unharmed(after string) {
	r.t.Helper()
	differ, _ := r.verify()
	for _, d := range differ {
		r.t.Errorf("after %s: %s", after, d)
	}
}

// harmed fails the test when Redis is the fold of the log.
func (r *rig) harmed(after string) {
	r.t.Helper()
	differ, _ := r.verify()
	if len(differ) == 0 {
		r.t.Errorf("after %s Redis is still the fold of the log, as far as can be seen", after)
		return
	}
	r.t.Logf("after %s Redis differs from the fold in %d places, as %s", after, len(differ), differ[0])
}

// TestTheFenceHoldsOffAZombie has a step arrive in Redis after another projector has taken its partition over and folded further. It is refused, by whom it is from and by the
// offset it was made on, each by itself. By a script that checks neither it is applied, and that is seen: so what the other tests of this package compare can differ.
func TestTheFenceHoldsOffAZombie(t *testing.T) {
	const part = 400
	r := fresh(t, program, schedule{seed: 21, events: 3 * part, skus: 8, batch: 1000, backlog: 1000})
	zombie := r.start()
	r.span(part)
	r.caughtUp()
	tr := r.hold(zombie, part)
	heir := r.start()
	r.caughtUp()
	r.span(part)
	r.caughtUp()
	r.must(heir.Pause()) // it would notice what is done to its partition below, and put it right
	if got := r.arrive(tr); got != "$5\r\nowner\r\n" {
		t.Errorf("Redis answers the late step %q; want that another is the owner", got)
	}
	r.unharmed("the late step")
	for _, c := range []struct{ name, script, answer string }{
		{"a step that does not look at the owner", without(t, byOwner), "done"},
		{"a step that does not look at the offset", without(t, byOffset), "owner"},
	} {
		if got := r.play(tr, c.script); got != c.answer {
			t.Errorf("Redis answers %s %q, want %q", c.name, got, c.answer)
		}
		r.unharmed(c.name)
	}
	if got := r.play(tr, without(t, byOwner, byOffset)); got != "applied" {
		t.Errorf("Redis answers a step without a fence %q, want that it is applied", got)
	}
	r.harmed("a step without a fence")
	r.must(heir.Resume())
	r.must(zombie.Resume())
	r.eventually("the harm is put right", func(context.Context) error {
		if r.look(); r.applied < r.events {
			return fmt.Errorf("%d of %d events are in Redis", r.applied, r.events)
		}
		return diff(r.inRedis(), r.load.levels())
	})
	r.unharmed("the owner has noticed")
}

// TestTheFenceHoldsOffAStepOnLostState has Redis come back with what it held before, while its owner has a step under way to it. It is refused by its offset; the owner is the
// same. By a script that does not look at the offset it is applied, and that is seen.
func TestTheFenceHoldsOffAStepOnLostState(t *testing.T) {
	const part = 400
	r := fresh(t, program, schedule{seed: 22, events: 3 * part, skus: 400, batch: 1000, backlog: 1000})
	owner := r.start()
	r.span(part)
	r.caughtUp()
	r.must(r.server.Dump(t.Context()))
	r.span(part)
	r.caughtUp()
	tr := r.hold(owner, part)
	r.must(r.server.Kill())
	r.must(r.server.Start(t.Context()))
	for _, c := range []struct{ name, script string }{
		{"the step", stepSource(t)},
		{"a step that does not look at the owner", without(t, byOwner)},
	} {
		if got := r.play(tr, c.script); got != "stale" {
			t.Errorf("Redis answers %s %q, want that it is stale", c.name, got)
		}
		r.unharmed(c.name)
	}
	if got := r.play(tr, without(t, byOffset)); got != "applied" {
		t.Errorf("Redis answers a step that does not look at the offset %q, want that it is applied", got)
	}
	r.harmed("a step that does not look at the offset")
}
