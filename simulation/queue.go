package simulation

// happening is one thing that will happen in the world, at a moment of its virtual clock.
type happening struct {
	at   int64
	seq  uint32 // of those at one moment, first come first served
	kind uint8
	c    uint16
	a, b int32
}

func (h *happening) before(o *happening) bool {
	return h.at < o.at || h.at == o.at && h.seq < o.seq
}

// agenda is what will happen, soonest first: a heap of four children a node.
type agenda struct {
	heap []happening
	seq  uint32
}

func (q *agenda) add(h happening) {
	q.seq++
	h.seq = q.seq
	q.heap = append(q.heap, h)
	i := len(q.heap) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !h.before(&q.heap[up]) {
			break
		}
		q.heap[i] = q.heap[up]
		i = up
	}
	q.heap[i] = h
}

// next takes the soonest. There must be one.
func (q *agenda) next() happening {
	top := q.heap[0]
	n := len(q.heap) - 1
	last := q.heap[n]
	q.heap = q.heap[:n]
	if n == 0 {
		return top
	}
	i := 0
	for {
		first := 4*i + 1
		if first >= n {
			break
		}
		best := first
		for j := first + 1; j < min(first+4, n); j++ {
			if q.heap[j].before(&q.heap[best]) {
				best = j
			}
		}
		if !q.heap[best].before(&last) {
			break
		}
		q.heap[i] = q.heap[best]
		i = best
	}
	q.heap[i] = last
	return top
}
