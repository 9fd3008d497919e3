package marketplace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says how the marketplaces run.
type Config struct {
	Addr          string        // where to listen; default 127.0.0.1:0
	Ingest        string        // root of Onhand's public API; empty reports nothing
	APIKey        string        // for Onhand's public API
	Token         string        // that callers must bring as bearer token; empty asks for none
	StateFile     string        // where the state is kept over a stop; empty keeps none
	SaveEvery     time.Duration // how often a changed state is saved while running; default 5 s
	Seed          uint64        // of all randomness
	BatchLimit    int           // items in one inventory request; default 1,000
	ReportBatch   int           // records in one report; default 500
	ReportLinger  time.Duration // least time between two reports of a channel; default 5 ms
	Reporters     int           // reports under way at once, over all channels; default 8
	MaxUnreported int           // per channel, before sales wait; default 20,000
	Gzip          bool          // compress reports
	Watermarks    time.Duration // how often each channel tells Onhand up to when all its sales are reported, while something happens there; 0 never
}

// maxChannels bounds the memory that callers can take by naming channels.
const maxChannels = 4096

var channelName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// destination is where reports go.
type destination struct{ url, key string }

// Server is a set of marketplaces on one listener. Channels come to life when they are first named.
type Server struct {
	cfg       Config
	client    *http.Client
	to        atomic.Pointer[destination]
	reporting chan struct{}

	mu       sync.RWMutex
	channels map[string]*channel
	stop     context.CancelFunc
	loops    context.Context
	wg       sync.WaitGroup
	http     *http.Server
	addr     string
	saving   sync.Mutex
}

// New makes the marketplaces, with the state of the last stop when the state file holds one.
func New(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.SaveEvery <= 0 {
		cfg.SaveEvery = 5 * time.Second
	}
	cfg.BatchLimit = orDefault(cfg.BatchLimit, 1000)
	cfg.ReportBatch = orDefault(cfg.ReportBatch, 500)
	cfg.Reporters = orDefault(cfg.Reporters, 8)
	cfg.MaxUnreported = orDefault(cfg.MaxUnreported, 20_000)
	if cfg.ReportLinger <= 0 {
		cfg.ReportLinger = 5 * time.Millisecond
	}
	s := &Server{
		cfg: cfg, reporting: make(chan struct{}, cfg.Reporters), channels: make(map[string]*channel),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: cfg.Reporters, IdleConnTimeout: time.Minute}},
	}
	s.loops, s.stop = context.WithCancel(context.Background())
	if err := s.ReportTo(cfg.Ingest, cfg.APIKey); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		s.stop()
		s.wg.Wait()
		return nil, err
	}
	return s, nil
}

func orDefault(v, d int) int {
	if v <= 0 {
		return d
	}
	return v
}

// ReportTo sends reports to the public API at root from now on; an empty root drops what happens from now on.
func (s *Server) ReportTo(root, key string) error {
	if root == "" {
		s.to.Store(nil)
		return nil
	}
	u, err := url.Parse(root)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("report to %q: want http://host:port", root)
	}
	s.to.Store(&destination{strings.TrimRight(root, "/"), key})
	return nil
}

func (s *Server) target() *destination { return s.to.Load() }

// Start listens and serves until Stop.
func (s *Server) Start() error {
	l, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("marketplaces cannot listen on %s: %w", s.cfg.Addr, err)
	}
	s.addr = l.Addr().String()
	s.http = &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return s.loops }}
	s.wg.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.stop()
		}
	})
	if s.cfg.StateFile != "" {
		s.wg.Go(s.saveLoop)
	}
	return nil
}

// Stop ends reporting and serving, cuts requests that are still held after ctx, and saves the state.
func (s *Server) Stop(ctx context.Context) error {
	s.stop()
	var err error
	if s.http != nil {
		if s.http.Shutdown(ctx) != nil {
			err = s.http.Close()
		}
	}
	s.wg.Wait()
	s.client.CloseIdleConnections()
	return errors.Join(err, s.Save())
}

