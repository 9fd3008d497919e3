package analytics

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/onhand/onhand/platform/credentials"
)

// ClickHouse says how to reach ClickHouse, over its HTTP interface. The password comes from a file or the environment only.
type ClickHouse struct {
	URL          string        `name:"url" help:"ClickHouse's HTTP interface, as http(s)://host:port." default:"http://127.0.0.1:8123" env:"CLICKHOUSE_URL"`
	Database     string        `help:"Database; it is made if it does not exist." default:"onhand" env:"CLICKHOUSE_DATABASE"`
	User         string        `help:"ClickHouse user." default:"default" env:"CLICKHOUSE_USER"`
	PasswordFile string        `help:"File that holds the password; without it CLICKHOUSE_PASSWORD is read." env:"CLICKHOUSE_PASSWORD_FILE"`
	CAFile       string        `help:"PEM file of the certificate authority, when it is not a public one." env:"CLICKHOUSE_CA_FILE"`
	Timeout      time.Duration `help:"Longest time for one insert or query." default:"1m" env:"CLICKHOUSE_TIMEOUT"`
}

func (c ClickHouse) validate() error {
	var errs []error
	u, err := url.Parse(c.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		errs = append(errs, fmt.Errorf("clickhouse-url: want http(s)://host:port, without user or password"))
	}
	if c.Database == "" || strings.ContainsFunc(c.Database, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		errs = append(errs, fmt.Errorf("clickhouse-database %q: want letters, digits and _", c.Database))
	}
	if c.User == "" {
		errs = append(errs, errors.New("clickhouse-user: name a user (default)"))
	}
	if c.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("clickhouse-timeout %s: want more than 0", c.Timeout))
	}
	return errors.Join(errs...)
}

func (c ClickHouse) password() (string, error) {
	return credentials.Password("clickhouse-password-file", c.PasswordFile, "CLICKHOUSE_PASSWORD")
}

func (c ClickHouse) tls() (*tls.Config, error) {
	if !strings.HasPrefix(c.URL, "https:") {
		return nil, nil
	}
	return credentials.TLS("clickhouse-ca-file", c.CAFile)
}

// options is how the driver, which asks and migrates, reaches the given database.
func (c ClickHouse) options(database string) (*clickhouse.Options, error) {
	password, err := c.password()
	if err != nil {
		return nil, err
	}
	conf, err := c.tls()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("clickhouse-url: %w", err)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "8123", "https": "8443"}[u.Scheme])
	}
	return &clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{host}, TLS: conf, HttpUrlPath: u.Path,
		Auth:        clickhouse.Auth{Database: database, Username: c.User, Password: password},
		DialTimeout: 5 * time.Second, ReadTimeout: c.Timeout, MaxOpenConns: 8, MaxIdleConns: 4,
	}, nil
}

// inserter sends blocks to ClickHouse. The driver builds its columns by reflection, a value at a time; blocks come with their bytes already in
// place, so they go out as they are.
type inserter struct {
	url, database, user, password string
	client                        *http.Client
	timeout                       time.Duration
}

func newInserter(c ClickHouse) (*inserter, error) {
	password, err := c.password()
	if err != nil {
		return nil, err
	}
	conf, err := c.tls()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig: conf, MaxIdleConnsPerHost: len(tables), IdleConnTimeout: time.Minute, DisableCompression: true,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	return &inserter{strings.TrimRight(c.URL, "/"), c.Database, c.User, password, &http.Client{Transport: transport}, c.Timeout}, nil
}

func (i *inserter) close() { i.client.CloseIdleConnections() }

// insert sends one block, once: a block with the same token that the table still remembers changes nothing. After an error the block may be
// there or not.
func (i *inserter) insert(ctx context.Context, table, token string, b *block) error {
	columns := make([]string, len(b.columns))
	for n, c := range b.columns {
		columns[n] = "`" + c.Name + "`"
	}
	q := url.Values{
		"database":                        {i.database},
		"query":                           {"INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") FORMAT Native"},
		"insert_deduplicate":              {"1"},
		"insert_deduplication_token":      {token},
		"async_insert":                    {"0"},
		"max_insert_threads":              {"1"}, // one block, so that the token stands for all of it
		"max_partitions_per_insert_block": {"0"}, // odd clocks must not stop a partition
	}
	ctx, cancel := context.WithTimeout(ctx, i.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url+"/?"+q.Encode(), nil)
	if err != nil {
		return fmt.Errorf("insert into %s: %w", table, err)
	}
	rows := b.body()
	defer func() { _ = rows.Close() }() // which never fails
	req.Body, req.ContentLength = rows, -1
	req.GetBody = func() (io.ReadCloser, error) { // for a connection that the server had closed
		_ = rows.Close()
		rows = b.body()
		return rows, nil
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("X-ClickHouse-User", i.user)
	if i.password != "" {
		req.Header.Set("X-ClickHouse-Key", i.password)
	}
	res, err := i.client.Do(req)
	if err != nil {
		return fmt.Errorf("insert into %s: %w", table, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("insert into %s: read the answer: %w", table, err)
	}
	// An insert that worked answers 200 with nothing; a failure after the headers are out follows in the body.
	if res.StatusCode != http.StatusOK || res.Header.Get("X-ClickHouse-Exception-Code") != "" || len(bytes.TrimSpace(text)) > 0 {
		return fmt.Errorf("insert %d rows into %s: ClickHouse answered %s: %s", b.rows, table, strconv.Itoa(res.StatusCode), bytes.TrimSpace(text))
	}
	return nil
}
