// Package hotview keeps the ledger in Redis: the state of each SKU as a hash that other teams may read, and beside it, in the same hash slot, what
// makes the next owner go on exactly where the last one stopped. docs/redis-layout.md describes every key.
//
// A [Store] writes one partition. Each [Store.Step] is one script that applies a whole batch or nothing: only for the owner that claimed the
// partition last, and only on top of the offset the batch started from.
package hotview

import (
	"strconv"
	"strings"

	"github.com/onhand/onhand/stock/ledger"
)

// Layout is the version of the key layout. A partition stored with another is rebuilt.
const Layout = "1"

// NoOffset is the offset of a partition to which nothing was applied.
const NoOffset = int64(-1)

// Namespace is the prefix of all keys.
type Namespace string

// Meta is the key of what holds for the ledger as a whole.
func (n Namespace) Meta() string { return string(n) + ":meta" }

// SKU is the key of one SKU's hash.
func (n Namespace) SKU(partition int32, sku string) string {
	return n.partition(partition) + "sku:" + sku
}

// Live is the key that holds the prefix of a partition's live generation; no such key stands for the first one.
func (n Namespace) Live(p int32) string { return n.partition(p) + "live" }

// Generation numbers the rebuilds of the ledger: 0 was never rebuilt. Each generation of a partition has keys of its own, in the same slot.
type Generation int64

// Prefix is what the keys of a partition begin with in a generation.
func (n Namespace) Prefix(p int32, g Generation) string {
	if g == 0 {
		return n.partition(p)
	}
	return n.partition(p) + "g" + strconv.FormatInt(int64(g), 10) + ":"
}

// parsePrefix is the generation that a partition's pointer names; false when it names none.
func (n Namespace) parsePrefix(p int32, prefix string) (Generation, bool) {
	rest, ok := strings.CutPrefix(prefix, n.partition(p))
	if !ok || rest == "" {
		return 0, ok
	}
	g, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(rest, "g"), ":"), 10, 64)
	return Generation(g), err == nil && g > 0 && n.Prefix(p, Generation(g)) == prefix
}

// Partition is the key of what holds for a partition as a whole: its applied offset above all.
func (n Namespace) Partition(p int32) string { return n.partition(p) + "meta" }

func (n Namespace) partition(p int32) string {
	return string(n) + ":{p" + strconv.Itoa(int(p)) + "}:"
}

var locationFields = [...]string{
	ledger.OnHand: "on_hand", ledger.Committed: "committed", ledger.Held: "held", ledger.Inbound: "inbound", ledger.Unsellable: "unsellable",
	ledger.Safety: "safety_stock", ledger.MovedAt: "moved_at", ledger.CountedAsOf: "counted_as_of", ledger.CountsFrom: "counts_from",
}

const (
	soldPrefix      = "sold:"
	restoredPrefix  = "restored:"
	allottedPrefix  = "allotted:"
	allotmentPrefix = "allotment:"
)

// fieldName is the hash field of a number.
func fieldName(f ledger.Field, name string) string {
	switch f {
	case ledger.Sold:
		return soldPrefix + name
	case ledger.Restored:
		return restoredPrefix + name
	case ledger.Allotted:
		return allottedPrefix + name
	case ledger.Sequence:
		return allotmentPrefix + name
	case ledger.Unassigned:
		return "unassigned"
	}
	return name + ":" + locationFields[f]
}

// parseField is the number that a hash field holds, and false for a field that holds none of the ledger's.
func parseField(field string) (ledger.Field, string, bool) {
	if name, ok := strings.CutPrefix(field, soldPrefix); ok {
		return ledger.Sold, name, true
	}
	if name, ok := strings.CutPrefix(field, restoredPrefix); ok {
		return ledger.Restored, name, true
	}
	if name, ok := strings.CutPrefix(field, allottedPrefix); ok {
		return ledger.Allotted, name, true
	}
	if name, ok := strings.CutPrefix(field, allotmentPrefix); ok {
		return ledger.Sequence, name, true
	}
	if field == "unassigned" {
		return ledger.Unassigned, "", true
	}
	i := strings.LastIndexByte(field, ':')
	if i <= 0 {
		return 0, "", false
	}
	for f, suffix := range locationFields {
		if field[i+1:] == suffix {
			return ledger.Field(f), field[:i], true
		}
	}
	return 0, "", false
}
