// Command allocator turns stock levels into the targets of each channel.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/program"
	"github.com/onhand/onhand/platform/telemetry"
	allocator "github.com/onhand/onhand/services/allocator"
	"github.com/onhand/onhand/topics/catalogview"
	"github.com/onhand/onhand/topics/connect"
)

var version = "dev" // set when built

type flags struct {
	program.Settings
	program.API
	Allocator allocator.Config `embed:""`
	Drain     time.Duration    `help:"Longest wait for requests under way when stopping." default:"10s" env:"ALLOCATOR_DRAIN"`
}

func about() program.About {
	return program.About{
		Name: "allocator", Does: "Turns stock levels into the targets of each channel.", Version: version, Listen: "127.0.0.1:8083", AdminListen: "127.0.0.1:9083",
	}
}

func (f *flags) faults() error {
	errs := []error{f.Settings.Faults(), f.API.Faults(), f.Allocator.Validate()}
	if f.Drain <= 0 {
		errs = append(errs, fmt.Errorf("drain %v: want more than 0", f.Drain))
	}
	return errors.Join(errs...)
}

func main() {
	var f flags
	program.Parse(&f, about())
	os.Exit(lifecycle.Main("allocator", f.run))
}

func (f *flags) run(ctx context.Context) error { return f.Run(ctx, about(), f.faults(), f.start) }

func (f *flags) start(ctx context.Context, tel *telemetry.Telemetry) error {
	keys, err := f.Keys.Load()
	if err != nil {
		return err
	}
	codec, err := connect.Codec(ctx, f.Kafka, f.RegistryURL, "allocator", tel.Log)
	if err != nil {
		return err
	}
	view, err := catalogview.New(f.Kafka, tel.Log)
	if err != nil {
		return err
	}
	svc, err := allocator.New(f.Allocator, allocator.Deps{Kafka: f.Kafka, Codec: codec, Catalog: view, Telemetry: tel, Middleware: keys.Require(apikey.Read)})
	if err != nil {
		return err
	}
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusNotFound, "not-found", "No such path", "there is nothing at "+r.URL.Path+"; try /v1/targets/{sku}"))
	})
	svc.Routes(r)
	return f.Serve(ctx, about(), tel, program.Parts{
		Run: []func(context.Context) error{view.Run, svc.Run}, Checks: map[string]adminhttp.Check{"allocator": svc.Ready},
		API: r, Listen: f.Listen, Drain: f.Drain,
	})
}
