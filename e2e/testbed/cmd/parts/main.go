// Command parts installs the real parts that tests and benchmarks run against,
// so that they find them in place. It does nothing where they are there already.
// Arguments name the parts to install; without any it installs all.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/onhand/onhand/e2e/testbed"
	"github.com/onhand/onhand/platform/lifecycle"
)

func main() {
	os.Exit(lifecycle.Main("parts", func(ctx context.Context) error {
		parts := testbed.Parts()
		if len(os.Args) > 1 {
			parts = nil
			for _, name := range os.Args[1:] {
				if !slices.Contains(testbed.Parts(), testbed.Part(name)) {
					return fmt.Errorf("there is no part %q; want some of %q", name, testbed.Parts())
				}
				parts = append(parts, testbed.Part(name))
			}
		}
		for _, part := range parts {
			if err := testbed.Install(ctx, part, func(s string) { fmt.Println(s + " ...") }); err != nil {
				return err
			}
			fmt.Printf("%s: ready\n", part)
		}
		return nil
	}))
}
