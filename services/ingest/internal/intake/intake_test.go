package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
)

var limits = Limits{MaxQuantity: 1_000_000, Now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), MaxAhead: 24 * time.Hour}

const good = `{"id":"1","channel":"shop","placed_at":"2026-02-03T10:15:00Z","currency":"EUR","lines":[{"id":"1","sku":"A","quantity":1,"unit_price":"1.50"}],"ship_to":{"country":"DE"}}`

// TestOrderFaults changes one thing of a good order each time, and wants exactly that named.
func TestOrderFaults(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, pointer, code string }{
		"id missing":              {`"id":"1","channel"`, `"channel"`, "/id", "required"},
		"id null":                 {`"id":"1","channel"`, `"id":null,"channel"`, "/id", "required"},
		"id empty":                {`"id":"1","channel"`, `"id":"","channel"`, "/id", "invalid"},
		"id twice":                {`"id":"1","channel"`, `"id":"1","id":"2","channel"`, "/id", "repeated"},
		"id a number":             {`"id":"1","channel"`, `"id":1,"channel"`, "/id", "type"},
		"id too long":             {`"id":"1","channel"`, `"id":"` + strings.Repeat("x", 256) + `","channel"`, "/id", "invalid"},
		"sku too long":            {`"sku":"A"`, `"sku":"` + strings.Repeat("x", 129) + `"`, "/lines/0/sku", "invalid"},
		"location reserved":       {`"sku":"A"`, `"sku":"A","location":"sold"`, "/lines/0/location", "invalid"},
		"id with a space":         {`"sku":"A"`, `"sku":"A "`, "/lines/0/sku", "invalid"},
		"id with a control":       {`"sku":"A"`, `"sku":"A\u0007"`, "/lines/0/sku", "invalid"},
		"id with zero width":      {`"sku":"A"`, `"sku":"A\u200bB"`, "/lines/0/sku", "invalid"},
		"channel with a slash":    {`"shop"`, `"a/b"`, "/channel", "invalid"},
		"time without offset":     {`10:15:00Z`, `10:15:00`, "/placed_at", "invalid"},
		"time ahead":              {`2026-02-03T`, `2026-03-03T`, "/placed_at", "in_future"},
		"time out of this world":  {`2026-02-03T`, `0026-02-03T`, "/placed_at", "invalid"},
		"currency in small":       {`EUR`, `eur`, "/currency", "invalid"},
		"no lines":                {`[{"id":"1","sku":"A","quantity":1,"unit_price":"1.50"}]`, `[]`, "/lines", "required"},
		"lines an object":         {`[{"id":"1","sku":"A","quantity":1,"unit_price":"1.50"}]`, `{}`, "/lines", "type"},
		"line a text":             {`[{"id":"1","sku":"A","quantity":1,"unit_price":"1.50"}]`, `["A"]`, "/lines/0", "type"},
		"line id repeated":        {`"unit_price":"1.50"}]`, `"unit_price":"1.50"},{"id":"1","sku":"B","quantity":1,"unit_price":0}]`, "/lines/1/id", "repeated"},
		"quantity with a point":   {`"quantity":1`, `"quantity":1.0`, "/lines/0/quantity", "type"},
		"quantity in quotes":      {`"quantity":1`, `"quantity":"1"`, "/lines/0/quantity", "type"},
		"quantity none":           {`"quantity":1`, `"quantity":0`, "/lines/0/quantity", "invalid"},
		"quantity negative":       {`"quantity":1`, `"quantity":-1`, "/lines/0/quantity", "invalid"},
		"quantity absurd":         {`"quantity":1`, `"quantity":1000001`, "/lines/0/quantity", "absurd_quantity"},
		"quantity beyond int64":   {`"quantity":1`, `"quantity":99999999999999999999`, "/lines/0/quantity", "absurd_quantity"},
		"price negative":          {`"1.50"`, `"-1.50"`, "/lines/0/unit_price", "invalid"},
		"price with a comma":      {`"1.50"`, `"1,50"`, "/lines/0/unit_price", "invalid"},
		"price an object":         {`"1.50"`, `{"amount":1}`, "/lines/0/unit_price", "type"},
		"price missing":           {`,"unit_price":"1.50"`, ``, "/lines/0/unit_price", "required"},
		"unknown field":           {`"currency"`, `"notes":[{"a":[1]}],"currency"`, "/notes", "unknown_field"},
		"unknown field in a line": {`"sku":"A"`, `"sku":"A","qty/a":1`, "/lines/0/qty~1a", "unknown_field"},
		"unknown in the address":  {`"country":"DE"`, `"country":"DE","city":"x"`, "/ship_to/city", "unknown_field"},
		"country by name":         {`"DE"`, `"Germany"`, "/ship_to/country", "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			src := strings.Replace(good, tt.old, tt.new, 1)
			if src == good {
				t.Fatal("the case changes nothing")
			}
			var o order.Order
			faults, syntax := ReadOrder(src, &limits, &o)
			if syntax != nil || len(faults) != 1 || faults[0].Pointer != tt.pointer || faults[0].Code != tt.code || faults[0].Detail == "" {
				t.Errorf("faults %+v, %v; want %s at %s alone", faults, syntax, tt.code, tt.pointer)
			}
		})
	}
}

