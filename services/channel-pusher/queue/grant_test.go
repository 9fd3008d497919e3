package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/write"
)

const lateWindow = 2 * defaultTimeout

// firstly answers the first requests that write as told, and the others properly.
func firstly(as ...answer) func(*Request) answer {
	n := 0
	return func(j *Request) answer {
		if j.Read() || n == len(as) {
			return answer{}
		}
		n++
		return as[n-1]
	}
}

// Every way in which a granted write can end.
func TestOutcomesOfGrantedWrites(t *testing.T) {
	timeout := answer{after: 10 * time.Second, err: errTimeout}
	for name, c := range map[string]struct {
		op        write.Operation
		n, d, e   int64
		sku       string
		answers   []answer
		want      []string
		sent      int
		shown     int64
		noReads   bool
		wantAcked bool
	}{
		"absolute":                       {op: catalog.Absolute, n: 3, want: []string{"applied shows 3"}, sent: 1, shown: 3, wantAcked: true},
		"delta":                          {op: catalog.Delta, d: -2, want: []string{"applied shows 3"}, sent: 1, shown: 3, wantAcked: true},
		"compare and set":                {op: catalog.CompareAndSet, n: 9, e: 5, want: []string{"applied shows 9"}, sent: 1, shown: 9, wantAcked: true},
		"stale":                          {op: catalog.CompareAndSet, n: 9, e: 4, want: []string{"refused stale shows 5"}, sent: 1, shown: 5, wantAcked: true},
		"refused":                        {op: catalog.Absolute, n: 3, sku: "refused", want: []string{"refused not_listed"}, sent: 1, wantAcked: true},
		"read":                           {op: write.Read, want: []string{"applied shows 5"}, shown: 5, wantAcked: true},
		"read that cannot be":            {op: write.Read, noReads: true, want: []string{"not_sent unsupported"}, shown: 5},
		"too many to show":               {op: catalog.Absolute, n: 10_000, want: []string{"not_sent unsupported"}, shown: 5},
		"malformed":                      {op: catalog.Absolute, n: 3, answers: []answer{{err: errBad}}, want: []string{"refused malformed"}, sent: 1, shown: 5, wantAcked: true},
		"throttled, then applied":        {op: catalog.Delta, d: 2, answers: []answer{{err: throttled(time.Second)}, {err: throttled(0)}}, want: []string{"applied shows 7"}, sent: 3, shown: 7, wantAcked: true},
		"out of order, then applied":     {op: catalog.Delta, d: 2, answers: []answer{{err: errOut}, {err: errOut}, {err: errRefused}}, want: []string{"applied shows 7"}, sent: 4, shown: 7, wantAcked: true},
		"busy, then applied":             {op: catalog.Delta, d: 2, answers: []answer{{verdict: adapter.Busy}}, want: []string{"applied shows 7"}, sent: 2, shown: 7, wantAcked: true},
		"lost":                           {op: catalog.Delta, d: 2, answers: []answer{timeout}, want: []string{"unknown uncertain", "unknown uncertain settled shows 5"}, sent: 1, shown: 5},
		"answer lost":                    {op: catalog.Delta, d: 2, answers: []answer{{after: time.Second, err: errTimeout, applied: true}}, want: []string{"unknown uncertain", "unknown uncertain settled shows 7"}, sent: 1, shown: 7},
		"applied late":                   {op: catalog.Delta, d: 2, answers: []answer{{after: 10 * time.Second, err: errTimeout, late: 29 * time.Second}}, want: []string{"unknown uncertain", "unknown uncertain settled shows 7"}, sent: 1, shown: 7},
		"nothing said":                   {op: catalog.Absolute, n: 3, answers: []answer{{verdict: 77}}, want: []string{"unknown no_answer", "unknown no_answer settled shows 5"}, sent: 1, shown: 5},
		"lost, and nothing can be read":  {op: catalog.Absolute, n: 3, answers: []answer{timeout}, noReads: true, want: []string{"unknown uncertain", "unknown uncertain settled"}, sent: 1, shown: 5},
		"out of order, then answer lost": {op: catalog.Absolute, n: 3, answers: []answer{{err: errOut}, {err: errTimeout, applied: true}}, want: []string{"unknown uncertain", "unknown uncertain settled shows 3"}, sent: 2, shown: 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, catalog.Channel{Operation: catalog.Absolute})
			r.caps.ReadBack = !c.noReads
			r.configure()
			sku := "a"
			if c.sku != "" {
				sku = c.sku
			} else {
				r.shown[sku] = 5
			}
			r.respond = firstly(c.answers...)
			r.grant(sku, "w1", c.op, c.n, c.d, c.e)
			if r.p.Commit() != 0 {
				t.Error("the offset passed an open write")
			}
			r.pass(time.Hour)
			r.want("w1", c.want...)
			if got := r.count("w1"); got != c.sent {
				t.Errorf("sent %d times, want %d", got, c.sent)
			}
			if r.shown[sku] != c.shown {
				t.Errorf("shows %d, want %d", r.shown[sku], c.shown)
			}
			if r.p.Commit() != 1 || r.q.Busy() != 0 {
				t.Errorf("commit at %d, busy %d", r.p.Commit(), r.q.Busy())
			}
			got := r.of("w1")
			last := got[len(got)-1]
			if last.Operation != c.op || last.SKU != sku || last.Channel != "shop" || last.ExternalID != sku || last.SourceOffset != 17 || last.DecidedAt != 2 || int64(last.Delta) != c.d {
				t.Errorf("result %+v", last)
			}
			if c.op != write.Read && last.Attempts != c.sent {
				t.Errorf("%d attempts, want %d", last.Attempts, c.sent)
			}
			if (last.AckedAt > 0) != c.wantAcked {
				t.Errorf("acked at %d", last.AckedAt)
			}
			if last.ShownKnown != (last.ShownAt > 0) || last.ShownKnown && last.ShownAt != r.at[len(r.at)-1].UnixMicro() {
				t.Errorf("shown at %d, and not when the answer came: %+v", last.ShownAt, last)
			}
			if len(got) == 2 { // in doubt: told when the answer failed to come, and again after the late window
				told, over := r.at[len(r.at)-2], r.at[len(r.at)-1]
				if d := over.Sub(told); d < lateWindow {
					t.Errorf("settled after %s", d)
				}
				if last.ShownKnown && last.ShownAt < told.Add(lateWindow).UnixMicro() {
					t.Error("read before the late window was over")
				}
			}
		})
	}
}

