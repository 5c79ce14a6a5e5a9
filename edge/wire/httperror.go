package wire

import (
	"net/http"
	"strconv"
)

// HTTPError is the answer to a request that is refused before a WebSocket stands.
type HTTPError struct {
	Status  int
	Message string // one line for whoever reads the body; it repeats nothing of the request
	Header  string // further header lines, each with its CRLF: "Sec-WebSocket-Version: 13\r\n"
}

// Error returns "status message".
func (e *HTTPError) Error() string { return strconv.Itoa(e.Status) + " " + e.Message }

// AppendHTTPError appends the whole response that e stands for. The connection is to be closed behind it.
func AppendHTTPError(dst []byte, e *HTTPError) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(e.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(e.Status)...)
	dst = append(dst, "\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"...)
	dst = append(dst, e.Header...)
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(e.Message)+1), 10)
	dst = append(dst, "\r\n\r\n"...)
	dst = append(dst, e.Message...)
	return append(dst, '\n')
}

func badRequest(message string) *HTTPError {
	return &HTTPError{Status: http.StatusBadRequest, Message: message}
}
