// Package allinone runs Onhand's services, all or those named, in one process against given addresses: one catalog view, one API listener with the routes
// of every service, the console and the endpoints for operators, and one orderly stop.
//
// The services are the same as in separate processes and still talk only through Kafka, so that one of them can move out without a change.
package allinone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/allinone/console"
	"github.com/onhand/onhand/allinone/figures"
	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/lifecycle"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/services/allocator"
	"github.com/onhand/onhand/services/analytics"
	channelpusher "github.com/onhand/onhand/services/channel-pusher"
	"github.com/onhand/onhand/services/ingest"
	ledgerprojector "github.com/onhand/onhand/services/ledger-projector"
	"github.com/onhand/onhand/topics"
	"github.com/onhand/onhand/topics/catalogview"
)

// The services, in the order data flows. They start and stop in this order: a stop lets what has been taken in run through.
const (
	Ingest    = "ingest"
	Projector = "ledger-projector"
	Allocator = "allocator"
	Pusher    = "channel-pusher"
	Analytics = "analytics"
)

// All is every service.
func All() []string { return []string{Ingest, Projector, Allocator, Pusher, Analytics} }

// Config is what runs and how.
type Config struct {
	Services  []string      // names; empty means all
	Listen    string        // of the API; a port of 0 takes a free one
	Console   bool          // serve the console
	Drain     time.Duration // longest graceful stop of everything; default 4.5 s
	Ingest    ingest.Config
	Projector ledgerprojector.Config
	Allocator allocator.Config
	Pusher    channelpusher.Config
	Analytics analytics.Config
}

// DefaultConfig is every service with its default settings on a free port of loopback.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:0", Drain: 4500 * time.Millisecond, Ingest: ingest.DefaultConfig(), Projector: ledgerprojector.DefaultConfig(),
		Allocator: allocator.DefaultConfig(), Pusher: channelpusher.DefaultConfig(), Analytics: analytics.DefaultConfig(),
	}
}

// Deps is what the process works with. The caller owns it, and closes it after Stop.
type Deps struct {
	Kafka         kafka.Config
	Redis         redis.UniversalClient
	Registry      *sr.Client // nil writes bare Protobuf
	Telemetry     *telemetry.Telemetry
	Keys          *apikey.Keys
	ConsoleSecret []byte // signs the console's sessions
	Version       string
	Addresses     []figures.Address          // shown beside the API's and the console's
	Refused       func() int64               // units that simulated marketplaces refused; nil when nobody counts them
	Replay        func() *figures.Replay     // nil, or how far a replay has come
	Checks        map[string]adminhttp.Check // more for /readyz
}

// Process is a running Onhand.
type Process struct {
	cfg   Config
	deps  Deps
	tel   *telemetry.Telemetry
	addr  string
	began time.Time
	parts []*part
	admin *kgo.Client
	view  *catalogview.View
	open  *console.Console
	meter *sampler

	// The services by name; nil for those that do not run here.
	Ingest    *ingest.Service
	Projector *ledgerprojector.Service
	Allocator *allocator.Service
	Pusher    *channelpusher.Service
	Analytics *analytics.Service

	stopAPI  func()
	apiDone  chan struct{}
	stopView func()
	viewDone chan struct{}
	stopMore func()
	more     sync.WaitGroup

	fail     context.CancelCauseFunc
	failed   context.Context
	stopping sync.Once
	stopErr  error
}

// Start makes the topics, starts the services and the listener, and returns as soon as the listener answers; Ready tells when everything is. ctx bounds the
// start alone. A service that fails later ends Done.
func Start(ctx context.Context, cfg Config, deps Deps) (p *Process, err error) {
	names, err := chosen(cfg.Services)
	if err != nil {
		return nil, err
	}
	if deps.Telemetry == nil || deps.Keys == nil || deps.Redis == nil {
		return nil, errors.New("allinone: Telemetry, Keys and Redis are needed")
	}
	if cfg.Drain <= 0 {
		cfg.Drain = DefaultConfig().Drain
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("the API cannot listen on %s: %w", cfg.Listen, err)
	}
	p = &Process{cfg: cfg, deps: deps, tel: deps.Telemetry, addr: l.Addr().String(), began: time.Now()}
	p.failed, p.fail = context.WithCancelCause(context.Background())
	started := false
	defer func() {
		if started {
			return
		}
		_ = l.Close() // the error that ended the start is the one to report
		if p.admin != nil {
			p.admin.Close()
		}
	}()
	if p.admin, err = deps.Kafka.Client(deps.Telemetry.Log, "onhand-allinone"); err != nil {
		return nil, err
	}
	if err := kafka.EnsureTopics(ctx, p.admin, deps.Kafka.Replication, topics.Specs(deps.Kafka.Partitions)); err != nil {
		return nil, err
	}
	codec, err := topics.NewCodec(ctx, deps.Registry)
	if err != nil {
		return nil, err
	}
	if p.view, err = catalogview.New(deps.Kafka, deps.Telemetry.Log); err != nil {
		return nil, err
	}
	if err := p.assemble(names, codec); err != nil {
		over, end := context.WithCancel(ctx)
		end()
		return nil, errors.Join(err, p.view.Run(over)) // closes its client
	}
	p.meter = newSampler(p)
	started = true
	p.run(l)
	return p, nil
}

