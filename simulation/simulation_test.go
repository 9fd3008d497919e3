package simulation

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// small is a world that a test can afford: every kind of channel, all faults.
func small(modes ...Mode) Config {
	return Config{Seeds: 2, SeedStart: 1, Modes: modes, Channels: 15, SKUs: 8, Demand: 3000, Hours: 1, Workers: 2}
}

func run(t *testing.T, c Config) *Report {
	t.Helper()
	r, err := Run(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestStrictKeepsItsPromise runs the real cores through faults of every sort, and verifies the invariants after everything that happens.
func TestStrictKeepsItsPromise(t *testing.T) {
	c := small(Strict, Adaptive, Pooled, Polling)
	c.Check = true
	r := run(t, c)
	for i := range r.Modes {
		m := &r.Modes[i]
		t.Logf("%s: %d orders, %d oversold, sell-through %.4f, %.2f writes a sale, %d checks, %d crashes, %d alerts", m.Mode, m.Orders, m.OversoldUnits, m.SellThrough, m.WritesPerSale, m.Checks, m.Crashes, m.Alerts)
		if m.Orders < 3000 || m.SellThrough < 0.8 {
			t.Errorf("%s sells too little to mean anything", m.Mode)
		}
	}
	strict, pooled, polling := &r.Modes[0], &r.Modes[2], &r.Modes[3]
	if strict.OversoldUnits != 0 || *strict.MinSlack < 0 {
		t.Errorf("strict oversold %d, slack %d", strict.OversoldUnits, *strict.MinSlack)
	}
	if strict.Checks < 1000 || strict.Crashes == 0 {
		t.Errorf("%d checks, %d crashes", strict.Checks, strict.Crashes)
	}
	// The same worlds, without the books: it is not for lack of trouble.
	if pooled.OversoldUnits == 0 || polling.OversoldUnits <= pooled.OversoldUnits {
		t.Errorf("pooled oversold %d and polling %d", pooled.OversoldUnits, polling.OversoldUnits)
	}
	if strict.Writes >= pooled.Writes {
		t.Errorf("strict writes %d times, pooled %d", strict.Writes, pooled.Writes)
	}
	if pooled.Demand != strict.Demand || pooled.IdealUnits != polling.IdealUnits {
		t.Error("the modes do not see the same buyers")
	}
}

// TestSameSeedSameTrace holds that a seed decides everything, whatever runs beside it.
func TestSameSeedSameTrace(t *testing.T) {
	for _, m := range Modes {
		c := small(m)
		c.Demand = 1500
		one := run(t, c)
		c.Workers = 1
		two := run(t, c)
		c.SeedStart++
		other := run(t, c)
		if one.Modes[0].Trace != two.Modes[0].Trace {
			t.Errorf("%s: traces %s and %s of the same seeds", m, one.Modes[0].Trace, two.Modes[0].Trace)
		}
		if one.Modes[0].Trace == other.Modes[0].Trace {
			t.Errorf("%s: the same trace of other seeds", m)
		}
		a, _ := json.Marshal(one.Modes[0])
		b, _ := json.Marshal(two.Modes[0])
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %s\n%s", m, a, b)
		}
	}
}

// TestABrokenRuleIsCaught takes acknowledgements for proof that nothing was sold unseen: the checks find that at once, and without them units
// are sold twice.
func TestABrokenRuleIsCaught(t *testing.T) {
	c := small(Strict)
	c.trustAcks, c.Check = true, true
	var broken *BrokenError
	if _, err := Run(t.Context(), c, nil); !errors.As(err, &broken) {
		t.Errorf("checked: %v", err)
	} else if !strings.Contains(broken.What, "could still report") && !strings.Contains(broken.What, "exposed") || len(broken.Tail) == 0 {
		t.Errorf("report: %v", broken)
	}
	c.Check, c.Seeds, c.Demand = false, 8, 6000
	if r := run(t, c); r.Modes[0].OversoldUnits == 0 {
		t.Error("a broken rule oversells nothing")
	}
}

// TestOnlyCountsOversell has counts find all that there should be: then strict oversells nothing whatever, and nobody is told of anything that is wrong with stock.
func TestOnlyCountsOversell(t *testing.T) {
	for _, x := range []struct{ seed, seeds int }{{214, 1}, {146, 1}, {1, 4}} { // of the first two, counts made 91 and 11 units missing that had been sold
		c := Config{SeedStart: uint64(x.seed), Seeds: x.seeds, Modes: []Mode{Strict}, noLosses: true, Workers: 2}
		m := run(t, c).Modes[0]
		if m.OversoldUnits != 0 || m.OversoldByCounts != 0 || m.Breaches != 0 || m.Orders < 10_000 {
			t.Errorf("from seed %d: %d orders, %d and %d oversold, %d breaches", x.seed, m.Orders, m.OversoldUnits, m.OversoldByCounts, m.Breaches)
		}
	}
}

// TestClaimChannels has shops that ask beside every other kind, and alone. Alone they need no writes, and sell what an all-knowing seller sells, less what carts hold; if they
// do not say who they are, and so take what marketplaces may have sold, units are sold twice.
func TestClaimChannels(t *testing.T) {
	c := small(Strict, Adaptive, Pooled)
	c.Claims, c.Check = 4, true
	r := run(t, c)
	none := run(t, small(Strict))
	for i := range r.Modes[:2] {
		m := &r.Modes[i]
		t.Logf("%s: %d orders, %d oversold, sell-through %.4f, %.2f writes a sale, %d checks", m.Mode, m.Orders, m.OversoldUnits, m.SellThrough, m.WritesPerSale, m.Checks)
		if m.OversoldUnits != 0 || m.Orders < 3000 || m.SellThrough < 0.9 {
			t.Errorf("%s: %d orders, %d oversold, sell-through %.4f", m.Mode, m.Orders, m.OversoldUnits, m.SellThrough)
		}
	}
	if r.Modes[0].Writes >= none.Modes[0].Writes || r.Modes[2].OversoldUnits == 0 {
		t.Errorf("%d writes, and %d where no channel asks; pooled oversold %d", r.Modes[0].Writes, none.Modes[0].Writes, r.Modes[2].OversoldUnits)
	}
	c = small(Strict, Pooled)
	c.Claims = c.Channels
	for _, m := range run(t, c).Modes {
		if m.OversoldUnits != 0 || m.Writes != 0 || m.SellThrough < 0.97 {
			t.Errorf("%s, all ask: %d oversold, %d writes, sell-through %.4f", m.Mode, m.OversoldUnits, m.Writes, m.SellThrough)
		}
	}
	c = small(Strict)
	c.Claims, c.unnamed, c.Seeds, c.Demand = 4, true, 6, 6000
	if m := run(t, c).Modes[0]; m.OversoldUnits == 0 {
		t.Error("shops that are held to nothing oversell nothing")
	}
}

// TestBundles has bundles beside their components, on every kind of channel and through faults of every sort: strict oversells nothing of a component. When a bundle takes more to be left of
// its allotments than is, it does.
func TestBundles(t *testing.T) {
	c := small(Strict, Adaptive, Pooled, Polling)
	c.SKUs, c.Bundles, c.Check = 12, 4, true
	r := run(t, c)
	for i := range r.Modes {
		m := &r.Modes[i]
		t.Logf("%s: %d orders, %d bundles, %d oversold, sell-through %.4f, %.2f writes a sale, %d checks", m.Mode, m.Orders, m.Bundles, m.OversoldUnits, m.SellThrough, m.WritesPerSale, m.Checks)
		if m.Bundles < 500 || m.SellThrough < 0.7 {
			t.Errorf("%s: %d bundles, sell-through %.4f", m.Mode, m.Bundles, m.SellThrough)
		}
	}
	if strict := &r.Modes[0]; strict.OversoldUnits != 0 || *strict.MinSlack < 0 || strict.SellThrough < 0.95 {
		t.Errorf("strict oversold %d, slack %d, sell-through %.4f", strict.OversoldUnits, *strict.MinSlack, strict.SellThrough)
	}
	if r.Modes[2].OversoldUnits == 0 || r.Modes[3].OversoldUnits == 0 {
		t.Errorf("pooled oversold %d, polling %d", r.Modes[2].OversoldUnits, r.Modes[3].OversoldUnits)
	}
	again := run(t, c)
	for i := range r.Modes {
		if again.Modes[i].Trace != r.Modes[i].Trace {
			t.Errorf("%s: another trace", r.Modes[i].Mode)
		}
	}
	c.Modes, c.Check, c.generous, c.Seeds, c.Demand = []Mode{Strict}, false, true, 6, 6000
	if m := run(t, c).Modes[0]; m.OversoldUnits == 0 {
		t.Error("a bundle that takes more than is left of its allotments oversells nothing")
	}
}

func TestRunRefusesNonsense(t *testing.T) {
	_, err := Run(t.Context(), Config{Seeds: -1, Modes: []Mode{"hope"}, Channels: 10_000, Hours: 1000, Bundles: 1000, Claims: 1}, nil)
	for _, want := range []string{"seeds", "hope", "channels", "hours", "bundles 1000", "bundles and claim channels"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want a word on %s", err, want)
		}
	}
}

func TestTable(t *testing.T) {
	r := run(t, Config{Seeds: 1, Modes: []Mode{Strict, Polling}, Channels: 5, SKUs: 4, Demand: 200, Hours: 1})
	var b strings.Builder
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"strict", "polling", "sell-through", "Seeds 0 to 0, 5 channels", "trace strict " + r.Modes[0].Trace} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
