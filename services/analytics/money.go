package analytics

import (
	"errors"
	"math/bits"

	"github.com/ClickHouse/ch-go/proto"
)

// moneyScale is the number of decimals of every money column: Decimal(38, 9).
const moneyScale = 9

var errMoney = errors.New("not a decimal number of at most 29 digits before the point")

// parseMoney reads a decimal number as a Decimal(38, 9). Decimals beyond the ninth are rounded half away from zero.
func parseMoney(s string) (proto.Decimal128, error) {
	negative := false
	if s != "" && (s[0] == '-' || s[0] == '+') {
		negative = s[0] == '-'
		s = s[1:]
	}
	var hi, lo uint64
	digits, decimals, point, seen, up := 0, 0, false, false, false
	for i := range len(s) {
		c := s[i]
		if c == '.' && !point {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			return proto.Decimal128{}, errMoney
		}
		seen = true
		if point {
			decimals++
			if decimals > moneyScale {
				if decimals == moneyScale+1 {
					up = c >= '5'
				}
				continue
			}
		}
		hi, lo = times10(hi, lo, uint64(c-'0'))
		if hi|lo != 0 {
			digits++
		}
		if digits > 38 {
			return proto.Decimal128{}, errMoney
		}
	}
	if !seen {
		return proto.Decimal128{}, errMoney
	}
	for ; decimals < moneyScale; decimals++ {
		hi, lo = times10(hi, lo, 0)
		if hi|lo != 0 {
			digits++
		}
	}
	if digits > 38 {
		return proto.Decimal128{}, errMoney
	}
	if up {
		var carry uint64
		lo, carry = bits.Add64(lo, 1, 0)
		hi += carry
	}
	if negative {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	return proto.Decimal128{Low: lo, High: hi}, nil
}

func times10(hi, lo, digit uint64) (uint64, uint64) {
	carry, low := bits.Mul64(lo, 10)
	low, c := bits.Add64(low, digit, 0)
	return hi*10 + carry + c, low
}
