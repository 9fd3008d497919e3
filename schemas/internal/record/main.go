// Command record writes the binary form of each sample that has none yet: samples/NAME.bare.binpb, and samples/NAME.framed.binpb in Confluent's
// wire format with schema id 1. It never changes a recorded sample: those stand for values that lie in somebody's topics.
//
//	go run ./internal/record        # in schemas/
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/onhand/onhand/schemas/internal/samples"
)

func main() {
	if err := run("samples"); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	all, err := samples.Load(os.DirFS(dir))
	if err != nil {
		return err
	}
	for _, s := range all {
		bare, err := s.Bare()
		if err != nil {
			return err
		}
		framed, err := s.Framed(bare)
		if err != nil {
			return err
		}
		for file, b := range map[string][]byte{s.Name + ".bare.binpb": bare, s.Name + ".framed.binpb": framed} {
			path := filepath.Join(dir, file)
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := os.WriteFile(path, b, 0o644); err != nil {
				return err
			}
			fmt.Println("recorded", path)
		}
	}
	return nil
}
