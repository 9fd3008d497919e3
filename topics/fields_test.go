package topics_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/onhand/onhand/schemas"
	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// TestTheReferenceSaysWhatTheLedgerNeeds holds the published table of fields against the ledger's own check: an event with just the fields
// that its kind needs is taken, and one that lacks any of them is not.
func TestTheReferenceSaysWhatTheLedgerNeeds(t *testing.T) {
	fields := (&onhandv1.StockEvent{}).ProtoReflect().Descriptor().Fields()
	check := func(k schemas.KindFields, have []string) ledger.Fault {
		m := &onhandv1.StockEvent{Id: "e", Kind: k.Kind, Sku: "A", Quantity: 1, OccurredAtUs: 1, ReceivedAtUs: 1, Source: "api"}
		if k.OfChannel {
			m.Sku, m.Quantity = "", 0
		}
		for _, name := range have {
			f := fields.ByName(protoreflect.Name(name))
			var v protoreflect.Value
			switch f.Kind() {
			case protoreflect.EnumKind:
				v = protoreflect.ValueOfEnum(1)
			case protoreflect.Int64Kind:
				v = protoreflect.ValueOfInt64(1)
			case protoreflect.StringKind:
				v = protoreflect.ValueOfString("the " + name)
			default:
				t.Fatalf("%s is a %v", name, f.Kind())
			}
			m.ProtoReflect().Set(f, v)
		}
		value, err := m.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		var r topics.EventReader
		var e event.Event
		if err := r.Read(value, &e); err != nil {
			t.Fatal(err)
		}
		return ledger.Check(&e, 0)
	}
	for _, k := range schemas.EventFields() {
		if f := check(k, k.Needs); f.Reason != "" {
			t.Errorf("%v with %v is refused: %v", k.Kind, k.Needs, f)
		}
		for i, name := range k.Needs {
			if f := check(k, slices.Delete(slices.Clone(k.Needs), i, i+1)); f.Reason == "" {
				t.Errorf("%v is taken without %s, which the reference says it needs", k.Kind, name)
			}
		}
	}
}
