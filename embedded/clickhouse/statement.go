package clickhouse

import "strings"

// token is one word, number, string or sign of a statement; comments and blanks
// are left out.
type token struct {
	text       string // as written
	start, end int    // byte offsets
	word       bool   // an unquoted identifier or keyword
	str        bool   // a '...' string
}

// is tells whether the token is this keyword.
func (t token) is(keyword string) bool { return t.word && strings.EqualFold(t.text, keyword) }

// scanner splits a statement into tokens as ClickHouse's own lexer does.
type scanner struct {
	s  string
	at int
}

// next returns the next token; ok is false at the end.
func (l *scanner) next() (t token, ok bool) {
	s := l.s
	for l.at < len(s) {
		c := s[l.at]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v' || c == 0:
			l.at++
			continue
		case strings.HasPrefix(s[l.at:], "--") || (c == '#' && (strings.HasPrefix(s[l.at:], "# ") || strings.HasPrefix(s[l.at:], "#!"))):
			l.at = skipTo(s, l.at, "\n")
			continue
		case strings.HasPrefix(s[l.at:], "/*"):
			l.at = skipTo(s, l.at+2, "*/")
			continue
		}
		start := l.at
		switch {
		case c == '\'' || c == '"' || c == '`':
			l.at = quotedEnd(s, l.at)
			return token{text: s[start:l.at], start: start, end: l.at, str: c == '\''}, true
		case c == '$':
			if tag := strings.IndexByte(s[l.at+1:], '$'); tag >= 0 && isWord(s[l.at+1:l.at+1+tag]) {
				mark := s[l.at : l.at+tag+2]
				l.at = skipTo(s, l.at+len(mark), mark)
				return token{text: s[start:l.at], start: start, end: l.at, str: true}, true
			}
			l.at++
		case isLetter(c):
			for l.at < len(s) && (isLetter(s[l.at]) || s[l.at] >= '0' && s[l.at] <= '9' || s[l.at] == '$') {
				l.at++
			}
			return token{text: s[start:l.at], start: start, end: l.at, word: true}, true
		case c >= '0' && c <= '9':
			for l.at < len(s) && (isLetter(s[l.at]) || s[l.at] >= '0' && s[l.at] <= '9') {
				l.at++
			}
		default:
			l.at++
		}
		return token{text: s[start:l.at], start: start, end: l.at}, true
	}
	return token{start: len(s), end: len(s)}, false
}

func isLetter(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80 }

