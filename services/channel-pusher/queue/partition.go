package queue

import "time"

// Doubt says of a partition's granted writes that nobody has settled and whose targets have offsets below Before: they were in doubt at Since, and since then no process sent anything for their SKUs
// but reads, and 0s ahead. Whoever gets the partition next need not begin to wait anew. It is stored with the offset that is committed, and is worth nothing without it.
type Doubt struct {
	Before int64     `json:"before"`
	Since  time.Time `json:"since"`
}

// maxDoubts bounds what is stored; beyond it the oldest is left out, and what it spoke of counts as in doubt since the next.
const maxDoubts = 8

// Partition follows which consumed targets are settled: every target before the commit offset is settled or superseded.
type Partition struct {
	settled    int64     // what the group had committed when the partition came: earlier targets are only remembered
	inherited  int64     // end of the partition then: whoever had it before may have begun what is before that
	since      time.Time // when it came, if somebody may have had it before
	next       int64     // offset after the last consumed record
	first      int64     // sequence number of open[0]
	open       []openTarget
	underWay   int // items in requests
	unreported int // targets whose results are on their way

	doubts   []Doubt   // by Before, and by Since: as those who had the partition before tell
	catching bool      // what they may have begun was not all taken yet: nothing is begun in pooled mode
	sure     time.Time // all that they may have begun is in doubt or settled since then; zero while that is not so
}

// caughtUp says that everything was taken that whoever had the partition before may have begun.
func (p *Partition) caughtUp() bool { return p.next >= p.inherited }

// doubtedSince is since when a granted write is in doubt at the latest whose target has that offset; zero: nobody tells of a time before ours.
func (p *Partition) doubtedSince(offset int64) time.Time {
	for i := range p.doubts {
		if offset >= p.doubts[i].Before {
			continue
		}
		if since := p.doubts[i].Since.Add(clocksOff); since.Before(p.since) {
			return since
		}
		break
	}
	return time.Time{}
}

// Doubts is what to store with the offset that [Partition.Commit] gives at the same moment.
func (p *Partition) Doubts() []Doubt {
	to := p.commit()
	var out []Doubt
	for _, d := range p.doubts {
		if d.Before > to {
			out = append(out, d)
		}
	}
	if !p.sure.IsZero() && p.inherited > to && (len(out) == 0 || out[len(out)-1].Before < p.inherited) {
		out = append(out, Doubt{Before: p.inherited, Since: p.sure})
	}
	if n := len(out); n > maxDoubts {
		out = out[n-maxDoubts:]
	}
	return out
}

// Next is the offset after the last target that was taken.
func (p *Partition) Next() int64 { return p.next }

// Busy says whether an item of the partition is in a request, or a result that settles one of its targets is not durable yet.
func (p *Partition) Busy() bool { return p.underWay > 0 || p.unreported > 0 }

// Pass goes past a record that means nothing.
func (p *Partition) Pass(offset int64) { p.next = max(p.next, offset+1) }

// Skip opens a record that holds no target; it counts as one until Done.
func (p *Partition) Skip(offset int64) (seq int64) {
	p.next = max(p.next, offset+1)
	return p.add(offset)
}

// Done settles what Skip opened.
func (p *Partition) Done(seq int64) { p.done(seq) }

// Commit is the offset before which everything is settled.
func (p *Partition) Commit() int64 { return p.commit() }

type openTarget struct {
	offset int64
	done   bool
}

// add opens a target and returns its sequence number.
func (p *Partition) add(offset int64) int64 {
	p.open = append(p.open, openTarget{offset: offset})
	return p.first + int64(len(p.open)) - 1
}

// done settles a target.
func (p *Partition) done(seq int64) {
	if i := seq - p.first; i >= 0 && i < int64(len(p.open)) {
		p.open[i].done = true
	}
}

// commit is the offset before which everything is settled.
func (p *Partition) commit() int64 {
	n := 0
	for n < len(p.open) && p.open[n].done {
		n++
	}
	p.open = p.open[n:]
	p.first += int64(n)
	if len(p.open) == 0 {
		p.open = nil
		return p.next
	}
	return p.open[0].offset
}
