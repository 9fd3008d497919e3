package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/schemas"
	"github.com/onhand/onhand/services/ingest/internal/intake"
	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
	"github.com/onhand/onhand/stock/order"
	"github.com/onhand/onhand/stock/reservation"
	"github.com/onhand/onhand/topics"
)

// maxReservation is the most bytes of a reservation's body.
const maxReservation = 256 << 10

// maxReservationID is the most characters of a reservation's id: the ids of its events are made of it.
const maxReservationID = 64

// ReservationDocument asks for units to be held: all of them or none.
type ReservationDocument struct {
	ID         string                    `json:"id" pattern:"^[A-Za-z0-9._~:-]{1,64}$" doc:"The caller's own id, such as the cart's. The same id is the same reservation: a repeat is answered with how it stands." example:"cart-77"`
	Channel    string                    `json:"channel,omitempty" pattern:"^[A-Za-z0-9._-]{1,100}$" doc:"The channel that it is for. Units are held where it is fulfilled from; without one, at any location." example:"shop"`
	TTLSeconds int64                     `json:"ttl_seconds,omitempty" minimum:"1" doc:"How long the units are held unless the reservation is extended, committed or released before. 900 when left out."`
	Items      []ReservationItemDocument `json:"items" minItems:"1" nullable:"false" doc:"What to hold. A SKU comes once."`
}

// ReservationItemDocument is units of one SKU to be held.
type ReservationItemDocument struct {
	SKU      string `json:"sku" minLength:"1" maxLength:"128" doc:"The SKU. Of a bundle its components are held." example:"MUG-BLUE"`
	Quantity int64  `json:"quantity" minimum:"1" doc:"Units." example:"2"`
	Location string `json:"location,omitempty" maxLength:"128" doc:"The only location where they may be held."`
}

// ExtensionDocument asks for a reservation to be held longer.
type ExtensionDocument struct {
	TTLSeconds int64 `json:"ttl_seconds" minimum:"1" doc:"How long from now on."`
}

// Reservation is how a reservation stands.
type Reservation struct {
	ID        string         `json:"id" doc:"The caller's id."`
	State     string         `json:"state" enum:"tentative,held,refused,aborted,released,expired,committed" doc:"tentative until it is decided; refused when stock did not cover it; aborted when it was not decided in time. Then released, expired or committed."`
	Channel   string         `json:"channel,omitempty" doc:"The channel that it is for."`
	ExpiresAt *time.Time     `json:"expires_at,omitempty" doc:"When it ends by itself, while it is held."`
	Items     []ReservedItem `json:"items" doc:"By SKU. Of a bundle: its components, with what else is held of them."`
}

// ReservedItem is how one SKU of a reservation stands.
type ReservedItem struct {
	SKU       string   `json:"sku" doc:"The SKU."`
	State     string   `json:"state" doc:"As the reservation's."`
	Quantity  int64    `json:"quantity" doc:"Units asked for."`
	Held      []HeldAt `json:"held" doc:"Units held now, by location."`
	Committed int64    `json:"committed" doc:"Units sold out of it."`
	Available int64    `json:"available" doc:"What such a request could still have been given, right after the ledger decided."`
	Reason    string   `json:"reason,omitempty" doc:"What there is to say about the state."`
}

// HeldAt is units held at a location.
type HeldAt struct {
	Location string `json:"location" doc:"The location."`
	Units    int64  `json:"units" doc:"Units held there."`
}

// refusedReservation answers a reservation that is not held: the problem, and how it stands.
type refusedReservation struct {
	*problem.Details
	Reservation *Reservation `json:"reservation,omitempty"`
}

func eventID(reservation, what, sku string) string {
	return "rsv/" + reservation + "/" + what + "/" + sku
}

// whole is all parts of a reservation, by SKU.
type whole map[string]*reservation.Decision

// any is some part, or nil; one that names the decider, if there is one.
func (p whole) any() (some *reservation.Decision) {
	for _, d := range p {
		if some = d; d.PeerSKU != "" {
			break
		}
	}
	return some
}

// decider is the part that decides for all; nil when it is not known.
func (p whole) decider() *reservation.Decision {
	d := p.any()
	if d != nil && d.PeerSKU != "" {
		return p[d.PeerSKU]
	}
	return d
}

