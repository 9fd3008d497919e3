package ledger

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Defaults of [Options].
const (
	DefaultWindow      = 7 * 24 * time.Hour
	DefaultCountWindow = 48 * time.Hour
	DefaultOpenWindow  = 400 * 24 * time.Hour
	DefaultMaxQuantity = Units(10_000_000)
)

// MinWindow is the shortest de-duplication window.
const MinWindow = time.Minute

// Options are the settings that the fold depends on: two folds of the same events agree only when theirs are the same. A zero field takes
// its default.
type Options struct {
	Window      time.Duration // how long an event id is remembered, by record time
	CountWindow time.Duration // how far back a count may speak of when stock moved since; at most Window
	OpenWindow  time.Duration // how long an order line, reservation or purchase order that stays open is remembered
	MaxQuantity Units         // larger quantities are rejected as absurd
	CheckedFrom time.Time     // events appended from then on are rejected unless ingest has checked them; zero for never
}

// Validate reports every fault of the options.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	if o.Window < MinWindow {
		errs = append(errs, fmt.Errorf("window %s: want at least %s", o.Window, MinWindow))
	}
	if o.CountWindow < 0 || o.CountWindow > o.Window {
		errs = append(errs, fmt.Errorf("count window %s: want at most the window, %s", o.CountWindow, o.Window))
	}
	if o.OpenWindow < o.Window {
		errs = append(errs, fmt.Errorf("open window %s: want at least the window, %s", o.OpenWindow, o.Window))
	}
	if o.MaxQuantity < 1 {
		errs = append(errs, fmt.Errorf("max quantity %d: want at least 1", o.MaxQuantity))
	}
	return errors.Join(errs...)
}

// rules is the version of the fold itself: it grows whenever the same events give another state, or the same journal bytes mean something else.
//
//	2: the channel is part of what names an order line
//	3: reservations are requested, and decided here
const rules = 3

// String names the rules and the options: stored state that was folded by others is of no use.
func (o Options) String() string {
	o = o.withDefaults()
	s := fmt.Sprintf("rules=%d window=%s count=%s open=%s max=%d", rules, o.Window, o.CountWindow, o.OpenWindow, o.MaxQuantity)
	if !o.CheckedFrom.IsZero() {
		s += checkedFrom + o.CheckedFrom.UTC().Format(time.RFC3339Nano)
	}
	return s
}

const checkedFrom = " checked_from="

// ParseOptions reads what String wrote.
func ParseOptions(s string) (Options, error) {
	var o Options
	var window, count, open string
	var by int
	if _, at, ok := strings.Cut(s, checkedFrom); ok {
		var err error
		if o.CheckedFrom, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return Options{}, fmt.Errorf("fold options %q: %w", s, err)
		}
	}
	if _, err := fmt.Sscanf(s, "rules=%d window=%s count=%s open=%s max=%d", &by, &window, &count, &open, &o.MaxQuantity); err != nil {
		return Options{}, fmt.Errorf("fold options %q: %w", s, err)
	}
	for _, x := range []struct {
		text string
		to   *time.Duration
	}{{window, &o.Window}, {count, &o.CountWindow}, {open, &o.OpenWindow}} {
		d, err := time.ParseDuration(x.text)
		if err != nil {
			return Options{}, fmt.Errorf("fold options %q: %w", s, err)
		}
		*x.to = d
	}
	if got := o.String(); got != s {
		return Options{}, fmt.Errorf("fold options %q: they are of another version of Onhand", s)
	}
	return o, o.Validate()
}

func (o Options) withDefaults() Options {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.CountWindow == 0 {
		o.CountWindow = min(DefaultCountWindow, o.Window)
	}
	if o.OpenWindow == 0 {
		o.OpenWindow = max(DefaultOpenWindow, o.Window)
	}
	if o.MaxQuantity == 0 {
		o.MaxQuantity = DefaultMaxQuantity
	}
	return o
}
