package ingest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// idempotency remembers requests by their Idempotency-Key in Redis: a hash per key (onhand:idempotency:<digest>) with the digest of the body, the
// state and, once there is one, the answer.
//
// A key belongs to its first body for the whole time to live, even when the request failed: events without an id take theirs from the key, so that
// another body under the same key would be dropped by the ledger as a repeat.
type idempotency struct {
	redis      redis.UniversalClient
	ttl, lease time.Duration
}

func newIdempotency(r redis.UniversalClient, ttl, lease time.Duration) *idempotency {
	return &idempotency{redis: r, ttl: ttl, lease: lease}
}

type claimState int

const (
	claimed  claimState = iota // go on, and finish or release
	answered                   // the answer is there
	busy                       // the same request is under way
	conflict                   // the key has another body
)

type claim struct {
	state  claimState
	status int           // answered
	ctype  string        // answered
	body   []byte        // answered
	wait   time.Duration // busy: at most so long

	key, token string // claimed
}

// claimScript: KEYS[1] the hash; ARGV digest, now (ms), lease (ms), time to live (ms), token.
var claimScript = redis.NewScript(`
local v = redis.call('HMGET', KEYS[1], 'digest', 'state', 'until', 'status', 'type', 'answer')
if v[1] and v[1] ~= ARGV[1] then return {'conflict'} end
if v[2] == 'done' then return {'answered', v[4], v[5], v[6]} end
if v[2] == 'open' and tonumber(v[3]) > tonumber(ARGV[2]) then return {'busy', tostring(tonumber(v[3]) - tonumber(ARGV[2]))} end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'state', 'open', 'until', tostring(tonumber(ARGV[2]) + tonumber(ARGV[3])), 'token', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'claimed'}`)

// endScript: KEYS[1] the hash; ARGV token, state (done or free), status, type, answer. It changes nothing when another has taken over.
var endScript = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'until', '0', 'status', ARGV[3], 'type', ARGV[4], 'answer', ARGV[5])
return 1`)

// begin claims the key for a body. scope keeps the keys of different callers and routes apart.
func (i *idempotency) begin(ctx context.Context, scope, key string, digest [sha256.Size]byte) (claim, error) {
	name := sha256.Sum256([]byte(scope + "\x00" + key))
	c := claim{key: "onhand:idempotency:" + hex.EncodeToString(name[:16]), token: rand.Text()}
	res, err := claimScript.Run(ctx, i.redis, []string{c.key}, hex.EncodeToString(digest[:]), time.Now().UnixMilli(), i.lease.Milliseconds(),
		i.ttl.Milliseconds(), c.token).StringSlice()
	if err != nil {
		return c, fmt.Errorf("idempotency key: %w", err)
	}
	switch res[0] {
	case "claimed":
		c.state = claimed
	case "conflict":
		c.state = conflict
	case "busy":
		ms, _ := strconv.ParseInt(res[1], 10, 64)
		c.state, c.wait = busy, time.Duration(ms)*time.Millisecond
	case "answered":
		c.state, c.ctype, c.body = answered, res[2], []byte(res[3])
		if c.status, err = strconv.Atoi(res[1]); err != nil {
			return c, fmt.Errorf("idempotency key %s: status %q", c.key, res[1])
		}
	}
	return c, nil
}

// finish keeps the answer.
func (i *idempotency) finish(ctx context.Context, c claim, status int, ctype string, body []byte) error {
	return i.end(ctx, c, "done", status, ctype, body)
}

// release lets the same body try again; the key stays bound to it.
func (i *idempotency) release(ctx context.Context, c claim) error {
	return i.end(ctx, c, "free", 0, "", nil)
}

func (i *idempotency) end(ctx context.Context, c claim, state string, status int, ctype string, body []byte) error {
	if err := endScript.Run(ctx, i.redis, []string{c.key}, c.token, state, status, ctype, body).Err(); err != nil {
		return fmt.Errorf("idempotency key: %w", err)
	}
	return nil
}
