package topics_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
	"github.com/onhand/onhand/topics"
)

// A reader gives what the decoder gives, though it uses the memory of the value before again.
func TestReaders(t *testing.T) {
	var targets topics.TargetReader
	var target allocation.Target
	law(t, "target", values[allocation.Target](), (*topics.Codec).AppendTarget, func(b []byte) (*allocation.Target, error) { return &target, targets.Read(b, &target) })
	var levels topics.LevelReader
	var level ledger.Level
	law(t, "level", values[ledger.Level](), (*topics.Codec).AppendLevel, func(b []byte) (*ledger.Level, error) { return &level, levels.Read(b, &level) })
	var writes topics.WriteReader
	var result write.Result
	law(t, "write", rapid.Map(values[write.Result](), func(w write.Result) write.Result { w.Operation %= 4; return w }), (*topics.Codec).AppendWrite,
		func(b []byte) (*write.Result, error) { return &result, writes.Read(b, &result) })
}
