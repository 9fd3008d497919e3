package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// instance is what `onhand up` leaves in its data directory for the other commands: run.json.
type instance struct {
	PID          int       `json:"pid"`
	Version      string    `json:"version"`
	StartedAt    time.Time `json:"started_at"`
	API          string    `json:"api"`
	Console      string    `json:"console"`
	Kafka        string    `json:"kafka"`
	Registry     string    `json:"schema_registry"`
	Redis        string    `json:"redis"`
	ClickHouse   string    `json:"clickhouse_http"`
	Marketplaces string    `json:"marketplaces,omitempty"`
}

// alive reports whether the process that wrote it still runs.
func (i instance) alive() bool {
	if i.PID <= 0 {
		return false
	}
	err := syscall.Kill(i.PID, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

func runFile(data string) string { return filepath.Join(data, "run.json") }

func keyFile(data string) string { return filepath.Join(data, "api-key") }

// readInstance reads run.json of a data directory; fs.ErrNotExist when there is none.
func readInstance(data string) (instance, error) {
	var i instance
	b, err := os.ReadFile(runFile(data))
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return i, fmt.Errorf("%s: %w", runFile(data), err)
	}
	return i, nil
}

// writeWhole writes a file so that readers see the old one or the new one.
func writeWhole(name string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (i instance) write(data string) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(runFile(data), append(b, '\n'), 0o644)
}

// ensureKey is the API key of a data directory, made on the first start.
func ensureKey(data string) (string, error) {
	b, err := os.ReadFile(keyFile(data))
	if err == nil {
		if key := strings.TrimSpace(string(b)); len(key) >= 16 {
			return key, nil
		}
		return "", fmt.Errorf("%s holds no key of at least 16 characters; remove it, and a new one is made", keyFile(data))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	key := hex.EncodeToString(raw[:])
	return key, writeWhole(keyFile(data), []byte(key+"\n"), 0o600)
}

// target is the running Onhand that a command talks to.
type target struct {
	Data    string `help:"Data directory of the onhand up that runs here." default:"./.onhand" type:"path" env:"ONHAND_DATA"`
	API     string `help:"URL of the API; without it, that of the onhand up in --data." env:"ONHAND_API" placeholder:"URL"`
	KeyFile string `help:"File that holds the API key; without it ONHAND_API_KEY, else the key of the onhand up in --data." env:"ONHAND_API_KEY_FILE" placeholder:"FILE"`
}

// connection is a target that was found.
type connection struct {
	instance
	key string
}

// find says where to go, and with which key.
func (t target) find() (connection, error) {
	var c connection
	i, err := readInstance(t.Data)
	switch {
	case t.API != "":
		c.API = strings.TrimRight(t.API, "/")
	case errors.Is(err, fs.ErrNotExist):
		return c, fmt.Errorf("no Onhand runs with its data in %s: start one with onhand up, or name another with --data or --api", t.Data)
	case err != nil:
		return c, err
	case !i.alive():
		return c, fmt.Errorf("the Onhand with its data in %s (process %d) has stopped: start it with onhand up", t.Data, i.PID)
	}
	if err == nil && (t.API == "" || c.API == i.API) {
		c.instance = i
	}
	switch {
	case t.KeyFile != "":
		b, err := os.ReadFile(t.KeyFile)
		if err != nil {
			return c, fmt.Errorf("API key: %w", err)
		}
		c.key = strings.TrimSpace(string(b))
	case os.Getenv("ONHAND_API_KEY") != "":
		c.key = strings.TrimSpace(os.Getenv("ONHAND_API_KEY"))
	default:
		b, err := os.ReadFile(keyFile(t.Data))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return c, fmt.Errorf("API key: %w", err)
		}
		c.key = strings.TrimSpace(string(b))
	}
	return c, nil
}

// answer is what the API said.
type answer struct {
	status int
	body   []byte
}

// problem is an answer that is none of success, for people.
func (a answer) problem() error {
	var p struct {
		Title, Detail string
	}
	if json.Unmarshal(a.body, &p) == nil && p.Title+p.Detail != "" {
		if p.Detail == "" {
			p.Detail = p.Title
		}
		return fmt.Errorf("%d: %s", a.status, p.Detail)
	}
	return fmt.Errorf("%d %s", a.status, http.StatusText(a.status))
}

var apiClient = &http.Client{Timeout: 2 * time.Minute}

// call asks the API once.
func (c connection) call(ctx context.Context, method, path, contentType string, body []byte) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.API+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	res, err := apiClient.Do(r)
	if err != nil {
		return answer{}, fmt.Errorf("the API at %s does not answer: %w", c.API, err)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	return answer{res.StatusCode, b}, errors.Join(err, res.Body.Close())
}

// get reads JSON from the API into v.
func (c connection) get(ctx context.Context, path string, v any) error {
	a, err := c.call(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return a.problem()
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("%s%s: %w", c.API, path, err)
	}
	return nil
}
