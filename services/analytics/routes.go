package analytics

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/platform/problem"
)

// Limits of what one request may ask for.
const (
	defaultLimit  = 1000
	maxLimit      = 10_000
	defaultPeriod = 30 * 24 * time.Hour
)

// Routes adds GET /v1/analytics/… to r. Each but explain answers {"from", "to", "rows", "truncated"}; amounts are decimal numbers as strings.
func (s *Service) Routes(r chi.Router) {
	r.Route("/v1/analytics", func(r chi.Router) {
		r.Use(s.deps.Middleware...)
		r.Get("/sales", s.answer(salesQuery))
		r.Get("/turnover", s.answer(turnoverQuery))
		r.Get("/stockouts", s.answer(stockoutsQuery))
		r.Get("/latency", s.answer(latencyQuery))
		r.Get("/reconcile", s.answer(reconcileQuery))
		r.Get("/explain", s.getExplanation)
	})
}

// query is one question: its SQL, with the parameters from, to, channel, sku and limit, and which of them it takes.
type query struct {
	sql    string
	params []string
}

var (
	salesQuery = query{`SELECT toString(day) AS day, channel, sku, currency, toInt64(orders) AS orders, units_sold, units_cancelled, units_returned, units_net,
	toString(gross) AS gross, toString(cancelled) AS cancelled, toString(returned) AS returned, toString(net) AS net, units_without_price
FROM sales AS s
WHERE s.day >= toDate({from:DateTime64(6, 'UTC')}, 'UTC') AND s.day < toDate({to:DateTime64(6, 'UTC')} + INTERVAL 1 DAY - INTERVAL 1 MICROSECOND, 'UTC')
	AND ({channel:String} = '' OR channel = {channel:String}) AND ({sku:String} = '' OR sku = {sku:String})
ORDER BY s.day, channel, sku, currency LIMIT {limit:UInt32}`, []string{"from", "to", "channel", "sku", "limit"}}

	turnoverQuery = query{`SELECT sku, average_units, toString(unit_cost) AS unit_cost, currency, toString(average_value) AS average_value, units_sold_net,
	toString(cost_of_goods_sold) AS cost_of_goods_sold, days, turnover_per_year, days_of_inventory
FROM turnover(from = {from:DateTime64(6, 'UTC')}, to = {to:DateTime64(6, 'UTC')})
WHERE {sku:String} = '' OR sku = {sku:String}
ORDER BY sku LIMIT {limit:UInt32}`, []string{"from", "to", "sku", "limit"}}

	stockoutsQuery = query{`SELECT sku, channel, listed_seconds, out_seconds, hidden_seconds, stockout_rate
FROM stockouts(from = {from:DateTime64(6, 'UTC')}, to = {to:DateTime64(6, 'UTC')})
WHERE ({channel:String} = '' OR channel = {channel:String}) AND ({sku:String} = '' OR sku = {sku:String})
ORDER BY stockout_rate DESC, sku, channel LIMIT {limit:UInt32}`, []string{"from", "to", "channel", "sku", "limit"}}

	latencyQuery = query{`SELECT channel, toInt64(count()) AS changes, toInt64(countIf(NOT acked)) AS unacknowledged,
	if(countIf(acked) = 0, NULL, toFloat64(quantileTDigestIf(0.5)(latency_ms, acked))) AS p50_ms,
	if(countIf(acked) = 0, NULL, toFloat64(quantileTDigestIf(0.95)(latency_ms, acked))) AS p95_ms,
	if(countIf(acked) = 0, NULL, toFloat64(quantileTDigestIf(0.99)(latency_ms, acked))) AS p99_ms,
	if(countIf(acked) = 0, NULL, toFloat64(maxIf(latency_ms, acked))) AS max_ms
FROM sync_latency(from = {from:DateTime64(6, 'UTC')}, to = {to:DateTime64(6, 'UTC')})
WHERE ({channel:String} = '' OR channel = {channel:String}) AND ({sku:String} = '' OR sku = {sku:String})
GROUP BY channel ORDER BY channel LIMIT {limit:UInt32}`, []string{"from", "to", "channel", "sku", "limit"}}

	reconcileQuery = query{`SELECT table, topic, toInt64(rows) AS rows, toInt64(records) AS records, toInt64(repeated) AS repeated
FROM reconcile ORDER BY table, topic LIMIT {limit:UInt32}`, []string{"limit"}}
)

