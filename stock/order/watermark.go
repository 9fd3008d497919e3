package order

// Watermark says how far the orders of a channel are known in one partition: every order that the channel took up to Until is in the levels
// before LevelsOffset. It only grows; an older one says nothing new.
type Watermark struct {
	Channel      string
	Until        int64 // channel's clock
	LevelsOffset int64 // offset in stock.levels, same partition: whoever has read all records below may act on it
	SourceOffset int64 // offset in stock.events, same partition, of the event
	AppliedAt    int64 // projector's clock
}
