// Package figures is what a running Onhand shows of itself, live: the terminal view prints it, the console draws it, `onhand status` reads it.
package figures

import "time"

// Figures is one moment of a process.
type Figures struct {
	At        time.Time `json:"at"`
	StartedAt time.Time `json:"started_at"`
	Version   string    `json:"version"`
	Ready     bool      `json:"ready"`
	NotReady  []Check   `json:"not_ready,omitempty"`
	Stages    []Stage   `json:"stages"`    // in the order data flows
	Sync      Latency   `json:"sync"`      // sale received → acknowledged by the other channels whose number changed
	Oversold  int64     `json:"oversold"`  // units sold beyond what was available, since the start
	Refused   int64     `json:"refused"`   // units that marketplaces refused to sell because they showed too few; -1 when nobody counts them
	Rejected  int64     `json:"rejected"`  // records in stock.rejected since the start
	Backlog   int64     `json:"backlog"`   // records and writes that are still on their way through all stages
	Pushes    []Push    `json:"pushes"`    // newest first
	Alerts    []Alert   `json:"alerts"`    // newest first
	Addresses []Address `json:"addresses"` // console first
	Memory    int64     `json:"memory"`    // resident bytes of the process; 0 where the system does not tell
	Quiet     bool      `json:"quiet"`     // nothing is on its way
	Replay    *Replay   `json:"replay,omitempty"`
	Notes     []string  `json:"notes,omitempty"`
}

// Pending is what is on its way from an event to the channels: everything but analytics, which nobody waits for.
func (f *Figures) Pending() int64 {
	n := int64(0)
	for _, s := range f.Stages {
		if s.Name != "analytics" {
			n += s.Lag
		}
	}
	return n
}

// Check is a part that is not ready.
type Check struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Stage is one service.
type Stage struct {
	Name      string  `json:"name"`
	Unit      string  `json:"unit"` // what it counts: events, targets, writes, rows
	Total     int64   `json:"total"`
	PerSecond float64 `json:"per_second"`
	Lag       int64   `json:"lag"` // records, or writes, that wait for it
}

// Latency is a distribution over about the last minute, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
}

// Push is one write to a channel.
type Push struct {
	At       time.Time `json:"at"`
	Channel  string    `json:"channel"`
	SKU      string    `json:"sku"`
	Quantity int64     `json:"quantity"`
	Outcome  string    `json:"outcome"`
	Detail   string    `json:"detail,omitempty"`
	Millis   float64   `json:"millis"` // sync latency; 0 when unknown
}

// Alert is one notice of stock.alerts.
type Alert struct {
	At      time.Time `json:"at"`
	Kind    string    `json:"kind"`
	SKU     string    `json:"sku,omitempty"`
	Channel string    `json:"channel,omitempty"`
	Message string    `json:"message"`
}

// Address is where something listens.
type Address struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Replay is how far a replay that runs in the process has come.
type Replay struct {
	Day   string  `json:"day"`   // in the file's time
	Share float64 `json:"share"` // 0 to 1
	Lines int64   `json:"lines"`
}
