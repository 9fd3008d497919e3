package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"
)

// TestSecondStart holds that a start on the data directory of an earlier one goes on where that stopped: Kafka and ClickHouse keep what they had, Redis is
// folded from Kafka again, and the day goes on as if nothing had been.
func TestSecondStart(t *testing.T) {
	tel, _ := tracing(t)
	dir := t.TempDir()
	parts := startEmbedded(t, dir)
	s := &site{tel: tel, spec: specOf(parts)}
	s.Listen = freeAddr(t)
	p, stop := s.run(t)
	d := newDay(t, s)
	rng := rand.New(rand.NewPCG(21, 1))
	d.apply(catalogMorning)
	d.open(rng)
	d.quiet(p)
	d.world(600, []string{"shop", "market", "amazon", "outlet"}, 200, nil)
	d.mishaps()
	d.rest(p)
	before := d.inRedis(t.Context())
	d.same("Redis before", before, d.books.levels())
	stop()
	if err := parts.Stop(); err != nil {
		t.Fatal(err)
	}

	parts = startEmbedded(t, dir)
	t.Cleanup(func() {
		if err := parts.Stop(); err != nil {
			t.Errorf("stop of the parts: %v", err)
		}
	})
	listen := s.Listen
	s.spec = specOf(parts)
	s.Listen = listen
	d.connect()
	p, _ = s.run(t)
	ready(t, p)
	d.quiet(p)
	d.same("Redis after", d.inRedis(t.Context()), before)

	// An order that had come before comes again: the ledger remembers it. And the day goes on.
	d.books.mu.Lock()
	l := d.books.pick(rng, func(l *line) bool { return l.channel == "feed" })
	d.books.mu.Unlock()
	if l == nil {
		t.Fatal("no order came by Kafka")
	}
	d.produce("orders.in", l.order, d.fed[l.order])
	d.apply(catalogNoon)
	d.world(700, []string{"shop", "market", "amazon", "outlet", "late"}, 200, nil)
	d.rest(p)
	d.check(p)
}

// rest has the marketplaces report all they have, and waits until it has gone through.
func (d *day) rest(p interface{ Quiesce(context.Context) error }) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 2*time.Minute)
	defer cancel()
	if err := d.markets.Drain(ctx); err != nil {
		d.t.Fatalf("the marketplaces have not reported all: %v", err)
	}
	d.quiet(p)
}
