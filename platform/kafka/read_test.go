package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What is committed is read to the end, whatever ends a partition: records, markers of transactions that were committed or not, or a transaction that goes on.
func TestCommittedReadsToTheEnd(t *testing.T) {
	c := Config{Brokers: start(t, kfake.SeedTopics(3, "t", "empty"))}
	writer := func(id string) *kgo.Client {
		w, err := c.Client(quietLog, id, kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	write := func(w *kgo.Client, p int32, values ...string) {
		t.Helper()
		for _, v := range values {
			if err := w.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: p, Value: []byte(v)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin := func(w *kgo.Client) {
		t.Helper()
		if err := w.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
	}
	end := func(w *kgo.Client, how kgo.TransactionEndTry) {
		t.Helper()
		if err := w.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	done, undone, open := writer("done"), writer("undone"), writer("open")
	begin(done)
	write(done, 0, "a", "b")
	end(done, kgo.TryCommit)
	begin(undone)
	write(undone, 0, "never")
	write(undone, 1, "never", "never")
	end(undone, kgo.TryAbort)
	begin(done)
	write(done, 0, "c")
	write(done, 2, "d")
	end(done, kgo.TryCommit)
	begin(open)
	write(open, 1, "late")

	client, err := c.Client(quietLog, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	all := map[string][]int32{"t": {0, 1, 2}, "empty": {0, 1, 2}}
	var got []string
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Committed(ctx, client, all, nil, func(*kgo.Record) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a transaction under way was not waited for: %v", err)
	}
	go func() {
		if err := open.EndTransaction(context.WithoutCancel(t.Context()), kgo.TryCommit); err != nil {
			t.Error(err)
		}
	}()
	at, err := Committed(t.Context(), client, all, nil, func(r *kgo.Record) {
		got = append(got, fmt.Sprint(r.Topic, r.Partition, " ", string(r.Value)))
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []string{"t0 a", "t0 b", "t0 c", "t1 late", "t2 d"}; !slices.Equal(got, want) {
		t.Errorf("read %q; want %q", got, want)
	}
	for p, want := range []int64{7, 5, 2} { // markers take an offset each: a b M never M c M; never never M late M; d M
		if o, _ := at.Lookup("t", int32(p)); o.At != want {
			t.Errorf("partition %d was read up to %d; want %d", p, o.At, want)
		}
	}
	for offset, want := range map[int64]bool{0: false, 5: false, 6: true, 7: true} {
		if empty, err := Empty(t.Context(), client, "t", 0, offset); empty != want || err != nil {
			t.Errorf("empty from %d on: %t, %v", offset, empty, err)
		}
	}
	begin(done)
	write(done, 2, "more")
	end(done, kgo.TryCommit)
	got = nil
	var from kadm.Offsets
	for _, o := range at.Sorted() {
		from.Add(o)
	}
	if _, err := Committed(t.Context(), client, all, from, func(r *kgo.Record) { got = append(got, string(r.Value)) }); err != nil || !slices.Equal(got, []string{"more"}) {
		t.Errorf("from there on: %q, %v", got, err)
	}
	if _, err := Committed(t.Context(), client, map[string][]int32{"t": {3}}, nil, nil); err == nil {
		t.Error("a partition that is not there was read")
	}
	cancel()
	if _, err := Committed(ctx, client, all, nil, func(*kgo.Record) {}); err == nil {
		t.Errorf("cancelled: %v", err)
	}
}

// A backlog of many answers' worth is read whole and in order.
func TestCommittedReadsALot(t *testing.T) {
	c := Config{Brokers: start(t, kfake.SeedTopics(4, "t"))}
	client, err := c.Client(quietLog, "test", kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const each = 9000
	value := make([]byte, 1000)
	for i := range each {
		for p := range int32(4) {
			client.Produce(t.Context(), &kgo.Record{Topic: "t", Partition: p, Key: fmt.Append(nil, i), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := make([]int, 4)
	at, err := Committed(t.Context(), client, map[string][]int32{"t": {0, 1, 2, 3}}, nil, func(r *kgo.Record) {
		if string(r.Key) != fmt.Sprint(next[r.Partition]) {
			t.Fatalf("partition %d gave %s; want %d", r.Partition, r.Key, next[r.Partition])
		}
		next[r.Partition]++
	})
	if err != nil || !slices.Equal(next, []int{each, each, each, each}) {
		t.Errorf("read %v, up to %v: %v", next, at, err)
	}
}
