// Package intake reads orders and events from JSON and judges them: every fault of an item is reported at once, each with its JSON pointer, its
// code and what to do.
//
// It has a reader of its own because encoding/json cannot say where an unknown field or a wrong type was, keeps the last of two members of
// one name, repairs broken UTF-8 silently, and costs several times as much for each order line.
package intake

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/onhand/onhand/platform/problem"
)

const (
	maxDepth  = 32 // levels of arrays and objects in input
	maxFaults = 20 // of one item
)

// SyntaxError says where a text stops being JSON.
type SyntaxError struct {
	Offset int // bytes from the start
	What   string
}

// Error gives place and cause.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("not valid JSON at byte %d: %s", e.Offset, e.What)
}

// Field is the fault as a problem document shows it, with line and column in src.
func (e *SyntaxError) Field(src string) problem.Field {
	before := src[:min(e.Offset, len(src))]
	return problem.Field{
		Code: "syntax", Detail: e.Error(), Line: 1 + strings.Count(before, "\n"),
		Column: utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1,
	}
}

// Split checks that src is one JSON document and cuts it into items: the elements of an array, or the document itself when it is none. At
// most limit items are cut; more are counted.
func Split(src string, limit int) (items []string, n int, err *SyntaxError) {
	p := parser{s: src}
	if p.peek() != '[' {
		p.ws()
		start := p.i
		p.skip(0)
		items, n = append(items, src[start:p.i]), 1
	} else {
		p.i++
		for first := true; p.element(first); first = false {
			p.ws()
			start := p.i
			p.skip(1)
			if n++; n <= limit {
				items = append(items, src[start:p.i])
			}
		}
	}
	p.end()
	return items, n, p.err
}

// parser reads one JSON text from front to back. After an error of syntax it stands at the end, and every read fails.
type parser struct {
	s      string
	i      int
	path   []segment
	faults []problem.Field
	err    *SyntaxError
}

type segment struct {
	name  string // empty: an index
	index int
}

func (p *parser) fail(what string) {
	if p.err == nil {
		p.err = &SyntaxError{Offset: p.i, What: what}
	}
	p.i = len(p.s)
}

// fault notes what is wrong with a member of the value the parser is in; an empty name means the value itself.
func (p *parser) fault(name, code, detail string) {
	if len(p.faults) == maxFaults {
		p.faults = append(p.faults, problem.Field{Code: "more", Detail: "there are more faults: mend these first"})
	}
	if len(p.faults) > maxFaults {
		return
	}
	p.faults = append(p.faults, problem.Field{Pointer: p.pointer(name), Code: code, Detail: detail})
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

func (p *parser) pointer(name string) string {
	var b strings.Builder
	for _, s := range p.path {
		b.WriteByte('/')
		if s.name == "" {
			b.WriteString(strconv.Itoa(s.index))
		} else {
			_, _ = pointerEscaper.WriteString(&b, s.name)
		}
	}
	if name != "" {
		b.WriteByte('/')
		_, _ = pointerEscaper.WriteString(&b, name)
	}
	return b.String()
}

func (p *parser) ws() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// peek is the first byte of the next token, 0 at the end.
func (p *parser) peek() byte {
	p.ws()
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

// end checks that nothing follows.
func (p *parser) end() {
	if p.peek(); p.err == nil && p.i < len(p.s) {
		p.fail("something follows the value; send one value, an array, or one value a line as application/x-ndjson")
	}
}

// key reads the next member's name and its colon, inside an object; false at its end.
func (p *parser) key(first bool) (string, bool) {
	c := p.peek()
	if c == '}' {
		p.i++
		return "", false
	}
	if !first {
		if c != ',' {
			p.fail("want , or } after a member")
			return "", false
		}
		p.i++
		c = p.peek()
	}
	if c != '"' {
		p.fail(`want a member name in quotes`)
		return "", false
	}
	k := p.str()
	if p.peek() != ':' {
		p.fail("want : after a member name")
		return "", false
	}
	p.i++
	return k, p.err == nil
}

// element says whether the array has another element, and stands before it.
func (p *parser) element(first bool) bool {
	c := p.peek()
	if c == ']' {
		p.i++
		return false
	}
	if !first {
		if c != ',' {
			p.fail("want , or ] after an element")
			return false
		}
		p.i++
		if p.peek() == ']' {
			p.fail("an element is missing after ,")
			return false
		}
	}
	if p.i >= len(p.s) {
		p.fail("the array has no end")
		return false
	}
	return p.err == nil
}

// str reads a string; the parser stands at its opening quote.
func (p *parser) str() string {
	p.i++
	start := p.i
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return p.s[start : p.i-1]
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			p.fail("a control character in a string must be escaped")
			return ""
		case c < utf8.RuneSelf:
			p.i++
		default:
			r, n := utf8.DecodeRuneInString(p.s[p.i:])
			if r == utf8.RuneError && n == 1 {
				p.fail("the text is not UTF-8")
				return ""
			}
			p.i += n
		}
	}
	p.fail("a string has no end")
	return ""
}

// escaped reads on in a string that holds an escape; the parser stands at the first.
func (p *parser) escaped(start int) string {
	b := make([]byte, 0, p.i-start+32)
	b = append(b, p.s[start:p.i]...)
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == '"':
			p.i++
			return string(b)
		case c < 0x20:
			p.fail("a control character in a string must be escaped")
			return ""
		case c == '\\':
			r, ok := p.escape()
			if !ok {
				return ""
			}
			b = utf8.AppendRune(b, r)
		case c < utf8.RuneSelf:
			b = append(b, c)
			p.i++
		default:
			r, n := utf8.DecodeRuneInString(p.s[p.i:])
			if r == utf8.RuneError && n == 1 {
				p.fail("the text is not UTF-8")
				return ""
			}
			b = append(b, p.s[p.i:p.i+n]...)
			p.i += n
		}
	}
	p.fail("a string has no end")
	return ""
}

