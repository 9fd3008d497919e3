// Command analytics keeps the history of all topics in ClickHouse and answers questions about it over HTTP.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/alecthomas/kong"
	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/services/analytics"
	"github.com/onhand/onhand/topics"
)

type config struct {
	Analytics      analytics.Config `embed:"" prefix:""`
	Kafka          kafka.Config     `embed:"" prefix:"kafka-"`
	Telemetry      telemetry.Config `embed:"" prefix:""`
	SchemaRegistry string           `help:"URL of the Schema Registry; empty writes and reads bare Protobuf." env:"SCHEMA_REGISTRY_URL"`
	Listen         string           `help:"Address of the query API." default:":8084" env:"LISTEN"`
	AdminListen    string           `help:"Address of health, metrics and profiles." default:":9094" env:"ADMIN_LISTEN"`
	KeysFile       string           `help:"File of API keys; without it the API lets everyone read, which is only for addresses that this machine alone can reach." env:"API_KEYS_FILE"`
	Config         kong.ConfigFlag  `help:"YAML file of flags, by their names; the command line and the environment come first." env:"CONFIG_FILE"`
	CheckConfig    bool             `help:"Check the settings and exit."`
}

func main() { os.Exit(lifecycle.Main("analytics", run)) }

func run(ctx context.Context) error {
	var cfg config
	parser, err := kong.New(&cfg, kong.Name("analytics"), kong.Description("Keeps the history of all topics in ClickHouse, exactly once."), kong.Configuration(yamlFile))
	if err != nil {
		return err
	}
	if _, err := parser.Parse(os.Args[1:]); err != nil {
		return err
	}
	if err := errors.Join(cfg.Analytics.Validate(), cfg.Kafka.Validate(), cfg.Telemetry.Validate()); err != nil {
		return err
	}
	keys := apikey.Open("local")
	if cfg.KeysFile != "" {
		text, err := os.ReadFile(cfg.KeysFile)
		if err != nil {
			return fmt.Errorf("keys-file: %w", err)
		}
		if keys, err = apikey.Parse(string(text)); err != nil {
			return fmt.Errorf("keys-file %s: %w", cfg.KeysFile, err)
		}
	}
	if cfg.CheckConfig {
		fmt.Println("configuration is valid")
		return nil
	}
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	tel, err := telemetry.Start(ctx, cfg.Telemetry, "analytics", version, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := tel.Stop(stopping); err != nil {
			tel.Log.Warn("telemetry was cut short", "error", err)
		}
	}()

	var registry *sr.Client
	if cfg.SchemaRegistry != "" {
		if registry, err = sr.NewClient(sr.URLs(cfg.SchemaRegistry)); err != nil {
			return fmt.Errorf("schema-registry: %w", err)
		}
	}
	codec, err := topics.NewCodec(ctx, registry)
	if err != nil {
		return err
	}
	if err := ensureTopics(ctx, cfg.Kafka, tel); err != nil {
		return err
	}
	service, err := analytics.New(cfg.Analytics, analytics.Deps{
		Kafka: cfg.Kafka, Codec: codec, Telemetry: tel, Middleware: []func(http.Handler) http.Handler{keys.Require(apikey.Read)},
	})
	if err != nil {
		return err
	}
	api, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	admin, err := net.Listen("tcp", cfg.AdminListen)
	if err != nil {
		return errors.Join(fmt.Errorf("admin-listen: %w", err), api.Close())
	}
	router := chi.NewRouter()
	service.Routes(router)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return service.Run(ctx) })
	g.Go(func() error { return lifecycle.Serve(ctx, api, router, 5*time.Second) })
	g.Go(func() error {
		return lifecycle.Serve(ctx, admin, adminhttp.Handler(tel.Metrics, map[string]adminhttp.Check{"analytics": service.Ready}), 5*time.Second)
	})
	return g.Wait()
}

func ensureTopics(ctx context.Context, cfg kafka.Config, tel *telemetry.Telemetry) error {
	client, err := cfg.Client(tel.Log, "onhand-analytics-setup")
	if err != nil {
		return err
	}
	defer client.Close()
	return kafka.EnsureTopics(ctx, client, cfg.Replication, topics.Specs(cfg.Partitions))
}
