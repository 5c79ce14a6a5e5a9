package sim

import (
	"context"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

// giveUp is after how long a Writer gives an unwritten record up.
const giveUp = 2 * time.Minute

// Log is a topic. Its Mood's losses are appends that are written and not confirmed, or neither.
type Log struct {
	Mood
	dice *Dice

	mu      sync.Mutex // guards what follows
	parts   []*part
	groups  map[string]*group
	changed chan struct{} // closed and replaced when something was appended
}

type part struct {
	start  int64
	values [][]byte
}

func (p *part) end() int64 { return p.start + int64(len(p.values)) }

// NewLog returns an empty topic.
func NewLog(partitions int, dice *Dice) *Log {
	l := &Log{dice: dice, groups: make(map[string]*group), changed: make(chan struct{})}
	for range partitions {
		l.parts = append(l.parts, &part{})
	}
	return l
}

// Records returns what a partition holds: its first offset and the records.
func (l *Log) Records(id int32) (start int64, values [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.parts[id]
	return p.start, p.values[:len(p.values):len(p.values)]
}

// Lose loses a partition with everything in it; it goes on from offset 0.
func (l *Log) Lose(id int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parts[id] = &part{}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Log) append(id int32, value []byte) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.parts[id]
	p.values = append(p.values, value)
	close(l.changed)
	l.changed = make(chan struct{})
	return p.end() - 1
}

func (l *Log) read(id int32, from int64, most int) ([]journal.Record, error) {
	p := l.parts[id]
	if from < p.start || from > p.end() {
		return nil, journal.ErrOutOfRange
	}
	var records []journal.Record
	for _, v := range p.values[from-p.start : min(from-p.start+int64(most), int64(len(p.values)))] {
		records = append(records, journal.Record{Offset: from + int64(len(records)), Value: v})
	}
	return records, nil
}

// Writer returns a writer of p. It must be closed.
func (l *Log) Writer(p *Proc) journal.Writer {
	w := &writer{log: l, proc: p, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

type writer struct {
	log  *Log
	proc *Proc
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards what follows
	queue  []pending
	closed bool
}

type pending struct {
	partition int32
	value     []byte
	due       time.Time
	done      func(int64, error)
}

func (w *writer) Append(partition int32, _ string, value []byte, done func(int64, error)) {
	w.mu.Lock()
	var err error
	switch {
	case w.closed:
		err = journal.ErrClosed
	case len(value) > contracts.MaxRecordBytes:
		err = journal.ErrTooLarge
	case len(w.queue) >= 10_000:
		err = journal.ErrFull
	default:
		w.queue = append(w.queue, pending{partition, value, time.Now().Add(giveUp), done})
	}
	w.mu.Unlock()
	if err != nil {
		done(0, err)
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run writes one record after the other.
func (w *writer) run() {
	defer close(w.done)
	for {
		select {
		case <-w.quit:
			return
		case <-w.wake:
		}
		for {
			w.mu.Lock()
			if len(w.queue) == 0 {
				w.mu.Unlock()
				break
			}
			next := w.queue[0]
			w.queue = w.queue[1:]
			w.mu.Unlock()
			if !w.write(next) {
				return
			}
		}
	}
}

// write writes one record, and reports whether the writer goes on.
func (w *writer) write(r pending) bool {
	for {
		away, lose, late := w.log.get()
		if !sleep(time.Millisecond+w.log.dice.Time(late), w.quit) {
			return false
		}
		if w.proc.Dead() {
			return true
		}
		if away {
			if time.Now().After(r.due) {
				w.fail(r)
				return true
			}
			if !sleep(100*time.Millisecond, w.quit) {
				return false
			}
			continue
		}
		if !w.log.dice.Hit(lose) {
			r.done(w.log.append(r.partition, r.value), nil)
			return true
		}
		if w.log.dice.Hit(0.7) {
			w.log.append(r.partition, r.value)
			r.done(0, journal.ErrUnknown)
		} else {
			w.fail(r)
		}
		return true
	}
}

// fail gives a record up, and with it what was queued for its partition: nothing may overtake it.
func (w *writer) fail(r pending) {
	failed := []pending{r}
	w.mu.Lock()
	var kept []pending
	for _, q := range w.queue {
		if q.partition == r.partition {
			failed = append(failed, q)
		} else {
			kept = append(kept, q)
		}
	}
	w.queue = kept
	w.mu.Unlock()
	for _, q := range failed {
		q.done(0, journal.ErrUnknown)
	}
}

func (w *writer) Close(context.Context) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	close(w.quit)
	<-w.done
	w.mu.Lock()
	left := w.queue
	w.queue = nil
	w.mu.Unlock()
	for _, q := range left {
		q.done(0, journal.ErrUnknown)
	}
	return nil
}

// View returns the log as seen from outside any group by p.
func (l *Log) View(p *Proc) journal.Log { return &view{l, p} }

type view struct {
	log  *Log
	proc *Proc
}

// reach fails where the log cannot be reached.
func (v *view) reach() error {
	if away, _, _ := v.log.get(); away || v.proc.Dead() {
		return ErrAway
	}
	return nil
}

func (v *view) Ensure(context.Context, int) error { return v.reach() }
func (v *view) Ping(context.Context) error        { return v.reach() }

func (v *view) Bounds(_ context.Context, id int32) (start, end int64, err error) {
	if err := v.reach(); err != nil {
		return 0, 0, err
	}
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	return v.log.parts[id].start, v.log.parts[id].end(), nil
}

func (v *view) Extents(context.Context) ([]journal.Extent, error) {
	if err := v.reach(); err != nil {
		return nil, err
	}
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	all := make([]journal.Extent, len(v.log.parts))
	for i, p := range v.log.parts {
		all[i] = journal.Extent{Start: p.start, End: p.end()}
	}
	return all, nil
}

func (v *view) Read(_ context.Context, id int32, from int64, most int) ([]journal.Record, error) {
	if err := v.reach(); err != nil {
		return nil, err
	}
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	return v.log.read(id, from, most)
}

func (v *view) Committed(_ context.Context, name string) (map[int32]journal.Commit, error) {
	if err := v.reach(); err != nil {
		return nil, err
	}
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	all := make(map[int32]journal.Commit)
	if g := v.log.groups[name]; g != nil {
		for id, c := range g.commits {
			all[id] = c
		}
	}
	return all, nil
}

func (v *view) Trim(_ context.Context, id int32, before int64) error {
	if err := v.reach(); err != nil {
		return err
	}
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	p := v.log.parts[id]
	if n := min(before, p.end()-1) - p.start; n > 0 {
		p.start, p.values = p.start+n, p.values[n:]
	}
	return nil
}

func (v *view) Durability(context.Context) (journal.Durability, error) {
	return journal.DurabilityVolatile, v.reach()
}

func (v *view) Close() error { return nil }
