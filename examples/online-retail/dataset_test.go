package onlineretail

import (
	"strconv"
	"strings"
	"testing"
)

// loadWhole is the data set of this directory.
func loadWhole(t *testing.T) *Dataset {
	t.Helper()
	d, err := Load(File())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWholeFileAddsUp(t *testing.T) {
	d := loadWhole(t)
	if d.Lines != 541_909 {
		t.Errorf("read %d lines, want 541,909", d.Lines)
	}
	leftOut := 0
	for _, n := range d.LeftOut {
		leftOut += n
	}
	var kept int
	units := map[Kind]int64{}
	for i := range d.Documents {
		doc := &d.Documents[i]
		for j, l := range doc.Lines {
			units[doc.Kind] += l.Units
			if doc.Kind == Cancel && j > 0 && sameLine(doc.Lines[j-1], l) {
				continue // one line of the file that matched several sales
			}
			if doc.Kind != Receipt {
				kept++
			}
		}
	}
	if kept+leftOut > d.Lines || kept+leftOut < d.Lines-500 { // adjoining lines of one SKU look like one matched twice
		t.Errorf("%d lines kept and %d left out of %d", kept, leftOut, d.Lines)
	}
	// The sums of the file's own quantities under the rules of README.md, added up by other means.
	for kind, want := range map[Kind]int64{Sale: 5_590_977, Cancel: 272_030, Adjustment: -152_810} {
		if units[kind] != want {
			t.Errorf("documents of kind %d hold %d units, the file %d", kind, units[kind], want)
		}
	}
}

func sameLine(a, b Line) bool { return a.SKU == b.SKU && a.Price == b.Price }

func TestCancelledUnitsWereSoldBefore(t *testing.T) {
	d := loadWhole(t)
	left := map[[2]int32]int64{}
	orders := map[string]bool{}
	last := int64(0)
	for i := range d.Documents {
		doc := &d.Documents[i]
		if doc.At < last {
			t.Fatalf("document %d is at %d, before %d", i, doc.At, last)
		}
		last = doc.At
		for j, l := range doc.Lines {
			switch {
			case doc.Kind == Sale:
				if j == 0 && orders[doc.Invoice] {
					t.Fatalf("two orders are called %s", doc.Invoice)
				}
				orders[doc.Invoice] = true
				if l.Units <= 0 {
					t.Fatalf("sale %s line %d of %d units", doc.Invoice, j, l.Units)
				}
				left[[2]int32{int32(i), int32(j)}] = l.Units
			case doc.Kind == Cancel && l.Sale >= 0:
				sale := &d.Documents[l.Sale]
				if sale.Kind != Sale || sale.Lines[l.SaleLine].SKU != l.SKU || who(sale.Customer, sale.Country) != who(doc.Customer, doc.Country) {
					t.Fatalf("cancellation %s line %d names a sale of something or somebody else: %s", doc.Invoice, j, sale.Invoice)
				}
				k := [2]int32{l.Sale, l.SaleLine}
				if left[k] -= l.Units; left[k] < 0 {
					t.Fatalf("cancellation %s line %d takes back more than was sold", doc.Invoice, j)
				}
				if l.Unshipped != (doc.At < shipsAt(sale.At)) {
					t.Fatalf("cancellation %s line %d: unshipped is %v", doc.Invoice, j, l.Unshipped)
				}
			}
		}
	}
}

func TestMostStockSuffices(t *testing.T) {
	d := loadWhole(t)
	have, apart := make([]int64, len(d.SKUs)), make([]int64, len(d.SKUs))
	var asked, short int64
	out := map[int32]bool{}
	for i := range d.Documents {
		doc := &d.Documents[i]
		for _, l := range doc.Lines {
			if l.Apart {
				if apart[l.SKU] += l.Units; apart[l.SKU] < 0 {
					t.Fatalf("%s writes off %d units of %s more than are apart", doc.Invoice, -apart[l.SKU], d.SKUs[l.SKU].Code)
				}
				continue
			}
			switch doc.Kind {
			case Receipt:
				have[l.SKU] += l.Units
			case Sale:
				asked += l.Units
				if l.Units > have[l.SKU] {
					short += l.Units
					out[l.SKU] = true
				} else {
					have[l.SKU] -= l.Units
				}
			case Adjustment, Cancel:
				have[l.SKU] += l.Units
			}
		}
	}
	if n := len(out); n < len(d.SKUs)/50 || n > len(d.SKUs)/5 {
		t.Errorf("%d of %d SKUs run out; want some, and not many", n, len(d.SKUs))
	}
	t.Logf("short %d of %d units asked for, %d SKUs run out", short, asked, len(out))
}

func TestChannels(t *testing.T) {
	for _, tt := range []struct {
		country string
		webshop bool
		want    string
	}{
		{"United Kingdom", false, "wholesale"}, {"United Kingdom", true, "webshop"}, {"EIRE", false, "ireland"},
		{"Netherlands", false, "netherlands"}, {"Japan", false, "export"}, {"Unspecified", false, "export"},
	} {
		if got := ChannelOf(tt.country, tt.webshop); got != tt.want {
			t.Errorf("ChannelOf(%q, %v) = %q, want %q", tt.country, tt.webshop, got, tt.want)
		}
	}
}

func TestLinesBecomeDocuments(t *testing.T) {
	const header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
	d, err := Load(strings.NewReader(header +
		"1,20001a,RED MUG,6.0,2011-07-01 09:00:00,2.55,17.0,United Kingdom\n" +
		"1,POST,POSTAGE,1,2011-07-01 09:00:00,5,17,United Kingdom\n" +
		"2,20001A,RED MUG,4,2011-07-01 12:00:00,0.0,17.0,United Kingdom\n" + // a gift
		"3,20001A,damages,-2,2011-07-01 12:30:00,0.0,,United Kingdom\n" +
		"4,20001A,found,3,2011-07-01 12:40:00,0.0,,United Kingdom\n" +
		"C5,20001A,RED MUG,-5,2011-07-01 13:00:00,2.55,17,United Kingdom\n" + // 4 of invoice 2, 1 of invoice 1
		"C6,20001A,RED MUG,-9,2011-07-02 13:00:00,2.55,17,United Kingdom\n")) // 5 of invoice 1, 4 of none
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, doc := range d.Documents {
		for _, l := range doc.Lines {
			sale := "-"
			if doc.Kind == Cancel && l.Sale >= 0 {
				sale = d.Documents[l.Sale].Invoice
			}
			_, _ = got.WriteString(strings.Join([]string{
				[]string{"sale", "cancel", "adjust", "receipt", "ship"}[doc.Kind], doc.Invoice, d.SKUs[l.SKU].Code, strconv.FormatInt(l.Units, 10), sale, map[bool]string{true: "unshipped", false: ""}[l.Unshipped] + map[bool]string{true: "apart", false: ""}[l.Apart],
			}, " ") + "\n")
		}
		if doc.Kind == Shipping {
			_, _ = got.WriteString("ship\n")
		}
	}
	want := `receipt  20001A 13 - 
receipt  20001A 2 - apart
sale 1 20001A 6 - 
sale 2 20001A 4 - 
adjust 3 20001A -2 - apart
adjust 4 20001A 3 - 
cancel C5 20001A 4 2 unshipped
cancel C5 20001A 1 1 unshipped
ship
cancel C6 20001A 5 1 
cancel C6 20001A 4 - 
`
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
	if d.LeftOut["POST"] != 1 || d.UnmatchedReturns != 4 {
		t.Errorf("left out %v, unmatched returns %d", d.LeftOut, d.UnmatchedReturns)
	}
	if at := d.Documents[1].At; at != 1309507200_000000 { // 09:00 in London is 08:00 UTC in July
		t.Errorf("first sale at %d", at)
	}
}

func TestFaultsNameTheirPlace(t *testing.T) {
	const header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
	for name, tt := range map[string]struct{ in, want string }{
		"empty":        {"", "want the columns InvoiceNo"},
		"header":       {"a,b\n", "column InvoiceNo is missing"},
		"half a unit":  {header + "1,2,T,1.5,2011-07-01 09:00:00,1,,EIRE\n", `line 2, column 7: Quantity "1.5"`},
		"date":         {header + "1,2,T,1,01/07/2011,1,,EIRE\n", "want a time as"},
		"price":        {header + "1,2,T,1,2011-07-01 09:00:00,free,,EIRE\n", `UnitPrice "free"`},
		"not in order": {header + "1,2,T,1,2011-07-01 09:00:00,1,,EIRE\n2,2,T,1,2011-06-01 09:00:00,1,,EIRE\n", "sort the file"},
		"no goods":     {header + "1,POST,T,1,2011-07-01 09:00:00,1,,EIRE\n", "no goods"},
	} {
		if _, err := Load(strings.NewReader(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, tt.want)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := Load(File()); err != nil {
			b.Fatal(err)
		}
	}
}
