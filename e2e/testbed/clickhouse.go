package testbed

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"github.com/onhand/onhand/embedded"
	"github.com/onhand/onhand/embedded/clickhouse"
)

// ClickHouseServer is the ClickHouse engine behind its HTTP interface, in this
// process. A process can have one at a time.
type ClickHouseServer struct {
	URL    string
	Addr   string // host:port
	Engine *clickhouse.Engine

	dir  string
	stop func() error
}

// StartClickHouse runs the engine with its data in dir.
func StartClickHouse(ctx context.Context, dir string) (*ClickHouseServer, error) {
	if err := Install(ctx, PartClickHouse, nil); err != nil {
		return nil, err
	}
	c := &ClickHouseServer{dir: dir, Addr: "127.0.0.1:0"}
	return c, c.Start(ctx)
}

// Start starts it again after Stop, at the same address with its data.
func (c *ClickHouseServer) Start(ctx context.Context) error {
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("ClickHouse: %w", err)
	}
	root, err := Root()
	if err != nil {
		return err
	}
	library, err := clickhouse.Find("", root)
	if err != nil {
		return err
	}
	if c.Engine, err = clickhouse.Open(ctx, clickhouse.Config{Dir: c.dir, Library: library}); err != nil {
		l.Close()
		return err
	}
	c.Addr = l.Addr().String()
	c.URL = "http://" + c.Addr
	c.stop = embedded.ServeClickHouse(l, c.Engine, clickhouse.HandlerConfig{}, slog.New(slog.DiscardHandler))
	return nil
}

// Stop ends it properly.
func (c *ClickHouseServer) Stop() error {
	if err := c.stop(); err != nil {
		return err
	}
	return c.Engine.Close()
}

// Query sends a statement as curl does and returns the answer.
func (c *ClickHouseServer) Query(ctx context.Context, sql string) (string, error) {
	return ClickHouseQuery(ctx, c.URL, sql)
}

// ClickHouseQuery sends a statement to a ClickHouse's HTTP interface with curl
// and returns the answer without its last line end.
func ClickHouseQuery(ctx context.Context, url, sql string) (string, error) {
	out, err := output(ctx, "curl", "-sS", "--fail-with-body", "--max-time", "60", "--data-binary", sql, url)
	return strings.TrimRight(out, "\n"), err
}

// ClickHousePython runs a query with ClickHouse's own Python client and returns
// its rows as Python prints them.
func ClickHousePython(ctx context.Context, addr, sql string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	if err := Install(ctx, PartPython, nil); err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	const script = `import sys, clickhouse_connect
c = clickhouse_connect.get_client(host=sys.argv[1], port=int(sys.argv[2]))
print(c.query(sys.argv[3]).result_rows)`
	out, err := output(ctx, filepath.Join(root, ".parts", "venv", "bin", "python"), "-c", script, host, port, sql)
	return strings.TrimRight(out, "\n"), err
}
