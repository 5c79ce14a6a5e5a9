// Package wire reads and writes what stands between the TCP stream and the protocol's JSON: the head of an HTTP/1.1
// request and the frames of a WebSocket (RFC 6455), server side. It works on bytes that somebody else has read and into buffers that
// somebody else writes out; it does no I/O, starts no goroutine and keeps no clock.
//
//	bytes of a new connection → ParseRequest → Request.CheckUpgrade → AppendSwitching | AppendHTTPError
//	bytes behind the head     → Reader.Next  → Event …                | *CloseError → AppendClose
//	what is to be sent        → AppendText, AppendControl, AppendClose
//
// The rules that the hand-written parts keep and a general library would not: lengths are refused before anything is
// allocated for them, buffers grow with the bytes that arrive and never by the length that was announced, and a
// connection with nothing half-read holds no buffer at all.
package wire