// URL is the root of the listener, once started.
func (s *Server) URL() string { return "http://" + s.addr }

// ChannelURL is the base URL of a channel: what its catalog entry names.
func (s *Server) ChannelURL(ch string) string { return s.URL() + "/channels/" + url.PathEscape(ch) }

// channel finds a channel, or makes it.
func (s *Server) channel(id string) (*channel, error) {
	s.mu.RLock()
	c := s.channels[id]
	s.mu.RUnlock()
	if c != nil {
		return c, nil
	}
	if !channelName.MatchString(id) {
		return nil, fmt.Errorf("channel %q: want up to 128 letters, digits, '.', '_' or '-'", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.channels[id]; c != nil {
		return c, nil
	}
	if len(s.channels) >= maxChannels {
		return nil, fmt.Errorf("channel %q: there are %d channels already", id, maxChannels)
	}
	c = newChannel(id, s)
	s.open(c)
	return c, nil
}

// open lets a channel report. The caller holds mu, or is alone.
func (s *Server) open(c *channel) {
	s.channels[c.id] = c
	s.wg.Go(func() { c.reportLoop(s.loops) })
	if s.cfg.Watermarks > 0 {
		s.wg.Go(func() { c.watermarkLoop(s.loops) })
	}
}

func (s *Server) all() []*channel {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*channel, 0, len(s.channels))
	for _, c := range s.channels {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *channel) int { return strings.Compare(a.id, b.id) })
	return out
}

