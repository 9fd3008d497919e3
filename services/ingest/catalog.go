package ingest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/onhand/onhand/catalogfile"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/stock/bundle"
	"github.com/onhand/onhand/stock/catalog"
	"github.com/onhand/onhand/topics"
)

// Action is what became of an entry of the catalog.
type Action string

// The actions.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Unchanged Action = "unchanged"
	Deleted   Action = "deleted"
)

// Change is one entry of the catalog and what became of it.
type Change struct {
	Kind   string `json:"kind" enum:"channel,location,rule,policy,listing" doc:"Kind of entry."`
	ID     string `json:"id" doc:"Id of the entry; a listing's is its SKU."`
	Action Action `json:"action" enum:"created,updated,unchanged,deleted" doc:"What became of it."`

	record *kgo.Record // nil when unchanged
}

// Applied is the answer to changes of the catalog.
type Applied struct {
	DryRun    bool     `json:"dry_run" doc:"Nothing was written: this is what would be."`
	Created   int      `json:"created" doc:"Entries created."`
	Updated   int      `json:"updated" doc:"Entries updated."`
	Unchanged int      `json:"unchanged" doc:"Entries that were so already."`
	Deleted   int      `json:"deleted" doc:"Entries deleted."`
	Changes   []Change `json:"changes" doc:"Each entry, in the order of channels, locations, rules, listings."`
}

var catalogTypes = map[string]string{
	"application/yaml": "yaml", "application/x-yaml": "yaml", "text/yaml": "yaml", "text/x-yaml": "yaml", "application/json": "json",
}

// current is the catalog in force. Its maps may be changed; what they hold may not.
type current struct {
	catalog.Settings
	listings map[string]*catalog.Listing
}

func (s *Service) current(ctx context.Context) (*current, *problem.Details) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.deps.Catalog.WaitReady(ctx); err != nil {
		return nil, unavailable("the catalog has not been read yet: send the request again", 2*time.Second)
	}
	c := &current{Settings: *s.deps.Catalog.Settings(), listings: map[string]*catalog.Listing{}}
	c.Channels, c.Locations, c.Rules = maps.Clone(c.Channels), maps.Clone(c.Locations), maps.Clone(c.Rules)
	c.Policies = maps.Clone(c.Policies)
	s.deps.Catalog.Listings(func(l *catalog.Listing) bool {
		c.listings[l.SKU] = l
		return true
	})
	return c, nil
}

// putCatalog applies a document of settings.
func (s *Service) putCatalog(w http.ResponseWriter, r *http.Request) {
	kind, fault := mediaType(r, catalogTypes, "application/yaml or application/json")
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	dry, fault := boolean(r, "dry_run")
	if fault == nil {
		var prune bool
		if prune, fault = boolean(r, "prune"); fault == nil {
			var text []byte
			if text, fault = s.readAll(w, r, s.cfg.MaxBody, "apply it in parts"); fault == nil {
				s.applyFile(w, r, text, kind, dry, prune)
				return
			}
		}
	}
	problem.Write(w, fault)
}

func boolean(r *http.Request, name string) (bool, *problem.Details) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, problem.New(http.StatusBadRequest, "parameter", "Parameter not valid", fmt.Sprintf("%s=%q: want true or false", name, v))
	}
	return b, nil
}

