package reconcile

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func TestLedgerAddsUpEveryHash(t *testing.T) {
	m := miniredis.RunT(t)
	m.HSet("oh:{p0}:sku:A", "main:on_hand", "10", "main:committed", "3", "store:on_hand", "-2", "unassigned", "1", "sold:web", "4", "restored:web", "1", "version", "9")
	m.HSet("oh:{p7}:sku:B:C", "main:on_hand", "5", "main:held", "2", "main:safety_stock", "1", "sold:web", "6", "sold:amz", "1")
	m.HSet("oh:{p7}:meta", "offset", "99")
	m.HSet("oh:{p3}:sku:E", "main:on_hand", "500") // an old generation, not dropped yet
	m.HSet("oh:{p3}:g2:sku:sku:E", "main:on_hand", "0", "unassigned", "0")
	_ = m.Set("oh:{p3}:live", "oh:{p3}:g2:")
	m.HSet("other:{p0}:sku:A", "main:on_hand", "1000")
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	defer client.Close()
	u, err := Ledger(t.Context(), client, "oh")
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		got  *int64
		want int64
	}{"skus": {u.SKUs, 3}, "on hand": {u.OnHand, 13}, "committed": {u.Committed, 4}, "sold": {u.Sold, 11}, "cancelled": {u.Cancelled, 1}, "available": {u.Available, 6}} {
		if x.got == nil || *x.got != x.want {
			t.Errorf("%s: %v, want %d", name, x.got, x.want)
		}
	}
	m.HSet("oh:{p1}:sku:D", "main:on_hand", "many")
	if _, err := Ledger(t.Context(), client, "oh"); err == nil || !strings.Contains(err.Error(), `"many" is no number`) {
		t.Errorf("a field that is no number: %v", err)
	}
}

func TestOneUnitIsFound(t *testing.T) {
	in := Input{Received: 100, Sold: 30, Cancelled: 2, Returned: 5, Adjusted: -3, Shipped: 20}
	u := in.Units()
	if *u.OnHand != 82 || *u.Committed != 8 || *u.Available != 74 {
		t.Fatalf("on hand %d, committed %d, available %d", *u.OnHand, *u.Committed, *u.Available)
	}
	if r := Compare(u, u, u, u, 0); !r.OK() {
		t.Errorf("equal sums: %+v", r)
	}
	wrong := u
	wrong.OnHand = at(*u.OnHand - 1)
	if r := Compare(u, u, u, wrong, 0); r.OK() {
		t.Error("a unit less in one place was not found")
	}
	if r := Compare(u, u, u, u, 1); r.OK() {
		t.Error("a repeated row was not found")
	}
	r := Compare(u, u, u, u, 0)
	r.CompareShown(map[string]map[string]int64{"web": {"A": 5, "B": 0}}, map[string]map[string]int64{"web": {"A": 6, "C": 1, "D": 0}})
	var out strings.Builder
	if err := r.Print(&out, func(n int64) string { return strconv.FormatInt(n, 10) }); err != nil {
		t.Fatal(err)
	}
	if r.OK() || len(r.Differences) != 2 || !strings.Contains(out.String(), "web A should show 5 and shows 6") || !strings.Contains(out.String(), "web C should show 0 and shows 1") {
		t.Errorf("%s", out.String())
	}
}

// A difference that is gone at the next look, or is another one, was a write under way.
func TestDifferencesThatStay(t *testing.T) {
	var r Result
	r.CompareShown(map[string]map[string]int64{"web": {"A": 5, "B": 2, "C": 1}}, map[string]map[string]int64{"web": {"A": 6, "B": 1, "C": 0}})
	before := r.Differences
	r.CompareShown(map[string]map[string]int64{"web": {"A": 5, "B": 3, "C": 1, "D": 4}}, map[string]map[string]int64{"web": {"A": 6, "B": 2, "C": 1, "D": 3}})
	r.Since(before)
	if len(before) != 3 || !slices.Equal(r.Differences, []Difference{{"web", "A", 5, 6}}) || r.OK() || r.Targets != 4 || r.TargetUnits != 13 || r.ShownUnits != 12 {
		t.Errorf("%+v, then %+v", before, r)
	}
	r.CompareShown(map[string]map[string]int64{"web": {"A": 6}}, map[string]map[string]int64{"web": {"A": 6}})
	if r.Since(before); !r.OK() {
		t.Errorf("%+v", r)
	}
}

func TestClickHouseSaysWhatFailed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "Code: 60. Table is missing")
	}))
	defer srv.Close()
	if _, _, _, err := Analytics(t.Context(), ClickHouse{URL: srv.URL, Database: "onhand"}); err == nil || !strings.Contains(err.Error(), "Table is missing") {
		t.Errorf("got %v", err)
	}
}
