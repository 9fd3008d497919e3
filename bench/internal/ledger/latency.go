package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// Latency is how long events took, at a steady rate, from when they were sent to Kafka.
type Latency struct {
	Offered    float64 `json:"offered_per_s"`
	Sent       float64 `json:"sent_per_s"` // the generator shares the machine, and may not reach what it is to offer
	RedisP50   float64 `json:"redis_p50_ms,omitempty"`
	RedisP99   float64 `json:"redis_p99_ms,omitempty"`
	LevelsP50  float64 `json:"levels_p50_ms"`
	LevelsP99  float64 `json:"levels_p99_ms"`
	Measured   int     `json:"measured"` // one event of each batch sent, in stock.levels
	Unfinished int     `json:"unfinished"`
	Cores      Cores   `json:"cores"` // while it was measured
}

// Cores is how many processors each part kept busy.
type Cores struct {
	Process float64 `json:"process"` // of what is measured itself
	Redis   float64 `json:"redis"`
	Kafka   float64 `json:"kafka"`
	Load    float64 `json:"load"` // who sends and who watches
}

func (c Cores) String() string {
	return fmt.Sprintf("cores: %.2f itself, %.2f Redis, %.2f Kafka, %.2f load and watchers", c.Process, c.Redis, c.Kafka, c.Load)
}

const (
	pace   = 5 * time.Millisecond // between two sends
	warmup = 10 * time.Second
)

// load is record batches made ready before, so that sending them costs next to nothing: one for each partition and send.
type load struct {
	sends [][]prepared
	rate  float64
}

