package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// yamlSettings reads settings by flag name from a YAML file.
func yamlSettings(r io.Reader) (kong.Resolver, error) {
	values := make(map[string]any)
	if err := yaml.NewDecoder(r).Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("settings file: %w", err)
	}
	return fileSettings(values), nil
}

type fileSettings map[string]any

// Validate names the settings that are no flags.
func (f fileSettings) Validate(app *kong.Application) error {
	var unknown []string
	for name := range f {
		if !slices.ContainsFunc(app.Flags, func(flag *kong.Flag) bool { return flag.Name == name }) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return fmt.Errorf("settings file: no such settings: %s; --help lists them", strings.Join(unknown, ", "))
	}
	return nil
}

// Resolve is the file's value of a flag, as it would be typed.
func (f fileSettings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	switch v := f[flag.Name].(type) {
	case nil:
		return nil, nil
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = fmt.Sprint(x)
		}
		return strings.Join(parts, ","), nil
	default:
		return fmt.Sprint(v), nil
	}
}