func isWord(s string) bool {
	for i := range len(s) {
		if !isLetter(s[i]) && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return true
}

// skipTo returns the offset behind the next mark at or after at, or the end.
func skipTo(s string, at int, mark string) int {
	if i := strings.Index(s[min(at, len(s)):], mark); i >= 0 {
		return at + i + len(mark)
	}
	return len(s)
}

// quotedEnd returns the offset behind the quoted text that starts at at.
func quotedEnd(s string, at int) int {
	quote := s[at]
	for at++; at < len(s); at++ {
		switch s[at] {
		case '\\':
			at++
		case quote:
			if at+1 < len(s) && s[at+1] == quote {
				at++
				continue
			}
			return at + 1
		}
	}
	return len(s)
}

// statement is what the handler must know of a statement before it runs.
type statement struct {
	text   string
	kind   string // the first keyword, in capitals
	format string // of FORMAT, empty when there is none
	insert *insertHead
	hidden bool   // an INSERT may stand behind its first keyword
	barred bool   // must not change anything, whatever it is
	err    *Error // why it is not run at all
}

// insertHead is an INSERT that takes data from outside: what stands before
// SETTINGS or FORMAT, the rest of the head, and where the data starts.
type insertHead struct {
	table    string // INSERT INTO t (a, b)
	settings string // SETTINGS ..., may be empty
	format   string // the data's format
	dataAt   int    // offset of inline data in the text
	inline   bool   // data follows in the statement's text
}

// reads tells whether the statement only reads.
func (s statement) reads() bool {
	switch s.kind {
	case "SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "(", "FROM", "VALUES", "CHECK":
		return true
	}
	return false
}

// writes tells whether the statement surely changes something.
func (s statement) writes() bool {
	switch s.kind {
	case "INSERT", "CREATE", "ALTER", "DROP", "DETACH", "ATTACH", "RENAME", "EXCHANGE", "TRUNCATE", "OPTIMIZE", "DELETE", "UPDATE", "SYSTEM", "KILL", "GRANT", "REVOKE", "REPLACE", "UNDROP", "MOVE", "BACKUP", "RESTORE":
		return true
	}
	return false
}

// changesSession tells whether the statement changes the connection it runs on.
func (s statement) changesSession() bool {
	if s.kind == "SET" || s.kind == "USE" {
		return true
	}
	if s.kind != "CREATE" && s.kind != "DROP" {
		return false
	}
	l := scanner{s: s.text}
	for range 4 { // CREATE [OR REPLACE] TEMPORARY
		if t, _ := l.next(); t.is("TEMPORARY") {
			return true
		}
	}
	return false
}

// parse looks a statement over. For an INSERT with data of its own, the scan
// stops where the data starts.
func parse(text string) statement {
	st := statement{text: text}
	l := scanner{s: text}
	first, ok := l.next()
	if !ok {
		st.err = &Error{Code: 62, Name: "SYNTAX_ERROR", Message: "Empty query"}
		return st
	}
	st.kind = strings.ToUpper(first.text)
	if first.is("INSERT") {
		parseInsert(&st, &l)
		return st
	}
	parseRest(&st, &l, first)
	return st
}

// parseRest looks through a statement, or the SELECT of an INSERT, for what a
// server would refuse, for its output format, and for its end.
func parseRest(st *statement, l *scanner, prev token) {
	for {
		t, ok := l.next()
		if !ok {
			return
		}
		switch {
		case t.text == ";":
			if _, more := l.next(); more {
				st.err = &Error{Code: 62, Name: "SYNTAX_ERROR", Message: "Multi-statements are not allowed"}
			}
			st.text = st.text[:t.start]
			return
		case prev.is("INTO") && t.is("OUTFILE"):
			st.err = &Error{Code: 48, Name: "NOT_IMPLEMENTED", Message: "INTO OUTFILE is not allowed"}
			return
		case prev.is("FROM") && t.is("INFILE"):
			st.err = errInfile
			return
		case t.is("INSERT"):
			st.hidden = true
		case prev.is("FORMAT") && t.word:
			st.format = t.text
		}
		prev = t
	}
}

var errInfile = &Error{Code: 98, Name: "UNKNOWN_TYPE_OF_QUERY", Message: "Query has infile and was send directly to server"}

// parseInsert finds out whether an INSERT selects its rows or takes data.
func parseInsert(st *statement, l *scanner) {
	depth, settings, prev := 0, -1, token{}
	for {
		t, ok := l.next()
		switch {
		case !ok || depth == 0 && t.text == ";": // INSERT INTO t, with the data elsewhere
			st.insert = headOf(st.text, settings, t.start, "Values", t.end)
			return
		case t.text == "(":
			depth++
		case t.text == ")":
			depth--
		case depth > 0 || prev.text == "." || prev.is("INTO") || prev.is("TABLE"): // a name
		case prev.is("FROM") && t.is("INFILE"):
			st.err = errInfile
			return
		case t.is("SELECT") || t.is("WITH") || t.is("WATCH"):
			parseRest(st, l, t)
			st.format = "" // an INSERT SELECT answers nothing
			return
		case t.is("SETTINGS") && settings < 0:
			settings = t.start
		case t.is("VALUES"):
			st.insert = headOf(st.text, settings, t.start, "Values", t.end)
			return
		case t.is("FORMAT"):
			name, ok := l.next()
			if !ok || !name.word {
				st.err = &Error{Code: 62, Name: "SYNTAX_ERROR", Message: "FORMAT must name a format"}
				return
			}
			if strings.EqualFold(name.text, "Values") || settings >= 0 {
				st.insert = headOf(st.text, settings, t.start, name.text, name.end)
				return
			}
			// SETTINGS may also stand behind the format.
			after := *l
			if s, ok := after.next(); ok && s.is("SETTINGS") {
				end := settingsEnd(st.text, s.end)
				st.insert = headOf(st.text, -1, t.start, name.text, end)
				st.insert.settings = st.text[s.start:end]
				return
			}
			st.insert = headOf(st.text, settings, t.start, name.text, name.end)
			return
		}
		prev = t
	}
}

// settingsEnd returns where a list of name = value ends that starts at at.
func settingsEnd(text string, at int) int {
	l := scanner{s: text, at: at}
	for {
		for range 3 { // name = value
			t, ok := l.next()
			if !ok {
				return len(text)
			}
			at = t.end
			if t.text == "-" || t.text == "+" { // a sign belongs to the value
				if t, ok = l.next(); ok {
					at = t.end
				}
			}
		}
		comma := l
		if t, ok := comma.next(); !ok || t.text != "," {
			return at
		}
		l = comma
	}
}

// headOf cuts an INSERT's head into its parts. Data starts behind the blanks
// that follow dataAt up to and with the first line end.
func headOf(text string, settings, end int, format string, dataAt int) *insertHead {
	h := &insertHead{format: format}
	if settings < 0 {
		h.table = text[:end]
	} else {
		h.table, h.settings = text[:settings], text[settings:end]
	}
	for dataAt < len(text) && (text[dataAt] == ' ' || text[dataAt] == '\t' || text[dataAt] == '\r') {
		dataAt++
	}
	if dataAt < len(text) && text[dataAt] == ';' && strings.TrimSpace(text[dataAt+1:]) == "" {
		dataAt = len(text)
	}
	if dataAt < len(text) && text[dataAt] == '\n' {
		dataAt++
	}
	h.dataAt = dataAt
	h.inline = strings.TrimSpace(text[dataAt:]) != ""
	return h
}
