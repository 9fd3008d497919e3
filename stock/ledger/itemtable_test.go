package ledger

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// A map that cannot be wrong says what the table must hold, with few keys that crowd the same slots.
func TestItemTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table itemTable
		want := make(map[uint64][]share)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		keys := make([]uint64, rapid.IntRange(1, 400).Draw(t, "keys"))
		for i := range keys {
			keys[i] = itemKey(rng.Uint64() & 0x0400_ffff_0000_003f) // in two segments
		}
		for range rapid.IntRange(0, 4000).Draw(t, "steps") {
			key := keys[rng.IntN(len(keys))]
			if rng.IntN(3) == 0 {
				table.remove(key)
				delete(want, key)
				continue
			}
			var work []settled
			var shares []share
			for i := range rng.IntN(4) {
				units := Units(1 + rng.IntN(9))
				if rng.IntN(5) == 0 {
					units = math.MaxInt32 + units // too many for a slot
				}
				shares = append(shares, share{uint16(i), units})
				work = append(work, settled{share: shares[i]})
			}
			table.keep(table.put(key), work)
			want[key] = shares
		}
		if rapid.Bool().Draw(t, "trim") {
			table.trim()
		}
		if table.n != len(want) {
			t.Fatalf("%d items, want %d", table.n, len(want))
		}
		got := table.keys(nil)
		if len(got) != len(want) {
			t.Fatalf("%d keys, want %d", len(got), len(want))
		}
		wide := 0
		for key, shares := range want {
			it := table.find(key)
			if it == nil {
				t.Fatalf("%x is lost", key)
			}
			var have []share
			for _, x := range table.shares(it, nil) {
				have = append(have, x.share)
			}
			if !slices.Equal(have, shares) {
				t.Fatalf("%x has %v, want %v", key, have, shares)
			}
			if it.flags&slotWide != 0 {
				wide++
			}
		}
		if len(table.wide) != wide {
			t.Fatalf("%d wide items are kept, %d are in use", len(table.wide), wide)
		}
	})
}

func TestPrintable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.ByteRange(' ', '~'), rapid.SampledFrom([]byte{0x1f, 0x20, 0x7e, 0x7f, 0x80, 0xc3, 0xa9})), 0, 40).Draw(t, "bytes"))
		want := utf8.ValidString(s)
		for i := range len(s) {
			want = want && s[i] >= 0x20 && s[i] != 0x7f
		}
		if printable(s) != want {
			t.Fatalf("printable(%q) is %t", s, !want)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringN(0, 30, -1).Draw(t, "text")
		want := true
		for i := range len(s) {
			want = want && s[i] >= 0x20 && s[i] != 0x7f
		}
		if printable(s) != want {
			t.Fatalf("printable(%q) is %t", s, !want)
		}
	})
}
