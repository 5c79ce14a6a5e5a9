//go:build !lean

package embedded

import (
	"strconv"
	"strings"
	"sync"

	"github.com/alicebob/miniredis/v2/server"
)

// channels is the publish and subscribe of the embedded Redis: PUBLISH, SUBSCRIBE and UNSUBSCRIBE, without patterns.
type channels struct {
	mu    sync.RWMutex // guards what follows, and the order of a confirmation and the messages behind it
	heard map[string]map[*server.Peer]struct{}
	peers map[*server.Peer]map[string]struct{}
}

func newChannels() *channels {
	return &channels{heard: make(map[string]map[*server.Peer]struct{}), peers: make(map[*server.Peer]map[string]struct{})}
}

// hook answers the commands that are not miniredis's to answer.
func (s *channels) hook(p *server.Peer, command string, args ...string) bool {
	switch {
	case command == "PUBLISH" && len(args) == 2:
		p.WriteInt(s.publish(args[0], args[1]))
	case command == "SUBSCRIBE" && len(args) > 0:
		s.subscribe(p, args)
	case command == "UNSUBSCRIBE" && len(args) > 0:
		s.unsubscribe(p, args)
	default:
		return false
	}
	return true
}

func (s *channels) publish(channel, body string) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	listeners := s.heard[channel]
	if len(listeners) == 0 {
		return 0
	}
	var digits [20]byte
	var b strings.Builder
	b.Grow(64 + len(channel) + len(body))
	for _, part := range [...]string{"message", channel, body} {
		b.WriteByte('$')
		b.Write(strconv.AppendInt(digits[:0], int64(len(part)), 10))
		b.WriteString("\r\n")
		b.WriteString(part)
		b.WriteString("\r\n")
	}
	message := b.String()
	for p := range listeners {
		p.Block(func(w *server.Writer) { // it waits in memory for the connection to take it: nobody waits for a slow reader
			w.WritePushLen(3)
			w.WriteRaw(message)
			w.Flush()
		})
	}
	return len(listeners)
}

func (s *channels) subscribe(p *server.Peer, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.peers[p]
	if mine == nil {
		mine = make(map[string]struct{})
		s.peers[p] = mine
		p.OnDisconnect(func() { s.forget(p) })
	}
	for _, name := range names {
		mine[name] = struct{}{}
		if s.heard[name] == nil {
			s.heard[name] = make(map[*server.Peer]struct{})
		}
		s.heard[name][p] = struct{}{}
		confirm(p, "subscribe", name, len(mine))
	}
}

func (s *channels) unsubscribe(p *server.Peer, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.peers[p]
	for _, name := range names {
		delete(mine, name)
		s.drop(p, name)
		confirm(p, "unsubscribe", name, len(mine))
	}
}

func (s *channels) drop(p *server.Peer, name string) {
	delete(s.heard[name], p)
	if len(s.heard[name]) == 0 {
		delete(s.heard, name)
	}
}

// forget ends what a connection heard.
func (s *channels) forget(p *server.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.peers[p] {
		s.drop(p, name)
	}
	delete(s.peers, p)
}

func confirm(p *server.Peer, kind, name string, count int) {
	p.Block(func(w *server.Writer) {
		w.WritePushLen(3)
		w.WriteBulk(kind)
		w.WriteBulk(name)
		w.WriteInt(count)
	})
}
