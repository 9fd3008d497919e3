// Command ledger-projector keeps the ledger: it folds stock.events into Redis and stock.levels, and serves the availability API.
package main

import (
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/platform/program"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/topics/connect"
)

var version = "dev" // set when built

type flags struct {
	program.Settings
	program.API
	Redis  redis.Config           `embed:"" prefix:"redis-"`
	Ledger ledgerprojector.Config `embed:"" prefix:"ledger-"`
}

func about() program.About {
	return program.About{
		Name: "ledger-projector", Does: "Folds stock.events into the ledger.", Version: version, Listen: "127.0.0.1:8082", AdminListen: "127.0.0.1:9082",
	}
}

func main() {
	var f flags
	program.Parse(&f, about())
	os.Exit(lifecycle.Main("ledger-projector", f.run))
}

func (f *flags) run(ctx context.Context) error {
	errs := []error{f.Settings.Faults(), f.API.Faults(), f.Ledger.Validate()}
	if len(f.Redis.Addrs) == 0 {
		errs = append(errs, errors.New("redis-addrs: name at least one host:port"))
	}
	return f.Run(ctx, about(), errors.Join(errs...), f.start)
}

func (f *flags) start(ctx context.Context, tel *telemetry.Telemetry) (err error) {
	keys, err := f.Keys.Load()
	if err != nil {
		return err
	}
	rdb, err := f.Redis.Client()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rdb.Close()) }()
	codec, err := connect.Codec(ctx, f.Kafka, f.RegistryURL, "ledger-projector", tel.Log)
	if err != nil {
		return err
	}
	svc, err := ledgerprojector.New(f.Ledger, ledgerprojector.Deps{Kafka: f.Kafka, Codec: codec, Redis: rdb, Telemetry: tel, Middleware: keys.Require(apikey.Read)})
	if err != nil {
		return err
	}
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusNotFound, "not-found", "No such path", "there is nothing at "+r.URL.Path+"; try /v1/availability/{sku}"))
	})
	svc.Routes(r)
	return f.Serve(ctx, about(), tel, program.Parts{
		Run: []func(context.Context) error{svc.Run}, Checks: map[string]adminhttp.Check{"ledger-projector": svc.Ready},
		API: r, Listen: f.Listen, Drain: f.Ledger.Drain,
	})
}
