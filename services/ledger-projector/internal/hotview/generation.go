package hotview

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed freeze.lua
var freezeSource string

//go:embed thaw.lua
var thawSource string

//go:embed switch.lua
var switchSource string

var (
	freezeScript = redis.NewScript(freezeSource)
	thawScript   = redis.NewScript(thawSource)
	switchScript = redis.NewScript(switchSource)
)

// Outcomes of a switch that did not take place.
var (
	// ErrMoved reports that another generation became the live one meanwhile.
	ErrMoved = errors.New("another generation is live")
	// ErrThawed reports that the live generation was claimed meanwhile: freeze it again.
	ErrThawed = errors.New("the live generation is no longer frozen")
	// ErrBehind reports that the two generations are not at the same offset.
	ErrBehind = errors.New("the generations are at different offsets")
)

// LiveGeneration is the generation of a partition that is served.
func LiveGeneration(ctx context.Context, c redis.UniversalClient, ns Namespace, p int32) (Generation, error) {
	prefix, err := c.Get(ctx, ns.Live(p)).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", ns.Live(p), err)
	}
	g, ok := ns.parsePrefix(p, prefix)
	if !ok {
		return 0, fmt.Errorf("%s is %q, which is no prefix of the ledger's: set it to the prefix of the partition's keys, or delete it and restart the ledger-projector to fold anew", ns.Live(p), prefix)
	}
	return g, nil
}

// Freeze takes the live generation g of a partition from its owner, for who to catch up with it, and keeps others from claiming it for a while. It returns the
// offset that it is at.
func Freeze(ctx context.Context, c redis.UniversalClient, ns Namespace, p int32, g Generation, who string, d time.Duration) (int64, error) {
	prefix := ns.Prefix(p, g)
	out, err := freezeScript.Run(ctx, c, []string{ns.Live(p), prefix + "meta"}, prefix, who, int64(max(d, 2*time.Second)/time.Second)).StringSlice()
	if err != nil {
		return 0, fmt.Errorf("freeze %s: %w", prefix, err)
	}
	if len(out) < 2 || out[0] != "frozen" {
		return 0, fmt.Errorf("freeze %s: %w", prefix, ErrMoved)
	}
	offset, err := strconv.ParseInt(out[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("freeze %s: %w: its offset is %q", prefix, ErrDamaged, out[1])
	}
	return offset, nil
}

// Thaw gives a frozen generation back to whoever claims it.
func Thaw(ctx context.Context, c redis.UniversalClient, ns Namespace, p int32, g Generation, who string) error {
	prefix := ns.Prefix(p, g)
	if err := thawScript.Run(ctx, c, []string{prefix + "meta"}, who).Err(); err != nil {
		return fmt.Errorf("thaw %s: %w", prefix, err)
	}
	return nil
}

// SwitchOptions say what is special about a switch.
type SwitchOptions struct {
	EmitAll      bool // the next owner emits all levels again
	AnyOffset    bool // the old generation is of no use, wherever it is
	TakeOversold bool // the count of units oversold is the old generation's
}

// Switch makes the store's generation the live one, instead of one that was frozen by who and is at the same offset. The next owner finds the output
// that the last one had under way.
func (s *Store) Switch(ctx context.Context, from Generation, who string, o SwitchOptions) error {
	old := s.ns.Prefix(s.partition, from)
	r, err := switchScript.Run(ctx, s.client, []string{s.ns.Live(s.partition), old + "meta", s.key("meta"), old + "outbox", s.key("outbox")}, old, s.prefix, who, s.owner, o.EmitAll, o.AnyOffset, o.TakeOversold).Text()
	switch {
	case err != nil:
		return fmt.Errorf("switch %s: %w", s.prefix, err)
	case r == "done":
		return nil
	case r == "moved":
		return fmt.Errorf("switch %s: %w", s.prefix, ErrMoved)
	case r == "thawed":
		return fmt.Errorf("switch %s: %w", s.prefix, ErrThawed)
	case r == "offset":
		return fmt.Errorf("switch %s: %w", s.prefix, ErrBehind)
	}
	return fmt.Errorf("switch %s: %w", s.prefix, ErrOwner)
}

// Drop deletes a generation of a partition that is not the live one. It can be cut off anywhere and begun again: meta goes last.
func Drop(ctx context.Context, c redis.UniversalClient, ns Namespace, p int32, g Generation) error {
	live, err := LiveGeneration(ctx, c, ns, p)
	if err != nil {
		return err
	}
	prefix := ns.Prefix(p, g)
	if live == g {
		return fmt.Errorf("drop %s: it is the live generation", prefix)
	}
	unlink := func(keys []string) error {
		if len(keys) == 0 {
			return nil
		}
		if err := c.Unlink(ctx, keys...).Err(); err != nil {
			return fmt.Errorf("drop %s: %w", prefix, err)
		}
		return nil
	}
	// Whoever still writes it loses it first.
	if n, err := c.Exists(ctx, prefix+"meta").Result(); err != nil {
		return fmt.Errorf("drop %s: %w", prefix, err)
	} else if n > 0 {
		if err := c.HSet(ctx, prefix+"meta", "owner", "", "clearing", "1").Err(); err != nil {
			return fmt.Errorf("drop %s: %w", prefix, err)
		}
	}
	var cursor uint64
	for {
		names, next, err := c.SScan(ctx, prefix+"skus", cursor, "", 1000).Result()
		if err != nil {
			return fmt.Errorf("drop %s: %w", prefix, err)
		}
		keys := make([]string, len(names))
		for i, n := range names {
			keys[i] = prefix + "sku:" + n
		}
		if err := unlink(keys); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	chunks, err := c.HKeys(ctx, prefix+"journal").Result()
	if err != nil {
		return fmt.Errorf("drop %s: %w", prefix, err)
	}
	keys := make([]string, 0, len(chunks)+6)
	for _, n := range chunks {
		keys = append(keys, prefix+"journal:"+n)
	}
	for _, n := range strings.Fields("skus journal locations outbox digest meta") {
		keys = append(keys, prefix+n)
	}
	return unlink(keys)
}

// Generations is the generations of a partition that something is stored of, below a bound.
func Generations(ctx context.Context, c redis.UniversalClient, ns Namespace, p int32, below Generation) ([]Generation, error) {
	pipe := c.Pipeline()
	cmds := make([]*redis.IntCmd, below)
	for g := range below {
		cmds[g] = pipe.Exists(ctx, ns.Prefix(p, g)+"meta")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("generations of partition %d: %w", p, err)
	}
	var out []Generation
	for g, cmd := range cmds {
		if cmd.Val() > 0 {
			out = append(out, Generation(g))
		}
	}
	return out, nil
}

// Unfinished marks the store's generation as of no use to anybody, or as finished. Until it is finished, a crash makes it begin anew.
func (s *Store) Unfinished(ctx context.Context, yes bool) error {
	r, err := ownedScript.Run(ctx, s.client, []string{s.key("meta")}, s.owner, "clearing", yes).Text()
	return outcome("mark "+s.prefix, r, err)
}
