package targeting

import (
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/onhand/onhand/stock/escrow"
)

const (
	delayWindow  int64 = 5 * 60_000_000  // how long a measured delay counts, and as long again at most
	longestDelay int64 = 15 * 60_000_000 // a sale told of later than that was not on its way: a sweep found it, or a file
	delayEvery   int64 = 1_000_000       // how often it is worked out what was measured
	leastDelays        = 20              // measurements before they say anything
	delayShare         = 95              // percent
)

// Times are in microseconds.

// delays is how long channels take, as measured lately: from a sale to its level, and from a decision to the channel's acknowledgement. Of one goroutine.
type delays struct {
	channels map[string]*channelDelays
	turned   int64
}

type channelDelays struct {
	event, write window
	now          escrow.Delay
	at           int64 // when now was worked out
	changed      bool  // since
}

// window is the measurements of the current window and of the one before it.
type window struct{ current, last *hdrhistogram.Histogram }

func newWindow() window {
	h := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, longestDelay, 2) }
	return window{h(), h()}
}

func (w *window) turn() {
	w.current, w.last = w.last, w.current
	w.current.Reset()
}

// value is the delay that all but a few stay within; 0 when too few were measured.
func (w *window) value() int64 {
	if w.current.TotalCount()+w.last.TotalCount() < leastDelays {
		return 0
	}
	return max(quantile(w.current), quantile(w.last))
}

func quantile(h *hdrhistogram.Histogram) int64 {
	if h.TotalCount() < leastDelays/2 {
		return 0
	}
	return h.ValueAtQuantile(delayShare)
}

func newDelays() *delays { return &delays{channels: make(map[string]*channelDelays)} }

func (d *delays) channel(id string) *channelDelays {
	c := d.channels[id]
	if c == nil {
		c = &channelDelays{event: newWindow(), write: newWindow()}
		d.channels[id] = c
	}
	return c
}

// tick starts a new window when the time has come.
func (d *delays) tick(now int64) {
	if now-d.turned < delayWindow {
		return
	}
	d.turned = now
	for _, c := range d.channels {
		c.event.turn()
		c.write.turn()
		c.changed = true
	}
}

// sold measures a sale's way to its level. A channel's clock may be ahead.
func (d *delays) sold(channel string, us int64) {
	d.channel(channel).measure(&d.channel(channel).event, us)
}

// wrote measures a write's way from its decision to its acknowledgement.
func (d *delays) wrote(channel string, us int64) {
	d.channel(channel).measure(&d.channel(channel).write, us)
}

func (c *channelDelays) measure(w *window, us int64) {
	if us > longestDelay || us == math.MinInt64 {
		return
	}
	_ = w.current.RecordValue(max(us, 1)) // within the range
	c.changed = true
}

// of is the delays of a channel; zero where they are not known.
func (d *delays) of(channel string, now int64) escrow.Delay {
	c := d.channels[channel]
	if c == nil {
		return escrow.Delay{}
	}
	if c.changed && (now-c.at >= delayEvery || now < c.at) {
		c.now, c.at, c.changed = escrow.Delay{Event: c.event.value(), Write: c.write.value()}, now, false
	}
	return c.now
}