func (p *parser) escape() (rune, bool) {
	if p.i+1 >= len(p.s) {
		p.fail("a string has no end")
		return 0, false
	}
	c := p.s[p.i+1]
	switch c {
	case '"', '\\', '/':
		p.i += 2
		return rune(c), true
	case 'b', 'f', 'n', 'r', 't':
		p.i += 2
		return rune("\b\f\n\r\t"[strings.IndexByte("bfnrt", c)]), true
	case 'u':
		r, ok := p.hex4(p.i + 2)
		if !ok {
			break
		}
		switch {
		case r < 0xD800 || r > 0xDFFF:
			p.i += 6
			return r, true
		case r < 0xDC00 && strings.HasPrefix(p.s[p.i+6:], `\u`):
			if low, ok := p.hex4(p.i + 8); ok && low >= 0xDC00 && low <= 0xDFFF {
				p.i += 12
				return (r-0xD800)<<10 + (low - 0xDC00) + 0x10000, true
			}
		}
		p.fail(`half of a surrogate pair (\uD800 to \uDFFF come in pairs)`)
		return 0, false
	}
	p.fail("an escape that JSON does not have")
	return 0, false
}

func (p *parser) hex4(at int) (rune, bool) {
	if at+4 > len(p.s) {
		return 0, false
	}
	v, err := strconv.ParseUint(p.s[at:at+4], 16, 16)
	if err != nil {
		return 0, false
	}
	return rune(v), true
}

// num reads a number and gives its text.
func (p *parser) num() string {
	start := p.i
	if p.i < len(p.s) && p.s[p.i] == '-' {
		p.i++
	}
	whole := p.digits()
	if whole == 0 || (whole > 1 && p.s[p.i-whole] == '0') {
		p.i = start
		p.fail("not a number")
		return ""
	}
	if p.i < len(p.s) && p.s[p.i] == '.' {
		p.i++
		if p.digits() == 0 {
			p.fail("a number needs digits after its point")
			return ""
		}
	}
	if p.i < len(p.s) && (p.s[p.i] == 'e' || p.s[p.i] == 'E') {
		p.i++
		if p.i < len(p.s) && (p.s[p.i] == '+' || p.s[p.i] == '-') {
			p.i++
		}
		if p.digits() == 0 {
			p.fail("a number needs digits in its exponent")
			return ""
		}
	}
	return p.s[start:p.i]
}

func (p *parser) digits() int {
	start := p.i
	for p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9' {
		p.i++
	}
	return p.i - start
}

func (p *parser) literal(word string) {
	if !strings.HasPrefix(p.s[p.i:], word) {
		p.fail("want a value")
		return
	}
	p.i += len(word)
}

// skip reads over one value of any kind, checking its syntax.
func (p *parser) skip(depth int) {
	if depth > maxDepth {
		p.fail(fmt.Sprintf("more than %d levels of arrays and objects", maxDepth))
		return
	}
	switch c := p.peek(); {
	case c == '{':
		p.i++
		for first := true; ; first = false {
			if _, ok := p.key(first); !ok {
				return
			}
			p.skip(depth + 1)
		}
	case c == '[':
		p.i++
		for first := true; p.element(first); first = false {
			p.skip(depth + 1)
		}
	case c == '"':
		p.str()
	case c == 't':
		p.literal("true")
	case c == 'f':
		p.literal("false")
	case c == 'n':
		p.literal("null")
	case c == '-' || (c >= '0' && c <= '9'):
		p.num()
	case c == 0 && p.i >= len(p.s):
		p.fail("a value is missing")
	default:
		p.fail("want a value")
	}
}

// kind names the next value's kind for an error text.
func (p *parser) kind() string {
	switch c := p.peek(); {
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == '"':
		return "a string"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	default:
		return "a number"
	}
}

// null reads over a null, and says whether there was one: a null member counts as left out.
func (p *parser) null() bool {
	if p.peek() != 'n' {
		return false
	}
	p.literal("null")
	return true
}

// wrong notes that a member is not what it should be, and reads over it.
func (p *parser) wrong(name, want string) {
	p.fault(name, "type", fmt.Sprintf("%s must be %s, not %s", title(name), want, p.kind()))
	p.skip(len(p.path))
}

func title(name string) string {
	if name == "" {
		return "the item"
	}
	return name
}

// unknown notes a member that is none of those known, and reads over it.
func (p *parser) unknown(name string, known []string) {
	p.skip(len(p.path))
	if p.err != nil {
		return
	}
	if len(name) > 128 {
		p.fault("", "unknown_field", fmt.Sprintf("%q is not a field here", shorten(name)))
		return
	}
	detail := fmt.Sprintf("%q is not a field here; the fields are %s", shorten(name), strings.Join(known, ", "))
	if best := nearest(name, known); best != "" {
		detail = fmt.Sprintf("%q is not a field here: did you mean %s?", shorten(name), best)
	}
	p.fault(name, "unknown_field", detail)
}

func shorten(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "…"
}

// nearest is the known name that differs from name only in case and punctuation, or by at most two letters; empty for none.
func nearest(name string, known []string) string {
	if len(name) > 64 {
		return ""
	}
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
	}
	best, least := "", 3
	for _, k := range known {
		if d := distance(plain(name), plain(k)); d < least && d < len(k)-1 {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