// confirmed says that the reservation is, or was, firm.
func (p whole) confirmed() bool {
	d := p.decider()
	return d != nil && (d.State == reservation.Held || d.State == reservation.Released || d.State == reservation.Expired || d.State == reservation.Committed)
}

// state is that of the whole.
func (p whole) state() reservation.State {
	d := p.decider()
	if d == nil {
		return reservation.Tentative
	}
	has := func(s reservation.State) bool {
		for _, x := range p {
			if x.State == s {
				return true
			}
		}
		return false
	}
	switch {
	case d.State == reservation.Tentative || d.State == reservation.Unknown:
		return d.State
	case !p.confirmed():
		if has(reservation.Refused) {
			return reservation.Refused
		}
		return reservation.Aborted
	}
	for _, s := range []reservation.State{reservation.Held, reservation.Tentative, reservation.Committed, reservation.Expired} {
		if has(s) {
			if s == reservation.Tentative { // it is held: its owner has not heard yet that it is firm
				return reservation.Held
			}
			return s
		}
	}
	for _, x := range p {
		if x.Committed > 0 {
			return reservation.Committed
		}
	}
	return reservation.Released
}

// document is how a reservation stands, for its owner.
func (p whole) document(id string) *Reservation {
	state := p.state()
	out := &Reservation{ID: id, State: state.String(), Items: []ReservedItem{}}
	expires := int64(0)
	for _, d := range p {
		out.Channel = d.Channel
		s := d.State
		if s == reservation.Tentative && state != reservation.Tentative { // decided, though its owner has not heard yet
			if s = reservation.Aborted; p.confirmed() {
				s = reservation.Held
			}
		}
		item := ReservedItem{SKU: d.SKU, State: s.String(), Quantity: int64(d.Quantity), Held: []HeldAt{}, Committed: int64(d.Committed), Available: int64(d.Available), Reason: d.Reason}
		for _, h := range d.Held {
			if s.Open() {
				item.Held = append(item.Held, HeldAt{h.Location, int64(h.Units)})
			}
		}
		if s.Open() && (expires == 0 || d.ExpiresAt < expires) {
			expires = d.ExpiresAt
		}
		out.Items = append(out.Items, item)
	}
	slices.SortFunc(out.Items, func(a, b ReservedItem) int { return strings.Compare(a.SKU, b.SKU) })
	if expires != 0 {
		at := time.UnixMicro(expires).UTC()
		out.ExpiresAt = &at
	}
	return out
}

// ask sends events to the ledger, with other records, and waits for what it decides on each. A decision that does not come in time is nil. The error is of Kafka.
func (s *Service) ask(ctx context.Context, events []event.Event, more ...*kgo.Record) ([]*reservation.Decision, error) {
	answers := make([]chan *reservation.Decision, len(events))
	u := unit{records: more, events: len(events)}
	for i := range events {
		answers[i] = make(chan *reservation.Decision, 1)
		defer s.decisions.await(events[i].ID, answers[i])()
		u.records = append(u.records, s.deps.Codec.EventRecord(&events[i]))
	}
	c := call{s: s, hurry: true}
	c.trace(ctx, &u)
	began := time.Now()
	batch := []pending{{unit: u}}
	if err := c.send(ctx, batch, nil); err != nil {
		return nil, err
	}
	if batch[0].err != nil {
		return nil, batch[0].err
	}
	out := make([]*reservation.Decision, len(events))
	for i := range answers {
		select {
		case out[i] = <-answers[i]:
		case <-ctx.Done():
			select { // it may have come all the same
			case out[i] = <-answers[i]:
			default:
			}
		}
	}
	s.metrics.decided.Record(ctx, time.Since(began).Seconds())
	return out, nil
}

// tell sends events about what is already decided. Nobody waits for them: what is lost, the owners of the parts find out by themselves.
func (s *Service) tell(events []event.Event) {
	for i := range events {
		s.producer.Produce(context.Background(), s.deps.Codec.EventRecord(&events[i]), func(r *kgo.Record, err error) {
			if err != nil && !errors.Is(err, kgo.ErrClientClosed) {
				s.tel.Log.Warn("a part of a reservation was not told what was decided; its owner asks when its time is up", "sku", string(r.Key), "err", err)
			}
		})
	}
}

