package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/onhand/onhand/allinone"
	"github.com/onhand/onhand/e2e/testbed"
	"github.com/onhand/onhand/embedded"
	"github.com/onhand/onhand/embedded/clickhouse"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
)

const apiKey = "key-of-the-end-to-end-tests"

// servicesVariable makes this test binary a process of services rather than of tests: it holds a spec as JSON.
const servicesVariable = "ONHAND_E2E_SERVICES"

func TestMain(m *testing.M) {
	if text := os.Getenv(servicesVariable); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(testbed.Main(m))
}

// spec says which services run, where, and on what.
type spec struct {
	Services   []string
	Listen     string
	Kafka      []string
	Redis      string
	ClickHouse string
	Registry   string
}

// start runs the services in this process.
func (s spec) start(ctx context.Context, tel *telemetry.Telemetry) (*allinone.Process, func() error, error) {
	keys, err := apikey.Parse("tests admin " + apiKey)
	if err != nil {
		return nil, nil, err
	}
	cfg := allinone.DefaultConfig()
	cfg.Services, cfg.Listen, cfg.Drain = s.Services, s.Listen, 20*time.Second
	cfg.Ingest.AllowPrivateChannels, cfg.Pusher.AllowPrivate, cfg.Ingest.RequestsPerSecond = true, true, 0
	cfg.Pusher.DriftGrace = 6 * time.Second // a marketplace reports again after five seconds at most
	cfg.Pusher.DriftSample, cfg.Pusher.DriftEvery = 100, 2*time.Second
	cfg.Analytics.ClickHouse.URL = s.ClickHouse
	cfg.Analytics.TopicsRefresh = time.Second
	client := goredis.NewClient(&goredis.Options{Addr: s.Redis})
	deps := allinone.Deps{Kafka: s.kafka(), Redis: client, Telemetry: tel, Keys: keys}
	if s.Registry != "" {
		if deps.Registry, err = sr.NewClient(sr.URLs(s.Registry)); err != nil {
			return nil, nil, err
		}
	}
	p, err := allinone.Start(ctx, cfg, deps)
	if err != nil {
		_ = client.Close() // the start is what failed
		return nil, nil, err
	}
	return p, client.Close, nil
}

func (s spec) kafka() kafka.Config {
	return kafka.Config{Brokers: s.Kafka, Partitions: 4, Replication: 1}
}

// serve is the life of a process of services: until standard input ends, which it does with the test at the latest.
func serve(text string) error {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	tel := telemetry.Silent()
	p, done, err := s.start(context.Background(), tel)
	if err != nil {
		return err
	}
	fmt.Println(p.URL())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err := p.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, s.Services, err)
			os.Exit(1)
		}
		_ = done()
		os.Exit(0)
	}()
	<-p.Done()
	return fmt.Errorf("%v: %w", s.Services, p.Err())
}

// child is a process of services.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
}

func startChild(t *testing.T, s spec) *child {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), servicesVariable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http") {
		_ = c.cmd.Process.Kill()
		t.Fatalf("services %v did not start: %q %v %v", s.Services, line, err, c.cmd.Wait())
	}
	c.url = strings.TrimSpace(line)
	return c
}

// ready waits until the process says so itself.
func (c *child) ready(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(r)
		var text []byte
		if err == nil {
			text, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s is not ready: %s %v", c.url, text, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop asks the process to end, and waits.
func (c *child) stop() error {
	_ = c.stdin.Close()
	return c.cmd.Wait()
}

// kill ends it at once (kill -9).
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// site is an Onhand under test: the parts, and the services on them.
type site struct {
	spec
	restart func(t *testing.T)                   // of every service, while the world goes on
	hurt    func(t *testing.T)                   // nil, or the hardest stop that the parts allow, and a start
	settle  func(t *testing.T) *allinone.Process // the services as one process of this one, ready
	tel     *telemetry.Telemetry                 // of that process
}

// freeAddr is an address of loopback that is free now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *site) url() string { return "http://" + s.Listen }

// run starts the services in this process.
func (s *site) run(t *testing.T) (*allinone.Process, func()) {
	t.Helper()
	p, done, err := s.spec.start(t.Context(), s.tel)
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		if err := p.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := done(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	t.Cleanup(stop)
	return p, stop
}

func ready(t *testing.T, p *allinone.Process, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := p.Ready(ctx, names...); err != nil {
		t.Fatal(err)
	}
}

// embeddedSite is everything in this process. All services stop at once and start again.
func embeddedSite(t *testing.T, tel *telemetry.Telemetry) *site {
	t.Helper()
	parts := startEmbedded(t, t.TempDir())
	t.Cleanup(func() {
		if err := parts.Stop(); err != nil {
			t.Errorf("stop of the parts: %v", err)
		}
	})
	s := &site{tel: tel, spec: specOf(parts)}
	s.Listen = freeAddr(t)
	p, stop := s.run(t)
	s.restart = func(t *testing.T) {
		stop()
		p, stop = s.run(t)
		ready(t, p)
	}
	s.settle = func(t *testing.T) *allinone.Process { return p }
	return s
}

func startEmbedded(t *testing.T, dir string) *embedded.Parts {
	t.Helper()
	if err := testbed.Install(t.Context(), testbed.PartClickHouse, nil); err != nil {
		t.Fatal(err)
	}
	parts, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Partitions: 4, Library: library(t), Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

func specOf(p *embedded.Parts) spec {
	return spec{Kafka: p.Kafka, Redis: p.Redis, ClickHouse: p.ClickHouse, Registry: p.Registry}
}

// realSite is one process for each service, on a real Kafka, a real Redis and the ClickHouse engine.
func realSite(t *testing.T, tel *telemetry.Telemetry) *site {
	t.Helper()
	k, r := testbed.Kafka(t), testbed.Redis(t)
	ch, err := testbed.StartClickHouse(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ch.Stop(); err != nil {
			t.Errorf("stop of ClickHouse: %v", err)
		}
	})
	s := &site{tel: tel, spec: spec{Kafka: []string{k.Addr}, Redis: r.Addr, ClickHouse: ch.URL}}
	s.Listen = freeAddr(t)
	children := map[string]*child{}
	start := func(t *testing.T, name string) {
		one := s.spec
		one.Services = []string{name}
		if name != allinone.Ingest {
			one.Listen = "127.0.0.1:0"
		}
		children[name] = startChild(t, one)
	}
	for _, name := range allinone.All() {
		start(t, name)
	}
	t.Cleanup(func() {
		for _, c := range children {
			c.kill()
		}
	})
	s.restart = func(t *testing.T) { // one after the other, as a roll-out does
		for _, name := range allinone.All() {
			if err := children[name].stop(); err != nil {
				t.Errorf("stop of %s: %v", name, err)
			}
			start(t, name)
		}
	}
	s.hurt = func(t *testing.T) {
		for _, c := range children {
			c.kill()
		}
		for _, name := range allinone.All() {
			start(t, name)
		}
		for _, c := range children { // Kafka waits for the dead first, and the world does not wait for that
			c.ready(t)
		}
	}
	s.settle = func(t *testing.T) *allinone.Process {
		for _, name := range allinone.All() {
			if err := children[name].stop(); err != nil {
				t.Errorf("stop of %s: %v", name, err)
			}
			delete(children, name)
		}
		p, _ := s.run(t)
		ready(t, p)
		return p
	}
	return s
}

func library(t *testing.T) string {
	t.Helper()
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	path, err := clickhouse.Find("", root)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
