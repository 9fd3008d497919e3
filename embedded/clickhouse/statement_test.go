package clickhouse

import (
	"strings"
	"testing"
)

// TestParseInsert holds how heads of INSERTs are cut.
func TestParseInsert(t *testing.T) {
	for text, want := range map[string]insertHead{
		"INSERT INTO t FORMAT CSV\n1":                                 {table: "INSERT INTO t ", format: "CSV", inline: true},
		"insert into t (a, `format`) settings x = 1 format Native ":   {table: "insert into t (a, `format`) ", settings: "settings x = 1 ", format: "Native"},
		"INSERT INTO t FORMAT TSV SETTINGS a = -1, b='x'\nrow":        {table: "INSERT INTO t ", settings: "SETTINGS a = -1, b='x'", format: "TSV", inline: true},
		"INSERT INTO TABLE db.settings VALUES (1)":                    {table: "INSERT INTO TABLE db.settings ", format: "Values", inline: true},
		"/* FORMAT x */ INSERT INTO t -- FORMAT y\n(a) FORMAT TSV;\n": {table: "/* FORMAT x */ INSERT INTO t -- FORMAT y\n(a) ", format: "TSV"},
		"INSERT INTO t": {table: "INSERT INTO t", format: "Values"},
	} {
		st := parse(text)
		if st.err != nil || st.insert == nil {
			t.Errorf("%q: %v", text, st.err)
			continue
		}
		got := *st.insert
		got.dataAt = 0
		if got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	for _, text := range []string{"INSERT INTO t SELECT 1 FORMAT Native", "INSERT INTO t (a) WITH 1 AS x SELECT x"} {
		if st := parse(text); st.insert != nil || st.err != nil || st.format != "" {
			t.Errorf("%q: %+v", text, st)
		}
	}
}

// FuzzParse holds that no text makes the scanner fail, that it goes through every
// byte once, and that files stay out of reach behind comments and quotes.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "SELECT 1", "INSERT INTO t FORMAT CSV SETTINGS a = ", "'\\", "$x$ a $x", "/*", "-- ", "`a``b`", "SELECT 1 INTO/**/OUTFILE 'x'", "INSERT INTO t FROM\nINFILE 'x'"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		st := parse(text)
		if st.insert != nil && (st.insert.dataAt > len(text) || !strings.HasPrefix(text, st.insert.table)) {
			t.Errorf("head %+v of %q", st.insert, text)
		}
		l := scanner{s: text}
		for at := 0; ; {
			tok, ok := l.next()
			if !ok {
				break
			}
			if tok.start < at || tok.end <= tok.start || tok.end > len(text) {
				t.Fatalf("token %+v after %d in %q", tok, at, text)
			}
			at = tok.end
		}
		if st := parse("SELECT 1 INTO /*" + strings.ReplaceAll(text, "/", "") + "*/ OUTFILE 'x'"); st.err == nil {
			t.Errorf("a comment %q hides a file", text)
		}
	})
}