// prepared is a record batch of one partition. Its last event is watched: it is visible once its SKU has this version.
type prepared struct {
	partition int32
	bytes     []byte
	count     int
	sku       string
	version   int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// prepareLoad makes events of a shape, for as long as the load lasts.
func prepareLoad(codec *topics.Codec, sh shape, rate float64, lasts time.Duration) *load {
	rng := rand.New(rand.NewPCG(3, 5))
	next, skus := sh.pick(rng), sh.skus
	where := kgo.StickyKeyPartitioner(nil).ForTopic(schemas.StockEvents)
	names, parts, versions := make([]string, skus), make([]int32, skus), make([]int64, skus)
	for i := range names {
		names[i] = fmt.Sprintf("SKU-%06d", i)
		parts[i] = int32(where.Partition(&kgo.Record{Key: []byte(names[i])}, partitions))
	}
	l := &load{rate: rate}
	perSend := max(partitions, int(rate*pace.Seconds()))
	now := time.Now().UnixMicro()
	var recs [partitions][]byte
	var batches []prepared
	add := func(k int, e *event.Event) {
		p := parts[k]
		versions[k]++
		e.SKU, e.Location, e.OccurredAt, e.ReceivedAt, e.Source = names[k], "warehouse", now, now, "api"
		b := &batches[p]
		body := append([]byte{0}, kbin.AppendVarint(kbin.AppendVarlong(nil, 0), int32(b.count))...) // attributes, time, offset
		body = kbin.AppendVarintBytes(body, []byte(e.SKU))
		body = kbin.AppendVarintBytes(body, codec.AppendEvent(nil, e))
		body = kbin.AppendVarint(body, 0) // headers
		recs[p] = append(kbin.AppendVarint(recs[p], int32(len(body))), body...)
		b.partition, b.count, b.sku, b.version = p, b.count+1, e.SKU, versions[k]
	}
	send := func(fill func()) {
		clear(recs[:])
		batches = make([]prepared, partitions)
		fill()
		for p := range batches {
			b := &batches[p]
			if b.count == 0 {
				continue
			}
			rb := kmsg.RecordBatch{
				Length: int32(49 + len(recs[p])), PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(b.count - 1), ProducerID: -1, ProducerEpoch: -1,
				FirstSequence: -1, NumRecords: int32(b.count), Records: recs[p],
			}
			b.bytes = rb.AppendTo(nil)
		}
		l.sends = append(l.sends, slices.DeleteFunc(batches, func(b prepared) bool { return b.count == 0 }))
	}
	send(func() { // enough of everything: what sells without stock raises an alert, each time
		for k := range names {
			add(k, &event.Event{ID: "opening/" + names[k], Kind: event.ReceiptReceived, Quantity: ledger.DefaultMaxQuantity, Reference: "PO-opening"})
		}
	})
	n := 0
	for range int(lasts / pace) {
		send(func() {
			for range perSend {
				n++
				order := strconv.Itoa(n)
				add(next(), &event.Event{
					ID: "web/" + order + "/1/sale_recorded", Kind: event.SaleRecorded, Quantity: 1, Channel: "webshop", OrderID: order, LineID: "1", UnitPrice: "19.99", Currency: "EUR",
				})
			}
		})
	}
	return l
}

// stamp gives a batch its time and checksum.
func stamp(b []byte, at time.Time) {
	binary.BigEndian.PutUint64(b[27:], uint64(at.UnixMilli()))
	binary.BigEndian.PutUint64(b[35:], uint64(at.UnixMilli()))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
}

// waiting is a watched event that is not visible yet.
type waiting struct {
	sent    time.Time
	offset  int64
	version int64
	count   int
}

// watch keeps what is not visible yet, by partition in Redis and by SKU in levels.
type watch struct {
	mu     sync.Mutex
	redis  map[int32][]waiting
	levels map[string][]waiting
	from   time.Time // what was sent before is warm-up

	redisTook, levelsTook []sample
}

// sample is a latency and how many events had it.
type sample struct {
	took  time.Duration
	count int
}

func (w *watch) done(to *[]sample, x waiting, now time.Time) {
	if x.sent.After(w.from) {
		*to = append(*to, sample{now.Sub(x.sent), x.count})
	}
}

// quantile is in milliseconds, of all events.
func quantile(ss []sample, q float64) float64 {
	slices.SortFunc(ss, func(a, b sample) int { return int(a.took - b.took) })
	total := 0
	for _, s := range ss {
		total += s.count
	}
	at := int(q * float64(total))
	for _, s := range ss {
		if at -= s.count; at < 0 {
			return float64(s.took.Microseconds()) / 1000
		}
	}
	return 0
}

// latency sends a load to input and watches it become visible in output, and in Redis when namespace is not empty. It tells when the warm-up is over, and when all is sent.
func (p *parts) latency(ctx context.Context, l *load, input, output, namespace string, patience time.Duration, tell func(phase) error) (out Latency, err error) {
	c, err := p.kafka.Client(silent.Log, "bench-load", kgo.ConsumeTopics(output), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return out, err
	}
	defer c.Close()
	meta := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(input)
	meta.Topics = append(meta.Topics, t)
	known, err := meta.RequestWith(ctx, c)
	if err != nil {
		return out, err
	}
	if len(known.Topics) != 1 || len(known.Brokers) != 1 {
		return out, fmt.Errorf("%s is not known", input)
	}
	topicID := known.Topics[0].TopicID
	broker := c.Broker(int(known.Brokers[0].NodeID))
	w := &watch{redis: make(map[int32][]waiting), levels: make(map[string][]waiting)}

	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { w.watchLevels(watching, c) })
	if namespace != "" {
		wg.Go(func() { w.watchRedis(watching, p, namespace) })
	}
	for ready := time.Now().Add(300 * time.Millisecond); time.Now().Before(ready) && ctx.Err() == nil; { // the watchers are at the end of their topic by then
		time.Sleep(10 * time.Millisecond)
	}

	began := time.Now()
	w.mu.Lock()
	w.from = began.Add(warmup)
	w.mu.Unlock()
	sent := 0
	var last time.Time
	var from time.Time
	for i, batches := range l.sends {
		if d := time.Until(began.Add(time.Duration(i) * pace)); d > 0 {
			time.Sleep(d)
		}
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic, rt.TopicID = input, topicID
		now := time.Now()
		for _, b := range batches {
			stamp(b.bytes, now)
			rp := kmsg.NewProduceRequestTopicPartition()
			rp.Partition, rp.Records = b.partition, b.bytes
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		w.mu.Lock() // an event must not be visible before it is waited for
		for _, b := range batches {
			w.levels[b.sku] = append(w.levels[b.sku], waiting{sent: now, version: b.version, count: b.count})
		}
		w.mu.Unlock()
		kresp, err := broker.Request(ctx, req)
		if err != nil {
			return out, fmt.Errorf("send: %w", err)
		}
		resp := kresp.(*kmsg.ProduceResponse)
		w.mu.Lock()
		for _, rt := range resp.Topics {
			for _, rp := range rt.Partitions {
				if rp.ErrorCode != 0 {
					w.mu.Unlock()
					return out, fmt.Errorf("send to partition %d: error %d", rp.Partition, rp.ErrorCode)
				}
				for _, b := range batches {
					if b.partition == rp.Partition {
						w.redis[b.partition] = append(w.redis[b.partition], waiting{sent: now, offset: rp.BaseOffset + int64(b.count) - 1, count: b.count})
					}
				}
			}
		}
		w.mu.Unlock()
		if last = now; now.After(began.Add(warmup)) {
			if from.IsZero() {
				from = now
				if err := tell(warm); err != nil {
					return out, err
				}
			} else {
				for _, b := range batches {
					sent += b.count
				}
			}
		}
	}
	if err := tell(gone); err != nil {
		return out, err
	}
	// What is under way has some time to arrive.
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && w.left(namespace != "") > 0 && ctx.Err() == nil; {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	wg.Wait()
	out = Latency{Offered: l.rate, Measured: len(w.levelsTook), Unfinished: w.left(namespace != "")}
	if d := last.Sub(from).Seconds(); d > 0 {
		out.Sent = float64(sent) / d
	}
	out.LevelsP50, out.LevelsP99 = quantile(w.levelsTook, .5), quantile(w.levelsTook, .99)
	out.RedisP50, out.RedisP99 = quantile(w.redisTook, .5), quantile(w.redisTook, .99)
	return out, nil
}

func (w *watch) left(redis bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, q := range w.levels {
		n += len(q)
	}
	if redis {
		for _, q := range w.redis {
			n += len(q)
		}
	}
	return n
}

// watchLevels looks for versions that are waited for. It reads no more of a level than its first two fields.
func (w *watch) watchLevels(ctx context.Context, c *kgo.Client) {
	for {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		w.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			q := w.levels[string(r.Key)]
			if len(q) == 0 {
				return
			}
			v := version(r.Value)
			n := 0
			for n < len(q) && q[n].version <= v {
				w.done(&w.levelsTook, q[n], now)
				n++
			}
			w.levels[string(r.Key)] = q[n:]
		})
		w.mu.Unlock()
	}
}

