package analytics

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/topics"
)

func TestRowsArriveOnceAcrossRestarts(t *testing.T) {
	w := newWorld(t)
	w.produce(w.sales(0, 5000)...)
	s := w.start()
	w.caughtUp(s)
	w.exactly("stock_events", 5000)
	w.produce(w.sales(5000, 6000)...)
	w.caughtUp(s)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
	if got := s.Stats(); got.Rows != 6000 || got.Queued != 0 || got.Lag != 0 || got.Partitions == 0 || got.LastInsertAt.IsZero() {
		t.Errorf("Stats = %+v, want 6000 rows, nothing queued, no lag", got)
	}
	if lag, err := s.Lag(t.Context()); lag != 0 || err != nil {
		t.Errorf("Lag = %d, %v, want 0", lag, err)
	}
	s.stop()
	w.produce(w.sales(6000, 6100)...)
	if lag, err := s.Lag(t.Context()); lag != 100 || err != nil {
		t.Errorf("Lag of a stopped instance = %d, %v, want 100", lag, err)
	}
	s = w.start()
	w.caughtUp(s)
	w.exactly("stock_events", 6100)
}

// A stop inserts what has been read.
func TestStopDrains(t *testing.T) {
	w := newWorld(t)
	w.cfg.FlushInterval = time.Hour
	s := w.start()
	w.produce(w.sales(0, 700)...)
	w.until("all is queued", func() bool { return s.Stats().Queued == 700 })
	s.stop()
	w.exactly("stock_events", 700)
}

// A crash at any step between reading records and committing their offsets repeats no row and loses none.
func TestCrashAtEachStep(t *testing.T) {
	intended := func(req *kmsg.OffsetCommitRequest) bool {
		for _, t := range req.Topics {
			for _, p := range t.Partitions {
				if p.Metadata != nil && strings.HasPrefix(*p.Metadata, intentVersion) {
					return true
				}
			}
		}
		return false
	}
	for name, tt := range map[string]struct {
		inserts int32                                // what the gate does
		commits func(*kmsg.OffsetCommitRequest) bool // which commits break the connection
		redone  bool                                 // the next run finds an intent
	}{
		"before the intent":                    {commits: intended},
		"after the intent, before the insert":  {inserts: refuse, redone: true},
		"after the insert, its answer lost":    {inserts: swallow, redone: true},
		"after the insert, before the offsets": {commits: func(r *kmsg.OffsetCommitRequest) bool { return !intended(r) }, redone: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			gate := newGate(t)
			w.cfg.ClickHouse.URL = gate.URL
			w.cfg.Drain = 0
			gate.mode.Store(tt.inserts)
			var broken atomic.Int64
			var armed atomic.Bool
			armed.Store(tt.commits != nil)
			w.cluster.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
				w.cluster.KeepControl()
				if armed.Load() && tt.commits(r.(*kmsg.OffsetCommitRequest)) {
					broken.Add(1)
					return nil, errors.New("the connection breaks"), true
				}
				return nil, nil, false
			})
			w.produce(w.sales(0, 3000)...)
			s := w.start()
			w.until("the fault is met", func() bool { return gate.hit.Load()+broken.Load() > 1 })
			s.stop()
			w.produce(w.sales(3000, 3500)...)
			armed.Store(false)
			gate.mode.Store(open)
			w.cfg.Drain = 10 * time.Second
			s = w.start()
			w.caughtUp(s)
			w.exactly("stock_events", 3500)
			if n := redone(s); (n > 0) != tt.redone {
				t.Errorf("%d intents were redone, want some: %t", n, tt.redone)
			}
			if d := w.distinct("stock_events", "event_id"); d != 3500 {
				t.Errorf("%d distinct events, want 3500", d)
			}
		})
	}
}

func redone(i *instance) (n int64) {
	for _, table := range i.Stats().Tables {
		n += table.Redone
	}
	return n
}

func (w *world) distinct(table, column string) (n uint64) {
	w.Helper()
	if err := w.db().QueryRow(w.Context(), "SELECT uniqExact("+column+") FROM "+table).Scan(&n); err != nil {
		w.Fatal(err)
	}
	return n
}

