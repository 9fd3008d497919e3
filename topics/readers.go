package topics

import (
	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/allocation"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/write"
)

// TargetReader decodes targets.<channel> values one after another into the same memory. Not safe for concurrent use.
type TargetReader struct{ m onhandv1.ChannelTarget }

// Read decodes value into t, whose explanation it uses again. The strings of t alias value.
func (r *TargetReader) Read(value []byte, t *allocation.Target) error {
	b, err := payload(value, targetIndex)
	if err != nil {
		return undecodable("channel target", err)
	}
	steps := r.m.Explanation[:0]
	r.m.Reset()
	r.m.Explanation = steps
	if err := r.m.UnmarshalVTUnsafe(b); err != nil {
		return undecodable("channel target", err)
	}
	fillTarget(t, &r.m)
	return nil
}

// LevelReader decodes stock.levels values one after another into the same memory. Not safe for concurrent use.
type LevelReader struct{ m onhandv1.StockLevel }

// Read decodes value into l, whose slices it uses again. The strings of l alias value.
func (r *LevelReader) Read(value []byte, l *ledger.Level) error {
	b, err := payload(value, levelIndex)
	if err != nil {
		return undecodable("stock level", err)
	}
	locations, sold, restored := r.m.Locations[:0], r.m.Sold[:0], r.m.Restored[:0]
	r.m.Reset()
	r.m.Locations, r.m.Sold, r.m.Restored = locations, sold, restored
	if err := r.m.UnmarshalVTUnsafe(b); err != nil {
		return undecodable("stock level", err)
	}
	fillLevel(l, &r.m)
	return nil
}

// WriteReader decodes channel.writes values one after another into the same memory. Not safe for concurrent use.
type WriteReader struct{ m onhandv1.WriteResult }

// Read decodes value into w. The strings of w alias value.
func (r *WriteReader) Read(value []byte, w *write.Result) error {
	b, err := payload(value, writeIndex)
	if err != nil {
		return undecodable("write result", err)
	}
	r.m.Reset()
	if err := r.m.UnmarshalVTUnsafe(b); err != nil {
		return undecodable("write result", err)
	}
	*w = writeOf(&r.m)
	return nil
}
