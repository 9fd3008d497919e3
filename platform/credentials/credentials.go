// Package credentials reads what a client needs to be trusted and to trust: passwords and certificate authorities, from files and the environment.
package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
)

// Password is the content of a file without its line end, or the value of an environment variable when no file is named. Errors begin with the name
// of the setting that gives the file, and never hold the password.
func Password(setting, file, variable string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// TLS is the settings of a client that trusts the authorities of a PEM file, or the public ones when no file is named. Errors begin with the name of the
// setting that gives the file.
func TLS(setting, caFile string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s %s: it holds no PEM certificate", setting, caFile)
	}
	return conf, nil
}
