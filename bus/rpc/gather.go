package rpc

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Questions to one service that are asked together travel in one message to its Gathered subject, and with it to one of
// its servers. The message is any number of
//
//	uvarint number, uvarint length, subject, uvarint length, question
//
// each of which is served and answered as if it had come alone. An empty one is answered at once: that is how an asker
// finds out whether anybody takes such messages. Older servers do not, and get each question alone.
const (
	gatherMark  = "="
	gatherMost  = 32       // questions in one message, as a whole message goes to one server
	gatherBytes = 32 << 10 // and what they may have, if that is no more than half of the broker's limit
	gatherHead  = 16       // that each has at most beside its subject and itself
	gatherAlone = 8 << 10  // from which on a question travels alone
	gatherTime  = 2 * time.Second
	gatherAgain = time.Second // after which servers are asked again whether they take such messages
)

var errGathered = errors.New("malformed message of questions")

// gathering is what is known of a Gathered subject.
type gathering struct {
	mu     sync.Mutex // guards what follows
	served bool
	asking bool
	again  time.Time // when to ask again where it is not served
}

// doubt has questions asked alone until it is known that the subject is served.
func (g *gathering) doubt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.served, g.again = false, time.Now().Add(gatherAgain)
}

// gathered is a message of questions. It is kept until they have ended, as they are asked alone if nobody took it.
type gathered struct {
	to   *gathering
	body []byte

	left    atomic.Int32 // questions that wait
	settled atomic.Bool  // somebody took it, or it is known that nobody did
}

// ended takes the end of one of the questions. If all ran into their timeouts, there may be nobody any more who takes such messages.
func (m *gathered) ended(err error) {
	if err != ErrTimeout {
		m.settled.Store(true)
	}
	if m.left.Add(-1) == 0 && !m.settled.Load() {
		m.to.doubt()
	}
}

// AskTogether implements Gatherer.
func (n *NATS) AskTogether(to string, questions []Question) {
	g := n.gathering(to)
	if len(questions) == 1 || !n.gathers(to, g) {
		for i := range questions {
			n.askAlone(&questions[i])
		}
		return
	}
	most := min(gatherBytes, n.MaxPayload()/2)
	for len(questions) > 0 {
		count, size := 0, 0
		for count < len(questions) && count < gatherMost {
			q := &questions[count]
			if size += gatherHead + len(q.Subject) + len(q.Body); len(q.Body) >= gatherAlone || size > most {
				break
			}
			count++
		}
		if count < 2 {
			n.askAlone(&questions[0])
			questions = questions[1:]
			continue
		}
		n.askGathered(to, g, questions[:count], size)
		questions = questions[count:]
	}
}

func (n *NATS) askAlone(q *Question) {
	q.Together = 1
	n.Ask(q.Subject, q.Body, q.Timeout, q.Done)
}

func (n *NATS) askGathered(to string, g *gathering, questions []Question, size int) {
	last := n.waiting.lastID.Add(uint64(len(questions)))
	first := last - uint64(len(questions)) + 1
	body := make([]byte, 0, size)
	for i := range questions {
		q, id := &questions[i], first+uint64(i)
		q.Together = len(questions)
		body = binary.AppendUvarint(body, id)
		body = binary.AppendUvarint(body, uint64(len(q.Subject)))
		body = append(body, q.Subject...)
		body = binary.AppendUvarint(body, uint64(len(q.Body)))
		body = append(body, q.Body...)
	}
	m := &gathered{to: g, body: body}
	m.left.Store(int32(len(questions)))
	for i := range questions {
		if q := &questions[i]; !n.waiting.add(first+uint64(i), q.Timeout, q.Done, m) {
			q.Done(nil, ErrDown) // closed
		}
	}
	var b [64]byte
	reply := strconv.AppendUint(append(append(b[:0], n.inbox...), gatherMark...), first, 36)
	reply = strconv.AppendUint(append(reply, bundleMark...), uint64(len(questions)), 36)
	switch err := n.send(to, string(reply), body); {
	case errors.Is(err, nats.ErrMaxPayload): // another broker's limit is lower
		n.askApart(m)
	case err != nil:
		for id := first; id <= last; id++ {
			n.waiting.end(id, nil, ErrDown)
		}
	}
}

// askApart asks the questions of a message that nobody has got, each alone.
func (n *NATS) askApart(m *gathered) {
	m.settled.Store(true)
	_ = ungather(m.body, func(id uint64, subject string, question []byte) { // it can be read: it is ours
		if n.waiting.message(id) == m {
			n.publish(id, subject, question)
		}
	})
}

func (n *NATS) gathering(to string) *gathering {
	n.gatherMu.Lock()
	defer n.gatherMu.Unlock()
	g := n.gathered[to]
	if g == nil {
		g = &gathering{}
		n.gathered[to] = g
	}
	return g
}

// gathers reports whether somebody serves a Gathered subject, as far as is known; it asks where it is not.
func (n *NATS) gathers(to string, g *gathering) bool {
	g.mu.Lock()
	ask := !g.served && !g.asking && !time.Now().Before(g.again)
	g.asking = g.asking || ask
	served := g.served
	g.mu.Unlock()
	if ask {
		n.Ask(to, nil, gatherTime, func(_ []byte, err error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.served, g.asking, g.again = err == nil, false, time.Now().Add(gatherAgain)
		})
	}
	return served
}

// ungathered has the questions of a message that nobody took asked alone, for older servers; token is the end of its
// reply subject.
func (n *NATS) ungathered(token string) {
	from, count, _ := strings.Cut(token, bundleMark)
	first, err := strconv.ParseUint(from, 36, 64)
	many, err2 := strconv.ParseUint(count, 36, 8)
	if err != nil || err2 != nil {
		return
	}
	for id := first; id < first+many; id++ {
		if m := n.waiting.message(id); m != nil {
			m.to.doubt()
			n.askApart(m)
			return
		}
	}
}

// ungather calls take with each question of a message, whose memory they share, until one cannot be read.
func ungather(body []byte, take func(id uint64, subject string, question []byte)) error {
	for len(body) > 0 {
		id, n := binary.Uvarint(body)
		if n <= 0 {
			return errGathered
		}
		subject, rest, ok := cutField(body[n:])
		if !ok {
			return errGathered
		}
		question, rest, ok := cutField(rest)
		if !ok {
			return errGathered
		}
		take(id, string(subject), question)
		body = rest
	}
	return nil
}

// serveGathered serves what is in a message for the endpoints of its service.
func (e *endpoint) serveGathered(m *nats.Msg, answers *bundles) {
	if len(m.Data) == 0 {
		e.answer(m, answers)(nil)
		return
	}
	at := strings.LastIndexByte(m.Reply, '.') + 1
	if !strings.HasPrefix(m.Reply[at:], gatherMark) {
		return
	}
	to := m.Reply[:at] + bundleMark
	err := ungather(m.Data, func(id uint64, subject string, question []byte) {
		for _, of := range e.of {
			if of.serves(subject) {
				of.handle(Request{Subject: subject, Body: question, Answer: of.answerGathered(to, id, answers)})
				return
			}
		}
		answers.refuse(e, to, id)
	})
	if err != nil {
		e.fail(err) // their askers run into their timeouts
	}
}

// serves reports whether a subject is one of the endpoint's.
func (e *endpoint) serves(subject string) bool {
	prefix, wild := strings.CutSuffix(e.Subject, "*")
	if !wild {
		return subject == e.Subject
	}
	rest, ok := strings.CutPrefix(subject, prefix)
	return ok && rest != "" && !strings.Contains(rest, ".")
}
