package whatif_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/whatif"
)

const (
	second = int64(1_000_000)
	begin  = int64(1_700_000_000) * second
)

func units(n event.Units) *event.Units { return &n }

// settings is two channels that list everything, pooled unless a rule says otherwise.
func settings(op catalog.Operation, rules ...*catalog.Rule) whatif.Settings {
	pooled := "pooled"
	s := &catalog.Settings{
		Channels: map[string]*catalog.Channel{
			"amazon": {ID: "amazon", Adapter: "http", ListsAllSKUs: true, Operation: op}, "shop": {ID: "shop", Adapter: "http", ListsAllSKUs: true, Operation: op},
		},
		Locations: map[string]*catalog.Location{"main": {ID: "main", Kind: catalog.Warehouse}},
		Rules:     map[string]*catalog.Rule{"mode": {ID: "mode", Mode: &pooled}},
	}
	for _, r := range rules {
		s.Rules[r.ID] = r
	}
	return whatif.Settings{Settings: s}
}

// record is one event of a log: seconds after the beginning, of the record and of what it tells.
type record struct {
	at, sold int64
	e        event.Event
}

func received(at int64, n event.Units) record {
	return record{at: at, e: event.Event{Kind: event.ReceiptReceived, Quantity: n}}
}

func sale(sold, at int64, channel, order string, n event.Units) record {
	return record{at: at, sold: sold, e: event.Event{Kind: event.SaleRecorded, Channel: channel, OrderID: order, LineID: "1", Quantity: n}}
}

func of(r record, kind event.Kind) record { r.e.Kind = kind; return r }

// run replays the log from second 100 on.
func run(log []record, s ...whatif.Settings) *whatif.Report {
	r := whatif.New(whatif.Options{From: begin + 100*second, To: begin + 1_000_000*second, Delays: map[string]time.Duration{"amazon": 2 * time.Second, "shop": 2 * time.Second}}, s...)
	for i := range log {
		x := log[i]
		x.e.ID, x.e.SKU, x.e.Location = fmt.Sprint(i), "JUG", "main"
		x.e.ReceivedAt, x.e.OccurredAt = begin+x.at*second, begin+x.at*second
		if x.sold > 0 {
			x.e.OccurredAt = begin + x.sold*second
		}
		r.Add(0, int64(i), begin+x.at*second, &x.e)
	}
	return r.Run()
}

// brief is the figures of a result: channel sold/lost/oversold/writes.
func brief(r whatif.Result) string {
	s := ""
	for _, c := range r.Channels {
		s += fmt.Sprintf("%s %d/%d/%d/%d ", c.Channel, c.Units, c.Lost, c.Oversold, c.Writes)
	}
	return s + fmt.Sprint(r.Skipped)
}

func TestWorkedCases(t *testing.T) {
	buffer := &catalog.Rule{ID: "r", Match: catalog.Match{Channel: "amazon"}, Buffer: units(1)}
	reserve := &catalog.Rule{ID: "r", Match: catalog.Match{Channel: "shop"}, Reserve: units(3)}
	// Both channels sell the last unit before anybody hears of either.
	race := []record{received(1, 1), sale(200, 203, "shop", "s", 1), sale(201, 204, "amazon", "a", 1)}
	// The shop's sale is written to amazon by 105; what is left is sold there.
	calm := []record{received(1, 5), sale(101, 103, "shop", "s", 1), sale(300, 301, "amazon", "a", 4)}
	for name, c := range map[string]struct {
		log  []record
		s    whatif.Settings
		want string
	}{
		"the last unit sells twice":       {race, settings(catalog.CompareAndSet), "amazon 1/0/1/1 shop 1/0/0/0 0"},
		"a buffer prevents it":            {race, settings(catalog.CompareAndSet, buffer), "amazon 0/1/0/0 shop 1/0/0/0 0"},
		"time enough":                     {calm, settings(catalog.Delta), "amazon 4/0/0/1 shop 1/0/0/1 0"},
		"a reserve loses a sale":          {calm, settings(catalog.Delta, reserve), "amazon 0/4/0/1 shop 1/0/0/0 0"},
		"what follows a lost sale is out": {append(calm[:3:3], of(sale(0, 310, "amazon", "a", 4), event.ShipmentConfirmed)), settings(catalog.Delta, reserve), "amazon 0/4/0/1 shop 1/0/0/0 1"},
		"a receipt is written to both":    {append(calm[:1:1], received(110, 2), sale(113, 114, "amazon", "b", 7)), settings(catalog.Absolute), "amazon 7/0/0/1 shop 0/0/0/2 0"},
		"not before the write lands":      {append(calm[:1:1], received(110, 2), sale(111, 114, "amazon", "b", 7)), settings(catalog.Absolute), "amazon 0/7/0/1 shop 0/0/0/1 0"},
		// amazon sells 3 of 5 at 111, heard of at 120. A receipt of 1 sets it to 6 at 112: 6 are sold at 113, of the 3 that are there.
		"an absolute write sells again": {append(calm[:1:1], received(110, 1), sale(111, 120, "amazon", "b", 3), sale(113, 121, "amazon", "c", 6)), settings(catalog.Absolute), "amazon 9/0/3/3 shop 0/0/0/3 0"},
		"a difference does not":         {append(calm[:1:1], received(110, 1), sale(111, 120, "amazon", "b", 3), sale(113, 121, "amazon", "c", 6)), settings(catalog.Delta), "amazon 3/6/0/1 shop 0/0/0/2 0"},
		"nobody writes":                 {race, settings(catalog.UnspecifiedOperation), "amazon 1/0/1/0 shop 1/0/0/0 0"},
	} {
		if got := brief(run(c.log, c.s).Results[0]); got != c.want {
			t.Errorf("%s: %s; want %s", name, got, c.want)
		}
	}
}

