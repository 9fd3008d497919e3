package schemas_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/onhand/onhand/schemas"
	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/schemas/internal/samples"
)

// files is every Protobuf file of the contract.
func files() []protoreflect.FileDescriptor {
	var out []protoreflect.FileDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("onhand.v1", func(f protoreflect.FileDescriptor) bool {
		out = append(out, f)
		return true
	})
	return out
}

// TestSamplesDecodeForEver holds that what was once written can be read: each recorded value decodes to what its JSON says.
func TestSamplesDecodeForEver(t *testing.T) {
	all, err := samples.Load(os.DirFS("samples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			bare, err := os.ReadFile("samples/" + s.Name + ".bare.binpb")
			if err != nil {
				t.Fatalf("%v: record it with `make generate`", err)
			}
			got, err := samples.New(s.Topic.Message)
			if err != nil {
				t.Fatal(err)
			}
			if err := proto.Unmarshal(bare, got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, s.Want) {
				t.Errorf("decoded\n %v\nwant\n %v", got, s.Want)
			}
			fast, _ := samples.New(s.Topic.Message)
			if err := fast.(interface{ UnmarshalVT([]byte) error }).UnmarshalVT(bare); err != nil || !proto.Equal(fast, s.Want) {
				t.Errorf("the fast decoder gives %v, %v", fast, err)
			}
			framed, err := os.ReadFile("samples/" + s.Name + ".framed.binpb")
			if err != nil {
				t.Fatalf("%v: record it with `make generate`", err)
			}
			if want, err := s.Framed(bare); err != nil || string(framed) != string(want) {
				t.Errorf("framed %x\nwant %x, %v", framed, want, err)
			}
		})
	}
}

// TestEveryFieldHasASample fails for a message that has no sample, and for a field that no sample sets: a new field needs a new version of
// its message's sample, NAME.v2.json.
func TestEveryFieldHasASample(t *testing.T) {
	all, err := samples.Load(os.DirFS("samples"))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[protoreflect.FullName]bool)
	var visit func(m protoreflect.Message)
	visit = func(m protoreflect.Message) {
		seen[m.Descriptor().FullName()] = true
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			seen[f.FullName()] = true
			switch {
			case f.IsList() && f.Message() != nil:
				for i := range v.List().Len() {
					visit(v.List().Get(i).Message())
				}
			case f.Message() != nil:
				visit(v.Message())
			}
			return true
		})
	}
	for _, s := range all {
		visit(s.Want.ProtoReflect())
	}
	for _, file := range files() {
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			if !seen[m.FullName()] {
				t.Errorf("message %s has no sample in samples/", m.Name())
				continue
			}
			for j := range m.Fields().Len() {
				if f := m.Fields().Get(j); !seen[f.FullName()] {
					t.Errorf("no sample sets %s.%s: add a sample of the topic value that holds it, with the next version number, and run `make generate`", m.Name(), f.Name())
				}
			}
		}
	}
}

// TestEveryRecordedSampleHasItsJSON finds bytes that nothing would check any more.
func TestEveryRecordedSampleHasItsJSON(t *testing.T) {
	entries, err := os.ReadDir("samples")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		for _, suffix := range []string{".bare.binpb", ".framed.binpb"} {
			if base, ok := strings.CutSuffix(name, suffix); ok {
				if _, err := os.Stat("samples/" + base + ".json"); err != nil {
					t.Errorf("samples/%s: %v", name, err)
				}
			}
		}
	}
}

// TestTopicsNameTheirMessages holds the table of topics against the Protobuf files.
func TestTopicsNameTheirMessages(t *testing.T) {
	for _, topic := range schemas.Topics() {
		if topic.Doc == "" || topic.Key == "" || topic.WrittenBy == "" || topic.ReadBy == "" {
			t.Errorf("%s: say what it holds, its key, and who writes and reads it", topic.Name)
		}
		if (topic.Retention > 0) != (topic.Cleanup == schemas.Delete) {
			t.Errorf("%s: a retention goes with Delete and with nothing else", topic.Name)
		}
		if topic.Message == "" {
			continue
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("onhand.v1." + topic.Message))
		if err != nil {
			t.Errorf("%s: %v", topic.Name, err)
			continue
		}
		if d.ParentFile().Path() != topic.File || len(topic.Index) != 1 || d.Index() != topic.Index[0] {
			t.Errorf("%s: %s is message %d of %s; the table says %v of %s", topic.Name, topic.Message, d.Index(), d.ParentFile().Path(), topic.Index, topic.File)
		}
		if _, err := schemas.Proto.ReadFile("proto/" + topic.File); err != nil {
			t.Errorf("%s: %v", topic.Name, err)
		}
	}
}

// TestEventFieldsSpeakOfEveryKind holds the table of kinds against the enumeration and the fields of StockEvent.
func TestEventFieldsSpeakOfEveryKind(t *testing.T) {
	fields := (&onhandv1.StockEvent{}).ProtoReflect().Descriptor().Fields()
	used := map[string]bool{"id": true, "kind": true, "sku": true, "quantity": true, "occurred_at_us": true, "received_at_us": true, "source": true, "checked": true}
	for i, k := range schemas.EventFields() {
		if int(k.Kind) != i+1 {
			t.Errorf("row %d is %v: want the kinds in order, none left out", i, k.Kind)
		}
		for _, name := range append(k.Needs, k.May...) {
			used[name] = true
			if fields.ByName(protoreflect.Name(name)) == nil {
				t.Errorf("%v uses %s, which StockEvent does not have", k.Kind, name)
			}
		}
	}
	if got, want := len(schemas.EventFields()), len(onhandv1.EventKind_name)-1; got != want {
		t.Errorf("the table has %d kinds, the enumeration %d", got, want)
	}
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !used[name] {
			t.Errorf("StockEvent.%s is used by no kind", name)
		}
	}
}

// TestReferenceIsInStep finds a README.md that `make generate` has not written since a topic, message, field or value was added.
func TestReferenceIsInStep(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	has := func(want string) {
		if !strings.Contains(string(text), want) {
			t.Errorf("README.md lacks %q: run `make generate`", want)
		}
	}
	for _, topic := range schemas.Topics() {
		has("\n### " + topic.Name + "\n\n" + topic.Doc)
	}
	for _, k := range schemas.EventFields() {
		has(k.Effect)
	}
	for _, file := range files() {
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			_, section, _ := strings.Cut(string(text), fmt.Sprintf("\n### %s\n", m.Name()))
			section, _, _ = strings.Cut(section, "\n### ")
			for j := range m.Fields().Len() {
				f := m.Fields().Get(j)
				if !strings.Contains(section, fmt.Sprintf("| %d | `%s` |", f.Number(), f.Name())) {
					t.Errorf("README.md lacks %s.%s: run `make generate`", m.Name(), f.Name())
				}
			}
		}
		for i := range file.Enums().Len() {
			values := file.Enums().Get(i).Values()
			for j := range values.Len() {
				has(fmt.Sprintf("| %d | `%s` |", values.Get(j).Number(), values.Get(j).Name()))
			}
		}
	}
}
