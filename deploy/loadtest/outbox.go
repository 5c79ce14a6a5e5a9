package loadtest

// letter is a message that its sender has not forgotten yet: it is forgotten once it is accepted and has come back.
type letter struct {
	n        uint32
	state    letterState
	echoed   bool
	intended int64 // on the run's clock, nanoseconds
	firstMS  int64 // the time in its key; 0 before the first attempt
}

type letterState uint8

const (
	queued  letterState = iota // not written on this connection
	written                    // no answer yet
	refused                    // answered by an error after which it is sent again
	acked
)

// outbox is what one connection has sent into its room, in order.
type outbox struct {
	last    uint32 // the newest number given
	echoed  uint32 // the highest number that came back
	place   uint64 // the seq that it had
	letters []letter
	// holding: a message was refused for now; what is behind it waits with it.
	holding bool
	armed   bool // a timer will try it again
	tries   uint8
}

// add makes the next letter.
func (o *outbox) add(intended int64) *letter {
	o.last++
	o.letters = append(o.letters, letter{n: o.last, intended: intended})
	return &o.letters[len(o.letters)-1]
}

func (o *outbox) find(n uint32) *letter {
	for i := range o.letters {
		if o.letters[i].n == n {
			return &o.letters[i]
		}
	}
	return nil
}

// forget drops a letter.
func (o *outbox) forget(n uint32) {
	for i := range o.letters {
		if o.letters[i].n == n {
			o.letters = append(o.letters[:i], o.letters[i+1:]...)
			return
		}
	}
}

// echo enters a message that came back to its sender with a seq. Messages may come late, behind a gap; it is their seqs
// that must be in the order in which they were sent.
func (o *outbox) echo(n uint32, seq uint64) (v verdict) {
	l := o.find(n)
	v = inOrder
	switch {
	case n > o.echoed:
		if seq < o.place {
			v = late
		}
		o.echoed, o.place = n, seq
	case l != nil && !l.echoed:
		if seq > o.place {
			v = late
		}
	default:
		return doubled
	}
	if l != nil {
		l.echoed = true
		if l.state == acked {
			o.forget(n)
		}
	}
	return v
}

// ack enters an acceptance. It returns the letter as it was, or ok false for an answer to nothing.
func (o *outbox) ack(n uint32) (was letter, ok bool) {
	l := o.find(n)
	if l == nil || l.state == acked {
		return letter{}, false
	}
	was = *l
	if l.state = acked; l.echoed {
		o.forget(n)
	}
	return was, true
}

// underway is the number of letters without an answer.
func (o *outbox) underway() (n int) {
	for i := range o.letters {
		if o.letters[i].state != acked {
			n++
		}
	}
	return n
}

// excuse gives up on the return of accepted letters: a reset skipped the entries in which they were.
func (o *outbox) excuse() {
	kept := o.letters[:0]
	for _, l := range o.letters {
		if l.state != acked {
			kept = append(kept, l)
		}
	}
	o.letters = kept
}

// disconnected makes everything without an answer due again.
func (o *outbox) disconnected() {
	for i := range o.letters {
		if l := &o.letters[i]; l.state != acked {
			l.state = queued
		}
	}
	o.holding, o.armed = false, false
}
