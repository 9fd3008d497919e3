//go:build !race

package escrow_test

const raceEnabled = false