func TestLateWindowIsAChannelSetting(t *testing.T) {
	for _, c := range []struct {
		conf catalog.Channel
		want time.Duration
	}{
		{catalog.Channel{TimeoutMS: 3000}, 6 * time.Second}, {catalog.Channel{TimeoutMS: 3000, LateWindowMS: 45_000}, 45 * time.Second},
	} {
		r := newRig(t, c.conf)
		r.respond = firstly(answer{err: errTimeout})
		r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
		r.pass(c.want - time.Millisecond)
		r.want("w1", "unknown uncertain")
		r.pass(2 * time.Millisecond)
		r.want("w1", "unknown uncertain", "unknown uncertain settled shows 0")
	}
}

// The answer to the read may fail, too: it is asked again, as long as it takes.
func TestDoubtIsReadUntilItIsTold(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	n := 0
	r.respond = func(j *Request) answer {
		switch n++; {
		case n == 1:
			return answer{err: errTimeout, applied: true}
		case n < 30:
			return answer{err: errOut}
		}
		return answer{}
	}
	r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
	r.pass(time.Hour)
	r.want("w1", "unknown uncertain", "unknown uncertain settled shows 3")
}

// One bad granted write among many stops none of them.
func TestMalformedGrantStopsNoOther(t *testing.T) {
	r := newRig(t, catalog.Channel{BatchSize: 100, MaxInFlight: 1})
	r.respond = func(j *Request) answer {
		if slices.ContainsFunc(j.Items, func(it adapter.Item) bool { return it.ExternalID == "s33" }) {
			return answer{after: time.Millisecond, err: errBad}
		}
		return answer{after: time.Millisecond}
	}
	for i := range 64 {
		r.grant(fmt.Sprint("s", i), fmt.Sprint("w", i), catalog.Absolute, 3, 0, 0)
	}
	r.pass(time.Minute)
	for i := range 64 {
		if i == 33 {
			r.want("w33", "refused malformed")
		} else {
			r.want(fmt.Sprint("w", i), "applied shows 3")
		}
	}
	if n := r.q.State().Requests; n > 20 {
		t.Errorf("%d requests to find one bad write among 64", n)
	}
}

// Decreases go first, and what shows nothing before all.
func TestGrantedDecreasesFirst(t *testing.T) {
	r := newRig(t, catalog.Channel{BatchSize: 1, MaxInFlight: 1, RatePerSecond: "1", Burst: 1})
	r.pooled("first", 1) // uses the token
	r.pass(time.Millisecond)
	r.grant("up", "up", catalog.CompareAndSet, 90, 0, 10)
	r.grant("up scarce", "scarce", catalog.Absolute, 2, 0, 0)
	r.grant("down", "down", catalog.CompareAndSet, 5, 0, 10)
	r.grant("delta down", "delta", catalog.Delta, 4, -2, 0)
	r.grant("zero", "zero", catalog.Absolute, 0, 0, 0)
	r.pass(time.Minute)
	var order []string
	for _, s := range r.sent[1:] {
		order = append(order, s.item.ID)
	}
	if want := []string{"zero", "delta", "down", "scarce", "up"}; !slices.Equal(order, want) {
		t.Errorf("sent %v, want %v", order, want)
	}
}

