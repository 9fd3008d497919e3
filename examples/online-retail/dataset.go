// Package onlineretail reads files in the form of the UCI Online Retail data set and turns them into what happened to a shop's stock: sales by
// channel, cancellations, returns, adjustments, shipments and receipts. It holds that data set and the catalog that goes with it (README.md says how a line
// becomes events, and names the source and its licence). Nothing here is random or reads a clock: the same file gives the same movements.
package onlineretail

import (
	"bytes"
	_ "embed" // the data set and its catalog
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // Europe/London, also where the machine has no zone files
)

//go:embed online-retail.csv.zst
var file []byte

// Catalog is the channels, locations and rules for the data set, as `onhand apply` takes them. ${ONHAND_MARKETPLACES} in it stands for the URL of the
// simulated marketplaces.
//
//go:embed catalog.yaml
var Catalog []byte

// File is the data set itself, zstd-compressed.
func File() io.Reader { return bytes.NewReader(file) }

// Warehouse is the location that receives and ships everything that is sold. What the file writes off is kept apart from the start, at Inspection, from
// where nothing is sold.
const (
	Warehouse  = "warehouse"
	Inspection = "inspection"
)

// Currency is that of all prices.
const Currency = "GBP"

// MaxLines is the most lines of one order. A longer invoice becomes several: 573585, 573585-2 … So does one that the file comes back to.
const MaxLines = 1000

// Kind says what a document is.
type Kind uint8

// The kinds.
const (
	Sale       Kind = iota // an order of a customer
	Cancel                 // units of earlier sales that the customer gave up or sent back
	Adjustment             // stock was corrected; quantities are signed
	Receipt                // goods came in
	Shipping               // what was sold until now leaves the warehouse
)

// SKU is one product.
type SKU struct {
	Code  string
	Title string // as first sold; may be empty
}

// Line is one line of a document.
type Line struct {
	Price     string // decimal number in Currency
	Units     int64
	SKU       int32 // index into Dataset.SKUs
	Sale      int32 // Cancel: index into Dataset.Documents of the sale these units are of; -1 when the file does not have it
	SaleLine  int32 // Cancel: line in that sale
	Unshipped bool  // Cancel: the units had not been shipped yet
	Apart     bool  // Receipt and Adjustment: at Inspection, not at Warehouse
}

// Document is one invoice, correction, receipt or shipping time.
type Document struct {
	Invoice  string // empty for receipts and shipping
	Channel  string // sales and cancellations
	Country  string // as the file writes it
	Customer string // may be empty
	At       int64  // microseconds since 1970, UTC
	Kind     Kind
	Lines    []Line
}

// Dataset is a whole file.
type Dataset struct {
	SKUs      []SKU
	Documents []Document // in order of time
	Lines     int        // lines of the file
	LeftOut   map[string]int
	// UnmatchedReturns is units that came back of sales before the file begins.
	UnmatchedReturns int64
}

// Load reads a file, plain or zstd-compressed.
func Load(r io.Reader) (*Dataset, error) {
	b := builder{
		data: &Dataset{LeftOut: make(map[string]int)}, skus: make(map[string]int32), sales: make(map[saleKey][]saleRef), parts: make(map[string]int),
	}
	var group []row
	flush := func() {
		b.invoice(group)
		group = group[:0]
	}
	err := rows(r, func(l row) error {
		if len(group) > 0 && group[0].invoice != l.invoice {
			flush()
		}
		if len(group) == 0 && l.at < b.last {
			return fmt.Errorf("invoice %s is earlier than the one before it; sort the file by InvoiceDate", l.invoice)
		}
		if len(group) == 0 {
			b.last = l.at
		}
		b.data.Lines++
		group = append(group, l)
		return nil
	})
	if err != nil {
		return nil, err
	}
	flush()
	if len(b.data.Documents) == 0 {
		return nil, fmt.Errorf("the file holds no goods")
	}
	b.data.Documents = withReceipts(b.withShipping(), len(b.data.SKUs), func(i int32) string { return b.data.SKUs[i].Code })
	return b.data, nil
}

// ChannelOf is the channel an invoice belongs to.
func ChannelOf(country string, webshop bool) string {
	switch {
	case webshop:
		return "webshop"
	case country == "United Kingdom":
		return "wholesale"
	case country == "EIRE":
		return "ireland"
	case country == "Germany", country == "France", country == "Netherlands", country == "Spain":
		return strings.ToLower(country)
	default:
		return "export"
	}
}

// goods reports whether a code, in upper case, is a product.
func goods(code string) bool {
	switch code {
	case "POST", "DOT", "C2", "M", "D", "S", "B", "BANK CHARGES", "AMAZONFEE", "CRUK", "PADS":
		return false
	}
	return !strings.HasPrefix(code, "GIFT_")
}

type saleKey struct {
	customer string
	sku      int32
}

type saleRef struct {
	doc, line int32
	left      int64
}

type builder struct {
	data  *Dataset
	skus  map[string]int32
	sales map[saleKey][]saleRef // newest last
	parts map[string]int        // orders made of an invoice
	sold  []Line                // of the invoice at hand; its memory is used again
	last  int64
}

func (b *builder) sku(code, title string) int32 {
	i, ok := b.skus[code]
	if !ok {
		i = int32(len(b.data.SKUs))
		b.skus[code] = i
		b.data.SKUs = append(b.data.SKUs, SKU{Code: code})
	}
	if s := &b.data.SKUs[i]; s.Title == "" && title == strings.ToUpper(title) { // remarks of the warehouse are in lower case
		s.Title = title
	}
	return i
}

