package ledger

import (
	"encoding/binary"
	"math/bits"
)

// hash128 is MurmurHash3 x64-128 with seed 0: the same in every process and version, for it is stored.
func hash128(b []byte) (lo, hi uint64) {
	const c1, c2 = 0x87c37b91114253d5, 0x4cf5ad432745937f
	n := uint64(len(b))
	for len(b) >= 16 {
		k1, k2 := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		b = b[16:]
		lo ^= bits.RotateLeft64(k1*c1, 31) * c2
		lo = (bits.RotateLeft64(lo, 27)+hi)*5 + 0x52dce729
		hi ^= bits.RotateLeft64(k2*c2, 33) * c1
		hi = (bits.RotateLeft64(hi, 31)+lo)*5 + 0x38495ab5
	}
	var k1, k2 uint64
	for i := len(b) - 1; i >= 8; i-- {
		k2 = k2<<8 | uint64(b[i])
	}
	for i := min(len(b), 8) - 1; i >= 0; i-- {
		k1 = k1<<8 | uint64(b[i])
	}
	hi ^= bits.RotateLeft64(k2*c2, 33) * c1
	lo ^= bits.RotateLeft64(k1*c1, 31) * c2
	lo ^= n
	hi ^= n
	lo += hi
	hi += lo
	lo, hi = mix64(lo), mix64(hi)
	lo += hi
	hi += lo
	return lo, hi
}

func mix64(k uint64) uint64 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	return k ^ k>>33
}