func TestPooledTargetAfterAGrantedOne(t *testing.T) {
	t.Run("under way", func(t *testing.T) {
		r := newRig(t, catalog.Channel{})
		r.respond = func(*Request) answer { return answer{after: time.Second} }
		r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
		r.pass(time.Millisecond)
		r.pooled("a", 8)
		r.pass(500 * time.Millisecond)
		if len(r.sent) != 1 {
			t.Fatal("a second write was sent while the first was open")
		}
		r.pass(time.Minute)
		r.want("w1", "applied shows 3")
		if r.shown["a"] != 8 || r.p.Commit() != 2 {
			t.Errorf("shows %d, commit %d", r.shown["a"], r.p.Commit())
		}
	})
	t.Run("in doubt", func(t *testing.T) {
		r := newRig(t, catalog.Channel{})
		r.respond = firstly(answer{err: errTimeout, late: 15 * time.Second})
		r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
		r.pass(time.Second)
		r.pooled("a", 8)
		r.pass(10 * time.Second)
		if len(r.sent) != 1 {
			t.Fatal("a second write was sent while the first was open")
		}
		r.pass(time.Minute)
		r.want("w1", "unknown uncertain", "unknown uncertain settled shows 3")
		if r.shown["a"] != 8 || r.p.Commit() != 2 {
			t.Errorf("shows %d, commit %d", r.shown["a"], r.p.Commit())
		}
	})
	t.Run("never sent", func(t *testing.T) {
		r := newRig(t, catalog.Channel{})
		r.respond = firstly(answer{err: errRefused}, answer{err: errRefused}, answer{err: errRefused}, answer{err: errRefused})
		r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
		r.pass(time.Millisecond)
		r.pooled("a", 8)
		r.pass(time.Minute)
		r.want("w1", "not_sent superseded")
		if r.shown["a"] != 8 || r.p.Commit() != 2 {
			t.Errorf("shows %d, commit %d", r.shown["a"], r.p.Commit())
		}
	})
	t.Run("refused for now", func(t *testing.T) {
		r := newRig(t, catalog.Channel{})
		r.respond = firstly(answer{err: errOut})
		r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
		r.pass(time.Millisecond)
		r.pooled("a", 8)
		r.pass(time.Minute)
		r.want("w1", "refused superseded") // it left, and did nothing
		if r.shown["a"] != 8 {
			t.Errorf("shows %d", r.shown["a"])
		}
	})
}

func TestGrantedTargetAfterAPooledOne(t *testing.T) {
	t.Run("queued", func(t *testing.T) {
		r := newRig(t, catalog.Channel{RatePerSecond: "1", Burst: 1})
		r.pooled("first", 1)
		r.pass(time.Millisecond)
		r.pooled("a", 8)
		r.pass(time.Millisecond)
		r.grant("a", "w1", catalog.Delta, 3, -2, 0)
		r.shown["a"] = 5
		r.pass(time.Minute)
		r.want("w1", "applied shows 3")
		if len(r.sent) != 2 || r.p.Commit() != 3 {
			t.Errorf("sent %+v, commit %d", r.sent, r.p.Commit())
		}
	})
	t.Run("under way", func(t *testing.T) {
		r := newRig(t, catalog.Channel{})
		r.respond = func(*Request) answer { return answer{after: time.Second} }
		r.pooled("a", 8)
		r.pass(time.Millisecond)
		r.grant("a", "w1", catalog.Absolute, 0, 0, 0)
		r.pass(time.Minute)
		r.want("w1", "applied shows 0")
		if d := r.sent[1].at.Sub(r.sent[0].at); d < time.Second || len(r.sent) != 2 {
			t.Errorf("sent %+v", r.sent)
		}
	})
	t.Run("in doubt", func(t *testing.T) { // what may still land must land first
		r := newRig(t, catalog.Channel{})
		r.respond = firstly(answer{err: errTimeout, late: 19 * time.Second})
		r.pooled("a", 8)
		r.pass(time.Millisecond)
		r.grant("a", "w1", catalog.Absolute, 0, 0, 0)
		r.pass(time.Minute)
		r.want("w1", "applied shows 0")
		if r.shown["a"] != 0 || len(r.sent) != 3 || r.sent[2].item.ID != "w1" || r.sent[2].at.Sub(r.sent[0].at) < lateWindow {
			t.Errorf("shows %d; sent %+v", r.shown["a"], r.sent)
		}
		if ahead := r.sent[1]; ahead.item.ID != "w1/ahead" || ahead.item.Quantity != 0 || ahead.at.Sub(r.sent[0].at) > lateWindow/2+time.Second { // as soon as the time-out is known
			t.Errorf("no 0 was sent ahead: %+v", r.sent)
		}
	})
	t.Run("in doubt, and so is the 0 sent ahead", func(t *testing.T) { // nothing is told until that has landed, too
		r := newRig(t, catalog.Channel{})
		n := 0
		r.respond = func(*Request) answer {
			if n++; n <= 2 {
				return answer{err: errTimeout, late: 19 * time.Second}
			}
			return answer{}
		}
		r.pooled("a", 8)
		r.pass(time.Millisecond)
		r.grant("a", "w1", catalog.Absolute, 0, 0, 0)
		r.pass(2 * time.Minute)
		r.want("w1", "applied shows 0")
		if len(r.sent) != 3 || r.sent[2].item.ID != "w1" || r.sent[2].at.Sub(r.sent[1].at) < lateWindow {
			t.Errorf("sent %+v", r.sent)
		}
	})
	t.Run("in doubt, then a raise", func(t *testing.T) { // only a 0 is sent ahead
		r := newRig(t, catalog.Channel{})
		r.respond = firstly(answer{err: errTimeout, late: 19 * time.Second})
		r.pooled("a", 8)
		r.pass(time.Millisecond)
		r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
		r.pass(time.Minute)
		r.want("w1", "applied shows 3")
		if len(r.sent) != 2 || r.sent[1].at.Sub(r.sent[0].at) < lateWindow {
			t.Errorf("sent %+v", r.sent)
		}
	})
	t.Run("read back and in doubt", func(t *testing.T) { // the read that was due says nothing of what lands later
		r := newRig(t, catalog.Channel{Operation: catalog.CompareAndSet})
		r.shown["a"] = 2
		r.respond = firstly(answer{err: errTimeout, late: 19 * time.Second})
		r.pooled("a", 8)
		r.pass(5 * time.Second) // read back, written again
		r.grant("a", "w1", catalog.Absolute, 0, 0, 0)
		r.pass(time.Minute)
		r.want("w1", "applied shows 0")
		if last := r.sent[len(r.sent)-1]; last.item.ID != "w1" || last.at.Sub(r.sent[0].at) < lateWindow {
			t.Errorf("sent %+v", r.sent)
		}
	})
	t.Run("stale", func(t *testing.T) {
		r := newRig(t, catalog.Channel{Operation: catalog.CompareAndSet})
		r.shown["a"] = 2
		r.respond = func(j *Request) answer {
			if !j.Read() && len(r.sent) == 1 {
				r.shown["a"] = 1 // sold meanwhile
			}
			return answer{after: time.Second}
		}
		r.pooled("a", 8)
		r.pass(1500 * time.Millisecond)
		r.grant("a", "w1", catalog.Absolute, 0, 0, 0)
		r.pass(time.Minute)
		r.want("w1", "applied shows 0")
		if len(r.sent) != 2 {
			t.Errorf("sent %+v", r.sent)
		}
	})
}

