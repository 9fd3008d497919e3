// Package catalogfile reads and writes settings as people keep them: YAML (or JSON) with the sections channels, locations, rules and listings,
// each a map by id or a list. Every fault carries line and column, and an unknown key is one.
package catalogfile

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/onhand/onhand/stock/catalog"
)

const (
	maxNodes  = 2_000_000 // visited in one file: aliases cannot blow it up
	maxFaults = 100
	maxDepth  = 16 // levels of nesting; the format has six
)

// Place is where something stands in a file.
type Place struct {
	Line, Column int
	Pointer      string // JSON pointer within its document
}

// Fault is one thing wrong with a file.
type Fault struct {
	Place
	Message string
}

// String is place and message, as compilers write them.
func (f Fault) String() string { return fmt.Sprintf("%d:%d: %s", f.Line, f.Column, f.Message) }

// File is what a file says, and where.
type File struct {
	Document catalog.Document
	// Sections says which of channels, locations, rules and listings the file has, be they empty.
	Sections map[string]bool
	places   map[string]Place // by path, as catalog.Fault has it
}

// Place is where a path of the document stands, or the nearest thing around it.
func (f *File) Place(path string) Place {
	for path != "" {
		if p, ok := f.places[path]; ok {
			return p
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return Place{Line: 1, Column: 1}
}

// Parse reads a file of one or more YAML documents; JSON is YAML too. With faults, the file is of no use.
func Parse(text []byte) (f *File, faults []Fault) {
	defer func() { // the YAML parser is others' code, and the text is anyone's
		if r := recover(); r != nil {
			f, faults = nil, []Fault{{Place: Place{Line: 1, Column: 1}, Message: fmt.Sprintf("the file cannot be read as YAML (%v)", r)}}
		}
	}()
	if n := nesting(text); n > maxDepth {
		return nil, []Fault{{Place: Place{Line: 1, Column: 1}, Message: fmt.Sprintf("more than %d brackets open at once: settings are not nested so deep", maxDepth)}}
	}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, []Fault{syntax(err)}
	}
	d := &decoder{File: &File{Sections: map[string]bool{}, places: map[string]Place{}}, anchors: map[string]ast.Node{}}
	for _, doc := range tree.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if _, comment := doc.Body.(*ast.CommentGroupNode); comment {
			continue
		}
		clear(d.anchors)
		d.file(doc.Body)
	}
	if len(d.faults) > 0 {
		return nil, d.faults
	}
	return d.File, nil
}

// nesting is the most brackets that are open at once, roughly: those in strings count too when they are unbalanced.
func nesting(text []byte) (most int) {
	n, quoted := 0, false
	for i, c := range text {
		switch {
		case c == '"' && (i == 0 || text[i-1] != '\\'):
			quoted = !quoted
		case c == '\n':
			quoted = false
		case quoted:
		case c == '[' || c == '{':
			n++
			most = max(most, n)
		case c == ']' || c == '}':
			n = max(0, n-1)
		}
	}
	return most
}

func syntax(err error) Fault {
	var y yaml.Error
	f := Fault{Place: Place{Line: 1, Column: 1}, Message: "not valid YAML: " + strings.ToValidUTF8(err.Error(), "?")}
	if errors.As(err, &y) {
		f.Message = "not valid YAML: " + y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			f.Line, f.Column = t.Position.Line, t.Position.Column
		}
	}
	return f
}

type decoder struct {
	*File
	faults  []Fault
	anchors map[string]ast.Node
	nodes   int
}

func place(n ast.Node, pointer string) Place {
	p := Place{Line: 1, Column: 1, Pointer: pointer}
	if n == nil {
		return p
	}
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 { // its token is the first colon
		n = m.Values[0].Key
	} else if m, ok := n.(*ast.MappingValueNode); ok {
		n = m.Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		p.Line, p.Column = t.Position.Line, t.Position.Column
	}
	return p
}

func (d *decoder) fault(n ast.Node, pointer, format string, args ...any) {
	if len(d.faults) < maxFaults {
		d.faults = append(d.faults, Fault{Place: place(n, pointer), Message: fmt.Sprintf(format, args...)})
	}
}

