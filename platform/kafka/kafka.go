// Package kafka connects to a Kafka cluster: addresses, TLS and SASL from settings, and topics made as a specification says.
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/plugin/kslog"

	"github.com/onhand/onhand/platform/credentials"
)

// Config says how to reach the cluster. The password comes from a file or the environment only.
type Config struct {
	Brokers       []string `help:"Seed brokers, host:port." default:"127.0.0.1:9092" env:"KAFKA_BROKERS"`
	TLS           bool     `help:"Connect with TLS." env:"KAFKA_TLS"`
	CAFile        string   `help:"PEM file of the certificate authority, when it is not a public one." env:"KAFKA_CA_FILE"`
	CertFile      string   `help:"PEM file of the client certificate." env:"KAFKA_CERT_FILE"`
	KeyFile       string   `help:"PEM file of the client key." env:"KAFKA_KEY_FILE"`
	SASLMechanism string   `help:"SASL mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty for none." env:"KAFKA_SASL_MECHANISM"`
	SASLUser      string   `help:"SASL user." env:"KAFKA_SASL_USER"`
	PasswordFile  string   `help:"File that holds the SASL password; without it KAFKA_SASL_PASSWORD is read." env:"KAFKA_SASL_PASSWORD_FILE"`
	Partitions    int32    `help:"Partitions of topics that are made; existing topics keep theirs." default:"32" env:"KAFKA_PARTITIONS"`
	Replication   int16    `help:"Replicas of topics that are made; -1 takes the cluster's default." default:"-1" env:"KAFKA_REPLICATION"`
}

// Validate reports every fault of the settings.
func (c Config) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("kafka-brokers: name at least one host:port"))
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			errs = append(errs, fmt.Errorf("kafka-brokers %q: want host:port", b))
		}
	}
	switch c.SASLMechanism {
	case "", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
	default:
		errs = append(errs, fmt.Errorf("kafka-sasl-mechanism %q: want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.SASLMechanism))
	}
	if c.SASLMechanism != "" && c.SASLUser == "" {
		errs = append(errs, errors.New("kafka-sasl-user: a mechanism needs a user"))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("kafka-cert-file and kafka-key-file: give both or neither"))
	}
	if !c.TLS && (c.CAFile != "" || c.CertFile != "") {
		errs = append(errs, errors.New("kafka-tls: certificates were given and TLS is off: switch it on, or leave them out"))
	}
	return errors.Join(errs...)
}

// Client connects with the settings and what more the caller wants of the client. It does not reach out before the first use.
func (c Config) Client(log *slog.Logger, clientID string, more ...kgo.Opt) (*kgo.Client, error) {
	opts, err := c.options(log, clientID, more)
	if err != nil {
		return nil, err
	}
	return kgo.NewClient(opts...)
}

// Session connects as [Config.Client] does, to consume in a group and to write in transactions that hold what was written and the group's offsets together. More must
// name the group and the transactional id.
func (c Config) Session(log *slog.Logger, clientID string, more ...kgo.Opt) (*kgo.GroupTransactSession, error) {
	opts, err := c.options(log, clientID, more)
	if err != nil {
		return nil, err
	}
	return kgo.NewGroupTransactSession(opts...)
}

func (c Config) options(log *slog.Logger, clientID string, more []kgo.Opt) ([]kgo.Opt, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...), kgo.ClientID(clientID), kgo.WithLogger(kslog.New(quiet(log))),
		kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil)}), // Kafka's own murmur2: the contract of all topics by SKU
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.RecordDeliveryTimeout(time.Minute),
		kgo.DisableFetchSessions(), // a client that closes forgets its session while the last answer may still be entered in it: a race, and at worst a panic, in franz-go 1.22
		kgo.FetchMaxBytes(8 << 20), // of each broker: many small reads cost no more than a few huge ones, and take less memory at once
	}
	if c.TLS {
		conf, err := c.tlsConfig()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(conf))
	}
	if c.SASLMechanism != "" {
		m, err := c.sasl()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	return append(opts, more...), nil
}

