package ingest

import (
	"errors"
	"fmt"
	"time"
)

// Config is what the service can be told.
type Config struct {
	MaxBody              int64         `help:"Most bytes of a JSON body, and of a stream sent with an Idempotency-Key, once unpacked." default:"8388608" env:"INGEST_MAX_BODY"`
	MaxStream            int64         `help:"Most bytes of an NDJSON stream, once unpacked." default:"4294967296" env:"INGEST_MAX_STREAM"`
	MaxLine              int           `help:"Most bytes of one line of a stream." default:"524288" env:"INGEST_MAX_LINE"`
	MaxBatch             int           `help:"Most items of a JSON array." default:"10000" env:"INGEST_MAX_BATCH"`
	MaxStreamItems       int           `help:"Most items of an NDJSON stream." default:"5000000" env:"INGEST_MAX_STREAM_ITEMS"`
	MaxQuantity          int64         `help:"Most units of one line or event; more is taken for a mistake." default:"10000000" env:"INGEST_MAX_QUANTITY"`
	MaxAhead             time.Duration `help:"How far a time of the sender may be ahead of Onhand's clock." default:"24h" env:"INGEST_MAX_AHEAD"`
	RequestsPerSecond    float64       `help:"Requests a second that each API key may make; 0 for no limit." default:"5000" env:"INGEST_REQUESTS_PER_SECOND"`
	Burst                int           `help:"Requests that an API key may make at once after a pause." default:"10000" env:"INGEST_BURST"`
	AckTimeout           time.Duration `help:"Longest wait for Kafka to acknowledge, before 503." default:"15s" env:"INGEST_ACK_TIMEOUT"`
	Linger               time.Duration `help:"How long a record waits for others to go with it; one about a reservation does not." default:"2ms" env:"INGEST_LINGER"`
	IdleTimeout          time.Duration `help:"Longest pause within a request's body." default:"30s" env:"INGEST_IDLE_TIMEOUT"`
	IdempotencyTTL       time.Duration `help:"How long an Idempotency-Key and its answer are remembered." default:"24h" env:"INGEST_IDEMPOTENCY_TTL"`
	Session              time.Duration `help:"How long an instance may be silent before its partitions of orders.in go to another; the broker bounds it." default:"10s" env:"INGEST_SESSION"`
	Drain                time.Duration `help:"Longest wait for requests under way when stopping." default:"10s" env:"INGEST_DRAIN"`
	SweepInterval        time.Duration `help:"How often the order lists of channels that have one are swept for orders whose webhooks were lost; 0 never." env:"INGEST_SWEEP_INTERVAL"`
	SweepOverlap         time.Duration `help:"How much of the time before the last sweep a sweep asks for again." default:"2m" env:"INGEST_SWEEP_OVERLAP"`
	SweepReach           time.Duration `help:"How far back the first sweep of a channel asks." default:"24h" env:"INGEST_SWEEP_REACH"`
	ReservationTTL       time.Duration `help:"How long a reservation is held that does not say." default:"15m" env:"INGEST_RESERVATION_TTL"`
	ReservationMaxTTL    time.Duration `help:"Longest time that a reservation may be held for at once." default:"24h" env:"INGEST_RESERVATION_MAX_TTL"`
	ReservationMaxItems  int           `help:"Most SKUs of one reservation." default:"100" env:"INGEST_RESERVATION_MAX_ITEMS"`
	ReservationTimeout   time.Duration `help:"Longest wait for the ledger to decide on a reservation, before 504; one of several SKUs is given up after twice as long." default:"5s" env:"INGEST_RESERVATION_TIMEOUT"`
	SecretsDir           string        `help:"Folder of files that hold channels' tokens, for sweeps, each named like its secret; the environment's ONHAND_SECRET_<NAME> comes first." env:"SECRETS_DIR"`
	AllowPrivateChannels bool          `help:"Let a channel's base_url name a loopback or private address." env:"INGEST_ALLOW_PRIVATE_CHANNELS"`
}

