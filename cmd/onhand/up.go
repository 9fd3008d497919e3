package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kong"

	"github.com/onhand/onhand/allinone"
	"github.com/onhand/onhand/allinone/figures"
	"github.com/onhand/onhand/allinone/memory"
	"github.com/onhand/onhand/allinone/reconcile"
	"github.com/onhand/onhand/cmd/onhand/replay"
	"github.com/onhand/onhand/embedded"
	"github.com/onhand/onhand/embedded/clickhouse"
	onlineretail "github.com/onhand/onhand/examples/online-retail"
	"github.com/onhand/onhand/platform/apikey"
	"github.com/onhand/onhand/platform/kafka"
	"github.com/onhand/onhand/platform/redis"
	"github.com/onhand/onhand/platform/telemetry"
	"github.com/onhand/onhand/simulators/marketplace"
)

type upCmd struct {
	ConfigFile kong.ConfigFlag `name:"config" help:"YAML file of these flags, by their names; the command line and the environment come first." env:"ONHAND_CONFIG"`
	Data       string          `help:"Data directory; made when missing." default:"./.onhand" type:"path" env:"ONHAND_DATA"`
	Listen     string          `help:"Address of the API and the console." default:"127.0.0.1:18080" env:"ONHAND_LISTEN"`
	Services   []string        `help:"Only these services: ingest, ledger-projector, allocator, channel-pusher, analytics."`

	Once     bool    `help:"Replay at full speed, wait until everything is quiet, reconcile every unit, and exit: 0 when all agrees."`
	File     string  `name:"replay" help:"What to replay: a file of the Online Retail form (.csv or .csv.zst), or online-retail for the data set that comes with Onhand." default:"online-retail"`
	NoReplay bool    `help:"Replay nothing."`
	Speed    float64 `help:"Speed of the replay, times real speed; 0 is as fast as possible. The year takes 10 minutes at 50000." default:"50000"`
	Demo     bool    `help:"Simulated marketplaces, the example's catalog and its replay." default:"true" negatable:""`
	Plain    bool    `help:"Print lines, also on a terminal."`

	External         []string `help:"Parts that run elsewhere, at the addresses that the flags below give, rather than embedded: kafka, redis, clickhouse, registry." enum:"kafka,redis,clickhouse,registry"`
	ClickHouseURL    string   `name:"clickhouse-url" help:"ClickHouse's HTTP interface, when it is external." default:"http://127.0.0.1:8123" env:"CLICKHOUSE_URL"`
	RegistryURL      string   `name:"registry-url" help:"Schema Registry, when it is external; empty for none." env:"SCHEMA_REGISTRY_URL"`
	Library          string   `name:"chdb-library" help:"Path of libchdb.so, the ClickHouse engine; without it the usual places are searched." env:"ONHAND_CHDB_LIBRARY" placeholder:"FILE"`
	Install          bool     `help:"Fetch the ClickHouse engine with npm into the data directory, where it is missing (about 170 MB)."`
	ClickHouseMemory int64    `name:"clickhouse-memory" help:"Memory limit of the embedded ClickHouse, MB." default:"400"`

	Port             embedded.Ports   `embed:"" prefix:"port-"`
	PortMarketplaces int              `help:"Port of the simulated marketplaces; 0 takes a free one." default:"18090"`
	Kafka            kafka.Config     `embed:"" prefix:"kafka-"`
	Redis            redis.Config     `embed:"" prefix:"redis-"`
	Telemetry        telemetry.Config `embed:""`
}

func (c *upCmd) isExternal(part string) bool { return slices.Contains(c.External, part) }

// watermarks is how often a simulated marketplace says up to when its sales are reported, while something happens there. It is a record in each partition.
const watermarks = 250 * time.Millisecond

// least is the free space below which Onhand does not start, and stops: a full disk must not cut a write short.
const least = 200 << 20

