package whatif_test

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
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
		x.e.ID = fmt.Sprint(i)
		if x.e.Location == "" && x.e.Kind != event.OrderWatermarkPassed && x.e.Kind != event.ReservationRequested && x.e.Bundle == "" {
			x.e.Location = "main"
		}
		if x.e.SKU == "" && x.e.Kind != event.OrderWatermarkPassed {
			x.e.SKU = "JUG"
		}
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
	for _, c := range r.ByChannel() {
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

// passed is an order watermark of both channels every ten seconds, a second behind, merged into a log that is in order.
func passed(log []record, until int64) []record {
	for at := int64(10); at <= until; at += 10 {
		for _, channel := range []string{"amazon", "shop"} {
			log = append(log, record{at: at, sold: at - 1, e: event.Event{Kind: event.OrderWatermarkPassed, Channel: channel}})
		}
	}
	slices.SortStableFunc(log, func(a, b record) int { return cmp.Compare(a.at, b.at) })
	return log
}

func mode(m string) *catalog.Rule { return &catalog.Rule{ID: "mode", Mode: &m} }

// first has a channel served before all others.
func first(channel string) []*catalog.Rule {
	share, before := "priority", int32(1)
	return []*catalog.Rule{{ID: "share", Share: &share}, {ID: "first", Match: catalog.Match{Channel: channel}, Priority: &before}}
}

// TestBooks has the same record under pooled, strict and adaptive rules. There is one unit, which both channels sell before anybody hears of either. Pooled oversells it. In the books it is
// at the channel that is served first, from before the window on, and the other shows 0: it loses its sale, nothing is oversold, and nothing has to be written. adaptive has less than 64 units a channel, and
// keeps the same books.
func TestBooks(t *testing.T) {
	log := passed([]record{received(1, 1), sale(200, 203, "shop", "s", 1), sale(201, 204, "amazon", "a", 1)}, 300)
	for _, op := range []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet} {
		for _, m := range []string{"strict", "adaptive"} {
			r := run(log, settings(op), settings(op, append(first("shop"), mode(m))...), settings(op, append(first("amazon"), mode(m))...))
			if got := r.Results[0].Total(); got.Units != 2 || got.Oversold != 1 {
				t.Errorf("%s: pooled: %+v; want both sold, one of them oversold", op, got)
			}
			for i, want := range []string{"amazon 0/1/0/0 shop 1/0/0/0 0", "amazon 1/0/0/0 shop 0/1/0/0 0"} {
				if got := brief(r.Results[i+1]); got != want {
					t.Errorf("%s, %s: %s; want %s", op, m, got, want)
				}
				if sums := r.Results[i+1].ByMode(); len(sums) != 1 || sums[0].Mode != m || r.Results[i+1].SKUs[m] != 1 {
					t.Errorf("%s: %+v", m, sums)
				}
			}
		}
	}
}

// TestBundleInScope has JUG sold by shop, and SET, one JUG and one CUP, by amazon, both from one place that has 10 of each. What lies elsewhere serves neither: wherever that is, the two sell 10 together, some of
// them as SET.
func TestBundleInScope(t *testing.T) {
	for name, elsewhere := range map[string][]string{"nothing elsewhere": nil, "one component": {"JUG"}, "both": {"JUG", "CUP"}} {
		for _, op := range []catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet} {
			s := settings(op, mode("strict"))
			for id, c := range s.Channels {
				x := *c
				x.ListsAllSKUs, x.Locations = false, []string{"main"}
				s.Channels[id] = &x
			}
			s.Channels["other"] = &catalog.Channel{ID: "other", Adapter: "http", Operation: op}
			s.Locations["far"] = &catalog.Location{ID: "far", Kind: catalog.Warehouse}
			s.Listings = map[string]*catalog.Listing{
				"JUG": {SKU: "JUG", Channels: []catalog.ChannelListing{{Channel: "shop"}}},
				"SET": {SKU: "SET", Components: []catalog.Component{{SKU: "JUG", Quantity: 1}, {SKU: "CUP", Quantity: 1}}, Channels: []catalog.ChannelListing{{Channel: "amazon"}}},
			}
			log := []record{received(1, 10), at("CUP", received(2, 10))}
			for _, sku := range elsewhere {
				far := at(sku, received(3, 20))
				far.e.Location = "far"
				log = append(log, far)
			}
			for i := range int64(10) {
				log = append(log, sale(200+i*20, 201+i*20, "shop", fmt.Sprint("s", i), 1))
				set := sale(205+i*20, 206+i*20, "amazon", fmt.Sprint("a", i), 1)
				for _, sku := range []string{"SET", "JUG", "CUP"} {
					set.e.SKU, set.e.Bundle = sku, "SET"
					log = append(log, set)
				}
			}
			r := run(passed(log, 500), s)
			rows := r.Results[0].ByChannel()
			if len(rows) != 2 || rows[0].Units == 0 || rows[0].Units+rows[1].Units != 10 {
				t.Errorf("%s, %s: %s; want 10 sold, SET among them", name, op, brief(r.Results[0]))
			}
		}
	}
}

