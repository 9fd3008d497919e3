package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/alecthomas/kong"

	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/telemetry"
)

// About is what a program says of itself.
type About struct {
	Name        string
	Does        string // one sentence for --help
	Version     string
	Listen      string // default address of the API; empty for a program without one
	AdminListen string // default address of health, metrics and profiles
}

// Settings is what every service's program can be told. Embed it.
type Settings struct {
	Config      kong.ConfigFlag  `help:"YAML file of settings, named as the flags; the command line and the environment win." env:"CONFIG_FILE"`
	Kafka       kafka.Config     `embed:"" prefix:"kafka-"`
	Telemetry   telemetry.Config `embed:""`
	RegistryURL string           `help:"URL of the Schema Registry; empty reads and writes bare Protobuf." env:"SCHEMA_REGISTRY_URL"`
	AdminListen string           `help:"Address of health, metrics and profiles; not for the outside." default:"${admin_listen}" env:"ADMIN_LISTEN"`
	CheckConfig bool             `help:"Judge the settings and exit."`
	Version     kong.VersionFlag `help:"Print the version and exit."`
}

// Faults is every fault of the settings. (It is not called Validate, which kong would call, and stop at the first fault.)
func (s *Settings) Faults() error {
	return errors.Join(s.Kafka.Validate(), s.Telemetry.Validate(), address("admin-listen", s.AdminListen))
}

// API is what the program of a service with an HTTP API can be told beside. Embed it.
type API struct {
	Listen string        `help:"Address of the HTTP API." default:"${listen}" env:"LISTEN"`
	Keys   apikey.Config `embed:"" prefix:"api-keys-"`
}

// Faults is every fault of the settings: an API that others can reach is never without keys.
func (a *API) Faults() error {
	err := address("listen", a.Listen)
	if a.Keys.Off && err == nil && !loopback(a.Listen) {
		err = fmt.Errorf("api-keys-off: not with listen %s, which others can reach; listen on 127.0.0.1, or give keys", a.Listen)
	}
	_, keys := a.Keys.Load()
	return errors.Join(err, keys)
}

func address(name, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("%s %q: want host:port", name, addr)
	}
	return nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// Parse reads the command line, the environment and the file of settings into flags, a pointer to a struct that embeds [Settings]. It prints what
// is wrong, or the help, and exits.
func Parse(flags any, about About) {
	kong.Parse(flags, Options(about)...)
}

// Options is how Parse reads settings, for callers that want errors.
func Options(about About) []kong.Option {
	return []kong.Option{
		kong.Name(about.Name), kong.Description(about.Does), kong.Configuration(File("")),
		kong.Vars{"version": about.Version, "listen": about.Listen, "admin_listen": about.AdminListen},
	}
}

// stopTelemetry is how long a program waits to send its last spans and metrics.
const stopTelemetry = 5 * time.Second

// Run judges the settings, by faults, and runs a program with its telemetry up, or only says that the settings are valid when that was asked for.
func (s *Settings) Run(ctx context.Context, about About, faults error, run func(context.Context, *telemetry.Telemetry) error) error {
	if faults != nil {
		return faults
	}
	if s.CheckConfig {
		fmt.Println("settings are valid")
		return nil
	}
	tel, err := telemetry.Start(ctx, s.Telemetry, about.Name, about.Version, os.Stderr)
	if err != nil {
		return err
	}
	err = run(ctx, tel)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTelemetry)
	defer cancel()
	if sent := tel.Stop(stopping); sent != nil { // a collector that is away is no fault of the program's
		tel.Log.Warn("the last spans and metrics were not sent", "err", sent)
	}
	return err
}