// version is field 2 of a StockLevel, which follows field 1; 0 when it is not there.
func version(b []byte) int64 {
	if len(b) > 6 && b[0] == 0 {
		b = b[6:]
	}
	if len(b) < 2 || b[0] != 1<<3|2 || int(b[1]) > len(b)-3 {
		return 0
	}
	if b = b[2+int(b[1]):]; b[0] != 2<<3 {
		return 0
	}
	v, _ := binary.Uvarint(b[1:])
	return int64(v)
}

// watchRedis asks every millisecond how far each partition is.
func (w *watch) watchRedis(ctx context.Context, p *parts, namespace string) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pipe := p.redis.Pipeline()
		for i := range partitions {
			pipe.HGet(ctx, fmt.Sprintf("%s:{p%d}:meta", namespace, i), "offset")
		}
		cmds, _ := pipe.Exec(ctx) // a partition without a ledger yet has none
		now := time.Now()
		w.mu.Lock()
		for i, cmd := range cmds {
			offset, err := strconv.ParseInt(fmt.Sprint(cmd.(interface{ Val() string }).Val()), 10, 64)
			if err != nil {
				continue
			}
			q := w.redis[int32(i)]
			n := 0
			for n < len(q) && q[n].offset <= offset {
				w.done(&w.redisTook, q[n], now)
				n++
			}
			w.redis[int32(i)] = q[n:]
		}
		w.mu.Unlock()
	}
}