// resolve follows anchors, aliases and tags to the node they stand for.
func (d *decoder) resolve(n ast.Node, pointer string) ast.Node {
	for range maxDepth {
		if d.nodes++; d.nodes > maxNodes {
			if d.nodes == maxNodes+1 {
				d.fault(n, pointer, "the file is too large once its aliases are written out: write it without them, in parts")
			}
			return nil
		}
		switch x := n.(type) {
		case *ast.AnchorNode:
			d.anchors[x.Name.GetToken().Value] = x.Value
			n = x.Value
		case *ast.AliasNode:
			to, ok := d.anchors[x.Value.GetToken().Value]
			if !ok {
				d.fault(x, pointer, "the alias *%s has no anchor before it", x.Value.GetToken().Value)
				return nil
			}
			n = to
		case *ast.TagNode:
			d.fault(x, pointer, "tags such as %s are not used here: remove it", x.Start.Value)
			return nil
		case *ast.NullNode:
			return nil
		default:
			return n
		}
	}
	d.fault(n, pointer, "an alias leads back to itself")
	return nil
}

type member struct {
	name string
	key  ast.Node
	val  ast.Node
}

// members lists the entries of a mapping; ok is false, with a fault, when n is none. Nothing (null) is an empty mapping.
func (d *decoder) members(n ast.Node, pointer, what string) (ms []member, ok bool) {
	if n == nil {
		return nil, true
	}
	mapping, isMap := n.(ast.MapNode)
	if !isMap {
		d.fault(n, pointer, "%s must be a mapping (key: value), not %s", what, kind(n))
		return nil, false
	}
	seen := make(map[string]bool)
	for it := mapping.MapRange(); it.Next(); {
		key := it.Key()
		if key.IsMergeKey() {
			d.fault(key, pointer, "merge keys (<<) are not used here: write the keys out")
			continue
		}
		name := text(key)
		if seen[name] {
			d.fault(key, pointer+"/"+escape(name), "the key %s is there twice: keep one", name)
			continue
		}
		seen[name] = true
		ms = append(ms, member{name, key, d.resolve(it.Value(), pointer+"/"+escape(name))})
	}
	return ms, true
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

func escape(s string) string { return pointerEscaper.Replace(s) }

func kind(n ast.Node) string {
	switch n.(type) {
	case ast.MapNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode:
		return "a number"
	default:
		return "a text"
	}
}

// text is a scalar as it was written: 00123 stays 00123.
func text(n ast.Node) string {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value
	case *ast.LiteralNode:
		return x.Value.Value
	case *ast.MappingKeyNode:
		return text(x.Value)
	}
	if t := n.GetToken(); t != nil {
		return strings.TrimSpace(t.Value)
	}
	return ""
}

// field is one key of a mapping and what to do with its value, which is not null.
type field struct {
	name string
	read func(n ast.Node, path, pointer string)
}

func (d *decoder) object(n ast.Node, path, pointer, what string, fields []field) {
	ms, _ := d.members(n, pointer, what)
next:
	for _, m := range ms {
		at := pointer + "/" + escape(m.name)
		for _, f := range fields {
			if f.name == m.name {
				p := path + "." + f.name
				d.places[p] = place(m.key, at)
				if m.val != nil {
					f.read(m.val, p, at)
				}
				continue next
			}
		}
		names := make([]string, len(fields))
		for i, f := range fields {
			names[i] = f.name
		}
		d.fault(m.key, at, "%s has no key %q; its keys are %s", what, m.name, strings.Join(names, ", "))
	}
}

func (d *decoder) file(body ast.Node) {
	ms, _ := d.members(d.resolve(body, ""), "", "the file")
	for _, m := range ms {
		at := "/" + escape(m.name)
		switch m.name {
		case "channels":
			d.section(m, at, "id", d.channel)
		case "locations":
			d.section(m, at, "id", d.location)
		case "rules":
			d.section(m, at, "id", d.rule)
		case "policies":
			d.section(m, at, "id", d.policy)
		case "listings":
			d.section(m, at, "sku", d.listing)
		default:
			d.fault(m.key, at, "there is no section %q; the sections are channels, locations, rules, policies and listings", m.name)
		}
	}
}

// section reads the entries of a section, by id or as a list.
func (d *decoder) section(m member, pointer, idKey string, entry func(n ast.Node, id, pointer string, at Place)) {
	d.Sections[m.name] = true
	if seq, ok := m.val.(*ast.SequenceNode); ok {
		for i, v := range seq.Values {
			p := pointer + "/" + strconv.Itoa(i)
			n := d.resolve(v, p)
			if n == nil {
				d.fault(v, p, "the entry is empty: give it %s and its settings, or remove it", idKey)
				continue
			}
			entry(n, "", p, place(n, p))
		}
		return
	}
	ms, _ := d.members(m.val, pointer, m.name)
	for _, e := range ms {
		p := pointer + "/" + escape(e.name)
		entry(e.val, e.name, p, place(e.key, p))
	}
}

