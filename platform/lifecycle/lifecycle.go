// Package lifecycle starts a program, stops it on a signal, and gives it one exit.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Main runs a program until it ends or SIGINT or SIGTERM arrives, and returns its exit status: 0, or 1 after printing the error. A second
// signal kills the process at once.
func Main(name string, run func(ctx context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // restore the default action for the second signal
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// Serve serves h on l until ctx ends, then lets requests under way finish for at most drain. It owns l. A requested stop returns nil.
// Bodies and idle connections are bounded by the time-outs here; handlers bound their own sizes. Streams (SSE) end with their request's context, which is
// cancelled when ctx is.
func Serve(ctx context.Context, l net.Listener, h http.Handler, drain time.Duration) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	streams, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv.BaseContext = func(net.Listener) context.Context { return streams }
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer done()
	context.AfterFunc(stopping, cancel)
	time.AfterFunc(drain/2, cancel) // streams never end by themselves
	if err := srv.Shutdown(stopping); err != nil {
		return errors.Join(fmt.Errorf("drain %s: %w", l.Addr(), err), srv.Close())
	}
	return nil
}
