package clickhouse

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// Error is a failure that the engine reported, with ClickHouse's own code.
type Error struct {
	Code    int    // ClickHouse's exception code, e.g. 60; 0 when unknown
	Name    string // its name, e.g. UNKNOWN_TABLE
	Message string // without code and name
}

// Error gives the text as a ClickHouse server does.
func (e *Error) Error() string {
	if e.Code == 0 {
		return e.Message
	}
	return fmt.Sprintf("Code: %d. DB::Exception: %s (%s)", e.Code, strings.TrimRight(e.Message, " "), e.Name)
}

var (
	exceptionHead = regexp.MustCompile(`^(?:Code: (\d+)\. )?DB::(?:Net|ErrnoException|Exception)?(?:Exception)?: `)
	exceptionTail = regexp.MustCompile(`\s*\(([A-Z][A-Z0-9_]+)\)\s*(?:\(version [^)]*(?:\([^)]*\))?\))?[.\s]*$`)
	insertedFrom  = regexp.MustCompile(`:? ?data for INSERT was parsed from file`)
)

// parseError takes the engine's error text apart. An INSERT repeats the text of
// the error inside another one; only the inner one says something.
func parseError(text string) *Error {
	e := &Error{}
	text = strings.TrimSpace(text)
	for {
		m := exceptionHead.FindStringSubmatchIndex(text)
		if m == nil {
			break
		}
		if m[2] >= 0 {
			e.Code, _ = strconv.Atoi(text[m[2]:m[3]])
		}
		text = text[m[1]:]
	}
	for {
		m := exceptionTail.FindStringSubmatchIndex(text)
		if m == nil {
			break
		}
		if e.Name == "" || e.Code == 0 {
			e.Name = text[m[2]:m[3]]
		}
		text = text[:m[0]]
	}
	e.Message = insertedFrom.ReplaceAllString(text, "")
	return e
}

// httpStatus is the status that a ClickHouse server answers for a code.
func httpStatus(code int) int {
	switch code {
	case 194: // REQUIRED_PASSWORD
		return http.StatusUnauthorized
	case 192, 193, 291, 497, 516: // UNKNOWN_USER, WRONG_PASSWORD, DATABASE_ACCESS_DENIED, ACCESS_DENIED, AUTHENTICATION_FAILED
		return http.StatusForbidden
	case 6, 25, 26, 27, 33, 36, 38, 41, 42, 43, 44, 47, 53, 62, 69, 72, 117, 130, 131, 321, 371, 372, 427, 456, 457:
		if code == 47 { // UNKNOWN_IDENTIFIER
			return http.StatusNotFound
		}
		return http.StatusBadRequest
	case 46, 50, 56, 60, 63, 73, 78, 81, 98, 115: // UNKNOWN_FUNCTION, _TYPE, _STORAGE, _TABLE, _AGGREGATE_FUNCTION, _FORMAT, _TYPE_OF_QUERY, _DATABASE, ..., _SETTING
		return http.StatusNotFound
	case 159: // TIMEOUT_EXCEEDED
		return http.StatusRequestTimeout
	case 202: // TOO_MANY_SIMULTANEOUS_QUERIES
		return http.StatusServiceUnavailable
	case 48: // NOT_IMPLEMENTED
		return http.StatusNotImplemented
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusInternalServerError
}

// codeTooLarge is QUERY_IS_TOO_LARGE.
const codeTooLarge = 65