// named is the field that holds an entry's id: given by the map's key, it may be repeated but not changed.
func (d *decoder) named(name, key string, into *string) field {
	return field{name, func(n ast.Node, _, pointer string) {
		d.words(into)(n, "", pointer)
		if key != "" && *into != key {
			d.fault(n, pointer, "%s is %q, but the key of the entry is %q: leave one out", name, *into, key)
		}
	}}
}

func (d *decoder) words(into *string) func(ast.Node, string, string) {
	return func(n ast.Node, _, pointer string) {
		switch n.(type) {
		case ast.MapNode, *ast.SequenceNode:
			d.fault(n, pointer, "want a text, not %s", kind(n))
		default:
			*into = text(n)
		}
	}
}

func (d *decoder) flag(into *bool) func(ast.Node, string, string) {
	return func(n ast.Node, _, pointer string) {
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.fault(n, pointer, "want true or false, not %s", kind(n))
			return
		}
		*into = b.Value
	}
}

// whole reads a whole number.
func (d *decoder) whole(n ast.Node, pointer string, bits int) (int64, bool) {
	if _, ok := n.(*ast.IntegerNode); ok {
		if v, err := strconv.ParseInt(strings.ReplaceAll(text(n), "_", ""), 10, bits); err == nil {
			return v, true
		}
	}
	if _, ok := n.(*ast.StringNode); ok {
		d.fault(n, pointer, "want a whole number without quotes, not %q", text(n))
		return 0, false
	}
	d.fault(n, pointer, "want a whole number, not %s", shorten(text(n)))
	return 0, false
}