// DefaultConfig is the configuration without any setting: the defaults of the flags.
func DefaultConfig() Config {
	return Config{
		MaxBody: 8 << 20, MaxStream: 4 << 30, MaxLine: 512 << 10, MaxBatch: 10_000, MaxStreamItems: 5_000_000, MaxQuantity: 10_000_000,
		MaxAhead: 24 * time.Hour, RequestsPerSecond: 5000, Burst: 10_000, AckTimeout: 15 * time.Second, Linger: 2 * time.Millisecond,
		IdleTimeout: 30 * time.Second, IdempotencyTTL: 24 * time.Hour, Session: 10 * time.Second, Drain: 10 * time.Second, SweepOverlap: 2 * time.Minute, SweepReach: 24 * time.Hour,
		ReservationTTL: 15 * time.Minute, ReservationMaxTTL: 24 * time.Hour, ReservationMaxItems: 100, ReservationTimeout: 5 * time.Second,
	}
}

// Validate reports every fault of the settings.
func (c Config) Validate() error {
	var errs []error
	positive := func(name string, v int64) {
		if v <= 0 {
			errs = append(errs, fmt.Errorf("%s: want more than 0, not %d", name, v))
		}
	}
	positive("max-body", c.MaxBody)
	positive("max-stream", c.MaxStream)
	positive("max-line", int64(c.MaxLine))
	positive("max-batch", int64(c.MaxBatch))
	positive("max-stream-items", int64(c.MaxStreamItems))
	positive("max-quantity", c.MaxQuantity)
	positive("ack-timeout", int64(c.AckTimeout))
	positive("idle-timeout", int64(c.IdleTimeout))
	positive("idempotency-ttl", int64(c.IdempotencyTTL))
	positive("drain", int64(c.Drain))
	if c.Session < time.Second {
		errs = append(errs, fmt.Errorf("session: want at least 1s, and what the broker allows (6s by default), not %v", c.Session))
	}
	if c.SweepInterval != 0 && c.SweepInterval < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("sweep-interval: want 0 for never, or 10ms or more, not %v", c.SweepInterval))
	}
	if c.SweepOverlap < 0 || c.SweepReach < 0 {
		errs = append(errs, fmt.Errorf("sweep-overlap and sweep-reach: want 0 or more, not %v and %v", c.SweepOverlap, c.SweepReach))
	}
	positive("reservation-max-items", int64(c.ReservationMaxItems))
	if c.ReservationMaxTTL < time.Second || c.ReservationMaxTTL > 7*24*time.Hour {
		errs = append(errs, fmt.Errorf("reservation-max-ttl: want 1s to 168h, not %v: decisions are kept for eight days", c.ReservationMaxTTL))
	}
	if c.ReservationTTL < time.Second || c.ReservationTTL > c.ReservationMaxTTL {
		errs = append(errs, fmt.Errorf("reservation-ttl: want 1s to reservation-max-ttl, not %v", c.ReservationTTL))
	}
	if c.ReservationTimeout < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("reservation-timeout: want 100ms or more, not %v", c.ReservationTimeout))
	}
	if c.MaxAhead < 0 {
		errs = append(errs, fmt.Errorf("max-ahead: want 0 or more, not %v", c.MaxAhead))
	}
	if c.AckTimeout > 0 && c.AckTimeout < time.Second {
		errs = append(errs, fmt.Errorf("ack-timeout: want 1s or more, not %v", c.AckTimeout))
	}
	if c.Linger < 0 || c.Linger > time.Second {
		errs = append(errs, fmt.Errorf("linger: want 0 to 1s, not %v", c.Linger))
	}
	if c.RequestsPerSecond < 0 {
		errs = append(errs, fmt.Errorf("requests-per-second: want 0 or more, not %g", c.RequestsPerSecond))
	}
	if c.RequestsPerSecond > 0 && c.Burst < 1 {
		errs = append(errs, fmt.Errorf("burst: want 1 or more, not %d", c.Burst))
	}
	return errors.Join(errs...)
}
