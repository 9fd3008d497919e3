package analytics

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// intentVersion opens every intent, so that other text in a group's offset metadata (member ids, by default) is never taken for one.
const intentVersion = "onhand1 "

// intentLimit keeps an intent within offset.metadata.max.bytes, 4096 by default on every broker.
const intentLimit = 3800

// span is a run of records of one partition, both ends included.
type span struct {
	topic     string
	partition int32
	from, to  int64
}

// spanSize is an upper bound on what a span adds to an intent.
func spanSize(topic string) int {
	return len(topic) + len("; 2147483647:9223372036854775807-9223372036854775807,")
}

// intent is the text that fixes what one insert holds: "onhand1 topic partition:from-to,…;topic …", ordered by topic and partition. It is the
// metadata of the group's offset of each partition in it, from before the insert is sent until after it is acknowledged.
func intent(spans []span) string {
	var b strings.Builder
	b.WriteString(intentVersion)
	for i, s := range spans {
		switch {
		case i > 0 && spans[i-1].topic == s.topic:
			b.WriteByte(',')
		case i > 0:
			b.WriteByte(';')
			fallthrough
		default:
			b.WriteString(s.topic)
			b.WriteByte(' ')
		}
		b.WriteString(strconv.Itoa(int(s.partition)))
		b.WriteByte(':')
		b.WriteString(strconv.FormatInt(s.from, 10))
		b.WriteByte('-')
		b.WriteString(strconv.FormatInt(s.to, 10))
	}
	return b.String()
}

var errIntent = errors.New("not an insert intent")

// parseIntent reads what intent wrote. Other text, as other tools leave in offset metadata, gives no spans and no error.
func parseIntent(text string) ([]span, error) {
	rest, ok := strings.CutPrefix(text, intentVersion)
	if !ok {
		return nil, nil
	}
	var spans []span
	for group := range strings.SplitSeq(rest, ";") {
		topic, runs, ok := strings.Cut(group, " ")
		if !ok || topic == "" {
			return nil, fmt.Errorf("%w: %q", errIntent, text)
		}
		for run := range strings.SplitSeq(runs, ",") {
			p, ends, ok1 := strings.Cut(run, ":")
			from, to, ok2 := strings.Cut(ends, "-")
			partition, err1 := strconv.ParseInt(p, 10, 32)
			first, err2 := strconv.ParseInt(from, 10, 64)
			last, err3 := strconv.ParseInt(to, 10, 64)
			if !ok1 || !ok2 || errors.Join(err1, err2, err3) != nil || partition < 0 || first < 0 || last < first {
				return nil, fmt.Errorf("%w: %q in %q", errIntent, run, text)
			}
			spans = append(spans, span{topic, int32(partition), first, last})
		}
	}
	return spans, nil
}

// token is the insert_deduplication_token of an intent.
func token(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}
