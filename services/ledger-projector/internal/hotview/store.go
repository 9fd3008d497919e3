package hotview

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/onhand/onhand/stock/event"
	"github.com/onhand/onhand/stock/ledger"
)

//go:embed step.lua
var stepSource string

//go:embed claim.lua
var claimSource string

//go:embed owned.lua
var ownedSource string

//go:embed clear.lua
var clearSource string

var (
	stepScript  = redis.NewScript(stepSource)
	claimScript = redis.NewScript(claimSource)
	ownedScript = redis.NewScript(ownedSource)
	clearScript = redis.NewScript(clearSource)
)

// Outcomes of a write that was not applied.
var (
	// ErrOwner reports that another owner has claimed the partition since.
	ErrOwner = errors.New("another owner has claimed the partition")
	// ErrStale reports that Redis holds another state than the one the batch started from: it went back in time, lost it, or was written to.
	ErrStale = errors.New("redis holds another state of the partition than its owner")
	// ErrDamaged reports stored state that does not hold together: it must be cleared and folded again.
	ErrDamaged = errors.New("stored state does not hold together")
	// ErrFrozen reports that a rebuild takes the partition over: it can be claimed in a moment.
	ErrFrozen = errors.New("a rebuild is taking the partition over")
)

// Identity says what a partition's stored state was folded from and how. Any difference makes it useless.
type Identity struct {
	Dataset string // the Kafka cluster, or the name that its owner gave
	TopicID string
	Fold    string // ledger.Options.String
}

// Meta is what is stored of a partition as a whole.
type Meta struct {
	Identity
	Layout    string
	Clearing  bool  // stored SKUs are being deleted: they are of no use
	Offset    int64 // last applied, NoOffset for none
	Emitted   int64 // all output of events up to here has been acknowledged by Kafka
	Levels    int64 // offset in the partition of stock.levels before which every SKU's last level was the newest emitted; NoOffset when it is not known
	Clock     int64 // Unix microseconds
	Oversold  int64 // units, cumulative
	AppliedAt int64 // Unix microseconds
}

// Store writes one partition for one owner. Not safe for concurrent use, but for Apply beside Prepare.
type Store struct {
	client    redis.UniversalClient
	ns        Namespace
	partition int32
	owner     string
	identity  Identity

	candidate bool // a generation that is being rebuilt, not the live one
	prefix    string
	chunks    map[int64][]int64 // bucket -> length of each chunk of its journal
	known     int               // locations that are stored, with the empty one

	names [ledger.FieldCount][]any // field names by field and index, boxed once
	buf   []ledger.Change
	ends  []int // in buf, by changed SKU
}

// Step is one batch, ready to be stored: copies of all it changes. The zero value is ready to be prepared; it is used again to save garbage.
type Step struct {
	prefix                string
	args                  []any
	lasts                 []text
	values                []int64
	appends               []chunkAppend
	journal               []byte
	sums                  []byte // of the digest, those that changed
	runs                  []run
	emitted, levels, sent int // places of the arguments that are known only when it is applied
}

// MaxChunk is the length at which a journal chunk is full. A Redis without room behind a string copies all of it to append to it, so chunks are short; but
// each is a key, and one read when the partition is loaded.
const MaxChunk = 128 << 10

// NewStore is a store of the live generation of a partition for an owner; Peek and Claim find out which that is. Each incarnation of an owner has its own name.
func NewStore(client redis.UniversalClient, ns Namespace, partition int32, owner string, id Identity) *Store {
	return &Store{client: client, ns: ns, partition: partition, owner: owner, identity: id, prefix: ns.partition(partition)}
}

// NewCandidate is a store of a generation that is being rebuilt.
func NewCandidate(client redis.UniversalClient, ns Namespace, partition int32, g Generation, owner string, id Identity) *Store {
	s := NewStore(client, ns, partition, owner, id)
	s.candidate, s.prefix = true, ns.Prefix(partition, g)
	return s
}

