package loadtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Shards in other processes: the parent writes a setup and then orders to the child's standard input, one JSON value
// each, and reads one answer to each of them from its standard output. The child ends with its input.

type setup struct {
	Plan   plan
	Number int
}

type wireResult struct {
	Err    string     `json:",omitempty"`
	Tally  *wireTally `json:",omitempty"`
	Heads  []uint64   `json:",omitempty"`
	Behind int        `json:",omitempty"`
	Gaps   []Gap      `json:",omitempty"`
	Usage  usage
}

// ServeShard drives a share of the connections of a run in another process. It is what Config.Shard must come down to,
// and returns when in ends.
func ServeShard(in io.Reader, out io.Writer) (err error) {
	dec, enc := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	var s setup
	if err := dec.Decode(&s); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	shard, err := newLocal(&s.Plan, s.Number)
	if err != nil {
		return errors.Join(err, enc.Encode(wireResult{Err: err.Error()}))
	}
	defer func() { err = errors.Join(err, shard.close()) }()
	if err := enc.Encode(wireResult{}); err != nil {
		return fmt.Errorf("report to the parent: %w", err)
	}
	for {
		var o order
		switch err := dec.Decode(&o); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read an order: %w", err)
		}
		if err := enc.Encode(wireAnswer(shard.do(o))); err != nil {
			return fmt.Errorf("report to the parent: %w", err)
		}
	}
}

func wireAnswer(r result, err error) wireResult {
	w := wireResult{Heads: r.heads, Behind: r.behind, Gaps: r.gaps, Usage: r.usage}
	if err == nil && r.tally != nil {
		t := r.tally.wire()
		w.Tally = &t
	}
	if err != nil {
		w.Err = err.Error()
	}
	return w
}

// remote is a shard in a process of its own.
type remote struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *json.Encoder
	dec *json.Decoder
	sum *tally // what it handed over last

	name string
	wait func() error // for its end; may be called again
}

// newRemote starts a process for one shard.
func newRemote(command []string, p *plan, number int) (*remote, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start a load process: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a load process: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a load process: %w", err)
	}
	r := &remote{cmd: cmd, in: in, enc: json.NewEncoder(in), dec: json.NewDecoder(bufio.NewReader(out)), sum: newTally(),
		name: fmt.Sprintf("load process %d of %d", number+1, p.Shards), wait: sync.OnceValue(cmd.Wait)}
	if _, err := r.ask(setup{Plan: *p, Number: number}); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *remote) do(o order) (result, error) { return r.ask(o) }

func (r *remote) ask(question any) (result, error) {
	var w wireResult
	err := r.enc.Encode(question)
	if err == nil {
		err = r.dec.Decode(&w)
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE):
		r.in.Close()
		if err = r.wait(); err == nil {
			err = errors.New("exit status 0")
		}
		return result{}, fmt.Errorf("%s ended by itself: %w", r.name, err)
	case err != nil:
		return result{}, fmt.Errorf("talk to %s: %w", r.name, err)
	case w.Err != "":
		return result{}, fmt.Errorf("%s: %s", r.name, w.Err)
	}
	out := result{heads: w.Heads, behind: w.Behind, gaps: w.Gaps, usage: w.Usage}
	if w.Tally != nil {
		if err := w.Tally.into(r.sum); err != nil {
			return result{}, err
		}
		out.tally = r.sum
	}
	return out, nil
}

func (r *remote) close() error {
	r.in.Close()
	stuck := time.AfterFunc(5*time.Second, func() { r.cmd.Process.Kill() })
	defer stuck.Stop()
	if err := r.wait(); err != nil {
		return fmt.Errorf("end %s: %w", r.name, err)
	}
	return nil
}