// Run is the whole life of the process.
func (c *upCmd) Run(ctx context.Context, s streams) (err error) {
	if c.Speed < 0 {
		return &exitError{2, fmt.Sprintf("onhand: --speed %g: want 0 (as fast as possible) or more", c.Speed)}
	}
	if c.Once && (!c.Demo || c.NoReplay) {
		return &exitError{2, "onhand: --once replays and reconciles: it goes with neither --no-demo nor --no-replay"}
	}
	if c.Demo && len(c.Services) > 0 {
		return &exitError{2, "onhand: --services goes with --no-demo: the demonstration needs all of them"}
	}
	if err := os.MkdirAll(c.Data, 0o755); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if n, err := free(c.Data); err != nil {
		return err
	} else if n < least {
		return fmt.Errorf("only %d MB are free at %s, and Onhand wants %d MB at least (the whole example takes about 1 GB): make room, or name another directory with --data", n>>20, c.Data, least>>20)
	}
	lock, err := lockDir(c.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	last, err := readInstance(c.Data)
	again := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := ensureKey(c.Data)
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(c.Data, "onhand.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logFile.Close()) }()
	tel, err := telemetry.Start(ctx, c.Telemetry, "onhand", releaseName(), logFile)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		err = errors.Join(err, tel.Stop(stopping))
	}()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format+"\n", args...) } // a closed output ends nothing
	if again {
		say("Going on with what is in %s, last started %s.", c.Data, last.StartedAt.Local().Format(time.DateTime))
	} else {
		say("Starting afresh in %s.", c.Data)
	}
	if err := c.findLibrary(ctx, say); err != nil {
		return err
	}
	limit := memory.New(memory.Floor)
	following, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	go limit.Follow(following)
	began := time.Now()
	u := &running{cmd: c, s: s, say: say, log: tel.Log, key: key, limit: limit}
	defer func() {
		stopping := time.Now()
		stopErr := u.stop()
		if err == nil && stopErr == nil && !c.Once {
			say("Stopped in %.1f s. The data stays in %s; onhand up goes on with it.", time.Since(stopping).Seconds(), c.Data)
		}
		err = errors.Join(err, stopErr)
	}()
	if err := u.start(ctx, tel, last); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	say("Ready in %.1f s.", time.Since(began).Seconds())
	return u.live(ctx)
}

// findLibrary makes sure that the ClickHouse engine is there.
func (c *upCmd) findLibrary(ctx context.Context, say func(string, ...any)) error {
	if c.isExternal("clickhouse") {
		return nil
	}
	path, err := clickhouse.Find(c.Library, c.Data)
	if err != nil && c.Install && errors.Is(err, clickhouse.ErrNoLibrary) {
		say("Fetching the ClickHouse engine with npm (about 170 MB) …")
		path, err = clickhouse.Install(ctx, c.Data)
	}
	if errors.Is(err, clickhouse.ErrNoLibrary) {
		return fmt.Errorf("%w; or start with --install, which does it, or with --external=clickhouse and a server of yours", err)
	}
	c.Library = path
	return err
}

// running is a started onhand up.
type running struct {
	cmd     *upCmd
	s       streams
	say     func(string, ...any)
	log     *slog.Logger
	key     string
	limit   *memory.Limit
	parts   *parts
	markets *marketplace.Server
	process *allinone.Process
	conn    connection
	replay  atomic.Pointer[figures.Replay]
	notes   atomic.Pointer[[]string]
}