// Hurry has a client send at once what it has buffered and would let linger: somebody waits for it. It does not wait for the answers. The first records
// of a topic linger all the same: the client has to ask where to send them.
func Hurry(client *kgo.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = client.Flush(ctx) // it says that nobody waited for the answers
}

// Close has a member leave its group and closes its client, and waits for that no longer than it is told: a join that is under way must end first, and it lasts until
// the sessions of members that died have ended. What is left then goes on by itself, and ends with the process at the latest.
func Close(client *kgo.Client, within time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		client.CloseAllowingRebalance()
	}()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// quiet keeps the client's chatter below warning out of the log unless debug is on.
func quiet(log *slog.Logger) *slog.Logger {
	return slog.New(levelFilter{log.Handler()})
}

type levelFilter struct{ slog.Handler }

func (f levelFilter) Enabled(ctx context.Context, l slog.Level) bool {
	if l < slog.LevelWarn && !f.Handler.Enabled(ctx, slog.LevelDebug) {
		return false
	}
	return f.Handler.Enabled(ctx, l)
}

func (c Config) tlsConfig() (*tls.Config, error) {
	conf, err := credentials.TLS("kafka-ca-file", c.CAFile)
	if err != nil {
		return nil, err
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("kafka-cert-file: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

func (c Config) sasl() (sasl.Mechanism, error) {
	password, err := credentials.Password("kafka-sasl-password-file", c.PasswordFile, "KAFKA_SASL_PASSWORD")
	if err != nil {
		return nil, err
	}
	if password == "" {
		return nil, errors.New("kafka-sasl-password-file: name a file, or set KAFKA_SASL_PASSWORD")
	}
	switch c.SASLMechanism {
	case "PLAIN":
		return plain.Auth{User: c.SASLUser, Pass: password}.AsMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: c.SASLUser, Pass: password}.AsSha256Mechanism(), nil
	default:
		return scram.Auth{User: c.SASLUser, Pass: password}.AsSha512Mechanism(), nil
	}
}

// Topic is what a topic should be like.
type Topic struct {
	Name       string
	Partitions int32
	Configs    map[string]string
}

// brokersWithin is how long EnsureTopics waits for as many brokers as a topic is to be on: one that has just started, or was silent for a moment, does not count yet.
const brokersWithin = 10 * time.Second

// reachedWithin is how long EnsureTopics waits for a cluster that cannot be reached: a broker that starts again is away for some seconds.
const reachedWithin = 30 * time.Second

// EnsureTopics makes the topics that do not exist yet. Topics that exist are left as they are. It waits until all can be used. A replication factor that the cluster has too few brokers for is an
// error once they have been waited for, and so is a cluster that cannot be reached.
func EnsureTopics(ctx context.Context, client *kgo.Client, replication int16, topics []Topic) error {
	adm := kadm.NewClient(client)
	var names []string
	for _, t := range topics {
		configs := make(map[string]*string, len(t.Configs))
		for k, v := range t.Configs {
			configs[k] = &v
		}
		for began := time.Now(); ; {
			_, err := adm.CreateTopic(ctx, t.Partitions, replication, configs, t.Name)
			if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
				break
			}
			patience := time.Duration(0)
			switch unreached := (*net.OpError)(nil); {
			case errors.Is(err, kerr.InvalidReplicationFactor):
				patience = brokersWithin
			case errors.As(err, &unreached):
				patience = reachedWithin
			}
			if time.Since(began) > patience {
				return fmt.Errorf("create topic %s: %w", t.Name, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("create topic %s: %w", t.Name, errors.Join(ctx.Err(), err))
			case <-time.After(200 * time.Millisecond):
			}
		}
		names = append(names, t.Name)
	}
	for {
		found, err := adm.ListTopics(ctx, names...)
		if err == nil && found.Error() == nil && len(found) == len(names) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topics %s: %w", strings.Join(names, ", "), errors.Join(ctx.Err(), err, found.Error()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Retention is the topic settings that keep records for d, or for ever when d is 0.
func Retention(d time.Duration) map[string]string {
	if d == 0 {
		return map[string]string{"retention.ms": "-1", "retention.bytes": "-1"}
	}
	return map[string]string{"retention.ms": strconv.FormatInt(d.Milliseconds(), 10)}
}