func TestEveryFaultOfAnOrderIsReported(t *testing.T) {
	var o order.Order
	faults, syntax := ReadOrder(`{"channel":"","placed_at":"x","lines":[{"id":"1","sku":"","quantity":0,"unit_price":"x"}],"x":1}`, &limits, &o)
	var at []string
	for _, f := range faults {
		at = append(at, f.Pointer)
	}
	if want := []string{"/channel", "/placed_at", "/lines/0/sku", "/lines/0/quantity", "/lines/0/unit_price", "/x", "/id", "/currency"}; syntax != nil || !slices.Equal(at, want) {
		t.Errorf("faults at %v, want %v", at, want)
	}
	many := `{"lines":[` + strings.Repeat(`{},`, 50) + `{}]}`
	if faults, _ := ReadOrder(many, &limits, &o); len(faults) != maxFaults+1 || faults[maxFaults].Code != "more" {
		t.Errorf("%d faults listed of many", len(faults))
	}
	if faults, _ := ReadOrder(strings.Replace(good, `[{`, `[`+strings.Repeat(`{"id":"x","sku":"A","quantity":1,"unit_price":1},`, MaxLines)+`{`, 1), &limits, &o); !slices.ContainsFunc(faults, func(f problem.Field) bool {
		return f.Code == "too_many"
	}) {
		t.Error("an order of too many lines was taken")
	}
}

// minimal is an event of each kind with what the kind needs and no more.
func minimal(k event.Kind) map[string]any {
	e := map[string]any{"id": "e", "kind": k.String(), "sku": "A", "quantity": 1, "occurred_at": "2026-02-03T10:15:00Z"}
	values := map[string]any{"location": "hq", "to_location": "store", "channel": "shop", "order_id": "1", "line_id": "1", "reservation_id": "r", "reason": "broken", "reference": "PO-1",
		"disposition": "restock", "as_of": "2026-02-03T09:00:00Z", "expires_at": "2026-02-03T11:00:00Z"}
	for f, name := range EventFields {
		if rules[k].needs&(1<<f) != 0 {
			e[name] = values[name]
		}
	}
	return e
}