func (u *running) start(ctx context.Context, tel *telemetry.Telemetry, last instance) error {
	c := u.cmd
	var err error
	if u.parts, err = c.startParts(ctx, tel.Log, last); err != nil {
		return err
	}
	client, err := u.parts.redis.Client()
	if err != nil {
		return err
	}
	u.parts.onStop(client.Close)
	reg, err := u.parts.registryClient()
	if err != nil {
		return err
	}
	keys, err := apikey.Parse("local admin " + u.key)
	if err != nil {
		return err
	}
	cfg := allinone.DefaultConfig()
	cfg.Services, cfg.Listen, cfg.Console = c.Services, c.Listen, true
	cfg.Ingest.AllowPrivateChannels, cfg.Pusher.AllowPrivate = c.Demo, c.Demo
	if c.Demo { // a replay packs hours into seconds: what is on its way then looks like drift, and a repair would put sold units back
		cfg.Pusher.DriftSample, cfg.Pusher.DriftGrace = 0, time.Millisecond
		cfg.Allocator.MaxSkew = 20 * time.Millisecond // the marketplaces go by this machine's clock
	}
	if len(u.parts.kafka.Brokers) > 0 && !slices.Contains(c.External, "kafka") {
		cfg.Allocator.Instance = "up" // the only one there can be: a restart ends at once what it left half written
	}
	cfg.Ingest.RequestsPerSecond = 0 // one user, this machine's
	cfg.Allocator.WriteMax = 2000    // a delivery of everything is written in parts: what it takes in memory is kept for the next
	cfg.Analytics.ClickHouse.URL = u.parts.clickhouse
	if c.Once {
		cfg.Analytics.FlushInterval = 10 * time.Second // nobody does: large inserts cost the engine a fraction of small ones, which it merges again and again
		cfg.Analytics.MaxRows = 8000                   // but what waits for them takes memory
	}
	deps := allinone.Deps{
		Kafka: u.parts.kafka, Redis: client, Registry: reg, Telemetry: tel, Keys: keys, ConsoleSecret: []byte(u.key), Version: releaseName(),
		Addresses: []figures.Address{{Name: "Kafka", URL: strings.Join(u.parts.kafka.Brokers, ",")}, {Name: "Schema Registry", URL: u.parts.registry},
			{Name: "Redis", URL: strings.Join(u.parts.redis.Addrs, ",")}, {Name: "ClickHouse HTTP", URL: u.parts.clickhouse}},
		Replay: func() *figures.Replay { return u.replay.Load() },
	}
	if c.Demo {
		l, err := listen("the simulated marketplaces", "--port-marketplaces", again(c.PortMarketplaces, last.Marketplaces))
		if err != nil {
			return err
		}
		addr := l.Addr().String()
		if err := l.Close(); err != nil { // it was only a question, for a better answer
			return err
		}
		u.markets, err = marketplace.New(marketplace.Config{Addr: addr, StateFile: filepath.Join(c.Data, "marketplaces.json"), APIKey: u.key, Watermarks: watermarks})
		if err != nil {
			return err
		}
		if err := u.markets.Start(); err != nil {
			return err
		}
		deps.Addresses = append(deps.Addresses, figures.Address{Name: "marketplaces", URL: u.markets.URL()})
		deps.Refused = func() (n int64) {
			for _, st := range u.markets.Stats() {
				n += st.RefusedUnits
			}
			return n
		}
	}
	if u.process, err = allinone.Start(ctx, cfg, deps); err != nil {
		return taken(err, "--listen")
	}
	if u.markets != nil {
		if err := u.markets.ReportTo(u.process.URL(), u.key); err != nil {
			return err
		}
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	notReady := func(err error) error {
		return fmt.Errorf("not ready after a minute (see %s): %w", filepath.Join(c.Data, "onhand.log"), err)
	}
	u.conn = connection{key: u.key, instance: instance{
		PID: os.Getpid(), Version: releaseName(), StartedAt: time.Now().UTC(), API: u.process.URL(), Console: u.process.URL() + "/", Kafka: strings.Join(u.parts.kafka.Brokers, ","),
		Registry: u.parts.registry, Redis: strings.Join(u.parts.redis.Addrs, ","), ClickHouse: u.parts.clickhouse,
	}}
	if u.markets != nil {
		u.conn.Marketplaces = u.markets.URL()
	}
	if c.Demo { // first: services wait for channels
		if err := u.process.Ready(ready, allinone.Ingest); err != nil {
			return notReady(err)
		}
		if err := u.loadCatalog(ctx, last); err != nil {
			return err
		}
	}
	if err := u.process.Ready(ready); err != nil {
		return notReady(err)
	}
	return u.conn.instance.write(c.Data)
}

// loadCatalog applies the example's catalog on the first start, and again when the marketplaces have moved.
func (u *running) loadCatalog(ctx context.Context, last instance) error {
	known := len(u.process.Catalog().Settings().Channels) > 0
	if known && (last.Marketplaces == "" || last.Marketplaces == u.conn.Marketplaces) {
		return nil
	}
	text, err := expand("catalog.yaml", onlineretail.Catalog, func(string) (string, bool) { return u.conn.Marketplaces, true })
	if err != nil {
		return err
	}
	if err := u.conn.apply(ctx, io.Discard, "the example's catalog.yaml", text, false, false); err != nil {
		return err
	}
	u.say("Channels, locations and rules of the example are loaded.")
	return nil
}

// live shows the process until it is stopped, fails, or has done what --once asks for.
func (u *running) live(parent context.Context) error {
	c := u.cmd
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	go func() {
		select {
		case <-u.process.Done():
			stop(u.process.Err())
		case <-ctx.Done():
		}
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		u.watchDisk(ctx, stop)
	}()
	for _, a := range u.process.Figures().Addresses {
		if a.Name == "console" {
			a.URL = u.process.ConsoleLink() + "  (works once; onhand console prints another)"
		}
		u.say("%-16s %s", a.Name, a.URL)
	}
	replayed := make(chan error, 1)
	if c.Demo && !c.NoReplay {
		go func() { replayed <- u.runReplay(ctx) }()
	}
	drawn := make(chan struct{})
	drawing, stopDrawing := context.WithCancel(ctx)
	defer stopDrawing()
	go func() {
		defer close(drawn)
		if !u.onScreen() {
			printLines(drawing, u.s.out, 2*time.Second, u.process.Figures)
			return
		}
		link := u.process.ConsoleLink()
		latest := func() figures.Figures {
			f := u.process.Figures()
			f.Addresses = slices.Clone(f.Addresses)
			for i := range f.Addresses {
				if f.Addresses[i].Name == "console" {
					f.Addresses[i].URL = link
				}
			}
			if n := u.notes.Load(); n != nil {
				f.Notes = *n
			}
			return f
		}
		if err := showBoard(drawing, u.s, latest, func() { stop(context.Canceled) }); err != nil {
			u.log.Error("the terminal view failed", "err", err)
		}
	}()
	var err error
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case err = <-replayed:
			replayed = nil
			if c.Once || err != nil {
				running = false
			}
		}
	}
	stopDrawing()
	<-drawn
	if replayed != nil && c.Demo && !c.NoReplay {
		stop(nil)
		if e := <-replayed; e != nil && !errors.Is(e, context.Canceled) {
			err = e
		}
	}
	cause := context.Cause(ctx)
	stop(nil)
	<-watched
	if parent.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		if c.Once {
			return &exitError{130, "onhand: stopped before the replay was at its end; onhand up --once goes on with it"}
		}
		return nil
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// watchDisk stops the process before the disk is full.
func (u *running) watchDisk(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n, err := free(u.cmd.Data); err == nil && n < least/4 {
			stop(fmt.Errorf("the disk is nearly full: %d MB are free at %s; Onhand has stopped before anything was cut short. Make room and start it again", n>>20, u.cmd.Data))
			return
		}
	}
}

