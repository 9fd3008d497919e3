package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/telemetry"
)

// Parts is what a program runs until it is told to stop.
type Parts struct {
	Run    []func(context.Context) error // the service, and what it reads by
	Checks map[string]adminhttp.Check    // for /readyz
	API    http.Handler                  // nil for a program without an API
	Listen string                        // address of the API
	Drain  time.Duration                 // longest wait for requests under way when stopping
}

// Serve opens the addresses, runs the parts, and returns when ctx has ended and all have stopped, or with the first failure.
func (s *Settings) Serve(ctx context.Context, about About, tel *telemetry.Telemetry, p Parts) error {
	admin, err := listen(ctx, "admin-listen", s.AdminListen)
	if err != nil {
		return err
	}
	started := []any{"version", about.Version, "admin", admin.Addr().String()}
	g, ctx := errgroup.WithContext(ctx)
	if p.API != nil {
		api, err := listen(ctx, "listen", p.Listen)
		if err != nil {
			return errors.Join(err, admin.Close())
		}
		started = append(started, "api", api.Addr().String())
		g.Go(func() error { return lifecycle.Serve(ctx, api, p.API, p.Drain) })
	}
	g.Go(func() error { return lifecycle.Serve(ctx, admin, adminhttp.Handler(tel.Metrics, p.Checks), p.Drain) })
	for _, run := range p.Run {
		g.Go(func() error { return run(ctx) })
	}
	tel.Log.Info("started", started...)
	return g.Wait()
}

func listen(ctx context.Context, name, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}