// While nothing is granted nothing is written, whatever the quantity says; and what the channel shows is not taken for drift.
func TestNothingIsWrittenWithoutAGrant(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.q.cfg.DriftSample = 5
	r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
	r.pass(time.Minute)
	r.shown["a"] = 9
	r.take(allocation.Target{SKU: "a", Quantity: 2, Write: &allocation.GrantedWrite{}})
	r.take(allocation.Target{SKU: "b", Quantity: 2, Write: &allocation.GrantedWrite{}})
	r.pass(time.Hour)
	if len(r.sent) != 1 || r.p.Commit() != 3 || r.q.Busy() != 0 || r.q.State().Drift != 0 {
		t.Errorf("sent %+v, commit %d, %+v", r.sent, r.p.Commit(), r.q.State())
	}
}

// The same write told again is not done again, whether it is open or over.
func TestSameGrantAgain(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.respond = func(*Request) answer { return answer{after: time.Second} }
	r.grant("a", "w1", catalog.Delta, 3, 3, 0)
	r.grant("a", "w1", catalog.Delta, 3, 3, 0)
	r.pass(100 * time.Millisecond)
	r.grant("a", "w1", catalog.Delta, 3, 3, 0)
	r.pass(time.Minute)
	r.grant("a", "w1", catalog.Delta, 3, 3, 0)
	r.pass(time.Minute)
	r.want("w1", "applied shows 3")
	if len(r.sent) != 1 || r.p.Commit() != 4 {
		t.Errorf("sent %d, commit %d", len(r.sent), r.p.Commit())
	}
}

// A newer write than one that waits behind an open one: the one in the middle never left.
func TestGrantsInARow(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.respond = func(*Request) answer { return answer{after: time.Second} }
	r.grant("a", "w1", catalog.Delta, 3, 3, 0)
	r.pass(time.Millisecond)
	r.grant("a", "w2", catalog.Delta, 4, 1, 0)
	r.grant("a", "w3", catalog.Delta, 5, 2, 0)
	r.pass(time.Minute)
	r.want("w1", "applied shows 3")
	r.want("w2", "not_sent superseded")
	r.want("w3", "applied shows 5")
	if r.p.Commit() != 3 {
		t.Errorf("commit %d", r.p.Commit())
	}
}

// A granted write is carried out even when its versions are older than those of the target before it.
func TestGrantIsNeverPassedOver(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.take(allocation.Target{SKU: "a", Quantity: 5, LevelVersion: 10})
	r.pass(time.Minute)
	r.take(allocation.Target{SKU: "a", LevelVersion: 9, Write: &allocation.GrantedWrite{ID: "w1", Operation: catalog.Absolute}})
	r.pass(time.Minute)
	r.want("w1", "applied shows 0")
}

func TestPause(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	pause := func(p bool) {
		r.conf.Paused = p
		r.configure()
	}
	r.respond = func(*Request) answer { return answer{after: time.Second} }
	r.grant("sent", "w1", catalog.Absolute, 1, 0, 0)
	r.pass(time.Millisecond)
	r.grant("queued", "w2", catalog.Absolute, 2, 0, 0)
	pause(true)
	r.grant("later", "w3", catalog.Absolute, 3, 0, 0)
	r.grant("read", "r1", write.Read, 0, 0, 0)
	r.pass(4 * time.Second)
	r.want("w1", "applied shows 1")
	r.want("w2")
	pause(false) // a short pause costs nothing
	r.pass(3 * time.Second)
	r.want("w2", "applied shows 2")
	r.want("w3", "applied shows 3")
	r.want("r1", "applied shows 0")
	pause(true)
	r.grant("later", "w4", catalog.Absolute, 4, 0, 0)
	r.pass(time.Minute)
	r.want("w4", "not_sent paused")
	pause(false)
	r.respond = firstly(answer{err: errTimeout})
	r.grant("later", "w5", catalog.Absolute, 4, 0, 0)
	r.pass(time.Millisecond)
	pause(true) // what is in doubt waits to be read
	r.pass(time.Hour)
	r.want("w5", "unknown uncertain")
	pause(false)
	r.pass(time.Minute)
	r.want("w5", "unknown uncertain", "unknown uncertain settled shows 3")
	if r.p.Commit() != r.off {
		t.Errorf("commit at %d of %d", r.p.Commit(), r.off)
	}
}