// Instances that come and go while records arrive and inserts lose their answers keep every row once.
func TestRebalance(t *testing.T) {
	w := newWorld(t)
	gate := newGate(t)
	w.cfg.ClickHouse.URL = gate.URL
	w.cfg.FlushInterval = 20 * time.Millisecond
	n := 0
	more := func(rounds int) {
		for range rounds {
			w.produce(w.sales(n, n+100)...)
			n += 100
		}
	}
	first := w.start()
	w.until("the first has partitions", func() bool { return first.Stats().Partitions > 0 })
	more(20)
	second := w.start()
	more(10)
	w.until("the second has partitions", func() bool { return second.Stats().Partitions > 0 })
	hits := gate.hit.Load()
	gate.mode.Store(swallow)
	more(10)
	w.until("an answer is lost", func() bool { return gate.hit.Load() > hits })
	third := w.start()
	more(10)
	gate.mode.Store(open)
	w.until("the third has partitions", func() bool { return third.Stats().Partitions > 0 })
	more(10)
	first.stop()
	more(10)
	second.stop()
	more(10)
	w.caughtUp(third)
	w.exactly("stock_events", uint64(n))
}

// An insert of an instance that was taken for dead arrives after its successor has sent the same block and more: it changes nothing.
func TestLateInsertOfADeadInstance(t *testing.T) {
	w := newWorld(t)
	gate := newGate(t)
	gate.mode.Store(hold)
	direct := w.cfg.ClickHouse.URL
	w.cfg.ClickHouse.URL = gate.URL
	w.produce(w.sales(0, 2000)...)
	dead := w.start()
	w.until("its insert is under way", func() bool { return gate.hit.Load() > 0 })

	// The group goes on without it, as after a missed heartbeat.
	adm := kadm.NewClient(w.client)
	groups, err := adm.DescribeGroups(t.Context(), Group)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range groups[Group].Members {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = Group
		member := kmsg.NewLeaveGroupRequestMember()
		member.MemberID = m.MemberID
		req.Members = append(req.Members, member)
		if _, err := req.RequestWith(t.Context(), w.client); err != nil {
			t.Fatal(err)
		}
	}
	w.cfg.ClickHouse.URL = direct
	live := w.start()
	w.until("the successor has sent the block again", func() bool { return redone(live) > 0 })
	w.produce(w.sales(2000, 2500)...)
	w.until("some of it is in", func() bool { return live.Stats().Rows > 0 })
	close(gate.free)
	w.caughtUp(live)
	dead.stop()
	w.caughtUp(live)
	w.exactly("stock_events", 2500)
}

// A record that cannot be read goes to stock.rejected with its bytes, and stops nothing; one of stock.rejected itself becomes a row.
func TestPoison(t *testing.T) {
	w := newWorld(t)
	poison := topics.Record(schemas.StockEvents, "SKU-1", []byte("\xffnot protobuf"))
	w.produce(poison)
	unpriced := sale(7)
	unpriced.UnitPrice = "12,95 EUR"
	w.produce(w.codec.EventRecord(unpriced))
	w.produce(topics.Record(schemas.StockRejected, "x", []byte("\xffneither")))
	w.produce(w.sales(100, 200)...)
	s := w.start()
	w.caughtUp(s)
	w.caughtUp(s) // what the first round rejected
	w.exactly("stock_events", 101)
	w.exactly("rejected_records", 3)
	if got := s.Stats().Rejected; got != 2 {
		t.Errorf("%d records rejected, want 2", got)
	}
	var topic, reason, value string
	var partition int32
	var offset int64
	if err := w.db().QueryRow(t.Context(), "SELECT source_topic, source_partition, source_offset, reason, value FROM rejected_records WHERE reason = 'undecodable' AND source_topic = 'stock.events'").
		Scan(&topic, &partition, &offset, &reason, &value); err != nil {
		t.Fatal(err)
	}
	if partition != poison.Partition || offset != poison.Offset || value != string(poison.Value) {
		t.Errorf("rejected row names %s/%d/%d with %q, want %s/%d/%d with %q", topic, partition, offset, value, poison.Topic, poison.Partition, poison.Offset, poison.Value)
	}
	var unknown uint64
	if err := w.db().QueryRow(t.Context(), "SELECT count() FROM stock_events WHERE unit_price IS NULL AND event_id = ?", unpriced.ID).Scan(&unknown); err != nil || unknown != 1 {
		t.Errorf("%d rows without the bad price, %v, want 1", unknown, err)
	}
	if n := w.distinct("events", "event_id"); n != 101 {
		t.Errorf("view events has %d, want 101: a bad price is no reason to leave an event out", n)
	}
}

