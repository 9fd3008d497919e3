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