// A channel that is removed or switched off gets nothing more; what is open ends, as precisely as it can.
func TestChannelGoes(t *testing.T) {
	for name, drop := range map[string]func(r *rig){
		"removed": func(r *rig) { _ = r.q.Configure(nil, nil, r.now) },
		"none": func(r *rig) {
			c := r.conf
			c.Adapter = "none"
			_ = r.q.Configure(&c, nil, r.now)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, catalog.Channel{MaxInFlight: 3, BatchSize: 1})
			r.respond = func(j *Request) answer {
				switch {
				case j.Read():
					return answer{}
				case j.Items[0].ID == "w1":
					return answer{after: 200 * time.Millisecond, err: errTimeout}
				case j.Items[0].ID == "w2":
					return answer{after: 10 * time.Second}
				}
				return answer{after: time.Second, err: errOut}
			}
			for i := range 4 {
				r.grant(fmt.Sprint("s", i), fmt.Sprint("w", i+1), catalog.Absolute, int64(i)+1, 0, 0)
			}
			r.pass(100 * time.Millisecond)
			drop(r)
			r.flush()
			r.want("w4", "not_sent no_channel")
			r.pass(2 * time.Second)
			r.want("w3", "refused no_channel")
			r.want("w1", "unknown uncertain")
			r.grant("s9", "w9", catalog.Absolute, 1, 0, 0)
			r.pooled("s0", 3) // remembered when the write is over
			r.pass(time.Hour)
			r.want("w1", "unknown uncertain", "unknown uncertain settled")
			r.want("w2", "applied shows 2")
			r.want("w9", "not_sent no_channel")
			if r.p.Commit() != r.off || r.q.Busy() != 0 || r.q.State().InDoubt != 0 {
				t.Errorf("commit at %d of %d; %+v", r.p.Commit(), r.off, r.q.State())
			}
		})
	}
}

func TestWithdrawnUnderBooks(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.respond = firstly(answer{after: time.Second, err: errTimeout, applied: true})
	r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
	r.pass(time.Millisecond)
	r.take(allocation.Target{SKU: "a", Withdrawn: true, Write: &allocation.GrantedWrite{ID: "w2", Operation: catalog.Absolute}})
	r.pass(time.Minute)
	r.want("w1", "unknown uncertain", "unknown uncertain settled shows 3")
	r.want("w2", "applied shows 0")
	if r.q.State().SKUs != 0 || r.p.Commit() != 2 {
		t.Errorf("%+v, commit %d", r.q.State(), r.p.Commit())
	}
	r.take(allocation.Target{SKU: "a", Withdrawn: true, Write: &allocation.GrantedWrite{}})
	r.pooled("b", 2)
	r.pass(time.Minute)
	r.take(allocation.Target{SKU: "b", Withdrawn: true})
	r.pass(time.Minute)
	if r.q.State().SKUs != 0 || r.shown["b"] != 0 || r.p.Commit() != r.off {
		t.Errorf("%+v, commit %d", r.q.State(), r.p.Commit())
	}
}

// What was there when a process started may have been sent by the one before it.
func TestRestartInDoubt(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.open(2, 5) // 0 and 1 are settled, 2 to 4 are not
	r.grant("old", "w0", catalog.Absolute, 1, 0, 0)
	r.pooled("b", 1)
	r.grant("a", "w2", catalog.Delta, 3, 3, 0)
	r.grant("r", "r1", write.Read, 0, 0, 0)
	r.pooled("p", 4)
	r.grant("n", "w5", catalog.Absolute, 5, 0, 0) // came after
	r.grant("b", "w6", catalog.Absolute, 6, 0, 0) // the first after pooled mode
	r.grant("old", "w7", catalog.Absolute, 7, 0, 0)
	r.later(29*time.Second, func() { r.shown["a"] = 3 }) // it had been sent
	r.pass(defaultTimeout + lateWindow - time.Second)
	r.want("w0")
	r.want("w2", "unknown restarted")
	r.want("r1") // what was written before it in pooled mode may be compacted away
	r.want("w5", "applied shows 5")
	r.want("w6")
	r.want("w7", "applied shows 7")
	if r.shown["p"] != 4 {
		t.Error("a target of pooled mode must be written again")
	}
	r.pass(time.Minute)
	r.want("w2", "unknown restarted", "unknown restarted settled shows 3")
	r.want("r1", "applied shows 0")
	r.want("w6", "applied shows 6")
	if got := r.of("w2")[1]; got.Attempts != 0 || got.SentAt != 0 || r.count("w2") != 0 {
		t.Errorf("result %+v, sent %d times", got, r.count("w2"))
	}
	if r.p.Commit() != 8 {
		t.Errorf("commit %d", r.p.Commit())
	}
}

