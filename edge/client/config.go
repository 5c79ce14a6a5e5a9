package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// Config says where a Client connects and as whom.
type Config struct {
	// URL is where the WebSocket is: ws://127.0.0.1:8080/v1/ws. Needed.
	URL string
	// Token is whom to connect as. Where it is empty, Guest is.
	Token string
	// Guest is the display name of a guest. The token that the server gives for it serves all later connections.
	Guest string
	// Renew gets another token when the present one is refused or has expired (4401). Defaults to none: the client stops.
	Renew func(ctx context.Context) (string, error)
	// Header is added to the upgrade request.
	Header http.Header
	// LocalAddr is the address to connect from. Defaults to what the system chooses.
	LocalAddr net.Addr
	// NetDial opens the connection. Defaults to a net.Dialer with LocalAddr.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
	// JoinLimit is how many of the latest entries a join without a position asks for. Defaults to what the server gives (50);
	// negative: none.
	JoinLimit int
	// ReplyTimeout is how long a reply may take until the connection counts as broken. Defaults to 15 s, three times
	// the longest that a server may take.
	ReplyTimeout time.Duration
	// DialTimeout bounds connecting and the upgrade. Defaults to 10 s.
	DialTimeout time.Duration
	// Log gets what happens to the connection, at debug level. Defaults to none.
	Log *slog.Logger
	// OnEvent gets every event, one at a time and in order. It must not wait for a method of the same Client.
	// Defaults to none.
	OnEvent func(Event)
	// OnState is told what becomes of the connection, from the same goroutine as OnEvent. Defaults to none.
	OnState func(State)
}

// Validate reports what a Client cannot work with.
func (c *Config) Validate() error {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return fmt.Errorf("client URL: %w", err)
	case u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "":
		return fmt.Errorf("client URL %q: want ws://host/path or wss://host/path", c.URL)
	case c.Token == "" && c.Guest == "":
		return errors.New("client: neither a token nor a guest's name")
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.ReplyTimeout == 0 {
		c.ReplyTimeout = 15 * time.Second
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	if c.OnState == nil {
		c.OnState = func(State) {}
	}
	if c.NetDial == nil {
		d := &net.Dialer{LocalAddr: c.LocalAddr}
		c.NetDial = d.DialContext
	}
}

// Kinds of events that are not entries, beside those that a later server adds.
const (
	EventGap       = "gap"       // entries From to To were not sent; the client gets them by itself
	EventReset     = "reset"     // what is known of Room is void; the latest entries follow
	EventReconnect = "reconnect" // the client moves to another connection by itself
	EventLeft      = "left"      // listening to Room has ended
	EventToken     = "token"
	EventError     = "error"
	// EventJoinFailed is the client's own: joining Room again, after a disconnect, was refused for good (Err).
	EventJoinFailed = "join_failed"
)

// Event is what the server told, live or in the reply to a join. Of each room, every entry comes once and in the order of the
// seqs, until an EventReset of that room.
type Event struct {
	Kind  string // a contracts.Kind, one of the constants above, or what a later server adds
	Room  contracts.RoomID
	Seq   contracts.Seq // of an entry; of EventReset, the head
	Epoch contracts.Epoch
	Time  int64 // Unix milliseconds, the server's
	From  contracts.Person
	Key   contracts.Key // zero where there is none
	Text  string
	// First and Last are the entries, both included, that an EventGap is about.
	First, Last contracts.Seq
	// Live tells what was sent as it happened from what came in the reply to a join.
	Live bool
	// Err is what an EventError or EventJoinFailed says.
	Err *contracts.Error
	// Raw is the whole object. It is valid during the call.
	Raw json.RawMessage
}

// Entry reports whether the event is an entry of a room.
func (e *Event) Entry() bool { return e.Seq > 0 && e.Epoch > 0 && e.Kind != EventReset }

// Phase is where a Client stands.
type Phase int

// The phases of a Client.
const (
	Connected Phase = iota + 1 // Session says as whom
	Waiting                    // for Wait, before it connects again; Err says why
	Stopped                    // for good; Err says why
)

// String returns the phase in lower case.
func (p Phase) String() string {
	switch p {
	case Connected:
		return "connected"
	case Waiting:
		return "waiting"
	case Stopped:
		return "stopped"
	}
	return "unknown"
}

// State is what has become of the connection.
type State struct {
	Phase   Phase
	Session *contracts.ConnectOK // of Connected
	Wait    time.Duration        // of Waiting
	Err     error                // of Waiting and Stopped; a *CloseError where the server closed
}

// Errors of requests.
var (
	// ErrClosed is what everything returns behind Close.
	ErrClosed = errors.New("client closed")
	// ErrDisconnected says that the connection broke before the reply: whether the request took effect is unknown.
	ErrDisconnected = errors.New("disconnected before the reply")
)

// CloseError is how a connection ended.
type CloseError struct {
	Code   contracts.CloseCode // 1006 where no close frame came
	Reason string
	Err    error // what else is known
}

// Error names the code, the reason and the cause.
func (e *CloseError) Error() string {
	s := fmt.Sprintf("closed with %d", e.Code)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *CloseError) Unwrap() error { return e.Err }
