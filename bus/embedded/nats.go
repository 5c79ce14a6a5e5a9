//go:build !lean

package embedded

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	startTimeout = 30 * time.Second // above what a busy machine takes
	stopTimeout  = 5 * time.Second
)

// NATS is a NATS server inside this process. It is itself what rpc.Config.InProcess wants. It is safe for concurrent
// use.
type NATS struct {
	listen bool // on a loopback port, for other processes

	mu     sync.Mutex // guards what follows
	server *server.Server
	port   int // kept through Interrupt and Resume; −1: whichever is free
}

// StartNATS starts a server that listens on no port, and returns once it takes connections. It fails when that lasts
// above 30 s.
func StartNATS() (*NATS, error) { return startNATS(&NATS{}) }

// ListenNATS is StartNATS for other processes of this machine, too: the server also listens on a free loopback port.
func ListenNATS() (*NATS, error) { return startNATS(&NATS{listen: true, port: server.RANDOM_PORT}) }

func startNATS(n *NATS) (*NATS, error) {
	if err := n.Resume(); err != nil {
		return nil, err
	}
	return n, nil
}

// InProcessConn returns a new connection to the server, an in-memory pipe. It fails while the server is interrupted.
func (n *NATS) InProcessConn() (net.Conn, error) {
	n.mu.Lock()
	s := n.server
	n.mu.Unlock()
	if s == nil {
		return nil, errors.New("the embedded nats server is stopped")
	}
	return s.InProcessConn()
}

// URL is what rpc.Config.URL wants in another process; empty where the server does not listen. It stays the same through
// Interrupt and Resume.
func (n *NATS) URL() string {
	if !n.listen {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("nats://127.0.0.1:%d", n.port)
}

// Interrupt stops the server, as an outage does: every connection ends. Resume ends the outage.
func (n *NATS) Interrupt() error {
	n.mu.Lock()
	s := n.server
	n.server = nil
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.Shutdown()
		s.WaitForShutdown()
	}()
	select {
	case <-stopped:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("stop the embedded nats server: still running after %s", stopTimeout)
	}
}

// Resume starts the server again. It does nothing while the server runs.
func (n *NATS) Resume() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil {
		return nil
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "parley-embedded",
		DontListen: !n.listen,
		Host:       "127.0.0.1",
		Port:       n.port,
		NoSigs:     true,
		NoLog:      true,
	})
	if err != nil {
		return fmt.Errorf("make the embedded nats server: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(startTimeout) {
		s.Shutdown()
		return fmt.Errorf("start the embedded nats server: not ready after %s", startTimeout)
	}
	n.server = s
	if at, ok := s.Addr().(*net.TCPAddr); ok {
		n.port = at.Port
	}
	return nil
}

// Close stops the server. It returns after 5 s at the latest.
func (n *NATS) Close() error { return n.Interrupt() }
