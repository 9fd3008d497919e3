package topics

import (
	"context"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/event"
)

// The quick way knows every field of the schema: none makes it fall back to the generated code.
func TestTheQuickWayKnowsEveryField(t *testing.T) {
	fields := (&onhandv1.StockEvent{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		m := &onhandv1.StockEvent{}
		var v protoreflect.Value
		switch f.Kind() {
		case protoreflect.EnumKind:
			v = protoreflect.ValueOfEnum(1)
		case protoreflect.BoolKind:
			v = protoreflect.ValueOfBool(true)
		case protoreflect.Int64Kind, protoreflect.Sint64Kind:
			v = protoreflect.ValueOfInt64(300)
		case protoreflect.StringKind:
			v = protoreflect.ValueOfString("x")
		default:
			t.Fatalf("%s is a %v: teach readEvent", f.Name(), f.Kind())
		}
		m.ProtoReflect().Set(f, v)
		b, err := m.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		var e event.Event
		if !readEvent(b, &e) || e == (event.Event{}) {
			t.Errorf("readEvent does not know %s", f.Name())
		}
	}
}

// The generated code says what each value means, and which are damaged.
func TestTheQuickWayReadsAsTheGeneratedCode(t *testing.T) {
	c, err := NewCodec(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := rapid.StringN(0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		want := event.Event{
			ID: text.Draw(t, "id"), SKU: text.Draw(t, "sku"), Kind: event.Kind(rapid.Byte().Draw(t, "kind")), Quantity: event.Units(rapid.Int64().Draw(t, "quantity")),
			OrderID: text.Draw(t, "order"), AsOf: rapid.Int64().Draw(t, "as of"), RestockedByChannel: rapid.Bool().Draw(t, "restocked"),
			Disposition: event.Disposition(rapid.Byte().Draw(t, "disposition")), Source: text.Draw(t, "source"),
			Scope: text.Draw(t, "scope"), PeerSKU: text.Draw(t, "peer"), Bundle: text.Draw(t, "bundle"),
			Parts: rapid.Int64().Draw(t, "parts"), DecideBy: rapid.Int64().Draw(t, "decide by"), RequestHash: rapid.Int64().Draw(t, "request"), Sequence: rapid.Int64().Draw(t, "sequence"),
		}
		b := c.AppendEvent(nil, &want)
		for range rapid.IntRange(0, 3).Draw(t, "damages") {
			if len(b) == 0 {
				break
			}
			at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				b[at] = rapid.Byte().Draw(t, "byte")
			case 1:
				b = b[:at]
			case 2:
				b = append(b[:at:at], append([]byte{rapid.Byte().Draw(t, "byte")}, b[at:]...)...)
			}
		}
		var e event.Event
		if !readEvent(b, &e) {
			return // left to the generated code
		}
		var m onhandv1.StockEvent
		if err := m.UnmarshalVT(b); err != nil {
			t.Fatalf("%x is damaged (%v) and was read as %+v", b, err, e)
		}
		var again event.Event
		fromMessage(&m, &again)
		if e != again {
			t.Fatalf("%x was read as\n %+v, want\n %+v", b, e, again)
		}
	})
}
