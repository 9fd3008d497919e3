package catalog

// ParseLocationKind finds the location kind of a name of the settings file, and false for a name that is none.
func ParseLocationKind(name string) (LocationKind, bool) {
	for i, n := range locationKinds {
		if n == name && i != 0 {
			return LocationKind(i), true
		}
	}
	return UnspecifiedLocation, false
}

// String is the kind's name in the settings file: warehouse, store, 3pl, fba, wfs or virtual.
func (k LocationKind) String() string {
	if int(k) < len(locationKinds) {
		return locationKinds[k]
	}
	return "unknown"
}

var locationKinds = [...]string{"", "warehouse", "store", "3pl", "fba", "wfs", "virtual"}

// ParseOperation finds the operation of a name of the settings file, and false for a name that is none.
func ParseOperation(name string) (Operation, bool) {
	for o := Absolute; o <= CompareAndSet; o++ {
		if o.String() == name {
			return o, true
		}
	}
	return UnspecifiedOperation, false
}

// Exclusive says that only the location's own channel sells from it: fulfilment by a marketplace, without multi-channel.
func (l *Location) Exclusive() bool { return (l.Kind == FBA || l.Kind == WFS) && !l.MultiChannel }
