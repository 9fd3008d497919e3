package topics_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/onhand/onhand/schemas"
	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/reservation"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

// codecs is a codec that writes bare Protobuf, one that frames, and the registry behind that.
func codecs(t *testing.T) (bare, framed *topics.Codec, registry *sr.Client) {
	t.Helper()
	server := srfake.New()
	t.Cleanup(server.Close)
	registry, err := sr.NewClient(sr.URLs(server.URL()))
	if err != nil {
		t.Fatal(err)
	}
	framed, err = topics.NewCodec(context.Background(), registry)
	if err != nil {
		t.Fatal(err)
	}
	bare, err = topics.NewCodec(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return bare, framed, registry
}

// values generates any value of T, so that a field that is new in the domain is in the test at once. Integers of Go's own size are counts
// and settings that travel as 32 bits.
func values[T any]() *rapid.Generator[T] {
	return rapid.MakeCustom[T](rapid.MakeConfig{Kinds: map[reflect.Kind]*rapid.Generator[any]{
		reflect.Int: rapid.Map(rapid.Int32(), func(i int32) any { return int(i) }),
	}})
}

// law states that what append writes, decode reads back, bare and framed, behind any bytes that were in the buffer before.
func law[T any](t *testing.T, what string, gen *rapid.Generator[T], append func(c *topics.Codec, dst []byte, v *T) []byte, decode func([]byte) (*T, error)) {
	t.Helper()
	bare, framed, _ := codecs(t)
	t.Run(what, rapid.MakeCheck(func(rt *rapid.T) {
		v := gen.Draw(rt, what)
		before := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(rt, "before")
		for name, c := range map[string]*topics.Codec{"bare": bare, "framed": framed} {
			b := append(c, bytes.Clone(before), &v)
			rest, ok := bytes.CutPrefix(b, before)
			if !ok {
				rt.Fatalf("%s: it overwrote %x", name, before)
			}
			got, err := decode(rest)
			if err != nil {
				rt.Fatalf("%s: %v", name, err)
			}
			if !same(reflect.ValueOf(*got), reflect.ValueOf(v)) {
				rt.Fatalf("%s:\n got %+v\nwant %+v", name, *got, v)
			}
		}
	}))
}

// same is reflect.DeepEqual that takes an empty slice and none for the same, as Protobuf does.
func same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return same(a.Elem(), b.Elem())
	}
	return a.Equal(b)
}

