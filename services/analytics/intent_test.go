package analytics

import (
	"errors"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
)

func TestIntent(t *testing.T) {
	spans := []span{{"targets.amz", 0, 5, 9}, {"targets.amz", 3, 7, 7}, {"targets.shop", 1, 0, 1<<62 + 5}}
	text := intent(spans)
	if want := "onhand1 targets.amz 0:5-9,3:7-7;targets.shop 1:0-4611686018427387909"; text != want {
		t.Errorf("intent = %q, want %q", text, want)
	}
	got, err := parseIntent(text)
	if err != nil || !reflect.DeepEqual(got, spans) {
		t.Errorf("parseIntent = %v, %v, want %v", got, err, spans)
	}
	for _, other := range []string{"", "onhand-analytics-5d1e", "onhand2 a 1:2-3"} {
		if got, err := parseIntent(other); got != nil || err != nil {
			t.Errorf("parseIntent(%q) = %v, %v, want nothing", other, got, err)
		}
	}
	for _, torn := range []string{"onhand1 ", "onhand1 t", "onhand1 t 1", "onhand1 t 1:2", "onhand1 t 1:3-2", "onhand1 t -1:0-2", "onhand1 t 1:2-3;", "onhand1 t 1:2-3,"} {
		if _, err := parseIntent(torn); !errors.Is(err, errIntent) {
			t.Errorf("parseIntent(%q) = %v, want errIntent", torn, err)
		}
	}
}

func FuzzParseIntent(f *testing.F) {
	f.Add("onhand1 stock.events 0:0-10,1:5-5;targets.x 3:2-9")
	f.Fuzz(func(t *testing.T, text string) {
		spans, err := parseIntent(text)
		if err != nil || spans == nil {
			return
		}
		again, err := parseIntent(intent(spans))
		if err != nil || !reflect.DeepEqual(again, spans) {
			t.Errorf("%q reads as %v, then as %v, %v", text, spans, again, err)
		}
	})
}

// A block never has more parts than its intent has room for, however long the names and offsets.
func TestIntentFits(t *testing.T) {
	topic := "targets." + strings.Repeat("x", 200)
	var spans []span
	for room := intentLimit - len(intentVersion) - spanSize(topic); room >= 0; room -= spanSize(topic) {
		spans = append(spans, span{topic, 1<<31 - 1, 1<<63 - 2, 1<<63 - 1})
	}
	if text := intent(spans); len(text) > 4096 {
		t.Errorf("intent of %d spans has %d bytes, want at most 4096", len(spans), len(text))
	}
}

func rawMoney(v proto.Decimal128) *big.Int {
	x := new(big.Int).Lsh(new(big.Int).SetUint64(v.High), 64)
	x.Add(x, new(big.Int).SetUint64(v.Low))
	if v.High>>63 == 1 {
		x.Sub(x, new(big.Int).Lsh(big.NewInt(1), 128))
	}
	return x
}

func TestParseMoney(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "12.95": "12950000000", "-0.5": "-500000000", "+3": "3000000000", ".25": "250000000", "7.": "7000000000",
		"0.0000000004": "0", "0.0000000005": "1", "-0.0000000005": "-1", "1.9999999999": "2000000000",
		"99999999999999999999999999999.999999999": "99999999999999999999999999999999999999",
	} {
		got, err := parseMoney(in)
		if err != nil || rawMoney(got).String() != want {
			t.Errorf("parseMoney(%q) = %v, %v, want %s", in, rawMoney(got), err, want)
		}
	}
	for _, in := range []string{"", "-", ".", "1,5", "1e3", "1.2.3", " 1", "NaN", "100000000000000000000000000000", "1 EUR"} {
		if got, err := parseMoney(in); err == nil {
			t.Errorf("parseMoney(%q) = %v, want an error", in, rawMoney(got))
		}
	}
}

// The oracle is math/big.
func TestParseMoneyAgainstBig(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('0' + r.IntN(10))
		}
		return string(b)
	}
	for range 20_000 {
		in := digits(1+r.IntN(29)) + "." + digits(r.IntN(12))
		if r.IntN(2) == 0 {
			in = "-" + in
		}
		exact, _ := new(big.Rat).SetString(strings.TrimSuffix(in, "."))
		exact.Mul(exact, big.NewRat(1_000_000_000, 1))
		half := big.NewRat(1, 2)
		if exact.Sign() < 0 {
			half.Neg(half)
		}
		exact.Add(exact, half)
		want := new(big.Int).Quo(exact.Num(), exact.Denom())
		got, err := parseMoney(in)
		if limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(38), nil); new(big.Int).Abs(want).Cmp(limit) >= 0 {
			continue
		}
		if err != nil || rawMoney(got).Cmp(want) != 0 {
			t.Fatalf("parseMoney(%q) = %v, %v, want %v", in, rawMoney(got), err, want)
		}
	}
}
