package redis_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	client "github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/embedded/redis"
)

// TestRedis holds that keys expire by the clock, that Lua runs, and what a taken
// port says.
func TestRedis(t *testing.T) {
	r, err := redis.Start(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	c := client.NewClient(&client.Options{Addr: r.Addr()})
	defer c.Close()
	ctx := t.Context()
	if err := c.Set(ctx, "k", "v", 30*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(ctx, "lasting", "v", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); c.Exists(ctx, "k").Val() == 1; {
		if time.Now().After(end) {
			t.Fatal("a key with a time to live of 30 ms is still there")
		}
	}
	if n, err := c.Eval(ctx, "return redis.call('EXISTS', KEYS[1])", []string{"lasting"}).Int(); n != 1 || err != nil {
		t.Errorf("Lua: %d, %v", n, err)
	}
	_, text, _ := strings.Cut(r.Addr(), ":")
	port, _ := strconv.Atoi(text)
	if _, err := redis.Start(port); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("a taken port: %v", err)
	}
}
