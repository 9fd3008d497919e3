package allocation

import "strconv"

// Explain appends to dst the derivation of the target of channel i of the last input, first step first. The units of the last step are the
// target. It formats text: call it for targets that someone will see.
func (s *Solver) Explain(dst []Step, i int) []Step {
	c := &s.ch[i]
	r := c.rules
	var raw, left Units // before and after location buffers
	text, kept := s.available(i, &raw, &left)
	dst = append(dst, Step{Name: "available", Units: raw, Detail: text})
	if kept != "" {
		dst = append(dst, Step{Name: "location_buffer", Units: left, Detail: kept})
	}
	run := left
	if s.gone > 0 {
		run = max(0, run-s.gone)
		dst = append(dst, Step{Name: "unassigned", Units: run, Detail: num(s.gone) + " sold, with no location yet"})
	}
	if b := &s.in.Rules.PoolBuffer; b.Set {
		run = min(run, s.n)
		dst = append(dst, Step{Name: "pool_buffer", Units: run, Detail: rule(b) + num(s.kept) + " kept off all channels"})
	}
	if r.Buffer.Set {
		run = max(0, run-r.Buffer.value(0))
		dst = append(dst, Step{Name: "buffer", Units: run, Detail: rule(&r.Buffer) + num(r.Buffer.value(0)) + " held back"})
	}
	if r.Cap.Set {
		run = min(run, s.capped(r))
		dst = append(dst, Step{Name: "cap", Units: run, Detail: rule(&r.Cap) + percent(min(r.Cap.value(0), FullCap)) + " % of " + num(s.n)})
	}
	if r.Max.Set {
		run = min(run, r.Max.value(MaxUnits))
		dst = append(dst, Step{Name: "max", Units: run, Detail: rule(&r.Max) + "at most " + num(r.Max.value(MaxUnits))})
	}
	switch {
	case c.paused: // what follows was not asked
	case s.mode == Pooled:
		if all := max(0, min(s.n, left-s.gone)); c.scope >= 0 && c.open < all {
			run = min(run, max(0, c.open-r.Buffer.value(0)))
			dst = append(dst, Step{Name: "reserve", Units: run, Detail: num(all-c.open) + " reserved for other channels"})
		}
	default:
		run = c.given
		if c.hidden {
			run = c.wouldBe
		}
		dst = append(dst, s.shared(i, run))
	}
	if c.hidden {
		run = 0
	}
	if r.HideAt.Set && !c.paused {
		text := "shown, as it is more than "
		if c.hidden {
			text = "hidden, as it is not more than "
		} else if run == 0 {
			text = "nothing to hide at "
		}
		dst = append(dst, Step{Name: "hide", Units: run, Detail: rule(&r.HideAt) + text + num(r.HideAt.value(0))})
	}
	if c.paused {
		text := "the listing is paused"
		if r.Paused.value(0) != 0 {
			text = rule(&r.Paused) + "the channel is paused"
		}
		return append(dst, Step{Name: "pause", Detail: text})
	}
	if s.owned[i] > 0 {
		run += s.owned[i]
		dst = append(dst, Step{Name: "exclusive", Units: run, Detail: num(s.owned[i]) + " in its own locations, outside the rules"})
	}
	if f := &c.rules.Floor; f.Set {
		run = max(run, f.value(0))
		dst = append(dst, Step{Name: "floor", Units: run, Detail: rule(f) + "at least " + num(f.value(0)) + ", made to order where there is less"})
	}
	return dst
}

