// Package ledgerprojector folds stock.events into the ledger: the state of every SKU, kept in Redis for readers and published to stock.levels.
//
// The owner of a partition keeps its SKUs in memory, folds what it fetches (package ledger), and writes the changed SKUs, what the fold must remember and
// the batch's last offset to Redis in one atomic step (package hotview). The offset stored with the state says where to go on: not the
// group's, which is a hint. After the step it publishes the changed levels, alerts and rejected records; what a crash keeps from being
// published is published by the next owner. So, for each partition, Redis holds the fold of the log up to the stored offset, and
// stock.levels follows.
package ledgerprojector

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/topics"
)

// Config is the settings of the service.
type Config struct {
	Namespace     string        `help:"Prefix of all Redis keys." default:"oh" env:"LEDGER_NAMESPACE"`
	Group         string        `help:"Consumer group." default:"onhand-ledger-projector" env:"LEDGER_GROUP"`
	Dataset       string        `help:"Name of the log that the ledger is folded from; empty takes the Kafka cluster's id. Another name makes the ledger fold anew." env:"LEDGER_DATASET"`
	Window        time.Duration `help:"How long an event id is remembered, so that a repeat counts once." default:"168h" env:"LEDGER_WINDOW"`
	CountWindow   time.Duration `help:"How far back a stock count may speak of when stock moved since." default:"48h" env:"LEDGER_COUNT_WINDOW"`
	OpenWindow    time.Duration `help:"How long an order line, reservation or purchase order that stays open is remembered." default:"9600h" env:"LEDGER_OPEN_WINDOW"`
	MaxQuantity   int64         `help:"Larger quantities are rejected as absurd." default:"10000000" env:"LEDGER_MAX_QUANTITY"`
	CheckedFrom   time.Time     `help:"Events appended from this moment on (RFC 3339) are rejected unless they came through ingest, which holds them against the catalog; never without it. Another moment makes the ledger fold anew." env:"LEDGER_CHECKED_FROM"`
	BatchEvents   int           `help:"Most events in one step." default:"131072" env:"LEDGER_BATCH_EVENTS"`
	BatchSKUs     int           `name:"batch-skus" help:"Most SKUs that one step changes." default:"4096" env:"LEDGER_BATCH_SKUS"`
	BatchLimit    int           `help:"Most SKUs in one request to the availability API." default:"5000" env:"LEDGER_BATCH_LIMIT"`
	ChangeStreams int           `help:"Most streams of changes at once." default:"256" env:"LEDGER_CHANGE_STREAMS"`
	ChangeSKUs    int           `name:"change-skus" help:"Most SKUs that one stream of changes may name." default:"1000" env:"LEDGER_CHANGE_SKUS"`
	ChangePending int           `help:"Most changed SKUs that wait for the reader of one stream before it is dropped as slow." default:"10000" env:"LEDGER_CHANGE_PENDING"`
	ChangeReplay  int64         `help:"Most records of stock.levels that are read for a stream that resumes; it begins anew beyond." default:"200000" env:"LEDGER_CHANGE_REPLAY"`
	CheckRate     int           `help:"SKUs a second that are compared with the digest of the ledger, in the background; 0 for none." default:"1000" env:"LEDGER_CHECK_RATE"`
	Session       time.Duration `help:"How long an instance may be silent before its partitions go to another; the broker bounds it." default:"10s" env:"LEDGER_SESSION"`
	Drain         time.Duration `help:"Longest graceful stop." default:"15s" env:"LEDGER_DRAIN"`
}

// DefaultConfig is the settings without any flag.
func DefaultConfig() Config {
	return Config{
		Namespace: "oh", Group: "onhand-ledger-projector", Window: ledger.DefaultWindow, CountWindow: ledger.DefaultCountWindow,
		OpenWindow: ledger.DefaultOpenWindow, MaxQuantity: int64(ledger.DefaultMaxQuantity), BatchEvents: 131_072, BatchSKUs: 4096, BatchLimit: 5000,
		ChangeStreams: 256, ChangeSKUs: 1000, ChangePending: 10_000, ChangeReplay: 200_000, CheckRate: 1000, Session: 10 * time.Second, Drain: 15 * time.Second,
	}
}

// Validate reports every fault of the settings.
func (c Config) Validate() error {
	var errs []error
	if c.Namespace == "" || strings.ContainsAny(c.Namespace, "{}: \t\r\n") {
		errs = append(errs, fmt.Errorf("namespace %q: want a word without braces, colons or spaces", c.Namespace))
	}
	if c.Group == "" {
		errs = append(errs, errors.New("group: name the consumer group"))
	}
	if err := c.Options().Validate(); err != nil {
		errs = append(errs, err)
	}
	for _, x := range []struct {
		name    string
		v, most int
	}{{"batch-events", c.BatchEvents, 200_000}, {"batch-skus", c.BatchSKUs, 10_000}, {"batch-limit", c.BatchLimit, 100_000},
		{"change-streams", c.ChangeStreams, 100_000}, {"change-skus", c.ChangeSKUs, 100_000}, {"change-pending", c.ChangePending, 10_000_000}} {
		if x.v < 1 || x.v > x.most {
			errs = append(errs, fmt.Errorf("%s %d: want 1 to %d", x.name, x.v, x.most))
		}
	}
	if c.ChangeReplay < 0 {
		errs = append(errs, fmt.Errorf("change-replay %d: want 0 or more", c.ChangeReplay))
	}
	if c.CheckRate < 0 {
		errs = append(errs, fmt.Errorf("check-rate %d: want 0 or more", c.CheckRate))
	}
	if c.Session < time.Second {
		errs = append(errs, fmt.Errorf("session %s: want at least 1s, and what the broker allows (6s by default)", c.Session))
	}
	if c.Drain <= 0 {
		errs = append(errs, fmt.Errorf("drain %s: want more than 0", c.Drain))
	}
	return errors.Join(errs...)
}

// Options is the settings that the fold depends on.
func (c Config) Options() ledger.Options {
	return ledger.Options{Window: c.Window, CountWindow: c.CountWindow, OpenWindow: c.OpenWindow, MaxQuantity: ledger.Units(c.MaxQuantity), CheckedFrom: c.CheckedFrom}
}

// Deps is what the service works with. The caller closes Redis.
type Deps struct {
	Kafka      kafka.Config
	Codec      *topics.Codec
	Redis      redis.UniversalClient
	Telemetry  *telemetry.Telemetry
	Middleware func(http.Handler) http.Handler // wraps the HTTP API, for authentication; nil for none
}
