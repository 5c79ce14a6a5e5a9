package rpc

import (
	"encoding/binary"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// Answers that are ready at the same time travel in one message: it costs an asker about as much to be woken by one as
// to take twenty. Who understands that says so in its reply subjects, whose last token is bundleMark and the question's
// number in base 36. The bundle goes to bundleMark alone, and is any number of
//
//	uvarint 2 × number, uvarint length, answer
//
// where 2 × number + 1 says that the server which got the question with others does not serve it.
// An older server answers each on its own subject; so is an older asker answered, whose numbers have no mark.
const (
	bundleMark  = "-"
	bundleBytes = 32 << 10 // from which on a bundle is sent at once, or half of the broker's limit if that is less
	aloneBytes  = 16 << 10 // from which on an answer travels alone, or a quarter
)

var errBundle = errors.New("malformed bundle of answers")

// bundles holds the answers that are ready until run gets its turn to send them.
type bundles struct {
	send  func(subject string, body []byte) error
	limit func() int    // the broker's, for one message
	bell  chan struct{} // 1: something is ready
	quit  chan struct{}
	done  chan struct{} // closed when run has returned

	mu      sync.Mutex // guards what follows
	ready   map[string]*bundle
	stopped bool
}

// bundle is what goes to one asker.
type bundle struct {
	body []byte
	from []*endpoint // of each answer
}

func (o *bundle) put(e *endpoint, head uint64, answer []byte) {
	o.body = binary.AppendUvarint(o.body, head)
	o.body = binary.AppendUvarint(o.body, uint64(len(answer)))
	o.body = append(o.body, answer...)
	o.from = append(o.from, e)
}

func newBundles(send func(string, []byte) error, limit func() int) *bundles {
	return &bundles{
		send: send, limit: limit, bell: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}), ready: make(map[string]*bundle),
	}
}

// bundled reads a reply subject: where the bundles of its asker go, and the number of the question.
func bundled(reply string) (to string, id uint64, ok bool) {
	at := strings.LastIndexByte(reply, '.') + 1
	number, ok := strings.CutPrefix(reply[at:], bundleMark)
	if !ok {
		return "", 0, false
	}
	id, err := strconv.ParseUint(number, 36, 64)
	return reply[:at+len(bundleMark)], id, err == nil
}

// alone reports whether an answer is too large for a bundle.
func (b *bundles) alone(answer []byte) bool { return len(answer) >= min(aloneBytes, b.limit()/4) }

// add takes an answer of e.
func (b *bundles) add(e *endpoint, to string, id uint64, answer []byte) { b.put(e, to, 2*id, answer) }

// refuse answers a question that e does not serve.
func (b *bundles) refuse(e *endpoint, to string, id uint64) { b.put(e, to, 2*id+1, nil) }

func (b *bundles) put(e *endpoint, to string, head uint64, answer []byte) {
	most := min(bundleBytes, b.limit()/2)
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		e.fail(ErrDown)
		return
	}
	first := len(b.ready) == 0
	one := b.ready[to]
	if one == nil {
		one = &bundle{}
		b.ready[to] = one
	}
	one.put(e, head, answer)
	full := len(one.body) >= most
	if full {
		delete(b.ready, to)
	}
	b.mu.Unlock()
	switch {
	case full:
		b.sendOne(to, one)
	case first:
		select {
		case b.bell <- struct{}{}:
		default:
		}
	}
}

// run sends what is ready until stop.
func (b *bundles) run() {
	defer close(b.done)
	for {
		select {
		case <-b.bell:
			runtime.Gosched() // whoever can run now may have an answer too; where nobody can, it costs nothing
			b.flush()
		case <-b.quit:
			return
		}
	}
}

// flush sends what is ready.
func (b *bundles) flush() {
	b.mu.Lock()
	ready := b.ready
	b.ready = make(map[string]*bundle)
	b.mu.Unlock()
	for to, one := range ready {
		b.sendOne(to, one)
	}
}

func (b *bundles) sendOne(to string, one *bundle) {
	err := b.send(to, one.body)
	if errors.Is(err, nats.ErrMaxPayload) && len(one.from) > 1 { // another broker's limit is lower
		from := one.from
		_ = unbundleHeads(one.body, func(head uint64, answer []byte) { // it can be read: it is ours
			var alone bundle
			alone.put(from[0], head, answer)
			b.sendOne(to, &alone)
			from = from[1:]
		})
		return
	}
	if err != nil {
		for _, e := range one.from {
			e.fail(err)
		}
	}
}

// stop sends what is ready; what is added from then on fails.
func (b *bundles) stop() {
	close(b.quit)
	<-b.done
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.flush()
}

// unbundle calls take with each answer of a bundle, whose memory they share, until one cannot be read.
func unbundle(body []byte, take func(id uint64, answer []byte, served bool)) error {
	return unbundleHeads(body, func(head uint64, answer []byte) { take(head/2, answer, head%2 == 0) })
}

func unbundleHeads(body []byte, take func(head uint64, answer []byte)) error {
	for len(body) > 0 {
		head, n := binary.Uvarint(body)
		if n <= 0 {
			return errBundle
		}
		answer, rest, ok := cutField(body[n:])
		if !ok {
			return errBundle
		}
		take(head, answer)
		body = rest
	}
	return nil
}

// cutField takes a field with its length in front off b.
func cutField(b []byte) (field, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	end := n + int(size)
	return b[n:end:end], b[end:], true
}
