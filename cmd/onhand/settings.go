package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// yamlFile resolves flags of onhand up from a YAML file of flag names.
func yamlFile(r io.Reader) (kong.Resolver, error) {
	values := make(map[string]any)
	if err := yaml.NewDecoder(r).Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return &fileResolver{values}, nil
}

type fileResolver struct{ values map[string]any }

// Validate reports names that are no flags: a setting that is misspelt must not be ignored.
func (f *fileResolver) Validate(app *kong.Application) error {
	known := make(map[string]bool)
	for _, c := range app.Children {
		if c.Name == "up" {
			for _, flag := range c.Flags {
				known[flag.Name] = true
			}
		}
	}
	var unknown []string
	for name := range f.values {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	if len(unknown) > 0 {
		return fmt.Errorf("configuration file: no such settings: %s", strings.Join(unknown, ", "))
	}
	return nil
}

// Resolve is the file's value of a flag.
func (f *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := f.values[flag.Name]
	if !ok || v == nil {
		return nil, nil
	}
	for _, env := range flag.Envs { // kong would let the file win
		if _, set := os.LookupEnv(env); set {
			return nil, nil
		}
	}
	if list, ok := v.([]any); ok {
		parts := make([]string, len(list))
		for i, x := range list {
			parts[i] = fmt.Sprint(x)
		}
		return strings.Join(parts, ","), nil
	}
	return fmt.Sprint(v), nil
}