// warmFor is how long a broker is kept busy before latency is measured: one that has just started spends most of its time compiling.
const warmFor = 12 * time.Second

// warm keeps the broker busy with small produce and fetch requests on a topic of its own.
func (p *parts) warm(ctx context.Context) error {
	const topic = "bench.warm"
	c, err := p.kafka.Client(silent.Log, "bench-warm", kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := kafka.EnsureTopics(ctx, c, p.kafka.Replication, []kafka.Topic{{Name: topic, Partitions: partitions}}); err != nil {
		return err
	}
	warming, stop := context.WithTimeout(ctx, warmFor)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for warming.Err() == nil {
			c.PollFetches(warming)
		}
	})
	value := make([]byte, 150)
	records := make([]*kgo.Record, 175)
	for n := 0; warming.Err() == nil; {
		for i := range records {
			n++
			records[i] = &kgo.Record{Topic: topic, Key: strconv.AppendInt(nil, int64(n), 10), Value: value}
		}
		if err := c.ProduceSync(warming, records...).FirstErr(); err != nil && warming.Err() == nil {
			return fmt.Errorf("warm the broker: %w", err)
		}
	}
	return ctx.Err()
}

// projectorLatency runs the projector beside a load, and takes a processor profile of it when a file is named.
func (p *parts) projectorLatency(ctx context.Context, codec *topics.Codec, sh shape, rate float64, lasts time.Duration, profile string) (out Latency, err error) {
	l, err := p.startLoad(ctx, sh, rate, lasts)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	conf := ledgerprojector.DefaultConfig()
	conf.Namespace, conf.Group = "lat", "bench-latency"
	s, err := ledgerprojector.New(conf, ledgerprojector.Deps{Kafka: p.kafka, Codec: codec, Redis: p.redis, Telemetry: silent})
	if err != nil {
		return out, err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()
	for len(s.Stats().Lag) < partitions || s.Ready(ctx) != nil {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		time.Sleep(5 * time.Millisecond)
	}
	if profile != "" {
		stop, err := startProfile(profile)
		if err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	return l.run(p, errand{Input: schemas.StockEvents, Output: schemas.StockLevels, Namespace: conf.Namespace, Patience: 5 * time.Second}, 0)
}

// peerLatency runs the peer beside a load.
func (p *parts) peerLatency(ctx context.Context, sh shape, classes, input, output, dir string, s setting, rate float64, lasts time.Duration) (out Latency, err error) {
	l, err := p.startLoad(ctx, sh, rate, lasts)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	state, err := os.MkdirTemp(dir, "peer-")
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(state)
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var errs bytes.Buffer
	cmd := exec.CommandContext(running, "java", peerArgs(classes, p.broker.Addr, input, output, 1<<40, s, state)...)
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return out, err
	}
	defer func() { _ = cmd.Wait() }() // killed: its exit says nothing
	defer cancel()
	// The levels of the first send say that it has started.
	if _, err := l.run(p, errand{Input: input, Output: output, First: true, Patience: time.Minute}, cmd.Process.Pid); err != nil {
		return out, err
	}
	out, err = l.run(p, errand{Input: input, Output: output, Rest: true, Patience: 5 * time.Second}, cmd.Process.Pid)
	if out.Measured == 0 && err == nil {
		err = fmt.Errorf("Kafka Streams (%s) emitted nothing: %s", s, errs.Bytes())
	}
	return out, err
}
