package ingest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/topics"
)

const (
	defaultRejected = 50
	mostRejected    = 500
	shownRejected   = 16 << 10 // bytes of a value that are shown
)

// RejectedItem is one record of stock.rejected.
type RejectedItem struct {
	Topic      string    `json:"topic" doc:"Where it came from; http for HTTP input."`
	Partition  int32     `json:"partition" doc:"Partition of that topic."`
	Offset     int64     `json:"offset" doc:"Offset there; -1 for HTTP input."`
	Key        string    `json:"key,omitempty" doc:"Its key."`
	Reason     string    `json:"reason" doc:"Machine-readable reason." example:"undecodable"`
	Detail     string    `json:"detail" doc:"What was wrong, where, and what to do."`
	RejectedBy string    `json:"rejected_by" doc:"Service that could not use it."`
	RejectedAt time.Time `json:"rejected_at" doc:"When."`
	Value      string    `json:"value,omitempty" doc:"Its bytes, when they are UTF-8; at most 16 KiB are shown."`
	Bytes      []byte    `json:"value_base64,omitempty" doc:"Its bytes, when they are not UTF-8."`
	Size       int       `json:"size" doc:"Bytes of the value."`
}

// RejectedList is the newest of stock.rejected.
type RejectedList struct {
	Rejected   []RejectedItem `json:"rejected" doc:"Newest first."`
	Unreadable int            `json:"unreadable" doc:"Records among the newest that could not be decoded themselves."`
}

func (s *Service) getRejected(w http.ResponseWriter, r *http.Request) {
	limit := defaultRejected
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > mostRejected {
			problem.Write(w, problem.New(http.StatusBadRequest, "parameter", "Parameter not valid", fmt.Sprintf("limit=%q: want 1 to %d", v, mostRejected)))
			return
		}
		limit = n
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	select {
	case s.peeking <- struct{}{}:
		defer func() { <-s.peeking }()
	case <-ctx.Done():
		problem.Write(w, unavailable("too many are reading the rejected records: send the request again", 2*time.Second))
		return
	}
	list, err := s.newestRejected(ctx, limit)
	if err != nil {
		s.tel.Log.Error("rejected records not read", "err", err)
		problem.Write(w, unavailable("the rejected records could not be read from Kafka: send the request again", 2*time.Second))
		return
	}
	reply(w, http.StatusOK, list)
}

// newestRejected reads the last limit records of each partition, and keeps the newest of them all.
func (s *Service) newestRejected(ctx context.Context, limit int) (*RejectedList, error) {
	adm := kadm.NewClient(s.producer)
	starts, err := adm.ListStartOffsets(ctx, schemas.StockRejected)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("start offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, schemas.StockRejected)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end offsets: %w", err)
	}
	var from kadm.Offsets
	var read []int32
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(o.Topic, o.Partition)
		if at := max(start.Offset, o.Offset-int64(limit)); at < o.Offset {
			from.Add(kadm.Offset{Topic: o.Topic, Partition: o.Partition, At: at})
			read = append(read, o.Partition)
		}
	})
	list := &RejectedList{Rejected: []RejectedItem{}}
	if len(read) == 0 {
		return list, nil
	}
	_, err = kafka.Committed(ctx, s.producer, map[string][]int32{schemas.StockRejected: read}, from, func(rec *kgo.Record) {
		if item, ok := rejectedItem(rec); ok {
			list.Rejected = append(list.Rejected, item)
		} else {
			list.Unreadable++
		}
		if len(list.Rejected) >= 2*limit+1000 {
			newestFirst(list, limit)
		}
	})
	newestFirst(list, limit)
	return list, err
}

func newestFirst(list *RejectedList, limit int) {
	slices.SortStableFunc(list.Rejected, func(a, b RejectedItem) int {
		return cmp.Or(b.RejectedAt.Compare(a.RejectedAt), cmp.Compare(b.Offset, a.Offset))
	})
	list.Rejected = list.Rejected[:min(len(list.Rejected), limit)]
}

func rejectedItem(rec *kgo.Record) (RejectedItem, bool) {
	r, err := topics.DecodeRejected(rec.Value)
	if err != nil {
		return RejectedItem{}, false
	}
	item := RejectedItem{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Reason: r.Reason, Detail: r.Detail, RejectedBy: r.RejectedBy,
		RejectedAt: time.UnixMicro(r.At).UTC(), Size: len(r.Value),
	}
	shown := r.Value[:min(len(r.Value), shownRejected)]
	for cut := shown; len(cut) > 0 && len(shown)-len(cut) < utf8.UTFMax; cut = cut[:len(cut)-1] { // the cut may have gone through a character
		if utf8.Valid(cut) {
			item.Value = string(cut)
			return item, true
		}
		if len(r.Value) == len(shown) {
			break
		}
	}
	item.Bytes = slices.Clone(shown)
	return item, true
}
