// Command channel-pusher writes what each sales channel should show to its API.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/alecthomas/kong"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/telemetry"
	channelpusher "github.com/onhand/onhand/services/channel-pusher"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

// version is set by the linker.
var version = "dev"

type flags struct {
	Config      kong.ConfigFlag      `help:"YAML file of flags, by their names; the command line and the environment come first." env:"CONFIG_FILE"`
	CheckConfig bool                 `help:"Check the settings and exit."`
	Admin       string               `help:"Address of health, readiness and metrics." default:":9090" env:"ADMIN_ADDR"`
	Registry    string               `help:"URL of the Schema Registry; empty writes bare Protobuf." env:"SCHEMA_REGISTRY_URL"`
	Kafka       kafka.Config         `embed:"" prefix:"kafka-"`
	Telemetry   telemetry.Config     `embed:""`
	Pusher      channelpusher.Config `embed:""`
}

func main() {
	var f flags
	kong.Parse(&f, kong.Name("channel-pusher"), kong.Description("Writes what each sales channel should show to its API."), kong.Configuration(yamlFile))
	os.Exit(lifecycle.Main("channel-pusher", func(ctx context.Context) error { return run(ctx, f) }))
}

func run(ctx context.Context, f flags) (err error) {
	if err := errors.Join(f.Kafka.Validate(), f.Telemetry.Validate(), f.Pusher.Validate()); err != nil {
		return err
	}
	if f.CheckConfig {
		fmt.Println("the settings are valid")
		return nil
	}
	tel, err := telemetry.Start(ctx, f.Telemetry, "channel-pusher", version, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		err = errors.Join(err, tel.Stop(stopping))
	}()
	setup, err := f.Kafka.Client(tel.Log, "channel-pusher-setup")
	if err != nil {
		return err
	}
	err = kafka.EnsureTopics(ctx, setup, f.Kafka.Replication, topics.Specs(f.Kafka.Partitions))
	setup.Close()
	if err != nil {
		return err
	}
	var registry *sr.Client
	if f.Registry != "" {
		if registry, err = sr.NewClient(sr.URLs(f.Registry)); err != nil {
			return fmt.Errorf("registry %s: %w", f.Registry, err)
		}
	}
	codec, err := topics.NewCodec(ctx, registry)
	if err != nil {
		return err
	}
	view, err := catalogview.New(f.Kafka, tel.Log)
	if err != nil {
		return err
	}
	service, err := channelpusher.New(f.Pusher, channelpusher.Deps{Kafka: f.Kafka, Codec: codec, Catalog: view, Telemetry: tel})
	if err != nil {
		return err
	}
	admin, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.Admin)
	if err != nil {
		return fmt.Errorf("admin address %s: %w", f.Admin, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return view.Run(ctx) })
	g.Go(func() error { return service.Run(ctx) })
	g.Go(func() error {
		return lifecycle.Serve(ctx, admin, adminhttp.Handler(tel.Metrics, map[string]adminhttp.Check{"channel-pusher": service.Ready}), f.Pusher.Drain)
	})
	return g.Wait()
}
