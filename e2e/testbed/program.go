package testbed

import (
	"syscall"
	"time"
)

// Program is a program under test that runs as a process of its own. It ends with this process.
type Program struct {
	Log  string // path of what it prints
	proc *process
}

// StartProgram starts the program at path and has what it prints appended to log, in whose directory it runs. It does not wait until the program is ready.
func StartProgram(name, log, path string, args ...string) (*Program, error) {
	p, err := spawn(name, log, path, args...)
	if err != nil {
		return nil, err
	}
	return &Program{Log: log, proc: p}, nil
}

// Kill ends it at once (kill -9) and waits for its end.
func (p *Program) Kill() error { return p.proc.kill() }

// Pause stops it in its tracks (SIGSTOP) until Resume.
func (p *Program) Pause() error { return p.proc.signal(syscall.SIGSTOP) }

// Resume lets it go on after Pause.
func (p *Program) Resume() error { return p.proc.signal(syscall.SIGCONT) }

// Stop asks it to end (SIGTERM) and waits; after grace it is killed.
func (p *Program) Stop(grace time.Duration) error { return p.proc.end(grace) }

// Done is closed when it has ended.
func (p *Program) Done() <-chan struct{} { return p.proc.done }

// Tail is the end of what it printed.
func (p *Program) Tail() string { return tail(p.Log) }
