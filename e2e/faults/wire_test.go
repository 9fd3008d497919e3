package faults

import (
	"bytes"
	"errors"
	"net"
	"regexp"
	"sync"
	"testing"
)

// wire is the way from one projector to Redis. It can be cut, and it sees each step go by.
type wire struct {
	listener net.Listener
	to       string
	step     []byte // how a step begins

	mu    sync.Mutex
	conns map[net.Conn]bool
	cut   bool
	name  string // that the projector gives itself
	trap  *trap
}

// trap catches the next step on its way to Redis.
type trap struct {
	moment  moment
	act     func()        // called once, while the step or its answer is held
	release chan struct{} // closed: what is held goes on
	sprung  chan struct{} // closed when act has returned
	caught  []byte        // the step, as far as it came in one read
	answer  chan string   // has what Redis has answered, once it has
}

func newWire(t testing.TB, to, step string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, to: to, step: []byte("\r\nevalsha\r\n$40\r\n" + step + "\r\n"), conns: map[net.Conn]bool{}}
	go w.serve()
	return w
}

func (w *wire) addr() string { return w.listener.Addr().String() }

func (w *wire) serve() {
	for {
		c, err := w.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		go w.carry(c)
	}
}

// hold notes a connection, unless the wire is cut.
func (w *wire) hold(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return false
	}
	w.conns[c] = true
	return true
}

func (w *wire) drop(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// carry joins one connection to Redis.
func (w *wire) carry(c net.Conn) {
	defer w.drop(c)
	if !w.hold(c) {
		return
	}
	r, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer w.drop(r)
	if !w.hold(r) {
		return
	}
	var mu sync.Mutex
	var answer *trap // what waits for the next answer
	go func() {
		defer c.Close() // ends the loop below
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				mu.Lock()
				tr := answer
				answer = nil
				mu.Unlock()
				if tr != nil && tr.moment == sent {
					tr.spring()
				}
				if tr != nil {
					tr.answer <- string(buf[:n])
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
				if tr != nil && tr.moment == answered {
					tr.spring()
				}
			}
			if err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if tr := w.caught(buf[:n]); tr != nil {
				if tr.moment == unsent {
					tr.spring()
				}
				mu.Lock()
				answer = tr
				mu.Unlock()
			}
			if _, err := r.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// spring does what the trap is for, and waits for its release.
func (tr *trap) spring() {
	tr.act()
	close(tr.sprung)
	<-tr.release
}

// ownerArgument is how a projector says in a script who it is: a name of its own, the partition, and a count.
var ownerArgument = regexp.MustCompile(`\r\n([A-Z2-7]{12})/[0-9]+/[0-9]+\r\n`)

// owner is what the projector calls itself in Redis; empty while it has owned nothing.
func (w *wire) owner() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.name
}

// caught takes the trap that is set, when a step goes by.
func (w *wire) caught(b []byte) *trap {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		if m := ownerArgument.FindSubmatch(b); m != nil {
			w.name = string(m[1])
		}
	}
	if w.trap == nil || !bytes.Contains(b, w.step) {
		return nil
	}
	tr := w.trap
	w.trap = nil
	tr.caught = bytes.Clone(b)
	return tr
}

// set sets a trap for the next step.
func (w *wire) set(m moment, act func()) *trap {
	tr := &trap{moment: m, act: act, release: make(chan struct{}), sprung: make(chan struct{}), answer: make(chan string, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trap = tr
	return tr
}

// unset takes a trap away. It returns false when it has caught something already, or is about to.
func (w *wire) unset(tr *trap) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trap != tr {
		return false
	}
	w.trap = nil
	return true
}

// sever cuts the wire until mend: what is under way is lost, and new connections end at once.
func (w *wire) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

func (w *wire) close() {
	w.sever()
	_ = w.listener.Close()
}
