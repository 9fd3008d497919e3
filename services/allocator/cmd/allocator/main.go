// Command allocator turns stock levels into the targets of each channel.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/telemetry"
	allocator "github.com/onhand/onhand/services/allocator"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

var version = "dev" // set when built

type flags struct {
	Config      kong.ConfigFlag  `help:"YAML file of settings, named as the flags; flags and environment win." env:"CONFIG_FILE"`
	Kafka       kafka.Config     `embed:"" prefix:"kafka-"`
	Allocator   allocator.Config `embed:""`
	Telemetry   telemetry.Config `embed:""`
	Keys        apikey.Config    `embed:"" prefix:"api-keys-"`
	RegistryURL string           `help:"Schema Registry; empty writes bare Protobuf." env:"SCHEMA_REGISTRY_URL"`
	Listen      string           `help:"Address of the HTTP API." default:"127.0.0.1:8083" env:"LISTEN"`
	AdminListen string           `help:"Address of health, metrics and profiles; not for the outside." default:"127.0.0.1:9083" env:"ADMIN_LISTEN"`
	Drain       time.Duration    `help:"Longest wait for requests under way when stopping." default:"10s" env:"DRAIN"`
	CheckConfig bool             `help:"Judge the settings and exit."`
	Version     kong.VersionFlag `help:"Print the version and exit."`
}

func (f *flags) validate() error {
	errs := []error{f.Kafka.Validate(), f.Allocator.Validate(), f.Telemetry.Validate()}
	for _, l := range []struct{ name, addr string }{{"listen", f.Listen}, {"admin-listen", f.AdminListen}} {
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			errs = append(errs, fmt.Errorf("%s %q: want host:port", l.name, l.addr))
		}
	}
	if f.Drain <= 0 {
		errs = append(errs, fmt.Errorf("drain %v: want more than 0", f.Drain))
	}
	if f.Keys.Off && !loopback(f.Listen) {
		errs = append(errs, fmt.Errorf("api-keys-off: not with listen %s, which others can reach; listen on 127.0.0.1, or give keys", f.Listen))
	}
	_, err := f.guard()
	return errors.Join(append(errs, err)...)
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// guard asks callers of the HTTP API for a key that may read. Without keys the allocator runs all the same, and its API is closed.
func (f *flags) guard() (func(http.Handler) http.Handler, error) {
	if !f.Keys.Off && f.Keys.File == "" && strings.TrimSpace(os.Getenv("API_KEYS")) == "" {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				problem.Write(w, problem.New(http.StatusForbidden, "no-keys", "The API is closed", "this allocator was given no API keys: set API_KEYS_FILE or API_KEYS"))
			})
		}, nil
	}
	keys, err := f.Keys.Load()
	if err != nil {
		return nil, err
	}
	return keys.Require(apikey.Read), nil
}

func main() {
	var f flags
	kong.Parse(&f, kong.Name("allocator"), kong.Description("Turns stock levels into the targets of each channel."), kong.Vars{"version": version}, kong.Configuration(yamlFile))
	os.Exit(lifecycle.Main("allocator", func(ctx context.Context) error { return run(ctx, &f) }))
}

func run(ctx context.Context, f *flags) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	if f.CheckConfig {
		fmt.Println("settings are valid")
		return nil
	}
	guard, err := f.guard()
	if err != nil {
		return err
	}
	tel, err := telemetry.Start(ctx, f.Telemetry, "allocator", version, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.Drain)
		defer cancel()
		err = errors.Join(err, tel.Stop(stopping))
	}()
	if err := ensure(ctx, f, tel); err != nil {
		return err
	}
	var registry *sr.Client
	if f.RegistryURL != "" {
		if registry, err = sr.NewClient(sr.URLs(f.RegistryURL)); err != nil {
			return fmt.Errorf("registry-url: %w", err)
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
	svc, err := allocator.New(f.Allocator, allocator.Deps{Kafka: f.Kafka, Codec: codec, Catalog: view, Telemetry: tel, Middleware: guard})
	if err != nil {
		return err
	}
	api, err := net.Listen("tcp", f.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	admin, err := net.Listen("tcp", f.AdminListen)
	if err != nil {
		return errors.Join(fmt.Errorf("admin-listen: %w", err), api.Close())
	}
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusNotFound, "not-found", "No such path", "there is nothing at "+r.URL.Path+"; try /v1/targets/{sku}"))
	})
	svc.Routes(r)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return view.Run(ctx) })
	g.Go(func() error { return svc.Run(ctx) })
	g.Go(func() error { return lifecycle.Serve(ctx, api, r, f.Drain) })
	g.Go(func() error {
		return lifecycle.Serve(ctx, admin, adminhttp.Handler(tel.Metrics, map[string]adminhttp.Check{"allocator": svc.Ready}), f.Drain)
	})
	tel.Log.Info("allocator started", "version", version, "api", api.Addr().String(), "admin", admin.Addr().String())
	return g.Wait()
}

// ensure makes the topics of the contract that do not exist yet.
func ensure(ctx context.Context, f *flags, tel *telemetry.Telemetry) error {
	client, err := f.Kafka.Client(tel.Log, "onhand-allocator-setup")
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return kafka.EnsureTopics(ctx, client, f.Kafka.Replication, topics.Specs(f.Kafka.Partitions))
}
