// Package samples reads the recorded samples of every message. The JSON form of a sample, NAME.json with NAME = Message.vN or
// Message.vN.what, says what the recorded bytes beside it must decode to.
package samples

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/onhand/onhand/schemas"
	_ "github.com/onhand/onhand/schemas/gen/onhand/v1" // registers the messages
)

// Sample is one sample: what it says.
type Sample struct {
	Name  string // StockEvent.v1.sale
	Topic schemas.Topic
	Want  proto.Message
}

// Load reads the JSON form of all samples in dir, by name.
func Load(dir fs.FS) ([]Sample, error) {
	files, err := fs.Glob(dir, "*.json")
	if err != nil {
		return nil, err
	}
	out := make([]Sample, 0, len(files))
	for _, file := range files {
		s := Sample{Name: strings.TrimSuffix(file, ".json")}
		message, _, _ := strings.Cut(file, ".")
		i := slices.IndexFunc(schemas.Topics(), func(t schemas.Topic) bool { return t.Message == message })
		if i < 0 {
			return nil, fmt.Errorf("%s: no topic holds message %s", file, message)
		}
		s.Topic = schemas.Topics()[i]
		if s.Want, err = New(message); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		text, err := fs.ReadFile(dir, file)
		if err != nil {
			return nil, err
		}
		if err := protojson.Unmarshal(text, s.Want); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// New is an empty message of package onhand.v1.
func New(message string) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("onhand.v1." + message))
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}

// Bare encodes what the sample says as a bare message.
func (s Sample) Bare() ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(s.Want)
}

// Framed puts a bare message into Confluent's wire format, with schema id 1.
func (s Sample) Framed(bare []byte) ([]byte, error) {
	if len(s.Topic.Index) == 0 {
		return nil, fmt.Errorf("topic %s says no message index", s.Topic.Name)
	}
	out := []byte{0, 0, 0, 0, 1}
	if len(s.Topic.Index) == 1 && s.Topic.Index[0] == 0 {
		out = append(out, 0) // the short form of [0]
	} else {
		out = binary.AppendVarint(out, int64(len(s.Topic.Index)))
		for _, i := range s.Topic.Index {
			out = binary.AppendVarint(out, int64(i))
		}
	}
	return append(out, bare...), nil
}
