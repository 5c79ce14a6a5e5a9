//go:build !linux

package edge

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// errAgain: the socket takes or gives nothing at the moment.
var errAgain = errors.New("socket not ready")

// errNoEpoll: every connection has a port here; these functions are never reached.
var errNoEpoll = errors.New("epoll exists on Linux only")

func newPoller(*loop) (poller, error)               { return newPortablePoller(), nil }
func (c *conn) sysRead([]byte) (int, error)         { return 0, errNoEpoll }
func (c *conn) sysWrite([]byte) (int, error)        { return 0, errNoEpoll }
func (c *conn) sysClose()                           {}
func (c *conn) sysShut()                            {}
func (c *conn) sysDetach() (net.Conn, error)        { return nil, errNoEpoll }
func (c *conn) sysPeer() netip.Addr                 { return netip.Addr{} }
func (c *conn) sysRelease() int                     { return -1 }
func (s *Server) listenRaw(net.Listener) error      { return errNoEpoll }
func (l *loop) adoptRaw(*conn, int) error           { return errNoEpoll }
func (s *Server) adoptSocket(net.Conn) (int, error) { return -1, errNoEpoll }
func stopListening(*loop)                           {}
func duplicate(syscall.Conn) (int, error)           { return -1, errNoEpoll }
func closeRaw(int)                                  {}

const onlyPortable = true

func descriptorLimit() int { return 10_000 }
