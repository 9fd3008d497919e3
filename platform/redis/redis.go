// Package redis connects to Redis, or to Redis Cluster, from settings.
package redis

import (
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/platform/credentials"
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
	password, err := credentials.Password("redis-password-file", c.PasswordFile, "REDIS_PASSWORD")
	if err != nil {
		return nil, err
	}
	opts := &redis.UniversalOptions{Addrs: c.Addrs, Username: c.Username, Password: password}
	if c.TLS {
		if opts.TLSConfig, err = credentials.TLS("redis-ca-file", c.CAFile); err != nil {
			return nil, err
		}
	}
	return redis.NewUniversalClient(opts), nil
}