// TestWhatIsWrittenIsRead is the codec's promise for every topic.
func TestWhatIsWrittenIsRead(t *testing.T) {
	named := rapid.StringN(1, 20, -1) // every value has an id: a value without any field has no bytes, and is refused
	law(t, "event", rapid.Custom(func(rt *rapid.T) event.Event {
		e := values[event.Event]().Draw(rt, "event")
		e.ID = named.Draw(rt, "id")
		return e
	}), (*topics.Codec).AppendEvent, func(b []byte) (*event.Event, error) {
		var r topics.EventReader
		var e event.Event
		return &e, r.Read(b, &e)
	})
	law(t, "level", rapid.Custom(func(rt *rapid.T) ledger.Level {
		l := values[ledger.Level]().Draw(rt, "level")
		l.SKU = named.Draw(rt, "sku")
		return l
	}), (*topics.Codec).AppendLevel, topics.DecodeLevel)
	law(t, "watermark", rapid.Custom(func(rt *rapid.T) order.Watermark {
		w := values[order.Watermark]().Draw(rt, "watermark")
		w.Channel = named.Draw(rt, "channel")
		return w
	}), (*topics.Codec).AppendWatermark, topics.DecodeWatermark)
	law(t, "decision", rapid.Custom(func(rt *rapid.T) reservation.Decision {
		d := values[reservation.Decision]().Draw(rt, "decision")
		d.ReservationID = named.Draw(rt, "id")
		return d
	}), (*topics.Codec).AppendDecision, topics.DecodeDecision)
	law(t, "books", rapid.Custom(func(rt *rapid.T) escrow.Snapshot {
		x := values[escrow.Snapshot]().Draw(rt, "books")
		x.SKU = named.Draw(rt, "sku")
		x.Phase %= escrow.Leaving + 1
		for i := range x.Channels {
			c := &x.Channels[i]
			c.Failures, c.Stale = int(int32(c.Failures)), int(int32(c.Stale))
			if !c.Booked { // then nothing of the books is kept
				*c = escrow.ChannelSnapshot{Channel: c.Channel, Sold: c.Sold, Restored: c.Restored, Fast: c.Fast, Slow: c.Slow, CountedAt: c.CountedAt}
			}
		}
		return x
	}), func(c *topics.Codec, dst []byte, x *escrow.Snapshot) []byte { return c.AppendBooks(dst, x, 5) }, topics.DecodeBooks)
	law(t, "certificate", rapid.Custom(func(rt *rapid.T) escrow.Certificate {
		c := values[escrow.Certificate]().Draw(rt, "certificate")
		c.Day = named.Draw(rt, "day")
		return c
	}), (*topics.Codec).AppendCertificate, topics.DecodeCertificate)
	law(t, "target", rapid.Custom(func(rt *rapid.T) allocation.Target {
		v := values[allocation.Target]().Draw(rt, "target")
		v.SKU = named.Draw(rt, "sku")
		return v
	}), (*topics.Codec).AppendTarget, topics.DecodeTarget)
	law(t, "write", rapid.Custom(func(rt *rapid.T) write.Result {
		v := values[write.Result]().Draw(rt, "write")
		v.WriteID = named.Draw(rt, "id")
		return v
	}), (*topics.Codec).AppendWrite, topics.DecodeWrite)
	law(t, "alert", rapid.Custom(func(rt *rapid.T) alert.Alert {
		v := values[alert.Alert]().Draw(rt, "alert")
		v.ID = named.Draw(rt, "id")
		return v
	}), (*topics.Codec).AppendAlert, topics.DecodeAlert)
	law(t, "rejected", rapid.Custom(func(rt *rapid.T) alert.Rejected {
		v := values[alert.Rejected]().Draw(rt, "rejected")
		v.Topic = named.Draw(rt, "topic")
		return v
	}), (*topics.Codec).AppendRejected, topics.DecodeRejected)
	law(t, "order", values[order.Order](), (*topics.Codec).AppendOrder, topics.DecodeOrder)
	law(t, "setting", rapid.Custom(func(rt *rapid.T) topics.Setting {
		s := topics.Setting{AppliedAt: rapid.Int64().Draw(rt, "applied at"), AppliedBy: rapid.String().Draw(rt, "applied by")}
		switch rapid.IntRange(0, 3).Draw(rt, "kind") {
		case 0:
			v := values[catalog.Channel]().Draw(rt, "channel")
			s.Channel = &v
		case 1:
			v := values[catalog.Location]().Draw(rt, "location")
			s.Location = &v
		case 2:
			v := values[catalog.Policy]().Draw(rt, "policy")
			s.Policy = &v
		default:
			v := values[catalog.Rule]().Draw(rt, "rule")
			s.Rule = &v
		}
		return s
	}), (*topics.Codec).AppendSetting, topics.DecodeSetting)
	law(t, "listing", rapid.Custom(func(rt *rapid.T) catalog.Listing {
		v := values[catalog.Listing]().Draw(rt, "listing")
		v.SKU = named.Draw(rt, "sku")
		return v
	}), func(c *topics.Codec, dst []byte, v *catalog.Listing) []byte { return c.AppendListing(dst, v, 7, "ops") }, topics.DecodeListing)
}

// TestAnEventReaderForgets holds that nothing of one value shows up in the next one read into the same memory.
func TestAnEventReaderForgets(t *testing.T) {
	bare, framed, _ := codecs(t)
	rapid.Check(t, func(rt *rapid.T) {
		var reader topics.EventReader
		var got event.Event
		for range rapid.IntRange(1, 5).Draw(rt, "events") {
			want := values[event.Event]().Draw(rt, "event")
			want.ID = "x"
			c := bare
			if rapid.Bool().Draw(rt, "framed") {
				c = framed
			}
			if err := reader.Read(c.AppendEvent(nil, &want), &got); err != nil {
				rt.Fatal(err)
			}
			if got != want {
				rt.Fatalf(" got %+v\nwant %+v", got, want)
			}
		}
	})
}

// TestOtherClientsReadTheFrame decodes each topic's value with the standard client of a Schema Registry, which knows the codec only by its
// schema id and message index.
func TestOtherClientsReadTheFrame(t *testing.T) {
	_, framed, registry := codecs(t)
	ctx := context.Background()
	for topic, value := range map[string][]byte{
		schemas.StockEvents:                 framed.AppendEvent(nil, &event.Event{SKU: "A"}),
		schemas.StockLevels:                 framed.AppendLevel(nil, &ledger.Level{SKU: "A"}),
		schemas.TargetsPrefix + "<channel>": framed.AppendTarget(nil, &allocation.Target{SKU: "A"}),
		schemas.ChannelWrites:               framed.AppendWrite(nil, &write.Result{SKU: "A"}),
		schemas.StockAlerts:                 framed.AppendAlert(nil, &alert.Alert{SKU: "A"}),
		schemas.StockRejected:               framed.AppendRejected(nil, &alert.Rejected{Topic: "A"}),
		schemas.Orders:                      framed.AppendOrder(nil, &order.Order{ID: "A"}),
		schemas.CatalogSettings:             framed.AppendSetting(nil, &topics.Setting{Rule: &catalog.Rule{ID: "A"}}),
		schemas.CatalogListings:             framed.AppendListing(nil, &catalog.Listing{SKU: "A"}, 1, "ops"),
	} {
		t.Run(topic, func(t *testing.T) {
			subject := topic + "-value"
			if strings.HasPrefix(topic, schemas.TargetsPrefix) {
				subject = "targets.value"
			}
			registered, err := registry.SchemaByVersion(ctx, subject, -1)
			if err != nil {
				t.Fatal(err)
			}
			if registered.Type != sr.TypeProtobuf {
				t.Errorf("registered as %v", registered.Type)
			}
			var contract schemas.Topic
			for _, row := range schemas.Topics() {
				if row.Name == topic {
					contract = row
				}
			}
			m := message(t, contract.Message)
			serde := sr.NewSerde()
			serde.Register(registered.ID, m, sr.Index(contract.Index...), sr.DecodeFn(func(b []byte, v any) error {
				return proto.Unmarshal(b, v.(proto.Message))
			}))
			if err := serde.Decode(value, m); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(value), "A") || len(m.ProtoReflect().GetUnknown()) > 0 || proto.Size(m) == 0 {
				t.Errorf("decoded %v", m)
			}
		})
	}
}

