// Package replay feeds a file of past orders to a running Onhand over its public HTTP API, at any speed.
//
// A sale happens at its marketplace, where that is given: the marketplace takes it or refuses it, line by line, and reports what it took. What does not
// happen at a marketplace (receipts, adjustments, shipments) goes to POST /v1/events. All ids come from the file, so that a replay that is repeated, in part
// or whole, changes nothing.
package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	onlineretail "github.com/onhand/onhand/examples/online-retail"
)

// Config says where a replay goes, and how fast.
type Config struct {
	API          string  // root of Onhand's public API
	Key          string  // for it
	Marketplaces string  // root of the simulated marketplaces; empty sends orders to the API
	Speed        float64 // times real speed; 0 is as fast as possible
	From         State   // where an earlier replay of the same file stopped
	// Settle waits until little is under way in Onhand; called after each day, when Speed is 0. Optional.
	Settle func(context.Context) error
	// Loaded waits until the stock that has come in can be bought; called after receipts. Optional.
	Loaded func(context.Context) error
	// Progress is told how far the replay has come, after each step. Optional.
	Progress func(Progress)
	// Save is told the state whenever everything before it has been answered. Optional.
	Save func(State) error
}

// Progress is how far a replay has come.
type Progress struct {
	Done, Documents int
	Lines           int64 // of the file's documents
	At              time.Time
	Tally           Tally
}

// Share is the part that is done, 0 to 1.
func (p Progress) Share() float64 {
	if p.Documents == 0 {
		return 0
	}
	return float64(p.Done) / float64(p.Documents)
}

// Tally is units by what happened to them.
type Tally struct {
	Received  int64 `json:"received"`
	Asked     int64 `json:"asked"`     // by customers, in all
	Sold      int64 `json:"sold"`      // what marketplaces took
	Refused   int64 `json:"refused"`   // what they refused, since they showed too few
	Cancelled int64 `json:"cancelled"` // before shipping
	Returned  int64 `json:"returned"`
	NeverSold int64 `json:"never_sold"` // cancelled or returned in the file, but of refused sales
	Adjusted  int64 `json:"adjusted"`   // net
	Shipped   int64 `json:"shipped"`
	Repeated  int64 `json:"repeated"` // of sales that had been replayed before
	Events    int64 `json:"events"`   // stock events that all this makes
	Lines     int64 `json:"lines"`
}

// line is a sold line that has not been shipped.
type line struct {
	Doc   int32 `json:"d"`
	Line  int32 `json:"l"`
	Units int64 `json:"u"`
}

// State is where a replay stands: everything before Next has been answered.
type State struct {
	Next      int    `json:"next"`
	Documents int    `json:"documents"`
	Unshipped []line `json:"unshipped,omitempty"`
	Tally     Tally  `json:"tally"`
}

// Finished reports a replay that has come to its end.
func (s State) Finished() bool { return s.Documents > 0 && s.Next >= s.Documents }

// most is the lines that are collected before they are sent, so that a request stays of moderate size.
const (
	most      = 4000
	batchSize = 1000
)

type player struct {
	cfg    Config
	data   *onlineretail.Dataset
	client client
	state  State

	sales   map[string][]int // documents to be sold, by channel
	lines   int              // in sales
	events  []event
	cancels []int
	ship    bool
	arrived bool
	shipAt  int64
}

// Run replays the data until its end or until ctx ends. It returns where it stands either way.
func Run(ctx context.Context, data *onlineretail.Dataset, cfg Config) (State, error) {
	if cfg.Speed < 0 {
		return cfg.From, fmt.Errorf("speed %g: want 0 (as fast as possible) or more", cfg.Speed)
	}
	if cfg.From.Documents != 0 && cfg.From.Documents != len(data.Documents) {
		return cfg.From, fmt.Errorf("the earlier replay was of a file with %d documents, this one has %d", cfg.From.Documents, len(data.Documents))
	}
	p := &player{
		cfg: cfg, data: data, state: cfg.From, sales: make(map[string][]int),
		client: client{http: &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute}}, key: cfg.Key, wait: sleep},
	}
	defer p.client.http.CloseIdleConnections()
	p.state.Documents = len(data.Documents)
	p.state.Unshipped = slices.Clone(p.state.Unshipped)
	err := p.run(ctx)
	return p.state, err
}

