package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// yamlFile reads settings from a flat YAML file: the flags' names, without dashes before them. A name that is no flag is an error.
func yamlFile(r io.Reader) (kong.Resolver, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(b, &values); err != nil {
		return nil, err
	}
	return &fileResolver{values}, nil
}

type fileResolver struct{ values map[string]any }

// Validate finds names that are no flag.
func (f *fileResolver) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, flag := range app.Flags {
		known[flag.Name] = true
	}
	for name := range f.values {
		if !known[name] {
			return fmt.Errorf("config: %q is not a setting; --help lists them", name)
		}
	}
	return nil
}

// Resolve gives the file's value of a flag. A list becomes kong's form of it.
func (f *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := f.values[flag.Name]
	if !ok {
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
