package program

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

// File makes a reader of settings from a flat YAML file: the flags' names, without dashes before them. The node of the command line that has
// the flags is the application, or its command of the given name. A name that is none of its flags is an error: a setting that is misspelt must
// not be ignored.
func File(command string) kong.ConfigurationLoader {
	return func(r io.Reader) (kong.Resolver, error) {
		f := fileValues{command: command, values: make(map[string]any)}
		if err := yaml.NewDecoder(r).Decode(&f.values); err != nil && !errors.Is(err, io.EOF) { // an empty file sets nothing
			return nil, fmt.Errorf("settings file: %w", err)
		}
		return f, nil
	}
}

type fileValues struct {
	command string
	values  map[string]any
}

// Validate names what is no flag.
func (f fileValues) Validate(app *kong.Application) error {
	flags := app.Flags
	for _, c := range app.Children {
		if c.Name == f.command {
			flags = c.Flags
		}
	}
	var unknown []string
	for name := range f.values {
		if !slices.ContainsFunc(flags, func(flag *kong.Flag) bool { return flag.Name == name }) {
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
func (f fileValues) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
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