// TestReservedSale holds that a sale of reserved units takes what is held for it: it is no oversell though nothing else is there, and its channel shows less by it.
func TestReservedSale(t *testing.T) {
	hold := record{at: 110, e: event.Event{Kind: event.ReservationPlaced, ReservationID: "h", Quantity: 2}}
	reserved := sale(200, 200, "shop", "s", 2)
	reserved.e.ReservationID = "h"
	log := []record{received(1, 5), hold, sale(150, 151, "amazon", "a", 3), reserved}
	if got := brief(run(log, settings(catalog.Delta)).Results[0]); !strings.HasPrefix(got, "amazon 3/0/0/") || !strings.Contains(got, "shop 2/0/0/") {
		t.Errorf("with its units held: %s; want 3 and 2 sold, nothing lost or oversold", got)
	}
	reserved.e.ReservationID = ""
	log[3] = reserved
	if got := brief(run(log, settings(catalog.Delta)).Results[0]); !strings.Contains(got, "shop 0/2/0/") {
		t.Errorf("without a reservation: %s; want the 2 units lost, as they are held for another", got)
	}
}

// TestImports holds that a sale heard of long after counts as made when it was heard of.
func TestImports(t *testing.T) {
	log := []record{received(1, 5), sale(150_000, 150_001, "shop", "s", 5), received(400_000, 5), sale(200_000, 400_010, "shop", "t", 5)}
	got := run(log, settings(catalog.Delta))
	if got.Imported != 1 || got.Oversold != 0 || brief(got.Results[0]) != "amazon 0/0/0/3 shop 10/0/0/1 0" {
		t.Errorf("%+v, %s", got, brief(got.Results[0]))
	}
}

// TestSaidModes counts the SKUs whose books are not kept.
func TestSaidModes(t *testing.T) {
	mode := func(m string) *catalog.Rule { return &catalog.Rule{ID: "mode", Mode: &m} }
	log := []record{received(1, 4), sale(200, 203, "shop", "s", 2), sale(201, 204, "amazon", "a", 2)}
	r := run(log, settings(catalog.Delta, mode("strict")), settings(catalog.Delta, mode("adaptive")))
	if r.Results[0].Strict != 1 || r.Results[1].Adaptive != 1 {
		t.Errorf("%+v", r.Results)
	}
	if got := r.Results[0].Total(); got.Units != 4 || got.Oversold != 0 { // each unit is shown once
		t.Errorf("strict: %+v", got)
	}
}

// TestBooksBalance holds, for any log, that the same settings give the same figures, that each sale is taken or lost, and that no more is oversold than was sold.
func TestBooksBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, at := []record{received(1, 20)}, int64(90)
		for i := range rapid.IntRange(0, 40).Draw(t, "events") {
			at += rapid.Int64Range(0, 4).Draw(t, "pause")
			channel, n := rapid.SampledFrom([]string{"amazon", "shop"}).Draw(t, "channel"), event.Units(rapid.IntRange(1, 4).Draw(t, "units"))
			order := fmt.Sprint("o", i)
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				log = append(log, received(at, n))
			case 1:
				x := of(sale(0, at, channel, fmt.Sprint("o", rapid.IntRange(0, 40).Draw(t, "of")), n), event.SaleCancelled)
				x.e.RestockedByChannel = rapid.Bool().Draw(t, "restocked")
				log = append(log, x)
			default:
				log = append(log, sale(at-rapid.Int64Range(0, 10).Draw(t, "late"), at, channel, order, n))
			}
		}
		op := rapid.SampledFrom([]catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet}).Draw(t, "operation")
		s := settings(op, &catalog.Rule{ID: "r", Match: catalog.Match{Channel: "shop"}, Buffer: units(event.Units(rapid.IntRange(0, 5).Draw(t, "buffer")))})
		r := run(log, s, s)
		if !reflect.DeepEqual(r.Results[0], r.Results[1]) {
			t.Fatalf("%+v and %+v of the same settings", r.Results[0], r.Results[1])
		}
		sum := r.Results[0].Total()
		if sum.Sales+sum.LostSales != r.Sales || sum.Units+sum.Lost != r.Units || sum.Oversold > sum.Units {
			t.Fatalf("%+v of %d sales, %d units", sum, r.Sales, r.Units)
		}
	})
}

// TestMalformed holds that a record that the ledger rejects, and one delivered twice, do not count.
func TestMalformed(t *testing.T) {
	r := whatif.New(whatif.Options{From: 0, To: begin, Ledger: ledger.Options{}}, settings(catalog.Delta))
	e := event.Event{ID: "1", SKU: "JUG", Location: "main", Kind: event.ReceiptReceived, Quantity: 3, OccurredAt: 1}
	r.Add(0, 0, 10, &e)
	r.Add(0, 1, 11, &e)
	r.Add(0, 2, 12, &event.Event{ID: "2", Kind: event.SaleRecorded, Quantity: 1})
	r.Add(0, 3, begin, &event.Event{ID: "3", SKU: "JUG", Location: "main", Kind: event.ReceiptReceived, Quantity: 3, OccurredAt: 1})
	if got := r.Run(); got.Events != 1 {
		t.Errorf("%d events", got.Events)
	}
}