func (s *Service) about(id string, k event.Kind, what, sku string, like *reservation.Decision) event.Event {
	now := time.Now().UnixMicro()
	return event.Event{
		ID: eventID(id, what, sku), Kind: k, SKU: sku, ReservationID: id, Channel: like.Channel, RequestHash: like.RequestHash, OccurredAt: now, ReceivedAt: now, Source: sourceAPI, Checked: true,
	}
}

// verdicts tells the parts that have not heard it what was decided for all.
func (s *Service) verdicts(id string, p whole) []event.Event {
	d := p.decider()
	if d == nil || d.State == reservation.Tentative {
		return nil
	}
	kind, what := event.ReservationAborted, "abort"
	if p.confirmed() {
		kind, what = event.ReservationConfirmed, "confirm"
	}
	var out []event.Event
	for sku, x := range p {
		if x.State == reservation.Tentative {
			out = append(out, s.about(id, kind, what, sku, x))
		}
	}
	return out
}

var errUndecided = errors.New("the ledger has not decided in time")

// settle decides a reservation of several SKUs: it is confirmed when all parts are granted, else aborted. The first word that reaches the part that decides counts,
// be it this one or another's.
func (s *Service) settle(ctx context.Context, id string, p whole, confirm bool) error {
	like := p.any()
	kind, what := event.ReservationAborted, "abort"
	if confirm {
		kind, what = event.ReservationConfirmed, "confirm"
	}
	got, err := s.ask(ctx, []event.Event{s.about(id, kind, what, like.PeerSKU, like)})
	if err != nil {
		return err
	}
	if got[0] == nil {
		return errUndecided
	}
	p[got[0].SKU] = got[0]
	if got[0].Parts == 0 { // the abort came before its request
		c := *got[0]
		c.PeerSKU = like.PeerSKU
		p[c.SKU] = &c
	}
	s.tell(s.verdicts(id, p))
	return nil
}

// within is the time that a caller is kept waiting.
func (s *Service) within(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), s.cfg.ReservationTimeout) // what was asked is seen through, even when the caller has gone
}

func (s *Service) postReservation(w http.ResponseWriter, r *http.Request) {
	doc, parts, fault := s.readReservation(w, r)
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	events := s.requests(doc, parts)
	hash := events[0].RequestHash
	ctx, cancel := s.within(r)
	defer cancel()
	if other := whole(s.decisions.of(doc.ID)).any(); other != nil && other.RequestHash != hash {
		problem.Write(w, reused(doc.ID))
		return
	}
	got, err := s.ask(ctx, events)
	if err != nil {
		s.abandon(doc.ID, events)
		problem.Write(w, s.undecided(doc.ID, err))
		return
	}
	p := whole{}
	granted := true
	for i, d := range got {
		if d == nil {
			s.abandon(doc.ID, events)
			problem.Write(w, s.undecided(doc.ID, errUndecided))
			return
		}
		if d.State != reservation.Unknown && d.RequestHash != hash {
			problem.Write(w, reused(doc.ID))
			return
		}
		granted = granted && d.State.Open()
		if d.State == reservation.Unknown || d.PeerSKU == "" && len(events) > 1 { // forgotten, or aborted before its request came
			c := *d
			c.PeerSKU, c.RequestHash, c.Quantity = events[i].PeerSKU, hash, events[i].Quantity
			d = &c
		}
		p[d.SKU] = d
	}
	if len(events) > 1 {
		if p.decider().State == reservation.Tentative {
			if err := s.settle(ctx, doc.ID, p, granted); err != nil {
				problem.Write(w, s.undecided(doc.ID, err))
				return
			}
		} else {
			s.tell(s.verdicts(doc.ID, p))
		}
	}
	state := p.state()
	s.metrics.reservations.Add(ctx, 1, metric.WithAttributes(attribute.String("state", state.String())))
	answer := p.document(doc.ID)
	if state == reservation.Held {
		reply(w, http.StatusCreated, answer)
		return
	}
	s.refuse(w, state, answer)
}

// abandon gives up what nobody will confirm.
func (s *Service) abandon(id string, events []event.Event) {
	if peer := events[0].PeerSKU; peer != "" {
		s.tell([]event.Event{s.about(id, event.ReservationAborted, "abort", peer, &reservation.Decision{Channel: events[0].Channel, RequestHash: events[0].RequestHash})})
	}
}

