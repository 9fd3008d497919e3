package testbed

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisServer is a real redis-server.
type RedisServer struct {
	Addr string // host:port
	Log  string // path of its log

	dir  string
	args []string
	proc *process
}

// StartRedis runs a Redis of its own in dir. It writes its data only when told to
// (Dump), so that a kill loses what came after, as a failover does.
func StartRedis(ctx context.Context, dir string) (*RedisServer, error) {
	if err := Install(ctx, PartRedis, nil); err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	r := &RedisServer{Addr: loopback(ports[0]), Log: filepath.Join(dir, "redis.log"), dir: dir}
	r.args = []string{"--port", fmt.Sprint(ports[0]), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb", "--daemonize", "no"}
	return r, r.Start(ctx)
}

// Start starts it again after Kill or Stop, at the same address, with the data of
// the last Dump.
func (r *RedisServer) Start(ctx context.Context) (err error) {
	if r.proc, err = spawn("redis-server", r.Log, "redis-server", r.args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: r.Addr, MaxRetries: -1})
	defer c.Close()
	return r.proc.await(ctx, func(ctx context.Context) error { return c.Ping(ctx).Err() })
}

// Dump has it write its data now: what a later Start after Kill goes back to.
func (r *RedisServer) Dump(ctx context.Context) error {
	c := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer c.Close()
	if err := c.Save(ctx).Err(); err != nil {
		return fmt.Errorf("dump Redis: %w", err)
	}
	return nil
}

// DropDump forgets the last Dump: the next Start is empty.
func (r *RedisServer) DropDump() error {
	err := os.Remove(filepath.Join(r.dir, "dump.rdb"))
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// PID is the number of its process.
func (r *RedisServer) PID() int { return r.proc.cmd.Process.Pid }

// Kill ends it at once (kill -9).
func (r *RedisServer) Kill() error { return r.proc.kill() }

// Pause stops it in its tracks (SIGSTOP) until Resume.
func (r *RedisServer) Pause() error { return r.proc.signal(syscall.SIGSTOP) }

// Resume lets it go on after Pause.
func (r *RedisServer) Resume() error { return r.proc.signal(syscall.SIGCONT) }

// Stop ends it without writing its data.
func (r *RedisServer) Stop() error { return r.proc.end(5 * time.Second) }

// CLI runs redis-cli against it and returns what it prints.
func (r *RedisServer) CLI(ctx context.Context, args ...string) (string, error) {
	return RedisCLI(ctx, r.Addr, args...)
}

// RedisCLI runs redis-cli against a Redis and returns what it prints.
func RedisCLI(ctx context.Context, addr string, args ...string) (string, error) {
	if err := Install(ctx, PartRedis, nil); err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	out, err := output(ctx, "redis-cli", append([]string{"-e", "-h", host, "-p", port}, args...)...)
	return strings.TrimRight(out, "\n"), err
}
