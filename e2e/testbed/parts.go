package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/onhand/onhand/embedded/clickhouse"
)

// ClickHouseConnect is the version of the Python client that is installed.
const ClickHouseConnect = "1.12.0"

// installing guards the installation within this process; a file lock guards it
// between processes.
var installing sync.Mutex

// Root is the directory of the repository, found from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.work above the working directory: run this inside the repository")
		}
		dir = up
	}
}

// Part names one thing to install.
type Part string

// The parts.
const (
	PartClickHouse Part = "ClickHouse engine"
	PartKafka      Part = "Apache Kafka"
	PartRedis      Part = "redis-server and redis-cli"
	PartKcat       Part = "kcat"
	PartPython     Part = "clickhouse-connect"
)

// Parts lists all parts.
func Parts() []Part {
	return []Part{PartClickHouse, PartKafka, PartRedis, PartKcat, PartPython}
}

// Install puts a part where the testbed looks for it, in .parts of the
// repository or, for Debian packages, on the system. It does nothing when the
// part is there. say is told before a download starts; it may be nil.
func Install(ctx context.Context, part Part, say func(string)) error {
	root, err := Root()
	if err != nil {
		return err
	}
	installing.Lock()
	defer installing.Unlock()
	if present(root, part) {
		return nil
	}
	dir := filepath.Join(root, ".parts")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	if present(root, part) { // another process was faster
		return nil
	}
	if say != nil {
		say("installing " + string(part))
	}
	switch part {
	case PartClickHouse:
		_, err = clickhouse.Install(ctx, root)
	case PartKafka:
		err = installKafka(ctx, root)
	case PartRedis:
		err = apt(ctx, "redis-server", "redis-tools")
	case PartKcat:
		err = apt(ctx, "kcat")
	case PartPython:
		err = installPython(ctx, root)
	default:
		err = errors.New("there is no such part")
	}
	if err == nil && !present(root, part) {
		err = errors.New("the installation succeeded, but it is not there")
	}
	if err != nil {
		return fmt.Errorf("install %s: %w", part, err)
	}
	return nil
}

// present tells whether a part is installed.
func present(root string, part Part) bool {
	switch part {
	case PartClickHouse:
		_, err := clickhouse.Find("", root)
		return err == nil
	case PartKafka:
		_, err := os.Stat(filepath.Join(kafkaDir(root), "complete"))
		return err == nil
	case PartRedis:
		return found("redis-server") && found("redis-cli")
	case PartKcat:
		return found("kcat")
	case PartPython:
		_, err := os.Stat(filepath.Join(root, ".parts", "venv", "complete"))
		return err == nil
	}
	return false
}

func found(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func kafkaDir(root string) string { return filepath.Join(root, ".parts", "kafka") }

// installKafka fetches Kafka and what it needs by Maven.
func installKafka(ctx context.Context, root string) error {
	if !found("mvn") || !found("java") {
		return errors.New("mvn and java are needed: apt-get install maven openjdk-17-jre-headless")
	}
	dir := kafkaDir(root)
	err := run(ctx, "mvn", "-q", "-B", "-f", filepath.Join(root, "e2e", "testbed", "kafka", "pom.xml"),
		"dependency:copy-dependencies", "-DoutputDirectory="+filepath.Join(dir, "lib"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
}

// installPython makes a virtual environment with ClickHouse's Python client.
func installPython(ctx context.Context, root string) error {
	dir := filepath.Join(root, ".parts", "venv")
	if err := run(ctx, "python3", "-m", "venv", "--clear", dir); err != nil {
		return err
	}
	if err := run(ctx, filepath.Join(dir, "bin", "pip"), "install", "-q", "--disable-pip-version-check", "clickhouse-connect=="+ClickHouseConnect); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
}

// apt installs Debian packages, when this process may.
func apt(ctx context.Context, packages ...string) error {
	list := strings.Join(packages, " ")
	if os.Geteuid() != 0 || !found("apt-get") {
		return fmt.Errorf("install the packages %s with this system's package manager", list)
	}
	args := append([]string{"install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"}, packages...)
	if err := run(ctx, "apt-get", args...); err != nil {
		// The package lists may be old or missing.
		if err := run(ctx, "apt-get", "update", "-q"); err != nil {
			return err
		}
		return run(ctx, "apt-get", args...)
	}
	return nil
}

// run runs a command to its end; its output is in the error.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
