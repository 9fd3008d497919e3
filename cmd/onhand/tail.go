package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/schemas"
	_ "github.com/onhand/onhand/schemas/gen/onhand/v1" // the messages, by name
)

// tailFlags is what tail and rejected list share.
type tailFlags struct {
	target
	kafka.Config  `prefix:"kafka-" embed:""`
	JSON          bool   `help:"One JSON object a line, with topic, partition, offset, time, key and value."`
	FromBeginning bool   `help:"Begin with the oldest record."`
	NoFollow      bool   `help:"Stop at the end of the topic, instead of waiting for more."`
	Count         int    `help:"Stop after this many records." short:"n"`
	Key           string `help:"Only records with this key."`
}

type tailCmd struct {
	tailFlags
	Topic string `arg:"" help:"The topic: stock.events, stock.levels, targets.CHANNEL, channel.writes …"`
}

// Run follows the topic.
func (c *tailCmd) Run(ctx context.Context, s streams) error {
	return c.follow(ctx, s.out, c.Topic, view)
}

// printable is bytes for people: text as it is, anything else quoted, and cut where it is long.
func printable(b []byte) string {
	const most = 400
	cut := ""
	if len(b) > most {
		cut = fmt.Sprintf(" … (%d bytes)", len(b))
		b = b[:most]
	}
	if json.Valid(b) && !bytes.ContainsRune(b, '\n') {
		return string(b) + cut
	}
	return fmt.Sprintf("%q", b) + cut
}

// brokersOf is the brokers of the flags, else of the running onhand up.
func brokersOf(t target, conf kafka.Config) kafka.Config {
	if slices.Equal(conf.Brokers, []string{"127.0.0.1:9092"}) { // the default
		if i, err := readInstance(t.Data); err == nil && i.alive() && i.Kafka != "" {
			conf.Brokers = strings.Split(i.Kafka, ",")
		}
	}
	return conf
}

// follow prints the records of a topic.
func (c *tailFlags) follow(ctx context.Context, out io.Writer, topic string, text func(*kgo.Record) (string, error)) error {
	conf := brokersOf(c.target, c.Config)
	start := kgo.NewOffset().AtEnd()
	if c.FromBeginning || c.NoFollow {
		start = kgo.NewOffset().AtStart()
	}
	client, err := conf.Client(slog.New(slog.DiscardHandler), "onhand-tail", kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(start),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords()) // markers of transactions say that a partition has been read to its end
	if err != nil {
		return err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ends, err := adm.ListEndOffsets(asking, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("topic %s on %s: %w", topic, strings.Join(conf.Brokers, ","), err)
	}
	if len(ends) == 0 {
		return fmt.Errorf("topic %s does not exist on %s", topic, strings.Join(conf.Brokers, ","))
	}
	left := make(map[int32]int64)
	if c.NoFollow {
		starts, err := adm.ListStartOffsets(asking, topic)
		if err != nil {
			return fmt.Errorf("topic %s: %w", topic, err)
		}
		ends.Each(func(o kadm.ListedOffset) {
			if s, ok := starts.Lookup(o.Topic, o.Partition); ok && s.Offset < o.Offset {
				left[o.Partition] = o.Offset
			}
		})
		if len(left) == 0 {
			return nil
		}
	}
	printed := 0
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil // asked to stop
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("topic %s: %w", topic, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			} else if !ok && c.NoFollow {
				continue
			}
			if r.Attrs.IsControl() || c.Key != "" && string(r.Key) != c.Key {
				continue
			}
			if err := c.print(out, r, text); err != nil {
				return err
			}
			if printed++; printed == c.Count {
				return nil
			}
		}
		if c.NoFollow && len(left) == 0 {
			return nil
		}
	}
}

// shown is one record with --json.
type shown struct {
	Topic     string            `json:"topic"`
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Timestamp time.Time         `json:"timestamp"`
	Key       string            `json:"key"`
	Headers   map[string]string `json:"headers,omitempty"`
	Value     json.RawMessage   `json:"value"`
	Error     string            `json:"error,omitempty"`
}

func (c *tailFlags) print(out io.Writer, r *kgo.Record, text func(*kgo.Record) (string, error)) error {
	if !c.JSON {
		line, err := text(r)
		if err != nil {
			line = fmt.Sprintf("%s cannot be decoded: %v", string(r.Key), err)
		}
		_, err = fmt.Fprintln(out, line)
		return err
	}
	x := shown{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UTC(), Key: string(r.Key), Value: json.RawMessage("null")}
	for _, h := range r.Headers {
		if x.Headers == nil {
			x.Headers = make(map[string]string)
		}
		x.Headers[h.Key] = string(h.Value)
	}
	v, err := valueJSON(r)
	if err != nil {
		x.Error = err.Error()
		v, err = json.Marshal(r.Value) // base64: nothing is hidden
		if err != nil {
			return err
		}
	}
	if v != nil {
		x.Value = v
	}
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = out.Write(append(b, '\n'))
	return err
}

// view is a record for people.
func view(r *kgo.Record) (string, error) {
	v, err := valueJSON(r)
	if err != nil {
		return "", err
	}
	if v == nil {
		v = []byte("(deleted)")
	}
	return fmt.Sprintf("%s %d/%d %s %s", r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z"), r.Partition, r.Offset, r.Key, v), nil
}

// valueJSON is a record's value as JSON, with the field names of the schema; nil for a tombstone.
func valueJSON(r *kgo.Record) ([]byte, error) {
	if len(r.Value) == 0 {
		return nil, nil
	}
	m, err := messageOf(r.Topic)
	if err != nil {
		return nil, err
	}
	if m == nil {
		if !json.Valid(r.Value) {
			return nil, errors.New("it is no JSON")
		}
		return compact(r.Value)
	}
	body, err := unframe(r.Value)
	if err != nil {
		return nil, err
	}
	x := m.New().Interface()
	if err := proto.Unmarshal(body, x); err != nil {
		return nil, err
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(x)
	if err != nil {
		return nil, err
	}
	return compact(b) // protojson varies its blanks on purpose
}

func compact(b []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// messageOf is the message type of a topic's values; nil for JSON topics.
func messageOf(topic string) (protoreflect.MessageType, error) {
	for _, t := range schemas.Topics() {
		if t.Name == topic || (strings.HasPrefix(t.Name, schemas.TargetsPrefix) && strings.HasPrefix(topic, schemas.TargetsPrefix)) {
			if t.Message == "" {
				return nil, nil
			}
			return protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("onhand.v1." + t.Message))
		}
	}
	return nil, nil // not ours: shown when it is JSON
}

// unframe strips Confluent's frame: a zero byte, the schema's id, and the message's index in its file.
func unframe(v []byte) ([]byte, error) {
	if v[0] != 0 {
		return v, nil
	}
	if len(v) < 6 {
		return nil, errors.New("the frame is cut short")
	}
	v = v[5:]
	n, w := binary.Varint(v)
	if w <= 0 || n < 0 || n > 16 {
		return nil, errors.New("the frame has no message index")
	}
	v = v[w:]
	for range n {
		if _, w = binary.Varint(v); w <= 0 {
			return nil, errors.New("the frame has no message index")
		}
		v = v[w:]
	}
	return v, nil
}