// restart has the next process take over, with what was stored at that moment and the targets that are not settled.
func (r *rig) restart(log ...allocation.Target) {
	committed, end := r.p.Commit(), r.off
	r.doubts = r.p.Doubts()
	r.open(committed, end)
	r.off = committed
	for _, t := range log {
		r.take(t)
	}
	if r.off != end {
		r.t.Fatalf("%d targets from %d on were given, and there are %d", len(log), committed, end-committed)
	}
}

// Restarts that follow one another closer than the late window do not keep a granted write in doubt for ever.
func TestDoubtIsCountedFromTheFirstRestart(t *testing.T) {
	granted := func(id string) allocation.Target {
		return allocation.Target{SKU: "a", Quantity: 3, LevelVersion: 1, Mode: "strict", Write: &allocation.GrantedWrite{ID: id, Operation: catalog.Absolute, Quantity: 3}}
	}
	t.Run("again and again", func(t *testing.T) {
		r := newRig(t, catalog.Channel{})
		r.respond = func(*Request) answer { return answer{after: time.Hour} } // nobody lives to hear it
		r.take(granted("w1"))
		r.pass(time.Second)
		for range 4 {
			r.restart(granted("w1"))
			r.pass((defaultTimeout + lateWindow + clocksOff) / 4)
		}
		r.respond = nil
		if n := len(r.of("w1")); n != 4 {
			t.Fatalf("told %d times of w1: %q", n, r.told("w1"))
		}
		r.restart(granted("w1"))
		r.pass(time.Second)
		if got := r.told("w1"); got[len(got)-1] != "unknown restarted settled shows 3" || r.count("w1") != 1 {
			t.Errorf("sent %d times, told %q", r.count("w1"), got)
		}
	})
	t.Run("one that came later", func(t *testing.T) { // it was sent by the process before, and its time begins with this one
		r := newRig(t, catalog.Channel{})
		r.respond = func(*Request) answer { return answer{after: time.Hour} }
		b := allocation.Target{SKU: "b", Quantity: 1, LevelVersion: 1, Mode: "strict", Write: &allocation.GrantedWrite{ID: "w2", Operation: catalog.Absolute, Quantity: 1}}
		r.take(granted("w1"))
		r.pass(time.Second)
		r.restart(granted("w1"))
		r.pass(20 * time.Second)
		r.take(b)
		r.pass(time.Second)
		r.restart(granted("w1"), b)
		r.respond = nil
		r.pass(10*time.Second + clocksOff)
		r.want("w2", "unknown restarted")
		if got := r.told("w1"); got[len(got)-1] != "unknown restarted settled shows 3" {
			t.Errorf("told %q", got)
		}
		r.pass(defaultTimeout + lateWindow - clocksOff - 11*time.Second)
		r.want("w2", "unknown restarted")
		r.pass(2 * time.Second)
		r.want("w2", "unknown restarted", "unknown restarted settled shows 1")
	})
	t.Run("what is stored stays short", func(t *testing.T) {
		r := newRig(t, catalog.Channel{})
		r.respond = func(*Request) answer { return answer{after: time.Hour} }
		var log []allocation.Target
		for i := range 3 * maxDoubts {
			x := granted(fmt.Sprint("w", i))
			x.SKU = fmt.Sprint("s", i)
			log = append(log, x)
			r.take(x)
			r.pass(time.Second)
			r.restart(log...)
			r.pass(time.Millisecond)
			if d := r.p.Doubts(); len(d) == 0 || len(d) > maxDoubts || d[len(d)-1].Before != int64(len(log)) {
				t.Fatalf("after %d: %+v", i, d)
			}
		}
	})
}

// A write in pooled mode that has to be sent again waits until it is known that no granted write followed it.
func TestPooledTargetsWaitForWhatFollowedThem(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.open(0, 3)
	r.pooled("a", 8)
	r.pooled("b", 5)
	r.pass(time.Minute)
	if len(r.sent) != 0 {
		t.Errorf("sent %+v, and what comes next is not known", r.sent)
	}
	r.grant("a", "w1", catalog.Absolute, 0, 0, 0)
	r.pass(time.Minute)
	for _, x := range r.sent {
		if x.item.ExternalID == "a" && x.item.Quantity == 8 {
			t.Errorf("sent %+v under books", x)
		}
	}
	if r.shown["b"] != 5 {
		t.Error("b is not written")
	}
	r.want("w1", "unknown restarted", "unknown restarted settled shows 0")
}

// The write after one in doubt of a restart is granted only once the process before had told what became of it.
func TestNextGrantEndsDoubtOfARestart(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.open(0, 1)
	r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
	r.grant("a", "w2", catalog.Absolute, 2, 0, 0)
	r.pass(time.Second)
	r.want("w1", "unknown restarted")
	r.want("w2", "applied shows 2")
	r.pass(time.Minute)
	r.want("w1", "unknown restarted")
	if r.p.Commit() != 2 || r.q.State().InDoubt != 0 {
		t.Errorf("commit %d, %+v", r.p.Commit(), r.q.State())
	}
}

