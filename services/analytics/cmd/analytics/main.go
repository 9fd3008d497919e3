// Command analytics keeps the history of all topics in ClickHouse and answers questions about it over HTTP.
package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/program"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/services/analytics"
	"github.com/onhand/onhand/topics/connect"
)

var version = "dev" // set when built

// drain is the longest wait for questions under way when stopping.
const drain = 5 * time.Second

type flags struct {
	program.Settings
	program.API
	Analytics analytics.Config `embed:""`
}

func about() program.About {
	return program.About{
		Name: "analytics", Does: "Keeps the history of all topics in ClickHouse, exactly once.", Version: version, Listen: "127.0.0.1:8084", AdminListen: "127.0.0.1:9084",
	}
}

func main() {
	var f flags
	program.Parse(&f, about())
	os.Exit(lifecycle.Main("analytics", f.run))
}

func (f *flags) run(ctx context.Context) error {
	return f.Run(ctx, about(), errors.Join(f.Settings.Faults(), f.API.Faults(), f.Analytics.Validate()), f.start)
}

func (f *flags) start(ctx context.Context, tel *telemetry.Telemetry) error {
	keys, err := f.Keys.Load()
	if err != nil {
		return err
	}
	codec, err := connect.Codec(ctx, f.Kafka, f.RegistryURL, "analytics", tel.Log)
	if err != nil {
		return err
	}
	svc, err := analytics.New(f.Analytics, analytics.Deps{
		Kafka: f.Kafka, Codec: codec, Telemetry: tel, Middleware: []func(http.Handler) http.Handler{keys.Require(apikey.Read)},
	})
	if err != nil {
		return err
	}
	router := chi.NewRouter()
	svc.Routes(router)
	return f.Serve(ctx, about(), tel, program.Parts{
		Run: []func(context.Context) error{svc.Run}, Checks: map[string]adminhttp.Check{"analytics": svc.Ready}, API: router, Listen: f.Listen, Drain: drain,
	})
}
