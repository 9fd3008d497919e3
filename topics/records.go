package topics

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/alert"
	"github.com/onhand/onhand/stock/event"
)

// Header names that Onhand's records carry beside W3C trace context (traceparent, tracestate).
const (
	ContentTypeHeader = "content-type" // application/x-protobuf, or application/json
	EventTypeHeader   = "event-type"   // sale_recorded …
	EventIDHeader     = "event-id"
)

var protobufType = []byte("application/x-protobuf")

// EventRecord is the stock.events record of e, keyed by SKU (an order watermark by its channel). Its timestamp is left to the producer: when it was appended.
func (c *Codec) EventRecord(e *event.Event) *kgo.Record {
	return &kgo.Record{
		Topic: schemas.StockEvents, Key: []byte(e.Key()), Value: c.AppendEvent(nil, e),
		Headers: []kgo.RecordHeader{
			{Key: ContentTypeHeader, Value: protobufType},
			{Key: EventTypeHeader, Value: []byte(e.Kind.String())},
			{Key: EventIDHeader, Value: []byte(e.ID)},
		},
	}
}

var protobufHeaders = []kgo.RecordHeader{{Key: ContentTypeHeader, Value: protobufType}}

// ProtobufHeaders is the headers of a record of a Protobuf value that has no others. Appending to them makes a copy; what they hold is not to be changed.
func ProtobufHeaders() []kgo.RecordHeader { return protobufHeaders[:1:1] }

// Record is a record of any topic of Protobuf values.
func Record(topic, key string, value []byte) *kgo.Record {
	return &kgo.Record{Topic: topic, Key: []byte(key), Value: value, Headers: []kgo.RecordHeader{{Key: ContentTypeHeader, Value: protobufType}}}
}

// RejectedRecord is the stock.rejected record that keeps r, a consumed record that could not be applied, with the reason.
func (c *Codec) RejectedRecord(r *kgo.Record, reason, detail, service string, now time.Time) *kgo.Record {
	rej := alert.Rejected{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Reason: reason, Detail: detail,
		RejectedBy: service, At: now.UnixMicro(),
	}
	for _, h := range r.Headers {
		rej.Headers = append(rej.Headers, alert.Header{Key: h.Key, Value: h.Value})
	}
	out := Record(schemas.StockRejected, "", c.AppendRejected(nil, &rej))
	out.Key = r.Key
	return out
}

// RejectedID names where a rejected record came from: topic/partition/offset.
func RejectedID(r *alert.Rejected) string {
	return r.Topic + "/" + strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10)
}
