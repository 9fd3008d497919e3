package ledger

import (
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/event"
)

// Any one number, name or word that is changed behind the owner's back changes the digest of its SKU, so that the bucket's sum gives it away.
func TestDigestCoversAllThatIsStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, store := New(small), newStore()
		for i, e := range history(t, "S", "T") {
			e.OccurredAt, e.AsOf = start, start
			p.Apply(&e, int64(i), start+int64(i)*1000)
		}
		store.flush(p)
		var names []string
		for n := range store.skus {
			names = append(names, n)
		}
		if len(names) == 0 {
			return
		}
		slices.Sort(names)
		st := *store.skus[rapid.SampledFrom(names).Draw(t, "SKU")]
		for _, c := range store.fields[st.SKU] {
			st.Changes = append(st.Changes, c)
		}
		slices.SortFunc(st.Changes, func(a, b StoredChange) int {
			return compare(string(rune(a.Field))+a.Name, string(rune(b.Field))+b.Name)
		})
		was := st.Digest()
		by := rapid.Int64Range(1, 1<<40).Draw(t, "by")
		switch n := rapid.IntRange(-7, len(st.Changes)-1).Draw(t, "which"); n {
		case -7:
			st.Version += by
		case -6:
			st.Available += Units(by)
		case -5:
			st.Offset += by
		case -4:
			st.ReceivedAt += by
		case -3:
			st.EventID += "x"
		case -2:
			st.EventKind++
		case -1: // a field is lost
			st.Changes = st.Changes[1:]
		default:
			st.Changes[n].Value += by
		}
		if st.Digest() == was {
			t.Fatalf("the digest of %+v does not show the change", st)
		}
	})
}

// Two SKUs that swap their numbers do not cancel out.
func TestDigestIsOfOneSKU(t *testing.T) {
	a, b := Stored{SKU: "A", Version: 1}, Stored{SKU: "B", Version: 2}
	sum := a.Digest() + b.Digest()
	a.Version, b.Version = b.Version, a.Version
	if a.Digest()+b.Digest() == sum {
		t.Error("swapped numbers go unnoticed")
	}
}

func BenchmarkDigest(b *testing.B) {
	p := New(Options{})
	for i := range 4096 {
		e := ev("sale "+strconv.Itoa(i), event.SaleRecorded, 1, "at=A")
		e.SKU = "SKU-" + strconv.Itoa(i)
		p.Apply(&e, int64(i), start)
	}
	for b.Loop() {
		for _, s := range p.changed {
			s.digest = 0
		}
		p.Digest()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(p.changed)), "ns/SKU")
}
