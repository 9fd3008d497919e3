package allocator

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/onhand/onhand/stock/escrow"
)

const (
	delayWindow  = 5 * time.Minute  // how long a measured delay counts, and as long again at most
	longestDelay = 15 * time.Minute // a sale told of later than that was not on its way: a sweep found it, or a file
	leastDelays  = 20               // measurements before they say anything
	delayShare   = 95               // percent
)

// delays is how long channels take, as measured lately: from a sale to its level, and from a decision to the channel's acknowledgement. Of one goroutine.
type delays struct {
	channels map[string]*channelDelays
	turned   time.Time
}

type channelDelays struct {
	event, write window
	now          escrow.Delay
	changed      bool
}

// window is the measurements of the current window and of the one before it.
type window struct{ current, last *hdrhistogram.Histogram }

func newWindow() window {
	h := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, longestDelay.Microseconds(), 2) }
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
func (d *delays) tick(now time.Time) {
	if now.Sub(d.turned) < delayWindow {
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
	if us > longestDelay.Microseconds() || us == math.MinInt64 {
		return
	}
	_ = w.current.RecordValue(max(us, 1)) // within the range
	c.changed = true
}

// of is the delays of a channel; zero where they are not known.
func (d *delays) of(channel string) escrow.Delay {
	c := d.channels[channel]
	if c == nil {
		return escrow.Delay{}
	}
	if c.changed {
		c.now, c.changed = escrow.Delay{Event: c.event.value(), Write: c.write.value()}, false
	}
	return c.now
}
