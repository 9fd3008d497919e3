package analytics

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A row's strings may alias the record they came from: columns copy them at the latest when a block is encoded, and the records of a block
// are kept until then.

// block builds one insert of one table, column by column.
type block struct {
	columns proto.Input
	rows    int
	buf     proto.Buffer
}

func add[C proto.ColInput](b *block, name string, col C) C {
	b.columns = append(b.columns, proto.InputColumn{Name: name, Data: col})
	return col
}

func (b *block) text(name string) *proto.ColStr    { return add(b, name, new(proto.ColStr)) }
func (b *block) int64(name string) *proto.ColInt64 { return add(b, name, new(proto.ColInt64)) }
func (b *block) int32(name string) *proto.ColInt32 { return add(b, name, new(proto.ColInt32)) }
func (b *block) flag(name string) *proto.ColBool   { return add(b, name, new(proto.ColBool)) }
func (b *block) micros(name string) *micros        { return add(b, name, newMicros()) }
func (b *block) money(name string) *money          { return add(b, name, newMoney()) }
func (b *block) texts(name string) *list[string]   { return addList(b, name, new(proto.ColStr)) }
func (b *block) int64s(name string) *list[int64]   { return addList(b, name, new(proto.ColInt64)) }
func (b *block) flags(name string) *list[bool]     { return addList(b, name, new(proto.ColBool)) }
func (b *block) names(name string) *list[string] {
	return addList(b, name, new(proto.ColStr).LowCardinality())
}
func (b *block) name(name string) *lowCardinality {
	return add(b, name, new(proto.ColStr).LowCardinality())
}
func (b *block) moneys(name string) *moneys           { return add(b, name, newMoneys()) }
func (b *block) offsetsOf(topics bool) *recordColumns { return newRecordColumns(b, topics) }

type lowCardinality = proto.ColLowCardinality[string]

// reset empties the block and keeps its memory.
func (b *block) reset() {
	b.columns.Reset()
	b.rows = 0
	b.buf.Reset()
}

// body is the block in ClickHouse's Native format at revision 0, as its HTTP interface takes it. It is encoded column by column while it is read, since the
// whole would take as much memory again as the rows do. One body is read at a time, and none once the block has been reset; see close.
type body struct {
	mu    sync.Mutex // an HTTP client may read on after it has answered
	block *block
	next  int    // column
	left  []byte // of the column before, in block.buf
	err   error
}

func (b *block) body() *body {
	b.buf.Reset()
	b.buf.PutInt(len(b.columns))
	b.buf.PutInt(b.rows)
	return &body{block: b, left: b.buf.Buf}
}

// Read implements io.Reader.
func (r *body) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.left) == 0 && r.err == nil {
		r.err = r.encode()
	}
	if len(r.left) == 0 {
		return 0, r.err
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Close lets nobody read any more: the block's memory can be used again.
func (r *body) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left, r.err = nil, io.ErrClosedPipe
	return nil
}

// encode encodes the next column; io.EOF when there is none.
func (r *body) encode() error {
	b := r.block
	if r.next == len(b.columns) {
		return io.EOF
	}
	col := b.columns[r.next]
	r.next++
	if n := col.Data.Rows(); n != b.rows {
		return fmt.Errorf("column %s has %d rows of %d", col.Name, n, b.rows)
	}
	b.buf.Reset()
	col.EncodeStart(&b.buf, 0)
	if c, ok := col.Data.(proto.Preparable); ok {
		if err := c.Prepare(); err != nil {
			return fmt.Errorf("column %s: %w", col.Name, err)
		}
	}
	if b.rows > 0 {
		if c, ok := col.Data.(proto.StateEncoder); ok {
			c.EncodeState(&b.buf)
		}
		col.Data.EncodeColumn(&b.buf)
	}
	r.left = b.buf.Buf
	return nil
}

// list is a column of arrays, filled element by element and closed once a row.
type list[T any] struct{ *proto.ColArr[T] }

func addList[T any](b *block, name string, data proto.ColumnOf[T]) *list[T] {
	return add(b, name, &list[T]{proto.NewArray(data)})
}

func (l *list[T]) push(v T) { l.Data.Append(v) }
func (l *list[T]) close()   { l.Offsets.Append(uint64(l.Data.Rows())) }

// lastMicro is the last instant of DateTime64(6), rounded down to a year: 2262-01-01. Clocks that are further off are clipped, so that they
// cannot make a partition for each of ten thousand months.
const lastMicro = 9214646400 * 1_000_000

// micros is a column of DateTime64(6). Zero means that there was no time.
type micros struct{ proto.ColDateTime64 }

func newMicros() *micros {
	c := &micros{}
	c.WithPrecision(proto.PrecisionMicro).WithLocation(time.UTC)
	return c
}

func (c *micros) add(us int64) { c.AppendRaw(proto.DateTime64(min(max(us, 0), lastMicro))) }

// money is a column of Nullable(Decimal(38, 9)): null when nothing is known.
type money struct {
	proto.ColNullable[proto.Decimal128]
	values proto.ColDecimal128
}

func newMoney() *money {
	c := &money{}
	c.Values = &c.values
	return c
}

// Type overrides ch-go's, which leaves the scale out.
func (*money) Type() proto.ColumnType { return "Nullable(Decimal(38, 9))" }

// add appends an amount; empty is unknown. What is no amount becomes unknown too, and is reported.
func (c *money) add(s string) error {
	if s == "" {
		c.Append(proto.Null[proto.Decimal128]())
		return nil
	}
	v, err := parseMoney(s)
	if err != nil {
		c.Append(proto.Null[proto.Decimal128]())
		return err
	}
	c.Append(proto.NewNullable(v))
	return nil
}

// moneys is a column of Array(Nullable(Decimal(38, 9))).
type moneys struct {
	offsets proto.ColUInt64
	values  *money
}

func newMoneys() *moneys                 { return &moneys{values: newMoney()} }
func (c *moneys) Type() proto.ColumnType { return "Array(Nullable(Decimal(38, 9)))" }
func (c *moneys) Rows() int              { return c.offsets.Rows() }
func (c *moneys) Reset()                 { c.offsets.Reset(); c.values.Reset() }
func (c *moneys) push(s string) error    { return c.values.add(s) }
func (c *moneys) close()                 { c.offsets.Append(uint64(c.values.Rows())) }
func (c *moneys) EncodeColumn(b *proto.Buffer) {
	c.offsets.EncodeColumn(b)
	c.values.EncodeColumn(b)
}

// WriteColumn implements ch-go's column.
func (c *moneys) WriteColumn(w *proto.Writer) {
	c.offsets.WriteColumn(w)
	c.values.WriteColumn(w)
}

// recordColumns say which record a row came from.
type recordColumns struct {
	topic      *lowCardinality // nil where the table has one topic
	partition  *proto.ColInt32
	offset     *proto.ColInt64
	appendedAt *micros
}

func newRecordColumns(b *block, topics bool) *recordColumns {
	c := &recordColumns{}
	if topics {
		c.topic = b.name("topic")
	}
	c.partition, c.offset, c.appendedAt = b.int32("partition"), b.int64("offset"), b.micros("appended_at")
	return c
}

func (c *recordColumns) add(r *kgo.Record) {
	if c.topic != nil {
		c.topic.Append(r.Topic)
	}
	c.partition.Append(r.Partition)
	c.offset.Append(r.Offset)
	c.appendedAt.add(r.Timestamp.UnixMicro())
}