// refuse answers that a reservation is not held.
func (s *Service) refuse(w http.ResponseWriter, state reservation.State, doc *Reservation) {
	var d *problem.Details
	switch state {
	case reservation.Refused:
		var short []string
		for _, x := range doc.Items {
			if x.State == reservation.Refused.String() {
				short = append(short, fmt.Sprintf("%s: %s", x.SKU, x.Reason))
			}
		}
		d = problem.New(http.StatusConflict, "insufficient-stock", "Not enough stock", strings.Join(short, "; ")+". Nothing is held. To try again, use a new id")
	case reservation.Aborted:
		d = problem.New(http.StatusConflict, "reservation-aborted", "Reservation given up", "it was not decided in time, or given up by another caller; nothing is held. To try again, use a new id")
	case reservation.Tentative:
		d = problem.New(http.StatusConflict, "reservation-undecided", "Reservation not decided yet", "it is not decided yet whether every SKU is held: ask again in a moment")
		d.RetryAfter = time.Second
	default:
		d = problem.New(http.StatusConflict, "reservation-ended", "Reservation ended", fmt.Sprintf("the reservation is %s: nothing is held. To hold units again, use a new id", state))
	}
	problem.WriteBody(w, d, refusedReservation{d, doc})
}

func reused(id string) *problem.Details {
	return problem.New(http.StatusConflict, "conflict", "Id used before", fmt.Sprintf("the reservation %q was made before with other items or another channel: use a new id for a new reservation", id))
}

// undecided is the answer when the outcome is not known.
func (s *Service) undecided(id string, err error) *problem.Details {
	if !errors.Is(err, errUndecided) && !errors.Is(err, context.DeadlineExceeded) {
		return s.notAcknowledged(err)
	}
	s.stats.unavailable.Add(1)
	s.tel.Log.Error("the ledger has not decided on a reservation in time", "reservation", id, "err", err)
	d := problem.New(http.StatusGatewayTimeout, "undecided", "Not decided in time",
		fmt.Sprintf("the ledger has not decided on reservation %q in time, and how it stands is not known: send the same request again, or GET /v1/reservations/%s; what is held and not confirmed is given back by itself", id, id))
	d.RetryAfter = time.Second
	return d
}

// requests is the event of each part, in the order of the SKUs; the first SKU decides for all. The hash is of what was asked for, bundles as such.
func (s *Service) requests(doc *ReservationDocument, items []ReservationItemDocument) []event.Event {
	bySKU := func(a, b ReservationItemDocument) int { return strings.Compare(a.SKU, b.SKU) }
	h := fnv.New64a()
	fmt.Fprintf(h, "%q", doc.Channel)
	for _, x := range slices.SortedFunc(slices.Values(doc.Items), bySKU) {
		fmt.Fprintf(h, "%q %d %q", x.SKU, x.Quantity, x.Location)
	}
	items = slices.SortedFunc(slices.Values(items), bySKU)
	now := time.Now()
	events := make([]event.Event, len(items))
	for i, x := range items {
		scope := x.Location
		if scope == "" {
			scope = s.scope(doc.Channel)
		}
		events[i] = event.Event{
			ID: eventID(doc.ID, "request", x.SKU), Kind: event.ReservationRequested, SKU: x.SKU, ReservationID: doc.ID, Channel: doc.Channel, Quantity: event.Units(x.Quantity), Scope: scope,
			ExpiresAt: now.Add(time.Duration(doc.TTLSeconds) * time.Second).UnixMicro(), Parts: int64(len(items)), RequestHash: int64(h.Sum64()),
			OccurredAt: now.UnixMicro(), ReceivedAt: now.UnixMicro(), Source: sourceAPI, Checked: true,
		}
		if len(items) > 1 {
			events[i].PeerSKU, events[i].DecideBy = items[0].SKU, now.Add(2*s.cfg.ReservationTimeout).UnixMicro()
		}
	}
	return events
}

