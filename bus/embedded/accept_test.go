//go:build !lean

package embedded_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/parley-chat/parley/bus/embedded"
)

// short is a listener that lacks a descriptor for some of its connections, and then is closed.
type short struct {
	net.Listener
	conns []net.Conn // nil: no descriptor
}

func (s *short) Accept() (net.Conn, error) {
	if len(s.conns) == 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
	nc := s.conns[0]
	if s.conns = s.conns[1:]; nc == nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return nc, nil
}

// A broker that has no descriptor for a moment goes on afterwards: it would otherwise be gone for all the process, those within
// included.
func TestAcceptWithoutDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := embedded.NewPipe(0)
		defer func() { _ = client.Close() }()
		ln := &short{conns: []net.Conn{nil, nil, server, nil}}
		if nc, err := embedded.Accept(ln); nc != server || err != nil {
			t.Errorf("accepted %v, %v", nc, err)
		}
		if _, err := embedded.Accept(ln); !errors.Is(err, net.ErrClosed) {
			t.Errorf("of a closed listener: %v", err)
		}
	})
}
