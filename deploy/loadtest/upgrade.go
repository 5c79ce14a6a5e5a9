package loadtest

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/parley-chat/parley/contracts"
)

// maxHead bounds the answer to an upgrade.
const maxHead = 16 << 10

// errUpgradeForm is the answer of something that does not speak WebSocket.
var errUpgradeForm = errors.New("what answers there does not speak WebSocket")

// statusError is an HTTP answer other than 101.
type statusError struct{ line string }

// Error quotes the status.
func (e *statusError) Error() string { return "upgrade answered: " + e.line }

// laterError is a statusError after which the client comes again: 429 or 503.
type laterError struct{ statusError }

// nonceOf makes a Sec-WebSocket-Key (RFC 6455 section 4.1) from a number.
func nonceOf(x uint64) (nonce [24]byte) {
	var raw [16]byte
	binary.LittleEndian.PutUint64(raw[:], mix(x))
	binary.LittleEndian.PutUint64(raw[8:], mix(x+1))
	base64.StdEncoding.Encode(nonce[:], raw[:])
	return nonce
}

func appendUpgrade(dst []byte, t target, nonce [24]byte) []byte {
	dst = append(dst, "GET "...)
	dst = append(dst, t.Path...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, t.Host...)
	dst = append(dst, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: "...)
	dst = append(dst, contracts.Subprotocol...)
	dst = append(dst, "\r\nSec-WebSocket-Key: "...)
	dst = append(dst, nonce[:]...)
	return append(dst, "\r\n\r\n"...)
}

// checkUpgrade looks at the answer to an upgrade and returns its length; 0 as long as it is not whole.
func checkUpgrade(b []byte, nonce [24]byte) (n int, err error) {
	if len(b) >= 5 && string(b[:5]) != "HTTP/" {
		return 0, errUpgradeForm
	}
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > maxHead {
			return 0, errUpgradeForm
		}
		return 0, nil
	}
	line, head, _ := bytes.Cut(b[:end+2], []byte("\r\n"))
	_, status, _ := bytes.Cut(line, []byte(" "))
	if !bytes.HasPrefix(status, []byte("101")) {
		if bytes.HasPrefix(status, []byte("429")) || bytes.HasPrefix(status, []byte("503")) {
			return 0, &laterError{statusError{string(status)}}
		}
		return 0, &statusError{string(status)}
	}
	for len(head) > 0 {
		line, head, _ = bytes.Cut(head, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		if !bytes.EqualFold(name, []byte("Sec-WebSocket-Accept")) {
			continue
		}
		if want := acceptOf(nonce); !bytes.Equal(bytes.TrimSpace(value), want[:]) {
			return 0, fmt.Errorf("upgrade: wrong Sec-WebSocket-Accept: %w", errUpgradeForm)
		}
		return end + 4, nil
	}
	return 0, fmt.Errorf("upgrade: no Sec-WebSocket-Accept: %w", errUpgradeForm)
}

// acceptOf is the answer to a key (RFC 6455 section 4.2.2).
func acceptOf(nonce [24]byte) (accept [28]byte) {
	sum := sha1.Sum(append(nonce[:], "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	base64.StdEncoding.Encode(accept[:], sum[:])
	return accept
}

// isFinal reports whether a client need not come again after err.
func isFinal(err error) bool {
	var status *statusError
	return errors.As(err, &status) || errors.Is(err, errUpgradeForm)
}