// chosen is the services to run, in order.
func chosen(names []string) ([]string, error) {
	if len(names) == 0 {
		return All(), nil
	}
	var unknown []string
	for _, n := range names {
		if !slices.Contains(All(), n) {
			unknown = append(unknown, n)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("no service is called %s; there are %s", strings.Join(unknown, ", "), strings.Join(All(), ", "))
	}
	var out []string
	for _, n := range All() {
		if slices.Contains(names, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// run starts everything that was assembled.
func (p *Process) run(l net.Listener) {
	viewCtx, stopView := context.WithCancel(context.Background())
	p.stopView, p.viewDone = stopView, make(chan struct{})
	go func() {
		defer close(p.viewDone)
		if err := p.view.Run(viewCtx); err != nil {
			p.fail(fmt.Errorf("catalog: %w", err))
		}
	}()
	for _, part := range p.parts {
		part.start(p.fail)
	}
	moreCtx, stopMore := context.WithCancel(context.Background())
	p.stopMore = stopMore
	p.more.Go(func() { p.meter.run(moreCtx) })
	apiCtx, stopAPI := context.WithCancel(context.Background())
	p.stopAPI, p.apiDone = stopAPI, make(chan struct{})
	handler := p.handler()
	go func() {
		defer close(p.apiDone)
		if err := lifecycle.Serve(apiCtx, l, handler, p.cfg.Drain/3); err != nil {
			p.fail(err)
		}
	}()
}

// part is one service as the process sees it.
type part struct {
	name  string
	unit  string
	run   func(context.Context) error
	ready func(context.Context) error
	total func() int64
	lag   func() int64 // what waits for it, as far as it knows

	stop func()
	done chan struct{}
}

func (s *part) start(fail context.CancelCauseFunc) {
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.done = stop, make(chan struct{})
	go func() {
		defer close(s.done)
		err := s.run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("it ended without being asked to")
			}
			fail(fmt.Errorf("%s: %w", s.name, err))
		} else if err != nil && !errors.Is(err, context.Canceled) {
			fail(fmt.Errorf("%s, while stopping: %w", s.name, err))
		}
	}()
}

// Addr is where the API listens, as host:port.
func (p *Process) Addr() string { return p.addr }

// URL is the root of the API.
func (p *Process) URL() string { return "http://" + p.addr }

// Catalog is the catalog that the services share.
func (p *Process) Catalog() *catalogview.View { return p.view }

// Done is closed when a part has failed; Err then says why. The caller still calls Stop.
func (p *Process) Done() <-chan struct{} { return p.failed.Done() }

// Err is why Done was closed, or nil.
func (p *Process) Err() error { return context.Cause(p.failed) }

// Ready waits until every service, or those named, are ready, or says what is not when ctx ends or a part fails.
func (p *Process) Ready(ctx context.Context, names ...string) error {
	for {
		var last error
		for _, s := range p.parts {
			if len(names) > 0 && !slices.Contains(names, s.name) {
				continue
			}
			if err := s.ready(ctx); err != nil {
				last = fmt.Errorf("%s is not ready: %w", s.name, err)
				break
			}
		}
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(last, ctx.Err())
		case <-p.Done():
			return p.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends everything in order: the listener, so that nothing new comes in; the services in the order data flows; the catalog. Each gets what is left of the
// time that Config.Drain gives. It returns what went wrong, also before it was called.
func (p *Process) Stop() error {
	p.stopping.Do(func() {
		deadline := time.Now().Add(p.cfg.Drain)
		late := func(what string, done <-chan struct{}) error {
			t := time.NewTimer(max(time.Until(deadline), 50*time.Millisecond))
			defer t.Stop()
			select {
			case <-done:
				return nil
			case <-t.C:
				return fmt.Errorf("%s did not stop within %s", what, p.cfg.Drain)
			}
		}
		var errs []error
		p.stopAPI()
		errs = append(errs, late("the API", p.apiDone))
		for _, s := range p.parts {
			s.stop()
			errs = append(errs, late(s.name, s.done))
		}
		p.stopView()
		p.stopMore()
		errs = append(errs, late("the catalog", p.viewDone))
		p.more.Wait()
		p.admin.Close()
		p.stopErr = errors.Join(append(errs, p.Err())...)
	})
	return p.stopErr
}