func (s *Service) applyFile(w http.ResponseWriter, r *http.Request, text []byte, kind string, dry, prune bool) {
	if kind == "json" { // tabs are space in JSON, and not in YAML
		for i, c := range text {
			if c == '\t' {
				text[i] = ' '
			}
		}
	}
	file, faults := catalogfile.Parse(text)
	if len(faults) > 0 {
		problem.Write(w, invalidFile(faults))
		return
	}
	if len(file.Sections) == 0 {
		problem.Write(w, problem.New(http.StatusBadRequest, "empty", "Nothing sent", "the file has none of the sections channels, locations, rules and listings"))
		return
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	ctx := context.WithoutCancel(r.Context())
	now, fault := s.current(r.Context())
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	who := apikey.From(r.Context()).Name
	changes := s.compare(now, file, prune, who)
	if faults := s.judge(now, file); len(faults) > 0 {
		problem.Write(w, invalidFile(faults))
		return
	}
	s.commit(ctx, w, changes, dry)
}

func invalidFile(faults []catalogfile.Fault) *problem.Details {
	fields := make([]problem.Field, len(faults))
	for i, f := range faults {
		fields[i] = problem.Field{Pointer: f.Pointer, Code: "invalid", Detail: f.Message, Line: f.Line, Column: f.Column}
	}
	slices.SortStableFunc(fields, func(a, b problem.Field) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	d := problem.New(http.StatusUnprocessableEntity, "invalid", "Settings not valid",
		fmt.Sprintf("line %d, column %d: %s", fields[0].Line, fields[0].Column, fields[0].Detail))
	if len(fields) > 1 {
		d.Detail += fmt.Sprintf(" (and %d more)", len(fields)-1)
	}
	d.Detail += "; nothing was changed"
	d.Errors = fields
	return d
}

// compare says what the file changes, and makes now what would be in force after it but for the file's own entries.
func (s *Service) compare(now *current, file *catalogfile.File, prune bool, who string) []Change {
	at := time.Now().UnixMicro()
	codec := s.deps.Codec
	setting := func(set topics.Setting) *kgo.Record {
		set.AppliedAt, set.AppliedBy = at, who
		return topics.Record(schemas.CatalogSettings, set.Key(), codec.AppendSetting(nil, &set))
	}
	d := &file.Document
	var out []Change
	prune4 := func(section string) bool { return prune && file.Sections[section] }
	out = differences(out, "channel", now.Channels, d.Channels, prune4("channels"), func(c *catalog.Channel) string { return c.ID },
		func(c *catalog.Channel) *kgo.Record { return setting(topics.Setting{Channel: c}) })
	out = differences(out, "location", now.Locations, d.Locations, prune4("locations"), func(l *catalog.Location) string { return l.ID },
		func(l *catalog.Location) *kgo.Record { return setting(topics.Setting{Location: l}) })
	out = differences(out, "rule", now.Rules, d.Rules, prune4("rules"), func(r *catalog.Rule) string { return r.ID },
		func(r *catalog.Rule) *kgo.Record { return setting(topics.Setting{Rule: r}) })
	out = differences(out, "policy", now.Policies, d.Policies, prune4("policies"), func(p *catalog.Policy) string { return p.ID },
		func(p *catalog.Policy) *kgo.Record { return setting(topics.Setting{Policy: p}) })
	return differences(out, "listing", now.listings, d.Listings, prune4("listings"), func(l *catalog.Listing) string { return l.SKU },
		func(l *catalog.Listing) *kgo.Record {
			return topics.Record(schemas.CatalogListings, l.SKU, codec.AppendListing(nil, l, at, who))
		})
}

// differences appends what became of each entry, in the file's order, and then of those that prune deletes, which it takes out of have.
func differences[T any](out []Change, kind string, have map[string]*T, want []T, prune bool, id func(*T) string, record func(*T) *kgo.Record) []Change {
	named := make(map[string]bool, len(want))
	for i := range want {
		w := &want[i]
		named[id(w)] = true
		c := Change{Kind: kind, ID: id(w), Action: Created}
		if old := have[c.ID]; old != nil {
			c.Action = Updated
			if same(old, w) {
				c.Action = Unchanged
			}
		}
		if c.Action != Unchanged {
			c.record = record(w)
		}
		out = append(out, c)
	}
	if !prune {
		return out
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if !named[key] {
			delete(have, key)
			out = append(out, Change{Kind: kind, ID: key, Action: Deleted, record: tombstone(kind, key)})
		}
	}
	return out
}

func tombstone(kind, id string) *kgo.Record {
	if kind == "listing" {
		return &kgo.Record{Topic: schemas.CatalogListings, Key: []byte(id)}
	}
	return &kgo.Record{Topic: schemas.CatalogSettings, Key: []byte(kind + "/" + id)}
}

// same compares by what is stored: an empty list and none are the same.
func same[T any](a, b *T) bool {
	switch x := any(a).(type) {
	case *catalog.Channel:
		y := *any(b).(*catalog.Channel)
		z := *x
		if len(y.Locations) == 0 && len(z.Locations) == 0 {
			y.Locations, z.Locations = nil, nil
		}
		return reflect.DeepEqual(z, y)
	case *catalog.Listing:
		y := *any(b).(*catalog.Listing)
		z := *x
		if len(y.Channels) == 0 && len(z.Channels) == 0 {
			y.Channels, z.Channels = nil, nil
		}
		if len(y.Components) == 0 && len(z.Components) == 0 {
			y.Components, z.Components = nil, nil
		}
		return reflect.DeepEqual(z, y)
	}
	return reflect.DeepEqual(a, b)
}

// judge finds the faults of the file together with what stays in force, each with its place in the file.
func (s *Service) judge(now *current, file *catalogfile.File) []catalogfile.Fault {
	var out []catalogfile.Fault
	d := &file.Document
	for _, f := range d.Validate(&now.Settings) {
		out = append(out, catalogfile.Fault{Place: file.Place(f.Path), Message: f.Message})
	}
	for i := range d.Channels {
		if what := channelURLFault(d.Channels[i].BaseURL, s.cfg.AllowPrivateChannels); what != "" {
			out = append(out, catalogfile.Fault{Place: file.Place(fmt.Sprintf("channels[%d].base_url", i)), Message: what})
		}
	}
	for i := range d.Listings {
		if what := recomposed(s.deps.Catalog.Listing(d.Listings[i].SKU), &d.Listings[i]); what != "" {
			out = append(out, catalogfile.Fault{Place: file.Place(fmt.Sprintf("listings[%d].components", i)), Message: what})
		}
	}
	if len(out) > 0 {
		return out
	}
	d.Merge(&now.Settings, now.listings)
	for _, m := range append(leftBehind(now), s.unbundled(now)...) {
		out = append(out, catalogfile.Fault{Place: catalogfile.Place{Line: 1, Column: 1}, Message: m})
	}
	return out
}

// recomposed says why a listing in force cannot become another one. What a bundle is made of is part of what its SKU means: a cancellation that comes after a change would take
// back what was never sold.
func recomposed(in, out *catalog.Listing) string {
	switch {
	case in == nil || bundle.Same(in.Components, out.Components):
		return ""
	case len(in.Components) == 0:
		return fmt.Sprintf("SKU %q is sold as it is and has stock of its own: give the bundle a SKU of its own", out.SKU)
	}
	return fmt.Sprintf("the components of %q (%s) cannot change, as orders of it are open or may come back: give the new set a SKU of its own", out.SKU, bundle.Describe(in.Components))
}

// unbundled names the bundles in force that would be gone. A bundle is taken off sale by taking its channels away.
func (s *Service) unbundled(after *current) []string {
	var out []string
	s.deps.Catalog.Listings(func(l *catalog.Listing) bool {
		if len(l.Components) > 0 && after.listings[l.SKU] == nil {
			out = append(out, fmt.Sprintf("listings[%s]: a bundle cannot be deleted, as what comes back of its orders could not be told apart into components: keep it, without channels", l.SKU))
		}
		return true
	})
	slices.Sort(out)
	return out[:min(len(out), 20)]
}

// leftBehind is what would be wrong with a catalog as a whole: entries that refer to what is no longer there. At most 20 are named.
func leftBehind(c *current) []string {
	var out []string
	for _, f := range catalog.Validate(&c.Settings) {
		out = append(out, f.String())
	}
	for _, sku := range slices.Sorted(maps.Keys(c.listings)) {
		if len(out) >= 20 {
			break
		}
		for _, f := range catalog.ValidateListing(c.listings[sku], &c.Settings) {
			out = append(out, "listings["+sku+"]."+f.String())
		}
		for i, part := range c.listings[sku].Components {
			if l := c.listings[part.SKU]; l != nil && len(l.Components) > 0 {
				out = append(out, fmt.Sprintf("listings[%s].components[%d].sku: %q is a bundle itself: name what it is made of", sku, i, part.SKU))
			}
		}
	}
	return out[:min(len(out), 20)]
}

// commit writes the changes, waits until they are in force here, and answers.
func (s *Service) commit(ctx context.Context, w http.ResponseWriter, changes []Change, dry bool) {
	a := Applied{DryRun: dry, Changes: changes}
	var recs []*kgo.Record
	for i := range changes {
		switch changes[i].Action {
		case Created:
			a.Created++
		case Updated:
			a.Updated++
		case Deleted:
			a.Deleted++
		default:
			a.Unchanged++
		}
		if r := changes[i].record; r != nil {
			recs = append(recs, r)
		}
	}
	if a.Changes == nil {
		a.Changes = []Change{}
	}
	if !dry && len(recs) > 0 {
		c := &call{s: s, source: sourceAPI}
		acked, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
		defer cancel()
		if err := c.send(acked, nil, recs); err != nil {
			d := s.notAcknowledged(err)
			d.Detail = "Kafka has not acknowledged all settings in time: apply the same file again"
			problem.Write(w, d)
			return
		}
		s.stats.settings.Add(int64(len(recs)))
		s.inForce(ctx, changes)
	}
	reply(w, http.StatusOK, a)
}

// inForce waits, for at most two seconds, until this process has read the changes, so that the caller's next request sees them.
func (s *Service) inForce(ctx context.Context, changes []Change) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var settings int64 // the version that the last setting makes
	var last *Change   // listings of one partition are read in order; check each partition's last
	lasts := map[int32]*Change{}
	for i := range changes {
		r := changes[i].record
		switch {
		case r == nil:
		case r.Topic == schemas.CatalogSettings:
			settings = max(settings, r.Offset+1)
		default:
			if last = lasts[r.Partition]; last == nil || last.record.Offset < r.Offset {
				lasts[r.Partition] = &changes[i]
			}
		}
	}
	read := func() bool {
		if s.deps.Catalog.Settings().Version < settings {
			return false
		}
		for _, c := range lasts {
			l := s.deps.Catalog.Listing(c.ID)
			if (c.Action == Deleted) != (l == nil) {
				return false
			}
			if l != nil {
				want, err := topics.DecodeListing(c.record.Value)
				if err != nil || !same(l, want) {
					return false
				}
			}
		}
		return true
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !read() {
		select {
		case <-ctx.Done():
			return // another process may have written since; the changes are in Kafka all the same
		case <-tick.C:
		}
	}
}

// kinds of entries, in the singular and as the sections are called.
var kinds = map[string]string{
	"channel": "channel", "channels": "channel", "location": "location", "locations": "location", "rule": "rule", "rules": "rule", "policy": "policy", "policies": "policy",
	"listing": "listing", "listings": "listing",
}

// deleteCatalog deletes one entry.
func (s *Service) deleteCatalog(w http.ResponseWriter, r *http.Request) {
	kind, ok := kinds[chi.URLParam(r, "kind")]
	id := chi.URLParam(r, "id")
	if r.URL.RawPath != "" { // then chi gives it as it was sent: a%2Fb
		if plain, err := url.PathUnescape(id); err == nil {
			id = plain
		}
	}
	if !ok {
		problem.Write(w, problem.New(http.StatusNotFound, "not-found", "No such kind", "the kinds are channels, locations, rules and listings"))
		return
	}
	dry, fault := boolean(r, "dry_run")
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	now, fault := s.current(r.Context())
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	before := leftBehind(now)
	switch kind {
	case "channel":
		ok = take(now.Channels, id)
	case "location":
		ok = take(now.Locations, id)
	case "rule":
		ok = take(now.Rules, id)
	case "policy":
		ok = take(now.Policies, id)
	default:
		ok = take(now.listings, id)
	}
	if !ok {
		problem.Write(w, problem.New(http.StatusNotFound, "not-found", "No such entry", fmt.Sprintf("there is no %s %q", kind, id)))
		return
	}
	if left := leftBehind(now); len(left) > len(before) {
		d := problem.New(http.StatusConflict, "in-use", "Still in use", fmt.Sprintf("%s %q cannot be deleted yet: %s", kind, id, strings.Join(left, "; ")))
		for _, m := range left {
			d.Errors = append(d.Errors, problem.Field{Code: "in_use", Detail: m})
		}
		problem.Write(w, d)
		return
	}
	if gone := s.unbundled(now); len(gone) > 0 {
		problem.Write(w, problem.New(http.StatusConflict, "in-use", "Still in use", gone[0]))
		return
	}
	s.commit(context.WithoutCancel(r.Context()), w, []Change{{Kind: kind, ID: id, Action: Deleted, record: tombstone(kind, id)}}, dry)
}

func take[T any](m map[string]*T, id string) bool {
	_, ok := m[id]
	delete(m, id)
	return ok
}

// getCatalog answers with the whole catalog.
func (s *Service) getCatalog(w http.ResponseWriter, r *http.Request) {
	now, fault := s.current(r.Context())
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	var d catalog.Document
	for _, c := range now.Channels {
		d.Channels = append(d.Channels, *c)
	}
	for _, l := range now.Locations {
		d.Locations = append(d.Locations, *l)
	}
	for _, x := range now.Rules {
		d.Rules = append(d.Rules, *x)
	}
	for _, p := range now.Policies {
		d.Policies = append(d.Policies, *p)
	}
	for _, l := range now.listings {
		d.Listings = append(d.Listings, *l)
	}
	content := catalogfile.Of(&d)
	var b []byte
	var err error
	ctype := "application/yaml"
	if wantsJSON(r.Header.Get("Accept")) {
		ctype = "application/json"
		b, err = content.JSON()
	} else {
		b, err = content.YAML()
	}
	if err != nil {
		s.tel.Log.Error("catalog not written", "err", err)
		problem.Write(w, problem.New(http.StatusInternalServerError, "internal", "Fault of the server", "the catalog could not be written; the log says why"))
		return
	}
	write(w, http.StatusOK, ctype, b, "")
}

// wantsJSON says whether an Accept header names JSON before YAML. YAML is the answer otherwise: it is what people edit.
func wantsJSON(accept string) bool {
	j, y := strings.Index(accept, "json"), strings.Index(accept, "yaml")
	return j >= 0 && (y < 0 || j < y)
}