// Nobody has to wonder about writes that were never sent when a process stops or a partition goes elsewhere.
func TestStopAndRevokeCloseWhatNeverLeft(t *testing.T) {
	for _, revoke := range []bool{true, false} {
		r := newRig(t, catalog.Channel{RatePerSecond: "1", Burst: 1, BatchSize: 1})
		r.respond = func(*Request) answer { return answer{after: 3 * time.Second} }
		for i := range 3 {
			r.grant(fmt.Sprint("s", i), fmt.Sprint("w", i), catalog.Absolute, int64(i)+1, 0, 0)
		}
		r.pass(time.Millisecond)
		r.grant("s0", "w3", catalog.Absolute, 9, 0, 0) // waits for the first
		if revoke {
			if r.q.Revoke(0, r.now) != r.p {
				t.Fatal("not the partition")
			}
		} else {
			r.q.Stop(r.now)
		}
		r.flush()
		if !r.p.Busy() {
			t.Error("a request is under way")
		}
		for len(r.todo) > 0 {
			x := r.todo[0]
			r.todo = r.todo[1:]
			r.now = x.at
			x.do()
		}
		r.want("w0", "applied shows 1")
		for i := 1; i <= 3; i++ {
			r.want(fmt.Sprint("w", i), "not_sent stopped")
		}
		if r.p.Commit() != 4 || r.p.Busy() {
			t.Errorf("commit %d", r.p.Commit())
		}
	}
}

// An offset is passed when the result of its write is durable, not before.
func TestOffsetWaitsForTheResult(t *testing.T) {
	r := newRig(t, catalog.Channel{})
	r.held = true
	r.grant("a", "w1", catalog.Absolute, 3, 0, 0)
	r.pass(time.Minute)
	r.want("w1", "applied shows 3")
	if r.p.Commit() != 0 {
		t.Error("the offset passed a result that is not durable")
	}
	r.held = false
	r.flush()
	if r.p.Commit() != 1 {
		t.Error("the offset waits for nothing")
	}
}

// Random targets of both modes, faults of every kind and restarts, against an oracle of what the channel really did.
func TestGrantsUnderFaults(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { faults(t, seed) })
	}
}

// life is what the allocator would know of a SKU: its open write.
type life struct {
	open string
	n    int
}