// who is the customer, or all unknown customers of a country.
func who(customer, country string) string {
	if customer != "" {
		return customer
	}
	return "?" + country
}

// invoice adds the lines of one invoice.
func (b *builder) invoice(lines []row) {
	if len(lines) == 0 {
		return
	}
	head := lines[0]
	webshop := false
	for _, l := range lines {
		webshop = webshop || strings.EqualFold(l.code, "DOT")
	}
	doc := func(k Kind) Document {
		return Document{Invoice: head.invoice, Channel: ChannelOf(head.country, webshop), Country: head.country, Customer: head.customer, At: head.at, Kind: k}
	}
	sale, cancel, adjust := doc(Sale), doc(Cancel), doc(Adjustment)
	sale.Lines = b.sold[:0]
	cancelled := strings.HasPrefix(head.invoice, "C")
	for _, l := range lines {
		code := strings.ToUpper(l.code)
		if !goods(code) {
			b.data.LeftOut[code]++
			continue
		}
		if l.quantity == 0 {
			b.data.LeftOut["(no units)"]++
			continue
		}
		title := l.title
		if free(l.price) {
			title = ""
		}
		sku := b.sku(code, title)
		switch {
		case cancelled:
			cancel.Lines = b.match(cancel.Lines, sku, max(l.quantity, -l.quantity), l)
		case l.quantity < 0, free(l.price) && l.customer == "":
			adjust.Lines = append(adjust.Lines, Line{SKU: sku, Units: l.quantity, Apart: l.quantity < 0})
		default:
			sale.Lines = append(sale.Lines, Line{SKU: sku, Units: l.quantity, Price: l.price})
		}
	}
	b.sold = sale.Lines
	for lines := range slices.Chunk(sale.Lines, MaxLines) {
		b.parts[head.invoice]++ // also where the file comes back to an invoice
		if n := b.parts[head.invoice]; n > 1 {
			sale.Invoice = head.invoice + "-" + strconv.Itoa(n)
		}
		sale.Lines = slices.Clone(lines) // of its own length: most of the memory of a data set is lines
		at := int32(len(b.data.Documents))
		for i, l := range lines {
			key := saleKey{who(sale.Customer, sale.Country), l.SKU}
			b.sales[key] = append(b.sales[key], saleRef{at, int32(i), l.Units})
		}
		b.data.Documents = append(b.data.Documents, sale)
	}
	for _, d := range []Document{cancel, adjust} {
		if len(d.Lines) > 0 {
			key := string(rune('0'+d.Kind)) + "/" + head.invoice
			if b.parts[key]++; b.parts[key] > 1 {
				d.Invoice += "-" + strconv.Itoa(b.parts[key])
			}
			d.Lines = slices.Clone(d.Lines)
			b.data.Documents = append(b.data.Documents, d)
		}
	}
}

// match appends the units of a cancelled line, cut into the sales they are of: the customer's latest first.
func (b *builder) match(dst []Line, sku int32, units int64, l row) []Line {
	key := saleKey{who(l.customer, l.country), sku}
	refs := b.sales[key]
	for units > 0 && len(refs) > 0 {
		ref := &refs[len(refs)-1]
		n := min(units, ref.left)
		sold := b.data.Documents[ref.doc].At
		dst = append(dst, Line{SKU: sku, Units: n, Price: l.price, Sale: ref.doc, SaleLine: ref.line, Unshipped: l.at < shipsAt(sold)})
		units -= n
		if ref.left -= n; ref.left == 0 {
			refs = refs[:len(refs)-1]
		}
	}
	b.sales[key] = refs
	if units > 0 {
		b.data.UnmatchedReturns += units
		dst = append(dst, Line{SKU: sku, Units: units, Price: l.price, Sale: -1})
	}
	return dst
}

var london = func() *time.Location {
	l, err := time.LoadLocation("Europe/London")
	if err != nil {
		panic("onlineretail: " + err.Error()) // the zone is linked in
	}
	return l
}()

// shipsAt is when a sale leaves: 17:00 in London, the day after when it is past that.
func shipsAt(sold int64) int64 {
	t := time.UnixMicro(sold).In(london)
	s := time.Date(t.Year(), t.Month(), t.Day(), 17, 0, 0, 0, london)
	if !s.After(t) {
		s = time.Date(t.Year(), t.Month(), t.Day()+1, 17, 0, 0, 0, london)
	}
	return s.UnixMicro()
}

// withShipping is the documents with a shipping time after each day's sales. References to sales are moved along.
func (b *builder) withShipping() []Document {
	docs := b.data.Documents
	out := make([]Document, 0, len(docs)+400)
	moved := make([]int32, len(docs))
	var due int64
	for i := range docs {
		d := &docs[i]
		if due != 0 && d.At >= due {
			out = append(out, Document{At: due, Kind: Shipping})
			due = 0
		}
		moved[i] = int32(len(out))
		if d.Kind == Sale && due == 0 {
			due = shipsAt(d.At)
		}
		if d.Kind == Cancel {
			for j := range d.Lines {
				if l := &d.Lines[j]; l.Sale >= 0 {
					l.Sale = moved[l.Sale]
				}
			}
		}
		out = append(out, *d)
	}
	if due != 0 {
		out = append(out, Document{At: due, Kind: Shipping})
	}
	return out
}