func (p *player) run(ctx context.Context) error {
	docs := p.data.Documents
	if p.state.Next >= len(docs) {
		return nil
	}
	begin, first := time.Now(), docs[p.state.Next].At
	for i := p.state.Next; i < len(docs); i++ {
		d := &docs[i]
		if p.cfg.Speed > 0 {
			due := begin.Add(time.Duration(float64(d.At-first) / p.cfg.Speed * float64(time.Microsecond)))
			if wait := time.Until(due); wait > 0 {
				if err := p.flush(ctx, i); err != nil {
					return err
				}
				if err := sleep(ctx, time.Until(due)); err != nil {
					return err
				}
			}
		}
		p.add(i, d)
		if p.ship || p.arrived || p.lines+len(p.events) >= most {
			if err := p.flush(ctx, i+1); err != nil {
				return err
			}
		}
	}
	return p.flush(ctx, len(docs))
}

func (p *player) add(i int, d *onlineretail.Document) {
	p.state.Tally.Lines += int64(len(d.Lines))
	switch d.Kind {
	case onlineretail.Sale:
		p.sales[d.Channel] = append(p.sales[d.Channel], i)
		p.lines += len(d.Lines)
	case onlineretail.Cancel:
		p.cancels = append(p.cancels, i)
		p.lines += len(d.Lines)
	case onlineretail.Adjustment:
		for j, l := range d.Lines {
			reason := "found"
			if l.Units < 0 {
				reason = "lost"
			}
			p.events = append(p.events, event{ID: "adjust/" + d.Invoice + "/" + strconv.Itoa(j), Kind: "stock_adjusted", SKU: p.sku(l), Location: place(l),
				Quantity: l.Units, Reason: reason, OccurredAt: stamp(d.At)})
			p.state.Tally.Adjusted += l.Units
		}
	case onlineretail.Receipt:
		po := "PO-" + time.UnixMicro(d.At).UTC().Format(time.DateOnly)
		for _, l := range d.Lines {
			of := po
			if l.Apart {
				of += "-apart"
			}
			p.events = append(p.events, event{ID: "receipt/" + of + "/" + p.sku(l), Kind: "receipt_received", SKU: p.sku(l), Location: place(l),
				Quantity: l.Units, Reference: of, OccurredAt: stamp(d.At)})
			p.state.Tally.Received += l.Units
		}
		p.arrived = true
	case onlineretail.Shipping:
		p.ship, p.shipAt = true, d.At
	}
}

// place is the location of a receipt or an adjustment.
func place(l onlineretail.Line) string {
	if l.Apart {
		return onlineretail.Inspection
	}
	return onlineretail.Warehouse
}

// flush sends what was collected and waits for the answers. next is the first document that was not collected.
func (p *player) flush(ctx context.Context, next int) error {
	if err := p.sendEvents(ctx, p.events); err != nil {
		return err
	}
	arrived := p.arrived
	p.events, p.arrived = p.events[:0], false
	if err := p.sell(ctx); err != nil {
		return err
	}
	if err := p.giveBack(ctx); err != nil {
		return err
	}
	day := p.ship
	if p.ship {
		if err := p.shipAll(ctx); err != nil {
			return err
		}
		p.ship = false
	}
	p.state.Next = next
	if p.cfg.Save != nil {
		if err := p.cfg.Save(p.state); err != nil {
			return fmt.Errorf("keep the state of the replay: %w", err)
		}
	}
	if p.cfg.Progress != nil {
		at := time.Time{}
		if next > 0 {
			at = time.UnixMicro(p.data.Documents[next-1].At)
		}
		p.cfg.Progress(Progress{Done: next, Documents: len(p.data.Documents), Lines: p.state.Tally.Lines, At: at, Tally: p.state.Tally})
	}
	if arrived && p.cfg.Loaded != nil && p.cfg.Speed == 0 {
		return p.cfg.Loaded(ctx)
	}
	if day && p.cfg.Settle != nil && p.cfg.Speed == 0 {
		return p.cfg.Settle(ctx)
	}
	return nil
}