// arguments reads what a request asks for, and reports every fault.
func (q query) arguments(r *http.Request, now time.Time) (args map[string]string, limit int, faults []problem.Field) {
	from, to, limit := now.Add(-defaultPeriod), now, defaultLimit
	args = map[string]string{"channel": "", "sku": ""}
	given := r.URL.Query()
	fromGiven := false
	for name, values := range given {
		fault := func(code, detail string) {
			faults = append(faults, problem.Field{Pointer: name, Code: code, Detail: detail})
		}
		switch v := values[0]; {
		case !slices.Contains(q.params, name):
			fault("unknown", fmt.Sprintf("%s is not a parameter here: use %s", name, strings.Join(q.params, ", ")))
		case len(values) > 1:
			fault("repeated", name+" is given more than once")
		case name == "from" || name == "to":
			at, err := parseTime(v)
			if err != nil {
				fault("malformed", fmt.Sprintf("%s %.40q is not a time: give a date (2026-11-24) or RFC 3339 (2026-11-24T08:00:00Z)", name, v))
			} else if name == "from" {
				from, fromGiven = at, true
			} else {
				to = at
			}
		case name == "limit":
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > maxLimit {
				fault("out_of_range", fmt.Sprintf("limit %.20q: give 1 to %d", v, maxLimit))
			} else {
				limit = n
			}
		case len(v) > 256:
			fault("too_long", name+" is longer than 256 bytes")
		default:
			args[name] = escape.Replace(v)
		}
	}
	if !fromGiven && given.Has("to") {
		from = to.Add(-defaultPeriod)
	}
	if len(faults) == 0 && !from.Before(to) {
		faults = append(faults, problem.Field{Pointer: "to", Code: "out_of_range", Detail: "to is not after from: the period is [from, to)"})
	}
	args["from"], args["to"] = clickhouseTime(from), clickhouseTime(to)
	args["limit"] = strconv.Itoa(limit + 1) // one more tells whether there is more
	return args, limit, faults
}

// escape writes text as ClickHouse's HTTP interface reads the value of a parameter.
var escape = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

func parseTime(v string) (time.Time, error) {
	at, err := time.Parse(time.DateOnly, v)
	if err != nil {
		at, err = time.Parse(time.RFC3339Nano, v)
	}
	if err == nil && (at.Year() < 1970 || at.Year() > 2261) {
		err = fmt.Errorf("year %d", at.Year())
	}
	return at.UTC(), err
}

func clickhouseTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000") }

type answer struct {
	From      string           `json:"from,omitempty"`
	To        string           `json:"to,omitempty"`
	Rows      []map[string]any `json:"rows"`
	Truncated bool             `json:"truncated"`
}

func turnDown(w http.ResponseWriter, faults []problem.Field) {
	slices.SortFunc(faults, func(a, b problem.Field) int { return strings.Compare(a.Pointer, b.Pointer) })
	d := problem.New(http.StatusUnprocessableEntity, "invalid", "The request has faults", "Correct the parameters named in errors and ask again.")
	d.Errors = faults
	problem.Write(w, d)
}

// away answers for ClickHouse, which did not.
func (s *Service) away(ctx context.Context, w http.ResponseWriter, r *http.Request, err error) {
	s.log.WarnContext(ctx, "query failed", "path", r.URL.Path, "error", err)
	d := problem.New(http.StatusServiceUnavailable, "unavailable", "ClickHouse did not answer", "Ask again in a moment; if it goes on, look at the log of analytics.")
	d.RetryAfter = 5 * time.Second
	problem.Write(w, d)
}

func (s *Service) answer(q query) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		args, limit, faults := q.arguments(r, time.Now().UTC())
		if len(faults) > 0 {
			turnDown(w, faults)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.ClickHouse.Timeout)
		defer cancel()
		rows, err := s.ask(ctx, q, args)
		if err != nil {
			if r.Context().Err() != nil {
				return // nobody is there to read it
			}
			s.away(ctx, w, r, err)
			return
		}
		out := answer{Rows: rows}
		if slices.Contains(q.params, "from") {
			out.From, out.To = strings.Replace(args["from"], " ", "T", 1)+"Z", strings.Replace(args["to"], " ", "T", 1)+"Z"
		}
		if len(rows) > limit {
			out.Rows, out.Truncated = rows[:limit], true
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(out) // the client has gone
	}
}

// ask runs a query with its parameters bound by ClickHouse.
func (s *Service) ask(ctx context.Context, q query, args map[string]string) ([]map[string]any, error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters(args)))
	rows, err := s.query.Query(ctx, q.sql)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, types := rows.Columns(), rows.ColumnTypes()
	out := []map[string]any{}
	for rows.Next() {
		values := make([]any, len(names))
		for i, t := range types {
			switch name := t.DatabaseTypeName(); {
			case strings.Contains(name, "Float64") && strings.HasPrefix(name, "Nullable"):
				values[i] = new(*float64)
			case strings.Contains(name, "String") && strings.HasPrefix(name, "Nullable"):
				values[i] = new(*string)
			case strings.Contains(name, "Float64"):
				values[i] = new(float64)
			case strings.Contains(name, "Int64"):
				values[i] = new(int64)
			default:
				values[i] = new(string)
			}
		}
		if err := rows.Scan(values...); err != nil {
			return nil, err
		}
		row := make(map[string]any, len(names))
		for i, name := range names {
			row[name] = values[i]
		}
		out = append(out, row)
	}
	return out, rows.Err()
}
