// Command ingest takes orders, stock events and settings in by HTTP, and orders from the topic orders.in, and writes them to Kafka.
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
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/services/ingest"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

var version = "dev" // set when built

type flags struct {
	Config      kong.ConfigFlag  `help:"YAML file of settings, named as the flags; flags and environment win."`
	Kafka       kafka.Config     `embed:"" prefix:"kafka-"`
	Redis       redis.Config     `embed:"" prefix:"redis-"`
	Ingest      ingest.Config    `embed:""`
	Keys        apikey.Config    `embed:"" prefix:"api-keys-"`
	Telemetry   telemetry.Config `embed:""`
	RegistryURL string           `help:"Schema Registry; empty writes bare Protobuf." env:"SCHEMA_REGISTRY_URL"`
	Listen      string           `help:"Address of the HTTP API." default:"127.0.0.1:8080" env:"LISTEN"`
	AdminListen string           `help:"Address of health, metrics and profiles; not for the outside." default:"127.0.0.1:9080" env:"ADMIN_LISTEN"`
	CheckConfig bool             `help:"Judge the settings and exit."`
	Version     kong.VersionFlag `help:"Print the version and exit."`
}

func (f *flags) validate() error {
	errs := []error{f.Kafka.Validate(), f.Ingest.Validate(), f.Telemetry.Validate()}
	if len(f.Redis.Addrs) == 0 {
		errs = append(errs, errors.New("redis-addrs: name at least one host:port"))
	}
	for _, l := range []struct{ name, addr string }{{"listen", f.Listen}, {"admin-listen", f.AdminListen}} {
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			errs = append(errs, fmt.Errorf("%s %q: want host:port", l.name, l.addr))
		}
	}
	if f.Keys.Off && !loopback(f.Listen) {
		errs = append(errs, fmt.Errorf("api-keys-off: not with listen %s, which others can reach; listen on 127.0.0.1, or give keys", f.Listen))
	}
	_, err := f.Keys.Load()
	return errors.Join(append(errs, err)...)
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

func main() {
	var f flags
	kong.Parse(&f, kong.Name("ingest"), kong.Description("Takes orders, stock events and settings in, and writes them to Kafka."),
		kong.Vars{"version": version}, kong.Configuration(yamlFile))
	os.Exit(lifecycle.Main("ingest", func(ctx context.Context) error { return run(ctx, &f) }))
}

func run(ctx context.Context, f *flags) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	if f.CheckConfig {
		fmt.Println("settings are valid")
		return nil
	}
	keys, err := f.Keys.Load()
	if err != nil {
		return err
	}
	tel, err := telemetry.Start(ctx, f.Telemetry, "ingest", version, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.Ingest.Drain)
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
	rdb, err := f.Redis.Client()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rdb.Close()) }()
	view, err := catalogview.New(f.Kafka, tel.Log)
	if err != nil {
		return err
	}
	svc, err := ingest.New(f.Ingest, ingest.Deps{Kafka: f.Kafka, Codec: codec, Redis: rdb, Catalog: view, Telemetry: tel, Keys: keys})
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
		problem.Write(w, problem.New(http.StatusNotFound, "not-found", "No such path", "there is nothing at "+r.URL.Path+": /openapi.yaml describes the API"))
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusMethodNotAllowed, "method", "Method not allowed", r.Method+" is not possible here: /openapi.yaml describes the API"))
	})
	svc.Routes(r)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return view.Run(ctx) })
	g.Go(func() error { return svc.Run(ctx) })
	g.Go(func() error { return lifecycle.Serve(ctx, api, r, f.Ingest.Drain) })
	g.Go(func() error {
		return lifecycle.Serve(ctx, admin, adminhttp.Handler(tel.Metrics, map[string]adminhttp.Check{"ingest": svc.Ready}), f.Ingest.Drain)
	})
	tel.Log.Info("ingest started", "version", version, "api", api.Addr().String(), "admin", admin.Addr().String())
	return g.Wait()
}

// ensure makes the topics of the contract that do not exist yet.
func ensure(ctx context.Context, f *flags, tel *telemetry.Telemetry) error {
	client, err := f.Kafka.Client(tel.Log, "onhand-ingest-setup")
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return kafka.EnsureTopics(ctx, client, f.Kafka.Replication, topics.Specs(f.Kafka.Partitions))
}
