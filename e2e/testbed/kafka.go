package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// KafkaServer is a real Apache Kafka, broker and controller in one process.
type KafkaServer struct {
	Addr string // host:port
	Log  string // path of its log

	dir  string
	args []string
	proc *process
}

// kafkaSettings make a single node quick to start and to rebalance.
const kafkaSettings = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s
advertised.listeners=PLAINTEXT://%[1]s
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=%[3]s
num.partitions=8
auto.create.topics.enable=false
offsets.topic.num.partitions=8
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
controller.quorum.election.timeout.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=500
group.consumer.min.session.timeout.ms=2000
group.consumer.session.timeout.ms=6000
message.max.bytes=10485760
replica.fetch.max.bytes=10485760
`

// StartKafka runs a Kafka of its own with its data in dir, which must be empty or
// a former one's. It is ready when it returns.
func StartKafka(ctx context.Context, dir string) (*KafkaServer, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	if err := Install(ctx, PartKafka, nil); err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	config, data := filepath.Join(dir, "server.properties"), filepath.Join(dir, "data")
	k := &KafkaServer{Addr: loopback(ports[0]), Log: filepath.Join(dir, "kafka.log"), dir: dir}
	if err := os.WriteFile(config, fmt.Appendf(nil, kafkaSettings, k.Addr, loopback(ports[1]), data), 0o644); err != nil {
		return nil, err
	}
	java := []string{"-Xms256m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4", "-Djava.awt.headless=true", "-cp", filepath.Join(kafkaDir(root), "lib", "*")}
	format := exec.CommandContext(ctx, "java", append(java, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", "b25oYW5kLXRlc3RiZWQtMQ", "-c", config)...)
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format Kafka's storage: %w\n%s", err, out)
	}
	k.args = append(java, "kafka.Kafka", config)
	return k, k.Start(ctx)
}

// Start starts it again after Kill or Stop, at the same address with its data.
func (k *KafkaServer) Start(ctx context.Context) (err error) {
	if k.proc, err = spawn("Kafka", k.Log, "java", k.args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Addr), kgo.DisableClientMetrics(), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer c.Close()
	return k.proc.await(ctx, c.Ping)
}

// PID is the number of its process.
func (k *KafkaServer) PID() int { return k.proc.cmd.Process.Pid }

// Kill ends it at once (kill -9).
func (k *KafkaServer) Kill() error { return k.proc.kill() }

// Pause stops it in its tracks (SIGSTOP) until Resume.
func (k *KafkaServer) Pause() error { return k.proc.signal(syscall.SIGSTOP) }

// Resume lets it go on after Pause.
func (k *KafkaServer) Resume() error { return k.proc.signal(syscall.SIGCONT) }

// Stop ends it properly.
func (k *KafkaServer) Stop() error { return k.proc.end(20 * time.Second) }

// Kcat runs kcat against it and returns what it prints.
func (k *KafkaServer) Kcat(ctx context.Context, args ...string) (string, error) {
	return Kcat(ctx, k.Addr, args...)
}

// Kcat runs kcat against a broker and returns what it prints.
func Kcat(ctx context.Context, addr string, args ...string) (string, error) {
	if err := Install(ctx, PartKcat, nil); err != nil {
		return "", err
	}
	return output(ctx, "kcat", append([]string{"-b", addr}, args...)...)
}

// output runs a client to its end and returns what it prints.
func output(ctx context.Context, name string, args ...string) (string, error) {
	var errs strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return string(out), nil
}
