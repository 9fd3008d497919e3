package clickhouse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"
)

// isHello tells the first query of clickhouse-go over HTTP.
func isHello(text string) bool {
	return strings.Join(strings.Fields(text), " ") == "SELECT displayName(), version(), revision(), timezone()"
}

// helloBlock is the answer to that query. The driver reads it at the protocol
// revision that it asked for, and all that follows at the revision in it: with
// 0 there it reads the plain Native format, which is what the engine writes.
func helloBlock(clientRevision, version, zone string) []byte {
	revision, err := strconv.Atoi(clientRevision)
	if err != nil {
		revision = 0
	}
	const withBlockInfo, withSerialization = 1, 54454
	var b []byte
	str := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	if revision >= withBlockInfo {
		b = append(b, 1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0) // no overflow rows, bucket -1, end
	}
	b = append(b, 4, 1) // columns, rows
	column := func(name, kind string) {
		str(name)
		str(kind)
		if revision >= withSerialization {
			b = append(b, 0) // the default one
		}
	}
	column("displayName()", "String")
	str("onhand")
	column("version()", "String")
	str(version)
	column("revision()", "UInt32")
	b = append(b, 0, 0, 0, 0)
	column("timezone()", "String")
	str(zone)
	return b
}

// readForm reads the fields of a multipart body, which clients use for long
// queries and parameters. Files in it would be external tables.
func readForm(body io.Reader, boundary string, limit int64) (url.Values, error) {
	form, parts := url.Values{}, multipart.NewReader(io.LimitReader(body, limit+1), boundary)
	total := int64(0)
	for {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return form, nil
		}
		if err != nil {
			return nil, bodyError(err)
		}
		name := p.FormName()
		if p.FileName() != "" || len(p.Header["Content-Type"]) > 0 && strings.HasPrefix(p.Header.Get("Content-Type"), "application/octet-stream") {
			return nil, &Error{Code: 48, Name: "NOT_IMPLEMENTED", Message: fmt.Sprintf("External table %q: this engine takes none; create a temporary table in a session instead", name)}
		}
		value, err := io.ReadAll(p)
		if err != nil {
			return nil, bodyError(err)
		}
		if total += int64(len(value)); total > limit {
			return nil, &Error{Code: codeTooLarge, Name: "QUERY_IS_TOO_LARGE", Message: fmt.Sprintf("The form is longer than %d bytes", limit)}
		}
		form.Add(name, string(value))
	}
}