// A channel that is added while analytics runs is picked up.
func TestNewChannel(t *testing.T) {
	w := newWorld(t)
	s := w.start()
	w.until("partitions are assigned", func() bool { return s.Stats().Partitions > 0 })
	if err := kafka.EnsureTopics(t.Context(), w.client, -1, []kafka.Topic{topics.TargetsSpec("new-shop", partitions)}); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		w.produce(w.target(&allocation.Target{SKU: fmt.Sprintf("SKU-%d", i), Channel: "new-shop", Quantity: 3, DecidedAt: 1}))
	}
	w.caughtUp(s)
	w.exactly("channel_targets", 50)
}

func (w *world) target(x *allocation.Target) *kgo.Record {
	return topics.Record(schemas.TargetsTopic(x.Channel), x.SKU, w.codec.AppendTarget(nil, x))
}

// Kafka forgets a group that is away for long. Analytics then goes on from what ClickHouse holds.
func TestForgottenOffsets(t *testing.T) {
	w := newWorld(t)
	w.produce(w.sales(0, 1000)...)
	s := w.start()
	w.caughtUp(s)
	s.stop()
	if _, err := kadm.NewClient(w.client).DeleteGroup(t.Context(), Group); err != nil {
		t.Fatal(err)
	}
	w.produce(w.sales(1000, 1200)...)
	s = w.start()
	w.caughtUp(s)
	w.exactly("stock_events", 1200)
}

// A database that holds more than the topics is another system's: analytics stops and says so, before it mixes the two.
func TestTopicsMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.produce(w.sales(0, 1000)...)
	s := w.start()
	w.caughtUp(s)
	s.stop()
	other := newWorld(t)
	other.cfg.ClickHouse.Database = w.cfg.ClickHouse.Database
	other.produce(other.sales(0, 10)...)
	again, err := New(other.cfg, Deps{Kafka: other.kafka, Codec: other.codec, Telemetry: s.deps.Telemetry})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("Run = %v, want an error that says the topic was made anew", err)
	}
	w.exactly("stock_events", 1000)
}

// While ClickHouse is away nothing is skipped, and Ready says why.
func TestClickHouseAway(t *testing.T) {
	w := newWorld(t)
	gate := newGate(t)
	w.cfg.ClickHouse.URL = gate.URL
	w.cfg.MaxRows = 100
	s := w.start()
	w.until("partitions are assigned", func() bool { return s.Stats().Partitions > 0 })
	gate.mode.Store(refuse)
	w.produce(w.sales(0, 5000)...)
	w.until("Ready says why", func() bool {
		err := s.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "insert into")
	})
	gate.mode.Store(open)
	w.caughtUp(s)
	w.exactly("stock_events", 5000)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
}

// Clocks that are far off make a row, not a stop.
func TestOddClocks(t *testing.T) {
	w := newWorld(t)
	var records []*kgo.Record
	for i := range 300 {
		e := sale(i)
		e.OccurredAt, e.ReceivedAt = int64(i-150)<<55, int64(150-i)<<55
		r := w.codec.EventRecord(e)
		r.Timestamp = time.Now().AddDate(0, i, 0)
		records = append(records, r)
	}
	w.produce(records...)
	a := alert.Alert{ID: "a", Kind: alert.Oversold, SKU: "SKU-1", Units: 3, At: 5}
	w.produce(topics.Record(schemas.StockAlerts, "SKU-1", w.codec.AppendAlert(nil, &a)))
	s := w.start()
	w.caughtUp(s)
	w.exactly("stock_events", 300)
	w.exactly("stock_alerts", 1)
}
