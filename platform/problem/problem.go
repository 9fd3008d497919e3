// Package problem writes the answer to a request that failed: a problem document of RFC 9457 that says what was wrong, in which field, and
// what to do about it.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// ContentType is the media type of a [Details].
const ContentType = "application/problem+json"

// Field is one fault at one place of the request.
type Field struct {
	Pointer string `json:"pointer,omitempty" doc:"Where in the document: a JSON pointer (RFC 6901); empty for the document itself." example:"/lines/0/quantity"`
	Code    string `json:"code,omitempty" doc:"Stable name of the fault." example:"required"`
	Detail  string `json:"detail" doc:"What was wrong and what to do." example:"quantity is missing: give the units sold, 1 or more"`
	Line    int    `json:"line,omitempty" doc:"Line of a text document, from 1."`
	Column  int    `json:"column,omitempty" doc:"Column of a text document, from 1."`
}

// Details is the problem document. Type is a URN that never changes for a kind of fault: programs branch on it, people read Detail.
type Details struct {
	Type       string        `json:"type" doc:"Stable URN of the kind of problem." example:"urn:onhand:problem:invalid"`
	Title      string        `json:"title" doc:"The kind of problem in words."`
	Status     int           `json:"status" doc:"HTTP status."`
	Detail     string        `json:"detail,omitempty" doc:"What went wrong this time, and what to do."`
	Errors     []Field       `json:"errors,omitempty" doc:"The faults, each with its place."`
	RetryAfter time.Duration `json:"-"` // sent as Retry-After, rounded up to seconds, when positive
}

// Error makes a problem usable as an error.
func (d *Details) Error() string {
	if d.Detail == "" {
		return d.Title
	}
	return d.Title + ": " + d.Detail
}

// Prefix is how every Type begins.
const Prefix = "urn:onhand:problem:"

// New is a problem of a kind: a short name such as unauthorized or too-large, which becomes part of Type.
func New(status int, kind, title, detail string) *Details {
	return &Details{Type: Prefix + kind, Title: title, Status: status, Detail: detail}
}

// Write answers a request with the problem.
func Write(w http.ResponseWriter, d *Details) { WriteBody(w, d, d) }

// WriteBody answers with body, which must marshal to a problem document (it embeds d, and adds members of its own).
func WriteBody(w http.ResponseWriter, d *Details, body any) {
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	if d.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((d.RetryAfter+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(d.Status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone
}
