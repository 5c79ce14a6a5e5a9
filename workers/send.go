package workers

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
)

var (
	errSendUnknown = contracts.NewError(contracts.CodeUnavailable, "the log has not confirmed this; it may be there: send it again with the same key").After(retryIn)
	errLogFull     = contracts.NewError(contracts.CodeOverloaded, "the log takes no more right now")
)

// send appends one message, or a batch of them in order, and answers when the log has confirmed all or the deadline
// is there. It never blocks, and it never takes back what was handed to the log: that gives up by itself.
func (w *Worker) send(r *request, deadline time.Time, done func(contracts.Answer)) {
	bodies := r.Batch
	single := len(bodies) == 0
	if single {
		bodies = append(bodies, r.Body)
	}
	b := &batch{answers: make([]contracts.Answer, len(bodies)), keyed: make([]bool, len(bodies)), left: len(bodies) + 1}
	b.finish = func() {
		if single {
			done(b.answers[0])
		} else {
			done(contracts.Answer{Batch: b.answers})
		}
	}
	partition := w.partition(r.Room)
	full := w.logSize != nil && w.logSize.full.Load() // once, so that nothing of a batch overtakes
	for i, body := range bodies {
		if err := b.barred(i); err != nil {
			b.settle(i, contracts.Answer{Err: err})
			continue
		}
		now := time.Now()
		record, keyed, err := w.parseSend(r, body, now)
		b.keyed[i] = keyed // read under b.mu by those behind i only, which come later
		switch {
		case err != nil:
		case full:
			w.metrics.logFull.Inc()
			err = errLogAtLimit
		default:
			err = w.limitSend(r, now)
		}
		var value []byte
		if err == nil {
			value, err = contracts.EncodeRecord(&record)
		}
		if err != nil {
			b.settle(i, contracts.Answer{Err: contracts.AsError(err)})
			continue
		}
		if planted.On(planted.AckFirst) {
			b.settle(i, contracts.Answer{OK: sendOK(record.Key, record.Stamp)})
		}
		if planted.On(planted.WorkerPublishes) {
			w.publishEarly(&record)
		}
		if w.logSize != nil {
			w.logSize.wrote(len(value))
		}
		key, stamp := record.Key, record.Stamp // the record refers to the body
		w.deps.Log.Append(partition, string(r.Room), value, func(_ int64, err error) {
			w.metrics.appendSeconds.Observe(time.Since(now).Seconds())
			switch {
			case err == nil:
				b.settle(i, contracts.Answer{OK: sendOK(key, stamp)})
			case errors.Is(err, journal.ErrFull):
				b.settle(i, contracts.Answer{Err: errLogFull.After(time.Second)})
			default:
				b.settle(i, contracts.Answer{Err: errSendUnknown})
			}
		})
	}
	b.arm(time.Until(deadline))
}

// parseSend checks one body and makes a record of it. keyed says whether the client gave a key, be it a bad one.
func (w *Worker) parseSend(r *request, body []byte, now time.Time) (record contracts.Record, keyed bool, err error) {
	o, err := contracts.ParseObject(body)
	if err != nil {
		return record, false, err
	}
	keyed = o.Has("key")
	record = contracts.Record{Kind: contracts.KindMessage, Room: r.Room, From: r.user, Stamp: contracts.Millis(now)}
	if record.Key, err = w.parseKey(o, now); err != nil {
		return record, keyed, err
	}
	text, has, err := o.String("text")
	if err != nil {
		return record, keyed, err
	}
	if !has {
		return record, keyed, contracts.BadField("text", "send needs a text")
	}
	l := &w.cfg.Limits
	if err = contracts.ValidateText(text, l.TextBytes, l.TextRunes); err != nil {
		return record, keyed, err
	}
	record.Text = text
	to, has, err := o.Int("reply_to")
	if err != nil {
		return record, keyed, err
	}
	if has && to == 0 {
		return record, keyed, contracts.BadField("reply_to", "reply_to must be the seq of an entry")
	}
	record.ReplyTo = contracts.Seq(to)
	if raw, has := o.Raw("meta"); has {
		if raw[0] != '{' {
			return record, keyed, contracts.BadField("meta", "meta must be an object")
		}
		if len(raw) > l.MetaBytes {
			return record, keyed, &contracts.Error{Code: contracts.CodeTooLarge, Message: fmt.Sprintf("meta is longer than %d bytes", l.MetaBytes), Field: "meta"}
		}
		if _, _, err = o.Object("meta"); err != nil {
			return record, keyed, err
		}
		record.Meta = raw
	}
	ack, has, err := o.String("ack")
	if err != nil {
		return record, keyed, err
	}
	switch {
	case has && ack == "stored":
		if r.Conn == 0 {
			return record, keyed, contracts.BadField("ack", "only a WebSocket can wait for stored; ask for the status")
		}
		record.Told = contracts.Conn{Node: r.Node, ID: r.Conn}
	case has && ack != "logged":
		return record, keyed, contracts.BadField("ack", "ack must be logged or stored")
	}
	return record, keyed, nil
}

