package onlineretail

import (
	"hash/fnv"
	"slices"
	"time"
)

const (
	day     = int64(24 * time.Hour / time.Microsecond)
	quarter = 91 * day
	lead    = 7 * day

	// tooLarge is a line that nobody would stock up for.
	tooLarge = 5000
	// least is the smallest first receipt.
	least = 12
)

// scarce reports the SKUs that get less than what will be asked for.
func scarce(code string) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(code)) // never fails
	return h.Sum32()%10 == 0
}

// draw is the effect of a line on the need for stock: positive takes from it.
func draw(k Kind, l *Line) int64 {
	switch {
	case l.Units > tooLarge || -l.Units > tooLarge || l.Apart:
		return 0
	case k == Sale:
		return l.Units
	case k == Cancel || k == Adjustment:
		return -l.Units
	}
	return 0
}

// withReceipts is the documents with the receipts that README.md describes. References to sales are moved along.
func withReceipts(docs []Document, skus int, code func(int32) string) []Document {
	begin := docs[0].At
	quarters := int((docs[len(docs)-1].At-begin)/quarter) + 1
	peaks, apart := make([][]int64, quarters), make([][]int64, quarters)
	for q := range peaks {
		peaks[q], apart[q] = make([]int64, skus), make([]int64, skus)
	}
	running := make([]int64, skus)
	at := 0
	for i := range docs {
		d := &docs[i]
		if q := int((d.At - begin) / quarter); q != at {
			at = q
			clear(running)
		}
		for j := range d.Lines {
			l := &d.Lines[j]
			running[l.SKU] += draw(d.Kind, l)
			peaks[at][l.SKU] = max(peaks[at][l.SKU], running[l.SKU])
			if l.Apart {
				apart[at][l.SKU] -= l.Units
			}
		}
	}
	receipts := make([]Document, quarters)
	for q := range receipts {
		r := Document{Kind: Receipt, At: begin + int64(q)*quarter - lead}
		if q == 0 {
			r.At = begin - day
		}
		for s := range int32(skus) {
			if n := receipt(peaks[q][s], q == 0, scarce(code(s))); n > 0 {
				r.Lines = append(r.Lines, Line{SKU: s, Units: n})
			}
			if n := apart[q][s]; n > 0 {
				r.Lines = append(r.Lines, Line{SKU: s, Units: n, Apart: true})
			}
		}
		receipts[q] = r
	}
	return merge(docs, receipts)
}

// receipt is the units that come in for a quarter of the given peak draw.
func receipt(peak int64, first, scarce bool) int64 {
	n := (peak*5 + 3) / 4
	if scarce {
		n = peak * 6 / 10
	} else if first {
		n = max(n, least)
	}
	return n
}

// merge puts the receipts in their places by time, before what happens at the same moment.
func merge(docs, receipts []Document) []Document {
	out := make([]Document, 0, len(docs)+len(receipts))
	moved := make([]int32, len(docs))
	for i := range docs {
		for len(receipts) > 0 && receipts[0].At <= docs[i].At {
			out = append(out, receipts[0])
			receipts = receipts[1:]
		}
		moved[i] = int32(len(out))
		for j := range docs[i].Lines {
			if l := &docs[i].Lines[j]; docs[i].Kind == Cancel && l.Sale >= 0 {
				l.Sale = moved[l.Sale]
			}
		}
		out = append(out, docs[i])
	}
	return slices.Clip(out)
}