func faults(t *testing.T, seed uint64) []string {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t, catalog.Channel{Operation: catalog.Operation(1 + seed%3), BatchSize: 7, MaxInFlight: 3, TimeoutMS: 1000, LateWindowMS: 3000})
	late := 3 * time.Second
	faulty := true
	r.respond = func(*Request) answer {
		d := time.Duration(rng.IntN(80)) * time.Millisecond
		if !faulty {
			return answer{after: d}
		}
		switch rng.IntN(14) {
		case 0:
			return answer{after: d, err: errTimeout, applied: true}
		case 1:
			return answer{after: time.Second, err: errTimeout}
		case 2: // at the latest just before the window ends
			return answer{after: time.Second, err: errTimeout, late: time.Second + time.Duration(rng.Int64N(int64(late-1)))}
		case 3:
			return answer{after: d, err: errOut}
		case 4:
			return answer{after: d, err: errRefused}
		case 5:
			return answer{after: d, err: throttled(time.Duration(rng.IntN(2)) * time.Second)}
		case 6:
			return answer{after: d, verdict: adapter.Busy}
		}
		return answer{after: d}
	}
	committed := int64(-1)
	books := make(map[string]*life)
	skuOf := make(map[string]string)
	read := 0
	// settle learns what the results say, as the allocator does.
	settle := func() {
		for ; read < len(r.got); read++ {
			x := &r.got[read]
			if l := books[x.SKU]; l != nil && l.open == x.WriteID && (x.Outcome != write.Unknown || x.Settled) {
				l.open = ""
			}
		}
	}
	type record struct {
		off int64
		t   allocation.Target
	}
	var log []record
	give := func(x allocation.Target) {
		x.LevelVersion = r.off + 1
		log = append(log, record{r.off, x})
		r.take(x)
	}
	for i := range 800 {
		r.pass(time.Duration(rng.IntN(60)) * time.Millisecond)
		settle()
		sku := fmt.Sprint("s", rng.IntN(12))
		l := books[sku]
		if l == nil {
			l = &life{}
			books[sku] = l
		}
		switch {
		case l.open != "":
		case rng.IntN(4) == 0:
			give(allocation.Target{SKU: sku, Quantity: allocation.Units(rng.IntN(20))})
		default:
			l.n++
			l.open = fmt.Sprintf("%s-%d", sku, l.n)
			skuOf[l.open] = sku
			w := &allocation.GrantedWrite{ID: l.open, Operation: write.Operation(1 + rng.IntN(4)), Quantity: allocation.Units(rng.IntN(20))}
			switch w.Operation {
			case catalog.Delta:
				w.Delta, w.Quantity = allocation.Units(rng.IntN(9)-4), 0
			case catalog.CompareAndSet:
				w.Expected = allocation.Units(r.shown[sku] + rng.Int64N(2))
			}
			give(allocation.Target{SKU: sku, Quantity: 5, Write: w})
		}
		if rng.IntN(5) == 0 { // a commit
			committed, r.doubts = r.p.Commit(), r.p.Doubts()
		}
		for crashed := rng.IntN(150) == 0; crashed; { // requests under way go on at the channel, and nobody hears the answers
			crashed = false
			old := r.q
			for k := range r.todo {
				do := r.todo[k].do
				r.todo[k].do = func() {
					q := r.q
					r.q = old // answers go to the dead
					before := len(r.got)
					do()
					r.got, r.at = r.got[:before], r.at[:before]
					r.q = q
				}
			}
			end := r.off
			r.waiting = nil
			r.open(committed, end)
			for _, x := range log {
				r.off = x.off
				target := x.t
				r.take(target)
				if x.off >= committed && rng.IntN(8) == 0 { // it does not come all at once
					r.pass(time.Duration(rng.IntN(1500)) * time.Millisecond)
					committed, r.doubts = r.p.Commit(), r.p.Doubts()
				}
				if crashed = rng.IntN(3*len(log)) == 0; crashed { // again, before all was taken
					break
				}
			}
			r.off = end
		}
		if rng.IntN(100) == 0 {
			r.conf.Paused = !r.conf.Paused
			r.configure()
		}
		_ = i
	}
	faulty = false
	r.conf.Paused = false
	r.configure()
	r.pass(10 * time.Minute)
	settle()
	if r.p.Commit() != r.off || r.q.Busy() != 0 || r.q.State().InDoubt != 0 {
		t.Errorf("commit at %d of %d; %+v", r.p.Commit(), r.off, r.q.State())
	}
	appliedAt := make(map[string][]time.Time)
	for _, a := range r.applied {
		if a.item.ID != "" {
			appliedAt[a.item.ID] = append(appliedAt[a.item.ID], a.at)
		}
	}
	var lines []string
	for id, sku := range skuOf {
		if books[sku].open == id {
			t.Errorf("%s is open for ever", id)
		}
		if n := len(appliedAt[id]); n > 1 {
			t.Errorf("%s was applied %d times", id, n)
		}
	}
	sentAt := make(map[string][]time.Time)
	for _, s := range r.sent {
		if s.item.ID != "" {
			sentAt[s.item.ID] = append(sentAt[s.item.ID], s.at)
		}
	}
	doubted := make(map[string]time.Time)
	closed := make(map[string]write.Outcome)
	for i := range r.got {
		x := &r.got[i]
		lines = append(lines, fmt.Sprintf("%d %s %s %s %v %d", r.at[i].Sub(start), x.WriteID, x.Outcome, x.ErrorCode, x.Settled, x.Shown))
		if skuOf[x.WriteID] == "" {
			continue
		}
		final := x.Outcome != write.Unknown || x.Settled
		switch {
		case !final:
			doubted[x.WriteID] = r.at[i]
			continue
		case closed[x.WriteID] == 0:
			closed[x.WriteID] = x.Outcome
		}
		n := len(appliedAt[x.WriteID])
		switch x.Outcome {
		case write.Applied:
			if n != 1 && x.Operation != write.Read {
				t.Errorf("%s is told applied, and was applied %d times", x.WriteID, n)
			}
		case write.Refused, write.NotSent:
			if n != 0 {
				t.Errorf("%s is told %s (%s), and was applied", x.WriteID, x.Outcome, x.ErrorCode)
			}
			if x.Outcome == write.NotSent && strings.Contains("superseded paused", x.ErrorCode) && len(sentAt[x.WriteID]) > 0 && x.Attempts == 0 {
				t.Errorf("%s was sent", x.WriteID)
			}
		default:
			if n == 1 && appliedAt[x.WriteID][0].After(r.at[i]) {
				t.Errorf("%s was applied after its doubt was settled", x.WriteID)
			}
			if x.ShownKnown && n == 1 && appliedAt[x.WriteID][0].UnixMicro() > x.ShownAt {
				t.Errorf("%s was applied after what it shows was read", x.WriteID)
			}
		}
	}
	for id, at := range doubted {
		for _, s := range sentAt[id] {
			if s.After(at) {
				t.Errorf("%s was sent again after it was in doubt", id)
			}
		}
	}
	// No granted write is sent while an earlier change of the SKU may still land, and nothing while a granted one may, but for a 0 that is sent ahead.
	for _, a := range r.applied {
		for _, x := range r.sent {
			if strings.HasSuffix(x.item.ID, "/ahead") && x.item.Operation == catalog.Absolute && x.item.Quantity == 0 {
				continue
			}
			if x.item.ExternalID == a.item.ExternalID && x.item.ID != a.item.ID && (x.item.ID != "" || a.item.ID != "") && x.at.After(a.sent) && x.at.Before(a.at) {
				t.Errorf("%s: %q was sent at %s, and what was sent before it landed after", x.item.ExternalID, x.item.ID, x.at.Sub(start))
			}
		}
	}
	return lines
}

// The same calls give the same requests and results.
func TestSameSeedSameTrace(t *testing.T) {
	for seed := range uint64(5) {
		if a, b := faults(t, seed), faults(t, seed); !slices.Equal(a, b) {
			for i := range a {
				if i >= len(b) || a[i] != b[i] {
					t.Fatalf("seed %d, line %d:\n%s\n%s", seed, i, a[i], b[min(i, len(b)-1)])
				}
			}
		}
	}
}
