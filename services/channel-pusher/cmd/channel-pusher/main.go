// Command channel-pusher writes what each sales channel should show to its API.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/program"
	"github.com/onhand/onhand/platform/telemetry"
	channelpusher "github.com/onhand/onhand/services/channel-pusher"
	"github.com/onhand/onhand/topics/catalogview"
	"github.com/onhand/onhand/topics/connect"
)

var version = "dev" // set when built

type flags struct {
	program.Settings
	Pusher channelpusher.Config `embed:""`
}

func about() program.About {
	return program.About{
		Name: "channel-pusher", Does: "Writes what each sales channel should show to its API.", Version: version, AdminListen: "127.0.0.1:9085",
	}
}

func main() {
	var f flags
	program.Parse(&f, about())
	os.Exit(lifecycle.Main("channel-pusher", f.run))
}

func (f *flags) run(ctx context.Context) error {
	return f.Run(ctx, about(), errors.Join(f.Faults(), f.Pusher.Validate()), f.start)
}

func (f *flags) start(ctx context.Context, tel *telemetry.Telemetry) error {
	codec, err := connect.Codec(ctx, f.Kafka, f.RegistryURL, "channel-pusher", tel.Log)
	if err != nil {
		return err
	}
	view, err := catalogview.New(f.Kafka, tel.Log)
	if err != nil {
		return err
	}
	svc, err := channelpusher.New(f.Pusher, channelpusher.Deps{Kafka: f.Kafka, Codec: codec, Catalog: view, Telemetry: tel})
	if err != nil {
		return err
	}
	return f.Serve(ctx, about(), tel, program.Parts{
		Run: []func(context.Context) error{view.Run, svc.Run}, Checks: map[string]adminhttp.Check{"channel-pusher": svc.Ready}, Drain: f.Pusher.Drain,
	})
}
