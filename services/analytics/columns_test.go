package analytics

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/onhand/onhand/topics"
)

// TestBody reads blocks of several sizes in pieces: the bytes are those that ch-go writes at once, as often as the block is read, and none come after Close.
func TestBody(t *testing.T) {
	codec, err := topics.NewCodec(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rows := newEventRows()
	b := rows.base()
	for _, n := range []int{0, 1, 700} {
		b.reset()
		for i := range n {
			if f := rows.add(codec.EventRecord(sale(i))); f != nil {
				t.Fatal(f)
			}
		}
		var whole proto.Buffer
		if err := (proto.Block{Columns: len(b.columns), Rows: n}).EncodeRawBlock(&whole, 0, b.columns); err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(b.body(), whole.Buf); err != nil {
			t.Errorf("%d rows: %v", n, err)
		}
		if got, err := io.ReadAll(b.body()); err != nil || !bytes.Equal(got, whole.Buf) {
			t.Errorf("%d rows, read again: %d bytes, %v; want %d", n, len(got), err, len(whole.Buf))
		}
	}
	r := b.body()
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	if n, err := r.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a closed body gives %d bytes, %v", n, err)
	}
}

// TestBodyOfUnequalColumns is refused rather than sent.
func TestBodyOfUnequalColumns(t *testing.T) {
	rows := newEventRows()
	rows.base().rows = 1 // and no column has one
	if _, err := io.ReadAll(rows.base().body()); err == nil {
		t.Error("a block whose columns have too few rows is read without an error")
	}
}