func shorten(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

func (d *decoder) count(into *int) func(ast.Node, string, string) {
	return func(n ast.Node, _, pointer string) {
		if v, ok := d.whole(n, pointer, 32); ok {
			*into = int(v)
		}
	}
}

func (d *decoder) units(into *catalog.Units) func(ast.Node, string, string) {
	return func(n ast.Node, _, pointer string) {
		if v, ok := d.whole(n, pointer, 64); ok {
			*into = catalog.Units(v)
		}
	}
}

func (d *decoder) maybe(into **catalog.Units) func(ast.Node, string, string) {
	return func(n ast.Node, path, pointer string) {
		var v catalog.Units
		*into = &v
		d.units(&v)(n, path, pointer)
	}
}

func (d *decoder) word(into **string) func(ast.Node, string, string) {
	return func(n ast.Node, path, pointer string) {
		var v string
		*into = &v
		d.words(&v)(n, path, pointer)
	}
}

func (d *decoder) channel(n ast.Node, id, pointer string, at Place) {
	path := fmt.Sprintf("channels[%d]", len(d.Document.Channels))
	d.places[path], d.places[path+".id"] = at, at
	c := catalog.Channel{ID: id}
	d.object(n, path, pointer, "a channel", []field{
		d.named("id", id, &c.ID), {"name", d.words(&c.Name)}, {"adapter", d.words(&c.Adapter)}, {"base_url", d.words(&c.BaseURL)},
		{"operation", func(n ast.Node, _, pointer string) {
			op, ok := catalog.ParseOperation(text(n))
			if !ok {
				d.fault(n, pointer, "operation %q: want absolute, delta or compare_and_set", shorten(text(n)))
			}
			c.Operation = op
		}},
		{"batch_size", d.count(&c.BatchSize)}, {"rate_per_second", d.words(&c.RatePerSecond)}, {"burst", d.count(&c.Burst)},
		{"max_in_flight", d.count(&c.MaxInFlight)},
		{"locations", func(n ast.Node, path, pointer string) {
			seq, ok := n.(*ast.SequenceNode)
			if !ok {
				d.fault(n, pointer, "locations must be a list of location ids, not %s", kind(n))
				return
			}
			for i, v := range seq.Values {
				p := pointer + "/" + strconv.Itoa(i)
				d.places[fmt.Sprintf("%s[%d]", path, i)] = place(v, p)
				var s string
				if v = d.resolve(v, p); v != nil {
					d.words(&s)(v, "", p)
				}
				c.Locations = append(c.Locations, s)
			}
		}},
		{"lists_all_skus", d.flag(&c.ListsAllSKUs)}, {"token_secret", d.words(&c.TokenSecret)}, {"paused", d.flag(&c.Paused)},
		{"timeout_ms", d.count(&c.TimeoutMS)}, {"late_window_ms", d.count(&c.LateWindowMS)},
		{"sets_any", d.flag(&c.SetsAny)}, {"write_only", d.flag(&c.WriteOnly)},
		{"orders_path", d.words(&c.OrdersPath)}, {"orders_lag_ms", d.count(&c.OrdersLagMS)},
	})
	d.Document.Channels = append(d.Document.Channels, c)
}

func (d *decoder) location(n ast.Node, id, pointer string, at Place) {
	path := fmt.Sprintf("locations[%d]", len(d.Document.Locations))
	d.places[path], d.places[path+".id"] = at, at
	l := catalog.Location{ID: id}
	d.object(n, path, pointer, "a location", []field{
		d.named("id", id, &l.ID), {"name", d.words(&l.Name)},
		{"kind", func(n ast.Node, _, pointer string) {
			k, ok := catalog.ParseLocationKind(text(n))
			if !ok {
				d.fault(n, pointer, "kind %q: want warehouse, store, 3pl, fba, wfs or virtual", shorten(text(n)))
			}
			l.Kind = k
		}},
		{"channel", d.words(&l.Channel)}, {"multi_channel", d.flag(&l.MultiChannel)}, {"time_zone", d.words(&l.TimeZone)},
		{"country", d.words(&l.Country)}, {"buffer", d.units(&l.Buffer)},
	})
	d.Document.Locations = append(d.Document.Locations, l)
}

func (d *decoder) policy(n ast.Node, id, pointer string, at Place) {
	path := fmt.Sprintf("policies[%d]", len(d.Document.Policies))
	d.places[path], d.places[path+".id"] = at, at
	p := catalog.Policy{ID: id}
	verdict := func(into *bool) func(n ast.Node, path, pointer string) {
		return func(n ast.Node, _, pointer string) {
			switch text(n) {
			case "accept":
				*into = false
			case "reject":
				*into = true
			default:
				d.fault(n, pointer, "%q: want accept or reject", shorten(text(n)))
			}
		}
	}
	d.object(n, path, pointer, "a policy", []field{
		d.named("id", id, &p.ID), {"unknown_skus", verdict(&p.RejectSKUs)}, {"unknown_locations", verdict(&p.RejectLocations)},
	})
	d.Document.Policies = append(d.Document.Policies, p)
}

func (d *decoder) rule(n ast.Node, id, pointer string, at Place) {
	path := fmt.Sprintf("rules[%d]", len(d.Document.Rules))
	d.places[path], d.places[path+".id"] = at, at
	r := catalog.Rule{ID: id}
	d.object(n, path, pointer, "a rule", []field{
		d.named("id", id, &r.ID),
		{"match", func(n ast.Node, path, pointer string) {
			d.object(n, path, pointer, "match", []field{
				{"channel", d.words(&r.Match.Channel)}, {"sku", d.words(&r.Match.SKU)}, {"brand", d.words(&r.Match.Brand)},
				{"category", d.words(&r.Match.Category)},
			})
		}},
		{"buffer", d.maybe(&r.Buffer)}, {"reserve", d.maybe(&r.Reserve)},
		{"cap", func(n ast.Node, _, pointer string) {
			v, what := parseCap(text(n))
			if what != "" {
				d.fault(n, pointer, "%s", what)
			}
			r.CapBP = &v
		}},
		{"max", d.maybe(&r.Max)}, {"hide_at", d.maybe(&r.HideAt)},
		{"priority", func(n ast.Node, _, pointer string) {
			if v, ok := d.whole(n, pointer, 32); ok {
				p := int32(v)
				r.Priority = &p
			}
		}},
		{"weight", d.maybe(&r.Weight)},
		{"paused", func(n ast.Node, path, pointer string) {
			var v bool
			r.Paused = &v
			d.flag(&v)(n, path, pointer)
		}},
		{"floor", d.maybe(&r.Floor)}, {"share", d.word(&r.Share)},
		{"mode", d.word(&r.Mode)}, {"pool_buffer", d.maybe(&r.PoolBuffer)}, {"rounding", d.word(&r.Rounding)},
	})
	d.Document.Rules = append(d.Document.Rules, r)
}

// parseCap reads 80%, 12.5%, 8000bp or 8000 (basis points). A bare number up to 100 could mean either, and is refused.
func parseCap(s string) (bp int32, what string) {
	bad := fmt.Sprintf("cap %q: want a percentage such as 80%% or 12.5%%, or basis points such as 8000bp", shorten(s))
	num, percent := strings.CutSuffix(s, "%")
	num, points := strings.CutSuffix(num, "bp")
	num = strings.TrimSpace(num)
	scale := 1
	if percent {
		scale = 100
		if whole, frac, ok := strings.Cut(num, "."); ok {
			if len(frac) == 0 || len(frac) > 2 {
				return 0, bad
			}
			num, scale = whole+(frac + "0")[:2], 1
		}
	}
	v, err := strconv.ParseUint(num, 10, 31)
	if err != nil || percent && points || v > uint64(math.MaxInt32/scale) {
		return 0, bad
	}
	if !percent && !points && v > 0 && v <= 100 {
		return 0, fmt.Sprintf("cap %s could be per cent or basis points: write %s%% or %sbp", num, num, num)
	}
	return int32(v) * int32(scale), ""
}

func (d *decoder) listing(n ast.Node, sku, pointer string, at Place) {
	path := fmt.Sprintf("listings[%d]", len(d.Document.Listings))
	d.places[path], d.places[path+".sku"] = at, at
	l := catalog.Listing{SKU: sku}
	d.object(n, path, pointer, "a listing", []field{
		d.named("sku", sku, &l.SKU), {"title", d.words(&l.Title)}, {"brand", d.words(&l.Brand)}, {"category", d.words(&l.Category)},
		{"unit_cost", d.words(&l.UnitCost)}, {"currency", d.words(&l.Currency)},
		{"channels", func(n ast.Node, path, pointer string) { d.listed(n, path, pointer, &l) }},
		{"components", func(n ast.Node, path, pointer string) { d.components(n, path, pointer, &l) }},
	})
	d.Document.Listings = append(d.Document.Listings, l)
}

// listed reads the channels of a listing, as a list or by channel.
func (d *decoder) listed(n ast.Node, path, pointer string, l *catalog.Listing) {
	one := func(n ast.Node, id, pointer string, at Place) {
		p := fmt.Sprintf("%s[%d]", path, len(l.Channels))
		d.places[p], d.places[p+".channel"] = at, at
		c := catalog.ChannelListing{Channel: id}
		d.object(n, p, pointer, "a channel of a listing", []field{
			d.named("channel", id, &c.Channel), {"external_id", d.words(&c.ExternalID)}, {"price", d.words(&c.Price)}, {"fee", d.words(&c.Fee)},
			{"currency", d.words(&c.Currency)}, {"paused", d.flag(&c.Paused)},
		})
		l.Channels = append(l.Channels, c)
	}
	if seq, ok := n.(*ast.SequenceNode); ok {
		for i, v := range seq.Values {
			p := pointer + "/" + strconv.Itoa(i)
			one(d.resolve(v, p), "", p, place(v, p))
		}
		return
	}
	ms, _ := d.members(n, pointer, "channels")
	for _, m := range ms {
		p := pointer + "/" + escape(m.name)
		one(m.val, m.name, p, place(m.key, p))
	}
}

// components reads the parts of a bundle: a list of sku and quantity, or quantities by SKU.
func (d *decoder) components(n ast.Node, path, pointer string, l *catalog.Listing) {
	add := func(c catalog.Component, at Place) string {
		p := fmt.Sprintf("%s[%d]", path, len(l.Components))
		d.places[p], d.places[p+".sku"], d.places[p+".quantity"] = at, at, at
		l.Components = append(l.Components, c)
		return p
	}
	if seq, ok := n.(*ast.SequenceNode); ok {
		for i, v := range seq.Values {
			p := pointer + "/" + strconv.Itoa(i)
			at := add(catalog.Component{}, place(v, p))
			c := &l.Components[len(l.Components)-1]
			d.object(d.resolve(v, p), at, p, "a component", []field{{"sku", d.words(&c.SKU)}, {"quantity", d.units(&c.Quantity)}})
		}
		return
	}
	ms, _ := d.members(n, pointer, "components")
	for _, m := range ms {
		p := pointer + "/" + escape(m.name)
		c := catalog.Component{SKU: m.name}
		if m.val == nil {
			d.fault(m.key, p, "give the units of %s in one bundle", m.name)
		} else {
			d.units(&c.Quantity)(m.val, "", p)
		}
		add(c, place(m.key, p))
	}
}