// onScreen reports that the figures are drawn on the terminal, where a printed line would spoil them.
func (u *running) onScreen() bool { return isTerminal(u.s.out) && !u.cmd.Plain && !u.cmd.Once }

// tell prints, or shows below the figures in place of what was told before.
func (u *running) tell(format string, args ...any) {
	if !u.onScreen() {
		u.say(format, args...)
		return
	}
	notes := strings.Split(strings.TrimSpace(fmt.Sprintf(format, args...)), "\n")
	u.notes.Store(&notes)
}

// runReplay goes on with the replay, then waits until everything is quiet and reconciles.
func (u *running) runReplay(ctx context.Context) error {
	c := u.cmd
	saved, err := readKept(c.Data)
	if err != nil {
		return err
	}
	if saved.File != "" && saved.File != c.File {
		return fmt.Errorf("the data directory holds a replay of %s; replay another file with onhand replay, or in another directory (--data)", saved.File)
	}
	data, err := loadFile(c.File)
	if err != nil {
		return err
	}
	speed := c.Speed
	if c.Once {
		speed = 0
	}
	began := time.Now()
	if !saved.State.Finished() {
		if saved.State.Next > 0 {
			u.tell("The replay goes on at %s, %.1f %% of it done.", time.UnixMicro(data.Documents[saved.State.Next].At).UTC().Format(time.DateOnly),
				100*float64(saved.State.Next)/float64(len(data.Documents)))
		} else {
			left := 0
			for _, n := range data.LeftOut {
				left += n
			}
			u.tell("Replaying %s: %s order lines, of which %s are no goods and left out.", c.File, group(int64(data.Lines)), group(int64(left)))
		}
		lastSave := time.Time{}
		st, err := replay.Run(ctx, data, replay.Config{
			API: u.conn.API, Key: u.key, Marketplaces: u.conn.Marketplaces, Speed: speed, From: saved.State,
			Settle: func(ctx context.Context) error {
				if err := settle(ctx, settled, func(context.Context) (int64, error) { return u.process.Pending(), u.process.Err() }); err != nil {
					return err
				}
				return settle(ctx, underWay, func(context.Context) (int64, error) { return u.process.Allocator.Stats().Open, u.process.Err() })
			},
			Loaded: u.loaded,
			Progress: func(p replay.Progress) {
				u.replay.Store(&figures.Replay{Day: p.At.UTC().Format(time.DateOnly), Share: p.Share(), Lines: p.Lines})
			},
			Save: func(st replay.State) error {
				if time.Since(lastSave) < time.Second {
					return nil
				}
				lastSave = time.Now()
				return kept{c.File, st}.write(c.Data)
			},
		})
		saved = kept{c.File, st}
		if e := saved.write(c.Data); e != nil || err != nil {
			return errors.Join(err, e)
		}
	}
	data.Documents = nil // a hundred thousand of them
	took := time.Since(began)
	if err := u.markets.Drain(ctx); err != nil {
		return err
	}
	// The comparison asks much of the ClickHouse engine, which may have what the replay needed.
	defer u.limit.Set(u.limit.Set(memory.Floor - memory.Floor/8))
	cleared, err := u.audit(ctx)
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	if u.parts.engine != nil {
		if err := u.parts.engine.Purge(ctx); err != nil {
			return err
		}
	}
	result, err := u.reconcile(ctx, saved.State.Tally)
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := printTally(&text, saved.State.Tally, took); err != nil {
		return err
	}
	leftOut(&text, data, saved.State.Tally)
	if cleared > 0 {
		_, _ = fmt.Fprintf(&text, "shown numbers that were looked at once all was quiet: %s (sales that crossed a write cannot be placed before or after it)\n", group(cleared))
	}
	if err := result.Print(&text, group); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(&text, "\noversold since this start: %s units\n", group(u.process.Projector.Stats().OversoldUnits))
	if st := u.process.Allocator.Stats(); st.Checked > 0 {
		_, _ = fmt.Fprintf(&text, "books of %s SKUs: exposure was held against stock %s times today; %s times it was too high, and %s units were the least slack (onhand certificate)\n",
			group(st.Booked), group(st.Checked), group(st.Breaches), group(st.LeastSlack))
	}
	u.tell("\n%s", text.String())
	if c.Once && !result.OK() {
		return &exitError{1, "onhand: the sums differ; see the table above"}
	}
	return nil
}