// parseKey reads the key and checks its time, or makes one.
func (w *Worker) parseKey(o contracts.Object, now time.Time) (contracts.Key, error) {
	text, has, err := o.String("key")
	if err != nil {
		return contracts.Key{}, err
	}
	if !has {
		return contracts.NewKey()
	}
	key, err := contracts.ParseKey(text)
	if err != nil {
		return contracts.Key{}, err
	}
	switch age := now.UnixMilli() - key.Time(); {
	case age > w.cfg.Limits.KeyAge.Milliseconds():
		return contracts.Key{}, &contracts.Error{Code: contracts.CodeStaleKey, Message: "the key is too old to be told from a copy", Field: "key"}
	case -age > w.cfg.Limits.KeyAhead.Milliseconds():
		return contracts.Key{}, &contracts.Error{Code: contracts.CodeBadKey, Message: "the key is ahead of the server's time", Field: "key"}
	}
	return key, nil
}

// batch collects the answers to sends that went out together. Once a keyed one ends with a retryable error, everything
// behind it ends with the same, whatever came of it: the client will send it again, in order, and the key makes that safe.
type batch struct {
	finish func()
	keyed  []bool // which bodies had a key; written before the body's append

	mu      sync.Mutex
	answers []contracts.Answer // guarded by mu until finish
	left    int                // guarded by mu; without an answer, plus 1 until arm
	over    bool               // guarded by mu; finish was called
	timer   *time.Timer        // guarded by mu
}

// barred returns the error that body i shares with one before it, if any.
func (b *batch) barred(i int) *contracts.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range i {
		if err := b.answers[k].Err; err != nil && b.keyed[k] && err.Retry {
			return err
		}
	}
	return nil
}

// settle answers body i, once.
func (b *batch) settle(i int, a contracts.Answer) {
	b.mu.Lock()
	if b.over || b.answers[i].OK != nil || b.answers[i].Err != nil {
		b.mu.Unlock()
		return
	}
	b.answers[i] = a
	b.left--
	b.endIf(b.left == 0)
}

// arm starts the clock when everything has been handed to the log.
func (b *batch) arm(left time.Duration) {
	b.mu.Lock()
	b.left--
	if b.left > 0 {
		b.timer = time.AfterFunc(left, func() {
			b.mu.Lock()
			b.endIf(!b.over)
		})
	}
	b.endIf(b.left == 0)
}

// endIf unlocks mu, and if end is set answers before: what has no answer is unknown.
func (b *batch) endIf(end bool) {
	if !end {
		b.mu.Unlock()
		return
	}
	b.over = true
	if b.timer != nil {
		b.timer.Stop()
	}
	var bar *contracts.Error
	for i := range b.answers {
		a := &b.answers[i]
		if a.OK == nil && a.Err == nil {
			a.Err = errSendUnknown
		}
		if bar != nil {
			*a = contracts.Answer{Err: bar}
		} else if a.Err != nil && b.keyed[i] && a.Err.Retry {
			bar = a.Err
		}
	}
	b.mu.Unlock()
	b.finish()
}
