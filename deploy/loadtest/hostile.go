package loadtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

const (
	// hostileBuffer bounds what the kernel takes for a companion, so that the server notices soon that nobody reads.
	hostileBuffer = 4 << 10
	// trickleEvery is how often a trickling companion reads one byte.
	trickleEvery = time.Second
)

// hostile are connections in the run's rooms that do not behave, so that it shows what the others notice of them. They
// are no part of the ledger or of any figure.
type hostile struct {
	stalling, trickling []net.Conn
	cancel              context.CancelFunc
	wg                  sync.WaitGroup
}

// newHostile connects companions, spreads them over all rooms and lets them begin: stall of them send half a frame and
// read nothing, trickle of them read a byte per second.
func newHostile(p *plan, stall, trickle int) (*hostile, error) {
	h := &hostile{}
	for i := range stall + trickle {
		sock, err := joinHostile(p, i)
		if err != nil {
			h.close()
			return nil, fmt.Errorf("connect hostile companion %d: %w", i+1, err)
		}
		if i >= stall {
			h.trickling = append(h.trickling, sock)
			continue
		}
		h.stalling = append(h.stalling, sock)
		half := sealFrame(append(make([]byte, headRoom), `{"op":"ping","pad":"half of it"}`...), ws.OpText, 0x5eed)
		if _, err := sock.Write(half[:len(half)/2]); err != nil {
			h.close()
			return nil, fmt.Errorf("send half a frame: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.wg.Go(func() { h.trickle(ctx) })
	return h, nil
}

// joinHostile connects and joins a room.
func joinHostile(p *plan, i int) (net.Conn, error) {
	dial := p.dial
	if dial == nil {
		dial = connectBy(p.Insecure)
	}
	to := p.Targets[i%len(p.Targets)]
	b2, b3 := p.source(p.Conns + i)
	sock, err := dial(to, [2]byte{b2, b3})
	if err != nil {
		return nil, dialError(err)
	}
	if tcp, ok := sock.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(hostileBuffer)
	}
	if err := enterHostile(sock, p, to, i); err != nil {
		_ = sock.Close()
		return nil, err
	}
	return sock, nil
}

func enterHostile(sock net.Conn, p *plan, to target, i int) error {
	login := `"guest":"hostile ` + fmt.Sprint(i) + `"`
	if p.Token != "" {
		login = fmt.Sprintf(`"token":%q`, p.Token)
	}
	var ops []byte
	for _, op := range []string{
		`{"id":1,"op":"connect",` + login + `}`,
		`{"id":2,"op":"join","limit":0,"room":"` + string(p.roomName(nil, i%p.Rooms)) + `"}`,
	} {
		ops = append(ops, sealFrame(append(make([]byte, headRoom), op...), ws.OpText, 0x5eed)...)
	}
	if err := sock.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	if _, err := sock.Write(appendUpgrade(nil, to, nonceOf(uint64(i)))); err != nil {
		return err
	}
	var in []byte
	for buf := make([]byte, 4096); ; {
		n, err := sock.Read(buf)
		in = append(in, buf[:n]...)
		switch {
		case ops != nil && bytes.Contains(in, []byte("\r\n\r\n")):
			if _, err := sock.Write(ops); err != nil {
				return err
			}
			ops = nil
		case bytes.Contains(in, []byte(`{"id":2,"ok":`)):
			return sock.SetDeadline(time.Time{})
		case bytes.Contains(in, []byte(`"error":{`)):
			return fmt.Errorf("refused: %.200q", in[max(0, len(in)-200):])
		case err != nil:
			return err
		}
	}
}

// trickle reads a byte of each connection now and then.
func (h *hostile) trickle(ctx context.Context) {
	ticker := time.NewTicker(trickleEvery)
	defer ticker.Stop()
	var one [1]byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, sock := range h.trickling {
				_ = sock.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, err := sock.Read(one[:]); err != nil && ctx.Err() != nil {
					return
				}
			}
		}
	}
}

// close ends all companions.
func (h *hostile) close() {
	if h == nil {
		return
	}
	if h.cancel != nil {
		h.cancel()
	}
	for _, socks := range [][]net.Conn{h.stalling, h.trickling} {
		for _, sock := range socks {
			_ = sock.Close()
		}
	}
	h.wg.Wait()
}

// line says what they do.
func (h *hostile) line() string {
	return fmt.Sprintf("beside them %d connections stall behind half a frame and %d read a byte per second", len(h.stalling), len(h.trickling))
}
