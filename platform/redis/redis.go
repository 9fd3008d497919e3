// Package redis connects to Redis, or to Redis Cluster, from settings.
package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Config says how to reach Redis. More than one address means Redis Cluster. The password comes from a file or the environment only.
type Config struct {
	Addrs        []string `help:"Redis address, host:port; several for Redis Cluster." default:"127.0.0.1:6379" env:"REDIS_ADDRS"`
	Username     string   `help:"Redis user." env:"REDIS_USERNAME"`
	PasswordFile string   `help:"File that holds the password; without it REDIS_PASSWORD is read." env:"REDIS_PASSWORD_FILE"`
	TLS          bool     `help:"Connect with TLS." env:"REDIS_TLS"`
	CAFile       string   `help:"PEM file of the certificate authority, when it is not a public one." env:"REDIS_CA_FILE"`
}

// Client connects. It does not reach out before the first use.
func (c Config) Client() (redis.UniversalClient, error) {
	if len(c.Addrs) == 0 {
		return nil, errors.New("redis-addrs: name at least one host:port")
	}
	opts := &redis.UniversalOptions{Addrs: c.Addrs, Username: c.Username, Password: os.Getenv("REDIS_PASSWORD")}
	if c.PasswordFile != "" {
		b, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("redis-password-file: %w", err)
		}
		opts.Password = strings.TrimRight(string(b), "\r\n")
	}
	if c.TLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CAFile != "" {
			pem, err := os.ReadFile(c.CAFile)
			if err != nil {
				return nil, fmt.Errorf("redis-ca-file: %w", err)
			}
			opts.TLSConfig.RootCAs = x509.NewCertPool()
			if !opts.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("redis-ca-file %s: it holds no PEM certificate", c.CAFile)
			}
		}
	}
	return redis.NewUniversalClient(opts), nil
}
