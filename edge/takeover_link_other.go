//go:build !linux

package edge

import (
	"net"
	"time"
)

// link needs descriptors that can be passed to another process's epoll.
type link struct{}

func newLink(*net.UnixConn) (*link, error)                       { return nil, errNoEpoll }
func (*link) close()                                             {}
func (*link) send(byte, any, ...int) error                       { return errNoEpoll }
func (*link) receive(time.Duration) (byte, []byte, []int, error) { return 0, nil, nil, errNoEpoll }

func (l *loop) pauseAccepting()            {}
func (l *loop) acceptAgain()               {}
func (c *conn) mute()                      {}
func (c *conn) hear() error                { return errNoEpoll }
func listenerOf(int) (net.Listener, error) { return nil, errNoEpoll }