// TestEventKinds takes each kind with what it needs, and each without one thing it needs.
func TestEventKinds(t *testing.T) {
	none := func() string { return "" }
	read := func(m map[string]any) (event.Event, []string) {
		src, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var e event.Event
		faults, syntax := ReadEvent(string(src), &limits, none, &e)
		if syntax != nil {
			t.Fatal(syntax)
		}
		var at []string
		for _, f := range faults {
			at = append(at, f.Code+" "+f.Pointer)
		}
		return e, at
	}
	for n := 1; n <= int(event.SafetyStockSet); n++ {
		k := event.Kind(n)
		e, faults := read(minimal(k))
		if len(faults) > 0 || e.Kind != k || e.SKU != "A" || e.Quantity != 1 || e.OccurredAt == 0 {
			t.Errorf("%s: %v, %+v", k, faults, e)
		}
		for name := range minimal(k) {
			m := minimal(k)
			delete(m, name)
			if _, faults := read(m); !slices.Contains(faults, "required /"+name) {
				t.Errorf("%s without %s: faults %v", k, name, faults)
			}
		}
		for quantity, want := range map[int]bool{0: k == event.StockCounted || k == event.SafetyStockSet, -3: k == event.StockAdjusted} {
			m := minimal(k)
			m["quantity"] = quantity
			if _, faults := read(m); (len(faults) == 0) != want {
				t.Errorf("%s of %d: faults %v", k, quantity, faults)
			}
		}
		for name, v := range map[string]any{"disposition": "scrap", "as_of": "2026-02-03T09:00:00Z", "expires_at": "2026-02-03T12:00:00Z", "to_location": "x", "restocked_by_channel": true} {
			f := slices.Index(EventFields, name)
			m := minimal(k)
			m[name] = v
			_, faults := read(m)
			if want := (rules[k].needs|rules[k].may)&(1<<f) == 0; want != slices.Contains(faults, "not_used /"+name) {
				t.Errorf("%s with %s: faults %v", k, name, faults)
			}
		}
	}
	for name, m := range map[string]map[string]any{
		"/to_location": {"kind": "transfer_shipped", "location": "hq", "to_location": "hq", "reference": "T-1"}, "/expires_at": {"kind": "reservation_placed", "location": "hq", "reservation_id": "r", "expires_at": "2026-02-03T10:15:00Z"},
		"/location": {"kind": "receipt_received", "location": "restored"}, "/sku": {"kind": "receipt_received", "location": "hq", "sku": strings.Repeat("s", 129)},
		"/as_of":    {"kind": "stock_counted", "location": "hq", "as_of": "2026-03-01T00:05:01Z"},
		"/currency": {"kind": "receipt_received", "location": "hq", "unit_cost": "3"}, "/received_at": {"kind": "receipt_received", "location": "hq", "received_at": "2026-02-03T10:15:00Z"},
		"/kind": {"kind": "unspecified"},
	} {
		for k, v := range map[string]any{"id": "e", "sku": "A", "quantity": 1, "occurred_at": "2026-02-03T10:15:00Z"} {
			if _, own := m[k]; !own {
				m[k] = v
			}
		}
		if _, faults := read(m); len(faults) != 1 || !strings.HasSuffix(faults[0], " "+name) {
			t.Errorf("%v: faults %v, want one at %s", m, faults, name)
		}
	}
}

