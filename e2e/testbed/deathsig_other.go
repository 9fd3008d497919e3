//go:build !linux

package testbed

import "os/exec"

// dieWithParent does nothing where the kernel has no such tie.
func dieWithParent(*exec.Cmd) {}
