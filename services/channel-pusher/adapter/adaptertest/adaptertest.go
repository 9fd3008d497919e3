// Package adaptertest is the contract of every adapter, as tests: what the engine relies on whatever the wire format is.
package adaptertest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/onhand/onhand/services/channel-pusher/adapter"
	"github.com/onhand/onhand/stock/catalog"
)

// Trouble is what a channel can be told to do to the next requests.
type Trouble uint8

// The troubles.
const (
	None       Trouble = iota
	Throttle           // refuse for too many requests, asking for a pause of two seconds
	Outage             // refuse as out of order
	Break              // apply, and fail all the same
	Silence            // never answer, nothing applied
	WrongToken         // refuse the account
)

// Channel is a channel of the adapter's kind that tests control.
type Channel interface {
	Adapter() adapter.Adapter
	Account() adapter.Account
	Show(id string, quantity int64)     // as a person at the channel's console would
	Shown(id string) (int64, bool)      // what it shows
	Trouble(t Trouble)                  // until told otherwise
	Unlisted() string                   // an id that the channel refuses for good; empty if it takes all
	Limit() int                         // most items that the channel takes in one request
	Unreachable() adapter.Account       // an account whose address nobody answers
	Forbidden() (adapter.Account, bool) // an account at an address that must not be reached, if the adapter checks that
}

// Run checks the contract. open gives a channel that shows nothing yet.
func Run(t *testing.T, open func(t *testing.T) Channel) {
	t.Run("absolute", func(t *testing.T) { absolute(t, open(t)) })
	t.Run("delta", func(t *testing.T) { delta(t, open(t)) })
	t.Run("compare and set", func(t *testing.T) { compareAndSet(t, open(t)) })
	t.Run("strange ids", func(t *testing.T) { strangeIDs(t, open(t)) })
	t.Run("full batch", func(t *testing.T) { fullBatch(t, open(t)) })
	t.Run("read back", func(t *testing.T) { readBack(t, open(t)) })
	t.Run("same key", func(t *testing.T) { sameKey(t, open(t)) })
	t.Run("same id", func(t *testing.T) { sameID(t, open(t)) })
	t.Run("troubles", func(t *testing.T) { troubles(t, open(t)) })
}

