package ingest

import (
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/catalogfile"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/problem"
	"github.com/onhand/onhand/schemas"
)

// APIVersion is the version of the HTTP API's description.
const APIVersion = "1.0.0"

// OrderDocument is an order as input has it. The fields are read by package intake; a test holds the two together.
type OrderDocument struct {
	ID          string           `json:"id" minLength:"1" maxLength:"255" doc:"The channel's own order number: with channel and line, it makes the sale's id." example:"1001"`
	Channel     string           `json:"channel" pattern:"^[A-Za-z0-9._-]{1,100}$" doc:"The channel that sold it." example:"shop"`
	PlacedAt    time.Time        `json:"placed_at" doc:"When it was placed, by the channel's clock."`
	Currency    string           `json:"currency" pattern:"^[A-Z]{3}$" doc:"ISO 4217 code of the prices." example:"EUR"`
	Lines       []LineDocument   `json:"lines" minItems:"1" maxItems:"1000" nullable:"false" doc:"What was sold."`
	ShipTo      *AddressDocument `json:"ship_to,omitempty" doc:"Where it goes: only what routing needs."`
	ShipBy      *time.Time       `json:"ship_by,omitempty" doc:"When it was promised to ship."`
	CustomerRef string           `json:"customer_ref,omitempty" maxLength:"255" doc:"The brand's own reference to the customer; no personal data is needed."`
}

// LineDocument is one line of an order.
type LineDocument struct {
	ID        string `json:"id" minLength:"1" maxLength:"255" doc:"The line's number or id within the order." example:"1"`
	SKU       string `json:"sku" minLength:"1" maxLength:"128" doc:"What was sold." example:"MUG-BLUE"`
	Quantity  int64  `json:"quantity" minimum:"1" doc:"Units sold." example:"2"`
	UnitPrice string `json:"unit_price" doc:"Price of one unit: a decimal number, as a string or a JSON number; never negative." example:"12.50"`
	Location  string `json:"location,omitempty" maxLength:"128" doc:"Location that serves it, when the channel has decided."`
}

// AddressDocument is where an order goes.
type AddressDocument struct {
	Country    string `json:"country,omitempty" pattern:"^[A-Z]{2}$" doc:"ISO 3166-1 alpha-2 code." example:"DE"`
	Region     string `json:"region,omitempty" maxLength:"255" doc:"State or region."`
	PostalCode string `json:"postal_code,omitempty" maxLength:"32" doc:"Postal code."`
}

// EventDocument is a stock event as input has it.
type EventDocument struct {
	ID                 string     `json:"id,omitempty" maxLength:"255" doc:"The source's own id of the event: the same id counts once. Without it the request needs an Idempotency-Key."`
	Kind               string     `json:"kind" enum:"sale_recorded,sale_cancelled,sale_assigned,sale_reassigned,shipment_confirmed,return_received,inbound_expected,inbound_cancelled,receipt_received,stock_adjusted,stock_counted,transfer_shipped,transfer_received,reservation_placed,reservation_released,safety_stock_set" doc:"What happened."`
	SKU                string     `json:"sku" minLength:"1" maxLength:"128" doc:"What it is about." example:"MUG-BLUE"`
	Quantity           int64      `json:"quantity" doc:"Units: 1 or more; 0 or more for counts and safety stock; not 0 for adjustments, where it is negative when units go." example:"10"`
	OccurredAt         time.Time  `json:"occurred_at" doc:"When it happened, by the source's clock."`
	Location           string     `json:"location,omitempty" maxLength:"128" doc:"Where. Needed by every kind but sale_recorded and sale_cancelled."`
	ToLocation         string     `json:"to_location,omitempty" maxLength:"128" doc:"Where the units go: sale_reassigned, transfer_shipped."`
	Channel            string     `json:"channel,omitempty" pattern:"^[A-Za-z0-9._-]{1,100}$" doc:"The channel that sold it, whose number order_id is. Needed with order_id by sale_recorded, sale_cancelled, sale_assigned, sale_reassigned and shipment_confirmed."`
	OrderID            string     `json:"order_id,omitempty" maxLength:"255" doc:"The order, as its channel names it. Needed by sale_recorded, sale_cancelled, sale_assigned, sale_reassigned and shipment_confirmed."`
	LineID             string     `json:"line_id,omitempty" maxLength:"255" doc:"The order's line: sale_recorded, sale_cancelled."`
	Reference          string     `json:"reference,omitempty" maxLength:"255" doc:"Purchase order or transfer: what is still to come is kept by it. Needed by inbound_expected, inbound_cancelled, transfer_shipped and transfer_received."`
	ReservationID      string     `json:"reservation_id,omitempty" maxLength:"255" doc:"The reservation: reservation_placed, reservation_released."`
	Reason             string     `json:"reason,omitempty" maxLength:"1000" doc:"Why, in the source's words. Needed by stock_adjusted."`
	Disposition        string     `json:"disposition,omitempty" enum:"restock,refurbish,quarantine,scrap" doc:"What became of returned units: return_received."`
	AsOf               *time.Time `json:"as_of,omitempty" doc:"The time a count speaks of: stock_counted."`
	ExpiresAt          *time.Time `json:"expires_at,omitempty" doc:"When a reservation ends by itself: reservation_placed."`
	UnitPrice          string     `json:"unit_price,omitempty" doc:"Price of one unit; decimal number."`
	UnitCost           string     `json:"unit_cost,omitempty" doc:"Cost of one unit; decimal number."`
	Currency           string     `json:"currency,omitempty" pattern:"^[A-Z]{3}$" doc:"ISO 4217 code; needed with a price or a cost."`
	RestockedByChannel bool       `json:"restocked_by_channel,omitempty" doc:"The channel put the units back on sale by itself: sale_cancelled."`
	Source             string     `json:"source,omitempty" maxLength:"255" doc:"Name of the connector; left out, it is api."`
}

