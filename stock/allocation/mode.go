package allocation

// Mode says how stock is divided over channels. Zero is Pooled.
type Mode uint8

// The modes.
const (
	Pooled       Mode = iota // every channel sees the whole pool, less its buffers and what is reserved for others
	Waterfall                // each unit is promised to one channel: reserves first, then by priority
	Proportional             // each unit is promised to one channel: reserves first, then by weight
	Fair                     // as Proportional, all weights equal
)

var modeNames = [...]string{"pooled", "waterfall", "proportional", "fair"}

// String is the mode's name in rules and targets.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "unknown"
}

// ParseMode finds the mode of a name, and false for a name that is none.
func ParseMode(name string) (Mode, bool) {
	for i, n := range modeNames {
		if n == name {
			return Mode(i), true
		}
	}
	return Pooled, false
}

// Rounding says how shares become whole units. Zero is LargestRemainder.
type Rounding uint8

// The roundings.
const (
	// LargestRemainder keeps each share within a unit of its quota; more stock may lower a share (the Alabama paradox).
	LargestRemainder Rounding = iota
	// Webster hands out unit by unit to the lowest (2k+1)/weight: more stock never lowers a share whose limits do not change.
	Webster
)

var roundingNames = [...]string{"largest_remainder", "webster"}

// String is the rounding's name in rules.
func (r Rounding) String() string {
	if int(r) < len(roundingNames) {
		return roundingNames[r]
	}
	return "unknown"
}

// ParseRounding finds the rounding of a name, and false for a name that is none.
func ParseRounding(name string) (Rounding, bool) {
	for i, n := range roundingNames {
		if n == name {
			return Rounding(i), true
		}
	}
	return LargestRemainder, false
}

// Guarantee says how sure it is that no unit is sold twice. Zero is NoGuarantee.
type Guarantee uint8

// The guarantees.
const (
	NoGuarantee Guarantee = iota // pooled: as fast as events travel, and an oversell possible while they do
	Adaptive                     // pooled while there is plenty, strict when it gets scarce
	Strict                       // exposure is kept in books at all times: no write without room
)

var guaranteeNames = [...]string{"pooled", "adaptive", "strict"}

// String is the guarantee's name as a rule's mode.
func (g Guarantee) String() string {
	if int(g) < len(guaranteeNames) {
		return guaranteeNames[g]
	}
	return "unknown"
}

// Share says how stock is divided where each unit is shown by one channel only. Zero is ByDemand.
type Share uint8

// The shares.
const (
	ByDemand   Share = iota // by what each channel is expected to sell
	ByPriority              // by priority
	ByWeight                // by weight
	Equally                 // the same for all
)

var shareNames = [...]string{"demand", "priority", "weight", "fair"}

// String is the share's name in rules.
func (s Share) String() string {
	if int(s) < len(shareNames) {
		return shareNames[s]
	}
	return "unknown"
}

// Mode is how the solver divides by the share: by demand is Proportional, with the weights in the input.
func (s Share) Mode() Mode {
	switch s {
	case ByPriority:
		return Waterfall
	case Equally:
		return Fair
	default:
		return Proportional
	}
}

// ParseShare finds the share of a name, and false for a name that is none.
func ParseShare(name string) (Share, bool) {
	for i, n := range shareNames {
		if n == name {
			return Share(i), true
		}
	}
	return ByDemand, false
}

// RuleMode is the name of what rules ask for, as [ParseRuleMode] reads it.
func (r *Rules) RuleMode() string {
	if r.Guarantee != NoGuarantee {
		return r.Guarantee.String()
	}
	return r.Mode.String()
}

// ParseRuleMode finds what a rule's mode asks for: pooled, adaptive or strict, or one of the divisions without a guarantee (waterfall, proportional,
// fair); and false for a name that is none.
func ParseRuleMode(name string) (m Mode, g Guarantee, ok bool) {
	for i, n := range guaranteeNames {
		if n == name {
			return Pooled, Guarantee(i), true
		}
	}
	m, ok = ParseMode(name)
	return m, NoGuarantee, ok
}
