package reservations

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onhand/onhand/services/ingest"
)

func orderOf(id, channel string, lines ...item) string {
	var b strings.Builder
	for i, x := range lines {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"%d","sku":%q,"quantity":%d,"unit_price":"1.00"}`, i+1, x.SKU, x.Quantity)
	}
	return fmt.Sprintf(`{"id":%q,"channel":%q,"placed_at":"2026-02-03T10:15:00Z","currency":"EUR","lines":[%s]}`, id, channel, b.String())
}

// TestLifeOfAReservation goes through what the API offers.
func TestLifeOfAReservation(t *testing.T) {
	g := start(t)
	a := g.api()
	a.receive("A", 10)
	a.receive("B", 2)
	expect := func(what string, status int, out answer, wantStatus int, wantState string) {
		t.Helper()
		if status != wantStatus || out.State != wantState {
			t.Fatalf("%s: %d %+v, want %d %s", what, status, out, wantStatus, wantState)
		}
	}
	left := func(sku string, want int64) {
		t.Helper()
		if got := g.available(sku); got != want {
			t.Errorf("%s has %d left, want %d", sku, got, want)
		}
	}
	status, out := a.call(http.MethodPost, "/v1/reservations", request("one", item{"A", 4}))
	expect("granted", status, out, 201, "held")
	if x := out.Items[0]; x.Quantity != 4 || x.Available != 6 || len(x.Held) != 1 || x.Held[0] != (ingest.HeldAt{Location: "berlin", Units: 4}) || time.Until(*out.ExpiresAt) < 9*time.Minute {
		t.Errorf("%+v", out)
	}
	left("A", 6)
	status, out = a.call(http.MethodPost, "/v1/reservations", request("one", item{"A", 4}))
	expect("the same again", status, out, 201, "held")
	left("A", 6)
	if status, out = a.call(http.MethodPost, "/v1/reservations", request("one", item{"A", 5})); status != 409 || !strings.HasSuffix(out.Type, ":conflict") {
		t.Errorf("another with the same id: %d %+v", status, out)
	}
	status, out = a.call(http.MethodPost, "/v1/reservations", request("two", item{"A", 7}))
	expect("too many", status, out, 409, "refused")
	if !strings.HasSuffix(out.Type, ":insufficient-stock") || !strings.Contains(out.Detail, "6 units are available and 7 were asked for") {
		t.Errorf("%+v", out)
	}
	status, out = a.call(http.MethodPost, "/v1/reservations", request("nobody", item{"Z", 1}))
	expect("of a SKU that nobody knows", status, out, 409, "refused")
	status, out = a.call(http.MethodPost, "/v1/reservations/one/extend", `{"ttl_seconds":7200}`)
	expect("extended", status, out, 200, "held")
	if time.Until(*out.ExpiresAt) < 119*time.Minute {
		t.Errorf("%+v", out)
	}
	status, out = a.call(http.MethodGet, "/v1/reservations/one", nil)
	expect("read", status, out, 200, "held")
	status, out = a.call(http.MethodPost, "/v1/reservations/one/commit", orderOf("1001", "shop", item{"A", 3}))
	expect("committed", status, out, 200, "committed") // three are sold, and one is given back
	if out.Items[0].Committed != 3 {
		t.Errorf("%+v", out)
	}
	left("A", 7)
	// Several SKUs: all or nothing.
	status, out = a.call(http.MethodPost, "/v1/reservations", request("three", item{"B", 3}, item{"A", 1}))
	expect("one of two is short", status, out, 409, "refused")
	g.eventually("nothing is held", func() bool { return g.available("A") == 7 && g.available("B") == 2 })
	status, out = a.call(http.MethodPost, "/v1/reservations", request("four", item{"B", 2}, item{"A", 1}))
	expect("both", status, out, 201, "held")
	left("A", 6)
	left("B", 0)
	status, out = a.call(http.MethodPost, "/v1/reservations/four/extend", `{"ttl_seconds":60}`)
	expect("extended", status, out, 200, "held")
	for range 2 { // a repeat of the order does no harm
		status, out = a.call(http.MethodPost, "/v1/reservations/four/commit", orderOf("1002", "shop", item{"A", 1}, item{"B", 2}))
		expect("committed", status, out, 200, "committed")
	}
	status, out = a.call(http.MethodPost, "/v1/reservations/four/commit", orderOf("1003", "shop", item{"A", 1}, item{"B", 2}))
	expect("by another order", status, out, 409, "committed")
	status, out = a.call(http.MethodPost, "/v1/reservations", request("five", item{"A", 1}))
	expect("granted", status, out, 201, "held")
	for range 2 {
		status, out = a.call(http.MethodDelete, "/v1/reservations/five", nil)
		expect("given back", status, out, 200, "released")
	}
	status, out = a.call(http.MethodPost, "/v1/reservations/five/extend", `{"ttl_seconds":60}`)
	expect("extended too late", status, out, 409, "released")
	left("A", 6)
	// It expires by itself, and another instance knows.
	status, out = a.call(http.MethodPost, "/v1/reservations", map[string]any{"id": "six", "ttl_seconds": 1, "items": []item{{"A", 6}}})
	expect("granted", status, out, 201, "held")
	other := g.api()
	g.eventually("it has expired", func() bool { return g.available("A") == 6 })
	g.eventually("the other instance knows", func() bool {
		status, out = other.call(http.MethodGet, "/v1/reservations/six", nil)
		return status == 200 && out.State == "expired"
	})
	status, out = other.call(http.MethodPost, "/v1/reservations/six/commit", orderOf("1004", "shop", item{"A", 6}))
	expect("committed too late", status, out, 409, "expired")
	for sku, want := range map[string]int64{"A": 6, "B": 0} {
		if l := g.fold()[sku]; int64(l.Available()) != want {
			t.Errorf("the log says %+v of %s", l, sku)
		}
	}
	// What is wrong is said with its place.
	for body, want := range map[string]string{
		`{"items":[{"sku":"A","quantity":1}]}`:                                   "id is missing",
		`{"id":"a/b","items":[{"sku":"A","quantity":1}]}`:                        "letters, digits",
		`{"id":"x","items":[]}`:                                                  "items is empty",
		`{"id":"x","items":[{"sku":"A","quantity":0}]}`:                          "quantity is 0",
		`{"id":"x","items":[{"sku":"A","quantity":1},{"sku":"A","quantity":1}]}`: "name each SKU once",
		`{"id":"x","ttl_seconds":99999999,"items":[{"sku":"A","quantity":1}]}`:   "want 1 to 86400",
		`{"id":"x","channel":"nowhere","items":[{"sku":"A","quantity":1}]}`:      "there is no channel",
		`{"id":"x","item":[]}`:                                                   "not a field",
		`{"id":"x","items":[{"sku":"A","quantity":"1"}]}`:                        "want a value of type",
		`{"id":"x","items":[{"sku":"A","quantity":1}]}{}`:                        "more after",
		`[]`: "",
		`{"id":"` + strings.Repeat("x", 65) + `","items":[{"sku":"A","quantity":1}]}`:                           "1 to 64",
		`{"id":"x","items":[{"sku":"` + strings.Repeat("x", 129) + `","quantity":1}]}`:                          "is not a name",
		`{"id":"x","items":[{"sku":"A","quantity":99999999}]}`:                                                  "beyond the limit",
		`{"id":"x","items":[{"sku":"A","quantity":1,"location":"sold"}]}`:                                       "cannot be called",
		`{"id":"x","items":[` + strings.Repeat(`{"sku":"A","quantity":1},`, 100) + `{"sku":"B","quantity":1}]}`: "at most 100",
	} {
		if status, out := a.call(http.MethodPost, "/v1/reservations", body); status != 422 && status != 400 || !strings.Contains(out.Detail, want) {
			t.Errorf("%.80s: %d %s, want %q", body, status, out.Detail, want)
		}
	}
	if status, _ := a.call(http.MethodGet, "/v1/reservations/never", nil); status != 404 {
		t.Errorf("a reservation that never was: %d", status)
	}
}

// TestLastUnit has two thousand callers of two instances want the last unit at once: one gets it.
func TestLastUnit(t *testing.T) {
	g := start(t)
	apis := []*api{g.api(), g.api()}
	apis[0].receive("LAST", 1)
	const callers = 2000
	var won, lost atomic.Int64
	var wg sync.WaitGroup
	ready := make(chan struct{})
	for i := range callers {
		wg.Go(func() {
			<-ready
			status, out := apis[i%2].call(http.MethodPost, "/v1/reservations", request(fmt.Sprint("caller-", i), item{"LAST", 1}))
			switch {
			case status == 201 && out.State == "held":
				won.Add(1)
			case status == 409 && out.State == "refused":
				lost.Add(1)
			default:
				t.Errorf("%d %+v", status, out)
			}
		})
	}
	close(ready)
	wg.Wait()
	if won.Load() != 1 || lost.Load() != callers-1 {
		t.Errorf("%d of %d callers have the last unit, %d do not", won.Load(), callers, lost.Load())
	}
	if l := g.fold()["LAST"]; l.Available() != 0 || l.Version != 2 {
		t.Errorf("the log says %+v", l)
	}
}