// Routes adds the service's routes to r, each with its own middleware: API key and scope, rate, limits. The description of the API is open to all.
func (s *Service) Routes(r chi.Router) {
	api := s.describe(r)
	document := api.OpenAPI()
	jsonDoc, err := json.Marshal(document)
	if err != nil {
		panic("ingest: the API's description cannot be written: " + err.Error()) // it is the same at every start
	}
	yamlDoc, err := document.YAML()
	if err != nil {
		panic("ingest: the API's description cannot be written: " + err.Error())
	}
	r.Get("/openapi.json", static("application/openapi+json", jsonDoc))
	r.Get("/openapi.yaml", static("application/openapi+yaml", yamlDoc))
}

func static(ctype string, b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ctype)
		_, _ = w.Write(b) // the client has gone
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

const intro = `How orders, stock events and settings come into Onhand.

**Answers.** 202 means that Kafka has acknowledged the input with acks=all. Every error is a problem document (RFC 9457) that names the field by JSON
pointer and says what to do; its ` + "`type`" + ` is stable.

**Repeats do no harm.** An order's lines and an event have ids that their source fixes, and an id counts once. After a lost answer, a 503 or a crash,
send the same again. A request may also carry an Idempotency-Key: the same key with the same body gives the same answer for 24 hours.

**Keys.** ` + "`Authorization: Bearer KEY`" + ` or ` + "`X-API-Key: KEY`" + `. Scope write sends orders and events, read reads, admin changes settings.`