// TestDamagedValuesAreErrors runs damaged values through every decoder: a fault is an error, never a panic, and a value of another message
// is refused when it is framed.
func TestDamagedValuesAreErrors(t *testing.T) {
	_, framed, _ := codecs(t)
	decoders := decoders()
	values := map[string][]byte{
		"StockEvent": framed.AppendEvent(nil, &event.Event{ID: "a", SKU: "A", Quantity: 3}),
		"StockLevel": framed.AppendLevel(nil, &ledger.Level{SKU: "A", Locations: []ledger.LocationLevel{{Location: "L", OnHand: 4}}}),
		"Setting":    framed.AppendSetting(nil, &topics.Setting{Channel: &catalog.Channel{ID: "c"}}),
		"Listing":    framed.AppendListing(nil, &catalog.Listing{SKU: "A"}, 1, "ops"),
	}
	for name, value := range values {
		for other, decode := range decoders {
			_, err := decode(value)
			// A frame holds its message's place in its file, not its name: only a value of another place can be told.
			if place(name) != place(other) && !errors.Is(err, topics.ErrFrame) {
				t.Errorf("%s read as %s: %v, want %v", name, other, err, topics.ErrFrame)
			}
		}
		for n := range 6 {
			if _, err := decoders[name](value[:n]); err == nil {
				t.Errorf("%s cut to %d bytes was accepted", name, n)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(rt, "bytes")
		for _, decode := range decoders {
			_, _ = decode(b) // must not panic
		}
	})
}

func place(message string) int {
	for _, row := range schemas.Topics() {
		if row.Message == message {
			return row.Index[0]
		}
	}
	return -1
}

// decoders is the decoder of each message.
func decoders() map[string]func([]byte) (any, error) {
	return map[string]func([]byte) (any, error){
		"StockEvent": func(b []byte) (any, error) {
			var r topics.EventReader
			var e event.Event
			return &e, r.Read(b, &e)
		},
		"StockLevel":          func(b []byte) (any, error) { return topics.DecodeLevel(b) },
		"ChannelWatermark":    func(b []byte) (any, error) { return topics.DecodeWatermark(b) },
		"ReservationDecision": func(b []byte) (any, error) { return topics.DecodeDecision(b) },
		"ChannelTarget":       func(b []byte) (any, error) { return topics.DecodeTarget(b) },
		"WriteResult":         func(b []byte) (any, error) { return topics.DecodeWrite(b) },
		"ExposureBooks":       func(b []byte) (any, error) { return topics.DecodeBooks(b) },
		"ExposureCertificate": func(b []byte) (any, error) { return topics.DecodeCertificate(b) },
		"StockAlert":          func(b []byte) (any, error) { return topics.DecodeAlert(b) },
		"RejectedRecord":      func(b []byte) (any, error) { return topics.DecodeRejected(b) },
		"Order":               func(b []byte) (any, error) { return topics.DecodeOrder(b) },
		"Setting":             func(b []byte) (any, error) { return topics.DecodeSetting(b) },
		"Listing":             func(b []byte) (any, error) { return topics.DecodeListing(b) },
	}
}

func message(t *testing.T, name string) proto.Message {
	t.Helper()
	all := []proto.Message{
		new(onhandv1.StockEvent), new(onhandv1.StockLevel), new(onhandv1.ChannelTarget), new(onhandv1.WriteResult), new(onhandv1.StockAlert),
		new(onhandv1.RejectedRecord), new(onhandv1.ChannelWatermark), new(onhandv1.ReservationDecision), new(onhandv1.Order), new(onhandv1.Setting), new(onhandv1.Listing),
		new(onhandv1.ExposureBooks), new(onhandv1.ExposureCertificate),
	}
	for _, m := range all {
		if string(m.ProtoReflect().Descriptor().Name()) == name {
			return m
		}
	}
	t.Fatalf("no message %s", name)
	return nil
}