type saleLine struct {
	ID        string `json:"id"`
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice string `json:"unit_price,omitempty"`
	Location  string `json:"location,omitempty"`
}

type sale struct {
	ID          string     `json:"id"`
	Channel     string     `json:"channel,omitempty"` // only where the API is told directly
	PlacedAt    string     `json:"placed_at"`
	Currency    string     `json:"currency"`
	CustomerRef string     `json:"customer_ref,omitempty"`
	Lines       []saleLine `json:"lines"`
}

type saleAnswer struct {
	Sales []struct {
		ID       string `json:"id"`
		Repeated bool   `json:"repeated"`
		Lines    []struct {
			ID   string `json:"id"`
			Sold bool   `json:"sold"`
		} `json:"lines"`
	} `json:"sales"`
	Errors []string `json:"errors"`
}

// event is one item of POST /v1/events.
type event struct {
	ID                 string `json:"id"`
	Kind               string `json:"kind"`
	SKU                string `json:"sku"`
	Location           string `json:"location,omitempty"`
	Channel            string `json:"channel,omitempty"`
	OrderID            string `json:"order_id,omitempty"`
	LineID             string `json:"line_id,omitempty"`
	Quantity           int64  `json:"quantity"`
	Reference          string `json:"reference,omitempty"`
	Reason             string `json:"reason,omitempty"`
	Disposition        string `json:"disposition,omitempty"`
	RestockedByChannel bool   `json:"restocked_by_channel,omitempty"`
	OccurredAt         string `json:"occurred_at"`
}

func stamp(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339Nano) }

func (p *player) sku(l onlineretail.Line) string { return p.data.SKUs[l.SKU].Code }

func lineID(i int) string { return strconv.Itoa(i + 1) }