func (s *Service) describe(r chi.Router) huma.API {
	config := huma.Config{OpenAPI: &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info:    &huma.Info{Title: "Onhand ingest", Version: APIVersion, Description: intro, License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"bearer": {Type: "http", Scheme: "bearer", Description: "API key."},
				"apiKey": {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "API key."},
			},
		},
		Security: []map[string][]string{{"bearer": {}}, {"apiKey": {}}},
	}}
	api := humachi.New(r, config)
	reg := config.Components.Schemas
	ref := func(v any) *huma.Schema { return reg.Schema(reflect.TypeOf(v), true, "") }
	answer := func(v any, types ...string) map[string]*huma.MediaType {
		m := map[string]*huma.MediaType{}
		for _, t := range types {
			m[t] = &huma.MediaType{Schema: ref(v)}
		}
		return m
	}
	problems := func(v any, byStatus map[string]string) map[string]*huma.Response {
		byStatus["401"], byStatus["403"] = "The API key is missing or not known.", "The API key lacks the scope."
		byStatus["429"], byStatus["503"] = "Too many requests with this key; wait as Retry-After says.", "Kafka or Redis does not answer, or Onhand is stopping; send the same again."
		m := map[string]*huma.Response{}
		for status, text := range byStatus {
			body := v
			switch status {
			case "422", "503", "413", "400":
			default:
				body = problem.Details{}
			}
			m[status] = &huma.Response{Description: text, Content: answer(body, problem.ContentType)}
		}
		for _, status := range []string{"429", "503"} {
			m[status].Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds to wait.", Schema: &huma.Schema{Type: huma.TypeInteger}}}
		}
		return m
	}
	items := func(v any) map[string]*huma.MediaType {
		one := ref(v)
		lines := "One item a line. The stream may be of any length; it is taken in while it arrives."
		return map[string]*huma.MediaType{
			jsonBody:   {Schema: &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one, Description: "At most 10,000 items."}}}},
			ndjsonBody: {Schema: &huma.Schema{Type: huma.TypeString, Description: lines, Extensions: map[string]any{"x-item": one}}},
		}
	}
	text := &huma.Schema{Type: huma.TypeString}
	boolean := &huma.Schema{Type: huma.TypeBoolean}
	intakeParams := []*huma.Param{
		{Name: "results", In: "query", Description: "failed lists the rejected items only. So does the header Prefer: return=minimal.", Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"all", "failed"}, Default: "all"}},
		{Name: "Idempotency-Key", In: "header", Description: "Makes a repeat of the request give the same answer, for 24 hours: 1 to 255 visible ASCII characters. A stream that carries one must fit in memory (8 MiB).", Schema: text},
		{Name: "Content-Encoding", In: "header", Description: "gzip, when the body is packed.", Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"gzip", "identity"}}},
	}
	intakeProblems := map[string]string{
		"400": "The body is no JSON, incomplete, empty, or no gzip; or a parameter is not valid. Nothing was taken in, but of a stream what its receipt tells.",
		"409": "The Idempotency-Key was used with another body, or the same request is still under way.",
		"413": "The body, the batch or the item is too large.", "415": "The form of the body is not supported.",
		"422": "The item, or every item, is not valid; receipt says why, item by item.",
	}
	s.route(api, apikey.Write, huma.Operation{
		OperationID: "post-orders", Method: http.MethodPost, Path: "/v1/orders", Summary: "Send orders", Tags: []string{"Input"},
		Description: "One order, an array of orders, or a stream of them (NDJSON). Each becomes a record in the topic orders, and a sale in stock.events for each line.",
		Parameters:  intakeParams, RequestBody: &huma.RequestBody{Required: true, Content: items(OrderDocument{})},
		Responses: with(problems(refused{}, clone(intakeProblems)), "202", &huma.Response{Description: "Acknowledged by Kafka; in a batch, some items may have been rejected.", Content: answer(Receipt{}, jsonBody), Headers: replayed()}),
	}, s.intakeRoute("/v1/orders", readOrder))
	s.route(api, apikey.Write, huma.Operation{
		OperationID: "post-events", Method: http.MethodPost, Path: "/v1/events", Summary: "Send stock events", Tags: []string{"Input"},
		Description: "One event, an array of events, or a stream of them (NDJSON): receipts, returns, counts, adjustments, transfers, shipments, reservations and what becomes of sales.",
		Parameters:  intakeParams, RequestBody: &huma.RequestBody{Required: true, Content: items(EventDocument{})},
		Responses: with(problems(refused{}, clone(intakeProblems)), "202", &huma.Response{Description: "Acknowledged by Kafka; in a batch, some items may have been rejected.", Content: answer(Receipt{}, jsonBody), Headers: replayed()}),
	}, s.intakeRoute("/v1/events", readEvent))

	s.route(api, apikey.Write, huma.Operation{
		OperationID: "post-watermark", Method: http.MethodPost, Path: "/v1/channels/{channel}/watermark", Summary: "Say how far a channel's orders have been sent", Tags: []string{"Input"},
		Description: "Every order that the channel took up to `until`, by its own clock, has been sent to POST /v1/orders and answered with 202: by this connector alone, or by all of the channel's connectors together. " +
			"What a channel may still have sold unseen is known from it, so that a watermark that is early can oversell, and one that is late only keeps stock back. It never goes back: an older one is answered with the one in force. " +
			"Orders in the topic " + schemas.OrdersIn + " count once the consumer group " + Group + " has committed them.",
		Parameters:  []*huma.Param{{Name: "channel", In: "path", Required: true, Description: "Id of the channel.", Schema: text}},
		RequestBody: &huma.RequestBody{Required: true, Content: answer(WatermarkDocument{}, jsonBody)},
		Responses: with(problems(problem.Details{}, map[string]string{
			"400": "The body is no JSON, or empty; or the channel's id is not valid.", "404": "The catalog has no such channel.", "413": "The body is too large.",
			"415": "The form of the body is not supported.", "422": "until is missing, not a time, or ahead of Onhand's clock by more than five minutes.",
		}), "202", &huma.Response{Description: "Acknowledged by Kafka in every partition, or older than the one in force.", Content: answer(WatermarkReceipt{}, jsonBody)}),
	}, s.postWatermark)

	id := &huma.Param{Name: "id", In: "path", Required: true, Description: "The reservation's id.", Schema: text}
	held := func(status, description string, more map[string]string) map[string]*huma.Response {
		all := map[string]string{
			"400": "The body is no JSON or empty, or the id is not valid.", "409": "It is not held: refused for lack of stock, given up, ended, or not decided yet; reservation says how it stands.",
			"504": "The ledger has not decided in time: how it stands is not known, and the same request again tells.",
		}
		for k, v := range more {
			all[k] = v
		}
		m := with(problems(problem.Details{}, all), status, &huma.Response{Description: description, Content: answer(Reservation{}, jsonBody)})
		m["409"].Content = answer(refusedReservation{}, problem.ContentType)
		return m
	}
	withBody := map[string]string{"404": "No such reservation is known.", "413": "The body is too large.", "415": "The form of the body is not supported.", "422": "The body is not valid: each fault with its pointer."}
	s.route(api, apikey.Write, huma.Operation{
		OperationID: "post-reservation", Method: http.MethodPost, Path: "/v1/reservations", Summary: "Hold units", Tags: []string{"Reservations"},
		Description: "Holds units of one or several SKUs, all of them or none, until the reservation is committed, released, or its time is up. The ledger decides, in the order of sales and receipts: of two callers who want the last unit, one gets it. " +
			"A bundle is held as its components, and the answer tells of these. The same id is the same reservation: send the same again after a lost answer. A reservation that was refused stays refused; to try again, use a new id.",
		RequestBody: &huma.RequestBody{Required: true, Content: answer(ReservationDocument{}, jsonBody)},
		Responses:   held("201", "Held, now or by an earlier request with this id.", map[string]string{"413": withBody["413"], "415": withBody["415"], "422": withBody["422"]}),
	}, s.postReservation)
	s.route(api, apikey.Read, huma.Operation{
		OperationID: "get-reservation", Method: http.MethodGet, Path: "/v1/reservations/{id}", Summary: "Read a reservation", Tags: []string{"Reservations"},
		Description: "How a reservation stands. One that ended is remembered for an hour.", Parameters: []*huma.Param{id},
		Responses: with(problems(problem.Details{}, map[string]string{"400": "The id is not valid.", "404": withBody["404"]}), "200", &huma.Response{Description: "How it stands.", Content: answer(Reservation{}, jsonBody)}),
	}, s.getReservation)
	s.route(api, apikey.Write, huma.Operation{
		OperationID: "extend-reservation", Method: http.MethodPost, Path: "/v1/reservations/{id}/extend", Summary: "Hold longer", Tags: []string{"Reservations"},
		Description: "Has a reservation that is held end at another time.", Parameters: []*huma.Param{id},
		RequestBody: &huma.RequestBody{Required: true, Content: answer(ExtensionDocument{}, jsonBody)}, Responses: held("200", "Held until the new time.", withBody),
	}, s.extendReservation)
	s.route(api, apikey.Write, huma.Operation{
		OperationID: "commit-reservation", Method: http.MethodPost, Path: "/v1/reservations/{id}/commit", Summary: "Turn a reservation into an order", Tags: []string{"Reservations"},
		Description: "Records the order, as POST /v1/orders does, and takes its units out of what is held, in one step. What the order leaves is given back; what it has beyond is sold all the same, and the item's reason says so. The same order again does no harm.",
		Parameters:  []*huma.Param{id}, RequestBody: &huma.RequestBody{Required: true, Content: answer(OrderDocument{}, jsonBody)}, Responses: held("200", "The order is recorded.", withBody),
	}, s.commitReservation)
	s.route(api, apikey.Write, huma.Operation{
		OperationID: "delete-reservation", Method: http.MethodDelete, Path: "/v1/reservations/{id}", Summary: "Give units back", Tags: []string{"Reservations"},
		Description: "Ends a reservation. One that has ended is answered with how it ended.", Parameters: []*huma.Param{id},
		Responses: held("200", "Nothing is held any more.", map[string]string{"404": withBody["404"]}),
	}, s.deleteReservation)

	dry := &huma.Param{Name: "dry_run", In: "query", Description: "Answers what would change, and changes nothing.", Schema: boolean}
	s.route(api, apikey.Admin, huma.Operation{
		OperationID: "put-catalog", Method: http.MethodPut, Path: "/v1/catalog", Summary: "Apply settings", Tags: []string{"Settings"},
		Description: "A file of channels, locations, rules and listings, each a map by id or a list; several YAML documents are read as one. It is judged as a whole, together with what is in force, and nothing is changed when anything is wrong. Entries it does not name stay as they are.",
		Parameters: []*huma.Param{dry, {Name: "prune", In: "query", Description: "Deletes what the file does not name, in the sections that it has (an empty section deletes all of its kind).",
			Schema: boolean}},
		RequestBody: &huma.RequestBody{Required: true, Content: answer(catalogfile.Content{}, "application/yaml", jsonBody)},
		Responses: with(problems(problem.Details{}, map[string]string{
			"400": "The body is empty or incomplete, or a parameter is not valid.", "413": "The body is too large.", "415": "The form of the body is not supported.",
			"422": "The settings are not valid: each fault with its line, column and pointer.",
		}), "200", &huma.Response{Description: "In force.", Content: answer(Applied{}, jsonBody)}),
	}, s.putCatalog)
	s.route(api, apikey.Read, huma.Operation{
		OperationID: "get-catalog", Method: http.MethodGet, Path: "/v1/catalog", Summary: "Read settings", Tags: []string{"Settings"},
		Description: "The whole catalog in the form that can be applied again: YAML, or JSON when Accept asks for it.",
		Responses:   with(problems(problem.Details{}, map[string]string{}), "200", &huma.Response{Description: "The catalog in force.", Content: answer(catalogfile.Content{}, "application/yaml", jsonBody)}),
	}, s.getCatalog)
	s.route(api, apikey.Admin, huma.Operation{
		OperationID: "delete-catalog-entry", Method: http.MethodDelete, Path: "/v1/catalog/{kind}/{id}", Summary: "Delete a setting", Tags: []string{"Settings"},
		Parameters: []*huma.Param{
			{Name: "kind", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"channels", "locations", "rules", "policies", "listings"}}},
			{Name: "id", In: "path", Required: true, Description: "Id of the entry; a listing's is its SKU.", Schema: text}, dry,
		},
		Responses: with(problems(problem.Details{}, map[string]string{
			"400": "A parameter is not valid.", "404": "There is no such entry.", "409": "Other entries refer to it.",
		}), "200", &huma.Response{Description: "Deleted.", Content: answer(Applied{}, jsonBody)}),
	}, s.deleteCatalog)
	s.route(api, apikey.Read, huma.Operation{
		OperationID: "get-rejected", Method: http.MethodGet, Path: "/v1/rejected", Summary: "Read rejected input", Tags: []string{"Input"},
		Description: "The newest records of stock.rejected: input that could not be used, with its bytes and the reason.",
		Parameters: []*huma.Param{{Name: "limit", In: "query", Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: number(1), Maximum: number(mostRejected),
			Default: defaultRejected}}},
		Responses: with(problems(problem.Details{}, map[string]string{"400": "A parameter is not valid."}), "200",
			&huma.Response{Description: "Newest first.", Content: answer(RejectedList{}, jsonBody)}),
	}, s.getRejected)
	return api
}

// route adds an operation that reads and writes HTTP itself: Huma's typed bodies fit neither streams nor answers that depend on each item, so that
// here it describes the API and leaves the work to the handler.
func (s *Service) route(api huma.API, scope apikey.Scope, op huma.Operation, h http.HandlerFunc) {
	op.Description += "\n\nNeeds the scope " + scope.String() + "."
	guarded := s.guard(op.Method+" "+op.Path, scope, h)
	api.OpenAPI().AddOperation(&op)
	api.Adapter().Handle(&op, func(ctx huma.Context) {
		r, w := humachi.Unwrap(ctx)
		guarded(w, r)
	})
}

func with(m map[string]*huma.Response, status string, r *huma.Response) map[string]*huma.Response {
	m[status] = r
	return m
}

func clone(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func replayed() map[string]*huma.Param {
	return map[string]*huma.Param{"Idempotency-Replayed": {Description: "true when the answer is that of an earlier request.", Schema: &huma.Schema{Type: huma.TypeString}}}
}

func number(f float64) *float64 { return &f }
