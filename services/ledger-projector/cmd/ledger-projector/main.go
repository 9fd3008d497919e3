// Command ledger-projector keeps the ledger: it folds stock.events into Redis and stock.levels, and serves the availability API.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/alecthomas/kong"
	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/topics"
)

// version is set by the build.
var version = "dev"

type settings struct {
	Kafka       kafka.Config           `embed:"" prefix:"kafka-"`
	Redis       redis.Config           `embed:"" prefix:"redis-"`
	Telemetry   telemetry.Config       `embed:""`
	Ledger      ledgerprojector.Config `embed:"" prefix:"ledger-"`
	Registry    string                 `help:"Schema Registry URL; empty writes bare Protobuf." env:"SCHEMA_REGISTRY_URL"`
	Listen      string                 `help:"Address of the availability API." default:":8082" env:"LISTEN"`
	Admin       string                 `help:"Address of health, metrics and profiles; not for the outside." default:":9102" env:"ADMIN_LISTEN"`
	Config      kong.ConfigFlag        `help:"YAML file of settings, by flag name." env:"CONFIG_FILE"`
	CheckConfig bool                   `help:"Check the settings and stop."`
	Version     kong.VersionFlag       `help:"Print the version and stop."`
}

func main() {
	var c settings
	kong.Parse(&c, kong.Name("ledger-projector"), kong.Description("Folds stock.events into the ledger."),
		kong.Vars{"version": version}, kong.Configuration(yamlSettings))
	os.Exit(lifecycle.Main("ledger-projector", c.run))
}

func (c *settings) run(ctx context.Context) error {
	if err := errors.Join(c.Kafka.Validate(), c.Telemetry.Validate(), c.Ledger.Validate()); err != nil {
		return err
	}
	rdb, err := c.Redis.Client()
	if err != nil {
		return err
	}
	defer rdb.Close() //nolint:errcheck // nothing is written any more
	if c.CheckConfig {
		fmt.Println("settings are good")
		return nil
	}
	tel, err := telemetry.Start(ctx, c.Telemetry, "ledger-projector", version, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := tel.Stop(stopping); err != nil {
			tel.Log.Warn("telemetry not sent", "err", err)
		}
	}()
	if err := c.ensureTopics(ctx, tel); err != nil {
		return err
	}
	var registry *sr.Client
	if c.Registry != "" {
		if registry, err = sr.NewClient(sr.URLs(c.Registry)); err != nil {
			return fmt.Errorf("registry: %w", err)
		}
	}
	codec, err := topics.NewCodec(ctx, registry)
	if err != nil {
		return err
	}
	s, err := ledgerprojector.New(c.Ledger, ledgerprojector.Deps{Kafka: c.Kafka, Codec: codec, Redis: rdb, Telemetry: tel})
	if err != nil {
		return err
	}
	api := chi.NewRouter()
	s.Routes(api)
	admin := adminhttp.Handler(tel.Metrics, map[string]adminhttp.Check{"ledger-projector": s.Ready})
	g, ctx := errgroup.WithContext(ctx)
	for _, x := range []struct {
		addr string
		h    http.Handler
	}{{c.Listen, api}, {c.Admin, admin}} {
		l, err := net.Listen("tcp", x.addr)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", x.addr, err)
		}
		g.Go(func() error { return lifecycle.Serve(ctx, l, x.h, c.Ledger.Drain) })
	}
	g.Go(func() error { return s.Run(ctx) })
	tel.Log.Info("ledger-projector started", "version", version, "api", c.Listen, "admin", c.Admin)
	return g.Wait()
}

func (c *settings) ensureTopics(ctx context.Context, tel *telemetry.Telemetry) error {
	client, err := c.Kafka.Client(tel.Log, "ledger-projector")
	if err != nil {
		return err
	}
	defer client.Close()
	return kafka.EnsureTopics(ctx, client, c.Kafka.Replication, topics.Specs(c.Kafka.Partitions))
}
