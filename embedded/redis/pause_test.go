package redis

import (
	"testing"
	"time"
)

// TestTTLPause holds that expiry is exact to a second while it costs nothing to speak of, and that it never takes much of the time.
func TestTTLPause(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: time.Second, time.Millisecond: time.Second, 10 * time.Millisecond: 10 * time.Second, 50 * time.Millisecond: 50 * time.Second,
	} {
		if got := ttlPause(took); got != want {
			t.Errorf("after a look of %s, the next comes in %s, want %s", took, got, want)
		}
	}
}
