package intake

import (
	"fmt"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
)

// Names of fields, as input has them.
var (
	OrderFields   = []string{"id", "channel", "placed_at", "currency", "lines", "ship_to", "ship_by", "customer_ref"}
	LineFields    = []string{"id", "sku", "quantity", "unit_price", "location"}
	AddressFields = []string{"country", "region", "postal_code"}
)

// MaxLines is the most lines that one order may have.
const MaxLines = 1000

// ReadOrder reads one order from JSON into o, all but its ReceivedAt. Its sales are for [CheckSales] to judge. The strings of o alias src. It returns what is wrong with the order,
// or an error when src is no JSON; o is of use only when there is neither. Lines of o are reused.
func ReadOrder(src string, lim *Limits, o *order.Order) ([]problem.Field, *SyntaxError) {
	p := parser{s: src}
	*o = order.Order{Lines: o.Lines[:0]}
	p.order(lim, o)
	p.end()
	return p.faults, p.err
}

func (p *parser) order(lim *Limits, o *order.Order) {
	if p.peek() != '{' {
		p.wrong("", "an object (one order)")
		return
	}
	p.i++
	var seen members
	for first := true; ; first = false {
		k, ok := p.key(first)
		if !ok {
			break
		}
		if p.peek() == 'n' && knownIn(OrderFields, k) {
			p.null() // as if left out
			continue
		}
		switch k {
		case "id":
			p.once(&seen, 0, k)
			o.ID = p.id(k)
		case "channel":
			p.once(&seen, 1, k)
			o.Channel = p.channel(k)
		case "placed_at":
			p.once(&seen, 2, k)
			o.PlacedAt = p.moment(k, lim, true)
		case "currency":
			p.once(&seen, 3, k)
			o.Currency = p.code(k, 3, "EUR")
		case "lines":
			p.once(&seen, 4, k)
			p.lines(lim, o)
		case "ship_to":
			p.once(&seen, 5, k)
			p.address(&o.ShipTo)
		case "ship_by":
			p.once(&seen, 6, k)
			o.ShipBy = p.moment(k, lim, false)
		case "customer_ref":
			p.once(&seen, 7, k)
			o.CustomerRef = p.words(k, MaxID)
		default:
			p.unknown(k, OrderFields)
		}
	}
	if p.err != nil {
		return
	}
	for i, hint := range [...]string{
		"give the channel's own order number", "name the channel that sold it", "give the time the order was placed, as in 2026-02-03T10:15:00Z",
		"give the currency of the prices, such as EUR", "give at least one line",
	} {
		if seen&(1<<i) == 0 {
			p.missing(OrderFields[i], hint)
		}
	}
}

// CheckSales gives the ledger the last word on the events of an order, one a line: what is taken in here is never rejected there for what it says.
func CheckSales(sales []event.Event, lim *Limits) []problem.Field {
	p := parser{path: []segment{{name: "lines"}, {}}}
	for i := range sales {
		p.path[1].index = i
		if id := sales[i].ID; len(id) > ledger.MaxID { // order and line make it up together
			p.fault("id", "invalid", fmt.Sprintf("channel, order id and line id are %d bytes together (each / and %% counts three); at most %d tell sales apart", len(id), ledger.MaxID))
			continue
		}
		p.apply(lim, &sales[i])
	}
	return p.faults
}