// Generation is that of the store; of a live one, as Peek or Claim found it.
func (s *Store) Generation() Generation {
	g, _ := s.ns.parsePrefix(s.partition, s.prefix)
	return g
}

func (s *Store) key(name string) string { return s.prefix + name }

// Peek reads what is stored of the partition as a whole, and claims nothing. A partition that Redis does not know has NoOffset.
func (s *Store) Peek(ctx context.Context) (Meta, error) {
	if !s.candidate {
		g, err := LiveGeneration(ctx, s.client, s.ns, s.partition)
		if err != nil {
			return Meta{}, err
		}
		s.prefix = s.ns.Prefix(s.partition, g)
	}
	m, err := s.client.HGetAll(ctx, s.key("meta")).Result()
	if err != nil {
		return Meta{}, fmt.Errorf("read %s: %w", s.key("meta"), err)
	}
	if len(m) == 0 {
		return Meta{Identity: s.identity, Layout: Layout, Offset: NoOffset, Emitted: NoOffset, Levels: NoOffset}, nil
	}
	return parseMeta(m)
}

// Fits says whether state stored under m can be gone on with; end is the log's end offset.
func (s *Store) Fits(m Meta, end int64) bool {
	return m.Layout == Layout && m.Identity == s.identity && !m.Clearing && m.Offset < end
}

// Claim makes this store's owner the partition's, from now on the only one whose steps apply. ErrFrozen asks to try again in a moment.
func (s *Store) Claim(ctx context.Context) (Meta, error) {
	var flat []string
	for {
		var err error
		flat, err = claimScript.Run(ctx, s.client, []string{s.ns.Live(s.partition), s.key("meta")}, s.owner, Layout, s.identity.Dataset, s.identity.TopicID,
			s.identity.Fold, s.prefix, !s.candidate).StringSlice()
		if err != nil {
			return Meta{}, fmt.Errorf("claim %s: %w", s.key("meta"), err)
		}
		if len(flat) == 2 && flat[0] == "moved" {
			g, ok := s.ns.parsePrefix(s.partition, flat[1])
			if flat[1] == "" {
				g, ok = 0, true
			}
			if s.candidate {
				return Meta{}, fmt.Errorf("claim %s: %w: this one", s.key("meta"), ErrMoved)
			}
			if !ok {
				return Meta{}, fmt.Errorf("claim %s: %s names %q as the live generation", s.key("meta"), s.ns.Live(s.partition), flat[1])
			}
			s.prefix = s.ns.Prefix(s.partition, g)
			continue
		}
		break
	}
	if flat[0] == "frozen" {
		return Meta{}, fmt.Errorf("claim %s: %w", s.key("meta"), ErrFrozen)
	}
	flat = flat[1:]
	m := make(map[string]string, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		m[flat[i]] = flat[i+1]
	}
	return parseMeta(m)
}

func parseMeta(m map[string]string) (Meta, error) {
	out := Meta{
		Identity: Identity{Dataset: m["dataset"], TopicID: m["topic_id"], Fold: m["fold"]}, Layout: m["layout"], Clearing: m["clearing"] == "1",
	}
	var errs []error
	for _, x := range []struct {
		field string
		to    *int64
	}{{"offset", &out.Offset}, {"emitted", &out.Emitted}, {"clock", &out.Clock}, {"oversold", &out.Oversold}, {"applied_at", &out.AppliedAt}} {
		v, err := strconv.ParseInt(m[x.field], 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: meta field %s is %q", ErrDamaged, x.field, m[x.field]))
		}
		*x.to = v
	}
	out.Levels = NoOffset
	if text, ok := m["levels"]; ok { // versions before do not write it
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: meta field levels is %q", ErrDamaged, text))
		}
		out.Levels = v
	}
	return out, errors.Join(errs...)
}

func outcome(what string, r string, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case r == "applied" || r == "done":
		return nil
	case r == "owner":
		return fmt.Errorf("%s: %w", what, ErrOwner)
	}
	return fmt.Errorf("%s: %w", what, ErrStale)
}

