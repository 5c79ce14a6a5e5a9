package contracts

import (
	"errors"
	"net/http"
	"time"
)

// Code is one of the protocol's error codes.
type Code string

// The codes of protocol version 1. The first group is final for the attempt; the last four are retryable.
const (
	CodeBadRequest   Code = "bad_request"
	CodeUnknownOp    Code = "unknown_op"
	CodeUnauthorized Code = "unauthorized"
	CodeForbidden    Code = "forbidden"
	CodeNotFound     Code = "not_found"
	CodeConflict     Code = "conflict"
	CodeTooLarge     Code = "too_large"
	CodeStaleKey     Code = "stale_key"
	CodeBadKey       Code = "bad_key"
	CodeKeyConflict  Code = "key_conflict"
	CodeBadRoom      Code = "bad_room"
	CodeTooManyRooms Code = "too_many_rooms"

	CodeRateLimited Code = "rate_limited"
	CodeOverloaded  Code = "overloaded"
	CodeUnavailable Code = "unavailable"
	CodeInternal    Code = "internal"
)

// Retryable reports whether the same request, with the same key, may be sent again.
func (c Code) Retryable() bool {
	switch c {
	case CodeRateLimited, CodeOverloaded, CodeUnavailable, CodeInternal:
		return true
	}
	return false
}

// Unknown reports whether the code leaves open if the request took effect.
func (c Code) Unknown() bool { return c == CodeUnavailable || c == CodeInternal }

// HTTPStatus is the status that stands for the code in the HTTP API.
func (c Code) HTTPStatus() int {
	switch c {
	case CodeBadRequest, CodeBadKey, CodeBadRoom, CodeUnknownOp:
		return http.StatusBadRequest
	case CodeUnauthorized:
		return http.StatusUnauthorized
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict, CodeKeyConflict, CodeTooManyRooms:
		return http.StatusConflict
	case CodeStaleKey:
		return http.StatusGone
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeRateLimited:
		return http.StatusTooManyRequests
	case CodeUnavailable, CodeOverloaded:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// CloseCode is a WebSocket close code (RFC 6455 section 7.4; 4000 and above are the protocol's own).
type CloseCode uint16

// Close codes that the server sends.
const (
	CloseNormal       CloseCode = 1000
	CloseGoingAway    CloseCode = 1001
	CloseProtocol     CloseCode = 1002
	CloseUnsupported  CloseCode = 1003
	CloseInvalidUTF8  CloseCode = 1007
	ClosePolicy       CloseCode = 1008
	CloseTooBig       CloseCode = 1009
	CloseInternal     CloseCode = 1011
	CloseRestart      CloseCode = 1012
	CloseTryLater     CloseCode = 1013
	CloseBadRequests  CloseCode = 4400
	CloseUnauthorized CloseCode = 4401
	CloseBanned       CloseCode = 4403
	CloseNoConnect    CloseCode = 4408
	CloseReplaced     CloseCode = 4409
	CloseRateLimited  CloseCode = 4429
	CloseTooSlow      CloseCode = 4440
	CloseDraining     CloseCode = 4450
)

// Error is the one error that crosses a border of Parley. Whatever else fails inside becomes CodeInternal there and
// is logged, never shown.
type Error struct {
	Code         Code   `json:"code"`
	Message      string `json:"message"`
	Field        string `json:"field,omitempty"`
	Retry        bool   `json:"retry,omitempty"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

// Error returns "code: message".
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is makes errors.Is compare by code: errors.Is(err, &Error{Code: CodeNotFound}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// NewError makes an Error whose Retry follows its code.
func NewError(code Code, message string) *Error {
	return &Error{Code: code, Message: message, Retry: code.Retryable()}
}

// BadField is a bad_request that names the field at fault.
func BadField(field, message string) *Error {
	return &Error{Code: CodeBadRequest, Message: message, Field: field}
}

// After returns a copy of e that asks the client to wait d first.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.RetryAfterMS = d.Milliseconds()
	return &c
}

// AsError returns the Error inside err, or an internal one that says nothing of err.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return NewError(CodeInternal, "something went wrong on the server")
}
