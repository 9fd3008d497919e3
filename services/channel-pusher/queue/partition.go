package queue

import "time"

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
