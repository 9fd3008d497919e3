package channelpusher

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// The flags' defaults and DefaultConfig are written twice: they must agree.
func TestDefaultsAgree(t *testing.T) {
	var f struct {
		Pusher Config `embed:""`
	}
	p, err := kong.New(&f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(nil); err != nil {
		t.Fatal(err)
	}
	if f.Pusher != DefaultConfig() {
		t.Errorf("flags say %+v, DefaultConfig %+v", f.Pusher, DefaultConfig())
	}
	if err := f.Pusher.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	c := DefaultConfig()
	c.Linger, c.DriftSample, c.BreakerFailures, c.Drain = -1, 101, 0, 0
	err := c.Validate()
	for _, name := range []string{"linger", "drift-sample", "breaker-failures", "drain"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}
