package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is Serve with a handler, at work.
type server struct {
	t    *testing.T
	url  string
	stop context.CancelFunc
	done chan error
}

func serve(t *testing.T, h http.HandlerFunc, drain time.Duration) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &server{t: t, url: "http://" + l.Addr().String(), stop: stop, done: make(chan error, 1)}
	go func() { s.done <- Serve(ctx, l, h, drain) }()
	return s
}

// get sends a request from a goroutine of its own; the channel gives the body, or what went wrong.
func (s *server) get() <-chan string {
	out := make(chan string, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url, nil)
		if err != nil {
			out <- err.Error()
			return
		}
		res, err := client.Do(r)
		if err != nil {
			out <- err.Error()
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			out <- string(body) + "!" + err.Error()
			return
		}
		out <- string(body)
	}()
	return out
}

func (s *server) refuses() bool {
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

// A stop takes no new requests and lets those under way finish, whatever the context that asked for it.
func TestStopDrains(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-finish
		fmt.Fprint(w, "whole")
	}, time.Minute)
	got := s.get()
	<-entered
	s.stop()
	for !s.refuses() {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-s.done:
		t.Fatalf("Serve returned with a request under way: %v", err)
	default:
	}
	close(finish)
	if body := <-got; body != "whole" {
		t.Errorf("the request under way got %q", body)
	}
	if err := <-s.done; err != nil {
		t.Errorf("a requested stop returned %v", err)
	}
}

// Streams, which never end by themselves, end with their request's context, early enough not to fail the stop.
func TestStopEndsStreams(t *testing.T) {
	entered := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "one ")
		_ = http.NewResponseController(w).Flush()
		close(entered)
		<-r.Context().Done()
		fmt.Fprint(w, "last")
	}, 200*time.Millisecond)
	got := s.get()
	<-entered
	s.stop()
	if err := <-s.done; err != nil {
		t.Errorf("a stop with a stream open returned %v", err)
	}
	if body := <-got; body != "one last" {
		t.Errorf("the stream got %q", body)
	}
}

// A handler that outlives the drain time is cut off, and that is said.
func TestStopIsBounded(t *testing.T) {
	entered, over := make(chan struct{}), make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-over
	}, 20*time.Millisecond)
	got := s.get()
	<-entered
	s.stop()
	if err := <-s.done; !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "drain") {
		t.Errorf("%v; want the drain to have run out", err)
	}
	close(over)
	<-got
}

func TestServeSaysWhatFailed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), time.Second); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("%v; want the address named", err)
	}
}

func TestMainGivesOneExit(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{{"good", nil, 0}, {"stopped", context.Canceled, 0}, {"stopped, wrapped", fmt.Errorf("poll: %w", context.Canceled), 0}, {"bad", errors.New("no broker"), 1}} {
		if got := Main("test", func(context.Context) error { return tt.err }); got != tt.want {
			t.Errorf("%s: exit %d, want %d", tt.name, got, tt.want)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		got := Main("test", func(ctx context.Context) error {
			if err := syscall.Kill(os.Getpid(), sig); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		})
		if got != 0 {
			t.Errorf("%v: exit %d, want 0", sig, got)
		}
	}
}