func write(t *testing.T, c Channel, key string, items ...adapter.Item) []adapter.ItemResult {
	t.Helper()
	out, err := c.Adapter().Write(t.Context(), c.Account(), key, items, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != len(items) {
		t.Fatalf("%d results for %d items", len(out), len(items))
	}
	return out
}

func expect(t *testing.T, r adapter.ItemResult, v adapter.Verdict, shown int64) {
	t.Helper()
	if r.Verdict != v || (r.ShownKnown && r.Shown != shown) {
		t.Errorf("result %+v, want verdict %d and %d shown", r, v, shown)
	}
}

func absolute(t *testing.T, c Channel) {
	if !c.Adapter().Capabilities().Can(catalog.Absolute) {
		return
	}
	out := write(t, c, "k1", adapter.Item{ExternalID: "a", Operation: catalog.Absolute, Quantity: 5}, adapter.Item{ExternalID: "b", Operation: catalog.Absolute})
	expect(t, out[0], adapter.Applied, 5)
	expect(t, out[1], adapter.Applied, 0)
	if id := c.Unlisted(); id != "" {
		out = write(t, c, "k2", adapter.Item{ExternalID: id, Operation: catalog.Absolute, Quantity: 5}, adapter.Item{ExternalID: "a", Operation: catalog.Absolute, Quantity: 6})
		expect(t, out[0], adapter.Refused, 0)
		expect(t, out[1], adapter.Applied, 6)
		if out[0].Code == "" {
			t.Error("a refusal without code")
		}
	}
}

func delta(t *testing.T, c Channel) {
	if !c.Adapter().Capabilities().Can(catalog.Delta) {
		return
	}
	c.Show("a", 5)
	expect(t, write(t, c, "k1", adapter.Item{ExternalID: "a", Operation: catalog.Delta, Delta: -2})[0], adapter.Applied, 3)
	expect(t, write(t, c, "k2", adapter.Item{ExternalID: "a", Operation: catalog.Delta, Delta: 4})[0], adapter.Applied, 7)
}

func compareAndSet(t *testing.T, c Channel) {
	if !c.Adapter().Capabilities().Can(catalog.CompareAndSet) {
		return
	}
	c.Show("a", 5)
	expect(t, write(t, c, "k1", adapter.Item{ExternalID: "a", Operation: catalog.CompareAndSet, Quantity: 9, Expected: 4})[0], adapter.Stale, 5)
	expect(t, write(t, c, "k2", adapter.Item{ExternalID: "a", Operation: catalog.CompareAndSet, Quantity: 9, Expected: 5})[0], adapter.Applied, 9)
	if q, _ := c.Shown("a"); q != 9 {
		t.Errorf("shows %d", q)
	}
}

func strangeIDs(t *testing.T, c Channel) {
	ids := []string{`quote " back \ slash`, "tab\tnew\nline", "ünï-☃-😀", "a&b=c d+e/f?g#h%20", "<script>", "  space  "}
	var items []adapter.Item
	for i, id := range ids {
		c.Show(id, 1)
		items = append(items, adapter.Item{ExternalID: id, Operation: catalog.Absolute, Quantity: int64(10 + i)})
	}
	for i, r := range write(t, c, "k", items...) {
		expect(t, r, adapter.Applied, int64(10+i))
	}
	got, err := c.Adapter().Read(t.Context(), c.Account(), ids, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range got {
		if !s.Known || s.Quantity != int64(10+i) {
			t.Errorf("%q reads as %+v", ids[i], s)
		}
	}
}

func fullBatch(t *testing.T, c Channel) {
	n := min(c.Adapter().Capabilities().MaxBatch, c.Limit())
	items := make([]adapter.Item, n+1)
	for i := range items {
		items[i] = adapter.Item{ExternalID: fmt.Sprint("s", i), Operation: catalog.Absolute, Quantity: int64(i)}
		c.Show(items[i].ExternalID, 1)
	}
	for i, r := range write(t, c, "k", items[:n]...) {
		expect(t, r, adapter.Applied, int64(i))
	}
	if n == c.Limit() {
		fails(t, c, adapter.Malformed, items...)
	}
}

func readBack(t *testing.T, c Channel) {
	if !c.Adapter().Capabilities().ReadBack {
		return
	}
	var ids []string
	for i := range 250 {
		ids = append(ids, fmt.Sprint("s", i))
		c.Show(ids[i], int64(i))
	}
	ids = append(ids, "never listed")
	got, err := c.Adapter().Read(t.Context(), c.Account(), ids, nil)
	if err != nil || len(got) != len(ids) {
		t.Fatalf("%d answers: %v", len(got), err)
	}
	for i, s := range got[:250] {
		if !s.Known || !s.Listed || s.Quantity != int64(i) {
			t.Errorf("%s reads as %+v", ids[i], s)
		}
	}
	if got[250].Listed {
		t.Errorf("an unlisted id reads as %+v", got[250])
	}
}

func sameKey(t *testing.T, c Channel) {
	if !c.Adapter().Capabilities().Can(catalog.Delta) {
		return
	}
	c.Show("a", 5)
	for range 2 { // the same request again does nothing more
		write(t, c, "once", adapter.Item{ExternalID: "a", Operation: catalog.Delta, Delta: 2})
	}
	if q, _ := c.Shown("a"); q != 7 {
		t.Errorf("shows %d after a repeated request, want 7", q)
	}
}

// sameID holds that a change that was applied is not applied again in another request, beside others; and that one that was not is.
func sameID(t *testing.T, c Channel) {
	caps := c.Adapter().Capabilities()
	if !caps.ItemIDs {
		return
	}
	for i, item := range []adapter.Item{
		{ID: "w-delta", ExternalID: "d", Operation: catalog.Delta, Delta: 2}, {ID: "w-set", ExternalID: "a", Operation: catalog.Absolute, Quantity: 7},
		{ID: "w-cas", ExternalID: "c", Operation: catalog.CompareAndSet, Quantity: 7, Expected: 5},
	} {
		if !caps.Can(item.Operation) {
			continue
		}
		c.Show(item.ExternalID, 5)
		c.Trouble(Outage)
		fails(t, c, adapter.Unavailable, item)
		c.Trouble(Break) // applied, and nobody is told
		fails(t, c, adapter.Uncertain, item)
		c.Trouble(None)
		if q, _ := c.Shown(item.ExternalID); q != 7 {
			t.Errorf("%s: shows %d, want 7", item.ID, q)
		}
		c.Show(item.ExternalID, 4) // three units were sold
		other := adapter.Item{ExternalID: fmt.Sprint("other", i), Operation: catalog.Absolute, Quantity: 9}
		if !caps.Can(catalog.Absolute) {
			other = item
			other.ID, other.ExternalID = "", other.ExternalID+"-other"
			c.Show(other.ExternalID, 5)
		}
		out := write(t, c, fmt.Sprint("again", i), other, item)
		if out[0].Verdict != adapter.Applied || out[1].Verdict != adapter.Applied {
			t.Errorf("%s: results %+v", item.ID, out)
		}
		if q, _ := c.Shown(item.ExternalID); q != 4 {
			t.Errorf("%s: shows %d after the same change came again, want 4", item.ID, q)
		}
	}
}

func fails(t *testing.T, c Channel, kind adapter.Kind, items ...adapter.Item) *adapter.CallError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	return failsAt(ctx, t, c, c.Account(), kind, items...)
}

func failsAt(ctx context.Context, t *testing.T, c Channel, a adapter.Account, kind adapter.Kind, items ...adapter.Item) *adapter.CallError {
	t.Helper()
	_, err := c.Adapter().Write(ctx, a, fmt.Sprint("k", kind, len(items), items[0].ID), items, nil)
	var ce *adapter.CallError
	if !errors.As(err, &ce) || ce.Kind != kind {
		t.Errorf("error %v, want kind %s", err, kind)
		return &adapter.CallError{}
	}
	return ce
}

func troubles(t *testing.T, c Channel) {
	c.Show("a", 1)
	item := adapter.Item{ExternalID: "a", Operation: catalog.Absolute, Quantity: 5}
	c.Trouble(Throttle)
	if ce := fails(t, c, adapter.Throttled, item); ce.RetryAfter != 2*time.Second {
		t.Errorf("retry after %s, want 2s", ce.RetryAfter)
	}
	c.Trouble(Outage)
	fails(t, c, adapter.Unavailable, item)
	c.Trouble(Silence)
	fails(t, c, adapter.Uncertain, item)
	if q, _ := c.Shown("a"); q != 1 {
		t.Errorf("shows %d: nothing should have been applied", q)
	}
	c.Trouble(Break)
	fails(t, c, adapter.Uncertain, item)
	if q, _ := c.Shown("a"); q != 5 {
		t.Errorf("shows %d: the broken request should have been applied", q)
	}
	c.Trouble(WrongToken)
	wrong := c.Account()
	wrong.Token = "not it"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	failsAt(ctx, t, c, wrong, adapter.Denied, item)
	c.Trouble(None)
	failsAt(ctx, t, c, c.Unreachable(), adapter.NotSent, item)
	if a, ok := c.Forbidden(); ok {
		failsAt(ctx, t, c, a, adapter.NotSent, item)
	}
	expect(t, write(t, c, "last", item)[0], adapter.Applied, 5)
}
