package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Child is this program run again, to be another part of a benchmark with a processor time of its own. It is told what to do, and answers, in JSON objects on its standard input and output.
type Child struct {
	PID  int
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	errs bytes.Buffer
}

// Again runs this program again, with arguments.
func Again(ctx context.Context, args ...string) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &Child{cmd: exec.CommandContext(ctx, self, args...)}
	c.cmd.Stderr = &c.errs
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.PID = c.cmd.Process.Pid
	return c, nil
}

// Send tells it something.
func (c *Child) Send(v any) error { return json.NewEncoder(c.in).Encode(v) }

// Next waits for its next answer.
func (c *Child) Next(v any) error {
	if err := c.out.Decode(v); err != nil {
		return fmt.Errorf("%v: no answer: %w\n%s", c.cmd.Args[1:], err, c.errs.Bytes())
	}
	return nil
}

// Stop ends it, by closing its input.
func (c *Child) Stop() error { return errors.Join(c.in.Close(), c.cmd.Wait()) }
