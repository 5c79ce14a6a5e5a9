package loadtest

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
)

// greetingOf is what a server says about itself when one connects.
type greetingOf struct {
	contracts.ConnectOK
	skew time.Duration // its clock minus this one's
}

const probeTimeout = 10 * time.Second

// probe makes one connection before all others, so that whatever is wrong with the address is said once and clearly.
func probe(dial dialFunc, t target, token string) (greetingOf, error) {
	sock, err := dial(t, [2]byte{0, 1})
	if err != nil {
		return greetingOf{}, fmt.Errorf("%s: %w", t, dialError(err))
	}
	defer sock.Close()
	sock.SetDeadline(time.Now().Add(probeTimeout))
	ok, err := greetBy(sock, t, token)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("no answer within 10 s")
	}
	if err != nil {
		return greetingOf{}, fmt.Errorf("%s: %w", t, err)
	}
	return ok, nil
}

func greetBy(sock net.Conn, t target, token string) (greetingOf, error) {
	nonce := nonceOf(uint64(time.Now().UnixNano()))
	if _, err := sock.Write(appendUpgrade(nil, t, nonce)); err != nil {
		return greetingOf{}, fmt.Errorf("ask for the upgrade: %w", err)
	}
	var in []byte
	buf := make([]byte, 16<<10)
	more := func() error {
		n, err := sock.Read(buf)
		in = append(in, buf[:n]...)
		if n > 0 {
			return nil
		}
		return err
	}
	for {
		n, err := checkUpgrade(in, nonce)
		if err != nil {
			return greetingOf{}, explain(err)
		}
		if n > 0 {
			in = in[n:]
			break
		}
		if err := more(); err != nil {
			return greetingOf{}, fmt.Errorf("no answer to the upgrade: %w", err)
		}
	}
	login := map[string]any{"id": 1, "op": "connect", "guest": "load probe"}
	if token != "" {
		login = map[string]any{"id": 1, "op": "connect", "token": token}
	}
	body, err := json.Marshal(login)
	if err != nil {
		return greetingOf{}, fmt.Errorf("encode connect: %w", err)
	}
	asked := time.Now()
	if _, err := sock.Write(sealFrame(append(make([]byte, headRoom), body...), ws.OpText, 0x5eed)); err != nil {
		return greetingOf{}, fmt.Errorf("ask to connect: %w", err)
	}
	for {
		op, payload, n, err := cutFrame(in)
		switch {
		case err != nil:
			return greetingOf{}, err
		case n == 0:
			if err := more(); err != nil {
				return greetingOf{}, fmt.Errorf("no answer to connect: %w", err)
			}
			continue
		}
		in = in[n:]
		switch op {
		case ws.OpText:
			g, done, err := readGreeting(payload)
			if err != nil || done {
				sent := asked.Add(time.Since(asked) / 2)
				if g.Time > 0 {
					g.skew = time.UnixMilli(g.Time).Sub(sent).Round(time.Millisecond)
				}
				_, _ = sock.Write(sealFrame(append(make([]byte, headRoom), 0x03, 0xe8), ws.OpClose, 0x5eed))
				return g, err
			}
		case ws.OpClose:
			c := closeError{code: 1005}
			if len(payload) >= 2 {
				c = closeError{code: int(payload[0])<<8 | int(payload[1]), reason: string(payload[2:])}
			}
			return greetingOf{}, c
		}
	}
}

// readGreeting looks for the answer to connect in a frame.
func readGreeting(payload []byte) (g greetingOf, done bool, err error) {
	var reply struct {
		ID    uint64           `json:"id"`
		Event string           `json:"event"`
		OK    json.RawMessage  `json:"ok"`
		Error *contracts.Error `json:"error"`
	}
	if err := json.Unmarshal(payload, &reply); err != nil {
		return g, false, fmt.Errorf("what answers there speaks WebSocket, but not Parley's protocol: %w", err)
	}
	switch {
	case reply.Error != nil:
		return g, false, fmt.Errorf("connect was refused: %w", reply.Error)
	case reply.ID != 1 || reply.OK == nil:
		if reply.Event == "" {
			return g, false, errors.New("what answers there speaks WebSocket, but not Parley's protocol")
		}
		return g, false, nil
	}
	if err := json.Unmarshal(reply.OK, &g.ConnectOK); err != nil {
		return g, false, fmt.Errorf("read the answer to connect: %w", err)
	}
	return g, true, nil
}

// explain words an error for somebody who mistyped the address.
func explain(err error) error {
	var status *statusError
	var later *laterError
	switch {
	case errors.As(err, &status):
		return fmt.Errorf("%w: is there a Parley server at this address and path?", err)
	case errors.As(err, &later):
		return fmt.Errorf("%w: the server takes no more connections now", err)
	}
	return err
}

// dialError words what a person can do about it.
func dialError(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused: nothing listens there (start one with: parley dev)")
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return errors.New("no descriptors left in this process (ulimit -n)")
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return fmt.Errorf("%w (--insecure takes any certificate)", untrusted.Err)
	}
	if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) {
		return errors.New("what answers there speaks no TLS: use ws://")
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return fmt.Errorf("host %s not found", dns.Name)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(err.Error(), "i/o timeout") {
		return errors.New("no answer within 10 s")
	}
	return err
}

// limitsLine says which limits hold, in the protocol's names.
func limitsLine(l contracts.Limits) string {
	encoded, err := json.Marshal(l)
	if err != nil || len(encoded) <= 2 {
		return "none"
	}
	return string(bytes.NewBuffer(bytes.ReplaceAll(bytes.ReplaceAll(bytes.Trim(encoded, "{}"), []byte(`"`), nil), []byte(","), []byte(", "))).String())
}