// sell lets each channel sell what was collected, in its order; the channels at once.
func (p *player) sell(ctx context.Context) error {
	if p.lines == 0 || len(p.sales) == 0 {
		return nil
	}
	answers := make(map[string]*saleAnswer, len(p.sales))
	g, gctx := errgroup.WithContext(ctx)
	for channel, docs := range p.sales {
		out := new(saleAnswer)
		answers[channel] = out
		g.Go(func() error { return p.sellAt(gctx, channel, docs, out) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, channel := range slices.Sorted(keys(p.sales)) { // in a fixed order, so that a state is the same each time
		if err := p.count(channel, p.sales[channel], answers[channel]); err != nil {
			return err
		}
	}
	clear(p.sales)
	p.lines = 0
	return nil
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (p *player) sellAt(ctx context.Context, channel string, docs []int, out *saleAnswer) error {
	to, direct := p.cfg.Marketplaces+"/channels/"+url.PathEscape(channel)+"/sales", p.cfg.Marketplaces == ""
	if direct {
		to = p.cfg.API + "/v1/orders?results=failed"
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	n, part := 0, new(saleAnswer)
	send := func() error {
		if n == 0 {
			return nil
		}
		var err error
		if direct {
			err = p.accepted(ctx, to, body.Bytes(), n)
		} else {
			*part = saleAnswer{}
			err = p.client.post(ctx, to, body.Bytes(), part)
			out.Sales, out.Errors = append(out.Sales, part.Sales...), append(out.Errors, part.Errors...)
		}
		body.Reset()
		n = 0
		return err
	}
	for _, i := range docs {
		d := &p.data.Documents[i]
		s := sale{ID: d.Invoice, PlacedAt: stamp(d.At), Currency: onlineretail.Currency, CustomerRef: d.Customer, Lines: make([]saleLine, len(d.Lines))}
		if direct {
			s.Channel = channel
		}
		for j, l := range d.Lines {
			s.Lines[j] = saleLine{ID: lineID(j), SKU: p.sku(l), Quantity: l.Units, UnitPrice: l.Price, Location: onlineretail.Warehouse}
		}
		if err := enc.Encode(s); err != nil {
			return err
		}
		if n++; n == batchSize || body.Len() > 1<<20 {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

// count books what became of the sales of one channel.
func (p *player) count(channel string, docs []int, a *saleAnswer) error {
	t := &p.state.Tally
	if p.cfg.Marketplaces != "" && (len(a.Errors) > 0 || len(a.Sales) != len(docs)) {
		return fmt.Errorf("marketplace %s answered %d of %d sales: %s", channel, len(a.Sales), len(docs), strings.Join(a.Errors, "; "))
	}
	for k, i := range docs {
		for j, l := range p.data.Documents[i].Lines {
			t.Asked += l.Units
			switch {
			case p.cfg.Marketplaces == "":
			case a.Sales[k].Repeated:
				t.Repeated += l.Units
				continue
			case len(a.Sales[k].Lines) <= j:
				return fmt.Errorf("marketplace %s answered %d of %d lines of sale %s", channel, len(a.Sales[k].Lines), j+1, a.Sales[k].ID)
			case !a.Sales[k].Lines[j].Sold:
				t.Refused += l.Units
				continue
			}
			t.Sold += l.Units
			t.Events++
			p.state.Unshipped = append(p.state.Unshipped, line{int32(i), int32(j), l.Units})
		}
	}
	return nil
}

// back is a cancellation or return, as a marketplace takes it.
type back struct {
	ID          string `json:"id"`
	OrderID     string `json:"order_id"`
	LineID      string `json:"line_id"`
	SKU         string `json:"sku"`
	Quantity    int64  `json:"quantity"`
	OccurredAt  string `json:"occurred_at"`
	Disposition string `json:"disposition,omitempty"`
	Location    string `json:"location"`
}

// giveBack sends the cancellations and returns that were collected.
func (p *player) giveBack(ctx context.Context) error {
	if len(p.cancels) == 0 {
		return nil
	}
	type item struct {
		back
		unshipped bool
		sale      [2]int32
	}
	to := make(map[string][]item) // by channel and path
	var direct []event
	for _, i := range p.cancels {
		d := &p.data.Documents[i]
		for j, l := range d.Lines {
			id, at := d.Invoice+"/"+lineID(j), stamp(d.At)
			if l.Sale < 0 { // sold before the file begins: no marketplace has the order
				direct = append(direct, event{ID: "return/" + id, Kind: "return_received", SKU: p.sku(l), Location: onlineretail.Warehouse, Channel: d.Channel,
					Quantity: l.Units, Disposition: "restock", OccurredAt: at})
				continue
			}
			s := &p.data.Documents[l.Sale]
			path, kind := "returns", "return_received"
			x := item{back{ID: "return/" + id, OrderID: s.Invoice, LineID: lineID(int(l.SaleLine)), SKU: p.sku(l), Quantity: l.Units, OccurredAt: at, Disposition: "restock",
				Location: onlineretail.Warehouse}, l.Unshipped, [2]int32{l.Sale, l.SaleLine}}
			if l.Unshipped {
				path, kind = "cancellations", "sale_cancelled"
				x.ID, x.Disposition = "cancel/"+id, ""
			}
			if p.cfg.Marketplaces != "" {
				k := "/channels/" + url.PathEscape(s.Channel) + "/" + path
				to[k] = append(to[k], x)
				continue
			}
			direct = append(direct, event{ID: x.ID, Kind: kind, SKU: x.SKU, Location: x.Location, Channel: s.Channel, OrderID: x.OrderID, LineID: x.LineID, Quantity: x.Quantity,
				Disposition: x.Disposition, OccurredAt: at})
			p.book(x.unshipped, x.sale, x.Quantity)
		}
	}
	for _, path := range slices.Sorted(keys(to)) {
		items := to[path]
		var body bytes.Buffer
		enc := json.NewEncoder(&body)
		for _, x := range items {
			if err := enc.Encode(x.back); err != nil {
				return err
			}
		}
		var out struct {
			Items []struct {
				Status, Message string
			}
		}
		if err := p.client.post(ctx, p.cfg.Marketplaces+path, body.Bytes(), &out); err != nil {
			return err
		}
		if len(out.Items) != len(items) {
			return fmt.Errorf("%s: %d answers to %d items", path, len(out.Items), len(items))
		}
		for k, x := range items {
			if out.Items[k].Status != "accepted" {
				p.state.Tally.NeverSold += x.Quantity
				continue
			}
			p.book(x.unshipped, x.sale, x.Quantity)
			p.state.Tally.Events++
		}
	}
	for _, e := range direct {
		if e.OrderID == "" {
			p.state.Tally.Returned += e.Quantity
		}
	}
	p.cancels, p.lines = p.cancels[:0], 0
	return p.sendEvents(ctx, direct)
}

// book counts units of a sale that were given up or came back.
func (p *player) book(unshipped bool, of [2]int32, units int64) {
	if !unshipped {
		p.state.Tally.Returned += units
		return
	}
	p.state.Tally.Cancelled += units
	for i := len(p.state.Unshipped) - 1; i >= 0; i-- {
		if l := &p.state.Unshipped[i]; l.Doc == of[0] && l.Line == of[1] {
			l.Units -= units
			return
		}
	}
}

// shipAll confirms the shipment of everything sold until now.
func (p *player) shipAll(ctx context.Context) error {
	if err := p.reported(ctx); err != nil {
		return err
	}
	events := make([]event, 0, len(p.state.Unshipped))
	at := stamp(p.shipAt)
	for _, l := range p.state.Unshipped {
		if l.Units <= 0 {
			continue
		}
		d := &p.data.Documents[l.Doc]
		id := lineID(int(l.Line))
		events = append(events, event{ID: "ship/" + d.Channel + "/" + d.Invoice + "/" + id, Kind: "shipment_confirmed", SKU: p.sku(d.Lines[l.Line]), Location: onlineretail.Warehouse,
			Channel: d.Channel, OrderID: d.Invoice, LineID: id, Quantity: l.Units, OccurredAt: at})
		p.state.Tally.Shipped += l.Units
	}
	p.state.Unshipped = p.state.Unshipped[:0]
	return p.sendEvents(ctx, events)
}

// reported waits until the marketplaces have reported all that happened there: goods never leave before Onhand knows of the sale.
func (p *player) reported(ctx context.Context) error {
	if p.cfg.Marketplaces == "" {
		return nil
	}
	for {
		status, _, body, err := p.client.once(ctx, http.MethodGet, p.cfg.Marketplaces+"/channels", nil)
		if err == nil && status != http.StatusOK {
			err = errors.New(say(status, body))
		}
		var out struct {
			Channels []struct {
				Unreported int64 `json:"unreported"`
			} `json:"channels"`
		}
		if err == nil {
			err = json.Unmarshal(body, &out)
		}
		if err != nil {
			return fmt.Errorf("%s/channels: %w", p.cfg.Marketplaces, err)
		}
		left := int64(0)
		for _, c := range out.Channels {
			left += c.Unreported
		}
		if left == 0 {
			return nil
		}
		if err := sleep(ctx, 3*time.Millisecond); err != nil {
			return err
		}
	}
}

// sendEvents posts events to the public API, in order.
func (p *player) sendEvents(ctx context.Context, events []event) error {
	p.state.Tally.Events += int64(len(events))
	var body bytes.Buffer
	for chunk := range slices.Chunk(events, batchSize) {
		body.Reset()
		enc := json.NewEncoder(&body)
		for i := range chunk {
			if err := enc.Encode(&chunk[i]); err != nil {
				return err
			}
		}
		if err := p.accepted(ctx, p.cfg.API+"/v1/events?results=failed", body.Bytes(), len(chunk)); err != nil {
			return err
		}
	}
	return nil
}

// accepted posts n items to the API and checks that all were taken.
func (p *player) accepted(ctx context.Context, to string, body []byte, n int) error {
	var out struct {
		Accepted   *int64 `json:"accepted"`
		Duplicates int64  `json:"duplicates"`
		Rejected   int64  `json:"rejected"`
	}
	if err := p.client.post(ctx, to, body, &out); err != nil {
		return err
	}
	if out.Rejected > 0 || (out.Accepted != nil && *out.Accepted+out.Duplicates < int64(n)) {
		return fmt.Errorf("%s took %d of %d items; see `onhand rejected list` for the reasons", to, int64(n)-out.Rejected, n)
	}
	return nil
}