// scope is where a channel's units may be held: where it is fulfilled from. Without a channel it is everywhere.
func (s *Service) scope(channel string) string {
	if channel == "" {
		return ""
	}
	settings := s.deps.Catalog.Settings()
	c := settings.Channels[channel]
	if c == nil {
		return ""
	}
	if len(c.Locations) > 0 {
		return strings.Join(c.Locations, "\n")
	}
	var shared []string
	for id, l := range settings.Locations {
		if !l.Exclusive() || l.Channel == channel {
			shared = append(shared, id)
		}
	}
	slices.Sort(shared)
	return strings.Join(shared, "\n")
}

// document reads a small JSON body into v.
func (s *Service) document(w http.ResponseWriter, r *http.Request, v any) *problem.Details {
	if _, fault := mediaType(r, map[string]string{jsonBody: jsonBody}, jsonBody); fault != nil {
		return fault
	}
	raw, fault := s.readAll(w, r, maxReservation, "reserve fewer items at once")
	if fault != nil {
		return fault
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return emptyBody()
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return fieldFault("/"+strings.Trim(name, `"`), "unknown_field", name+" is not a field of this document: leave it out")
		}
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fieldFault("/"+strings.ReplaceAll(e.Field, ".", "/"), "invalid", fmt.Sprintf("%s is a %s: want a value of type %s", e.Field, e.Value, e.Type))
		}
		return problem.New(http.StatusBadRequest, "syntax", "Not JSON", "the body is not the JSON object that is wanted: "+err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return problem.New(http.StatusBadRequest, "syntax", "Not JSON", "there is more after the JSON object: send one")
	}
	return nil
}

func fieldFault(pointer, code, detail string) *problem.Details {
	return invalid([]problem.Field{{Pointer: pointer, Code: code, Detail: detail}})
}

func validReservationID(id string) bool {
	if id == "" || len(id) > maxReservationID {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._~:-", rune(c)) {
			return false
		}
	}
	return true
}