// loaded waits until the stock that has come in is on sale.
func (u *running) loaded(ctx context.Context) error { return u.rest(ctx, u.process.QuiesceChannels) }

// rest waits until all is quiet, and the books wait for no order watermark: more may follow from one.
func (u *running) rest(ctx context.Context, quiesce func(context.Context) error) error {
	for {
		if err := quiesce(ctx); err != nil || u.process.Allocator.Stats().Unsettled == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// audit waits until all is quiet, has every shown number compared with its target or with the books, and waits for what that set right: how many there were.
func (u *running) audit(ctx context.Context) (cleared int64, err error) {
	if err := u.rest(ctx, u.process.QuiesceChannels); err != nil {
		return 0, err
	}
	before, looks := u.process.Pusher.Stats().Cleared, u.process.Allocator.Stats().Granted
	u.process.Pusher.Audit()
	u.process.Allocator.Audit()
	if err := u.rest(ctx, u.process.Quiesce); err != nil {
		return 0, err
	}
	return u.process.Pusher.Stats().Cleared - before + u.process.Allocator.Stats().Granted - looks, nil
}

// leftOut names what is in the file and not in the sums.
func leftOut(out io.Writer, data *onlineretail.Dataset, t replay.Tally) {
	var codes []string
	for _, code := range slices.Sorted(maps.Keys(data.LeftOut)) {
		codes = append(codes, fmt.Sprintf("%s %s", code, group(int64(data.LeftOut[code]))))
	}
	_, _ = fmt.Fprintf(out, "lines left out, as no goods: %s\n", strings.Join(codes, ", "))
	_, _ = fmt.Fprintf(out, "units left out: %s cancelled or returned of sales that were refused\n", group(t.NeverSold))
	if t.Repeated > 0 {
		_, _ = fmt.Fprintf(out, "units of sales that had been replayed before the last stop, and are not in the input's sums: %s\n", group(t.Repeated))
	}
	_, _ = fmt.Fprintln(out)
}

// reconcile adds up every place.
func (u *running) reconcile(ctx context.Context, t replay.Tally) (reconcile.Result, error) {
	in := reconcile.Input{Received: t.Received, Sold: t.Sold, Cancelled: t.Cancelled, Returned: t.Returned, Adjusted: t.Adjusted, Shipped: t.Shipped}
	client, err := u.parts.redis.Client()
	if err != nil {
		return reconcile.Result{}, err
	}
	ledger, err := reconcile.Ledger(ctx, client, allinone.DefaultConfig().Projector.Namespace)
	if err = errors.Join(err, client.Close()); err != nil {
		return reconcile.Result{}, err
	}
	database := allinone.DefaultConfig().Analytics.ClickHouse
	events, levels, repeated, err := reconcile.Analytics(ctx, reconcile.ClickHouse{URL: u.parts.clickhouse, Database: database.Database, User: database.User, Password: os.Getenv("CLICKHOUSE_PASSWORD")})
	if err != nil {
		return reconcile.Result{}, err
	}
	result := reconcile.Compare(in.Units(), ledger, events, levels, repeated)
	err = u.compareShown(ctx, &result)
	return result, err
}

// looks is how often targets and shown numbers are compared while they go on differing.
const looks = 5

// compareShown sets what marketplaces show beside the targets. Books move room by the clock, too: a share that was lent goes back when nothing has sold for a while. So a number can change while the two are read, and a difference
// counts when it is there in two looks.
func (u *running) compareShown(ctx context.Context, result *reconcile.Result) error {
	channels := slices.Sorted(maps.Keys(u.process.Catalog().Settings().Channels))
	var before []reconcile.Difference
	for look := range looks {
		targets, err := reconcile.Targets(ctx, u.parts.kafka, channels)
		if err != nil {
			return err
		}
		shown := make(map[string]map[string]int64)
		for _, ch := range channels {
			shown[ch] = u.markets.AllShown(ch)
		}
		result.CompareShown(targets, shown)
		now := result.Differences
		if look > 0 {
			result.Since(before)
		}
		if len(now) == 0 || look > 0 && len(result.Differences) == len(now) {
			return nil
		}
		before = now
		if err := u.rest(ctx, u.process.QuiesceChannels); err != nil {
			return err
		}
	}
	return nil
}

// stop ends everything, last first.
func (u *running) stop() error {
	var errs []error
	if u.markets != nil { // first: it reports to the API until then
		stopping, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		errs = append(errs, u.markets.Stop(stopping))
	}
	if u.process != nil {
		errs = append(errs, u.process.Stop())
	}
	if u.parts != nil {
		errs = append(errs, u.parts.stop())
	}
	return errors.Join(errs...)
}
