package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/onhand/onhand/platform/problem"
)

// settingsFile is a YAML file of settings named on the command line.
type settingsFile struct {
	File string `help:"The YAML file; - reads standard input." short:"f" required:"" placeholder:"FILE"`
}

// read is the file's name for messages, and its text with ${NAME} replaced from the environment.
func (c *settingsFile) read(s streams, conn connection) (name string, text []byte, err error) {
	name = c.File
	if name == "-" {
		name = "(standard input)"
		text, err = io.ReadAll(s.in)
	} else {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return "", nil, err
	}
	text, err = expand(name, text, func(v string) (string, bool) {
		if v == "ONHAND_MARKETPLACES" && os.Getenv(v) == "" && conn.Marketplaces != "" {
			return conn.Marketplaces, true
		}
		return os.LookupEnv(v)
	})
	return name, text, err
}

type applyCmd struct {
	target
	settingsFile
	DryRun bool `help:"Check the file and say what would change, and change nothing."`
	Prune  bool `help:"Also delete channels, locations and rules that the file does not hold."`
}

// Run sends the file to PUT /v1/catalog and prints what changed, or each fault with its place.
func (c *applyCmd) Run(ctx context.Context, s streams) error {
	conn, err := c.find()
	if err != nil {
		return err
	}
	name, text, err := c.read(s, conn)
	if err != nil {
		return err
	}
	return conn.apply(ctx, s.out, name, text, c.DryRun, c.Prune)
}

var reference = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// expand replaces ${NAME} by the value of NAME. Lines stay where they were, so that places of faults hold.
func expand(file string, text []byte, lookup func(string) (string, bool)) ([]byte, error) {
	var missing []string
	lines := strings.SplitAfter(string(text), "\n")
	for i, line := range lines {
		lines[i] = reference.ReplaceAllStringFunc(line, func(ref string) string {
			v, ok := lookup(ref[2 : len(ref)-1])
			if !ok {
				missing = append(missing, fmt.Sprintf("%s:%d:%d: %s is not set in the environment", file, i+1, strings.Index(line, ref)+1, ref[2:len(ref)-1]))
			}
			if strings.ContainsAny(v, "\r\n") {
				missing = append(missing, fmt.Sprintf("%s:%d:%d: %s holds more than one line", file, i+1, strings.Index(line, ref)+1, ref[2:len(ref)-1]))
			}
			return v
		})
	}
	if len(missing) > 0 {
		return nil, &exitError{1, strings.Join(missing, "\n")}
	}
	return []byte(strings.Join(lines, "")), nil
}

// applied is the answer to PUT /v1/catalog.
type applied struct {
	Created   int `json:"created"`
	Updated   int `json:"updated"`
	Unchanged int `json:"unchanged"`
	Deleted   int `json:"deleted"`
	Changes   []struct {
		Kind   string `json:"kind"`
		ID     string `json:"id"`
		Action string `json:"action"`
	} `json:"changes"`
}

func (c connection) apply(ctx context.Context, out io.Writer, name string, text []byte, dryRun, prune bool) error {
	q := url.Values{}
	if dryRun {
		q.Set("dry_run", "true")
	}
	if prune {
		q.Set("prune", "true")
	}
	path := "/v1/catalog"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	a, err := c.call(ctx, http.MethodPut, path, "application/yaml", text)
	if err != nil {
		return err
	}
	if a.status/100 != 2 {
		return faults(name, a)
	}
	var got applied
	if err := json.Unmarshal(a.body, &got); err != nil {
		return fmt.Errorf("the answer to %s: %w", path, err)
	}
	for _, x := range got.Changes {
		if x.Action != "unchanged" {
			_, _ = fmt.Fprintln(out, x.Action, x.Kind, x.ID)
		}
	}
	n := got.Created + got.Updated + got.Deleted
	verb := "changed"
	if dryRun {
		verb = "would change"
	}
	_, err = fmt.Fprintf(out, "%d entries %s, %d stay as they are\n", n, verb, got.Unchanged)
	return err
}

// faults is a refused file as FILE:LINE:COLUMN: message, one a line.
func faults(name string, a answer) error {
	var p problem.Details
	if json.Unmarshal(a.body, &p) != nil || len(p.Errors) == 0 {
		return fmt.Errorf("%s was refused: %w", name, a.problem())
	}
	lines := make([]string, len(p.Errors))
	for i, f := range p.Errors {
		where := name
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d:%d", name, f.Line, max(1, f.Column))
		}
		lines[i] = where + ": " + f.Detail
	}
	return &exitError{1, strings.Join(lines, "\n")}
}