// Shown is what a channel shows of a SKU, and whether it lists it.
func (s *Server) Shown(ch, sku string) (int64, bool) {
	s.mu.RLock()
	c := s.channels[ch]
	s.mu.RUnlock()
	if c == nil {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q, ok := c.shown[sku]
	return q, ok
}

// AllShown is everything that a channel shows, by SKU.
func (s *Server) AllShown(ch string) map[string]int64 {
	out := make(map[string]int64)
	s.mu.RLock()
	c := s.channels[ch]
	s.mu.RUnlock()
	if c == nil {
		return out
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, v := range c.shown {
		out[k] = v
	}
	return out
}

// Set makes a channel show a quantity, as a person at the channel's own console would.
func (s *Server) Set(ch, sku string, quantity int64) error {
	c, err := s.channel(ch)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown[sku] = quantity
	return nil
}

// Sell takes one sale. It waits while the channel has too much to report.
func (s *Server) Sell(ctx context.Context, ch string, sale Sale) (SaleResult, error) {
	c, err := s.channel(ch)
	if err != nil {
		return SaleResult{}, err
	}
	return c.sell(ctx, &sale)
}

// Cancel takes units of a sale back before they ship.
func (s *Server) Cancel(ctx context.Context, ch string, x Cancellation) error {
	c, err := s.channel(ch)
	if err != nil {
		return err
	}
	return c.cancel(ctx, &x)
}

// Return reports units that a customer sent back.
func (s *Server) Return(ctx context.Context, ch string, x Return) error {
	c, err := s.channel(ch)
	if err != nil {
		return err
	}
	return c.giveBack(ctx, &x)
}

// SetFaults makes a channel misbehave from now on.
func (s *Server) SetFaults(ch string, f Faults) error {
	c, err := s.channel(ch)
	if err != nil {
		return err
	}
	return c.setFaults(f)
}

// Redeliver reports what a channel had lost, as an order sweep would, and says how much that was.
func (s *Server) Redeliver(ch string) (int, error) {
	c, err := s.channel(ch)
	if err != nil {
		return 0, err
	}
	return c.out.redeliver(), nil
}

// Stats is what happened at each channel, by name.
func (s *Server) Stats() []ChannelStats {
	all := s.all()
	out := make([]ChannelStats, len(all))
	for i, c := range all {
		out[i] = c.snapshot()
	}
	return out
}

// Drain waits until all that happened is acknowledged by Onhand, or refused by it for good.
func (s *Server) Drain(ctx context.Context) error {
	for _, c := range s.all() {
		if err := c.out.room(ctx, 1); err != nil {
			st := c.snapshot()
			return fmt.Errorf("channel %s: %d records are not acknowledged (last error: %s): %w", c.id, st.Unreported, st.LastReportError, ctx.Err())
		}
	}
	return nil
}

// state is what the file holds.
type state struct {
	Version  int            `json:"version"`
	Channels []channelState `json:"channels"`
}

type channelState struct {
	Stats   ChannelStats     `json:"stats"`
	Shown   map[string]int64 `json:"shown"`
	Sales   []uint64         `json:"sales"`
	Refused []uint64         `json:"refused"`
	Pending []savedReport    `json:"pending"`
	Lost    []savedReport    `json:"lost"`
}

type savedReport struct {
	Path string          `json:"path"`
	Line json.RawMessage `json:"line"`
}

// Save writes the state file, whole or not at all. Without one it does nothing.
func (s *Server) Save() error {
	if s.cfg.StateFile == "" {
		return nil
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	st := state{Version: 1}
	for _, c := range s.all() {
		st.Channels = append(st.Channels, c.save())
	}
	b, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("marketplace state: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(s.cfg.StateFile), ".marketplaces-*")
	if err != nil {
		return fmt.Errorf("marketplace state: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.cfg.StateFile)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("marketplace state: %w", err), os.Remove(f.Name()))
	}
	return nil
}

func (s *Server) saveLoop() {
	var last int64
	for sleep(s.loops, s.cfg.SaveEvery) {
		var now int64
		for _, c := range s.all() {
			st := c.snapshot()
			now += st.Sales + st.RefusedUnits + st.CancelledUnits + st.ReturnedUnits + st.Writes + st.Reported
		}
		if now != last {
			last = now
			_ = s.Save() // Stop reports a state that cannot be saved
		}
	}
}

func (c *channel) save() channelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	st := channelState{Stats: c.stats, Shown: make(map[string]int64, len(c.shown)), Sales: c.sales.inOrder(), Refused: c.refused.inOrder()}
	st.Stats.Reported, st.Stats.RejectedReports, st.Stats.ReportRetries = c.out.reported, c.out.rejected, c.out.retries
	for k, v := range c.shown {
		st.Shown[k] = v
	}
	for _, r := range c.out.pending {
		st.Pending = append(st.Pending, savedReport{r.path, r.line})
	}
	for _, r := range c.out.lost {
		st.Lost = append(st.Lost, savedReport{r.path, r.line})
	}
	return st
}

// inOrder is the members, oldest first.
func (w *window[K]) inOrder() []K {
	return append(slices.Clone(w.ring[w.next:]), w.ring[:w.next]...)
}

func (s *Server) load() error {
	if s.cfg.StateFile == "" {
		return nil
	}
	f, err := os.Open(s.cfg.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("marketplace state: %w", err)
	}
	b, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("marketplace state: %w", err)
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil || st.Version != 1 {
		return fmt.Errorf("marketplace state %s cannot be read (version %d); move it away to begin afresh: %w", s.cfg.StateFile, st.Version, errors.Join(err, errors.ErrUnsupported))
	}
	for _, cs := range st.Channels {
		c := newChannel(cs.Stats.Channel, s)
		c.stats = cs.Stats
		for k, v := range cs.Shown {
			c.shown[k] = v
		}
		for _, k := range cs.Sales {
			c.sales.add(k)
		}
		for _, k := range cs.Refused {
			c.refused.add(k)
		}
		for _, r := range cs.Pending {
			c.out.pending = append(c.out.pending, report{r.Path, r.Line})
		}
		for _, r := range cs.Lost {
			c.out.lost = append(c.out.lost, report{r.Path, r.Line})
		}
		c.out.reported, c.out.rejected, c.out.retries = cs.Stats.Reported, cs.Stats.RejectedReports, cs.Stats.ReportRetries
		c.out.queued = int64(len(c.out.pending)) // no watermark before these
		s.open(c)
	}
	return nil
}
