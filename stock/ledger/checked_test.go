package ledger

import (
	"testing"
	"time"

	"github.com/onhand/onhand/stock/event"
)

// From a moment on, only checked events count; what was appended before stays in force, so that a replay comes to the same.
func TestUncheckedEventsAreRejectedFromAMomentOn(t *testing.T) {
	from := time.UnixMicro(start + 1000).UTC()
	o := Options{CheckedFrom: from}
	p := New(o)
	for i, tt := range []struct {
		at      int64
		checked bool
		want    Outcome
	}{{start, false, Applied}, {start + 1000, false, Rejected}, {start + 1000, true, Applied}, {start + 2000, false, Rejected}} {
		e := ev("e"+string(rune('0'+i)), event.ReceiptReceived, 1, "at=A", "ref=")
		e.Checked = tt.checked
		if r := p.Apply(&e, int64(i), tt.at); r.Outcome != tt.want || (tt.want == Rejected) != (r.Fault.Reason == ReasonUnchecked) {
			t.Errorf("event %d: %+v, want outcome %d", i, r, tt.want)
		}
	}
	for _, o := range []Options{{}, o} {
		got, err := ParseOptions(o.String())
		if err != nil || got.String() != o.String() || !got.CheckedFrom.Equal(o.CheckedFrom) {
			t.Errorf("%q reads as %q, %v", o, got, err)
		}
	}
}