// readReservation reads what is asked for, and what has to be held for it: of a bundle, its components.
func (s *Service) readReservation(w http.ResponseWriter, r *http.Request) (*ReservationDocument, []ReservationItemDocument, *problem.Details) {
	if d := s.decisionsReady(); d != nil {
		return nil, nil, d
	}
	var doc ReservationDocument
	if fault := s.document(w, r, &doc); fault != nil {
		return nil, nil, fault
	}
	var fs []problem.Field
	fault := func(pointer, code, format string, args ...any) {
		fs = append(fs, problem.Field{Pointer: pointer, Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	if doc.ID == "" {
		fault("/id", "required", "id is missing: give one of your own, such as the cart's, so that a repeat is the same reservation")
	} else if !validReservationID(doc.ID) {
		fault("/id", "invalid", "id %.80q: want 1 to %d letters, digits and . _ ~ : -", doc.ID, maxReservationID)
	}
	if fault := s.catalogReady(r); fault != nil {
		return nil, nil, fault
	}
	if doc.Channel != "" {
		if s.deps.Catalog.Settings().Channels[doc.Channel] == nil {
			fault("/channel", "unknown", "there is no channel %.100q in the catalog: apply it first, with PUT /v1/catalog, or leave it out", doc.Channel)
		}
	}
	if doc.TTLSeconds == 0 {
		doc.TTLSeconds = int64(s.cfg.ReservationTTL / time.Second)
	}
	if f := s.ttlFault(doc.TTLSeconds); f != "" {
		fault("/ttl_seconds", "invalid", "%s", f)
	}
	if len(doc.Items) == 0 {
		fault("/items", "required", "items is empty: say what to hold")
	}
	if len(doc.Items) > s.cfg.ReservationMaxItems {
		fault("/items", "invalid", "items has %d entries, and at most %d are allowed", len(doc.Items), s.cfg.ReservationMaxItems)
		doc.Items = doc.Items[:s.cfg.ReservationMaxItems]
	}
	at := make(map[string]int, len(doc.Items))
	for i, x := range doc.Items {
		where := "/items/" + strconv.Itoa(i)
		f := ledger.Check(&event.Event{ID: "x", Kind: event.ReservationRequested, SKU: x.SKU, Location: x.Location, ReservationID: "x", Quantity: event.Units(x.Quantity), ExpiresAt: 1}, event.Units(s.cfg.MaxQuantity))
		if f.Reason != "" {
			fault(where+"/"+f.Field, f.Reason, "%s", strings.TrimPrefix(f.Detail, "x: "))
			continue
		}
		if before, twice := at[x.SKU]; twice {
			fault(where+"/sku", "conflict", "%s is in items/%d too: name each SKU once, with all units", x.SKU, before)
		}
		at[x.SKU] = i
	}
	if len(fs) > 0 {
		return nil, nil, invalid(fs)
	}
	parts, fs := s.parts(&doc)
	if len(fs) > 0 {
		return nil, nil, invalid(fs)
	}
	return &doc, parts, nil
}

func (s *Service) ttlFault(seconds int64) string {
	if limit := int64(s.cfg.ReservationMaxTTL / time.Second); seconds < 1 || seconds > limit {
		return fmt.Sprintf("ttl_seconds is %d: want 1 to %d", seconds, limit)
	}
	return ""
}

func (s *Service) decisionsReady() *problem.Details {
	if !s.decisions.caughtUp() {
		return unavailable("the decisions on earlier reservations are still being read: send the request again", time.Second)
	}
	return nil
}

// known finds the reservation that a request is about.
func (s *Service) known(r *http.Request) (string, whole, *problem.Details) {
	if d := s.decisionsReady(); d != nil {
		return "", nil, d
	}
	id := chi.URLParam(r, "id")
	if !validReservationID(id) {
		return "", nil, problem.New(http.StatusBadRequest, "parameter", "Parameter not valid", fmt.Sprintf("id %.80q: want 1 to %d letters, digits and . _ ~ : -", id, maxReservationID))
	}
	p := whole(s.decisions.of(id))
	if len(p) == 0 {
		return "", nil, problem.New(http.StatusNotFound, "not-found", "Not found", fmt.Sprintf("no reservation %q is known: it never was, or it ended more than an hour ago", id))
	}
	return id, p, nil
}

func (s *Service) getReservation(w http.ResponseWriter, r *http.Request) {
	id, p, fault := s.known(r)
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	reply(w, http.StatusOK, p.document(id))
}

// askParts asks on each event and puts the answers in their places. It reports false when it has answered the request.
func (s *Service) askParts(ctx context.Context, w http.ResponseWriter, id string, p whole, events []event.Event, more ...*kgo.Record) bool {
	got, err := s.ask(ctx, events, more...)
	if err == nil && slices.Contains(got, nil) {
		err = errUndecided
	}
	if err != nil {
		problem.Write(w, s.undecided(id, err))
		return false
	}
	for _, d := range got {
		if old := p[d.SKU]; old == nil || d.SourceOffset >= old.SourceOffset {
			p[d.SKU] = d
		}
	}
	return true
}

func (s *Service) extendReservation(w http.ResponseWriter, r *http.Request) {
	id, p, fault := s.known(r)
	var doc ExtensionDocument
	if fault == nil {
		fault = s.document(w, r, &doc)
	}
	if fault == nil {
		if f := s.ttlFault(doc.TTLSeconds); f != "" {
			fault = fieldFault("/ttl_seconds", "invalid", f)
		}
	}
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	if state := p.state(); state != reservation.Held {
		s.refuse(w, state, p.document(id))
		return
	}
	ctx, cancel := s.within(r)
	defer cancel()
	until := time.Now().Add(time.Duration(doc.TTLSeconds) * time.Second).UnixMicro()
	events := s.verdicts(id, p)
	for sku, d := range p {
		if d.State.Open() {
			e := s.about(id, event.ReservationExtended, "extend/"+strconv.FormatInt(until, 10), sku, d)
			e.ExpiresAt = until
			events = append(events, e)
		}
	}
	if !s.askParts(ctx, w, id, p, events) {
		return
	}
	if state := p.state(); state != reservation.Held {
		s.refuse(w, state, p.document(id))
		return
	}
	reply(w, http.StatusOK, p.document(id))
}

func (s *Service) deleteReservation(w http.ResponseWriter, r *http.Request) {
	id, p, fault := s.known(r)
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	ctx, cancel := s.within(r)
	defer cancel()
	if p.state() == reservation.Tentative {
		if err := s.settle(ctx, id, p, false); err != nil {
			problem.Write(w, s.undecided(id, err))
			return
		}
	}
	if p.state() == reservation.Held && !s.askParts(ctx, w, id, p, s.releases(id, p, "release", "released by its owner")) {
		return
	}
	reply(w, http.StatusOK, p.document(id))
}

// releases gives back what the parts still hold.
func (s *Service) releases(id string, p whole, what, why string) []event.Event {
	events := s.verdicts(id, p)
	for sku, d := range p {
		if d.State.Open() {
			e := s.about(id, event.ReservationReleased, what, sku, d)
			e.Reason = why
			events = append(events, e)
		}
	}
	return events
}

// commitReservation turns what is held into the sales of an order: one record by line, in which the units go from held to committed. What the order leaves is
// given back.
func (s *Service) commitReservation(w http.ResponseWriter, r *http.Request) {
	id, p, fault := s.known(r)
	if fault == nil {
		fault = s.catalogReady(r) // of an order's bundles, components are sold
	}
	if fault == nil {
		_, fault = mediaType(r, map[string]string{jsonBody: jsonBody}, jsonBody+" (one order)")
	}
	var o order.Order
	if fault == nil {
		fault = s.readCommit(w, r, p, &o)
	}
	if fault != nil {
		problem.Write(w, fault)
		return
	}
	now := time.Now()
	o.ReceivedAt = now.UnixMicro()
	sales, own, fields := s.commitment(id, p, &o)
	if len(fields) > 0 {
		problem.Write(w, invalid(fields))
		return
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q", o.Channel, o.ID)
	rest := "rest/" + strconv.FormatUint(h.Sum64(), 16)
	ours := make(map[string]bool)
	for i := range sales {
		ours[sales[i].ID] = true
	}
	if state := p.state(); state != reservation.Held {
		again := state == reservation.Committed // a repeat, when each part ended by this very order
		for sku, d := range p {
			again = again && (ours[d.EventID] || d.EventID == eventID(id, rest, sku))
		}
		if !again {
			s.refuse(w, state, p.document(id))
			return
		}
	} else if doc := p.document(id); doc.ExpiresAt != nil && doc.ExpiresAt.Before(now) {
		s.refuse(w, reservation.Expired, doc)
		return
	}
	ctx, cancel := s.within(r)
	defer cancel()
	records := []*kgo.Record{topics.Record(schemas.Orders, o.ID, s.deps.Codec.AppendOrder(nil, &o))}
	for i := range own {
		records = append(records, s.deps.Codec.EventRecord(&own[i]))
	}
	if !s.askParts(ctx, w, id, p, append(s.verdicts(id, p), sales...), records...) {
		return
	}
	if p.state() == reservation.Held && !s.askParts(ctx, w, id, p, s.releases(id, p, rest, "not in the order that the reservation became")) {
		return
	}
	s.stats.orders.Add(1)
	s.stats.lines.Add(int64(len(o.Lines)))
	s.stats.last.Store(now.UnixMicro())
	reply(w, http.StatusOK, p.document(id))
}

// readCommit reads the order that a reservation becomes.
func (s *Service) readCommit(w http.ResponseWriter, r *http.Request, p whole, o *order.Order) *problem.Details {
	raw, fault := s.readAll(w, r, s.cfg.MaxBody, "split the order")
	if fault != nil {
		return fault
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return emptyBody()
	}
	src, lim := alias(raw), s.limits()
	fields, syntax := intake.ReadOrder(src, &lim, o)
	if syntax != nil {
		return unreadable(syntax, src)
	}
	if len(fields) > 0 {
		return invalid(fields)
	}
	if d := p.any(); d.Channel != "" && d.Channel != o.Channel {
		fields = append(fields, problem.Field{Pointer: "/channel", Code: "conflict", Detail: fmt.Sprintf("the order is of channel %s and the reservation of %s", o.Channel, d.Channel)})
	}
	for i := range o.Lines {
		sku := o.Lines[i].SKU
		if l := s.deps.Catalog.Listing(sku); l != nil && len(l.Components) > 0 {
			continue // its components are looked at once it is expanded
		}
		if p[sku] == nil {
			fields = append(fields, problem.Field{Pointer: fmt.Sprintf("/lines/%d/sku", i), Code: "conflict",
				Detail: fmt.Sprintf("%s is not in the reservation: send what was not reserved as an order of its own, to POST /v1/orders", sku)})
		}
	}
	if len(fields) > 0 {
		return invalid(fields)
	}
	return nil
}
