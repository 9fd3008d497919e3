package onlineretail

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// columns is the header a file must have.
var columns = []string{"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"}

// row is one line of the file.
type row struct {
	invoice, code, title, price, customer, country string
	quantity                                       int64
	at                                             int64
}

// zstdMagic opens every zstd frame.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// rows calls f with each line of the file, plain or zstd-compressed. The row's strings may be kept.
func rows(r io.Reader, f func(row) error) error {
	in := bufio.NewReaderSize(r, 1<<16)
	if head, _ := in.Peek(4); bytes.Equal(head, zstdMagic) {
		dec, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		defer dec.Close()
		in = bufio.NewReaderSize(dec, 1<<16)
	}
	if bom, _ := in.Peek(3); bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		_, _ = in.Discard(3)
	}
	c := csv.NewReader(in)
	c.ReuseRecord = true
	head, err := c.Read()
	if err != nil {
		return fmt.Errorf("header: %w; want the columns %s", err, strings.Join(columns, ","))
	}
	at := make([]int, len(columns))
	for i, name := range columns {
		at[i] = -1
		for j, h := range head {
			if strings.EqualFold(strings.TrimSpace(h), name) {
				at[i] = j
			}
		}
		if at[i] < 0 {
			return fmt.Errorf("header: column %s is missing; want the columns %s", name, strings.Join(columns, ","))
		}
	}
	london, err := time.LoadLocation("Europe/London")
	if err != nil {
		return fmt.Errorf("time zone: %w", err)
	}
	known := make(map[string]string) // one copy of each repeated string
	keep := func(s string) string {
		if k, ok := known[s]; ok {
			return k
		}
		s = strings.Clone(s)
		known[s] = s
		return s
	}
	var lastDate string
	var lastAt int64
	for {
		rec, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err // csv names the line
		}
		line, _ := c.FieldPos(0)
		fault := func(i int, why string) error {
			l, col := c.FieldPos(at[i])
			return fmt.Errorf("line %d, column %d: %s %q: %s", l, col, columns[i], rec[at[i]], why)
		}
		q, ok := whole(rec[at[3]])
		if !ok {
			return fault(3, "want a whole number of units")
		}
		if rec[at[4]] != lastDate {
			t, err := time.ParseInLocation(time.DateTime, rec[at[4]], london)
			if err != nil {
				return fault(4, "want a time as 2006-01-02 15:04:05")
			}
			lastDate, lastAt = strings.Clone(rec[at[4]]), t.UnixMicro()
		}
		price := strings.TrimSpace(rec[at[5]])
		if _, err := strconv.ParseFloat(price, 64); err != nil {
			return fault(5, "want a decimal number")
		}
		if rec[at[0]] == "" || rec[at[1]] == "" {
			return fmt.Errorf("line %d: InvoiceNo and StockCode must not be empty", line)
		}
		customer, _, _ := strings.Cut(strings.TrimSpace(rec[at[6]]), ".") // some tools write ids as 17850.0
		if err := f(row{
			invoice: keep(rec[at[0]]), code: keep(strings.TrimSpace(rec[at[1]])), title: keep(strings.TrimSpace(rec[at[2]])), quantity: q, at: lastAt,
			price: keep(price), customer: keep(customer), country: keep(strings.TrimSpace(rec[at[7]])),
		}); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// whole parses a whole number that may have been written as 6.0.
func whole(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	if i := strings.IndexByte(s, '.'); i >= 0 {
		if strings.Trim(s[i+1:], "0") != "" {
			return 0, false
		}
		s = s[:i]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// free reports a price of zero or less.
func free(price string) bool {
	return strings.HasPrefix(price, "-") || strings.Trim(price, "0.") == ""
}
