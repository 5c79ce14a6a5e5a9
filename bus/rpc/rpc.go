// Package rpc asks: request and reply between the roles. One interface, one file per broker.
package rpc

import (
	"errors"
	"time"
)

// Errors that an asker gets instead of a reply.
var (
	// ErrNoServer: nobody serves the subject. It comes at once; the request was not taken by anybody.
	ErrNoServer = errors.New("nobody serves this subject")
	// ErrTimeout: no reply came in time. The request may have been served.
	ErrTimeout = errors.New("no reply in time")
	// ErrTooLarge: the request is above MaxPayload and was not sent.
	ErrTooLarge = errors.New("request too large")
	// ErrDown: there is no connection to the broker, or it was lost while waiting. The request may have been served.
	ErrDown = errors.New("the broker is not connected")
)

// Client asks. It is safe for concurrent use.
type Client interface {
	// Ask sends body to subject and calls done exactly once: with the reply, or with one of the errors above. It
	// never blocks on the network. done may run on any goroutine, must not block, and may keep reply, with which it keeps the
	// memory of those that came with it, at most 64 KiB. No goroutine or timer exists per waiting request. Ask keeps no
	// reference to body after it returns.
	Ask(subject string, body []byte, timeout time.Duration, done func(reply []byte, err error))
	// MaxPayload is the broker's limit for one request or reply, in bytes.
	MaxPayload() int
	// Up reports whether the broker is connected.
	Up() bool
	// Close ends every waiting request with ErrDown and waits for their callbacks.
	Close() error
}

// Question is what AskTogether asks; its fields are what Ask takes.
type Question struct {
	Subject string
	Body    []byte
	Timeout time.Duration
	Done    func(reply []byte, err error)
	// Together is set by AskTogether before it asks: how many questions go in the message, this one included. They may
	// get lost as one, which says as much of the servers as one that is lost alone.
	Together int
}

// Gatherer is a Client that can send many questions in one message.
type Gatherer interface {
	// AskTogether asks as Ask would, each question by itself, but those to one service may be taken by the same of its
	// servers and get lost together. to is the service's Gathered. questions are the client's from then on, but not their bodies.
	AskTogether(to string, questions []Question)
}

// Request is one question to a server.
type Request struct {
	Subject string
	Body    []byte // valid as long as the request
	// Answer sends the reply; only the first call counts. It may be called later and from any goroutine, and never
	// blocks on the network. A reply above the broker's limit is not sent: the asker runs into its timeout.
	Answer func(reply []byte)
}

// Handler serves requests. It is called by one goroutine at a time and must not block: what waits for
// something else is handed off.
type Handler func(Request)

// Endpoint is one pattern that a service serves.
type Endpoint struct {
	Name    string // shows in `nats micro ls`
	Subject string // may end in a wildcard token
	Handler Handler
}

// Service is what a role serves.
type Service struct {
	Name    string
	Version string // semantic version
	// Queue shares the requests among all servers of the same queue; empty: each server gets every request.
	Queue string
	// Gathered is the subject on which the service takes many questions to its endpoints in one message; empty: none.
	Gathered  string
	Endpoints []Endpoint
}

// Server serves. It is safe for concurrent use.
type Server interface {
	// Serve registers the service and returns when requests will arrive. stop unregisters it and returns when no
	// handler runs any more and what was waiting has been handed to the handler.
	Serve(s Service) (stop func() error, err error)
}
