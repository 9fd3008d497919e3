package kafka

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var quietLog = slog.New(slog.DiscardHandler)

func TestEveryFaultIsSaid(t *testing.T) {
	good := Config{Brokers: []string{"a:1", "b:2"}}
	if err := good.Validate(); err != nil {
		t.Errorf("good settings: %v", err)
	}
	err := Config{Brokers: []string{"a"}, SASLMechanism: "GSSAPI", CertFile: "x"}.Validate()
	for _, want := range []string{`kafka-brokers "a"`, `kafka-sasl-mechanism "GSSAPI"`, "kafka-sasl-user", "kafka-cert-file and kafka-key-file", "kafka-tls"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
	if err := (Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "kafka-brokers") {
		t.Errorf("no brokers: %v", err)
	}
}

// authority is a certificate authority with files of a server's and a client's certificate.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) issue(t *testing.T, name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	c.SerialNumber, c.Subject = big.NewInt(a.n), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(a.file(name+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// server is TLS settings of a broker that asks for client certificates of the authority.
func (a *authority) server(t *testing.T) *tls.Config {
	t.Helper()
	a.issue(t, "server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}})
	a.issue(t, "client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	pair, err := tls.LoadX509KeyPair(a.file("server.crt"), a.file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
}

func start(t *testing.T, opts ...kfake.Opt) []string {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

// reach says whether a client of the settings is let in.
func reach(t *testing.T, c Config) error {
	t.Helper()
	client, err := c.Client(quietLog, "test", kgo.RequestRetries(0), kgo.RetryTimeout(2*time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return client.Ping(ctx)
}

func TestTLS(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	brokers := start(t, kfake.TLS(a.server(t)))
	good := Config{Brokers: brokers, TLS: true, CAFile: a.file("ca.crt"), CertFile: a.file("client.crt"), KeyFile: a.file("client.key")}
	if err := reach(t, good); err != nil {
		t.Errorf("with certificates: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"no client certificate":   func(c *Config) { c.CertFile, c.KeyFile = "", "" },
		"another's authority":     func(c *Config) { c.CAFile = other.file("ca.crt") },
		"public authorities only": func(c *Config) { c.CAFile = "" },
		"another's certificate":   func(c *Config) { c.CertFile, c.KeyFile = other.file("ca.crt"), other.file("ca.key") },
		"no TLS":                  func(c *Config) { *c = Config{Brokers: brokers} },
		"a key of another":        func(c *Config) { c.KeyFile = a.file("server.key") },
		"no such file":            func(c *Config) { c.CAFile = a.file("nothing") },
		"a file without PEM":      func(c *Config) { c.CAFile = a.file("client.key") },
	} {
		c := good
		change(&c)
		if err := reach(t, c); err == nil {
			t.Errorf("%s: it was let in", name)
		}
	}
}

func TestSASL(t *testing.T) {
	const user, pass = "onhand", "open sesame"
	passwords := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwords, []byte(pass+"\r\n"), 0o600); err != nil { // as editors and secret stores leave it
		t.Fatal(err)
	}
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			brokers := start(t, kfake.EnableSASL(), kfake.Superuser(mechanism, user, pass))
			c := Config{Brokers: brokers, SASLMechanism: mechanism, SASLUser: user, PasswordFile: passwords}
			if err := reach(t, c); err != nil {
				t.Errorf("password from a file: %v", err)
			}
			c.PasswordFile = ""
			if err := reach(t, c); err == nil || !strings.Contains(err.Error(), "KAFKA_SASL_PASSWORD") {
				t.Errorf("no password: %v", err)
			}
			t.Setenv("KAFKA_SASL_PASSWORD", pass)
			if err := reach(t, c); err != nil {
				t.Errorf("password from the environment: %v", err)
			}
			t.Setenv("KAFKA_SASL_PASSWORD", "close sesame")
			err := reach(t, c)
			if err == nil {
				t.Error("a wrong password was let in")
			} else if strings.Contains(err.Error(), "sesame") {
				t.Errorf("the error tells the password: %v", err)
			}
			c.PasswordFile = passwords + "x"
			if err := reach(t, c); err == nil || !strings.Contains(err.Error(), "kafka-sasl-password-file") {
				t.Errorf("no such file: %v", err)
			}
			if err := reach(t, Config{Brokers: brokers}); err == nil {
				t.Error("a client without SASL was let in")
			}
		})
	}
}

func TestTLSAndSASLTogether(t *testing.T) {
	a := newAuthority(t)
	brokers := start(t, kfake.TLS(a.server(t)), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "onhand", "open sesame"))
	t.Setenv("KAFKA_SASL_PASSWORD", "open sesame")
	c := Config{Brokers: brokers, TLS: true, CAFile: a.file("ca.crt"), CertFile: a.file("client.crt"), KeyFile: a.file("client.key"), SASLMechanism: "SCRAM-SHA-512", SASLUser: "onhand"}
	if err := reach(t, c); err != nil {
		t.Error(err)
	}
}

// Topics are made as asked, those that are there stay as they are, and several programs may make them at once.
func TestEnsureTopics(t *testing.T) {
	c := Config{Brokers: start(t)}
	want := []Topic{{Name: "kept", Partitions: 3, Configs: Retention(0)}, {Name: "short", Partitions: 5, Configs: Retention(time.Hour)}}
	failed := make(chan error, 4)
	for range cap(failed) {
		go func() {
			client, err := c.Client(quietLog, "test")
			if err == nil {
				err = EnsureTopics(context.WithoutCancel(t.Context()), client, 1, want)
				client.Close()
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	client, err := c.Client(quietLog, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := EnsureTopics(t.Context(), client, 1, []Topic{{Name: "kept", Partitions: 9}}); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(client)
	got, err := adm.ListTopics(t.Context())
	if err != nil || len(got["kept"].Partitions) != 3 || len(got["short"].Partitions) != 5 {
		t.Errorf("%v, %v", got, err)
	}
	configs, err := adm.DescribeTopicConfigs(t.Context(), "kept", "short")
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range configs {
		for _, x := range topic.Configs {
			if x.Key == "retention.ms" && x.MaybeValue() != map[string]string{"kept": "-1", "short": "3600000"}[topic.Name] {
				t.Errorf("%s: retention.ms = %s", topic.Name, x.MaybeValue())
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	away, err := Config{Brokers: []string{"127.0.0.1:1"}}.Client(quietLog, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	if err := EnsureTopics(ctx, away, 1, want); err == nil {
		t.Error("without a cluster it made topics")
	}
}

func TestTopicsWaitForBrokers(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	refused := 0
	cluster.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if refused++; refused > 2 {
			return nil, nil, false
		}
		asked := req.(*kmsg.CreateTopicsRequest)
		resp := asked.ResponseKind().(*kmsg.CreateTopicsResponse)
		for _, a := range asked.Topics {
			r := kmsg.NewCreateTopicsResponseTopic()
			r.Topic, r.ErrorCode = a.Topic, kerr.InvalidReplicationFactor.Code
			resp.Topics = append(resp.Topics, r)
		}
		return resp, nil, true
	})
	client, err := Config{Brokers: cluster.ListenAddrs()}.Client(quietLog, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := EnsureTopics(t.Context(), client, 1, []Topic{{Name: "t", Partitions: 1}}); err != nil {
		t.Fatalf("a broker that is not counted yet is not waited for: %v", err)
	}
	if refused != 3 {
		t.Errorf("the topic was asked for %d times, want 3", refused)
	}
}

// A broker that starts again while a service starts is waited for.
func TestTopicsWaitForAClusterThatIsAway(t *testing.T) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := port.Addr().(*net.TCPAddr)
	if err := port.Close(); err != nil {
		t.Fatal(err)
	}
	tried := make(chan struct{}, 1)
	client, err := Config{Brokers: []string{addr.String()}}.Client(quietLog, "test", kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, host)
		if err != nil {
			select {
			case tried <- struct{}{}:
			default:
			}
		}
		return c, err
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	made := make(chan error, 1)
	go func() { made <- EnsureTopics(t.Context(), client, 1, []Topic{{Name: "t", Partitions: 1}}) }()
	<-tried
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(addr.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	if err := <-made; err != nil {
		t.Errorf("a cluster that was away is not waited for: %v", err)
	}
}

// Keys go to the partitions that Kafka's own clients would send them to: these are what its murmur2 gives.
func TestKeysGoWhereKafkasOwnClientsSendThem(t *testing.T) {
	brokers := start(t, kfake.SeedTopics(32, "t"))
	client, err := Config{Brokers: brokers}.Client(quietLog, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for key, hash := range map[string]int32{ // of org.apache.kafka.common.utils.Utils.murmur2, as Kafka's own tests have it
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		r := &kgo.Record{Topic: "t", Key: []byte(key)}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if want := hash & 0x7fffffff % 32; r.Partition != want {
			t.Errorf("%s went to partition %d, want %d", key, r.Partition, want)
		}
	}
}

func TestHurryEndsALinger(t *testing.T) {
	brokers := start(t, kfake.SeedTopics(1, "t"))
	client, err := Config{Brokers: brokers}.Client(quietLog, "test", kgo.ProducerLinger(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	acked := make(chan error, 2)
	client.Produce(t.Context(), &kgo.Record{Topic: "t", Value: []byte("before")}, func(_ *kgo.Record, err error) { acked <- err })
	if err := errors.Join(client.Flush(t.Context()), <-acked); err != nil {
		t.Fatal(err)
	}
	client.Produce(t.Context(), &kgo.Record{Topic: "t", Value: []byte("now")}, func(_ *kgo.Record, err error) { acked <- err })
	Hurry(client)
	select {
	case err := <-acked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the record lingers though it was to hurry")
	}
}

// The client's chatter stays out of the log unless debug is on.
func TestTheLogIsQuiet(t *testing.T) {
	for level, want := range map[slog.Level]map[slog.Level]bool{
		slog.LevelInfo:  {slog.LevelDebug: false, slog.LevelInfo: false, slog.LevelWarn: true},
		slog.LevelDebug: {slog.LevelDebug: true, slog.LevelInfo: true, slog.LevelWarn: true},
		slog.LevelError: {slog.LevelWarn: false, slog.LevelError: true},
	} {
		log := quiet(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
		for l, shown := range want {
			if log.Enabled(t.Context(), l) != shown {
				t.Errorf("log at %v: %v is shown: %t, want %t", level, l, !shown, shown)
			}
		}
	}
}
