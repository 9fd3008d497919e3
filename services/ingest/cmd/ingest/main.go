// Command ingest takes orders, stock events and settings in by HTTP, and orders from the topic orders.in, and writes them to Kafka.
package main

import (
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/program"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/services/ingest"
	"github.com/onhand/onhand/topics/catalogview"
	"github.com/onhand/onhand/topics/connect"
)

var version = "dev" // set when built

type flags struct {
	program.Settings
	program.API
	Redis  redis.Config  `embed:"" prefix:"redis-"`
	Ingest ingest.Config `embed:""`
}

func about() program.About {
	return program.About{
		Name: "ingest", Does: "Takes orders, stock events and settings in, and writes them to Kafka.", Version: version, Listen: "127.0.0.1:8080", AdminListen: "127.0.0.1:9080",
	}
}

func (f *flags) faults() error {
	errs := []error{f.Settings.Faults(), f.API.Faults(), f.Ingest.Validate()}
	if len(f.Redis.Addrs) == 0 {
		errs = append(errs, errors.New("redis-addrs: name at least one host:port"))
	}
	return errors.Join(errs...)
}

func main() {
	var f flags
	program.Parse(&f, about())
	os.Exit(lifecycle.Main("ingest", f.run))
}

func (f *flags) run(ctx context.Context) error { return f.Run(ctx, about(), f.faults(), f.start) }

func (f *flags) start(ctx context.Context, tel *telemetry.Telemetry) (err error) {
	keys, err := f.Keys.Load()
	if err != nil {
		return err
	}
	codec, err := connect.Codec(ctx, f.Kafka, f.RegistryURL, "ingest", tel.Log)
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
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusNotFound, "not-found", "No such path", "there is nothing at "+r.URL.Path+": /openapi.yaml describes the API"))
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusMethodNotAllowed, "method", "Method not allowed", r.Method+" is not possible here: /openapi.yaml describes the API"))
	})
	svc.Routes(r)
	return f.Serve(ctx, about(), tel, program.Parts{
		Run: []func(context.Context) error{view.Run, svc.Run}, Checks: map[string]adminhttp.Check{"ingest": svc.Ready},
		API: r, Listen: f.Listen, Drain: f.Ingest.Drain,
	})
}
