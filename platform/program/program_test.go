package program

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/onhand/onhand/platform/adminhttp"
	"github.com/onhand/onhand/platform/telemetry"
)

type flags struct {
	Settings
	API
	Pace time.Duration `default:"1s" env:"PACE"`
}

var about = About{Name: "test", Version: "v9", Listen: "127.0.0.1:1", AdminListen: "127.0.0.1:2"}

func parse(t *testing.T, yaml string, args ...string) (*flags, error) {
	t.Helper()
	if yaml != "" {
		name := filepath.Join(t.TempDir(), "settings.yaml")
		if err := os.WriteFile(name, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	f := &flags{}
	p, err := kong.New(f, Options(about)...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Parse(args)
	return f, err
}

// The command line wins over the environment, the environment over the file, the file over the default.
func TestPrecedence(t *testing.T) {
	const yaml = "pace: 3s\nkafka-brokers: [a:1, b:2]\nadmin-listen: 127.0.0.1:3\ntrace-ratio: 0.5\n"
	f, err := parse(t, "")
	if err != nil || f.Pace != time.Second || f.AdminListen != about.AdminListen || f.Listen != about.Listen {
		t.Errorf("defaults: %+v, %v", f, err)
	}
	f, err = parse(t, yaml)
	if err != nil || f.Pace != 3*time.Second || strings.Join(f.Kafka.Brokers, " ") != "a:1 b:2" || f.AdminListen != "127.0.0.1:3" || f.Telemetry.TraceRatio != 0.5 {
		t.Errorf("file: %+v, %v", f, err)
	}
	t.Setenv("PACE", "5s")
	t.Setenv("KAFKA_BROKERS", "c:3")
	if f, err = parse(t, yaml); err != nil || f.Pace != 5*time.Second || strings.Join(f.Kafka.Brokers, " ") != "c:3" {
		t.Errorf("environment over file: %+v, %v", f, err)
	}
	if f, err = parse(t, yaml, "--pace", "7s"); err != nil || f.Pace != 7*time.Second {
		t.Errorf("command line over both: %+v, %v", f, err)
	}
}

func TestAFileThatCannotBeMeant(t *testing.T) {
	for yaml, want := range map[string]string{
		"pacee: 1s\nlisen: x\n": "lisen, pacee", "pace: soon\n": "pace", "a: [": "settings file", "- pace\n": "settings file",
	} {
		if _, err := parse(t, yaml); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: no word of %q in %v", yaml, want, err)
		}
	}
	for _, yaml := range []string{"# nothing\n", "pace:\n"} { // an empty value sets nothing
		if f, err := parse(t, yaml); err != nil || f.Pace != time.Second {
			t.Errorf("%q: %v, pace %v", yaml, err, f.Pace)
		}
	}
}

// An API is never open to others without keys: keys are given, or --api-keys-off is said and only this machine can reach it.
func TestAPIsAreNeverSilentlyOpen(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("console read 0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, env string
		args      []string
		want      string // in the fault; empty for none
	}{
		{"nothing said", "", nil, "API keys: name a file"},
		{"nothing said, for others", "", []string{"--listen", ":8080"}, "API keys: name a file"},
		{"off on this machine", "", []string{"--api-keys-off"}, ""},
		{"off on localhost", "", []string{"--api-keys-off", "--listen", "localhost:1"}, ""},
		{"off on [::1]", "", []string{"--api-keys-off", "--listen", "[::1]:1"}, ""},
		{"off on every address", "", []string{"--api-keys-off", "--listen", ":8080"}, "api-keys-off"},
		{"off on a name", "", []string{"--api-keys-off", "--listen", "example.com:80"}, "api-keys-off"},
		{"a file", "", []string{"--api-keys-file", keys, "--listen", ":8080"}, ""},
		{"a file that is not there", "", []string{"--api-keys-file", keys + "x"}, "API keys"},
		{"the environment", "a read 0123456789abcdef", []string{"--listen", ":8080"}, ""},
		{"a key that can be guessed", "a read 1234", nil, "fewer than"},
		{"no port", "a read 0123456789abcdef", []string{"--listen", "localhost"}, `listen "localhost"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("API_KEYS", tt.env)
			f, err := parse(t, "", tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			err = f.API.Faults()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("faults: %v; want %q", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "0123456789abcdef") || strings.Contains(err.Error(), "1234")) {
				t.Errorf("the fault tells a key: %v", err)
			}
		})
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	f, err := parse(t, "")
	if err != nil {
		t.Fatal(err)
	}
	f.Kafka.Brokers, f.Telemetry.TraceRatio, f.AdminListen = []string{"nowhere"}, 2, "x" // kong would stop at the first
	for _, want := range []string{"kafka-brokers", "trace-ratio", "admin-listen"} {
		if err := f.Settings.Faults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
	ran := false
	start := func(context.Context, *telemetry.Telemetry) error { ran = true; return nil }
	if err := f.Run(t.Context(), about, f.Settings.Faults(), start); err == nil || ran {
		t.Errorf("it ran with faults (%t): %v", ran, err)
	}
	f.CheckConfig = true
	if err := f.Run(t.Context(), about, nil, start); err != nil || ran {
		t.Errorf("it ran when only asked to judge (%t): %v", ran, err)
	}
}

func TestServe(t *testing.T) {
	f, err := parse(t, "", "--admin-listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api := free(t)
	ready := errors.New("still loading")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	drained := make(chan struct{})
	admin := free(t)
	f.AdminListen = admin
	done := make(chan error, 1)
	gate := make(chan struct{})
	go func() {
		done <- f.Run(ctx, about, nil, func(ctx context.Context, tel *telemetry.Telemetry) error {
			return f.Serve(ctx, about, tel, Parts{
				Run: []func(context.Context) error{func(ctx context.Context) error {
					<-ctx.Done()
					close(drained)
					return nil
				}},
				Checks: map[string]adminhttp.Check{"test": func(context.Context) error {
					select {
					case <-gate:
						return nil
					default:
						return ready
					}
				}},
				API: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), Listen: api, Drain: time.Second,
			})
		})
	}()
	await(t, "http://"+admin+"/readyz", http.StatusServiceUnavailable)
	close(gate)
	await(t, "http://"+admin+"/readyz", http.StatusOK)
	await(t, "http://"+api+"/", http.StatusTeapot)
	stop()
	if err := <-done; err != nil {
		t.Errorf("a requested stop returned %v", err)
	}
	<-drained
	if l, err := net.Listen("tcp", api); err != nil {
		t.Errorf("the address is still taken: %v", err)
	} else {
		_ = l.Close()
	}
}

func TestServeNamesTheAddressThatIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken, admin := l.Addr().String(), free(t)
	f := &flags{}
	f.AdminListen = admin
	err = f.Serve(t.Context(), about, telemetry.Silent(), Parts{API: http.NotFoundHandler(), Listen: taken, Drain: time.Second})
	if err == nil || !strings.Contains(err.Error(), "listen: ") || !strings.Contains(err.Error(), taken) {
		t.Errorf("%v; want the address named", err)
	}
	again, err := net.Listen("tcp", admin)
	if err != nil {
		t.Fatalf("the admin address was not given back: %v", err)
	}
	_ = again.Close()
	f.AdminListen = taken
	if err := f.Serve(t.Context(), about, telemetry.Silent(), Parts{Drain: time.Second}); err == nil || !strings.Contains(err.Error(), "admin-listen") {
		t.Errorf("%v; want admin-listen named", err)
	}
}

// A part that fails stops the others, and its error is the program's.
func TestServeStopsAllWhenAPartFails(t *testing.T) {
	f := &flags{}
	f.AdminListen = "127.0.0.1:0"
	broken := errors.New("broken")
	err := f.Serve(t.Context(), about, telemetry.Silent(), Parts{Drain: time.Second, Run: []func(context.Context) error{
		func(context.Context) error { return broken },
		func(ctx context.Context) error { <-ctx.Done(); return nil },
	}})
	if !errors.Is(err, broken) {
		t.Errorf("%v; want the part's error", err)
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func await(t *testing.T, url string, want int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	got := 0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := client.Do(r); err == nil {
			_ = res.Body.Close()
			if got = res.StatusCode; got == want {
				return
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("%s: status %d, want %d", url, got, want)
}