// TestWithMode holds that one mode is in force for all SKUs, whatever the rules say, and that the settings themselves stay as they are.
func TestWithMode(t *testing.T) {
	log := passed([]record{received(1, 1), sale(200, 203, "shop", "s", 1), sale(201, 204, "amazon", "a", 1)}, 300)
	own := mode("pooled")
	own.ID, own.Match.SKU = "own", "JUG"
	s := settings(catalog.Absolute, own, mode("waterfall"))
	r := run(log, s.WithMode("strict"), s)
	if r.Results[0].SKUs["strict"] != 1 || r.Results[0].Total().Oversold != 0 || r.Results[1].SKUs["pooled"] != 1 || r.Results[1].Total().Oversold != 1 {
		t.Errorf("%+v", r.Results)
	}
	delete(s.Rules, "own")
	delete(s.Rules, "mode")
	if r := run(log, s.WithMode("strict")); r.Results[0].SKUs["strict"] != 1 {
		t.Errorf("without rules: %+v", r.Results)
	}
}

// TestRoomMoves holds that units under the books go where they can be sold again: of a receipt of 6 at an empty shelf 4 are written to the channel that is served first, and the 2 that were
// kept back when it has sold 3 of these. A sale at the other channel is lost.
func TestRoomMoves(t *testing.T) {
	log := passed([]record{received(1, 1), sale(150, 151, "shop", "s", 1), received(200, 6), sale(250, 251, "shop", "t", 3), sale(260, 261, "amazon", "a", 2)}, 400)
	r := run(log, settings(catalog.CompareAndSet, append(first("shop"), mode("strict"))...))
	if got := brief(r.Results[0]); got != "amazon 0/2/0/0 shop 4/0/0/2 0" {
		t.Errorf("%s", got)
	}
}

// TestNoWatermark holds that a channel of which no watermark is recorded is named, and that strict rules give it nothing that would have to be taken back first.
func TestNoWatermark(t *testing.T) {
	r := run([]record{received(1, 1), sale(200, 203, "shop", "s", 1), sale(201, 204, "amazon", "a", 1)}, settings(catalog.Absolute, mode("strict")))
	if got := r.Results[0]; !slices.Equal(got.Unmarked, []string{"amazon", "shop"}) || got.Total().Oversold != 0 {
		t.Errorf("%+v", got)
	}
}

// kit is settings in which SET is made of 2 × JUG and 1 × CUP.
func kit(op catalog.Operation, rules ...*catalog.Rule) whatif.Settings {
	s := settings(op, rules...)
	s.Listings = map[string]*catalog.Listing{"SET": {SKU: "SET", Components: []catalog.Component{{SKU: "JUG", Quantity: 2}, {SKU: "CUP", Quantity: 1}}}}
	return s
}

// sold is a sale of SETs as ingest writes it.
func sold(at, heard int64, channel, order string, n event.Units) []record {
	of := func(sku string, n event.Units) record {
		r := sale(at, heard, channel, order, n)
		r.e.SKU, r.e.Bundle = sku, "SET"
		return r
	}
	return []record{of("SET", n), of("JUG", 2*n), of("CUP", n)}
}

func at(sku string, r record) record { r.e.SKU = sku; return r }

