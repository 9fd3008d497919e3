package allocation

// Bounds within which the arithmetic is exact. Numbers outside are brought inside: a target may then be too low, never too high.
const (
	MaxUnits  Units = 1_000_000_000_000
	MaxWeight Units = 1_000_000
	FullCap   Units = 10_000 // basis points: 100 %
)

// DefaultPriority is the priority of a channel to which no rule gives one. Lower is served first.
const DefaultPriority Units = 100

// Setting is one number that a rule sets.
type Setting struct {
	Units Units
	Set   bool
	Rule  string // id of the rule, for the explanation
}

// ChannelRules is the settings in force for one channel of one SKU.
type ChannelRules struct {
	Buffer   Setting // units held back from the channel
	Reserve  Setting // units that no other channel may show
	Cap      Setting // most it may show, basis points of N
	Max      Setting // most it may show
	HideAt   Setting // shows nothing at or below
	Priority Setting // lower is served first; DefaultPriority when not set
	Weight   Setting // share in Proportional; 1 when not set
	Paused   Setting // shows nothing when not 0
	Floor    Setting // shows at least that, even when nothing is available: made to order
}

// Rules is the settings in force for one SKU.
type Rules struct {
	Mode       Mode
	Guarantee  Guarantee
	Share      Share // where exposure is kept in books
	Rounding   Rounding
	ModeRule   string // id of the rule that sets the mode
	PoolBuffer Setting
	Channels   []ChannelRules // by the layout's channel numbers
}

func (c *ChannelRules) priority() Units {
	if c.Priority.Set {
		return c.Priority.Units
	}
	return DefaultPriority
}

func (c *ChannelRules) weight(m Mode) Units {
	if m == Proportional && c.Weight.Set {
		return min(max(c.Weight.Units, 0), MaxWeight)
	}
	return 1
}

// value is the number set, at least 0 and at most MaxUnits, and def where none is set.
func (s Setting) value(def Units) Units {
	if !s.Set {
		return def
	}
	return min(max(s.Units, 0), MaxUnits)
}
