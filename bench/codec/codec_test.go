package codec

import (
	"testing"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

func sale() event.Event {
	return event.Event{
		ID: "webshop/A00000017/1/sale_recorded", Kind: event.SaleRecorded, SKU: "SKU-004711", Location: "warehouse", Channel: "webshop", OrderID: "A00000017", LineID: "1",
		Quantity: 2, UnitPrice: "19.99", Currency: "EUR", OccurredAt: 1_790_000_000_000_000, ReceivedAt: 1_790_000_000_120_000, Source: "api",
	}
}

func newCodec(b *testing.B) *topics.Codec {
	c, err := topics.NewCodec(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkReadEvent(b *testing.B) {
	e := sale()
	value := newCodec(b).AppendEvent(nil, &e)
	var r topics.EventReader
	b.SetBytes(int64(len(value)))
	for b.Loop() {
		if err := r.Read(value, &e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendEvent(b *testing.B) {
	c, e := newCodec(b), sale()
	var dst []byte
	for b.Loop() {
		dst = c.AppendEvent(dst[:0], &e)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkAppendLevel(b *testing.B) {
	c := newCodec(b)
	p := ledger.New(ledger.Options{})
	e := sale()
	p.Apply(&e, 0, e.ReceivedAt)
	var level ledger.Level
	p.Level(p.SKU(e.SKU), e.ReceivedAt, &level)
	var dst []byte
	for b.Loop() {
		dst = c.AppendLevel(dst[:0], &level)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkDecodeLevel(b *testing.B) {
	c := newCodec(b)
	p := ledger.New(ledger.Options{})
	e := sale()
	p.Apply(&e, 0, e.ReceivedAt)
	var level ledger.Level
	p.Level(p.SKU(e.SKU), e.ReceivedAt, &level)
	value := c.AppendLevel(nil, &level)
	b.SetBytes(int64(len(value)))
	for b.Loop() {
		if _, err := topics.DecodeLevel(value); err != nil {
			b.Fatal(err)
		}
	}
}