// TestTheLedgerTakesWhatIsTakenIn draws events and orders at the edges of what each field may be: whatever passes here must pass the ledger's own
// check, with its default limits, and be read into the fold as it stands.
func TestTheLedgerTakesWhatIsTakenIn(t *testing.T) {
	lim := Limits{MaxQuantity: ledger.DefaultMaxQuantity, Now: limits.Now, MaxAhead: limits.MaxAhead}
	names := []any{"A", "sold", "restored", strings.Repeat("n", 127), strings.Repeat("n", 128), strings.Repeat("n", 129), strings.Repeat("é", 65), "a/b%c", "\u00a0x", " ", "", nil, 7}
	ids := append([]any{strings.Repeat("i", 255), strings.Repeat("i", 256), strings.Repeat("/", 80)}, names...)
	times := []any{"2026-02-28T10:15:00Z", "2026-03-01T00:04:00Z", "2026-03-01T00:06:00Z", "1979-01-01T00:00:00Z", "1980-01-01T00:00:00Z", nil, "x"}
	quantities := []any{1, 0, -1, int64(ledger.DefaultMaxQuantity), int64(ledger.DefaultMaxQuantity) + 1, -int64(ledger.DefaultMaxQuantity), -int64(ledger.DefaultMaxQuantity) - 1, nil}
	values := func(field string) []any {
		switch field {
		case "sku", "location", "to_location", "channel":
			return names
		case "quantity":
			return quantities
		case "occurred_at", "as_of", "expires_at":
			return times
		case "disposition":
			return []any{"restock", "scrap", "gone", nil}
		case "restocked_by_channel":
			return []any{true, false}
		case "unit_price", "unit_cost":
			return []any{"1.50", -1, nil}
		case "currency":
			return []any{"EUR", nil}
		}
		return ids
	}
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		k := event.Kind(rapid.IntRange(1, int(event.SafetyStockSet)).Draw(t, "kind"))
		m := minimal(k)
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			f := rapid.SampledFrom(EventFields).Draw(t, "field")
			if f == "kind" {
				continue
			}
			if v := rapid.SampledFrom(values(f)).Draw(t, f); v != nil {
				m[f] = v
			} else {
				delete(m, f)
			}
		}
		src, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var e event.Event
		faults, syntax := ReadEvent(string(src), &lim, func() string { return "key/" + strings.Repeat("0", 200) }, &e)
		for _, f := range faults {
			if !strings.HasPrefix(f.Pointer, "/") {
				t.Fatalf("%s: the fault %+v names no field", src, f)
			}
		}
		if syntax != nil || len(faults) > 0 {
			return
		}
		taken++
		e.ReceivedAt = lim.Now.UnixMicro()
		if f := ledger.Check(&e, 0); f.Reason != "" {
			t.Fatalf("%s was taken in; the ledger: %+v", src, f)
		}
		if r := ledger.New(ledger.Options{}).Apply(&e, 0, e.ReceivedAt); r.Outcome != ledger.Applied {
			t.Fatalf("%s was taken in; the ledger: %+v", src, r)
		}
	})
	if taken == 0 {
		t.Error("no event was taken in: nothing was compared")
	}
	rapid.Check(t, func(t *rapid.T) {
		text := func(label string, of []any) any { return rapid.SampledFrom(of).Draw(t, label) }
		line := map[string]any{"id": text("line", ids), "sku": text("sku", names), "location": text("location", names), "quantity": text("quantity", quantities), "unit_price": "1"}
		src, err := json.Marshal(map[string]any{"id": text("id", ids), "channel": rapid.SampledFrom([]any{"shop", strings.Repeat("c", 100), "a/b"}).Draw(t, "channel"),
			"placed_at": text("placed", times), "currency": "EUR", "lines": []any{line}})
		if err != nil {
			t.Fatal(err)
		}
		var o order.Order
		if faults, syntax := ReadOrder(string(src), &lim, &o); syntax != nil || len(faults) > 0 {
			return
		}
		sales := o.Sales(nil, "api")
		faults := CheckSales(sales, &lim)
		if f := ledger.Check(&sales[0], 0); (f.Reason == "") != (len(faults) == 0) {
			t.Fatalf("%s: faults %v; the ledger: %+v", src, faults, f)
		}
		if len(faults) > 0 && !strings.HasPrefix(faults[0].Pointer, "/lines/0/") {
			t.Fatalf("%s: the fault %+v names no field of the line", src, faults[0])
		}
	})
}

func TestAmounts(t *testing.T) {
	for in, want := range map[string]string{"0": "0", "12.50": "12.50", "1e2": "100", "1.5E1": "15", "0.0001": "0.0001"} {
		if got, what := Amount(in); what != "" || got != want {
			t.Errorf("%s: %q, %s; want %q", in, got, what, want)
		}
	}
	for _, in := range []string{"", "-1", "1,5", "0x1", "NaN", "Inf", "1e999", strings.Repeat("9", 41), " 1"} {
		if got, what := Amount(in); what == "" {
			t.Errorf("%q was taken as %q", in, got)
		}
	}
}