// shared is the step in which channel i got its own units.
func (s *Solver) shared(i int, units Units) Step {
	c := &s.ch[i]
	b := make([]byte, 0, 64)
	if c.rules.Reserve.Set {
		b = append(b, rule(&c.rules.Reserve)...)
		b = append(b, "reserve "...)
		b = strconv.AppendInt(b, int64(min(c.rules.Reserve.value(0), units)), 10)
		b = append(b, "; "...)
	}
	st := Step{Name: "share", Units: units}
	switch s.mode {
	case Waterfall:
		st.Name = "priority"
		at := 0
		for j, k := range s.order {
			if k == i {
				at = j + 1
			}
		}
		if p := &c.rules.Priority; p.Set {
			b = append(b, rule(p)...)
		}
		b = append(b, "priority "...)
		b = strconv.AppendInt(b, int64(c.priority), 10)
		b = append(b, ", "...)
		b = strconv.AppendInt(b, int64(at), 10)
		b = append(b, " of "...)
		b = strconv.AppendInt(b, int64(len(s.order)), 10)
	case Proportional:
		var sum Units
		for j := range s.ch {
			sum += s.ch[j].weight
		}
		if w := &c.rules.Weight; w.Set {
			b = append(b, rule(w)...)
		}
		b = append(b, "weight "...)
		b = strconv.AppendInt(b, int64(c.weight), 10)
		b = append(b, " of "...)
		b = strconv.AppendInt(b, int64(sum), 10)
	default:
		b = append(b, "one of "...)
		b = strconv.AppendInt(b, int64(len(s.ch)), 10)
		b = append(b, " equal shares"...)
	}
	b = append(b, " in "...)
	b = strconv.AppendInt(b, int64(s.n), 10)
	st.Detail = string(b)
	return st
}

// available describes the shared stock that channel i sees: before location buffers (raw) and after (left), and what the buffers keep.
func (s *Solver) available(i int, raw, left *Units) (text, kept string) {
	const named = 4 // places named; the others are counted
	l := s.in.Layout
	g := l.group[s.ch[i].seller]
	b := make([]byte, 0, 64)
	var k []byte
	more, unknown, strangers := 0, Units(0), 0
	n := 0
	for j := range s.in.Stock {
		st := &s.in.Stock[j]
		if st.Place < 0 {
			if st.Available > 0 {
				unknown += min(st.Available, MaxUnits)
				strangers++
			}
			continue
		}
		p := &l.places[st.Place]
		if !p.sells(g) {
			continue
		}
		a := min(max(st.Available, 0), MaxUnits)
		o := offered(st.Available, p.Buffer)
		*raw, *left = min(*raw+a, MaxUnits), min(*left+o, MaxUnits)
		if st.Available == 0 {
			continue
		}
		if n++; n > named {
			more++
			continue
		}
		if n > 1 {
			b = append(b, ", "...)
		}
		b = append(b, st.ID...)
		b = append(b, ' ')
		b = strconv.AppendInt(b, int64(st.Available), 10)
		if o < a {
			if k != nil {
				k = append(k, ", "...)
			}
			k = append(k, st.ID...)
			k = append(k, " keeps "...)
			k = strconv.AppendInt(k, int64(a-o), 10)
		}
	}
	if more > 0 {
		b = append(b, " and "...)
		b = strconv.AppendInt(b, int64(more), 10)
		b = append(b, " more locations"...)
	}
	if n == 0 {
		b = append(b, "none in its locations"...)
	}
	if strangers > 0 {
		b = append(b, "; "...)
		b = strconv.AppendInt(b, int64(unknown), 10)
		b = append(b, " not counted, in locations without settings"...)
	}
	if *left < *raw && k == nil {
		k = append(k, "kept by locations' buffers"...)
	}
	return string(b), string(k)
}

func num(u Units) string { return strconv.FormatInt(int64(u), 10) }

func rule(s *Setting) string {
	if s.Rule == "" {
		return ""
	}
	return s.Rule + ": "
}

// percent is basis points as a percentage: 3333 is 33.33, 2500 is 25.
func percent(bp Units) string {
	s := num(bp / 100)
	if rest := bp % 100; rest != 0 {
		s += "." + string('0'+rune(rest/10))
		if rest%10 != 0 {
			s += string('0' + rune(rest%10))
		}
	}
	return s
}
