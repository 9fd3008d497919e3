package topics

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/schemas"
)

// ErrFrame reports a value whose Confluent frame is cut short or names another message than the topic's.
var ErrFrame = errors.New("not a framed message")

// Codec encodes and decodes the values of all topics. Safe for concurrent use.
type Codec struct {
	frames map[string][]byte // message name -> frame prefix; nil without a registry
}

// NewCodec registers the schema of every topic with the registry and remembers their ids. A nil registry gives a codec that writes bare
// Protobuf. Registration is idempotent; it fails when the registry cannot be reached or calls a schema incompatible.
func NewCodec(ctx context.Context, registry *sr.Client) (*Codec, error) {
	c := &Codec{}
	if registry == nil {
		return c, nil
	}
	c.frames = make(map[string][]byte)
	for _, t := range schemas.Topics() {
		if t.Message == "" {
			continue
		}
		subject := strings.ReplaceAll(t.Name, "<channel>", "value") // targets.value: one subject for all channels
		if !strings.HasSuffix(subject, "value") {
			subject += "-value"
		}
		s, err := protoSchema(ctx, registry, t.File)
		if err != nil {
			return nil, err
		}
		out, err := registry.CreateSchema(ctx, subject, s)
		if err != nil {
			return nil, fmt.Errorf("register %s as %s: %w", t.File, subject, err)
		}
		var h sr.ConfluentHeader
		frame, err := h.AppendEncode(nil, out.ID, t.Index)
		if err != nil {
			return nil, fmt.Errorf("frame of %s: %w", t.Message, err)
		}
		c.frames[t.Message] = frame
	}
	return c, nil
}

// protoSchema reads a Protobuf file and registers what it imports, each under its own path, as Confluent's serialisers do.
func protoSchema(ctx context.Context, registry *sr.Client, file string) (sr.Schema, error) {
	text, err := schemas.Proto.ReadFile("proto/" + file)
	if err != nil {
		return sr.Schema{}, fmt.Errorf("schema file: %w", err)
	}
	s := sr.Schema{Schema: string(text), Type: sr.TypeProtobuf}
	for line := range strings.Lines(string(text)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), `import "`)
		if !ok {
			continue
		}
		name = strings.TrimSuffix(name, `";`)
		dep, err := protoSchema(ctx, registry, name)
		if err != nil {
			return sr.Schema{}, err
		}
		out, err := registry.CreateSchema(ctx, name, dep)
		if err != nil {
			return sr.Schema{}, fmt.Errorf("register %s: %w", name, err)
		}
		s.References = append(s.References, sr.SchemaReference{Name: name, Subject: name, Version: out.Version})
	}
	return s, nil
}

// vtMessage is what the generated code of every message offers.
type vtMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

// appendMessage appends the framed message to dst.
func (c *Codec) appendMessage(dst []byte, name string, m vtMessage) []byte {
	dst = append(dst, c.frames[name]...)
	n := m.SizeVT()
	at := len(dst)
	dst = append(dst, make([]byte, n)...) // the compiler grows dst without a second slice
	if _, err := m.MarshalToSizedBufferVT(dst[at:]); err != nil {
		panic("topics: marshal " + name + ": " + err.Error()) // only a message that cannot be sized right fails
	}
	return dst
}

// payload strips the frame, if there is one, and checks that it names the message at index.
func payload(value []byte, index []int) ([]byte, error) {
	if len(value) == 0 {
		return nil, fmt.Errorf("%w: empty value", ErrFrame)
	}
	if value[0] != 0 {
		return value, nil
	}
	if len(value) < 6 {
		return nil, fmt.Errorf("%w: %d bytes", ErrFrame, len(value))
	}
	b := value[5:]
	n, w := binary.Varint(b)
	if w <= 0 || n < 0 || n > 8 {
		return nil, fmt.Errorf("%w: message index", ErrFrame)
	}
	b = b[w:]
	if n == 0 { // the short form of [0]
		if len(index) != 1 || index[0] != 0 {
			return nil, fmt.Errorf("%w: it holds message 0 of its file, want %v", ErrFrame, index)
		}
		return b, nil
	}
	if int(n) != len(index) {
		return nil, fmt.Errorf("%w: message index of length %d, want %v", ErrFrame, n, index)
	}
	for i := range int(n) {
		v, w := binary.Varint(b)
		if w <= 0 || int(v) != index[i] {
			return nil, fmt.Errorf("%w: message index %d, want %v", ErrFrame, v, index)
		}
		b = b[w:]
	}
	return b, nil
}