// valid is the oracle: encoding/json's opinion, with what this reader asks beyond it.
func valid(src string) bool {
	if !json.Valid([]byte(src)) || !utf8.ValidString(src) {
		return false
	}
	d := json.NewDecoder(strings.NewReader(src))
	depth, most := 0, 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return true
		}
		if delim, ok := tok.(json.Delim); ok {
			if delim == '{' || delim == '[' {
				depth++
				most = max(most, depth)
			} else {
				depth--
			}
		}
	}
	return most <= maxDepth
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{good, "[" + good + "," + good + "]", "[]", "[1,]", `{"a":1,}`, `"\ud83d\ude00"`, `"\ud83d"`, "-0.5e+7", "01", "[1 2]", "\xff", "nul", `{"a" 1}`, strings.Repeat("[", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		items, n, syntax := Split(src, 10)
		if lone := strings.Contains(strings.ToLower(src), `\ud`); (syntax == nil) != valid(src) && !lone { // encoding/json repairs lone surrogates
			t.Fatalf("%q: %v, and encoding/json says %t", src, syntax, valid(src))
		}
		if syntax != nil {
			if syntax.Offset < 0 || syntax.Offset > len(src) || syntax.Field(src).Column < 1 {
				t.Fatalf("%q: offset %d", src, syntax.Offset)
			}
			return
		}
		if len(items) != min(n, 10) {
			t.Fatalf("%d items of %d", len(items), n)
		}
		var want []json.RawMessage
		if strings.HasPrefix(strings.TrimLeft(src, " \t\r\n"), "[") && json.Unmarshal([]byte(src), &want) == nil && len(want) != n {
			t.Fatalf("%q: %d items, want %d", src, n, len(want))
		}
	})
}

func FuzzReadOrder(f *testing.F) {
	f.Add(good)
	f.Add(strings.Replace(good, "A", `\u0041\n`, 1))
	f.Add(`{"id":"1","lines":[{"quantity":1e3}]}`)
	f.Fuzz(func(t *testing.T, src string) {
		var o order.Order
		faults, syntax := ReadOrder(src, &limits, &o)
		if syntax != nil || len(faults) > 0 {
			for _, x := range faults {
				if x.Detail == "" || !utf8.ValidString(x.Detail) {
					t.Fatalf("%q: fault %+v", src, x)
				}
			}
			return
		}
		// What is taken is what encoding/json sees, and within its bounds.
		var want struct {
			ID, Channel string
			Lines       []struct {
				ID, SKU  string
				Quantity int64
			}
		}
		if err := json.Unmarshal([]byte(src), &want); err != nil {
			t.Fatalf("%q was taken; encoding/json: %v", src, err)
		}
		if o.ID == "" || len(o.ID) > MaxID || len(o.Lines) == 0 || len(o.Lines) != len(want.Lines) || o.PlacedAt == 0 {
			t.Fatalf("%q gives %+v", src, o)
		}
		for _, l := range o.Lines {
			if l.Quantity < 1 || l.Quantity > limits.MaxQuantity || l.SKU == "" || l.UnitPrice == "" {
				t.Fatalf("%q gives line %+v", src, l)
			}
		}
	})
}

func FuzzReadEvent(f *testing.F) {
	for k := 1; k <= int(event.SafetyStockSet); k++ {
		b, _ := json.Marshal(minimal(event.Kind(k)))
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, src string) {
		var e event.Event
		faults, syntax := ReadEvent(src, &limits, func() string { return "" }, &e)
		if syntax == nil && len(faults) == 0 && (e.ID == "" || e.SKU == "" || e.Kind == event.Unspecified || e.OccurredAt == 0) {
			t.Fatalf("%q gives %+v", src, e)
		}
	})
}

func BenchmarkReadOrder(b *testing.B) {
	lines := make([]string, 4)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"id":"%d","sku":"SKU-%d","quantity":2,"unit_price":"12.50"}`, i, i)
	}
	src := `{"id":"100001","channel":"shop","placed_at":"2026-02-03T10:15:00Z","currency":"EUR","lines":[` + strings.Join(lines, ",") + `]}`
	var o order.Order
	b.ReportAllocs()
	for b.Loop() {
		if faults, syntax := ReadOrder(src, &limits, &o); syntax != nil || len(faults) > 0 {
			b.Fatal(faults, syntax)
		}
	}
	b.ReportMetric(float64(b.N*len(lines))/b.Elapsed().Seconds(), "lines/s")
}