func knownIn(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

func (p *parser) lines(lim *Limits, o *order.Order) {
	if p.peek() != '[' {
		p.wrong("lines", "an array of lines")
		return
	}
	p.i++
	p.path = append(p.path, segment{name: "lines"}, segment{})
	for first := true; p.element(first); first = false {
		n := len(o.Lines)
		if n >= MaxLines {
			p.skip(len(p.path))
			if n == MaxLines {
				p.path = p.path[:len(p.path)-1]
				p.fault("", "too_many", fmt.Sprintf("an order may have at most %d lines", MaxLines))
				p.path = append(p.path, segment{})
				o.Lines = append(o.Lines, order.Line{}) // one over, so that it is said once
			}
			continue
		}
		p.path[len(p.path)-1].index = n
		o.Lines = append(o.Lines, order.Line{})
		p.line(lim, &o.Lines[n])
	}
	p.path = p.path[:len(p.path)-1]
	if p.err == nil && len(o.Lines) == 0 {
		p.fault("", "required", "lines is empty: give at least one line")
	}
	p.repeatedLines(o.Lines)
	p.path = p.path[:len(p.path)-1]
}

// repeatedLines notes lines that share an id: the ledger would count only one of them.
func (p *parser) repeatedLines(lines []order.Line) {
	if len(lines) < 2 || p.err != nil {
		return
	}
	note := func(i, first int) {
		p.path = append(p.path, segment{index: i})
		p.fault("id", "repeated", fmt.Sprintf("line %d has the id %q too: each line of an order needs its own", first, shorten(lines[i].ID)))
		p.path = p.path[:len(p.path)-1]
	}
	if len(lines) <= 16 { // nearly every order: no map needed
		for i := 1; i < len(lines); i++ {
			for j := range i {
				if lines[i].ID == lines[j].ID && lines[i].ID != "" {
					note(i, j)
					break
				}
			}
		}
		return
	}
	byID := make(map[string]int, len(lines))
	for i := range lines {
		if lines[i].ID == "" {
			continue
		}
		if j, ok := byID[lines[i].ID]; ok {
			note(i, j)
			continue
		}
		byID[lines[i].ID] = i
	}
}

func (p *parser) line(lim *Limits, l *order.Line) {
	if p.peek() != '{' {
		p.wrong("", "an object (one line)")
		return
	}
	p.i++
	var seen members
	for first := true; ; first = false {
		k, ok := p.key(first)
		if !ok {
			break
		}
		if p.peek() == 'n' && knownIn(LineFields, k) {
			p.null()
			continue
		}
		switch k {
		case "id":
			p.once(&seen, 0, k)
			l.ID = p.id(k)
		case "sku":
			p.once(&seen, 1, k)
			l.SKU = p.name(k)
		case "quantity":
			p.once(&seen, 2, k)
			if v, ok := p.integer(k); ok {
				l.Quantity = event.Units(v)
				p.quantity(lim, l.Quantity, 1)
			}
		case "unit_price":
			p.once(&seen, 3, k)
			l.UnitPrice = p.amount(k)
		case "location":
			p.once(&seen, 4, k)
			l.Location = p.name(k)
		default:
			p.unknown(k, LineFields)
		}
	}
	if p.err != nil {
		return
	}
	for i, hint := range [...]string{
		"give the line's number or id within the order", "name what was sold", "give the units sold, 1 or more", `give the price of one unit, such as "12.50"`,
	} {
		if seen&(1<<i) == 0 {
			p.missing(LineFields[i], hint)
		}
	}
}

func (p *parser) quantity(lim *Limits, q, least event.Units) {
	switch {
	case q < least:
		p.fault("quantity", "invalid", fmt.Sprintf("quantity is %d; it must be %d or more", q, least))
	case q > lim.MaxQuantity:
		p.fault("quantity", "absurd_quantity", fmt.Sprintf("quantity is %d; more than %d at once is taken for a mistake", q, lim.MaxQuantity))
	}
}

func (p *parser) address(a *order.Address) {
	if p.peek() != '{' {
		p.wrong("ship_to", "an object (country, region, postal_code)")
		return
	}
	p.i++
	p.path = append(p.path, segment{name: "ship_to"})
	var seen members
	for first := true; ; first = false {
		k, ok := p.key(first)
		if !ok {
			break
		}
		switch k {
		case "country":
			p.once(&seen, 0, k)
			a.Country = p.code(k, 2, "DE")
		case "region":
			p.once(&seen, 1, k)
			a.Region = p.words(k, MaxID)
		case "postal_code":
			p.once(&seen, 2, k)
			a.PostalCode = p.words(k, 32)
		default:
			p.unknown(k, AddressFields)
		}
	}
	p.path = p.path[:len(p.path)-1]
}
