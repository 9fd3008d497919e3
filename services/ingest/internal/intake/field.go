package intake

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/govalues/decimal"

	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

// Longest values, in bytes.
const (
	MaxID   = 255
	MaxText = 1000
)

// Limits is what makes a value absurd.
type Limits struct {
	MaxQuantity event.Units // most units in one line or event
	Now         time.Time   // Onhand's clock
	MaxAhead    time.Duration
}

// text reads a member that must be a string; ok is false when it is null, left empty after a fault, or none.
func (p *parser) text(name string) (s string, ok bool) {
	if p.null() {
		return "", false
	}
	if p.peek() != '"' {
		p.wrong(name, "a string")
		return "", false
	}
	s = p.str()
	return s, p.err == nil
}

// id reads an identifier: 1 to MaxID printable bytes without outer spaces.
func (p *parser) id(name string) string {
	s, ok := p.text(name)
	if !ok {
		return ""
	}
	if what := idFault(s, MaxID); what != "" {
		p.fault(name, "invalid", name+" "+what)
		return ""
	}
	return s
}

// name reads the name of a SKU or a location: as an id, and no longer than the ledger's names are.
func (p *parser) name(field string) string {
	s, ok := p.text(field)
	if !ok {
		return ""
	}
	what := idFault(s, ledger.MaxName)
	if what == "" && field != "sku" && ledger.Reserved(s) {
		what = fmt.Sprintf("cannot be %q: the ledger keeps this word for itself", s)
	}
	if what != "" {
		p.fault(field, "invalid", field+" "+what)
		return ""
	}
	return s
}

func idFault(s string, most int) string {
	switch {
	case s == "":
		return "must not be empty: leave it out or give a value"
	case len(s) > most:
		return fmt.Sprintf("has %d bytes; at most %d are allowed", len(s), most)
	case s[0] == ' ' || s[len(s)-1] == ' ':
		return "must not begin or end with a space: it would count as another id"
	case !printable(s):
		return "holds a character that cannot be printed (a control character, or an invisible one)"
	}
	return ""
}

func printable(s string) bool {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < 0x20 || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if !unicode.IsPrint(r) {
			return false
		}
		i += n
	}
	return true
}

// channel reads a channel's id.
func (p *parser) channel(name string) string {
	s, ok := p.text(name)
	if ok && !catalog.ValidChannelID(s) {
		p.fault(name, "invalid", name+" must be 1 to 100 letters, digits, points, dashes and underscores: it is part of a topic's name")
	}
	return s
}

// words reads free text.
func (p *parser) words(name string, most int) string {
	s, ok := p.text(name)
	if !ok {
		return ""
	}
	if len(s) > most {
		p.fault(name, "invalid", fmt.Sprintf("%s has %d bytes; at most %d are allowed", name, len(s), most))
	} else if !printable(s) {
		p.fault(name, "invalid", name+" holds a character that cannot be printed")
	}
	return s
}

// code reads upper-case letters: an ISO code of n letters.
func (p *parser) code(name string, n int, example string) string {
	s, ok := p.text(name)
	if !ok {
		return ""
	}
	valid := len(s) == n
	for i := 0; valid && i < n; i++ {
		valid = s[i] >= 'A' && s[i] <= 'Z'
	}
	if !valid {
		p.fault(name, "invalid", fmt.Sprintf("%s %q must be a code of %d capital letters such as %s", name, shorten(s), n, example))
	}
	return s
}

// integer reads a whole number.
func (p *parser) integer(name string) (v int64, ok bool) {
	if p.null() {
		return 0, false
	}
	if c := p.peek(); c != '-' && (c < '0' || c > '9') {
		p.wrong(name, "a whole number")
		return 0, false
	}
	s := p.num()
	if p.err != nil {
		return 0, false
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		if strings.ContainsAny(s, ".eE") {
			p.fault(name, "type", fmt.Sprintf("%s must be a whole number without point or exponent, not %s", name, shorten(s)))
		} else {
			p.fault(name, "absurd_quantity", fmt.Sprintf("%s %s is beyond any stock", name, shorten(s)))
		}
		return 0, false
	}
	return v, true
}

// amount reads a decimal number of money, not negative, as a string or a JSON number; never through a float.
func (p *parser) amount(name string) string {
	if p.null() {
		return ""
	}
	var s string
	switch c := p.peek(); {
	case c == '"':
		s = p.str()
	case c == '-' || c >= '0' && c <= '9':
		s = p.num()
	default:
		p.wrong(name, `a decimal number such as "12.50"`)
		return ""
	}
	if p.err != nil {
		return ""
	}
	out, what := Amount(s)
	if what != "" {
		p.fault(name, "invalid", name+" "+what)
	}
	return out
}

// Amount checks an amount of money, not negative, and gives it in plain notation; what is empty when it is right.
func Amount(s string) (plain, what string) {
	if len(s) > 40 {
		return "", fmt.Sprintf("has %d characters; write a decimal number such as 12.50", len(s))
	}
	d, err := decimal.Parse(s)
	if err != nil {
		return "", fmt.Sprintf("%q must be a decimal number of at most 19 digits such as 12.50", s)
	}
	if d.IsNeg() {
		return "", fmt.Sprintf("%s must not be negative", s)
	}
	if c := s[0]; c < '0' || c > '9' || strings.ContainsAny(s, "eE") {
		return d.String(), ""
	}
	return s, ""
}

// moment reads an RFC 3339 time, in microseconds. A time later than the clock by more than MaxAhead is a fault when past is set.
func (p *parser) moment(name string, lim *Limits, past bool) int64 {
	s, ok := p.text(name)
	if !ok {
		return 0
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		p.fault(name, "invalid", fmt.Sprintf("%s %q must be a time with its offset, as in 2026-02-03T10:15:00Z (RFC 3339)", name, shorten(s)))
		return 0
	}
	if y := t.Year(); y < 1980 || y > 2200 {
		p.fault(name, "invalid", fmt.Sprintf("%s %s lies outside the years 1980 to 2200", name, s))
		return 0
	}
	if past && t.Sub(lim.Now) > lim.MaxAhead {
		p.fault(name, "in_future", fmt.Sprintf("%s %s is more than %v ahead of Onhand's clock: check the sender's clock and time zone", name, s, lim.MaxAhead))
	}
	return t.UnixMicro()
}

// boolean reads true or false.
func (p *parser) boolean(name string) bool {
	if p.null() {
		return false
	}
	switch p.peek() {
	case 't':
		p.literal("true")
		return p.err == nil
	case 'f':
		p.literal("false")
	default:
		p.wrong(name, "true or false")
	}
	return false
}

// members is which fields of an object were there: a bit for each name of its table.
type members uint32

// once marks field i as seen, and notes one that is there twice.
func (p *parser) once(seen *members, i int, name string) {
	if *seen&(1<<i) != 0 {
		p.fault(name, "repeated", name+" is there twice: keep one")
	}
	*seen |= 1 << i
}

func (p *parser) missing(name, hint string) {
	p.fault(name, "required", name+" is missing: "+hint)
}
