package channelpusher

import ()

type openSeq struct {
	part *partition
	seq  int64
}

// delivery is results on their way out, and the targets they settle.
type delivery struct {
	out     []outcome
	settled []openSeq
}

// report hands results on, in order; the targets they settle count as settled once the results are durable. The caller holds mu.
func (a *account) report(out []outcome, settled []openSeq) {
	if len(out) == 0 {
		return
	}
	a.unsettled += len(out)
	a.deliveries = append(a.deliveries, delivery{out, settled})
	if !a.delivering {
		a.delivering = true
		a.wg.Go(a.deliver)
	}
}

// deliver hands on what there is, one lot after another, so that a SKU's results keep their order.
func (a *account) deliver() {
	for {
		a.mu.Lock()
		lot := a.deliveries
		a.deliveries = nil
		a.delivering = len(lot) > 0
		a.mu.Unlock()
		if len(lot) == 0 {
			return
		}
		out := lot[0].out
		for _, d := range lot[1:] {
			out = append(out, d.out...)
		}
		a.out.results(out, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.unsettled -= len(out)
			for _, d := range lot {
				for _, s := range d.settled {
					a.settle(s.part, s.seq)
				}
			}
		})
	}
}