// TestBundle has a shelf of 5 JUG and 9 CUP, which make 2 SET.
func TestBundle(t *testing.T) {
	shelf := []record{received(1, 5), at("CUP", received(2, 9))}
	// Both channels sell all there is before anybody hears of either: JUG, of which 1 is left, lacks 3; of CUP there is enough.
	race := append(append(shelf[:2:2], sold(200, 203, "shop", "s", 2)...), sold(201, 204, "amazon", "a", 2)...)
	// The shop sells a JUG at a time when all hear of it before amazon sells SET: of 4 JUG 2 SET are left; then of 1 JUG none.
	after := append(append(shelf[:2:2], sale(110, 111, "shop", "s", 1)), append(sold(150, 151, "amazon", "a", 1), append([]record{sale(200, 201, "shop", "t", 1)}, sold(250, 251, "amazon", "b", 1)...)...)...)
	// There is plenty: in the books the bundle is allotted enough of each component to sell on both channels.
	plenty := append(append([]record{received(1, 50), at("CUP", received(2, 90))}, sold(200, 203, "shop", "s", 2)...), sold(201, 204, "amazon", "a", 2)...)
	buffer := &catalog.Rule{ID: "buffer", Match: catalog.Match{SKU: "JUG"}, PoolBuffer: units(2)}
	for name, c := range map[string]struct {
		log                   []record
		s                     whatif.Settings
		sold, lost, oversold  event.Units
		salesTaken, salesLost int
	}{
		"pooled oversells a component":        {race, kit(catalog.CompareAndSet), 4, 0, 3, 2, 0},
		"a pool buffer counts for the bundle": {race, kit(catalog.CompareAndSet, buffer), 0, 4, 0, 0, 2},
		"strict does not":                     {race, kit(catalog.CompareAndSet, append(first("shop"), mode("strict"))...), -1, -1, 0, -1, -1},
		"strict sells bundles":                {plenty, kit(catalog.Absolute, mode("strict")), 4, 0, 0, 2, 0},
		"adaptive sells bundles":              {plenty, kit(catalog.Delta, mode("adaptive")), 4, 0, 0, 2, 0},
		"its components are sold too":         {after, kit(catalog.CompareAndSet), 3, 1, 0, 3, 1},
	} {
		got := run(passed(slices.Clone(c.log), 400), c.s)
		sum := got.Results[0].Total()
		if got.Units != sum.Units+sum.Lost || got.Sales != sum.Sales+sum.LostSales {
			t.Errorf("%s: %+v of %d sales of %d units", name, sum, got.Sales, got.Units)
		}
		if sum.Oversold != c.oversold || c.sold >= 0 && (sum.Units != c.sold || sum.Lost != c.lost || sum.Sales != c.salesTaken || sum.LostSales != c.salesLost) {
			t.Errorf("%s: %+v", name, sum)
		}
	}
}

// TestBalance holds, for any log and rules, that the same settings give the same figures, that each sale is taken or lost, and that no more is oversold than was sold; and that
// nothing is oversold where the rules say strict, of bundles and components alike.
func TestBalance(t *testing.T) {
	const late = 10
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom([]string{"pooled", "strict", "adaptive", "waterfall", "fair"}).Draw(t, "mode")
		log, now := []record{received(1, 20), at("CUP", received(2, 9))}, int64(90)
		for i := range rapid.IntRange(0, 40).Draw(t, "events") {
			now += rapid.Int64Range(0, 4).Draw(t, "pause")
			channel, n := rapid.SampledFrom([]string{"amazon", "shop"}).Draw(t, "channel"), event.Units(rapid.IntRange(1, 4).Draw(t, "units"))
			order, since := fmt.Sprint("o", i), rapid.Int64Range(0, late).Draw(t, "late")
			switch rapid.IntRange(0, 6).Draw(t, "kind") {
			case 0:
				log = append(log, received(now, n))
			case 1:
				x := of(sale(0, now, channel, fmt.Sprint("o", rapid.IntRange(0, 40).Draw(t, "of")), n), event.SaleCancelled)
				x.e.RestockedByChannel = m != "strict" && rapid.Bool().Draw(t, "restocked") // of a sale that never was, it would make stock at the channel alone
				if m != "strict" {
					log = append(log, x)
				}
			case 2, 3:
				log = append(log, sold(now-since, now, channel, order, n)...)
			default:
				log = append(log, sale(now-since, now, channel, order, n))
			}
		}
		for second := int64(10); second < now+30; second += 5 {
			for _, channel := range []string{"amazon", "shop"} {
				log = append(log, record{at: second, sold: max(1, second-late-1), e: event.Event{Kind: event.OrderWatermarkPassed, Channel: channel}})
			}
		}
		slices.SortStableFunc(log, func(a, b record) int { return cmp.Compare(a.at, b.at) })
		op := rapid.SampledFrom([]catalog.Operation{catalog.Absolute, catalog.Delta, catalog.CompareAndSet}).Draw(t, "operation")
		s := kit(op, mode(m), &catalog.Rule{ID: "r", Match: catalog.Match{Channel: "shop"}, Buffer: units(event.Units(rapid.IntRange(0, 5).Draw(t, "buffer")))})
		r := run(log, s, s)
		if !reflect.DeepEqual(r.Results[0], r.Results[1]) {
			t.Fatalf("%+v and %+v of the same settings", r.Results[0], r.Results[1])
		}
		sum := r.Results[0].Total()
		if sum.Sales+sum.LostSales != r.Sales || sum.Units+sum.Lost != r.Units || sum.Oversold > 3*sum.Units {
			t.Fatalf("%+v of %d sales, %d units", sum, r.Sales, r.Units)
		}
		if m == "strict" && sum.Oversold > 0 {
			t.Fatalf("strict oversells: %+v", r.Results[0])
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