// Emitted is what of a partition's output is in Kafka.
type Emitted struct {
	To     int64 // all output of events up to this offset is
	Levels int64 // as Meta has it
	Sent   int   // so many entries at the head of the stored outbox are
}

// Release notes what was acknowledged, when the owner stops.
func (s *Store) Release(ctx context.Context, e Emitted) error {
	if err := s.Note(ctx, e); err != nil || e.Sent == 0 {
		return err
	}
	return s.client.LTrim(ctx, s.key("outbox"), int64(e.Sent), -1).Err()
}

// Note notes what was acknowledged, but leaves the stored outbox as it is. ErrOwner says that the partition is another's.
func (s *Store) Note(ctx context.Context, e Emitted) error {
	r, err := ownedScript.Run(ctx, s.client, []string{s.key("meta")}, s.owner, "emitted", e.To, "levels", e.Levels).Text()
	return outcome("note what was emitted in "+s.prefix, r, err)
}

// Clear deletes all that is stored of the partition and stamps it with this store's identity. It can be cut off anywhere and begun again: until
// it is through, the stored state counts as useless.
func (s *Store) Clear(ctx context.Context) error {
	r, err := ownedScript.Run(ctx, s.client, []string{s.key("meta")}, s.owner, "clearing", "1", "offset", NoOffset, "emitted", NoOffset).Text()
	if err := outcome("clear "+s.prefix, r, err); err != nil {
		return err
	}
	keys := []string{s.key("meta")}
	flush := func() error {
		if len(keys) == 1 {
			return nil
		}
		r, err := clearScript.Run(ctx, s.client, keys, s.owner).Text()
		keys = keys[:1]
		return outcome("clear "+s.prefix, r, err)
	}
	chunks, err := s.client.HKeys(ctx, s.key("journal")).Result()
	if err != nil {
		return fmt.Errorf("clear %s: %w", s.prefix, err)
	}
	for _, c := range chunks {
		keys = append(keys, s.key("journal:"+c))
	}
	it := s.client.SScan(ctx, s.key("skus"), 0, "", 1000).Iterator()
	for it.Next(ctx) {
		if keys = append(keys, s.key("sku:"+it.Val())); len(keys) > 500 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if it.Err() != nil {
		return fmt.Errorf("clear %s: %w", s.prefix, it.Err())
	}
	keys = append(keys, s.key("journal"), s.key("skus"), s.key("locations"), s.key("outbox"), s.key("digest"))
	if err := flush(); err != nil {
		return err
	}
	r, err = ownedScript.Run(ctx, s.client, []string{s.key("meta")}, s.owner, "layout", Layout, "dataset", s.identity.Dataset,
		"topic_id", s.identity.TopicID, "fold", s.identity.Fold, "clock", 0, "oversold", 0, "applied_at", 0, "clearing", 0).Text()
	return outcome("clear "+s.prefix, r, err)
}

// Load restores the partition as stored under m, with its outbox. ErrDamaged asks for Clear. When the state changed while it was read and does not hold together for
// that, the error is ErrOwner or ErrStale; when it does, the first step will say so.
func (s *Store) Load(ctx context.Context, m Meta, o ledger.Options) (*ledger.Partition, [][]byte, error) {
	p, outbox, err := s.load(ctx, m, o)
	if !errors.Is(err, ErrDamaged) {
		return p, outbox, err
	}
	now, e := s.client.HMGet(ctx, s.key("meta"), "owner", "offset").Result()
	switch {
	case e != nil:
		return nil, nil, fmt.Errorf("load %s: %w", s.prefix, e)
	case now[0] != s.owner:
		return nil, nil, fmt.Errorf("load %s: %w", s.prefix, ErrOwner)
	case now[1] != strconv.FormatInt(m.Offset, 10):
		return nil, nil, fmt.Errorf("load %s: %w", s.prefix, ErrStale)
	}
	return nil, nil, err
}

func (s *Store) load(ctx context.Context, m Meta, o ledger.Options) (*ledger.Partition, [][]byte, error) {
	locations, err := s.client.LRange(ctx, s.key("locations"), 0, -1).Result()
	if err != nil {
		return nil, nil, fmt.Errorf("load %s: %w", s.prefix, err)
	}
	s.known = 1 + len(locations)
	s.names = [len(s.names)][]any{} // the channels' numbers begin anew
	r, err := ledger.Restore(o, append([]string{""}, locations...), m.Clock)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := s.loadSKUs(ctx, m, r); err != nil {
		return nil, nil, err
	}
	digest, err := s.loadDigest(ctx)
	if err != nil {
		return nil, nil, err
	}
	if differ := r.Digest(digest); len(differ) > 0 {
		return nil, nil, fmt.Errorf("%w: %d of the digest's %d sums differ from the SKUs that are stored", ErrDamaged, len(differ), ledger.DigestBuckets)
	}
	if err := s.loadJournal(ctx, r); err != nil {
		return nil, nil, err
	}
	outbox, err := s.client.LRange(ctx, s.key("outbox"), 0, -1).Result()
	if err != nil {
		return nil, nil, fmt.Errorf("load %s: %w", s.prefix, err)
	}
	entries := make([][]byte, len(outbox))
	for i, b := range outbox {
		entries[i] = []byte(b)
	}
	return r.Done(), entries, nil
}

func (s *Store) loadSKUs(ctx context.Context, m Meta, r *ledger.Restoring) error {
	n, err := s.client.SCard(ctx, s.key("skus")).Result()
	if err != nil {
		return fmt.Errorf("load %s: %w", s.prefix, err)
	}
	r.Expect(int(n))
	var cursor uint64
	for {
		names, next, err := s.client.SScan(ctx, s.key("skus"), cursor, "", 1000).Result()
		if err != nil {
			return fmt.Errorf("load %s: %w", s.prefix, err)
		}
		slices.Sort(names) // a scan may name one twice
		names = slices.DeleteFunc(slices.Compact(names), r.Has)
		found, err := fetch(ctx, s.client, names, func(n string) string { return s.key("sku:" + n) })
		if err != nil {
			return fmt.Errorf("load %s: %w", s.prefix, err)
		}
		for i, fields := range found {
			st, err := parseSKU(names[i], fields)
			if err == nil && st.Offset > m.Offset {
				err = fmt.Errorf("SKU %s is at offset %d, its partition at %d", st.SKU, st.Offset, m.Offset)
			}
			if err == nil {
				err = r.SKU(st)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// fetch reads hashes in one round trip.
func fetch(ctx context.Context, c redis.UniversalClient, names []string, key func(string) string) ([]map[string]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	pipe := c.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, len(names))
	for i, n := range names {
		cmds[i] = pipe.HGetAll(ctx, key(n))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	out := make([]map[string]string, len(names))
	for i, c := range cmds {
		out[i] = c.Val()
	}
	return out, nil
}

func parseSKU(sku string, fields map[string]string) (*ledger.Stored, error) {
	st := &ledger.Stored{SKU: sku, Changes: make([]ledger.StoredChange, 0, len(fields))}
	if err := parseLast(fields["last"], st); err != nil {
		return nil, err
	}
	for _, f := range [...]string{"version", "available", "unassigned"} {
		if _, ok := fields[f]; !ok {
			return nil, fmt.Errorf("SKU %s: field %s is missing", sku, f)
		}
	}
	for f, text := range fields {
		var to *int64
		switch f {
		case "last":
			continue
		case "available":
			to = (*int64)(&st.Available)
		case "version":
			to = &st.Version
		}
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SKU %s: field %s is %q, want a number", sku, f, text)
		}
		if to != nil {
			*to = v
			continue
		}
		field, name, ok := parseField(f)
		if !ok {
			return nil, fmt.Errorf("SKU %s: field %s is not the ledger's", sku, f)
		}
		st.Changes = append(st.Changes, ledger.StoredChange{Field: field, Name: name, Value: v})
	}
	return st, nil
}

func (s *Store) loadJournal(ctx context.Context, r *ledger.Restoring) error {
	index, err := s.client.HGetAll(ctx, s.key("journal")).Result()
	if err != nil {
		return fmt.Errorf("load %s: %w", s.prefix, err)
	}
	return s.readJournal(ctx, index, r)
}

// readJournal restores the journal of an index.
func (s *Store) readJournal(ctx context.Context, index map[string]string, r *ledger.Restoring) error {
	type chunk struct{ bucket, n, length int64 }
	var all []chunk
	for f, v := range index {
		b, n, ok := strings.Cut(f, ":")
		c := chunk{}
		var err1, err2, err3 error
		c.bucket, err1 = strconv.ParseInt(b, 10, 64)
		c.n, err2 = strconv.ParseInt(n, 10, 64)
		c.length, err3 = strconv.ParseInt(v, 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil || !ok {
			return fmt.Errorf("%w: journal index %s is %q", ErrDamaged, f, v)
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b chunk) int {
		if a.bucket != b.bucket {
			return int(a.bucket - b.bucket)
		}
		return int(a.n - b.n)
	})
	s.chunks = make(map[int64][]int64)
	var pending []byte // a record may go on in the next chunk
	for i, c := range all {
		if int64(len(s.chunks[c.bucket])) != c.n {
			return fmt.Errorf("%w: journal chunk %d of bucket %d is missing", ErrDamaged, len(s.chunks[c.bucket]), c.bucket)
		}
		s.chunks[c.bucket] = append(s.chunks[c.bucket], c.length)
		b, err := s.client.Get(ctx, s.chunkKey(c.bucket, c.n)).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("load %s: %w", s.prefix, err)
		}
		if int64(len(b)) < c.length {
			return fmt.Errorf("%w: journal chunk %d of bucket %d has %d bytes, want %d", ErrDamaged, c.n, c.bucket, len(b), c.length)
		}
		pending = append(pending, b[:c.length]...)
		if i+1 < len(all) && all[i+1].bucket == c.bucket {
			continue
		}
		if err := r.Journal(c.bucket, pending); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		pending = pending[:0]
	}
	return nil
}

func chunkField(bucket, n int64) string {
	return strconv.FormatInt(bucket, 10) + ":" + strconv.FormatInt(n, 10)
}

func (s *Store) chunkKey(bucket, n int64) string { return s.key("journal:" + chunkField(bucket, n)) }

// Batch is what a step writes beside the partition's changes.
type Batch struct {
	Prev, Last int64 // the offset before the batch, and of its last event
	Oversold   int64
	AppliedAt  int64
	Outbox     [][]byte // entries to add
}

// Apply writes a prepared step in one atomic step: what changed, what the fold must remember, the batch's last offset, and what is in Kafka. A step whose answer was lost may be applied again. After ErrOwner and ErrStale,
// the partition that it was prepared from is not what Redis holds: forget it and load again. Steps of a store are applied in the order they were
// prepared in. It may run beside Prepare for another step.
func (s *Store) Apply(ctx context.Context, st *Step, e Emitted) error {
	st.args[st.emitted], st.args[st.levels], st.args[st.sent] = e.To, e.Levels, e.Sent
	st.args[0], st.args[1] = "evalsha", stepScript.Hash()
	cmd := redis.NewCmd(ctx, st.args...)
	err := s.client.Process(ctx, cmd)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		st.args[0], st.args[1] = "eval", stepSource
		cmd = redis.NewCmd(ctx, st.args...)
		err = s.client.Process(ctx, cmd)
	}
	r, _ := cmd.Val().(string)
	return outcome("step "+st.prefix, r, err)
}

// chunkAppend is bytes to append to a journal chunk that has so many.
type chunkAppend struct {
	bucket, n, have int64
	data            text
}

// Prepare copies what changed in p since it was flushed into st, to be stored with b on top of the steps prepared before, and flushes p. Numbers and texts are
// passed by pointer and names are boxed once, so that a batch costs hardly any garbage.
func (s *Store) Prepare(p *ledger.Partition, b *Batch, st *Step) {
	changed, fresh, dropped := p.Changed(), p.Locations()[s.known:], p.Dropped()
	s.buf, s.ends = s.buf[:0], s.ends[:0]
	for _, k := range changed {
		s.buf = k.AppendChanges(s.buf, false)
		s.ends = append(s.ends, len(s.buf))
	}
	size := 0
	for _, g := range p.Journal() {
		size += len(g.Data)
	}
	st.prefix = s.prefix
	st.journal = slices.Grow(st.journal[:0], size)
	st.appends = st.appends[:0]
	for _, g := range p.Journal() {
		if len(g.Data) == 0 || slices.Contains(dropped, g.Bucket) {
			continue
		}
		n := max(0, int64(len(s.chunks[g.Bucket]))-1)
		var have int64
		if c := s.chunks[g.Bucket]; len(c) > 0 {
			if have = c[n]; have >= MaxChunk {
				n, have = n+1, 0
			}
		}
		from := len(st.journal)
		st.journal = append(st.journal, g.Data...)
		st.appends = append(st.appends, chunkAppend{g.Bucket, n, have, text{st.journal[from:]}})
	}
	st.sumRuns(p)
	drops := 0
	for _, bucket := range dropped {
		drops += len(s.chunks[bucket])
	}

	// Pointers into these must stay good: room first.
	st.values = slices.Grow(st.values[:0], 17+len(st.appends)+len(st.runs)+3*len(changed)+len(s.buf))
	st.lasts = slices.Grow(st.lasts[:0], len(changed))

	// evalsha, script, number of keys, keys
	st.args = append(st.args[:0], nil, nil)
	st.number(int64(6 + len(st.appends) + drops + len(changed)))
	st.args = append(st.args, s.key("meta"), s.key("locations"), s.key("skus"), s.key("outbox"), s.key("journal"), s.key("digest"))
	for _, a := range st.appends {
		st.args = append(st.args, s.chunkKey(a.bucket, a.n))
	}
	for _, bucket := range dropped {
		for n := range s.chunks[bucket] {
			st.args = append(st.args, s.chunkKey(bucket, int64(n)))
		}
	}
	for _, k := range changed {
		if k.Key == nil {
			k.Key = s.key("sku:" + k.Name()) // boxed once in the SKU's life
		}
		st.args = append(st.args, k.Key)
	}

	st.args = append(st.args, s.owner)
	st.number(b.Prev, b.Last, p.Clock())
	st.emitted = len(st.args)
	st.args = append(st.args, nil)
	st.number(b.Oversold, b.AppliedAt)
	st.sent = len(st.args)
	st.args = append(st.args, nil)
	st.levels = len(st.args)
	st.args = append(st.args, nil)
	st.number(int64(len(fresh)), int64(len(b.Outbox)), int64(len(st.appends)), int64(drops), int64(len(st.runs)))
	for _, name := range fresh {
		st.args = append(st.args, name)
	}
	for _, o := range b.Outbox {
		st.args = append(st.args, o)
	}
	for i := range st.appends {
		a := &st.appends[i]
		st.args = append(st.args, chunkField(a.bucket, a.n))
		st.number(a.have)
		st.args = append(st.args, &a.data)
	}
	for _, bucket := range dropped {
		for n := range s.chunks[bucket] {
			st.args = append(st.args, chunkField(bucket, int64(n)))
		}
	}
	sums := st.sums
	for _, r := range st.runs {
		n := 8 * (r.to - r.from)
		st.number(int64(8 * r.from))
		st.args = append(st.args, sums[:n])
		sums = sums[n:]
	}
	from := 0
	for i, k := range changed {
		changes := s.buf[from:s.ends[i]]
		from = s.ends[i]
		n := int64(6 + 2*len(changes))
		if k.Fresh() {
			st.number(-n)
			st.args = append(st.args, k.Name())
		} else {
			st.number(n)
		}
		st.args = append(st.args, nameVersion)
		st.number(k.Version())
		st.args = append(st.args, nameAvailable)
		st.number(int64(k.Available()))
		st.args = append(st.args, nameLast, st.last(k))
		for j := range changes {
			c := &changes[j]
			st.args = append(st.args, s.fieldName(p, c))
			st.number(c.Value)
		}
	}
	s.prepared(p, st)
}

// prepared takes over what the store will hold once the step is applied.
func (s *Store) prepared(p *ledger.Partition, st *Step) {
	s.known = len(p.Locations())
	for _, bucket := range p.Dropped() {
		delete(s.chunks, bucket)
	}
	for i := range st.appends {
		a := &st.appends[i]
		chunks := s.chunks[a.bucket]
		if a.n == int64(len(chunks)) {
			chunks = append(chunks, 0)
		}
		chunks[a.n] = a.have + int64(len(a.data.b))
		s.chunks[a.bucket] = chunks
	}
	p.Flushed()
}

// text is bytes that are passed by pointer: boxing a slice would allocate.
type text struct{ b []byte }

// MarshalBinary gives the client the bytes.
func (t *text) MarshalBinary() ([]byte, error) { return t.b, nil }

// last is the field that names a SKU's last event: offset, kind, when it was received, and id.
func (s *Step) last(k *ledger.SKU) *text {
	s.lasts = s.lasts[:len(s.lasts)+1]
	t := &s.lasts[len(s.lasts)-1]
	b := strconv.AppendInt(t.b[:0], k.Offset(), 10)
	b = append(append(append(b, ' '), k.Kind().String()...), ' ')
	b = append(strconv.AppendInt(b, k.ReceivedAt(), 10), ' ')
	t.b = append(b, k.EventID()...)
	return t
}

// parseLast reads what last wrote.
func parseLast(v string, st *ledger.Stored) error {
	offset, rest, ok1 := strings.Cut(v, " ")
	kind, rest, ok2 := strings.Cut(rest, " ")
	received, id, ok3 := strings.Cut(rest, " ")
	var err1, err2 error
	st.Offset, err1 = strconv.ParseInt(offset, 10, 64)
	st.ReceivedAt, err2 = strconv.ParseInt(received, 10, 64)
	st.EventID = id
	var known bool
	st.EventKind, known = event.ParseKind(kind)
	if !ok1 || !ok2 || !ok3 || err1 != nil || err2 != nil || !known {
		return fmt.Errorf("SKU %s: field last is %q, want offset, kind, time and id", st.SKU, v)
	}
	return nil
}

// number appends numbers to the arguments, by pointer: boxing a number would allocate.
func (s *Step) number(vs ...int64) {
	for _, v := range vs {
		s.values = append(s.values, v)
		s.args = append(s.args, &s.values[len(s.values)-1])
	}
}

// Field names, boxed once.
var (
	nameVersion, nameAvailable, nameLast any = "version", "available", "last"
)

func (s *Store) fieldName(p *ledger.Partition, c *ledger.Change) any {
	names := s.names[c.Field]
	for int(c.Name) >= len(names) {
		names = append(names, nil)
	}
	if names[c.Name] == nil {
		name := ""
		switch c.Field {
		case ledger.Unassigned:
		case ledger.Sold, ledger.Restored, ledger.Allotted, ledger.Sequence:
			name = p.Channels()[c.Name]
		default:
			name = p.Locations()[c.Name]
		}
		names[c.Name] = fieldName(c.Field, name)
	}
	s.names[c.Field] = names
	return names[c.Name]
}
